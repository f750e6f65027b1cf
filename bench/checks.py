"""What the native engine promises beside speed, seen on this machine with the real models en-pt and pt-en.

examples:
  python -m bench.checks                     every check: half an hour, of which `agree` takes most
  python -m bench.checks start memory        two of them
  python -m bench.checks --json > checks.json

Each check prints what it found and what it has to be, and the exit status is 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from minitx.commands.common import size, table
from minitx.measuring.turns import clock
from minitx.toolchain import cores

from .cases import say

DATA = Path(__file__).parents[1] / "tests" / "data"
MODELS = {"en-pt": DATA / "sentences.en.txt", "pt-en": DATA / "sentences.pt.txt"}
MINITX = [sys.executable, "-m", "minitx"]


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, what it has to be, and whether it is."""

    check: str
    what: str
    found: str
    asked: str
    holds: bool


def sentences(model: str) -> list[str]:
    return MODELS[model].read_text(encoding="utf-8").splitlines()


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def start() -> Iterator[Check]:
    """A whole process on a warm cache, and the first piece of an answer of one that runs."""
    translate, bare = [*MINITX, "run", "en-pt", "Hello."], [sys.executable, "-c", "import numpy"]
    subprocess.run(translate, check=True, capture_output=True)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(9):
        for ours, command in ((True, translate), (False, bare)):
            seconds[ours].append(clock(lambda command=command: subprocess.run(command, capture_output=True))[0])
    whole, numpy = (statistics.median(seconds[ours]) for ours in (True, False))
    yield Check("start", "minitx run en-pt Hello.", milliseconds(whole), "at most 400 ms", whole <= 0.4)
    times = whole / numpy
    yield Check("start", "times python -c 'import numpy'", f"{times:.2f}", "at most 3", times <= 3)
    first = statistics.median(first_pieces(sentences("en-pt")[:30]))
    yield Check("start", "from a line to the first piece", milliseconds(first), "at most 15 ms", first <= 0.015)


