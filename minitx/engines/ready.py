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
from ..compiler.packing import MAX_THREADS
from ..compiler.sealed import Files
from ..config import Config, Generation
from ..paths import map_file
from ..text import tokenizer as tokenizers
from ..version import __version__
from ..weights.checkpoint import SHORTLIST, Checkpoint
from ..weights.names import identity, open_model
from ..weights.shortlist import Shortlist
from .native import Library, NativeEngine

Name = str | os.PathLike[str]
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
    name: Name,
    threads: int | None,
    quantize: str | None,
    keep: tuple[str, ...],
    notice: Notice,
    warn: Notice,
    shortlist: bool = False,
) -> tuple[Checkpoint, NativeEngine]:
    """The model called `name` and its native engine, compiled if it has to be; with its shortlist, if it has one.

    Raises `DeviceError` where that cannot be had: there is no compiler, or it fails.
    """
    entry, held = store.hold(lambda: find_or_build(name, quantize, keep, notice, warn))
    described = json.loads((entry / store.DESCRIPTION).read_text(encoding="utf-8"))
    library = Library(entry, threads or min(toolchain.cores(), MAX_THREADS), os.environ.get("MINITX_INSTRUCTION_SET"))
    library.held = held  # while it is open, the entry stays
    checkpoint = restore(described, entry, Later(lambda: open_model(name, quantize, keep).weights))
    allowed = checkpoint.allowed if shortlist else None
    return checkpoint, NativeEngine(checkpoint.config, library, described["functions"], allowed)


def restore(described: dict[str, Any], entry: Path, weights: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint whose description this is; it was checked when it was made."""
    both = json.loads(described["tokenizer"])
    source = tokenizers.from_dict(both["source"])
    config = Config.restore(json.loads(described["config"]))
    shortlist = None
    if SHORTLIST in described:
        first = json.loads(described[SHORTLIST])["first"]
        shortlist = Shortlist.restore(first, map_file(entry / store.SHORTLIST), config)
    return Checkpoint(
        config,
        Generation.restore(json.loads(described["generation"])),
        source,
        source if both["target"] is None else tokenizers.from_dict(both["target"]),
        weights,
        json.loads(described["provenance"]),
        shortlist=shortlist,
    )


def base(name: Name, quantize: str | None, keep: tuple[str, ...]) -> str:
    """Names what is compiled of a model's files as they are now, by this minitx with any compiler."""
    return store.key(__version__, sources(), quantize or "", *keep, *identity(name))


@functools.cache
def sources() -> str:
    """What minitx's own files are that make an entry: an entry of another state of them is not used."""
    folders = [PACKAGE / part for part in ("compiler", "nn", "weights")]
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".h", ".c"))
    lines = [f"{f} {s.st_size} {s.st_mtime_ns}" for f in files for s in [f.stat()]]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_or_build(name: Name, quantize: str | None, keep: tuple[str, ...], notice: Notice, warn: Notice) -> Path:
    """The entry of a model. Of several processes that need one that is not there, one makes it and the others wait."""
    known = base(name, quantize, keep)
    if toolchain.find_native() is None and (found := store.find(base=known)):  # compiled before the compiler went
        return found

    def make() -> tuple[Files, dict[str, str]]:
        from ..compiler import build, entry

        checkpoint = open_model(name, quantize, keep)
        meta = {"model": str(name), "quantization": checkpoint.config.quantization, "base": known, **build.facts()}
        return entry.files(checkpoint, notice), meta

    return store.ensure(store.key(known, toolchain.native_fingerprint()), make, [store.LIBRARY], notice, warn)


def standing(name: Name | None = None) -> tuple[str, str]:
    """Which engine runs a model on the CPU by default, here and now, and why. Nothing is compiled to find out."""
    compiler = toolchain.find_native()
    if name is not None:
        known = base(name, None, ())
        named = store.key(known, toolchain.native_fingerprint())
        if (store.get(named) if compiler else store.find(base=known)) is not None:
            return "native", "its compiled code is in the cache"
    if compiler is not None:
        return "native", f"compiled once by {compiler.kind} ({compiler.path})"
    return "jit", f"no C compiler was found; {toolchain.INSTALL}"
