"""Marian's binary model file: a list of named tensors, and the configuration among them.

Little-endian: u64 version (1), u64 n; n headers of four u64 (length of the name, type, number of dimensions,
length of the data); the names, each with its NUL; the dimensions as i32; u64 padding and that many bytes; the data
of each in order. The length of data may count bytes that only align the next. `special:model.yml` holds the YAML.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import FileError
from ..checkpoint import damaged

Array = np.ndarray[Any, Any]
VERSION = 1
HEADER = struct.Struct("<QQQQ")
CONFIG = "special:model.yml"
BYTES = 0x101
# Types that Marian can write and minitx does not read, for the message.
OTHER_TYPES = {
    0x102: "int16",
    0x104: "int32",
    0x108: "int64",
    0x201: "uint8",
    0x204: "uint32",
    0x402: "float16",
    0x408: "float64",
    0x802: "packed16",
    0x4102: "intgemm16",
    0x10101: "intgemm8 of marian-dev",
    0x10102: "intgemm16 of marian-dev",
}


@dataclass(frozen=True)
class Item:
    """A tensor as the file's headers describe it: `length` bytes of data from `begin`."""

    name: str
    type: int
    shape: tuple[int, ...]
    begin: int
    length: int


def float32(data: mmap.mmap, item: Item) -> Array:
    return np.frombuffer(data, "<f4", prod(item.shape), item.begin).reshape(item.shape)


def multiplier(data: mmap.mmap, item: Item) -> float:
    """The float32 q that follows the integers of an intgemm8; raises `ValueError` for one that is no scale."""
    (q,) = struct.unpack_from("<f", data, item.begin + prod(item.shape))
    if not np.isfinite(q) or q <= 0:
        raise ValueError(f"{item.name} has the scale {q}")
    return float(q)


def intgemm8(data: mmap.mmap, item: Item) -> Array:
    """int8 and then one float32 q: weight = int8 / q. All but embeddings are stored transposed."""
    q, stored = multiplier(data, item), np.frombuffer(data, np.int8, prod(item.shape), item.begin)
    with np.errstate(over="ignore"):  # a subnormal q; an infinite weight is for the numbers to show
        weights = stored.astype(np.float32) / np.float32(q)
    if "Wemb" in item.name:
        return weights.reshape(item.shape)
    return weights.reshape(item.shape[::-1]).T


def step(data: mmap.mmap, item: Item) -> float:
    """What every weight of an intgemm8 is a multiple of, as float32; 0 where that is no number."""
    with np.errstate(over="ignore"):
        inverse = np.float32(1) / np.float32(multiplier(data, item))
    return float(inverse) if np.isfinite(inverse) else 0.0


@dataclass(frozen=True)
class Type:
    name: str
    size: Callable[[int], int]  # bytes for so many elements, padding not counted
    read: Callable[[mmap.mmap, Item], Array]
    step: Callable[[mmap.mmap, Item], float]  # what all weights are a multiple of, or 0


TYPES = {
    0x404: Type("float32", lambda n: 4 * n, float32, lambda data, item: 0.0),
    0x4101: Type("intgemm8", lambda n: n + 4, intgemm8, step),
}


def type_name(code: int) -> str:
    return TYPES[code].name if code in TYPES else OTHER_TYPES.get(code, f"{code:#x}")


class Cursor:
    """A position in the file that never passes its end."""

    def __init__(self, data: mmap.mmap, path: str):
        self.data, self.path, self.at = data, path, 0

    def take(self, length: int, what: str) -> int:
        """Skips `length` bytes and returns where they begin; raises `FileError` if the file has fewer."""
        if length > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise damaged(self.path, f"ends too early: {what} needs {length} bytes, {left} are left")
        self.at += length
        return self.at - length

    def u64(self, what: str) -> int:
        return int.from_bytes(self.data[self.take(8, what) : self.at], "little")


def read_items(data: mmap.mmap, path: str) -> dict[str, Item]:
    """Every tensor of the file by name; each number is held against the file's size before it is used."""
    cursor = Cursor(data, path)
    version = cursor.u64("the version")
    if version == VERSION << 56:
        raise FileError(f"{path}: was written on a big-endian machine; convert it with marian-conv on another")
    if version != VERSION:
        raise damaged(path, f"is not a Marian binary of version {VERSION} (it begins with {data[:8].hex()})")
    n = cursor.u64("the number of tensors")
    start = cursor.take(n * HEADER.size, f"{n} tensor headers")
    headers = [HEADER.unpack_from(data, start + i * HEADER.size) for i in range(n)]
    names = [read_name(cursor, length) for length, *_ in headers]
    if len(set(names)) != n:
        raise damaged(path, "two tensors have the same name")
    shapes = [read_shape(cursor, name, dims) for name, (_, _, dims, _) in zip(names, headers, strict=True)]
    cursor.take(cursor.u64("the padding's length"), "the padding")
    items = {}
    for name, shape, (_, code, _, length) in zip(names, shapes, headers, strict=True):
        if code in TYPES and (needed := TYPES[code].size(prod(shape))) > length:
            raise damaged(path, f"{name} of shape {shape} needs {needed} bytes, the header gives it {length}")
        items[name] = Item(name, code, shape, cursor.take(length, name), length)
    if cursor.at != len(data):
        raise damaged(path, f"has {len(data) - cursor.at} bytes after its last tensor")
    return items


def read_name(cursor: Cursor, length: int) -> str:
    begin = cursor.take(length, "the names")
    raw = cursor.data[begin : cursor.at]
    try:
        name = raw[:-1].decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if raw[-1:] != b"\0" or not name.isprintable() or not name:
        raise damaged(cursor.path, f"has a tensor whose name is {raw[:20]!r}")
    return name


def read_shape(cursor: Cursor, name: str, dims: int) -> tuple[int, ...]:
    begin = cursor.take(4 * dims, f"the shape of {name}")
    if not 1 <= dims <= 8:
        raise damaged(cursor.path, f"{name} has {dims} dimensions")
    shape = struct.unpack_from(f"<{dims}i", cursor.data, begin)
    if min(shape) < 1:
        raise damaged(cursor.path, f"{name} has the shape {shape}")
    return shape
