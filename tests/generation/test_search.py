"""Greedy and beam search against a brute-force enumeration of every hypothesis, on an engine that is a table."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitx.config import Generation, preset
from minitx.engines.hypotheses import LENGTH_PENALTIES, Hypothesis
from minitx.errors import ConfigError, Error, InputError
from minitx.generation.search import generate

END = 0


class TableEngine:
    """Log-probabilities that depend on the source and on the whole prefix, drawn from a seed: an Engine in numpy."""

    def __init__(self, vocab, seed=0):
        self.config = preset("tiny", source_vocab=50, target_vocab=vocab, tying="none")
        self.vocab, self.seed, self.steps = vocab, seed, 0

    def log_probabilities(self, source, prefix):
        random = np.random.default_rng([self.seed, *source, 1000, *prefix])
        logits = random.normal(0, 2, self.vocab)
        return logits - np.log(np.exp(logits).sum())

    def encode(self, tokens, lengths, length):
        return [(tuple(t[:n]), ()) for t, n in zip(tokens.tolist(), lengths, strict=True)]

    def step(self, state, tokens, k):
        self.steps += 1
        rows = []
        for i, (source, prefix) in enumerate(state):
            prefix = prefix if tokens[i] == -1 else (*prefix, int(tokens[i]))
            state[i] = (source, prefix)
            rows.append(self.log_probabilities(source, prefix))
        ids = np.argsort(-np.array(rows), 1, kind="stable")[:, :k]
        return ids.astype(np.int32), np.take_along_axis(np.array(rows), ids, 1)

    def reorder(self, state, rows):
        return [state[row] for row in rows]


def every_hypothesis(engine, source, generation, maximum, minimum=0):
    """All hypotheses of at most `maximum` tokens and their scores: those that end, and those cut at the maximum."""
    penalty = LENGTH_PENALTIES[generation.length_penalty]
    found = []
    for length in range(maximum + 1):
        for tokens in itertools.product(range(1, engine.vocab), repeat=length):
            steps = [engine.log_probabilities(source, tokens[:i])[t] for i, t in enumerate(tokens)]
            if length == maximum:
                found.append(Hypothesis(tokens, sum(steps) / penalty(length, generation.alpha)))
            elif length >= minimum:
                total = sum(steps) + engine.log_probabilities(source, tokens)[END]
                found.append(Hypothesis(tokens, total / penalty(length + 1, generation.alpha)))
    return sorted(found, key=lambda h: -h.score)


generations = st.builds(
    Generation,
    start=st.just(-1),
    end=st.just(END),
    length_penalty=st.sampled_from(list(LENGTH_PENALTIES)),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
)


@given(generations, st.integers(0, 1 << 30), st.integers(1, 3), st.integers(0, 2))
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(generation, seed, maximum, minimum):
    engine, sources = TableEngine(3, seed), [[5, END], [7, 8, END]]
    minimum = min(minimum, maximum)
    found = generate(engine, sources, generation, n_best=16, max_length=maximum, min_length=minimum)
    for source, hypotheses in zip(sources, found, strict=True):
        best = every_hypothesis(engine, source, generation, maximum, minimum)[: len(hypotheses)]
        assert [h.tokens for h in hypotheses] == [h.tokens for h in best]
        np.testing.assert_allclose([h.score for h in hypotheses], [h.score for h in best])


@given(generations, st.integers(0, 1 << 30), st.integers(2, 4))
def test_stopping_early_loses_nothing(generation, seed, beam):
    from minitx.generation import search

    def found(engine):
        return generate(engine, [[5, END], [9, END]], generation, n_best=beam, max_length=8)

    stopping, going_on = TableEngine(4, seed), TableEngine(4, seed)
    early = found(stopping)
    done, search.Beams.done = search.Beams.done, lambda self: len(self.tokens[0]) >= self.limits.maximum
    try:
        assert early == found(going_on)
    finally:
        search.Beams.done = done
    assert stopping.steps <= going_on.steps == 8


def test_stopping_early_saves_steps():
    engine = TableEngine(4, 1)
    generate(engine, [[5, END]], Generation(start=-1, end=END, alpha=0.0), n_best=2, max_length=60)
    assert engine.steps < 20


@given(st.integers(0, 1 << 30), st.integers(1, 6), st.integers(0, 3))
def test_greedy_takes_the_likeliest_token_at_each_step(seed, maximum, minimum):
    engine, source = TableEngine(4, seed), [3, END]
    minimum = min(minimum, maximum)
    tokens, total, ended = [], 0.0, False
    while len(tokens) < maximum and not ended:
        scores = engine.log_probabilities(source, tokens)
        allowed = scores if len(tokens) >= minimum else np.r_[-math.inf, scores[1:]]
        token = int(allowed.argmax())
        total, ended = total + scores[token], token == END
        tokens += [] if ended else [token]
    [[hypothesis]] = generate(engine, [source], Generation(start=-1, end=END), max_length=maximum, min_length=minimum)
    assert hypothesis.tokens == tuple(tokens)
    assert hypothesis.score == pytest.approx(total / (len(tokens) + ended))


@given(
    st.lists(st.lists(st.integers(1, 49), max_size=6), max_size=9),
    st.integers(1, 4),
    st.sampled_from([1, 3]),
)
def test_batches_of_any_size_give_the_same_in_the_same_order(sentences, batch_size, n_best):
    generation = Generation(start=-1, end=END, length_factor=2.0)
    alone = [generate(TableEngine(5), [s], generation, n_best=n_best)[0] for s in sentences]
    counts = []
    together = generate(
        TableEngine(5),
        sentences,
        generation,
        n_best=n_best,
        batch_size=batch_size,
        progress=lambda *done: counts.append(done),
    )
    assert together == alone
    searched = sum(1 for s in sentences if s)
    assert counts[-1:] == ([(searched, searched)] if searched else [])
    assert all(h == [] for s, h in zip(sentences, together, strict=True) if not s)


def test_length_penalties_are_those_of_their_formulas():
    assert LENGTH_PENALTIES["power"](9, 0.5) == pytest.approx(3.0)
    assert LENGTH_PENALTIES["wu"](7, 0.6) == pytest.approx((5 + 7) ** 0.6 / (5 + 1) ** 0.6)
    for penalty in LENGTH_PENALTIES.values():
        assert all(penalty(n, a) <= penalty(n + 1, a) for n in range(1, 100) for a in (0.0, 0.3, 1.0, 5.0))


@pytest.mark.parametrize(
    ("sentences", "words"),
    [
        ([[3], [3, 50]], "sentence 2: token 50 is not in the vocabulary of 50"),
        ([[-1]], "sentence 1: token -1 is not in the vocabulary"),
        ([[1] * 65], "sentence 1: 65 tokens, and the model takes 64"),
    ],
)
def test_what_the_model_cannot_take_is_named(sentences, words):
    with pytest.raises(InputError, match=words):
        generate(TableEngine(5), sentences, Generation(start=-1, end=END))


def test_an_unknown_length_penalty_is_refused():
    with pytest.raises(ConfigError, match="choose one of: power, wu"):
        Generation(start=-1, end=END, length_penalty="linear")


@pytest.mark.parametrize("option", [{"n_best": 0}, {"batch_size": -1}, {"max_length": 0}])
def test_an_option_out_of_range_is_named(option):
    with pytest.raises(InputError, match=f"{next(iter(option))} must be 1 or more"):
        generate(TableEngine(5), [[1, END]], Generation(start=-1, end=END), **option)
    with pytest.raises(ConfigError, match="beam must be from 1 to 64, not 65"):
        generate(TableEngine(5), [[1, END]], Generation(start=-1, end=END), n_best=65)


@pytest.mark.parametrize("n_best", [1, 2])
def test_a_model_that_gives_nan_is_refused(n_best):
    engine = TableEngine(5)
    engine.log_probabilities = lambda source, prefix: np.full(5, np.nan)
    with pytest.raises(Error, match="NaN"):
        generate(engine, [[1, END]], Generation(start=-1, end=END), n_best=n_best)
