"""The tokenizer in C gives the ids and the text that minitx gives, and takes damaged tables without harm."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from tokenizer_models import ODD, TRAINED, random_model, random_text, renumbered, trained

from minitx.compiler import tokenizers
from minitx.errors import ConfigError
from minitx.text import tokenizer
from minitx.text.normalizer import CharacterMap, Normalizer
from minitx.text.segment import Vocabulary
from minitx.text.sentencepiece import SentencePiece
from minitx.text.tokenizer import Tokenizer

PACKAGE = Path(tokenizers.__file__).parent / "package"
SOURCES = [str(PACKAGE / name) for name in ("tokenizer.c", "normalizer.c", "segment.c")]
MAIN = str(Path(__file__).with_name("tokenizer_main.c"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
DATA = Path(__file__).parents[1] / "data"
DAMAGED, WORKSPACE, ID = -1, -2, -3


def compile(compiler: str, output: Path, *arguments: str) -> Path:
    if shutil.which(compiler) is None:
        assert "CI" not in os.environ, f"install {compiler}"
        pytest.skip(f"{compiler} is not installed")
    subprocess.run([compiler, *WARNINGS, f"-I{PACKAGE}", *arguments, "-o", str(output)], check=True)
    return output


class Library:
    """The C code, called from Python."""

    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.c.tokenizer_open.argtypes = [pointer, pointer, size]
        self.c.tokenizer_workspace.argtypes, self.c.tokenizer_workspace.restype = [pointer, size], size
        self.c.tokenizer_replaced.argtypes, self.c.tokenizer_replaced.restype = [ctypes.c_char_p, size], size
        self.c.tokenizer_encode.argtypes = [pointer, ctypes.c_char_p, size, pointer, ctypes.c_int, pointer, size]
        self.c.tokenizer_decode.argtypes = [pointer, pointer, ctypes.c_int, pointer, size]


class Opened:
    """A tokenizer in C, with memory of its own."""

    def __init__(self, library: Library, packed: bytes):
        self.c, self.tables = library.c, ctypes.create_string_buffer(packed, len(packed))
        self.tokenizer = ctypes.create_string_buffer(512)
        assert self.c.tokenizer_open(self.tokenizer, self.tables, len(packed)) == 0

    def encode(self, text: bytes) -> list[int]:
        size = self.c.tokenizer_workspace(self.tokenizer, len(text))
        workspace, ids = ctypes.create_string_buffer(size), (ctypes.c_int32 * (64 * len(text) + 64))()
        count = self.c.tokenizer_encode(self.tokenizer, text, len(text), ids, len(ids), workspace, size)
        assert 0 <= count <= len(ids), count
        return ids[:count]

    def decode(self, ids: list[int]) -> str:
        array = (ctypes.c_int32 * len(ids))(*ids)
        size = self.c.tokenizer_decode(self.tokenizer, array, len(ids), None, 0)
        assert size >= 0
        out = ctypes.create_string_buffer(b"x" * (size + 1), size + 1)
        assert self.c.tokenizer_decode(self.tokenizer, array, len(ids), out, size) == size and out.raw[size:] == b"x"
        if size:
            assert self.c.tokenizer_decode(self.tokenizer, array, len(ids), out, size - 1) == size
        return out.raw[:size].decode()


@pytest.fixture(scope="module", params=["clang", "gcc"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    output = tmp_path_factory.mktemp("library") / f"{request.param}.so"
    return Library(compile(request.param, output, "-std=c11", "-O2", "-shared", "-fPIC", *SOURCES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def real(path: Path) -> Tokenizer:
    return tokenizer.read(next(path.glob("*.spm")))


def check(ours: Opened, theirs: Tokenizer, text: bytes) -> None:
    ids = theirs.encode(text.decode(errors="replace"))
    assert ours.encode(text) == ids, text
    assert ours.decode(ids) == theirs.decode(ids), text


def check_all(library: Library, theirs: Tokenizer, generator: random.Random, count: int) -> None:
    ours = Opened(library, tokenizers.pack(theirs))
    for text in ODD:
        check(ours, theirs, text.encode())
    for _ in range(count):
        check(ours, theirs, random_text(generator, theirs))
        ids = generator.choices(range(len(theirs.pieces)), k=generator.randint(0, 9))
        assert ours.decode(ids) == theirs.decode(ids), ids


def lines() -> list[bytes]:
    return [line for name in ("en", "pt") for line in (DATA / f"sentences.{name}.txt").read_bytes().splitlines()]


def test_the_code_is_also_cpp_and_small(tmp_path: Path) -> None:
    for compiler in ("clang++", "g++"):
        compile(compiler, tmp_path / "cpp.so", "-x", "c++", "-std=c++11", "-shared", "-fPIC", *SOURCES)
    library = compile("clang", tmp_path / "small.so", "-std=c11", "-Os", "-s", "-shared", "-fPIC", *SOURCES)
    assert library.stat().st_size < 25_000


@pytest.mark.parametrize("pair", ["en_pt", "pt_en"])
def test_a_real_model_gives_the_same(library: Library, pair: str, request: pytest.FixtureRequest) -> None:
    theirs, seed = real(request.getfixturevalue(pair)), random.randrange(1 << 32)
    print("seed", seed)
    check_all(library, theirs, random.Random(seed), 5_000)
    ours = Opened(library, tokenizers.pack(theirs))
    for text in [*lines(), b"\n".join(lines()), b"a" * 10_000, "漢é".encode() * 5_000, b"\xff" * 1_000]:
        check(ours, theirs, text)
    everything = list(range(len(theirs.pieces)))
    assert ours.decode(everything) == theirs.decode(everything)


def test_real_sentences_take_microseconds(library: Library, en_pt: Path) -> None:
    ours, texts = Opened(library, tokenizers.pack(real(en_pt))), lines()
    workspace, ids = ctypes.create_string_buffer(1 << 20), (ctypes.c_int32 * 1000)()

    def seconds() -> float:
        start = time.perf_counter()
        for text in texts:
            ours.c.tokenizer_encode(ours.tokenizer, text, len(text), ids, 1000, workspace, 1 << 20)
        return (time.perf_counter() - start) / len(texts)

    assert min(seconds() for _ in range(5)) < 40e-6  # 8e-6 is usual, minitx takes 220e-6


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_give_the_same(library: Library, folder: Path, name: str) -> None:
    theirs, generator = trained(name, folder), random.Random(name)
    check_all(library, theirs, generator, 500)
    check_all(library, renumbered(theirs, generator), generator, 500)


def fuzz(library: Library, models: int, texts: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    for i in range(models):
        check_all(library, random_model(seed + i), random.Random(i), texts)


def test_random_models_give_the_same_for_10_000_texts(library: Library) -> None:
    fuzz(library, 200, 50)


@pytest.mark.slow
def test_random_models_give_the_same_for_100_000_texts(library: Library) -> None:
    fuzz(library, 1000, 100)


def test_all_that_is_not_utf8_is_replaced_as_python_does_it(library: Library) -> None:
    generator = random.Random(0)
    model = Vocabulary(["<unk>", *map(chr, range(0x80, 0x100)), "\ufffd"], [0.0] * 130, {0: "unknown"})
    normalizer = Normalizer(CharacterMap(b""), dict.fromkeys(Normalizer.FLAGS, False))
    theirs = SentencePiece("unigram", model, normalizer, None, False, "?")
    ours = Opened(library, tokenizers.pack(theirs))
    edges = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]
    for _ in range(20_000):
        text = bytes(generator.choices(edges, k=generator.randint(1, 6)))
        check(ours, theirs, text)
        assert library.c.tokenizer_replaced(text, len(text)) == text.decode(errors="replace").count("\ufffd")


def test_too_little_room_is_told_and_nothing_is_written_past_it(library: Library, en_pt: Path) -> None:
    ours, text = Opened(library, tokenizers.pack(real(en_pt))), b"The children were playing in the garden."
    expected = ours.encode(text)
    ids, size = (ctypes.c_int32 * 100)(*[-7] * 100), ours.c.tokenizer_workspace(ours.tokenizer, len(text))
    workspace = ctypes.create_string_buffer(size)
    for room in range(len(expected) + 1):
        given = ours.c.tokenizer_encode(ours.tokenizer, text, len(text), ids, room, workspace, size)
        assert given == len(expected) and ids[:room] == expected[:room] and ids[room] == -7
    results = {
        ours.c.tokenizer_encode(ours.tokenizer, text, len(text), ids, 100, workspace, room) for room in range(size)
    }
    assert results == {WORKSPACE, len(expected)}
    bad = (ctypes.c_int32 * 2)(5, 32000)
    assert ours.c.tokenizer_decode(ours.tokenizer, bad, 2, None, 0) == ID
    assert ours.c.tokenizer_decode(ours.tokenizer, (ctypes.c_int32 * 1)(-1), 1, None, 0) == ID


def test_what_is_no_table_is_refused(library: Library) -> None:
    packed, tokenizer = tokenizers.pack(random_model(0)), ctypes.create_string_buffer(512)
    memory = ctypes.create_string_buffer(b"\0" * 4 + packed)
    start = ctypes.addressof(memory) + 4
    assert library.c.tokenizer_open(tokenizer, start, len(packed)) == DAMAGED  # not aligned
    for damaged in (b"", packed[:-1], b"MXTL" + packed[4:], packed[:4] + b"\2" + packed[5:], bytes(len(packed))):
        memory = ctypes.create_string_buffer(damaged, len(damaged) + 8)
        assert library.c.tokenizer_open(tokenizer, memory, len(damaged)) == DAMAGED


def test_two_threads_share_a_tokenizer(library: Library, en_pt: Path) -> None:
    ours, texts = Opened(library, tokenizers.pack(real(en_pt))), lines() * 4
    expected = [ours.encode(text) for text in texts]
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda _: [ours.encode(text) for text in texts], range(4)):
            assert result == expected


def record(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sanitized") / "main"
    try:
        return compile("clang", output, "-std=c11", "-O1", *SANITIZE, *SOURCES, MAIN)
    except subprocess.CalledProcessError:
        assert "CI" not in os.environ, "install clang with its sanitizers"
        pytest.skip("clang's sanitizers are not installed")


def run(program: Path, folder: Path, **files: bytes) -> bytes:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    done = subprocess.run([program, *(folder / name for name in files)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout


def test_sanitizers_find_nothing_in_random_models(sanitized: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    for i in range(100):
        theirs, generator = random_model(seed + i), random.Random(i)
        texts = [*(text.encode() for text in ODD), *(random_text(generator, theirs) for _ in range(100))]
        expected = b""
        for ids in (theirs.encode(text.decode(errors="replace")) for text in texts):
            decoded = theirs.decode(ids).encode()
            expected += "".join(f"{i} " for i in ids).encode() + b"\n%d\n%s\n" % (len(decoded), decoded)
        assert run(sanitized, tmp_path, tables=tokenizers.pack(theirs), texts=record(*texts)) == expected


@pytest.mark.parametrize("name", ["random", "unigram", "bpe bytes", "en-pt"])
def test_1000_damaged_tables_do_no_harm(sanitized: Path, tmp_path: Path, en_pt: Path, name: str) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    generator = random.Random(seed)
    several = [random_model(seed + i) for i in range(10)] if name == "random" else []
    for theirs in several or [real(en_pt) if name == "en-pt" else trained(name, tmp_path)]:
        tables, damage = tokenizers.pack(theirs), []
        for _ in range(100 if several else 1000):
            size = generator.choice([200, len(tables)])  # the header as often as all the rest
            flip = struct.pack("<IB", generator.randrange(size), 1 << generator.randrange(8))
            damage.append(flip if generator.random() < 0.9 else struct.pack("<I", generator.randrange(len(tables))))
        texts = [*(text.encode() for text in ODD), *(random_text(generator, theirs) for _ in range(5))]
        refused = int(run(sanitized, tmp_path, tables=tables, texts=record(*texts), damage=record(*damage)))
        assert 0 < refused < len(damage)


@pytest.mark.parametrize("strings", [["a"], ["a", "ab", "abc"], ["\xff", "é", "漢字", "漢"], "every"])
def test_a_trie_gives_its_values_and_nothing_else(strings: list[str]) -> None:
    keys = [s.encode() for s in strings] if strings != "every" else [bytes([b]) for b in range(1, 256)]
    values = {key: 5 * i for i, key in enumerate(keys)}
    units = tokenizers.trie(values)
    body = b"".join(b"%d\0" % i for i in range(len(keys)))
    places = {key: body.index(b"%d\0" % i) for i, key in enumerate(keys)}
    placed = tokenizers.trie(places)
    characters = CharacterMap(struct.pack(f"<I{len(placed)}I", 4 * len(placed), *placed) + body)
    assert len(units) == len(placed)
    assert dict(tokenizers.rules(characters)) == {key: b"%d" % i for i, key in enumerate(keys)}
    for first in range(256):
        text = bytes([first, first])
        assert (characters.longest(text, 0) is not None) == any(text.startswith(key) for key in keys)


def test_what_c_cannot_do_is_refused_in_one_line(folder: Path) -> None:
    model = trained("bpe", folder)
    model.denormalizer = model.normalizer
    with pytest.raises(ConfigError, match="it has a denormalizer, which cannot be exported"):
        tokenizers.pack(model)
    odd = Vocabulary(["<unk>", "a\0b"], [0.0, 0.0], {0: "unknown"})
    normalizer = Normalizer(CharacterMap(b""), dict.fromkeys(Normalizer.FLAGS, False))
    with pytest.raises(ConfigError, match="NUL"):
        tokenizers.pack(SentencePiece("bpe", odd, normalizer, None, False, "?"))
