"""What every stage that learns from its own samples needs: replies, their scores, their log-probabilities.

Replies are drawn at temperature 1 without filters, so that the probability a token was drawn with is
the softmax of the logits as they are, and the ratio of two such numbers is an importance ratio.

Shapes: n replies, r tokens of a reply (padded on the right), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Log
from qwen3_ref.train.queries import END, MAX_REPLY, Query, read_sample
from qwen3_ref.train.seeds import seeded

Mean = Literal["sequence", "token", "constant"]


# -- replies --------------------------------------------------------------------------------------------


def sample_replies(
    model: Qwen3,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    generator: torch.Generator,
    *,
    sampling: Sampling | None = None,
    batch_size: int = 128,
) -> list[list[int]]:
    """A reply to each prompt, to train on: its ids, the end of the turn (if it came) included.

    Raises ValueError for `sampling` other than temperature 1 without filters, FloatingPointError if
    nothing can be drawn from the logits.
    """
    if sampling not in (None, Sampling()):
        raise ValueError(
            f"{sampling} draws from another distribution than the model's own, so the importance ratio "
            f"would be wrong; train on replies at temperature 1 without filters (Sampling())."
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # so that little is padded
    try:
        drawn = generate(
            model,
            [prompts[i] for i in order],
            max_new_tokens=max_new_tokens,
            sampling=Sampling(),
            stop_ids=tokenizer.stop_ids,
            generator=generator,
            batch_size=batch_size,
        )
    except ValueError as error:
        raise FloatingPointError(f"no reply can be sampled: {str(error).rstrip('.')}") from None
    replies: list[list[int]] = [[] for _ in prompts]
    for i, ids in zip(order, drawn, strict=True):
        replies[i] = list(ids)
    return replies


@dataclass(frozen=True)
class Rollout:
    """Prompts, replies and rewards, one a query, and means to log."""

    prompts: list[tuple[int, ...]]
    replies: list[list[int]]
    rewards: list[float]
    numbers: dict[str, float]


def roll_out(
    model: Qwen3, tokenizer: Tokenizer, queries: Sequence[Query], max_new_tokens: int, rng: torch.Generator
) -> Rollout:
    """One reply to each query, scored. Logged are the mean reward, the means of the scores' other
    numbers (over those that are not NaN), tokens a reply, and the share of replies cut off.

    Raises ValueError without a query, TrainingError for a reward that is not finite.
    """
    if not queries:
        raise ValueError("there is no query to reply to; give at least one.")
    prompts = [query.prompt for query in queries]
    replies = sample_replies(model, tokenizer, prompts, max_new_tokens, rng)
    samples = [read_sample(tokenizer, reply) for reply in replies]
    scored = [query.score(sample) for query, sample in zip(queries, samples, strict=True)]
    rewards = [float(reward) for reward, _ in scored]
    if wrong := [i for i, reward in enumerate(rewards) if not math.isfinite(reward)]:
        said = tokenizer.decode(prompts[wrong[0]])[-60:]
        raise TrainingError(
            f"the reward of a reply to {said!r} is {rewards[wrong[0]]}; a score must be a finite number."
        )
    numbers = {"reward": fmean(rewards)}
    for name in scored[0][1]:
        found = [parts[name] for _, parts in scored if not math.isnan(parts[name])]
        numbers[name] = fmean(found) if found else math.nan
    numbers["tokens"] = fmean(sample.tokens for sample in samples)
    numbers["cut"] = fmean(END not in sample.marks for sample in samples)
    return Rollout(prompts, replies, rewards, numbers)


@dataclass
class HeldOut:
    """held_out.csv: what `roll_out` logs of queries that are not trained on, one reply each, at temperature
    1; always the same random numbers, so that rows differ by the model alone.

    keep: also keep the model of each row, in `steps/STEP/model` beside the file.
    """

    queries: Sequence[Query]
    path: Path
    seed: int
    max_new_tokens: int
    keep: bool = False
    log: Log | None = None

    def write_row(self, model: Qwen3, tokenizer: Tokenizer, step: int) -> None:
        """Write the row of a step, if there is anything to ask."""
        if not self.queries:
            return
        if self.log is None:  # a resumed run measures the step it resumes from again
            self.log = Log(self.path, step - 1)
        rollout = roll_out(model, tokenizer, self.queries, self.max_new_tokens, seeded(self.seed, "held-out"))
        self.log.write({"step": step, **rollout.numbers})
        if self.keep:
            folder = self.path.parent / "steps" / str(step) / "model"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)


def mean_rewards(
    model: Qwen3,
    tokenizer: Tokenizer,
    queries: Sequence[Query],
    *,
    samples: int,
    seed: int,
    max_new_tokens: int = MAX_REPLY,
) -> list[float]:
    """The mean reward of `samples` replies to each query: the pass rate, where rewards are 0 and 1.

    Raises ValueError for fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; it must be at least 1.")
    if not queries:
        return []
    asked = [query for query in queries for _ in range(samples)]
    rewards = roll_out(model, tokenizer, asked, max_new_tokens, seeded(seed)).rewards
    return [fmean(rewards[i : i + samples]) for i in range(0, len(rewards), samples)]


