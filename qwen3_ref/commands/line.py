"""The command line: `python -m qwen3_ref COMMAND ...`, one file a command.

Exit codes: 0 done, 1 failed, 2 misused (an unknown name or option), 130 interrupted. Errors are one
sentence on stderr. A command's file is imported when it is asked for, and torch when a model runs.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from qwen3_ref.commands.common import Misuse, Parser
from qwen3_ref.config import ConfigError
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.train.errors import Interrupted, TrainingError

HELP = """\
Qwen3, explained by running it. Commands (each has its own --help):

  info                 the family of official checkpoints, in one table
  info NAME_OR_DIR     one model: shapes, parameters, memory, work per token
  fetch NAME           download an official checkpoint into the hub cache
  verify NAME_OR_DIR   check a checkpoint against the published numbers
  chat NAME_OR_DIR     talk to a model in the terminal
  train nano           train a nano model from nothing, stage by stage (minutes each)
  evaluate MODEL       accuracy of a nano model by thinking budget, on test problems
  measure ROW          what each training stage changed, for the measured table

NAME is such as Qwen3-0.6B; it is looked for in $QWEN3_WEIGHTS, then in the hub cache. The nano
family comes with the package: qwen3-nano, qwen3-nano-base, qwen3-nano-moe, qwen3-nano-student.
"""
PROGRAM = "python -m qwen3_ref"
COMMANDS = ("info", "fetch", "verify", "chat", "train", "evaluate", "measure")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if sys.stdout is None:
            raise Misuse("standard output is closed, so nothing can be shown; leave it open.")
        if words[:1] in (["-h"], ["--help"]):
            print(f"usage: {PROGRAM} COMMAND ...\n\n{HELP}", end="")
            return 0
        if not words or words[0] not in COMMANDS:
            raise Misuse(_no_command(words))
        module = importlib.import_module(f"qwen3_ref.commands.{words[0]}")
        parser = Parser(
            prog=f"{PROGRAM} {words[0]}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        code: int = module.command(parser.parse_args(words[1:]), Console(highlight=False))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `info | head`: nobody reads on. (rich exits with 1 itself in this case.)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = str(error)
        if error.errno is not None and error.filename is not None:
            message = f"{error.filename} cannot be used ({error.strerror}); check its kind and permissions."
        elif error.errno is not None:
            message = f"the output cannot be written ({error.strerror}); make room, or send it elsewhere."
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or leaving would try again
        print(f"error: {message}", file=sys.stderr)
        return 1
    except (Misuse, CheckpointError, ConfigError, TrainingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, Misuse) else 130 if isinstance(error, Interrupted) else 1


def _no_command(words: list[str]) -> str:
    """The sentence for no command, or one that does not exist."""
    near = difflib.get_close_matches(words[0], COMMANDS, n=1) if words else []
    hint = f"did you mean {near[0]}" if near else f"there are {', '.join(COMMANDS)}"
    what = f"there is no command {words[0]!r}" if words else "a command is needed"
    return f"{what}; {hint}; see `{PROGRAM} --help`."
