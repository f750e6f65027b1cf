"""The virtual environment of a clone: one folder, made once, mended when it is broken, safe for two at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = "unfinished"  # in a stamp, in place of the hash of pyproject.toml, while pip is at work


class SetupError(Exception):
    """Why the environment cannot be made, in one line."""


def say(what: str) -> None:
    print(f"tools/dev.py: {what}", file=sys.stderr, flush=True)


class Environment:
    """`.venv` in the clone at `root`, with minitx in editable form and some of its extras.

    A stamp in it holds what it was made from: this folder, this Python and `pyproject.toml`. Without one, or while pip
    is at work, the environment is unfinished.
    """

    def __init__(self, root: Path = ROOT):
        self.root, self.folder = root, root / ".venv"
        self.stamp = self.folder / "minitx-stamp.json"
        windows = os.name == "nt"
        self.python = self.folder / ("Scripts/python.exe" if windows else "bin/python")
        self.command = self.folder / ("Scripts/minitx.exe" if windows else "bin/minitx")
        self.text = (root / "pyproject.toml").read_text(encoding="utf-8")
        self.origin = {"root": str(root), "python": "{}.{}".format(*sys.version_info[:2])}
        self.project = hashlib.sha256(self.text.encode()).hexdigest()

    def ensure(self, extras: set[str]) -> str:
        """The environment's Python, once `extras` are installed there; raises `SetupError`."""
        known = tomllib.loads(self.text)["project"]["optional-dependencies"]
        if unknown := extras - set(known):
            raise SetupError(f"no extra {', '.join(sorted(unknown))} in pyproject.toml; it has {', '.join(known)}")
        if not self.ready(extras, known):
            with self.locked():
                if not self.ready(extras, known):  # another one may just have done it
                    self.install(extras)
        return str(self.python)

    def ready(self, extras: set[str], known: dict[str, list[str]]) -> bool:
        """Whether the stamp says that all is as it should be, and a glance agrees."""
        stamp = self.read()
        installed = included(set(stamp.get("extras", [])), known)
        if not (self.same_origin(stamp) and stamp.get("project") == self.project and extras <= installed):
            return False
        find = "from importlib.util import find_spec as f; raise SystemExit(not all(map(f, ('{}').split())))"
        modules = "minitx tinygrad numpy yaml" + " pytest" * ("test" in extras)
        return self.command.exists() and self.works(["-I", "-c", find.format(modules)])

    def read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
            return stamp if isinstance(stamp, dict) else {}
        return {}

    def same_origin(self, stamp: dict[str, Any]) -> bool:
        return all(stamp.get(key) == value for key, value in self.origin.items())

    def works(self, arguments: list[str]) -> bool:
        """Whether the environment's Python runs with these arguments and exits with 0."""
        with suppress(OSError):
            return not subprocess.run([self.python, *arguments], capture_output=True, cwd=self.root).returncode
        return False

    def install(self, extras: set[str]) -> None:
        """Installs `extras` beside those that are there, in a new environment if the old one does not serve.

        Where pip fails in one that was finished (without a network, say), that one stays as it was.
        """
        stamp = self.read()
        finished = bool(stamp) and stamp.get("project") != UNFINISHED
        wanted = sorted(extras | set(stamp.get("extras", [])))
        version = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        new = not (self.same_origin(stamp or self.origin) and self.works(["-c", version]))
        if new:
            self.create()
        self.write(UNFINISHED, wanted)
        failed = self.pip(wanted)
        if failed and not (new or finished):
            say("that failed; starting over with a new environment")
            self.create()
            failed = self.pip(wanted)
        if failed and finished and not new:
            self.write(stamp["project"], stamp["extras"])
        if failed:
            raise SetupError(f"pip could not install {', '.join(wanted)}; mend what it says above and run this again")
        self.write(self.project, wanted)

    def write(self, project: str, extras: list[str]) -> None:
        """The stamp, whole or not at all."""
        temporary = self.stamp.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({**self.origin, "project": project, "extras": extras}), encoding="utf-8")
        temporary.replace(self.stamp)

    def create(self) -> None:
        """A new, empty environment of the Python that runs this, which may itself be in the old one."""
        say(f"making the virtual environment {self.folder.name}")
        base = getattr(sys, "_base_executable", None) or sys.executable
        made = subprocess.run([base, "-m", "venv", "--clear", self.folder], stdout=2, cwd=self.root)
        if made.returncode:
            raise SetupError(
                f"{base} cannot make a virtual environment; install its venv module (python3-venv on Debian)"
            )

    def pip(self, extras: list[str]) -> int:
        """pip's exit status."""
        what = f".[{','.join(extras)}]"
        say(f"installing minitx[{','.join(extras)}] (the first time takes minutes)")
        options = ["--quiet", "--no-input", "--disable-pip-version-check"]
        return subprocess.run(
            [self.python, "-m", "pip", "install", *options, "-e", what], stdout=2, cwd=self.root
        ).returncode

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process of this clone is in here at a time. The lock is on the folder itself and leaves no file."""
        if os.name != "posix":
            yield
            return
        import fcntl

        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another tools/dev.py is setting up; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)


def included(extras: set[str], known: dict[str, list[str]]) -> set[str]:
    """These extras and those that they bring with them."""
    inner = {
        name
        for extra in extras
        for requirement in known.get(extra, [])
        if (match := re.fullmatch(r"minitx\[(.*)\]", requirement))
        for name in match[1].split(",")
    }
    return extras if inner <= extras else included(extras | inner, known)
