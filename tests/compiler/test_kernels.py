"""Every kernel against numpy, on every instruction set this machine can run, under the sanitizers where there are any.

The kernels run in a process of their own, a small driver around them. It takes calls on its standard input, with all
buffers at exactly the size they must have, runs the shares of the threads one after another, and gives the buffers
back. So the same tests serve a build with sanitizers and one for another processor, which qemu runs.

Axes: R rows, N outputs, K inputs, C channels, H heads, D head size, T time.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from minitx.compiler import packing
from minitx.compiler.packing import TOP_CHUNKS, TOP_STRIDE, packed_bytes, padded

KERNELS = Path(packing.__file__).parent / "kernels"
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fno-exceptions", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-pass-failed", f"-I{KERNELS}"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
NEON = ["-target", "aarch64-linux-musl", "-static"]
BUILDS = {  # name: compiler, flags, what the processor must have, emulator
    "avx512": ("clang", [*AVX512, *SANITIZERS], "avx512_vnni", ""),
    "avx2": ("clang", [*AVX2, *SANITIZERS], "avx2", ""),
    "avxvnni": ("clang", [*AVX2, "-mavxvnni", *SANITIZERS], "avx_vnni", ""),
    "plain": ("clang", SANITIZERS, "", ""),
    "avx512-fast": ("clang", AVX512, "avx512_vnni", ""),
    "avx2-fast": ("clang", AVX2, "avx2", ""),
    "plain-fast": ("clang", [], "", ""),
    "avx512-gcc": ("gcc", AVX512, "avx512_vnni", ""),
    "plain-gcc": ("gcc", [], "", ""),
    "neon": ("zig", NEON, "", "qemu-aarch64"),
    "neon-dotprod": ("zig", [*NEON, "-mcpu=baseline+dotprod"], "", "qemu-aarch64"),
    "neon-i8mm": ("zig", [*NEON, "-mcpu=baseline+dotprod+i8mm"], "", "qemu-aarch64"),
    "riscv": ("zig", ["-target", "riscv64-linux-musl", "-static"], "", "qemu-riscv64"),
}
NONE = None
SCHEMES = ("f32", "f16", "bf16", "int8", "int8w", "int4")
SCHEMES_STORED = {scheme: scheme for scheme in SCHEMES} | {"f32": "none"}  # rows of QUANTIZATIONS
ACTIVATIONS = ("IDENTITY", "RELU", "GELU", "GELU_TANH", "SILU", "SIGMOID")

# A call is: name, threads, 8 ints, a float, then each buffer as its length (-1: NULL) and its bytes.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include "kernels.h"

typedef struct { char name[24]; int32_t threads, i[8]; float f; int32_t buffers; } Call;
static void *b[12];

static void run(const Call *c, int t) {
    const int32_t *i = c->i, n = c->threads;
#define IS(kernel) else if (!strcmp(c->name, #kernel))
    if (!strcmp(c->name, "quantize")) quantize(b[0], b[1], b[2], i[0], t, n);
    IS(layernorm) layernorm(b[0], b[1], b[2], b[3], b[4], b[5], b[6], i[0], c->f, t, n);
    IS(attend_step) attend_step(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], i[0], i[1], b[8], t, n);
    IS(attend_cross) attend_cross(b[0], b[1], b[2], b[3], b[4], b[5], b[6], i[0], i[1], b[7], t, n);
    IS(attend_encoder) attend_encoder(b[0], b[1], b[2], b[3], b[4], b[5], i[0], i[1], b[6], t, n);
    IS(top_merge) top_merge(b[0], b[1], b[2], b[3], b[4], t, n);
#define LINEAR_OF(s) \
    IS(linear_##s) linear_##s(b[0], b[1], b[2], b[3], b[4], i[0], i[1], i[2], t, n); \
    IS(top_##s) top_##s(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], i[0], i[1], t, n); \
    IS(choose_##s) choose_##s(b[0], b[1], b[2], b[3], b[4], b[5], i[0], i[1], t, n); \
    IS(embed_##s) embed_##s(b[0], b[1], b[2], b[3], b[4], b[5], i[0], i[1], c->f, t, n);
    LINEAR_OF(f32) LINEAR_OF(f16) LINEAR_OF(bf16) LINEAR_OF(int8) LINEAR_OF(int8w) LINEAR_OF(int4)
    IS(exp) for (int j = 0; j + LANES <= i[0]; j += LANES)
        vf_store((float *)b[0] + j, vf_exp(vf_load((float *)b[1] + j)));
    IS(scratch) *(int64_t *)b[0] = (int64_t)attend_scratch(i[0], i[1]);
    else exit(2);
}

int main(void) {
    Call c;
    while (fread(&c, sizeof c, 1, stdin) == 1) {
        int32_t length[12];
        for (int i = 0; i < c.buffers; i++) {
            b[i] = NULL;
            if (fread(&length[i], 4, 1, stdin) != 1) return 1;
            if (length[i] < 0) continue;
            if (posix_memalign(&b[i], 64, (size_t)length[i])) return 1;
            if (length[i] && fread(b[i], (size_t)length[i], 1, stdin) != 1) return 1;
        }
        for (int t = 0; t < c.threads; t++) run(&c, t);
        for (int i = 0; i < c.buffers; i++) {
            if (length[i] > 0) fwrite(b[i], (size_t)length[i], 1, stdout);
            free(b[i]);
        }
        fflush(stdout);
    }
    return 0;
}
"""


