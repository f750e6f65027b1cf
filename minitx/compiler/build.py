"""Drives a C compiler: units of C to one shared library, for every instruction set of this kind of machine."""

from __future__ import annotations

import platform
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .. import toolchain
from ..errors import DeviceError

FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=fast", "-fno-math-errno"]
FLAGS += ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]  # sums may be vectorised; NaN stays NaN
# What one kind of compiler needs beside them (see `toolchain.Compiler.kind`).
OWN_FLAGS = {"ziglang": ["-g0", "-fno-sanitize=all", "-fno-stack-protector"]}
LINK = ["-shared", "-pthread", "-s"]
SECONDS = 120.0  # for one unit
INSTALL = "install clang or gcc, or pip install ziglang"


@dataclass(frozen=True)
class Unit:
    """One translation unit."""

    name: str
    source: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstructionSet:
    """The flags that compile for it, and the C expression that is true where it runs."""

    name: str
    flags: tuple[str, ...] = ()
    supported: str = "1"


def _x86(*features: str) -> str:
    return " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features)


AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
# By machine, best first. The last of each runs on every one of them.
INSTRUCTION_SETS: dict[str, tuple[InstructionSet, ...]] = {
    "x86_64": (
        InstructionSet("avx512vnni", (*AVX512, *AVX2), _x86("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni")),
        InstructionSet("avx2", AVX2, _x86("avx2", "fma")),
        InstructionSet("sse2"),
    ),
    "aarch64": (
        InstructionSet("dotprod", ("-march=armv8.2-a+dotprod",), "getauxval(16) >> 20 & 1"),
        InstructionSet("neon"),
    ),
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def instruction_sets(machine: str = "") -> tuple[InstructionSet, ...]:
    """Those of a machine as `platform.machine` names it (by default this one), best first."""
    machine = (machine or platform.machine()).lower()
    return INSTRUCTION_SETS.get(MACHINES.get(machine, machine), (InstructionSet("plain"),))


def build(
    units: Sequence[Unit],
    include: Path,
    notice: Callable[[str], object] = lambda message: None,
    seconds: float = SECONDS,
) -> bytes:
    """A shared library of these units, several compiled at a time; raises `DeviceError` where that fails."""
    compiler = toolchain.find()
    if compiler is None:
        raise DeviceError(f"no C compiler was found; {INSTALL}")
    flags = [*FLAGS, *OWN_FLAGS.get(compiler.kind, [])]
    done = 0
    with tempfile.TemporaryDirectory(prefix="minitx-") as folder:

        def compiled(unit: Unit) -> Path:
            nonlocal done
            source, output = Path(folder, f"{unit.name}.c"), Path(folder, f"{unit.name}.o")
            source.write_text(unit.source, encoding="utf-8")
            run(compiler, [*flags, *unit.flags, f"-I{include}", "-c", str(source), "-o", str(output)], seconds)
            done += 1
            notice(f"compiling the model ({done} of {len(units)}) ...")
            return output

        notice(f"compiling the model (0 of {len(units)}) ...")
        pool = ThreadPoolExecutor(toolchain.cores())
        try:
            objects = list(pool.map(compiled, units))
        except BaseException:  # also Ctrl-C, which does not reach the other threads
            pool.shutdown(wait=False, cancel_futures=True)
            toolchain.stop_all()
            raise
        finally:
            pool.shutdown()
        library = Path(folder, "library.so")
        run(compiler, [*LINK, *map(str, objects), "-o", str(library)], seconds)
        return library.read_bytes()


def run(compiler: toolchain.Compiler, arguments: list[str], seconds: float) -> None:
    """Runs the compiler; raises `DeviceError` that says in one line what it did."""
    named = f"CC={compiler.path}" if compiler.kind == "CC" else f"the C compiler {compiler.path}"
    advice = "set CC to another one or unset it" if compiler.kind == "CC" else INSTALL
    try:
        code, _, err = toolchain.run_limited([compiler.path, *arguments], seconds)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{named} did not finish within {seconds:.0f} seconds; {advice}") from None
    except OSError as e:
        raise DeviceError(f"{named} cannot be run ({e.strerror or e}); {advice}") from None
    output = Path(arguments[arguments.index("-o") + 1])
    if code == 0 and output.exists():
        return
    lines = [line for line in err.decode(errors="replace").splitlines() if "error" in line] or [""]
    how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
    raise DeviceError(f"{named} {how if code else 'made no output'} {lines[0][:160]}; {advice}".replace("  ", " "))
