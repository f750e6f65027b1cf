"""A normalized text into the pieces of a vocabulary: the two searches of SentencePiece.

Both are our own and not the `tokenizers` library's, whose results differ; see the two classes.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence

from .normalizer import Symbols, lengths

TYPES = ("normal", "unknown", "control", "user_defined", "unused", "byte")  # 1 to 6 in a file
SEARCHABLE = ("normal", "user_defined", "unused")  # the pieces that a text may be cut into


class Vocabulary:
    """Pieces with their float32 scores; `types` holds the type of each one that is not normal, by id."""

    def __init__(self, pieces: list[str], scores: Sequence[float], types: dict[int, str]):
        self.pieces, self.scores, self.types = pieces, scores, types
        if len(scores) != len(pieces):
            raise ValueError(f"it has {len(pieces)} pieces and {len(scores)} scores")
        if not all(map(math.isfinite, scores)):
            raise ValueError("it has a score that is not a finite number")
        if "" in pieces:
            raise ValueError("it has an empty piece")
        self.reserved = {pieces[i]: i for i, name in types.items() if name not in SEARCHABLE}
        others = {i for i, name in types.items() if name not in SEARCHABLE}
        self.searchable = {piece: i for i, piece in enumerate(pieces) if i not in others}
        if len(self.searchable) + len(self.reserved) != len(pieces):
            raise ValueError("it has a piece twice")
        unknown = self.of_type("unknown")
        if len(unknown) != 1:
            raise ValueError(f"it has {len(unknown)} pieces of type unknown instead of one")
        self.unknown = unknown[0]

    def of_type(self, name: str) -> list[int]:
        """The ids of the pieces of a type other than normal."""
        return [i for i, t in self.types.items() if t == name]


class Unigram:
    """The pieces whose scores, log probabilities, have the greatest sum (Kudo 2018): a Viterbi search.

    Sums are rounded to float32 after each piece, as SentencePiece does it, and the first of equals stays. The
    `tokenizers` library adds in float64, which breaks ties that float32 has. Measured with the model of en-pt after
    the same normalizer (sentencepiece 0.2.3, tokenizers 0.23.3): other ids than SentencePiece's in 2 of 1,200 sentences
    of package descriptions, 9 of 500 words of 1,000 random letters and 1 of 5 of 10,000; this search: in none.
    """

    PENALTY = 10.0  # how much lower than the least score that of an unknown character is
    # Found by bisection in sentencepiece 0.2.3 (releases before it: below 0); it decides where such symbols overlap.
    BONUS = 0.1  # the score of a user-defined symbol, for each byte but the first: above any probability's logarithm

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.scores = list(vocabulary.scores)
        self.rounded = array("f", [0.0])  # what is put here is rounded to float32
        normal = [s for i, s in enumerate(self.scores) if i not in vocabulary.types]
        self.rounded[0] = min(normal, default=0.0) - self.PENALTY
        self.unknown_score = self.rounded[0]
        for i in vocabulary.of_type("user_defined"):
            self.scores[i] = self.BONUS * (len(vocabulary.pieces[i].encode()) - 1)
        unused = set(vocabulary.of_type("unused"))
        self.ids = {piece: i for piece, i in vocabulary.searchable.items() if i not in unused}
        self.lengths = lengths((p for p in self.ids if len(p) > 1), head=2)

    def __call__(self, text: str) -> list[tuple[str, int]]:
        ids, scores, sizes, rounded = self.ids, self.scores, self.lengths, self.rounded
        unknown = self.vocabulary.unknown
        end = len(text)
        best = array("f", bytes(4 * (end + 1)))  # the score of the best path that ends at each character
        start, last = [-1] * (end + 1), [unknown] * (end + 1)  # where its last piece starts, and its id
        for i in range(end):
            here = best[i]
            found = ids.get(text[i])
            edges = [(i + 1, unknown, self.unknown_score) if found is None else (i + 1, found, scores[found])]
            for size in sizes.get(text[i : i + 2], ()):
                found = ids.get(text[i : i + size])
                if found is not None and i + size <= end:
                    edges.append((i + size, found, scores[found]))
            for j, found, score in edges:
                rounded[0] = here + score
                if start[j] < 0 or rounded[0] > best[j]:
                    best[j], start[j], last[j] = rounded[0], i, found
        pieces = []
        while end > 0:
            pieces.append((text[start[end] : end], last[end]))
            end = start[end]
        return pieces[::-1]


class Bpe:
    """Byte-pair encoding (Sennrich et al. 2016): of all neighbours that make a piece, the pair whose piece has the
    greatest score is joined, the first of equals, until none is left. User-defined symbols join with nothing.

    The `tokenizers` library gave the same ids for a model of 2,000 plain pieces (measured on 5,700 texts), but has no
    pieces that are user-defined (other ids in 64 of 1,200 sentences) or unused, and needs the list of pairs, which a
    file does not hold: making it took 30 ms for those 2,000 pieces, and a real model has 32,000 or more.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.unused = set(vocabulary.of_type("unused"))
        self.symbols = Symbols(vocabulary.pieces[i] for i in vocabulary.of_type("user_defined"))

    def _split(self, text: str) -> list[tuple[int, int, bool]]:
        """(start, end, whether it may join) of each character, and of each user-defined symbol as a whole."""
        spans, start = [], 0
        while start < len(text):
            end = self.symbols.longest(text, start)
            spans.append((start, end, False) if end > start else (start, start + 1, True))
            start = spans[-1][1]
        return spans

    def __call__(self, text: str) -> list[tuple[str, int]]:
        ids, scores = self.vocabulary.searchable, self.vocabulary.scores
        spans = self._split(text)
        start, end = [s[0] for s in spans], [s[1] for s in spans]  # of each symbol; one that was joined has end 0
        before, after = list(range(-1, len(spans) - 1)), [*range(1, len(spans)), -1]
        queue: list[tuple[float, int, int, int]] = []  # (-score, left, right, where the joined symbol ends)
        halves: dict[str, int] = {}  # where the left half of an unused piece ends

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0 or not (spans[left][2] and spans[right][2]):
                return
            piece = text[start[left] : end[right]]
            found = ids.get(piece)
            if found is not None:
                heapq.heappush(queue, (-scores[found], left, right, end[right]))
                if found in self.unused:
                    halves[piece] = end[left] - start[left]

        for i in range(1, len(spans)):
            offer(i - 1, i)
        while queue:
            _, left, right, stop = heapq.heappop(queue)
            if not end[left] or not end[right] or end[right] != stop:
                continue  # one of the two has joined with another since
            end[left], end[right], after[left] = stop, 0, after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [found for i in range(len(spans)) if end[i] for found in self._used(text[start[i] : end[i]], halves)]

    def _used(self, piece: str, halves: dict[str, int]) -> list[tuple[str, int]]:
        """A piece, or if it is of type unused the pieces that it was joined from."""
        result, stack = [], [piece]
        while stack:
            piece = stack.pop()
            found = self.vocabulary.searchable.get(piece, self.vocabulary.unknown)
            if found not in self.unused:
                result.append((piece, found))
            elif piece in halves:
                stack += [piece[halves[piece] :], piece[: halves[piece]]]
            else:
                result.append((piece, self.vocabulary.unknown))
        return result
