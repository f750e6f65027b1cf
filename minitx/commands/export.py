"""`minitx export`: a model as a package that runs without minitx."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from . import common

if TYPE_CHECKING:
    from ..compiler.footprint import Footprint

EXAMPLES = """examples:
  minitx export en-pt --target c --quantize int8 --out build/
  make -C build && echo "How are you today?" | build/en-pt
  minitx export en-pt --target c --threads 1 --out single/      code without threads
  minitx export en-pt --target c --arch aarch64-linux --out pi/ compiled for it as well, by zig alone
  minitx export en-pt --target c --embed --out whole/           the weights inside the program and the library
  minitx export en-pt --target c --freestanding --out board/    for a microcontroller, with an example for a Cortex-M
  minitx export en-pt --target wasm --quantize int8 --out web/  a page, a JavaScript module, WebAssembly
  minitx export en-pt --target python --out dist/               a wheel: pip install dist/en_pt-*.whl
  minitx export en-pt --target c --dry-run                      the sizes of weights, code and workspace
  minitx export en-pt --target c --dry-run --limits 64 64 2     of a workspace for 64 tokens and 2 hypotheses
  minitx export --list                                          the targets, what each needs and was tested on

The package's own README says how to use the model in another program.
"""
NAMES = {"weights": "weights", "code": "code", "rest": "other files"}


def arguments(parser: argparse.ArgumentParser) -> None:
    from ..compiler.cross import ARCHITECTURES

    parser.add_argument("model", nargs="?", metavar="MODEL", help=common.MODEL)
    parser.add_argument("--target", metavar="T", help="what to make, a row of --list")
    parser.add_argument("--out", metavar="DIR", help="the folder to write, new or empty")
    common.quantize_argument(parser)
    parser.add_argument("--threads", type=common.positive, metavar="N", help="the most that it can use (default: 64)")
    parser.add_argument("--arch", metavar="ARCH", help=f"compile for it as well, by zig: {', '.join(ARCHITECTURES)}")
    parser.add_argument(
        "--embed", action="store_true", help="link the weights into what is built; none need be beside it"
    )
    bare = "for machines without a system: no libc but memcpy and memset, no allocation, weights linked in"
    parser.add_argument("--freestanding", action="store_true", help=bare)
    parser.add_argument("--name", metavar="NAME", help="of the command and the files (default: the model's)")
    parser.add_argument("--force", action="store_true", help="write beside other files; replaces an export's alone")
    parser.add_argument(
        "--dry-run", action="store_true", help="compile for this machine, print the sizes, keep nothing"
    )
    parser.add_argument(
        "--limits",
        type=common.positive,
        nargs=3,
        action="append",
        metavar=("SOURCE", "TARGET", "BEAM"),
        help="with --dry-run: a workspace for so many tokens and hypotheses; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="print the targets")
    common.json_argument(parser)
    parser.set_defaults(wrong=parser.error)


def run(args: argparse.Namespace) -> None:
    from ..compiler import export, footprint
    from ..compiler.packing import MAX_THREADS
    from ..compiler.targets.package import Options
    from ..config import pick
    from ..errors import InputError
    from ..weights.names import open_model

    if args.list:
        return show_targets(args.json)
    if missing := [name for name, value in {"MODEL": args.model, "--target": args.target}.items() if not value]:
        args.wrong(f"the following arguments are required: {', '.join(missing)}")
    pick(export.TARGETS, args.target, "target")
    if not args.out and not args.dry_run:
        raise InputError("no folder to write; name one with --out, or see the sizes with --dry-run")
    status = common.Status()
    name, threads = args.name or Path(args.model).stem, args.threads or (1 if args.freestanding else MAX_THREADS)
    options = Options(name, threads, status, args.arch or "", args.embed, args.freestanding)
    export.check_options(args.target, options)  # before anything takes long
    if not args.dry_run:
        export.check(Path(args.out), args.force)
    try:
        status(f"loading {args.model} ...")
        checkpoint = open_model(args.model, args.quantize)
        if args.dry_run:
            limits = [footprint.Limits(*numbers) for numbers in args.limits or []]
            measured = footprint.measure(checkpoint, args.target, options, limits)
        else:
            sizes = export.export(checkpoint, args.target, Path(args.out), options, args.force)
    finally:
        status("")
    if args.dry_run:
        return show(measured, args.json, status)
    found = footprint.parts(Path(args.out), sizes)
    if args.json:
        return common.print_json({"files": sizes, **found})
    told = [f"{NAMES[kind]} {common.size(size)}" for kind, size in found.items()]
    told += [f"{place} {common.size(size)}" for place, size in sizes.items() if place.endswith(".whl")]
    print(f"{args.out}: {', '.join(told)}")


def show_targets(as_json: bool) -> None:
    """Prints the table of targets."""
    from ..compiler.export import TARGETS

    rows = [{"target": n, "makes": t.about, "needs": t.needs, "tested on": t.tested} for n, t in TARGETS.items()]
    if as_json:
        common.print_json(rows)
    else:
        print(common.table(rows))


def show(found: Footprint, as_json: bool, status: common.Status) -> None:
    """Prints what was measured."""
    if as_json:
        return common.print_json(dataclasses.asdict(found))
    rows = [(NAMES["weights"], found.weights, "")]
    if found.code is not None:
        rows.append((NAMES["code"], found.code, f"compiled and stripped, {found.machine}"))
    rows.append((NAMES["rest"], found.rest, ""))
    rows += [("wheel", size, place) for place, size in found.files.items() if place.endswith(".whl")]
    for w in found.workspaces:
        rows.append(("workspace", w.bytes, f"source {w.source}, target {w.target} tokens, beam {w.beam}, 1 thread"))
    print(common.table([{"part": part, "size": common.size(size), "of": of} for part, size, of in rows]))
    if found.problem:
        status.note(f"code and workspace are not known: {found.problem}")
