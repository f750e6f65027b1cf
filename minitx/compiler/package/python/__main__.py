"""The command MODEL_NAME: texts as arguments, or lines of standard input, to their translations, a line each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import Error, InputError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="MODEL_NAME",
        description="MODEL_TITLE. Each TEXT, or without any each line of standard input, becomes a line of output.",
    )
    parser.add_argument("--beam", type=_number, metavar="N", help="hypotheses kept at a time (default: the model's)")
    parser.add_argument("--max-length", type=_number, metavar="N", help="longest translation of a sentence, in tokens")
    parser.add_argument("--threads", type=_number, metavar="N", help="default: all cores")
    parser.add_argument("--version", action="version", version="MODEL_NAME MODEL_VERSION")
    parser.add_argument("text", nargs="*", metavar="TEXT")
    args, status = parser.parse_args(arguments), 0
    try:
        with load(threads=args.threads) as model:
            for text in map(os.fsencode, args.text) if args.text else sys.stdin.buffer:
                try:
                    line = model(_line(text), beam=args.beam, max_length=args.max_length)
                except InputError as e:
                    line, status = "", _failed(e)
                sys.stdout.buffer.write(f"{line}\n".encode())
                sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return 130
    except Error as e:
        return _failed(e)
    return status


def _number(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return int(text)


def _line(data: bytes) -> str:
    """A line without its end; what of it is not UTF-8 is read as U+FFFD."""
    return data.decode(errors="replace").removesuffix("\n").removesuffix("\r")


def _failed(error: Error) -> int:
    print(f"MODEL_NAME: error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
