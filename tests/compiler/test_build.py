"""Units of C become one library with each compiler, and what a compiler does wrong is one line that says what to do."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from minitx import toolchain
from minitx.compiler.build import INSTRUCTION_SETS, Unit, build, facts, instruction_sets, usable
from minitx.errors import DeviceError

X86 = platform.machine().lower() in ("x86_64", "amd64")
EXPORT = '__attribute__((visibility("default")))'
UNITS = [
    Unit("one", "int one(void) { return 1; }\n"),
    Unit(
        "two", f"#include <header.h>\nint one(void);\n{EXPORT} int two(void) {{ return one() + HEADER; }}\n", ("-DX",)
    ),
]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Nothing but the shell's programs on the path, temporary files where they can be counted, an include folder."""
    for name in ("path", "tmp", "include"):
        (tmp_path / name).mkdir()
    for name in ("sh", "sleep", "cat"):
        (tmp_path / "path" / name).symlink_to(shutil.which(name))
    (tmp_path / "include" / "header.h").write_text("#define HEADER 1\n")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path
    assert list((tmp_path / "tmp").iterdir()) == []


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def load(library: bytes, folder: Path) -> ctypes.CDLL:
    path = folder / f"{time.monotonic_ns()}.so"
    path.write_bytes(library)
    return ctypes.CDLL(str(path))


@pytest.fixture(params=["clang", "gcc", "zig"])
def compiler(request, alone, monkeypatch):
    """Each compiler in turn as the one that is found."""
    if request.param == "zig":
        pytest.importorskip("ziglang")
        cache = Path(__file__).parents[2] / ".pytest_cache" / "zig"
        monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(cache))
    else:
        path = shutil.which(request.param, path=os.defpath + ":/usr/local/bin:/usr/bin")
        if path is None:
            pytest.skip(f"{request.param} is not installed")
        monkeypatch.setattr(toolchain, "_zig", lambda: None)
        monkeypatch.setenv("PATH", f"{alone / 'path'}:/usr/bin:/bin")  # for the linker
        monkeypatch.setattr(toolchain.shutil, "which", lambda name: path if name == request.param else None)
    assert toolchain.find_native().kind == request.param
    return request.param


def test_units_become_one_library_with_every_compiler(alone, compiler):
    told = []
    library = build(UNITS, alone / "include", told.append)
    assert load(library, alone).two() == 2
    assert told == [f"compiling the model ({done} of 2) ..." for done in range(3)]
    assert b"one.c" not in library  # stripped
    assert facts()["compiler"] and facts()["instruction sets"].split() == [row.name for row in instruction_sets()]


def test_every_instruction_set_compiles_for_itself_and_is_recognized(alone, compiler):
    macros = {"avx512vnni": "__AVX512VNNI__", "avxvnni": "__AVXVNNI__", "avx2": "__AVX2__"}
    macros |= {"neon_i8mm": "__ARM_FEATURE_MATMUL_INT8", "neon_dotprod": "__ARM_FEATURE_DOTPROD"}
    rows = instruction_sets()
    units = []
    for i, row in enumerate(rows):
        wanted = [f"#ifndef {macros[row.name]}\n#error missing\n#endif\n"] if row.name in macros else []
        better = [f"#ifdef {macros[r.name]}\n#error too much\n#endif\n" for r in rows[:i]]
        body = f"{EXPORT} int has_{row.name}(void) {{ return {row.supported}; }}\n"
        units += [Unit(row.name, "".join(wanted + better) + "int unused_" + row.name + ";\n", row.flags)]
        units += [Unit(f"has_{row.name}", body)]
    library = load(build(units, alone), alone)
    answers = {row.name: getattr(library, f"has_{row.name}")() for row in rows}
    assert answers[rows[-1].name] == 1
    if Path("/proc/cpuinfo").exists() and X86:
        flags = set(Path("/proc/cpuinfo").read_text().split())
        assert answers["avx2"] == {"avx2", "fma", "f16c"}.issubset(flags)
        assert answers["avxvnni"] == {"avx_vnni", "avx2", "fma", "f16c"}.issubset(flags)
        assert answers["avx512vnni"] == {"avx512_vnni", "avx512vl", "avx512bw", "avx512dq", "avx2"}.issubset(flags)


