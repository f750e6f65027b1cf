"""`minitx convert`: any supported checkpoint to one file."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import FileError
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


def run(args: argparse.Namespace) -> None:
    from ..weights.checkpoint import save
    from ..weights.names import open_model
    from ..weights.quant import quantized

    if not args.out.endswith(".safetensors"):
        raise FileError(f"{args.out}: the name must end in .safetensors")
    checkpoint = open_model(args.source)
    if args.quantize or args.keep:
        checkpoint = quantized(checkpoint, args.quantize or checkpoint.config.quantization, args.keep)
    save(checkpoint, args.out)
    print(f"{args.out}: {common.size(os.path.getsize(args.out))}", file=sys.stderr)
