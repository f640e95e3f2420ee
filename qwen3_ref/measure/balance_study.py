"""What balancing does to the nano MoE: `python -m qwen3_ref.measure.balance_study --out DIR`.

The nano MoE is pre-trained from the same weights and on the same rows with every variant of
balancing, for several seeds. A row is 128 tokens of one domain and is a micro-batch of its own:
where micro-batches are of one domain each, to balance each of them is to ask every expert to serve
every domain, and global-batch balancing asks for less. Each run leaves `log.csv` and `result.json` in
`DIR/<variant>-<seed>`, all of them together `study.json`. What has its result is not run again.
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

from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure.study import kept
from qwen3_ref.model import Qwen3, Trace
from qwen3_ref.moe import z_loss
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.recipes import balance, pretrain
from qwen3_ref.train.recipes.balance import Weights
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import STATE

VARIANTS = {
    "none": Weights("none"),
    "micro": Weights("micro"),
    "micro-weak": Weights("micro", coefficient=balance.COEFFICIENT / 10),
    "global": Weights("global"),
    "global+z": Weights("global", z_loss=1e-3),
}
"""1e-3 is the coefficient of the z-loss in the paper that it is from (arXiv 2202.08906)."""

MIX = pretrain.Mix(
    context=128,
    rows=16,
    mixture=dict.fromkeys(DOMAINS, 1 / len(DOMAINS)),
    plan=Plan(steps=300, learning_rate=3e-3, warmup=30, floor=0.1, save_every=100),
)
HELD_OUT = 8192
"""Tokens of each domain that are measured on."""

Result = dict[str, Any]
"""One measurement as JSON values: see `held_out_numbers`."""


def held_out_numbers(model: Qwen3, held_out: pretrain.Streams, context: int) -> Result:
    """On held-out text: `loss` by domain in nats a token and their mean; `counts` (G, L, E) of picks;
    from those, over all domains, `max_load`, `load_cv` (balance.imbalance), `dead` experts and
    `specialisation`; `domain_cv`, the mean of the load_cv of each domain by itself; and `z_loss`, the
    mean square of the routers' logsumexp, on the first rows of each domain."""
    loss = pretrain.domain_losses(model, held_out, context, HELD_OUT)
    counts = balance.count_by_domain(model, held_out, context, HELD_OUT)
    trace = Trace(attention=False)
    with torch.inference_mode():
        model(torch.stack([stream[:context] for stream in held_out.values()]), trace=trace)
    return {
        "loss": loss,
        "mean_loss": statistics.mean(loss.values()),
        **balance.imbalance(counts.sum(0)),
        "domain_cv": statistics.mean(balance.imbalance(one)["load_cv"] for one in counts),
        "dead": balance.dead_experts(counts.sum(0)),
        "specialisation": balance.specialisation(counts)[1],
        "z_loss": float(z_loss(trace.router_logits)),
        "counts": counts.int().tolist(),
    }


def run_cell(
    folder: Path,
    name: str,
    seed: int,
    mix: pretrain.Mix,
    config: Qwen3Config,
    tokenizer: Tokenizer,
    streams: tuple[pretrain.Streams, pretrain.Streams],
) -> Result:
    """Train one variant with one seed in `folder`, or read the result that is there.

    Raises TrainingError for a result of other settings, and as `loop.train` does.
    """
    weights = VARIANTS[name]
    settings = {"variant": name, "seed": seed, "stage": asdict(mix), "weights": asdict(weights)}
    settings = json.loads(json.dumps(settings | {"config": config.to_dict()}))
    path = folder / "result.json"
    if (result := kept(path, settings)) is not None:
        return result
    model = Qwen3(config, generator=torch.Generator().manual_seed(seed))
    train_streams, held_out = streams
    before, start = held_out_numbers(model, held_out, mix.context), time.monotonic()
    loss = balance.balanced_loss(
        mix, tokenizer, train_streams, seed, weights.balancing, weights.z_loss, weights.coefficient
    )
    train(model, mix.plan, loss, folder, about={"variant": name, "seed": seed})
    result = {
        "settings": settings,
        "before": before,
        "after": held_out_numbers(model, held_out, mix.context),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_atomically(path, json.dumps(result) + "\n")
    (folder / STATE).unlink(missing_ok=True)
    return result


def summarise(cells: dict[str, list[Result]]) -> dict[str, dict[str, tuple[float, float]]]:
    """For each variant, the mean and the standard deviation over seeds (0 for one seed) of each
    number; a row "before" has what the random weights give."""
    rows = {name: [cell["after"] for cell in results] for name, results in cells.items()}
    rows = {"before": [cell["before"] for cell in next(iter(cells.values()))]} | rows
    table = {}
    for name, measured in rows.items():
        numbers = [
            {f"loss {domain}": value for domain, value in m["loss"].items()}
            | {key: m[key] for key in m if key not in ("loss", "counts")}
            for m in measured
        ]
        table[name] = {
            key: (
                statistics.mean(n[key] for n in numbers),
                statistics.stdev(n[key] for n in numbers) if len(numbers) > 1 else 0.0,
            )
            for key in numbers[0]
        }
    return table


def print_table(table: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Rows are the measured numbers, columns the variants: mean and standard deviation."""
    print(f"{'':<16}" + "".join(f"{name:>18}" for name in table))
    for key in next(iter(table.values())):
        cells = (f"{mean:.3f} +- {spread:.3f}" for mean, spread in (row[key] for row in table.values()))
        print(f"{key:<16}" + "".join(f"{cell:>18}" for cell in cells))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.balance_study", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("balance"), help="directory (./balance)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=MIX.plan.steps, help=f"({MIX.plan.steps})")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")
    options = parser.parse_args(argv)
    plan = replace(MIX.plan, steps=options.steps, warmup=min(MIX.plan.warmup, options.steps))
    try:
        run = Run(options.out, allow_other_text=options.allow_other_text)
        cells: dict[str, list[Result]] = {name: [] for name in VARIANTS}
        for seed in options.seeds:
            for name in VARIANTS:
                result = run_cell(
                    run.out / f"{name}-{seed}",
                    name,
                    seed,
                    replace(MIX, plan=plan),
                    pretrain.moe_config(),
                    run.tokenizer,
                    run.streams,
                )
                cells[name].append(result)
                print(f"{name}, seed {seed}: {result['seconds']:.0f} s", flush=True)
        table = summarise(cells)
        study = {
            "seeds": options.seeds,
            "threads": torch.get_num_threads(),
            "torch": version("torch"),
            "table": table,
            "cells": cells,
        }
        write_atomically(run.out / "study.json", json.dumps(study) + "\n")
        print_table(table)
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
