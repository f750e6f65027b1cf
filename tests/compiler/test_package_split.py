"""The sentences and parts that package/split.c makes of any text are those of text/split.py."""

# ruff: noqa: RUF001 (full-width characters are what is tested)

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator

import pytest
from test_tokenizers import DATA, PACKAGE, compile

from minitx.compiler import characters
from minitx.text import split

SOURCES = [str(PACKAGE / name) for name in ("split.c", "normalizer.c")]
WORDS = sorted(set().union(*characters.WORDS.values()))
PARTS = [
    *"aAzZ éÉßİıΣσςКк你好。．！？｡、，日本語हिन्दी।؟۔مرحباเก\u0301\u200d\U0001f3fb👍🏽ǅⅷⅧ²½٣३５\u00a0\u2028\u2003\u1680",
    *split.STOPS + split.WIDE_STOPS + split.CLOSERS + split.OPENERS + split.LINE_ENDS + split.CONTINUERS,
    *("1", "12.", "3.14", "1234", "i", "IV", "xi.", "xiii", "xviii.", "J.", "U.S.", "p.m.", "İ.", "K.", "É", "\u212a."),
    *("Hello", "world.", "«Oui.»", "“No.”", " \n", "\r\n", "  ", ". ", ".\t", "！」", "．5", "．．", "ﬁ", "...", "\0"),
]
BYTES = [
    b"\xff",
    b"\x80",
    b"\xe2\x80",
    b"\xf0\x9f",
    b"\xe3",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\xf0\x80\x80\x80",
    b"\xc3",
]
MEASURES: list[Callable[[str], int]] = [len, lambda s: len(s.split()), lambda s: len(s.encode())]
Fits = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class Sentences(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        *((name, ctypes.c_size_t) for name in ("bytes", "start", "token", "end", "after", "at")),
        *((name, ctypes.c_int) for name in ("begun", "line_end")),
    )


class Part(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in ("start", "end", "after"))


@pytest.fixture(scope="module", params=["clang", "gcc"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("split")
    (folder / "characters.h").write_text(characters.header())
    output = compile(request.param, folder / "split.so", f"-I{folder}", "-std=c11", "-O2", "-shared", "-fPIC", *SOURCES)
    c = ctypes.CDLL(str(output))
    c.split_part.restype = Part
    size = ctypes.c_size_t
    c.split_part.argtypes = [ctypes.c_char_p, size, size, ctypes.POINTER(size), Fits, ctypes.c_void_p]
    return c


def sentences(c: ctypes.CDLL, text: bytes) -> Iterator[Part]:
    state, part, end = Sentences(text=text, bytes=len(text)), Part(), 0
    while c.split_sentence(ctypes.byref(state), ctypes.byref(part)):
        assert end == part.start <= part.end <= part.after
        end = part.after
        yield part
    assert end == len(text)


def pair(text: bytes, part: Part) -> tuple[str, str]:
    return text[part.start : part.end].decode(errors="replace"), text[part.end : part.after].decode()


def parts(c: ctypes.CDLL, sentence: bytes, fits: Callable[[str], bool]) -> list[tuple[str, str]]:
    found, at, guess = [], 0, ctypes.c_size_t.in_dll(c, "SPLIT_GUESS")
    guess = ctypes.c_size_t(guess.value)
    asked = Fits(lambda told, start, end: fits(sentence[start:end].decode(errors="replace")))
    while at < len(sentence):
        part = c.split_part(sentence, at, len(sentence), ctypes.byref(guess), asked, None)
        found.append(pair(sentence, part))
        at = part.after
    return found


def check(c: ctypes.CDLL, text: bytes, measure: Callable[[str], int], most: int) -> None:
    def fits(part: str) -> bool:
        return measure(part) <= most

    theirs = split.sentences(text.decode(errors="replace"))
    ours = [(pair(text, part), text[part.start : part.end]) for part in sentences(c, text)]
    assert [found for found, _ in ours] == theirs, text
    for (sentence, _), own in ours:
        assert parts(c, own, fits) == split.fit(sentence, fits), (own, most)


def random_text(generator: random.Random) -> bytes:
    found, kind = [], generator.randrange(5)
    for _ in range(generator.choice([1, 3, 8, 20, 60])):
        match generator.randrange(4) if kind == 4 else kind:
            case 0:
                found.append(generator.choice(PARTS).encode())
            case 1:
                word = generator.choice(WORDS)
                word = generator.choice([word, word.upper(), word.capitalize()])
                found.append(
                    f"{word}{generator.choice(['.', '.', '', '?', '.)'])}{generator.choice([' ', ''])}".encode()
                )
            case 2:
                code = generator.randrange(generator.choice([0x80, 0x300, 0x3000, 0x10000, 0x20000, 0x110000]))
                found.append(chr(code).encode(errors="replace"))
            case _:
                found.append(generator.choice([generator.randbytes(1), b" ", b".", *BYTES]))
        if generator.random() < 0.2:
            found.append(b" ")
    return b"".join(found)


def check_random(c: ctypes.CDLL, count: int, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(count):
        most = generator.choice([0, 1, 2, 3, 5, 8, 20, 300])
        check(c, random_text(generator), generator.choice(MEASURES), most)


def test_random_texts_are_split_as_in_python(library: ctypes.CDLL) -> None:
    check_random(library, 3000, 1)


@pytest.mark.slow
def test_many_random_texts_are_split_as_in_python(library: ctypes.CDLL) -> None:
    check_random(library, 50_000, 2)


def test_real_texts_are_split_as_in_python(library: ctypes.CDLL) -> None:
    for name in ("en", "pt"):
        text = (DATA / f"sentences.{name}.txt").read_bytes()
        for whole in (text, text.replace(b"\n", b" "), text.replace(b"\n", b" ").replace(b".", b"")):
            for most in (7, 100, 2000):
                check(library, whole, len, most)


def test_characters_have_their_classes(library: ctypes.CDLL) -> None:
    """Those where classes change, in the places where one tells: after a stop, before one, in a number, in a cut."""
    codes = {code for change in characters.classes()[1] for code in (change >> 8, (change >> 8) - 1)}
    some = [chr(code) for code in sorted(codes) if code >= 0 and not 0xD800 <= code < 0xE000]
    for pattern in ("a. {} ", "{}. A ", "{0}.{0}. The ", "0\uff0e{} ", "pp. {} ", "\uff01{}a "):
        text = "".join(f"{pattern.format(c)}\n" for c in some)
        assert [pair(text.encode(), part) for part in sentences(library, text.encode())] == split.sentences(text)
    text = " ".join(some).replace(" ", "").strip()
    assert parts(library, text.encode(), lambda s: len(s) <= 40) == split.fit(text, lambda s: len(s) <= 40)


def test_long_texts_take_little_time(library: ctypes.CDLL) -> None:
    """Each is gone through some times, or this would take hours."""
    for some in ("。", "a。", "。」", ".", "a. ", '"', "a.)", "\u0301", " \n", "a.b.", "1.", "“", "\U0001f3fb"):
        text = (some * (200_000 // len(some))).encode()
        assert sum(1 for _ in sentences(library, text)) >= 1
        assert b"".join(text[p.start : p.after] for p in sentences(library, text)) == text
