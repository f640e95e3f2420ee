"""Shapes, parameters, memory and work of a model.

Of a checkpoint that also sees or hears, its text backbone. --variants: how the April models, Instruct-2507,
Thinking-2507 and Coder differ.

--json prints an object (of the whole family: a list of them) with these keys, null where nothing is
known; later versions may add keys, none goes or changes its meaning:

  name, repo, kind, released      as published; of any other checkpoint: as asked for, nulls
  not_here                        what of the checkpoint this package cannot run, null if nothing
  directory                       where the checkpoint lies on this machine
  config_status, config_sha256    "verified" or "unverified" against the official file, and its hash
  config                          the fields of config.json
  context_length                  tokens, with what YaRN adds
  parameters                      total, active (for a token), non_embedding
  weight_bytes                    of the weights in bf16
  kv_cache_bytes                  in bf16, by tokens held: "4096", "32768", "131072"
  flops_per_token                 by tokens seen before: "0", "32768"
  weight_bytes_by_format          by format: "bf16", "fp8", "int8", "int4-g128", "q4_k_m"
  gpu                             with --gpu: name, memory_bytes, bandwidth, and by format at 32,768 tokens
                                  total_bytes, cards (null: too large), tokens_per_second at most
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen3_ref import facts, memory
from qwen3_ref.commands.common import NAME_OR_DIR, Misuse, local, narrow, official, stacked, unit
from qwen3_ref.config import Qwen3Config
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.official.variants import differences

_LENGTHS = (4_096, 32_768, 131_072)
_SEEN = (0, 32_768)  # tokens before the one whose work is counted
_HEADINGS = ("checkpoint", "total", "active", "layers", "experts", "context", "bytes")


def _short(number: float) -> str:
    """596M, 8.19B, 235B: parameters as people say them."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def _known() -> dict[str, dict[str, Any]]:
    """Every checkpoint whose config is known: the text models, then those with a text backbone."""
    open_ones = {name: model for name, model in facts.official_models().items() if model["config"]}
    return open_ones | facts.backbones()


def _family() -> list[tuple[str, ...]]:
    """Every checkpoint of _known, a cell for each of _HEADINGS."""
    rows: list[tuple[str, ...]] = []
    for name, model in _known().items():
        c = Qwen3Config.named(name)
        rows.append(
            (
                name + _marks(model),
                _short(c.num_parameters()),
                _short(c.num_active_parameters()) if c.is_moe else "",
                str(c.num_hidden_layers),
                f"{c.num_experts}/{c.num_experts_per_tok}" if c.is_moe else "",
                f"{c.context_length:,}",
                unit(c.weight_bytes(), "B"),
            )
        )
    return rows


def _marks(model: dict[str, Any]) -> str:
    """What stands behind a name: of a config seen in copies only, and of a model that is not whole here."""
    marks = ("" if model["config_status"] == "verified" else "*") + ("+" if model.get("not_here") else "")
    return f" {marks}" if marks else ""


def _print_family(out: Console) -> None:
    if narrow(out):
        for name, *cells in _family():
            said = [f"{heading} {cell}" for heading, cell in zip(_HEADINGS[1:], cells, strict=True) if cell]
            stacked(out, name, [", ".join(said)])
    else:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "checkpoint" else "right", no_wrap=True)
        for row in _family():
            table.add_row(*row)
        out.print(table)
    out.print("total, active: parameters; experts: all / used by a token; bytes: bf16.")
    out.print("* config seen in copies only, not proved against the official file.")
    out.print("+ more than a text model, and not all of it is here: `info NAME` says what is missing.")


def _print_variants(out: Console, as_json: bool) -> None:
    """How the four kinds of post-trained checkpoints differ."""
    rows = differences()
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    names = list(next(iter(rows.values())))
    if out.width < 120:
        for heading, cells in rows.items():
            stacked(out, heading, [f"{name}: {cell}" for name, cell in cells.items()])
        return
    table = Table(box=box.SIMPLE, pad_edge=False, show_lines=False)
    table.add_column("", style="bold")
    for name in names:
        table.add_column(name)
    for heading, cells in rows.items():
        table.add_row(heading, *(Text(cell) for cell in cells.values()))
    out.print(table)


