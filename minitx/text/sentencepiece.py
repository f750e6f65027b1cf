"""SentencePiece's models (Kudo and Richardson 2018): equal to the `sentencepiece` package in ids and in text.

`spm.py` reads their files; here is what they do, and how they are kept as plain data.
"""

from __future__ import annotations

import base64
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..config import pick
from ..errors import ConfigError, InputError
from .normalizer import MARK, CharacterMap, Normalizer
from .segment import TYPES, Bpe, Unigram, Vocabulary

T = TypeVar("T")

SEGMENTERS: dict[str, type[Unigram] | type[Bpe]] = {"unigram": Unigram, "bpe": Bpe}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # the names of the byte pieces
FIELDS = ("kind", "pieces", "scores", "types", "byte_fallback", "unknown", "normalizer", "denormalizer")


class SentencePiece:
    """A SentencePiece model: text to ids and back.

    `kind` is a row of SEGMENTERS; `unknown` is the text that stands for an unknown piece. With `byte_fallback`
    an unknown character becomes the pieces of its UTF-8 bytes.
    """

    def __init__(
        self,
        kind: str,
        vocabulary: Vocabulary,
        normalizer: Normalizer,
        denormalizer: Normalizer | None,
        byte_fallback: bool,
        unknown: str,
    ):
        self.kind, self.vocabulary, self.pieces = kind, vocabulary, vocabulary.pieces
        self.normalizer, self.denormalizer = normalizer, denormalizer
        self.byte_fallback, self.unknown = byte_fallback, unknown
        self.segment = pick(SEGMENTERS, kind, "tokenizer")(vocabulary)
        self.bytes = {i: BYTES.index(self.pieces[i]) for i in vocabulary.of_type("byte") if self.pieces[i] in BYTES}
        if len(self.bytes) != (256 if byte_fallback else 0) or len(self.bytes) != len(vocabulary.of_type("byte")):
            raise ValueError(f"it has {len(self.bytes)} byte pieces, and byte fallback is {byte_fallback}")

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with no special tokens; raises `InputError` if it is not UTF-8 encodable."""
        ids: list[int] = []
        for piece, found in self.cut(text):
            if found == self.vocabulary.unknown and self.byte_fallback:
                ids += [self.vocabulary.reserved[BYTES[byte]] for byte in piece.encode()]
            else:
                ids.append(found)
        return ids

    def cut(self, text: str) -> list[tuple[str, int]]:
        """The pieces of a text with their ids, a run of unknown characters as one; raises `InputError` as `encode`."""
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise InputError(
                f"text: character {e.start} is half of a surrogate pair (U+{ord(text[e.start]):04X}); remove it"
            ) from None
        found: list[tuple[str, int]] = []
        for piece, i in self.segment(self.normalizer(text)):
            if found and i == found[-1][1] == self.vocabulary.unknown:
                found[-1] = (found[-1][0] + piece, i)
            else:
                found.append((piece, i))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: control pieces are left out; raises `InputError` for ids that are not in the vocabulary."""
        return self.join(self.surface(i) for i in within(ids, self.pieces))

    def join(self, surfaces: Iterable[str | int]) -> str:
        """The text of pieces as they look in one, their spaces still marked; the piece of a byte is its number."""
        parts: list[str] = []
        run = bytearray()  # the byte pieces since the last other one
        leading = self.normalizer.trim or self.normalizer.dummy  # a space at the very start is not of the text
        for piece in surfaces:
            if isinstance(piece, int):
                run.append(piece)
                continue
            if leading and not run and piece.startswith(MARK):
                piece, leading = piece[1:], self.normalizer.trim
            parts += [_utf8(run), piece.replace(MARK, " ")]
            leading = leading and not run and not piece
            run.clear()
        text = "".join([*parts, _utf8(run)])
        return self.denormalizer(text) if self.denormalizer else text

    def surface(self, i: int) -> str | int:
        """What a piece looks like in a text, its spaces still marked; the number of a byte."""
        if i in self.bytes:
            return self.bytes[i]
        kind = self.vocabulary.types.get(i)
        return "" if kind == "control" else self.unknown if kind == "unknown" else self.pieces[i]

    def to_dict(self) -> dict[str, Any]:
        """The model as plain data; scores are base64 of little-endian float32, the character map is base64."""
        scores = array("f", self.vocabulary.scores)
        if sys.byteorder == "big":
            scores.byteswap()
        return {
            "kind": self.kind,
            "pieces": self.pieces,
            "scores": _base64(scores.tobytes()),
            "types": {t: ids for t in TYPES[1:] if (ids := self.vocabulary.of_type(t))},
            "byte_fallback": self.byte_fallback,
            "unknown": self.unknown,
            "normalizer": _normalizer_to_dict(self.normalizer),
            "denormalizer": _normalizer_to_dict(self.denormalizer) if self.denormalizer else None,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SentencePiece:
        """The model that `to_dict` gave; raises `ConfigError`."""
        try:
            _exactly(data, FIELDS, "tokenizer")
            pieces = _get(data, "pieces", list)
            _text("".join(pieces) if all(isinstance(piece, str) for piece in pieces) else None, "pieces")
            scores = array("f", _get_bytes(data, "scores"))
            if sys.byteorder == "big":
                scores.byteswap()
            vocabulary = Vocabulary(pieces, scores, _types(_get(data, "types", dict), len(pieces)))
            symbols = [pieces[i] for i in vocabulary.of_type("user_defined")]
            denormalizer = data["denormalizer"]
            return cls(
                _get(data, "kind", str),
                vocabulary,
                _normalizer_from_dict(_get(data, "normalizer", dict), symbols),
                None if denormalizer is None else _normalizer_from_dict(_get(data, "denormalizer", dict), ()),
                _get(data, "byte_fallback", bool),
                _text(data["unknown"], "unknown"),
            )
        except ValueError as e:
            raise ConfigError(f"tokenizer: {e}; write the model again with minitx convert") from None


def within(ids: Iterable[int], pieces: Sequence[str]) -> Iterator[int]:
    """The ids; raises `InputError` for one that is not in the vocabulary."""
    for i in ids:
        if not 0 <= i < len(pieces):
            raise InputError(f"token {i} is not in the vocabulary; ids are from 0 to {len(pieces) - 1}")
        yield i


def _utf8(data: bytes | bytearray) -> str:
    """UTF-8 to text, with one U+FFFD for each byte that is part of no character."""
    return re.sub("[\udc80-\udcff]", "\ufffd", data.decode(errors="surrogateescape"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _exactly(data: dict[str, Any], names: Sequence[str], what: str) -> None:
    """Raises `ValueError` unless the keys of an object are `names`."""
    if set(data) != set(names):
        raise ValueError(f"its {what} must have exactly the fields {', '.join(names)}")


def _get(data: dict[str, Any], name: str, kind: type[T]) -> T:
    value = data[name]
    if not isinstance(value, kind):
        raise ValueError(f"its {name} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _get_bytes(data: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(_get(data, name, str), validate=True)


def _text(value: Any, name: str) -> str:
    """A string that is UTF-8 encodable."""
    if not isinstance(value, str):
        raise ValueError(f"its {name} must be text")
    value.encode()
    return value


def _types(data: dict[str, Any], size: int) -> dict[int, str]:
    """`{type: [id, ...]}` the other way round."""
    types: dict[int, str] = {}
    for name in data:
        if name not in TYPES[1:]:
            raise ValueError(f"its types must be among {', '.join(TYPES[1:])}")
        for i in _get(data, name, list):
            if type(i) is not int or not 0 <= i < size or i in types:
                raise ValueError(f"its types must give ids from 0 to {size - 1}, each at most once")
            types[i] = name
    return types


def _normalizer_to_dict(normalizer: Normalizer) -> dict[str, Any]:
    return {"characters": _base64(normalizer.characters.data), **normalizer.flags}


def _normalizer_from_dict(data: dict[str, Any], symbols: Iterable[str]) -> Normalizer:
    _exactly(data, ["characters", *Normalizer.FLAGS], "normalizer")
    flags = {name: _get(data, name, bool) for name in Normalizer.FLAGS}
    return Normalizer(CharacterMap(_get_bytes(data, "characters")), flags, symbols)
