"""Calibration counts what matrices are multiplied by, and the search for a mix finds the smallest within the bound."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoint import random_checkpoint
from tinygrad import Tensor

from minitx.config import preset
from minitx.errors import ConfigError
from minitx.nn.ops import padding_mask
from minitx.nn.transformer import Transformer
from minitx.weights import calibration
from minitx.weights.calibration import moments
from minitx.weights.quant import quantized

SOURCES = [[5, 6, 7, 0], [9, 0], [], [3, 4, 5, 6, 7, 8, 0]]
TARGETS = [[11, 12], [13], [], [14, 15, 16]]


@pytest.mark.parametrize("changes", [{}, {"tying": "none", "mixer": "ssru"}, {"tying": "target", "placement": "pre"}])
def test_moments_are_those_of_one_sentence_after_another(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, preset("tiny", **changes))
    scaled = {name: w * np.float32(0.3) for name, w in checkpoint.weights.items()}
    checkpoint = dataclasses.replace(checkpoint, weights=scaled)
    found = moments(checkpoint, SOURCES, TARGETS)
    alone = [moments(checkpoint, [s], [t]) for s, t in zip(SOURCES, TARGETS, strict=True) if s]
    counts = {"encoder": [4, 2, 7], "decoder": [3, 2, 4]}
    matrices = {name for name, w in checkpoint.weights.items() if w.ndim == 2}
    looked_up = {"none": {"source.weight", "target.weight"}, "target": {"source.weight"}, "all": set()}
    assert found.keys() == matrices - looked_up[checkpoint.config.tying]
    for name in found.keys() - {"source.weight", "target.weight"}:
        memory = ".cross.key" in name or ".cross.value" in name or name.startswith("encoder")
        weights = np.array(counts["encoder" if memory else "decoder"], np.float64)
        wanted = sum(n * one[name] for n, one in zip(weights, alone, strict=True)) / weights.sum()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_the_moment_of_the_first_layer_is_that_of_the_embedded_tokens(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, preset("tiny"))
    model = Transformer(checkpoint.config, "CPU", seed=None).load(checkpoint.weights)
    tokens = Tensor(np.array([SOURCES[3]], np.int32), device="CPU")
    x = model._positions.add(model.source(tokens)).numpy()[0]
    found = moments(checkpoint, SOURCES[3:], TARGETS[3:])["encoder.layers.0.self.query.weight"]
    np.testing.assert_allclose(found, x.T @ x / len(x), rtol=1e-4, atol=1e-3)


def test_calibration_brings_the_logits_nearer(tmp_path: Path) -> None:
    config = preset("tiny", d_model=64, d_ff=128)
    plain = Transformer(config, "CPU", seed=1)
    weights = {name: tensor.numpy() for name, tensor in plain.parameters().items()}
    checkpoint = dataclasses.replace(random_checkpoint(tmp_path, config), weights=weights)
    random = np.random.default_rng(0)
    sources = [[*random.integers(1, 20, random.integers(3, 12)).tolist(), 0] for _ in range(60)]
    targets = [random.integers(1, 20, len(s)).tolist() for s in sources]
    known = moments(checkpoint, sources[:40], targets[:40])

    def error(moments: dict[str, Any] | None) -> float:
        small = quantized(checkpoint, "int4", moments=moments)
        model = Transformer(small.config, "CPU", seed=None).load(small.weights)
        total = 0.0
        for s, t in zip(sources[40:50], targets[40:50], strict=True):
            mask = Tensor(padding_mask(np.array([len(s)]), 12), device="CPU")
            padded = [np.array([row + [0] * (12 - len(row))], np.int32) for row in (s, t)]
            one, two = (m.forward(*(Tensor(p, device="CPU") for p in padded), mask).numpy() for m in (plain, model))
            total += float(((one - two)[:, : len(t)] ** 2).sum())
        return total

    assert error(known) < 0.8 * error(None)


def test_a_quantized_model_is_not_calibrated(tmp_path: Path) -> None:
    small = quantized(random_checkpoint(tmp_path, preset("tiny")), "int8")
    with pytest.raises(ConfigError, match="calibrate with the original"):
        moments(small, SOURCES, TARGETS)


def test_source_and_target_of_one_length_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint(tmp_path, preset("tiny"))
    wide = moments(checkpoint, SOURCES, TARGETS)
    monkeypatch.setattr(calibration, "BUCKET", 1)
    for name, moment in moments(checkpoint, SOURCES, TARGETS).items():
        np.testing.assert_allclose(moment, wide[name], rtol=1e-3, atol=1e-4 * np.abs(moment).max())


SIZES = {"embedding": 40, "encoder": 30, "decoder": 15}


@given(st.lists(st.floats(-0.2, 2), min_size=3, max_size=3), st.floats(0, 3))
def test_the_smallest_mix_within_the_bound_is_found(costs: list[float], allowed: float) -> None:
    from minitx.commands.quantize import smallest

    cost = dict(zip(SIZES, costs, strict=True))
    asked = []

    def measure(mix: tuple[str, ...]) -> float:
        asked.append(mix)
        return sum(cost[part] for part in mix)

    def size(mix: tuple[str, ...]) -> int:
        return 100 - sum(SIZES[part] for part in mix)

    found = smallest(SIZES, size, measure, allowed)
    light = [part for part in SIZES if cost[part] <= allowed]
    every = [m for n in range(4) for m in itertools.combinations(light, n) if sum(cost[part] for part in m) <= allowed]
    assert found == min(every, key=size)
    assert len(asked) == len(set(asked)) <= 8


def test_where_nothing_is_cheap_enough_there_is_no_mix() -> None:
    from minitx.commands.quantize import smallest

    assert smallest(SIZES, len, lambda mix: 1.0, 0.5) is None
