"""Positions are what their formulas say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import preset
from minitx.errors import ConfigError
from minitx.nn.ops import Tensor
from minitx.nn.positions import POSITIONS, Sinusoidal, SinusoidalSplit

even = st.integers(1, 64).map(lambda half: 2 * half)


@given(position=st.integers(0, 600), channels=even)
@settings(max_examples=30, deadline=None)
def test_sinusoidal_is_the_papers_formula(position, channels):
    row = Sinusoidal.table(position + 1, channels)[position]
    for i in range(channels // 2):
        angle = position / 10000 ** (2 * i / channels)
        assert row[2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
        assert row[2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@given(position=st.integers(0, 600), channels=even.filter(lambda c: c > 2))
@settings(max_examples=30, deadline=None)
def test_sinusoidal_split_is_marians_formula(position, channels):
    row, half = SinusoidalSplit.table(position + 1, channels)[position], channels // 2
    for i in range(half):
        angle = position * math.exp(-i * math.log(10000) / (half - 1))
        assert row[i] == pytest.approx(math.sin(angle), abs=1e-6)
        assert row[half + i] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("name", POSITIONS)
def test_two_channels_need_no_frequencies(name):
    assert np.allclose(POSITIONS[name].table(3, 2), [[0, 1], [math.sin(1), math.cos(1)], [math.sin(2), math.cos(2)]])


@pytest.mark.parametrize("name", POSITIONS)
def test_a_sequence_is_its_tokens_one_after_another(name):
    config = preset("tiny", positions=name)
    positions = POSITIONS[name](config, "CPU")
    x = np.random.default_rng(0).standard_normal((2, config.max_length, config.d_model)).astype(np.float32)
    whole = positions.add(Tensor(x, device="CPU")).numpy()
    assert np.allclose(whole - x, positions.table(config.max_length, config.d_model), atol=1e-6)
    for at in (0, 1, config.max_length - 1):
        one = positions.add(Tensor(x[:, at : at + 1], device="CPU"), at).numpy()
        assert np.array_equal(one, whole[:, at : at + 1])


@pytest.mark.parametrize("name", POSITIONS)
def test_an_odd_width_is_refused(name):
    with pytest.raises(ConfigError, match="even d_model"):
        preset("tiny", positions=name, d_model=33, heads=3)


def test_the_table_is_as_long_as_is_needed_whatever_the_config_claims():
    positions = Sinusoidal(preset("tiny", max_length=1 << 20), "CPU")
    assert positions._table.shape[0] < 1000
    zeros = Tensor.zeros(1, 3, 32, device="CPU").contiguous()
    np.testing.assert_allclose(positions.add(zeros, 900).numpy()[0], Sinusoidal.table(903, 32)[900:], atol=1e-6)
