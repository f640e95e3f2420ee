"""What a pass costs, counted, and the clock beside it."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

from qwen3_ref.cache import KVCache
from qwen3_ref.measure import work
from qwen3_ref.measure.work import Machine, Operations, interleaved, machine, seconds
from qwen3_ref.model import Qwen3


@torch.inference_mode()
def test_operations_are_told_apart() -> None:
    x, w = torch.ones(2, 3, 4), torch.ones(5, 4)
    with Operations() as seen:
        y = F.linear(x, w).transpose(0, 1).view(3, 2, 5) + 1
    assert y.shape == (3, 2, 5)
    assert dict(seen.views) == {"transpose": 1, "view": 1}
    assert dict(seen.computing) == {"linear": 1, "add": 1}
    assert seen.products == [(6, 5, 4)] and seen.weights == 20 and seen.flops == 240
    assert F.linear(x, w) is not None and sum(seen.computing.values()) == 2, "outside, nothing is counted"


@torch.inference_mode()
def test_a_decode_step_reads_every_matrix_once() -> None:
    model = Qwen3.from_pretrained("qwen3-nano")
    cache = KVCache(model.config, 3, 8)
    ids = torch.arange(24).view(3, 8)
    model(ids[:, :7], cache=cache)
    with Operations() as seen:
        model(ids[:, 7:], cache=cache)
    matrices = sorted(tuple(s) for s in model.config.tensor_shapes().values() if len(s) == 2)
    assert sorted(shape for _, *shape in map(list, seen.products)) == [list(m) for m in matrices]
    assert {rows for rows, _, _ in seen.products} == {3}
    assert seen.flops == 3 * model.config.flops_per_token(0)


def test_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(2e9, 1e10).ridge == 5
    monkeypatch.setattr(work, "_SIDE", 512)
    found = machine()
    assert found.bandwidth > 1e8 and found.peak > 1e8


def test_the_clock() -> None:
    """The best of several, and medians of turns, of which the first is not counted."""
    calls: list[str] = []
    assert seconds(lambda: calls.append("a"), times=2) >= 0 and len(calls) == 3
    calls.clear()
    jobs = {"quick": lambda: calls.append("q"), "slow": lambda: (calls.append("s"), time.sleep(0.02))}
    found = interleaved(jobs, rounds=2)
    assert calls == ["q", "s"] * 3 and list(found) == ["quick", "slow"]
    assert found["slow"] >= 0.02 > found["quick"]
