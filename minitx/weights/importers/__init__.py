"""Checkpoints of other projects. A family is one file that says what its folders look like and how one is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import FileError
from ..checkpoint import Checkpoint
from . import hf_marian, marian_folder


@dataclass(frozen=True)
class Family:
    holds: str  # what such a folder has in it, for the message
    matches: Callable[[Path], bool]
    read: Callable[[Path], Checkpoint]


FAMILIES = {
    "marian": Family("model*.bin, vocab*.spm and a .yml", marian_folder.matches, marian_folder.read),
    "hf-marian": Family("config.json, model.safetensors, *.spm and vocab.json", hf_marian.matches, hf_marian.read),
}


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder of any supported family; raises `Error`."""
    try:
        for family in FAMILIES.values():
            if family.matches(folder):
                return family.read(folder)
    except OSError as e:
        raise FileError(f"{folder}: cannot be read ({e.strerror or e}); check its permissions") from None
    known = "; ".join(f"{name} ({family.holds})" for name, family in FAMILIES.items())
    raise FileError(f"{folder}: holds no checkpoint of a family that minitx knows: {known}")
