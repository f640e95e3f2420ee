"""Reasoning RL by GRPO, group relative policy optimisation (report section 4.2; arXiv 2402.03300).

A step samples `group` replies to each of `prompts` queries and scores them. A reply's advantage is how
far its reward is above the mean of its group, in standard deviations. Then several updates make every
token more or less probable by the advantage of its reply, clipped where the policy has already moved
away from the one that sampled.

Shapes as in `rollout`: n replies, r tokens of a reply.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qwen3_ref.decode.generation import require_request
from qwen3_ref.model import Qwen3
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.queries import MAX_REPLY, Query
from qwen3_ref.train.rollout import HeldOut, Mean, average, per_token, roll_out, token_log_probs
from qwen3_ref.train.seeds import seeded
from qwen3_ref.train.state import saved_step, weights_hash


@dataclass(frozen=True)
class Grpo:
    """The settings of a run. The report gives 170 steps and no other number.

    A step makes `epochs` passes over its replies, in `minibatches` updates each. mean: which mean over
    tokens is taken, see `rollout.average`. by_std: divide advantages by the group's standard deviation
    (Dr. GRPO does not). ratio: of each token, or one of the whole reply (GSPO, whose `mean` is "sequence"
    and whose clip range is far narrower). kl: weight of the KL term to the starting model; 0 leaves it out.
    """

    steps: int = 170
    prompts: int = 16
    group: int = 8
    minibatches: int = 2
    epochs: int = 1
    mean: Mean = "sequence"
    by_std: bool = True
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    learning_rate: float = 5e-5
    max_new_tokens: int = MAX_REPLY
    save_every: int = 10
    held_out_every: int = 10

    def __post_init__(self) -> None:
        rules = {
            "steps": (self.steps >= 1, "at least 1"),
            "group": (self.group >= 2, "at least 2, or there is no group to compare with"),
            "minibatches": (1 <= self.minibatches <= self.prompts, f"1 to prompts ({self.prompts})"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "ratio": (self.ratio in ("token", "sequence"), "'token' or 'sequence'"),
            "clip_low": (0 < self.clip_low < 1, "between 0 and 1"),
            "clip_high": (self.clip_high > 0, "above 0"),
            "kl": (self.kl >= 0, "0 (off) or more"),
        }
        for name, (good, allowed) in rules.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}.")

    @property
    def updates(self) -> int:
        """Updates to a step."""
        return self.epochs * self.minibatches

    def plan(self) -> Plan:
        """The same for `loop.train`, which counts updates. A state is saved only between two batches
        of replies, so that a resumed run need not know the replies of an unfinished one."""
        return Plan(
            steps=self.steps * self.updates,
            learning_rate=self.learning_rate,
            warmup=2 * self.updates,
            floor=1.0,
            weight_decay=0.0,
            log_every=self.updates,
            save_every=self.save_every * self.updates,
            together=self.updates,
        )


# -- the objective -------------------------------------------------------------------------------------

LARGEST_LOG_RATIO = 40.0
"""Ratios end at exp(40) = 2e17: a gradient has one more factor of its size at most, its norm the square
of that, and float32 still holds it. Beyond, a ratio has no gradient. (exp overflows at 88.)"""
ROUNDING = 1e-6
"""Rewards that differ by less, relative to the largest, differ by how they were added up."""


def advantages(rewards: Tensor, by_std: bool = True) -> Tensor:
    """(r - mean) / std within each row of rewards (prompts, group); std with divisor `group`. Exactly
    0 in a group whose rewards are all equal but for rounding, whatever the mean is rounded to.

    Rewards may be integers or truth values. Raises ValueError for one that is not finite.
    """
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    if not bool(rewards.isfinite().all()):
        raise ValueError("a reward is NaN or infinite, and no advantage follows from it; mend the score.")
    highest, lowest = rewards.amax(-1, keepdim=True), rewards.amin(-1, keepdim=True)
    same = highest - lowest <= ROUNDING * torch.maximum(highest.abs(), lowest.abs())
    scale = rewards.std(-1, keepdim=True, correction=0) if by_std else torch.ones(())
    centred = rewards - rewards.mean(-1, keepdim=True)
    return torch.where(same, 0.0, centred / torch.where(same, 1.0, scale))


def surrogate(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The clipped objective per token (n, r), to be made large, and where clipping stops its gradient.

    new, old (n, r): log-probabilities under the policy and under the one that sampled; advantage (n,).
    """
    log_ratio, a = new - old, advantage[:, None]
    ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    stopped = ((a > 0) & (ratio > 1 + high)) | ((a < 0) & (ratio < 1 - low))
    stopped |= (a != 0) & (log_ratio > LARGEST_LOG_RATIO)
    return torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a), stopped


