"""The weights that a `Config` demands, by name and shape, and the parts of a model that they belong to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..nn.ops import DTYPES
from ..nn.transformer import Transformer

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config

Shapes = dict[str, tuple[int, ...]]


def expected(config: Config) -> Shapes:
    """Name and shape of every weight of a model of this architecture, from the model itself, without memory for it."""
    plain = dataclasses.replace(config, quantization="none", keep=())
    return {name: shape for name, (shape, _) in stored(plain).items()}


@functools.lru_cache(maxsize=8)  # an import, a check and a save ask for the same
def stored(config: Config) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name, shape and numpy type of every tensor that is stored of it, quantized as the config says."""
    weights = Transformer(config, "NULL", seed=None).parameters()
    numpy_types = {dtype: name for name, dtype in DTYPES.items()}
    return {name: (tuple(int(n) for n in w.shape), numpy_types[w.dtype]) for name, w in weights.items()}


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
