"""A wheel installs alone, gives what the native engine gives, and takes damage, threads and forks without harm."""

from __future__ import annotations

import ast
import base64
import copy
import csv
import hashlib
import importlib
import importlib.util
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_models
import numpy as np
import pytest
from test_export import compiler, small

import minitx
from minitx.compiler import footprint, shared
from minitx.compiler.export import export
from minitx.compiler.targets import package, wheel
from minitx.errors import FileError, InputError

NAME, MODULE = "tiny.model", "tiny_model"
TEXTS = ["abcd", "", "hello there", "zz top", "bcdef " * 4 + "g"]
ISOLATED = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
import tiny_model
texts, sources = json.load(sys.stdin)
missing = [name for name in ("numpy", "minitx", "tinygrad") if importlib.util.find_spec(name) is None]
with tiny_model.load(threads=2) as m:
    found = {
        "texts": [m(texts, beam=beam) for beam in (1, 4, 6)],
        "one": m(texts[0]),
        "short": m.generate(sources, max_length=3),
        "ids": [m.generate(sources, beam=beam) for beam in (1, 4)],
        "encoded": [m.encode(text) for text in texts],
        "streamed": ["".join(m.stream(text)) for text in texts],
        "loaded": sorted(name for name in sys.modules if name.partition(".")[0] in ("numpy", "minitx")),
    }
