"""What packing documents into rows costs: `python -m qwen3_ref.measure.packing --out DIR`.

Four small models that differ in how their rows are made, of equal forward tokens a step except the last:

- `across`: rows cut from a stream of documents, attention over the borders (the recipe of the nano)
- `stopped`: the same rows, and no token sees what stands before its document's beginning
- `padded`: one document a row, or a piece of a long one, and padding behind it
- `fewer`: as `stopped`, with as many rows as hold the tokens that are left to `padded`, as its control

For one seed all start from the same matrices. Each is then judged on held-out documents read alone, read
behind an <|endoftext|>, and in packed rows with and without attention across borders; the loss is kept by
domain and by place in the document. Each cell leaves `result.json` in `DIR/<arm>-<seed>`, all of them
together `DIR/packing.json`. What has its result is not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure.study import kept, require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Attention, Qwen3, fused_attention
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import IGNORE, Plan, StepLoss, cross_entropy, train
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import STATE

ARMS = ("across", "stopped", "padded", "fewer")
READINGS = ("alone", "behind the mark", "packed", "packed, stopped")
MIX = pretrain.Mix(
    context=256,
    rows=8,
    mixture=dict.fromkeys(DOMAINS, 1 / len(DOMAINS)),
    plan=Plan(steps=320, learning_rate=6e-3, warmup=20, floor=0.1, save_every=160),
)
FEWER = 4
"""Rows of `fewer`: 4 full ones hold 1,024 tokens, and 8 padded ones 978 on average."""
PLACES = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Where a class of places in a document begins: the first token, the second, the next two, and so on."""
JUDGED, PACKED = 100, 24
"""Documents of a domain that are read alone, and rows of a domain that are read packed, at most."""

Result = dict[str, Any]
Pieces = dict[str, list[Tensor]]


def small_config() -> Qwen3Config:
    """0.18 M parameters: the nano with two layers, half as wide, and two heads of half the width."""
    return pretrain.nano_config(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )


# -- borders -----------------------------------------------------------------------------------------------


def document_of(ids: Tensor, end: int) -> Tensor:
    """For each token of ids (b, t) the number of its document within the row, from 0; `end` closes one and
    still belongs to it."""
    closed = (ids == end).long()
    return closed.cumsum(-1) - closed


def places(ids: Tensor, end: int) -> Tensor:
    """For each token of ids (b, t) its place in its document, from 0; -1 where the document began before
    the row did."""
    column = torch.arange(ids.shape[-1]).expand_as(ids)
    after = torch.where(ids == end, column + 1, 0).cummax(-1).values  # where the next document begins
    begin = F.pad(after[:, :-1], (1, 0))
    return torch.where(begin > 0, column - begin, -1)


class Borders:
    """Stops a model's attention at the borders of documents, until `off()`.

    It takes the place of each `Attention.attend`, whose mask is None for rows without padding. Positions
    run on: RoPE turns by distance alone, so that beginning again at 0 would change nothing.
    """

    def __init__(self, model: Qwen3, ids: Tensor, end: int) -> None:
        """ids (b, t): what the model reads next."""
        number = document_of(ids, end)
        same = number[:, :, None] == number[:, None, :]  # (b, t, s)
        self.mask = (same & torch.ones_like(same[0]).tril())[:, None]
        self.layers = [m for m in model.modules() if isinstance(m, Attention)]
        for layer in self.layers:
            layer.attend = self.attend

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`fused_attention` with the mask of the borders."""
        assert mask is None, "rows are packed full"
        return fused_attention(q, k, v, self.mask)

    def off(self) -> None:
        """Attention as it was."""
        for layer in self.layers:
            layer.attend = fused_attention


def stopped_logits(model: Qwen3, ids: Tensor, end: int) -> Tensor:
    """Logits (b, t, V) of packed ids (b, t), of which no document sees another."""
    borders = Borders(model, ids, end)
    try:
        return model(ids)
    finally:
        borders.off()


# -- rows --------------------------------------------------------------------------------------------------


def make_pieces(streams: pretrain.Streams, end: int, context: int) -> Pieces:
    """The documents of packed streams, each with its closing mark; long ones in pieces of `context` + 1
    tokens, of which the last is the next one's first."""
    pieces: Pieces = {}
    for domain, stream in streams.items():
        borders = ((stream == end).nonzero()[:, 0] + 1).tolist()
        documents = [stream[a:b] for a, b in zip([0, *borders], borders, strict=False)]
        cut = [d[i : i + context + 1] for d in documents for i in range(0, len(d) - 1, context)]
        pieces[domain] = cut
    return pieces


