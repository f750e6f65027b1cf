"""Matrices in the panels that `packing` makes of them, as tensors: what is computed with them is as in `nn.matrix`.

A packed matrix is a tensor of words of 32 bits, which every GPU can read: parts of a word are shifted out of it, and
halves are made of their bits. Axes: P panels of 16 rows, N rows, K columns, G groups of 32 columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinygrad import Tensor, dtypes

from ..nn.matrix import PRODUCTS, ROWS, Matrix, as_float, float_product, grouped_product, grouped_rows
from ..nn.quant import GROUP
from .packing import INT4_NIBBLES, INT4_SCALES, PANEL, padded


class Panels(Matrix):
    """A matrix (N,K) that is stored by a row of QUANTIZATIONS, over its packed words."""

    def __init__(self, row: str, shape: tuple[int, int], words: Tensor):
        self.row, self.shape, self.parts = row, shape, {"": words}

    def unpacked(self) -> tuple[Tensor, ...]:
        return FORMS[self.row].unpack(self.parts[""], *self.shape)

    def product(self, x: Tensor) -> Tensor:
        return FORMS[self.row].product(x, *self.unpacked())

    def rows(self, index: Tensor) -> Tensor:
        return FORMS[self.row].rows(*(part[index] for part in self.unpacked()))


def fields(words: Tensor, bits: int) -> Tensor:
    """The numbers of so many bits in words (...), the lowest first: (..., 32 / bits)."""
    shifts = Tensor.arange(32 // bits, dtype=dtypes.uint32) * bits
    return (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)


def whole(panels: Tensor, n: int, k: int) -> Tensor:
    """What stands in panels (P,K,16) as a matrix (N,K)."""
    return panels.transpose(1, 2).reshape(-1, int(panels.shape[1]))[:n, :k]


def half(bits: Tensor) -> Tensor:
    """float16 by its bits as float32; what is too small for a normal number may not be computed as one."""
    size, sign = bits & 0x7FFF, (bits >= 0x8000).where(-1.0, 1.0)
    normal = (size << 13).bitcast(dtypes.float32) * 2.0**112
    return sign * (size < 0x400).where(size.cast(dtypes.float32) * 2.0**-24, normal)


def unpack_float(words: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
    return (whole(words.bitcast(dtypes.float32).reshape(-1, k, PANEL), n, k),)


def unpack_f16(words: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
    return (whole(half(fields(words, 16)).reshape(-1, k, PANEL), n, k),)


def unpack_bf16(words: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
    return (whole((fields(words, 16) << 16).bitcast(dtypes.float32).reshape(-1, k, PANEL), n, k),)


def unpack_int8(words: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
    """The values, which are stored with 128 added to them, and the scales behind all of them."""
    rows = padded(n, PANEL)
    four = fields(words[:-rows].reshape(-1, padded(k, 4) // 4, PANEL), 8)  # (P,K/4,16,4)
    values = whole(four.transpose(2, 3).reshape(rows // PANEL, -1, PANEL), n, k)
    return values.cast(dtypes.int32) - 128, words[-rows:][:n].bitcast(dtypes.float32)


def unpack_int4(words: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
    """The values less the zero points of their groups (N,G,32), and the scales (N,G): see `packing.pack_int4`."""
    groups, split = k // GROUP, k // GROUP * INT4_NIBBLES // 4
    panels = words.reshape(-1, groups * (INT4_NIBBLES + INT4_SCALES) // 4)
    eight = fields(panels[:, :split].reshape(-1, k // 8, PANEL), 4)  # (P,K/8,16,8): column i, then column i + 4
    eight = eight.reshape(*eight.shape[:3], 4, 2).transpose(3, 4)  # (P,K/8,16,2,4)
    columns = eight.flatten(3).transpose(2, 3).reshape(-1, k, PANEL)  # (P,K,16)
    rest = panels[:, split:].reshape(-1, groups, INT4_SCALES // 4)  # (P,G,12)
    scale = whole(half(fields(rest[..., :8], 16)).reshape(-1, groups, PANEL), n, groups)
    zero = whole(fields(rest[..., 8:], 8).reshape(-1, groups, PANEL), n, groups)
    values = whole(columns, n, k).reshape(n, groups, GROUP).cast(dtypes.int32)
    return values - zero.cast(dtypes.int32).unsqueeze(-1), scale


@dataclass(frozen=True)
class Form:
    """A row: what packed words (P,...) stand for, by N and K, and what is computed with that."""

    unpack: Callable[[Tensor, int, int], tuple[Tensor, ...]]
    product: Callable[..., Tensor]
    rows: Callable[..., Tensor]


# By a row of QUANTIZATIONS.
FORMS: dict[str, Form] = {
    "none": Form(unpack_float, float_product, as_float),
    "f16": Form(unpack_f16, float_product, as_float),
    "bf16": Form(unpack_bf16, float_product, as_float),
    "int8": Form(unpack_int8, PRODUCTS["int8"], ROWS["int8"]),
    "int8w": Form(unpack_int8, PRODUCTS["int8w"], ROWS["int8w"]),
    "int4": Form(unpack_int4, grouped_product, grouped_rows),
}
