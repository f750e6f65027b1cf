"""Compiles the sources of a package for another kind of machine, by zig, which brings a linker and a libc for each.

For Linux, libraries are linked with glibc, of a version so old that programs of any distribution since 2014 can load
them. A command is linked with musl, statically: then it needs nothing of the system that it runs on, be its libc
another one or older.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import toolchain
from ..errors import DeviceError
from . import build
from .content import put

INSTALL = "pip install 'minitx[zig]', or install zig"
SECONDS = 900.0  # for one call of zig: the first link for an architecture compiles a libc


@dataclass(frozen=True)
class System:
    """An operating system: what it calls a command and the libraries of a name, and what a linker is told for each.

    In the names {} stands for the model's, in the flags for the library's.
    """

    title: str
    about: str  # what its files need
    command: str
    static: str
    shared: str
    command_flags: tuple[str, ...] = ("-pthread", "-s", "-lm", "-Wl,--gc-sections")  # else much of libc is in it
    shared_flags: tuple[str, ...] = (*build.LINK, "-lm", "-Wl,--gc-sections")


STATIC = "The command is static and needs nothing; the libraries are for programs with glibc {} or newer."
LINUX = System("Linux", STATIC.format("2.17"), "{}", "lib{}.a", "lib{}.so")
RISCV = dataclasses.replace(LINUX, about=STATIC.format("2.27"))
WINDOWS = System("Windows 10 or newer", "The static library is for MinGW.", "{}.exe", "lib{}.a", "{}.dll")
MACOS = System(
    "macOS 11 or newer",
    "It is signed as a linker signs (ad hoc), by no developer.",
    "{}",
    "lib{}.a",
    "lib{}.dylib",
    ("-pthread", "-s", "-Wl,-dead_strip"),
    (*build.LINK, "-Wl,-dead_strip", "-Wl,-install_name,@rpath/{}"),
)


@dataclass(frozen=True)
class Architecture:
    """A kind of machine: what zig calls it, and whose instruction sets it has (see build.INSTRUCTION_SETS).

    `triple` is that of the libraries, `command` that of the command where it is another one.
    """

    triple: str
    machine: str
    system: System
    processor: str
    command: str = ""

    def of_command(self) -> Architecture:
        return dataclasses.replace(self, triple=self.command or self.triple)


ARCHITECTURES = {
    "x86_64-linux": Architecture("x86_64-linux-gnu.2.17", "x86_64", LINUX, "64-bit x86", "x86_64-linux-musl"),
    "aarch64-linux": Architecture("aarch64-linux-gnu.2.17", "aarch64", LINUX, "64-bit ARM", "aarch64-linux-musl"),
    "armv7-linux": Architecture(
        "arm-linux-gnueabihf.2.17", "arm", LINUX, "32-bit ARMv7 with NEON", "arm-linux-musleabihf"
    ),
    "riscv64-linux": Architecture(  # its first glibc
        "riscv64-linux-gnu.2.27", "riscv64", RISCV, "64-bit RISC-V (RV64GC)", "riscv64-linux-musl"
    ),
    "x86_64-windows": Architecture("x86_64-windows-gnu", "x86_64", WINDOWS, "64-bit x86"),
    "x86_64-macos": Architecture("x86_64-macos.11.0", "x86_64", MACOS, "64-bit x86"),
    "aarch64-macos": Architecture("aarch64-macos.11.0", "arm64", MACOS, "Apple silicon"),
}


class Cross:
    """Calls of zig for an architecture, in a folder of their own. Raises `DeviceError` for what it does wrong."""

    def __init__(self, architecture: Architecture, folder: Path):
        zig = toolchain.find_zig()
        if zig is None:
            raise DeviceError(f"zig, which compiles for other machines, was not found; {INSTALL}")
        self.architecture, self.folder = architecture, folder
        folder.mkdir(exist_ok=True)
        flags = ["-target", architecture.triple, *build.ZIG.flags, f"-I{folder}/src", "-include", "prefix.h"]
        flags.append("-D_POSIX_C_SOURCE=200809L")
        self.call = build.Call(zig, folder, SECONDS, flags)

    def compile(
        self, texts: Mapping[str, str], units: Sequence[build.Unit], notice: Callable[[str], object]
    ) -> list[Path]:
        """The objects of these units, which may include the texts by their places."""
        put(texts, self.folder)
        return build.compile_all(self.call, units, self.folder, notice)

    def link(self, objects: Sequence[Path], name: str, flags: Sequence[str] = ()) -> bytes:
        """The program or library that these objects make."""
        output = self.folder / name
        self.call.run(["-target", self.architecture.triple, *map(str, objects), *flags], output)
        return output.read_bytes()

    def shared(self, objects: Sequence[Path], name: str) -> bytes:
        """The shared library of these objects, which calls itself `name`."""
        return self.link(objects, name, [flag.format(name) for flag in self.architecture.system.shared_flags])

    def archive(self, objects: Sequence[Path], name: str) -> bytes:
        """The static library of these objects."""
        output = self.folder / name
        self.call.run_tool([self.call.compiler.path, "ar", "rcs", str(output), *map(str, objects)], output)
        return output.read_bytes()
