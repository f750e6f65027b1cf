"""A tokenizer goes to JSON and back unchanged, and damaged JSON is refused in one line."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import time
from array import array
from pathlib import Path
from typing import Any

import pytest
from spm_models import message, model, real_models

from minitx.errors import ConfigError, Error, FileError
from minitx.text import spm, tokenizer

TEXTS = ["", "The children were playing.", " a  b ", "ﬁ e\u0301 漢字 😀\x00", "Como você está hoje?" * 20]
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("a", -1.25, 1), ("b", -0.1, 1), ("ab", -0.5, 4), ("ba", -2.0, 5)]
BYTES = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
MODELS = {
    "unigram": model(PIECES, message(_3=1), message(_4=0)),
    "bpe": model([*PIECES, *BYTES], message(_3=2, _24=1, _35=1, _44="?"), message(_3=0)),
}


@pytest.mark.parametrize("path", real_models(), ids=lambda path: path.name)
def test_a_real_model_survives_json(path: Any) -> None:
    before = tokenizer.read(path)
    text = tokenizer.to_json(before)
    assert len(text.encode()) < 1_000_000
    after = tokenizer.from_json(text)
    assert after.to_dict() == before.to_dict() and after.pieces == before.pieces and after.kind == "unigram"
    for sample in TEXTS:
        ids = before.encode(sample)
        assert after.encode(sample) == ids and after.decode(ids) == before.decode(ids)


@pytest.mark.parametrize("kind", MODELS)
def test_odd_models_survive_json(kind: str) -> None:
    before = spm.parse(MODELS[kind])
    after = tokenizer.from_json(tokenizer.to_json(before))
    assert after.to_dict() == before.to_dict() and after.kind == kind
    for sample in ["abba bab", " a b ", "x\u00e9", *TEXTS]:
        assert after.encode(sample) == before.encode(sample)
    everything = list(range(len(before.pieces)))
    assert after.decode(everything) == before.decode(everything)


def test_json_of_a_real_model_is_read_in_a_moment() -> None:
    text = tokenizer.to_json(tokenizer.read(real_models()[0]))

    def seconds() -> float:
        start = time.perf_counter()
        tokenizer.from_json(text)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.15  # 0.025 s is usual


def scores(*values: float) -> str:
    return base64.b64encode(array("f", values).tobytes()).decode()


DAMAGE: dict[str, Any] = {
    "kind": [None, 1, [], {}, "word2vec", "x" * 10_000],
    "pieces": [None, {}, "abc", [1, 2], ["<unk>", None], [], ["a"] * 6, ["<unk>", "", "a", "b", "c", "d"], [[[]]] * 6],
    "scores": [None, 5, [0.0] * 6, "", "!", "AAA=", "é", scores(1.0), scores(*[float("nan")] * 6), scores(*[1e39] * 6)],
    "types": [None, [], {}, {"unknown": 0}, {"unknown": [99]}, {"unknown": [-1]}, {"unknown": [True]}, {"x": [0]}],
    "types ": [
        {"unknown": [0, 1]},
        {"unknown": [0, 0]},
        {"unknown": [0], "control": [0]},
        {"unknown": [0], "byte": [1]},
    ],
    "byte_fallback": [None, 0, "false", True],
    "unknown": [None, 1, ["?"], "\ud800"],
    "normalizer": [None, [], {}, {"characters": ""}, "x"],
    "denormalizer": [0, [], {}, "x"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in DAMAGE.items() for v in values], ids=str)
def test_a_false_field_is_a_config_error_in_one_line(name: str, value: Any) -> None:
    data = spm.parse(MODELS["unigram"]).to_dict()
    assert tokenizer.from_dict(copy.deepcopy(data)).kind == "unigram"
    text = json.dumps({**data, name.strip(): value})
    with pytest.raises(ConfigError, match=r"\Atokenizer[^\n]*\Z") as error:
        tokenizer.from_json(text)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["characters", "add_dummy_prefix", "escape_whitespaces"])
@pytest.mark.parametrize("value", [None, 1, [], "AAAA", "\ud800"])
def test_a_false_normalizer_is_a_config_error(name: str, value: Any) -> None:
    data = spm.parse(MODELS["unigram"]).to_dict()
    data["normalizer"][name] = value
    with pytest.raises(ConfigError):
        tokenizer.from_dict(data)


def test_missing_and_unknown_fields_are_config_errors() -> None:
    data = spm.parse(MODELS["unigram"]).to_dict()
    for name in data:
        with pytest.raises(ConfigError):
            tokenizer.from_dict({k: v for k, v in data.items() if k != name})
    with pytest.raises(ConfigError, match="exactly the fields"):
        tokenizer.from_dict({**data, "more": 1})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '"x"', "[" * 100_000, '{"kind":' * 100_000, "{}", "NaN", "9" * 9999]
)
def test_json_that_is_no_tokenizer_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\A[^\n]*\Z"):
        tokenizer.from_json(text)


@pytest.mark.parametrize("kind", MODELS)
def test_every_cut_and_every_changed_character_is_refused_or_works(kind: str) -> None:
    text = tokenizer.to_json(spm.parse(MODELS[kind]))
    generator = random.Random(0)
    for _ in range(400):
        with pytest.raises(ConfigError):
            tokenizer.from_json(text[: generator.randrange(len(text))])
        at = generator.randrange(len(text))
        changed = text[:at] + generator.choice('0aA"[]{},:\\\x00-é\ud800') + text[at + 1 :]
        try:
            read = tokenizer.from_json(changed)
            read.decode(read.encode("ab ba x"))
        except Error as e:
            assert "\n" not in str(e)


def test_flipped_bytes_of_a_real_character_map_are_refused_or_work() -> None:
    data = tokenizer.read(real_models()[0]).to_dict()
    data["pieces"], data["scores"] = data["pieces"][:100], scores(*[-1.0] * 100)
    characters = base64.b64decode(data["normalizer"]["characters"])
    generator = random.Random(0)
    for _ in range(150):
        damaged = bytearray(characters)
        for _ in range(generator.choice([1, 1, 1000, 20_000])):
            damaged[generator.randrange(len(damaged))] ^= generator.randrange(256)
        data["normalizer"]["characters"] = base64.b64encode(damaged).decode()
        try:
            tokenizer.from_dict(data).encode("e\u0301 ﬁ \uff21 漢字 " * 20)
        except Error as e:
            assert "\n" not in str(e)


def test_the_table_holds_both_kinds() -> None:
    assert set(tokenizer.TOKENIZERS) >= {"unigram", "bpe"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs there")
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vocab.spm")
    with pytest.raises(FileError, match="is not a file"):
        tokenizer.read(tmp_path / "vocab.spm")
    for name in ("a\0b", "a\ud800b"):
        with pytest.raises(FileError, match="cannot be read"):
            tokenizer.read(name)
