"""From logits to one token: filters, penalties and the draw."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_ref.arrays import is_number, is_whole
from qwen3_ref.store.errors import quoted

_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Filters apply in this order: penalties, temperature, top_k,
    top_p, min_p (transformers' order). temperature 0 is greedy and ignores the filters.

    Ties: greedy takes the lowest id; top_k keeps every token that ties with the k-th (as transformers
    does), so more than k may stay; top_p counts equal tokens from the lowest id on.

    presence_penalty is subtracted once from every token already generated; repetition_penalty
    divides the positive (multiplies the negative) logits of every token in prompt or reply.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        k, t, r = self.top_k, self.temperature, self.repetition_penalty
        rules = {
            "temperature": (is_number(t) and t >= 0, "0 (greedy) or more, and finite"),
            "top_k": (k is None or is_whole(k, 1), "None (off) or a whole number, at least 1"),
            "top_p": (is_number(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (is_number(self.min_p) and 0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (is_number(r) and r > 0, "above 0 (1 is off), and finite"),
            "presence_penalty": (
                is_number(self.presence_penalty) and -2 <= self.presence_penalty <= 2,
                "between -2 and 2 (0 is off)",
            ),
        }
        for name, (good, allowed) in rules.items():
            if not good:
                raise ValueError(f"{name} is {quoted(getattr(self, name))}; it must be {allowed}.")

    @property
    def penalises(self) -> bool:
        """Whether what was said before has a say."""
        return self.repetition_penalty != 1.0 or bool(self.presence_penalty)

    @classmethod
    def greedy(cls) -> Sampling:
        """Always the most probable token. Qwen3's thinking mode tends to loop with it."""
        return cls(temperature=0.0)

    @classmethod
    def thinking(cls) -> Sampling:
        """Official setting for thinking mode (2504 hybrids and Thinking-2507)."""
        return cls(temperature=0.6, top_p=0.95, top_k=20)

    @classmethod
    def non_thinking(cls) -> Sampling:
        """Official setting for non-thinking mode (2504 hybrids and Instruct-2507)."""
        return cls(temperature=0.7, top_p=0.8, top_k=20)

    @classmethod
    def coder(cls) -> Sampling:
        """Official setting of Qwen3-Coder (generation_config.json)."""
        return cls(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)


def probabilities(
    logits: Tensor,
    sampling: Sampling,
    generated: Sequence[Sequence[int]] = (),
    prompts: Sequence[Sequence[int]] = (),
    absent: Tensor | None = None,
) -> Tensor:
    """The distributions (b, V) that the next tokens are drawn from, float64; logits (b, V).

    `generated` and `prompts`, one row each, feed the penalties. `absent` (n,): ids without a
    token, padding rows of the embedding; they get probability 0, as a logit of -inf does. Raises
    ValueError for NaN, for +inf, and for a row in which no token can come.
    """
    x = logits.detach().cpu().double().clone()  # what follows writes into it
    if not bool((x < float("inf")).all()):  # NaN is not below it either
        raise ValueError("the logits hold NaN or infinity; check the weights, or run in float32.")
    if sampling.repetition_penalty != 1.0:
        for row, prompt, reply in zip(x, prompts, generated, strict=True):
            seen = torch.tensor(sorted({*prompt, *reply}), dtype=torch.long)
            divided, times = row[seen] / sampling.repetition_penalty, row[seen] * sampling.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, divided, times).clamp(max=_LARGEST)
    if sampling.presence_penalty:
        for row, reply in zip(x, generated, strict=True):
            row[torch.tensor(sorted(set(reply)), dtype=torch.long)] -= sampling.presence_penalty
    if absent is not None:
        x[:, absent] = float("-inf")
    best = x.amax(dim=-1, keepdim=True)
    if not bool(best.isfinite().all()):
        raise ValueError(
            "no token can come: every logit of a row is minus infinity; check the weights and penalties."
        )
    if sampling.temperature == 0:
        return torch.zeros_like(x).scatter(1, x.argmax(dim=-1, keepdim=True), 1.0)
    heated = x / sampling.temperature
    # A temperature near 0 overflows: then the distances to the best, which may only go to -inf.
    fits = heated.amax(dim=-1, keepdim=True).isfinite()
    x = torch.where(fits, heated, (x - best) / sampling.temperature)
    if sampling.top_k is not None and sampling.top_k < x.shape[-1]:
        x = x.masked_fill(x < x.topk(sampling.top_k, dim=-1).values[:, -1:], float("-inf"))
    if sampling.top_p < 1:
        ordered, index = x.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # Keep the token that crosses top_p: drop those with top_p already reached before them.
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        x = x.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), float("-inf"))
    p = x.softmax(-1)
    if sampling.min_p:
        p = p.masked_fill(p < sampling.min_p * p.amax(dim=-1, keepdim=True), 0.0)
    return p / p.sum(dim=-1, keepdim=True)


def draw(p: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """One token id a row from p (b, V): a uniform number of the row's own generator through the
    inverse of the running sum."""
    u = torch.stack([torch.rand(1, dtype=torch.float64, generator=g) for g in generators])
    total = p.cumsum(-1)
    if not bool(((total[:, -1] > 0) & total[:, -1].isfinite()).all()):
        raise ValueError("these are no probabilities: each row of p must have a finite sum above 0.")
    # u * total[-1] < total[-1], and "right" steps over zero-probability ids at the boundary.
    ids: list[int] = torch.searchsorted(total, u * total[:, -1:], right=True)[:, 0].tolist()
    return ids


def next_ids(
    logits: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    generated: Sequence[Sequence[int]] = (),
    prompts: Sequence[Sequence[int]] = (),
    absent: Tensor | None = None,
) -> list[int]:
    """What `draw` gives of `probabilities`, one id a row of logits (b, V), without turning the whole
    vocabulary to float64 and sorting it where a few ids decide; errors and arguments as there.

    Greedy without penalties is the largest logit. With top_k and without penalties, twice as many ids
    as it keeps are looked at, in ascending order, so that the running sums meet them in the order of
    the vocabulary. They hold all that tie with the k-th unless the last of them does, too.
    """
    if not sampling.penalises and bool(logits.amax() < float("inf")):  # NaN is not below it either
        x = logits.detach()
        if absent is not None and len(absent):
            x = x.index_fill(1, absent.to(x.device), float("-inf"))
        if sampling.temperature == 0:
            best, ids = x.max(dim=-1)  # of equals the lowest id
            if bool((best > float("-inf")).all()):
                return _as_list(ids)
        elif sampling.top_k is not None and 2 * sampling.top_k < x.shape[-1]:
            values, ids = (part.cpu() for part in x.topk(2 * sampling.top_k, dim=-1))
            heated = values.double() / sampling.temperature  # which may make equals of two
            if bool((heated[:, sampling.top_k - 1] > heated[:, -1]).all()):
                ids, order = ids.sort(dim=-1)
                places = draw(probabilities(values.gather(1, order), sampling), generators)
                return _as_list(ids.gather(1, torch.tensor(places)[:, None])[:, 0])
    p = probabilities(logits, sampling, generated, prompts, absent)
    return _as_list(p.argmax(-1)) if sampling.temperature == 0 else draw(p, generators)


def _as_list(ids: Tensor) -> list[int]:
    found: list[int] = ids.tolist()
    return found
