"""Where things are kept, and how a file is written so that nobody ever sees half of it."""

from __future__ import annotations

import os
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
        return Path(path).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "minitx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minitx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minitx"


@contextmanager
def writing(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new binary file that takes the name `path` only when the block ends without an exception.

    Until then, and if the disk is full or the program is stopped, a file that was at `path` stays as it was.
    Raises `FileError` for what the system refuses.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, mode & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as e:
        reason = e.strerror or str(e)
        raise FileError(f"{path}: cannot be written ({reason}); free space or choose another folder") from e
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
