"""How to split a model over cards: memory on each, bytes sent in a step, and what does not fit and why.

Training is with AdamW: weights, their gradients and two states in float32, products in bf16, a row of
--tokens tokens (or --rows of them) for each group of cards that has rows of its own. Everything is counted,
nothing run: an engine adds buffers and fragments, for which a tenth of each card is left. Tokens a second
are the most that arithmetic and links allow; real steps take two to three times as long.

A mesh multiplies up to the cards: dp copies, fsdp slices of one copy, ep ranks that share the experts, tp
ranks that share every matrix. Ranks of dp, fsdp and ep have rows of their own.

--json prints an object with these keys; later versions may add keys, none goes or changes its meaning:

  model, gpus, card, memory_bytes, usable_bytes, tokens, rows
  fits, does_not_fit   lists of: mesh (dp, fsdp, ep, tp), checkpointing, held (weights, gradients,
                       optimizer, gathered, activations, total; null if it cannot be split so), sent (by
                       collective, bytes of each card in a step), tokens_per_second (of all cards, at most;
                       null if unknown), reason
  serve                with --serve, instead: a list of format, cards, instances, whole_experts,
                       weight_bytes and cache_bytes (of one text) a card, texts, tokens_per_second, reason
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from qwen3_ref import cluster, memory
from qwen3_ref.commands.common import NAME_OR_DIR, Misuse, at_least, local, narrow, official, stacked
from qwen3_ref.config import Qwen3Config

FORMATS = ("bf16", "fp8", "int4-g128")
"""What `--serve` compares: the formats in which Qwen3's checkpoints are published."""
SHOWN = 8
"""Meshes that fit, and reasons why others do not, in the table; --json has all."""


def _gb(number: float) -> str:
    return f"{number / 1e9:,.1f}"


def _cells(p: cluster.Plan) -> tuple[str, ...]:
    assert p.held is not None
    h = p.held
    state = h.weights + h.gradients + h.optimizer
    again = "*" if p.checkpointing else " "
    sizes = (_gb(state), _gb(h.gathered), _gb(h.activations) + again, _gb(h.total))
    return f"{p.mesh}", *sizes, _gb(sum(t.bytes for t in p.traffic)), f"{p.speed:,.0f}" if p.speed else ""


_HEADINGS = ("mesh", "state", "blocks", "activ. ", "all", "sent", "tokens/s")


