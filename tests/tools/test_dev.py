"""The environment of a clone is made once, mended when broken, and shared by run and test."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "tools" / "dev.py"

PYPROJECT = """
[project]
name = "minitx"
[project.optional-dependencies]
models = ["m"]
eval = []
zig = ["z"]
test = ["minitx[models,eval,zig]", "t"]
"""

# An Environment whose pip is a stub that notes what it was asked for, puts the modules in place, and may fail.
FAKE = """
import sys, time
sys.path.insert(0, {tools!r})
from pathlib import Path
import environment

class Fake(environment.Environment):
    def note(self, what):
        with open(self.root / "log", "a") as file:
            file.write(what + "\\n")

    def site(self):
        return self.folder / "lib" / "python{{}}.{{}}".format(*sys.version_info[:2]) / "site-packages"

    def create(self):
        self.note("create")
        import venv
        venv.create(self.folder, clear=True, with_pip=False)
        for module in ("pip", "minitx", "tinygrad", "numpy", "yaml", "pytest"):
            (self.site() / module).mkdir()
            (self.site() / module / "__init__.py").touch()
            (self.site() / module / "__main__.py").touch()

    def pip(self, extras):
        self.note("pip " + ",".join(extras))
        time.sleep(self.delay)
        self.command.touch()
        fail = self.root / "fail"
        if fail.exists():
            fail.unlink()
            return 1
        return 0

    delay = 0
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


def fake(clone, code):
    """Runs `code`, in which `env` is a Fake of `clone`, in a process of its own."""
    text = FAKE.format(tools=str(ROOT / "tools")) + f"\nenv = Fake(Path({str(clone)!r}))\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ensure(clone, *extras):
    """What the stub was asked for, to have these extras."""
    (clone / "log").write_text("")
    child = fake(clone, f"print(env.ensure({set(extras)!r}))")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out.strip() == str(clone / ".venv" / "bin" / "python")
    return (clone / "log").read_text().split("\n")[:-1]


def test_the_second_time_nothing_is_installed(clone):
    assert ensure(clone, "models", "zig") == ["create", "pip models,zig"]
    assert ensure(clone, "models", "zig") == []
    assert ensure(clone, "models") == []


def test_run_and_test_share_one_environment(clone):
    assert ensure(clone, "models") == ["create", "pip models"]
    assert ensure(clone, "test") == ["pip models,test"]
    assert ensure(clone, "models", "zig") == []  # test brings both
    assert ensure(clone, "test") == []


