"""How SentencePiece rewrites a text before it is cut into pieces: character rules, then white space.

Source: `NormalizerSpec` of sentencepiece_model.proto and SentencePiece's normalizer (Kudo and Richardson 2018),
to which this is equal. The `tokenizers` library has a `Precompiled` normalizer for the same rules, but it looks
one grapheme up at a time instead of the longest prefix, and knows no user-defined symbols.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import AnyStr, Generic

from ..errors import FileError

MARK = "\u2581"  # stands for a space inside pieces
REPLACEMENT = "\ufffd".encode()
LONGEST_RULE = 256  # bytes before, and times four after; longer ones are damage, a trie that loops
UTF8_SIZE = (1,) * 12 + (2, 2, 3, 4)  # by the high half of a character's first byte


class CharacterMap:
    """Rules that replace a string by another, SentencePiece's `precompiled_charsmap`.

    The bytes are `u32` size of the trie, the trie, and the replacements, each ended by a NUL. The trie is a
    double array as Darts-clone writes it, little-endian `u32` units: bits 0-7 are the label, bit 8 says that a
    rule ends here, bit 9 that the offset is shifted by 8, bits 10-30 are the offset; where a rule ends, the
    unit at label 0 holds in bits 0-30 the place of its replacement.
    """

    def __init__(self, data: bytes):
        self.data = data
        self.units: Sequence[int] = ()
        if not data:
            return
        size = int.from_bytes(data[:4], "little")
        if len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
            raise ValueError(f"its character map has {len(data)} bytes, which cannot hold a trie of {size}")
        self.units = struct.unpack_from(f"<{size // 4}I", data, 4)
        self.replacements = data[4 + size :] + b"\0"

    def longest(self, text: bytes, at: int) -> tuple[bytes, int] | None:
        """The replacement of the longest rule that the text holds at `at`, and where that rule ends."""
        units, found, limit = self.units, None, at + LONGEST_RULE
        try:
            node = units[0] >> 10 << ((units[0] & 0x200) >> 6)
            for end, byte in enumerate(text[at:limit], at + 1):
                node ^= byte
                unit = units[node]
                if unit & 0x800000FF != byte:
                    break
                node ^= unit >> 10 << ((unit & 0x200) >> 6)
                if unit & 0x100:
                    found = units[node] & 0x7FFFFFFF, end
            else:
                if limit < len(text):
                    raise IndexError
            if found is None:
                return None
            # No end within the limit, or a place outside of the replacements: not a rule that anyone wrote.
            stop = self.replacements.index(b"\0", found[0], found[0] + 4 * LONGEST_RULE)
            return self.replacements[found[0] : stop], found[1]
        except (IndexError, ValueError):
            raise FileError(
                "tokenizer: its character map is damaged; convert the model again, or download it again"
            ) from None


def lengths(strings: Iterable[AnyStr], head: int = 1) -> dict[AnyStr, list[int]]:
    """The lengths that strings with the same first `head` characters have, shortest first."""
    table: dict[AnyStr, set[int]] = {}
    for string in strings:
        table.setdefault(string[:head], set()).add(len(string))
    return {key: sorted(sizes) for key, sizes in table.items()}


class Symbols(Generic[AnyStr]):
    """User-defined symbols, which are found before anything else and are kept whole."""

    def __init__(self, symbols: Iterable[AnyStr]):
        self.symbols: set[AnyStr] = set(symbols)
        sizes: dict[AnyStr, list[int]] = lengths(self.symbols)
        self.lengths: dict[AnyStr, list[int]] = {head: found[::-1] for head, found in sizes.items()}  # longest first

    def longest(self, text: AnyStr, at: int) -> int:
        """Where the longest symbol that the text holds at `at` ends; `at` if there is none."""
        for size in self.lengths.get(text[at : at + 1], ()):
            if text[at : at + size] in self.symbols:
                return at + size
        return at


class Normalizer:
    """A text to the string that is cut into pieces."""

    FLAGS = ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces", "whitespace_as_suffix")

    def __init__(self, characters: CharacterMap, flags: dict[str, bool], symbols: Iterable[str] = ()):
        self.characters, self.symbols = characters, Symbols(s.encode() for s in symbols)
        self.dummy, self.trim, self.escape, self.suffix = (flags[name] for name in self.FLAGS)
        self.flags = flags

    def _next(self, text: bytes, at: int) -> tuple[bytes, int]:
        """What the text at `at` begins with, rewritten, and where that ends."""
        if self.symbols.symbols and (end := self.symbols.longest(text, at)) > at:
            return text[at:end], end
        if self.characters.units and (found := self.characters.longest(text, at)):
            return found
        if 0x80 <= text[at] < 0xC0:  # inside a character, whose first bytes a strange rule took away
            return REPLACEMENT, at + 1
        end = at + UTF8_SIZE[text[at] >> 4]
        return text[at:end], end

    def __call__(self, text: str) -> str:
        """The normalized text; raises `FileError` if the character map turns out to be damaged."""
        data, parts, at = text.encode(), [], 0
        after_space = leading = self.trim
        while at < len(data):
            part, at = self._next(data, at)
            if leading and part == b" ":
                continue
            leading = False
            if after_space:
                part = part.lstrip(b" ")
            if part:
                after_space = self.trim and part.endswith(b" ")
            parts.append(part)
        if not parts:
            return ""
        result, mark = b"".join(parts).decode(errors="replace"), MARK if self.escape else " "
        if self.escape:
            result = result.replace(" ", MARK)
        if self.dummy and not self.suffix:
            result = mark + result
        if self.trim:
            result = result.rstrip(mark)
        return result + mark if self.dummy and self.suffix else result