def one_ratio(new: Tensor, old: Tensor, counted: Tensor) -> Tensor:
    """Log-probabilities (n, r) to give to `surrogate` in place of `new`, so that every token of a reply has
    one ratio to `old`: the geometric mean of the reply's own, over the tokens counted (n, r) (GSPO, arXiv
    2507.18071, equation 7). Averaged with "sequence", that is its objective."""
    log_ratio = torch.where(counted, new - old, 0.0).sum(-1, keepdim=True)
    return old + log_ratio / counted.sum(-1, keepdim=True).clamp_min(1)


def k3(new: Tensor, other: Tensor) -> Tensor:
    """KL(new || other) per token, estimated from the one token that `new` drew (arXiv 2402.03300,
    equation 4): other/new - ln(other/new) - 1, never negative. Takes log-probabilities. Finite, also
    where other/new is too large for a number."""
    log_ratio = (other - new).clamp(max=LARGEST_LOG_RATIO)
    return log_ratio.exp() - log_ratio - 1


# -- the run -------------------------------------------------------------------------------------------


def train_on_rewards(
    model: Qwen3,
    tokenizer: Tokenizer,
    queries: Sequence[Query],
    directory: Path,
    settings: Grpo | None = None,
    *,
    seed: int = 0,
    held_out: Sequence[Query] = (),
    keep: bool = False,
    stop_at: int | None = None,
) -> None:
    """Train `model` in place, from the state in `directory` if there is one; `stop_at`: a step.

    `model` must hold the weights that the run starts from, on resuming too: the KL term needs them.
    `log.csv` has a row for each step (its "step" counts updates): mean reward, the scores' other
    numbers, share of groups that are mixed (in the rest nothing is learned), entropy in nats, tokens a
    reply, share of replies cut off, share of tokens where clipping stopped the gradient, KL from the
    policy that sampled (and, with `kl`, to the starting model), seconds since the row before.
    `held_out.csv`: the same of other queries at temperature 1, one reply each, every `held_out_every`
    steps from before the first; with `keep`, the model of each row is kept in `steps/STEP/model`.

    Raises ValueError for too few queries or a prompt that does not fit, TrainingError as `loop.train`.
    """
    settings = settings or Grpo()
    if len(queries) < settings.prompts:
        raise ValueError(
            f"there are {len(queries)} queries and a step takes {settings.prompts}; make more, or ask "
            f"for fewer prompts a step."
        )
    require_request(model, [q.prompt for q in [*queries, *held_out]], settings.max_new_tokens)
    about = {
        "seed": seed,
        "settings": asdict(settings),
        "queries": fingerprint([q.prompt for q in queries]),
        "tokenizer": tokenizer.fingerprint(),
        "start": weights_hash(model),
    }
    others = HeldOut(held_out, directory / "held_out.csv", seed, settings.max_new_tokens, keep)
    loss, plan = _PolicyLoss(model, tokenizer, queries, others, settings, seed), settings.plan()
    end = None if stop_at is None else stop_at * settings.updates
    train(model, plan, loss, directory, about=about, stop_at=end)
    if saved_step(directory) == plan.steps:
        others.write_row(model, tokenizer, plan.steps)