def test_a_changed_pyproject_is_installed_again_with_what_was_there(clone):
    ensure(clone, "test")
    (clone / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert ensure(clone, "models") == ["pip models,test"]


@pytest.mark.parametrize(
    "damage",
    [
        "rm -r .venv/bin",
        "ln -sf /nowhere/python .venv/bin/python",
        "rm -r .venv/lib/python*/site-packages/pip .venv/minitx-stamp.json",
        "echo '{\"root\": ' > .venv/minitx-stamp.json; rm .venv/bin/python",
    ],
)
def test_a_broken_environment_is_made_anew(clone, damage):
    ensure(clone, "models")
    subprocess.run(damage, shell=True, cwd=clone, check=True)
    assert ensure(clone, "models") == ["create", "pip models"]
    assert ensure(clone, "models") == []


@pytest.mark.parametrize("damage", ["rm .venv/minitx-stamp.json", "rm -r .venv/lib/python*/site-packages/tinygrad"])
def test_an_unfinished_installation_is_taken_up_again(clone, damage):
    ensure(clone, "models")
    subprocess.run(damage, shell=True, cwd=clone, check=True)
    assert ensure(clone, "models")[0] == "pip models"


def failing(clone, extra):
    """What is said when the stub fails once for want of a network."""
    (clone / "fail").touch()
    child = fake(clone, f"env.ensure({{{extra!r}}})")
    return child.communicate(timeout=60)[1]


def test_an_installation_that_fails_leaves_what_was_there(clone):
    ensure(clone, "models")
    assert "SetupError: pip could not install models, test" in failing(clone, "test")
    assert ensure(clone, "models") == []
    assert ensure(clone, "test") == ["pip models,test"]


def test_an_installation_that_fails_the_first_time_is_taken_up_again(clone):
    assert "SetupError: pip could not install models" in failing(clone, "models")
    assert ensure(clone, "models") == ["pip models"]


def test_an_unfinished_environment_in_which_pip_fails_is_made_anew(clone):
    ensure(clone, "models")
    (clone / ".venv" / "minitx-stamp.json").unlink()
    (clone / "fail").touch()
    assert ensure(clone, "models") == ["pip models", "create", "pip models"]


def test_a_clone_that_was_moved_gets_a_new_environment(clone):
    ensure(clone, "models")
    stamp = clone / ".venv" / "minitx-stamp.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"root": "/elsewhere"}))
    assert ensure(clone, "models") == ["create", "pip models"]


def test_two_at_once_install_once(clone):
    (clone / "log").write_text("")
    children = [fake(clone, "env.delay = 1\nenv.ensure({'models'})") for _ in range(3)]
    said = "".join(child.communicate(timeout=60)[1] for child in children)
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert (clone / "log").read_text() == "create\npip models\n"
    assert said.count("another tools/dev.py is setting up; waiting for it") == 2


def test_an_unknown_extra_is_an_error_that_lists_them(clone):
    _, err = fake(clone, "env.ensure({'cuda'})").communicate(timeout=60)
    assert "SetupError: no extra cuda in pyproject.toml; it has models, eval, zig, test" in err


def dev(*arguments, stdin="", prelude="", **options):
    """`tools/dev.py` with this Python for an environment."""
    code = f"import sys; sys.path.insert(0, {str(DEV.parent)!r})\nimport dev, environment\n"
    code += "environment.Environment.ensure = lambda self, extras: sys.executable\n"
    code += f"{prelude}\nsys.exit(dev.main({list(arguments)!r}))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = [sys.executable, "-c", code]
    return subprocess.run(child, input=stdin, capture_output=True, text=True, timeout=300, env=env, **options)


def test_an_old_python_is_told_what_is_needed():
    ast.parse(DEV.read_text(encoding="utf-8"), feature_version=(3, 6))
    child = dev("run", "Hello.", prelude="sys.version_info = (3, 9, 2)")
    assert child.returncode == 1 and "Python 3.11 or newer is needed" in child.stderr and "is 3.9.2" in child.stderr
    assert child.stderr.count("\n") == 1


def test_help_and_wrong_usage_set_nothing_up():
    for arguments, status, said in ([["--help"], 0, "dev.py run [ARGS"], [[], 2, "dev.py run [ARGS"]):
        child = subprocess.run([sys.executable, DEV, *arguments], capture_output=True, text=True, timeout=60)
        assert child.returncode == status and said in child.stdout
    child = subprocess.run([sys.executable, DEV, "rnu"], capture_output=True, text=True, timeout=60)
    assert child.returncode == 2 and "no command 'rnu'; it has run, test, setup" in child.stderr


def test_run_passes_arguments_input_and_exit_status_on(tmp_path):
    child = dev("run", "--no-such-option", cwd=tmp_path)
    assert child.returncode == 2 and "--no-such-option" in child.stderr
    child = dev("run", stdin="How are you today?\n", cwd=tmp_path)
    assert (child.returncode, child.stdout) == (0, "Como você está hoje?\n"), child.stderr


def test_test_runs_every_check_and_fails_if_one_did(tmp_path):
    prelude = "dev.subprocess.call = lambda command, **options: print(*command[2:]) or 'format' in command"
    child = dev("test", "-k", "x", prelude=prelude)
    assert child.stdout.splitlines() == ["ruff check", "ruff format --check", "mypy", "pytest -k x"]
    assert child.returncode == 1 and "tools/dev.py: ruff format --check failed\n" in child.stderr


def test_ctrl_c_ends_quietly():
    child = dev("test", prelude="def stop(*a, **k): raise KeyboardInterrupt\ndev.subprocess.call = stop")
    assert child.returncode == 130 and "Traceback" not in child.stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_ci_runs_the_test_command_and_installs_only_what_the_readme_names():
    text = (ROOT / ".ci" / "run").read_text()
    assert text.rstrip().endswith("exec python3 tools/dev.py test") and os.access(ROOT / ".ci" / "run", os.X_OK)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in ("clang", "pocl-opencl-icd", "mesa-vulkan-drivers", "libllvm19"):
        assert package in text and package in readme
