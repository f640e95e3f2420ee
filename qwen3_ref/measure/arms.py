"""The arms of the decisions lab: small models that differ in one thing each, and how each is trained.

Every arm takes a folder and a seed and gives back numbers. Arms that are compared have the same matrices
at the start, read the same rows in as many steps, and are measured on the same held-out text. What
changes the model (biases, no QK-Norm, a shared expert, no positions) is a patch here, and no option of
`model.py`. Losses are in nats a token.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qwen3_ref.measure.accuracy import Mode, evaluate
from qwen3_ref.measure.qk_norm import make_variant
from qwen3_ref.model import MLP, Attention, Block, Qwen3, SparseMoe, Trace
from qwen3_ref.quantize.model import round_model
from qwen3_ref.quantize.rounding import Grid
from qwen3_ref.rope import frequencies
from qwen3_ref.tasks.numbers import LANGUAGES
from qwen3_ref.tasks.problems import (
    DIGITS,
    FAMILIES,
    HELD_OUT_PAIRS,
    PAIRS,
    TEST_SEED,
    Problem,
    make_problems,
)
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.errors import NotFinite
from qwen3_ref.train.loop import IGNORE, Plan, StepLoss, cross_entropy, train
from qwen3_ref.train.queries import MAX_REPLY
from qwen3_ref.train.recipes import balance, pretrain, sft
from qwen3_ref.train.run import Run
from qwen3_ref.train.seeds import problems, seeded
from qwen3_ref.train.state import STATE

Numbers = dict[str, float]
"""What is measured of one arm, by name."""
Rows = Callable[[int], Tensor]
"""A step's ids (rows, context + 1)."""

HELD_OUT = 4096
"""Tokens of each domain that are measured on."""
LONG_ROWS = 8
"""Long held-out rows that are measured on, of 1,024 tokens."""
FAR = 256
"""From which place on a token counts as far into a long row: the length of all rows but the long ones."""


# -- models ----------------------------------------------------------------------------------------------


