"""Ids and text are those of the `sentencepiece` package, for real models, trained ones and odd ones made by hand."""

# ruff: noqa: RUF001 (full-width characters are what is tested)

from __future__ import annotations

import random
import subprocess
import sys
import time
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from spm_models import field, message, model, real_models

from minitx.errors import FileError, InputError
from minitx.text import spm
from minitx.text.normalizer import CharacterMap
from minitx.text.sentencepiece import SentencePiece

TRAINED = {
    "unigram": {"model_type": "unigram"},
    "bpe": {"model_type": "bpe"},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, "character_coverage": 0.98},
    "bpe bytes": {"model_type": "bpe", "byte_fallback": True, "character_coverage": 0.98},
    "unigram symbols": {
        "model_type": "unigram",
        "user_defined_symbols": ["<x>", "ab", "abc", "\ufb01", "a b", "\u0301"],
    },
    "bpe symbols": {"model_type": "bpe", "user_defined_symbols": ["<x>", "ab", "abc", "\ufb01", "a b", "\u0301"]},
    "control": {"model_type": "unigram", "control_symbols": ["<2pt>"], "pad_id": 3, "unk_surface": "?"},
    "identity": {"model_type": "unigram", "normalization_rule_name": "identity"},
    "nfkc_cf": {"model_type": "bpe", "normalization_rule_name": "nfkc_cf"},
    "nmt_nfkc_cf": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
    "suffix": {"model_type": "unigram", "treat_whitespace_as_suffix": True},
    "bpe suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True},
    "no dummy prefix": {"model_type": "unigram", "add_dummy_prefix": False},
    "all spaces": {"model_type": "bpe", "remove_extra_whitespaces": False},
    "as it is": {"model_type": "unigram", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
    "across words": {"model_type": "unigram", "split_by_whitespace": False},
}
ODD = [
    "",
    " ",
    "  \t\n ",
    "\u2581",
    "a\u2581 \u2581b",
    "e\u0301 o\u0308\u0323 \u0301",
    "👩‍👩‍👧‍👦 👍🏽 🇧🇷",
    "שלום עולם \u200f\u202eabc\u202c",
    "مرحبا ﷺ بالعالم",
    "a\x00b\x00",
    "\x01\x02\x7f\x80\x9f",
    "\ue000\uf8ff\U000f0000",
    "\u0378\U0001fffe\uffff\ufdd0",
    "\ud7ff\ue000",
    "ﬁ ﬀ ﷺ ㌀ ½ Ⅷ ① ｶﾞ",
    "\u3000全角\u3000ＡＢＣ１２３",
    "한국어 \u1112\u1161\u11ab",
    "\ufeffBOM \ufeff",
    "a\r\nb\rc\nd\u2028e\u2029f\x85g",
    "\u00a0nbsp\u2003em\u200bzero",
    "İstanbul ẞ ŉ ǰ ΐ",
    "क्षत्रिय ไทย தமிழ்",
    "<unk> <s> </s> <0x41> <x> <2pt>",
    "ab abc a b abab abcab",
    "x" * 300,
]


@cache
def corpus() -> list[str]:
    """Lines of made-up words, the same every time, with some rare characters."""
    generator = random.Random(0)
    syllables = [c + v for c in "bcdfglmnprst" for v in ["a", "e", "i", "o", "u", "ão", "é", "ou"]]
    words = ["".join(generator.choices(syllables, k=generator.choice([1, 2, 2, 3]))) for _ in range(400)]
    rare = ["The", "New York,", "3.14", "漢字。", "Привет", "e\u0301a", "a b", "abc"]
    return [" ".join(generator.choices(words, k=9) + generator.choices(rare, k=1)) + "." for _ in range(600)]


@cache
def trained(name: str) -> bytes:
    """A small model that the package trained."""
    path = Path(TMP[0]) / name.replace(" ", "_")
    text = path.with_suffix(".txt")
    text.write_text("\n".join(corpus()))
    size = 420 if "bytes" in name else 250
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(path), vocab_size=size, minloglevel=2, num_threads=1, **TRAINED[name]
    )
    return path.with_suffix(".model").read_bytes()


TMP: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    TMP[:] = [str(tmp_path_factory.mktemp("models"))]


@cache
def pair(name: str) -> tuple[SentencePiece, sentencepiece.SentencePieceProcessor]:
    """Our reading of a model and the package's: a real one by its number, a trained one by its name."""
    data = real_models()[int(name)].read_bytes() if name.isdigit() else trained(name)
    return spm.parse(data), sentencepiece.SentencePieceProcessor(model_proto=data)


