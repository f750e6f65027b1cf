"""Multi-head attention (Vaswani et al. 2017, section 3.2).

Axes: B batch, T target (queries), S source (keys), H heads, D head size, C = H * D channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tinygrad import Tensor

from .cache import Cache, store
from .ops import Linear, softmax, upload

if TYPE_CHECKING:
    from tinygrad import UOp

    from ..config import Config


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D) + mask) V (equation 1): query (B,H,T,D), key and value (B,H,S,D) to (B,H,T,D).

    The mask holds 0 and minus infinity and broadcasts to (B,H,T,S).
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B,H,T,S)
    return softmax(scores if mask is None else scores + mask) @ value  # (B,H,T,D)


def causal_mask(size: int, device: str) -> Tensor:
    """The mask that hides from each position all that come after it: (T, T) of 0 and minus infinity."""
    return upload(np.triu(np.full((size, size), -np.inf, np.float32), 1), device)  # (T, T)


class Attention:
    """H heads side by side, each with its own projections of query, key and value (section 3.2.2)."""

    def __init__(self, config: Config, device: str):
        channels, self.heads = config.d_model, config.heads
        self.query = Linear(channels, channels, device=device)
        self.key = Linear(channels, channels, device=device)
        self.value = Linear(channels, channels, device=device)
        self.output = Linear(channels, channels, device=device)

    def split(self, x: Tensor) -> Tensor:
        B, T, C = x.shape  # noqa: N806
        return x.reshape(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B,H,T,D)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What is attended to: memory (B,S,C) to keys and values (B,H,S,D)."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def __call__(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B,T,C) looks at key and value (B,H,S,D): (B,T,C)."""
        y = attend(self.split(self.query(x)), key, value, mask)  # (B,H,T,D)
        return self.output(y.transpose(1, 2).flatten(2))  # (B,T,C)


class SelfAttention(Attention):
    """The decoder's masked self-attention: each position looks at itself and at those before it (section 3.2.3)."""

    def sequence(self, x: Tensor) -> Tensor:
        """All positions of x (B,T,C) at once."""
        return self(x, *self.keys_values(x), causal_mask(int(x.shape[1]), str(x.device)))

    def shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """What the cache of `rows` hypotheses of at most `length` tokens holds of this layer."""
        shape = (rows, self.heads, length, int(self.key.weight.shape[0]) // self.heads)
        return {"self.k": shape, "self.v": shape}

    def step(self, x: Tensor, cache: Cache, layer: int, position: int | UOp) -> Tensor:
        """One token x (B,1,C) at `position`; its key and value go into `cache`."""
        seen = []
        for name, new in zip((f"{layer}.self.k", f"{layer}.self.v"), self.keys_values(x), strict=True):
            cache[name] = store(cache[name], new, position)
            seen.append(cache[name][:, :, : position + 1])  # (B,H,position+1,D)
        return self(x, *seen)
