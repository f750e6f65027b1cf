"""How the matrices of a model are stored, in memory and in the file: one table, and which row of it a matrix has.

A matrix (N,K) keeps its name; what belongs to it stands beside it, under that name and an ending. Vectors (biases,
norms) are float32 in every row. `matrix` computes with what is stored. Axes: N outputs, K inputs, G groups of 32
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import choice, pick
from ..errors import ConfigError, several

if TYPE_CHECKING:
    from ..config import Config

Array = np.ndarray[Any, Any]
Parts = dict[str, Array]  # by ending, "" for the matrix itself
Shape = tuple[int, ...]
GROUP = 32
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6)  # of either end of the range of a group of int4, that are tried


@dataclass(frozen=True)
class Hints:
    """What is known of a matrix beside its values."""

    step: float | None = None  # what every weight is a whole multiple of, because it came as int8
    moment: Array | None = None  # (K,K), the mean of x x^T over the inputs x that it is multiplied by


def from_f16(parts: Mapping[str, Array]) -> Array:
    return parts[""].astype(np.float32)


def to_bf16(w: Array) -> Array:
    """float32 to the upper half of each, rounded half to even, as uint16."""
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(parts: Mapping[str, Array]) -> Array:
    return (parts[""].astype(np.uint32) << 16).view(np.float32)


def to_int8(w: Array, hints: Hints) -> Parts:
    """Each row by its largest value; or all by the step of which they are multiples, which gives those back."""
    if hints.step and (values := np.rint(w / np.float32(hints.step))).size and np.abs(values).max() <= 127:
        return {"": values.astype(np.int8), ".scale": np.full(len(w), hints.step, np.float32)}
    scale = np.abs(w).max(1, initial=0).astype(np.float32) / np.float32(127)  # (N,)
    divisor = np.where(scale > 0, scale, 1)[:, None]
    return {"": np.rint(w / divisor).clip(-127, 127).astype(np.int8), ".scale": scale}


def from_int8(parts: Mapping[str, Array]) -> Array:
    return parts[""].astype(np.float32) * parts[".scale"][:, None]


def to_int4(w: Array, hints: Hints) -> Parts:
    """GPTQ (Frantar et al. 2022, algorithm 1): what rounding loses in a column, those after it make up for.

    The columns come in their order, in blocks of one group each. Without the moment of the inputs there is nothing to
    make up for, and only the range of each group is searched.
    """
    n, k = w.shape
    left, factor = np.array(w, np.float32), inverse_factor(hints.moment, k)
    values = np.empty((n, k), np.uint8)
    scales, zeros = np.empty((n, k // GROUP), np.float16), np.empty((n, k // GROUP), np.uint8)
    for group in range(k // GROUP):
        columns = slice(group * GROUP, (group + 1) * GROUP)
        block, weight = left[:, columns].copy(), 1 if hints.moment is None else hints.moment.diagonal()[columns]
        scale, zero = best_range(block, weight)
        scales[:, group], zeros[:, group] = scale[:, 0], zero[:, 0]
        divisor, losses, corner = np.where(scale > 0, scale, 1), np.empty_like(block), factor[columns, columns]
        for i in range(GROUP):
            column = block[:, i : i + 1]
            value = (np.rint(column / divisor) + zero).clip(0, 15)  # (N,1)
            values[:, columns.start + i] = value[:, 0]
            loss = (column - (value - zero) * scale) / corner[i, i]
            losses[:, i] = loss[:, 0]
            if hints.moment is not None:
                block[:, i + 1 :] -= loss * corner[i, i + 1 :]
        if hints.moment is not None:
            left[:, columns.stop :] -= losses @ factor[columns, columns.stop :]
    return {"": values[:, ::2] | values[:, 1::2] << 4, ".scale": scales, ".zero": zeros}


def inverse_factor(moment: Array | None, size: int, damping: float = 0.1) -> Array:
    """U with U^T U = the inverse of the moment, damped on its diagonal: the steps of algorithm 1. Identity for None."""
    if moment is None:
        return np.eye(size, dtype=np.float32)
    damped = moment.astype(np.float64)
    damped[np.diag_indices(size)] += damping * damped.diagonal().mean() or 1.0
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def best_range(group: Array, weight: Array | float) -> tuple[Array, Array]:
    """Scale and zero point of groups (N,32), each (N,1) float32, by the smallest weighted sum of squared errors.

    The zero point is one of the 16 values, so that 0 stays 0.
    """
    low, high = group.min(1, initial=0, keepdims=True), group.max(1, initial=0, keepdims=True)
    best = np.full_like(low, np.inf), np.zeros_like(low)  # where no scale fits into a half
    least = np.full(low.shape, np.inf, np.float32)
    for lower in SHRINKS:
        for upper in SHRINKS:
            scale = ((high * upper - low * lower) / 15).astype(np.float16).astype(np.float32)  # as it is stored
            divisor = np.where(scale > 0, scale, 1)
            zero = np.rint(-low * lower / divisor).clip(0, 15)
            error = ((np.rint(group / divisor) + zero).clip(0, 15) - zero) * scale - group
            total = (error * error * weight).sum(1, keepdims=True)
            better = total < least
            best = np.where(better, scale, best[0]), np.where(better, zero, best[1])
            least = np.where(better, total, least)
    return best


def nibbles(packed: Array) -> Array:
    """Bytes (N,K/2) of two values of 0 to 15 each, the even column in the low half, as (N,K)."""
    return np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)


def from_int4(parts: Mapping[str, Array]) -> Array:
    values = nibbles(parts[""]).reshape(len(parts[""]), -1, GROUP).astype(np.float32)  # (N,G,32)
    scale, zero = (parts[end].astype(np.float32)[..., None] for end in (".scale", ".zero"))  # (N,G,1)
    return ((values - zero) * scale).reshape(len(values), -1)


@dataclass(frozen=True)
class Quantization:
    """A row: what is stored of a matrix (N,K), by ending, with its numpy type and shape, and the way there and back.

    A matrix whose K is no multiple of `multiple` is stored by the row `otherwise`.
    """

    parts: Mapping[str, tuple[str, Callable[[int, int], Shape]]]
    quantize: Callable[[Array, Hints], Parts]
    dequantize: Callable[[Mapping[str, Array]], Array]
    multiple: int = 1
    otherwise: str = ""


WHOLE, ROWS = (lambda n, k: (n, k)), (lambda n, k: (n,))
INT8 = {"": ("int8", WHOLE), ".scale": ("float32", ROWS)}  # -127 to 127
INT4 = {
    "": ("uint8", lambda n, k: (n, k // 2)),  # 0 to 15, the even column in the low half
    ".scale": ("float16", lambda n, k: (n, k // GROUP)),
    ".zero": ("uint8", lambda n, k: (n, k // GROUP)),  # the value that stands for 0
}
QUANTIZATIONS: dict[str, Quantization] = {
    "none": Quantization({"": ("float32", WHOLE)}, lambda w, hints: {"": w}, lambda parts: parts[""]),
    "f16": Quantization({"": ("float16", WHOLE)}, lambda w, hints: {"": w.astype(np.float16)}, from_f16),
    "bf16": Quantization({"": ("uint16", WHOLE)}, lambda w, hints: {"": to_bf16(w)}, from_bf16),
    "int8": Quantization(INT8, to_int8, from_int8),
    "int8w": Quantization(INT8, to_int8, from_int8),  # the same, multiplied by activations in float32
    "int4": Quantization(INT4, to_int4, from_int4, GROUP, "int8"),
}
# What the first word of a rule may be, and the beginnings of the names that it stands for.
PLACES: dict[str, Callable[[Config], tuple[str, ...]]] = {
    "embedding": lambda config: ("source", "target"),
    "output": lambda config: (output_place(config),),
    "source": lambda config: ("source",),
    "target": lambda config: ("target",),
    "encoder": lambda config: ("encoder",),
    "decoder": lambda config: ("decoder",),
}


def output_place(config: Config) -> str:
    """Where the matrix that gives the logits is: it may be an embedding as well."""
    tying = choice("tying", config.tying)
    return "output" if not tying.output_is_target else "source" if tying.target_is_source else "target"


def check_rule(rule: str) -> None:
    """Raises `ConfigError` for a rule of `Config.keep` that is not PART=ROW."""
    part, _, row = rule.partition("=")
    pick(PLACES, part.split(".")[0], f"keep {rule!r:.60}: part")
    pick(QUANTIZATIONS, row, f"keep {rule!r:.60}: quantization")


def covers(rule: str, name: str, config: Config) -> bool:
    """Whether a rule of `config.keep` is about the weight `name`."""
    place, *rest = rule.partition("=")[0].split(".")
    prefixes = [".".join((p, *rest)) for p in PLACES[place](config)]
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def scheme(name: str, shape: Shape, config: Config) -> str:
    """The row of QUANTIZATIONS by which the matrix `name` (N,K) of a model is stored: the first rule that covers it."""
    rows = (rule.partition("=")[2] for rule in config.keep if covers(rule, name, config))
    row = next(rows, config.quantization)
    return row if shape[1] % QUANTIZATIONS[row].multiple == 0 else QUANTIZATIONS[row].otherwise


def check_rules(config: Config, names: Iterable[str]) -> None:
    """Raises `ConfigError` for rules of `config.keep` that cover none of these names, which are all that there are."""
    names = list(names)
    if idle := [rule for rule in config.keep if not any(covers(rule, name, config) for name in names)]:
        parts = dict.fromkeys(".".join(name.split(".")[:3]) for name in names)
        raise ConfigError(f"keep {several(idle)} is about no matrix of the model; its parts are {several(parts, 20)}")
