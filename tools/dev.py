#!/usr/bin/env python3
"""Sets up a fresh clone and works in it, with nothing but Python 3.11 or newer: the first thing a newcomer runs.

    python3 tools/dev.py run [ARGS ...]      minitx run en-pt ARGS ("How are you today?", or lines on standard input)
    python3 tools/dev.py test [ARGS ...]     ruff, mypy and the whole test suite; ARGS go to pytest
    python3 tools/dev.py setup [EXTRA ...]   only sets up, with extras of pyproject.toml beside those of run

All of them first make the virtual environment .venv in the clone, or bring it up to date; after that,
.venv/bin/minitx is there for the rest.
"""

# This file has to be read by every Python 3, so that an old one can say what is wrong. environment.py need not be.
import os
import subprocess
import sys

BASE = {"models", "eval"}  # the extras that all commands of the README need


def run(arguments: "list[str]") -> int:
    """`minitx run en-pt` in the place of this process: input, output, signals and exit status are its own."""
    from environment import Environment

    python = Environment().ensure(BASE | compilers())
    command = [python, "-P", "-m", "minitx", "run", "en-pt", *arguments]
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(python, command)
    return subprocess.call(command)


def test(arguments: "list[str]") -> int:
    """Every check, also after one that failed; 0 if all passed."""
    from environment import ROOT, Environment, say

    python = Environment().ensure({"test"})
    path = os.pathsep.join([os.path.dirname(python), os.environ.get("PATH", "")])
    status = 0
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["pytest", *arguments]):
        say(" ".join(command))
        if subprocess.call([python, "-m", *command], cwd=ROOT, env=dict(os.environ, PATH=path)):
            status = 1
            if command[0] != "pytest":  # whose own last line tells, and is to be the last
                say(" ".join(command) + " failed")
    return status


def setup(arguments: "list[str]") -> int:
    """The environment alone, with these extras too."""
    from environment import Environment, say

    python = Environment().ensure(BASE | compilers() | set(arguments))
    say("ready: " + os.path.join(os.path.dirname(python), "minitx"))
    return 0


def compilers() -> "set[str]":
    """The extra with a C compiler, where there is none."""
    import shutil

    return set() if shutil.which("clang") else {"zig"}


COMMANDS = {"run": run, "test": test, "setup": setup}


def main(arguments: "list[str]") -> int:
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(str(number) for number in sys.version_info[:3])
        message = "minitx: error: Python 3.11 or newer is needed, and %s is %s; run this with a newer one, as in"
        sys.stderr.write((message + " python3.12 tools/dev.py ...\n") % (sys.executable, version))
        return 1
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        sys.stderr.write(f"minitx: error: tools/dev.py has no command {arguments[0]!r}; it has {', '.join(COMMANDS)}\n")
        return 2
    from environment import SetupError

    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except SetupError as e:
        sys.stderr.write(f"minitx: error: {e}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
