"""What an export compiles for another kind of machine is for that one, and gives the native engine's tokens there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

import native_models
import pytest
from test_export import Opened, small

from minitx import toolchain
from minitx.compiler import build, cross
from minitx.compiler.cross import ARCHITECTURES
from minitx.compiler.export import TARGETS, Target, export
from minitx.compiler.targets import package
from minitx.errors import ConfigError, DeviceError, InputError
from minitx.generation.search import generate

ELF, PE, MACHO = b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe"
# The first bytes of a program, and the number that its format gives the machine. One model each, to see them all.
BUILT = {
    "x86_64-linux": (ELF, 62, "post", "none"),
    "aarch64-linux": (ELF, 183, "post", "int8"),
    "armv7-linux": (ELF, 40, "odd", "int8"),
    "riscv64-linux": (ELF, 243, "ssru", "none"),
    "x86_64-windows": (PE, 0x8664, "post", "int8"),
    "x86_64-macos": (MACHO, 0x1000007, "odd", "none"),
    "aarch64-macos": (MACHO, 0x100000C, "ssru", "int8"),
}
EMULATORS = {"x86_64": "", "aarch64": "qemu-aarch64", "arm": "qemu-arm", "riscv64": "qemu-riscv64"}
LINUX = [arch for arch in BUILT if arch.endswith("-linux")]


def machine(program: bytes) -> int:
    """The number of the machine that a program or a library is for."""
    if program.startswith(MACHO):
        return int(struct.unpack_from("<I", program, 4)[0])
    at = 18 if program.startswith(ELF) else struct.unpack_from("<I", program, 0x3C)[0] + 4
    return int(struct.unpack_from("<H", program, at)[0])


def names(library: bytes) -> bytes:
    """What a stripped library has of names: of one for macOS, which keeps all, those that others can see."""
    if not library.startswith(MACHO):
        return library
    at, found = 32, []
    for _ in range(struct.unpack_from("<I", library, 16)[0]):
        command, size = struct.unpack_from("<II", library, at)
        if command == 2:  # LC_SYMTAB
            symbols, count, texts, _ = struct.unpack_from("<IIII", library, at + 8)
            for name, kind in (struct.unpack_from("<IB", library, symbols + 16 * i) for i in range(count)):
                if kind & 0x1F == 0xF:  # defined, external and not private
                    found.append(library[texts + name : library.index(b"\0", texts + name)])
        at += size
    return b"\n".join(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """folder(arch) exports and compiles its model, once."""

    @cache
    def made(arch: str) -> Path:
        out = tmp_path_factory.mktemp("cross") / "out"
        export(small(*BUILT[arch][2:]), "c", out, package.Options("tiny.model", 4, arch=arch))
        return out

    return made


def emulator(name: str) -> list[str]:
    if name and shutil.which(name) is None:
        assert "CI" not in os.environ, f"install {name}"
        pytest.skip(f"{name} is not installed")
    return [name] * bool(name)


def is_native_engines(arch: str, command: list[str | Path], env: dict[str, str] | None = None) -> None:
    """Whether a command gives the tokens of the native engine, line for line."""
    model = BUILT[arch][2:]
    engine, sources = native_models.native(*model), native_models.sentences(*range(1, 12), 64)
    lines = "".join(f"{' '.join(map(str, source))}\n" for source in sources)
    for beam, threads in (("1", "1"), ("4", "2")):
        given = [*command, "--ids", "--beam", beam, "--threads", threads]
        done = subprocess.run(given, input=lines, capture_output=True, text=True, timeout=300, env=env)
        generation = dataclasses.replace(small(*model).generation, beam=int(beam))
        best = [" ".join(map(str, found[0].tokens)) for found in generate(engine, sources, generation)]
        assert (done.returncode, done.stdout.splitlines()) == (0, best), done.stderr


def test_every_architecture_is_tested() -> None:
    assert [*BUILT] == [*ARCHITECTURES]


@pytest.mark.slow
@pytest.mark.parametrize("arch", BUILT)
def test_what_is_compiled_is_for_that_machine(folder, arch: str) -> None:
    out, system, (magic, number, *_) = folder(arch), ARCHITECTURES[arch].system, BUILT[arch]
    command, static, shared = (
        out / name.format("tiny.model") for name in (system.command, system.static, system.shared)
    )
    assert command.stat().st_mode & 0o111 and not shared.stat().st_mode & 0o111
    for program in (command, shared):
        data = program.read_bytes()
        assert data.startswith(magic) and machine(data) == number
    exported = names(shared.read_bytes())
    assert b"tiny_model_translate" in exported and b"search_start" not in exported
    assert static.read_bytes().startswith(b"!<arch>\n") and b"tiny_model_search_start" in static.read_bytes()
    readme = (out / "README.md").read_text()
    assert f"## Compiled for {arch}" in readme
    for file in (command, static, shared):
        assert f"| `{file.name}` | {file.stat().st_size:,} |" in readme
        assert file.name in (out / "files.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["armv7-linux", "x86_64-windows", "aarch64-macos"])
def test_what_differs_by_system_has_no_warnings(folder, tmp_path: Path, arch: str) -> None:
    row, out = ARCHITECTURES[arch].of_command(), folder(arch)
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
    own = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", '-DMODEL_WEIGHTS="w"', f"-I{out}", f"-I{out}/src"]
    for part in ("main", "open", "system", "team"):  # a warning is a DeviceError
        given = ["-target", row.triple, "-mcpu=baseline", *own, *strict, "-c", f"{out}/src/{part}.c"]
        cross.Cross(row, tmp_path).call.run(given, tmp_path / f"{part}.o")


@pytest.mark.slow
@pytest.mark.parametrize("arch", LINUX)
def test_ids_on_linux_are_those_of_the_native_engine(folder, arch: str) -> None:
    if arch == "x86_64-linux" and os.uname().machine != "x86_64":
        pytest.skip("is for another machine")
    command = [*emulator(EMULATORS[ARCHITECTURES[arch].machine]), folder(arch) / "tiny.model"]
    is_native_engines(arch, command)
    lines = b"ab\n\ncd\r\n\xff\nef"
    done = subprocess.run(command, input=lines, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (0, 5, b"")
    missing = subprocess.run([*command, "--weights", "/none"], capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and missing.stderr == "tiny.model: error: /none: No such file or directory\n"


@pytest.mark.slow
def test_shared_library_is_opened_by_a_program_with_glibc(folder) -> None:
    if os.uname().machine != "x86_64" or not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("is for another machine")
    out = folder("x86_64-linux")
    model = Opened(out / "libtiny.model.so", out / "tiny.model.weights", "tiny_model", threads=2)
    assert model.error == 0
    engine, sources = native_models.native("post", "none"), native_models.sentences(5, 20)
    best = generate(engine, sources, dataclasses.replace(small("post", "none").generation, beam=4))
    assert [model.generate(s, beam=4) for s in sources] == [[*found[0].tokens] for found in best]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wine") is None, reason="needs wine, which is 650 MB")
def test_ids_on_windows_are_those_of_the_native_engine(folder, tmp_path: Path) -> None:
    out = folder("x86_64-windows")
    env = os.environ | {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    is_native_engines("x86_64-windows", ["wine", out / "tiny.model.exe"], env)

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
        given = ["wine", out / "tiny.model.exe", *arguments]
        return subprocess.run(given, input=text.encode(), capture_output=True, cwd=tmp_path, env=env, timeout=300)

    shutil.copy(out / "tiny.model.weights", tmp_path / "mod\u00e8le \u65e5\u672c.weights")
    arguments, lines = run("--weights", "mod\u00e8le \u65e5\u672c.weights", "ab", "\u00e9"), run(text="ab\r\n\u00e9\n")
    assert arguments.returncode == lines.returncode == 0
    assert arguments.stdout == lines.stdout and lines.stdout.count(b"\n") == 2
    assert run("--weights", "none").stderr.startswith(b"tiny.model: error: none: No such file")


def test_what_cannot_be_compiled_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"architecture 'z80' is not known; choose one of: x86_64-linux, aarch64-linux"
    ):
        package.Options("a", arch="z80")
    options, model = package.Options("a", arch="aarch64-linux"), small("post", "int8")
    monkeypatch.setitem(TARGETS, "other", Target(package.files, "", "", ""))
    with pytest.raises(InputError, match=r"--arch: target 'other' does not have it; these do: c, python$"):
        export(model, "other", tmp_path / "out", options)
    monkeypatch.setattr(build, "FLAGS", ["-fno-such-flag"])
    with pytest.raises(DeviceError, match="failed with exit status"):
        export(model, "c", tmp_path / "out", options)
    monkeypatch.setattr(toolchain, "find_zig", lambda: None)
    with pytest.raises(DeviceError, match="zig, which compiles for other machines, was not found; pip install"):
        export(model, "c", tmp_path / "out", options)
    assert [*tmp_path.iterdir()] == []