def _rows(out: Console, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table, or in a narrow terminal a block a row."""
    if narrow(out):
        for head, *cells in rows:
            pairs = zip(headings[1:], cells, strict=True)
            stacked(out, head, [", ".join(f"{name.strip()} {cell.strip()}" for name, cell in pairs if cell)])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _why(unfit: list[cluster.Plan]) -> list[str]:
    """Reasons, one a line: of meshes that cannot be made one for each size that does not divide, then the
    nearest that are too large."""
    refused = {p.reason: str(p.mesh) for p in unfit if p.held is None}
    lines = [f"{reason}" for reason in refused if reason]
    large = [f"{p.mesh}: {p.reason}" for p in unfit if p.held is not None]
    return [*lines[:SHOWN], *large[: max(1, SHOWN - len(lines))]]


def _print_training(
    out: Console, title: str, config: Qwen3Config, count: int, on: memory.Card, tokens: int, rows: int,
    found: tuple[list[cluster.Plan], list[cluster.Plan]],
) -> None:  # fmt: skip
    fit, unfit = found
    of = f"{rows} rows" if rows > 1 else "a row"
    out.print(
        f"\n{title} on {count} x {on.name}: training in bf16 with AdamW, {of} of {tokens:,} tokens for each "
        f"group of cards that has rows of its own. {_gb(memory.USABLE * on.memory)} GB of "
        f"{on.memory / 1e9:.0f} may be used.\n"
    )
    if fit:
        _rows(out, _HEADINGS, [_cells(p) for p in fit[:SHOWN]])
        out.print(
            "\nGB a card. state: weights, gradients, AdamW's two; blocks: what is gathered for a moment; "
            "activ.: activations (* with checkpointing). sent: by each card in a step. tokens/s: of all, at "
            "most."
        )
        if len(fit) > SHOWN:
            out.print(f"{len(fit) - SHOWN} more meshes fit; --json has them.")
    else:
        out.print("No mesh of these cards fits.")
    reasons = _why(unfit)
    if reasons:
        out.print("\nWhat does not fit:")
        for reason in reasons:
            out.print(f"- {reason}")
    if not fit:
        out.print(_more_cards(config, count, tokens, on, rows))


def _more_cards(config: Qwen3Config, count: int, tokens: int, on: memory.Card, rows: int) -> str:
    """The way out: how many cards would do."""
    n = 1
    while n < cluster.MOST_RANKS:
        if n > count:
            fit, _ = cluster.plans(config, n, tokens, on, rows)
            if fit:
                return f"\n{n} x {on.name} would do, as {fit[0].mesh}; or fewer tokens, or a smaller model."
        n *= 2
    return "\nNo power of two of these cards would do; take fewer tokens, larger cards, or a smaller model."


def _print_serving(
    out: Console, title: str, count: int, on: memory.Card, tokens: int, ways: list[cluster.Serving]
) -> None:
    out.print(
        f"\n{title} on {count} x {on.name}: serving texts of {tokens:,} tokens, the cache in bf16. "
        f"{_gb(memory.USABLE * on.memory)} GB of {on.memory / 1e9:.0f} may be used.\n"
    )
    works = [way for way in ways if way.reason is None]
    headings = ("weights", "cards", "x", "weights, GB", "a text, GB", "texts", "tokens/s")
    rows = [
        (way.kind, f"{way.cards}{'e' if way.whole_experts else ' '}", str(way.instances), _gb(way.weights),
         f"{way.cache / 1e9:.2f}", f"{way.texts:,}", f"{way.speed:.0f}")
        for way in works
    ]  # fmt: skip
    if rows:
        _rows(out, headings, rows)
        out.print(
            "\ncards that hold one copy (e: experts stay whole, each card has some), x copies; weights and a "
            "text's cache on each card; texts that one copy holds at once; tokens a second of one text, at "
            "most."
        )
    else:
        out.print("No way fits.")
    wrong = Counter(f"{way.cards} {'card' if way.cards == 1 else 'cards'}, {way.kind}: {way.reason}"
                    for way in ways if way.reason is not None)  # fmt: skip
    if wrong:
        out.print("\nWhat does not fit:")
        for line in wrong:
            out.print(f"- {line}")


def _plan_record(p: cluster.Plan) -> dict[str, Any]:
    moved: Counter[str] = Counter()
    for t in p.traffic:
        moved[t.collective] += t.bytes
    return {
        "mesh": asdict(p.mesh),
        "checkpointing": p.checkpointing,
        "held": None if p.held is None else asdict(p.held) | {"total": p.held.total},
        "sent": dict(moved),
        "tokens_per_second": round(p.speed, 1) or None,
        "reason": p.reason,
    }


def _serving_record(way: cluster.Serving) -> dict[str, Any]:
    return {
        "format": way.kind,
        "cards": way.cards,
        "instances": way.instances,
        "whole_experts": way.whole_experts,
        "weight_bytes": way.weights,
        "cache_bytes": way.cache,
        "texts": way.texts,
        "tokens_per_second": round(way.speed, 1),
        "reason": way.reason,
    }


def _model(name: str) -> tuple[str, Qwen3Config]:
    directory: Path | None = local(name)
    if directory:
        return name, Qwen3Config.from_pretrained(directory)
    title = official(name)
    return title, Qwen3Config.named(title)


def command(args: argparse.Namespace, out: Console) -> int:
    """Print the plans."""
    title, config = _model(args.model)
    try:
        count, on = cluster.cluster(args.gpus)
        mesh = None if args.mesh is None else cluster.Mesh.of(args.mesh)
    except ValueError as error:
        raise Misuse(f"{error}") from None
    if args.tokens > config.context_length:
        raise Misuse(
            f"--tokens is {args.tokens:,} and {title} reads {config.context_length:,}; give fewer, or "
            f"{config.way_out_of_context}."
        )
    if mesh is not None and mesh.ranks != count:
        raise Misuse(
            f"--mesh {mesh} makes {mesh.ranks} ranks and --gpus {args.gpus} has {count}; sizes of a mesh "
            f"multiply up to the cards."
        )
    if mesh is not None and args.serve:
        raise Misuse("--mesh is of training and --serve is not; give one of them.")
    record: dict[str, Any] = {
        "model": title,
        "gpus": count,
        "card": on.name,
        "memory_bytes": int(on.memory),
        "usable_bytes": int(memory.USABLE * on.memory),
        "tokens": args.tokens,
        "rows": args.rows,
    }
    if args.serve:
        ways = [w for kind in FORMATS for w in cluster.serving(config, count, args.tokens, on, kind)]
        if args.json:
            print(json.dumps(record | {"serve": [_serving_record(way) for way in ways]}, indent=1))
        else:
            _print_serving(out, title, count, on, args.tokens, ways)
        return 0
    if mesh is None:
        found = cluster.plans(config, count, args.tokens, on, args.rows)
    else:
        one = cluster.plan(config, mesh, args.tokens, on, args.rows)
        found = ([one], []) if one.reason is None else ([], [one])
    if args.json:
        lists = {"fits": found[0], "does_not_fit": found[1]}
        print(json.dumps(record | {k: [_plan_record(p) for p in v] for k, v in lists.items()}, indent=1))
    else:
        _print_training(out, title, config, count, on, args.tokens, args.rows, found)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `plan`."""
    parser.add_argument("model", metavar="NAME_OR_DIR", help=NAME_OR_DIR)
    cards = ", ".join(memory.cards())
    parser.add_argument("--gpus", metavar="NxCARD", required=True, help=f"such as 64xH100; cards: {cards}")
    parser.add_argument("--tokens", type=at_least(1), default=4096, help="of a row or text (default: 4096)")
    parser.add_argument("--rows", type=at_least(1, 2**20), default=1, help="at a time (default: 1)")
    parser.add_argument("--mesh", metavar="SIZES", help="this one alone, such as fsdp=8,ep=4,tp=2")
    parser.add_argument("--serve", action="store_true", help="for answering, not training")
    parser.add_argument("--json", action="store_true", help="for programs: see above")