@pytest.mark.skipif(not X86, reason="is about sets of x86")
def test_sets_whose_flags_the_compiler_does_not_know_are_left_out(alone, monkeypatch):
    real = shutil.which("clang", path="/usr/bin:/usr/local/bin") or shutil.which("gcc", path="/usr/bin")
    if not real:
        pytest.skip("needs clang or gcc")
    monkeypatch.setenv("PATH", f"{alone / 'path'}:/usr/bin:/bin")
    rejecting = 'for a; do case $a in {}) echo "error: unknown argument: $a" >&2; exit 1;; esac; done\nexec {} "$@"'
    everything = [row.name for row in instruction_sets()]
    for pattern, left in {"-mavxvnni": ["avx512vnni", "avx2", "sse2"], "-mavx*": ["sse2"], "-none": everything}.items():
        monkeypatch.setenv("CC", script(alone / "old", rejecting.format(pattern, real)))
        assert [row.name for row in usable()] == left == facts()["instruction sets"].split()
        units = [Unit(row.name, f"int unused_{row.name};\n", row.flags) for row in usable()]
        assert build([*UNITS, *units], alone / "include")
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert usable() == instruction_sets()  # what it is, `build` tells


@pytest.mark.skipif(not (X86 and shutil.which("qemu-x86_64") and shutil.which("gcc")), reason="needs qemu-user and gcc")
@pytest.mark.parametrize(("cpu", "best"), [("core2duo", "sse2"), ("Nehalem", "sse2"), ("Haswell", "avx2")])
def test_an_older_processor_is_given_what_it_has(tmp_path, cpu, best):
    tests = "\n".join(f'if ({row.supported}) {{ puts("{row.name}"); return 0; }}' for row in instruction_sets())
    (tmp_path / "a.c").write_text(f"#include <stdio.h>\nint main(void) {{ {tests} return 1; }}\n")
    subprocess.run(["gcc", "-O2", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    run = subprocess.run(["qemu-x86_64", "-cpu", cpu, tmp_path / "a"], capture_output=True, text=True)
    assert run.stdout == f"{best}\n"


def zig(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc", *arguments]


@pytest.mark.parametrize(("machine", "target"), [("aarch64", "aarch64-linux-musl"), ("arm64", "aarch64-macos")])
def test_the_sets_of_arm_compile(tmp_path, machine, target):
    pytest.importorskip("ziglang")
    for row in INSTRUCTION_SETS[machine]:
        from minitx.compiler.build import ZIG

        (tmp_path / "a.c").write_text(f"int has(void) {{ return {row.supported}; }}\n")
        flags = [ZIG.spelled.get(flag, flag) for flag in (*ZIG.flags, *row.flags)]
        argv = zig("-target", target, *flags, "-Werror", "-c", "-o", str(tmp_path / "a.o"), str(tmp_path / "a.c"))
        subprocess.run(argv, check=True, timeout=120)
        assert (tmp_path / "a.o").stat().st_size


# A program without a C library, which zig would take minutes to compile: getauxval reads what the kernel left behind
# the environment, and the exit status is the place of the first set that runs.
ARM = """
static unsigned long *vector;
unsigned long getauxval(unsigned long type) {
    for (unsigned long *v = vector; v[0]; v += 2) if (v[0] == type) return v[1];
    return 0;
}
__attribute__((used)) void begin(unsigned long *stack) {
    vector = stack + stack[0] + 2;
    while (*vector++) {}
    register long status __asm__("x0") = CHOSEN;
    register long call __asm__("x8") = 93;
    __asm__ volatile("svc 0" : : "r"(status), "r"(call));
}
__asm__(".globl _start\\n_start: mov x0, sp\\n bl begin\\n");
"""


@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs qemu-user")
@pytest.mark.parametrize(
    ("cpu", "best"), [("cortex-a53", "neon"), ("cortex-a76", "neon_dotprod"), ("max", "neon_i8mm")]
)
def test_arm_processors_are_given_what_they_have(tmp_path, cpu, best):
    pytest.importorskip("ziglang")
    rows = INSTRUCTION_SETS["aarch64"]
    chosen = " : ".join([f"{row.supported} ? {i}" for i, row in enumerate(rows)] + ["99"])
    (tmp_path / "a.c").write_text(ARM.replace("CHOSEN", chosen))
    flags = [
        "-target",
        "aarch64-linux-musl",
        "-static",
        "-nostdlib",
        "-O1",
        "-fno-sanitize=all",
        "-fno-stack-protector",
    ]
    subprocess.run(zig(*flags, "-o", str(tmp_path / "a"), str(tmp_path / "a.c")), check=True, timeout=300)
    assert rows[subprocess.run(["qemu-aarch64", "-cpu", cpu, tmp_path / "a"]).returncode].name == best


def test_machines_by_all_their_names_end_with_a_set_that_runs_everywhere():
    assert instruction_sets("AMD64") == instruction_sets("x86_64")
    assert [row.name for row in instruction_sets("riscv64")] == ["plain"]
    for machine in (*INSTRUCTION_SETS, "s390x"):
        *_, last = instruction_sets(machine)
        assert (last.flags, last.supported) == ((), "1")
        assert all(row.name.isidentifier() for row in instruction_sets(machine))


def test_the_compiler_is_cc_then_clang_then_zig_then_gcc(alone, monkeypatch):
    monkeypatch.setattr(toolchain, "_zig", lambda: None)
    assert toolchain.find_native() is None
    with pytest.raises(DeviceError, match="no C compiler was found; install clang or gcc, or pip install ziglang"):
        build(UNITS, alone)
    for name, kind in [("cc", "gcc"), ("gcc", "gcc"), ("zig", "zig"), ("clang", "clang")]:
        path = script(alone / "path" / name, "exit 1")
        before = toolchain.native_fingerprint()
        assert toolchain.find_native() == toolchain.Compiler(kind, path)
        script(alone / "path" / name, "exit  1")
        assert toolchain.native_fingerprint() != before
    monkeypatch.setenv("CC", "clang")
    assert toolchain.find_native().kind == "clang"
    monkeypatch.setenv("CC", "/elsewhere/cc")
    assert toolchain.find_native() == toolchain.Compiler("CC", "/elsewhere/cc")


def test_gcc_named_by_cc_is_used(alone, monkeypatch):
    gcc = shutil.which("gcc", path="/usr/bin:/usr/local/bin")
    if not gcc:
        pytest.skip("gcc is not installed")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CC", gcc)
    assert load(build(UNITS, alone / "include"), alone).two() == 2


FAILURES = {
    "nothing": ("exit 0", "made no output"),
    "status": ("exit 3", "failed with exit status 3"),
    "first line": ("echo a.c:1: warning: x >&2; echo a.c:2: error: no such type >&2; exit 1", "2: error: no such type"),
    "killed": ("kill -SEGV $$", "stopped by SIGSEGV"),
    "hangs": ("sleep 60 & wait", "did not finish within 1 seconds"),
    "empty": ('while [ "$1" != -o ]; do shift; done; : > "$2"', "made no output"),
}


@pytest.mark.parametrize("kind", ["CC", "clang", "gcc"])
@pytest.mark.parametrize("what", FAILURES)
def test_what_a_compiler_does_wrong_is_one_line(alone, monkeypatch, kind, what):
    text, said = FAILURES[what]
    monkeypatch.setattr(toolchain, "_zig", lambda: None)
    path = script(alone / "path" / kind, text)
    if kind == "CC":
        monkeypatch.setenv("CC", path)
    started = time.monotonic()
    with pytest.raises(DeviceError) as e:
        build(UNITS, alone / "include", seconds=1.0)
    message = str(e.value)
    assert said in message and path in message and "\n" not in message
    assert message.endswith("unset it" if kind == "CC" else "pip install ziglang")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("cc", ["/bin/true", "/nowhere/cc", "/etc/passwd", "/", "not a compiler", "/bin/cat", "a\0b"])
def test_a_cc_that_is_no_compiler_is_one_line(alone, monkeypatch, cc):
    if "\0" in cc:  # which no environment can hold
        monkeypatch.setattr(toolchain, "find_native", lambda: toolchain.Compiler("CC", cc))
    else:
        monkeypatch.setenv("CC", cc)
    with pytest.raises(DeviceError, match="set CC to clang or gcc, or unset it") as e:
        build(UNITS, alone / "include")
    assert f"CC={cc} " in str(e.value) and "\n" not in str(e.value)


def test_a_compiler_for_another_machine_is_noticed(alone, monkeypatch):
    elf = bytearray(Path(sys.executable).read_bytes()[:64])
    if elf[:4] != b"\x7fELF":
        pytest.skip("this machine has other files")
    elf[18] ^= 1
    (alone / "elf").write_bytes(elf)
    text = f'while [ "$1" != -o ]; do shift; done; cat {alone / "elf"} > "$2"'
    monkeypatch.setenv("CC", script(alone / "path" / "cross", text))
    with pytest.raises(DeviceError, match="for another kind of machine"):
        build(UNITS, alone / "include")


def test_an_error_in_one_unit_stops_the_others_at_once(alone, monkeypatch):
    monkeypatch.setattr(toolchain, "cores", lambda: 2)
    text = f'case "$*" in *bad.c*) echo error: bad >&2; exit 1;; esac; echo $$ >> {alone / "pids"}; sleep 60'
    script(alone / "path" / "clang", text)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="error: bad"):
        build([Unit(name, "") for name in ("slow", "bad", "later", "last")], alone)
    assert time.monotonic() - started < 10
    pids = (alone / "pids").read_text().split() if (alone / "pids").exists() else []
    assert len(pids) <= 2 and not any(map(alive, pids))


def alive(pid: str) -> bool:
    """Whether a process runs: one that is dead but not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_stops_the_compilers_and_leaves_nothing(alone):
    script(alone / "path" / "clang", f"echo $$ >> {alone / 'pids'}; sleep 60")
    code = (
        "from pathlib import Path; from minitx.compiler.build import *; build([Unit('a', ''), Unit('b', '')], Path())"
    )
    env = os.environ | {"TMPDIR": str(alone / "tmp")}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (alone / "pids").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert err.endswith(b"KeyboardInterrupt\n")
    assert not any(map(alive, (alone / "pids").read_text().split()))


def test_as_many_compilers_run_at_once_as_there_are_cores(alone, monkeypatch):
    monkeypatch.setattr(toolchain, "cores", lambda: 2)
    counter = f"{alone / 'running'}"
    text = f'case "$*" in *-shared*) : ;; *) echo + >> {counter}; sleep 0.2; echo - >> {counter};; esac\n'
    script(alone / "path" / "clang", text + 'while [ "$1" != -o ]; do shift; done; echo x > "$2"')
    build([Unit(f"unit{i}", "") for i in range(6)], alone)
    running = [0]
    for line in Path(counter).read_text().split():
        running.append(running[-1] + (1 if line == "+" else -1))
    assert max(running) == 2


@pytest.mark.parametrize("where", ["missing", "file"])
def test_no_place_for_temporary_files_is_one_line(alone, monkeypatch, where):
    script(alone / "path" / "clang", "exit 0")
    (alone / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(alone / where))
    with pytest.raises(DeviceError, match="free space or set TMPDIR"):
        build(UNITS, alone)


def test_zig_works_without_a_cache_that_can_be_written(alone, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    (alone / "file").write_text("")
    monkeypatch.setenv("MINITX_CACHE", str(alone / "file" / "cache"))
    assert load(build(UNITS, alone / "include"), alone).two() == 2


def test_importing_the_driver_and_the_cache_brings_nothing_heavy():
    code = "import sys, minitx.compiler.build, minitx.compiler.store; print({'numpy', 'tinygrad'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
