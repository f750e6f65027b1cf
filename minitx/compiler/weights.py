"""Which weights a plan reads, and their bytes as its kernels read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import choice
from ..nn.quant import QUANTIZATIONS, nibbles
from . import packing
from .packing import PANEL, padded

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
        return LAYOUTS[self.kind].bytes(self)


def pack(weight: Weight, checkpoint: Checkpoint) -> Array:
    """The bytes of one weight, as a flat array of any dtype."""
    return LAYOUTS[weight.kind].pack(weight, checkpoint)


def pack_matrix(weight: Weight, checkpoint: Checkpoint) -> Array:
    names = [weight.name + end for end in QUANTIZATIONS[weight.scheme].parts]
    return PACKERS[weight.scheme](*(checkpoint.weights[name] for name in names))


def pack_vector(weight: Weight, checkpoint: Checkpoint) -> Array:
    vector = np.zeros(padded(weight.rows, PANEL), np.float32)
    if weight.name:
        vector[: weight.rows] = checkpoint.weights[weight.name]
    return vector


def pack_logit_bias(weight: Weight, checkpoint: Checkpoint) -> Array:
    vector = pack_vector(weight, checkpoint)
    vector[list(checkpoint.generation.suppress)] = -np.inf
    return vector


def pack_table(weight: Weight, checkpoint: Checkpoint) -> Array:
    table: Array = choice("positions", checkpoint.config.positions).table(weight.rows, weight.columns)
    return table.astype(np.float32).ravel()


def pack_plain(weight: Weight, checkpoint: Checkpoint) -> Array:
    return np.asarray(checkpoint.weights[weight.name], np.float32).ravel()


# How a matrix is packed, by a row of QUANTIZATIONS: a function of its parts.
PACKERS: dict[str, Callable[..., Array]] = {
    "none": packing.pack_float,
    "f16": packing.pack_float,
    "bf16": packing.pack_float,
    "int8": packing.pack_int8,
    "int8w": packing.pack_int8,
    "int4": lambda packed, scale, zero: packing.pack_int4(nibbles(packed), scale, zero),
}


@dataclass(frozen=True)
class Layout:
    """A row: how many bytes a weight of a kind takes, and which they are."""

    bytes: Callable[[Weight], int]
    pack: Callable[[Weight, Checkpoint], Array]


def vector_bytes(weight: Weight) -> int:
    return 4 * padded(weight.rows, PANEL)


def plain_bytes(weight: Weight) -> int:
    return 4 * weight.rows * weight.columns


LAYOUTS = {
    MATRIX: Layout(lambda weight: packing.packed_bytes(weight.scheme, weight.rows, weight.columns), pack_matrix),
    VECTOR: Layout(vector_bytes, pack_vector),
    LOGIT_BIAS: Layout(vector_bytes, pack_logit_bias),
    TABLE: Layout(plain_bytes, pack_table),
    PLAIN: Layout(plain_bytes, pack_plain),
}
