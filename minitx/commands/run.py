"""`minitx run`: text in, text out, a line for a line."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InputError
from . import common

if TYPE_CHECKING:
    from ..model import Model, Translation

EXAMPLES = """examples:
  minitx run en-pt "How are you today?"
  minitx run en-pt --beam 4 --n-best 2 --scores "One." "Two."
  tail -f log | minitx run en-pt              answers each line as it comes
  minitx run en-pt < book.txt > livro.txt     batches, with a progress bar
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    parser.add_argument("text", metavar="TEXT", nargs="*", help="texts to translate (default: lines of standard input)")
    common.search_arguments(parser)
    parser.add_argument(
        "--n-best", type=common.positive, default=1, metavar="N", help="translations of each line to print"
    )
    parser.add_argument("--scores", action="store_true", help="print the score and a tab before each translation")
    parser.add_argument("--stream", action="store_true", help="print each piece as it is found (greedy)")
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    if args.stream and (args.json or args.scores or args.n_best > 1 or args.beam):
        raise InputError("--stream is greedy and prints text alone; leave out --json, --scores, --n-best and --beam")
    status = common.Status()
    model = common.load(args, status)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    if args.text:
        answer(model, args.text, args, status)
    elif sys.stdin is None:
        raise InputError("there is neither a TEXT nor a standard input; give one of them")
    elif stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
        answer_file(model, args, status)
    else:
        for line in lines(sys.stdin.buffer):
            answer(model, [line], args, status)


def lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a UTF-8 file as they arrive, without their ends; raises `InputError` for what is not UTF-8."""
    for number, line in enumerate(iter(file.readline, b""), 1):
        yield common.decode(line, f"standard input, line {number}")


def answer(model: Model, texts: list[str], args: argparse.Namespace, status: common.Status) -> None:
    """Prints the translations of `texts`, in order."""
    if args.stream:
        status.shown = False
        for text in texts:
            for piece in model.stream(text, args.max_length):
                print(piece, end="", flush=True)
            print(flush=True)
        return
    found = model.translate(texts, n_best=args.n_best, **common.search_options(args))
    status("")
    for text, best in zip(texts, found, strict=True):
        for translation in best:
            if args.json:
                common.print_json(as_json(text, translation))
            else:
                score = f"{translation.score:.4f}\t" if args.scores else ""
                print(f"{score}{translation.text}", flush=True)


def as_json(source: str, translation: Translation) -> dict[str, object]:
    """What `--json` prints of one translation."""
    return {
        "source": source,
        "text": translation.text,
        "tokens": list(translation.tokens),
        "score": round(translation.score, 6),
        "seconds": {stage: round(seconds, 6) for stage, seconds in translation.seconds.items()},
    }


def answer_file(model: Model, args: argparse.Namespace, status: common.Status) -> None:
    """Standard input is a file: many lines at once, those of like length together, with a progress bar."""
    from tqdm import tqdm

    status.shown = False
    size = os.fstat(sys.stdin.fileno()).st_size
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False, delay=1) as bar:
        for block in blocks(lines(sys.stdin.buffer), 16 * args.batch_size):  # enough for batches of like length
            answer(model, block, args, status)
            bar.update(sum(len(text.encode()) + 1 for text in block))


def blocks(source: Iterator[str], size: int) -> Iterator[list[str]]:
    """The lines of `source`, `size` at a time; those before a line that cannot be read come before its error."""
    block: list[str] = []
    try:
        for line in source:
            block.append(line)
            if len(block) == size:
                yield block
                block = []
    except InputError:
        if block:
            yield block
        raise
    if block:
        yield block
