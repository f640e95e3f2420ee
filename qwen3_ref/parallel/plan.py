"""`parallelize(model, mesh)`: one model over any product of dp, fsdp, ep and tp ranks (`cluster.Mesh`).

The order is PyTorch's: tensor and expert parallelism first, then activation checkpointing, then FSDP2 block
by block. Everything is decided by the config and the mesh.

**Sums and means.** A rank's loss is its own tokens' sum, divided by the number of all ranks' tokens, and
gradients are added up over ranks, never averaged: a mean of means is another number as soon as rows have
different numbers of tokens. An expert's gradient comes together on the rank that has it, by the way back of
its tokens; what FSDP adds up is the other copies' share, and nothing is divided anywhere.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import parallelize_module
from torch.utils.checkpoint import checkpoint

from qwen3_ref.cluster import Mesh, problem
from qwen3_ref.model import Block, Qwen3, SparseMoe
from qwen3_ref.parallel.layers import (
    SplitExperts,
    attention_plan,
    mlp_plan,
    split_head,
    split_vocabulary,
)

# It warns of gathering a weight in two steps, which is how one that FSDP and tp both split is put together.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class Ranks:
    """Which ranks share what, seen from one of them: the groups of a `Mesh`, and sums over them.

    Ranks are numbered with tp innermost, then ep, fsdp, dp.
    """

    def __init__(self, mesh: Mesh, device: str = "cpu") -> None:
        """Every rank has to make it at the same time, in a process group of mesh.ranks.
        Raises ValueError where there are more ranks or fewer."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world != mesh.ranks:
            way = f"start {mesh.ranks} (torchrun --nproc-per-node {mesh.ranks}), or give another mesh"
            raise ValueError(f"the mesh {mesh} has {mesh.ranks} ranks and there are {world}; {way}.")
        self.mesh, self.rank = mesh, dist.get_rank()
        sizes = (mesh.copies, mesh.shards, mesh.tp)
        self.dense = init_device_mesh(device, sizes, mesh_dim_names=("copies", "shards", "tp"))
        sizes4, names = (mesh.dp, mesh.fsdp, mesh.ep, mesh.tp), ("dp", "fsdp", "ep", "tp")
        self.experts = init_device_mesh(device, sizes4, mesh_dim_names=names)
        groups = init_device_mesh(device, (mesh.data, mesh.tp), mesh_dim_names=("data", "tp"))
        self.data = groups["data"]
        self.tp = self.dense["tp"]
        self.whole_logits = True
        """Whether the head's logits are put together on every rank; else each has its slice of the
        vocabulary, as a DTensor, which `loop.cross_entropy` takes."""

    @property
    def data_rank(self) -> int:
        """Which of the groups with rows of their own this rank belongs to, from 0 to mesh.data - 1."""
        return self.data.get_local_rank()

    def share(self, rows: int) -> slice:
        """The rows of a global batch that are this rank's: as equal parts as whole rows allow, in order.
        Raises ValueError where some rank would have none."""
        n, i = self.mesh.data, self.data_rank
        if rows < n:
            raise ValueError(
                f"a step has {rows} rows and the mesh {self.mesh} has {n} groups of ranks with rows of their "
                f"own; give it at most {rows}, and more to tp."
            )
        return slice(rows * i // n, rows * (i + 1) // n)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks with rows of their own: no gradient, and tp's copies count once."""
        value = value.detach().clone()
        if self.mesh.data > 1:
            dist.all_reduce(value, group=self.data.get_group())
        return value

    def wait(self) -> None:
        """Until every rank is here."""
        dist.barrier()

    @contextmanager
    def split_logits(self) -> Iterator[None]:
        """In the block, a model on these ranks leaves its logits in slices of the vocabulary, and their
        cross entropy is taken (and differentiated) slice by slice."""
        if self.mesh.tp == 1:
            yield
            return
        from torch.distributed.tensor.parallel import loss_parallel

        before, self.whole_logits = self.whole_logits, False
        try:
            with loss_parallel():
                yield
        finally:
            self.whole_logits = before


def ranks_of(model: nn.Module) -> Ranks | None:
    """The ranks that a model lies on; None for one that is whole in this process."""
    found = getattr(model, "ranks", None)
    return found if isinstance(found, Ranks) else None


def parallelize(
    model: Qwen3,
    ranks: Ranks | Mesh,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    checkpointing: bool = False,
    training: bool = True,
) -> Qwen3:
    """Split `model` over `ranks`, in place, and return it; every rank calls it with the same model.

    The model may be on the device meta: then each rank's own parts are made by `to_empty` later, and never
    a whole one. precision "bf16": products and gathered weights in bfloat16, sums of gradients and the
    weights that the optimiser changes in what they are. checkpointing: of each block only its input is kept,
    and the rest computed again in the backward pass. training=False leaves FSDP out (dp and fsdp must be
    1) and makes `model.config` that of a rank's own heads, by which a KV cache is made.

    Raises ValueError, naming both sizes, where the model cannot be split so.
    """
    ranks = Ranks(ranks, model.device.type) if isinstance(ranks, Mesh) else ranks
    config, mesh = model.config, ranks.mesh
    if reason := problem(config, mesh):
        raise ValueError(f"the mesh {mesh} does not fit: {reason}")
    if not training and mesh.dp * mesh.fsdp > 1:
        raise ValueError(
            f"the mesh {mesh} has dp={mesh.dp} and fsdp={mesh.fsdp}; to generate, a model is split by tp "
            f"and ep alone, and each further copy answers other prompts."
        )
    if mesh.tp > 1:
        _split_tensors(model, ranks.tp)
        _split_head(model, ranks)
    if config.is_moe:
        for block in model.model.layers:
            if isinstance(block.mlp, SparseMoe):
                split = SplitExperts(block.mlp.experts, ranks.experts["ep", "tp"])
                block.mlp.experts = split  # type: ignore[assignment]
    if checkpointing:
        for block in model.model.layers:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if training:
        _shard(model, ranks, precision)
    elif mesh.tp > 1:
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        own = replace(
            config, num_attention_heads=heads // mesh.tp, num_key_value_heads=max(1, groups // mesh.tp)
        )
        model.config = model.model.config = own
    model.ranks = ranks  # type: ignore[assignment]
    return model


def _split_tensors(model: Qwen3, tp: DeviceMesh) -> None:
    c = model.config
    for block in model.model.layers:
        assert isinstance(block, Block)
        plan = attention_plan(c.num_key_value_heads, c.head_dim, tp.size())
        if not isinstance(block.mlp, SparseMoe):
            plan |= mlp_plan()
        parallelize_module(block, tp, plan)
    split_vocabulary(model.model.embed_tokens, tp)
    if not c.tie_word_embeddings:
        split_head(model.lm_head, tp)


def _split_head(model: Qwen3, ranks: Ranks) -> None:
    """Logits by slices of the vocabulary: the head's rows, or the embedding's where they are one."""

    def head(x: Tensor) -> Tensor:
        tied = model.config.tie_word_embeddings
        weight = model.model.embed_tokens.weight if tied else model.lm_head.weight
        same = DTensor.from_local(x, ranks.tp, [Replicate()], run_check=False)
        logits = F.linear(same, weight)  # (b, t, V), the last axis in slices
        assert isinstance(logits, DTensor)
        if ranks.whole_logits:
            return logits.redistribute(ranks.tp, [Replicate()]).to_local()
        return logits

    model.head = head  # type: ignore[method-assign]


def _shard(model: Qwen3, ranks: Ranks, precision: str) -> None:
    """FSDP2 of every block, and of the root what is left; experts, which other ranks hold, apart."""
    mixed = MixedPrecisionPolicy()
    if precision == "bf16":  # angles stay as they are: rounded, they would be other positions
        mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    rest = ranks.dense["copies", "shards"]
    for block in model.model.layers:
        if isinstance(block.mlp, SparseMoe) and isinstance(block.mlp.experts, SplitExperts):
            fully_shard(block.mlp.experts, mesh=ranks.experts["dp", "fsdp"], mp_policy=mixed)
        fully_shard(block, mesh=rest, mp_policy=mixed)
    fully_shard(model, mesh=rest, mp_policy=mixed)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
