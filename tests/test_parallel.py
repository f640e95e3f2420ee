"""Two and four ranks against one: loss, gradient of every parameter, and what a step makes of them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref import cluster
from qwen3_ref.cluster import Mesh
from qwen3_ref.decode.generation import generate
from qwen3_ref.parallel.plan import Ranks
from qwen3_ref.parallel.processes import RankFailed, run_ranks
from qwen3_ref.train import loop, parallel
from tests.on_ranks import (
    PLAN,
    PROMPTS,
    Step,
    counted,
    greedy,
    hardened,
    left_alone,
    one_rank,
    spawn,
    step,
    text_loss,
    tiny,
    trained,
)

MOE, ONE_KV = tiny(moe=True), tiny(num_key_value_heads=1, tie_word_embeddings=False)
RECOMPUTE: dict[str, Any] = {"checkpointing": True}
CASES: list[tuple[str, int, str, Any, dict[str, Any]]] = [
    ("heads", 2, "tp=2", tiny(), {}),
    ("copies", 2, "dp=2", tiny(), {}),
    ("slices", 2, "fsdp=2", tiny(), {}),
    ("experts", 2, "ep=2", MOE, {}),
    ("channels", 2, "tp=2", MOE, {}),
    ("one-KV-head", 2, "tp=2", ONE_KV, RECOMPUTE),
    ("both", 4, "fsdp=2,tp=2", tiny(), {}),
    ("four-copies", 4, "tp=4", ONE_KV, {}),
    ("experts-and-channels", 4, "ep=2,tp=2", MOE, {}),
    ("sliced-experts", 4, "fsdp=2,ep=2", MOE, RECOMPUTE),
]


def close(found: Step, right: Step, bound: float) -> None:
    """Within a bound, in every number; and every rank and every name is there."""
    assert abs(found[0] - right[0]) < bound, f"the loss is {found[0]} and on one rank {right[0]}"
    for what, mine, theirs in (("gradient", found[1], right[1]), ("weight", found[2], right[2])):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            off = float((mine[name].view_as(value) - value).abs().max())
            assert off < bound, f"the {what} of {name} is off by {off}"


@pytest.mark.parametrize(("name", "world", "mesh", "config", "options"), CASES)
def test_equal_to_one_rank(name: str, world: int, mesh: str, config: Any, options: Any) -> None:
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


@pytest.mark.parametrize(("mesh", "config"), [("dp=2", tiny()), ("tp=2", tiny()), ("ep=2", MOE)])
def test_training_equals_one_rank(mesh: str, config: Any, tmp_path: Path) -> None:
    """Clipped AdamW steps on rows of uneven lengths, with balanced experts: weights, log, and what is saved;
    stopped half way and taken up again, to the bit."""
    alone = hardened(config)
    loop.train(alone, PLAN, text_loss, tmp_path / "one")
    whole, again = (
        spawn(2, trained, mesh, config, tmp_path / name, ends)
        for name, ends in (("whole", [None]), ("again", [2, None]))
    )
    for name, right in alone.named_parameters():
        for found in whole:
            assert float((found[name] - right).abs().max()) < 1e-10, name
        assert torch.equal(whole[0][name], again[0][name]), name
    with (tmp_path / "one" / "log.csv").open() as one, (tmp_path / "again" / "log.csv").open() as two:
        for mine, theirs in zip(csv.DictReader(one), csv.DictReader(two), strict=True):
            assert mine == {name: theirs[name] for name in mine}
    saved = dict(parallel.saved_weights(tmp_path / "whole").named_parameters())
    for name, right in alone.named_parameters():
        assert float((saved[name] - right).abs().max()) < 1e-6, name


def test_saved_on_two_ranks_goes_on_with_one(tmp_path: Path) -> None:
    """Of experts, which the two had in parts."""
    spawn(2, trained, "ep=2", MOE, tmp_path / "state", [2])
    (one,) = spawn(1, trained, "dp=1", MOE, tmp_path / "state", [None])
    alone = hardened(MOE)
    loop.train(alone, PLAN, text_loss, tmp_path / "one")
    for name, right in alone.named_parameters():
        assert float((one[name] - right).abs().max()) < 1e-10, name


def test_a_rank_that_is_left_says_so(tmp_path: Path) -> None:
    said = spawn(2, left_alone, tmp_path)[0]
    assert re.fullmatch(
        r"rank 0 has lost another rank \(.*\); the state of step 2 in .* is intact; the same command goes on "
        r"from there\.",
        said,
    ), said


@pytest.mark.parametrize(("mesh", "config"), [("tp=2", ONE_KV), ("ep=2", MOE)])
def test_generates_what_one_rank_does(mesh: str, config: Any) -> None:
    """Greedily, in one batch, with a cache of each rank's own heads."""
    right = [list(ids) for ids in generate(hardened(config), PROMPTS, max_new_tokens=12)]
    assert spawn(2, greedy, mesh, config) == [right, right]


def test_ranks_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ValueError, match="the mesh dp=2 has 2 ranks and there are 1; start 2"):
        Ranks(Mesh(dp=2))


def fails(rank: int) -> None:
    if rank == 1:
        raise ValueError("rank 1 has had enough")


def test_a_rank_that_raises_is_named() -> None:
    with pytest.raises(RankFailed, match="rank 1 failed(.|\n)*has had enough"):
        run_ranks(2, fails)