def random_text(generator: random.Random, size: int) -> str:
    """Characters of all planes, most of them assigned, and words and spaces between them."""
    result = []
    while len(result) < size:
        kind = generator.random()
        if kind < 0.4:
            result.append(generator.choice(["ab", "a", " ", "  ", "bra", "ção", "the", ".", "\u2581", "\n", "e\u0301"]))
        else:
            code = generator.choice([0x300, 0x3000, 0x11000, 0x20000, 0x110000])
            character = chr(generator.randrange(code))
            if unicodedata.category(character) != "Cs" and (kind < 0.5 or unicodedata.category(character) != "Cn"):
                result.append(character)
    return "".join(result)


def check(name: str, text: str) -> None:
    ours, theirs = pair(name)
    ids = theirs.encode(text)
    assert ours.encode(text) == ids, (name, text)
    assert ours.decode(ids) == theirs.decode(ids), (name, text)


@pytest.mark.parametrize("name", ["0", "1", *TRAINED])
def test_equal_on_a_thousand_strings(name: str) -> None:
    generator = random.Random(name)
    for text in ODD + [random_text(generator, generator.choice([1, 3, 10, 40])) for _ in range(1000)]:
        check(name, text)


@pytest.mark.parametrize("name", ["0", "nfkc_cf", "identity"])
def test_equal_on_every_character_of_the_basic_plane(name: str) -> None:
    for start in range(0, 0x10000, 16):
        if not 0xD800 <= start < 0xE000:
            check(name, "a".join(map(chr, range(start, start + 16))))


@pytest.mark.parametrize("name", ["0", *TRAINED])
@given(text=st.text(max_size=60))
@settings(max_examples=25, deadline=None)
def test_equal_on_any_text(name: str, text: str) -> None:
    check(name, text)


LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONG = {
    "one letter": "a" * 10_000,
    "random letters": "".join(random.Random(1).choices(LETTERS, k=10_000)),
    "accents": "".join(random.Random(2).choices("aeoéãç\u0301", k=10_000)),
    "emoji": "😀👍🏽👩‍👩‍👧" * 1_250,
    "ideographs": "".join(chr(0x4E00 + random.Random(3).randrange(20_000)) for _ in range(10_000)),
    "marks": "\u0301" * 10_000,
    "spaces": " " * 10_000,
}


@pytest.mark.parametrize("name", ["0", "1", "unigram", "bpe", "bpe bytes", "unigram symbols", "bpe symbols"])
@pytest.mark.parametrize("kind", LONG)
def test_equal_on_one_word_of_10_000_characters_and_quick(name: str, kind: str) -> None:
    pair(name)
    start = time.perf_counter()
    pair(name)[0].encode(LONG[kind])
    assert time.perf_counter() - start < 2, "about 0.05 s is usual; quadratic would be minutes"
    check(name, LONG[kind])


def test_ties_in_float32_go_to_the_first_as_in_the_package() -> None:
    """Where float64 sums, the `tokenizers` library's, cut differently."""
    for seed in (11, 33, 35, 45, 58):
        check("0", "".join(random.Random(seed).choices(LETTERS, k=4000)))


@pytest.mark.parametrize("name", ["0", *TRAINED])
def test_random_ids_have_the_text_that_the_package_gives(name: str) -> None:
    ours, theirs = pair(name)
    generator = random.Random(name)
    special = sorted(ours.vocabulary.types)
    for _ in range(300):
        ids = generator.choices(range(len(ours.pieces)), k=generator.choice([1, 2, 5, 12]))
        ids += generator.choices(special, k=generator.choice([0, 1, 4]))
        generator.shuffle(ids)
        assert ours.decode(ids) == theirs.decode(ids), ids


def odd_model(generator: random.Random) -> tuple[bytes, str]:
    """A model of few pieces, of any type and with equal scores, and the characters that they are made of."""
    alphabet = generator.choice(["ab", "ab\u2581", "ab\u2581 ", "a\u0301\u2581é", "aﬁ\u3000\u2581"])
    pieces = {"b": ("b", -1.0, 1)}
    for _ in range(generator.choice([3, 10, 40])):
        piece = "".join(generator.choices(alphabet, k=generator.choice([1, 1, 2, 2, 3, 4, 6])))
        score = generator.choice([-1.0, -2.0, -1.5, 0.0, 1.0, generator.uniform(-12, 3)])
        pieces[piece] = (piece, score, generator.choice([1, 1, 1, 1, 4, 5]))
    rows = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), *pieces.values()]
    bytes_too = generator.random() < 0.2
    rows += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256 * bytes_too)]
    generator.shuffle(rows)
    characters = pair("0")[0].normalizer.characters.data if generator.random() < 0.5 else b""

    def flag() -> int:
        return generator.randrange(2)

    trainer = message(_3=generator.choice([1, 2]), _24=flag(), _35=int(bytes_too), _44=generator.choice(["??", ""]))
    rest = field(5, message(_2=characters, _3=flag(), _4=flag(), _5=flag())) if generator.random() < 0.2 else b""
    normalizer = message(_2=characters, _3=flag(), _4=flag(), _5=flag())
    return model(rows, trainer, normalizer, rest), alphabet + "ab cx😀\u00a0\n"


