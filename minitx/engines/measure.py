"""What each call of a compiled model costs here: the native engine runs on random tokens and counts the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .native import NativeEngine

LEAST, SECONDS = 4, 1.5  # runs, and seconds that they go on: an encoder, then a step for each target token
QUIET = 2.0  # seconds after which it is told how far it is


@dataclass(frozen=True)
class Work:
    """Sentences at once, source tokens of each, and steps; the threads and instruction set that do it."""

    batch: int
    source: int
    target: int
    threads: int
    instruction_set: str


@dataclass(frozen=True)
class Measured:
    """The median nanoseconds of each call of a function with so many rows; `wait`: of the first thread for others."""

    rows: int
    runs: int
    calls: tuple[float, ...]
    wait: float


def measure(
    engine: NativeEngine, work: Work, calls: Mapping[str, int], k: int, notice: Callable[[str], object]
) -> dict[str, Measured]:
    """The cost of both functions, which have so many `calls`; k candidates are asked of each step.

    Raises `InputError` for sentences that are longer than the model's.
    """
    random, started = np.random.default_rng(0), time.perf_counter()
    sources = random.integers(0, engine.config.source_vocab, (work.batch, work.source), np.int32)  # (B,S)
    targets = random.integers(0, engine.config.target_vocab, (work.target, work.batch), np.int32)  # (T,B)
    lengths = np.full(work.batch, work.source)
    samples: dict[str, list[Any]] = {name: [] for name in calls}

    def timed(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        samples[name].append(times := np.zeros(calls[name] + 1, np.int64))
        engine.library.time(times)
        try:
            return run(*arguments)
        finally:
            engine.library.time(None)
            if (elapsed := time.perf_counter() - started) > QUIET:
                notice(f"measuring, run {len(samples['encode'])} ({elapsed:.0f} s) ...")

    while len(samples["encode"]) <= LEAST or time.perf_counter() - started < SECONDS:
        state = timed("encode", engine.encode, sources, lengths, work.target)
        for tokens in targets:
            timed("step", engine.step, state, tokens, k)
    rows = {"encode": work.batch * work.source, "step": work.batch}
    warm = {"encode": 1, "step": work.target}  # the first run, in which memory is touched first, does not count
    return {name: summary(rows[name], np.array(found[warm[name] :])) for name, found in samples.items()}


def summary(rows: int, samples: Any) -> Measured:
    """Of samples (runs, calls + 1)."""
    *calls, wait = np.median(samples, axis=0).tolist()
    return Measured(rows, len(samples), tuple(calls), wait)
