"""The position-wise feed-forward network (Vaswani et al. 2017, section 3.3). A new activation is one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinygrad import Tensor

from .ops import Linear

if TYPE_CHECKING:
    from ..config import Config

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.relu(),  # Nair and Hinton 2010
    "gelu": lambda x: x * 0.5 * (1 + (x * 0.5**0.5).erf()),  # Hendrycks and Gimpel 2016, section 2
    "gelu_tanh": lambda x: x.gelu(),  # the same, with their approximation of erf by tanh
    "silu": lambda x: x * x.sigmoid(),  # the same section; "swish" of Ramachandran et al. 2017
}


class FeedForward:
    """f(x W1 + b1) W2 + b2 (equation 2, with f = relu there): (B,T,C) to (B,T,F) to (B,T,C)."""

    def __init__(self, config: Config, device: str):
        self._activation = ACTIVATIONS[config.activation]
        self.up = Linear(config.d_model, config.d_ff, device=device)
        self.down = Linear(config.d_ff, config.d_model, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self._activation(self.up(x)))
