"""Stored matrices as tensors compute what a formula in numpy says: the integers to the bit, the rest to rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad import Tensor, UOp

from minitx.compiler.render import kernels
from minitx.config import Generation, preset
from minitx.engines.jit import JitEngine
from minitx.errors import ConfigError
from minitx.generation.search import generate
from minitx.nn.matrix import PRODUCTS, ROWS, Matrix, quantize
from minitx.nn.ops import linear, padding_mask, upload
from minitx.nn.quant import QUANTIZATIONS, Hints, scheme
from minitx.nn.transformer import Transformer
from minitx.weights.checkpoint import Checkpoint
from minitx.weights.quant import quantized
from minitx.weights.shapes import expected

STORED = [row for row in QUANTIZATIONS if row != "none"]


def quantized_rows(x):
    """x (B,K) to its integers and scales (B,1), as kernels/quantize.h says."""
    largest = np.abs(x).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(x * inverse).astype(np.int64), largest / np.float32(127)


# A product by the formula of each row: x (B,K), the stored parts, and what they stand for (N,K).
def by_floats(x, parts, w):
    return x.astype(np.float64) @ w.T


def by_int8(x, parts, w):
    q, own = quantized_rows(x)
    return (q @ parts[""].T.astype(np.int64)).astype(np.float32) * (parts[".scale"] * own)


def by_int4(x, parts, w):
    q, own = quantized_rows(x)
    packed, zero = parts[""].astype(np.int64), parts[".zero"].astype(np.int64)
    y = np.zeros((len(x), len(w)), np.float32)
    for k in range(x.shape[1]):
        value = (packed[:, k // 2] >> (4 if k % 2 else 0)) & 15
        y += q[:, k, None] * (value - zero[:, k // 32]) * parts[".scale"][:, k // 32].astype(np.float32)
    return y * own


FORMULAS = {"f16": by_floats, "bf16": by_floats, "int8w": by_floats, "int8": by_int8, "int4": by_int4}


def make(row, w, device="CPU"):
    parts = QUANTIZATIONS[row].quantize(w, Hints())
    matrix = Matrix(row, w.shape, device)
    for end, part in parts.items():
        matrix.parts[end].replace(upload(part, device))
    return matrix, parts


def test_every_row_has_a_product_and_rows():
    assert set(PRODUCTS) == set(ROWS) == set(FORMULAS) == set(STORED)


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 70), st.floats(1e-6, 1e6))
def test_activations_become_the_integers_of_the_formula(seed, rows, columns, size):
    x = (np.random.default_rng(seed).normal(size=(rows, columns)) * size).astype(np.float32)
    x[rows // 2] = 0
    q, scale = quantize(Tensor(x, device="CPU"))
    wanted, wanted_scale = quantized_rows(x)
    np.testing.assert_array_equal(q.numpy(), wanted)
    np.testing.assert_allclose(scale.numpy(), wanted_scale, rtol=2e-7)
    assert scale.numpy()[rows // 2] == 0 and np.abs(q.numpy()).max() <= 127


def test_halves_of_a_step_go_to_the_even_integer():
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]], np.float32)
    assert quantize(Tensor(x, device="CPU"))[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(bad):
    x = np.ones((2, 32), np.float32)
    x[0, 5] = bad
    scale = quantize(Tensor(x, device="CPU"))[1].numpy()
    assert np.isnan(scale[0]) and np.isfinite(scale[1])


@settings(max_examples=10)
@given(st.sampled_from(STORED), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_products_are_the_formula(row, outputs, groups, rows, seed):
    random = np.random.default_rng(seed)
    inputs = 32 * groups if row == "int4" else int(random.integers(1, 80))
    w = random.normal(size=(outputs, inputs)).astype(np.float32)
    x, bias = (random.normal(size=size).astype(np.float32) for size in ((rows, inputs), (outputs,)))
    matrix, parts = make(row, w)
    got = linear(Tensor(x, device="CPU"), matrix, Tensor(bias, device="CPU")).numpy()
    dense = QUANTIZATIONS[row].dequantize(parts)
    np.testing.assert_allclose(got, FORMULAS[row](x, parts, dense) + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", STORED)
def test_rows_are_what_is_stored(row):
    matrix, parts = make(row, np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32))
    index = np.array([[3, 0], [8, 3]], np.int32)
    found = matrix.rows(Tensor(index, device="CPU")).numpy()
    np.testing.assert_array_equal(found, QUANTIZATIONS[row].dequantize(parts)[index])


@pytest.mark.parametrize("row", STORED)
def test_python_executes_what_the_cpu_does(row):
    random = np.random.default_rng(1)
    w, x = random.normal(size=(3, 32)).astype(np.float32), random.normal(size=(2, 32)).astype(np.float32)
    one, two = (linear(Tensor(x, device=d), make(row, w, d)[0]).numpy() for d in ("CPU", "PYTHON"))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


# What tinygrad 0.14.0 makes of one linear layer: activations are quantized by two kernels before an integer product.
KERNELS = {"f16": 1, "bf16": 1, "int8w": 1, "int8": 3, "int4": 3}


@pytest.mark.parametrize("row", STORED)
def test_cast_and_scale_are_in_the_kernel_of_the_product(row):
    matrix = Matrix(row, (512, 256), "NULL")
    calls = kernels(linear(Tensor.empty(1, 256, device="NULL"), matrix, Tensor.empty(512, device="NULL")))
    assert len(calls) == KERNELS[row]
    written = [call.src[1] for call in calls]
    assert all(buffer.shape[0] <= 512 for buffer in written), "a copy of the matrix is made"


@pytest.mark.parametrize("row", STORED)
@pytest.mark.parametrize("mixer", ["attention", "ssru"])
def test_a_whole_step_is_scheduled_where_nothing_runs(row, mixer):
    model = Transformer(preset("tiny", quantization=row, mixer=mixer), "NULL", seed=None)
    mask = Tensor(padding_mask(np.array([8]), 8), device="NULL")
    cache = model.new_cache(1, 8, 16)
    memory = model.encode(Tensor.empty(1, 8, dtype="int32", device="NULL"), mask)
    assert kernels(*model.start(memory, mask, cache).values())
    token = Tensor.empty(1, dtype="int32", device="NULL")
    logits, cache = model.decode_step(token, cache, UOp.variable("position", 0, 15).bind(3))
    assert kernels(logits, *cache.values())


def test_a_quantized_model_draws_no_weights_and_takes_none_of_another_type():
    with pytest.raises(ConfigError, match="quantize them afterwards"):
        Transformer(preset("tiny", quantization="int8"), "CPU", seed=0)
    model = Transformer(preset("tiny", quantization="f16"), "CPU", seed=None)
    weights = {name: np.zeros(w.shape, np.float32) for name, w in model.parameters().items()}
    with pytest.raises(ConfigError, match="must be stored as f16"):
        model.load(weights)


def test_a_rule_about_nothing_is_told():
    with pytest.raises(ConfigError, match=r"decoder\.layers\.7=f16 is about no matrix"):
        Transformer(preset("tiny", keep=("decoder.layers.7=f16",)), "NULL", seed=None)


EXACT = ("f16", "bf16", "int8w")  # rows whose activations stay float32


@pytest.mark.slow
@pytest.mark.parametrize("row", STORED)
@pytest.mark.parametrize("changes", [{}, {"tying": "none", "mixer": "ssru", "output_bias": True}])
def test_the_tinygrad_engine_says_what_the_stored_numbers_say(row, changes):
    config = preset("tiny", **changes)
    weights = {name: w.numpy() for name, w in Transformer(config, "CPU", seed=4).parameters().items()}
    rng = np.random.default_rng(5)
    noise = {name: rng.normal(0, 0.1, w.shape).astype(np.float32) for name, w in weights.items() if w.ndim == 1}
    weights = {name: w + noise.get(name, 0) for name, w in weights.items()}
    search = Generation(start=-1, end=0, suppress=(1,), beam=3)
    first = Checkpoint(config, search, None, None, weights, {})  # tokenizers are not looked at
    small = quantized(first, row, ["decoder.layers.0.feedforward=f16"])
    dense = {name: dequantized(small, name) for name in weights}
    stored = Transformer(small.config, "CPU", seed=None).load(small.weights)
    plain = Transformer(config, "CPU", seed=None).load(dense)
    sources = [[5, 6, 7, 0], [9, 40, 3, 11, 12, 0], [8, 0]]
    one, two = (generate(JitEngine(m, (1,)), sources, search, max_length=6) for m in (stored, plain))
    if row in EXACT:
        assert [best[0].tokens for best in one] == [best[0].tokens for best in two]
    tokens = Tensor(np.array([sources[1]], np.int32), device="CPU")
    one, two = (m.forward(tokens, tokens).numpy() for m in (stored, plain))
    np.testing.assert_allclose(one, two, atol=1e-4 if row in EXACT else 0.05 * np.abs(two).max())


def dequantized(checkpoint, name):
    """A weight of a quantized checkpoint as float32, by the numpy half of its row."""
    w = checkpoint.weights[name]
    if w.ndim != 2:
        return w
    shape = expected(checkpoint.config)[name]
    row = QUANTIZATIONS[scheme(name, shape, checkpoint.config)]
    return row.dequantize({end: checkpoint.weights[name + end] for end in row.parts})
