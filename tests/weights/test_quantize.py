"""`minitx quantize` and `convert --quantize`: the file is what was asked for, and what is wrong is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checkpoint import random_checkpoint

from minitx.cli import main
from minitx.commands import quantize
from minitx.config import preset
from minitx.weights.checkpoint import load, save
from minitx.weights.quant import quantized
from minitx.weights.shapes import stored


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A model of random weights, which babbles."""
    save(random_checkpoint(tmp_path, preset("tiny")), tmp_path / "plain.safetensors")
    return tmp_path / "plain.safetensors"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_row_and_rules_are_what_is_written(plain: Path, tmp_path: Path) -> None:
    rules = ("--keep", "output=int8", "--keep", "encoder=f16")
    assert run("quantize", plain, tmp_path / "a.safetensors", "--to", "int4", *rules) == 0
    assert run("convert", plain, tmp_path / "b.safetensors", "--quantize", "int4", *rules) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    config = load(tmp_path / "a.safetensors").config
    assert (config.quantization, config.keep) == ("int4", ("output=int8", "encoder=f16"))
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "c.safetensors") == 0  # stays as it is
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.slow
def test_calibration_changes_what_is_written(plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a0 b1 c2\n\nd3 e4 a0\n" * 5)
    assert run("quantize", plain, tmp_path / "a.safetensors", "--to", "int4", "--calibrate", text) == 0
    one, two = load(tmp_path / "a.safetensors"), quantized(load(plain), "int4")
    assert {name: (w.shape, w.dtype.name) for name, w in one.weights.items()} == stored(two.config)
    assert any(not np.array_equal(w, two.weights[name]) for name, w in one.weights.items())


COSTS = {"embedding=int4": 0.4, "encoder=int4": 0.1, "decoder=int4": 0.05}


@pytest.mark.parametrize(
    ("allowed", "keep"),
    [
        (1, ("embedding=int4", "encoder=int4", "decoder=int4")),
        (0.3, ("encoder=int4", "decoder=int4")),
        (0.12, ("decoder=int4",)),
        (0.01, ()),
    ],
)
def test_the_smallest_mix_within_the_drop_is_written(
    allowed: float,
    keep: tuple[str, ...],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quantize, "score", lambda made, *_: 30 - sum(COSTS[rule] for rule in made.config.keep))
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    out = tmp_path / "m.safetensors"
    assert run("quantize", plain, out, "--auto", "--max-bleu-drop", allowed, tmp_path / "pairs.tsv") == 0
    assert load(out).config.keep == keep and load(out).config.quantization == "int8"
    table = capsys.readouterr().out
    for words in (
        "stored as",
        "as it is",
        "30.00",
        "int8, int4 in nothing",
        "int8, int4 in embedding",
        "29.60",
        "0.40",
    ):
        assert words in table


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing asked for": (("m.safetensors",), "either --to"),
    "both": (("m.safetensors", "pairs.tsv", "--auto", "--to", "int8"), "either --to"),
    "auto without pairs": (("m.safetensors", "--auto"), "either --to"),
    "pairs without auto": (("m.safetensors", "pairs.tsv", "--to", "int8"), "either --to"),
    "a row that is none": (("m.safetensors", "--to", "int3"), "choose one of: none, f16"),
    "a rule that is none": (("m.safetensors", "--to", "int8", "--keep", "outputs=int4"), "choose one of: embedding"),
    "another name": (("m.bin", "--to", "int8"), "must end in .safetensors"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_line(
    arguments: tuple[Any, ...], words: str, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", plain, *arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("minitx: error: ") and words in error


def test_what_is_quantized_is_not_quantized_again(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", plain, tmp_path / "a.safetensors", "--quantize", "int8") == 0
    assert run("quantize", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "int4") == 1
    assert "start from the original" in capsys.readouterr().err
