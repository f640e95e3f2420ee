"""GRPO, its variants, and rewards from a coin: `python -m qwen3_ref.measure.rewards --out DIR`.

A short cold start of `qwen3-nano-base`, one a seed, learns by rewards in each of several ways, with equal
steps, replies and learning rate: the same queries in the same order, and as many replies to each. All ways
of a seed are scored on the same problems of the test split. Controls: rewards from a coin, and the start
itself. The problems are sums and counts of difficulty 1 to 3: two skills, and short texts, so that a run
of minutes can learn something.
Each cell leaves `result.json` in `DIR/<way>-<seed>`, all of them together `DIR/rewards.json`. What has its
result is not run again; an unfinished cell begins anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qwen3_ref.measure.statistics import pass_at_k
from qwen3_ref.measure.study import kept, require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Qwen3
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import TEST_SEED, Problem, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.queries import Query, Sample, problem_query, read_sample
from qwen3_ref.train.recipes.grpo import Grpo, train_on_rewards
from qwen3_ref.train.recipes.sft import conversation, encode_example, reply_loss
from qwen3_ref.train.rollout import average, per_token, sample_replies, token_log_probs
from qwen3_ref.train.seeds import problems, seeded

ASKED = ("arithmetic", "counting")
HARDEST = 3
START = Plan(steps=65, learning_rate=2e-3, warmup=10, floor=0.1)
"""The cold start: chosen so that about half of the replies are right, and for nothing else."""
ROWS = 32
LONGEST = 64
"""Room for a reply: the longest of the solver's own to such problems has 43 tokens."""
SETTINGS = Grpo(
    steps=16,
    prompts=4,
    group=8,
    minibatches=2,
    learning_rate=1e-4,
    max_new_tokens=LONGEST,
    save_every=1000,
    held_out_every=1000,
)
"""What all ways share. Two updates a step, so that one of them learns from an older policy's replies."""
COIN = "random rewards"
WAYS: dict[str, dict[str, Any]] = {
    "GRPO": {},
    "Dr. GRPO": {"mean": "constant", "by_std": False},
    "DAPO's loss": {"mean": "token", "clip_high": 0.28},
    "GSPO": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    COIN: {},
}
"""Way -> what it changes of SETTINGS. Of DAPO the mean over tokens and the wider upper bound, not its
refilling of groups nor its price for length. GSPO's bounds are those of its authors, as readers of the paper
(arXiv 2507.18071) give them."""
SAMPLES = 8
"""Replies to each problem when a model is scored, at temperature 1."""
LOGGED = ("reward", "right", "tokens right", "tokens wrong", "mixed", "entropy", "clipped")
"""Columns of log.csv that a result keeps, a number a step; null where there was none."""

Result = dict[str, Any]
Reward = Callable[[float], float]
"""From whether a reply is right, 1 or 0, to what is paid."""


def asked(use: str, per_family: int, seed: int) -> list[Problem]:
    """Problems of ASKED up to HARDEST, the same number of each family and difficulty: for one use of
    `seeds.SHARES`, or of the "test" split."""
    found = []
    for family in ASKED:
        # difficulties come in turn, six in most families: half of three times as many are easy enough
        drawn = (
            make_problems(family, "test", 3 * per_family, seed=TEST_SEED)
            if use == "test"
            else problems(use, family, 3 * per_family, seed)
        )
        found += [p for p in drawn if p.difficulty <= HARDEST][:per_family]
    return found


def query(tokenizer: Tokenizer, problem: Problem, reward: Reward) -> Query:
    """The problem's query with another reward; logged is whether the reply is `right` all the same, and its
    tokens, apart for right and wrong ones."""
    true = problem_query(tokenizer, problem)

    def score(sample: Sample) -> tuple[float, Mapping[str, float]]:
        right, _ = true.score(sample)
        logged = {
            "right": right,
            "tokens right": sample.tokens if right else math.nan,
            "tokens wrong": math.nan if right else sample.tokens,
        }
        return reward(right), logged

    return Query(true.prompt, score)


def coin(seed: int) -> Reward:
    """A reward that is 0 or 1 by a coin, whatever was replied."""
    rng = seeded(seed, "coin")
    return lambda right: float(torch.randint(2, (), generator=rng))


# -- a cell ----------------------------------------------------------------------------------------------


def start_of(tokenizer: Tokenizer, folder: Path, seed: int, share: float) -> Qwen3:
    """The model all ways of a seed begin with: made in `folder`, or read from there."""
    if (folder / "model").exists():
        return Qwen3.from_pretrained(folder / "model")
    model = Qwen3.from_pretrained("qwen3-nano-base")
    drawn = asked("cold start", 400, seed)
    examples = [encode_example(tokenizer, conversation(p, p.trace, p.answer)) for p in drawn]
    plan = replace(START, steps=max(1, round(START.steps * share)))
    train(model, plan, reply_loss(examples, tokenizer, ROWS, seed), folder, about={"seed": seed})
    model.eval().save_pretrained(folder / "model", dtype=torch.float32)
    return model


