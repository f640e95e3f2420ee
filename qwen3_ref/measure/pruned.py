"""What heals a pruned model best: `python -m qwen3_ref.measure.pruned --out DIR`.

Half of the FFN of `qwen3-nano` is cut away, the channels that do least, and the rest is trained again
for about the same CPU time in each of several ways, three of them with the whole model as its teacher.
All ways of a seed ask the same problems, and all are scored on the same problems of the test split.
Controls: channels cut at random, training on the pruned model's own replies, and rewards without a
teacher. Each cell leaves `result.json` in `DIR/<way>-<seed>`, all of them together `DIR/pruned.json`.
What has its result is not run again.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure.accuracy import evaluate
from qwen3_ref.measure.study import kept, require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import MLP, Qwen3
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.queries import MAX_REPLY, Query, problem_queries
from qwen3_ref.train.recipes.distill import Direction, Distill, divergence, train_on_teacher
from qwen3_ref.train.recipes.grpo import Grpo, train_on_rewards
from qwen3_ref.train.rollout import Batch, average, per_token, reply_logits, sample_replies, token_log_probs
from qwen3_ref.train.seeds import seeded
from qwen3_ref.train.state import STATE

WIDTH = 192
"""Channels that are left of each FFN, of 384."""
ROWS, RATE = 16, 3e-4
WAYS: dict[str, list[tuple[str, int]]] = {
    "teacher's words": [("words", 80)],
    "teacher's distributions": [("distributions", 58)],
    "on-policy, reverse KL": [("reverse", 36)],
    "on-policy, forward KL": [("forward", 36)],
    "words, then reverse KL": [("words", 40), ("reverse", 18)],
    "GRPO": [("rewards", 50)],
    "GRPO, faster": [("rewards, faster", 50)],
    "own words": [("own words", 80)],
}
"""Way -> its phases, each of so many steps of ROWS replies, about equal in CPU time. GRPO learns at the
recipe's rate, the faster one at RATE like all others; no rate was tuned."""

Result = dict[str, Any]


# -- cutting ---------------------------------------------------------------------------------------------


