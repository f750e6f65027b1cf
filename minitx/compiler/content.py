"""Files of a package before they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO


class Program(bytes):
    """A file that can be run."""


Content = str | bytes | Callable[[IO[bytes]], object]  # of a file, or what writes the file, which can also be read


def put(files: Mapping[str, Content], folder: Path) -> None:
    """Writes files into a folder, which is made where it is not there."""
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="\n")
        elif isinstance(content, bytes):
            path.write_bytes(content)
            if isinstance(content, Program):
                mode = path.stat().st_mode
                path.chmod(mode | (mode & 0o444) >> 2)  # whoever may read it
        else:
            with path.open("w+b") as file:
                content(file)
