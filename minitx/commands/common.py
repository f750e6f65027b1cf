"""What several commands share: arguments, and what is said on standard error while one waits."""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, InputError

if TYPE_CHECKING:
    from ..model import Model
    from ..weights.checkpoint import Checkpoint


def positive(text: str) -> int:
    """An argument that counts something: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


MODEL = "a name of `minitx models`, a .safetensors file, or a folder"


def model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)


def json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def quantize_argument(parser: argparse.ArgumentParser) -> None:
    rows = "int8, int8w, int4, f16, bf16 or none"
    parser.add_argument("--quantize", metavar="Q", help=f"how matrices are stored: {rows} (default: as they are)")


def search_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model is run and searched; `load` and `search_options` read them back."""
    parser.add_argument("--device", default="CPU", help="a backend of `minitx devices` (default: CPU)")
    parser.add_argument("--engine", choices=["native", "jit"], help="what runs the model (default: native on a CPU)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the native engine (default: all cores)")
    quantize_argument(parser)
    parser.add_argument("--beam", type=positive, metavar="N", help="hypotheses kept at a time (default: the model's)")
    parser.add_argument("--max-length", type=positive, metavar="N", help="longest translation of a sentence, in tokens")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="sentences at once (default: 32)")
    parser.add_argument("--no-shortlist", action="store_true", help="look at all target tokens, as a model without one")
    parser.add_argument("--no-split", action="store_true", help="take each line as one sentence, however long")


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `Model.translate` that `search_arguments` stand for."""
    options = {"beam": args.beam, "max_length": args.max_length, "batch_size": args.batch_size}
    return options | {"split": not args.no_split}


def load(args: argparse.Namespace, status: Status) -> Model:
    """The model that the arguments name, on the device and engine that they name."""
    from ..model import load

    status(f"loading {args.model} ...")
    try:
        return load(
            args.model,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            quantize=args.quantize,
            shortlist=not args.no_shortlist,
            notice=status,
            warn=status.note,
        )
    finally:
        status("")


def check_output(path: str) -> None:
    """Raises `FileError` for a file to write whose name is not that of a model: before anything takes long."""
    if not path.endswith(".safetensors"):
        raise FileError(f"{path}: the name must end in .safetensors")


def small_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-shortlist", action="store_true", help="leave out the shortlist: smaller, but slower")


def write(checkpoint: Checkpoint, args: argparse.Namespace) -> None:
    """Writes a model to the file that was asked for, and tells its size."""
    from ..weights.checkpoint import save

    path = args.out
    save(dataclasses.replace(checkpoint, shortlist=None) if args.no_shortlist else checkpoint, path)
    print(f"{path}: {size(os.path.getsize(path))}", file=sys.stderr)


class Status:
    """One line on standard error that says what takes long, there only while it does, and only on a terminal.

    `shown` is set to False where something else, a progress bar or a stream of text, has the line to itself.
    """

    def __init__(self) -> None:
        self.width = 0
        self.shown = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, message: str) -> None:
        """Shows a message in place of the last one; an empty one clears the line, as before anything is printed."""
        if self.shown and (message or self.width):
            sys.stderr.write(f"\r{' ' * self.width}\r{message}")
            sys.stderr.flush()
            self.width = len(message)

    def note(self, message: str) -> None:
        """A line on standard error that stays."""
        self("")
        print(f"minitx: note: {' '.join(message.split())}", file=sys.stderr)


def decode(line: bytes, where: str) -> str:
    """A line of UTF-8 without its end; raises `InputError` that says where in `where` it is not UTF-8."""
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as e:
        raise InputError(f"{where}, byte {e.start + 1}: not UTF-8; convert it, for example with iconv") from None


def read_lines(path: str, wanted: str, limit: int | None = None) -> list[str]:
    """The first `limit` lines of a UTF-8 file; raises `FileError` that asks for what is `wanted`, or `InputError`."""
    try:
        data = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise FileError(f"{path!r}: cannot be read ({reason}); name {wanted}") from e
    lines = data.removesuffix(b"\n").split(b"\n")[:limit] if data else []
    return [decode(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns under a heading."""
    columns = list(rows[0]) if rows else []
    cells = [columns, *([str(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def size(number: int) -> str:
    """A number of bytes as people read it."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"
