"""Mixture of experts in PyTorch: the router, the dispatch, and the losses that balance the load.

Qwen3's MoE has 128 fine-grained experts (Coder-480B 160), 8 chosen per token, no shared expert, no
router bias, no capacity limit and no dropped token.

Sources: transformers 5 `models/qwen3_moe/modeling_qwen3_moe.py`; global-batch balancing
arXiv 2501.11873 (named by the Qwen3 technical report, section 2); z-loss arXiv 2202.08906 (an
option; neither the report nor the official code uses it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_ref.arrays import at_least_float32


def route(logits: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """The router's choice: softmax over all experts first, top_k second, renormalised if asked.

    logits (..., E) -> weights (..., K) in at least float32, experts (..., K) int64, best first.
    """
    probabilities = at_least_float32(logits).softmax(dim=-1)
    experts = best(probabilities, top_k)
    weights = probabilities.gather(-1, experts)
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, experts


def best(probabilities: Tensor, top_k: int) -> Tensor:
    """The top_k most probable experts, (..., E) -> (..., K), best first, and of equals the lower index,
    as NumPy's stable sort has it: `torch.topk` promises no order, and every kernel has its own."""
    return probabilities.argsort(dim=-1, descending=True, stable=True)[..., :top_k]


def run_experts(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """Send each token through its experts and add up the weighted results.

    x (n, D); weights, experts (n, K); gate_up (E, 2F, D); down (E, D, F) -> (n, D).
    The picks are sorted by expert, so each expert multiplies one contiguous block of tokens, and
    experts that nobody chose cost nothing.
    """
    order = experts.flatten().argsort(stable=True)
    token = order // experts.shape[1]
    counts = experts.flatten().bincount(minlength=gate_up.shape[0]).tolist()
    share = weights.flatten()[order].to(x.dtype)[:, None]
    y = torch.zeros_like(x)
    start = 0
    for e, n in enumerate(counts):
        if n == 0:
            continue
        block = slice(start, start + n)
        gate, up = F.linear(x[token[block]], gate_up[e]).chunk(2, dim=-1)
        y = y.index_add(0, token[block], F.linear(F.silu(gate) * up, down[e]) * share[block])
        start += n
    return y


@dataclass(frozen=True)
class RouterLoad:
    """What a batch did to the experts: `share` (E,) of tokens that chose each expert (sums to K,
    no gradient) and `probability` (E,), the mean router probability (sums to 1, has the gradient)."""

    share: Tensor
    probability: Tensor


def router_load(logits: Tensor, top_k: int, mask: Tensor | None = None) -> RouterLoad:
    """Count the choices behind router logits (..., E).

    mask (...), 0 for padding: masked tokens count neither in the share nor in the probability.
    """
    logits = at_least_float32(logits.flatten(0, -2))
    probabilities = logits.softmax(dim=-1)
    rows = torch.ones_like(probabilities[:, 0]) if mask is None else mask.flatten().to(logits)
    chosen = torch.zeros_like(probabilities).scatter(1, best(probabilities, top_k), 1)
    total = rows.sum().clamp_min(1)
    return RouterLoad(
        share=(chosen * rows[:, None]).sum(0).div(total).detach(),
        probability=(probabilities * rows[:, None]).sum(0) / total,
    )


def load_balancing_loss(
    router_logits: Sequence[Tensor],
    top_k: int,
    mask: Tensor | None = None,
    global_share: Tensor | None = None,
) -> Tensor:
    """E * sum_i share_i * probability_i, a scalar; `router_logits` is one (b, t, E) per MoE layer.

    As the official code does, tokens of all layers are pooled. Uniform routing gives top_k (a
    convention: some projects divide the share by top_k, and then it is 1). With `global_share` (E,),
    the choices counted over the global batch (all ranks and accumulation steps), this micro-batch
    contributes its own probabilities only: the global-batch loss of arXiv 2501.11873.
    mask (b, t): 0 for padding. Raises ValueError where there is no MoE layer, or for another mask.
    """
    pooled, pooled_mask = _pooled(router_logits, mask)
    load = router_load(pooled, top_k, pooled_mask)
    share = load.share if global_share is None else global_share.to(load.share)
    return pooled.shape[-1] * (share * load.probability).sum()


def z_loss(router_logits: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean over tokens of logsumexp(logits) squared (ST-MoE); keeps router logits small. A scalar.

    mask (b, t): 0 for padding, which does not count. Raises ValueError as `load_balancing_loss` does.
    """
    pooled, pooled_mask = _pooled(router_logits, mask)
    squares = at_least_float32(pooled).logsumexp(dim=-1).square()
    if pooled_mask is None:
        return squares.mean()
    rows = pooled_mask.to(squares)
    return (squares * rows).sum() / rows.sum().clamp_min(1)


def require_layers(router_logits: Sequence[Tensor]) -> None:
    """Raise ValueError where there is no layer to balance: a dense model's, or an unused trace."""
    if len(router_logits) == 0:
        raise ValueError("there are no router logits: no layer of the model has experts to balance.")


def _pooled(router_logits: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The logits of all layers' tokens, L of (b, t, E) -> (L b t, E), and their mask (L b t,)."""
    require_layers(router_logits)
    shape = router_logits[0].shape[:-1]
    if mask is not None and mask.shape != shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and the router logits are of {tuple(shape)} tokens; give "
            f"one value for each token."
        )
    pooled = torch.cat([layer.flatten(0, -2) for layer in router_logits])
    return pooled, None if mask is None else mask.flatten().repeat(len(router_logits))
