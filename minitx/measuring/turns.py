"""How time is taken: each engine in a process of its own on the same cores, one at a time, by turns.

A process, since engines bring threads that spin for a while after a call, and since each can then be given its
environment before it is imported. Between turns there is a pause, in which spinning ends.

The time of a step is (seconds for n + 1 steps - seconds for 1 step) / n, and that of the encoder is what one step takes
in all less the time of a step: so every engine is called through its own public search, and pays for all of it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from ..errors import Error

PAUSE = 0.3  # seconds; Intel's OpenMP spins for 0.2
TURN = 0.25  # seconds that a turn measures for, at least
PATIENCE = 600.0  # seconds that a turn may take
Tokens = list[list[int]]


class WorkerError(Error):
    """An engine that does not work here, in one line."""


class Peer(Protocol):
    """What a worker's process holds."""

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        """The best hypothesis of each source, all as one batch, each of `steps` tokens."""


@dataclass(frozen=True)
class Sample:
    """What one turn found: seconds by what they are of, and the tokens."""

    seconds: dict[str, float]
    tokens: Tokens = field(default_factory=list)


@dataclass(frozen=True)
class Started:
    """What a worker's start took: seconds of the build, or of what the peer calls its `load`; bytes held before it."""

    seconds: float
    base: int


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def steps(peer: Peer, sources: Tokens, count: int, beam: int) -> Sample:
    """Seconds of a step and of the encoder, over `count` steps after the first: medians over a turn."""
    step: list[float] = []
    encode: list[float] = []
    tokens: Tokens = []
    turn_ends = time.perf_counter() + TURN
    while not step or time.perf_counter() < turn_ends:
        one, _ = clock(lambda: peer.generate(sources, 1, beam))
        all_of_them, tokens = clock(lambda: peer.generate(sources, count + 1, beam))
        step.append((all_of_them - one) / count)
        encode.append(one - step[-1])
    return Sample({"step": statistics.median(step), "encoder": statistics.median(encode)}, tokens)


def most_memory(process: int | None = None) -> int:
    """The most bytes of memory that a process, by default this one, has held so far; 0 where that is not told."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{process or 'self'}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if process is not None or os.name == "nt":
        return 0
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(connection: Connection, build: Callable[..., Any], arguments: tuple[Any, ...], cores: Sequence[int]) -> None:
    """A peer's process: builds it, then measures what it is asked for until it is told nothing more."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    peer: Any = None
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        base = most_memory()
        seconds, peer = clock(lambda: build(*arguments))
        gc.disable()
        connection.send(Started(getattr(peer, "load", seconds), base))
        while (asked := connection.recv()) is not None:
            measure, *rest = asked
            connection.send(measure(peer, *rest))
            gc.collect()
    except (EOFError, BrokenPipeError):
        pass
    except Exception as e:  # told to the parent, whatever a foreign package raises
        told = " ".join(str(e).split())[:300]
        connection.send(told if isinstance(e, Error) else f"{type(e).__name__}: {told}")
    finally:
        if hasattr(peer, "close"):
            peer.close()


class Worker:
    """A peer in a process of its own, with so many cores and what is put into its environment."""

    def __init__(
        self,
        build: Callable[..., Any],
        arguments: tuple[Any, ...],
        threads: int,
        environment: Mapping[str, str],
        patience: float = PATIENCE,
    ):
        cores = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []
        context = multiprocessing.get_context("spawn")
        self.patience, self.asked = patience, True
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, build, arguments, cores), daemon=True)
        with environment_of(environment):
            self.process.start()
        other.close()
        try:
            self.started: Started = self.receive()
        except BaseException:
            self.close()
            raise

    def measure(self, *asked: Any) -> Any:
        """One turn: what a function gives for the peer and the rest of `asked`; raises `WorkerError`."""
        self.asked = True
        with suppress(OSError):  # its process has ended: told below
            self.connection.send(asked)
        found = self.receive()
        time.sleep(PAUSE)
        return found

    def receive(self) -> Any:
        """What the process answers within its time."""
        try:
            if not self.connection.poll(self.patience):
                raise WorkerError(f"no answer within {self.patience:.0f} seconds")
            found = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise WorkerError(f"its process ended (exit status {self.process.exitcode})") from None
        if isinstance(found, str):
            raise WorkerError(found)
        self.asked = False
        return found

    def close(self) -> None:
        """Ends the process, at once if it is at work."""
        self.connection.close()
        if self.asked:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()


@contextmanager
def environment_of(values: Mapping[str, str]) -> Iterator[None]:
    """The environment that a process started in the block gets."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name) by turns, in an order that changes each round."""
    for i in range(rounds):
        first = i % max(1, len(names))
        yield from ((i, name) for name in [*names[first:], *names[:first]])


def by_turns(workers: dict[str, Worker], rounds: int, ask: Callable[[str], Sequence[Any]]) -> dict[str, list[Sample]]:
    """Samples of each worker, one a round, after a first turn that is not counted."""
    found: dict[str, list[Sample]] = {name: [] for name in workers}
    for i, name in turns(list(workers), rounds + 1):
        sample = workers[name].measure(*ask(name))
        if i:
            found[name].append(sample)
    return found