def first_pieces(lines: list[str]) -> Iterator[float]:
    """Seconds from each line to the first byte of its answer, by one process that streams."""
    command = [*MINITX, "run", "en-pt", "--stream"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for i, line in enumerate(["Hello.", *lines]):
            started = time.perf_counter()
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            os.read(process.stdout.fileno(), 1)
            if i:
                yield time.perf_counter() - started
            process.stdout.readline()
        process.stdin.close()


RESIDENT = r"""
import json, sys, minitx
path, *at = sys.argv[1:]
model = minitx.load("en-pt", quantize="int8", engine="native")
texts = open(path, encoding="utf-8").read().splitlines()
found, first = [], []
for i in range(int(at[-1])):
    answer = model(texts[i % len(texts)])
    if i < len(texts):
        first.append(answer)
    elif answer != first[i % len(texts)]:
        sys.exit(f"sentence {i + 1} has another answer than before")
    if str(i + 1) in at:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        found.append([1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")])
print(json.dumps([model.engine.library.weight_bytes, *found]))
"""


def resident(*at: int) -> Any:
    """Bytes of the stored weights, then bytes resident, and at most so far, after so many sentences one by one."""
    command = [sys.executable, "-c", RESIDENT, str(MODELS["en-pt"]), *map(str, at)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("bench: the process that translates failed")
    return json.loads(done.stdout)


def memory() -> Iterator[Check]:
    """What a process that translates holds beside the weights."""
    resident(1)  # which compiles the model, if it has to be
    weights, (now, most) = resident(300)
    beside = max(now, most) - weights
    what = f"most that was resident beside {size(weights)} of weights"
    yield Check("memory", what, size(beside), "at most 60 MB", beside <= 60e6)


def soak() -> Iterator[Check]:
    """20,000 sentences one by one: the same answers, and no memory that grows."""
    _, (early, _), (late, _) = resident(2_000, 20_000)
    more = max(late - early, 0)
    yield Check("soak", "memory that sentences 2,001 to 20,000 added", size(more), "at most 1 MB", more <= 1e6)


def processes() -> Iterator[Check]:
    """Eight processes at once on an empty cache."""
    with tempfile.TemporaryDirectory(prefix="minitx-bench-") as cache:
        environment = os.environ | {"MINITX_CACHE": cache}
        started = [
            subprocess.Popen(
                [*MINITX, "run", "en-pt", "Hello."],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for _ in range(8)
        ]
        answers = [process.communicate()[0] for process in started]
    right = sum(answer == answers[0] != "" for answer in answers)
    yield Check("processes", "same answers of 8 at once on an empty cache", str(right), "8", right == 8)


def agree() -> Iterator[Check]:
    """Both engines, 150 sentences each way, greedy and by four beams."""
    import minitx

    for precision in (None, "int8", "int4"):
        for beam in (1, 4):
            differ = total = 0
            for name in MODELS:
                say(f"agree: {name}, {precision or 'f32'}, beam {beam} ...")
                found = []
                for engine in ("native", "jit"):
                    model = minitx.load(name, engine=engine, quantize=precision)
                    tokens = [t for s in sentences(name) if (t := model.encode(s))]
                    found.append([best[0].tokens for best in model.generate(tokens, beam=beam, batch_size=25)])
                differ += sum(a != b for a, b in zip(*found, strict=True))
                total += len(found[0])
            what = f"{precision or 'f32'}, {'greedy' if beam == 1 else f'{beam} beams'}: sentences that differ"
            yield Check("agree", what, f"{differ} of {total}", "at most 1 in 100", 100 * differ <= total)


def growth() -> Iterator[Check]:
    """A random model of Marian-base's shape in int8: one more token, source token or row never costs a fifth more."""
    with tempfile.TemporaryDirectory(prefix="minitx-bench-") as folder:
        engine = random_engine(Path(folder))
        for what, seconds in (("target length", targets), ("source length", sources), ("batch", batches)):
            say(f"growth: {what} ...")
            found = seconds(engine)
            near = [(n, more) for n, more in pairwise(sorted(found)) if more - n <= BLOCK]
            n, more = max(near, key=lambda pair: found[pair[1]] / found[pair[0]])
            step = found[more] / found[n] - 1
            label = f"{what}, {min(found)} to {max(found)}: largest step"
            yield Check("growth", label, f"{step:.0%} from {n} to {more}", "at most 20%", step <= 0.2)


def random_engine(folder: Path) -> Any:
    import numpy as np

    from minitx.compiler import entry
    from minitx.compiler.plan import plan
    from minitx.compiler.store import LIBRARY, WEIGHTS
    from minitx.config import Config, Generation
    from minitx.engines.native import Library, NativeEngine
    from minitx.weights.checkpoint import Checkpoint
    from minitx.weights.quant import quantized
    from minitx.weights.shapes import expected

    config = Config(source_vocab=32000, target_vocab=32000, d_model=512, heads=8, d_ff=2048, max_length=2304)
    draw = np.random.default_rng(0)
    shapes = expected(config).items()
    weights = {name: draw.normal(0, shape[-1] ** -0.5, shape).astype(np.float32) for name, shape in shapes}
    checkpoint = quantized(Checkpoint(config, Generation(start=0, end=1), None, None, weights, {}), "int8")
    planned = plan(checkpoint.config)
    (folder / LIBRARY).write_bytes(entry.library(planned))
    with (folder / WEIGHTS).open("wb") as file:
        entry.write_weights(planned, checkpoint, file)
    return NativeEngine(config, Library(folder, cores()), entry.interfaces(planned))


LEAST_OF, BLOCK = 5, 8  # measurements of the same; steps that are taken together, since one is easily disturbed


def encoded(engine: Any, rows: int, source: int, length: int) -> Any:
    import numpy as np

    return engine.encode(np.full((rows, source), 5, np.int32), np.full(rows, source), length)


def steps_of(engine: Any, rows: int, count: int) -> list[float]:
    """Seconds of each of `count` steps from the first, the least of several."""
    import numpy as np

    runs = []
    for _ in range(LEAST_OF):
        state = encoded(engine, rows, 32, count)
        runs.append(
            [clock(lambda state=state: engine.step(state, np.full(rows, 5, np.int32), 1))[0] for _ in range(count)]
        )
    return [min(same) for same in zip(*runs, strict=True)]


def targets(engine: Any) -> dict[int, float]:
    seconds = steps_of(engine, 1, 1032)
    return {n: statistics.median(seconds[n : n + BLOCK]) for n in range(16, 1025, BLOCK)}


def sources(engine: Any) -> dict[int, float]:
    lengths = [n + more for n in (16, 32, 64, 128, 256, 512, 1024, 2048) for more in (-1, 0, 1)]
    found = dict.fromkeys(lengths, 1e9)
    for _ in range(LEAST_OF):
        for n in lengths:
            found[n] = min(found[n], clock(lambda n=n: encoded(engine, 1, n, 1))[0])
    return found


def batches(engine: Any) -> dict[int, float]:
    return {rows: min(steps_of(engine, rows, 16)) for rows in range(1, 66)}


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    check.__name__: check for check in (start, memory, soak, processes, growth, agree)
}


def main() -> None:
    text, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m bench.checks",
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", nargs="*", metavar="CHECK", help=f"some of {', '.join(CHECKS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    args = parser.parse_args()
    if unknown := [name for name in args.check if name not in CHECKS]:
        parser.error(f"{unknown[0]} is none of {', '.join(CHECKS)}")
    found: list[Check] = []
    for name in args.check or CHECKS:
        say(f"{name} ...")
        for check in CHECKS[name]():
            found.append(check)
            say(f"  {check.what}: {check.found} ({check.asked})")  # what a run that is stopped has found is not lost
    rows: list[dict[str, Any]] = [asdict(check) for check in found]
    print(json.dumps(rows) if args.json else table([row | {"holds": "yes" if row["holds"] else "NO"} for row in rows]))
    sys.exit(not all(check.holds for check in found))


if __name__ == "__main__":
    main()
