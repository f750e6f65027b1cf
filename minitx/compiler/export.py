"""Writes a model for a target into a folder, all of it or nothing; a row of TARGETS is what can be made of a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, InputError
from ..weights.checkpoint import Checkpoint
from .content import Content, put
from .targets import compiled, freestanding, package, wasm, wheel

LIST = "files.txt"  # in the folder: the files that an export wrote, a line each


@dataclass(frozen=True)
class Target:
    """A kind of package: its files from a checkpoint, what is told of it, and the options of OPTIONS that it has."""

    files: Callable[[Checkpoint, package.Options], dict[str, Content]]
    about: str
    needs: str
    tested: str
    options: tuple[str, ...] = ()


def c_package(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The sources for a system with libc, or for a machine without one."""
    return freestanding.files(checkpoint, options) if options.freestanding else compiled.files(checkpoint, options)


OPTIONS = ("arch", "embed", "freestanding")  # of `package.Options`: what not every target can do
TARGETS = {
    "c": Target(
        c_package,
        "C11 sources, weights, header, command, Makefile; with --arch compiled as well",
        "make, and clang, gcc or zig; libc with pthread; for --arch zig alone",
        "x86-64 Linux, clang, gcc and zig; ARM and RISC-V Linux, Cortex-M7 and M55 in qemu; Windows in wine; not macOS",
        OPTIONS,
    ),
    "python": Target(
        wheel.files,
        "a wheel: the compiled model, weights, a Python interface that needs nothing else",
        "clang, gcc or zig to make it; Python 3.9 or newer to use it",
        "x86-64 Linux, Python 3.9 to 3.13",
        ("arch",),
    ),
    "wasm": Target(
        wasm.files,
        "WebAssembly with and without SIMD, JavaScript module with types, weights, page",
        "zig; a browser or Node 18",
        "Node 20, Chromium",
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
    files = files_of(checkpoint, target, options)
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


def files_of(checkpoint: Checkpoint, target: str, options: package.Options) -> dict[str, Content]:
    """What a target makes; raises `InputError` for options that it does not have."""
    check_options(target, options)
    return TARGETS[target].files(checkpoint, options)


def check_options(target: str, options: package.Options) -> None:
    """Raises `InputError` for an option that the target does not have."""
    for option in OPTIONS:
        if getattr(options, option) and option not in TARGETS[target].options:
            able = ", ".join(name for name, row in TARGETS.items() if option in row.options)
            raise InputError(f"--{option}: target {target!r} does not have it; these do: {able}")


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


def write(files: dict[str, Content], folder: Path) -> dict[str, int]:
    """Writes files and their list; the bytes of each."""
    put({**files, LIST: "\n".join([*files, LIST, ""])}, folder)
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