class Kernels:
    """A running driver: `kernels("quantize", [buffers...], ints, float, threads)` gives the buffers after the call."""

    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, name, buffers, ints=(), value=0.0, threads=1):
        ints = [*ints, *[0] * (8 - len(ints))]
        parts = [struct.pack("<24s9ifi", name.encode(), threads, *ints, value, len(buffers))]
        for buffer in buffers:
            parts += [struct.pack("<i", -1 if buffer is None else buffer.nbytes)]
            parts += [] if buffer is None else [buffer.tobytes()]
        self.process.stdin.write(b"".join(parts))
        self.process.stdin.flush()
        return [None if b is None else self._read(b) for b in buffers]

    def _read(self, like):
        data = self.process.stdout.read(like.nbytes)
        assert len(data) == like.nbytes, f"the driver ended: {self.process.wait()}"
        return np.frombuffer(data, like.dtype).reshape(like.shape)


def zig():
    return [sys.executable, "-m", "ziglang", "cc", "-g0"]


@pytest.fixture(scope="module", params=BUILDS)
def kernels(request, tmp_path_factory):
    compiler, flags, needs, emulator = BUILDS[request.param]
    missing = [tool for tool in (emulator, compiler if compiler != "zig" else "") if tool and not shutil.which(tool)]
    if missing:
        pytest.skip(f"no {missing[0]}")
    if needs and needs not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {needs}")
    folder = tmp_path_factory.mktemp(request.param)
    source, program = folder / "driver.c", folder / "driver"
    source.write_text(DRIVER)
    compile_c([*(zig() if compiler == "zig" else [compiler]), *FLAGS, *flags, str(source), "-o", str(program)])
    driver = Kernels([*([emulator] if emulator else []), str(program)])
    yield driver
    driver.process.stdin.close()
    assert driver.process.wait(10) == 0


