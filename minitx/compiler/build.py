"""Drives a C compiler: units of C to one shared library, for every instruction set of this kind of machine."""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .. import toolchain
from ..errors import DeviceError
from ..paths import cache_dir
from .trust import check_owner

FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-pthread", "-fno-exceptions"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]  # the same bits from every compiler
LINK = ["-shared", "-pthread", "-s"]
SECONDS = 120.0  # for one unit, and for linking
INSTALL = "install clang or gcc, or pip install ziglang"


@dataclass(frozen=True)
class Kind:
    """What one kind of compiler (see `toolchain.Compiler.kind`) needs beside these flags.

    `spelled` has the flags that it knows by another name; `libraries` are ways to link, of which the first that works
    is taken. One that `knows_all` takes the flags of every instruction set, and is not asked.
    """

    flags: tuple[str, ...] = ()
    spelled: dict[str, str] = field(default_factory=dict)
    libraries: tuple[tuple[str, ...], ...] = (("-lm",),)
    knows_all: bool = False


# zig compiles for the processor at hand unless told otherwise, and brings slow copies of libc's functions, which take
# it seconds to compile: they are left out unless something is missing without them.
ZIG = Kind(
    ("-mcpu=baseline", "-g0", "-fno-sanitize=all", "-fno-stack-protector"),
    {
        "-march=armv8.2-a+dotprod+i8mm": "-mcpu=baseline+dotprod+i8mm",
        "-march=armv8.2-a+dotprod": "-mcpu=baseline+dotprod",
    },
    (("-nostdlib", "-lc", "-lm", "-Wl,-z,defs"), ("-lm",)),
    knows_all=True,
)
KINDS = {"zig": ZIG}


@dataclass(frozen=True)
class Unit:
    """One translation unit."""

    name: str
    source: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstructionSet:
    """A name that may stand in C, the flags that compile for it, and the C expression that is true where it runs."""

    name: str
    flags: tuple[str, ...] = ()
    supported: str = "1"


def _cpuid(leaf: int, subleaf: int = 0) -> str:
    return f'__asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"({leaf}), "c"({subleaf}));'


def _x86(leaf1_c: int, state: int, leaf7_b: int, leaf7_c: int = 0, leaf7_1_a: int = 0) -> str:
    """True where these bits are set in CPUID and, for what the system saves of a process, in XCR0.

    `__builtin_cpu_supports` would be shorter, but of a library that zig linked it says no to everything.
    """

    def all_of(register: str, bits: int) -> str:
        return f"({register} & {bits:#x}u) == {bits:#x}u"

    xgetbv = '__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));'
    return (
        f"({{ unsigned a, b, c, d; {_cpuid(0)} int fits = a >= 7;"
        f" if (fits) {{ {_cpuid(1)} fits = {all_of('c', leaf1_c)}; }}"
        f" if (fits) {{ {xgetbv} fits = {all_of('a', state)}; }}"
        f" if (fits) {{ {_cpuid(7)} fits = {all_of('b', leaf7_b)} && {all_of('c', leaf7_c)}; }}"
        f" if (fits) {{ {_cpuid(7, 1)} fits = {all_of('a', leaf7_1_a)}; }} fits; }})"
    )


def _linux_arm(vector: int, bit: int) -> str:
    """True where the kernel tells this capability."""
    return f"({{ extern unsigned long getauxval(unsigned long); (int)(getauxval({vector}) >> {bit} & 1); }})"


def _apple(feature: str) -> str:
    return (
        "({ extern int sysctlbyname(const char *, void *, __SIZE_TYPE__ *, void *, __SIZE_TYPE__);"
        f' int has = 0; __SIZE_TYPE__ bytes = sizeof has; sysctlbyname("hw.optional.arm.{feature}", &has, &bytes,'
        " (void *)0, 0); has; })"
    )


AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
AVX_BITS = 1 << 12 | 1 << 27 | 1 << 28 | 1 << 29  # FMA, OSXSAVE, AVX, F16C of leaf 1, ECX
AVX2_BIT = 1 << 5  # of leaf 7, EBX
AVX512_BITS = AVX2_BIT | 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31  # and F, DQ, BW, VL
VNNI_BIT = 1 << 11  # of leaf 7, ECX
AVX_VNNI_BIT = 1 << 4  # of leaf 7, subleaf 1, EAX, which is 0 where there is no such subleaf
DOTPROD, I8MM = ("-march=armv8.2-a+dotprod",), ("-march=armv8.2-a+dotprod+i8mm",)
# By machine as `platform.machine` names it, best first. The last of each runs on every one of them.
INSTRUCTION_SETS: dict[str, tuple[InstructionSet, ...]] = {
    "x86_64": (
        InstructionSet("avx512vnni", (*AVX512, *AVX2), _x86(AVX_BITS, 0xE6, AVX512_BITS, VNNI_BIT)),
        InstructionSet("avxvnni", (*AVX2, "-mavxvnni"), _x86(AVX_BITS, 0x6, AVX2_BIT, 0, AVX_VNNI_BIT)),
        InstructionSet("avx2", AVX2, _x86(AVX_BITS, 0x6, AVX2_BIT)),
        InstructionSet("sse2"),
    ),
    "aarch64": (  # Linux
        InstructionSet("neon_i8mm", I8MM, f"({_linux_arm(26, 13)} && {_linux_arm(16, 20)})"),
        InstructionSet("neon_dotprod", DOTPROD, _linux_arm(16, 20)),
        InstructionSet("neon"),
    ),
    "arm64": (  # macOS
        InstructionSet("neon_i8mm", I8MM, f"({_apple('FEAT_I8MM')} && {_apple('FEAT_DotProd')})"),
        InstructionSet("neon_dotprod", DOTPROD, _apple("FEAT_DotProd")),
        InstructionSet("neon"),
    ),
}
MACHINES = {"amd64": "x86_64"}


def instruction_sets(machine: str = "") -> tuple[InstructionSet, ...]:
    """Those of a machine as `platform.machine` names it (by default this one), best first."""
    machine = (machine or platform.machine()).lower()
    return INSTRUCTION_SETS.get(MACHINES.get(machine, machine), (InstructionSet("plain"),))


def usable() -> tuple[InstructionSet, ...]:
    """Those of this machine that the compiler knows: an old one may not know the newest. The last always stays."""
    compiler = toolchain.find_native()
    if compiler is None or KINDS.get(compiler.kind, Kind()).knows_all:
        return instruction_sets()
    return _usable(compiler, toolchain.native_fingerprint())


@functools.cache
def _usable(compiler: toolchain.Compiler, fingerprint: str) -> tuple[InstructionSet, ...]:
    """`fingerprint` changes with the compiler."""
    *better, last = instruction_sets()
    with ThreadPoolExecutor(len(better) or 1) as pool:
        known = list(pool.map(lambda row: _knows(compiler, row.flags), better))
    return (*(row for row, knows in zip(better, known, strict=True) if knows), last)


def _knows(compiler: toolchain.Compiler, flags: Sequence[str]) -> bool:
    """Whether a compiler takes these flags; also True where it cannot be run, which `build` will tell."""
    with suppress(OSError, ValueError, subprocess.TimeoutExpired):
        code, *_ = toolchain.run_limited([*compiler.command, *flags, "-fsyntax-only", "-x", "c", "-"], 10)
        return code <= 0
    return True


def facts() -> dict[str, str]:
    """What `minitx cache` tells of a library that is built now: its instruction sets and compiler (which is run)."""
    compiler = toolchain.find_native()
    sets = " ".join(row.name for row in usable())
    version = compiler.version or compiler.path if compiler else ""
    return {"instruction sets": sets, "compiler": f"zig, {version}" if compiler and compiler.kind == "zig" else version}


def build(
    units: Sequence[Unit],
    include: Path,
    notice: Callable[[str], object] = lambda message: None,
    seconds: float = SECONDS,
) -> bytes:
    """A shared library of these units, several compiled at a time; raises `DeviceError` where that fails.

    `notice` is told how far it is; a compiler gets `seconds` for each unit. Nothing is left of the files it makes.
    """
    compiler = toolchain.find_native()
    if compiler is None:
        raise DeviceError(f"no C compiler was found; {INSTALL}")
    try:
        with tempfile.TemporaryDirectory(prefix="minitx-") as folder:
            call = Call(compiler, Path(folder), seconds)
            if compiler.kind == "CC":
                call.check()
            objects = compile_all(call, units, include, notice)
            return call.link(objects)
    except OSError as e:
        where = e.filename or tempfile.gettempdir()
        raise DeviceError(f"{where}: cannot be used ({e.strerror or e}); free space or set TMPDIR") from None


def compile_all(call: Call, units: Sequence[Unit], include: Path, notice: Callable[[str], object]) -> list[Path]:
    """The objects of these units, in order. Whatever happens, no compiler runs any more when this ends."""
    pool = ThreadPoolExecutor(min(toolchain.cores(), max(len(units), 1)))
    objects: list[Future[Path]] = []
    try:
        notice(f"compiling the model (0 of {len(units)}) ...")
        for unit in units:
            objects.append(pool.submit(call.compile, unit, include))
        for done, finished in enumerate(as_completed(objects), 1):
            finished.result()
            notice(f"compiling the model ({done} of {len(units)}) ...")
        return [future.result() for future in objects]
    except BaseException:
        call.stopped = True
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in objects):  # a failure or Ctrl-C, which reaches no other thread
            toolchain.stop_all(call.running)
            time.sleep(0.01)


