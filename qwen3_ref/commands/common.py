"""What the commands share: errors of one line, numbers with units, names of checkpoints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from qwen3_ref.config import ConfigError
from qwen3_ref.official.snapshots import official_name

Number = TypeVar("Number", int, float)
NAME_OR_DIR = "a name such as Qwen3-0.6B or qwen3-nano, or the directory of a checkpoint"


class Misuse(Exception):
    """The command line asks for something that does not exist."""


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        print(f"error: {message}; see `{self.prog} --help`.", file=sys.stderr)
        sys.exit(2)


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
    """The short official name. Raises Misuse for anything else."""
    try:
        return official_name(name)
    except ConfigError as error:
        if os.sep in name.removeprefix("Qwen/"):
            raise Misuse(f"there is no directory {name}; give a checkpoint's, or an official name.") from None
        raise Misuse(str(error)) from None
