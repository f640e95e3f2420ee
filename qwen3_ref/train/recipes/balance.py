"""Balancing the experts of the nano MoE: the losses, over micro-batches or the global batch, and what
the experts then do.

Two choices that the technical report leaves open. The loss is taken layer by layer and averaged, so
that perfect balance costs top_k (the function in transformers pools the layers first, and then one
layer's overload hides another's). And the coefficient is 0.01, ten times the default of the official
configs, because a nano run is short: in the 80 steps that it was chosen by, on a seed that the study
does not use, 0.001 had hardly begun to act (largest load 3.6 times the mean one, against 2.7).

Shapes: b rows, t tokens, L MoE layers, E experts, K chosen ones, G domains.
Source: global-batch balancing, arXiv 2501.11873 (named by the technical report, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3_ref.arrays import at_least_float32
from qwen3_ref.model import Qwen3, SparseMoe, Trace
from qwen3_ref.moe import best, load_balancing_loss, require_layers
from qwen3_ref.moe import z_loss as router_z_loss
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.loop import StepLoss, cross_entropy, on_ranks
from qwen3_ref.train.recipes.pretrain import Mix, Streams, make_rows

Balancing = Literal["none", "micro", "global"]

COEFFICIENT = 1e-2
DEAD = 0.1
"""An expert is called dead if it gets less than this share of what it would get in perfect balance."""


# -- choices and what they tell ----------------------------------------------------------------------


def choices(logits: Tensor, top_k: int, mask: Tensor | None = None) -> Tensor:
    """1 where a token chose an expert, else 0: logits (b, t, E) of one layer -> (b, t, E), no gradient.

    mask (b, t): 0 for padding, which chooses nobody.
    """
    logits = at_least_float32(logits.detach())  # bfloat16 cannot count beyond 256
    chosen = torch.zeros_like(logits).scatter(-1, best(logits.softmax(dim=-1), top_k), 1)
    return chosen if mask is None else chosen * mask[..., None]


def count_picks(router_logits: Sequence[Tensor], top_k: int, mask: Tensor | None = None) -> Tensor:
    """How often each expert is chosen: L of (b, t, E) -> (L, E); a row sums to top_k times the tokens."""
    require_layers(router_logits)
    return torch.stack([choices(logits, top_k, mask).sum((0, 1)) for logits in router_logits])


def co_activation(router_logits: Sequence[Tensor], top_k: int, mask: Tensor | None = None) -> Tensor:
    """How often two experts work on the same token: L of (b, t, E) -> (L, E, E), symmetric, with how
    often each is chosen at all on the diagonal."""
    require_layers(router_logits)
    chosen = torch.stack([choices(logits, top_k, mask).flatten(0, 1) for logits in router_logits])
    return chosen.mT @ chosen


def imbalance(counts: Tensor) -> dict[str, float]:
    """Of counts (L, E), the mean over layers of: the largest count over the mean one (1 is balance, E
    is one expert for all), and the coefficient of variation (0 is balance).

    Raises ValueError if a layer counted nothing: every token was padding.
    """
    if not bool(counts.sum(-1).all()):
        raise ValueError("a layer has counted no choice at all; count tokens that are not padding.")
    relative = counts.float() / counts.float().mean(-1, keepdim=True)
    return {
        "max_load": float(relative.amax(-1).mean()),
        "load_cv": float(relative.std(-1, correction=0).mean()),
    }


def dead_experts(counts: Tensor) -> int:
    """How many of the L * E experts get less than DEAD of a balanced share; counts (L, E)."""
    return int((counts < DEAD * counts.float().mean(-1, keepdim=True)).sum())


def specialisation(counts: Tensor) -> tuple[Tensor, float]:
    """How far the mix of domains among an expert's tokens is from the mix among all tokens.

    counts (G, L, E) -> (L, E) total variation distances, half the sum of |share - average share| over
    domains (0 for an expert like the average, 1 - 1/G for one that serves one of G domains of equal
    size, NaN for one that serves none), and their mean, each expert weighted by its tokens.
    """
    counts = counts.double()
    by_expert = counts.sum(0)  # (L, E)
    average = counts.sum((1, 2)) / counts.sum()  # (G,)
    distance = (counts / by_expert - average[:, None, None]).abs().sum(0) / 2
    return distance, float((distance * by_expert).nansum() / by_expert.sum())


@torch.inference_mode()
def count_by_domain(model: Qwen3, streams: Streams, context: int = 256, tokens: int = 16_384) -> Tensor:
    """Picks (G, L, E) on the beginning of each stream, in rows of `context` tokens; every domain gives
    as many tokens as the shortest one has, at most `tokens`."""
    count = min(tokens, *(len(stream) for stream in streams.values())) // context
    if count == 0:
        raise ValueError(f"a stream has fewer than {context} tokens; give a smaller context.")
    counts = []
    for stream in streams.values():
        rows = stream[: count * context].view(count, context).to(model.device)
        traces = [Trace(attention=False) for _ in rows.split(16)]
        for part, trace in zip(rows.split(16), traces, strict=True):
            model(part, trace=trace, logits_to_keep=1)
        counts.append(torch.stack([count_picks(t.router_logits, _top_k(model)) for t in traces]).sum(0))
    return torch.stack(counts)


# -- the losses --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """What is added to the language model's loss: balancing (by `balancing`) times `coefficient`, and
    the z-loss of the routers times `z_loss`, which the report does not name."""

    balancing: Balancing = "global"
    coefficient: float = COEFFICIENT
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if self.balancing not in get_args(Balancing):
            known = ", ".join(get_args(Balancing))
            raise ValueError(f"there is no balancing {self.balancing!r}; there are {known}.")

    def total(
        self, lm: Tensor, balance: Tensor, router_logits: Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """The sum, a scalar; "none" leaves balancing out. mask (b, t): 0 for padding."""
        total = lm if self.balancing == "none" else lm + self.coefficient * balance
        return total + self.z_loss * router_z_loss(router_logits, mask) if self.z_loss else total


def balancing_loss(
    router_logits: Sequence[Tensor],
    top_k: int,
    micro_batches: int = 1,
    shares: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The mean balancing loss of the layers, L of (b, t, E), a scalar.

    The b rows are split into `micro_batches` equal parts, each with the shares of its own tokens; one
    part is the global-batch loss. shares (L, E): the shares in a global batch that these rows are
    only a part of; then the gradient is of these rows' own probabilities. mask (b, t): 0 for padding.
    Raises ValueError if the rows do not make so many equal parts.
    """
    require_layers(router_logits)
    if rows := next((len(x) for x in router_logits if micro_batches < 1 or len(x) % micro_batches), 0):
        raise ValueError(f"{rows} rows do not make {micro_batches} equal micro-batches; take a divisor.")
    losses = []
    for i, layer in enumerate(router_logits):
        share = None if shares is None else shares[i]
        parts = layer.chunk(micro_batches)
        masks = [None] * len(parts) if mask is None else mask.chunk(micro_batches)
        for part, real in zip(parts, masks, strict=True):
            losses.append(load_balancing_loss([part], top_k, real, share))
    return torch.stack(losses).mean()


