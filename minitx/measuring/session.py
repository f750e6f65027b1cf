"""One run of `minitx bench`: every engine starts in turn, then does the same work in turn; a row tells of one engine.

An engine that fails is a row that says why, and the others go on. `Session.rows` can be read at any moment, so that a
run that is stopped shows what it has found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import Error
from .turns import PATIENCE, Sample, Tokens, Worker, WorkerError, clock, steps, turns

LOAD, FIRST = "load", "first token"
BASELINE = "native"  # whose tokens others are held against, where it is of their precision


@dataclass(frozen=True)
class Case:
    """`count` sources of `source` tokens, `target` steps that are timed; `what` of a sample is the result."""

    name: str
    what: str
    source: int
    target: int
    count: int = 1


@dataclass
class Row:
    """An engine. Seconds by what they are of, one a round; bytes; tokens by case; `error`: why it went no further.

    `memory` is the most that its process held, `base` of it before anything was loaded: 0 where it is no Python.
    `digest` tells the weights, for a package, whose precision is that of the row with the same. `agreement` is (the row
    that its tokens are held against, sentences that differ, of how many).
    """

    name: str
    precision: str = "?"
    threads: int = 1
    device: str = "CPU"
    instruction_set: str = ""
    emulator: str = ""
    weights: int | None = None
    step_bytes: int | None = None
    memory: int | None = None
    base: int | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    agreement: tuple[str, int, int] | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    tokens: dict[str, Tokens] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tells the row from all others."""
        return f"{self.name}, {self.precision}"


@dataclass(frozen=True)
class Candidate:
    """What a worker is started with, and the row that it fills; `single`: it takes one sentence at a time.

    It starts `starts` times at most, beside a first time that does not count: that compiles what has to be compiled.
    """

    row: Row
    build: Callable[..., Any]
    argument: Any
    environment: dict[str, str]
    single: bool = False
    starts: int = 3


def cases(longest: int, quick: bool) -> list[Case]:
    """What is measured of a model that takes so many tokens."""
    source, target = min(32, longest), min(16 if quick else 32, longest - 1)
    batches = [Case(f"step, batch {count}", "step", source, target, count) for count in (1, 4, 16)]
    lengths = [n for n in (32, 128, 512) if n <= longest] or [longest]
    return batches + [Case(f"encoder, tokens {n}", "encoder", n, min(8, longest - 1)) for n in lengths]


def sources(vocabulary: int, end: int, lengths: list[int]) -> Tokens:
    """Random sources of these lengths, the end included; the same each time."""
    draw = random.Random(0)
    others = [token for token in range(min(vocabulary, 1 << 20)) if token != end] or [end]
    return [[*(draw.choice(others) for _ in range(n - 1)), end] for n in lengths]


def first(peer: Any, source: list[int]) -> Sample:
    """Seconds to the first token."""
    seconds, tokens = clock(lambda: peer.generate([source], 1, 1))
    return Sample({FIRST: seconds}, tokens)


def facts(peer: Any) -> dict[str, Any]:
    found: dict[str, Any] = peer.facts()
    return found


def memory(peer: Any) -> int:
    found: int = peer.memory()
    return found


@dataclass
class Session:
    """What all rows of a run share."""

    candidates: list[Candidate]
    cases: list[Case]
    vocabulary: int
    end: int
    threads: int
    rounds: int
    notice: Callable[[str], object] = lambda message: None
    patience: float = PATIENCE
    workers: dict[str, Worker] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [candidate.row for candidate in self.candidates]

    def run(self) -> None:
        """Measures everything; nothing of it is left running, however it ends."""
        self.named = {str(i): candidate for i, candidate in enumerate(self.candidates)}
        try:
            for i, name in turns(list(self.named), self.rounds + 1):
                if i <= self.named[name].starts and not self.named[name].row.error:
                    self.start(name, i)
            for case in self.cases:
                self.measure(case)
        finally:
            for worker in self.workers.values():
                worker.close()
            self.workers.clear()
            agree(self.rows)

    def start(self, name: str, counted: int) -> None:
        """A process in place of the last one: its load and its first token, which count unless it is the first."""
        candidate = self.named[name]
        row = candidate.row
        self.notice(f"starting {row.label} ...")
        if before := self.workers.pop(name, None):
            before.close()
        with failing(row):
            arguments = (candidate.build, (candidate.argument,), self.threads, candidate.environment, self.patience)
            worker = self.workers[name] = Worker(*arguments)
            found = worker.measure(first, sources(self.vocabulary, self.end, [self.cases[0].source])[0])
            if not counted:
                for fact, value in worker.measure(facts).items():
                    setattr(row, fact, value)
                return
            row.base = worker.started.base if row.base is None else row.base
            row.seconds.setdefault(LOAD, []).append(worker.started.seconds)
            row.seconds.setdefault(FIRST, []).append(found.seconds[FIRST])

    def measure(self, case: Case) -> None:
        """A case, by turns, after a first round that does not count."""
        given = sources(self.vocabulary, self.end, [case.source] * case.count)
        names = [n for n, c in self.named.items() if not c.row.error and not (c.single and case.count > 1)]
        for i, name in turns(names, self.rounds + 1):
            row = self.named[name].row
            if row.error:
                continue
            self.notice(f"{case.name}: round {i} of {self.rounds}, {row.label} ...")
            with failing(row):
                worker = self.workers[name]
                sample = worker.measure(steps, given, case.target, 1)
                check(sample.tokens, case.target + 1)
                if i and (seconds := sample.seconds[case.what]) > 0:
                    row.seconds.setdefault(case.name, []).append(seconds)
                elif i:  # it is a difference of two times
                    row.notes.append(f"{case.name}: round {i} was disturbed by something else and does not count")
                if row.tokens.setdefault(case.name, sample.tokens) != sample.tokens:
                    row.notes.append(f"{case.name}: other tokens in round {i} than before")
                if i == self.rounds:
                    row.memory = worker.measure(memory)


class failing:  # noqa: N801, used as a statement
    """What fails in the block ends a row, not the run."""

    def __init__(self, row: Row):
        self.row = row

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Error):
            self.row.error = str(error)
        return isinstance(error, Error)


def check(tokens: Tokens, asked: int) -> None:
    """Raises `WorkerError` where an engine made another number of steps: its time would be of other work."""
    for found in tokens:
        if len(found) != asked:
            raise WorkerError(f"it made {len(found)} steps where {asked} were asked for")


def agree(rows: list[Row]) -> None:
    """Counts for each row the sentences whose tokens are not those of the first of its precision."""
    known = {row.digest: row.precision for row in rows if row.digest and row.precision != "?"}
    for row in rows:
        row.precision = known.get(row.digest, row.precision) if row.precision == "?" else row.precision
    for group in groups(rows):
        leader = next((row for row in group if row.name.startswith(BASELINE)), group[0])
        for row in (row for row in group if row is not leader):
            pairs = [(a, b) for case in row.tokens if case in leader.tokens for a, b in both(row, leader, case)]
            row.agreement = (leader.name, sum(a != b for a, b in pairs), len(pairs)) if pairs else None


def both(row: Row, leader: Row, case: str) -> Iterator[tuple[list[int], list[int]]]:
    return zip(row.tokens[case], leader.tokens[case], strict=True)


def groups(rows: list[Row]) -> list[list[Row]]:
    """The rows that have tokens, by precision."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.tokens and row.precision != "?":
            found.setdefault(row.precision, []).append(row)
    return list(found.values())
