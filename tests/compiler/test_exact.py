"""What quantized models are computed with gives the same bits on every instruction set, from every compiler: those that
numpy gives, in the order that the headers promise.

Axes: R rows, N outputs, K inputs, C channels, H heads, D head size, T keys.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels import ACTIVATIONS, Weights, kernels, normal, padded_bias, quantized, rng, scratch, sizes

F = np.float32
assert kernels  # the fixture: every test here runs once for each build


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c, rounded once: products of floats are exact in double."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(F)


def dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    """The sum of products (n): number i in lane i % 16, and then halves of the lanes."""
    lanes = np.zeros(16, F)
    for both in np.pad(np.stack([a, b]), ((0, 0), (0, -len(a) % 16))).reshape(2, -1, 16).transpose(1, 0, 2):
        lanes = fma(*both, lanes)
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def lanes_sum(x: np.ndarray) -> np.float32:
    return dot(x, np.ones_like(x))


def exp(x: np.ndarray) -> np.ndarray:
    """`vf_exp` of simd.h."""
    x = np.minimum(F(88), np.maximum(F(-88), x))
    n = np.rint(x * F(1.44269504)).astype(F)
    f = fma(n, F(2.12194440e-4), fma(n, F(-0.693359375), x))
    p = fma(F(1 / 5040), f, F(1 / 720))
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = fma(p, f, F(coefficient))
    return p * ((n.astype(np.int32) + 127) << 23).view(F)


def softmax(scores: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Weights (T) that lack a factor, and the factor."""
    e = exp(scores - scores.max())
    return e, F(1) / lanes_sum(e)


def weighted_sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights (T) times values (T,D), added up one after the other."""
    total = np.zeros(values.shape[1], F)
    for weight, value in zip(weights, values, strict=True):
        total = fma(weight, value, total)
    return total


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A query (D) over keys and values (T,D), as a step does it."""
    root = F(1) / np.sqrt(F(len(q)))
    weights, factor = softmax(np.array([dot(q, key) * root for key in k], F))
    return weighted_sum(weights, v) * factor


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.asarray(a, F).view(np.int32), np.asarray(b, F).view(np.int32))


@pytest.mark.parametrize("c", [1, 5, 16, 40, 256, 500])
def test_layernorm(kernels, c):
    r = rng(c)
    x, add, gain, bias = normal(r, 3, c), normal(r, 3, c), normal(r, c), normal(r, c)
    y = kernels("layernorm", [np.zeros_like(x), None, x, add, gain, bias, sizes(3)], [c], 1e-6)[0]
    for row, found in zip(x + add, y, strict=True):
        centred = row - lanes_sum(row) / F(c)
        factor = F(1) / np.sqrt(dot(centred, centred) / F(c) + F(1e-6))
        assert same(found, centred * factor * gain + bias)


@pytest.mark.parametrize(("heads", "d"), [(1, 1), (2, 17), (2, 32), (1, 64)])
def test_attention_of_a_step(kernels, heads, d):
    for count in (1, 15, 40):
        r, c = rng(d, count), heads * d
        k, v, q = normal(r, count, c), normal(r, count, c), normal(r, 2, c) * F(3)
        starts, sources = np.array([0, count], np.int32), np.zeros(2, np.int32)
        buffers = [np.ones_like(q), q, k, v, sources, starts, sizes(2, 0, 1, longest=count), scratch(kernels, count, d)]
        out = kernels("attend_cross", buffers, [heads, d])[0]
        for row in range(2):
            for part in (slice(h * d, h * d + d) for h in range(heads)):
                assert same(out[row, part], attended(q[row, part], k[:, part], v[:, part]))


@pytest.mark.parametrize(("heads", "d"), [(1, 1), (2, 17), (2, 32), (1, 64)])
def test_attention_of_an_encoder(kernels, heads, d):
    for count in (1, 15, 40):
        r, c = rng(d, count), heads * d
        q, k, v = (normal(r, count, c) * F(2) for _ in range(3))
        starts = np.array([0, count], np.int32)
        buffers = [np.ones_like(q), q, k, v, starts, sizes(count, 0, 1, longest=count), scratch(kernels, count, d)]
        out = kernels("attend_encoder", buffers, [heads, d])[0]
        root = F(1) / np.sqrt(F(d))
        for part in (slice(h * d, h * d + d) for h in range(heads)):
            keys = k[:, part] * root
            for row in range(count):
                weights, factor = softmax(weighted_sum(q[row, part], keys.T))
                assert same(out[row, part], weighted_sum(weights, v[:, part]) * factor)


def activated(x: np.ndarray, activation: str) -> np.ndarray:
    if activation == "RELU":
        return np.maximum(F(0), x)
    if activation == "SILU":
        return x * (F(1) / (F(1) + exp(-x)))
    return F(1) / (F(1) + exp(-x)) if activation == "SIGMOID" else x


@pytest.mark.parametrize("activation", ["IDENTITY", "RELU", "SILU", "SIGMOID"])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantized_matrices(kernels, scheme, activation):
    rows, n, k = 5, 50, 96
    r = rng(n)
    weights, x, bias = Weights(scheme, n, k, r), normal(r, rows, k), normal(r, n)
    operand, _ = weights.operand(x)
    buffers = [np.zeros((rows, n), F), operand, weights.packed, padded_bias(bias), sizes(rows)]
    y = kernels(f"linear_{scheme}", buffers, [k, n, ACTIVATIONS.index(activation)])[0]
    scale, q = quantized(x)
    if scheme == "int8":
        products = (q.astype(np.int64) @ weights.q.T.astype(np.int64)).astype(F) * (weights.scale * scale[:, None])
    else:
        products = np.zeros((rows, n), F)
        for group in range(k // 32):
            columns = slice(group * 32, group * 32 + 32)
            sums = q[:, columns].astype(np.int64) @ (weights.nibbles - weights.zero.repeat(32, 1))[:, columns].T
            products = fma(sums, weights.group_scale[:, group], products)
        products = products * scale[:, None]
    assert same(y, activated(products + bias, activation))


def test_exp(kernels):
    x = np.concatenate([np.linspace(-90, 88, 9999), [-np.inf]]).astype(F)
    assert same(kernels("exp", [np.zeros_like(x), x], [len(x)])[0], exp(x))
