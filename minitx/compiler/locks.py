"""Locks between processes, which end with the process that holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with suppress(ImportError):
    import fcntl


@contextmanager
def flock(path: Path, kind: str, wait: bool) -> Iterator[bool | None]:
    """Holds a lock, `LOCK_SH` or `LOCK_EX`, on a file that is there.

    Yields whether it does: False if somebody else has it, None if it cannot be locked.
    """
    held, descriptor, close = None, None, os.close  # at the end of the interpreter `os` may be gone before a lock
    try:
        with suppress(OSError, NameError):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                fcntl.flock(descriptor, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                held = False
        yield held
    finally:
        if descriptor is not None:
            close(descriptor)
