"""A tokenizer as the tables that package/tokenizer.c uses where they lie.

They begin with MAGIC, VERSION, the bytes in all, NUMBERS, and for each of SECTIONS its offset, a multiple of 8, and how
many elements it has; all of these are u32. All is little-endian. A trie is a double array, as `CharacterMap` has it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from ..config import pick
from ..errors import ConfigError
from ..text.normalizer import LONGEST_RULE, MARK, CharacterMap, Normalizer
from ..text.renumbered import UNKNOWN, Renumbered
from ..text.segment import Unigram
from ..text.sentencepiece import BYTES, SEGMENTERS, SentencePiece
from ..text.tokenizer import Tokenizer

Elements: TypeAlias = "array[int] | array[float]"

MAGIC, VERSION = b"MXTK", 1
NUMBERS = ("kind", "flags", "unknown", "longest", "growth")  # after the magic number, the version and the size
KINDS = ("unigram", "bpe")  # as TOKENIZER_SEGMENTERS of package/segment.c
FLAGS = (*Normalizer.FLAGS, "unused")  # a bit each: the normalizer's, and whether a piece is of type unused
SECTIONS = {  # name: type of an element, as in the module `array`
    "rules": "I",  # trie of the character map
    "replacements": "B",  # of the character map
    "symbols": "I",  # trie of the user-defined symbols
    "pieces": "I",  # trie of the pieces that a text may be cut into: id * 4 + type, a row of TYPES
    "scores": "f",  # of each piece; the unknown piece has that of an unknown character
    "bonuses": "d",  # Unigram: scores of user-defined symbols of 1, 2, ... bytes
    "bytes": "i",  # the id for each byte of an unknown character; empty: no byte fallback
    "ids": "i",  # another vocabulary's ids of the pieces, -1 for none; empty: they are the pieces' own
    "others": "I",  # trie of the pieces that only that vocabulary has
    "surfaces": "I",  # where the text of each id begins, with two bits, and where the last one ends
    "text": "B",  # the texts of all ids, with spaces
}
TYPES = ("normal", "user_defined", "unused")
IS_BYTE, HAS_MARK = 1 << 31, 1 << 30  # of a surface: it is a byte; its first space is a mark
LONGEST_PIECE, LARGEST_TEXT, LARGEST_GROWTH = 4096, 1 << 30, 16384  # as package/tokenizer.c takes them


@dataclass
class Tables:
    """What a file of tables has."""

    kind: int = 0
    flags: int = 0
    unknown: int = 0
    longest: int = 0  # bytes of the longest piece
    growth: int = 0  # bytes that one byte of a text becomes at most
    sections: dict[str, Elements] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file."""
        offset = 12 + 4 * len(NUMBERS) + 8 * len(SECTIONS)
        places, body = [], b"\0" * (-offset % 8)
        for name, code in SECTIONS.items():
            elements = self.sections.get(name, array(code))
            places += [offset + len(body), len(elements)]
            data = struct.pack(f"<{len(elements)}{code}", *elements)
            body += data + b"\0" * (-len(data) % 8)
        numbers = [VERSION, offset + len(body), *(getattr(self, name) for name in NUMBERS), *places]
        return MAGIC + struct.pack(f"<{len(numbers)}I", *numbers) + body


def pack(tokenizer: Tokenizer) -> bytes:
    """The tables of a tokenizer; raises `ConfigError` for one that the C code cannot do."""
    packer = pick(PACKERS, tokenizer.kind, "tokenizer for C")
    try:
        return packer(tokenizer).to_bytes()
    except ValueError as e:
        raise ConfigError(f"tokenizer: {e}, which cannot be exported to C; run it with minitx run") from None


