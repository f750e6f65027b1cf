"""An exported folder gives what minitx gives, needs no Python, and takes damage and small buffers without harm."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import random
import shutil
import struct
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import native_models
import numpy as np
import pytest

import minitx
from minitx.compiler.export import LIST, export
from minitx.compiler.targets import package
from minitx.engines import Engine
from minitx.engines.hypotheses import LENGTH_PENALTIES
from minitx.errors import FileError, InputError
from minitx.generation.search import generate
from minitx.text.normalizer import CharacterMap, Normalizer
from minitx.text.segment import Vocabulary
from minitx.text.sentencepiece import SentencePiece
from minitx.weights.checkpoint import Checkpoint
from minitx.weights.names import open_model

DATA = Path(__file__).parents[1] / "data"
NOT_WEIGHTS, VERSION, OTHER, TRUNCATED, DAMAGED = 3, 4, 5, 6, 7
LIMITS, WORKSPACE, OPTIONS, TOKEN, LONG, OUTPUT, STOPPED = 9, 10, 11, 12, 13, 14, 16
FIXED = ["alone", "file", "main", "normalizer", "open", "segment", "translate", "tokenizer", "turns", "runtime/search"]
SMALL = [("post", "int8", "clang"), ("post", "int8", "gcc"), ("ssru", "none", "clang"), ("odd", "none", "clang")]
Piece = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)


class Limits(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("source", "target", "beam", "threads"))


class Options(ctypes.Structure):
    _fields_ = (("beam", ctypes.c_int), ("maximum", ctypes.c_int), ("piece", Piece), ("user", ctypes.c_void_p))


def compiler(name: str) -> str:
    if shutil.which(name) is None:
        assert "CI" not in os.environ, f"install {name}"
        pytest.skip(f"{name} is not installed")
    return name


def letters(size: int) -> SentencePiece:
    """A tokenizer of so many pieces, single letters."""
    pieces = ["</s>", "<unk>", "\u2581", *(chr(0x61 + i) for i in range(size - 3))]
    normalizer = Normalizer(CharacterMap(b""), dict.fromkeys(Normalizer.FLAGS, True) | {"whitespace_as_suffix": False})
    vocabulary = Vocabulary(pieces, array("f", [-1.0] * size), {0: "control", 1: "unknown"})
    return SentencePiece("unigram", vocabulary, normalizer, None, False, " ?? ")


def small(name: str, quantization: str) -> Checkpoint:
    model = native_models.checkpoint(name, quantization)
    tokenizers = letters(model.config.source_vocab), letters(model.config.target_vocab)
    return dataclasses.replace(model, source=tokenizers[0], target=tokenizers[1])


class Turn(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("rows", "top", "position")),
        *((name, ctypes.POINTER(ctypes.c_int32)) for name in ("tokens", "before")),
        ("allowed", ctypes.POINTER(ctypes.c_uint16)),
        ("ids", ctypes.POINTER(ctypes.c_int32)),
        ("scores", ctypes.POINTER(ctypes.c_float)),
    )


class Opened:
    """A model that the C code opened, called from Python."""

    def __init__(self, library: Path, weights: bytes | Path, prefix: str, **limits: int):
        self.c, self.prefix, self.model = ctypes.CDLL(str(library)), prefix, ctypes.c_void_p()
        self.limits = Limits(**limits)
        if isinstance(weights, Path):
            self.error = self.call("open", ctypes.byref(self.model), str(weights).encode(), ctypes.byref(self.limits))
        else:
            self.weights = aligned(weights)
            to = ctypes.byref(self.model), self.weights, ctypes.c_size_t(len(weights)), ctypes.byref(self.limits)
            self.error = self.call("open_memory", *to)

    def call(self, name: str, *arguments: object) -> int:
        return int(getattr(self.c, f"{self.prefix}_{name}")(*arguments))

    def generate(self, source: list[int], room: int = 64, **options: int) -> list[int]:
        out, count = (ctypes.c_int32 * (room + 1))(*[-7] * (room + 1)), ctypes.c_int()
        given = (ctypes.c_int32 * len(source))(*source), len(source), ctypes.byref(Options(**options))
        self.error = self.call("generate", self.model, *given, out, room, ctypes.byref(count), None)
        assert out[room] == -7
        return out[: count.value]

    def turns(self, source: list[int], engine: Engine, **options: int) -> list[int]:
        """What `generate` gives, with every step computed by an engine."""
        turn, given = Turn(), (ctypes.c_int32 * len(source))(*source)
        out, count = (ctypes.c_int32 * 64)(), ctypes.c_int()
        to = given, len(source), ctypes.byref(Options(**options)), ctypes.byref(turn)
        assert self.call("begin", self.model, *to) == 0
        state = engine.encode(np.array([source], np.int32), np.array([len(source)]), 64) if source else None
        while rows := turn.rows:
            state = engine.reorder(state, np.array(turn.before[:rows]) * (turn.position > 0))
            ids, scores = engine.step(state, np.array(turn.tokens[:rows], np.int32), turn.top)
            for i, (token, score) in enumerate(zip(ids.ravel().tolist(), scores.ravel().tolist(), strict=True)):
                turn.ids[i], turn.scores[i] = token, score
            self.error = self.call("advance", self.model, ctypes.byref(turn))
            if self.error:
                return []
        assert self.call("advance", self.model, ctypes.byref(turn)) == OPTIONS  # there is no other turn
        assert self.call("result", self.model, out, 64, ctypes.byref(count), None) == 0
        return out[: count.value]

    def translate(self, text: bytes, room: int = 4000, **options: object) -> tuple[bytes, int]:
        out, needed = ctypes.create_string_buffer(b"x" * (room + 1), room + 1), ctypes.c_size_t()
        given = text, ctypes.c_size_t(len(text)), ctypes.byref(Options(**options))
        self.error = self.call("translate", self.model, *given, out, ctypes.c_size_t(room), ctypes.byref(needed))
        assert out.raw[room:] == b"x"
        return out.value, needed.value

    def __del__(self) -> None:
        self.call("close", self.model)


def aligned(data: bytes, offset: int = 0) -> ctypes.c_void_p:
    """The address of a copy at a multiple of 64, which keeps the copy."""
    room = ctypes.create_string_buffer(len(data) + 128)
    start = (ctypes.addressof(room) + 63) // 64 * 64 + offset
    ctypes.memmove(start, data, len(data))
    address = ctypes.c_void_p(start)
    address.room = room  # type: ignore[attr-defined]
    return address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """folder(model, quantization, ...) exports a model, once, and makes what is asked for of it."""

    @cache
    def made(model: str, quantization: str, cc: str, threads: int = 64, flags: str = "-O0") -> Path:
        out = tmp_path_factory.mktemp("export") / "out"
        real = model in ("en-pt", "pt-en")
        checkpoint = open_model(model, quantization) if real else small(model, quantization)
        export(checkpoint, "c", out, package.Options(model if real else "tiny.model", threads))
        make(out, cc, flags, *(["all"] if real else ["libtiny.model.so", "libtiny.model.a"]))
        return out

    return made


def make(folder: Path, cc: str, flags: str, *goals: str) -> None:
    command = ["make", "-j2", "-C", str(folder), f"CC={compiler(cc)}", f"CFLAGS={flags}", *goals]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr[-3000:]


def tiny(folder: Path, weights: bytes | Path | None = None, **limits: int) -> Opened:
    return Opened(
        folder / "libtiny.model.so",
        folder / "tiny.model.weights" if weights is None else weights,
        "tiny_model",
        **limits,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantization", "cc"), SMALL)
def test_ids_are_those_of_the_native_engine(folder, name: str, quantization: str, cc: str) -> None:
    out, checkpoint = folder(name, quantization, cc), small(name, quantization)
    engine, sources = native_models.native(name, quantization), native_models.sentences(*range(1, 20), 64)
    for threads in (1, 2):
        model = tiny(out, threads=threads)
        assert model.error == 0
        for beam in (1, 4):
            generation = dataclasses.replace(checkpoint.generation, beam=beam)
            for source, best in zip(sources, generate(engine, sources, generation), strict=True):
                assert model.generate(source, beam=beam) == [*best[0].tokens], (source, beam)
    assert model.generate([]) == [] and model.error == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["post", "ssru"])
def test_a_search_whose_model_runs_elsewhere_finds_the_same(folder, name: str) -> None:
    quantization = "int8" if name == "post" else "none"
    model, engine = tiny(folder(name, quantization, "clang")), native_models.native(name, quantization)
    for source in native_models.sentences(3, 17, 64):
        for beam in (1, 3, 4):
            assert model.turns(source, engine, beam=beam) == model.generate(source, beam=beam)
    assert model.turns([], engine) == []
    assert model.call("begin", model.model, None, 65, None, ctypes.byref(Turn())) == LONG
    assert model.call("advance", model.model, ctypes.byref(Turn(rows=1))) == OPTIONS  # none is under way


@pytest.mark.slow
def test_text_is_that_of_minitx(folder) -> None:
    out, texts = folder("en-pt", "int8", "clang", 64, "-O3"), (DATA / "sentences.en.txt").read_text().splitlines()
    theirs = minitx.load("en-pt", quantize="int8")
    for beam in (1, 4):
        done = subprocess.run(
            [out / "en-pt", "--beam", str(beam), "--threads", "2"],
            input="\n".join(texts),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stdout.splitlines() == theirs(texts, split=False, beam=beam)
    arguments = [out / "en-pt", "How are you today?", "", "The cat.\nThe dog."]
    expected = "Como você está hoje?\n\nO gato.\nO cão.\n"
    assert subprocess.run(arguments, capture_output=True, text=True).stdout == expected
    model = Opened(out / "liben-pt.so", out / "en-pt.weights", "en_pt", source=128, target=128, beam=1)
    needed = ctypes.c_size_t()
    weights = (out / "en-pt.weights").read_bytes()
    given = aligned(weights), ctypes.c_size_t(len(weights)), ctypes.byref(model.limits)
    assert model.call("workspace", *given, ctypes.byref(needed)) == 0
    assert needed.value <= 8 << 20
    found: list[str] = []
    text, _ = model.translate(texts[0].encode(), piece=Piece(lambda user, t, n: found.append(t[:n].decode()) or 0))
    assert "".join(found) == text.decode() and len(found) > 1
    model.translate(texts[0].encode(), piece=Piece(lambda user, t, n: 1))
    assert model.error == STOPPED
    repaired, _ = model.translate(b"The cat \xff sleeps.")
    assert model.error == 0 and repaired == model.translate("The cat \ufffd sleeps.".encode())[0]


@pytest.mark.slow
def test_damaged_weights_give_an_error_code(folder) -> None:
    out = folder("post", "int8", "clang")
    data, generator = (out / "tiny.model.weights").read_bytes(), random.Random(0)
    word = struct.Struct("<I")
    errors = {0: NOT_WEIGHTS, 8: VERSION, 12: NOT_WEIGHTS, 16: DAMAGED, 24: OTHER, 32: TRUNCATED}
    for offset, error in errors.items():
        damaged = bytearray(data)
        damaged[offset] ^= 1
        assert tiny(out, bytes(damaged)).error == error
    for size in (0, 7, 8, 100, len(data) - 64, len(data) - 1):
        assert tiny(out, data[:size]).error == (NOT_WEIGHTS if size < 8 else TRUNCATED)
    assert tiny(out, data + bytes(64)).error == TRUNCATED
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        assert tiny(out, bytes(damaged)).error in (NOT_WEIGHTS, VERSION, OTHER, TRUNCATED, DAMAGED)
    swapped = bytearray(data)
    swapped[12:16] = word.pack(*struct.unpack(">I", data[12:16]))
    assert tiny(out, bytes(swapped)).error == NOT_WEIGHTS
    other = (folder("odd", "none", "clang") / "tiny.model.weights").read_bytes()
    assert tiny(out, other).error == OTHER
    assert tiny(out, out / "Makefile").error in (NOT_WEIGHTS, TRUNCATED)
    assert tiny(out, out / "none").error == 1


@pytest.mark.slow
def test_too_little_room_is_told_and_nothing_is_written_past_it(folder) -> None:
    out = folder("post", "int8", "clang")
    model, weights = tiny(out, source=32, target=32, beam=2), (out / "tiny.model.weights").read_bytes()
    whole, needed = model.translate(b"abcd")
    assert model.error == 0 and needed == len(whole) + 1 > 5
    for room in range(needed + 1):
        text, again = model.translate(b"abcd", room)
        assert (model.error, again) == (OUTPUT if room < needed else 0, needed) and (model.error or text == whole)
    ids = model.generate([5, 6, 7, 0])
    for room in range(len(ids) + 1):
        model.generate([5, 6, 7, 0], room)
        assert model.error == (OUTPUT if room < len(ids) else 0)
    size, at, opened = ctypes.c_size_t(), aligned(weights), ctypes.c_void_p()
    given = at, ctypes.c_size_t(len(weights)), ctypes.byref(model.limits)
    assert model.call("workspace", *given, ctypes.byref(size)) == 0
    memory = aligned(b"x" * (size.value + 64))
    for room, place, error in [(size.value - 1, 0, WORKSPACE), (size.value, 8, WORKSPACE), (size.value, 0, 0)]:
        to = ctypes.c_void_p(memory.value + place), ctypes.c_size_t(room)
        assert model.call("open_in", ctypes.byref(opened), *given, *to) == error
    model.model, first = opened, model.model
    assert model.translate(b"abcd") == (whole, needed)
    assert ctypes.string_at(memory.value + size.value, 64) == b"x" * 64
    model.call("close", first)


@pytest.mark.slow
def test_what_is_out_of_range_is_refused(folder) -> None:
    out = folder("post", "int8", "clang")
    model = tiny(out, source=8, target=8, beam=2)
    for source, options, error in [
        ([1] * 9, {}, LONG),
        ([96], {}, TOKEN),
        ([-1], {}, TOKEN),
        ([1, 0], {"beam": 3}, OPTIONS),
        ([1, 0], {"beam": -1}, OPTIONS),
        ([1, 0], {"maximum": -1}, OPTIONS),
    ]:
        assert model.generate(source, **options) == [] and model.error == error
    assert len(model.generate([1, 0], maximum=3)) <= 3 and model.error == 0
    model.translate(b"a" * 9)
    assert model.error == LONG
    for limits in ({"source": 65}, {"target": -1}, {"beam": 65}, {"threads": 65}):
        assert tiny(out, **limits).error == LIMITS


@pytest.mark.slow
def test_two_models_in_two_threads_do_not_know_of_each_other(folder) -> None:
    out, sources = folder("post", "int8", "clang"), native_models.sentences(*range(1, 40))
    expected = [tiny(out).generate(source) for source in sources]

    def all_of(threads: int) -> list[list[int]]:
        model = tiny(out, threads=threads)
        return [model.generate(source) for _ in range(5) for source in sources]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(all_of, (1, 2))) == [expected * 5] * 2


@pytest.mark.slow
def test_fixed_code_has_no_warnings_and_one_thread_no_thread_code(folder, tmp_path: Path) -> None:
    out = folder("post", "int8", "clang", 1)
    symbols = subprocess.run(["nm", "-A", out / "libtiny.model.a"], capture_output=True, text=True).stdout
    assert "pthread" not in symbols and "sched_" not in symbols
    exported = [line.split()[-1] for line in symbols.splitlines() if line.split()[-2] in "TDRB"]
    assert exported and all(name.startswith("tiny_model_") for name in exported)
    assert tiny(out).error == 0 and tiny(out, threads=2).error == LIMITS
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-fsyntax-only"]
    for cc in ("clang", "gcc"):
        own = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", '-DMODEL_WEIGHTS="w"', f"-I{out}", f"-I{out}/src"]
        for part in FIXED:
            subprocess.run([compiler(cc), *own, *strict, f"{out}/src/{part}.c"], check=True)
    header = f"{out}/tiny.model.h"
    subprocess.run([compiler("g++"), "-x", "c++", "-std=c++11", *strict, header], check=True)


@pytest.mark.slow
def test_sanitizers_find_nothing(folder, tmp_path: Path) -> None:
    """Also where a damaged file has the right checksum: then only what cannot be told from a model is taken."""
    flags = "-O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    checkpoint, generator = small("odd", "int8"), random.Random(0)
    export(checkpoint, "c", tmp_path / "out", package.Options("tiny.model", 2))
    make(tmp_path / "out", "clang", flags, "tiny.model")
    program, data = tmp_path / "out/tiny.model", (tmp_path / "out/tiny.model.weights").read_bytes()
    texts = "".join(generator.choice("abcdefg \u00e9\n") for _ in range(600)).encode() + b"\xff\x80\n"

    def run(*arguments: str | Path, text: bytes = texts) -> int:
        done = subprocess.run([program, *arguments], input=text, capture_output=True, timeout=60)
        assert b"ERROR: " not in done.stderr and b"runtime error" not in done.stderr, done.stderr.decode()[-3000:]
        return done.returncode

    for beam in ("1", "4", "64"):
        assert run("--beam", beam, "--max-length", "9", "--threads", "2") == 0
    assert run("--ids", text=b"1 2 0\n-5\n99999999999 1\nx\n" + b"1 " * 500) == 1
    start = len(data) - 8 * (len(data) // 8 // 20)
    for _ in range(60):
        damaged = bytearray(data)
        at = generator.choice([generator.randrange(40, 144), generator.randrange(start, len(data))])
        damaged[at] ^= 1 << generator.randrange(8)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with path.open("r+b") as file:
            total = package.checksum(file)
            file.seek(16)
            file.write(struct.pack("<Q", total))
        assert run("--weights", path, "abc") in (0, 1)


def test_length_penalties_have_their_numbers() -> None:
    assert tuple(LENGTH_PENALTIES) == package.PENALTIES


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    model, out = small("post", "int8"), tmp_path / "out"
    sizes = export(model, "c", out, package.Options("a"))
    listed = (out / LIST).read_text().splitlines()
    assert set(listed) == set(sizes) == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    with pytest.raises(FileError, match="holds other files, such as"):
        export(model, "c", out, package.Options("a"))
    (out / "mine").write_text("mine")
    export(model, "c", out, package.Options("b"), force=True)
    assert (out / "mine").read_text() == "mine" and (out / "b.weights").exists() and not (out / "a.weights").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "Makefile").write_text("mine")
    with pytest.raises(FileError, match="was not written by an export"):
        export(model, "c", other, package.Options("a"), force=True)
    assert [p.name for p in other.iterdir()] == ["Makefile"]
    for name in ("", "a/b", "-x", 'a"'):
        with pytest.raises(InputError, match="choose another with --name"):
            export(model, "c", tmp_path / "third", package.Options(name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]


def test_the_command_tells_what_it_does(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "minitx", "export", *arguments], capture_output=True, text=True)

    assert "libc with pthread" in run("--list").stdout
    sizes = run("en-pt", "--target", "c", "--quantize", "int8", "--dry-run")
    assert sizes.returncode == 0 and "weights 21.1 MB" in sizes.stdout
    assert run("en-pt", "--target", "z80", "--out", "x").stderr.startswith("minitx: error: target 'z80' is not known")
    failed = run("en-pt", "--target", "c")
    assert failed.returncode == 1 and "--out" in failed.stderr and failed.stderr.count("\n") == 1
