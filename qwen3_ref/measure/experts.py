"""What a router's choices tell, and what they do not: statistics of routing beside their controls.

That experts "specialise" by domain is no sign of training by itself: domains differ in their tokens, and
a random router sends a token nearly always the same way. So each number stands beside the same number of
models whose routers never learned, and beside what the tokens alone would give.

Shapes: G domains, R rows of t tokens each, L MoE layers, E experts, K chosen ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from qwen3_ref.model import Qwen3, SparseMoe, Trace
from qwen3_ref.train.loop import cross_entropy
from qwen3_ref.train.recipes.balance import specialisation


@dataclass(frozen=True)
class Routing:
    """What a model did with rows of text: ids (G, R, t), the experts chosen for each (G, R, t, L, K),
    and the loss of each row in nats a token (G, R)."""

    ids: Tensor
    chosen: Tensor
    loss: Tensor
    experts: int

    def picks(self, rows: Sequence[int] | None = None) -> Tensor:
        """How often each domain chose each expert, (G, L, E), in all rows or in those of `rows`, where a
        row may come more than once."""
        chosen = self.chosen if rows is None else self.chosen[:, list(rows)]
        return one_hot(chosen, self.experts).sum((1, 2, 4))


@torch.inference_mode()
def read(model: Qwen3, rows: Tensor) -> Routing:
    """Let the model read rows (G, R, t + 1) and note what its routers choose."""
    chosen, losses = [], []
    for domain in rows:
        traces = [Trace(attention=False) for _ in domain]
        for row, trace in zip(domain, traces, strict=True):
            losses.append(cross_entropy(model(row[None, :-1], trace=trace), row[None, 1:]))
        chosen.append(torch.stack([torch.stack([e[0] for e in t.expert_ids], 1) for t in traces]))
    assert model.config.num_experts
    loss = torch.stack(losses).view(rows.shape[:2])
    return Routing(rows[..., :-1], torch.stack(chosen), loss, model.config.num_experts)


def by_layer(counts: Tensor) -> list[float]:
    """`balance.specialisation` of each layer, of counts (G, L, E), experts weighted by their tokens."""
    distance, _ = specialisation(counts)
    weight = counts.double().sum(0)
    return ((distance * weight).nansum(-1) / weight.sum(-1)).tolist()


def by_tokens_alone(routing: Routing) -> Tensor:
    """Picks (G, L, E) of the odd rows if the token alone decided: each token chooses as it does on
    average, over all domains, in the even rows, and as an average token if it does not occur there."""
    picked = one_hot(routing.chosen, routing.experts).sum(-2).double()  # (G, R, t, L, E)
    table = torch.zeros(int(routing.ids.max()) + 1, *picked.shape[-2:], dtype=torch.float64)
    seen = torch.zeros(len(table), dtype=torch.float64)
    ids, known = routing.ids[:, ::2].flatten(), picked[:, ::2].flatten(0, 2)
    table.index_add_(0, ids, known)
    seen.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
    average = torch.where(seen[:, None, None] > 0, table / seen.clamp_min(1)[:, None, None], known.mean(0))
    return torch.stack([average[domain.flatten()].sum(0) for domain in routing.ids[:, 1::2]])


def agreement(routing: Routing) -> tuple[list[float], list[float]]:
    """By layer, which share of its experts a token has in common with another occurrence of the same
    token, and with any other token. 1 and less: the token decides, and its context does not."""
    picked = one_hot(routing.chosen, routing.experts).sum(-2).flatten(0, 2).double()  # (n, L, E)
    ids, k = routing.ids.flatten(), routing.chosen.shape[-1]

    def alike(groups: Tensor) -> list[float]:
        counts = torch.zeros(int(groups.max()) + 1, *picked.shape[1:], dtype=torch.float64)
        counts.index_add_(0, groups, picked)
        size = torch.bincount(groups, minlength=len(counts)).double()
        pairs = (counts * (counts - 1)).sum(-1)  # ordered pairs of occurrences that share an expert
        of = (size * (size - 1))[:, None].clamp_min(1) * k
        weight = torch.where(size > 1, size, 0.0)
        return ((pairs / of) * weight[:, None]).sum(0).div(weight.sum()).tolist()

    return alike(ids), alike(torch.zeros_like(ids))


# -- controls ------------------------------------------------------------------------------------------


def random_routers(model: Qwen3, seed: int) -> Qwen3:
    """The model with routers drawn anew, each with the mean and spread of the weights it had."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    for router in routers(changed):
        fresh = torch.randn(router.shape, generator=generator).to(router)
        router.copy_(router.mean() + router.std() * fresh)
    return changed


def exchanged_experts(model: Qwen3, seed: int) -> Qwen3:
    """The model with the rows of each router in another order: every token still goes where its like go,
    but to experts that learned from others. Only if experts differ in what they do does it matter."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    for router in routers(changed):
        router.copy_(router[torch.randperm(len(router), generator=generator)].clone())
    return changed


def shuffled(rows: Tensor, seed: int) -> Tensor:
    """Rows (G, R, t + 1) with all tokens of all domains in random order: no domain is left in them."""
    order = torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(seed))
    return rows.flatten()[order].view_as(rows)


def routers(model: Qwen3) -> list[Tensor]:
    """The routers' weights, (E, D) of each MoE layer. Raises ValueError for a dense model."""
    found = [module.gate.weight.detach() for module in model.modules() if isinstance(module, SparseMoe)]
    if not found:
        raise ValueError("the model is dense and has no routers; take an MoE.")
    return found
