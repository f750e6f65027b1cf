"""The command line: a table of commands, each a module that is imported only when it is called.

A command's module has `arguments(parser)`, which adds to an argparse parser, and `run(args)`, which prints to
standard output and may return an exit status. Errors are one line on standard error: 0 is success, 1 a failure,
2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import Error

COMMANDS = {
    "run": "translate text: from the arguments, a pipe or a file",
    "info": "what a model is made of, and how large its parts are",
    "devices": "which backends work on this machine, tested one by one",
    "models": "the names that MODEL may be, and where each comes from",
    "convert": "any supported checkpoint to one .safetensors file",
    "eval": "BLEU and chrF of a model on sentence pairs",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = main_parser().parse_args(arguments[:1]).command
    args = command_parser(name).parse_intermixed_args(arguments[1:])
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status or 0
    except Error as e:
        if os.environ.get("MINITX_DEBUG") == "1":
            raise
        print(f"minitx: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough, as with `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        print("minitx: stopped", file=sys.stderr)
        return 130
