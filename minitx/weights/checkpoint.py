"""A whole model as one value, and as one `.safetensors` file that is read by memory map.

The file (https://github.com/huggingface/safetensors, "Format"): u64 little-endian N, then N bytes of JSON
`{"__metadata__": {string: string}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}, ...}`, then the data,
without holes. minitx's own names are in `shapes.py`; `__metadata__` holds `minitx` (the version of this format),
`config`, `generation`, `tokenizer` (`{"source": ..., "target": ... or null when it is the same}`),
`quantization` and `provenance`. A model with a lexical shortlist has two tensors more, `shortlist.counts` and
`shortlist.ids`, and in `__metadata__` a `shortlist` (`{"first": 50}`): see `shortlist.py`. The header is padded with
spaces so that the data begins at a multiple of 64.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..config import Config, Generation
from ..errors import Error, FileError, differences, several
from ..paths import map_file, writing
from ..text import tokenizer as tokenizers
from ..text.tokenizer import Tokenizer
from .shortlist import TABLES, Allowed, Shortlist

FORMAT = "1"
ALIGNMENT = 64  # bytes, of the data of every tensor whose size allows it
HEADER_CAP = 100_000_000  # bytes; the limit of the safetensors library
DTYPES: dict[str, np.dtype[Any]] = {  # bfloat16, which numpy does not have, by its bits
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
}
KEYS = ("minitx", "config", "generation", "tokenizer", "quantization", "provenance")
SHORTLIST = "shortlist"  # a key that not every file has, and what the names of its tensors begin with
Path_ = str | os.PathLike[str]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a model is and holds, before any device: everything that a file of minitx stores."""

    config: Config
    generation: Generation
    source: Tokenizer
    target: Tokenizer  # the same object as `source` where one vocabulary serves both
    weights: Mapping[str, Array]  # read-only, memory-mapped where the file allows
    provenance: dict[str, Any]  # family, where it came from, licence, SHA-256 of the files
    # Where matrices were int8 before they were read as float32: what every weight of one is a multiple of.
    steps: Mapping[str, float] = field(default_factory=dict)
    shortlist: Shortlist | None = None

    @property
    def allowed(self) -> Allowed | None:
        """What an engine is told of the shortlist; None where every source allows every token."""
        return partial(self.shortlist.allowed, end=self.generation.end) if self.shortlist else None


