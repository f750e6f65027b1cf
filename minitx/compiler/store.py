"""The cache of compiled models: a folder for each, which is whole or not there.

An entry has a manifest with the size and a digest of each file: of all of a small one, of 64 blocks of 4 kB of a large
one, so that a file that was cut short or zeroed is noticed without reading hundreds of megabytes. Nothing is taken
from a folder that another user of the machine could write to: a library is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import DeviceError
from ..paths import cache_dir

MANIFEST = "manifest.json"
SMALL = 1 << 22  # bytes; what is larger is sampled
BLOCKS, BLOCK = 64, 4096
LIMIT = 4 << 30  # bytes of all entries together, unless $MINITX_CACHE_LIMIT says otherwise
Content = bytes | Callable[[IO[bytes]], object]


@dataclass(frozen=True)
class Entry:
    """A compiled model in the cache."""

    path: Path
    bytes: int
    used: float  # seconds since 1970
    meta: dict[str, str]


def folder() -> Path:
    return cache_dir() / "native"


def key(*parts: str) -> str:
    """A name for what these parts say together."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def digest(path: Path) -> list[object]:
    """Size and SHA-256 of a file, or of blocks of it; raises `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SMALL:
            return [size, hashlib.sha256(file.read()).hexdigest()]
        sample = hashlib.sha256()
        for i in range(BLOCKS):
            file.seek((size - BLOCK) * i // (BLOCKS - 1))
            sample.update(file.read(BLOCK))
        return [size, sample.hexdigest()]


def check_owner(path: Path) -> None:
    """Raises `DeviceError` where somebody else could have written a file or put another in its place."""
    if not hasattr(os, "getuid"):
        return
    for place in (path, *path.absolute().parents):
        status = place.lstat() if place == path else place.stat()
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.getuid()) or shared or (place == path and stat.S_ISLNK(status.st_mode)):
            raise DeviceError(
                f"{place} can be written by another user, so no compiled code is taken from {path}; "
                "make it your own with chmod go-w, or set MINITX_CACHE to a folder of yours"
            )


def get(named: str) -> Path | None:
    """The entry of that name, seen to be whole; None if there is none. A damaged one is removed."""
    path = folder() / named
    if not path.is_dir():
        return None
    check_owner(path)
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        whole = all(digest(path / name) == known for name, known in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if whole:
        with suppress(OSError):
            os.utime(path)
        return path
    shutil.rmtree(path, ignore_errors=True)
    return None


def put(named: str, files: Mapping[str, Content], meta: Mapping[str, str]) -> Path:
    """Keeps an entry, which is there whole or not at all; raises `DeviceError` where the cache cannot be written."""
    temporary = None
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        check_owner(folder())
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder()))
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
        manifest = {"files": {name: digest(temporary / name) for name in files}, "meta": dict(meta)}
        (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            temporary.rename(folder() / named)
        except OSError:
            if not (folder() / named).is_dir():  # else another process was faster
                raise
    except OSError as e:
        reason = e.strerror or e
        raise DeviceError(f"{folder()}: cannot be written ({reason}); free space or set MINITX_CACHE") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    evict(folder() / named)
    return folder() / named


def entries() -> list[Entry]:
    """All entries, the last used first."""
    found = []
    for path in folder().iterdir() if folder().is_dir() else ():
        with suppress(OSError, ValueError, KeyError):
            meta = json.loads((path / MANIFEST).read_bytes())["meta"]
            size = sum(file.stat().st_size for file in path.iterdir())
            found.append(Entry(path, size, path.stat().st_mtime, meta))
    return sorted(found, key=lambda entry: -entry.used)


def clear() -> int:
    """Removes every entry, also half-written ones; the bytes that were freed. What is in use stays mapped."""
    freed = sum(entry.bytes for entry in entries())
    shutil.rmtree(folder(), ignore_errors=True)
    return freed


def evict(kept: Path) -> None:
    """Removes what was not used for longest until all is within the limit. A running program keeps what it mapped."""
    with suppress(ValueError):
        limit = int(os.environ.get("MINITX_CACHE_LIMIT", LIMIT))
        total = 0
        for entry in entries():
            total += entry.bytes
            if total > limit and entry.path != kept:
                shutil.rmtree(entry.path, ignore_errors=True)


@contextmanager
def lock(named: str) -> Iterator[None]:
    """Only one process is in here for a name. Where files cannot be locked, all are."""
    descriptor = None
    try:
        with suppress(OSError, ImportError):
            import fcntl

            folder().mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder() / f".lock-{named[:2]}", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
