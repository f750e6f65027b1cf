"""Files that are cut, flipped or false are refused in one line, or give a tokenizer that works."""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import pytest
from spm_models import field, message, model, real_models, varint

from minitx.errors import Error, FileError
from minitx.text import spm, tokenizer

SAMPLE = "The children\u2019s \uff46\uff55ll e\u0301lan, ﬁne. 漢字 😀"
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("a", -1.0, 1), ("b", -2.0, 1)]


@pytest.fixture(scope="module")
def real() -> bytes:
    return real_models()[0].read_bytes()


@pytest.fixture(scope="module")
def small(real: bytes) -> bytes:
    """The real model with its character map and its first 400 pieces, so that many damaged copies can be read."""
    whole = spm.parse(real)
    types = [2 if i == whole.vocabulary.unknown else 3 if i in whole.vocabulary.types else 1 for i in range(400)]
    rows = [
        (piece, score, kind) for piece, score, kind in zip(whole.pieces, whole.vocabulary.scores, types, strict=False)
    ]
    return model(rows, message(_3=1), message(_2=whole.normalizer.characters.data))


def works_or_refuses(path: Path, data: bytes) -> bool:
    """Whether a file's bytes are a tokenizer that works; where not, the error is one line that names the file."""
    path.write_bytes(data)
    try:
        read = tokenizer.read(path)
    except FileError as e:
        assert str(path) in str(e) and "\n" not in str(e) and len(str(e)) < 400
        return False
    try:
        read.decode(read.encode(SAMPLE))
        read.decode(range(len(read.pieces)))
    except Error as e:
        assert "\n" not in str(e)
    return True


def test_every_cut_is_refused_or_works(small: bytes, real: bytes, tmp_path: Path) -> None:
    generator = random.Random(0)
    cuts = [*range(60), *(generator.randrange(len(small)) for _ in range(300))]
    for cut in cuts:
        works_or_refuses(tmp_path / "cut.spm", small[:cut])
    for _ in range(6):
        works_or_refuses(tmp_path / "cut.spm", real[: generator.randrange(len(real))])


def test_every_flipped_byte_is_refused_or_works(small: bytes, real: bytes, tmp_path: Path) -> None:
    generator = random.Random(0)
    outcomes = set()
    for data, times in ((small, 400), (real, 12)):
        for _ in range(times):
            flipped = bytearray(data)
            # Half of them among the pieces, where a byte is a length as often as a letter.
            flipped[generator.choice([generator.randrange(6000), generator.randrange(len(data))])] ^= (
                generator.randrange(1, 256)
            )
            outcomes.add(works_or_refuses(tmp_path / "flipped.spm", bytes(flipped)))
    assert outcomes == {True, False}


FALSE = {
    "empty": b"",
    "text": b"hello\n",
    "zeros": bytes(1000),
    "json": b'{"kind": "unigram"}',
    "newline": b"\n",
    "a length of 2**60": b"\x0a" + varint(1 << 60) + b"abc",
    "a number without end": b"\x0a" + b"\xff" * 30,
    "a number of 70 bits": b"\x0a\x02\x08\x01" + b"\x10" + b"\xff" * 9 + b"\x7f",
    "field 0": b"\x0a\x02\x00\x01",
    "a group": b"\x0a\x02\x0b\x0c",
    "no pieces": b"\x0a\x00",
    "no unknown": model([("a", 0.0, 1)]),
    "two unknown": model([("a", 0.0, 2), ("b", 0.0, 2)]),
    "a piece twice": model([*PIECES, ("a", 0.0, 1)]),
    "an empty piece": model([*PIECES, ("", 0.0, 1)]),
    "not UTF-8": model(PIECES) + field(1, field(1, b"\xff\xfe")),
    "infinite score": model([*PIECES, ("c", float("inf"), 1)]),
    "no number for a score": model([*PIECES, ("c", float("nan"), 1)]),
    "type 9": model([*PIECES, ("c", 0.0, 9)]),
    "score as text": model(PIECES) + field(1, message(_1="c", _2="x")),
    "piece as a number": b"\x0a\x04" + field(1, 300)[:2] + b"\x08\x01",
    "trainer as a number": model(PIECES) + field(2, 7),
    "word model": model(PIECES, message(_3=3)),
    "model 17": model(PIECES, message(_3=17)),
    "byte fallback, no bytes": model(PIECES, message(_3=1, _35=1)),
    "bytes, no fallback": model([*PIECES, ("<0x00>", 0.0, 6)]),
    "a false byte": model([*PIECES, *((f"<0x{b:02x}>", 0.0, 6) for b in range(256))], message(_35=1)),
    "false map": model(PIECES, b"", message(_2=b"\xff\xff\xff\x7fabcd")),
}


@pytest.mark.parametrize("kind", FALSE)
def test_a_false_file_is_refused_in_one_line_that_says_what_to_do(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "false.spm"
    path.write_bytes(FALSE[kind])
    with pytest.raises(FileError, match=r"\A[^\n]*false\.spm: [^\n]*; [^\n]+\Z"):
        tokenizer.read(path)


def test_a_lying_length_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "lying.spm"
    path.write_bytes(model(PIECES) + b"\x12" + varint(1 << 40))
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="1099511627776 bytes"):
            tokenizer.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.spm"
    with path.open("wb") as file:
        file.truncate(tokenizer.LARGEST_FILE + 1)  # takes no room on the disk
    with pytest.raises(FileError, match="too large"):
        tokenizer.read(path)


@pytest.mark.parametrize("name", ["missing.spm", "."])
def test_what_cannot_be_opened_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be read|is not a file"):
        tokenizer.read(tmp_path / name)


def test_unknown_fields_are_skipped() -> None:
    extra = field(200, "x") + field(201, 5) + field(202, 1.0) + varint(203 << 3 | 1) + bytes(8)
    plain, extended = model(PIECES, message(_3=2)), model(PIECES, message(_3=2) + extra, extra, extra)
    assert spm.parse(extended).to_dict() == spm.parse(plain).to_dict()


def test_a_real_model_is_read_in_a_moment(real: bytes) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert len(spm.parse(real).pieces) == 32_000
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # 0.1 s is usual
