"""The decoder: a stack of mixer, encoder-decoder attention and feed-forward layers (figure 1, right).

The mixer is how a position sees the ones before it: masked self-attention in Vaswani et al. 2017, a recurrence
in Marian's small models. A new one is a row of MIXERS.

Axes: B batch, T target, S source, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tinygrad import Tensor

from .attention import Attention, SelfAttention
from .cache import Cache, store
from .feedforward import FeedForward
from .norm import Residual, make_norm
from .recurrence import SSRU

if TYPE_CHECKING:
    from tinygrad import UOp

    from ..config import Config

# Each has `sequence` for all positions at once, `step` for one token after another, and `shapes` of its cache.
MIXERS: dict[str, Any] = {"attention": SelfAttention, "ssru": SSRU}


class DecoderLayer:
    """Mixer, encoder-decoder attention, feed-forward network, each in a residual connection."""

    def __init__(self, config: Config, device: str):
        self.self = MIXERS[config.mixer](config, device)
        self.self_residual = Residual(config, device)
        self.cross = Attention(config, device)
        self.cross_residual = Residual(config, device)
        self.feedforward = FeedForward(config, device)
        self.feedforward_residual = Residual(config, device)

    def __call__(
        self, x: Tensor, mix: Callable[[Tensor], Tensor], memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """x (B,T,C); `mix` is the mixer's `sequence` or `step`, memory the keys and values (B,H,S,D) of the source."""
        x = self.self_residual(x, mix)
        x = self.cross_residual(x, lambda x: self.cross(x, *memory, mask))
        return self.feedforward_residual(x, self.feedforward)


class Decoder:
    """`decoder_layers` of them, and a last norm where the config has one."""

    def __init__(self, config: Config, device: str):
        self.layers = [DecoderLayer(config, device) for _ in range(config.decoder_layers)]
        self.norm = make_norm(config, device) if config.final_norm else None

    def __call__(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """All target positions at once (teacher forcing): x (B,T,C), memory (B,S,C) to (B,T,C)."""
        for layer in self.layers:
            x = layer(x, layer.self.sequence, layer.cross.keys_values(memory), mask)
        return x if self.norm is None else self.norm(x)

    def shapes(self, rows: int, source: int, length: int) -> dict[str, tuple[int, ...]]:
        """The cache of `rows` hypotheses of at most `length` tokens over sources of `source` tokens, by key."""
        shapes: dict[str, tuple[int, ...]] = {"mask": (rows, 1, 1, source)}
        for i, layer in enumerate(self.layers):
            channels = int(layer.cross.key.weight.shape[0])
            cross = (rows, layer.cross.heads, source, channels // layer.cross.heads)
            own = {"cross.k": cross, "cross.v": cross} | layer.self.shapes(rows, length)
            shapes |= {f"{i}.{name}": shape for name, shape in own.items()}
        return shapes

    def start(self, memory: Tensor, mask: Tensor, cache: Cache) -> Cache:
        """`cache` before the first token: what depends on the source alone is computed, the rest is zero."""
        new = {"mask": mask}
        for i, layer in enumerate(self.layers):
            new[f"{i}.cross.k"], new[f"{i}.cross.v"] = layer.cross.keys_values(memory)
        return {name: store(kept, new[name] if name in new else kept.const_like(0)) for name, kept in cache.items()}

    def step(self, x: Tensor, cache: Cache, position: int | UOp) -> tuple[Tensor, Cache]:
        """One token a row, x (B,1,C) at `position`: (B,1,C) and the cache after it."""
        cache = dict(cache)
        for i, layer in enumerate(self.layers):
            memory = cache[f"{i}.cross.k"], cache[f"{i}.cross.v"]
            mix = partial(layer.self.step, cache=cache, layer=i, position=position)
            x = layer(x, mix, memory, cache["mask"])
        return x if self.norm is None else self.norm(x), cache
