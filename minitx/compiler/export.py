"""Writes a model for a target into a folder, all of it or nothing; a row of TARGETS is what can be made of a model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from ..weights.checkpoint import Checkpoint
from .targets import package, wasm, webgpu

LIST = "files.txt"  # in the folder: the files that an export wrote, a line each


@dataclass(frozen=True)
class Target:
    """A kind of package: its files from a checkpoint, and what is told of it."""

    files: Callable[[Checkpoint, package.Options], dict[str, package.Content]]
    about: str
    needs: str
    tested: str


TARGETS = {
    "c": Target(
        package.files,
        "C11 sources, weights, header, command, Makefile",
        "make, and clang, gcc or zig; libc with pthread",
        "x86-64 Linux, clang, gcc and zig",
    ),
    "wasm": Target(
        wasm.files,
        "WebAssembly with and without SIMD, JavaScript module with types, weights, page",
        "zig; a browser or Node 18",
        "Node 20, Chromium",
    ),
    "webgpu": Target(
        webgpu.files,
        "the same, with kernels for a GPU that are used where it computes the same",
        "zig; a browser with WebGPU, or what wasm needs",
        "Chromium with its software adapter",
    ),
}


def export(
    checkpoint: Checkpoint,
    target: str,
    folder: Path,
    options: package.Options,
    force: bool = False,
) -> dict[str, int]:
    """Writes the package; the bytes of each file. `target` is a row of TARGETS.

    Raises `FileError` for a folder that holds other files, unless `force`, which replaces only what an export wrote.
    """
    before = check(folder, force)
    files = TARGETS[target].files(checkpoint, options)
    foreign = [place for place in [*files, LIST] if place not in before and (folder / place).exists()]
    if foreign:
        raise FileError(f"{folder / foreign[0]}: was not written by an export; move it away or choose another folder")
    options.notice("writing the weights ...")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".minitx-", dir=folder.absolute().parent) as temporary:
            made = Path(temporary) / "made"
            sizes = write(files, made)
            place(made, folder, [*sizes], before)
    except OSError as e:
        raise FileError(f"{folder}: cannot be written ({e.strerror or e}); free space or choose another folder") from e
    return sizes


def check(folder: Path, force: bool) -> list[str]:
    """What an export wrote into a folder; raises `FileError` where nothing may be written there."""
    try:
        holds = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        before = (folder / LIST).read_text(encoding="utf-8").splitlines() if LIST in holds else []
    except (OSError, ValueError) as e:
        raise FileError(f"{folder}: cannot be read ({getattr(e, 'strerror', None) or e}); choose another") from None
    if holds and not force:
        told = "replaces an older export" if before else "writes beside them"
        raise FileError(f"{folder}: holds other files, such as {holds[0]}; choose another folder, or --force {told}")
    return [place for place in before if not Path(place).is_absolute() and ".." not in Path(place).parts]


def write(files: dict[str, package.Content], folder: Path) -> dict[str, int]:
    """Writes files and their list; the bytes of each."""
    for place, content in {**files, LIST: "\n".join([*files, LIST, ""])}.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="\n")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            with path.open("w+b") as file:
                content(file)
    return {place: (folder / place).stat().st_size for place in [*files, LIST]}


def place(made: Path, folder: Path, files: list[str], before: list[str]) -> None:
    """Moves what was made into a folder, and removes what an export wrote before and this one did not."""
    if not folder.exists():
        made.rename(folder)
        return
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).replace(folder / file)
    for file in {*before} - {*files}:
        with suppress(FileNotFoundError):
            (folder / file).unlink()


def sizes(checkpoint: Checkpoint, target: str, options: package.Options) -> dict[str, int]:
    """The bytes of each file that `export` would write."""
    files = TARGETS[target].files(checkpoint, options)
    folder = Path(tempfile.mkdtemp(prefix="minitx-"))
    try:
        return write(files, folder / "made")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
