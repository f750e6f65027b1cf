"""Weights that are linked in: the command and the library use them where they lie, with no file beside them."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import native_models
import pytest
from test_export import Limits, Opened, make, small

from minitx.compiler import export as exports
from minitx.compiler.export import export
from minitx.compiler.targets import package
from minitx.errors import InputError
from minitx.generation.search import generate

NOT_LINKED = 19
ZIG = f"{sys.executable} -m ziglang cc"


class Linked(Opened):
    """A model over the weights in its library."""

    def __init__(self, library: Path):
        self.c, self.prefix, self.model, self.limits = (
            ctypes.CDLL(str(library)),
            "tiny_model",
            ctypes.c_void_p(),
            Limits(),
        )
        self.error = self.call("open_embedded", ctypes.byref(self.model), ctypes.byref(self.limits))

    def embedded(self) -> tuple[int, int]:
        """Where the weights are, and how many bytes."""
        size, function = ctypes.c_size_t(), self.c.tiny_model_embedded
        function.restype = ctypes.c_void_p
        return function(ctypes.byref(size)) or 0, size.value


def made(out: Path, cc: str = "clang", embed: bool = True, name: str = "post") -> Path:
    export(small(name, "int8"), "c", out, package.Options("tiny.model", 1, embed=embed), force=True)
    if cc == ZIG:
        command = ["make", "-j2", "-C", str(out), f"CC={cc}", "CFLAGS=-O0", "tiny.model", "libtiny.model.so"]
        subprocess.run(command, check=True, capture_output=True)
    else:
        make(out, cc, "-O0", "tiny.model", "libtiny.model.so")
    return out


def mapping(address: int) -> tuple[str, str]:
    """The permissions of the memory that an address is in, and the file that it is mapped from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, *_, file = line.split(maxsplit=5) if line.count("/") else (*line.split()[:2], "")
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return permissions, file
    raise AssertionError(f"{address:#x} is not mapped")


@pytest.mark.slow
@pytest.mark.parametrize("cc", ["clang", "gcc", ZIG], ids=["clang", "gcc", "zig"])
def test_weights_are_in_the_program_and_the_library(tmp_path: Path, cc: str) -> None:
    out = made(tmp_path / "out", cc)
    weights, checkpoint = (out / "tiny.model.weights").read_bytes(), small("post", "int8")
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in ("tiny.model", "libtiny.model.so"):
        shutil.copy(out / file, alone)
    model, sources = Linked(alone / "libtiny.model.so"), native_models.sentences(*range(1, 9))
    address, size = model.embedded()
    assert model.error == 0 and address % 64 == 0 and ctypes.string_at(address, size) == weights
    permissions, file = mapping(address)
    assert "w" not in permissions and file == str(alone / "libtiny.model.so")  # the file itself, not a copy of it
    engine = native_models.native("post", "int8")
    generation = dataclasses.replace(checkpoint.generation, beam=1)
    expected = [[*best[0].tokens] for best in generate(engine, sources, generation)]
    assert [model.generate(source, beam=1) for source in sources] == expected
    text = "".join(" ".join(map(str, source)) + "\n" for source in sources)
    done = subprocess.run([alone / "tiny.model", "--ids", "--beam", "1"], input=text, capture_output=True, text=True)
    assert done.stdout.splitlines() == [" ".join(map(str, tokens)) for tokens in expected]
    (tmp_path / "damaged").write_bytes(weights[:-64])
    damaged = subprocess.run(
        [alone / "tiny.model", "--weights", tmp_path / "damaged", "a"], capture_output=True, text=True
    )
    assert damaged.returncode == 1 and "is not whole" in damaged.stderr  # --weights goes before what is linked in


@pytest.mark.slow
def test_installing_leaves_the_file_out(tmp_path: Path) -> None:
    out = made(tmp_path / "out")
    make(out, "clang", "-O0", "install", f"PREFIX={tmp_path}/usr")
    installed = sorted(path.name for path in (tmp_path / "usr").rglob("*") if path.is_file())
    assert installed == ["libtiny.model.a", "libtiny.model.so", "tiny.model", "tiny.model.h"]
    assert subprocess.run([tmp_path / "usr/bin/tiny.model", "abc"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("cc", ["clang", ZIG], ids=["clang", "zig"])
def test_other_weights_are_linked_anew(tmp_path: Path, cc: str) -> None:
    out = made(tmp_path / "out", cc)
    weights = bytearray((out / "tiny.model.weights").read_bytes())
    weights[-1] ^= 1
    (out / "tiny.model.weights").write_bytes(weights)
    goals = ["make", "-C", str(out), f"CC={cc}", "CFLAGS=-O0", "tiny.model"]
    subprocess.run(goals, check=True, capture_output=True)
    done = subprocess.run([out / "tiny.model", "abc"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "tiny.model: error: the weight file is damaged; copy it again\n"


@pytest.mark.slow
def test_without_them_there_is_a_clear_error(tmp_path: Path) -> None:
    out = made(tmp_path / "out", embed=False)
    model = Linked(out / "libtiny.model.so")
    message = model.c.tiny_model_message
    message.restype = ctypes.c_char_p
    assert model.error == NOT_LINKED and model.embedded() == (0, 0) and not model.model
    assert message(NOT_LINKED) == b"no weights are linked in; open a weight file, or export with --embed"
    header = (out / "tiny.model.h").read_text()
    numbers = re.findall(r"^    TINY_MODEL_(\w+),", header.replace("\nenum {", ""), re.M)
    assert numbers.index("NOT_LINKED") == NOT_LINKED


def test_a_target_without_an_option_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exports.TARGETS, "other", exports.Target(package.files, "", "", ""))
    for options in (package.Options("a", embed=True), package.Options("a", 1, freestanding=True)):
        with pytest.raises(InputError, match=r"--(embed|freestanding): target 'other' does not have it; these do: c$"):
            export(small("post", "int8"), "other", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_the_command_has_both(tmp_path: Path) -> None:
    for flag, has in (("--embed", "src/linked.c"), ("--freestanding", "src/bare/bare.c")):
        command = [
            sys.executable,
            "-m",
            "minitx",
            "export",
            "en-pt",
            "--target",
            "c",
            "--quantize",
            "int8",
            flag,
            "--out",
            tmp_path / flag,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and (tmp_path / flag / has).exists(), done.stderr
    failed = subprocess.run([*command, "--threads", "2", "--force"], capture_output=True, text=True)
    assert failed.returncode == 1 and "no threads" in failed.stderr and failed.stderr.count("\n") == 1