def balanced_loss(
    mix: Mix,
    tokenizer: Tokenizer,
    streams: Streams,
    seed: int,
    balancing: Balancing = "global",
    z_loss: float = 0.0,
    coefficient: float = COEFFICIENT,
    micro_batches: int | None = None,
) -> StepLoss:
    """`pretrain.next_token_loss` (the same rows for the same seed) with balancing.

    "micro": each of `micro_batches` equal parts of the rows is balanced by itself (by default each
    row is one, and so of one domain); "global": all rows together. One forward pass serves for all:
    the gradients are those that `accumulate` adds up part by part.
    Raises ValueError if the rows do not make so many equal parts.
    """
    parts = mix.rows if micro_batches is None else micro_batches
    if parts < 1 or mix.rows % parts:
        raise ValueError(f"{mix.rows} rows do not make {parts} equal micro-batches; take a divisor.")
    weights = Weights(balancing, coefficient, z_loss)

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        rows = make_rows(mix, tokenizer, streams, seed, step).to(model.device)
        if on_ranks(model):
            return _on_ranks(model, rows, weights, parts)
        lm, logits = _forward(model, rows)
        balance = balancing_loss(logits, _top_k(model), parts if balancing == "micro" else 1)
        return weights.total(lm, balance, logits), {
            "tokens": float(rows[:, 1:].numel()),
            "lm_loss": float(lm.detach()),
            "balancing_loss": float(balance.detach()),
            **imbalance(count_picks(logits, _top_k(model))),
        }

    return loss


# -- the global batch, in parts and on several ranks -------------------------------------------------


