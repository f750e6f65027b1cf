"""A matrix as it is stored: floats, halves, or integers with scales. The plain tensor form of each, for every device.

| scheme    | an input row x                | its product with row n of the matrix                                   |
|-----------|-------------------------------|------------------------------------------------------------------------|
| f16, bf16 | as it is                      | in float32                                                             |
| int8w     | as it is                      | sum(x * values) * scale[n]                                             |
| int8      | int8 values and a scale for x | sum(q * values) * (scale[n] * scale of x)                              |
| int4      | the same                      | sum over g of sum(q * (values - zero)) * scale[n,g], * scale of x      |

A sum of integers is exact, so that every engine and every exported program gives the same one.
Axes: N outputs, K inputs, G groups of 32 inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tinygrad import Tensor, dtypes

from .quant import GROUP, QUANTIZATIONS


class Matrix:
    """A weight (N,K) stored by a row of QUANTIZATIONS other than none: its parts by their endings."""

    def __init__(self, row: str, shape: tuple[int, int], device: str):
        self.row, self.shape = row, shape
        self.parts = {
            end: Tensor.empty(*part_shape(*shape), dtype=getattr(dtypes, dtype), device=device)
            for end, (dtype, part_shape) in QUANTIZATIONS[row].parts.items()
        }

    def product(self, x: Tensor) -> Tensor:
        """x (..., K) times the matrix transposed: (..., N)."""
        return PRODUCTS[self.row](x, *self.parts.values())

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the matrix as float32: index (...) to (..., K)."""
        return ROWS[self.row](*(part[index] for part in self.parts.values()))


def stored_as(row: str, shape: tuple[int, int], device: str) -> Matrix | None:
    """A matrix of a row of QUANTIZATIONS; None for float32, which is a plain tensor."""
    return None if row == "none" else Matrix(row, shape, device)


def as_float(weight: Tensor) -> Tensor:
    """Halves, or bfloat16 by its bits, as float32: fuses into what reads it."""
    if weight.dtype == dtypes.uint16:
        return (weight.cast(dtypes.uint32) * 65536).bitcast(dtypes.float32)
    return weight.cast(dtypes.float32)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., K) as values of -127 to 127 (..., K) in int32 and a scale for each row (..., 1), rounded half to even."""
    finite = x.abs().sum(-1, keepdim=True) < math.inf  # a maximum may not show what is NaN
    largest = finite.where(x.abs().max(-1, keepdim=True), math.nan).contiguous()  # (..., 1)
    inverse = (largest > 0).where(127.0 / largest, 0.0)
    return (x * inverse).round().clamp(-127, 127).cast(dtypes.int32).contiguous(), largest / 127


def centred(packed: Tensor, zero: Tensor) -> Tensor:
    """Values of 0 to 15, two in a byte of (..., K/2), less the zero points (..., G) of their groups: (..., G, 32)."""
    both = packed.cast(dtypes.int32)
    values = (both % 16).stack(both // 16, dim=-1).reshape(*packed.shape[:-1], -1, GROUP)  # (..., G, 32)
    return values - zero.cast(dtypes.int32).unsqueeze(-1)


def float_product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ as_float(weight).transpose()


def int8w_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x @ as_float(weight).transpose() * scale


def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    q, own = quantize(x)
    sums = q @ weight.cast(dtypes.int32).transpose()  # (..., N)
    return sums.cast(dtypes.float32) * (scale * own)


def int4_product(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return grouped_product(x, centred(packed, zero), as_float(scale))


def grouped_product(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """x (..., K) times integers (N, G, 32) with a scale for each group (N, G)."""
    q, own = quantize(x)
    groups = q.reshape(*x.shape[:-1], 1, -1, GROUP)  # (..., 1, G, 32)
    sums = (groups * values).sum(-1).cast(dtypes.float32)  # (..., N, G)
    return (sums * scale).sum(-1) * own


def int8_rows(weight: Tensor, scale: Tensor) -> Tensor:
    return as_float(weight) * scale.unsqueeze(-1)


def int4_rows(packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return grouped_rows(centred(packed, zero), as_float(scale))


def grouped_rows(values: Tensor, scale: Tensor) -> Tensor:
    return (values * scale.unsqueeze(-1)).flatten(-2)


PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "f16": float_product,
    "bf16": float_product,
    "int8": int8_product,
    "int8w": int8w_product,
    "int4": int4_product,
}
ROWS: dict[str, Callable[..., Tensor]] = {
    "f16": as_float,
    "bf16": as_float,
    "int8": int8_rows,
    "int8w": int8_rows,
    "int4": int4_rows,
}
