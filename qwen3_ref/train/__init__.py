"""The nano family's training: `python -m qwen3_ref train nano --stage NAME`.

Every stage reads the model that the stage before it left in `OUT/<stage>/model`, and leaves its own
there in the official layout, with `log.csv` (the run) and `summary.json` (seed, versions, time, what
was measured) beside it. A stage that was stopped goes on from its last saved state.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from qwen3_ref.checkpoint import CheckpointError
from qwen3_ref.files import write_atomically
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks import FAMILIES, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import grpo, pretrain, queries, rollout, sft, text
from qwen3_ref.train.checkpoint import STATE, Interrupted, TrainingError
from qwen3_ref.train.loop import Plan, StepLoss, train


@dataclass(frozen=True)
class Run:
    """One reproduction of the family: where it lies, and what every stage shares.

    scale: all step counts times this, for a quick look (the weights are then other ones).
    """

    out: Path
    seed: int = 0
    scale: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    allow_other_text: bool = False

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; it must be above 0 (1 is the whole recipe).")

    @functools.cached_property
    def corpus(self) -> text.Corpus:
        """The pre-training documents by domain."""
        return text.gather(allow_other_text=self.allow_other_text)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The nano tokenizer, learned once and kept in `OUT/tokenizer`."""
        folder = self.out / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            text.train_tokenizer(self.corpus).save_pretrained(folder)
        return Tokenizer.from_pretrained(folder)

    @functools.cached_property
    def streams(self) -> tuple[pretrain.Streams, pretrain.Streams]:
        """The packed train and held-out documents by domain."""
        return pretrain.make_streams(self.tokenizer, self.corpus)

    def plan(self, plan: Plan) -> Plan:
        """A stage's plan at this run's scale and precision."""
        steps = max(1, round(plan.steps * self.scale))
        return replace(plan, steps=steps, warmup=min(plan.warmup, steps), precision=self.precision)

    def model(self, stage: str) -> Qwen3:
        """What a stage left. Raises TrainingError if it has not run."""
        folder = self.out / stage / "model"
        if not (folder / "config.json").exists():
            raise TrainingError(f"{folder} is not there; run --stage {stage} first, or --stage all.")
        return Qwen3.from_pretrained(folder)

    def train(self, stage: str, model: Qwen3, plan: Plan, step_loss: StepLoss) -> None:
        """The shared loop, in the stage's directory."""
        train(model, plan, step_loss, self.out / stage, about={"stage": stage, "seed": self.seed})


StageFunction = Callable[[Run, str], tuple[Qwen3, dict[str, Any]]]
"""(run, stage name) -> the trained model and what was measured, as JSON values."""


def _pretrain(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    stage = pretrain.STAGES[name]
    if name == "s1":
        generator = torch.Generator().manual_seed(run.seed)
        model = Qwen3(pretrain.nano_config(), generator=generator)
    else:
        model = run.model("s1" if name == "s2" else "s2")
    model = pretrain.with_rope_theta(model, stage.rope_theta)
    packed, held_out = run.streams
    before = pretrain.domain_losses(model, held_out)
    loss = pretrain.step_loss(stage, run.tokenizer, packed, run.seed)
    run.train(name, model, run.plan(stage.plan), loss)
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


def _grpo(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    model, folder = run.model("cold-start"), run.out / name
    settings = grpo.Grpo(steps=max(1, round(170 * run.scale)))  # the report's number of steps
    # Queries that the cold start did not use and the model solves sometimes, the hardest first.
    size, seed = _cold_start_size(run), run.seed + 1
    used = {p.prompt for f in FAMILIES for p in make_problems(f, "train", size, seed=seed)}
    size = max(settings.prompts, round(500 * run.scale))
    fresh = queries.problem_queries(run.tokenizer, size, seed=run.seed + 2, exclude=used)
    rates = rollout.mean_rewards(model, run.tokenizer, fresh, samples=4, seed=run.seed)
    pool = queries.learnable(fresh, rates, 4000)
    held_out = queries.problem_queries(run.tokenizer, 50, seed=run.seed, split="validation")
    grpo.run(model, run.tokenizer, pool, folder, settings, seed=run.seed, held_out=held_out)
    return model, {"queries": len(fresh), "learnable": len(pool)}


def _fusion(run: Run, name: str) -> tuple[Qwen3, dict[str, Any]]:
    model = run.model("grpo")
    plan = run.plan(sft.FUSION)
    per_family = max(sft.ROWS, round(1000 * run.scale))
    examples, fates = sft.fusion_examples(model, run.tokenizer, per_family, run.seed)
    run.train(name, model, plan, sft.step_loss(examples, run.tokenizer, sft.ROWS, run.seed))
    return model, {"filters": dict(fates)}


STAGES: dict[str, StageFunction] = {
    "s1": _pretrain,
    "s2": _pretrain,
    "s3": _pretrain,
    "cold-start": _cold_start,
    "grpo": _grpo,
    "fusion": _fusion,
}
"""In the order of `--stage all`."""
EXTRA: dict[str, StageFunction] = {"s3-no-abf": _pretrain}
"""Run by name only: what S3 is without raising theta."""


def run_stage(run: Run, name: str) -> None:
    """Run one stage, or go on with it, and write its model, log and summary.

    Raises TrainingError, in a sentence, for an unknown stage or one whose forerunner has not run.
    """
    stage = (STAGES | EXTRA).get(name)
    if stage is None:
        raise TrainingError(f"there is no stage {name!r}; there are {', '.join([*STAGES, *EXTRA])}, all.")
    folder = run.out / name
    start = time.monotonic()
    model, measured = stage(run, name)
    model.save_pretrained(folder / "model")
    run.tokenizer.save_pretrained(folder / "model")
    summary = {
        "stage": name,
        "seed": run.seed,
        "scale": run.scale,
        "precision": run.precision,
        "seconds": round(time.monotonic() - start, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("torch", "numpy", "tokenizers", *text.PACKAGES)},
        **measured,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    (folder / STATE).unlink(missing_ok=True)


def main(argv: Sequence[str]) -> int:
    """The command `train`; returns the exit code: 0 done, 1 failed, 130 interrupted (and ready to go
    on). Errors are one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="qwen3_ref train", description=__doc__)
    parser.add_argument("family", choices=["nano"])
    parser.add_argument("--stage", default="all", help=f"{', '.join([*STAGES, *EXTRA])}, or all")
    parser.add_argument("--out", type=Path, default=Path("nano"), help="directory (./nano)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="all step counts times this")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")
    options = vars(parser.parse_args(argv))
    stage, _ = options.pop("stage"), options.pop("family")
    try:
        run = Run(**options)
        for name in list(STAGES) if stage == "all" else [stage]:
            if stage == "all" and (run.out / name / "summary.json").exists():
                print(f"{name}: done before")
                continue
            run_stage(run, name)
            seconds = json.loads((run.out / name / "summary.json").read_text("utf-8"))["seconds"]
            print(f"{name}: {run.out / name / 'model'} after {seconds:.0f} s")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0
