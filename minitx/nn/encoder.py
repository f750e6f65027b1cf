"""The encoder: a stack of self-attention and feed-forward layers (Vaswani et al. 2017, figure 1, left).

Axes: B batch, S source, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinygrad import Tensor

from .attention import Attention
from .feedforward import FeedForward
from .norm import Residual, make_norm

if TYPE_CHECKING:
    from ..config import Config


class EncoderLayer:
    """Self-attention, then the feed-forward network, each in a residual connection."""

    def __init__(self, config: Config, device: str):
        self.self = Attention(config, device)
        self.self_residual = Residual(config, device)
        self.feedforward = FeedForward(config, device)
        self.feedforward_residual = Residual(config, device)

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B,S,C) and a mask that broadcasts to (B,H,S,S): (B,S,C)."""
        x = self.self_residual(x, lambda x: self.self(x, *self.self.keys_values(x), mask))
        return self.feedforward_residual(x, self.feedforward)


class Encoder:
    """`encoder_layers` of them, and a last norm where the config has one."""

    def __init__(self, config: Config, device: str):
        self.layers = [EncoderLayer(config, device) for _ in range(config.encoder_layers)]
        self.norm = make_norm(config, device) if config.final_norm else None

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B,S,C) to the memory that the decoder looks at (B,S,C)."""
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x)
