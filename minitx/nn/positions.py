"""How a model is told the order of its tokens. A new scheme is one row of POSITIONS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tinygrad import Tensor

from ..errors import ConfigError
from .ops import upload

if TYPE_CHECKING:
    from tinygrad import UOp

    from ..config import Config


class Sinusoidal:
    """Adds sines and cosines of wavelengths 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5).

    Column 2i is sin(p / 10000^(2i/C)), column 2i+1 the cosine of the same angle.
    """

    def __init__(self, config: Config, device: str):
        self._channels, self._device = config.d_model, device
        self._table = upload(self.table(64, config.d_model), device)  # (T, C), no weight

    @staticmethod
    def check(config: Config) -> None:
        if config.d_model % 2:
            raise ConfigError(f"config: sinusoidal positions need an even d_model, not {config.d_model}")

    @staticmethod
    def table(length: int, channels: int) -> np.ndarray:
        frequency = 10000.0 ** (-np.arange(0, channels, 2) / channels)  # (C/2,)
        angle = np.arange(length)[:, None] * frequency  # (T, C/2)
        return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, channels).astype(np.float32)  # (T, C)

    def add(self, x: Tensor, position: int | UOp = 0) -> Tensor:
        """x (B, T, C), whose first token stands at `position`, with its positions."""
        end = position + x.shape[1]
        longest = int(end if isinstance(end, int) else end.vmax)
        if longest > self._table.shape[0]:  # as long as is needed, whatever length a file claims
            self._table = upload(self.table(2 * longest, self._channels), self._device)
        return x + self._table[position:end]  # (T, C)


class SinusoidalSplit(Sinusoidal):
    """The same idea in Marian's layout: all sines, then all cosines, of p * 10000^(-i / (C/2 - 1))."""

    @staticmethod
    def table(length: int, channels: int) -> np.ndarray:
        half = channels // 2
        frequency = 10000.0 ** (-np.arange(half) / max(half - 1, 1))  # (C/2,)
        angle = np.arange(length)[:, None] * frequency  # (T, C/2)
        return np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)  # (T, C)


class SinusoidalHalves(Sinusoidal):
    """The paper's sines and cosines in Marian's order, sines first: what Hugging Face's Marian adds."""

    @staticmethod
    def table(length: int, channels: int) -> np.ndarray:
        table = Sinusoidal.table(length, channels)
        return np.concatenate([table[:, ::2], table[:, 1::2]], 1)  # (T, C)


POSITIONS: dict[str, type[Sinusoidal]] = {
    "sinusoidal": Sinusoidal,
    "sinusoidal_split": SinusoidalSplit,
    "sinusoidal_halves": SinusoidalHalves,
}
