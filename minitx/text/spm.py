"""A SentencePiece model's file, `.spm` or `.model`.

Format: a ModelProto of sentencepiece_model.proto (github.com/google/sentencepiece, src/); the fields that matter
are in the tables below, every other one is skipped.
"""

from __future__ import annotations

from array import array
from typing import Any

from .normalizer import CharacterMap, Normalizer
from .protobuf import fields, typed
from .segment import TYPES, Vocabulary
from .sentencepiece import SEGMENTERS, SentencePiece

Schema = dict[int, tuple[str, type]]  # number -> (name, type)

PIECE, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5  # ModelProto
PIECE_FIELDS: Schema = {1: ("piece", str), 2: ("score", float), 3: ("type", int)}
TRAINER_FIELDS: Schema = {
    3: ("model", int),
    24: ("whitespace_as_suffix", bool),
    35: ("byte_fallback", bool),
    44: ("unknown", str),
}
NORMALIZER_FIELDS: Schema = {
    2: ("characters", bytes),
    3: ("add_dummy_prefix", bool),
    4: ("remove_extra_whitespaces", bool),
    5: ("escape_whitespaces", bool),
}
MODELS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
TRAINER_DEFAULTS = {"model": 1, "whitespace_as_suffix": False, "byte_fallback": False, "unknown": " \u2047 "}
NORMALIZER_DEFAULTS = {"characters": b"", **dict.fromkeys(Normalizer.FLAGS, True), "whitespace_as_suffix": False}


def is_model(data: bytes) -> bool:
    """Whether a file's bytes may be a SentencePiece model: they begin with a piece."""
    return data[:1] == b"\x0a"


def parse(data: bytes) -> SentencePiece:
    """The model in a file's bytes; raises `ValueError` with what is wrong with them."""
    pieces: list[str] = []
    scores, types = array("f"), {}
    specs = {TRAINER: dict(TRAINER_DEFAULTS), NORMALIZER: dict(NORMALIZER_DEFAULTS)}
    tables = {TRAINER: TRAINER_FIELDS, NORMALIZER: NORMALIZER_FIELDS, DENORMALIZER: NORMALIZER_FIELDS}
    for number, value in fields(data):
        if number == PIECE:
            piece: dict[str, Any] = {"piece": "", "score": 0.0, "type": 1}
            read(typed(value, bytes), PIECE_FIELDS, piece)
            if piece["type"] != 1:
                types[len(pieces)] = _type(piece["type"])
            pieces.append(piece["piece"])
            scores.append(piece["score"])
        elif number in tables:
            read(typed(value, bytes), tables[number], specs.setdefault(number, dict(NORMALIZER_DEFAULTS)))
    return _build(Vocabulary(pieces, scores, types), specs)


def read(data: bytes, schema: Schema, into: dict[str, Any]) -> None:
    """Puts the fields of a message that its schema names into a dict."""
    for number, value in fields(data):
        if number in schema:
            name, kind = schema[number]
            into[name] = typed(value, kind)


def _type(number: int) -> str:
    if not 1 <= number <= len(TYPES):
        raise ValueError(f"it has a piece of type {number}")
    return TYPES[number - 1]


def _build(vocabulary: Vocabulary, specs: dict[int, dict[str, Any]]) -> SentencePiece:
    trainer = specs[TRAINER]
    kind = MODELS.get(trainer["model"], str(trainer["model"]))
    if kind not in SEGMENTERS:
        raise ValueError(f"its model type is {kind}, and only {' and '.join(SEGMENTERS)} can be read")
    specs[NORMALIZER]["whitespace_as_suffix"] = trainer["whitespace_as_suffix"]

    def normalizer(spec: dict[str, Any], symbols: list[str]) -> Normalizer:
        return Normalizer(CharacterMap(spec["characters"]), {n: spec[n] for n in Normalizer.FLAGS}, symbols)

    # The package, too, applies a denormalizer only if it has rules.
    back = specs.get(DENORMALIZER, NORMALIZER_DEFAULTS)
    return SentencePiece(
        kind,
        vocabulary,
        normalizer(specs[NORMALIZER], [vocabulary.pieces[i] for i in vocabulary.of_type("user_defined")]),
        normalizer(back, []) if back["characters"] else None,
        trainer["byte_fallback"],
        trainer["unknown"],
    )
