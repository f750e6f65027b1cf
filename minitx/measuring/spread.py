"""Several measurements of the same: their middle, how far they lie apart, and how people read them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Below the first lies a quarter of the values, below the second a half, the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, middle, high


def spread(values: Sequence[float]) -> float:
    """Half of the range in which the middle half of the values lies, over the median."""
    low, middle, high = quartiles(values)
    return (high - low) / 2 / middle


def duration(seconds: float) -> str:
    """Seconds as people read them, in three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-6:.0f} \u00b5s"
