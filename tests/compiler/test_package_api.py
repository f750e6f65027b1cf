"""The interface of an exported package: any text, several hypotheses, steps, damaged files, and no allocation."""

from __future__ import annotations

import ctypes
import dataclasses
import random
import struct
import subprocess
from pathlib import Path

import native_models
import numpy as np
import pytest
from test_export import Opened, Options, folder, make, small, tiny  # noqa: F401
from test_package_split import random_text

from minitx.compiler.export import export
from minitx.compiler.targets import package
from minitx.generation.search import generate
from minitx.model import Model

BEGIN, NONE, OPTIONS, LONG, TOKEN, OUTPUT = 18, 17, 11, 13, 12, 14
WRAP = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "aligned_alloc")]
LETTERS = b"abcdefgh .!?\n"
Ids, Scores = ctypes.c_int32, ctypes.c_float


class Translation(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("score", ctypes.c_double))


def translate_best(model: Opened, text: bytes, best: int, room: int = 9000, **options: int) -> list[tuple[str, float]]:
    out, needed, count = ctypes.create_string_buffer(room), ctypes.c_size_t(), ctypes.c_int()
    found = (Translation * best)()
    given = text, ctypes.c_size_t(len(text)), ctypes.byref(Options(**options)), best
    to = out, ctypes.c_size_t(room), ctypes.byref(needed), found, ctypes.byref(count)
    model.error = model.call("translate_best", model.model, *given, *to)
    assert not model.error or count.value == 0
    return [(ctypes.string_at(t.text, t.bytes).decode(), t.score) for t in found[: count.value]]


