"""The two measurements of the lesson on quantisation: their parts by hand, and what ships of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qwen3_ref.course.plots.quantization_and_memory import measured
from qwen3_ref.measure import qk_norm, quantization
from qwen3_ref.model import Attention
from qwen3_ref.train.recipes import pretrain
from tests.helpers import TINY, hard_model, row, token_ids


def test_variants_differ_in_one_thing_alone() -> None:
    ids = token_ids(TINY.vocab_size, (2, 9))
    models = {name: qk_norm.make_variant(name, 3, TINY) for name in qk_norm.VARIANTS}
    states = {name: model.state_dict() for name, model in models.items()}
    shared = states["neither"].keys()
    for name, state in states.items():
        assert all(torch.equal(state[key], states["neither"][key]) for key in shared), name
    extra = {
        name: {key.rpartition("self_attn.")[2] for key in state.keys() - shared}
        for name, state in states.items()
    }
    assert extra == {
        "qk-norm": {"q_norm.weight", "k_norm.weight"},
        "bias": {"q_proj.bias", "k_proj.bias", "v_proj.bias"},
        "neither": set(),
    }
    with torch.no_grad():
        logits = {name: model(ids) for name, model in models.items()}
        assert torch.equal(logits["bias"], logits["neither"])  # biases start at zero
        assert not torch.allclose(logits["qk-norm"], logits["neither"])
        for attention in (m for m in models["bias"].modules() if isinstance(m, Attention)):
            assert isinstance(attention.q_norm, nn.Identity)
            assert attention.k_proj.bias is not None
            attention.k_proj.bias += torch.arange(len(attention.k_proj.bias))
        assert not torch.allclose(models["bias"](ids), logits["bias"], atol=1e-4)
    with pytest.raises(ValueError, match="there is no variant 'both'; there are qk-norm, bias, neither"):
        qk_norm.make_variant("both", 0)


def test_the_small_config_is_the_nano_three_quarters_as_wide() -> None:
    small, nano = qk_norm.small_config(), pretrain.nano_config()
    assert (small.hidden_size, small.intermediate_size, small.head_dim) == (96, 256, 32)
    assert 4 * small.hidden_size == 3 * nano.hidden_size and 2 * small.head_dim == nano.head_dim
    assert small.num_hidden_layers == nano.num_hidden_layers and small.vocab_size == nano.vocab_size
    assert small.num_parameters() == 566_368


def test_the_loss_through_a_cache_of_floats_is_the_loss() -> None:
    model = hard_model()
    streams = {"a": token_ids(TINY.vocab_size, (1, 200))[0]}
    plain = qk_norm.loss_of(model, streams, 16, None)
    assert qk_norm.loss_of(model, streams, 16, (None, None)) == pytest.approx(plain, abs=1e-5)
    assert qk_norm.loss_of(model, streams, 16, (4, 4)) != pytest.approx(plain, abs=1e-4)


def test_counting_by_hand() -> None:
    """A text of 0 1 0 1: pairs tell everything, and mixed half and half with single tokens, less."""
    text = torch.tensor([0, 1] * 500)
    found = qk_norm.count_controls({"a": text}, {"a": text}, 4)
    assert found["unigram"] == pytest.approx(0.6931, abs=1e-3)
    assert found["bigram"] == pytest.approx(-torch.tensor(0.75).log().item(), abs=1e-3)


def test_pairs_are_of_one_seed() -> None:
    def cell(base: float, rise: float) -> dict[str, Any]:
        return {"losses": {"16 bits": base, "K int4": base + rise}}

    cells = {"qk-norm": [cell(2, 0.1), cell(3, 0.2)], "bias": [cell(5, 0.3), cell(1, 0.4)]}
    found = qk_norm.paired(cells)["bias"]["K int4"]
    assert found["mean"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2) == pytest.approx(found["high"])


def test_accuracy_at_equal_tokens() -> None:
    points = [
        {"mode": "thinking", "tokens": t, "accuracy": a} for t, a in ((10.0, 0.2), (30.0, 0.8), (20.0, 0.4))
    ]
    assert quantization.at_tokens(points, 25) == pytest.approx(0.6)
    assert quantization.at_tokens(points, 10) == pytest.approx(0.2)
    assert quantization.at_tokens(points, 31) is None and quantization.at_tokens(points, 9) is None


def test_thoughts_are_compared_where_both_closed() -> None:
    free = {"mode": "thinking", "budget": None, "thinking_ended": "closed", "thinking_tokens": 10}
    exact = [row(i, True, **free) for i in range(3)]
    coarse = [
        row(0, True, **free),
        row(1, False, **(free | {"thinking_tokens": 14})),
        row(2, False, **(free | {"thinking_tokens": 99, "thinking_ended": ""})),
    ]
    for rows in (exact, coarse):  # neither a budget nor answers without thinking count
        rows += [row(3, rows is exact, **(free | {"budget": 8})), row(4, rows is exact, mode="non-thinking")]
    found = quantization.against(exact, coarse)
    assert found["closed_thoughts"]["mean"] == 2 and found["closed_thoughts"]["n"] == 2
    assert found["accuracy"]["mean"] == pytest.approx(-2 / 3)
    assert found["closed_thoughts"]["of_16_bits"] == 10
    half = 1.96 * 2 * 2**0.5 / 2**0.5  # 0 and 4 tokens more: the deviation is the root of 8
    assert found["closed_thoughts"]["high"] == pytest.approx(2 + half) == 4 - found["closed_thoughts"]["low"]
    one = quantization.against(exact[::2], coarse[::2])
    assert set(one) == {"accuracy"}, "one pair has no interval"


def test_a_model_is_no_distance_from_itself() -> None:
    model, rows = hard_model(), token_ids(TINY.vocab_size, (3, 12))
    ours = torch.zeros(3, 12, dtype=torch.bool)
    ours[:, 5:] = True
    found = quantization.distance(model, model, rows, ours)
    assert found["kl"] == 0 and found["agree"] == 1
    with torch.no_grad():
        log = model(rows).double().log_softmax(-1)
    by_hand = -log[:, 4:-1].gather(-1, rows[:, 5:, None]).mean()
    assert found["loss"] == pytest.approx(float(by_hand), abs=1e-6)


def test_what_ships_was_measured_as_the_commands_say() -> None:
    quantised, study = measured("quantization"), measured("qk_norm")
    assert list(quantised["points"]) == [quantization.name_of(*point) for point in quantization.POINTS]
    assert quantised["problems"] == 5 * quantization.EACH >= 300 and quantised["group"] == quantization.GROUP
    for point in quantised["points"].values():
        assert len(point["curve"]) == len(quantization.BUDGETS) + 1
    assert quantised["points"]["16"]["kl"] == 0
    assert list(study["rises"]) == list(qk_norm.VARIANTS) and len(study["seeds"]) >= 3
    for cells in study["cells"].values():
        for cell in cells:
            assert cell["losses"]["16 bits"] < study["controls"]["bigram"] < study["controls"]["unigram"]