def _on(config: Qwen3Config, card: memory.Card, kind: str) -> dict[str, Any]:
    """One text of 32K tokens on a card, the weights in a format: `gpu` of the record has it."""
    wanted = memory.need(config, _SEEN[1], kind=kind)
    n = memory.cards_needed(config, wanted, card)
    speed = None if n is None else memory.tokens_per_second(config, _SEEN[1], card, n, kind)
    return {"total_bytes": wanted.total, "cards": n, "tokens_per_second": speed and round(speed, 1)}


def _rows(config: Qwen3Config, card: memory.Card | None) -> list[tuple[str, str, str]]:
    """One model: (section, "" where it goes on; what; how much)."""
    c = config
    heads = f"{c.num_attention_heads} query, {c.num_key_value_heads} KV heads of {c.head_dim}"
    rows: list[tuple[str, str, str]] = [
        ("Shape", "layers", f"{c.num_hidden_layers}"),
        ("", "hidden size", f"{c.hidden_size:,}"),
        ("", "attention", f"{heads}, QK-Norm"),
    ]
    if c.is_moe:
        experts = f"{c.num_experts}, {c.num_experts_per_tok} for each token, {c.moe_intermediate_size} wide"
        rows.append(("", "experts", experts))
    if not all(map(c.is_sparse_layer, range(c.num_hidden_layers))):
        rows.append(("", "feed-forward size", f"{c.intermediate_size:,}"))
    head = "shared with the output" if c.tie_word_embeddings else "output head of its own"
    rows += [
        ("", "vocabulary", f"{c.vocab_size:,} rows, {head}"),
        ("", "context", f"{c.context_length:,} tokens, rope_theta {c.rope_theta:,.0f}"),
    ]
    if c.rope_scaling is not None:
        rows.append(("", "rope_scaling", ", ".join(f"{k} {v}" for k, v in c.rope_scaling.items())))
    rows += [
        ("Parameters", "total", f"{c.num_parameters():,}"),
        ("", "active for a token", f"{c.num_active_parameters():,}"),
        ("", "non-embedding", f"{c.num_non_embedding_parameters():,}"),
        ("Memory", "weights in bf16", f"{unit(c.weight_bytes(), 'B')} ({c.weight_bytes():,} bytes)"),
    ]
    for kind in list(memory.FORMATS)[1:]:
        rows.append(("", f"weights in {kind}", unit(memory.weight_bytes(c, kind), "B")))
    for length in _LENGTHS:
        beyond = " (beyond the context)" if length > c.context_length else ""
        size = unit(c.kv_cache_bytes(length), "B")
        rows.append(("", f"KV cache, {length // 1024}K tokens", f"{size} in bf16{beyond}"))
    for length, when in zip(_SEEN, ("the first of a text", "after 32K tokens"), strict=True):
        flops = unit(c.flops_per_token(length), "FLOP")
        rows.append(("" if length else "Work", "" if length else "to process a token", f"{flops}, {when}"))
    for kind in memory.FORMATS if card else ():
        assert card is not None
        found = _on(c, card, kind)
        said = f"{unit(found['total_bytes'], 'B')} with 32K tokens: "
        said += "more than it can be split over" if found["cards"] is None else f"{found['cards']} x"
        if found["cards"]:
            said += f", at most {found['tokens_per_second']:.0f} tokens/s for one text"
        rows.append((card.name if kind == "bf16" else "", kind, said))
    return rows


def _print_model(out: Console, config: Qwen3Config, card: memory.Card | None) -> None:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    blocks: dict[str, list[str]] = {}
    for section, what, much in _rows(config, card):
        if section:
            table.add_section()
        table.add_row(section, what, much)
        block = blocks.setdefault(section or next(reversed(blocks)), [])
        block.append(f"{what}: {much}" if what else much)
    if narrow(out):
        for section, lines in blocks.items():
            stacked(out, section, lines)
    else:
        out.print(table)