CHECK = Unit(
    "check",
    "#include <pthread.h>\n#include <string.h>\n"
    "typedef float vf __attribute__((vector_size(16)));\n"
    '__attribute__((visibility("default"))) vf check(vf a, const void *b) { memcpy(&a, b, sizeof a); return a + a; }\n',
)


class Call:
    """Calls of one compiler, with a folder for its files. Raises `DeviceError` for what it does wrong."""

    def __init__(self, compiler: toolchain.Compiler, folder: Path, seconds: float = SECONDS, flags: Sequence[str] = ()):
        self.compiler, self.folder, self.seconds = compiler, folder, seconds
        self.kind = KINDS.get(compiler.kind, Kind())
        self.flags = [*FLAGS, *(flags or self.kind.flags)]  # of every unit
        self.running: toolchain.Processes = set()
        self.stopped = False
        zig = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(_zig_cache(folder))
        self.env = os.environ | {"LC_ALL": "C", "TMPDIR": str(folder), "ZIG_GLOBAL_CACHE_DIR": zig}
        self.env.setdefault("ZIG_LOCAL_CACHE_DIR", zig)

    def compile(self, unit: Unit, include: Path) -> Path:
        """The object file of a unit."""
        source, output = self.folder / f"{unit.name}.c", self.folder / f"{unit.name}.o"
        source.write_text(unit.source, encoding="utf-8")
        flags = [self.kind.spelled.get(flag, flag) for flag in (*self.flags, *unit.flags)]
        self.run([*flags, f"-I{include}", "-c", str(source)], output)
        return output

    def link(self, objects: Sequence[Path]) -> bytes:
        """The shared library of these objects, seen to be for this machine."""
        output = self.folder / "library.so"
        *others, last = self.kind.libraries
        for libraries in others:
            with suppress(DeviceError):
                self.run([*LINK, *map(str, objects), *libraries], output)
                break
        else:
            self.run([*LINK, *map(str, objects), *last], output)
        library = output.read_bytes()
        if foreign(library):
            raise self.error("makes programs for another kind of machine")
        return library

    def check(self) -> None:
        """Raises `DeviceError` where this is no compiler that the native engine can use."""
        self.link([self.compile(CHECK, self.folder)])

    def run(self, arguments: list[str], output: Path) -> None:
        """Runs the compiler, which has to make the file `output`."""
        self.run_tool([*self.compiler.command, *arguments, "-o", str(output)], output)

    def run_tool(self, argv: list[str], output: Path) -> None:
        """Runs a command of the compiler's, which has to make the file `output`."""
        if self.stopped:
            raise self.error("was stopped")
        try:
            code, _, err = toolchain.run_limited(argv, self.seconds, env=self.env, running=self.running)
        except subprocess.TimeoutExpired:
            raise self.error(f"did not finish within {self.seconds:.0f} seconds") from None
        except (OSError, ValueError) as e:  # ValueError: a NUL in its name
            raise self.error(f"cannot be run ({getattr(e, 'strerror', None) or e})") from None
        if code == 0 and output.exists() and output.stat().st_size:
            return
        lines = err.decode(errors="replace").replace(f"{self.folder}/", "").splitlines()
        told = [line for line in lines if "error" in line.lower()] + [line for line in lines if line.strip()] + [""]
        raise self.error(f"{_ending(code)}{f': {told[0].strip()[:160]}' if told[0] else ''}")

    def error(self, what: str) -> DeviceError:
        """One line: the compiler, what it did, what to do."""
        own = self.compiler.kind == "CC"
        named = f"CC={self.compiler.path}" if own else f"the C compiler {self.compiler.path}"
        return DeviceError(f"{named} {what}; {'set CC to clang or gcc, or unset it' if own else INSTALL}")


def _ending(code: int) -> str:
    """How a program ended that did not do what it should."""
    if code < 0:
        with suppress(ValueError):
            return f"was stopped by {signal.Signals(-code).name}"
    return f"failed with exit status {code}" if code else "made no output"


def _zig_cache(folder: Path) -> Path:
    """Where zig keeps what it compiled: in the cache if nobody else could write there, else in `folder`."""
    cache = cache_dir().absolute()
    with suppress(OSError, DeviceError):
        cache.mkdir(parents=True, exist_ok=True)
        check_owner(cache)
        if os.access(cache, os.W_OK):
            return cache / "zig"
    return folder / "zig"


def foreign(library: bytes) -> bool:
    """Whether this ELF file is for another machine than the Python that runs; False if either is something else."""
    with suppress(OSError, TypeError, ValueError), open(sys.executable, "rb") as file:
        own = file.read(20)
        machine = slice(18, 20), slice(4, 6)  # e_machine, class and byte order
        return own[:4] == library[:4] == b"\x7fELF" and any(own[part] != library[part] for part in machine)
    return False
