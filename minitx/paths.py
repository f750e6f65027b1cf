"""Where things are kept, and how a file is written so that nobody ever sees half of it."""

from __future__ import annotations

import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import FileError


def cache_dir() -> Path:
    """`$MINITX_CACHE`, or the platform's cache folder: compiled code and downloads, safe to delete at any time."""
    if path := os.environ.get("MINITX_CACHE"):
        return Path(os.path.expanduser(path))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "minitx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minitx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minitx"


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """The bytes of a file as a read-only memory map; raises `FileError` if it is missing, empty or no plain file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path}: is not a file; name one")
        if status.st_size == 0:
            raise FileError(f"{path}: is empty; download or convert it again")
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise FileError(f"{path}: cannot be read ({e.strerror or e}); check the name and its permissions") from None
    except ValueError as e:  # a NUL in the name; a file that was emptied in between
        raise FileError(f"{str(path)!r}: cannot be read ({e}); check the name") from None


@contextmanager
def writing(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new binary file that takes the name `path` only when the block ends without an exception.

    Until then, and if the disk is full or the program is stopped, a file that was at `path` stays as it was.
    Raises `FileError` for what the system refuses, and for a device or pipe, whose place a file would take.
    """
    temporary = None
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise FileError(f"{os.fspath(path)}: is a device or a pipe; name a file")
    try:
        path = Path(os.path.realpath(path))  # what a link points to, not the link
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".minitx-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, mode & ~umask)
        os.replace(temporary, path)
        temporary = None
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise FileError(f"{path}: cannot be written ({reason}); free space or choose another folder") from e
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
