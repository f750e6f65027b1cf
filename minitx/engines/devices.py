"""The backends of tinygrad that a user may name, and whether one works on this machine.

Some backends compute garbage without an error (WebGPU where there is no Vulkan driver), some bring the process down
and some hang. So the first time that a model is to run on one, a small computation is checked against numpy in a
process of its own, with a time limit; after that, again in each process that uses the backend.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .. import toolchain
from ..errors import DeviceError, FileError
from ..paths import cache_dir, writing

WORKS, WRONG, MISSING = "works", "wrong result", "not available"
SECONDS = 90.0  # for a first answer: an OpenCL driver takes some to compile its first kernel
TOLERANCE = 1e-4  # of values around 1, in float32


class WrongResultError(DeviceError):
    """A backend that answers, and not what numpy does."""


@dataclass(frozen=True)
class Result:
    """What a backend did with the self-test: `works`, `wrong result` or `not available`, and why."""

    status: str
    reason: str = ""


def _on(system: str) -> str:
    return "" if sys.platform == system else f"this is {platform.system()}"


def _at(path: str) -> str:
    return "" if os.path.exists(path) else f"there is no {path}"


def _machine(*names: str) -> str:
    return "" if platform.machine().lower() in names else f"this is {platform.machine()}"


@dataclass(frozen=True)
class Backend:
    """A row of `BACKENDS`: tinygrad's device and renderer ("" for its own choice), and what to do without it."""

    device: str
    renderer: str = ""
    advice: str = "name another device (minitx devices lists them)"
    absent: Callable[[], str] = lambda: ""  # why it cannot be here, told without touching a driver; "" if it may be
    compiler: bool = False  # whether it needs a C compiler


BACKENDS: dict[str, Backend] = {
    "CPU": Backend("CPU", "CLANG", toolchain.INSTALL, compiler=True),
    "CPU:X86": Backend("CPU", "X86", "use CPU", partial(_machine, "x86_64", "amd64"), compiler=True),
    "CPU:LLVM": Backend("CPU", "LLVM", "install LLVM 16 or newer or set LLVM_PATH to its libLLVM", compiler=True),
    "CL": Backend("CL", advice="install the OpenCL driver of your GPU, or pocl-opencl-icd for the CPU"),
    "WEBGPU": Backend("WEBGPU", advice="pip install dawn-python and a Vulkan driver (mesa-vulkan-drivers)"),
    "CUDA": Backend("CUDA", advice="install NVIDIA's driver and CUDA"),
    "METAL": Backend("METAL", absent=partial(_on, "darwin")),
    "AMD": Backend("AMD", absent=partial(_at, "/dev/kfd")),
    "NV": Backend("NV", absent=partial(_at, "/dev/nvidiactl")),
    "QCOM": Backend("QCOM", absent=partial(_at, "/dev/kgsl-3d0")),
    "PYTHON": Backend("PYTHON"),
}

_ensured: set[str] = set()  # names that passed in this process


def lookup(name: str) -> Backend:
    """The row of a device as a user writes it, in any case; raises `DeviceError` that lists the names."""
    if (backend := BACKENDS.get(name.upper())) is None:
        raise DeviceError(f"device {name!r} is not known; choose one of: {', '.join(BACKENDS)}")
    return backend


def select(name: str) -> str:
    """tinygrad's device for a name in `BACKENDS`, with its renderer chosen for this process; raises `DeviceError`.

    The renderer is tinygrad's global choice: of CPU, CPU:X86 and CPU:LLVM the last one selected compiles what has
    not been compiled yet.
    """
    backend = lookup(name)
    toolchain.prepare()
    if backend.device == "WEBGPU":  # Mesa's drivers complain on standard error where there is no desktop
        os.environ.setdefault("XDG_RUNTIME_DIR", str(cache_dir().absolute()))
    from tinygrad.helpers import DEV, Target

    own = [t for t in DEV.value if t.device == backend.device and not backend.renderer]  # as the user set it in $DEV
    chosen = own[0] if own else Target(backend.device, backend.renderer)
    # the first is tinygrad's default device, so that it never goes looking for one
    DEV.value = [chosen, *(t for t in DEV.value if t.device not in ("", backend.device))]
    return backend.device


def self_test(device: str, name: str = "") -> None:
    """A matrix product, a softmax and an embedding look-up on a tinygrad device, compared with numpy.

    Raises `WrongResultError`, or `DeviceError` where the device is not available, with the reason in one line.
    """
    name = name or device
    try:
        results = _compute(device)
    except Exception as e:
        backend = lookup(name)
        raise DeviceError(f"device {name} is {MISSING}: {backend.absent() or reason(e)}; {backend.advice}") from e
    wrong = [what for what, (got, want) in results.items() if not np.allclose(got, want, TOLERANCE, TOLERANCE)]
    if wrong:
        raise WrongResultError(
            f"device {name} gives a {WRONG} ({', '.join(wrong)}), so it is not used; {lookup(name).advice}"
        )


