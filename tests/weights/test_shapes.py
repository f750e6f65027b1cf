"""The weights that a config demands, counted against the paper, and the parts of a file."""

from __future__ import annotations

import numpy as np

from minitx.config import preset
from minitx.weights.shapes import expected, parts


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
