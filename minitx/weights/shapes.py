"""The weights that a `Config` demands, by name and shape, and the parts of a model that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..nn.transformer import Transformer

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config

Shapes = dict[str, tuple[int, ...]]


def expected(config: Config) -> Shapes:
    """Name and shape of every weight of a model of this architecture, from the model itself, without memory for it."""
    weights = Transformer(config, "NULL", seed=None).parameters()
    return {name: tuple(int(n) for n in weight.shape) for name, weight in weights.items()}


# What a name begins with, and the part of the model that it belongs to.
PARTS = {
    "source.": "source embedding",
    "target.": "target embedding",
    "output.": "output",
    "encoder.": "encoder",
    "decoder.": "decoder",
}


def parts(weights: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, int]:
    """Bytes of each part that has weights; a matrix that several parts share counts where it is stored."""
    sizes: dict[str, int] = {}
    for prefix, part in PARTS.items():
        if own := sum(w.nbytes for name, w in weights.items() if name.startswith(prefix)):
            sizes[part] = own
    return sizes