def scores(model: Qwen3, tokenizer: Tokenizer, per_family: int) -> Result:
    """Of SAMPLES replies to each of `per_family` problems of each family of the test split: `right`, how many
    of a problem's are; mean tokens of right and wrong replies; and the entropy at each token, in nats."""
    model.eval()
    queries = [query(tokenizer, p, lambda right: right) for p in asked("test", per_family, 0)]
    prompts = [q.prompt for q in queries for _ in range(SAMPLES)]
    replies = sample_replies(model, tokenizer, prompts, LONGEST, seeded(TEST_SEED, "scores"))
    found = [queries[i // SAMPLES].score(read_sample(tokenizer, ids))[1] for i, ids in enumerate(replies)]
    with torch.inference_mode():
        entropy, counted = per_token(
            model,
            prompts[::SAMPLES],
            replies[::SAMPLES],
            lambda logits, batch: token_log_probs(logits, batch.replies)[1:],
        )
    rights = [round(row["right"]) for row in found]
    lengths = {
        name: statistics.fmean([row[name] for row in found if not math.isnan(row[name])] or [math.nan])
        for name in ("tokens right", "tokens wrong")
    }
    return {
        "right": [sum(rights[i : i + SAMPLES]) for i in range(0, len(rights), SAMPLES)],
        **{name: value if math.isfinite(value) else None for name, value in lengths.items()},
        "entropy": float(average(entropy, counted, "token")),
    }


def run_cell(folder: Path, way: str, seed: int, share: float, count: int, start: Path) -> Result:
    """Learn and score in one way with one seed, or read the result that is there. way "start": the start.

    Raises TrainingError for a result of other settings, and as `loop.train` does.
    """
    settings = replace(SETTINGS, steps=max(1, round(SETTINGS.steps * share)), **WAYS.get(way, {}))
    about = {"way": way, "seed": seed, "count": count, "grpo": asdict(settings), "start": asdict(START)}
    path = folder / "result.json"
    if (result := kept(path, json.loads(json.dumps(about)))) is not None:
        return result
    tokenizer = Tokenizer.from_pretrained("qwen3-nano-base")
    clock = time.process_time()
    log: dict[str, Any] = {}
    model = start_of(tokenizer, start, seed, share)
    if way in WAYS:
        shutil.rmtree(folder, ignore_errors=True)
        reward = coin(seed) if way == COIN else lambda right: right
        queries = [query(tokenizer, p, reward) for p in asked("GRPO", 100, seed)]
        train_on_rewards(model, tokenizer, queries, folder / "run", settings, seed=seed)
        with (folder / "run/log.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for name in LOGGED:
            values = [float(row[name]) for row in rows]
            log[name] = [value if math.isfinite(value) else None for value in values]
    spent = round(time.process_time() - clock, 1)
    result = {"settings": about, "cpu_seconds": spent, **scores(model, tokenizer, count), "log": log}
    write_atomically(path, json.dumps(result) + "\n")
    shutil.rmtree(folder / "run", ignore_errors=True)
    return result


# -- what is compared ------------------------------------------------------------------------------------


def numbers(cell: Result) -> dict[str, float]:
    """pass@1, pass@SAMPLES, entropy, tokens of right and of wrong replies (NaN without one)."""
    right = cell["right"]
    lengths = {
        name: math.nan if cell[name] is None else cell[name] for name in ("tokens right", "tokens wrong")
    }
    return {
        "pass@1": statistics.fmean(right) / SAMPLES,
        f"pass@{SAMPLES}": statistics.fmean(pass_at_k(SAMPLES, n, SAMPLES) for n in right),
        "entropy": cell["entropy"],
        **lengths,
    }


def gains(cells: Mapping[str, Sequence[Result]], over: str) -> dict[str, dict[str, dict[str, float]]]:
    """Each other way less `over`, paired by seed: way -> number of `numbers` -> mean and 95% interval
    (Student's) over seeds. Left out is a number that a cell has not (no reply was wrong)."""
    base = [numbers(cell) for cell in cells[over]]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in (way for way in cells if way != over):
        own = [numbers(cell) for cell in cells[way]]
        changes = {k: [a[k] - b[k] for a, b in zip(own, base, strict=True)] for k in base[0]}
        found[way] = {k: over_seeds(v) for k, v in changes.items() if all(map(math.isfinite, v))}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.rewards", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("rewards"), help="directory (./rewards)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="2 to 8 (0 1 2 3)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps (1)")
    parser.add_argument("--count", type=int, default=40, help="problems a family (40)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        require_seeds(options.seeds)
        if not 0 < options.share <= 100:
            raise ValueError(f"--share is {options.share}; it must be above 0 and at most 100.")
        if options.count < 1:
            raise ValueError(f"--count is {options.count}; it must be at least 1.")
        cells: dict[str, list[Result]] = {way: [] for way in ("start", *WAYS)}
        for seed in options.seeds:
            for way in cells:
                folder = options.out / f"{re.sub('[^A-Za-z]+', '-', way)}-{seed}"
                start = options.out / f"start-{seed}"
                result = run_cell(folder, way, seed, options.share, options.count, start)
                cells[way].append(result)
                one, many = list(numbers(result).values())[:2]
                told = f"pass@1 {one:.1%}, pass@{SAMPLES} {many:.1%} after {result['cpu_seconds']:.0f} s"
                print(f"{way}, seed {seed}: {told}", flush=True)
        study = {
            "seeds": options.seeds,
            "torch": version("torch"),
            "gains": {over: gains(cells, over) for over in ("start", "GRPO")},
            "cells": cells,
        }
        write_atomically(options.out / "rewards.json", json.dumps(study) + "\n")
        for way, found in study["gains"]["start"].items():
            n = found["pass@1"]
            print(f"{way:<16}{n['mean']:+.1%} ({n['low']:+.1%} to {n['high']:+.1%}) of pass@1 over the start")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