def compile_c(argv):
    cache = {
        name: os.environ.get(name, "/tmp/minitx-test-zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    }
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | cache, timeout=300)
    assert done.returncode == 0, done.stderr


def sizes(rows=0, position=0, sentences=0, top=0, capacity=0, longest=0, chosen=0, masked=0):
    return np.array([rows, position, sentences, top, capacity, longest, chosen, masked], np.int32)


def rng(*seed):
    return np.random.default_rng([abs(s) for s in seed])


def normal(r, *shape):
    return r.standard_normal(shape).astype(np.float32)


# ---- references ----


def quantized(x):
    """Rows as (scale, int8 values), by quantize.h's definition."""
    most = np.abs(x).max(1, initial=0)
    with np.errstate(divide="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
    return (most / np.float32(127)).astype(np.float32), np.rint(x * inverse[:, None]).astype(np.int8)


def quantized_rows(x):
    """The bytes of the quantized rows (R, stride)."""
    rows, k = x.shape
    scale, q = quantized(x)
    offset = 64 + padded(-(-k // 32) * 4, 64)
    out = np.zeros((rows, offset + padded(k, 64)), np.uint8)
    out[:, :4] = scale.view(np.uint8).reshape(rows, 4)
    sums = np.pad(q, ((0, 0), (0, -k % 32))).reshape(rows, -(-k // 32), 32).sum(2, dtype=np.int32)
    out[:, 4:8] = sums.sum(1, dtype=np.int32)[:, None].view(np.uint8)
    out[:, 64 : 64 + 4 * sums.shape[1]] = sums.view(np.uint8).reshape(rows, 4 * sums.shape[1])
    out[:, offset : offset + k] = q.view(np.uint8)
    return out


class Weights:
    """A random matrix (N,K) of a scheme: its packed bytes, and what they mean in float64."""

    def __init__(self, scheme, n, k, r):
        self.scheme, self.n, self.k = scheme, n, k
        w = normal(r, n, k)
        if scheme == "f32":
            self.packed, self.dense = packing.pack_float(w), w
        elif scheme == "f16":
            w.flat[0] = 3e-6  # subnormal in half precision
            self.packed, self.dense = packing.pack_float(w.astype(np.float16)), w.astype(np.float16)
        elif scheme == "bf16":
            half = (w.view(np.uint32) >> 16).astype(np.uint16)
            self.packed, self.dense = packing.pack_float(half), (half.astype(np.uint32) << 16).view(np.float32)
        elif scheme in ("int8", "int8w"):
            self.q, self.scale = r.integers(-128, 128, (n, k)).astype(np.int8), r.random(n).astype(np.float32) / 100
            self.packed, self.dense = (
                packing.pack_int8(self.q, self.scale),
                self.q * self.scale[:, None].astype(np.float64),
            )
        else:
            nibbles = r.integers(0, 16, (n, k)).astype(np.uint8)
            scale, zero = (
                (r.random((n, k // 32)) / 10).astype(np.float16),
                r.integers(0, 16, (n, k // 32)).astype(np.uint8),
            )
            self.packed = packing.pack_int4(nibbles, scale, zero)
            self.nibbles, self.group_scale, self.zero = nibbles.astype(np.int64), scale, zero.astype(np.int64)
            spread = [np.repeat(a.astype(np.float64), 32, 1) for a in (zero, scale)]
            self.dense = (nibbles - spread[0]) * spread[1]
        self.dense = self.dense.astype(np.float64)

    def operand(self, x):
        """x as the kernel takes it, and what that means."""
        if self.scheme not in ("int8", "int4"):
            return x, x.astype(np.float64)
        scale, q = quantized(x)
        return quantized_rows(x), q * scale[:, None].astype(np.float64)


def padded_bias(bias):
    return np.pad(bias, (0, -len(bias) % 16))


def activated(y, activation):
    if activation == "RELU":
        return np.maximum(y, 0)
    if activation == "GELU":
        from math import erf

        return y * 0.5 * (1 + np.vectorize(erf)(y / np.sqrt(2)))
    if activation == "GELU_TANH":
        return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    sigmoid = 1 / (1 + np.exp(-y))
    return {"IDENTITY": y, "SILU": y * sigmoid, "SIGMOID": sigmoid}[activation]


def attended(q, k, v):
    """One head: q (D), k and v (T,D), in float64."""
    scores = k.astype(np.float64) @ q.astype(np.float64) / np.sqrt(len(q))
    weights = np.exp(scores - scores.max(initial=0))
    return weights @ v / weights.sum()


# ---- tests ----

SHAPES = [  # rows, k, n, threads
    (0, 5, 3, 1), (1, 1, 1, 1), (1, 3, 17, 3), (1, 64, 64, 2), (2, 33, 130, 2), (3, 7, 80, 1), (4, 32, 31, 3),
    (5, 96, 64, 2), (6, 130, 48, 1), (7, 64, 257, 3), (33, 100, 70, 2), (16, 512, 33, 3),
]  # fmt: skip


def shape(scheme, rows, k, n, threads):
    return rows, padded(k, 32) if scheme == "int4" else k, n, threads


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_packed_matrix_has_the_size_it_says(scheme):
    for n, k in ((1, 32), (16, 64), (17, 96), (40, 32)):
        assert Weights(scheme, n, k, rng(0)).packed.shape == (
            packed_bytes("none" if scheme == "f32" else scheme, n, k),
        )
        assert Weights(scheme, n, k, rng(0)).packed.dtype == np.uint8


def linear(kernels, weights, x, bias, activation="IDENTITY", threads=1):
    rows, n, k = len(x), weights.n, weights.k
    buffers = [np.full((rows, n), 7, np.float32), x, weights.packed, bias, sizes(rows)]
    return kernels(f"linear_{weights.scheme}", buffers, [k, n, ACTIVATIONS.index(activation)], 0, threads)[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_linear_is_the_product_plus_the_bias(kernels, scheme):
    for number, each in enumerate(SHAPES):
        rows, k, n, threads = shape(scheme, *each)
        r = rng(number)
        weights, bias = Weights(scheme, n, k, r), normal(r, n)
        x, meant = weights.operand(normal(r, rows, k))
        for b in (bias, None):
            y = linear(kernels, weights, x, None if b is None else padded_bias(b), threads=threads)
            expected = meant @ weights.dense.T + (0 if b is None else b)
            scale = np.abs(meant) @ np.abs(weights.dense).T + 1
            assert np.all(np.abs(y - expected) <= 2e-6 * scale), each


def test_int8_sums_are_exact(kernels):
    r = rng(3)
    for rows, k, n, threads in SHAPES:
        weights = Weights("int8", n, k, r)
        weights.q[:, : k // 2] = -128  # the extremes, all with one sign
        weights.packed = packing.pack_int8(weights.q, np.ones(n, np.float32))
        x = normal(r, rows, k)
        x[:, : k // 2] = 5
        scale, q = quantized(x)
        y = linear(kernels, weights, quantized_rows(x), None, threads=threads)
        sums = q.astype(np.int64) @ weights.q.astype(np.int64).T
        assert np.array_equal(y, sums.astype(np.float32) * scale[:, None])


def test_int4_sums_are_exact(kernels):
    r = rng(4)
    for rows, k, n, threads in [shape("int4", *each) for each in SHAPES]:
        nibbles, zero = r.integers(0, 16, (n, k)).astype(np.uint8), r.integers(0, 16, (n, k // 32)).astype(np.uint8)
        weights = Weights("int4", n, k, r)
        weights.packed = packing.pack_int4(nibbles, np.ones((n, k // 32), np.float16), zero)
        x = normal(r, rows, k)
        scale, q = quantized(x)
        y = linear(kernels, weights, quantized_rows(x), None, threads=threads)
        sums = q.astype(np.int64) @ (nibbles.astype(np.int64) - np.repeat(zero, 32, 1)).T
        assert np.array_equal(y, sums.astype(np.float32) * scale[:, None])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kernels, activation):
    x = np.concatenate([np.linspace(-12, 12, 999), [-1e4, 1e4, np.nan, np.inf, 0]]).astype(np.float32)[:, None]
    one = Weights("f32", 1, 1, rng(0))
    one.packed = packing.pack_float(np.ones((1, 1), np.float32))
    y = linear(kernels, one, x, None, activation)[:, 0]
    with np.errstate(all="ignore"):
        expected = activated(x[:, 0].astype(np.float64), activation)
    assert np.allclose(y, expected, rtol=4e-6, atol=4e-7, equal_nan=True)


def test_a_nan_comes_out_and_nothing_else_is_touched(kernels):
    for scheme in SCHEMES:
        weights, x = Weights(scheme, 40, 64, rng(5)), normal(rng(6), 3, 64)
        x[1, 3] = np.nan
        operand = x
        if scheme in ("int8", "int4"):
            operand = kernels("quantize", [quantized_rows(np.zeros_like(x)), x, sizes(3)], [64])[0]
        bias = padded_bias(np.where(np.arange(40) == 7, -np.inf, 0).astype(np.float32))
        y = linear(kernels, weights, operand, bias)
        assert np.isnan(y[1]).all() and not np.isnan(y[[0, 2]]).any()
        assert (y[[0, 2], 7] == -np.inf).all() and np.isfinite(np.delete(y[[0, 2]], 7, 1)).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_quantize_rounds_half_to_even(kernels, threads):
    for rows, k in ((0, 4), (1, 1), (2, 31), (3, 64), (5, 65), (7, 200), (33, 512)):
        x = normal(rng(rows, k), rows, k)
        if rows > 1:
            x[0] = 0
            x[1] = (np.arange(k) % 255 - 127) / 2  # many halves
            x[1, 0] = 127
        out = kernels("quantize", [np.full_like(quantized_rows(x), 9), x, sizes(rows)], [k], 0, threads)[0]
        expected = quantized_rows(x)
        out, used = out.copy(), 64 + 4 * -(-k // 32)
        out[:, 8:64] = 0  # not said
        out[:, used : 64 + padded(used - 64, 64)] = 0
        assert np.array_equal(out, expected)


def test_quantize_survives_what_is_no_number(kernels):
    x = normal(rng(8), 4, 70)
    x[0, 69], x[1, 0], x[2, 5], x[3] = np.nan, np.inf, -np.inf, 1e-40
    scales = (
        kernels("quantize", [np.zeros_like(quantized_rows(np.zeros_like(x))), x, sizes(4)], [70])[0][:, :4]
        .copy()
        .view(np.float32)
    )
    assert np.isnan(scales[0]) and not np.isfinite(scales[1:3]).any() and scales[3] == 0


@pytest.mark.parametrize("add", [True, False])
def test_layernorm_of_a_sum_and_its_quantized_rows(kernels, add):
    for rows, c, threads in ((0, 8, 1), (1, 1, 1), (3, 17, 2), (6, 64, 3), (33, 100, 2)):
        r = rng(rows, c)
        x, other, gain, bias = normal(r, rows, c) * 3 + 10, normal(r, rows, c), normal(r, c), normal(r, c)
        q = np.zeros_like(quantized_rows(x))
        buffers = [np.zeros_like(x), q, x, other if add else None, gain, bias, sizes(rows)]
        y, q, *_ = kernels("layernorm", buffers, [c], 1e-5, threads)
        s = x.astype(np.float64) + (other if add else 0)
        s = (s - s.mean(1, keepdims=True)) / np.sqrt(s.var(1, keepdims=True) + 1e-5)
        assert np.allclose(y, s * gain + bias, rtol=1e-4, atol=2e-5)
        offset = q.shape[1] - padded(c, 64)
        assert np.array_equal(np.ascontiguousarray(q[:, offset : offset + c]).view(np.int8), quantized(y)[1])
        assert kernels("layernorm", [buffers[0], None, *buffers[2:]], [c], 1e-5, threads)[0].tobytes() == y.tobytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embed_looks_up_scales_and_adds_positions(kernels, scheme):
    for vocabulary, c, threads in ((1, 1, 1), (17, 33, 2), (40, 64, 3)):
        c = padded(c, 32) if scheme == "int4" else c
        r = rng(vocabulary)
        weights, table = Weights(scheme, vocabulary, c, r), normal(r, 9, c)
        tokens = np.array([0, vocabulary - 1, -1, vocabulary, 2**31 - 1, -(2**31), vocabulary // 2], np.int32)
        positions = r.integers(0, 9, len(tokens)).astype(np.int32)
        known = (tokens >= 0) & (tokens < vocabulary)
        rows = np.where(known[:, None], weights.dense[np.where(known, tokens, 0)] * 2.5, 0)
        for places, numbers, expected in (
            (positions, table, rows + table[positions]), (None, table, rows + table[4]), (None, None, rows),
        ):  # fmt: skip
            buffers = [np.zeros((len(tokens), c), np.float32), tokens, places, weights.packed, numbers, sizes(7, 4)]
            y = kernels(f"embed_{scheme}", buffers, [c, vocabulary], 2.5, threads)[0]
            assert np.allclose(y, expected, rtol=1e-6, atol=1e-6)


def top(kernels, weights, x, bias, count, threads, candidates=NONE, allowed=NONE, sources=NONE):
    """Over the columns `candidates`, by default all, and of them those in the bits `allowed` of a row's source."""
    rows, chosen, bias = len(x), [NONE, NONE], None if bias is None else padded_bias(bias)
    few = 0 if candidates is None else len(candidates)
    many = sizes(rows, top=count, chosen=few, masked=int(allowed is not None))
    if few:
        room = np.zeros(packed_bytes(SCHEMES_STORED[weights.scheme], few, weights.k), np.uint8)
        buffers = [room, np.zeros(padded(few, 16), np.float32), weights.packed, bias, candidates, many]
        chosen = kernels(f"choose_{weights.scheme}", buffers, [weights.k, weights.n], 0, threads)[:2]
    partial = np.zeros((rows, TOP_CHUNKS, TOP_STRIDE), np.uint8)
    buffers = [partial, x, weights.packed, bias, *chosen, allowed, sources, many]
    partial = kernels(f"top_{weights.scheme}", buffers, [weights.k, weights.n], 0, threads)[0]
    ids, scores = np.zeros((rows, count), np.int32), np.zeros((rows, count), np.float32)
    return kernels("top_merge", [ids, scores, partial, candidates, many], [], 0, threads)[:2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_top_of_a_shortlist_is_that_of_all_with_the_rest_left_out(kernels, scheme):
    shapes = ((1, 90, 1, 3, 17, 0.3), (3, 90, 2, 7, 33, 0.5), (4, 300, 3, 80, 40, 0.6), (2, 50, 2, 5, 0, 0.2))
    for rows, n, threads, count, few, share in shapes:
        r = rng(rows, n, few)
        weights, bias, sources = Weights(scheme, n, 64, r), normal(r, n), r.integers(0, 3, rows).astype(np.int32)
        candidates = np.sort(r.permutation(n)[:few]).astype(np.int32)
        columns = candidates if few else np.arange(n)
        inside = r.random((3, len(columns))) < share
        inside[:, 1] = True
        bits = np.packbits(np.pad(inside, ((0, 0), (0, -len(columns) % 16))), 1, bitorder="little")
        x, _ = weights.operand(normal(r, rows, 64))
        logits = linear(kernels, weights, x, padded_bias(bias), threads=threads)
        for masked in (False, True):
            left = np.full((rows, n), -np.inf)
            left[:, columns] = np.where(inside[sources] | (not masked), logits[:, columns], -np.inf)
            shortlist = candidates if few else NONE, bits if masked else NONE, sources
            ids, scores = top(kernels, weights, x, bias, count, threads, *shortlist)
            expected = np.sort(left, 1)[:, ::-1][:, :count]
            total = np.log(np.exp(left).sum(1, keepdims=True))
            assert np.allclose(scores, expected - total, rtol=1e-4, atol=1e-4)
            found = np.isfinite(scores)
            assert np.array_equal(np.take_along_axis(left, ids, 1)[found], expected[found])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_top_gives_the_best_and_their_log_probabilities(kernels, scheme):
    for rows, n, threads, count in ((1, 1, 1, 1), (1, 17, 3, 17), (2, 300, 3, 80), (5, 100, 2, 4), (7, 1000, 2, 1)):
        r = rng(rows, n)
        weights, bias = Weights(scheme, n, 32, r), normal(r, n)
        bias[r.random(n) < 0.2] = -np.inf
        bias[0] = 1
        x, _ = weights.operand(normal(r, rows, 32))
        logits = linear(kernels, weights, x, padded_bias(bias), threads=threads).astype(np.float64)
        ids, scores = top(kernels, weights, x, bias, count, threads)
        order = np.argsort(-logits, 1, kind="stable")[:, :count]
        assert np.array_equal(ids, order)
        total = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) + logits.max(
            1, keepdims=True
        )
        assert np.allclose(scores, np.take_along_axis(logits, order, 1) - total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_top_of_equal_logits_is_the_smaller_id_and_nan_spoils_its_own_row_only(kernels, threads):
    weights = Weights("f32", 200, 1, rng(0))
    values = np.zeros((200, 1), np.float32)
    values[[150, 20, 90]] = 1
    weights.packed = packing.pack_float(values)
    x = np.array([[1], [np.nan], [0], [2]], np.float32)
    ids, scores = top(kernels, weights, x, None, 5, threads)
    assert ids[0].tolist() == [20, 90, 150, 0, 1] and ids[2].tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(scores[1]).all() and np.isfinite(scores[[0, 2, 3]]).all()


def scratch(kernels, keys, d):
    return np.zeros(int(kernels("scratch", [np.zeros(1, np.int64)], [keys, d])[0][0]), np.uint8)


HEADS = [(1, 1), (2, 3), (3, 16), (2, 17), (1, 64), (2, 72)]


@pytest.mark.parametrize("heads,d", HEADS)
def test_attend_step_stores_its_key_and_follows_the_slots(kernels, heads, d):
    for rows, position, threads in ((0, 0, 1), (1, 0, 1), (3, 5, 2), (5, 17, 3), (2, 40, 1)):
        r, c, capacity = rng(rows, position), heads * d, rows + 1
        q, k, v = (normal(r, rows, c) * 3 for _ in range(3))
        caches = [normal(r, position + 1, capacity, c) for _ in range(2)]
        slots = r.integers(0, max(rows, 1), (position + 1, capacity)).astype(np.int32)
        slots[position] = 2**30  # not read
        buffers = [np.zeros_like(q), q, k, v, *caches, slots, sizes(rows, position, 0, 0, capacity)]
        buffers.append(scratch(kernels, position + 1, d))
        out, _, _, _, *after = kernels("attend_step", buffers, [heads, d], 0, threads)[:6]
        for cache, new, kept in zip(caches, (k, v), after, strict=True):
            cache[position, :rows] = new
            assert np.array_equal(cache, kept)
        for row in range(rows):
            at = [slots[t, row] for t in range(position)] + [row]
            for h in range(heads):
                part = slice(h * d, h * d + d)
                expected = attended(q[row, part], *(cache[range(position + 1), at, part] for cache in caches))
                assert np.allclose(out[row, part], expected, rtol=1e-4, atol=3e-5)


SENTENCES = [[1], [3, 0, 5], [17], [6, 33, 1, 16], [70]]


@pytest.mark.parametrize("heads,d", HEADS)
def test_attend_cross_looks_at_its_own_sentence(kernels, heads, d):
    for number, lengths in enumerate(SENTENCES):
        r, c, starts = rng(number), heads * d, np.cumsum([0, *lengths]).astype(np.int32)
        k, v = (normal(r, starts[-1], c) * 3 for _ in range(2))
        sources = np.array([i for i in range(len(lengths)) for _ in range(2)], np.int32)
        q = normal(r, len(sources), c)
        buffers = [
            np.ones_like(q),
            q,
            k,
            v,
            sources,
            starts,
            sizes(len(sources), 0, len(lengths), longest=max(lengths)),
        ]
        buffers.append(scratch(kernels, max(lengths), d))
        out = kernels("attend_cross", buffers, [heads, d], 0, 1 + number % 3)[0]
        for row, s in enumerate(sources):
            assert_attended(out[row : row + 1], q[row : row + 1], k, v, starts[s], starts[s + 1], heads, d)


@pytest.mark.parametrize("heads,d", HEADS)
def test_attend_encoder_stays_inside_each_sentence(kernels, heads, d):
    for number, lengths in enumerate(SENTENCES):
        r, c, starts = rng(number), heads * d, np.cumsum([0, *lengths]).astype(np.int32)
        q, k, v = (normal(r, starts[-1], c) * 3 for _ in range(3))
        for threads in (1, 2, 3):
            buffers = [np.ones_like(q), q, k, v, starts, sizes(starts[-1], 0, len(lengths), longest=max(lengths))]
            buffers.append(scratch(kernels, max(lengths), d))
            out = kernels("attend_encoder", buffers, [heads, d], 0, threads)[0]
            for a, b in pairwise(starts):
                assert_attended(out[a:b], q[a:b], k, v, a, b, heads, d)


def assert_attended(out, q, k, v, a, b, heads, d):
    for h in range(heads):
        part = slice(h * d, h * d + d)
        expected = [attended(row, k[a:b, part], v[a:b, part]) if a < b else np.zeros(d) for row in q[:, part]]
        assert np.allclose(out[:, part], np.array(expected).reshape(-1, d), rtol=1e-4, atol=3e-5)


def test_exp_is_within_two_units_in_the_last_place(kernels):
    x = np.concatenate([np.linspace(-87, 88, 99984), [-np.inf, -1e30, -88, 0, np.nan] + [0] * 11]).astype(np.float32)
    y = kernels("exp", [np.zeros_like(x), x], [len(x)])[0]
    expected = np.exp(x[:99984].astype(np.float64))
    assert np.max(np.abs(y[:99984] - expected) / np.spacing(expected.astype(np.float32))) <= 2
    assert y[99984:99988].tolist() == [0, 0, 0, 1] and np.isnan(y[99988])


def test_webassembly_compiles(tmp_path):
    source = tmp_path / "kernels.c"
    used = ", ".join(f"linear_{s}, top_{s}, embed_{s}, choose_{s}" for s in SCHEMES)
    others = "quantize, layernorm, attend_step, attend_cross, attend_encoder, top_merge"
    source.write_text(f'#include "kernels.h"\nvoid *const kernels[] = {{{used}, {others}}};\n')
    flags = ["-target", "wasm32-freestanding", "-msimd128", "-c", "-o", str(tmp_path / "kernels.o")]
    compile_c([*zig(), *flags, *FLAGS, "-Wno-unused-value", str(source)])