def _on_ranks(
    model: Qwen3, rows: Tensor, weights: Weights, parts: int
) -> tuple[Tensor, dict[str, float]]:
    """This rank's share of the loss on the global batch, rows (b, t + 1), and numbers of the whole of it.
    Tokens count alike, wherever they lie; ranks with the same rows count once."""
    from qwen3_ref.parallel.plan import ranks_of
    from qwen3_ref.train.parallel import token_loss

    ranks, top_k, logits = ranks_of(model), _top_k(model), list[Tensor]()
    assert ranks is not None
    if weights.balancing == "micro" and parts != len(rows):
        way = "take one a row"
        raise ValueError(f"{parts} micro-batches of {len(rows)} rows are not split over ranks; {way}.")
    # Heard at the routers: FSDP hands a block copies of what it is called with, a Trace too.
    hooks = [
        block.mlp.gate.register_forward_hook(lambda gate, given, out: logits.append(out))
        for block in model.model.layers
        if isinstance(block.mlp, SparseMoe)
    ]
    try:
        lm = token_loss(model, rows[:, :-1], rows[:, 1:])
    finally:
        for hook in hooks:
            hook.remove()
    mine = len(logits[0])
    picks = ranks.sum(count_picks(logits, top_k))
    shares = top_k * picks / picks.sum(-1, keepdim=True)
    own = balancing_loss(logits, top_k, mine) if weights.balancing == "micro" else None
    balance = balancing_loss(logits, top_k, shares=shares) if own is None else own
    balance = balance * mine / len(rows)
    total = lm if weights.balancing == "none" else lm + weights.coefficient * balance
    if weights.z_loss:
        total = total + weights.z_loss * router_z_loss(logits) * mine / len(rows)
    return total, {
        "tokens": float(rows[:, 1:].numel()),
        "lm_loss": float(ranks.sum(lm)),
        "balancing_loss": float(ranks.sum(balance)),
        **imbalance(picks),
    }


class GlobalShares:
    """Picks (L, E) added up over the micro-batches of a step and over the ranks of torch.distributed.

    What travels between ranks is this small matrix alone. It has no gradient.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, counts: Tensor) -> None:
        """Take in the picks of one micro-batch of this rank, (L, E)."""
        self.counts = counts if self.counts is None else self.counts + counts

    def shares(self, top_k: int) -> Tensor:
        """(L, E) shares of the tokens so far that chose each expert; a row sums to top_k. Every rank
        has to call it at the same time."""
        if self.counts is None:
            raise ValueError("nothing was counted yet; add the picks of a micro-batch first.")
        total = self.counts.clone()
        if ranks() > 1:
            dist.all_reduce(total)
        return top_k * total / total.sum(-1, keepdim=True).clamp_min(1)


def ranks() -> int:
    """Processes of the default group of torch.distributed; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def accumulate(
    model: Qwen3, micro_batches: Sequence[Tensor], weights: Weights, count_ahead: bool = True
) -> float:
    """Leave in `.grad` the gradient of a step whose rows lie on several ranks and do not fit at once.

    micro_batches: this rank's rows, (b, t + 1) each, of any shapes: every token counts the same,
    wherever it lies (of all ranks each has as many of them). Only one graph is in memory at a time.
    Returns the mean loss over all tokens of all ranks.

    Global-batch balancing needs the counts of the whole step. count_ahead takes them in a forward pass
    before (a third more work), and the result is exactly that of the whole batch. Without it the
    counts of the micro-batches so far serve, as in arXiv 2501.11873: exact for the last one.
    """
    model.zero_grad(set_to_none=True)
    top_k, tokens = _top_k(model), sum(rows[:, 1:].numel() for rows in micro_batches) * ranks()
    if not tokens:
        raise ValueError("there is no token in the micro-batches, so there is nothing to learn from.")
    counted = GlobalShares()
    if weights.balancing == "global" and count_ahead:
        with torch.no_grad():
            for rows in micro_batches:
                counted.add(count_picks(_forward(model, rows)[1], top_k))
        shares = counted.shares(top_k)
    losses = []
    for rows in micro_batches:
        lm, logits = _forward(model, rows)
        if weights.balancing == "global" and not count_ahead:
            counted.add(count_picks(logits, top_k))
            shares = counted.shares(top_k)
        balance = balancing_loss(logits, top_k, shares=shares if weights.balancing == "global" else None)
        loss = weights.total(lm, balance, logits) / (tokens / rows[:, 1:].numel())  # not a mean of means
        loss.backward()
        losses.append(loss.detach())
    mean = torch.stack(losses).sum()
    if ranks() > 1:
        for tensor in [mean, *(p.grad for p in model.parameters())]:
            dist.all_reduce(tensor)
    return float(mean)


def _forward(model: Qwen3, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The language model's loss on rows (b, t + 1), and the router logits, L of (b, t, E)."""
    trace = Trace(attention=False)
    return cross_entropy(model(rows[:, :-1], trace=trace), rows[:, 1:]), trace.router_logits


def _top_k(model: Qwen3) -> int:
    if model.config.num_experts_per_tok is None:
        raise ValueError("the model is dense and has no experts to balance; see pretrain.moe_config.")
    return model.config.num_experts_per_tok
