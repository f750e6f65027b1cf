"""The native engine by default: compiled once, started without tinygrad, and replaced where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from native_models import checkpoint, sentences
from test_native_shortlist import random_shortlist

import minitx
from minitx import toolchain
from minitx.compiler import store
from minitx.engines import ready
from minitx.engines.jit import JitEngine
from minitx.engines.native import NativeEngine
from minitx.errors import ConfigError, DeviceError
from minitx.text.tokenizer import read
from minitx.weights.checkpoint import load, save

TEXT = "a b c"


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A tokenizer of 96 pieces, as the models of `native_models` have."""
    import io

    import sentencepiece

    model = io.BytesIO()
    words = [f"{a}{b}{c} {b}{a}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=96, hard_vocab_limit=False, minloglevel=2,
        model_type="bpe",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("spm") / "vocab.spm"
    path.write_bytes(model.getvalue())
    tokenizer = read(path)
    assert len(tokenizer.pieces) == 96
    return tokenizer


@pytest.fixture
def file(tmp_path, spm, monkeypatch):
    """A small model's file, and an empty cache."""
    import dataclasses

    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.safetensors"
    save(dataclasses.replace(checkpoint("post"), source=spm, target=spm), path)
    return path


def test_a_model_is_compiled_once_and_then_starts_without_tinygrad(file):
    told = []
    first = minitx.load(file, notice=told.append)
    assert isinstance(first.engine, NativeEngine) and any("compiling" in message for message in told)
    code = (
        "import sys, minitx\n"
        f"told = []; m = minitx.load({str(file)!r}, notice=told.append); print(m({TEXT!r}))\n"
        "assert not told, told\n"
        "heavy = {'tinygrad', 'yaml', 'tqdm'} & set(sys.modules); assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == first(TEXT) + "\n"


def test_both_engines_say_the_same_and_save_the_same(file, tmp_path):
    native, jit = (minitx.load(file, engine=engine) for engine in ("native", "jit"))
    assert isinstance(jit.engine, JitEngine)
    assert native(TEXT) == jit(TEXT) and native(TEXT, beam=3) == jit(TEXT, beam=3)
    for name, model in (("n", native), ("j", jit)):
        model.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "j.safetensors").read_bytes() == file.read_bytes()


def test_a_model_is_quantized_on_its_own_engine(file, tmp_path):
    model = minitx.load(file, engine="native", threads=1).quantize("int8", ["decoder=f16"])
    assert isinstance(model.engine, NativeEngine) and model.config.quantization == "int8"
    model.save(tmp_path / "int8.safetensors")
    again = minitx.load(tmp_path / "int8.safetensors")
    assert again.config.keep == ("decoder=f16",) and again(TEXT) == model(TEXT)
    with pytest.raises(ConfigError, match="start from the original"):
        again.quantize("int4")


def test_what_was_compiled_runs_when_the_compiler_is_gone(file, monkeypatch):
    expected = minitx.load(file)(TEXT)
    monkeypatch.setattr(toolchain, "find_native", lambda: None)
    assert ready.standing(file) == ("native", "its compiled code is in the cache")
    model = minitx.load(file)
    assert isinstance(model.engine, NativeEngine) and model(TEXT) == expected


def test_without_a_compiler_and_anything_compiled_the_tinygrad_engine_runs_and_one_line_says_why(file, monkeypatch):
    monkeypatch.setattr(toolchain, "find_native", lambda: None)
    told = []
    model = minitx.load(file, warn=told.append)
    assert isinstance(model.engine, JitEngine)
    [line] = told
    assert "no C compiler" in line and "install" in line and "\n" not in line
    assert ready.standing(file)[0] == "jit"
    with pytest.raises(DeviceError, match="no C compiler"):
        minitx.load(file, engine="native")


def test_a_changed_file_is_compiled_anew(file):
    before = minitx.load(file)
    minitx.load(file, quantize="int8").save(file)
    after = minitx.load(file)
    assert before.config.quantization == "none" and after.config.quantization == "int8"


def test_a_cache_that_is_cleared_between_finding_and_opening_a_model_is_filled_again(file, monkeypatch):
    expected, use = minitx.load(file)(TEXT), store.use
    cleared = []

    def too_late(path):
        if not cleared:
            cleared.append(store.clear())
        return use(path)

    monkeypatch.setattr(store, "use", too_late)
    assert minitx.load(file, engine="native")(TEXT) == expected and cleared[0] > 0


def test_another_device_is_not_for_the_native_engine(file):
    with pytest.raises(DeviceError, match="runs on CPU, not on CL"):
        minitx.load(file, device="CL", engine="native")


@pytest.mark.slow
def test_eight_processes_with_an_empty_cache_all_answer_rightly(file):
    command = [sys.executable, "-m", "minitx", "run", str(file), TEXT]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), text=True) for _ in range(8)]
    answers = [run.communicate()[0] for run in runs]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers == [minitx.load(file)(TEXT) + "\n"] * 8


@pytest.mark.parametrize("engine", ["native", "jit"])
def test_a_model_uses_its_shortlist_unless_told_otherwise(file, engine):
    import dataclasses

    whole, sources = load(file), sentences(6, 3, 11)
    shortlist = random_shortlist("post", 3)
    save(dataclasses.replace(whole, shortlist=shortlist), file)
    allowed = [set(shortlist.allowed(np.array(source), 0).tolist()) for source in sources]

    def inside(on):
        found = minitx.load(file, engine=engine, shortlist=on).generate(sources, beam=1, max_length=8)
        return [set(best[0].tokens) <= own for best, own in zip(found, allowed, strict=True)]

    assert all(inside(True)) and all(inside(True)) and not all(inside(False))  # compiled, from the cache, without
