"""Which C compiler is used, and what tinygrad reads from the environment: decided here for everything.

The compiler is `$CC` if the user set it, else `clang` on the path, else the one in the package `ziglang`, through
a small script that minitx writes itself, since zig names targets and processors differently from clang. The native
engine (`find_native`) calls zig itself, and takes gcc as well, which tinygrad cannot use.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import DeviceError, FileError
from .paths import cache_dir, writing

# tinygrad's CPU device calls `CC -c -x c ... --target=x86_64-none-unknown-elf -march=native - -o -`. zig wants its own
# names for both, and would add calls to helpers that tinygrad's loader cannot resolve. Other calls pass unchanged.
WRAPPER = """#!/bin/sh
# Written by minitx: makes the C compiler of the package ziglang answer to clang's arguments.
export ZIG_GLOBAL_CACHE_DIR="${{ZIG_GLOBAL_CACHE_DIR:-}}"
[ -n "$ZIG_GLOBAL_CACHE_DIR" ] || ZIG_GLOBAL_CACHE_DIR={cache}
export ZIG_LOCAL_CACHE_DIR="${{ZIG_LOCAL_CACHE_DIR:-$ZIG_GLOBAL_CACHE_DIR}}"
arch=
left=$#
while [ "$left" -gt 0 ]; do
  argument=$1
  left=$((left - 1))
  shift
  case $argument in
    --target=arm64-none-unknown-elf) arch=aarch64 ;;
    --target=*-none-unknown-elf) arch=${{argument#--target=}} arch=${{arch%%-*}} ;;
    -march=rv64*) set -- "$@" -mcpu=baseline_rv64 ;;
    -march=*) set -- "$@" "-mcpu=${{argument#-march=}}" ;;
    *) set -- "$@" "$argument" ;;
  esac
done
if [ -n "$arch" ]; then
  set -- -target "$arch-freestanding-none" "$@" -g0 -fno-sanitize=all -fno-stack-protector \\
    -fno-asynchronous-unwind-tables
