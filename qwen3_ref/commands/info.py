"""Shapes, parameters, memory and work of a model."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen3_ref import facts
from qwen3_ref.commands.common import NAME_OR_DIR, official, unit
from qwen3_ref.config import Qwen3Config
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.store.shipped import local_directory

_LENGTHS = (4_096, 32_768, 131_072)


def _short(number: float) -> str:
    """596M, 8.19B, 235B: parameters as people say them."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def family_table() -> Table:
    """Every official open-weight checkpoint, a line each."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))  # fits 80 columns
    table.add_column("checkpoint", no_wrap=True)
    for heading in ("total", "active", "layers", "experts", "context", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in facts.official_models().items():
        if model["config"] is None:
            continue
        c = Qwen3Config.named(name)
        table.add_row(
            name + ("" if model["config_status"] == "verified" else " *"),
            _short(c.num_parameters()),
            _short(c.num_active_parameters()) if c.is_moe else "",
            str(c.num_hidden_layers),
            f"{c.num_experts}/{c.num_experts_per_tok}" if c.is_moe else "",
            f"{c.context_length:,}",
            unit(c.weight_bytes(), "B"),
        )
    return table


def model_table(config: Qwen3Config) -> Table:
    """One model: shapes, parameters, memory and work, in sections."""
    c = config
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
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
    for length in _LENGTHS:
        beyond = " (beyond the context)" if length > c.context_length else ""
        size = unit(c.kv_cache_bytes(length), "B")
        rows.append(("", f"KV cache, {length // 1024}K tokens", f"{size} in bf16{beyond}"))
    for length, when in ((0, "the first of a text"), (32_768, "after 32K tokens")):
        flops = unit(c.flops_per_token(length), "FLOP")
        rows.append(("" if length else "Work", "" if length else "to process a token", f"{flops}, {when}"))
    for row in rows:
        if row[0]:
            table.add_section()
        table.add_row(*row)
    return table


def command(args: argparse.Namespace, out: Console) -> int:
    """The table of the family, or of one model."""
    if args.model is None:
        out.print(family_table())
        out.print("total, active: parameters; experts: all / used by a token; bytes: bf16.")
        out.print("* config seen in copies only, not proved against the official file.")
        return 0
    directory = local_directory(args.model)
    if directory:
        config, title = Qwen3Config.from_pretrained(directory), args.model
        source = f"{directory / 'config.json'}, as found"
    else:
        title = official(args.model)
        config, model = Qwen3Config.named(title), facts.official_models()[title]
        proof = (model.get("config_proof") or {}).get("sha256")
        source = f"official config of {model['repo']}, {model['config_status']}"
        source += f" (sha256 {proof[:12]}...)" if proof else ""
        found = find_official(title)
        title += f": {model['kind']}, {model['released']}"
        source += f"\nOn disk: {found or 'no'}"
    out.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    out.print(model_table(config))
    out.print(Text(f"Source: {source}"), soft_wrap=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `info`."""
    parser.add_argument(
        "model", nargs="?", metavar="NAME_OR_DIR", help=f"{NAME_OR_DIR}; absent: the whole family"
    )