class SharedMoe(SparseMoe):
    """Routed experts and one that every token goes through, as in DeepSeekMoE (arXiv 2401.06066)."""

    def __init__(self, model: Qwen3, width: int) -> None:
        super().__init__(model.config)
        self.shared = MLP(replace(model.config, intermediate_size=width))

    def forward(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """(b, t, D) -> (b, t, D)."""
        return super().forward(x, trace) + self.shared(x)


def small_config(hidden_size: int) -> dict[str, object]:
    """Sizes of the nano's proportions: 4 heads of half the width each, an FFN three times as wide."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "head_dim": hidden_size // 2,
    }


def watch_logits(model: Qwen3, note: Callable[[float], None]) -> None:
    """Tell `note` the largest magnitude of an attention logit of each layer that runs fused."""

    def watched(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            with torch.no_grad():
                keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
                note(float((q @ keys.mT).tril().abs().amax()) * q.shape[-1] ** -0.5)
            return attend(q, k, v, mask)

        return run

    for attention in (m for m in model.modules() if isinstance(m, Attention)):
        attention.attend = watched(attention.attend)


# -- what is measured --------------------------------------------------------------------------------------


@torch.inference_mode()
def far_loss(model: Qwen3, rows: Tensor) -> float:
    """Loss of the tokens from place FAR on in long rows (n, t + 1)."""
    targets = rows[:, 1:].clone()
    targets[:, :FAR] = IGNORE
    parts = zip(rows.split(2), targets.split(2), strict=True)
    return statistics.mean(float(cross_entropy(model(some[:, :-1]), wanted)) for some, wanted in parts)


def unigram_loss(lab: Lab) -> float:
    """Held-out loss of knowing only how common each token is, the mean of the domains: who is above it has
    learned nothing."""
    counts = torch.ones(lab.vocab_size, dtype=torch.float64)
    for stream in lab.train.values():  # each domain weighs the same, as in training
        counts += stream.bincount(minlength=lab.vocab_size) / len(stream) * 1e6
    log = (counts / counts.sum()).log()
    return statistics.mean(float(-log[text[:HELD_OUT]].mean()) for text in lab.held_out.values())


@dataclass(frozen=True)
class Lab:
    """Where the arms lie, and what they share: the tokenizer, and packed text by domain, to train on and held
    out."""

    out: Path
    tokenizer: Tokenizer
    train: pretrain.Streams
    held_out: pretrain.Streams

    @classmethod
    def of(cls, run: Run) -> Lab:
        """With the text of the nano's recipe."""
        return cls(run.out, run.tokenizer, *run.streams)

    @property
    def vocab_size(self) -> int:
        """Ids of the models, those that no text has among them."""
        return pretrain.nano_config().vocab_size

    @functools.cached_property
    def long_rows(self) -> Tensor:
        """Held-out rows of 1,024 tokens (LONG_ROWS, 1,025), made as those of S3."""
        mix = replace(pretrain.MIXES["s3"], rows=LONG_ROWS)
        return pretrain.make_rows(mix, self.tokenizer, self.held_out, TEST_SEED, 0)

    @functools.cached_property
    def unigram(self) -> float:
        """`unigram_loss` of this text."""
        return unigram_loss(self)


def learn(
    model: Qwen3, plan: Plan, loss: StepLoss, folder: Path, settings: Mapping[str, object]
) -> tuple[float, bool]:
    """Train in place; CPU seconds (of this call), and whether all numbers stayed finite."""
    start = time.process_time()
    try:
        train(model, plan, loss, folder, about=settings)
    except NotFinite:
        return time.process_time() - start, False
    finally:
        model.eval()
    (folder / STATE).unlink(missing_ok=True)
    return time.process_time() - start, True


# -- an arm of pre-training --------------------------------------------------------------------------------

EVENLY = pretrain.Mix(
    context=128,
    rows=8,
    mixture=dict.fromkeys(DOMAINS, 1 / len(DOMAINS)),
    plan=Plan(steps=120, learning_rate=4e-3, warmup=16),
)
"""What most arms read: 1,024 tokens a step, as many of each domain that the lab has."""
STAGES = {"s1": 30, "s2": 55, "s3": 15}
"""Steps of each stage where there are stages, all of 2,048 tokens: the proportions of the nano's recipe are
160 : 840 : 40; S1 and S3 would be too short here."""
_ROWS = {"s1": 8, "s2": 8, "s3": 2}
RAISED = 1_000_000.0
"""The RoPE base of S3 (report section 3.2)."""


def stage_rows(lab: Lab, seed: int, order: str) -> Rows:
    """Rows of STAGES in order; the very same in an order drawn once ("mixed"); or of S3's length from the
    start, of the same mean mixture of domains ("long")."""
    mixes = {name: replace(pretrain.MIXES[name], rows=_ROWS[name]) for name in STAGES}
    places = [(name, step) for name, steps in STAGES.items() for step in range(steps)]
    if order == "mixed":
        drawn = torch.randperm(len(places), generator=seeded(seed, "stages")).tolist()
        places = [places[i] for i in drawn]
    if order == "long":
        total = sum(STAGES.values())
        mean = {d: sum(mixes[n].mixture[d] * s for n, s in STAGES.items()) / total for d in DOMAINS}
        mixes = dict.fromkeys(STAGES, replace(mixes["s3"], mixture=mean))

    def rows(step: int) -> Tensor:
        name, at = places[step]
        return pretrain.make_rows(mixes[name], lab.tokenizer, lab.train, seed, at + 1000 * (name == "s2"))

    return rows


@dataclass(frozen=True)
class Text:
    """A small model trained on text of the four domains from new weights.

    variant: of `qk_norm.make_variant`. order: "evenly" reads EVENLY, the others STAGES, see `stage_rows`.
    theta: the RoPE base, 0 for no positions; later: the base from S3 on, if another. experts: number, those
    a token takes, the width of each, and of one that is shared (0: none); balanced over the global batch.
    loud: by how much the routed experts' output matrices are larger at the start.
    """

    hidden_size: int = 64
    learning_rate: float = 4e-3
    steps: int = 120
    variant: str = "qk-norm"
    order: Literal["evenly", "in order", "mixed", "long"] = "evenly"
    theta: float = 10_000.0
    later: float | None = None
    experts: tuple[int, int, int, int] | None = None
    width: int | None = None
    loud: float = 1.0

    def make(self, seed: int) -> Qwen3:
        """The untrained model."""
        sizes = small_config(self.hidden_size)
        if self.width is not None:
            sizes["intermediate_size"] = self.width
        if self.experts is None:
            model = make_variant(self.variant, seed, pretrain.nano_config(**sizes))
        else:
            count, chosen, width, shared = self.experts
            sizes |= {"num_experts": count, "num_experts_per_tok": chosen, "moe_intermediate_size": width}
            model = Qwen3(pretrain.moe_config(**sizes), generator=torch.Generator().manual_seed(seed))
            if shared:
                for block in (m for m in model.modules() if isinstance(m, Block)):
                    block.mlp = SharedMoe(model, shared)
                model.reset_parameters(torch.Generator().manual_seed(seed))
            with torch.no_grad():
                for layer in (m for m in model.modules() if isinstance(m, SparseMoe)):
                    layer.experts.down_proj.mul_(self.loud)
        turn(model, self.theta)
        return model

    def run(self, lab: Lab, folder: Path, seed: int) -> Numbers:
        """Train and measure."""
        model, largest = self.make(seed), [0.0]
        plan = replace(
            EVENLY.plan, steps=self.steps, learning_rate=self.learning_rate, warmup=min(16, self.steps // 4)
        )
        evenly = dict.fromkeys(lab.train, 1 / len(lab.train))
        mix = replace(EVENLY, plan=plan, mixture=evenly)
        loss = pretrain.next_token_loss(mix, lab.tokenizer, lab.train, seed)
        if self.order != "evenly":
            loss = self._staged(lab, seed)
        elif self.experts is not None:
            loss = balance.balanced_loss(mix, lab.tokenizer, lab.train, seed)
        else:
            watch_logits(model, lambda value: largest.append(max(largest.pop(), value)))
        seconds, finite = learn(model, plan, loss, folder, {"arm": repr(self), "seed": seed})
        if not finite:
            return {"cpu_seconds": seconds, "loss": math.inf, "logit": largest[0], "diverged": 1.0}
        found = pretrain.domain_losses(model, lab.held_out, 128, HELD_OUT)
        mean = statistics.mean(found.values())
        numbers = {"cpu_seconds": seconds, "loss": mean, **{f"loss {d}": x for d, x in found.items()}}
        every = sum(parameter.numel() for parameter in model.parameters())
        numbers["parameters"] = every - model.config.num_embedding_parameters()
        if self.order != "evenly":
            return numbers | {"far loss": far_loss(model, lab.long_rows)}
        if self.experts is not None:
            counts = balance.count_by_domain(model, lab.held_out, 128, HELD_OUT)
            return numbers | {"specialisation": balance.specialisation(counts)[1]}
        numbers |= {"logit": largest[0], "diverged": float(mean > lab.unigram)}
        for bits in (8, 4):
            rounded, _ = round_model(model, Grid(bits, math.gcd(16, self.hidden_size), symmetric=False))
            losses = pretrain.domain_losses(rounded, lab.held_out, 128, HELD_OUT)
            numbers[f"int{bits} rise"] = statistics.mean(losses.values()) - mean
        return numbers

    def _staged(self, lab: Lab, seed: int) -> StepLoss:
        rows, switch = stage_rows(lab, seed, self.order), STAGES["s1"] + STAGES["s2"]

        def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
            if self.later is not None and step >= switch:
                turn(model, self.later)
            ids = rows(step)
            return cross_entropy(model(ids[:, :-1]), ids[:, 1:]), {"tokens": float(ids[:, 1:].numel())}

        return loss


def turn(model: Qwen3, theta: float) -> None:
    """Give a model the frequencies of another RoPE base; of 0, none: then nothing turns, and no position is
    told."""
    c = model.config
    told, _ = frequencies(c.head_dim, theta or c.rope_theta, None, c.max_position_embeddings)
    model.model.inv_freq = told if theta else 0 * told


# -- an arm of languages -----------------------------------------------------------------------------------

FIRST_TWO = ("en", "ko")
"""In every arm; training never pairs them with each other (`problems.UNPAIRED`)."""
IN_ORDER = (*FIRST_TWO, "de", "ja", "fr", "es", "ru", "he")
THREE = 3
"""Digits of every number: 720 of the 900 are the train split's."""
COUNT = 2800
"""Translations that are read: nearly all that two languages have with digits, or some of the more that more
languages have."""
ASKED = 60
"""Problems of the test split of each direction that are measured on."""


def translation(tokenizer: Tokenizer, problem: Problem) -> sft.Example:
    """A translation written at once, without the steps: ids of the prompt and a line end, then the answer
    and <|endoftext|>, which are what is measured."""
    end = tokenizer.control_tokens["<|endoftext|>"]
    answer = [*tokenizer.encode(problem.answer), end]
    return sft.Example([*tokenizer.encode(f"{problem.prompt}\n"), *answer], len(answer))


@torch.inference_mode()
def answered(model: Qwen3, examples: Sequence[sft.Example], pad: int) -> tuple[float, float]:
    """Loss of the answers' tokens, the mean of the examples' means, and the share of answers whose every
    token is the most probable one."""
    inputs, targets = sft.collate(examples, pad)
    logits, told = model(inputs), targets != IGNORE
    losses = torch.nn.functional.cross_entropy(logits.mT, targets, ignore_index=IGNORE, reduction="none")
    exact = ((logits.argmax(-1) == targets) | ~told).all(-1)
    return float((losses.sum(-1) / told.sum(-1)).mean()), float(exact.float().mean())


@dataclass(frozen=True)
class Languages:
    """A small model trained on translations between digits and the first `count` of IN_ORDER, all pairs
    but those of HELD_OUT_PAIRS, as many tokens whatever their number."""

    count: int
    steps: int = 300
    learning_rate: float = 4e-3

    def run(self, lab: Lab, folder: Path, seed: int) -> Numbers:
        """Train and measure: "digits": English and Korean from and into digits; "unpaired": from one into the
        other."""
        known = {DIGITS, *IN_ORDER[: self.count]}
        pairs = [pair for pair in PAIRS if known.issuperset(pair)]
        drawn = make_problems("translation", "train", COUNT, THREE, seed, pairs=pairs)
        stream = torch.tensor([i for problem in drawn for i in translation(lab.tokenizer, problem).ids])
        plan = replace(EVENLY.plan, steps=self.steps, learning_rate=self.learning_rate)
        mix = replace(EVENLY, mixture={"translation": 1.0}, plan=plan)
        model = Text().make(seed)
        loss = pretrain.next_token_loss(mix, lab.tokenizer, {"translation": stream}, seed)
        seconds, _ = learn(model, plan, loss, folder, {"arm": repr(self), "seed": seed})
        numbers = {"cpu_seconds": seconds}
        directions = {
            "digits": [(DIGITS, x) for x in FIRST_TWO] + [(x, DIGITS) for x in FIRST_TWO],
            "unpaired": [FIRST_TWO, FIRST_TWO[::-1]],
        }
        pad = lab.tokenizer.control_tokens["<|endoftext|>"]
        for name, some in directions.items():
            asked = [
                translation(lab.tokenizer, problem)
                for pair in some
                for problem in make_problems("translation", "test", ASKED, THREE, TEST_SEED, pairs=[pair])
            ]
            numbers[f"{name} loss"], numbers[f"{name} exact"] = answered(model, asked, pad)
        return numbers


# -- an arm of fine-tuning ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Modes:
    """The shipped base model fine-tuned on solved problems with their thoughts ("thinking"), on others
    without ("plain"), or on both kinds: 32 rows a step, and `steps` for each kind. Measured on `asked`
    problems of each family of the test split."""

    thinking: bool
    plain: bool
    steps: int = 40
    asked: int = 30

    def run(self, lab: Lab, folder: Path, seed: int) -> Numbers:
        """Train and measure accuracy in the modes it was trained in; the shipped base brings its own
        tokenizer, the same as the lab's."""
        tokenizer = Tokenizer.from_pretrained("qwen3-nano-base")
        model = Qwen3.from_pretrained("qwen3-nano-base")
        examples, each = list[sft.Example](), 2 * 32 * self.steps // len(FAMILIES)
        for family in FAMILIES:
            if self.thinking:
                for i, p in enumerate(problems("cold start", family, each, seed)):
                    turn_ = sft.conversation(p, p.trace, p.answer)
                    turn_[0]["content"] += " /think" if i % 2 else ""
                    examples.append(sft.encode_example(tokenizer, turn_))
            if self.plain:
                for p in problems("fusion", family, each, seed):
                    turn_ = sft.conversation(p, "", p.answer)
                    turn_[0]["content"] += " /no_think"
                    examples.append(sft.encode_example(tokenizer, turn_))
        steps = self.steps * (self.thinking + self.plain)
        plan = Plan(steps=steps, learning_rate=1e-3, warmup=10, floor=0.1)
        loss = sft.reply_loss(examples, tokenizer, 32, seed)
        seconds, _ = learn(model, plan, loss, folder, {"arm": repr(self), "seed": seed})
        asked = [p for f in FAMILIES for p in make_problems(f, "test", self.asked, seed=TEST_SEED)]
        numbers = {"cpu_seconds": seconds}
        trained: dict[Mode, bool] = {"thinking": self.thinking, "non-thinking": self.plain}
        for mode in (mode for mode in trained if trained[mode]):
            rows = evaluate(model, tokenizer, asked, modes=[mode], seed=TEST_SEED, max_new_tokens=MAX_REPLY)
            numbers[f"{mode} accuracy"] = statistics.mean(row.correct for row in rows)
        return numbers


# -- the table ---------------------------------------------------------------------------------------------

Arm = Text | Languages | Modes
RATES = (1e-3, 4e-3, 1.6e-2, 6.4e-2)
SIZES = (32, 40, 48, 64, 80)
"""Widths that the scaling law is fitted on."""
UNSEEN = 128
"""And the one that it is asked about."""
TOKENS = (30, 60, 240)
"""Steps, beside the 120 that all others take."""

ARMS: dict[str, Arm] = {
    **{f"{v}@{r:g}": Text(variant=v, learning_rate=r) for v in ("qk-norm", "bias", "neither") for r in RATES},
    **{f"size-{h}": Text(hidden_size=h) for h in (*SIZES, UNSEEN) if h != 64},
    **{f"size-{h}@{r:g}": Text(hidden_size=h, learning_rate=r) for h in (32, 128) for r in (1e-3, 1.6e-2)},
    **{f"steps-{n}": Text(steps=n) for n in TOKENS},
    "in-order": Text(order="in order", steps=100, theta=RAISED),
    "mixed": Text(order="mixed", steps=100, theta=RAISED),
    "long": Text(order="long", steps=100, theta=RAISED),
    "no-positions": Text(order="in order", steps=100, theta=0),
    "theta-10000": Text(order="in order", steps=100),
    "abf": Text(order="in order", steps=100, later=RAISED),
    **{f"languages-{n}": Languages(n) for n in (2, 4, 8)},
    "narrow": Text(experts=(16, 8, 32, 0)),
    "narrow-loud": Text(experts=(16, 8, 32, 0), loud=5.5),
    "wide": Text(experts=(4, 2, 128, 0)),
    "shared": Text(experts=(12, 4, 32, 128)),
    "dense": Text(width=256),
    "hybrid": Modes(thinking=True, plain=True),
    "thinking": Modes(thinking=True, plain=False),
    "plain": Modes(thinking=False, plain=True),
}
"""Arms by name; `qk-norm@0.004` is also the size 64 and the 120 steps. Since the weights of the chosen sum to
1, many narrow experts write less at the start than a few wide ones, and less than a shared one, whose weight
is 1: `narrow-loud` writes as much as `shared`."""
assert len(LANGUAGES) == len(IN_ORDER) and not {FIRST_TWO} - {*HELD_OUT_PAIRS}
