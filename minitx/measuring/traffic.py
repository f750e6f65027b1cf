"""The bytes that one step of greedy search has to read, counted from the model's plan."""

from __future__ import annotations

import numpy as np

from ..compiler.costs import costs
from ..compiler.plan import plan
from ..errors import Error
from ..weights.checkpoint import Checkpoint


def step_bytes(checkpoint: Checkpoint, source: list[int], target: int, shortlist: bool) -> int | None:
    """Bytes of weights, keys and values for one sentence, in the middle of `target` steps; None without a plan.

    With a shortlist only what it allows the source counts of the output's matrix.
    """
    try:
        planned = plan(checkpoint.config)
    except Error:
        return None
    step = next(f for f in planned.functions if f.name == "step")
    share = 1.0
    if shortlist and checkpoint.allowed:
        share = len(checkpoint.allowed(np.array(source, np.int32))) / checkpoint.config.target_vocab
    total = 0.0
    for call, cost in zip(step.calls, costs(planned, step), strict=True):
        tokens = 1 + (target + 1) / 2 if cost.past else len(source)
        total += cost.weights * (share if call.kernel.startswith("top_") else 1.0) + cost.token * tokens
    return int(total)
