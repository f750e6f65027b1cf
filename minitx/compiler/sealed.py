"""A folder of files with a manifest that tells whether they are as they were written.

The manifest has the size of each file and digests: SHA-256 of all of it and, for a large one, of 64 blocks of 4 kB, so
that a file that was cut short or zeroed is noticed without reading hundreds of megabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

from ..version import __version__
from .trust import private

MANIFEST, IN_USE = "manifest.json", ".in-use"  # the second is locked by who uses the folder
SMALL = 1 << 22  # bytes; what is larger is sampled
BLOCKS, BLOCK = 64, 4096
Content = bytes | memoryview | Callable[[IO[bytes]], object]
Files = Mapping[str, Content]


def digest(file: IO[bytes], whole: bool) -> str:
    """SHA-256 of an open file, or of blocks spread evenly over a large one; raises `OSError`."""
    size = os.fstat(file.fileno()).st_size
    if whole or size <= SMALL:
        file.seek(0)
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
        return total.hexdigest()
    sample = hashlib.sha256()
    for i in range(BLOCKS):
        file.seek((size - BLOCK) * i // (BLOCKS - 1))
        sample.update(file.read(BLOCK))
    return sample.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """What the manifest says of a file; raises `OSError`."""
    with path.open("rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest(file, True), "sample": digest(file, False)}


def manifest(path: Path) -> dict[str, Any]:
    """What an entry says of itself; raises `OSError` or `ValueError`."""
    with open_own(path / MANIFEST) as file:
        told = json.load(file)
    parts = [told.get(part) for part in ("files", "meta")] if isinstance(told, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or not all(isinstance(v, str) for v in told["meta"].values()):
        raise ValueError("not a manifest")
    return dict(told)


def open_own(path: Path) -> IO[bytes]:
    """Opens a plain file that nobody else could have written, and no link; raises `OSError` if it is not."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and private(status):
        return file
    file.close()
    raise PermissionError(f"{path} is not a file of this user alone")


def whole(path: Path, check: Collection[str] = ()) -> bool:
    """Whether an entry is as it was written, its files `check` byte by byte, and writable by this user alone."""
    try:
        status = path.lstat()
        files = manifest(path)["files"]
        if not (stat.S_ISDIR(status.st_mode) and private(status) and files.keys() >= set(check)):
            return False
        for name, known in files.items():
            if os.path.basename(name) != name:
                return False
            with open_own(path / name) as file:
                told = "sha256" if name in check else "sample"
                if os.fstat(file.fileno()).st_size != known["size"] or digest(file, name in check) != known[told]:
                    return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def write(path: Path, files: Files, meta: Mapping[str, str]) -> None:
    """Fills the new folder of an entry, the manifest last; raises `OSError`."""

    def create(name: str, content: Content) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path / name, flags, 0o600), "w+b") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a machine that loses power leaves zeros under a good manifest

    for name, content in {**files, IN_USE: b""}.items():
        create(name, content)
    told = {"version": __version__, "meta": dict(meta), "files": {name: describe(path / name) for name in files}}
    create(MANIFEST, json.dumps(told, ensure_ascii=False).encode())
