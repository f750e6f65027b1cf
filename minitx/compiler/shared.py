"""The shared library of a package: for this machine by its own C compiler, for another by zig; and what it needs."""

from __future__ import annotations

import dataclasses
import platform
import re
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import build, cross
from .content import put
from .targets import package

NAMED = re.compile(rb"\0((?:lib|ld-)[\w.+-]*\.so(?:\.\d+)*)(?=\0)")
VERSIONS = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)")
# What a library may need to be a manylinux one (PEP 600), and the oldest glibc that pip knows for a machine.
ALLOWED = re.compile(rb"lib(c|m|pthread|dl|rt|gcc_s)\.so\.\d|ld-linux[\w-]*\.so\.\d")
OLDEST = {"x86_64": (2, 5), "i686": (2, 5)}
OTHERS = (2, 17)
ALIASES = {(2, 5): "manylinux1", (2, 12): "manylinux2010", (2, 17): "manylinux2014"}
MACHINES = {"windows": {"x86_64": "amd64", "aarch64": "arm64"}, "macos": {"aarch64": "arm64"}}


@dataclass(frozen=True)
class Shared:
    """A stripped shared library, how such a file's name ends, and the wheel's tag for where it runs."""

    data: bytes
    suffix: str
    tag: str


def shared(texts: Mapping[str, str], threads: int, arch: str, notice: Callable[[str], object]) -> Shared:
    """The library of a package's texts for a row of ARCHITECTURES, or for this machine where `arch` is empty.

    Raises `DeviceError` where there is no compiler, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="minitx-") as temporary:
        folder = Path(temporary)
        if arch:
            return other(texts, threads, cross.ARCHITECTURES[arch], folder, notice)
        put(texts, folder)
        flags = ("-D_POSIX_C_SOURCE=200809L", f"-I{folder}/src", "-include", "prefix.h")
        units = [dataclasses.replace(u, flags=(*flags, *u.flags)) for u in known(threads)]
        data = build.build(units, folder, notice)
    return Shared(data, sysconfig.get_config_var("SHLIB_SUFFIX") or ".so", own_tag(data))


def other(
    texts: Mapping[str, str], threads: int, arch: cross.Architecture, folder: Path, notice: Callable[[str], object]
) -> Shared:
    calls, name = cross.Cross(arch, folder), arch.system.shared.format("library")
    objects = calls.compile(texts, package.units(arch.machine, threads), notice)
    return Shared(calls.shared(objects, name), Path(name).suffix, tag(arch.triple))


def known(threads: int) -> list[build.Unit]:
    """What is compiled here. An instruction set that the compiler does not know gets code that runs on all."""
    rows = {row.name: row.flags for row in build.instruction_sets()}
    usable = {row.name for row in build.usable()}
    unknown = {flag for name, flags in rows.items() if name not in usable for flag in flags}
    unknown -= {flag for name in usable for flag in rows[name]}
    units = package.units(platform.machine(), threads)
    return [dataclasses.replace(u, flags=tuple(f for f in u.flags if f not in unknown)) for u in units]


def own_tag(library: bytes) -> str:
    """The tag of a library that this machine's compiler made.

    One for glibc that needs nothing but its libraries is a manylinux one, of the newest version of a symbol that it
    asks for. They are found as names between NULs, as the dynamic string table has them: one that only looks so can
    but ask for more.
    """
    machine = re.sub(r"\W", "_", sysconfig.get_platform())
    if not machine.startswith("linux_"):
        return machine
    versions = [(int(major), int(minor)) for major, minor in VERSIONS.findall(library)]
    if not versions or not all(ALLOWED.fullmatch(name) for name in NAMED.findall(library)):
        return machine
    return manylinux(machine.removeprefix("linux_"), max(versions))


def manylinux(machine: str, glibc: tuple[int, int]) -> str:
    """The tag for a machine whose glibc is at least so new, with its older name where it has one."""
    glibc = max(glibc, OLDEST.get(machine, OTHERS))
    new = f"manylinux_{glibc[0]}_{glibc[1]}_{machine}"
    return f"{new}.{ALIASES[glibc]}_{machine}" if glibc in ALIASES else new


def tag(triple: str) -> str:
    """The tag for what zig compiles for a triple: MACHINE-SYSTEM[.VERSION][-ABI[.VERSION]]."""
    machine, system, *abi = triple.split("-")
    system, _, version = system.partition(".")
    machine = MACHINES.get(system, {}).get(machine, machine)
    if system == "windows":
        return "win32" if machine == "x86" else f"win_{machine}"
    if system == "macos":
        major, minor, *_ = [*(version or "13").split("."), "0"]
        return f"macosx_{major}_{minor}_{machine}"
    kind, _, glibc = abi[0].partition(".") if abi else ("", "", "")
    machine = "armv7l" if machine in ("arm", "thumb") and kind.endswith("hf") else machine
    if kind.startswith("gnu") and glibc:
        major, minor, *_ = glibc.split(".")
        return manylinux(machine, (int(major), int(minor)))
    return f"{'musllinux_1_2' if kind.startswith('musl') else 'linux'}_{machine}"
