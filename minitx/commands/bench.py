"""`minitx bench`: one model on every engine and backend that works here, by turns; and how two such runs differ."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Error, FileError, InputError
from . import common

if TYPE_CHECKING:
    from ..measuring.engines import Asked
    from ..measuring.session import Candidate, Session
    from ..weights.checkpoint import Checkpoint

EXAMPLES = """examples:
  minitx bench en-pt
  minitx bench en-pt --quick --engine native             the native engine at each precision, in a minute
  minitx bench en-pt --device CPU --device CL            these backends of tinygrad, and the native engine
  minitx bench en-pt --instruction-set avx2 --instruction-set sse2 --quantize int8 --engine native
  minitx bench en-pt --export build/ --export pi/        exported packages in the same table
  minitx bench en-pt --out before.json --html before.html
  minitx bench --compare before.json after.json          status 0 if nothing is slower by over 10%, else 1

Each engine runs in a process of its own; they take turns, and medians are shown. Sources are random, and every engine
makes the same number of steps. Rows of one precision have to give the same tokens: what differs is counted.
An engine that fails is a row, and the reason stands below the table. Ctrl-C shows what was measured so far.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a name of `minitx models`, a .safetensors file, or a folder"
    )
    rows = "int8, int8w, int4, f16, bf16 or none"

    def several(name: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(name, action="append", default=[], metavar=metavar, help=f"{text}; may be repeated", **more)

    several("--quantize", "Q", f"{rows} (default: none, int8 and int4, or as the model is stored)")
    several("--device", "D", "a backend of the tinygrad engine (default: each that works, but PYTHON)")
    parser.add_argument("--engine", choices=["native", "jit"], help="measure this one alone (default: both)")
    several("--instruction-set", "SET", "of the native engine (default: the best)")
    several("--export", "FOLDER", "a package that minitx export wrote, run natively or under qemu-user")
    parser.add_argument("--threads", type=common.positive, metavar="N", help="of each engine (default: all cores)")
    parser.add_argument("--no-shortlist", action="store_true", help="look at all target tokens, as a model without one")
    parser.add_argument("--rounds", type=common.positive, metavar="N", help="turns of each (default: 7, --quick: 3)")
    parser.add_argument("--quick", action="store_true", help="few rounds of few steps")
    patience = "seconds that one turn of an engine may take (default: 600)"
    parser.add_argument("--time-limit", type=common.positive, default=600, metavar="S", help=patience)
    common.json_argument(parser)
    parser.add_argument("--out", metavar="FILE", help="save the run as JSON, for --compare")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots, complete in one file")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="tell how the saved run B differs from A")
    most = "with --compare: by how many percent a median may grow (default: 10)"
    parser.add_argument("--threshold", type=float, default=10.0, metavar="PERCENT", help=most)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.threshold <= 1e6:
        raise InputError(f"--threshold is a percentage from 0, not {args.threshold:g}")
    if args.compare:
        if args.model is not None:
            raise InputError("--compare reads two saved runs and takes no MODEL; leave out one of them")
        return compare(args)
    if args.model is None:
        raise InputError("no MODEL to measure; name one, or two saved runs with --compare")
    for path in filter(None, (args.out, args.html)):
        if Path(path).is_dir():
            raise FileError(f"{path}: is a folder; name a file")
    with tempfile.TemporaryDirectory(prefix="minitx-bench-") as temporary:
        return measure(args, Path(temporary))


def compare(args: argparse.Namespace) -> int:
    """Prints how two saved runs differ; 1 if the second is worse in anything."""
    from ..measuring import report, saved

    before, after = map(saved.read, args.compare)
    found = saved.compare(before, after, args.threshold / 100)
    if args.json:
        rows = [asdict(c) | {"ratio": c.ratio, "verdict": c.verdict} for c in found.changes]
        common.print_json({"worse": found.worse, "changes": rows, "notes": found.notes, "broken": found.broken})
        return int(found.worse)
    if found.changes:
        print(common.table(report.changes(found)))
    for note in [*found.notes, *(f"fails now: {told}" for told in found.broken)]:
        print(f"- {note}")
    worse = sum(change.worse for change in found.changes) + len(found.broken)
    print(
        f"{worse} of {len(found.changes)} figures are worse by over {args.threshold:g}%"
        if worse
        else "nothing is worse"
    )
    return int(found.worse)


def measure(args: argparse.Namespace, temporary: Path) -> int:
    """Runs what was asked for and shows it; 130 if it was stopped, 1 if nothing could be measured."""
    from ..measuring import machine
    from ..measuring.session import Session, cases
    from ..toolchain import cores
    from ..weights.names import open_model

    engines, status, busy = chosen_engines(args), common.Status(), machine.busy().strip()
    if busy:
        status.note(busy)
    threads = args.threads or cores()
    stopped = False
    try:
        status(f"loading {args.model} ...")
        checkpoint = open_model(args.model)
        asked = engine_rows(args, engines, checkpoint, threads, status)
        read = bytes_read(asked, checkpoint, args, status)
        status("measuring the memory's bandwidth ...")
        bandwidth = machine.bandwidth(threads)
        candidates = [*map(candidate, asked), *packages(args, checkpoint, temporary, threads, status)]
        work = cases(checkpoint.config.max_length, args.quick)
        rounds = args.rounds or (3 if args.quick else 7)
        ids = checkpoint.config.source_vocab, checkpoint.generation.end
        session = Session(candidates, work, *ids, threads, rounds, status, args.time_limit)
        try:
            session.run()
        except KeyboardInterrupt:
            stopped = True
    finally:
        status("")
    for row in session.rows:
        row.step_bytes = read.get(row.precision)
    facts = {"machine": machine.describe(), "threads": threads, "bandwidth": bandwidth, "busy": busy}
    shown(facts | describe(args, checkpoint, session, stopped), args)
    if stopped:
        print("minitx: stopped", file=sys.stderr)
        return 130
    return int(not any(row.seconds for row in session.rows))


def chosen_engines(args: argparse.Namespace) -> list[str]:
    """What `--engine` and `--device` ask for: a device is one of tinygrad's, and CPU the native engine's, too.

    Raises an `Error` for what is not known, before anything takes long.
    """
    from ..config import choice
    from ..engines.devices import lookup

    for quantization in args.quantize:
        choice("quantization", quantization)
    for device in args.device:
        lookup(device)
    if args.engine == "native" and (others := [d for d in args.device if d.upper() != "CPU"]):
        raise InputError(f"the native engine runs on CPU, not on {others[0]}; leave out --engine or --device")
    return [args.engine] if args.engine else ["native", "jit"]


def engine_rows(
    args: argparse.Namespace, engines: list[str], checkpoint: Checkpoint, threads: int, status: common.Status
) -> list[Asked]:
    """What is measured of minitx's own engines."""
    from ..engines.devices import WORKS, WRONG, report
    from ..measuring.engines import SLOW, Asked, choose

    devices = [device.upper() for device in args.device]
    if "jit" in engines and not devices:
        status("testing each backend in a process of its own ...")
        found = [(name, result, note) for name, result, note in report() if name not in SLOW]
        devices = [name for name, result, _ in found if result == WORKS]
        for name, result, note in found:
            if result == WRONG:
                status.note(f"{name} is left out: {note}")
    common_ = Asked(str(args.model), "native", "CPU", None, threads, shortlist=not args.no_shortlist)
    stored, once = checkpoint.config.quantization, dict.fromkeys
    return choose(common_, stored, [*once(args.quantize)], engines, [*once(devices)], [*once(args.instruction_set)])


def bytes_read(
    asked: list[Asked], checkpoint: Checkpoint, args: argparse.Namespace, status: common.Status
) -> dict[str, int | None]:
    """The bytes that a step reads at each precision that is measured."""
    import dataclasses

    from ..measuring.engines import precision
    from ..measuring.session import cases, sources
    from ..measuring.traffic import step_bytes

    case = cases(checkpoint.config.max_length, args.quick)[0]
    [source] = sources(checkpoint.config.source_vocab, checkpoint.generation.end, [case.source])
    found: dict[str, int | None] = {}
    for quantization in dict.fromkeys(one.quantize or "none" for one in asked):
        status(f"planning the model, {precision(quantization)} ...")
        keep = checkpoint.config.keep if quantization == checkpoint.config.quantization else ()
        config = dataclasses.replace(checkpoint.config, quantization=quantization, keep=keep)
        changed = dataclasses.replace(checkpoint, config=config)
        found[precision(quantization)] = step_bytes(changed, source, case.target, not args.no_shortlist)
    return found


def candidate(asked: Asked) -> Candidate:
    """The row of an engine."""
    from ..measuring.engines import EnginePeer, precision
    from ..measuring.session import Candidate, Row

    row = Row(asked.name, precision(asked.quantize or "none"), asked.threads, asked.device)
    starts = 3 if asked.engine == "native" else 1  # tinygrad takes long to start
    return Candidate(row, EnginePeer, asked, asked.environment, starts=starts)


def packages(
    args: argparse.Namespace, checkpoint: Checkpoint, temporary: Path, threads: int, status: common.Status
) -> list[Candidate]:
    """The rows of exported packages; of one that cannot be run the row says why."""
    from ..measuring.packages import PackagePeer, prepare
    from ..measuring.session import Candidate, Row

    found = []
    for number, folder in enumerate(dict.fromkeys(args.export)):
        row, package = Row(f"package {folder}", threads=threads), None
        status(f"preparing {folder} ...")
        try:
            own = temporary / str(number)
            own.mkdir()
            sizes = checkpoint.generation.suppress, checkpoint.config.target_vocab
            package = prepare(Path(folder), own, *sizes, threads)
        except Error as e:
            row.error = str(e)
        found.append(Candidate(row, PackagePeer, package, {}, single=True))
    return found


def describe(args: argparse.Namespace, checkpoint: Checkpoint, session: Session, stopped: bool) -> dict[str, Any]:
    """What a run says of itself, and its rows."""
    import hashlib

    from ..measuring import saved
    from ..version import __version__

    config = checkpoint.config
    model = {
        "name": Path(args.model).name,
        "parameters": sum(w.size for w in checkpoint.weights.values()),
        "stored": config.quantization,
        "config": hashlib.sha256(config.to_json().encode()).hexdigest()[:16],
    }
    settings = {
        "rounds": session.rounds,
        "steps": session.cases[0].target,
        "shortlist": bool(checkpoint.shortlist) and not args.no_shortlist,
        "minitx": __version__,
    }
    rows = [saved.row_dict(row) for row in session.rows]
    head = {"format": saved.FORMAT, "version": saved.VERSION, "model": model, "settings": settings}
    return head | {"complete": not stopped, "rows": rows}


def shown(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the run, and writes it where that was asked for."""
    import json

    from ..measuring import report
    from ..measuring.page import page
    from ..paths import writing

    lines = report.table(found)
    notes = [*report.notes(found), *report.LEGEND]
    if args.json:
        common.print_json(found)
    else:
        print(report.about(found))
        print(common.table(lines))
        print("\n".join(f"- {note}" for note in notes))
    if args.out:
        with writing(args.out) as file:
            file.write(f"{json.dumps(found, ensure_ascii=False)}\n".encode())
    if args.html:
        with writing(args.html) as file:
            cells = [[*line.values()] for line in lines]
            file.write(page(found, [*(lines[0] if lines else [])], cells, notes).encode())