fi
exec {zig} cc "$@"
"""

# The flags of tinygrad's CPU device, and a program with what it needs that not every C compiler has.
CHECK_FLAGS = ["-c", "-x", "c", "-O2", "-fPIC", "-ffreestanding", "-fno-math-errno", "-nostdlib", "-fno-ident"]
CHECK_SOURCE = (
    b"typedef float float4 __attribute__((aligned(16),ext_vector_type(4)));\n"
    b"void check(float* restrict out, const float* restrict in) { *(float4*)out = *(float4*)in; }\n"
)
CHECK_SECONDS = 60.0
INSTALL = "pip install ziglang, or install clang"


@dataclass(frozen=True)
class Compiler:
    """A C compiler: where it comes from (`CC`, `clang`, `ziglang`, `zig` or `gcc`) and the program to run."""

    kind: str
    path: str

    @property
    def command(self) -> list[str]:
        """What a call of it begins with. (`ziglang` is minitx's script, `zig` the program.)"""
        return [self.path, "cc"] if self.kind == "zig" else [self.path]

    @functools.cached_property
    def version(self) -> str:
        """The first line of `--version`, or nothing if it does not tell."""
        with suppress(OSError, subprocess.TimeoutExpired):
            code, out, _ = run_limited([*self.command, "--version"], 10)
            return out.decode(errors="replace").partition("\n")[0].strip() if code == 0 else ""
        return ""


Processes = set[subprocess.Popen[bytes]]


def run_limited(
    argv: list[str],
    seconds: float,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    running: Processes | None = None,
) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and standard error of a command that gets `seconds` to run.

    Raises `subprocess.TimeoutExpired` after it, with the command and all that it had started stopped, and `OSError`
    for a command that cannot be started. While it runs it is in `running`, for `stop_all`.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    running = _running if running is None else running
    running.add(process)
    try:
        out, err = process.communicate(stdin, seconds)
    except BaseException:
        _stop(process)
        process.wait()
        raise
    finally:
        running.discard(process)
    return process.returncode, out, err


_running: Processes = set()


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()


def stop_all(running: Processes | None = None) -> None:
    """Ends what `run_limited` has running in other threads, which Ctrl-C does not reach; by default all of it."""
    for process in list(_running if running is None else running):
        _stop(process)


def find() -> Compiler | None:
    """The compiler that everything uses; raises `DeviceError` if zig's script cannot be written."""
    named = os.environ.get("CC", "")
    clang = shutil.which("clang")
    if named and not _ours(named) and (clang is None or named not in ("clang", clang)):
        return Compiler("CC", named)
    return _found(clang)


def _found(clang: str | None) -> Compiler | None:
    """What serves tinygrad if $CC names nothing."""
    if clang:
        return Compiler("clang", clang)
    zig = _zig()
    return Compiler("ziglang", str(_write_wrapper(zig))) if zig else None


def find_native() -> Compiler | None:
    """The compiler of the native engine: `$CC`, clang, zig or gcc, the first that is there. Nothing is run for it."""
    named = os.environ.get("CC", "")
    clang, gcc = shutil.which("clang"), shutil.which("gcc") or shutil.which("cc")
    if named and not _ours(named) and (clang is None or named not in ("clang", clang)):
        return Compiler("CC", named)
    if clang:
        return Compiler("clang", clang)
    return find_zig() or (Compiler("gcc", gcc) if gcc else None)


def find_zig() -> Compiler | None:
    """zig, which compiles for any machine; nothing is run for it."""
    path = _zig() or shutil.which("zig")
    return Compiler("zig", path) if path else None


def require(warn: Callable[[str], object] = lambda message: None) -> Compiler:
    """The compiler, once it has been seen to compile what tinygrad gives it; raises `DeviceError` saying what to do.

    Where $CC cannot, such as gcc, clang or zig is taken for this process if it is there, and `warn` is told.
    """
    compiler = find()
    if compiler is None:
        raise DeviceError(f"no C compiler was found, and the CPU device needs one; {INSTALL}")
    marker = cache_dir() / "compilers" / fingerprint()
    if not marker.exists():
        if problem := _problem(compiler):
            what = f"CC={compiler.path}" if compiler.kind == "CC" else f"the C compiler {compiler.path}"
            if compiler.kind == "CC" and (other := _found(shutil.which("clang"))):
                warn(f"{what}: {problem}; the tinygrad engine uses {other.path}")
                os.environ["CC"] = other.path
                _environment_changed()
                return require(warn)
            advice = "set CC to one clang or unset it" if compiler.kind == "CC" else INSTALL
            raise DeviceError(f"{what}: {problem}; {advice}")
        with suppress(FileError), writing(marker) as file:
            file.write(f"{compiler.path}\n".encode())
    return compiler


def prepare() -> None:
    """Sets what tinygrad reads from the environment and the user has not set. Call it before tinygrad is imported.

    CC (zig's script), CACHEDB (compiled kernels, apart for each processor and compiler, since the code of one need not
    run on another), WEBGPU_PATH (the library in the package dawn-python), DEV=CPU (or tinygrad would try every
    driver on the machine and take the first that answers) and, on two cores or fewer, PARALLEL=0 (its pool of
    processes takes longer to start than it saves). It never fails: what is missing is told on first use.
    """
    settings = {"WEBGPU_PATH": _dawn()}
    with suppress(DeviceError):
        compiler = find()
        settings["CC"] = compiler.path if compiler and compiler.kind == "ziglang" else None
    if "tinygrad" not in sys.modules:
        settings["DEV"] = "CPU"
        settings["PARALLEL"] = "0" if cores() <= 2 else None
        if _writable(cache_dir()):
            settings["CACHEDB"] = str(cache_dir() / f"tinygrad-{fingerprint()}.db")
        else:
            settings["CCACHE"] = "0"  # a kernel cache that cannot be written would stop tinygrad
    for key, value in settings.items():
        if value and (not os.environ.get(key) or (key == "CC" and _ours(os.environ[key]))):
            os.environ[key] = value
    _environment_changed()


def _environment_changed() -> None:
    if helpers := sys.modules.get("tinygrad.helpers"):
        helpers.getenv.cache_clear()  # it remembers what was there when it looked


def fingerprint() -> str:
    """Names this processor and the compiler: machine code that was made under one name runs under the same name."""
    return _hash([sys.platform, platform.machine(), _processor(), *_identity(find)])


def native_fingerprint() -> str:
    """The same for the native engine, whose libraries run on every processor of one kind with the same libc."""
    return _hash([sys.platform, platform.machine(), *_libc(), *_identity(find_native)])


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _identity(find: Callable[[], Compiler | None]) -> list[str]:
    """What changes when the compiler is another one, or nothing if there is none. It is not run."""
    with suppress(DeviceError, OSError):
        if compiler := find():
            path = shutil.which(compiler.path) or compiler.path
            real = Path(_zig() or path if compiler.kind == "ziglang" else path).resolve()
            return [path, str(real), str(real.stat().st_size), str(real.stat().st_mtime_ns)]
    return []


def _libc() -> list[str]:
    with suppress(AttributeError, ValueError, OSError):  # only glibc tells
        return [os.confstr("CS_GNU_LIBC_VERSION") or ""]
    return []


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """The model and instruction sets on Linux, elsewhere the host, for want of anything as cheap."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        told = [line for line in file.read(16384).partition("\n\n")[0].splitlines() if "MHz" not in line]
        return "\n".join(line for line in told if not line.startswith(("processor", "bogomips", "BogoMIPS", "apicid")))
    return platform.node()


def _problem(compiler: Compiler) -> str:
    """Why `compiler` cannot serve tinygrad's CPU device, or nothing."""
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    native = {"arm64": ["-ffixed-x18", "-mcpu=native"], "riscv64": ["-march=rv64g"]}.get(arch, ["-march=native"])
    argv = [compiler.path, *CHECK_FLAGS, f"--target={arch}-none-unknown-elf", *native, "-", "-o", "-"]
    try:
        code, out, err = run_limited(argv, CHECK_SECONDS, CHECK_SOURCE)
    except subprocess.TimeoutExpired:
        return f"did not compile an empty program within {CHECK_SECONDS:.0f} seconds"
    except OSError as e:
        return f"cannot be run ({e.strerror or e})"
    if code or not out.startswith(b"\x7fELF"):
        lines = err.decode(errors="replace").strip().splitlines()
        return f"cannot compile for tinygrad ({lines[0][:120] if lines else f'exit status {code}, no object code'})"
    return ""


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


def _zig() -> str | None:
    folder = _package("ziglang") if os.name == "posix" else None  # the script needs a shell
    return str(folder / "zig") if folder and (folder / "zig").is_file() else None


def _dawn() -> str | None:
    suffix = {"win32": ".dll", "darwin": f"_{platform.machine()}.dylib"}.get(sys.platform, f"_{platform.machine()}.so")
    folder = _package("pydawn")
    library = folder / "lib" / f"libwebgpu_dawn{suffix}" if folder else None
    return str(library) if library and library.is_file() else None


def _wrapper(zig: str) -> tuple[Path, bytes]:
    """Where the script for this zig is kept, and its text, of which its name is made."""
    text = WRAPPER.format(zig=shlex.quote(zig), cache=shlex.quote(str(cache_dir().absolute() / "zig"))).encode()
    return cache_dir().absolute() / "bin" / f"zig-cc-{hashlib.sha256(text).hexdigest()[:8]}", text


def _ours(cc: str) -> bool:
    """Whether this CC is a script of minitx, as it is in a child of a process that used one."""
    return re.fullmatch("zig-cc-[0-9a-f]{8}", os.path.basename(cc)) is not None


def _write_wrapper(zig: str) -> Path:
    """The script for this zig, which is written if it is not there or is damaged. Safe for two processes at once."""
    path, text = _wrapper(zig)
    with suppress(OSError):
        if path.read_bytes() == text and os.access(path, os.X_OK):
            return path
    try:
        with writing(path, 0o777) as file:
            file.write(text)
    except FileError as e:
        raise DeviceError(f"{e}: set MINITX_CACHE to it") from e
    return path


def _writable(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    return False
