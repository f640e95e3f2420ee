"""Small runs of every kind of training and measuring, held against what they gave when the shipped
weights were made: every logged number, every text that is drawn.

Texts must be the same to the letter, numbers within rounding: see `helpers.require_recorded`.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure import accuracy, balance_study
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.documents import look_up_document, maths_documents
from qwen3_ref.tasks.problems import FAMILIES, SPLITS, Problem, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import corpus, queries, rollout, seeds, stages
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.recipes import balance, distill, general_rl, grpo, pretrain, sft
from qwen3_ref.train.run import Run
from tests.helpers import (
    SMALL_GRPO,
    TOKENIZER,
    hard_model,
    harden,
    letter_queries,
    require_recorded,
    shown,
    tiny,
)

PLAN = Plan(steps=4, learning_rate=3e-3, warmup=2, log_every=1)
THREE = replace(SMALL_GRPO, held_out_every=2, learning_rate=1e-2)


@functools.cache
def nano() -> Tokenizer:
    return Tokenizer.from_pretrained(find_nano("qwen3-nano"))


def moe() -> Qwen3:
    sizes: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    model = tiny(model_type="qwen3_moe", norm_topk_prob=True, **sizes)
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.gate.weight *= 20  # choices that rounding does not turn
    return model


def digest(value: Any) -> str:
    text = json.dumps(value, default=lambda v: v.tolist() if isinstance(v, torch.Tensor) else asdict(v))
    return hashlib.sha256(text.encode()).hexdigest()


def table(path: Path) -> list[dict[str, str]]:
    """A log without the times in it."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def moved(model: Qwen3, start: Qwen3) -> dict[str, float]:
    """How far the weights have come from where they began: one number a kind of weight."""
    found: dict[str, float] = {}
    for name, tensor in start.state_dict().items():
        kind = name.rpartition("layers.")[2].lstrip("0123456789.")
        change = (model.state_dict()[name] - tensor).double()
        found[kind] = found.get(kind, 0.0) + float(change.square().sum())
    return {kind: math.sqrt(total) for kind, total in found.items()}


@functools.cache
def streams() -> pretrain.Streams:
    """Documents of very different lengths in every domain."""
    found = {}
    for n, domain in enumerate(corpus.DOMAINS):
        rng = torch.Generator().manual_seed(n)
        ids = torch.randint(2, 900, (9000,), generator=rng)
        ends = torch.rand(9000, generator=rng) < 1 / (40 * (n + 1))
        found[domain] = torch.where(ends, nano().control_tokens["<|endoftext|>"], ids)
    return found


# -- runs ----------------------------------------------------------------------------------------------


def run_pretraining(out: Path) -> Any:
    model, given = tiny(), streams()
    mix = replace(pretrain.MIXES["s2"], context=48, rows=4)
    train(model, PLAN, pretrain.next_token_loss(mix, nano(), given, 3), out)
    held = pretrain.domain_losses(model, given, context=32, tokens=600)
    return [table(out / "log.csv"), moved(model, tiny()), held]


def run_balancing(out: Path) -> Any:
    found = []
    mix = replace(pretrain.MIXES["s1"], context=24, rows=4)
    for options in ({}, {"balancing": "micro"}, {"balancing": "micro", "micro_batches": 2, "z_loss": 0.1}):
        model, folder = moe(), out / str(len(found))
        loss = balance.balanced_loss(mix, nano(), streams(), 1, coefficient=0.3, **options)  # type: ignore[arg-type]
        train(model, replace(PLAN, steps=2), loss, folder)
        found.append([table(folder / "log.csv"), moved(model, moe())])
    return [found, balance_study.held_out_numbers(moe(), streams(), 32)]


def run_fine_tuning(out: Path) -> Any:
    model = tiny()
    examples, fates = sft.cold_start_examples(nano(), 6, 2)
    train(model, PLAN, sft.reply_loss(examples, nano(), 4, 5), out)
    return [fates, digest(examples), table(out / "log.csv"), moved(model, tiny())]


def run_grpo(out: Path) -> Any:
    found = []
    for i, changes in enumerate(({}, {"kl": 0.2, "epochs": 2, "by_std": False, "mean": "constant"})):
        model, folder = hard_model(), out / str(i)
        settings = replace(THREE, **changes)  # type: ignore[arg-type]
        grpo.train_on_rewards(
            model, TOKENIZER, letter_queries(8), folder, settings, seed=3, held_out=letter_queries(4)
        )
        found.append([table(folder / "log.csv"), table(folder / "held_out.csv"), moved(model, hard_model())])
    rates = rollout.mean_rewards(hard_model(), TOKENIZER, letter_queries(3), samples=2, seed=1)
    return [found, rates]


def run_distillation(out: Path) -> Any:
    found = []
    for direction in ("reverse", "forward"):
        student, teacher, folder = hard_model(), hard_model(), out / direction
        harden(teacher, 5)
        settings = distill.Distill(
            steps=3, prompts=6, max_new_tokens=6, save_every=1, held_out_every=2, direction=direction
        )  # type: ignore[arg-type]
        distill.train_on_teacher(
            student,
            teacher,
            TOKENIZER,
            letter_queries(8),
            folder,
            settings,
            seed=2,
            held_out=letter_queries(4),
        )
        found.append(
            [table(folder / "log.csv"), table(folder / "held_out.csv"), moved(student, hard_model())]
        )
    return found


