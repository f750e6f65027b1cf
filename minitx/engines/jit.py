"""The tinygrad engine: runs on every backend, and is the reference for the others.

Shapes are rounded up to buckets, each of which tinygrad schedules and compiles once: powers of two for rows,
source length and target length. Axes: B rows, S source, T target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tinygrad import Tensor, TinyJit, UOp

from ..nn.cache import Cache, allocate, store
from ..nn.ops import log_softmax_top, padding_mask, upload
from ..nn.transformer import Transformer
from ..weights.shortlist import Allowed


def bucket(size: int, smallest: int = 1) -> int:
    """The power of two, at least `smallest`, that `size` is rounded up to."""
    return max(smallest, 1 << (size - 1).bit_length())


@dataclass
class State:
    """Hypotheses under way: their cache, of which `rows` rows are in use, and the source that each row is of."""

    cache: Cache
    rows: int
    sources: np.ndarray  # (rows,)
    position: int
    length: int


class JitEngine:
    """Runs a `Transformer` by TinyJit. Tokens in `suppress` are never proposed; `notice` is told what takes long.

    `allowed` gives the target tokens that a source allows; without it every source allows all.
    """

    def __init__(
        self,
        model: Transformer,
        suppress: tuple[int, ...] = (),
        notice: Callable[[str], object] = lambda message: None,
        allowed: Allowed | None = None,
    ):
        self.model, self.config, self._notice, self._allowed = model, model.config, notice, allowed
        self._bias = np.zeros(self.config.target_vocab, np.float32)
        self._bias[list(suppress)] = -np.inf
        self._suppress = self._upload(self._bias)  # (V,)
        self._jits: dict[tuple[Any, ...], Any] = {}

    def _upload(self, values: np.ndarray) -> Tensor:
        return upload(values, self.model.device)

    def _jit(self, function: Callable[..., Any], *shape: int) -> Any:
        """`function` jitted for one bucket of shapes: tinygrad runs it once, records it once, then replays it."""
        key = (function.__name__, *shape)
        if key not in self._jits:
            self._jits[key] = TinyJit(function)
        jit = self._jits[key]
        self._notice(
            f"preparing {function.__name__.strip('_')} for {shape} on {self.model.device}" if jit.cnt < 2 else ""
        )
        return jit

    def encode(self, tokens: np.ndarray, lengths: np.ndarray, length: int) -> State:
        """The state before the first of at most `length` tokens: sources (B,S) int32, the rest behind lengths (B,)."""
        longest = self.config.max_length
        rows, size = bucket(len(tokens)), min(bucket(tokens.shape[1], 8), longest)
        length = min(bucket(max(length, 4 * size)), longest)  # the same for every source of the bucket
        padded = np.zeros((rows, size), np.int32)
        padded[: tokens.shape[0], : tokens.shape[1]] = tokens
        mask = padding_mask(np.pad(lengths, (0, rows - len(tokens)), constant_values=1), size)  # (B,1,1,S)
        cache = self.model.new_cache(rows, size, length)
        self._jit(self._encode, rows, size, length)(self._upload(padded), self._upload(mask), cache)
        if self._allowed:
            cache["bias"] = self._upload(self._shortlist(self._allowed, tokens, lengths, rows))
        return State(cache, len(tokens), np.arange(len(tokens)), 0, length)

    def _shortlist(self, allowed: Allowed, tokens: np.ndarray, lengths: np.ndarray, rows: int) -> np.ndarray:
        """What is added to the logits of each row: minus infinity where its source does not allow a token, (B,V)."""
        bias = np.tile(self._bias, (rows, 1))  # (B,V)
        for row, source, length in zip(bias, tokens, lengths, strict=False):
            forbidden = np.ones(len(row), bool)
            forbidden[allowed(source[:length])] = False
            row[forbidden] = -np.inf
        return bias

    def _encode(self, tokens: Tensor, mask: Tensor, cache: Cache) -> None:
        Tensor.realize(*self.model.start(self.model.encode(tokens, mask), mask, cache).values())

    def step(self, state: State, tokens: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Feeds tokens (B,) and gives the k likeliest next ones: ids (B,K), log-probabilities (B,K), best first."""
        rows, size = int(state.cache["mask"].shape[0]), int(state.cache["mask"].shape[3])
        padded = np.zeros(rows, np.int32)
        padded[: state.rows] = tokens
        position = UOp.variable("position", 0, state.length - 1).bind(state.position)
        step = self._greedy_step if k == 1 else self._logits_step
        outputs = self._jit(step, rows, size, state.length)(self._upload(padded), state.cache, position)
        state.position += 1
        outputs = [output.numpy()[: state.rows] for output in outputs]
        return (outputs[0][:, None], outputs[1][:, None]) if k == 1 else top(outputs[0], k)

    def _logits_step(self, tokens: Tensor, cache: Cache, position: UOp) -> list[Tensor]:
        logits, cache = self.model.decode_step(tokens, cache, position)
        logits = logits + cache.get("bias", self._suppress)  # (B,V)
        Tensor.realize(logits, *cache.values())
        return [logits]

    def _greedy_step(self, tokens: Tensor, cache: Cache, position: UOp) -> list[Tensor]:
        logits, cache = self.model.decode_step(tokens, cache, position)
        best, score = log_softmax_top((logits + cache.get("bias", self._suppress)).contiguous())  # (B,) each
        Tensor.realize(best, score, *cache.values())
        return [best, score]

    def reorder(self, state: State, rows: np.ndarray) -> State:
        """The state whose row i is the old row rows[i]. The bucket of rows never shrinks: that would compile anew."""
        old = int(state.cache["mask"].shape[0])
        new = max(old, bucket(len(rows)))
        sources = state.sources[rows]
        same = new == old and np.array_equal(sources, state.sources)  # then what hangs on the source alone stays
        if same and np.array_equal(rows, np.arange(len(rows))):
            return state
        moved = {k: t for k, t in state.cache.items() if not (same and ("cross" in k or k in ("mask", "bias")))}
        fresh = allocate({k: (new, *t.shape[1:]) for k, t in moved.items()}, self.model.device)
        index = self._upload(np.pad(rows.astype(np.int32), (0, new - len(rows))))
        size = int(state.cache["mask"].shape[3])
        self._jit(self._reorder, old, new, size, state.length, same)(index, moved, fresh)
        cache = {k: fresh.get(k, t) for k, t in state.cache.items()}  # TinyJit goes by their order
        return State(cache, len(rows), sources, state.position, state.length)

    @staticmethod
    def _reorder(index: Tensor, old: Cache, new: Cache) -> None:
        Tensor.realize(*(store(new[k], t[index]) for k, t in old.items()))


def top(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest of logits (B,V), best first, the smaller id first where they tie: ids, log-probabilities."""
    k = min(k, logits.shape[1])
    best = logits.max(1, keepdims=True)  # (B,1)
    with np.errstate(invalid="ignore"):  # NaN in, NaN out
        log_sum = best + np.log(np.exp(logits - best).sum(1, keepdims=True))  # (B,1)
    ids = np.sort(np.argpartition(-logits, k - 1, 1)[:, :k], 1)  # (B,K)
    values = np.take_along_axis(logits, ids, 1)
    order = np.argsort(-values, 1, kind="stable")
    return np.take_along_axis(ids, order, 1).astype(np.int32), np.take_along_axis(values - log_sum, order, 1)
