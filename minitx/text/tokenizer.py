"""What a tokenizer is, and the table of those there are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..config import pick
from ..errors import ConfigError, FileError
from ..paths import map_file
from . import spm
from .renumbered import Renumbered
from .sentencepiece import SentencePiece


class Tokenizer(Protocol):
    """Text to token ids and back."""

    kind: str  # its row in TOKENIZERS
    pieces: list[str]  # the vocabulary: the piece of each id

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with no special tokens; raises `InputError` if it is not UTF-8 encodable."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens; raises `InputError` for an id that is not in the vocabulary."""

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer as plain data that JSON can hold, with its `kind`."""


# How a tokenizer comes back from what `to_dict` gave, by kind.
TOKENIZERS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "unigram": SentencePiece.from_dict,
    "bpe": SentencePiece.from_dict,
    "renumbered": Renumbered.from_dict,
}
# How a file that holds a tokenizer is known by its bytes, and read; a reader raises `ValueError`.
READERS: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], Tokenizer]]] = {
    "SentencePiece": (spm.is_model, spm.parse),
}
LARGEST_FILE = 1 << 28  # bytes; what is larger is no tokenizer


def from_dict(data: Any) -> Tokenizer:
    """The tokenizer that `to_dict` gave; raises `ConfigError`."""
    if not isinstance(data, dict):
        raise ConfigError(f"tokenizer: expected an object of fields, got {type(data).__name__}")
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"tokenizer: its kind must be one of {', '.join(TOKENIZERS)}")
    return pick(TOKENIZERS, kind[:80], "tokenizer")(data)


def from_json(text: str) -> Tokenizer:
    """`from_dict` of a JSON text; raises `ConfigError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"tokenizer: not JSON ({str(e)[:80]}); write the model again with minitx convert") from None
    return from_dict(data)


def to_json(tokenizer: Tokenizer) -> str:
    """A tokenizer as JSON, as small as it goes."""
    return json.dumps(tokenizer.to_dict(), ensure_ascii=False, separators=(",", ":"))


def read(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer in a file, whose kind is known by its content; raises `FileError`."""
    mapped = map_file(path)
    if len(mapped) > LARGEST_FILE:
        raise FileError(f"{path}: is too large for a tokenizer; give the tokenizer's own file")
    data = mapped[:]
    for name, (recognise, reader) in READERS.items():
        if recognise(data):
            try:
                return reader(data)
            except ValueError as e:
                raise FileError(f"{path}: is not a whole {name} model: {e}; download it again") from None
    raise FileError(f"{path}: is not a tokenizer that minitx can read; give a file of {' or '.join(READERS)}")
