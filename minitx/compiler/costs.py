"""What the calls of a plan move and compute, counted from their arguments: nothing is run."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from .plan import Call, Function, Plan


@dataclass(frozen=True)
class Cost:
    """Bytes and operations (multiplications and additions) of one call.

    `weights` are read whatever the number of rows; `row` and `operations` are for each row; `token` and
    `token_operations` for each row and each token that it attends to: of the source, or before it where `past`.
    """

    weights: int = 0
    row: int = 0
    token: int = 0
    operations: int = 0
    token_operations: int = 0
    past: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self)[:5], astuple(other)[:5], strict=True)))


def costs(plan: Plan, function: Function) -> list[Cost]:
    """The cost of each call of a function, in order."""
    rows_of = {offset: weight.rows for weight, offset in plan.weights}
    return [cost(call, function, rows_of) for call in function.calls]


def cost(call: Call, function: Function, rows_of: dict[int, int]) -> Cost:
    """The cost of a call; `rows_of` has the rows of the weight at each offset."""
    used = [function.buffers[i] for i in dict.fromkeys(value for kind, value in call.arguments if kind == "buffer")]
    first, second = (*sizes(call), 0, 0)[:2]
    weights = sum(b.bytes for b in used if b.role == "weight")
    row = sum(b.bytes for b in used if b.role != "weight" and b.extent == "rows")
    token = sum(b.bytes for b in used if b.extent in ("source", "cache"))
    if call.kernel.startswith("embed"):  # one row of each is looked up
        looked_up = sum(b.bytes // rows_of[b.offset] for b in used if b.role == "weight")
        return Cost(0, row + looked_up)
    if call.kernel.startswith("attend"):  # scores and weighted sums, over heads * head size
        return Cost(weights, row, token, 0, 4 * first * second, any(b.extent == "cache" for b in used))
    if call.kernel.startswith("choose"):  # nothing without a shortlist
        return Cost()
    product = call.kernel.startswith(("linear", "top_")) and second
    return Cost(weights, row, token, 2 * first * second if product else 0)


def sizes(call: Call) -> list[int]:
    """The numbers that a kernel is given: inputs and outputs of a matrix, heads and head size, channels."""
    return [value for kind, value in call.arguments if kind == "value" and isinstance(value, int)]
