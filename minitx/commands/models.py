"""`minitx models`: the names that MODEL may be."""

from __future__ import annotations

import argparse
import dataclasses

from . import common

EXAMPLES = """examples:
  minitx models
  minitx models --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..weights.names import models

    rows = [dataclasses.asdict(row) for row in models()]
    if args.json:
        common.print_json(rows)
    else:
        print(common.table([{**row, "bytes": common.size(row["bytes"])} for row in rows]))
