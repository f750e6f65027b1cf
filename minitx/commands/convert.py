"""`minitx convert`: any supported checkpoint to one file."""

from __future__ import annotations

import argparse

from . import common

EXAMPLES = """examples:
  minitx convert en-pt en-pt.safetensors
  minitx convert en-pt en-pt.int4.safetensors --quantize int4 --keep output=int8
  minitx convert path/to/marian-folder model.safetensors && minitx run model.safetensors "Hello."
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a name of `minitx models`, a .safetensors file, or a folder")
    parser.add_argument("out", metavar="OUT.safetensors", help="the file to write")
    common.quantize_argument(parser)
    parser.add_argument(
        "--keep", metavar="PART=Q", action="append", default=[], help="store a part otherwise, as in output=int8"
    )
    common.small_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..weights.names import open_model

    common.check_output(args.out)
    common.write(open_model(args.source, args.quantize, args.keep), args)
