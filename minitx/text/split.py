"""A text into its sentences, and a sentence that is too long into parts: rules and tables, for European languages
and for the full stops of Chinese and Japanese. Both give everything back: joined, their pairs are the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

STOPS = ".!?\u2026\u203d\u061f\u06d4\u0964\u0965"  # end a sentence where white space follows: also Arabic and Hindi
WIDE_STOPS = "\u3002\uff0e\uff01\uff1f\uff61"  # end one with or without it: Chinese and Japanese
CLOSERS = "\"')]}*_\u00bb\u203a\u2019\u201d\u201c\u300b\u300d\u300f\u3011\uff09"
OPENERS = "\"'([{*_\u00ab\u2039\u2018\u201c\u201e\u201d\u00bf\u00a1\u300a\u300c\u300e\u3010\uff08"
CONTINUERS = f"{STOPS},;:"  # what a sentence does not begin with
WORD_ENDS = ",'\u2019"  # of a word that sentences begin with
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _words(*lines: str) -> set[str]:
    return {word for line in lines for word in line.split()}


# Words before a full stop, in lower case and without it. After these the sentence goes on:
ABBREVIATIONS = _words(
    "mr mrs ms mx dr drs prof rev hon gov sen rep gen col maj capt cmdr lt sgt st ste mt messrs esq",  # English
    "e.g i.e viz cf vs approx resp univ est",
    "sr sra srs sras srta dra dras profa eng enga exmo exma av séc p.ex obs",  # Portuguese
    "ud uds sres ee.uu mm mme mmes mlle sig dott",  # Spanish, French, Italian
    "hr fr z.b d.h bzw vgl inkl evtl ggf str ca",  # German
)
# After these it goes on if a number follows:
BEFORE_NUMBERS = _words(
    "no nos nr nº n° núm p pp pág págs fig figs eq tab vol vols art arts sec ch cap tel ex",
    "jan feb fev mar apr abr jun jul aug ago sep sept set oct out nov dec dez",
)
# After these, as after initials, it goes on unless the next word is one that sentences begin with:
EITHER = _words("inc ltd ltda co corp cia jr bros al ft")
INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J, U.S, a.m
STARTERS = _words(
    "the a an this that these those it he she they we you i there here in on at when while if but and then what",
    "o os as um uma este esta isso ele ela eles elas não mas quando se em no na eu você el los las der die das",
)
NUMBER = re.compile(r"\d{1,3}(?:\.\d{1,3})*|[^\W\d_]|[ivx]{1,4}")  # of an item of a list, where it is the first word

TOKEN = re.compile(r"(\S+)(\s*)")
SPACE = re.compile(r"\s*")
WIDE = re.compile(f"(?!\uff0e\\d)[{WIDE_STOPS}]+[{re.escape(CLOSERS)}]*")  # but not a decimal point


def sentences(text: str) -> list[tuple[str, str]]:
    """The sentences of a text, each with the white space after it.

    A line end always ends a sentence. No sentence begins or ends with white space; a text that begins with it has
    a first pair `("", white space)`.
    """
    start = len(text) - len(text.lstrip())
    pairs = [("", text[:start])] if start else []
    for token in TOKEN.finditer(text, start):
        for stop in WIDE.finditer(text, *token.span(1)):
            quoted = stop[0][-1] not in WIDE_STOPS  # then what comes next may say whose words they were
            if stop.end() < token.end(1) and (not quoted or text[stop.end()] in OPENERS):
                pairs.append((text[start : stop.end()], ""))
                start = stop.end()
        word, first = text[max(start, token.start()) : token.end(1)], token.start() <= start
        following = TOKEN.match(text, token.end())
        if not following or any(c in LINE_ENDS for c in token[2]) or _ends(word, first, following[1]):
            pairs.append((text[start : token.end(1)], token[2]))
            start = token.end()
    return pairs


def _ends(word: str, first: bool, following: str) -> bool:
    """Whether a sentence whose words are separated by spaces ends with a word, its first or not."""
    word = word.rstrip(CLOSERS)
    body = word.rstrip(STOPS)
    stop, body = word[len(body) :], body.lstrip(OPENERS).lower()
    following = following.lstrip(OPENERS)
    if word[-1:] and word[-1] in WIDE_STOPS:
        return True
    if not stop or following[:1].islower() or following[:1] in {*CONTINUERS}:
        return False
    if stop != ".":
        return True
    if body in ABBREVIATIONS or (first and NUMBER.fullmatch(body)):
        return False
    if body in BEFORE_NUMBERS:
        return not following[:1].isdigit()
    if body in EITHER or INITIALS.fullmatch(body):
        return re.split(f"[{WORD_ENDS}]", following, maxsplit=1)[0].lower() in STARTERS
    return True


# Where a long sentence is cut, best first: a pattern at whose end it is, and the share of the part that must come
# before it, so that an early comma does not make a tiny part.
CUTS = (
    (re.compile(f"[{WIDE_STOPS}\u3001\uff0c\uff1b\uff1a]|[,;:\u2013\u2014{re.escape(STOPS + CLOSERS)}](?=\\s)"), 0.5),
    (re.compile(r"\S(?=\s)"), 0.0),
)
GUESS = 256  # characters of a first part that is tried


def fit(sentence: str, fits: Callable[[str], bool]) -> list[tuple[str, str]]:
    """A sentence in parts for each of which `fits` is true, each with the white space after it.

    It is cut after the punctuation of a clause, else at white space, else between two characters. A character that
    does not fit by itself is a part all the same. `fits` is called some 2 log2(n) times for a part of n characters;
    if it is true of a string it should be true of most that are shorter. White space is given back as `sentences` does.
    """
    start = len(sentence) - len(sentence.lstrip())
    pairs = [("", sentence[:start])] if start else []
    size = GUESS
    while start < len(sentence):
        size = _longest(sentence, start, size, fits)
        end = start + size
        if end < len(sentence):
            end = _cut(sentence, start, end)
            while end > start + 1 and not fits(sentence[start:end]):
                end = _cut(sentence, start, start + (end - start) // 2)
        part = sentence[start:end].rstrip()
        start += len(part)
        following = SPACE.match(sentence, start)
        space = following[0] if following else ""
        pairs.append((part, space))
        start += len(space)
    return pairs


def _longest(sentence: str, start: int, guess: int, fits: Callable[[str], bool]) -> int:
    """How many characters from `start` on fit, at least one: doubled from a guess on, then halved between."""
    fitting, failing = 0, min(guess, len(sentence) - start)
    while fits(sentence[start : start + failing]):
        if start + failing == len(sentence):
            return failing
        fitting, failing = failing, min(2 * failing, len(sentence) - start)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(sentence[start : start + middle]):
            fitting = middle
        else:
            failing = middle
    return max(fitting, 1)


def _cut(sentence: str, start: int, end: int) -> int:
    """The best place to cut in (start, end]."""
    for pattern, share in CUTS:
        least = start + int(share * (end - start))
        found = pattern.finditer(sentence, max(start, least - 1), end + 1)
        if places := [match.end() for match in found if match.end() <= end]:
            return places[-1]
    place = end
    while place > start + 1 and joined(sentence[place - 1], sentence[place]):
        place -= 1
    return end if joined(sentence[place - 1], sentence[place]) else place


def joined(left: str, right: str) -> bool:
    """Whether two characters are seen as one: a letter and its accent, the parts of an emoji."""
    skin = "\U0001f3fb" <= right <= "\U0001f3ff"
    return skin or "\u200d" in (left, right) or unicodedata.category(right)[0] == "M"
