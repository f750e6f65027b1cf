"""What is shown of a run, and of two that are compared: tables of text."""

from __future__ import annotations

from typing import Any

from .saved import Comparison, Report
from .session import FIRST, LOAD
from .spread import duration, quartiles, spread

BATCH_1 = "step, batch 1"
SHORT = {"step, batch": "step", "encoder, tokens": "encode", FIRST: "first", LOAD: "load"}  # heads of columns
Row = dict[str, Any]


def table(report: Report) -> list[dict[str, str]]:
    """A line for each row, of equal keys."""
    whats = list(dict.fromkeys(what for row in report["rows"] for what in row["seconds"]))
    whats.sort(key=lambda what: what in (LOAD, FIRST))  # these are measured first and shown last
    return [line(row, whats, report["bandwidth"]) for row in report["rows"]]


def line(row: Row, whats: list[str], bandwidth: float) -> dict[str, str]:
    speed = reached(row)
    return {
        "engine": row["name"],
        "precision": row["precision"],
        **{head(what): timed(row["seconds"].get(what)) for what in whats},
        "memory": megabytes(row["memory"] and row["memory"] - (row["base"] or 0)),
        "weights": megabytes(row["weights"]),
        "GB/s": f"{speed / 1e9:.3g}" if speed else "",
        "share": f"{speed / bandwidth:.0%}" if speed and bandwidth and on_cpu(row) else "",
        "tokens": agreement(row),
    }


def head(what: str) -> str:
    """`step, batch 4` as a column is called: step 4."""
    for name, short in SHORT.items():
        if what.startswith(name):
            return short + what.removeprefix(name)
    return what


def timed(values: list[float] | None) -> str:
    return f"{duration(quartiles(values)[1])} \u00b1{spread(values):.0%}" if values else ""


def megabytes(number: int | None) -> str:
    return f"{number / 1e6:.1f} MB" if number and number > 0 else ""


def reached(row: Row) -> float:
    """Bytes a second that the steps of one sentence read, or 0."""
    values = row["seconds"].get(BATCH_1)
    return row["step_bytes"] / quartiles(values)[1] if values and row["step_bytes"] else 0.0


def on_cpu(row: Row) -> bool:
    """Whether the row read the memory whose bandwidth was measured."""
    return str(row["device"]).startswith("CPU") and not row["emulator"]


def agreement(row: Row) -> str:
    if row["error"]:
        return "failed"
    if row["agreement"] is None:
        return "-"
    _, differ, count = row["agreement"]
    return f"{differ} of {count} differ" if differ else "same"


def about(report: Report) -> str:
    """What was measured, where, and what the columns are."""
    return (
        f"{report['machine']}; {report['threads']} threads, which together read {report['bandwidth'] / 1e9:.1f} GB/s. "
        f"Medians of {report['settings'].get('rounds')} rounds, \u00b1 half of the middle half's range."
    )


LEGEND = (
    "step N: a step of greedy search, N sentences at once; encode N: the encoder for N tokens; first: from a source "
    "to its first token in a new process; memory: the most that the process held, beside what Python alone does; of a "
    "package all of it; GB/s: "
    "weights, keys and values that a step reads, over its time, and their share of the machine's bandwidth, which is "
    "over 100% where they stay in the processor's caches.",
)


def notes(report: Report) -> list[str]:
    """What the table cannot say."""
    found = [report["busy"]] if report.get("busy") else []
    if not report["complete"]:
        found.append("the run was stopped: what is missing was not measured")
    for row in report["rows"]:
        label = f"{row['name']}, {row['precision']}"
        if row["error"]:
            found.append(f"{label}: failed: {row['error']}")
        if row["emulator"]:
            found.append(f"{label}: emulated by {row['emulator']}; its times are not those of the machine it is for")
        if row["agreement"] and row["agreement"][1]:
            other, differ, count = row["agreement"]
            found.append(f"{label}: {differ} of {count} sentences have other tokens than {other} gives")
        found += [f"{label}: {note}" for note in row["notes"]]
    return found


def shown(what: str, value: float) -> str:
    return megabytes(int(value)) if what == "memory" else duration(value)


def changes(comparison: Comparison) -> list[dict[str, str]]:
    """A line for each thing that both runs measured."""
    return [
        {
            "engine": change.row,
            "what": change.what,
            "before": shown(change.what, change.before[0]),
            "after": shown(change.what, change.after[0]),
            "change": f"{change.ratio - 1:+.1%}",
            "": change.verdict,
        }
        for change in comparison.changes
    ]