def _sentencepiece(tokenizer: SentencePiece) -> Tables:
    vocabulary, normalizer = tokenizer.vocabulary, tokenizer.normalizer
    if tokenizer.denormalizer:
        raise ValueError("it has a denormalizer")
    searchable = {p: i for p, i in vocabulary.searchable.items() if _found(tokenizer, i)}
    types = {i: TYPES.index(vocabulary.types.get(i, "normal")) for i in searchable.values()}
    symbols = [vocabulary.pieces[i].encode() for i in vocabulary.of_type("user_defined")]
    flags = {**normalizer.flags, "unused": bool(vocabulary.of_type("unused"))}
    longest = max((len(p.encode()) for p in searchable), default=0)
    scores = array("f", vocabulary.scores)
    if isinstance(tokenizer.segment, Unigram):
        scores[vocabulary.unknown] = tokenizer.segment.unknown_score
    if longest > LONGEST_PIECE:
        raise ValueError(f"it has a piece of {longest} bytes")
    return Tables(
        kind=KINDS.index(tokenizer.kind),
        flags=sum(flags[name] << bit for bit, name in enumerate(FLAGS)),
        unknown=vocabulary.unknown,
        longest=longest,
        growth=growth(normalizer.characters),
        sections={
            "rules": array("I", normalizer.characters.units),
            "replacements": array("B", normalizer.characters.replacements if normalizer.characters.units else b""),
            "symbols": trie(dict.fromkeys(symbols, 0)),
            "pieces": trie({p.encode(): i << 2 | types[i] for p, i in searchable.items()}),
            "scores": scores,
            "bonuses": array("d", [Unigram.BONUS * n for n in range(max(map(len, symbols), default=0))]),
            "bytes": array("i", [vocabulary.reserved[name] for name in BYTES] if tokenizer.byte_fallback else []),
            **_surfaces(tokenizer.surface(i) for i in range(len(tokenizer.pieces))),
        },
    )


def _found(tokenizer: SentencePiece, i: int) -> bool:
    """Whether the search looks a piece up: Unigram's passes over those that are unused."""
    return tokenizer.kind != "unigram" or tokenizer.vocabulary.types.get(i) != "unused"


def _renumbered(tokenizer: Renumbered) -> Tables:
    tables, model, own = _sentencepiece(tokenizer.model), tokenizer.model, tokenizer.ids
    searched = {p for p, i in model.vocabulary.searchable.items() if _found(model, i)}
    ids = array("i", [own.get(piece, -1) for piece in model.pieces])
    ids[tables.unknown] = own[UNKNOWN]
    tables.sections |= {
        "ids": ids,
        "bytes": array("i", [own.get(name, own[UNKNOWN]) for name in BYTES] if model.byte_fallback else []),
        "others": trie({p.encode(): i for p, i in own.items() if p and p not in searched}),
        **_surfaces(tokenizer.surface(i) for i in range(len(tokenizer.pieces))),
    }
    return tables


PACKERS: dict[str, Callable[..., Tables]] = {**dict.fromkeys(SEGMENTERS, _sentencepiece), "renumbered": _renumbered}


def _surfaces(surfaces: Iterable[str | int]) -> dict[str, Elements]:
    """What each id looks like in a text."""
    places, text = array("I"), bytearray()
    for surface in surfaces:
        if isinstance(surface, int):
            places.append(len(text) | IS_BYTE)
            text.append(surface)
        else:
            places.append(len(text) | (HAS_MARK if surface.startswith(MARK) else 0))
            text += surface.replace(MARK, " ").encode()
        if len(text) >= LARGEST_TEXT:
            raise ValueError("its pieces have more than 1 GiB")
    return {"surfaces": array("I", [*places, len(text)]), "text": array("B", text)}