def padded(rows: Sequence[Tensor], context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (b, context) of documents (n + 1,): each predicts its next token, and where a row
    is filled up there is nothing to learn. Padding stands behind, where a causal model cannot see it."""
    inputs = torch.zeros(len(rows), context, dtype=torch.long)
    targets = torch.full((len(rows), context), IGNORE)
    for i, row in enumerate(rows):
        inputs[i, : len(row) - 1], targets[i, : len(row) - 1] = row[:-1], row[1:]
    return inputs, targets


def token_shares(mix: pretrain.Mix, pieces: Pieces) -> dict[str, float]:
    """How often to draw each domain, relatively, so that each has its share of the *tokens*: one of short
    documents is drawn more often."""
    return {d: w / statistics.mean(len(p) - 1 for p in pieces[d]) for d, w in mix.mixture.items()}


def draw_pieces(rows: int, pieces: Pieces, shares: Mapping[str, float], seed: int, step: int) -> list[Tensor]:
    """The documents of one step, of domains drawn by `shares`."""
    rng = random.Random(f"{seed} {step}")  # hashed by SHA-512: the same everywhere
    drawn = rng.choices(list(shares), list(shares.values()), k=rows)
    return [pieces[d][int(rng.random() * len(pieces[d]))] for d in drawn]


def arm_loss(arm: str, mix: pretrain.Mix, run: Run, seed: int) -> StepLoss:
    """What an arm learns from, by step."""
    end = run.tokenizer.control_tokens["<|endoftext|>"]
    streams, _ = run.streams
    if arm == "across":
        return pretrain.next_token_loss(mix, run.tokenizer, streams, seed)
    pieces = make_pieces(streams, end, mix.context) if arm == "padded" else {}
    shares = token_shares(mix, pieces) if pieces else {}
    mix = replace(mix, rows=FEWER) if arm == "fewer" else mix

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        if arm == "padded":
            inputs, targets = padded(draw_pieces(mix.rows, pieces, shares, seed, step), mix.context)
            return cross_entropy(model(inputs), targets), {"tokens": float((targets != IGNORE).sum())}
        rows = pretrain.make_rows(mix, run.tokenizer, streams, seed, step)
        logits = stopped_logits(model, rows[:, :-1], end)
        return cross_entropy(logits, rows[:, 1:]), {"tokens": float(rows[:, 1:].numel())}

    return loss


# -- what is measured --------------------------------------------------------------------------------------


@torch.inference_mode()
def by_place(
    logits: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, place: Tensor
) -> tuple[list[float], list[int]]:
    """Sum of the loss in nats and number of tokens for each class of PLACES, and last for the tokens whose
    document began earlier; inputs, targets and place of the targets (n, t)."""
    sums, counts = torch.zeros(len(PLACES) + 1, dtype=torch.float64), torch.zeros(len(PLACES) + 1)
    edges = torch.tensor(PLACES[1:])
    for some, wanted, where in zip(*(x.split(16) for x in (inputs, targets, place)), strict=True):
        loss = F.cross_entropy(
            logits(some).flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="none"
        )
        real, where = wanted.flatten() != IGNORE, where.flatten()
        group = torch.where(where < 0, len(PLACES), torch.bucketize(where, edges, right=True))[real]
        sums.index_add_(0, group, loss[real].double())
        counts.index_add_(0, group, torch.ones(len(group)))
    return sums.tolist(), [int(n) for n in counts]


def judged(model: Qwen3, held_out: pretrain.Streams, end: int, context: int) -> Result:
    """`losses`, mean loss by reading, domain and class of places (0 where there is no token), and `counts`,
    the tokens behind each."""
    model.eval()
    losses: Result = {reading: {} for reading in READINGS}
    counts: Result = {reading: {} for reading in READINGS}
    mark = torch.tensor([end])
    for domain, stream in held_out.items():
        borders = ((stream == end).nonzero()[:, 0] + 1).tolist()
        documents = [stream[a:b] for a, b in zip([0, *borders], borders, strict=False)][:JUDGED]
        alone = [d[: context + 1] for d in sorted(documents, key=len)]
        marked = [torch.cat([mark, d[:context]]) for d in alone]
        count = min(PACKED, (len(stream) - 1) // context)
        rows = torch.stack([stream[i * context : (i + 1) * context + 1] for i in range(count)])
        column, place = torch.arange(context), places(rows, end)[:, 1:]
        texts = {
            "alone": (*padded(alone, context), (column + 1).expand(len(alone), -1)),
            "behind the mark": (*padded(marked, context), column.expand(len(marked), -1)),
            "packed": (rows[:, :-1], rows[:, 1:], place),
            "packed, stopped": (rows[:, :-1], rows[:, 1:], place),
        }
        for reading, text in texts.items():
            stop = reading == "packed, stopped"
            sums, n = by_place((lambda x: stopped_logits(model, x, end)) if stop else model, *text)
            losses[reading][domain] = [round(s / max(1, k), 5) for s, k in zip(sums, n, strict=True)]
            counts[reading][domain] = n
    return {"losses": losses, "counts": counts}


def loss_at(
    result: Mapping[str, Any],
    reading: str,
    first: int = 0,
    last: int = len(PLACES),
    domains: Sequence[str] = DOMAINS,
) -> float:
    """Loss in nats a token of one cell, over all tokens of some domains in the classes of places from
    `first` to `last`."""
    found = [
        (value, count)
        for domain in domains
        for value, count in zip(
            result["losses"][reading][domain][first : last + 1],
            result["counts"][reading][domain][first : last + 1],
            strict=True,
        )
    ]
    return sum(value * count for value, count in found) / sum(count for _, count in found)


def mean_loss(result: Mapping[str, Any], reading: str) -> float:
    """The mean of the domains, over all places."""
    return statistics.mean(loss_at(result, reading, domains=[domain]) for domain in DOMAINS)


def run_cell(folder: Path, arm: str, seed: int, mix: pretrain.Mix, run: Run) -> Result:
    """Train and judge one arm with one seed, or read the result that is there."""
    path = folder / "result.json"
    settings = json.loads(json.dumps({"arm": arm, "seed": seed, "stage": asdict(mix), "judged": JUDGED}))
    if (result := kept(path, settings)) is not None:
        return result
    loss = arm_loss(arm, mix, run, seed)
    model = Qwen3(small_config(), generator=torch.Generator().manual_seed(seed))
    start = time.process_time()
    train(model, mix.plan, loss, folder, about={"arm": arm, "seed": seed})
    spent = round(time.process_time() - start, 1)
    end = run.tokenizer.control_tokens["<|endoftext|>"]
    found = judged(model, run.streams[1], end, mix.context)
    result = {"settings": settings, "cpu_seconds": spent, **found}
    write_atomically(path, json.dumps(result) + "\n")
    (folder / STATE).unlink(missing_ok=True)
    return result


def costs(cells: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Arm -> reading -> what -> how much higher its loss is than that of `across`, in nats, paired by seed:
    mean and 95% interval (Student's) over seeds. What: "all", the mean of the domains; "first", over the
    second to the eighth token of every document; "rest", over those behind; and each domain."""
    of: dict[str, Callable[[Result, str], float]] = {
        "all": mean_loss,
        "first": lambda cell, reading: loss_at(cell, reading, 1, 3),
        "rest": lambda cell, reading: loss_at(cell, reading, 4, len(PLACES) - 1),
        **{d: lambda cell, reading, d=d: loss_at(cell, reading, domains=[d]) for d in DOMAINS},  # type: ignore[misc]
    }
    table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for arm in (arm for arm in cells if arm != "across"):
        pairs = list(zip(cells[arm], cells["across"], strict=True))
        table[arm] = {
            reading: {
                name: over_seeds([number(a, reading) - number(b, reading) for a, b in pairs])
                for name, number in of.items()
            }
            for reading in READINGS
        }
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.packing", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("packing"), help="directory (./packing)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="2 to 8 (0 1 2 3)")
    parser.add_argument("--steps", type=int, default=MIX.plan.steps, help=f"({MIX.plan.steps})")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        require_seeds(options.seeds)
        if options.steps < 1:
            raise ValueError(f"--steps is {options.steps}; it must be at least 1.")
        plan = replace(MIX.plan, steps=options.steps, warmup=min(MIX.plan.warmup, options.steps))
        mix = replace(MIX, plan=plan)
        run = Run(options.out, allow_other_text=options.allow_other_text)
        cells: dict[str, list[Result]] = {arm: [] for arm in ARMS}
        for seed in options.seeds:
            for arm in ARMS:
                result = run_cell(run.out / f"{arm}-{seed}", arm, seed, mix, run)
                cells[arm].append(result)
                told = ", ".join(f"{reading} {mean_loss(result, reading):.3f}" for reading in READINGS)
                print(f"{arm}, seed {seed}: {told} after {result['cpu_seconds']:.0f} s", flush=True)
        study = {
            "seeds": options.seeds,
            "torch": version("torch"),
            "parameters": small_config().num_parameters(),
            "counts": cells["across"][0]["counts"],
            "costs": costs(cells),
            "cells": {
                arm: [{k: v for k, v in cell.items() if k != "counts"} for cell in found]
                for arm, found in cells.items()
            },
        }
        write_atomically(run.out / "packing.json", json.dumps(study) + "\n")
        for arm, readings in study["costs"].items():
            for reading, what in readings.items():
                n = what["all"]
                print(f"{arm:<8} {reading:<16} {n['mean']:+.4f} ({n['low']:+.4f} to {n['high']:+.4f})")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
