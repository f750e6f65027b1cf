"""Which weights a plan reads, and their bytes as its kernels read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import packing
from .packing import packed_bytes, padded

if TYPE_CHECKING:
    from ..weights.checkpoint import Checkpoint

Array = np.ndarray[Any, Any]
MATRIX, VECTOR, LOGIT_BIAS, TABLE, PLAIN = "matrix", "vector", "logit bias", "table", "plain"


@dataclass(frozen=True)
class Weight:
    """A weight of the checkpoint in the layout that a kernel reads.

    | kind       | bytes                                                                                     |
    |------------|-------------------------------------------------------------------------------------------|
    | matrix     | (rows, columns) packed in panels of 16 rows, as `packing` says for its scheme             |
    | vector     | float32, padded with zeros to a multiple of 16                                            |
    | logit bias | the same, with minus infinity for the tokens that are never proposed                      |
    | table      | float32 (rows, columns), the positions of the config, which are in no checkpoint          |
    | plain      | float32 as it is, for what tinygrad's own kernels read                                    |
    """

    name: str
    kind: str
    scheme: str  # a row of QUANTIZATIONS
    rows: int
    columns: int = 1

    @property
    def bytes(self) -> int:
        if self.kind == MATRIX:
            return packed_bytes(self.scheme, self.rows, self.columns)
        size = self.rows * self.columns
        return 4 * (size if self.kind in (TABLE, PLAIN) else padded(size, 16))


def pack(weight: Weight, checkpoint: Checkpoint) -> Array:
    """The bytes of one weight, as a flat array of any dtype."""
    stored, config = checkpoint.weights, checkpoint.config
    if weight.kind == MATRIX:
        return pack_matrix(weight, stored)
    if weight.kind == TABLE:
        from ..config import choice

        table: Array = choice("positions", config.positions).table(weight.rows, weight.columns)
        return table.astype(np.float32).ravel()
    if weight.kind == PLAIN:
        return np.asarray(stored[weight.name], np.float32).ravel()
    vector = np.zeros(padded(weight.rows, 16), np.float32)
    if weight.name:
        vector[: weight.rows] = stored[weight.name]
    if weight.kind == LOGIT_BIAS:
        vector[list(checkpoint.generation.suppress)] = -np.inf
    return vector


def pack_matrix(weight: Weight, stored: Mapping[str, Array]) -> Array:
    """A matrix by the scheme it is stored in."""
    parts = [stored[weight.name + end] for end in ("", ".scale", ".zero") if weight.name + end in stored]
    if weight.scheme in ("int8", "int8w"):
        return packing.pack_int8(*parts)
    if weight.scheme == "int4":
        nibbles = np.stack([parts[0] & 15, parts[0] >> 4], -1).reshape(weight.rows, weight.columns)
        return packing.pack_int4(nibbles, *parts[1:])
    return packing.pack_float(*parts)
