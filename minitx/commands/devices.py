"""`minitx devices`: which backends work here."""

from __future__ import annotations

import argparse

from . import common

EXAMPLES = """examples:
  minitx devices
  minitx devices --json

Each backend multiplies two small matrices, takes a softmax and looks up rows, in a process of its own with a time
limit, and is compared with numpy: some return wrong results without an error.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..engines.devices import report
    from ..engines.ready import standing

    status = common.Status()
    status("testing each backend in a process of its own ...")
    rows = [dict(zip(("device", "status", "note"), row, strict=True)) for row in report()]
    status("")
    engine, reason = standing()
    rows.append({"device": "engine on CPU", "status": engine, "note": reason})
    if args.json:
        common.print_json(rows)
    else:
        print(common.table(rows))
