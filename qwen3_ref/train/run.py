"""One reproduction of the family: its directory, and what every stage shares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from qwen3_ref.cache import require_device
from qwen3_ref.model import Qwen3
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import Corpus, gather, train_tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Plan, StepLoss, train
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.state import weights_hash

if TYPE_CHECKING:
    from qwen3_ref.parallel.plan import Ranks

Precision = Literal["fp32", "bf16"]
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What PyTorch calls a CPU's instructions that multiply in bfloat16: two of x86, two of Arm."""


def precision_here(device: str = "cpu") -> tuple[Precision, str]:
    """In what a device trains faster, and why: bfloat16 where it has instructions for it. Elsewhere it is
    imitated, and a step takes several times as long as in float32 (6.7 times on a CPU with AVX2)."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "this GPU multiplies in it"
    if kind != "cpu":
        return "fp32", f"PyTorch tells of no instructions of this device ({device}) for bfloat16"
    # Older PyTorch has no such query.
    query: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = [name for name in _BF16 if query().get(name)]
    if found:
        return "bf16", f"this CPU multiplies in it ({found[0]})"
    return "fp32", "PyTorch tells of no instructions of this CPU for bfloat16"


@dataclass(frozen=True)
class Run:
    """Where a reproduction lies, and its settings.

    scale: all step counts times this, for a quick look (the weights are then other ones); at most 10,
    since the problems end. seed: 0 to 2**32 - 1.
    precision: of pre-training and fine-tuning; reinforcement learning is in float32.
    ranks: on which a model is trained, if on several; every one of them has the same run.
    device: where PyTorch computes. The random numbers are drawn on the CPU, and are the same everywhere.
    """

    out: Path
    seed: int = 0
    scale: float = 1.0
    precision: Precision = "bf16"
    allow_other_text: bool = False
    device: str = "cpu"
    ranks: Ranks | None = None

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 10:  # NaN is neither
            raise ValueError(f"scale is {self.scale}; it must be above 0 and at most 10 (1 is the recipe).")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed!r}; it must be a whole number, 0 to {2**32 - 1}.")
        require_device(self.device)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The pre-training documents by domain."""
        return gather(allow_other_text=self.allow_other_text)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The nano tokenizer, learned once and kept in `OUT/tokenizer`."""
        folder = self.out / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            train_tokenizer(self.corpus).save_pretrained(folder)
        return Tokenizer.from_pretrained(folder)

    @functools.cached_property
    def streams(self) -> tuple[pretrain.Streams, pretrain.Streams]:
        """The packed train and held-out documents by domain."""
        return pretrain.make_streams(self.tokenizer, self.corpus)

    def steps(self, count: int) -> int:
        """A step count at this run's scale."""
        return max(1, round(count * self.scale))

    def plan(self, plan: Plan) -> Plan:
        """A stage's plan at this run's scale and precision."""
        steps = self.steps(plan.steps)
        return replace(plan, steps=steps, warmup=min(plan.warmup, steps), precision=self.precision)

    def model(self, stage: str) -> Qwen3:
        """What a stage left, on the run's device. Raises TrainingError if it has not run."""
        folder = self.out / stage / "model"
        if not (folder / "config.json").exists():
            raise TrainingError(f"{folder} is not there; run --stage {stage} first, or --stage all.")
        return Qwen3.from_pretrained(folder, device=self.device)

    def train(self, stage: str, model: Qwen3, plan: Plan, step_loss: StepLoss, data: object) -> None:
        """The shared loop, in the stage's directory; data: what it learns from, the same on resuming."""
        about = {"stage": stage, "seed": self.seed, "start": weights_hash(model), "data": fingerprint(data)}
        if self.ranks is not None:
            from qwen3_ref.train.parallel import train_on_ranks

            train_on_ranks(model, plan, step_loss, self.out / stage, self.ranks, about=about)
            return
        train(model, plan, step_loss, self.out / stage, about=about)
