"""`minitx plan`: what a model is compiled to, call by call, what each call costs here, and how two plans differ."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import common

if TYPE_CHECKING:
    from ..compiler.costs import Cost
    from ..compiler.plan import Function, Plan
    from ..engines.measure import Measured, Work

EXAMPLES = """examples:
  minitx plan en-pt
  minitx plan en-pt --quantize int8 --function step
  minitx plan en-pt --measure --threads 1        what each call costs on this machine
  minitx plan en-pt --measure --sum              the same, one row for all calls of one kernel and shape
  minitx plan en-pt --measure --batch 8 --source 40 --target 60
  minitx plan en-pt --json                       the whole plan, with --measure the nanoseconds of its calls, too
  minitx plan en-pt --out plan.json              the plan to a file
  minitx plan en-pt --compare plan.json          what differs from that file; status 0 if nothing does, else 1

Calls of one stage run beside each other; between stages all threads wait for one another. `weights` are the bytes that
a call reads whatever the number of rows, `row` those that it reads and writes for each row, of attention also for each
token that is looked at; `operations` are its multiplications and additions for each row.
With --measure the compiled model runs on random tokens. `us` are the microseconds of a call as the first thread sees
them, the median of many; `wait` is what it waits for the others between stages. GB/s are of weights, GOP/s of
operations.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    common.quantize_argument(parser)
    parser.add_argument("--function", choices=["encode", "step"], help="only this one (default: both)")
    parser.add_argument("--sum", action="store_true", help="one row for all calls of one kernel and shape")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--measure", action="store_true", help="run the compiled model and show what each call costs")
    action.add_argument("--out", metavar="FILE", help="write the plan to a file")
    action.add_argument("--compare", metavar="FILE", help="tell what differs from the plan in a file")
    of = "with --measure: "
    parser.add_argument("--batch", type=common.positive, default=1, metavar="N", help=f"{of}sentences at once (1)")
    parser.add_argument("--source", type=common.positive, default=24, metavar="N", help=f"{of}tokens of each (24)")
    parser.add_argument("--target", type=common.positive, default=24, metavar="N", help=f"{of}steps (24)")
    parser.add_argument("--threads", type=common.positive, metavar="N", help=f"{of}threads (default: all cores)")
    common.json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from ..compiler.plan import plan
    from ..weights.names import open_model

    status = common.Status()
    try:
        if args.measure:
            show(*measured(args, status), args)
            return 0
        status("planning the model ...")
        planned = plan(open_model(args.model, args.quantize).config)
    finally:
        status("")
    if args.out is not None:
        write(planned, args.out)
    elif args.compare is not None:
        return compare(planned, args)
    else:
        show(planned, None, {}, args)
    return 0


def write(planned: Plan, path: str) -> None:
    from ..paths import writing

    with writing(path) as file:
        file.write(f"{planned.to_json()}\n".encode())


def compare(planned: Plan, args: argparse.Namespace) -> int:
    """Prints what differs; 1 if anything does."""
    from ..compiler.compare import differences, read

    told = differences(read(args.compare), json.loads(planned.to_json()))
    if args.json:
        common.print_json({"equal": not told, "differences": told})
    else:
        print("\n".join(told or ["the plans are equal"]))
    return 1 if told else 0


def measured(args: argparse.Namespace, status: common.Status) -> tuple[Plan, Work, dict[str, Any]]:
    """The plan, and what its calls cost in the compiled model, which comes from the cache or is compiled."""
    from ..compiler.plan import plan
    from ..engines.measure import Work, measure
    from ..engines.ready import open_native

    checkpoint, engine = open_native(args.model, args.threads, args.quantize, (), status, status.note)
    planned = plan(checkpoint.config)
    status("")
    work = Work(args.batch, args.source, args.target, engine.library.threads, engine.library.instruction_set)
    calls = {f.name: len(f.calls) for f in planned.functions}
    return planned, work, measure(engine, work, calls, checkpoint.generation.beam + 1, status)


