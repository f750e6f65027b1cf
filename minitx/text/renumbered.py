"""A SentencePiece model whose pieces have the ids of another vocabulary, as in Hugging Face's Marian.

There one `vocab.json` numbers the pieces of the source's and of the target's model: it lacks some of a model's pieces
and has others that the model does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError
from .sentencepiece import BYTES, SentencePiece, within

FIELDS = ("kind", "pieces", "model")
UNKNOWN = "<unk>"
SPECIAL = ("</s>", UNKNOWN, "<pad>")  # leave no trace in a text


class Renumbered:
    """`model` cuts texts, `pieces` say which id each of its pieces has; what is not among them is `<unk>`.

    A text that begins with a language's code, `>>pt<<`, begins with that piece where there is one.
    """

    kind = "renumbered"

    def __init__(self, model: SentencePiece, pieces: list[str]):
        self.model, self.pieces = model, pieces
        self.ids = {piece: i for i, piece in enumerate(pieces)}
        if len(self.ids) != len(pieces):
            raise ValueError("it has a piece twice")
        if UNKNOWN not in self.ids:
            raise ValueError(f"it has no piece {UNKNOWN}")
        own = [(self.ids[name], byte) for byte, name in enumerate(BYTES) if name in self.ids]
        self.bytes = dict(own) if model.byte_fallback else {}
        self.special = {self.ids[piece] for piece in SPECIAL if piece in self.ids}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with no special tokens; raises `InputError` if it is not UTF-8 encodable."""
        code, end, rest = text.partition("<<")
        found = self.ids.get(code + end) if code.startswith(">>") and end else None
        ids = [] if found is None else [found]
        for piece, i in self.model.cut(text if found is None else rest):
            if i == self.model.vocabulary.unknown and self.model.byte_fallback:
                ids += [self.ids.get(BYTES[byte], self.ids[UNKNOWN]) for byte in piece.encode()]
            else:
                ids.append(self.ids.get(piece, self.ids[UNKNOWN]))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens; raises `InputError` for ids that are not in the vocabulary."""
        return self.model.join(self.surface(i) for i in within(ids, self.pieces))

    def surface(self, i: int) -> str | int:
        return "" if i in self.special else self.bytes.get(i, self.pieces[i])

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer as plain data."""
        return {"kind": self.kind, "pieces": self.pieces, "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Renumbered:
        """The tokenizer that `to_dict` gave; raises `ConfigError`."""
        pieces, model = data.get("pieces"), data.get("model")
        try:
            if set(data) != set(FIELDS):
                raise ValueError(f"it must have exactly the fields {', '.join(FIELDS)}")
            if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
                raise ValueError("its pieces must be a list of texts")
            "".join(pieces).encode()
            if not isinstance(model, dict) or not isinstance(model.get("kind"), str):
                raise ValueError("its model must be an object with a kind")
            return cls(SentencePiece.from_dict(model), pieces)
        except ValueError as e:
            raise ConfigError(f"tokenizer: {e}; write the model again with minitx convert") from None
