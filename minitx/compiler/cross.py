"""Compiles the sources of a package for another kind of machine, by zig, which brings a linker and a libc for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import toolchain
from ..errors import DeviceError
from . import build

INSTALL = "pip install 'minitx[zig]', or install zig"


@dataclass(frozen=True)
class Architecture:
    """A kind of machine: what zig calls it, and whose instruction sets it has (see build.INSTRUCTION_SETS)."""

    triple: str
    machine: str


ARCHITECTURES = {
    "x86_64-linux": Architecture("x86_64-linux-gnu.2.17", "x86_64"),
    "aarch64-linux": Architecture("aarch64-linux-gnu.2.17", "aarch64"),
}


class Cross:
    """Calls of zig for an architecture, in a folder of their own. Raises `DeviceError` for what it does wrong."""

    def __init__(self, architecture: Architecture, folder: Path):
        zig = toolchain.find_zig()
        if zig is None:
            raise DeviceError(f"zig, which compiles for other machines, was not found; {INSTALL}")
        self.architecture, self.folder = architecture, folder
        flags = ["-target", architecture.triple, *build.ZIG.flags, f"-I{folder}/src", "-include", "prefix.h"]
        flags.append("-D_POSIX_C_SOURCE=200809L")
        self.call = build.Call(zig, folder, flags=flags)

    def compile(
        self, texts: Mapping[str, str], units: Sequence[build.Unit], notice: Callable[[str], object]
    ) -> list[Path]:
        """The objects of these units, which may include the texts by their places."""
        for place, text in texts.items():
            path = self.folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        return build.compile_all(self.call, units, self.folder, notice)

    def link(self, objects: Sequence[Path], name: str, flags: Sequence[str] = ()) -> bytes:
        """The program or library that these objects make."""
        output = self.folder / name
        self.call.run(["-target", self.architecture.triple, *map(str, objects), *flags], output)
        return output.read_bytes()
