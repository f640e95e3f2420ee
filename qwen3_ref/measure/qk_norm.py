"""What QK-Norm does for quantisation: `python -m qwen3_ref.measure.qk_norm --out DIR`.

Three small models that differ in one thing: QK-Norm; biases on q, k and v and no QK-Norm (as Qwen2.5);
neither. For each seed all three start from the same matrices and read the same rows. Then each is
measured on held-out text with weights and with a KV cache of fewer bits. What is asked is the *rise* of
the loss over the same model at 16 bits, and pairs are of one seed. The weights stay in
`DIR/<variant>-<seed>`, the numbers in its `result.json`, all of them together in `DIR/qk_norm.json`.
What has its result is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure.study import require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Attention, Qwen3
from qwen3_ref.quantize.kv_cache import QuantizedKVCache
from qwen3_ref.quantize.model import round_model
from qwen3_ref.quantize.rounding import Grid
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import Plan, cross_entropy, train
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import STATE

VARIANTS = ("qk-norm", "bias", "neither")
MIX = pretrain.Mix(
    context=128,
    rows=16,
    mixture=dict.fromkeys(DOMAINS, 1 / len(DOMAINS)),
    plan=Plan(steps=300, learning_rate=3e-3, warmup=30, floor=0.1, save_every=100),
)
HELD_OUT = 1024
"""Tokens of each domain that are measured on."""

Result = dict[str, Any]


def small_config() -> Qwen3Config:
    """0.57 M parameters: the nano, three quarters as wide, with heads half as wide."""
    return pretrain.nano_config(hidden_size=96, intermediate_size=256, head_dim=32)


def make_variant(name: str, seed: int, config: Qwen3Config | None = None) -> Qwen3:
    """The untrained model of a variant; for one seed all three have the same matrices.

    "bias" adds biases of zero to q, k and v, as Qwen2.5 starts with. Raises ValueError for another name.
    """
    if name not in VARIANTS:
        raise ValueError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}.")
    model = Qwen3(config or small_config(), generator=torch.Generator().manual_seed(seed))
    for attention in (m for m in model.modules() if isinstance(m, Attention)):
        if name != "qk-norm":
            attention.q_norm = attention.k_norm = nn.Identity()  # type: ignore[assignment]
        if name == "bias":
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
                linear.bias = nn.Parameter(torch.zeros(linear.out_features))
    return model


def trained(folder: Path, name: str, seed: int, mix: pretrain.Mix, run: Run) -> tuple[Qwen3, Result]:
    """The variant after training, from its weights in `folder` if they are there, and its settings.

    Raises TrainingError for weights of other settings, and as `loop.train` does.
    """
    model, weights = make_variant(name, seed), folder / "weights.safetensors"
    settings = {"variant": name, "seed": seed, "stage": asdict(mix), "config": model.config.to_dict()}
    settings = json.loads(json.dumps(settings))
    if weights.exists():
        found = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        if found != settings:
            raise TrainingError(f"{folder} is of other settings; choose another directory, or delete it.")
        model.load_state_dict(load_file(weights))
        return model, settings
    train_streams, _ = run.streams
    loss = pretrain.next_token_loss(mix, run.tokenizer, train_streams, seed)
    train(model, mix.plan, loss, folder, about={"variant": name, "seed": seed})
    write_atomically(folder / "settings.json", json.dumps(settings) + "\n")
    save_file(model.state_dict(), folder / "weights.part")
    (folder / "weights.part").rename(weights)
    (folder / STATE).unlink(missing_ok=True)
    return model, settings


# -- what is measured of a trained one ------------------------------------------------------------------

WEIGHT_BITS = (8, 4, 3, 2)
GROUP = 32
"""Weights that share a scale: a third of a row of these small matrices."""
CACHES = {
    "K int8": (8, None),
    "V int8": (None, 8),
    "K int4": (4, None),
    "V int4": (None, 4),
    "K and V int4": (4, 4),
}


@torch.inference_mode()
def loss_of(model: Qwen3, streams: pretrain.Streams, context: int, cache: tuple[Any, Any] | None) -> float:
    """Held-out loss in nats a token, the mean of the domains; cache: bits of keys and of values through
    which everything is read, None for no cache."""
    losses = []
    for stream in streams.values():
        count = min(HELD_OUT, len(stream) - 1) // context
        rows = torch.stack([stream[i * context : (i + 1) * context + 1] for i in range(count)])
        parts = []
        for some in rows.split(16):
            kept = None
            if cache is not None:
                keys, values = cache
                kept = QuantizedKVCache(model.config, len(some), context, key_bits=keys, value_bits=values)
            parts.append(cross_entropy(model(some[:, :-1], cache=kept), some[:, 1:]) * len(some))
        losses.append(float(sum(parts)) / count)
    return statistics.mean(losses)


@torch.inference_mode()
def key_numbers(model: Qwen3, streams: pretrain.Streams, context: int) -> Result:
    """Of the keys that the cache would hold, over all layers: `outlier`, the mean over layers and heads of
    the largest channel's root mean square over the median channel's; and `peak`, the mean over vectors of
    the largest magnitude over the root mean square, which is what one scale a vector has to span."""
    ids = torch.stack([stream[:context] for stream in streams.values()])
    cache = KVCache(model.config, len(ids), context)
    model(ids, cache=cache, logits_to_keep=1)
    channel = cache.keys.square().mean((1, 3)).sqrt()  # (L, g, d)
    outlier = channel.amax(-1) / channel.median(-1).values
    peak = cache.keys.abs().amax(-1) / cache.keys.square().mean(-1).sqrt()
    return {"outlier": float(outlier.mean()), "peak": float(peak.mean())}


def measured(model: Qwen3, streams: pretrain.Streams, context: int) -> Result:
    """All numbers of one trained model: `losses` by what is in few bits, and those of its keys."""
    losses = {"16 bits": loss_of(model, streams, context, None)}
    for bits in WEIGHT_BITS:
        rounded, _ = round_model(model, Grid(bits, GROUP, symmetric=False))
        losses[f"weights {bits} bits"] = loss_of(rounded, streams, context, None)
    for name, cache in CACHES.items():
        losses[name] = loss_of(model, streams, context, cache)
    return {"losses": losses, "keys": key_numbers(model, streams, context)}


def count_controls(train_streams: pretrain.Streams, held_out: pretrain.Streams, vocab: int) -> Result:
    """Held-out loss, the mean of the domains, of counting alone: single tokens, and pairs of tokens mixed
    half and half with the single ones. A model that learned anything is well below."""
    single = torch.ones(vocab, dtype=torch.float64)
    pairs = torch.zeros(vocab * vocab, dtype=torch.float64)
    for stream in train_streams.values():  # each domain weighs the same, as in training
        single += stream.bincount(minlength=vocab) / len(stream) * 1e6
        pairs += (stream[:-1] * vocab + stream[1:]).bincount(minlength=vocab * vocab) / len(stream) * 1e6
    one = single / single.sum()
    two = pairs.view(vocab, vocab)
    two = two / two.sum(1, keepdim=True).clamp_min(1e-9)
    found: dict[str, list[float]] = {"unigram": [], "bigram": []}
    for stream in held_out.values():
        text = stream[: HELD_OUT + 1]
        found["unigram"].append(float(-one[text[1:]].log().mean()))
        found["bigram"].append(float(-(one[text[1:]] + two[text[:-1], text[1:]]).div(2).log().mean()))
    return {name: statistics.mean(values) for name, values in found.items()}


def run_cell(folder: Path, name: str, seed: int, mix: pretrain.Mix, run: Run) -> Result:
    """Train and measure one variant with one seed, or read the result that is there. Errors as `trained`."""
    start, path = time.monotonic(), folder / "result.json"
    model, settings = trained(folder, name, seed, mix, run)
    if path.exists():
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        return result
    _, held_out = run.streams
    model.eval()
    result = {"settings": settings, **measured(model, held_out, mix.context)}
    result["seconds"] = round(time.monotonic() - start, 1)
    write_atomically(path, json.dumps(result) + "\n")
    return result


def rises(cells: dict[str, list[Result]]) -> dict[str, dict[str, list[float]]]:
    """For each variant and each way to save bits, the rise of the loss over 16 bits, seed by seed."""
    ways = [way for way in next(iter(cells.values()))[0]["losses"] if way != "16 bits"]
    return {
        name: {way: [cell["losses"][way] - cell["losses"]["16 bits"] for cell in found] for way in ways}
        for name, found in cells.items()
    }


def paired(cells: dict[str, list[Result]]) -> dict[str, dict[str, dict[str, float]]]:
    """How much more the loss of each other variant rises than that of QK-Norm, of the same seed: mean
    and 95% interval (Student's) over seeds; above 0 QK-Norm is the more robust."""
    found, table = rises(cells), dict[str, dict[str, dict[str, float]]]()
    for name in (name for name in cells if name != "qk-norm"):
        table[name] = {}
        for way, values in found[name].items():
            differences = [a - b for a, b in zip(values, found["qk-norm"][way], strict=True)]
            table[name][way] = over_seeds(differences)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.qk_norm", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("qk_norm"), help="directory (./qk_norm)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="2 to 8 (0 1 2)")
    parser.add_argument("--steps", type=int, default=MIX.plan.steps, help=f"({MIX.plan.steps})")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")
    options = parser.parse_args(argv)
    plan = replace(MIX.plan, steps=options.steps, warmup=min(MIX.plan.warmup, options.steps))
    mix = replace(MIX, plan=plan)
    try:
        require_seeds(options.seeds)
        run = Run(options.out, allow_other_text=options.allow_other_text)
        cells: dict[str, list[Result]] = {name: [] for name in VARIANTS}
        for seed in options.seeds:
            for name in VARIANTS:
                cells[name].append(run_cell(run.out / f"{name}-{seed}", name, seed, mix, run))
                print(f"{name}, seed {seed}: {cells[name][-1]['losses']['16 bits']:.3f}", flush=True)
        study = {
            "seeds": options.seeds,
            "threads": torch.get_num_threads(),
            "torch": version("torch"),
            "parameters": small_config().num_parameters(),
            "controls": count_controls(*run.streams, small_config().vocab_size),
            "rises": rises(cells),
            "paired": paired(cells),
            "cells": cells,
        }
        write_atomically(run.out / "qk_norm.json", json.dumps(study) + "\n")
        for name, ways in study["paired"].items():
            print(f"rise of {name} above that of qk-norm:")
            for way, n in ways.items():
                print(f"  {way:<16} {n['mean']:+.4f} ({n['low']:+.4f} to {n['high']:+.4f})")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
