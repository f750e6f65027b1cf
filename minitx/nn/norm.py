"""Normalization, and the residual connection, which is written once: here.

A new norm is one row of NORMS, a new place for it one row of PLACEMENTS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinygrad import Tensor

if TYPE_CHECKING:
    from ..config import Config


class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * gain + bias over the channels (Ba et al. 2016, equation 4)."""

    def __init__(self, size: int, epsilon: float, device: str):
        self.weight = Tensor.empty(size, device=device)
        self.bias = Tensor.empty(size, device=device)
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x * ((x * x).mean(-1, keepdim=True) + self.epsilon).rsqrt() * self.weight + self.bias


NORMS: dict[str, Any] = {"layernorm": LayerNorm}

Sublayer = Callable[[Tensor], Tensor]

# How input x, sublayer f and norm stand to one another.
PLACEMENTS: dict[str, Callable[[Tensor, Sublayer, list[Any]], Tensor]] = {
    "post": lambda x, f, norm: norm[0](x + f(x)),  # Vaswani et al. 2017, section 3.1
    "pre": lambda x, f, norm: x + f(norm[0](x)),  # Xiong et al. 2020, table 1
}


def make_norm(config: Config, device: str) -> Any:
    """One norm over the residual stream, as the config has it."""
    return NORMS[config.norm](config.d_model, config.norm_epsilon, device)


class Residual:
    """The residual connection around one sublayer, with its norm."""

    def __init__(self, config: Config, device: str):
        self._place = PLACEMENTS[config.placement]
        self.norms = [make_norm(config, device)]

    def __call__(self, x: Tensor, sublayer: Sublayer) -> Tensor:
        return self._place(x, sublayer, self.norms)
