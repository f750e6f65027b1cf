"""Greedy and beam search, written once against `Engine`: they know nothing of devices.

The native engine has the same in C, in compiler/runtime/search.c; this is the reference for it.

Axes: B sentences, K beams of each; an engine's rows are the B * K hypotheses, those of one sentence together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..config import Generation
from ..engines import Engine, Searcher
from ..engines.hypotheses import LENGTH_PENALTIES, NAN, Hypothesis, Limits
from ..errors import Error, InputError


def normalise(generation: Generation, log_probability: float, length: int) -> float:
    """The score of a hypothesis of `length` tokens, the end included."""
    return log_probability / LENGTH_PENALTIES[generation.length_penalty](length, generation.alpha)


def generate(
    engine: Engine,
    sentences: Sequence[Sequence[int]],
    generation: Generation,
    *,
    n_best: int = 1,
    min_length: int = 0,
    max_length: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[list[Hypothesis]]:
    """The `n_best` hypotheses of each sentence, best first; `sentences` are source tokens, the end included.

    Sentences are searched `batch_size` at a time, those of like length together, and come back in order;
    `progress` is told how many are done, of how many. Raises `InputError` for an option out of range, for tokens
    that the model does not have and for a sentence longer than its longest.
    """
    counts = {"n_best": n_best, "batch_size": batch_size, "max_length": 1 if max_length is None else max_length}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be 1 or more, not {value}")
    check(engine, sentences)
    if n_best > generation.beam:
        generation = dataclasses.replace(generation, beam=n_best)
    found: list[list[Hypothesis]] = [[] for _ in sentences]
    order = sorted((i for i, s in enumerate(sentences) if s), key=lambda i: len(sentences[i]))
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        sources = [sentences[i] for i in batch]
        limits = [length_limits(engine, generation, len(s), min_length, max_length) for s in sources]
        for i, hypotheses in zip(batch, search(engine, sources, generation, limits), strict=True):
            found[i] = hypotheses[:n_best]
        progress(first + len(batch), len(order))
    return found


def length_limits(engine: Engine, generation: Generation, source: int, least: int, most: int | None) -> Limits:
    """The limits for a source of so many tokens: as asked for or by the length factor, and never over the model's."""
    maximum = most if most is not None else max(1, int(generation.length_factor * source))
    maximum = min(maximum, engine.config.max_length)
    return Limits(min(least, maximum), maximum)


def check(engine: Engine, sentences: Sequence[Sequence[int]]) -> None:
    """Raises `InputError` for the first sentence that the model cannot take."""
    size, longest = engine.config.source_vocab, engine.config.max_length
    for i, sentence in enumerate(sentences):
        if len(sentence) > longest:
            raise InputError(f"sentence {i + 1}: {len(sentence)} tokens, and the model takes {longest}; split it")
        for token in sentence:
            if not 0 <= token < size:
                raise InputError(f"sentence {i + 1}: token {token} is not in the vocabulary of {size}")


def search(
    engine: Engine, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
) -> list[list[Hypothesis]]:
    """The hypotheses of each source, best first: by the engine's own search if it has one, else by those below."""
    if isinstance(engine, Searcher):
        return engine.search(sources, generation, limits)
    return (greedy_search if generation.beam == 1 else beam_search)(engine, sources, generation, limits)


def encode(engine: Engine, sources: Sequence[Sequence[int]], limits: Sequence[Limits]) -> object:
    """The engine's state for a batch of sources of any lengths."""
    lengths = np.array([len(s) for s in sources])
    tokens = np.zeros((len(sources), lengths.max()), np.int32)  # (B,S)
    for row, source in zip(tokens, sources, strict=True):
        row[: len(source)] = source
    return engine.encode(tokens, lengths, max(limit.maximum for limit in limits))


