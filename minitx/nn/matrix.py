"""A matrix as it is stored: float, halves, or integers with scales. The plain tensor form of each, for every device.

| scheme | stored                                                        | a row of activations                       |
|--------|---------------------------------------------------------------|--------------------------------------------|
| none   | float32                                                       | float32                                    |
| f16    | IEEE half precision                                           | float32                                    |
| bf16   | the upper half of a float32                                   | float32                                    |
| int8   | integers of -127 to 127, a scale for each output              | int8 and a scale, made as the row comes    |
| int8w  | the same                                                      | float32                                    |
| int4   | 0 to 15, a half scale and a zero point for 32 inputs at a time | int8 and a scale                           |

A quantized product is summed in integers, exactly, so that every engine and every exported program gives the same.
Axes: N outputs, K inputs, G groups of 32 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinygrad import Tensor, dtypes

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config import Config

GROUP = 32
Shape = tuple[int, ...]
# What a scheme stores under a matrix's own name and under names with an ending: its type and its shape.
PARTS: dict[str, dict[str, tuple[Any, Callable[[int, int], Shape]]]] = {
    "none": {"": (dtypes.float32, lambda n, k: (n, k))},
    "f16": {"": (dtypes.float16, lambda n, k: (n, k))},
    "bf16": {"": (dtypes.uint16, lambda n, k: (n, k))},
    "int8": {"": (dtypes.int8, lambda n, k: (n, k)), ".scale": (dtypes.float32, lambda n, k: (n,))},
    "int8w": {"": (dtypes.int8, lambda n, k: (n, k)), ".scale": (dtypes.float32, lambda n, k: (n,))},
    "int4": {
        "": (dtypes.uint8, lambda n, k: (n, k // 2)),  # the even column in the low nibble
        ".scale": (dtypes.float16, lambda n, k: (n, k // GROUP)),
        ".zero": (dtypes.uint8, lambda n, k: (n, k // GROUP)),
    },
}
# Where a scheme cannot be had for a matrix of so many inputs, the one that is taken in its place.
FALLBACK: dict[str, tuple[Callable[[int], bool], str]] = {"int4": (lambda k: k % GROUP == 0, "int8")}


def scheme(name: str, shape: Shape, config: Config) -> str:
    """The row of PARTS by which the matrix `name` (N,K) of a model is stored."""
    chosen = config.quantization
    for rule in config.keep:
        prefix, _, row = rule.partition("=")
        if name.startswith(prefix):
            chosen = row
            break
    fits, other = FALLBACK.get(chosen, (lambda k: True, chosen))
    return chosen if fits(shape[1]) else other


def check_rule(rule: str) -> None:
    """Raises `ConfigError` for a rule that is not PREFIX=ROW, the beginning of names and a row of PARTS."""
    prefix, _, row = rule.partition("=")
    if not prefix or row not in PARTS:
        raise ConfigError(f"keep {rule!r:.60} must be PREFIX=ROW, as in source=int8; ROW is one of {', '.join(PARTS)}")


def as_float(weight: Tensor) -> Tensor:
    """Halves of either kind, or integers, as float32: it fuses into what reads it."""
    if weight.dtype == dtypes.uint16:
        return (weight.cast(dtypes.uint32) * 65536).bitcast(dtypes.float32)
    return weight.cast(dtypes.float32)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., K) as int8 values (..., K) in int32 and a scale for each row (..., 1), rounded half to even."""
    largest = x.abs().max(-1, keepdim=True)  # (..., 1)
    inverse = (largest > 0).where(127.0 / largest, 0.0)
    return (x * inverse).round().clamp(-127, 127).cast(dtypes.int32).contiguous(), largest / 127


class Matrix:
    """A weight (N,K) stored by a row of PARTS other than none: its parts under their endings."""

    def __init__(self, row: str, shape: Shape, device: str):
        self.row, self.shape = row, shape
        self.parts = {end: Tensor.empty(*s(*shape), dtype=d, device=device) for end, (d, s) in PARTS[row].items()}

    def product(self, x: Tensor) -> Tensor:
        """x (..., K) times the matrix transposed: (..., N)."""
        return PRODUCTS[self.row](self, x)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the matrix as float32: index (...) to (..., K)."""
        weight = self.parts[""][index]
        if self.row == "int4":
            values = self.nibbles(weight) - self.parts[".zero"][index].cast(dtypes.int32).unsqueeze(-1)  # (..., G, 32)
            return (values * self.parts[".scale"][index].cast(dtypes.float32).unsqueeze(-1)).flatten(-2)
        scaled = as_float(weight)
        return scaled * self.parts[".scale"][index].unsqueeze(-1) if ".scale" in self.parts else scaled

    def nibbles(self, packed: Tensor) -> Tensor:
        """(..., K/2) bytes to (..., G, 32) values of 0 to 15."""
        both = packed.cast(dtypes.int32)
        pairs = (both % 16).stack(both // 16, dim=-1)  # (..., K/2, 2)
        return pairs.reshape(*packed.shape[:-1], -1, GROUP)


def float_product(matrix: Matrix, x: Tensor) -> Tensor:
    y = x @ as_float(matrix.parts[""]).transpose()
    return y * matrix.parts[".scale"] if ".scale" in matrix.parts else y


def int8_product(matrix: Matrix, x: Tensor) -> Tensor:
    q, scale = quantize(x)
    sums = q @ matrix.parts[""].cast(dtypes.int32).transpose()  # (..., N), exact
    return sums.cast(dtypes.float32) * (matrix.parts[".scale"] * scale)


def int4_product(matrix: Matrix, x: Tensor) -> Tensor:
    q, scale = quantize(x)
    q = q.reshape(*x.shape[:-1], 1, -1, GROUP)  # (..., 1, G, 32)
    weight = self_values(matrix)  # (N, G, 32)
    sums = (q * weight).sum(-1).cast(dtypes.float32)  # (..., N, G), exact
    return (sums * matrix.parts[".scale"].cast(dtypes.float32)).sum(-1) * scale


def self_values(matrix: Matrix) -> Tensor:
    """The integers of an int4 matrix, their zero points taken off: (N, G, 32)."""
    return matrix.nibbles(matrix.parts[""]) - matrix.parts[".zero"].cast(dtypes.int32).unsqueeze(-1)


PRODUCTS: dict[str, Callable[[Matrix, Tensor], Tensor]] = {
    "f16": float_product,
    "bf16": float_product,
    "int8": int8_product,
    "int8w": float_product,
    "int4": int4_product,
}
