"""The wire format of Protocol Buffers, read strictly and without the library.

Format: protobuf.dev/programming-guides/encoding. A message is a run of fields; a field is a key (its number and
how its value is stored) and the value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

Value = int | bytes  # a varint, or the bytes of anything else
FIXED = {1: 8, 5: 4}  # wire types of a fixed size, in bytes


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned integer at `at`, seven bits a byte and the lowest first, and where it ends."""
    value = 0
    if at < len(data) and data[at] < 0x80:  # nearly always
        return data[at], at + 1
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it has a number of more than 64 bits")


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The (number, value) of each field of a message; raises `ValueError` where a length is not true."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("it has a field of number 0")
        if wire == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = varint(data, at)
        elif wire in FIXED:
            size = FIXED[wire]
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        if size > end - at:
            raise ValueError(f"it says that {size} bytes follow where {end - at} do")
        yield number, data[at : at + size]
        at += size


def typed(value: Value, kind: type[T]) -> T:
    """A field's value as what its schema says it is: `int`, `bool`, `bytes`, `str` or `float`."""
    result: object = value
    if type(value) is kind:
        return value
    if kind is bool and isinstance(value, int):
        result = bool(value)
    elif kind is str and isinstance(value, bytes):
        result = value.decode()
    elif kind is float and isinstance(value, bytes) and len(value) == 4:
        result = struct.unpack("<f", value)[0]
    if not isinstance(result, kind):
        raise ValueError(f"it has a field that is not a {kind.__name__}")
    return result