def run_evaluation(out: Path) -> Any:
    problems = make_problems("arithmetic", "test", 3)
    opened: dict[str, list[int]] = {"thinking": [TOKENIZER.control_tokens["<think>"]], "non-thinking": []}
    rows = accuracy.evaluate(
        hard_model(), TOKENIZER, problems, budgets=(2, None), modes=("thinking", "non-thinking"), samples=2,
        sampling=Sampling(), seed=4, max_new_tokens=12, batch_size=4, log=out / "rows.csv",
        early_stop=NANO_EARLY_STOP,
        prompt=lambda problem, mode: [*TOKENIZER.encode(problem.prompt)[:30], *opened[mode]],
    )  # fmt: skip
    return [[asdict(row) for row in rows], (out / "rows.csv").read_text("utf-8").count("\n")]


def run_stages(out: Path) -> Any:
    """Each stage with nothing behind it that works: what it asks for, with which arguments, and returns."""
    asked: list[str] = []

    def noting(name: str, gives: Any) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            words = [*map(shown, given), *(f"{key}={shown(value)}" for key, value in named.items())]
            asked.append(f"{name}({', '.join(words)})")
            return gives

        return call

    problem = Problem("arithmetic", 1, "37+45 mod 100", "37+45=82", "82")
    fates = {"kept": 3}
    replaced: list[tuple[Any, str, Any]] = [
        (pretrain, "domain_losses", {"code": 1.0}), (pretrain, "next_token_loss", "text loss"),
        (pretrain, "retrieval_accuracy", 0.5), (balance, "balanced_loss", "balanced loss"),
        (sft, "cold_start_examples", (["drafts"], fates)), (sft, "reply_loss", "reply loss"),
        (sft, "encode_example", "example"), (queries, "learnable", ["hard"]),
        (queries, "problem_queries", ["query", "other"]), (rollout, "mean_rewards", [0.5, 0.25]),
        (grpo, "train_on_rewards", None), (general_rl, "train_on_tasks", None),
        (distill, "teacher_conversations", ([["said"]], fates)), (distill, "train_on_teacher", None),
        (seeds, "problems", [problem]), (Run, "train", None), (Run, "model", "model of a stage"),
    ]  # fmt: skip
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for module, name, gives in replaced:
            patch.setattr(module, name, noting(name, gives))
        patch.setattr(
            sft, "fusion_examples", lambda *given: noting("fusion_examples", (["own"], fates))(*given)
        )
        for scale in (1.0, 0.01):  # at the second, what each takes at least
            run = Run(out / "run", seed=7, scale=scale, precision="fp32")
            vars(run).update(tokenizer="tokenizer", streams=("packed", "held out"))
            for name, stage in (stages.STAGES | stages.EXTRA).items():
                if scale == 1.0 or stage.mix is None:
                    asked.clear()
                    returned = stage.loss(stage, run, "model")  # type: ignore[arg-type]
                    found[f"{name}, {scale}"] = [*asked, f"-> {shown(returned)}"]
    return found


# -- texts ---------------------------------------------------------------------------------------------


def tasks_of(run_seed: int, **options: Any) -> Any:
    return [
        [t.messages, t.ideal, t.tools, list(t.rewards)]
        for t in general_rl.make_tasks(nano(), 12, run_seed=run_seed, **options)
    ]


def texts(_: Path) -> Any:
    rng = random.Random(5)
    drawn = {
        "maths": maths_documents(4000),
        "look-ups": [look_up_document(rng, lines, 8) for lines in (2, 9, 30)],
        "reasoning": corpus.reasoning_documents(16),
        "tasks": tasks_of(1),
        "tasks, switched": tasks_of(2, switched=True, split="validation"),
        "tasks, length alone": tasks_of(2, limits=general_rl.LENGTH_ALONE),
    }
    for family in FAMILIES:
        for split in SPLITS:
            drawn[f"{family}, {split}"] = make_problems(family, split, 12, seed=1)
    drawn["retrieval, long"] = make_problems("retrieval", "test", 2, 3, lines=40)
    some = [p for family in FAMILIES for p in make_problems(family, "train", 12)]
    drawn["fusion"] = sft.fusion_conversations([(p, p.trace) for p in some[::2]], some[1::2], 3)
    writer = random.Random(1)
    drawn["drafts"] = [sft.draft(problem, writer) for problem in some]
    drawn["queries"] = [q.prompt for q in queries.problem_queries(nano(), "GRPO", 3, 2, flag=" /think")]
    for name, mix in pretrain.MIXES.items():
        small = mix if mix.long_share else replace(mix, context=64)
        drawn[f"rows, {name}"] = pretrain.make_rows(small, nano(), streams(), 1, 2)
    return {name: digest(value) for name, value in drawn.items()}


RUNS: dict[str, Callable[[Path], Any]] = {
    "pre-training": run_pretraining,
    "balancing": run_balancing,
    "fine-tuning": run_fine_tuning,
    "GRPO": run_grpo,
    "distillation": run_distillation,
    "evaluation": run_evaluation,
    "stages": run_stages,
    "texts": texts,
}


@pytest.mark.parametrize("name", RUNS)
def test_as_recorded(name: str, tmp_path: Path) -> None:
    require_recorded(name, RUNS[name](tmp_path))
