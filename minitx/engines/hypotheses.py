"""What a search finds and how it is scored, for the searches in Python and for those of an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

NAN = "the model gives NaN: its weights are damaged or overflow; download or convert it again"

# What the log-probability of a hypothesis of n tokens, the end included, is divided by. Neither ever falls as n
# grows, for alpha >= 0: the early stop of `beam_search` rests on that. runtime/search.h has them in the same order.
LENGTH_PENALTIES: dict[str, Callable[[int, float], float]] = {
    "power": lambda n, alpha: float(n) ** alpha,
    "wu": lambda n, alpha: ((5.0 + n) / 6.0) ** alpha,  # Wu et al. 2016, equation 14
}


@dataclass(frozen=True)
class Hypothesis:
    """Target tokens, without the end, and their score: log-probability over the length penalty."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Limits:
    """How long a hypothesis may get: `minimum` tokens before the end may come, at most `maximum` tokens."""

    minimum: int
    maximum: int
