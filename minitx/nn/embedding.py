"""Tokens to vectors and back (Vaswani et al. 2017, section 3.4), and which of the matrices are one.

Axes: B batch, T target, C channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygrad import Tensor

from ..errors import ConfigError
from .matrix import Matrix
from .ops import Linear, linear

if TYPE_CHECKING:
    from ..config import Config


class Embedding:
    """A row of the matrix for each token; token -1 is no token and gives the zero vector."""

    def __init__(self, size: int, config: Config, device: str):
        self.weight: Tensor | Matrix = Tensor.empty(size, config.d_model, device=device)
        self._scale = config.d_model**0.5 if config.embedding_scale else 1.0

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens (B,T) to vectors (B,T,C)."""
        index = tokens.maximum(0)
        rows = self.weight.rows(index) if isinstance(self.weight, Matrix) else self.weight[index]  # (B,T,C)
        return (tokens >= 0).unsqueeze(-1).where(rows * self._scale, 0.0)  # (B,T,C)


class Output:
    """Vectors to logits: a matrix of its own, or the target embedding's."""

    def __init__(self, config: Config, target: Embedding, tied: bool, device: str):
        own = Linear(config.d_model, config.target_vocab, bias=False, device=device)
        self._shared = target if tied else None
        self.weight = None if tied else own.weight
        self.bias = Tensor.empty(config.target_vocab, device=device) if config.output_bias else None

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., C) to logits (..., V)."""
        weight = self.weight if self._shared is None else self._shared.weight
        assert weight is not None
        return linear(x, weight, self.bias)


@dataclass(frozen=True)
class Tying:
    """Which matrices are one: the target embedding and the source's, the output and the target embedding."""

    target_is_source: bool
    output_is_target: bool

    def check(self, config: Config) -> None:
        if self.target_is_source and config.source_vocab != config.target_vocab:
            raise ConfigError(
                f"config: tying {config.tying!r} shares one embedding, but source_vocab is {config.source_vocab} "
                f"and target_vocab {config.target_vocab}"
            )


TYINGS = {
    "all": Tying(True, True),  # Vaswani et al. 2017; "three-way" in Press and Wolf 2017, section 3
    "target": Tying(False, True),  # Press and Wolf 2017, section 3
    "source": Tying(True, False),
    "none": Tying(False, False),
}
