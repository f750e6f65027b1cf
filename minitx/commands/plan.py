"""`minitx plan`: what a model is compiled to, call by call."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import common

if TYPE_CHECKING:
    from ..compiler.plan import Function

EXAMPLES = """examples:
  minitx plan en-pt
  minitx plan en-pt --quantize int8 --function step
  minitx plan en-pt --json > plan.json         the whole plan

Calls of one stage run beside each other; between stages all threads wait for one another. `weights` are the bytes that
a call reads whatever the number of rows, `operations` its multiplications and additions for each row.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    common.quantize_argument(parser)
    parser.add_argument("--function", choices=["encode", "step"], help="only this one (default: both)")
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..compiler.plan import plan
    from ..weights.names import open_model

    status = common.Status()
    status("planning the model ...")
    planned = plan(open_model(args.model, args.quantize).config)
    status("")
    if args.json:
        print(planned.to_json())
        return
    for function in planned.functions:
        if args.function in (None, function.name):
            print(f"{function.name}: {len(function.calls)} calls, {function.arena} bytes of memory for each row")
            print(common.table(rows(function)))


def rows(function: Function) -> list[dict[str, Any]]:
    """A row for each call, and one for their sum."""
    found = []
    total = {"weights": 0, "operations": 0}
    for call in function.calls:
        read = [function.buffers[i] for kind, i in call.arguments if kind == "buffer"]
        weights = [b for b in read if b.role == "weight"]
        numbers = [value for kind, value in call.arguments if kind == "value"]
        product = call.kernel.startswith(("linear", "top_")) and len(numbers) > 1
        size = sum(b.bytes for b in weights if not call.kernel.startswith("embed"))
        operations = 2 * numbers[0] * numbers[1] if product else 0
        total = {"weights": total["weights"] + size, "operations": total["operations"] + operations}
        found.append(
            {
                "stage": call.stage,
                "kernel": call.kernel,
                "shape": " x ".join(map(str, numbers[:2])),
                "weights": common.size(size) if size else "",
                "operations": f"{operations:,}" if operations else "",
                "of": weights[0].name if weights else "",
            }
        )
    sums = {"weights": common.size(total["weights"]), "operations": f"{total['operations']:,}"}
    return [*found, {"stage": "", "kernel": "total", "shape": "", **sums, "of": ""}]
