"""SSRU is a plain loop over positions, however it is worked out."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minitx.config import preset
from minitx.nn.ops import Tensor, parameters
from minitx.nn.recurrence import SSRU


def make(channels, seed, spread=1.0):
    """An SSRU with random weights, and those weights in numpy."""
    rng = np.random.default_rng(seed)
    ssru = SSRU(preset("tiny", d_model=channels, heads=1, mixer="ssru"), "CPU")
    weights = {}
    for name, tensor in parameters(ssru).items():
        scale = spread * tensor.shape[-1] ** -0.5
        weights[name] = rng.normal(0, scale, tensor.shape).astype(np.float32)
        tensor.replace(Tensor(weights[name], device="CPU"))
    return ssru, weights, rng


def loop(x, weights):
    """f = sigmoid(x Wf + bf), c = f c + (1 - f) x W, output relu(c), in float64: (B,T,C) to outputs and last cell."""
    x = x.astype(np.float64)
    cell, out = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        forget = 1 / (1 + np.exp(-(x[:, t] @ weights["forget.weight"].T + weights["forget.bias"])))
        cell = forget * cell + (1 - forget) * (x[:, t] @ weights["candidate.weight"].T)
        out.append(np.maximum(cell, 0))
    return np.stack(out, 1), cell


def test_its_weights_are_marians():
    names = {name: tuple(t.shape) for name, t in parameters(make(6, 0)[0]).items()}
    assert names == {"candidate.weight": (6, 6), "forget.weight": (6, 6), "forget.bias": (6,)}


@given(
    batch=st.sampled_from([1, 3]),
    length=st.sampled_from([1, 2, 3, 8, 33]),
    channels=st.just(16),
    spread=st.sampled_from([0.1, 1.0, 8.0]),  # up to gates that are shut or open
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=10, deadline=None, print_blob=True, phases=set(Phase) - {Phase.shrink})
def test_all_positions_at_once_are_the_loop(batch, length, channels, spread, seed):
    ssru, weights, rng = make(channels, seed, spread)
    x = rng.standard_normal((batch, length, channels)).astype(np.float32)
    got = ssru.sequence(Tensor(x, device="CPU")).numpy()
    np.testing.assert_allclose(got, loop(x, weights)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_one_position_after_another_is_the_loop(batch):
    ssru, weights, rng = make(16, 7)
    x = rng.standard_normal((batch, 6, 16)).astype(np.float32)
    assert ssru.shapes(batch, 6) == {"rnn.c": (batch, 16)}
    cache = {"1.rnn.c": Tensor(np.zeros((batch, 16), np.float32), device="CPU").realize()}
    outputs = []
    for t in range(x.shape[1]):
        y = ssru.step(Tensor(x[:, t : t + 1], device="CPU"), cache, 1, t)
        Tensor.realize(y, *cache.values())
        outputs.append(y.numpy())
    wanted, cell = loop(x, weights)
    np.testing.assert_allclose(np.concatenate(outputs, 1), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cache["1.rnn.c"].numpy(), cell, rtol=1e-5, atol=1e-5)


def test_a_later_token_changes_nothing_before_it():
    ssru, _, rng = make(16, 3)
    x = rng.standard_normal((1, 9, 16)).astype(np.float32)
    before = ssru.sequence(Tensor(x, device="CPU")).numpy()
    x[:, 6] += 1
    after = ssru.sequence(Tensor(x, device="CPU")).numpy()
    assert np.array_equal(before[:, :6], after[:, :6])
    assert not np.allclose(before[:, 6:], after[:, 6:])
