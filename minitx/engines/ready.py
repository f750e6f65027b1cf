"""The native engine of a MODEL: from the cache if it is there, else planned, compiled, and kept there.

A start that finds its entry imports neither tinygrad nor the model's own files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import toolchain
from ..compiler import store
from ..config import Config, Generation
from ..text import tokenizer as tokenizers
from ..version import __version__
from ..weights.checkpoint import Checkpoint
from ..weights.names import identity, open_model
from .native import DESCRIPTION, Library, NativeEngine

Notice = Callable[[str], object]
PACKAGE = Path(__file__).resolve().parents[1]


class Later(Mapping[str, Any]):
    """The weights of a model whose file is only opened when somebody asks for one of them."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]):
        self._read = functools.cache(read)

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def open_native(
    name: str | os.PathLike[str], threads: int | None, quantize: str | None, notice: Notice
) -> tuple[Checkpoint, NativeEngine]:
    """The model called `name` and its native engine, compiled if it has to be.

    Raises `DeviceError` where that cannot be had: there is no compiler, or it fails.
    """
    entry = find_or_build(name, quantize, notice)
    described = json.loads((entry / DESCRIPTION).read_text(encoding="utf-8"))
    library = Library(entry, threads or min(toolchain.cores(), 64))
    checkpoint = restore(described, Later(lambda: read(name, quantize).weights))
    return checkpoint, NativeEngine(checkpoint.config, library, described["functions"])


def read(name: str | os.PathLike[str], quantize: str | None) -> Checkpoint:
    """The model itself, its matrices stored as asked."""
    checkpoint = open_model(name)
    if quantize is None:
        return checkpoint
    from ..weights.quant import quantized

    return quantized(checkpoint, quantize)


def restore(described: dict[str, Any], weights: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint whose description this is; it was checked when it was made."""
    both = json.loads(described["tokenizer"])
    source = tokenizers.from_dict(both["source"])
    return Checkpoint(
        Config.restore(json.loads(described["config"])),
        Generation.restore(json.loads(described["generation"])),
        source,
        source if both["target"] is None else tokenizers.from_dict(both["target"]),
        weights,
        json.loads(described["provenance"]),
    )


def key(name: str | os.PathLike[str], quantize: str | None) -> str:
    """Names what is compiled of a model's files as they are now, by this minitx with this compiler."""
    return store.key(__version__, sources(), quantize or "", toolchain.fingerprint(), *identity(name))


@functools.cache
def sources() -> str:
    """What minitx's own files are that make an entry: an entry of another state of them is not used."""
    folders = [PACKAGE / part for part in ("compiler", "nn", "weights")]
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".h", ".c"))
    lines = [f"{f} {s.st_size} {s.st_mtime_ns}" for f in files for s in [f.stat()]]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_or_build(name: str | os.PathLike[str], quantize: str | None, notice: Notice) -> Path:
    """The entry of a model. Of several processes that need one that is not there, one makes it and the others wait."""
    named = key(name, quantize)
    if found := store.get(named):
        return found
    from ..compiler import entry

    checkpoint = read(name, quantize)  # first: what is wrong with the model is told before anything is compiled
    with store.lock(named):
        if found := store.get(named):
            return found
        meta = {"model": str(name), "quantization": checkpoint.config.quantization}
        return store.put(named, entry.files(checkpoint, notice), meta)