def show(planned: Plan, work: Work | None, found: dict[str, Measured], args: argparse.Namespace) -> None:
    """Prints a table for each function, or all as JSON."""
    if args.json:
        data = json.loads(planned.to_json())
        if work:
            functions = {name: dataclasses.asdict(measured) for name, measured in found.items()}
            data["measured"] = {**dataclasses.asdict(work), "functions": functions}
        print(json.dumps(data, indent=1) if work else planned.to_json())
        return
    if work:
        sizes = f"{work.batch} x {work.source} source tokens, {work.target} steps"
        print(f"{sizes}, threads: {work.threads}, {work.instruction_set}")
    for function in planned.functions:
        if args.function in (None, function.name):
            measured = found.get(function.name)
            runs = f", median of {measured.runs} runs" if measured else ""
            print(f"{function.name}: {len(function.calls)} calls, {function.arena} bytes of memory for each row{runs}")
            print(common.table(rows(lines(planned, function, work, measured), measured, args.sum)))


@dataclasses.dataclass(frozen=True)
class Line:
    """What a row of the table tells; `done` are the operations of all rows."""

    stage: str
    kernel: str
    shape: str
    of: str
    cost: Cost
    nanoseconds: float = 0.0
    done: float = 0.0
    calls: int = 1


def lines(planned: Plan, function: Function, work: Work | None, measured: Measured | None) -> list[Line]:
    """A line for each call."""
    from ..compiler.costs import costs, sizes

    found = []
    for i, (call, cost) in enumerate(zip(function.calls, costs(planned, function), strict=True)):
        used = [function.buffers[n] for kind, n in call.arguments if kind == "buffer"]
        of = next((b.name for b in used if b.role == "weight"), "")
        line = Line(str(call.stage), call.kernel, " x ".join(map(str, sizes(call)[:2])), of, cost)
        if work and measured:
            tokens = (work.target + 1) / 2 if cost.past else work.source
            done = measured.rows * (cost.operations + tokens * cost.token_operations)
            line = dataclasses.replace(line, nanoseconds=measured.calls[i], done=done)
        found.append(line)
    return found


def merged(lines: list[Line], kernel: str, shape: str = "") -> Line:
    """Their sum."""
    cost = lines[0].cost
    for line in lines[1:]:
        cost += line.cost
    nanoseconds, done, calls = (sum(getattr(line, name) for line in lines) for name in ("nanoseconds", "done", "calls"))
    return Line("", kernel, shape, "", cost, nanoseconds, done, calls)


def rows(lines: list[Line], measured: Measured | None, summed: bool) -> list[dict[str, str]]:
    """A row for each line (with `summed` for all of one kernel and shape), one for the wait, one for their sum."""
    total = merged(lines, "total")
    if summed:
        kinds = dict.fromkeys((line.kernel, line.shape) for line in lines)
        lines = [merged([line for line in lines if (line.kernel, line.shape) == kind], *kind) for kind in kinds]
        lines.sort(key=lambda line: -line.nanoseconds)
    if measured:
        lines = [*lines, Line("", "wait", "", "", type(total.cost)(), measured.wait, calls=0)]
        total = dataclasses.replace(total, nanoseconds=total.nanoseconds + measured.wait)
    return [cells(line, total.nanoseconds, summed) for line in [*lines, total]]


def cells(line: Line, nanoseconds: float, summed: bool) -> dict[str, str]:
    """A row of the table; `nanoseconds` are those of all rows, 0 if they were not measured."""
    cost = line.cost
    row = {"calls": str(line.calls or "")} if summed else {"stage": line.stage}
    row |= {
        "kernel": line.kernel,
        "shape": line.shape,
        "weights": common.size(cost.weights) if cost.weights else "",
        "row": added(cost.row, cost.token, common.size),
        "operations": added(cost.operations, cost.token_operations, "{:,}".format),
    }
    if nanoseconds:
        row |= {
            "us": f"{line.nanoseconds / 1e3:8.1f}",
            "share": f"{line.nanoseconds / nanoseconds:6.1%}",
            "GB/s": rate(cost.weights, line.nanoseconds),
            "GOP/s": rate(line.done, line.nanoseconds),
        }
    return row if summed else row | {"of": line.of}


def added(fixed: int, token: int, shown: Callable[[int], str]) -> str:
    """What is for each row and what for each token that it attends to, if there is any."""
    return " + ".join([shown(fixed)] * bool(fixed) + [f"{shown(token)}/token"] * bool(token))


def rate(amount: float, nanoseconds: float) -> str:
    return f"{amount / nanoseconds:6.1f}" if amount and nanoseconds else ""
