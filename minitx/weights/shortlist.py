"""A lexical shortlist: which target tokens a source allows, found by whoever trained the model.

Of a source, the first tokens of the target vocabulary (the frequent ones), the end, and the candidates of its own
tokens are allowed; the logit of every other token is minus infinity. So the output layer has hundreds of tokens to
compare and not tens of thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Any

import numpy as np

from ..config import Config

Array = np.ndarray[Any, Any]
Allowed = Callable[[Array], Array]  # from a source, tokens (S,), to the target tokens that it allows
TABLES = ("counts", "ids")  # what a file stores of one


def integers(config: Config) -> np.dtype[Any]:
    """The type that a shortlist's numbers are stored in: the smallest that safetensors has for the vocabulary."""
    return np.dtype("<i2" if config.target_vocab < 1 << 15 else "<i4")


def union(lists: Sequence[Array]) -> Array:
    """What is in any of the lists, each once, the smallest first. (`numpy.unique` takes five times as long.)"""
    found: Array = np.sort(np.concatenate(lists))
    found = found[np.append(True, found[1:] != found[:-1])]
    return found


@dataclass(frozen=True)
class Shortlist:
    """The candidates of every source token."""

    first: int  # so many of the first target tokens are always allowed
    counts: Array  # (source vocabulary,): how many candidates each source token has
    ids: Array  # the candidates, one source token's behind the other's

    @cached_property
    def starts(self) -> Array:
        """Where the candidates of each source token begin, and where the last one's end: (source vocabulary + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def allowed(self, source: Array, end: int) -> Array:
        """The target tokens that a source, tokens (S,), allows: int32, each once, the smallest first."""
        starts, size = self.starts, len(self.counts)
        tokens = [token for token in set(source.tolist()) if 0 <= token < size]
        always = np.array([*range(self.first), end], self.ids.dtype)
        return union([always, *(self.ids[starts[token] : starts[token + 1]] for token in tokens)]).astype(np.int32)

    @property
    def nbytes(self) -> int:
        return int(self.counts.nbytes + self.ids.nbytes)

    def to_bytes(self) -> bytes:
        """Both tables, one behind the other."""
        return np.concatenate([self.counts, self.ids]).tobytes()

    @classmethod
    def restore(cls, first: int, data: bytes | mmap, config: Config) -> Shortlist:
        """The shortlist that `to_bytes` wrote, its ids left where they are."""
        table = np.frombuffer(data, integers(config))
        return cls(first, table[: config.source_vocab], table[config.source_vocab :])

    def problems(self, config: Config) -> list[str]:
        """What does not fit a model of this config; nothing else is to be asked of one that has any."""
        kind, found = integers(config), []
        for name in TABLES:
            array = getattr(self, name)
            if array.dtype != kind or array.ndim != 1:
                return [f"shortlist.{name} is {array.dtype} {array.shape}, not a row of {kind}"]
        if not 0 <= self.first <= config.target_vocab:
            found.append(f"the shortlist always allows {self.first} tokens of {config.target_vocab}")
        if len(self.counts) != config.source_vocab:
            found.append(f"the shortlist is for {len(self.counts)} source tokens, the model has {config.source_vocab}")
        elif self.counts.min() < 0 or self.counts.sum(dtype=np.int64) != len(self.ids):
            found.append(f"the shortlist's counts are not those of its {len(self.ids)} candidates")
        if self.ids.size and not 0 <= self.ids.min() <= self.ids.max() < config.target_vocab:
            found.append(f"the shortlist has candidates beyond the vocabulary of {config.target_vocab}")
        return found
