"""Engines: what runs a model. `Engine` is the one seam between search and execution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..config import Config, Generation
from ..toolchain import prepare
from .hypotheses import Hypothesis, Limits

prepare()  # before anything here imports tinygrad


class Engine(Protocol):
    """Runs `config`'s model for a search that knows nothing of devices. A state is the engine's own business.

    Axes: B rows (sentences at first, hypotheses later), S source, K candidates.
    """

    config: Config

    def encode(self, tokens: np.ndarray, lengths: np.ndarray, length: int) -> Any:
        """The state before the first of at most `length` tokens: sources (B,S) int32, the rest behind lengths (B,)."""

    def step(self, state: Any, tokens: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Feeds tokens (B,) and gives the k likeliest next ones: ids (B,K), log-probabilities (B,K), best first."""

    def reorder(self, state: Any, rows: np.ndarray) -> Any:
        """The state whose row i is the old row rows[i], more rows than before or fewer. The old state is spent."""


@runtime_checkable
class Searcher(Protocol):
    """What an engine may have beside: a search of its own, which finds what `generation.search` does but faster."""

    def search(
        self, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first."""
