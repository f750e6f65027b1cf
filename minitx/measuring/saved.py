"""A run of `minitx bench` as JSON, and how two of them differ.

An object with `format` and `version`; `machine`, `threads`, `bandwidth` (bytes a second that the threads read
together), `busy` (a warning, or nothing), `model` (its name, parameters, and a digest of its config), `settings`,
`complete` (false for a run that was stopped), and `rows`, each with the fields of `session.Row` that are in SAVED: of
each thing that was timed the seconds of every round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FileError
from .session import Row
from .spread import quartiles

FORMAT, VERSION = "minitx bench", 1
SAVED = (  # of a row
    *("name", "precision", "threads", "device", "instruction_set", "emulator", "weights", "step_bytes", "memory"),
    *("base", "seconds", "agreement", "error", "notes"),
)
KINDS: dict[str, tuple[type, ...]] = {  # of what a reader relies on
    "machine": (str,),
    "model": (dict,),
    "settings": (dict,),
    "threads": (int,),
    "bandwidth": (int, float),
    "complete": (bool,),
    "rows": (list,),
}
LARGEST = 1 << 26  # bytes of a saved run
MEMORY = "memory"
Report = dict[str, Any]


def row_dict(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SAVED}


def read(path: str) -> Report:
    """A saved run; raises `FileError` for what is none, or one of another version."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as e:
        raise FileError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e}); name a saved run") from None
    try:
        found = json.loads(data) if len(data) <= LARGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FileError(f"{path}: is no run that minitx bench saved; make one with minitx bench MODEL --out {path}")
    if found.get("version") != VERSION:
        told = f"{found.get('version')!r}"[:40]
        raise FileError(f"{path}: is of version {told} of this format, and this minitx reads {VERSION}; run it again")
    if problem := problem_of(found):
        raise FileError(f"{path}: is damaged ({problem}); run minitx bench again")
    return found


def problem_of(found: Report) -> str:
    """What is not as a reader takes it, or nothing."""
    for name, kinds in KINDS.items():
        if not isinstance(found.get(name), kinds):
            return f"{name} is missing or of another kind"
    for i, row in enumerate(found["rows"], 1):
        texts = isinstance(row, dict) and all(isinstance(row.get(k), str) for k in ("name", "precision", "error"))
        if not texts or not isinstance(row.get("seconds"), dict):
            return f"row {i} has no name, precision, error or seconds"
        for values in row["seconds"].values():
            if not isinstance(values, list) or not values or not all(positive(value) for value in values):
                return f"row {i} has seconds that are no positive numbers"
        if not (row.get(MEMORY) is None or positive(row[MEMORY])):
            return f"row {i} has a memory that is no positive number"
    return ""


def positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e15


@dataclass(frozen=True)
class Change:
    """One thing of a row, before and after: (median, first and third quartile), in seconds or bytes."""

    row: str
    what: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    threshold: float

    @property
    def ratio(self) -> float:
        return self.after[0] / self.before[0]

    @property
    def verdict(self) -> str:
        """Beyond the threshold, and beyond what differs from round to round: the middle halves lie apart."""
        if self.ratio > 1 + self.threshold and self.after[1] > self.before[2]:
            return "slower" if self.what != MEMORY else "more"
        if self.ratio < 1 / (1 + self.threshold) and self.after[2] < self.before[1]:
            return "faster" if self.what != MEMORY else "less"
        return ""

    @property
    def worse(self) -> bool:
        return self.verdict in ("slower", "more")


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, what else differs, and rows that worked before and fail now."""

    changes: list[Change]
    notes: list[str]
    broken: list[str]

    @property
    def worse(self) -> bool:
        return bool(self.broken) or any(change.worse for change in self.changes)


def compare(before: Report, after: Report, threshold: float) -> Comparison:
    """How the second run differs from the first; slower by more than a share of `threshold` counts."""
    old, new = labelled(before), labelled(after)
    changes = [change for name in old if name in new for change in changes_of(name, old[name], new[name], threshold)]
    broken = [f"{n}: {new[n]['error']}" for n in old if n in new and new[n]["error"] and not old[n]["error"]]
    notes = [told for what, name in NOTED.items() if (told := differs(name, before.get(what), after.get(what)))]
    for rows, others, which in ((old, new, "first"), (new, old, "second")):
        notes += [f"{name} is in the {which} run alone" for name in rows if name not in others]
    notes += [f"the {which} run was stopped" for which, run in zip(ORDER, (before, after), strict=True) if stopped(run)]
    if not changes:
        notes.append("no row is in both runs with anything that was measured in both")
    return Comparison(changes, notes, broken)


ORDER = ("first", "second")
NOTED = {"model": "models", "machine": "machines", "threads": "threads", "settings": "settings"}


def stopped(report: Report) -> bool:
    return not report["complete"]


def differs(what: str, before: Any, after: Any) -> str:
    """Says that two runs were not made alike, or nothing."""
    if before == after:
        return ""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        before, after = ({key: side.get(key) for key in keys} for side in (before, after))
    return f"the {what} differ: {short(before)}, then {short(after)}"


def short(value: Any) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def labelled(report: Report) -> dict[str, dict[str, Any]]:
    """The rows by what tells them apart."""
    return {f"{row['name']}, {row['precision']}": row for row in report["rows"]}


def changes_of(name: str, old: dict[str, Any], new: dict[str, Any], threshold: float) -> Iterator[Change]:
    for what, values in old["seconds"].items():
        if what in new["seconds"]:
            yield Change(name, what, middle(values), middle(new["seconds"][what]), threshold)
    if old.get(MEMORY) and new.get(MEMORY):
        yield Change(name, MEMORY, middle([old[MEMORY]]), middle([new[MEMORY]]), threshold)


def middle(values: list[float]) -> tuple[float, float, float]:
    low, median, high = quartiles(values)
    return median, low, high
