"""A freestanding package needs nothing but memcpy and memset, and gives the native engine's tokens on a Cortex-M."""

from __future__ import annotations

import ctypes
import dataclasses
import decimal
import os
import random
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import native_models
import numpy as np
import pytest
from native_models import letters
from test_export import compiler, small

from minitx.compiler import entry, plan
from minitx.compiler.export import export
from minitx.compiler.store import LIBRARY, WEIGHTS
from minitx.compiler.targets import package
from minitx.config import preset
from minitx.engines.native import Library, NativeEngine
from minitx.errors import InputError
from minitx.generation.search import generate
from minitx.weights.checkpoint import Checkpoint

ZIG = f"{sys.executable} -m ziglang cc"
MACHINES = {"cortex-m7": "mps2-an500", "cortex-m55": "mps3-an547"}
# What -ffreestanding asks for, in the names of the Arm EABI as well, and its helpers for 64-bit and double arithmetic.
ALLOWED = (
    r"memcpy|memset|__aeabi_(memcpy|memset|memclr)[48]?|__aeabi_(u?ldivmod|[df2uilz]+|[df](add|sub|mul|div|cmp..))"
)


def make(folder: Path, *goals: str) -> None:
    done = subprocess.run(["make", "-j2", "-C", str(folder), f"CC={ZIG}", *goals], capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr[-3000:]


def bare(checkpoint: Checkpoint, out: Path) -> Path:
    export(checkpoint, "c", out, package.Options("tiny.model", 1, freestanding=True))
    return out


@cache
def qemu() -> str:
    found = shutil.which("qemu-system-arm")
    if found is None:
        assert "CI" not in os.environ, "install qemu-system-arm"
        pytest.skip("qemu-system-arm is not installed")
    return found


def emulate(folder: Path, cpu: str, lines: list[str]) -> tuple[int, str]:
    """The exit status and the output of the example, which qemu has on its standard error."""
    given = "\n".join(lines).replace(",", ",,")
    command = [qemu(), "-M", MACHINES[cpu], "-display", "none", "-kernel", str(folder / "tiny.model.elf")]
    command += ["-semihosting-config", f"enable=on,target=native,arg={given}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def run(folder: Path, cpu: str, lines: list[str]) -> tuple[list[str], int, int]:
    """The lines that the example makes of these, the bytes of its workspace and of the stack that it used."""
    status, output = emulate(folder, cpu, lines)
    told = re.search(r"^workspace (\d+), stack (\d+)$", output, re.M)
    assert status == 0 and told, output
    return output.splitlines()[:-1], int(told[1]), int(told[2])


def expected(engine: NativeEngine, checkpoint: Checkpoint, sources: list[list[int]], beam: int) -> list[str]:
    found = generate(engine, sources, dataclasses.replace(checkpoint.generation, beam=beam))
    return [" ".join(map(str, best[0].tokens)) for best in found]


def ids(sources: list[list[int]]) -> list[str]:
    return [" ".join(map(str, source)) for source in sources]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantization", "cpu"),
    [
        ("post", "int8", "cortex-m7"),
        ("ssru", "none", "cortex-m7"),
        ("odd", "int4", "cortex-m7"),
        ("post", "int8", "cortex-m55"),
    ],
)
def test_ids_are_those_of_the_native_engine(tmp_path: Path, name: str, quantization: str, cpu: str) -> None:
    checkpoint, sources = small(name, quantization), native_models.sentences(*range(1, 20), 64)
    make(bare(checkpoint, tmp_path / "out"), f"CPU={cpu}", "example")
    engine = native_models.native(name, quantization)
    for beam in (1, 4):
        found, workspace, stack = run(tmp_path / "out", cpu, [f"--beam {beam} --ids", *ids(sources)])
        assert found == expected(engine, checkpoint, sources, beam)
    assert workspace < 512 << 10 and stack < 8 << 10
    status, output = emulate(tmp_path / "out", cpu, ["--ids --beam 5 ", "1 0"])
    assert status != 0 and "options are out of range" in output


@pytest.mark.slow
def test_a_model_that_spells_words_runs_on_a_microcontroller(tmp_path: Path) -> None:
    """d_model 128, 2 and 2 layers: what turns letters to phonemes; weights in a section of their own."""
    config = dataclasses.replace(
        preset("tiny"),
        source_vocab=64,
        target_vocab=96,
        d_model=128,
        heads=4,
        d_ff=512,
        encoder_layers=2,
        decoder_layers=2,
        max_length=48,
        tying="none",
    )
    rng = np.random.default_rng(3)
    checkpoint = dataclasses.replace(native_models.random_model(config, "int8"), source=letters(64), target=letters(96))
    make(bare(checkpoint, tmp_path / "out"), "MODEL_SECTION=.weights", "SOURCE=32", "example")
    planned = plan.plan(checkpoint.config)
    (tmp_path / LIBRARY).write_bytes(entry.library(planned, sets=native_models.runnable()[:1]))
    with (tmp_path / WEIGHTS).open("wb") as file:
        entry.write_weights(planned, checkpoint, file)
    engine = NativeEngine(config, Library(tmp_path, 2, None), entry.interfaces(planned), None)
    sources = [[*rng.integers(1, 64, n).tolist(), 0] for n in range(1, 16)]
    for beam in (1, 4):
        found, workspace, stack = run(tmp_path / "out", "cortex-m7", [f"--ids --beam {beam}", *ids(sources)])
        assert found == expected(engine, checkpoint, sources, beam)
    assert workspace < 1 << 20 and stack < 8 << 10
    make(tmp_path / "out", "SOURCE=32", "report", "TEXT=abc")
    told = re.search(
        r"^Measured: on a cortex-m7 in qemu, (.*), code (\d+) bytes", (tmp_path / "out/README.md").read_text(), re.M
    )
    assert told and re.fullmatch(rf"workspace {workspace} bytes, stack \d+ bytes", told[1]) and int(told[2]) < 100_000


def undefined(library: Path) -> set[str]:
    """What no object of a library defines and some object needs."""
    lines = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout.splitlines()
    words = [line.split() for line in lines if line and not line.endswith(":")]
    return {word[-1] for word in words if word[-2] == "U"} - {word[-1] for word in words if word[-2] != "U"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "goals",
    [(), ("TARGET=-target thumb-freestanding-eabi -mcpu=cortex_m3 -fno-sanitize=all",), ("CC=clang",)],
    ids=["cortex-m7", "cortex-m3", "clang"],
)
def test_nothing_is_linked_but_memcpy_and_memset(tmp_path: Path, goals: tuple[str, ...]) -> None:
    """Also where the processor has no floats, and with another compiler."""
    out = bare(small("odd", "int8"), tmp_path / "out")
    assert not [path.name for path in out.rglob("*") if path.name in ("file.c", "main.c") and path.parent.name == "src"]
    make(out, *goals)
    names = undefined(out / "libtiny.model.a")
    assert names and not {name for name in names if not re.fullmatch(ALLOWED, name)}


def fixed_code(out: Path, cc: str, *flags: str) -> list[str]:
    own = ["-ffreestanding", "-std=c11", f"-I{out}", f"-I{out}/src", f"-I{out}/src/bare", "-include", "src/prefix.h"]
    return [compiler(cc), *own, *flags]


@pytest.fixture(scope="module")
def powers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """bare.c for this machine, with the flags that it is built with."""
    out = bare(small("post", "int8"), tmp_path_factory.mktemp("bare") / "out")
    library = out / "bare.so"
    flags = ["-O2", "-shared", *package.flags(), "-fvisibility=default"]
    sources = [str(out / "src/bare/bare.c"), str(out / "src/alone.c")]
    subprocess.run([*fixed_code(out, "clang", *flags), *sources, "-o", str(library)], check=True, cwd=out)
    return ctypes.CDLL(str(library))


def test_powers_are_the_nearest_doubles(powers: ctypes.CDLL) -> None:
    power, generator = powers.tiny_model_bare_power, random.Random(0)
    power.restype, power.argtypes = ctypes.c_double, (ctypes.c_double, ctypes.c_double)
    exponents = [0.0, 0.2, 0.5, 0.6, 0.65, 1.0, 1.5, 2.0, 10.0, 1e-3, 1e-12, 1e-300]
    exponents += [generator.uniform(0, 10) for _ in range(4)]
    near = 0
    with decimal.localcontext(decimal.Context(prec=60)):
        for exponent in exponents:
            for n in [*range(1, 60), 64, 100, 511, 512, 1000, 2**30]:
                for x in (float(n), (5.0 + n) / 6.0):
                    exact = decimal.Decimal(x) ** decimal.Decimal(exponent)
                    assert power(x, exponent) == float(exact), (x, exponent)
                    near += power(x, exponent) != x**exponent
    assert near < 0.01 * len(exponents) * 130  # the C library's, which is off by a last bit now and then
    assert all(power(float(n), 1.0) == n and power(float(n), 0.0) == 1 for n in range(1, 5000))


def test_square_roots_are_the_nearest_floats(powers: ctypes.CDLL) -> None:
    root = powers.tiny_model_bare_root
    root.restype, root.argtypes = ctypes.c_float, (ctypes.c_float,)
    random = np.random.default_rng(0)
    bits = random.integers(0x00800000, 0x7F800000, 20000).astype(np.uint32)
    for x in [0.0, 1.0, 4.0, 2.0, 1e-9, *bits.view(np.float32).tolist()]:
        assert root(x) == np.sqrt(np.float32(x))


@pytest.mark.slow
def test_own_code_has_no_warnings(tmp_path: Path) -> None:
    out = bare(small("post", "int8"), tmp_path / "out")
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-fsyntax-only"]
    for cc in ("clang", "gcc"):
        for part in (out / "src").rglob("*.c"):
            if part.name not in ("functions.c", "sets_plain.c", "model.c"):
                subprocess.run([*fixed_code(out, cc, *strict), str(part)], check=True, cwd=out)


def test_threads_are_refused() -> None:
    with pytest.raises(InputError, match="leave out --threads"):
        package.Options("a", 2, freestanding=True)