plain = lambda value: [value.tokens, value.score]
print(json.dumps([missing, found], default=plain))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a small model."""
    out = tmp_path_factory.mktemp("wheel") / "out"
    sizes = export(small("post", "int8"), "python", out, package.Options(NAME))
    (found,) = (name for name in sizes if name.endswith(".whl"))
    return out / found


@pytest.fixture(scope="module")
def installed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of it, without an index."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target", folder, made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tiny(installed: Path) -> Any:
    """The module, imported here."""
    spec = importlib.util.spec_from_file_location(MODULE, installed / MODULE / "__init__.py")
    assert spec and spec.loader
    module = sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs() -> minitx.Model:
    return minitx.Model(small("post", "int8"), native_models.native("post", "int8"))


@pytest.mark.slow
def test_it_needs_nothing_and_gives_what_the_native_engine_gives(installed: Path) -> None:
    sources, model = native_models.sentences(*range(1, 12), 64), theirs()
    command = [sys.executable, "-I", "-S", "-c", ISOLATED, installed]
    done = subprocess.run(command, input=json.dumps([TEXTS, sources]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing, found = json.loads(done.stdout)
    assert missing == ["numpy", "minitx", "tinygrad"] and found["loaded"] == []
    assert found["texts"] == [model(TEXTS, split=False, beam=beam) for beam in (1, 4, 6)]
    assert found["one"] == model(TEXTS[0], split=False) and len(found["one"]) > 0
    for beam, own in zip((1, 4), found["ids"], strict=True):
        expected = [best[0] for best in model.generate(sources, beam=beam)]
        assert [tuple(tokens) for [[tokens, _]] in own] == [best.tokens for best in expected]
        assert [score for [[_, score]] in own] == pytest.approx([best.score for best in expected], rel=1e-5)
    short = [[list(h.tokens) for h in best] for best in model.generate(sources, max_length=3)]
    assert [[tokens for tokens, _ in best] for best in found["short"]] == short
    assert found["encoded"] == [model.encode(text) for text in TEXTS]
    assert found["streamed"] == model(TEXTS, split=False, beam=1)


@pytest.mark.slow
def test_the_commands_translate_and_tell_what_is_wrong(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*arguments: str | bytes | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-S", *arguments], input=text, capture_output=True, env=environment)

    model = theirs()
    one, two = (f"{line}\n".encode() for line in model(["abcd", "zz top"], split=False))
    for command in (["-m", MODULE], [installed / "bin" / NAME]):
        assert run(*command, "abcd").stdout == one
        assert run(*command, text=b"abcd\r\nzz top").stdout == one + two
    repaired = (model("ab\ufffd", split=False) + "\n").encode()
    assert run("-m", MODULE, b"ab\xff").stdout == run("-m", MODULE, text=b"ab\xff\n").stdout == repaired
    beam = f"{model('abcd', split=False, beam=4)}\n".encode()
    assert run("-m", MODULE, "--beam", "4", "--threads", "1", "--", "abcd").stdout == beam
    wide = run("-m", MODULE, "--beam", "99", "abcd")
    assert (wide.returncode, wide.stdout) == (1, b"\n")
    assert wide.stderr == b"tiny.model: error: beam must be 1 to 64, not 99\n"
    assert run("-m", MODULE, "--beam", "0", "a").returncode == 2
    many = run("-m", MODULE, "--threads", "99", "a")
    assert (many.returncode, many.stderr) == (1, b"tiny.model: error: threads must be 1 to 64, not 99\n")


@pytest.mark.slow
def test_ids_may_come_from_numpy(tiny: Any) -> None:
    with tiny.load(threads=1) as m:
        row = np.array(native_models.sentences(7)[0], np.int64)
        expected = m.generate([row.tolist()])
        assert m.generate([row]) == m.generate(row[None].astype(np.int32)) == expected
        assert m.decode(np.array(expected[0][0].tokens)) == m.decode(expected[0][0].tokens) != ""
        assert m.generate([[], row]) == [[], *expected]
        with pytest.raises(TypeError):
            m.generate([[1.5]])


@pytest.mark.slow
def test_what_it_cannot_take_is_told_in_one_line(tiny: Any, tmp_path: Path) -> None:
    m = tiny.load(threads=1)
    for call, told in [
        (lambda: m.generate([[1, 0], [96]]), "sentence 2: token 96 is not in the vocabulary of 96"),
        (lambda: m.generate([[-1]]), "sentence 1: token -1 is not in the vocabulary of 96"),
        (lambda: m.generate([[1] * 65]), "sentence 1: longer than the 64 tokens that the model takes at a time; split"),
        (lambda: m.decode([1 << 40]), "token 1099511627776 is not in the vocabulary"),
        (lambda: m("a\ud800"), "text: character 1 is half of a surrogate pair (U+D800); remove it"),
        (lambda: m(b"a"), "a text must be a str"),
        (lambda: m("a", beam=0), "beam must be 1 to 64, not 0"),
        (lambda: m("a", beam=65), "beam must be 1 to 64, not 65"),
        (lambda: m("a", max_length=-1), "max_length must be 1 or more, not -1"),
        (lambda: list(m.stream("\udfff")), "half of a surrogate pair (U+DFFF)"),
        (lambda: tiny.load(threads=0), "threads must be 1 to 64, not 0"),
    ]:
        with pytest.raises(tiny.InputError, match=re.escape(told)):
            call()
    assert m("abcd") == theirs()("abcd", split=False)
    with pytest.raises(tiny.FileError, match="No such file"):
        tiny.load(tmp_path / "none")
    with pytest.raises(tiny.FileError, match="Invalid argument"):
        tiny.load(tmp_path)


@pytest.mark.slow
def test_damaged_weights_give_an_exception(tiny: Any, installed: Path, tmp_path: Path) -> None:
    data, path = (installed / MODULE / f"{NAME}.weights").read_bytes(), tmp_path / "damaged"
    middle = bytearray(data)
    middle[len(data) // 2] ^= 4
    for damaged, told in [
        (bytes(middle), "is damaged; copy it again"),
        (data[:-64], "is not whole; copy it again"),
        (b"", "is no weight file"),
        (b"abc" * 99, "is no weight file"),
        (data[:24] + bytes(8) + data[32:], "is of another model"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(tiny.FileError) as caught:
            tiny.load(path)
        assert str(caught.value).startswith(f"{path}: ") and told in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(data)
    assert tiny.load(path)("abcd") == tiny.load()("abcd")


@pytest.mark.slow
def test_threads_may_share_a_model_and_a_stream_may_end_early(tiny: Any) -> None:
    sources = native_models.sentences(*range(1, 30))
    with tiny.load(threads=2) as m:
        expected = {beam: m.generate(sources, beam=beam) for beam in (1, 5)}
        with ThreadPoolExecutor(4) as pool:  # a greater beam opens it again between the calls of others
            found = list(pool.map(lambda beam: (beam, m.generate(sources, beam=beam)), [1, 5, 6, 1, 5] * 3))
        assert all(own == expected[beam] for beam, own in found if beam in expected)
        text = "abcd efgh " * 5 + "h"
        pieces = list(m.stream(text))
        assert len(pieces) > 2 and "".join(pieces) == m(text, beam=1)
        for piece in m.stream(text):  # it does not hold the model for as long as somebody reads
            assert m(piece or "a") is not None
        early = m.stream(text)
        assert next(early) == pieces[0]
        early.close()
        assert m(text, beam=1) == "".join(pieces)
        assert m.generate(sources[:3], max_length=1 << 40) == m.generate(sources[:3], max_length=64)
        assert "".join(m.stream(text, max_length=2)) == m(text, beam=1, max_length=2)
        unread = m.stream(text)
        next(unread)
    assert len(list(unread)) <= len(pieces)


@pytest.mark.slow
def test_a_model_is_closed_pickled_and_forked(tiny: Any) -> None:
    m = tiny.load(threads=2)
    expected = m("abcd")
    assert pickle.loads(pickle.dumps(m))("abcd") == copy.copy(m)("abcd") == expected
    stream = m.stream("abcd efgh " * 5)
    next(stream)
    m._lock.acquire()  # as if another thread were in a call
    child = os.fork()
    if child == 0:
        with pytest.raises(tiny.Error, match="forked"):
            next(stream)
        os._exit(0 if m("abcd") == expected else 1)
    m._lock.release()
    assert os.waitpid(child, 0)[1] == 0 and m("abcd") == expected
    m.close()
    m.close()
    for call in (lambda: m("a"), lambda: m.encode("a"), lambda: list(m.stream("a"))):
        with pytest.raises(tiny.Error, match="closed; load it again"):
            call()


@pytest.mark.slow
def test_the_wheel_is_as_the_format_asks_and_the_same_each_time(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made) as file:
        assert file.testzip() is None and {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        contents = {name: file.read(name) for name in file.namelist()}
    info = f"{MODULE}-{minitx.__version__}.dist-info"
    tags = made.stem.split("-")[-1]
    assert made.name == f"{MODULE}-{minitx.__version__}-py3-none-{tags}.whl"
    rows = list(csv.reader(io.StringIO(contents[f"{info}/RECORD"].decode())))
    assert [place for place, *_ in rows] == list(contents)
    for place, digest, size in rows[:-1]:
        own = base64.urlsafe_b64encode(hashlib.sha256(contents[place]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={own}", len(contents[place]))
    assert rows[-1] == [f"{info}/RECORD", "", ""]
    assert "Root-Is-Purelib: false\n" in contents[f"{info}/WHEEL"].decode()
    assert set(re.findall("Tag: py3-none-(.*)", contents[f"{info}/WHEEL"].decode())) == set(tags.split("."))
    ast.parse(contents[f"{MODULE}/__init__.py"], feature_version=tuple(map(int, wheel.PYTHON.split("."))))
    assert not re.search(rb"MODEL_[A-Z]|minitx_|MINITX_", contents[f"{MODULE}/__init__.py"])
    export(small("post", "int8"), "python", tmp_path / "again", package.Options(NAME))
    assert (tmp_path / "again" / made.name).read_bytes() == made.read_bytes()


@pytest.mark.slow
def test_the_tag_names_the_glibc_that_the_library_asks_for(made: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("is for ELF")
    with zipfile.ZipFile(made) as file:
        library = Path(file.extract(f"{MODULE}/lib{MODULE}.so", tmp_path))
    told = subprocess.run([compiler("readelf"), "--version-info", library], capture_output=True, text=True).stdout
    newest = max((int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", told))
    assert f"manylinux_{newest[0]}_{newest[1]}_" in made.name


@pytest.mark.slow
def test_zig_makes_a_library_for_old_systems_and_other_machines() -> None:
    checkpoint = small("post", "int8")
    files = package.files(checkpoint, package.Options(NAME, 1))
    texts = {place: content for place, content in files.items() if isinstance(content, str)}
    found = shared.shared(texts, 1, "aarch64-linux", lambda message: None)
    assert found.data[:4] == b"\x7fELF" and found.data[18:20] == b"\xb7\0"  # EM_AARCH64
    assert found.tag == "manylinux_2_17_aarch64.manylinux2014_aarch64" and found.suffix == ".so"


@pytest.mark.parametrize(
    ("triple", "tag"),
    [
        ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
        ("aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64"),
        ("arm-linux-gnueabihf.2.17", "manylinux_2_17_armv7l.manylinux2014_armv7l"),
        ("riscv64-linux-gnu.2.31", "manylinux_2_31_riscv64"),
        ("x86_64-linux-musl", "musllinux_1_2_x86_64"),
        ("x86_64-windows-gnu", "win_amd64"),
        ("aarch64-windows-gnu", "win_arm64"),
        ("x86_64-macos.11.0", "macosx_11_0_x86_64"),
        ("aarch64-macos", "macosx_13_0_arm64"),
    ],
)
def test_each_kind_of_machine_has_its_tag(triple: str, tag: str) -> None:
    assert shared.tag(triple) == tag


def test_a_library_that_needs_others_is_for_this_machine_alone() -> None:
    needs = b"\0libc.so.6\0libm.so.6\0GLIBC_2.2.5\0GLIBC_2.35\0"
    machine = shared.own_tag(b"")
    assert machine.startswith("linux_")
    assert shared.own_tag(needs) == f"manylinux_2_35_{machine.removeprefix('linux_')}"
    assert shared.own_tag(needs + b"libgomp.so.1\0") == machine


def test_names_that_a_module_or_a_distribution_cannot_have_are_refused(tmp_path: Path) -> None:
    for name in ("json", "is", "Class", "a-", "a."):
        with pytest.raises(InputError, match="choose another with --name"):
            export(small("post", "int8"), "python", tmp_path / "out", package.Options(name))
    assert not (tmp_path / "out").exists()
    assert [wheel.distribution(name) for name in ("en-pt", "A..b__c", "2x")] == ["en_pt", "a_b_c", "2x"]
    assert wheel.module("2x") == "m2x"


def test_a_header_that_the_interface_does_not_know_is_not_taken() -> None:
    header = package.read(package.entry.HERE / "package/interface.h")
    found = wheel.structures(header, "minitx")
    assert found["MODEL_LIMITS"] == 'source", "target", "beam", "threads'
    assert found["MODEL_ERRORS"].startswith('OK", "NO_FILE", ') and '"STOPPED"' in f'{found["MODEL_ERRORS"]}"'
    with pytest.raises(AssertionError, match="cannot have all of"):
        wheel.structures(header.replace("    int beam; ", "    double alpha; int beam; "), "minitx")


@pytest.mark.slow
def test_sizes_are_those_of_what_is_written(made: Path, tmp_path: Path) -> None:
    checkpoint, options = small("post", "int8"), package.Options(NAME)
    limits = [footprint.Limits(8, 8, 1), footprint.Limits(64, 64, 4)]
    found = footprint.measure(checkpoint, "python", options, limits)
    assert found.files[made.name] == made.stat().st_size and not found.problem
    with zipfile.ZipFile(made) as file:
        assert found.code == file.getinfo(f"{MODULE}/lib{MODULE}.so").file_size
        assert found.weights == file.getinfo(f"{MODULE}/{NAME}.weights").file_size
    assert 0 < found.workspaces[0].bytes < found.workspaces[1].bytes
    assert footprint.usual(checkpoint) == [footprint.Limits(64, 64, 1), footprint.Limits(64, 64, 4)]
    with pytest.raises(InputError, match="limits 65 1 1: must be 1 to 64 tokens and a beam of 1 to 64"):
        footprint.measure(checkpoint, "python", options, [footprint.Limits(65, 1, 1)])


def test_without_a_compiler_sizes_are_told_and_a_wheel_is_not_made(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("minitx.toolchain.find_native", lambda: None)
    found = footprint.measure(small("post", "int8"), "c", package.Options(NAME))
    assert found.code is None and found.workspaces == [] and "no C compiler was found" in found.problem
    assert found.weights == found.files[f"{NAME}.weights"] > 0 and found.rest > 0
    with pytest.raises(minitx.Error, match="no C compiler"):
        export(small("post", "int8"), "python", tmp_path / "out", package.Options(NAME))
    assert not (tmp_path / "out").exists()


def test_a_model_exports_itself(tmp_path: Path) -> None:
    model = theirs()
    with pytest.raises(InputError, match="give it one by name="):
        model.export("c", tmp_path / "out")
    sizes = model.export("c", tmp_path / "out", name=NAME, threads=1)
    assert (tmp_path / "out/src/alone.c").exists() and sizes[f"{NAME}.weights"] > 0
    with pytest.raises(FileError, match="holds other files"):
        model.export("c", tmp_path / "out", name=NAME)
    model.export("c", str(tmp_path / "out"), name=NAME, force=True)
    assert (tmp_path / "out/src/team.c").exists()
    with pytest.raises(minitx.ConfigError, match="target 'z80' is not known"):
        model.export("z80", tmp_path / "none", name=NAME)
    with pytest.raises(TypeError, match="colour"):
        model.export("c", tmp_path / "none", name=NAME, colour=1)
