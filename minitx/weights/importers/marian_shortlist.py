"""The binary shortlist of Bergamot and Firefox Translations, `lex*.s2t.bin` (browsermt/marian-dev, data/shortlist.h).

Little-endian: u64 magic, u64 checksum, u64 tokens that are always allowed, u64 candidates of a token at most, u64 n,
u64 m; n u64 offsets, one more than there are source tokens; m u32 target tokens, of which those of source token i
begin at offset i. The checksum is not looked at: every number is held against the file and the vocabularies.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ...config import Config
from ...paths import map_file
from ..checkpoint import damaged
from ..shortlist import Shortlist, integers

MAGIC = 0xF11A48D5013417F5
HEADER = struct.Struct("<6Q")


def read_shortlist(path: Path, config: Config, shared: bool) -> Shortlist:
    """The shortlist in a file, for the vocabularies of `config`; raises `FileError`.

    Where one vocabulary serves both sides (`shared`), a token of the source is a candidate of itself, as in Marian.
    """
    data, sources, targets = map_file(path), config.source_vocab, config.target_vocab
    if len(data) < HEADER.size:
        raise damaged(path, f"{len(data)} bytes are too few for a shortlist")
    magic, _, first, _, n, m = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise damaged(path, f"is not a binary shortlist (it begins with {data[:8].hex()})")
    if n != sources + 1:
        raise damaged(path, f"is for {n - 1} source tokens, the model has {sources}")
    if (needed := HEADER.size + 8 * n + 4 * m) != len(data):
        raise damaged(path, f"says that it has {needed} bytes, but has {len(data)}")
    offsets = np.frombuffer(data, "<i8", n, HEADER.size)
    if offsets[0] != 0 or offsets[-1] != m or (offsets[1:] < offsets[:-1]).any():
        raise damaged(path, "its offsets are not in order")
    ids = np.frombuffer(data, "<u4", m, HEADER.size + 8 * n).astype(np.int64)
    if ids.max(initial=0) >= targets:
        raise damaged(path, f"has the token {ids.max()}, the model {targets}")
    first, every = min(first, targets), np.arange(sources)
    pairs = np.repeat(every, offsets[1:] - offsets[:-1]) * targets + ids
    if shared:
        pairs = np.concatenate([pairs, every * targets + every])
    pairs = np.unique(pairs[pairs % targets >= first])  # the first are allowed without being said
    counts, kind = np.bincount(pairs // targets, minlength=sources), integers(config)
    return Shortlist(first, counts.astype(kind), (pairs % targets).astype(kind))