def _compute(device: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What `device` gives and what is right, by operation."""
    from tinygrad import Tensor
    from tinygrad.helpers import Context

    a = np.arange(6 * 33, dtype=np.float32).reshape(6, 33) * 0.7 % 1.3 - 0.5
    b = np.arange(33 * 8, dtype=np.float32).reshape(33, 8) * 0.3 % 1.1 - 0.6
    ids = np.array([3, 0, 5, 5, 1], dtype=np.int32)
    softmax = np.exp(a) / np.exp(a).sum(1, keepdims=True)
    want = {"matrix product": a @ b, "softmax": softmax, "embedding look-up": a[ids]}
    with Context(PARALLEL=0, BEAM=0):  # no pool of processes and no search for a handful of small kernels
        x, y, rows = (Tensor(value, device=device) for value in (a, b, ids))
        outputs = (x @ y, x.softmax(-1), x[rows])
        Tensor.realize(*outputs)
        return {what: (t.numpy(), want[what]) for what, t in zip(want, outputs, strict=True)}


def reason(error: BaseException) -> str:
    """Why a backend could not be used, in one short line, from what tinygrad raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.startswith("failed to load library"):
        return f"its library was not found ({text.split()[4].rstrip(':')})"
    if "OpenCL Error -1001" in text:
        return "no OpenCL driver was found"
    if text.startswith("src:"):  # where libLLVM stopped in the text that it was given
        return f"its LLVM is too old for tinygrad ({text.partition('error: ')[2][:80]})"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, subprocess.CalledProcessError):
        return f"the C compiler {error.cmd[0]} failed"
    if type(error).__module__ == "sqlite3":
        return f"the cache of compiled kernels cannot be used ({text}); delete the folder {cache_dir()}"
    return text[:160]


def probe(name: str, seconds: float = SECONDS) -> Result:
    """The self-test of a backend in a process of its own, which may crash or hang; nothing of it is left running."""
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    argv = [sys.executable, "-P", "-m", __name__, name]
    try:
        code, out, err = toolchain.run_limited(argv, seconds, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    except subprocess.TimeoutExpired:
        return Result(MISSING, f"device {name} is {MISSING}: no answer within {seconds:.0f} seconds")
    except OSError as e:
        return Result(MISSING, f"device {name} was not tested: {sys.executable} cannot be run ({e.strerror})")
    for line in reversed(out.decode(errors="replace").splitlines()):
        with suppress(ValueError, TypeError):
            return Result(**json.loads(line))
    last = err.decode(errors="replace").strip().rpartition("\n")[2][:120]
    end = f"stopped by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return Result(MISSING, f"device {name} is {MISSING}: its test crashed ({end}{': ' if last else ''}{last})")


def _test(name: str) -> Result:
    """The self-test of a backend in this process."""
    try:
        if lookup(name).compiler:
            toolchain.require()
        self_test(select(name), name)
    except WrongResultError as e:
        return Result(WRONG, str(e))
    except DeviceError as e:
        return Result(MISSING, str(e))
    return Result(WORKS)


def ensure(name: str, warn: Callable[[str], object] = lambda message: None) -> str:
    """tinygrad's device for a backend that a model is about to run on; raises `DeviceError` where it does not work.

    The first time on this machine, for this tinygrad and this compiler, `probe` tells; from then on the self-test in
    this process, once, so that a driver that was removed since is noticed.
    """
    name, backend = name.upper(), lookup(name)
    device = select(name)
    if name in _ensured:
        return device
    if backend.compiler:
        toolchain.require(warn)
    file = f"{name.replace(':', '-')}-{version('tinygrad')}-{toolchain.fingerprint()}"
    marker = cache_dir() / "devices" / file
    if not marker.exists() and sys.executable:
        result = probe(name)
        if result.status != WORKS:
            raise (WrongResultError if result.status == WRONG else DeviceError)(result.reason)
        with suppress(FileError), writing(marker) as mark:
            mark.write(b"works\n")
    self_test(device, name)
    _ensured.add(name)
    return device


def report(seconds: float = SECONDS) -> list[tuple[str, str, str]]:
    """A row for each backend: its name, `works`, `wrong result` or `not available`, and why; two are tested at once.

    Two more rows tell the C compiler (where it comes from; its path and version) and the number of cores.
    """

    def row(name: str) -> tuple[str, str, str]:
        absent = BACKENDS[name].absent()
        result = Result(MISSING, absent) if absent else probe(name, seconds)
        return name, result.status, result.reason.partition(f"device {name} is {MISSING}: ")[2] or result.reason

    pool = ThreadPoolExecutor(2)
    try:
        rows = list(pool.map(row, BACKENDS))
    except BaseException:  # Ctrl-C: no test is waited for
        pool.shutdown(wait=False, cancel_futures=True)
        toolchain.stop_all()
        raise
    pool.shutdown()
    try:
        compiler = toolchain.find()
        found = (compiler.kind, f"{compiler.path} ({compiler.version})") if compiler else ("none", toolchain.INSTALL)
    except DeviceError as e:
        found = ("none", str(e))
    return [*rows, ("C compiler", *found), ("cores", str(toolchain.cores()), "")]


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        signal.alarm(int(SECONDS) + 60)  # ends a test that hangs after its parent was killed
    outcome = _test(sys.argv[1])
    print(json.dumps(vars(outcome)), flush=True)
