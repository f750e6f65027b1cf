"""The weights that a config demands are those that the model has, and the parts add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minitx.config import preset
from minitx.nn.transformer import Transformer
from minitx.weights.shapes import expected, parts


@pytest.mark.parametrize("tying", ["all", "target", "source", "none"])
@pytest.mark.parametrize("mixer", ["attention", "ssru"])
def test_a_model_has_exactly_the_expected_weights(tying: str, mixer: str) -> None:
    for bias, final in itertools.product([False, True], repeat=2):
        config = preset("tiny", tying=tying, mixer=mixer, output_bias=bias, final_norm=final, decoder_layers=1)
        own = {name: tuple(w.shape) for name, w in Transformer(config, seed=None).parameters().items()}
        assert own == expected(config)


def test_parts_count_every_byte_once() -> None:
    weights = {n: np.zeros(s, np.float32) for n, s in expected(preset("tiny", tying="none", output_bias=True)).items()}
    sizes = parts(weights)
    assert sizes.keys() == {"source embedding", "target embedding", "output", "encoder", "decoder"}
    assert sum(sizes.values()) == sum(w.nbytes for w in weights.values())


def test_transformer_base_has_the_papers_parameters() -> None:
    """Vaswani et al. 2017, table 3: 65 million for base and 213 for big, with 37,000 shared pieces."""
    for name, millions in (("transformer-base", 65), ("transformer-big", 213)):
        count = sum(int(np.prod(shape)) for shape in expected(preset(name)).values())
        assert abs(count / 1e6 - millions) < 4
