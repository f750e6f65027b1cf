"""The whole model: one token after another equals all at once, and nothing depends on its neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad import Tensor, UOp

from minitx.compiler.render import kernels
from minitx.config import PRESETS, preset
from minitx.errors import ConfigError
from minitx.nn.ops import padding_mask
from minitx.nn.transformer import Transformer, initial_weights

DEVICE = "CPU"


def tensor(values):
    return Tensor(values, device=DEVICE)


def random_batch(config, lengths, steps, seed=0):
    """Sources of these lengths, padded with random tokens, their mask, and decoder inputs that start with no token."""
    random = np.random.default_rng(seed)
    source = random.integers(0, config.source_vocab, (len(lengths), max(lengths))).astype(np.int32)
    target = random.integers(0, config.target_vocab, (len(lengths), steps)).astype(np.int32)
    target[:, 0] = -1
    return source, target, padding_mask(np.array(lengths), max(lengths))


def step_by_step(model, source, target, mask, capacity):
    """The logits (B,T,V) that `decode_step` gives for the decoder inputs, one position after another."""
    rows, steps = target.shape
    mask = tensor(mask)
    cache = model.start(model.encode(tensor(source), mask), mask, model.new_cache(rows, source.shape[1], capacity))
    Tensor.realize(*cache.values())
    logits = []
    for i in range(steps):
        position = UOp.variable("position", 0, capacity - 1).bind(i)
        step, cache = model.decode_step(tensor(target[:, i]), cache, position)
        Tensor.realize(step, *cache.values())
        logits.append(step.numpy())
    return np.stack(logits, 1)


def check_steps(config, lengths, steps, capacity, seed=0):
    model = Transformer(config, DEVICE, seed)
    source, target, mask = random_batch(config, lengths, steps, seed)
    whole = model.forward(tensor(source), tensor(target), tensor(mask)).numpy()
    assert whole.shape == (len(lengths), steps, config.target_vocab) and np.isfinite(whole).all()
    assert whole.std() > 0.1
    np.testing.assert_allclose(step_by_step(model, source, target, mask, capacity), whole, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_step_by_step_equals_all_at_once_for_every_preset(name):
    check_steps(preset(name), [5, 3], 3, 8)


@st.composite
def configs(draw):
    """Random legal shapes and choices, small."""
    heads = draw(st.sampled_from([1, 2, 3, 4]))
    tying = draw(st.sampled_from(["all", "target", "source", "none"]))
    vocab = draw(st.integers(3, 40))
    return preset(
        "tiny",
        heads=heads,
        d_model=heads * draw(st.sampled_from([2, 4, 6])),
        d_ff=draw(st.integers(1, 20)),
        encoder_layers=draw(st.integers(1, 2)),
        decoder_layers=draw(st.integers(1, 2)),
        source_vocab=vocab,
        target_vocab=vocab if tying in ("all", "source") else draw(st.integers(3, 40)),
        tying=tying,
        placement=draw(st.sampled_from(["post", "pre"])),
        final_norm=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu", "gelu", "gelu_tanh", "silu"])),
        positions=draw(st.sampled_from(["sinusoidal", "sinusoidal_split"])),
        mixer=draw(st.sampled_from(["attention", "ssru"])),
        output_bias=draw(st.booleans()),
        embedding_scale=draw(st.booleans()),
        max_length=16,
    )


@pytest.mark.slow
@settings(max_examples=12)
@given(configs(), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 5))
def test_step_by_step_equals_all_at_once_for_random_shapes(config, lengths, steps):
    check_steps(config, lengths, steps, capacity=steps + 1)


@pytest.mark.parametrize("mixer", ["attention", "ssru"])
def test_a_sentence_in_a_batch_of_longer_ones_gives_the_same_logits_as_alone(mixer):
    config = preset("tiny", mixer=mixer)
    model = Transformer(config, DEVICE, 3)
    source, target, mask = random_batch(config, [7, 2, 4], 4)
    together = model.forward(tensor(source), tensor(target), tensor(mask)).numpy()
    for row, length in enumerate([7, 2, 4]):
        alone = model.forward(tensor(source[row : row + 1, :length]), tensor(target[row : row + 1])).numpy()
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


@pytest.mark.parametrize("mixer", ["attention", "ssru"])
def test_a_position_does_not_see_those_after_it(mixer):
    config = preset("tiny", mixer=mixer)
    model = Transformer(config, DEVICE, 3)
    source, target, mask = random_batch(config, [4], 5)
    changed = target.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % config.target_vocab
    first = model.forward(tensor(source), tensor(target), tensor(mask)).numpy()
    second = model.forward(tensor(source), tensor(changed), tensor(mask)).numpy()
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=1e-6)
    assert np.abs(first[:, 3] - second[:, 3]).max() > 1e-3


def test_no_token_is_the_zero_vector():
    config = preset("tiny", output_bias=True)
    model = Transformer(config, DEVICE, 0)
    embedded = model.target(tensor(np.array([[-1, 5]], np.int32))).numpy()
    assert not embedded[0, 0].any()
    np.testing.assert_allclose(embedded[0, 1], model.target.weight.numpy()[5] * config.d_model**0.5, rtol=1e-6)


def test_weights_that_do_not_fit_are_named_both_ways():
    model = Transformer(preset("tiny"), DEVICE, None)
    weights = initial_weights(model, 0)
    weights["source.bias"] = weights.pop("source.weight")
    weights["encoder.layers.0.self.query.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ConfigError) as error:
        model.load(weights)
    assert "missing weights: source.weight;" in str(error.value)
    assert "unknown weights: 'source.bias'" in str(error.value)
    assert "encoder.layers.0.self.query.bias is (3,), not (32,)" in str(error.value)


def test_equal_seeds_draw_equal_weights():
    model = Transformer(preset("tiny"), DEVICE, None)
    one, two, other = initial_weights(model, 1), initial_weights(model, 1), initial_weights(model, 2)
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["source.weight"] != other["source.weight"]).any()


KERNELS = {"tiny": 54, "marian-tiny": 40}  # what tinygrad 0.14.0 makes of one decode step of two layers


@pytest.mark.parametrize(("name", "count"), KERNELS.items())
def test_a_decode_step_stays_as_fused_as_it_is(name, count):
    model = Transformer(preset(name), "NULL", seed=None)
    cache = model.new_cache(1, 8, 16)
    tokens = Tensor.empty(1, dtype="int32", device="NULL")
    logits, cache = model.decode_step(tokens, cache, UOp.variable("position", 0, 15).bind(3))
    assert len(kernels(logits, *cache.values())) == count
