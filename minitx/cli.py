"""The command line: a table of commands, each a module that is imported only when it is called.

A command's module has `arguments(parser)`, which adds to an argparse parser, and `run(args)`, which prints to
standard output and may return an exit status. Errors are one line on standard error: 0 is success, 1 a failure,
2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from .errors import Error
from .version import __version__

COMMANDS = {
    "run": "translate text: from the arguments, a pipe or a file",
    "info": "what a model is made of, and how large its parts are",
    "devices": "which backends work on this machine, tested one by one",
    "models": "the names that MODEL may be, and where each comes from",
    "convert": "any supported checkpoint to one .safetensors file",
    "quantize": "a smaller model: calibrated, or the smallest mix that costs no more than allowed",
    "export": "a model as a package that runs without minitx: C sources, a Python wheel",
    "eval": "BLEU and chrF of a model on sentence pairs",
    "plan": "what a model is compiled to, call by call",
    "bench": "how fast a model is on every engine and backend that works here",
    "cache": "the compiled models that are kept, and clearing them",
}

EXAMPLES = """examples:
  minitx run en-pt "How are you today?"
  minitx run en-pt < letters.txt > cartas.txt
  minitx COMMAND --help

MODEL is a name from `minitx models`, a .safetensors file of minitx, or a folder with a checkpoint.
"""


def main_parser() -> argparse.ArgumentParser:
    """What `minitx --help` shows; nothing of a command is imported for it."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="minitx",
        usage="minitx [-h] [--version] COMMAND ...",
        description="A compact encoder-decoder Transformer on tinygrad, from checkpoint to any device.",
        epilog=f"commands:\n{commands}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minitx {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="what to do")
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, whose module is imported for it."""
    module, about = importlib.import_module(f".commands.{name}", __package__), COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"minitx {name}",
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def once_more(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C that arrives while Python frees something is dropped there: it is made to arrive again a moment later."""
    if lost.exc_type is not KeyboardInterrupt or not hasattr(signal, "pthread_kill"):
        sys.__unraisablehook__(lost)
        return
    timer = threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.daemon = True
    timer.start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = once_more
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who started us
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = main_parser().parse_args(arguments[:1]).command
    try:
        args = command_parser(name).parse_intermixed_args(arguments[1:])
        status = args.run(args)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # whoever read our output has seen enough, as with `| head -1`
        silence()
        return 128 + 13
    except KeyboardInterrupt:
        silence()
        print("minitx: stopped", file=sys.stderr)
        return 130
    except Exception as e:
        if os.environ.get("MINITX_DEBUG") == "1":
            raise
        silence()
        print(f"minitx: error: {describe(e)}", file=sys.stderr)
        return 1


def describe(error: Exception) -> str:
    """What a failure is told in: one line."""
    if isinstance(error, Error):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --batch-size or --beam, or shorter lines"
    if isinstance(error, OSError) and error.filename is None:
        return f"standard input or output failed ({error.strerror or error}); free space or name another file"
    shown = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {shown} (unexpected; MINITX_DEBUG=1 shows where, please report it)"


def silence() -> None:
    """Sends what is still to be written to standard output nowhere: it would fail again as the program ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
