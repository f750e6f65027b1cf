"""How the matrices of a model are stored, in memory and in the file: from float32 to each row and back.

A matrix (N,K) keeps its name; what belongs to it stands beside it, under that name and an ending (`nn.matrix.PARTS`
says what, of which type and shape). Vectors (biases, norms) are float32 in every row. Axes: G groups of 32 columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import pick
from ..errors import ConfigError

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

Array = np.ndarray[Any, Any]
Parts = dict[str, Array]  # by ending, "" for the matrix itself
GROUP = 32
SHRINKS = np.linspace(1.0, 0.5, 11, dtype=np.float32)  # of the range of a group of int4, that are tried


def to_bf16(w: Array) -> Array:
    """float32 to the upper half of each, rounded half to even, as uint16; NaN stays NaN."""
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(w), bits >> 16 | 0x40, rounded).astype(np.uint16)


def int8(w: Array, step: float | None = None) -> Parts:
    """Each row by its largest value; or all by `step`, of which every weight is a whole multiple already."""
    scale = np.full(len(w), step, np.float32) if step else np.abs(w).max(1, initial=0).astype(np.float32) / 127
    divisor = np.where(scale > 0, scale, 1)[:, None]
    return {"": np.rint(w / divisor).clip(-127, 127).astype(np.int8), ".scale": scale}


def int4(w: Array, step: float | None = None) -> Parts:
    """Groups of 32 columns from their smallest to their largest value, or a shorter range where that errs less.

    The zero point is one of the 16 values, so that 0 stays 0. The error is the sum of squares over the group.
    """
    groups = np.asarray(w, np.float32).reshape(len(w), -1, GROUP)  # (N,G,32)
    low, high = groups.min(-1, initial=0, keepdims=True), groups.max(-1, initial=0, keepdims=True)
    best: list[Array] = []
    least = np.full(low.shape, np.inf, np.float32)
    for shrink in SHRINKS:
        scale = ((high - low) * shrink / 15).astype(np.float16).astype(np.float32)  # as it is stored
        divisor = np.where(scale > 0, scale, 1)
        zero = np.rint(-low * shrink / divisor).clip(0, 15)
        values = (np.rint(groups / divisor) + zero).clip(0, 15)
        error = (((values - zero) * scale - groups) ** 2).sum(-1, keepdims=True)
        better = error < least
        found = (values, scale, zero)
        best = [np.where(better, new, old) for new, old in zip(found, best or found, strict=True)]
        least = np.where(better, error, least)
    values, scale, zero = best
    pairs = values.astype(np.uint8).reshape(len(w), -1, 2)
    return {
        "": pairs[..., 0] | pairs[..., 1] << 4,
        ".scale": scale[..., 0].astype(np.float16),
        ".zero": zero[..., 0].astype(np.uint8),
    }


def from_int4(parts: Mapping[str, Array]) -> Array:
    packed = parts[""]
    values = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1, GROUP).astype(np.float32)
    scale, zero = (parts[end].astype(np.float32)[..., None] for end in (".scale", ".zero"))
    return ((values - zero) * scale).reshape(len(packed), -1)


def from_int8(parts: Mapping[str, Array]) -> Array:
    return parts[""].astype(np.float32) * parts[".scale"][:, None]


@dataclass(frozen=True)
class Quantization:
    """A row: float32 (N,K) to what is stored, and back."""

    quantize: Callable[[Array, float | None], Parts]
    dequantize: Callable[[Mapping[str, Array]], Array]


QUANTIZATIONS: dict[str, Quantization] = {
    "none": Quantization(lambda w, step: {"": w}, lambda parts: parts[""]),
    "f16": Quantization(lambda w, step: {"": w.astype(np.float16)}, lambda parts: parts[""].astype(np.float32)),
    "bf16": Quantization(
        lambda w, step: {"": to_bf16(w)}, lambda parts: (parts[""].astype(np.uint32) << 16).view(np.float32)
    ),
    "int8": Quantization(int8, from_int8),
    "int8w": Quantization(int8, from_int8),
    "int4": Quantization(int4, from_int4),
}


def quantized(checkpoint: Checkpoint, quantization: str, keep: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint with its matrices stored by a row of QUANTIZATIONS, but those that `keep` names by theirs.

    `keep` holds rules PREFIX=ROW over the names of matrices. Weights that came as int8 stay bit for bit what they were
    in a row of int8. Raises `ConfigError` for an unknown row, and for a checkpoint that is quantized otherwise.
    """
    from ..nn.matrix import scheme

    pick(QUANTIZATIONS, quantization, "quantization")
    config = dataclasses.replace(checkpoint.config, quantization=quantization, keep=tuple(keep))
    if config == checkpoint.config:
        return checkpoint
    if checkpoint.config.quantization != "none" or checkpoint.config.keep:
        raise ConfigError(
            f"the model is stored as {checkpoint.config.quantization} and cannot be made {quantization} without another "
            "loss; start from the original"
        )
    weights: dict[str, Array] = {}
    for name, w in checkpoint.weights.items():
        row = scheme(name, w.shape, config) if w.ndim == 2 else "none"
        parts = QUANTIZATIONS[row].quantize(w, checkpoint.steps.get(name))
        weights |= {name + end: part for end, part in parts.items()}
    return dataclasses.replace(checkpoint, config=config, weights=weights)
