"""Check a checkpoint against the published numbers."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen3_ref.commands.common import NAME_OR_DIR, as_called, local, narrow, official, stacked
from qwen3_ref.official.verify import verify


def command(args: argparse.Namespace, out: Console) -> int:
    """Print each finding as it comes. 0 only if something was checked and nothing failed."""
    directory = local(args.model)
    if directory is None:
        official(args.model)
    styles = {"passed": "green", "failed": "bold red", "not checked": "yellow"}
    counts = dict.fromkeys(styles, 0)
    for finding in verify(directory or args.model):
        counts[finding.status] += 1
        cells = Text(f"{finding.status:<12}", styles[finding.status]), Text(f"{finding.what:<42} ")
        detail = Text(as_called(finding.detail))
        if narrow(out):
            stacked(out, f"{finding.status}: {finding.what}", [detail.plain], styles[finding.status])
        elif out.is_terminal:
            row = Table.grid(padding=(0, 1))
            row.add_column(width=12)
            row.add_column(width=32)
            row.add_row(*cells, detail)
            out.print(row)
        else:
            out.print(Text.assemble(*cells, detail), soft_wrap=True)
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0 if counts["passed"] and not counts["failed"] else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    parser.add_argument("model", metavar="NAME_OR_DIR", help=NAME_OR_DIR)