def growth(characters: CharacterMap) -> int:
    """Into how many bytes these rules make one of a text, at most: spaces become marks, what is not UTF-8 U+FFFD."""
    most, whole = 3, True
    for key, value in rules(characters):
        try:
            size = len(key.decode().replace("\ufffd", "?").encode())  # one byte that is not UTF-8 may be U+FFFD
            value.decode()
        except UnicodeDecodeError:
            size, whole = len(key), False
        most = max(most, -(-len(value.replace(b" ", MARK.encode())) // size))
    most *= 1 if whole else 9  # parts of characters: both of the text and of what replaces them
    if most > LARGEST_GROWTH:
        raise ValueError(f"its character map makes {most} bytes of one")
    return most


def rules(characters: CharacterMap) -> Iterable[tuple[bytes, bytes]]:
    """The strings that a character map replaces, with what replaces them; raises `ValueError` where it is damaged."""
    children: dict[int, list[int]] = {}  # offset: labels
    for i, unit in enumerate(characters.units):
        if i and not unit >> 31:
            children.setdefault(i ^ unit & 0xFF, []).append(unit & 0xFF)
    todo = [(_offset(characters.units[0]), b"")] if characters.units else []
    while todo:
        node, key = todo.pop()
        for label in children.get(node, ()):
            unit, longer = characters.units[node ^ label], key + bytes([label])
            below = node ^ label ^ _offset(unit)
            if len(longer) > LONGEST_RULE or below >= len(characters.units):
                raise ValueError("its character map is damaged")
            if unit & 0x100:
                place = characters.units[below] & 0x7FFFFFFF
                yield longer, characters.replacements[place : characters.replacements.index(b"\0", place)]
            todo.append((below, longer))


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


BLOCK, KEPT, EMPTY = 256, 4096, 1 << 31  # slots added at a time, slots that are tried, a slot that nothing reaches


def trie(values: Mapping[bytes, int]) -> array[int]:
    """A double array that gives strings their values, 31 bits each."""
    keys = sorted(values)
    if not keys:
        return array("I")
    if not keys[0] or any(b"\0" in key for key in keys):
        raise ValueError("it has a piece with a NUL character")
    units = array("I", [0])
    free: dict[int, None] = {}  # an ordered set
    used = {0}  # offsets: by its label a slot is known to be a child, so no two nodes have the same one, and none 0
    todo = [(0, 0, len(keys), 0)]  # (slot, first and last key, depth)
    while todo:
        slot, start, stop, depth = todo.pop()
        ends = len(keys[start]) == depth
        groups = _groups(keys, start + ends, stop, depth)
        labels = [0] * ends + [label for label, _, _ in groups]
        offset = _place(labels, free, used, units)
        if slot ^ offset >= 1 << 21:
            raise ValueError("it has too many pieces")
        used.add(offset)
        units[slot] |= (slot ^ offset) << 10 | ends << 8
        for label in labels:
            del free[offset ^ label]
            units[offset ^ label] = label
        if ends:
            units[offset] = EMPTY | values[keys[start]]
        todo += [(offset ^ label, first, last, depth + 1) for label, first, last in reversed(groups)]
    return units


def _groups(keys: Sequence[bytes], start: int, stop: int, depth: int) -> list[tuple[int, int, int]]:
    """(label, first, last + 1) of the keys from `start` to `stop` with the same byte at a depth."""
    groups: list[tuple[int, int, int]] = []
    for i in range(start, stop):
        if not groups or groups[-1][0] != keys[i][depth]:
            groups.append((keys[i][depth], i, i + 1))
        else:
            groups[-1] = (groups[-1][0], groups[-1][1], i + 1)
    return groups


def _place(labels: Sequence[int], free: dict[int, None], used: set[int], units: array[int]) -> int:
    """An offset whose slots for these labels are free; adds slots if there is none."""
    for slot in free:
        offset = slot ^ labels[0]
        if offset not in used and all(offset ^ label in free for label in labels):
            return offset
    block = len(units) // BLOCK * BLOCK
    added = range(max(len(units), 1), block + BLOCK)
    units.extend([EMPTY] * len(added))
    free.update(dict.fromkeys(added))
    for slot in list(islice(free, max(0, len(free) - KEPT))):
        del free[slot]
    return _place(labels, free, used, units)