@pytest.mark.parametrize("seed", range(250))
def test_odd_models_are_read_as_the_package_reads_them(seed: int) -> None:
    generator = random.Random(seed)
    data, alphabet = odd_model(generator)
    ours, theirs = spm.parse(data), sentencepiece.SentencePieceProcessor(model_proto=data)
    for size in (1, 3, 8, 20, 60):
        text = "".join(generator.choices(alphabet, k=size))
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        others = generator.choices(range(len(ours.pieces)), k=size)
        assert [ours.decode(ids), ours.decode(others)] == [theirs.decode(ids), theirs.decode(others)]


def test_a_chain_of_unused_pieces_is_undone_without_recursion() -> None:
    rows = [("<unk>", 0.0, 2), *(("a" * n, float(n), 1 if n == 1 else 5) for n in range(1, 2000))]
    assert spm.parse(model(rows, message(_3=2))).encode("a" * 1500) == [0] + [1] * 1500


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udce9"])
def test_half_a_surrogate_pair_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="surrogate"):
        pair("0")[0].encode(text)


@pytest.mark.parametrize("token", [-1, 32_000, 10**30])
def test_an_id_that_is_not_in_the_vocabulary_is_an_input_error(token: int) -> None:
    with pytest.raises(InputError, match="0 to 31999"):
        pair("0")[0].decode([5, token])


def test_a_sentence_takes_well_under_two_milliseconds() -> None:
    ours = pair("0")[0]
    text = "The children were playing happily in the garden, and their parents were watching them from home."
    ours.encode(text)
    assert min(_seconds(lambda: ours.encode(text)) for _ in range(20)) < 0.002


def _seconds(call: object) -> float:
    start = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - start


def damaged_maps() -> dict[str, bytes]:
    """Character maps whose trie loops, or points outside of itself or of the replacements."""
    loop = [0] * 512
    loop[0] = 256 << 10  # the root's children are at 256
    loop[256 ^ 97] = 97  # "a" leads to unit 256 ^ 97 with offset 0: again a place where "a" ...
    loop[(256 ^ 97) ^ 97] = 97
    loop[(256 ^ 97)] = 97 | (97 << 10)  # ... leads back to 256, so that any number of "a" is followed
    loop[256] = 97
    outside = [0] * 256
    outside[0] = 0x1FFFFF << 10
    leaf = [0] * 512
    leaf[0] = 256 << 10
    leaf[256 ^ 97] = 97 | 0x100 | (1 << 10)
    leaf[256 ^ 97 ^ 1] = 0x80000000 | 0x7FFFFF00
    endless = list(leaf)
    endless[256 ^ 97 ^ 1] = 0x80000000
    return {
        "loop": _map(loop, b"x\0"),
        "outside": _map(outside, b"x\0"),
        "no such replacement": _map(leaf, b"x\0"),
        "endless replacement": _map(endless, b"x" * 100_000),
    }


def _map(units: list[int], replacements: bytes) -> bytes:
    return (4 * len(units)).to_bytes(4, "little") + b"".join(u.to_bytes(4, "little") for u in units) + replacements


@pytest.mark.parametrize("kind", ["loop", "outside", "no such replacement", "endless replacement"])
def test_a_damaged_character_map_is_told_in_one_line(kind: str) -> None:
    rows = [("<unk>", 0.0, 2), ("a", -1.0, 1)]
    ours = spm.parse(model(rows, message(_3=1), message(_2=damaged_maps()[kind])))
    with pytest.raises(FileError, match=r"\Atokenizer: its character map is damaged; [^\n]*\Z"):
        ours.encode("a" * 10_000)


@pytest.mark.parametrize(
    "data", [b"\1", b"\4\0\0\0", b"\0\0\0\0abcd", b"\5\0\0\0abcdefgh", b"\xff\xff\xff\xffabcdefgh"]
)
def test_a_character_map_with_a_false_size_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="character map"):
        CharacterMap(data)


def test_reading_needs_neither_the_package_nor_protobuf() -> None:
    code = "import sys; from minitx.text import tokenizer, split; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sentencepiece", "tokenizers", "google.protobuf", "numpy", "tinygrad"} & set(modules)
