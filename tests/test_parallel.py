"""Two and four ranks against one: loss, gradient of every parameter, and what a step makes of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from qwen3_ref import cluster
from qwen3_ref.cluster import Mesh
from qwen3_ref.parallel.processes import RankFailed, run_ranks
from tests.on_ranks import Step, counted, one_rank, spawn, step, tiny

MOE, ONE_KV = tiny(moe=True), tiny(num_key_value_heads=1, tie_word_embeddings=False)
RECOMPUTE: dict[str, Any] = {"checkpointing": True}
CASES: list[tuple[int, str, Any, dict[str, Any]]] = [
    (2, "tp=2", tiny(), {}),
    (2, "dp=2", tiny(), {}),
    (2, "fsdp=2", tiny(), {}),
    (2, "ep=2", MOE, {}),
    (2, "tp=2", MOE, {}),
    (2, "tp=2", ONE_KV, RECOMPUTE),
    (4, "fsdp=2,tp=2", tiny(), {}),
    (4, "tp=4", ONE_KV, {}),
    (4, "ep=2,tp=2", MOE, {}),
    (4, "fsdp=2,ep=2", MOE, RECOMPUTE),
]


def close(found: Step, right: Step, bound: float) -> None:
    """Within a bound, in every number; and every rank and every name is there."""
    assert abs(found[0] - right[0]) < bound, f"the loss is {found[0]} and on one rank {right[0]}"
    for what, mine, theirs in (("gradient", found[1], right[1]), ("weight", found[2], right[2])):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            off = float((mine[name].view_as(value) - value).abs().max())
            assert off < bound, f"the {what} of {name} is off by {off}"


@pytest.mark.parametrize(("world", "mesh", "config", "options"), CASES)
def test_equal_to_one_rank(world: int, mesh: str, config: Any, options: dict[str, Any]) -> None:
    """In float64, to 1e-10, on every rank."""
    for found in spawn(world, step, mesh, config, options):
        close(found, one_rank(config), 1e-10)


@pytest.mark.parametrize(
    ("mesh", "config"), [("tp=2", tiny()), ("dp=2", tiny()), ("fsdp=2", tiny()), ("tp=2", MOE)]
)
def test_bytes_are_those_computed(mesh: str, config: Any) -> None:
    """Of a ring, for every collective about tensors as long as the stream or the weights."""
    right: Counter[str] = Counter()
    for part in cluster.traffic(config, Mesh.of(mesh), 8, rows=2, precision="fp32"):
        right[part.collective] += part.bytes
    for found in spawn(2, counted, config, mesh, 2):
        assert Counter(found) == right


def fails(rank: int) -> None:
    if rank == 1:
        raise ValueError("rank 1 has had enough")


def test_a_rank_that_raises_is_named() -> None:
    with pytest.raises(RankFailed, match="rank 1 failed(.|\n)*has had enough"):
        run_ranks(2, fails)