@torch.no_grad()
def importance(model: Qwen3, ids: Tensor) -> list[Tensor]:
    """For each layer and channel of its FFN (F,), what it writes into the stream: the mean magnitude of
    its activation over the texts ids (b, t), times the length of its column of `down_proj`."""
    found: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, torch.nn.Linear)
        found.append(inputs[0].abs().mean((0, 1)) * module.weight.norm(dim=0))

    layers = [m for m in model.modules() if isinstance(m, MLP)]
    hooks = [layer.down_proj.register_forward_pre_hook(note) for layer in layers]
    model(ids, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return found


def prune(model: Qwen3, width: int, scores: Sequence[Tensor]) -> Qwen3:
    """The model with the `width` channels of each FFN that score highest, and everything else as it was."""
    tensors = dict(model.state_dict())
    for layer, score in enumerate(scores):
        kept = score.topk(width).indices.sort().values
        for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            key = f"model.layers.{layer}.mlp.{name}.weight"
            tensors[key] = tensors[key].index_select(axis, kept)
    small = Qwen3(replace(model.config, intermediate_size=width))
    small.load_state_dict(tensors)
    return small.eval()


def start_of(teacher: Qwen3, tokenizer: Tokenizer, random_seed: int | None = None) -> Qwen3:
    """The pruned model before any training; with `random_seed`, the control whose channels were drawn."""
    if random_seed is not None:
        layers, width = teacher.config.num_hidden_layers, teacher.config.intermediate_size
        scores = [torch.rand(width, generator=seeded(random_seed, "channels", i)) for i in range(layers)]
        return prune(teacher, WIDTH, scores)
    asked = [query.prompt for query in problem_queries(tokenizer, "validation", 8, 0)]
    replies = sample_replies(teacher, tokenizer, asked, MAX_REPLY, seeded(0, "pruning"))
    texts = [[*prompt, *reply] for prompt, reply in zip(asked, replies, strict=True)]
    shortest = min(map(len, texts))
    return prune(teacher, WIDTH, importance(teacher, torch.tensor([text[:shortest] for text in texts])))


# -- healing ---------------------------------------------------------------------------------------------


def heal(
    phase: str, model: Qwen3, teacher: Qwen3, tokenizer: Tokenizer, queries: Sequence[Query],
    folder: Path, seed: int, steps: int,
) -> None:  # fmt: skip
    """Train the pruned `model` in place by one phase of WAYS. Raises as `loop.train` does."""
    if phase in ("reverse", "forward"):
        direction: Direction = "reverse" if phase == "reverse" else "forward"
        settings = Distill(steps=steps, prompts=ROWS, learning_rate=RATE, direction=direction)
        train_on_teacher(model, teacher, tokenizer, queries, folder, settings, seed=seed)
    elif phase.startswith("rewards"):
        plan = Grpo(steps=steps, prompts=ROWS // 8, group=8, minibatches=1)
        plan = replace(plan, learning_rate=RATE) if phase == "rewards, faster" else plan
        train_on_rewards(model, tokenizer, queries, folder, plan, seed=seed)
    else:
        writer = model if phase == "own words" else teacher
        prompts = [query.prompt for query in queries]
        replies = sample_replies(writer, tokenizer, prompts, MAX_REPLY, seeded(seed, "writer"))
        loss = _TextLoss(prompts, replies, teacher if phase == "distributions" else None, seed)
        text_plan = Plan(steps=steps, learning_rate=RATE, warmup=2, weight_decay=0.0, log_every=1)
        train(model, text_plan, loss, folder, about={"phase": phase, "seed": seed})


class _TextLoss:
    """The loss on finished replies: of their tokens or, with a teacher, of its distribution at each."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[list[int]], teacher: Qwen3 | None, seed: int
    ) -> None:
        self.prompts, self.replies, self.teacher, self.seed = prompts, replies, teacher, seed

    def __call__(self, model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = seeded(self.seed, step, "rows")
        some = torch.randperm(len(self.prompts), generator=rng)[:ROWS].tolist()

        def numbers(logits: Tensor, batch: Batch) -> list[Tensor]:
            if self.teacher is None:
                return [-token_log_probs(logits, batch.replies)[0]]
            with torch.no_grad():
                wanted = reply_logits(self.teacher, batch)
            return [divergence(logits, wanted, "forward")]

        prompts, replies = [self.prompts[i] for i in some], [self.replies[i] for i in some]
        values, counted = per_token(model, prompts, replies, numbers)
        return average(values, counted, "token"), {}


# -- what is measured ------------------------------------------------------------------------------------


def scores(model: Qwen3, teacher: Qwen3, tokenizer: Tokenizer, per_family: int) -> Result:
    """On `per_family` problems of each family of the test split, thinking: `greedy` and `sampled` (at
    temperature 1), 0 or 1 a problem; and over its own replies to them, in nats a token, both divergences
    from the teacher, `forward` and `reverse`, and the model's `entropy`."""
    model.eval()
    problems = [p for family in FAMILIES for p in make_problems(family, "test", per_family, seed=TEST_SEED)]
    how: dict[str, Any] = {"seed": TEST_SEED, "max_new_tokens": MAX_REPLY}
    greedy = evaluate(model, tokenizer, problems, **how)
    sampled = evaluate(model, tokenizer, problems, sampling=Sampling(), **how)
    queries = problem_queries(tokenizer, "validation", max(1, per_family // 3), 0)
    prompts = [query.prompt for query in queries]
    replies = sample_replies(model, tokenizer, prompts, MAX_REPLY, seeded(0, "own replies"))

    def numbers(logits: Tensor, batch: Batch) -> list[Tensor]:
        wanted = reply_logits(teacher, batch)
        both = [divergence(logits, wanted, direction) for direction in ("forward", "reverse")]
        return [*both, token_log_probs(logits, batch.replies)[1]]

    with torch.inference_mode():
        *found, counted = per_token(model, prompts, replies, numbers)
    names = ("forward", "reverse", "entropy")
    return {
        "greedy": [int(row.correct) for row in greedy],
        "sampled": [int(row.correct) for row in sampled],
        **{n: float(average(v, counted, "token")) for n, v in zip(names, found, strict=True)},
    }


def run_cell(folder: Path, way: str, seed: int, share: float, count: int) -> Result:
    """Heal and score in one way with one seed, or read the result that is there."""
    phases = [(name, max(1, round(steps * share))) for name, steps in WAYS[way]]
    path, steps = folder / "result.json", [steps for _, steps in phases]
    settings = {"way": way, "seed": seed, "steps": steps, "count": count}
    if (result := kept(path, settings)) is not None:
        return result
    teacher = Qwen3.from_pretrained("qwen3-nano").eval()
    tokenizer = Tokenizer.from_pretrained("qwen3-nano")
    queries = problem_queries(tokenizer, "on-policy", max(4, 2 * count), seed)
    model, start = start_of(teacher, tokenizer), time.process_time()
    for phase, steps_of in phases:
        heal(phase, model, teacher, tokenizer, queries, folder / phase, seed, steps_of)
    spent = round(time.process_time() - start, 1)
    result = {"settings": settings, "cpu_seconds": spent, **scores(model, teacher, tokenizer, count)}
    write_atomically(path, json.dumps(result) + "\n")
    for phase, _ in phases:
        (folder / phase / STATE).unlink(missing_ok=True)
    return result


def gains(cells: dict[str, list[Result]], over: str, what: str) -> dict[str, dict[str, float]]:
    """Accuracy of each other way less that of `over`, paired by seed: mean and 95% interval (Student's)
    over seeds. `what`: "greedy" or "sampled"."""
    found = {}
    for way in (way for way in cells if way != over):
        pairs = zip(cells[way], cells[over], strict=True)
        values = [statistics.mean(a[what]) - statistics.mean(b[what]) for a, b in pairs]
        found[way] = over_seeds(values)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.pruned", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pruned"), help="directory (./pruned)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="2 to 8 (0 1 2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each way (1)")
    parser.add_argument("--count", type=int, default=60, help="problems a family (60)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        require_seeds(options.seeds)
        if not 0 < options.share <= 100:
            raise ValueError(f"--share is {options.share}; it must be above 0 and at most 100.")
        cells: dict[str, list[Result]] = {way: [] for way in WAYS}
        for seed in options.seeds:
            for way in WAYS:
                folder = options.out / f"{re.sub('[^A-Za-z]+', '-', way)}-{seed}"
                result = run_cell(folder, way, seed, options.share, options.count)
                cells[way].append(result)
                right = " and ".join(f"{statistics.mean(result[w]):.1%}" for w in ("greedy", "sampled"))
                print(f"{way}, seed {seed}: {right} after {result['cpu_seconds']:.0f} s", flush=True)
        teacher = Qwen3.from_pretrained("qwen3-nano").eval()
        tokenizer = Tokenizer.from_pretrained("qwen3-nano")
        models = {
            "teacher": [teacher],
            "pruned": [start_of(teacher, tokenizer)],
            "pruned at random": [start_of(teacher, tokenizer, seed) for seed in options.seeds],
        }
        study = {
            "seeds": options.seeds,
            "torch": version("torch"),
            "width": WIDTH,
            "without training": {
                name: [scores(model, teacher, tokenizer, options.count) for model in some]
                for name, some in models.items()
            },
            "gains": {what: gains(cells, "teacher's words", what) for what in ("greedy", "sampled")},
            "cells": cells,
        }
        write_atomically(options.out / "pruned.json", json.dumps(study) + "\n")
        for way, n in study["gains"]["sampled"].items():
            print(f"{way:<26}{n['mean']:+.1%} ({n['low']:+.1%} to {n['high']:+.1%})")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
