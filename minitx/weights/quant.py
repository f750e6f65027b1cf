"""A model's matrices from float32 to the rows of `nn.quant`, each as it is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import pick
from ..errors import ConfigError
from ..nn.quant import QUANTIZATIONS, Hints, check_rules, scheme

if TYPE_CHECKING:
    from ..config import Config
    from .checkpoint import Checkpoint

Array = np.ndarray[Any, Any]


def quantized(
    checkpoint: Checkpoint, quantization: str, keep: Iterable[str] = (), moments: Mapping[str, Array] | None = None
) -> Checkpoint:
    """The checkpoint with its matrices stored by a row of QUANTIZATIONS, but those that `keep` names by theirs.

    `keep` holds rules PART=ROW, of which the first counts. Weights that came as int8 are in a row of int8, bit for bit,
    what they were. `moments`, by a matrix's name, are those of its inputs (`calibration.moments` finds them). Raises
    `ConfigError` for an unknown row or part, for a checkpoint that is quantized otherwise, and for weights that do not
    fit.
    """
    pick(QUANTIZATIONS, quantization, "quantization")
    config = dataclasses.replace(checkpoint.config, quantization=quantization, keep=tuple(keep))
    if config == checkpoint.config:
        return checkpoint
    if checkpoint.config.quantization != "none" or checkpoint.config.keep:
        raise ConfigError(
            f"the model is stored as {checkpoint.config.quantization}, and to make it {quantization} would lose twice; "
            "start from the original"
        )
    check_rules(config, [name for name, w in checkpoint.weights.items() if w.ndim == 2])
    weights: dict[str, Array] = {}
    for name, w in checkpoint.weights.items():
        hints = Hints(checkpoint.steps.get(name), (moments or {}).get(name))
        weights |= {name + end: part for end, part in stored_parts(name, w, config, hints)}
    return dataclasses.replace(checkpoint, config=config, weights=weights, steps={})


def stored_parts(name: str, w: Array, config: Config, hints: Hints) -> Iterator[tuple[str, Array]]:
    """What is stored of one weight; raises `ConfigError` for one that the row cannot hold."""
    row = scheme(name, w.shape, config) if w.ndim == 2 else "none"
    with np.errstate(over="ignore", invalid="ignore"):
        parts = QUANTIZATIONS[row].quantize(w, hints) if np.isfinite(w).all() else {"": w}
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise ConfigError(f"{name} has weights that are not finite or too large for {row}; choose another quantization")
    for end, part in parts.items():
        view = part.view()
        view.flags.writeable = False
        yield end, view
