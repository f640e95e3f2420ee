"""What each stage of the family starts from, trains on and measures.

The dense model goes the whole way of the report: S1 S2 S3, cold start, GRPO, fusion, general RL. The
student has a base of its own and then takes the report's short way, distillation, with direct RL from
the same student beside it. The MoE is pre-trained only: what is to be seen on it is its experts.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES, make_problems
from qwen3_ref.train import corpus as text
from qwen3_ref.train import queries, rollout
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.recipes import balance, distill, general_rl, grpo, pretrain, sft
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import STATE

StageFunction = Callable[[Run, str], tuple[Qwen3, dict[str, Any]]]
"""(run, stage name) -> the trained model and what was measured, as JSON values."""

MOE_SHARE = 0.4
"""The MoE takes this share of the dense model's steps: enough for its experts to part."""


def _pretrain(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    family, _, stage_name = name.rpartition("-") if name.startswith(("student-", "moe-")) else ("", "", name)
    stage = pretrain.STAGES[stage_name]
    prefix = family and family + "-"
    if stage_name == "s1":
        config = {"": pretrain.nano_config, "student": pretrain.student_config, "moe": pretrain.moe_config}
        model = Qwen3(config[family](), generator=torch.Generator().manual_seed(run.seed))
    else:
        model = run.model(prefix + ("s1" if stage_name == "s2" else "s2"))
    model = pretrain.with_rope_theta(model, stage.rope_theta)
    packed, held_out = run.streams
    before = pretrain.domain_losses(model, held_out)
    plan = run.plan(stage.plan)
    if family == "moe":
        steps = max(1, round(plan.steps * MOE_SHARE))
        plan = replace(plan, steps=steps, warmup=min(plan.warmup, steps))
        loss = balance.step_loss(stage, run.tokenizer, packed, run.seed, balancing="global")
    else:
        loss = pretrain.step_loss(stage, run.tokenizer, packed, run.seed)
    run.train(name, model, plan, loss)
    lengths = [pretrain.STAGES["s1"].context * n for n in (1, 2, 4)]
    return model, {
        "loss_before": before,
        "loss_after": pretrain.domain_losses(model, held_out),
        "retrieval": {n: pretrain.retrieval_accuracy(model, run.tokenizer, n) for n in lengths},
    }


def _cold_start_size(run: Run) -> int:
    """Problems of a family; a third fails the filters, so that no problem comes twice."""
    return 2 * sft.ROWS * run.plan(sft.COLD_START).steps // 4


def _cold_start(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    model = run.model("s3")
    plan = run.plan(sft.COLD_START)
    examples, fates = sft.cold_start_examples(run.tokenizer, _cold_start_size(run), run.seed)
    run.train(name, model, plan, sft.step_loss(examples, run.tokenizer, sft.ROWS, run.seed))
    return model, {"filters": dict(fates)}


def _reasoning_rl(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    """GRPO on queries that the model has not seen and solves sometimes, the hardest first."""
    student = name == "student-rl"
    model, flag = run.model("off-policy" if student else "cold-start"), " /think" if student else ""
    settings = grpo.Grpo(steps=run.steps(grpo.Grpo.steps))
    size, seed = _cold_start_size(run), run.seed + 1
    used = {p.prompt for f in FAMILIES for p in make_problems(f, "train", size, seed=seed)}
    size = max(settings.prompts, round(500 * run.scale))
    fresh = queries.problem_queries(run.tokenizer, size, seed=run.seed + 2, exclude=used, flag=flag)
    rates = rollout.mean_rewards(model, run.tokenizer, fresh, samples=4, seed=run.seed)
    pool = queries.learnable(fresh, rates, 4000)
    held_out = queries.problem_queries(run.tokenizer, 50, seed=run.seed, split="validation", flag=flag)
    keep = not student  # so that accuracy by step can be measured on the test split
    grpo.run(
        model, run.tokenizer, pool, run.out / name, settings, seed=run.seed, held_out=held_out, keep=keep
    )
    return model, {"queries": len(fresh), "learnable": len(pool)}


def _fusion(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    """Both modes, and the form of a tool call: as in the report, RL comes to it with a beginning."""
    model = run.model("grpo")
    plan = run.plan(sft.FUSION)
    per_family = max(sft.ROWS, round(1000 * run.scale))
    examples, fates = sft.fusion_examples(model, run.tokenizer, per_family, run.seed)
    sums = make_problems("arithmetic", "train", 2 * per_family, seed=run.seed + 3)
    calls = [general_rl.tool_call(problem) for problem in sums]
    examples += [sft.encode_example(run.tokenizer, [*t.messages, t.ideal], t.tools) for t in calls]
    run.train(name, model, plan, sft.step_loss(examples, run.tokenizer, sft.ROWS, run.seed))
    return model, {"filters": dict(fates), "tool_calls": len(calls)}


def _general_rl(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    model = run.model("fusion")
    settings = grpo.Grpo(steps=run.steps(general_rl.STEPS))
    per_kind = max(settings.prompts, round(500 * run.scale))
    general_rl.run(
        model, run.tokenizer, run.out / name, settings, per_kind=per_kind, seed=run.seed + 4
    )
    return model, {"queries": 4 * per_kind}


def _off_policy(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    teacher, model = run.model("general-rl"), run.model("student-s3")
    plan = run.plan(sft.COLD_START)
    count = max(sft.ROWS, round(1200 * run.scale))
    columns = [make_problems(f, "train", count, seed=run.seed + 5) for f in FAMILIES]
    problems = [p for column in columns for p in column]
    found, fates = distill.teacher_conversations(teacher, run.tokenizer, problems, seed=run.seed)
    examples = [sft.encode_example(run.tokenizer, messages) for messages in found]
    run.train(name, model, plan, sft.step_loss(examples, run.tokenizer, sft.ROWS, run.seed))
    return model, {"replies": dict(fates)}


def _on_policy(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    teacher, model = run.model("general-rl"), run.model("off-policy")
    direction: distill.Direction = "forward" if name.endswith("forward") else "reverse"
    settings = distill.Distill(steps=run.steps(distill.Distill.steps), direction=direction)
    asked, held_out = [], []
    for flag in (" /think", " /no_think"):
        size = max(settings.prompts, round(500 * run.scale))
        asked += queries.problem_queries(run.tokenizer, size, seed=run.seed + 2, flag=flag)
        held_out += queries.problem_queries(run.tokenizer, 25, seed=run.seed, split="validation", flag=flag)
    distill.run(
        model, teacher, run.tokenizer, asked, run.out / name, settings, seed=run.seed, held_out=held_out
    )
    return model, {"queries": len(asked)}


STAGES: dict[str, StageFunction] = {
    "s1": _pretrain,
    "s2": _pretrain,
    "s3": _pretrain,
    "cold-start": _cold_start,
    "grpo": _reasoning_rl,
    "fusion": _fusion,
    "general-rl": _general_rl,
    "student-s1": _pretrain,
    "student-s2": _pretrain,
    "student-s3": _pretrain,
    "off-policy": _off_policy,
    "on-policy": _on_policy,
    "moe-s1": _pretrain,
    "moe-s2": _pretrain,
    "moe-s3": _pretrain,
}
"""In the order of `--stage all`."""
EXTRA: dict[str, StageFunction] = {
    "s3-no-abf": _pretrain,
    "on-policy-forward": _on_policy,
    "student-rl": _reasoning_rl,
}
"""Run by name only, to compare with: S3 without raising theta, the other KL, RL instead of distillation."""
SHIPPED = {
    "qwen3-nano": "general-rl",
    "qwen3-nano-base": "s3",
    "qwen3-nano-moe": "moe-s3",
    "qwen3-nano-student": "on-policy",
}
"""The checkpoints that the package has, and the stages they come from."""
ALL, FAMILY = "all", "family"
NAMES = f"{', '.join([*STAGES, *EXTRA])}; {ALL}; {FAMILY}"


def run_stage(run: Run, name: str) -> None:
    """Run one stage, or go on with it, and write its model, log and summary.

    Raises TrainingError, in a sentence, for an unknown stage or one whose forerunner has not run.
    """
    stage = (STAGES | EXTRA).get(name)
    if stage is None:
        raise TrainingError(f"there is no stage {name!r}; there are {NAMES}.")
    folder = run.out / name
    spent = folder / "seconds.json"  # of the calls before this one, if the stage was stopped
    before = json.loads(spent.read_text("utf-8")) if spent.exists() else [0.0, 0.0]
    wall, cpu = time.monotonic() - before[0], time.process_time() - before[1]
    try:
        model, measured = stage(run, name)
    except BaseException:
        if folder.is_dir():
            write_atomically(spent, json.dumps([time.monotonic() - wall, time.process_time() - cpu]))
        raise
    model.save_pretrained(folder / "model")
    run.tokenizer.save_pretrained(folder / "model")
    summary = {
        "stage": name,
        "seed": run.seed,
        "scale": run.scale,
        "precision": run.precision,
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("torch", "numpy", "tokenizers", *text.PACKAGES)},
        **measured,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    for left in (spent, folder / STATE):
        left.unlink(missing_ok=True)
