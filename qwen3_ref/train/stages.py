"""What each stage of the family starts from, trains on and measures: one table of records.

The dense model goes the whole way of the report: S1 S2 S3, cold start, GRPO, fusion, general RL. The
student has a base of its own and then takes the report's short way, distillation, with direct RL from
the same student beside it. The MoE is pre-trained only: what is to be seen on it is its experts.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from qwen3_ref.config import Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES
from qwen3_ref.train import queries, rollout, seeds
from qwen3_ref.train.corpus import PACKAGES
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Plan, StepLoss
from qwen3_ref.train.names import require_stage
from qwen3_ref.train.recipes import balance, distill, general_rl, grpo, pretrain, sft
from qwen3_ref.train.recipes.distill import Distill
from qwen3_ref.train.recipes.grpo import Grpo
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import STATE

Result = dict[str, Any]
"""What a stage measured, as JSON values."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    base: the stage whose model it starts from; None: new weights of `config`.
    plan: how long and how fast, at scale 1.
    loss: trains the model, in the stage's directory, on what it is about.
    mix, balancing: of pre-training. teacher: the stage whose model teaches. flags: what users add to
    their problems, each time to all of them. limits: on thoughts, in general RL. keep: models are kept
    on the way, so that they can be measured on the test split.
    """

    name: str
    base: str | None
    plan: Plan | Grpo | Distill
    loss: Callable[[Stage, Run, Qwen3], Result]
    config: Callable[[], Qwen3Config] | None = None
    mix: pretrain.Mix | None = None
    balancing: balance.Balancing | None = None
    teacher: str | None = None
    flags: tuple[str, ...] = ("",)
    limits: general_rl.Limits = general_rl.ENOUGH
    keep: bool = False

    def start(self, run: Run) -> Qwen3:
        """The model before the first step. Raises TrainingError if the stage's base has not run."""
        if self.base is not None:
            return run.model(self.base)
        assert self.config is not None
        generator = seeds.seeded(seeds.seed(run.seed, "weights"))
        return Qwen3(self.config(), generator=generator, device=run.device)

    def steps(self, run: Run) -> int:
        """Steps (of RL: batches of replies) at a run's scale."""
        return run.steps(self.plan.steps)

    def drawn(self, run: Run, summary: Result) -> int:
        """Replies that a stage of RL or distillation drew to learn from, the model's own or its teacher's:
        what it costs, whatever machine it runs on. summary: what the stage left."""
        if isinstance(self.plan, Plan):
            return sum(summary["replies"].values())
        steps, plan = self.steps(run), self.plan
        if isinstance(plan, Distill):
            return steps * plan.prompts
        before = PASS_RATE_REPLIES * summary["queries"] if "learnable" in summary else 0
        return steps * plan.prompts * plan.group + before


# -- the losses ----------------------------------------------------------------------------------------


def _next_token(stage: Stage, run: Run, model: Qwen3) -> Result:
    """Every next token of the stage's mix of text, with balanced experts if it has any."""
    mix = stage.mix
    assert mix is not None and isinstance(stage.plan, Plan)
    packed, held_out = run.streams
    before = pretrain.domain_losses(model, held_out)
    loss: StepLoss
    seed = seeds.seed(run.seed, "rows")
    if stage.balancing is None:
        loss = pretrain.next_token_loss(mix, run.tokenizer, packed, seed)
    else:
        loss = balance.balanced_loss(mix, run.tokenizer, packed, seed, balancing=stage.balancing)
    run.train(stage.name, model, run.plan(stage.plan), loss, [mix, packed])
    lengths = [pretrain.MIXES["s1"].context * n for n in (1, 2, 4)]
    return {
        "loss_before": before,
        "loss_after": pretrain.domain_losses(model, held_out),
        "retrieval": {n: pretrain.retrieval_accuracy(model, run.tokenizer, n) for n in lengths},
    }


def _learn(stage: Stage, run: Run, model: Qwen3, examples: list[sft.Example]) -> None:
    assert isinstance(stage.plan, Plan)
    seed = seeds.seed(run.seed, f"{stage.name.replace('cold-start', 'cold start')}: order")
    loss = sft.reply_loss(examples, run.tokenizer, sft.ROWS, seed)
    run.train(stage.name, model, run.plan(stage.plan), loss, [sft.ROWS, examples])


def _cold_start_size(run: Run) -> int:
    """Problems of a family; a third fails the filters, so that no problem comes twice."""
    return 2 * sft.ROWS * run.steps(sft.COLD_START.steps) // len(FAMILIES)


