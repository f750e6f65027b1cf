"""A shortlist leaves each sentence the target tokens that it allows, in both engines, whatever else is in the batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from native_models import CONFIGS, native, reference, sentences
from test_native import GENERATION, TOLERANCES, same

from minitx.config import Generation
from minitx.engines.native import choose
from minitx.generation.search import generate
from minitx.weights.shortlist import Shortlist, integers

SOURCES = sentences(6, 3, 11, 1, 2, 40)


def random_shortlist(name, most, first=0, seed=0):
    """Up to `most` candidates of each source token."""
    config, random = CONFIGS[name], np.random.default_rng(seed)
    counts = random.integers(0, most + 1, config.source_vocab).astype(integers(config))
    ids = random.integers(0, config.target_vocab, counts.sum()).astype(integers(config))
    shortlist = Shortlist(first, counts, ids)
    assert not shortlist.problems(config)
    return shortlist


def allowed_by(*arguments, **more):
    return partial(random_shortlist(*arguments, **more).allowed, end=0)


def all_of(name):
    return lambda source: np.arange(CONFIGS[name].target_vocab, dtype=np.int32)


@pytest.mark.parametrize(
    ("name", "quantization"), [("post", "none"), ("ssru", "none"), ("odd", "none"), ("post", "int8"), ("post", "int4")]
)
@pytest.mark.parametrize(("most", "first"), [(1, 0), (5, 3), (60, 10)])  # a few, some, over half of the vocabulary
def test_both_engines_find_the_same_and_nothing_that_is_not_allowed(name, quantization, most, first):
    allowed = allowed_by(name, most, first)
    engines = native(name, quantization, allowed=allowed), reference(name, quantization, allowed=allowed)
    sources = SOURCES[:3] if quantization == "int4" else SOURCES
    for beam in (1, 4):
        generation, options = Generation(start=-1, end=0, beam=beam), {"max_length": 9, "min_length": 2}
        found, expected = (generate(e, sources, generation, **options) for e in engines)
        same(found, expected, TOLERANCES[quantization])
        for source, hypotheses in zip(sources, found, strict=True):
            assert {t for h in hypotheses for t in h.tokens} <= set(allowed(np.array(source)).tolist())


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("quantization", TOLERANCES)
def test_a_shortlist_of_all_changes_nothing(quantization, beam):
    generation = Generation(start=-1, end=0, beam=beam)
    engines = native("odd", quantization, allowed=all_of("odd")), native("odd", quantization)
    found, expected = (generate(e, SOURCES, generation, max_length=9) for e in engines)
    assert found == expected


@pytest.mark.parametrize("beam", [1, 4])
def test_a_sentence_gets_the_same_alone_and_in_any_batch(beam):
    generation = Generation(start=-1, end=0, beam=beam)
    engine = native("post", allowed=allowed_by("post", 8, 2))
    alone = [generate(engine, [s], generation, max_length=12)[0] for s in SOURCES]
    for size in (2, 3, 6):
        same(generate(engine, SOURCES, generation, max_length=12, batch_size=size), alone, 1e-5)


def test_any_number_of_threads_gives_the_same_to_the_bit():
    for most in (6, 60):
        allowed = allowed_by("odd", most)
        one, *more = (native("odd", threads=n, allowed=allowed) for n in (1, 2, 3, 7))
        expected = generate(one, SOURCES, GENERATION, n_best=4, max_length=6)
        assert all(generate(e, SOURCES, GENERATION, n_best=4, max_length=6) == expected for e in more)


@pytest.mark.parametrize("beam", [1, 4])
def test_where_only_the_end_is_allowed_nothing_is_found(beam):
    allowed = allowed_by("post", 0)
    for engine in (native("post", allowed=allowed), reference("post", allowed=allowed)):
        found = generate(engine, SOURCES, Generation(start=-1, end=0, beam=beam), max_length=5)
        assert [[(h.tokens, round(h.score, 6)) for h in best] for best in found] == [[((), 0)]] * len(SOURCES)
        assert all(not h.tokens for best in generate(engine, SOURCES, GENERATION, min_length=3) for h in best)


def test_tokens_come_one_after_another_as_in_a_search():
    """`Model.stream` goes step by step."""
    from minitx.engines.hypotheses import Limits
    from minitx.generation.search import greedy_steps

    engine = native("post", allowed=allowed_by("post", 8, 2))
    steps = [token for _, token, _ in greedy_steps(engine, SOURCES[:1], GENERATION, [Limits(0, 9)])]
    [best] = generate(engine, SOURCES[:1], GENERATION, max_length=9)[0]
    assert [t for t in steps if t] == list(best.tokens)


def test_what_is_chosen_is_packed_as_the_kernels_read_it():
    lists = [np.array(ids, np.int32) for ids in ([0, 3, 20], [0, 7, 99])]
    candidates, bits = choose(lists, 100)
    assert candidates.tolist() == [0, 3, 7, 20, 99] and bits.tolist() == [[0b01011, 0], [0b10101, 0]]
    assert [part.size for part in choose(lists[:1], 100)] == [3, 0]
    assert [part.shape for part in choose([np.arange(60), np.arange(3)], 100)] == [(0,), (2, 14)]
    assert [part.size for part in choose([np.arange(100)], 100)] == [0, 0]
