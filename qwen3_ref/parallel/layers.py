"""How the parts of a block are split over ranks: tensor parallelism by PyTorch's styles, and what Qwen3 needs
beyond them: norms of single heads, KV heads that are fewer than the ranks, a vocabulary in slices, and
experts on several ranks.

Ranks of `tp` have the same tokens and share every matrix. Where they begin to compute different things from
one tensor, its gradient is the sum of theirs (`begin`); where partial results are added up, the gradient of
each is that of the sum (`total`). Sources: arXiv 1909.08053 (tensor parallelism), 2006.16668 (experts).

Shapes: n tokens, D hidden_size, E num_experts, F moe_intermediate_size, K num_experts_per_tok.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
)

from qwen3_ref.model import Experts
from qwen3_ref.moe import run_experts


def begin(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """x as it is, the same on every rank; its gradient is the sum of what the ranks find."""
    if mesh.size() == 1:
        return x
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


def total(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum of every rank's x; its gradient goes to each as it is."""
    if mesh.size() == 1:
        return x
    parts = DTensor.from_local(x, mesh, [Partial()], run_check=False)
    return parts.redistribute(mesh, [Replicate()]).to_local().clone()  # FSDP wants no view


class CopiedHeads(ParallelStyle):
    """k_proj or v_proj where KV heads are fewer than ranks: every rank has the whole matrix and multiplies
    the rows of the one head that its query heads read. The gradient is the sum over the ranks, of which
    each knows only its own head's (and of that only its own query heads' share)."""

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Linear)
        whole = distribute_tensor(module.weight, device_mesh, [Replicate()])
        module.weight = nn.Parameter(whole)
        heads, ranks = module.out_features // self.head_dim, device_mesh.size()
        first = device_mesh.get_local_rank() * heads // ranks * self.head_dim

        def forward(x: Tensor) -> Tensor:
            weight = module.weight
            assert isinstance(weight, DTensor)
            own = weight.to_local(grad_placements=[Partial()])[first : first + self.head_dim]
            if isinstance(x, DTensor):  # as the block's other projections read it
                x = x.to_local(grad_placements=[Partial()])
            return F.linear(x, own)

        module.forward = forward  # type: ignore[method-assign, assignment]
        return module


def attention_plan(heads: int, head_dim: int, ranks: int) -> dict[str, ParallelStyle]:
    """Of one block's attention: query heads in equal parts, and the KV head of each with them.

    q_norm and k_norm see a rank's own heads alone, so that their gradients have to be added up over the
    ranks: as weights that are whole, of an input that is split by heads, they are.
    """
    by_head = SequenceParallel(sequence_dim=1, use_local_output=True)  # (b, heads, t, d)
    kv: ParallelStyle = ColwiseParallel() if heads >= ranks else CopiedHeads(head_dim)
    whole, none = Replicate(), None
    inputs: tuple[Placement | None, ...] = (whole, none, none, none, none, none)
    return {
        "self_attn": PrepareModuleInput(input_layouts=inputs, desired_input_layouts=inputs),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": kv,
        "self_attn.v_proj": kv,
        "self_attn.o_proj": RowwiseParallel(),
        "self_attn.q_norm": by_head,
        "self_attn.k_norm": by_head,
    }


def mlp_plan() -> dict[str, ParallelStyle]:
    """Of one dense feed-forward layer: its channels in equal parts."""
    inputs = (Replicate(), None)
    return {
        "mlp": PrepareModuleInput(input_layouts=inputs, desired_input_layouts=inputs),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }


class SplitExperts(nn.Module):
    """`Experts` of which each rank of `ep` has E / ep, and each rank of `tp` F / tp channels of those.

    gate_up_proj is (E, 2, F, D) here, gate and up apart: as (E, 2F, D), cut in two, one rank would get
    every gate and the other every up. As `view(E, 2F, D)` it is the official one.
    """

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        """mesh: of `ep` and `tp`."""
        super().__init__()
        self.ep, self.tp = mesh["ep"], mesh["tp"]
        both, down = experts.gate_up_proj.detach(), experts.down_proj.detach()
        both = both.view(both.shape[0], 2, both.shape[1] // 2, both.shape[2])
        self.experts = both.shape[0]
        self.gate_up_proj = nn.Parameter(distribute_tensor(both, mesh, [Shard(0), Shard(2)]))
        self.down_proj = nn.Parameter(distribute_tensor(down, mesh, [Shard(0), Shard(2)]))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """(n, D) -> (n, D) as `Experts` has it, n this rank's own tokens. Every rank of `ep` has to call it,
        if with no token at all."""
        both, down = self.gate_up_proj, self.down_proj
        assert isinstance(both, DTensor) and isinstance(down, DTensor)
        own_both, own_down = both.to_local().flatten(1, 2), down.to_local()
        x, weights = begin(x, self.tp), begin(weights, self.tp)
        if self.ep.size() == 1:
            return total(run_experts(x, weights, experts, own_both, own_down), self.tp)
        # Picks sorted by expert, and so by the rank that has it.
        order = experts.flatten().argsort(stable=True)
        token = order // experts.shape[1]
        counts = experts.flatten().bincount(minlength=self.experts)
        here, group = self.experts // self.ep.size(), self.ep.get_group()
        coming = torch.empty_like(counts)  # from each rank, for each expert here
        dist.all_to_all_single(coming, counts, group=group)
        send = counts.view(-1, here).sum(1).tolist()
        receive = coming.view(-1, here).sum(1).tolist()
        rows = exchange(x[token], receive, send, group)
        own = torch.arange(here, device=x.device).repeat(self.ep.size()).repeat_interleave(coming)
        alone = torch.ones(len(rows), 1, dtype=weights.dtype, device=x.device)
        done = exchange(run_experts(rows, alone, own[:, None], own_both, own_down), send, receive, group)
        share = weights.flatten()[order].to(x.dtype)[:, None]  # weighed here, where the router is
        return total(torch.zeros_like(x).index_add(0, token, done * share), self.tp)


def exchange(rows: Tensor, receive: Sequence[int], send: Sequence[int], group: Any) -> Tensor:
    """All-to-all of rows, (sum of send, D) -> (sum of receive, D), by the rank they come from; gradients go
    the way back."""
    moved = collectives.all_to_all_single_autograd(rows.contiguous(), list(receive), list(send), group)
    return collectives.wait_tensor(moved) if not moved.requires_grad else moved


def split_vocabulary(embedding: nn.Embedding, mesh: DeviceMesh) -> None:
    """Rows of the embedding in equal parts: each rank looks up the ids it has, and the results are added."""
    style = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    style._apply(embedding, mesh)


def split_head(head: nn.Linear, mesh: DeviceMesh) -> None:
    """An untied head's rows in equal parts."""
    distribute_module(head, mesh, lambda name, module, device_mesh: _by_rows(module, device_mesh))


def _by_rows(module: nn.Module, mesh: DeviceMesh) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))
