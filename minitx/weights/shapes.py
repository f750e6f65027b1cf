"""The weights that a `Config` demands, by name and shape, and the parts of a model that they belong to.

Every matrix is (out, in). Letters: C channels (d_model), F width of the feed-forward network, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..config import choice

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def attention(name: str, c: int) -> Shapes:
    """Multi-head attention: the heads are slices of each matrix."""
    shapes: Shapes = {}
    for part in ("query", "key", "value", "output"):
        shapes |= linear(f"{name}.{part}", c, c)
    return shapes


def ssru(name: str, c: int) -> Shapes:
    """c = f * c + (1 - f) * candidate(x), f = sigmoid(forget(x)); the candidate has no bias."""
    return {f"{name}.candidate.weight": (c, c), **linear(f"{name}.forget", c, c)}


MIXERS: dict[str, Callable[[str, int], Shapes]] = {"attention": attention, "ssru": ssru}


def layer(name: str, config: Config, mixer: str, cross: bool) -> Shapes:
    """One layer of a stack: its sublayers, each with the norm of its residual connection."""
    c, f = config.d_model, config.d_ff
    shapes = {**MIXERS[mixer](f"{name}.self", c), **norm(f"{name}.self_residual.norms.0", c)}
    if cross:
        shapes |= attention(f"{name}.cross", c) | norm(f"{name}.cross_residual.norms.0", c)
    shapes |= linear(f"{name}.feedforward.up", f, c) | linear(f"{name}.feedforward.down", c, f)
    return shapes | norm(f"{name}.feedforward_residual.norms.0", c)


def expected(config: Config) -> Shapes:
    """Name and shape of every weight of a model of this architecture, and of nothing else."""
    c, tying = config.d_model, choice("tying", config.tying)
    shapes: Shapes = {"source.weight": (config.source_vocab, c)}
    if not tying.target_is_source:
        shapes["target.weight"] = (config.target_vocab, c)
    if not tying.output_is_target:
        shapes["output.weight"] = (config.target_vocab, c)
    if config.output_bias:
        shapes["output.bias"] = (config.target_vocab,)
    for i in range(config.encoder_layers):
        shapes |= layer(f"encoder.layers.{i}", config, "attention", cross=False)
    for i in range(config.decoder_layers):
        shapes |= layer(f"decoder.layers.{i}", config, config.mixer, cross=True)
    if config.final_norm:
        shapes |= norm("encoder.norm", c) | norm("decoder.norm", c)
    return shapes


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
