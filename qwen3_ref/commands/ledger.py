"""What is said about Qwen3, claim by claim: true, false, imprecise, or not to be known.

Without words: how many of each, by group. With words: the claims that have all of them, such as
`ledger memory false` or `ledger theta`. With the id of a claim: all about it. --compute runs what computes
the claims that were asked for, all of them without words, and fails if a result is not the ledger's.

--json prints a list of objects, one a claim, with these keys: id, group, claim, verdict, finding, origin,
lines (of the design card), said, number, unit, source, computed_by (a function of
`qwen3_ref.official.ledger`, null if none), given (its arguments), and with --compute: computed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen3_ref import facts
from qwen3_ref.commands.common import MODULE, Misuse, as_called, narrow, stacked
from qwen3_ref.official import ledger
from qwen3_ref.official.ledger import Claim


def _print_counts(out: Console, some: list[Claim]) -> None:
    found = ledger.counts(some)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("group", no_wrap=True)
    for verdict in (*ledger.VERDICTS, "all", "computed"):
        table.add_column(verdict, justify="right")
    for group, by_verdict in found.items():
        computed = sum(c.group == group and c.computed_by is not None for c in some)
        numbers = [*by_verdict.values(), sum(by_verdict.values()), computed]
        table.add_row(group, *map(str, numbers))
    totals = [sum(by_verdict[v] for by_verdict in found.values()) for v in ledger.VERDICTS]
    table.add_section()
    table.add_row("all", *map(str, [*totals, len(some), sum(c.computed_by is not None for c in some)]))
    out.print(table)
    out.print(as_called(f"`{MODULE} ledger WORDS` lists claims, `{MODULE} ledger ID` tells all about one."))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and value else json.dumps(value)


def _print_list(out: Console, some: list[Claim]) -> None:
    for one in some:
        stacked(out, f"{one.id}: {one.verdict}", [one.claim, one.finding])
    out.print(f"{len(some)} claims.")


def _print_one(out: Console, one: Claim) -> None:
    said = [("claim", one.claim), ("verdict", one.verdict), ("finding", one.finding)]
    if one.said is not None:
        said.append(("said", f"{one.said} {one.unit}".rstrip()))
    if one.number is not None:
        said.append(("number", f"{_shown(one.number)} {one.unit}".rstrip()))
    where = {"card": "the design card of this project", **facts.ledger_sources()}.get(one.origin, one.origin)
    said.append(("who says so", where + (f", lines {one.lines}" if one.lines else "")))
    said += [("source" if i == 0 else "", facts.ledger_sources()[key]) for i, key in enumerate(one.source)]
    if one.computed_by:
        said.append(("computed by", f"qwen3_ref.official.ledger.{one.call}"))
        said.append(("", (ledger.FUNCTIONS[one.computed_by].__doc__ or "").strip()))
    out.print(Text(f"\n{one.id}, of {one.group}", style="bold"))
    if narrow(out):
        for what, text in said:
            stacked(out, what, [text])
        return
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for what, text in said:
        table.add_row(what, Text(text))
    out.print(table)


def _print_computed(out: Console, some: list[Claim]) -> bool:
    """Run what computes them; whether each result is the ledger's."""
    good = 0
    for one in some:
        found = ledger.compute(one)
        same = bool(found == one.number)
        good += same
        sign = "as stated" if same else f"NOT as stated ({_shown(one.number)})"
        out.print(Text(f"{one.call}\n  {one.id}: {_shown(found)} {one.unit}".rstrip() + f", {sign}"))
    out.print(f"{good} of {len(some)} as stated.")
    return good == len(some)


def command(args: argparse.Namespace, out: Console) -> int:
    """Counts, a list, or one claim; with --compute, computed."""
    exact = [c for c in ledger.claims() if [c.id] == args.words]
    some = exact or ledger.claims(*args.words)
    if not some:
        raise Misuse(
            f"no claim has {' and '.join(map(repr, args.words))}; groups are {', '.join(ledger.GROUPS)}, "
            f"verdicts true, false, imprecise and unknown."
        )
    computable = [c for c in some if c.computed_by]
    if args.compute and not computable:
        raise Misuse(f"nothing here computes {some[0].id}; leave --compute out to see what it rests on.")
    if args.json:
        rows = [asdict(c) for c in (computable if args.compute else some)]
        for row, one in zip(rows, computable if args.compute else (), strict=False):
            row["computed"] = ledger.compute(one)
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0 if all(row["computed"] == row["number"] for row in rows if "computed" in row) else 1
    if args.compute:
        return 0 if _print_computed(out, computable) else 1
    if len(some) == 1:
        _print_one(out, some[0])
    elif args.words:
        _print_list(out, some)
    else:
        _print_counts(out, some)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ledger`."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="an id, a group, a verdict, or any word")
    parser.add_argument("--compute", action="store_true", help="run what computes them")
    parser.add_argument("--json", action="store_true", help="for programs: see above")
