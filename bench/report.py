"""What is shown: a table in Markdown, JSON, plots, and the table in the README."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitx.measuring.spread import duration

from . import peers
from .cases import Row

BEGIN, STOP = "<!-- bench -->", "<!-- /bench -->"
README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class About:
    """What a report says of itself."""

    machine: str
    threads: int
    bandwidth: float
    versions: dict[str, str]
    command: str
    busy: str = ""  # a warning that other programs ran


def cell(row: Row, engine: str) -> str:
    """The median and its spread, and how many times as long as minitx's it is."""
    if engine not in row.seconds:
        return ""
    text = f"{duration(row.median(engine))} \u00b1 {row.spread(engine):.0%}"
    if engine == "minitx" or "minitx" not in row.seconds:
        return text
    return f"{text}, **{row.median(engine) / row.median('minitx'):.3g} \u00d7**"


def line(row: Row) -> str:
    """A row in one line."""
    cells = [f"{engine} {cell(row, engine).replace('**', '')}" for engine in row.seconds]
    return f"{row.shape}, {row.precision}, {row.label}: {'; '.join(cells)}"


def table(rows: list[Row]) -> str:
    """Rows as a table: one column for each engine, the limit, and its share of minitx's time."""
    engines = list(dict.fromkeys(engine for row in rows for engine in row.seconds))
    heads = ["model", "case", *engines, "limit"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        limit = "" if row.limit is None else duration(row.limit)
        if row.limit is not None and "minitx" in row.seconds:
            limit += f" (minitx {row.median('minitx') / row.limit:.3g} \u00d7)"
        cells = [f"{row.shape}, {row.precision}", row.label, *(cell(row, engine) for engine in engines), limit]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(rows: list[Row], about: About) -> str:
    """The whole report."""
    others = ", ".join(text for text in about.versions.values() if text)
    lines = [
        f"{about.machine}; {about.threads} threads, which together read {about.bandwidth / 1e9:.1f} GB/s; {others}. "
        f"Medians, \u00b1 half of the middle half's range, bold: times minitx's. Limit: the bytes that must move at "
        f"that bandwidth. Written by `{about.command}`.{about.busy}",
        "",
        table(rows),
    ]
    notes = [f"- {row.shape}, {row.precision}, {row.label}: {note}" for row in rows for note in row.notes]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def as_json(rows: list[Row], about: About, series: list[Any]) -> str:
    return json.dumps({**vars(about), "rows": [row.to_dict() for row in rows], "series": series})


def write_readme(text: str, path: Path = README) -> None:
    """Puts a report between the marks of the README; ends the program where there are none."""
    whole = path.read_text(encoding="utf-8")
    if whole.count(BEGIN) != 1 or whole.count(STOP) != 1 or whole.index(BEGIN) > whole.index(STOP):
        raise SystemExit(
            f"bench: {path} has no place for the table; put {BEGIN} and {STOP} there, each on its own line"
        )
    before, after = whole[: whole.index(BEGIN) + len(BEGIN)], whole[whole.index(STOP) :]
    path.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def versions(engines: Iterable[str]) -> dict[str, str]:
    known = peers.PEERS | peers.ON_REQUEST
    return {name: peers.version(known[name]) for name in engines}