def step(engine: Engine, state: object, tokens: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`Engine.step`; raises `Error` where the model gives NaN, from which there is no way on."""
    ids, scores = engine.step(state, tokens, k)
    if np.isnan(scores).any():
        raise Error(NAN)
    return ids, scores


def greedy_search(
    engine: Engine, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
) -> list[list[Hypothesis]]:
    """The likeliest token at each step, until the end token or the length limit."""
    tokens: list[list[int]] = [[] for _ in sources]
    scores = [0.0] * len(sources)
    ended = [False] * len(sources)
    for i, token, score in greedy_steps(engine, sources, generation, limits):
        scores[i] += score
        ended[i] = token == generation.end
        if not ended[i]:
            tokens[i].append(token)
    return [
        [Hypothesis(tuple(t), normalise(generation, s, len(t) + e))]
        for t, s, e in zip(tokens, scores, ended, strict=True)
    ]


def greedy_steps(
    engine: Engine, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
) -> Iterator[tuple[int, int, float]]:
    """Greedy search as it goes: (sentence, token, log-probability) one after another, the end token included."""
    state = encode(engine, sources, limits)
    active = list(range(len(sources)))
    last = np.full(len(active), generation.start, np.int32)
    length = 0
    while active:
        wanted = 2 if any(length < limits[i].minimum for i in active) else 1  # the runner-up where the end is held back
        ids, scores = step(engine, state, last, wanted)  # (B,K)
        length += 1
        going = []
        for row, i in enumerate(active):
            held_back = length <= limits[i].minimum and ids.shape[1] > 1 and scores[row, 1] > -math.inf
            column = int(held_back and ids[row, 0] == generation.end)
            last[row] = ids[row, column]
            yield i, int(last[row]), float(scores[row, column])
            if last[row] != generation.end and length < limits[i].maximum:
                going.append(row)
        if len(going) < len(active):
            active = [active[row] for row in going]
            if active:
                state, last = engine.reorder(state, np.array(going)), last[going]


class Beams:
    """The hypotheses of one sentence: those under way, and those that ended, best first."""

    def __init__(self, generation: Generation, limits: Limits):
        self.generation, self.limits, self.beam = generation, limits, generation.beam
        self.tokens: list[tuple[int, ...]] = [()] * self.beam
        self.scores = [0.0] + [-math.inf] * (self.beam - 1)  # all start alike: only one may go on
        self.ended: list[Hypothesis] = []

    def advance(self, ids: np.ndarray, scores: np.ndarray) -> list[int]:
        """Takes the candidates ids and log-probabilities (K, candidates); the old row of each new hypothesis."""
        length = len(self.tokens[0]) + 1
        totals = scores + np.array(self.scores)[:, None]  # (K, candidates)
        rows: list[int] = []
        tokens: list[tuple[int, ...]] = []
        kept: list[float] = []
        for flat in np.argsort(-totals, axis=None, kind="stable"):
            row, column = divmod(int(flat), ids.shape[1])
            token, total = int(ids[row, column]), float(totals[row, column])
            if total == -math.inf or len(rows) == self.beam:
                break
            if token != self.generation.end:
                rows.append(row)
                tokens.append((*self.tokens[row], token))
                kept.append(total)
            elif length > self.limits.minimum:
                self.ended.append(Hypothesis(self.tokens[row], normalise(self.generation, total, length)))
        if length == self.limits.maximum:  # no room for the end: as they are
            self.ended += [
                Hypothesis(t, normalise(self.generation, s, length)) for t, s in zip(tokens, kept, strict=True)
            ]
        self.ended = sorted(self.ended, key=lambda h: -h.score)[: self.beam]
        missing = self.beam - len(rows)
        self.tokens = tokens + [(0,) * length] * missing
        self.scores = kept + [-math.inf] * missing
        return rows + [0] * missing

    def done(self) -> bool:
        """Whether nothing under way can still get among the ended hypotheses.

        Sound: a log-probability s <= 0 only falls as tokens are added, and the penalty never falls, so no
        continuation scores better than s over the penalty of the longest length.
        """
        if len(self.tokens[0]) >= self.limits.maximum or self.scores[0] == -math.inf:
            return True
        best = normalise(self.generation, self.scores[0], self.limits.maximum)
        return len(self.ended) == self.beam and self.ended[-1].score >= best


def beam_search(
    engine: Engine, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
) -> list[list[Hypothesis]]:
    """The best hypotheses, `beam` of them, by keeping the `beam` likeliest prefixes of each sentence at each step."""
    beam = generation.beam
    state = engine.reorder(encode(engine, sources, limits), np.repeat(np.arange(len(sources)), beam))
    found = [Beams(generation, limit) for limit in limits]
    active = list(found)
    last = np.full(len(active) * beam, generation.start, np.int32)
    while True:
        ids, scores = step(engine, state, last, beam + 1)  # (B*K, candidates): the end, and one for every beam
        rows, going = [], []
        for first, beams in zip(range(0, len(ids), beam), active, strict=True):
            chosen = beams.advance(ids[first : first + beam], scores[first : first + beam])
            if not beams.done():
                going.append(beams)
                rows += [first + row for row in chosen]
        active = going
        if not active:
            return [beams.ended for beams in found]
        state = engine.reorder(state, np.array(rows))
        last = np.array([tokens[-1] for beams in active for tokens in beams.tokens], np.int32)
