"""Download an official checkpoint into the hub cache; prints where it is."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.text import Text

from qwen3_ref.commands.common import Misuse, local, official
from qwen3_ref.official.snapshots import fetch
from qwen3_ref.store.shipped import NANO


def command(args: argparse.Namespace, out: Console) -> int:
    """Download, and say where it is."""
    if args.name in NANO:
        raise Misuse(f"{args.name} comes with the package, so there is nothing to fetch; use it by its name.")
    if local(args.name) or args.name.startswith((".", "/", "~")):
        raise Misuse(f"{args.name} is a path, and fetch needs an official name such as Qwen3-0.6B.")
    out.print(Text(str(fetch(official(args.name)))), soft_wrap=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fetch`."""
    parser.add_argument("name", metavar="NAME", help="an official name such as Qwen3-0.6B")
