"""Damages a file on disk, one way after another, and holds what is said of one."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from minitx.errors import Error


def flipped(path: Path, places: Iterable[int], random: np.random.Generator) -> Iterator[int]:
    """Yields each of `places` while the byte there is another one; afterwards the file is as it was."""
    for at in places:
        with open(path, "r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ int(random.integers(1, 256))]))
            file.flush()
            yield at
            file.seek(at)
            file.write(bytes([byte]))


def truncated(path: Path, count: int, random: np.random.Generator) -> Iterator[int]:
    """Yields `count` random lengths, the longest first, while the file ends there."""
    for length in sorted(random.integers(0, path.stat().st_size, count).tolist(), reverse=True):
        os.truncate(path, length)
        yield length


def one_line(path: Path, run: Callable[[Path], object]) -> str:
    """The message with which `run` refuses a path: one line, and not a long one."""
    with pytest.raises(Error) as caught:
        run(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500
    return message
