"""Which compiler is chosen, what tinygrad is told, and that what cannot compile is named in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitx import toolchain
from minitx.errors import DeviceError

KEYS = ("CC", "CACHEDB", "WEBGPU_PATH", "DEV", "CCACHE")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, a path with nothing on it, and an environment that nobody has prepared."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def in_child(code: str, **env: str) -> str:
    """What a new Python prints, in this environment and `env`."""
    environment = {k: v for k, v in os.environ.items() if k not in KEYS} | env
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_without_clang_the_package_ziglang_compiles_what_tinygrad_asks_for(fresh):
    compiler = toolchain.require()
    assert compiler.kind == "ziglang" and "clang" in compiler.version
    assert Path(compiler.path).is_relative_to(fresh / "cache")


def test_clang_on_the_path_comes_before_ziglang(fresh, monkeypatch):
    clang = script(fresh / "empty" / "clang", "exit 0")
    assert toolchain.find() == toolchain.Compiler("clang", clang)
    monkeypatch.setenv("CC", "/somewhere/cc")
    assert toolchain.find() == toolchain.Compiler("CC", "/somewhere/cc")


def test_zigs_script_serves_ordinary_programs_too(fresh, monkeypatch):
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "zig"))
    (fresh / "one.c").write_text("int one(void) { return 1; }\n")
    compiler = toolchain.require()
    out = fresh / "one.o"
    subprocess.run([compiler.path, "-O2", "-march=native", "-c", "-o", out, fresh / "one.c"], check=True, timeout=120)
    assert out.read_bytes()[:4] == b"\x7fELF"


def test_zigs_script_is_written_again_when_it_is_damaged(fresh):
    path = Path(toolchain.find().path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert Path(toolchain.find().path).read_bytes() == whole
    path.chmod(0o644)
    assert os.access(toolchain.find().path, os.X_OK)
    shutil.rmtree(fresh / "cache")
    os.environ["CC"] = str(path)  # as a parent process had set it
    assert toolchain.require().kind == "ziglang"


def test_two_processes_may_write_zigs_script_at_once(fresh):
    code = "from minitx import toolchain; print(toolchain.require().path)"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = {child.communicate(timeout=120) for child in children}
    assert answers == {(f"{toolchain.find().path}\n", "")}
    assert [p.name for p in (fresh / "cache" / "bin").iterdir()] == [Path(toolchain.find().path).name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("exit 0", "no object code"),
        ("exit 3", "exit status 3"),
        ("echo cc: unknown flag >&2; exit 1", "cc: unknown flag"),
        ("cat", "no object code"),
        ("sleep 100", "within 1 seconds"),
    ],
)
def test_a_cc_that_cannot_compile_is_one_clear_error(fresh, monkeypatch, text, said):
    monkeypatch.setattr(toolchain, "CHECK_SECONDS", 1.0)
    monkeypatch.setattr(toolchain, "_zig", lambda: None)
    for program in ("cat", "sleep", "sh"):
        (fresh / "empty" / program).symlink_to(shutil.which(program, path="/bin:/usr/bin"))
    cc = str(fresh / "cc") if text is None else script(fresh / "cc", text)
    monkeypatch.setenv("CC", cc)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="unset it") as e:
        toolchain.require()
    assert said in str(e.value) and f"CC={cc}" in str(e.value) and "\n" not in str(e.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("other", ["clang", "ziglang"])
def test_where_cc_cannot_compile_for_tinygrad_what_works_is_taken_and_one_line_says_so(fresh, monkeypatch, other):
    if other == "clang":
        clang = shutil.which("clang", path="/usr/bin:/usr/local/bin") or pytest.skip("clang is not installed")
        (fresh / "empty" / "clang").symlink_to(clang)
    cc, told = script(fresh / "gcc", "echo gcc: no such flag >&2; exit 1"), []
    monkeypatch.setenv("CC", cc)
    found = toolchain.require(told.append)
    assert found.kind == other and os.environ["CC"] == found.path  # where tinygrad looks
    assert told == [f"CC={cc}: cannot compile for tinygrad (gcc: no such flag); the tinygrad engine uses {found.path}"]
    assert toolchain.require(told.append) == found and len(told) == 1


def test_without_any_compiler_the_error_says_what_to_install(fresh, monkeypatch):
    monkeypatch.setattr(toolchain, "_package", lambda name: None)
    assert toolchain.find() is None
    with pytest.raises(DeviceError, match=r"pip install ziglang, or install clang"):
        toolchain.require()


def test_prepare_sets_only_what_the_user_has_not(fresh):
    code = f"""
import os
from minitx.toolchain import prepare
prepare()
print([os.environ.get(key, "") for key in {KEYS}])
"""
    cc, cachedb, webgpu, dev, ccache = eval(in_child(code))
    assert cc == toolchain.find().path and Path(cachedb).parent == fresh / "cache"
    assert Path(webgpu).is_file() and dev == "CPU" and ccache == ""
    chosen = {"CC": "a", "CACHEDB": "b", "WEBGPU_PATH": "c", "DEV": "CL", "CCACHE": "1"}
    assert eval(in_child(code, **chosen)) == list(chosen.values())


def test_prepare_is_cheap_and_imports_nothing_heavy():
    code = """
import sys, time
from minitx.toolchain import prepare
start = time.perf_counter()
prepare()
print(time.perf_counter() - start, sum(name in sys.modules for name in ("tinygrad", "numpy", "ziglang", "pydawn")))
"""
    seconds, imported = min(in_child(code).split() for _ in range(3))
    assert float(seconds) < 0.05 and imported == "0"


def test_prepare_reaches_a_tinygrad_that_was_imported_before(fresh):
    code = """
from tinygrad.helpers import getenv
getenv("CC", "clang")
from minitx.toolchain import prepare
prepare()
import os
print(getenv("CC", "clang"), "CACHEDB" in os.environ, "DEV" in os.environ)
"""
    assert in_child(code).split() == [toolchain.find().path, "False", "False"]


def test_a_cache_that_cannot_be_written_is_told_on_use_and_not_before(fresh, monkeypatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("MINITX_CACHE", str(fresh / "file" / "cache"))
    assert in_child("import os, minitx.toolchain as t; t.prepare(); print(os.environ['CCACHE'])") == "0\n"
    with pytest.raises(DeviceError, match="set MINITX_CACHE"):
        toolchain.require()


def test_the_fingerprint_is_that_of_the_compiler(fresh):
    before = toolchain.fingerprint()
    assert before == toolchain.fingerprint()
    script(fresh / "empty" / "clang", "exit 0")
    with_clang = toolchain.fingerprint()
    script(fresh / "empty" / "clang", "exit 00")
    assert len({before, with_clang, toolchain.fingerprint()}) == 3


def test_a_command_that_takes_too_long_is_stopped_with_all_that_it_started(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    slow = script(fresh / "slow", f"sleep 97 & echo $! > {fresh / 'pid'}; wait")
    with pytest.raises(subprocess.TimeoutExpired):
        toolchain.run_limited([slow], 1.0)
    pid = int((fresh / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs: one that is dead but not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
