"""What is measured, as rows: a case asks every engine for the same work, and gives one row of the report."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitx.measuring import machine, spread
from minitx.measuring.turns import Tokens, Worker, WorkerError, by_turns, steps

from . import measure, peers
from .shapes import SHAPES, Shape, sentences, write

BATCHES = (8, 16, 32, 64, 128)  # of which each engine's best is found first


@dataclass(frozen=True)
class Case:
    """`count` sources of `source` tokens, `target` steps, `beam` hypotheses; `what` of a sample is the result."""

    label: str
    what: str
    source: int = 32
    target: int = 32
    count: int = 1
    beam: int = 1


CASES = {
    "greedy": Case("greedy, batch 1, a step", "step"),
    "beam": Case("beam 4, batch 1, a step", "step", beam=4),
    "batch": Case("greedy, batch 16, a step", "step", count=16),
    "encoder-32": Case("encoder, 32 tokens", "encoder", 32, 8),
    "encoder-128": Case("encoder, 128 tokens", "encoder", 128, 8),
    "encoder-512": Case("encoder, 512 tokens", "encoder", 512, 8),
    "file": Case("a file of {count} sentences of 5 to 60 tokens", "file", count=2000),
}


@dataclass
class Row:
    """One line of the report: seconds by engine, one a round, and the seconds that the bytes alone would take."""

    shape: str
    precision: str
    case: str
    label: str
    threads: int
    seconds: dict[str, list[float]]
    limit: float | None = None
    notes: list[str] = field(default_factory=list)

    def median(self, engine: str) -> float:
        return spread.quartiles(self.seconds[engine])[1]

    def spread(self, engine: str) -> float:
        """Half of the range in which the middle half of the rounds lies, over the median."""
        return spread.spread(self.seconds[engine])

    def to_dict(self) -> dict[str, Any]:
        medians = {name: self.median(name) for name in self.seconds}
        return vars(self) | {"median": medians, "spread": {name: self.spread(name) for name in self.seconds}}


@dataclass
class Bench:
    """What all rows share."""

    folder: Path  # models, those that were converted, and minitx's cache
    engines: dict[str, Any]
    threads: int
    rounds: int
    quick: bool
    bandwidth: float = 0.0

    def model(self, name: str) -> Path:
        folder = self.folder / name
        if not (folder / "vocab.json").is_file():
            say(f"making a model of the shape {name} ...")
            write(SHAPES[name], folder)
        return folder

    @contextmanager
    def workers(self, shape: str, precisions: dict[str, str], threads: int) -> Iterator[dict[str, Worker]]:
        """A process for each engine at its precision; one that does not start is left out, and a line says why."""
        folder, started = self.model(shape), {}
        environment = peers.environment(threads, self.folder / "cache")
        try:
            for label, precision in precisions.items():
                build = self.engines[label.split(" (")[0]]
                say(f"{shape}, {precision}: starting {label} ...")
                try:
                    started[label] = Worker(build, (folder, precision, threads), threads, environment)
                except WorkerError as e:
                    say(f"{label} is left out: {e}")
            yield started
        finally:
            for worker in started.values():
                worker.close()

    def precisions(self, precision: str) -> dict[str, str]:
        """The engines of a row with what they run at: int4 is compared with our int8."""
        found = {name: precision for name, peer in self.engines.items() if precision in peer.precisions}
        return found | {"minitx (int8)": "int8"} if precision == "int4" and "minitx" in found else found

    def rows(self, shape: str, precision: str, names: list[str]) -> Iterator[Row]:
        """The rows of these cases for a shape at a precision."""
        with self.workers(shape, self.precisions(precision), self.threads) as workers:
            for name in names if workers else []:
                say(f"{shape}, {precision}: {name} ...")
                self.bandwidth = machine.bandwidth(self.threads)
                yield (file_row if name == "file" else step_row)(self, shape, precision, name, workers)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def limit(bench: Bench, shape: Shape, precision: str, case: Case) -> float:
    """Seconds that a step's, or an encoder's, bytes need at the bandwidth that was measured just before."""
    if case.what == "encoder":
        return shape.encoder_bytes(precision) / bench.bandwidth
    middle = 1 + (case.target + 1) / 2  # tokens in the cache, over the steps that are timed
    return shape.step_bytes(precision, case.count, case.beam, case.source, middle) / bench.bandwidth


def step_row(bench: Bench, name: str, precision: str, case_name: str, workers: dict[str, Worker]) -> Row:
    case, shape = CASES[case_name], SHAPES[name]
    sources = sentences(shape, [case.source] * case.count)
    samples = by_turns(workers, bench.rounds, lambda _: (steps, sources, case.target, case.beam))
    seconds = {engine: [s.seconds[case.what] for s in found] for engine, found in samples.items()}
    tokens = {engine: found[-1].tokens for engine, found in samples.items()}
    notes = check(tokens, [case.target + 1] * case.count, precision)
    bound = limit(bench, shape, precision, case)
    return Row(name, precision, case_name, case.label, bench.threads, seconds, bound, notes)


def file_row(bench: Bench, name: str, precision: str, case_name: str, workers: dict[str, Worker]) -> Row:
    """Each engine at the batch size at which a part of the file takes it least."""
    case, draw = CASES[case_name], random.Random(1)
    count, part = (200, 50) if bench.quick else (case.count, 2 * BATCHES[-1])
    sources = sentences(SHAPES[name], [draw.randint(5, 60) for _ in range(count)])
    sizes = {engine: best_size(worker, sources[:part]) for engine, worker in workers.items()}
    seconds: dict[str, list[float]] = {engine: [] for engine in workers}
    for _ in range(max(1, bench.rounds // 3)):
        for engine, worker in workers.items():
            sample = worker.measure(measure.file, sources, sizes[engine])
            seconds[engine].append(sample.seconds["file"])
            chunks, counts = measure.batches(sources, sizes[engine])
            check(
                {engine: sample.tokens}, [n for chunk, n in zip(chunks, counts, strict=True) for _ in chunk], precision
            )
    notes = ["batches of " + ", ".join(f"{size} ({engine})" for engine, size in sizes.items())]
    return Row(name, precision, case_name, case.label.format(count=f"{count:,}"), bench.threads, seconds, None, notes)


def best_size(worker: Worker, sources: Tokens) -> int:
    worker.measure(measure.file, sources, BATCHES[0])  # not counted
    trials = {
        size: worker.measure(measure.file, sources, size).seconds["file"] for size in BATCHES if size <= len(sources)
    }
    return min(trials, key=lambda size: trials[size])


def check(tokens: dict[str, Tokens], steps: list[int], precision: str) -> list[str]:
    """Ends the run where an engine made another number of steps; says where two in float32 gave other tokens."""
    for engine, found in tokens.items():
        if [len(t) for t in found] != steps:
            wrong = [(len(t), n) for t, n in zip(found, steps, strict=False) if len(t) != n][:3]
            raise SystemExit(f"bench: {engine} made other steps than it was asked for, (made, asked): {wrong}")
    if precision != "f32" or "minitx" not in tokens:
        return []
    ours = tokens["minitx"]
    differ = {e: sum(a != b for a, b in zip(ours, t, strict=True)) for e, t in tokens.items()}
    return [f"{n} of {len(ours)} sentences have other tokens than {engine} gives" for engine, n in differ.items() if n]
