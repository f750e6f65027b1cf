"""`minitx export`: a model as a folder that runs without Python."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import common

EXAMPLES = """examples:
  minitx export en-pt --target c --quantize int8 --out build/
  make -C build && echo "How are you today?" | build/en-pt
  minitx export en-pt --target c --threads 1 --out single/      code without threads
  minitx export en-pt --target wasm --quantize int8 --out web/  a page, a JavaScript module, WebAssembly
  minitx export en-pt --target c --dry-run                      the sizes of the files
  minitx export --list                                          the targets, what each needs and was tested on

The folder's own README.md says how to use the model in another program.
"""


class Listed(argparse.Action):
    """Prints the table of targets, which needs no model."""

    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> None:
        from ..compiler.export import TARGETS

        rows = [{"target": n, "makes": t.about, "needs": t.needs, "tested on": t.tested} for n, t in TARGETS.items()]
        print(common.table(rows))
        parser.exit()


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    parser.add_argument("--target", required=True, metavar="T", help="what to make, a row of --list: c, wasm, webgpu")
    parser.add_argument("--out", metavar="DIR", help="the folder to write, new or empty")
    common.quantize_argument(parser)
    parser.add_argument("--threads", type=common.positive, metavar="N", help="the most that it can use (default: 64)")
    parser.add_argument("--name", metavar="NAME", help="of the command and the files (default: the model's)")
    parser.add_argument("--force", action="store_true", help="write beside other files; replaces an export's alone")
    parser.add_argument("--dry-run", action="store_true", help="print the sizes and write nothing")
    parser.add_argument("--list", action=Listed, nargs=0, help="print the targets")


def run(args: argparse.Namespace) -> None:
    from ..compiler import export
    from ..compiler.packing import MAX_THREADS
    from ..compiler.targets.package import Options
    from ..config import pick
    from ..errors import InputError
    from ..weights.names import open_model

    pick(export.TARGETS, args.target, "target")
    if not args.out and not args.dry_run:
        raise InputError("no folder to write; name one with --out, or see the sizes with --dry-run")
    status = common.Status()
    options = Options(args.name or Path(args.model).stem, args.threads or MAX_THREADS, status)
    if not args.dry_run:
        export.check(Path(args.out), args.force)  # before anything takes long
    try:
        status(f"loading {args.model} ...")
        checkpoint = open_model(args.model, args.quantize)
        if args.dry_run:
            sizes = export.sizes(checkpoint, args.target, options)
        else:
            sizes = export.export(checkpoint, args.target, Path(args.out), options, args.force)
    finally:
        status("")
    weights = sum(size for file, size in sizes.items() if file.endswith(".weights"))
    code = common.size(sum(sizes.values()) - weights)
    print(f"{args.out or options.name}: weights {common.size(weights)}, {len(sizes) - 1} other files {code}")