class _PolicyLoss:
    """The loss of each update; the replies of a step are drawn before its first."""

    def __init__(
        self,
        model: Qwen3,
        tokenizer: Tokenizer,
        queries: Sequence[Query],
        held_out: HeldOut,
        settings: Grpo,
        seed: int,
    ) -> None:
        self.tokenizer, self.queries, self.held_out = tokenizer, queries, held_out
        self.settings, self.seed = settings, seed
        self.start = copy.deepcopy(model) if settings.kl else None
        self.clock = time.monotonic()

    def __call__(self, model: Qwen3, update: int) -> tuple[Tensor, dict[str, float]]:
        s = self.settings
        step, i = divmod(update, s.updates)
        if i == 0:
            if step % s.held_out_every == 0:
                self.held_out.write_row(model, self.tokenizer, update)
            self.collect(model, step)
        epoch, part = divmod(i, s.minibatches)
        order = torch.randperm(s.prompts, generator=seeded(self.seed, step, "order", epoch))  # whole groups
        groups = order.tensor_split(s.minibatches)[part]
        rows = (groups[:, None] * s.group + torch.arange(s.group)).flatten().tolist()
        new, _, counted = self.log_probs(model, rows)
        old = self.old[rows, : new.shape[1]]
        compared = one_ratio(new, old, counted) if s.ratio == "sequence" else new
        values, stopped = surrogate(compared, old, self.advantage[rows], s.clip_low, s.clip_high)
        self.add("clipped", stopped, counted)
        self.add("kl_from_sampler", k3(old, new.detach()), counted)
        if self.start is not None:
            kl = k3(new, self.reference[rows, : new.shape[1]])
            self.add("kl_to_start", kl.detach(), counted)
            values = values - s.kl * kl
        if i == s.updates - 1:
            before, self.clock = self.clock, time.monotonic()
            self.numbers["seconds"] = self.clock - before
        return -average(values, counted, s.mean, s.max_new_tokens), dict(self.numbers)

    def add(self, name: str, values: Tensor, counted: Tensor) -> None:
        """A mean over the tokens of an update, towards the mean over the updates of a step."""
        value = float(average(values.float(), counted, "token")) / self.settings.updates
        self.numbers[name] = self.numbers.get(name, 0.0) + value

    def log_probs(self, model: Qwen3, rows: Sequence[int]) -> list[Tensor]:
        """Of some of the step's replies: log-probabilities, entropies, and which tokens are counted."""
        prompts = [self.rollout.prompts[i] for i in rows]
        replies = [self.rollout.replies[i] for i in rows]
        return per_token(model, prompts, replies, lambda x, batch: token_log_probs(x, batch.replies))

    def collect(self, model: Qwen3, step: int) -> None:
        """Draw and score the replies of a step, and note the probabilities they were drawn with."""
        s, rng = self.settings, seeded(self.seed, step, "replies")
        chosen = torch.randperm(len(self.queries), generator=rng)[: s.prompts].tolist()
        asked = [self.queries[i] for i in chosen for _ in range(s.group)]
        self.rollout = roll_out(model, self.tokenizer, asked, s.max_new_tokens, rng)
        self.numbers = dict(self.rollout.numbers)
        device = model.device
        table = torch.tensor(self.rollout.rewards, device=device).view(s.prompts, s.group)
        self.advantage = advantages(table, s.by_std).flatten()
        self.numbers["mixed"] = float((self.advantage.view_as(table) != 0).any(-1).float().mean())
        with torch.no_grad():
            self.old, entropy, counted = self.log_probs(model, range(len(asked)))
            if self.start is not None:
                self.reference = self.log_probs(self.start, range(len(asked)))[0]
        self.numbers["entropy"] = float(average(entropy, counted, "token"))
