"""Statistics of routing by hand, and controls that change what they say and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qwen3_ref.measure import experts
from qwen3_ref.measure.experts import Routing
from qwen3_ref.model import Qwen3, Trace
from qwen3_ref.train.loop import cross_entropy
from qwen3_ref.train.recipes.balance import count_by_domain
from tests.helpers import tiny

SMALL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
}


@pytest.fixture(scope="module")
def model() -> Qwen3:
    model = tiny(**SMALL)
    for layer in model.model.layers:
        layer.mlp.gate.weight.data *= 10
    return model


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(0, 40, (3, 4, 17), generator=torch.Generator().manual_seed(0))


def routing(ids: list[list[list[int]]], chosen: list[list[list[int]]], count: int = 2) -> Routing:
    """One layer, one expert a token: ids and choices (G, R, t)."""
    text = torch.tensor(ids)
    return Routing(text, torch.tensor(chosen)[..., None, None], torch.zeros(text.shape[:2]), count)


def test_read_is_what_the_model_does(model: Qwen3, rows: torch.Tensor) -> None:
    got = experts.read(model, rows)
    assert got.ids.shape == (3, 4, 16) and got.chosen.shape == (3, 4, 16, 2, 2)
    trace = Trace(attention=False)
    with torch.inference_mode():
        loss = cross_entropy(model(rows[1, 2:3, :-1], trace=trace), rows[1, 2:3, 1:])
    assert float(got.loss[1, 2]) == pytest.approx(float(loss), abs=1e-6)
    assert torch.equal(got.chosen[1, 2], torch.stack([e[0] for e in trace.expert_ids], 1))
    streams = {str(g): rows[g, :, :-1].flatten() for g in range(3)}
    assert torch.equal(got.picks().double(), count_by_domain(model, streams, context=16).double())
    assert torch.equal(got.picks([0, 0]), 2 * got.picks([0])), "a row may come twice"


def test_by_layer_by_hand() -> None:
    """Domain 0 goes to expert 0 alone, domain 1 to expert 1: half of the mix is another's, in layer 0;
    in layer 1 all share all."""
    counts = torch.tensor([[[4, 0], [2, 2]], [[0, 4], [2, 2]]])
    assert experts.by_layer(counts) == [0.5, 0.0]


def test_tokens_alone_by_hand() -> None:
    """Even rows: token 0 goes to expert 0, token 1 to both. Odd rows have what that predicts, whatever
    they did; token 2 is new and goes as all do, 3 of 4 to expert 0."""
    ids = [[[0, 1], [0, 0]], [[0, 1], [1, 2]]]
    got = experts.by_tokens_alone(routing(ids, [[[0, 0], [1, 1]], [[0, 1], [1, 1]]]))
    assert got[:, 0].tolist() == [[2.0, 0.0], [0.5 + 0.75, 0.5 + 0.25]]


def test_agreement_by_hand() -> None:
    """Token 0 three times: 2 of 6 ordered pairs agree; token 1 twice: both do; token 2 has no pair.
    Weights 3 and 2. Any two of six tokens, three at each expert: 12 of 30."""
    same, any_two = experts.agreement(routing([[[0, 0, 0, 1, 1, 2]]], [[[0, 0, 1, 1, 1, 0]]]))
    assert same == [pytest.approx((3 * 2 / 6 + 2 * 1) / 5)]
    assert any_two == [pytest.approx(12 / 30)]


def test_controls_touch_the_routers_alone() -> None:
    model, rows = tiny(**SMALL), torch.arange(3 * 4 * 17).view(3, 4, 17)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for control in (experts.random_routers, experts.exchanged_experts):
        one, again, other = (dict(control(model, seed).named_parameters()) for seed in (1, 1, 2))
        for name, weight in before.items():
            router = name.endswith("mlp.gate.weight")
            assert torch.equal(one[name], weight) != router, name
            assert torch.equal(one[name], again[name])
            assert torch.equal(one[name], other[name]) != router
            assert torch.equal(dict(model.named_parameters())[name], weight), "the model itself stays"
    name = next(n for n in before if n.endswith("mlp.gate.weight"))
    moved = dict(experts.exchanged_experts(model, 1).named_parameters())[name]
    assert {tuple(r) for r in moved.tolist()} == {tuple(r) for r in before[name].tolist()}
    fresh = dict(experts.random_routers(tiny(**(SMALL | {"hidden_size": 256})), 1).named_parameters())[name]
    assert float(fresh.detach().std()) == pytest.approx(0.06, rel=0.1), "as spread as it was"
    mixed = experts.shuffled(rows, 0)
    assert torch.equal(mixed.flatten().sort().values, rows.flatten().sort().values)
    assert mixed.shape == rows.shape and not torch.equal(mixed, rows)
    with pytest.raises(ValueError, match="the model is dense and has no routers; take an MoE"):
        experts.routers(tiny())


def test_exchanging_experts_keeps_the_first_layers_split(model: Qwen3, rows: torch.Tensor) -> None:
    """What a router tells apart stays as it was; only who serves whom changes."""
    before, after = (experts.read(m, rows) for m in (model, experts.exchanged_experts(model, 3)))
    first = experts.by_layer(before.picks())[0]
    assert experts.by_layer(after.picks())[0] == pytest.approx(first, abs=1e-9)
    assert not torch.equal(after.loss, before.loss)