@dataclass(frozen=True)
class Entry:
    """A tensor as a header describes it: the bytes from `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def damaged(path: Path_, problem: str) -> FileError:
    return FileError(f"{path}: {problem}; download or convert it again")


def check(checkpoint: Checkpoint, where: Path_) -> None:
    """Raises `FileError` unless weights, tokenizers and generation fit the config, names and shapes both ways."""
    from .shapes import stored  # which imports tinygrad: a native start does without

    config, weights = checkpoint.config, checkpoint.weights
    try:
        kinds = stored(config)
    except Error as e:
        raise damaged(where, str(e)[:300]) from None
    shapes = {name: shape for name, (shape, _) in kinds.items()}
    problems = differences("weights", shapes, {name: w.shape for name, w in weights.items()})
    both = [(name, weights[name], kind) for name, (_, kind) in kinds.items() if name in weights]
    if odd := [f"{name} is {w.dtype}, not {kind}" for name, w, kind in both if w.dtype != kind]:
        problems.append(f"wrong types: {several(odd)}")
    sides = ("source", checkpoint.source, config.source_vocab), ("target", checkpoint.target, config.target_vocab)
    for side, tokenizer, size in sides:
        if len(tokenizer.pieces) != size:
            problems.append(f"the {side} tokenizer has {len(tokenizer.pieces)} tokens, the model {size}")
    generation, smaller = checkpoint.generation, min(config.source_vocab, config.target_vocab)
    ids = {"start": (generation.start, config.target_vocab), "end": (generation.end, smaller)}
    ids |= {f"suppress {i}": (i, config.target_vocab) for i in generation.suppress}
    if beyond := [name for name, (i, size) in ids.items() if not (0 <= i < size or (name == "start" and i == -1))]:
        problems.append(f"generation names tokens beyond the vocabulary: {several(beyond)}")
    if checkpoint.shortlist:
        problems += checkpoint.shortlist.problems(config)
    if problems:
        raise damaged(where, "; ".join(problems))


def save(checkpoint: Checkpoint, path: Path_) -> None:
    """Writes the whole model to one file, which takes its name only when it is complete.

    Equal checkpoints give equal bytes. Raises `FileError` for a checkpoint that does not fit its own config, and
    for what the system refuses.
    """
    check(checkpoint, path)
    tables = {f"{SHORTLIST}.{name}": getattr(checkpoint.shortlist, name) for name in TABLES if checkpoint.shortlist}
    arrays = {name: np.asarray(w, order="C") for name, w in {**checkpoint.weights, **tables}.items()}
    names = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGNMENT != 0, name))
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    entries, offset = {}, 0
    for name in names:
        w, begin = arrays[name], offset
        offset += w.nbytes
        entries[name] = {"dtype": kinds[w.dtype], "shape": list(w.shape), "data_offsets": [begin, offset]}
    try:
        header = {"__metadata__": metadata(checkpoint), **entries}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except (UnicodeEncodeError, TypeError, ValueError) as e:
        raise FileError(f"{path}: the tokenizer or the provenance is not plain text data ({e})") from None
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > HEADER_CAP:
        raise FileError(f"{path}: a header of {len(text)} bytes is over the {HEADER_CAP} that the format allows")
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(arrays[name].data)


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """`__metadata__` of the file: what is not a tensor, each value a JSON text or a name."""
    same = checkpoint.source is checkpoint.target
    tokenizer = {"source": checkpoint.source.to_dict(), "target": None if same else checkpoint.target.to_dict()}
    values = {
        "config": checkpoint.config.to_dict(),
        "generation": checkpoint.generation.to_dict(),
        "tokenizer": tokenizer,
        "provenance": checkpoint.provenance,
    }
    if checkpoint.shortlist:
        values[SHORTLIST] = {"first": checkpoint.shortlist.first}
    texts = {key: json.dumps(v, ensure_ascii=False, sort_keys=True, allow_nan=False) for key, v in values.items()}
    texts |= {"minitx": FORMAT, "quantization": checkpoint.config.quantization}
    return {key: texts[key] for key in (*KEYS, SHORTLIST) if key in texts}


def load(path: Path_) -> Checkpoint:
    """The model in a file that `save` wrote; the weights are views of the file. Raises `FileError`."""
    data = map_file(path)
    meta, entries = read_header(data, path)
    if "minitx" not in meta:
        raise FileError(f"{path}: is not a model that minitx wrote; `minitx convert` makes one")
    if meta["minitx"] != FORMAT:
        raise FileError(
            f"{path}: is of format {meta['minitx'][:20]!r}, this minitx reads {FORMAT}; use another version"
        )
    if absent := [key for key in KEYS if key not in meta]:
        raise damaged(path, f"the header has no {', '.join(absent)}")
    try:
        config = Config.from_dict(read_json(meta["config"], path, "config"))
        generation = Generation.from_dict(read_json(meta["generation"], path, "generation"))
        source, target = read_tokenizers(meta["tokenizer"], path)
    except FileError:
        raise
    except Error as e:
        raise damaged(path, str(e)[:300]) from None
    provenance = read_json(meta["provenance"], path, "provenance")
    if not isinstance(provenance, dict):
        raise damaged(path, "provenance is not an object")
    if meta["quantization"] != config.quantization:
        raise damaged(path, f"quantization {meta['quantization'][:20]!r} is not the config's {config.quantization!r}")
    weights = {name: view(data, entry) for name, entry in entries.items()}
    shortlist = read_shortlist(meta[SHORTLIST], weights, path) if SHORTLIST in meta else None
    checkpoint = Checkpoint(config, generation, source, target, weights, provenance, shortlist=shortlist)
    check(checkpoint, path)
    return checkpoint


def read_tokenizers(text: str, path: Path_) -> tuple[Tokenizer, Tokenizer]:
    """The two tokenizers of `metadata`, one object twice where the second is null."""
    both = read_json(text, path, "tokenizer")
    if not isinstance(both, dict) or set(both) != {"source", "target"}:
        raise damaged(path, "tokenizer must have source and target and nothing else")
    source = tokenizers.from_dict(both["source"])
    return source, source if both["target"] is None else tokenizers.from_dict(both["target"])


def read_shortlist(text: str, weights: dict[str, Array], path: Path_) -> Shortlist:
    """The shortlist of `metadata`, its tensors taken out of `weights`."""
    fields = read_json(text, path, SHORTLIST)
    if not isinstance(fields, dict) or set(fields) != {"first"} or type(fields["first"]) is not int:
        raise damaged(path, "shortlist must have a number first and nothing else")
    names = [f"{SHORTLIST}.{name}" for name in TABLES]
    if absent := [name for name in names if name not in weights]:
        raise damaged(path, f"has no {', '.join(absent)}")
    return Shortlist(fields["first"], *map(weights.pop, names))


def view(data: mmap.mmap, entry: Entry) -> Array:
    """The tensor as a view of the map; a copy only where a foreign writer left it unaligned."""
    dtype = DTYPES[entry.dtype]
    count = (entry.end - entry.begin) // dtype.itemsize
    array = np.frombuffer(data, dtype, count, entry.begin) if count else np.zeros(0, dtype)
    return (array if array.flags.aligned else array.copy()).reshape(entry.shape)


def read_json(text: str, path: Path_, what: str) -> Any:
    """JSON in which no key stands twice and every number is one; raises `FileError`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a key stands twice")
        return fields

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as e:
        raise damaged(path, f"{what} is not JSON ({str(e)[:60]})") from None


