"""What the commands share: errors of one line, numbers with units, names of checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.facts import backbones, known_names, official_models, suggestion
from qwen3_ref.official.snapshots import download_bytes, find_official, official_name
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.shipped import local_directory

Number = TypeVar("Number", int, float)
MODULE = "python -m qwen3_ref"
NAME_OR_DIR = "a name such as Qwen3-0.6B or qwen3-nano, or the directory of a checkpoint"


class Misuse(Exception):
    """The command line asks for something that does not exist."""


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are Misuse, and name the option that was meant."""

    def error(self, message: str) -> NoReturn:
        """Raise Misuse."""
        raise Misuse(f"{message}; see `{self.prog} --help`.")

    def print_help(self, file: Any = None) -> None:
        """Print it; argparse's own would not notice that the disk is full."""
        print(self.format_help(), end="", file=file)

    def parse_args(self, words: Any = None, namespace: Any = None) -> Any:
        """Read a command's words. Raises Misuse."""
        args, unknown = self.parse_known_args(words, namespace)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(wrong, self._option_string_actions, n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}" if near and wrong.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args


def program() -> str:
    """What the user typed to get here."""
    return "qwen3-ref" if Path(sys.argv[0]).stem == "qwen3-ref" else MODULE


def as_called(text: str | None) -> str:
    """A text that names the program, with the name it was called by."""
    return (text or "").replace(MODULE, program())


def complain(message: str) -> None:
    """An error on stderr: one line, whatever it quotes, and short enough to be read."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_called(message))
    if len(line) > 1_000:
        line = f"{line[:600]} ... {line[-300:]}"
    if sys.stderr is not None:
        try:
            print(f"error: {line}", file=sys.stderr, flush=True)
        except OSError:  # the exit code has to say it then
            forget(sys.stderr)


def forget(stream: IO[str]) -> None:
    """Let what is not written yet go nowhere, or leaving would try once more, and exit with 120."""
    with contextlib.suppress(OSError):  # a stream in memory has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def at_least(least: Number, end: float = float("inf")) -> Callable[[str], Number]:
    """A type of argument: numbers of the kind of `least`, from it on and below `end`."""

    def convert(text: str) -> Number:
        number = type(least)(text)
        if not least <= number < end:
            below = "" if end == float("inf") else f" and below {end}"
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more{below}")
        return number

    convert.__name__ = type(least).__name__  # which argparse puts into its message
    return convert


def unit(number: float, unit: str) -> str:
    """Three digits and a unit: 4.83 GB, 604 MB. G is 10^9."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            digits = 2 if number < 10 * size else 1 if number < 100 * size else 0
            return f"{number / size:.{digits}f} {letter}{unit}"
    return f"{number:.0f} {unit}"


def official(name: str) -> str:
    """The short official name. Raises Misuse, with what may have been meant, for anything else."""
    if os.path.exists(name):
        raise Misuse(f"{name} is a file, and a checkpoint is a directory; give the one that holds it.")
    hint = suggestion(name)
    meant = hint.startswith("did you mean ")
    if name.startswith((".", "/", "~")) or os.sep in name.removeprefix("Qwen/") and not meant:
        raise Misuse(f"there is no directory {name}; give a checkpoint's, or a name such as Qwen3-0.6B.")
    try:
        return official_name(name)
    except ConfigError as error:
        known = name.removeprefix("Qwen/") in {**official_models(), **backbones()}  # but not for this
        raise Misuse(str(error) if known else f"there is no checkpoint {name!r}; {hint}.") from None


def local(model: str) -> Path | None:
    """The directory that a word stands for without official snapshots, or None. Raises Misuse if what lies
    here under a known name is no checkpoint, and would hide the one that is meant."""
    directory = local_directory(model)
    known = model.removeprefix("Qwen/") in known_names()
    if known and os.path.isdir(model) and not os.path.exists(os.path.join(model, "config.json")):
        raise Misuse(f"the folder {model} here is no checkpoint and hides the one of that name; rename it.")
    return directory


def checkpoint_directory(model: str) -> Path:
    """Where the checkpoint lies that a command is to run: a directory, a nano's name, or an official one.

    Raises Misuse if there is no such thing, CheckpointError if it is not on this machine, ConfigError if
    its config.json is missing or wrong: before torch is loaded, which takes seconds.
    """
    directory = local(model)
    if directory is None:
        name = official(model)
        directory = find_official(name)
        if directory is None:
            raise CheckpointError(
                f"{name} is not on this machine; `{MODULE} fetch {name}` downloads it "
                f"({unit(download_bytes(name), 'B')})."
            )
    Qwen3Config.from_pretrained(directory)
    return directory


def narrow(out: Console) -> bool:
    """Whether tables, which are made for 80 columns, have to be stacked: a block a row."""
    return out.width < 80


def stacked(out: Console, head: str, lines: Iterable[str], style: str = "bold") -> None:
    """A row of a table in a narrow terminal: its head, and beneath it the rest, wrapped and indented."""
    out.print(Text(head, style=style))
    for line in lines:
        out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
