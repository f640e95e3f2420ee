"""What the ranks of test_parallel.py do, where another process can import it; and `spawn`, which starts
them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from qwen3_ref.cluster import Mesh
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Qwen3
from qwen3_ref.parallel.plan import Ranks, parallelize
from qwen3_ref.parallel.processes import RankFailed, run_ranks
from qwen3_ref.parallel.traffic import CountTraffic
from qwen3_ref.train import parallel
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Plan, cross_entropy, on_ranks
from qwen3_ref.train.recipes import balance
from tests.faults.switch import ON, Fault, switched_on


def spawn(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`run_ranks` with this process's faults switched on in each rank. A rank that fails is a failed test."""
    try:
        return run_ranks(world, _faulty, tuple(ON), function, arguments, timeout=60, limit=120)
    except RankFailed as error:
        if "NameError" in str(error) or "SyntaxError" in str(error):
            raise
        pytest.fail(str(error))


def _faulty(rank: int, faults: tuple[Fault, ...], function: Callable[..., Any], given: Any) -> Any:
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(switched_on(fault))
        return function(rank, *given)


def tiny(moe: bool = False, **changes: Any) -> Qwen3Config:
    """head_dim is not hidden_size / heads, and no two sizes are equal."""
    sizes: dict[str, Any] = dict(
        model_type="qwen3_moe" if moe else "qwen3",
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    if moe:
        sizes |= dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True)
    return Qwen3Config(**(sizes | changes))


def hardened(config: Qwen3Config, dtype: torch.dtype = torch.float64) -> Qwen3:
    """The same on every rank; norm gains are not 1."""
    rng = torch.Generator().manual_seed(1)
    model = Qwen3(config, generator=rng, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng).to(dtype))
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Five rows of eight tokens; row r has 8 - 2 r targets, so that a mean of means is another number."""
    ids = torch.randint(48, (5, 9), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    for row in range(5):
        targets[row, : 2 * row] = -100
    return ids[:, :-1], targets


def token_loss(model: Qwen3, mine: slice) -> Tensor:
    """This rank's share of the mean over all tokens of all rows."""
    inputs, targets = batch()
    logits = model(inputs[mine]).flatten(0, 1)
    loss = F.cross_entropy(logits, targets[mine].flatten(), reduction="sum") / int((targets != -100).sum())
    return loss.full_tensor() if isinstance(loss, DTensor) else loss


Step = tuple[float, dict[str, Tensor], dict[str, Tensor]]
"""Loss, gradients, and parameters after a step of SGD, by name."""


def one_rank(config: Qwen3Config, dtype: torch.dtype = torch.float64) -> Step:
    """What everything is compared with."""
    model = hardened(config, dtype)
    loss = token_loss(model, slice(None))
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found = dict(model.named_parameters())
    return float(loss.detach()), {n: p.grad for n, p in found.items()}, {n: p.data for n, p in found.items()}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def step(rank: int, mesh: str, config: Qwen3Config, options: dict[str, Any]) -> Step:
    """One step on a mesh, put together again on every rank."""
    dtype = torch.float32 if options.get("precision") == "bf16" else torch.float64
    model, ranks = hardened(config, dtype), Ranks(Mesh.of(mesh))
    parallelize(model, ranks, **options)
    with ranks.split_logits():
        loss = token_loss(model, ranks.share(5))
        loss.backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = {name: whole(p) for name, p in model.named_parameters()}
    return float(ranks.sum(loss)), gradients, after


def counted(rank: int, config: Qwen3Config, mesh: str, rows: int) -> dict[str, int]:
    """Bytes that a step sends, in float32, with `rows` rows of eight tokens on each rank that has its own."""
    model, ranks = hardened(config, torch.float32), Ranks(Mesh.of(mesh))
    parallelize(model, ranks)
    ids = torch.randint(48, (rows, 9), generator=torch.Generator().manual_seed(3 + ranks.data_rank))
    with CountTraffic(least=300) as traffic, ranks.split_logits():
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
    return dict(traffic.bytes)


PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]
PLAN = Plan(steps=4, learning_rate=1e-2, warmup=2, clip=0.5, log_every=1, save_every=2)
WEIGHTS = balance.Weights("global", 0.1, 0.01)


def text_loss(model: Qwen3, number: int) -> tuple[Tensor, dict[str, float]]:
    """Of five rows with different numbers of targets; experts are balanced over all tokens."""
    ids = torch.randint(48, (5, 9), generator=torch.Generator().manual_seed(100 + number))
    if model.config.is_moe:
        if on_ranks(model):
            return balance._on_ranks(model, ids, WEIGHTS, 5)
        lm, logits = balance._forward(model, ids)
        return WEIGHTS.total(lm, balance.balancing_loss(logits, 2), logits), {}
    targets = ids[:, 1:].clone()
    for row in range(5):
        targets[row, : 2 * row] = -100
    if on_ranks(model):
        return parallel.token_loss(model, ids[:, :-1], targets), {}
    return cross_entropy(model(ids[:, :-1]), targets), {}


def trained(
    rank: int, mesh: str, config: Qwen3Config, folder: Path, ends: list[int | None]
) -> dict[str, Tensor]:
    """The weights after PLAN, taken up again after each of `ends`."""
    for end in ends:
        model, ranks = hardened(config), Ranks(Mesh.of(mesh))
        parallel.train_on_ranks(model, PLAN, text_loss, folder, ranks, stop_at=end)
    return {name: p.detach() for name, p in model.named_parameters()}


def left_alone(rank: int, folder: Path) -> str:
    """Rank 1 goes away in the fourth step; what rank 0 says of it."""

    def loss(model: Qwen3, number: int) -> tuple[Tensor, dict[str, float]]:
        if rank == 1 and number == 3:
            dist.destroy_process_group()
            raise KeyboardInterrupt
        return text_loss(model, number)

    try:
        parallel.train_on_ranks(hardened(tiny()), PLAN, loss, folder, Ranks(Mesh(dp=2)))
    except TrainingError as error:
        return str(error)
    return "nothing"


def greedy(rank: int, mesh: str, config: Qwen3Config) -> list[list[int]]:
    """What a model on ranks says to two prompts of different lengths."""
    model = parallelize(hardened(config), Mesh.of(mesh), training=False)
    return [list(ids) for ids in generate(model, PROMPTS, max_new_tokens=12)]