def read_header(data: mmap.mmap, path: Path_) -> tuple[dict[str, str], dict[str, Entry]]:
    """Metadata and tensors of a safetensors file; no number in it is believed before it is held against the file."""
    if len(data) < 8:
        raise damaged(path, f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(HEADER_CAP, len(data) - 8):
        raise damaged(path, f"says that its header has {length} bytes, but has {len(data)} bytes in all")
    try:
        text = data[8 : 8 + length].decode()
    except UnicodeDecodeError:
        raise damaged(path, "the header is not UTF-8, so it is no safetensors file") from None
    header = read_json(text, path, "the header")
    if not isinstance(header, dict):
        raise damaged(path, "the header is not an object")
    meta = header.pop("__metadata__", {})
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise damaged(path, "__metadata__ is not an object of texts")
    entries = {name: read_entry(name, fields, 8 + length, path) for name, fields in header.items()}
    at = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise damaged(path, f"the data of {name[:60]!r} leaves a hole or overlaps another")
        at = entry.end
    if at != len(data):
        raise damaged(path, f"the header describes {at} bytes, but the file has {len(data)}")
    return meta, entries


def read_entry(name: str, fields: Any, start: int, path: Path_) -> Entry:
    """One tensor of the header, whose shape and offsets agree; `start` is where the data begins."""

    def natural(values: Any) -> bool:
        return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)

    what = f"tensor {name[:60]!r}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"{what} must have dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged(path, f"{what} is of type {str(dtype)[:20]!r}, minitx reads {', '.join(DTYPES)}")
    if not natural(shape) or len(shape) > 8 or not natural(offsets) or len(offsets) != 2:
        raise damaged(path, f"{what} has a shape or offsets that are no lengths")
    size = DTYPES[dtype].itemsize
    for length in shape:
        size *= length
    if size != offsets[1] - offsets[0]:
        raise damaged(path, f"{what} of shape {shape} needs {size} bytes, its offsets hold {offsets[1] - offsets[0]}")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])