def _drafts(stage: Stage, run: Run, model: Qwen3) -> Result:
    """Solved problems with their reasoning, after the report's filters."""
    examples, fates = sft.cold_start_examples(run.tokenizer, _cold_start_size(run), run.seed)
    _learn(stage, run, model, examples)
    return {"filters": dict(fates)}


PASS_RATE_REPLIES = 4
"""To each fresh query of GRPO, to see whether it can be learned from."""
POOL = 600
"""Queries that GRPO learns from, of those that are learnable the hardest; the report has 3,995."""


def _right_answers(stage: Stage, run: Run, model: Qwen3) -> Result:
    """GRPO on queries that the model has not seen and solves sometimes, the hardest first."""
    assert isinstance(stage.plan, Grpo)
    settings = replace(stage.plan, steps=stage.steps(run))
    size = max(settings.prompts, round(500 * run.scale))
    fresh = queries.problem_queries(run.tokenizer, "GRPO", size, run.seed)
    seed = seeds.seed(run.seed, "GRPO: pass rates")
    rates = rollout.mean_rewards(model, run.tokenizer, fresh, samples=PASS_RATE_REPLIES, seed=seed)
    pool = queries.learnable(fresh, rates, max(settings.prompts, round(POOL * run.scale)))
    held_out = queries.problem_queries(run.tokenizer, "validation", 40, run.seed)
    grpo.train_on_rewards(
        model, run.tokenizer, pool, run.out / stage.name, settings,
        seed=seeds.seed(run.seed, "GRPO: replies"), held_out=held_out, keep=stage.keep,
    )  # fmt: skip
    return {"queries": len(fresh), "learnable": sum(0 < rate < 1 for rate in rates), "pool": len(pool)}


