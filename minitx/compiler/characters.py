"""What package/split.c knows of characters and words: the tables of text/split.py as C.

A character's classes are bits. Characters are told apart by where the classes change from one code to the next.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping

from ..text import split


def _before(following: str, pattern: re.Pattern[str]) -> Callable[[str], object]:
    return lambda c: pattern.match(c + following)


CLASSES: dict[str, Callable[[str], object]] = {
    "SPACE": str.isspace,
    "LINE_END": split.LINE_ENDS.__contains__,
    "STOP": split.STOPS.__contains__,
    "WIDE_STOP": split.WIDE_STOPS.__contains__,
    "POINT": lambda c: split.WIDE.match(c) and not split.WIDE.match(f"{c}1"),  # in a number it is no stop
    "CLOSER": split.CLOSERS.__contains__,
    "OPENER": split.OPENERS.__contains__,
    "CONTINUER": split.CONTINUERS.__contains__,
    "WORD_END": split.WORD_ENDS.__contains__,
    "LOWER": str.islower,
    "DIGIT": str.isdigit,
    "DECIMAL": re.compile(r"\d").match,
    "LETTER": lambda c: split.INITIALS.fullmatch(c.lower()),
    "ROMAN": lambda c: not c.isdecimal() and split.NUMBER.fullmatch(2 * c.lower()),  # which a letter is once at most
    "JOINS": lambda c: split.joined("a", c),  # the character before it
    "JOINER": lambda c: split.joined(c, "a"),
    **{f"CUT_{i}": _before("a", pattern) for i, (pattern, _) in enumerate(split.CUTS)},  # whatever comes next
    **{f"SPACED_CUT_{i}": _before(" ", pattern) for i, (pattern, _) in enumerate(split.CUTS)},
}
WORDS = {
    "ABBREVIATION": split.ABBREVIATIONS,
    "BEFORE_NUMBER": split.BEFORE_NUMBERS,
    "EITHER": split.EITHER,
    "STARTER": split.STARTERS,
}
ALIKE = ("Cn", "Co", "Cs")  # categories of characters that have nothing of their own


@functools.cache
def header() -> str:
    """The tables, as package/split.c includes them."""
    sets, changes = classes()
    words = {word.encode(): kinds(word) for word in sorted(set().union(*WORDS.values()))}
    lines = [
        "/* Made by minitx/compiler/characters.py of text/split.py: see there. */",
        *enumeration(CLASSES),
        *enumeration(WORDS),
        f"enum {{ GUESS = {split.GUESS}, WORD_BYTES = {max(map(len, words))} }};",
        "/* Characters from code change >> 8 on have the classes numbered change & 255. */",
        f"static const uint32_t SETS[] = {{ {join(sets)} }};",
        f"static const uint32_t CHANGES[] = {{ {join(changes)} }};",
        "/* Characters that are another one in lower case: of those that the words below have. */",
        "static const struct { uint32_t code, lower; } CAPITALS[] = {",
        *(f"    {{{ord(c)}, {ord(c.lower())}}}," for c in capitals()),
        "};",
        "static const struct { uint8_t size, kinds, text[WORD_BYTES]; } WORDS[] = {",
        *(f"    {{{len(word)}, {names}, {{{join(word)}}}}}," for word, names in words.items()),
        "};",
        "static const struct { uint32_t always, spaced; double share; } CUTS[] = {",
        *(f"    {{CUT_{i}, SPACED_CUT_{i}, {share}}}," for i, (_, share) in enumerate(split.CUTS)),
        "};",
    ]
    return "\n".join([*lines, ""])


def classes() -> tuple[list[int], list[int]]:
    """The sets of classes that there are, and where they change: code << 8 | number of the set."""
    numbers: dict[int, int] = {}
    alike: dict[str, int] = {}
    changes: list[int] = []
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(c := chr(code))
        bits = alike[category] if category in alike else sum(1 << i for i, of in enumerate(CLASSES.values()) if of(c))
        if category in ALIKE:
            alike[category] = bits
        number = numbers.setdefault(bits, len(numbers))
        if not changes or changes[-1] & 0xFF != number:
            changes.append(code << 8 | number)
    if len(numbers) > 256:
        raise ValueError(f"{len(numbers)} sets of classes, and a byte numbers them")
    return list(numbers), changes


def capitals() -> list[str]:
    """The characters whose lower case is a character of some word; all of those are their own."""
    alphabet = {*"".join(set().union(*WORDS.values()))}
    if max(alphabet) >= "\u0800":
        raise ValueError(f"{max(alphabet)!r} is in a word, and package/split.c takes characters of two bytes")
    return [c for c in map(chr, range(sys.maxunicode + 1)) if c.lower() in alphabet and c.lower() != c]


def kinds(word: str) -> str:
    return " | ".join(name for name, words in WORDS.items() if word in words)


def enumeration(names: Mapping[str, object]) -> list[str]:
    return ["enum {", *(f"    {name} = 1 << {i}," for i, name in enumerate(names)), "};"]


def join(numbers: Mapping[int, object] | list[int] | bytes) -> str:
    return ", ".join(map(str, numbers))
