"""Tokenizers for the tests: trained ones, and random ones with rules, types and scores that nobody would choose."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import sentencepiece

from minitx.compiler.tokenizers import trie
from minitx.text import spm
from minitx.text.normalizer import CharacterMap, Normalizer
from minitx.text.renumbered import Renumbered
from minitx.text.segment import Vocabulary
from minitx.text.sentencepiece import BYTES, SentencePiece
from minitx.text.tokenizer import Tokenizer

SYMBOLS = ["<x>", "ab", "abc", "\ufb01", "a b", "\u0301"]
TRAINED = {
    "unigram": {"model_type": "unigram", "user_defined_symbols": SYMBOLS},
    "bpe": {"model_type": "bpe", "user_defined_symbols": SYMBOLS},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, "character_coverage": 0.98},
    "bpe bytes": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "nfkc_cf"},
    "suffix": {"model_type": "unigram", "treat_whitespace_as_suffix": True, "control_symbols": ["<2pt>"]},
    "as it is": {"model_type": "bpe", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
}
ODD = [
    *["", " ", "  \t\n ", "\u2581", "a\u2581 \u2581b", "a\x00b\x00", "\x00", "\ufffd", "a\ufffdb", "x" * 300],
    *[
        "e\u0301 o\u0308\u0323 \u0301",
        "👩‍👩‍👧‍👦 👍🏽 🇧🇷",
        "مرحبا ﷺ بالعالم",
        "\ufb01 \ufb00 \u00bd \u2167 \u2460 \uff76\uff9e",
    ],
    *[
        "\u3000\u5168\u89d2\u3000\uff21\uff22\uff11",
        "한국어 \u1112\u1161\u11ab",
        "a\r\nb\rc\u2028d",
        "\u00a0n\u2003e\u200bz",
    ],
    *["<unk> <s> </s> <0x41> <x> <2pt>", "ab abc a b abab abcab", ">>pt<<abc", ">>pt<<", ">><<", ">>xx<< a", ">>pt<"],
]


def trained(name: str, folder: Path) -> SentencePiece:
    """A small model that the package `sentencepiece` trained."""
    generator = random.Random(0)
    syllables = [c + v for c in "bcdfglmnprst" for v in ["a", "e", "i", "o", "u", "ão", "é", "ou"]]
    words = ["".join(generator.choices(syllables, k=generator.choice([1, 2, 2, 3]))) for _ in range(400)]
    lines = [" ".join([*generator.choices(words, k=9), "e\u0301a abc Привет 漢字。"]) for _ in range(600)]
    text = folder / f"{name}.txt"
    text.write_text("\n".join(lines))
    size = 420 if "bytes" in name else 250
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / name), vocab_size=size, minloglevel=2, num_threads=1, **TRAINED[name]
    )
    return spm.parse((folder / f"{name}.model").read_bytes())


def random_map(generator: random.Random) -> CharacterMap:
    """A character map whose rules may cut characters apart, or make parts of them."""
    parts = [*(c.encode() for c in "ab\u00e9\u2581 \ufffd😀"), b"  ", b"\xc3", b"\xe2\x96", b"\x81", b"\xf0\x9f"]
    strange = generator.random() < 0.3

    def string(least: int) -> bytes:
        return b"".join(generator.choices(parts if strange else parts[:8], k=generator.randint(least, 3)))

    rules = {string(1): string(0) for _ in range(generator.randint(1, 12))}
    values, replacements = {}, b""
    for key, value in rules.items():
        values[key] = len(replacements)
        replacements += value + b"\0"
    units = trie(values)
    return CharacterMap((4 * len(units)).to_bytes(4, "little") + units.tobytes() + replacements)


def random_model(seed: int) -> Tokenizer:
    """A tiny tokenizer of any kind, with ties and all types of pieces."""
    generator = random.Random(seed)
    alphabet = ["a", "b", "c", "\u00e9", "\u2581", "漢", " "]
    pieces = dict.fromkeys("".join(generator.choices(alphabet, k=generator.randint(1, 4))) for _ in range(40))
    names = ["<unk>", "<s>", *pieces]
    types = {0: "unknown", 1: "control"}
    kinds = ["normal"] * 6 + ["unused"] * generator.randint(0, 2) + ["user_defined"] * generator.randint(0, 1)
    types |= {i: kind for i in range(2, len(names)) if (kind := generator.choice(kinds)) != "normal"}
    fallback = generator.random() < 0.4
    if fallback:
        types |= dict.fromkeys(range(len(names), len(names) + 256), "byte")
        names += BYTES
    step = generator.choice([0.5, 1.0, 0.1])
    scores = array("f", [-step * generator.randint(0, 12) for _ in names])
    flags = {name: generator.random() < 0.5 for name in Normalizer.FLAGS}
    symbols = [names[i] for i, kind in types.items() if kind == "user_defined"]
    characters = random_map(generator) if generator.random() < 0.7 else CharacterMap(b"")
    normalizer = Normalizer(characters, flags, symbols)
    kind, unknown = generator.choice(["unigram", "bpe"]), generator.choice([" \u2047 ", "\u2581?", ""])
    model = SentencePiece(kind, Vocabulary(names, scores, types), normalizer, None, fallback, unknown)
    return renumbered(model, generator) if generator.random() < 0.3 else model


def renumbered(model: SentencePiece, generator: random.Random) -> Renumbered:
    """The model with most of its pieces in another order, and with others that it lacks."""
    kept = [piece for piece in model.pieces if generator.random() < 0.9 and piece != "<unk>"]
    own = dict.fromkeys([*kept, "<unk>", "</s>", "<pad>", ">>pt<<", ">><<", "字漢", "x", "\ufffd"])
    return Renumbered(model, generator.sample(list(own), len(own)))


def random_text(generator: random.Random, tokenizer: Tokenizer) -> bytes:
    """A text of the tokenizer's own pieces, of any characters, of bytes, or of all."""
    result, kind = [], generator.randrange(4)
    for _ in range(generator.choice([0, 1, 3, 8, 20])):
        match generator.randrange(3) if kind == 3 else kind:
            case 0:
                result.append(generator.choice(tokenizer.pieces).replace("\u2581", " ").encode())
            case 1:
                code = generator.randrange(generator.choice([0x80, 0x300, 0x3000, 0x10000, 0x110000]))
                result.append(chr(code).encode(errors="replace"))
            case _:
                result.append(
                    generator.choice([generator.randbytes(1), b"\xe2\x96", b"\xf0\x9f", b"\xed\xa0", b"\x80", b"\0"])
                )
    return b"".join(result)