# -- log-probabilities ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Replies behind their prompts: ids and mask (n, prompt + r), prompts padded on the left, replies
    on the right; `counted` (n, r): the tokens that the policy chose, so no padding and no forced ids."""

    ids: Tensor
    mask: Tensor
    counted: Tensor

    @property
    def replies(self) -> Tensor:
        """Their ids (n, r)."""
        return self.ids[:, -self.counted.shape[1] :]


def make_batch(
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    forced: Sequence[Collection[int]] | None = None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad and mask. forced: for each reply, the places of ids that a thinking budget put there."""
    before, after = max(map(len, prompts)), max(map(len, replies))
    ids = torch.zeros(len(prompts), before + after, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.zeros(len(prompts), after, dtype=torch.bool)
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        row = slice(before - len(prompt), before + len(reply))
        ids[i, row], mask[i, row] = torch.tensor([*prompt, *reply]), 1
        counted[i, : len(reply)] = True
        counted[i, list(forced[i] if forced else ())] = False
    return Batch(ids.to(device), mask.to(device), counted.to(device))


def reply_logits(model: Qwen3, batch: Batch) -> Tensor:
    """The logits (n, r, V) that each token of the replies is drawn from, one forward pass; float32,
    without the embedding's padding rows, which no sampler emits."""
    width = batch.counted.shape[1]
    logits = model(batch.ids, attention_mask=batch.mask, logits_to_keep=width + 1)
    return logits[:, :-1, : model.config.num_token_ids].float()


def token_log_probs(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (n, r, V): the log-probability of each id, and the entropy in nats; both (n, r).

    Raises ValueError for an id beyond V: a row of the embedding that stands for no token, or for one
    that was added and that the config does not count yet.
    """
    if ids.numel() and int(ids.max()) >= logits.shape[-1]:
        raise ValueError(
            f"a reply holds the id {int(ids.max())}, and the ids below {logits.shape[-1]} are those that "
            f"the model can draw; count added tokens in the config's num_token_ids."
        )
    log_p = logits.log_softmax(-1)
    detached = log_p.detach()
    return log_p.gather(-1, ids[..., None])[..., 0], -expected(detached, detached)


def expected(log_p: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` under probabilities exp(log_p), over the last axis. What has probability 0
    adds 0, infinite or not: that is the limit, and 0 * inf is NaN."""
    return (log_p.exp() * values.masked_fill(log_p == -math.inf, 0.0)).sum(-1)


def per_token(
    model: Qwen3,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    numbers_of: Callable[[Tensor, Batch], Sequence[Tensor]],
    rows: int = 64,
) -> list[Tensor]:
    """What `numbers_of(logits, batch)` gives, (n, r) each, and last `counted`; 0 where nothing is counted.

    The forward passes take `rows` replies of similar length at a time, so that little is padded.
    """
    n, longest = len(prompts), max(map(len, replies))
    order = sorted(range(n), key=lambda i: len(prompts[i]) + len(replies[i]))
    whole: list[Tensor] = []
    for at in range(0, n, rows):
        some = order[at : at + rows]
        device = model.device
        batch = make_batch([prompts[i] for i in some], [replies[i] for i in some], device=device)
        parts = [*numbers_of(reply_logits(model, batch), batch), batch.counted]
        whole = whole or [part.new_zeros(n, longest) for part in parts]
        for all_rows, part in zip(whole, parts, strict=True):
            all_rows[some, : part.shape[1]] = torch.where(batch.counted, part, torch.zeros_like(part))
    return whole


def average(values: Tensor, counted: Tensor, mean: Mean, longest: int = 1) -> Tensor:
    """One number of values (n, r), over the tokens counted (n, r):

    - "sequence": the mean over each reply, then over the n replies. GRPO's own formula; a token of a
      long reply weighs less, so a wrong answer costs less per token when it is long
    - "token": the mean over all tokens of the n replies (DAPO, arXiv 2503.14476): each weighs the same,
      and how much depends on how long the others are
    - "constant": the sum over n times `longest` (Dr. GRPO, arXiv 2503.20783): each weighs the same in
      every batch

    Raises TrainingError if no token is counted, ValueError for another mean.
    """
    if not bool(counted.any()):
        raise TrainingError("no token of the batch is counted, so there is nothing to learn from it.")
    values = torch.where(counted, values, 0.0)  # not a product: NaN * 0 is NaN
    if mean == "sequence":
        return (values.sum(-1) / counted.sum(-1).clamp_min(1)).mean()
    if mean == "token":
        return values.sum() / counted.sum()
    if mean == "constant":
        return values.sum() / (len(values) * longest)
    raise ValueError(f"mean is {mean!r}; it must be 'sequence', 'token' or 'constant'.")