def texts(seed: int, count: int) -> list[bytes]:
    """Texts of letters that the small models know, and of anything."""
    generator = random.Random(seed)
    known = [bytes(generator.choices(LETTERS, k=generator.choice([0, 3, 12, 40, 300]))) for _ in range(count // 2)]
    return known + [random_text(generator) for _ in range(count - count // 2)]


def same(model: Opened, theirs: Model, some: list[bytes], **options: int) -> None:
    for text in some:
        own = {"beam": options["beam"], "maximum": options["max_length"], "minimum": options.get("min_length", 0)}
        best = options.get("n_best", 1)
        expected = theirs.translate([text.decode(errors="replace")], **options)[0]
        found = translate_best(model, text, best, **own)
        assert model.error == 0 and [t for t, _ in found] == [t.text for t in expected], (text, options)
        assert np.allclose([s for _, s in found], [t.score for t in expected], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_any_text_is_translated_as_minitx_does(folder) -> None:  # noqa: F811
    out, checkpoint = folder("post", "int8", "clang", 64, "-O3"), small("post", "int8")
    theirs, model = Model(checkpoint, native_models.native("post", "int8", 1)), tiny(out)
    same(model, theirs, texts(1, 600), beam=1, max_length=3)
    same(model, theirs, texts(2, 60), beam=4, max_length=4, min_length=2)
    same(model, theirs, texts(3, 60), beam=3, max_length=4, n_best=3)
    same(model, theirs, texts(4, 30), beam=1, max_length=4, n_best=2)


@pytest.mark.slow
def test_hypotheses_are_those_of_minitx_best_first(folder) -> None:  # noqa: F811
    out, checkpoint = folder("ssru", "none", "clang"), small("ssru", "none")
    engine, sources = native_models.native("ssru", "none"), native_models.sentences(*range(2, 12))
    model, generation = tiny(out), dataclasses.replace(checkpoint.generation, beam=4)
    ids, count, score = (Ids * 64)(), ctypes.c_int(), ctypes.c_double()
    for source, best in zip(sources, generate(engine, sources, generation, n_best=4, min_length=3), strict=True):
        assert model.generate(source, beam=4, minimum=3) == [*best[0].tokens]
        for rank, hypothesis in enumerate(best):
            to = ids, 64, ctypes.byref(count), ctypes.byref(score)
            assert model.call("hypothesis", model.model, rank, *to) == 0
            assert (*ids[: count.value],) == hypothesis.tokens and score.value == pytest.approx(hypothesis.score)
        assert model.call("hypothesis", model.model, len(best), *to) == NONE
    assert model.call("hypothesis", model.model, 0, ids, 0, ctypes.byref(count), None) == OUTPUT and count.value
    model.generate([96])
    assert model.error == TOKEN and model.call("hypothesis", model.model, 0, *to) == NONE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantization"), [("post", "int8"), ("ssru", "none")])
def test_steps_are_those_of_the_native_engine(folder, name: str, quantization: str) -> None:  # noqa: F811
    model, engine = (
        tiny(folder(name, quantization, "clang", 64, "-O3"), beam=4),
        native_models.native(name, quantization),
    )
    random_rows = np.random.default_rng(0)
    for source in native_models.sentences(3, 17):
        state = engine.encode(np.array([source], np.int32), np.array([len(source)]), 64)
        assert model.call("begin", model.model, (Ids * len(source))(*source), len(source)) == 0
        tokens = np.array([-1], np.int32)
        for top in (1, 5, 80, 3, 9):
            theirs = engine.step(state, tokens, top)
            ids, scores = (Ids * (len(tokens) * top))(), (Scores * (len(tokens) * top))()
            assert model.call("step", model.model, (Ids * len(tokens))(*tokens), top, ids, scores) == 0
            assert [*ids] == theirs[0].ravel().tolist()
            assert np.allclose([*scores], theirs[1].ravel(), rtol=1e-5, atol=1e-5)
            rows = random_rows.integers(0, len(tokens), random_rows.integers(1, 5))
            state, tokens = engine.reorder(state, rows), theirs[0][rows, 0]
            assert model.call("reorder", model.model, (Ids * len(rows))(*rows), len(rows)) == 0


@pytest.mark.slow
def test_steps_that_cannot_be_are_refused(folder) -> None:  # noqa: F811
    model = tiny(folder("post", "int8", "clang"), source=8, target=3, beam=2)
    one, ids, scores = (Ids * 2)(-1, -1), (Ids * 200)(), (Scores * 200)()

    def call(name: str, *arguments: object) -> int:
        return model.call(name, model.model, *arguments)

    assert call("step", one, 1, ids, scores) == call("reorder", (Ids * 1)(0), 1) == BEGIN
    assert call("begin", one, 0) == OPTIONS and call("begin", (Ids * 9)(), 9) == LONG and call("begin", one, 1) == TOKEN
    assert call("begin", (Ids * 2)(5, 0), 2) == 0
    assert [call("step", one, top, ids, scores) for top in (0, 81, 97)] == [OPTIONS] * 3
    assert call("step", (Ids * 1)(96), 1, ids, scores) == TOKEN
    assert [call("reorder", (Ids * 3)(*rows), len(rows)) for rows in ([], [1], [-1], [0, 0, 0])] == [OPTIONS] * 4
    assert [call("step", one, 1, ids, scores) for _ in range(4)] == [0, 0, 0, LONG]
    assert model.generate([5, 0]) and call("step", one, 1, ids, scores) == BEGIN


@pytest.mark.slow
def test_facts_are_those_of_the_model(folder) -> None:  # noqa: F811
    model = tiny(folder("odd", "none", "clang"), source=8)
    facts = (ctypes.c_int * 9)()
    model.call("about", model.model, facts)
    assert [*facts] == [8, 64, 4, 1, 96, 101, -1, 0, 1]


def records(path: Path, some: list[bytes]) -> Path:
    path.write_bytes(b"".join(struct.pack("<I", len(one)) + one for one in some))
    return path


def damage(seed: int, data: bytes, count: int) -> list[bytes]:
    """Records for package_main.c: flipped bits, above all in the head and the tables, and ends that come too early."""
    generator, found = random.Random(seed), []
    (weights, size), *tables = struct.iter_unpack("<QQ", data[40:104])
    tables = [(start, length) for start, length in tables if length]
    for _ in range(count):
        if generator.random() < 0.1:
            found.append(
                struct.pack("<I", generator.choice([generator.randrange(256), generator.randrange(len(data))]))
            )
            continue
        flips = b""
        for _ in range(generator.choice([1, 1, 2, 8])):
            places = [(24, 120), (weights, size), *2 * [(start, min(length, 256)) for start, length in tables], *tables]
            start, length = generator.choice(places)
            flips += struct.pack("<IB", start + generator.randrange(length), 1 << generator.randrange(8))
        found.append(flips)
    return found


def build(folder: Path, main: str, sanitize: str, *link: str) -> Path:  # noqa: F811
    """A C program beside this file with a small model under some sanitizers."""
    flags = f"-O1 -g -fsanitize={sanitize} -fno-sanitize-recover=all"
    export(small("odd", "int8"), "c", folder, package.Options("tiny.model", 4))
    make(folder, "clang", flags, "libtiny.model.a")
    program = folder / "main"
    files = [str(Path(__file__).with_name(main)), str(folder / "libtiny.model.a"), "-o", str(program)]
    subprocess.run(["clang", *flags.split(), f"-I{folder}", *files, "-lm", "-pthread", *link], check=True)
    return program


@pytest.mark.slow
def test_sanitizers_find_nothing_in_random_texts_and_damaged_files(tmp_path: Path) -> None:
    """Nor is anything allocated after the model is opened, or read or written beside what was given."""
    program = build(tmp_path / "out", "package_main.c", "address,undefined", *WRAP)
    weights = tmp_path / "out/tiny.model.weights"
    for kind, some in (("texts", texts(5, 600)), ("damage", damage(6, weights.read_bytes(), 200))):
        arguments = [program, kind, records(tmp_path / kind, some), weights]
        done = subprocess.run(arguments, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        assert kind == "texts" or 20 < int(done.stdout) <= 200


@pytest.mark.slow
def test_two_models_with_teams_have_no_race(tmp_path: Path) -> None:
    program = build(tmp_path / "out", "threads_main.c", "thread")
    arguments = [program, tmp_path / "out/tiny.model.weights"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "0 0\n"), done.stderr[-3000:]
