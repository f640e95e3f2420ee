"""The command line: `python -m qwen3_ref COMMAND ...`, one file a command.

Exit codes: 0 done, 1 failed, 2 misused (an unknown name or option), 130 interrupted. Errors are one
sentence on stderr. A command's file is imported when it is asked for, and torch when a model runs.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import shutil
import sys
from collections.abc import Sequence

from rich.console import Console

from qwen3_ref import __version__
from qwen3_ref.commands.common import Misuse, Parser, as_called, complain, forget, program
from qwen3_ref.config import ConfigError
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.errors import meant
from qwen3_ref.train.errors import Interrupted, TrainingError

HELP = """\
Qwen3, explained by running it. Commands (each has its own --help):

  info                 the family of official checkpoints, in one table
  info NAME_OR_DIR     one model: shapes, parameters, memory, work per token
  plan NAME_OR_DIR     how to split it over cards: memory, traffic, what does not fit and why
  ledger [WORDS]       what is said about Qwen3: true, false, and what computes it
  fetch NAME           download an official checkpoint into the hub cache
  verify NAME_OR_DIR   check a checkpoint against the published numbers
  chat NAME_OR_DIR     talk to a model in the terminal
  train nano           train a nano model from nothing, stage by stage (minutes each)
  evaluate NAME_OR_DIR accuracy by thinking budget, on test problems
  measure ROW          what each training stage changed, for the measured table
  export NAME_OR_DIR   write a checkpoint for another engine: llama.cpp, Ollama, vLLM, MLX, ...
  engines [NAME...]    the same checkpoint in llama.cpp, ONNX Runtime and others: the same tokens?

NAME is such as Qwen3-0.6B; it is looked for in $QWEN3_WEIGHTS, then in the hub cache. The nano
family comes with the package: qwen3-nano, qwen3-nano-base, qwen3-nano-moe, qwen3-nano-student.
"""
COMMANDS = (
    "info", "plan", "ledger", "fetch", "verify", "chat", "train", "evaluate", "measure", "export", "engines",
)  # fmt: skip
# What the system says when an output takes no more: no room (also by quota or by size), or a bad device.
_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        if sys.stdout is None:
            raise Misuse("standard output is closed, so nothing can be shown; leave it open.")
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `info | head`: nobody reads on. (rich exits with 1 itself in this case.)
        forget(sys.stdout)
        return 1
    except OSError as error:
        message = str(error)
        if error.errno is not None and error.filename is not None:
            message = f"{error.filename} cannot be used ({error.strerror}); check its kind and permissions."
        elif error.errno in _OUTPUT:
            message = f"the output cannot be written ({error.strerror}); make room, or send it elsewhere."
            forget(sys.stdout)
        complain(message)
        return 1
    except MemoryError as error:
        why = str(error).rstrip(".") or "it asked the system for more and got none"
        complain(f"there is not enough memory ({why}); take a smaller model, or a smaller dtype or length.")
        return 1
    except (Misuse, CheckpointError, ConfigError, TrainingError, ValueError) as error:
        complain(str(error))
        return 2 if isinstance(error, Misuse) else 130 if isinstance(error, Interrupted) else 1


def _run(words: list[str]) -> int:
    """Help, the version, or a command."""
    if words[:1] == ["help"]:  # `help info` is `info --help`
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {program()} COMMAND ...\n\n{HELP}", end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"qwen3_ref {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise Misuse(_no_command(words))
    module = importlib.import_module(f"qwen3_ref.commands.{words[0]}")
    try:
        args = parser_of(words[0]).parse_args(words[1:])
    except SystemExit:  # argparse has printed the help
        return 0
    # The size is asked for here, since rich takes a dumb terminal for 80 columns wide.
    width, height = shutil.get_terminal_size()
    code: int = module.command(args, Console(highlight=False, width=width, height=height))
    return code


def parser_of(command: str) -> Parser:
    """The parser of one of COMMANDS."""
    module = importlib.import_module(f"qwen3_ref.commands.{command}")
    parser = Parser(
        prog=f"{program()} {command}",
        description=as_called(module.__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _no_command(words: list[str]) -> str:
    """The sentence for a first word that is no command."""
    see = f"see `{program()} --help`."
    if words[0].startswith("-"):
        named = [word for word in words if word in COMMANDS]
        return f"options stand behind their command, as in `{(named or ['info'])[0]} --help`; {see}"
    return f"there is no command {words[0]!r}; {meant(words[0], COMMANDS)}; {see}"