def _both_modes(stage: Stage, run: Run, model: Qwen3) -> Result:
    """Both modes, and the form of a tool call: as in the report, RL comes to it with a beginning."""
    per_family = max(sft.ROWS, round(800 * run.scale))
    examples, fates = sft.fusion_examples(model, run.tokenizer, per_family, run.seed)
    sums = seeds.problems("tool calls", "arithmetic", 5 * per_family // 2, run.seed)
    calls = [general_rl.tool_call(problem) for problem in sums]
    examples += [sft.encode_example(run.tokenizer, [*t.messages, t.ideal], t.tools) for t in calls]
    _learn(stage, run, model, examples)
    return {"filters": dict(fates), "tool_calls": len(calls)}


def _rules(stage: Stage, run: Run, model: Qwen3) -> Result:
    """GRPO on what a user notices besides the right answer."""
    assert isinstance(stage.plan, Grpo)
    settings = replace(stage.plan, steps=stage.steps(run))
    per_kind = max(settings.prompts, round(500 * run.scale))
    general_rl.train_on_tasks(
        model, run.tokenizer, run.out / stage.name, settings,
        per_kind=per_kind, run_seed=run.seed, limits=stage.limits,
    )  # fmt: skip
    return {"queries": 4 * per_kind}


def _teachers_replies(stage: Stage, run: Run, model: Qwen3) -> Result:
    """What the teacher wrote, in both modes."""
    assert stage.teacher is not None
    count = max(sft.ROWS, round(960 * run.scale))
    columns = [seeds.problems("off-policy", f, count, run.seed) for f in FAMILIES]
    problems = [p for column in columns for p in column]
    teacher = run.model(stage.teacher)
    found, fates = distill.teacher_conversations(teacher, run.tokenizer, problems, run_seed=run.seed)
    _learn(stage, run, model, [sft.encode_example(run.tokenizer, messages) for messages in found])
    return {"replies": dict(fates)}


def _teachers_word(stage: Stage, run: Run, model: Qwen3) -> Result:
    """The teacher's distribution at each token of the student's own replies."""
    assert stage.teacher is not None and isinstance(stage.plan, Distill)
    settings = replace(stage.plan, steps=stage.steps(run))
    asked, held_out = [], []
    for flag in stage.flags:
        size = max(settings.prompts, round(400 * run.scale))
        asked += queries.problem_queries(run.tokenizer, "on-policy", size, run.seed, flag=flag)
        held_out += queries.problem_queries(run.tokenizer, "validation", 15, run.seed, flag=flag)
    distill.train_on_teacher(
        model, run.model(stage.teacher), run.tokenizer, asked, run.out / stage.name, settings,
        seed=seeds.seed(run.seed, "on-policy: replies"), held_out=held_out,
    )  # fmt: skip
    return {"queries": len(asked)}


# -- the table -----------------------------------------------------------------------------------------


def _pretraining(
    prefix: str, config: Callable[[], Qwen3Config], share: float = 1.0, balancing: Any = None
) -> list[Stage]:
    """S1, S2 and S3 of one model, for a share of the dense model's steps."""
    stages, base = [], None
    for name in ("s1", "s2", "s3"):
        mix = pretrain.MIXES[name]
        plan = replace(mix.plan, steps=round(mix.plan.steps * share))
        new = None if base else config
        stages.append(Stage(prefix + name, base, plan, _next_token, new, mix, balancing))
        base = prefix + name
    return stages


EVERY_FLAG = (" /think", " /no_think", "")
"""No flag is thinking too, and is how one asks (`measure.accuracy.PROTOCOL`)."""
MOE_SHARE = 0.3
"""The MoE takes this share of the dense model's steps: enough for its experts to part."""


def _table(*stages: Stage) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


STAGES = _table(
    *_pretraining("", pretrain.nano_config),
    Stage("cold-start", "s3", sft.COLD_START, _drafts),
    Stage("grpo", "cold-start", Grpo(), _right_answers, keep=True),
    Stage("fusion", "grpo", sft.FUSION, _both_modes),
    Stage("general-rl", "fusion", Grpo(steps=general_rl.STEPS), _rules),
    *_pretraining("student-", pretrain.student_config),
    Stage("off-policy", "student-s3", sft.COLD_START, _teachers_replies, teacher="general-rl"),
    Stage("on-policy", "off-policy", Distill(), _teachers_word, teacher="general-rl", flags=EVERY_FLAG),
    *_pretraining("moe-", pretrain.moe_config, MOE_SHARE, "global"),
)
"""In the order of `--stage all`, which is that of `names`."""
EXTRA = _table(
    replace(STAGES["s3"], name="s3-no-abf", mix=pretrain.MIXES["s3-no-abf"]),
    replace(STAGES["on-policy"], name="on-policy-forward", plan=Distill(direction="forward")),
    Stage("student-rl", "off-policy", Grpo(), _right_answers),
    replace(STAGES["general-rl"], name="general-rl-length-alone", limits=general_rl.LENGTH_ALONE),
)
"""Run by name only, to compare with: S3 without raising theta, the other KL, RL instead of distillation,
general RL that pays a short thought without asking what it led to."""
SHIPPED = {
    "qwen3-nano": "general-rl",
    "qwen3-nano-base": "s3",
    "qwen3-nano-moe": "moe-s3",
    "qwen3-nano-student": "on-policy",
}
"""The checkpoints that the package has, and the stages they come from."""
BASES = tuple(name for name, stage in SHIPPED.items() if STAGES[stage].mix is not None)
"""Those of them that were pre-trained and nothing else."""


def find_stage(name: str) -> Stage:
    """A stage by name. Raises TrainingError, naming the nearest, for one that does not exist."""
    require_stage(name)
    return (STAGES | EXTRA)[name]


def run_stage(run: Run, name: str) -> None:
    """Run one stage, or go on with it, and write its model, log and summary.

    Raises TrainingError, in a sentence, for an unknown stage or one whose forerunner has not run.
    """
    stage = find_stage(name)
    if run.ranks is not None and not isinstance(stage.plan, Plan):
        raise TrainingError(
            f"{name} learns from replies that it draws, which one process does; run it without --parallel."
        )
    folder = run.out / name
    spent = folder / "seconds.json"  # of the calls before this one, if the stage was stopped
    before = json.loads(spent.read_text("utf-8")) if spent.exists() else [0.0, 0.0]
    wall, cpu = time.monotonic() - before[0], time.process_time() - before[1]
    try:
        model = stage.start(run)
        if stage.mix is not None:
            model = pretrain.with_rope_theta(model, stage.mix.rope_theta)
        measured = stage.loss(stage, run, model)
    except BaseException:
        if folder.is_dir():
            write_atomically(spent, json.dumps([time.monotonic() - wall, time.process_time() - cpu]))
        raise
    if run.ranks is not None and run.ranks.rank:
        return  # the first rank writes
    model.save_pretrained(folder / "model")
    run.tokenizer.save_pretrained(folder / "model")
    summary = {
        "stage": name,
        "seed": run.seed,
        "scale": run.scale,
        "precision": run.precision,
        **({} if run.ranks is None else {"mesh": str(run.ranks.mesh)}),
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else str(model.device),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("torch", "numpy", "tokenizers", *PACKAGES)},
        **measured,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    for left in (spent, folder / STATE, folder / "state.json"):
        left.unlink(missing_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)  # of several ranks