def _record(
    name: str, config: Qwen3Config, directory: Path | None, card: memory.Card | None
) -> dict[str, Any]:
    """What `--json` prints of one model; the keys stand in the help."""
    model = _known().get(name, {})
    return {
        "name": name,
        "repo": model.get("repo"),
        "kind": model.get("kind"),
        "released": model.get("released"),
        "not_here": model.get("not_here"),
        "directory": None if directory is None else str(directory),
        "config_status": model.get("config_status"),
        "config_sha256": (model.get("config_proof") or {}).get("sha256"),
        "config": config.to_dict(),
        "context_length": config.context_length,
        "parameters": {
            "total": config.num_parameters(),
            "active": config.num_active_parameters(),
            "non_embedding": config.num_non_embedding_parameters(),
        },
        "weight_bytes": config.weight_bytes(),
        "kv_cache_bytes": {str(length): config.kv_cache_bytes(length) for length in _LENGTHS},
        "flops_per_token": {str(length): config.flops_per_token(length) for length in _SEEN},
        "weight_bytes_by_format": {kind: memory.weight_bytes(config, kind) for kind in memory.FORMATS},
        "gpu": card
        and {
            "name": card.name,
            "memory_bytes": int(card.memory),
            "bandwidth": int(card.bandwidth),
            "formats": {kind: _on(config, card, kind) for kind in memory.FORMATS},
        },
    }


def _snapshot(name: str) -> Path | None:
    """Where an official checkpoint lies; one that cannot be run here is not looked for."""
    return find_official(name) if name in facts.official_models() else None


def command(args: argparse.Namespace, out: Console) -> int:
    """The table of the family, or of one model."""
    try:
        card = None if args.gpu is None else memory.card(args.gpu)
    except ValueError as error:
        raise Misuse(f"--gpu: {error}") from None
    if args.variants:
        if args.model is not None or args.gpu is not None:
            raise Misuse("--variants is about all of the family; leave the name and --gpu out.")
        _print_variants(out, args.json)
        return 0
    if args.model is None:
        if card is not None and not args.json:
            raise Misuse("--gpu asks about one model; name it, or add --json for the whole family.")
        if args.json:
            named = [(name, Qwen3Config.named(name), _snapshot(name)) for name in _known()]
            print(json.dumps([_record(*one, card) for one in named], indent=1))
        else:
            _print_family(out)
        return 0
    directory = local(args.model)
    if directory:
        config, title = Qwen3Config.from_pretrained(directory), args.model
        source = f"as found in {directory / 'config.json'}"
        record = _record(args.model, config, directory, card) if args.json else {}
    else:
        short = args.model.removeprefix("Qwen/")
        title = short if short in facts.backbones() else official(args.model)
        config, model = Qwen3Config.named(title), _known()[title]
        proof = (model.get("config_proof") or {}).get("sha256")
        source = f"official config of {model['repo']}, {model['config_status']}"
        source += f" (sha256 {proof[:12]}...)" if proof else ""
        found = _snapshot(title)
        record = _record(title, config, found, card) if args.json else {}
        if title in facts.backbones():
            source = source.replace("config", "config, its text part")
        source += f"\nOn disk: {found or 'no'}" if title in facts.official_models() else ""
        source += f"\nNot here: {model['not_here']}" if model.get("not_here") else ""
        title += f": {model['kind']}" + (f", {model['released']}" if model["released"] else "")
    if args.json:
        print(json.dumps(record, indent=1))
        return 0
    out.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    _print_model(out, config, card)
    for line in f"Source: {source}".splitlines():
        # A path is not broken, so that it can be copied, and stands on a line of its own.
        if narrow(out) or line.startswith("Not here"):
            line = textwrap.fill(line, out.width, break_long_words=False, break_on_hyphens=False)
        out.print(Text(line), soft_wrap=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `info`."""
    parser.add_argument(
        "model", nargs="?", metavar="NAME_OR_DIR", help=f"{NAME_OR_DIR}; absent: the whole family"
    )
    parser.add_argument("--gpu", metavar="NAME", help=f"on this card: {', '.join(memory.cards())}")
    parser.add_argument("--variants", action="store_true", help="how 2504, 2507 and Coder differ")
    parser.add_argument("--json", action="store_true", help="for programs: see above")
