"""What masks hide has no effect, a row that is hidden everywhere gives zeros, and a cache changes nothing.

tests/nn/test_torch.py holds attention against PyTorch's.
"""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minitx.config import preset
from minitx.nn.attention import Attention, SelfAttention, attend, causal_mask
from minitx.nn.cache import UOp
from minitx.nn.ops import Tensor, padding_mask, parameters, softmax
from minitx.nn.transformer import Transformer

few = settings(max_examples=5, deadline=None, print_blob=True, phases=set(Phase) - {Phase.shrink})
seeds = st.integers(0, 2**32 - 1)
NO = -np.inf


def on_cpu(x):
    return Tensor(np.ascontiguousarray(x), device="CPU")


def random_input(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def randomized(module, rng):
    for tensor in parameters(module).values():
        tensor.replace(on_cpu(random_input(rng, *tensor.shape) * np.float32(tensor.shape[-1] ** -0.5)))
    return module


# Softmax


def test_softmax_of_a_row_that_is_masked_everywhere_is_zeros():
    rows = np.array([[NO, NO, NO], [0, NO, NO], [1, 1, NO], [NO, NO, NO]], np.float32)
    assert np.allclose(softmax(on_cpu(rows)).numpy(), [[0, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]])


@given(size=st.sampled_from([1, 2, 7, 64]), spread=st.sampled_from([1e-3, 1.0, 30.0, 1e4]), seed=seeds)
@settings(few, max_examples=12)
def test_softmax_is_its_definition_at_any_size_of_score(size, spread, seed):
    x = random_input(np.random.default_rng(seed), 3, size) * np.float32(spread)
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    np.testing.assert_allclose(softmax(on_cpu(x)).numpy(), e / e.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [-3e38, -1e30, 3e38])
def test_softmax_of_equal_scores_is_even_however_large_they_are(value):
    assert np.allclose(softmax(on_cpu(np.full((1, 4), value, np.float32))).numpy(), 0.25)


# Masks


def test_padding_mask_hides_what_is_behind_each_length():
    mask = padding_mask(np.array([3, 1, 0]), 3)
    assert mask.shape == (3, 1, 1, 3) and mask.dtype == np.float32
    assert np.array_equal(mask[:, 0, 0], [[0, 0, 0], [0, NO, NO], [NO, NO, NO]])


def test_causal_mask_hides_what_comes_after():
    assert np.array_equal(causal_mask(3, "CPU").numpy(), [[0, NO, NO], [0, 0, NO], [0, 0, 0]])


@given(heads=st.sampled_from([1, 2]), batch=st.sampled_from([1, 3]), keys=st.sampled_from([1, 4]), seed=seeds)
@few
def test_a_query_that_sees_nothing_gets_zeros_and_the_others_what_they_see(heads, batch, keys, seed):
    rng = np.random.default_rng(seed)
    query, key, value = (random_input(rng, batch, heads, n, 8) for n in (5, keys, keys))
    hidden = rng.random((batch, 1, 5, keys)) < 0.5
    hidden[:, :, 2] = True
    got = attend(*map(on_cpu, (query, key, value)), on_cpu(np.where(hidden, NO, 0).astype(np.float32))).numpy()
    for b, h, t in np.ndindex(batch, heads, 5):
        seen = np.flatnonzero(~hidden[b, 0, t])
        e = np.exp(key[b, h, seen] @ query[b, h, t] / 8**0.5)
        wanted = (e / e.sum()) @ value[b, h, seen] if len(seen) else np.zeros(8)
        np.testing.assert_allclose(got[b, h, t], wanted, rtol=1e-5, atol=1e-5)


@given(heads=st.sampled_from([1, 4]), length=st.sampled_from([1, 3]), padding=st.sampled_from([1, 4]), seed=seeds)
@few
def test_padding_changes_nothing(heads, length, padding, seed):
    """Whatever stands in it, large numbers too: exactly nothing of it comes through."""
    rng = np.random.default_rng(seed)
    attention = randomized(Attention(preset("tiny", heads=heads), "CPU"), rng)
    x, memory = random_input(rng, 2, 3, 32), random_input(rng, 2, length, 32)
    alone = attention(on_cpu(x), *attention.keys_values(on_cpu(memory))).numpy()
    mask = on_cpu(padding_mask(np.array([length] * 2), length + padding))
    for rubbish in (random_input(rng, 2, padding, 32), np.full((2, padding, 32), 1e6, np.float32)):
        padded = on_cpu(np.concatenate([memory, rubbish], 1))
        got = attention(on_cpu(x), *attention.keys_values(padded), mask).numpy()
        np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mixer", "placement"), [("attention", "pre"), ("ssru", "post")])
def test_a_sentence_among_longer_ones_has_the_logits_it_has_alone(mixer, placement):
    config = preset("tiny", mixer=mixer, placement=placement)
    model, rng = Transformer(config, seed=5), np.random.default_rng(1)
    lengths = np.array([7, 2, 4])
    source, target = (rng.integers(0, 96, (3, n)).astype(np.int32) for n in (7, 5))
    together = model.forward(on_cpu(source), on_cpu(target), on_cpu(padding_mask(lengths, 7))).numpy()
    for row, length in list(enumerate(lengths))[1:]:  # the first has no padding
        alone = model.forward(on_cpu(source[row : row + 1, :length]), on_cpu(target[row : row + 1])).numpy()
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_a_source_that_is_padding_alone_gives_numbers():
    model = Transformer(preset("tiny"))
    ids = np.zeros((2, 3), np.int32)
    logits = model.forward(on_cpu(ids), on_cpu(ids), on_cpu(padding_mask(np.array([3, 0]), 3))).numpy()
    assert np.isfinite(logits).all()


# The cache


@pytest.mark.parametrize(("batch", "heads"), [(1, 4), (3, 1)])
def test_one_position_after_another_is_all_at_once(batch, heads):
    rng = np.random.default_rng(batch)
    attention = randomized(SelfAttention(preset("tiny", heads=heads), "CPU"), rng)
    x = random_input(rng, batch, 5, 32)
    whole = attention.sequence(on_cpu(x)).numpy()
    shape = (batch, heads, 8, 32 // heads)
    assert attention.shapes(batch, 8) == {"self.k": shape, "self.v": shape}
    rubbish = np.full(shape, np.nan, np.float32)  # what is not yet written is never looked at
    cache = {name: on_cpu(rubbish).realize() for name in ("2.self.k", "2.self.v")}
    position = UOp.variable("position", 0, 7)
    for t in range(5):
        y = attention.step(on_cpu(x[:, t : t + 1]), cache, 2, position.bind(t))
        Tensor.realize(y, *cache.values())
        np.testing.assert_allclose(y.numpy()[:, 0], whole[:, t], rtol=1e-5, atol=1e-5)
    keys = attention.split(attention.key(on_cpu(x))).numpy()
    np.testing.assert_allclose(cache["2.self.k"].numpy()[:, :, :5], keys, rtol=1e-5, atol=1e-5)
    assert np.isnan(cache["2.self.k"].numpy()[:, :, 5:]).all()
