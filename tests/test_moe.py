"""The losses that balance the experts: by hand, against transformers, and where their gradient goes."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from qwen3_ref.model import Qwen3, Trace
from qwen3_ref.moe import load_balancing_loss, route, router_load, run_experts, z_loss
from tests.helpers import reference, token_ids

# Router probabilities of three tokens over three experts; their logarithms are the logits.
HAND = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.125, 0.375], [0.125, 0.75, 0.125]], dtype=torch.float64)


def test_balancing_loss_by_hand() -> None:
    """share: experts 0, 0, 1 win, so 2/3, 1/3, 0; mean probability 3/8, 3/8, 1/4; E = 3."""
    logits = [HAND.log()[None]]
    load = router_load(logits[0], 1)
    torch.testing.assert_close(load.share, torch.tensor([2 / 3, 1 / 3, 0]).double())
    torch.testing.assert_close(load.probability, torch.tensor([3 / 8, 3 / 8, 1 / 4]).double())
    assert float(load_balancing_loss(logits, 1)) == pytest.approx(3 * (2 / 3 * 3 / 8 + 1 / 3 * 3 / 8))
    # Two experts each, of the second token alone (the others tie): 0 and 2, shares 1, 0, 1.
    mask = torch.tensor([[0, 1, 0]])
    assert float(load_balancing_loss(logits, 2, mask)) == pytest.approx(3 * (0.5 + 0.375))
    # A constant added to all logits of a token changes nothing.
    shifted = [logits[0] + torch.tensor([[[5.0], [-3.0], [100.0]]])]
    torch.testing.assert_close(load_balancing_loss(shifted, 1), load_balancing_loss(logits, 1))


@pytest.mark.parametrize("top_k", [1, 2, 5, 8])
def test_uniform_routing_gives_top_k(top_k: int) -> None:
    """The convention: shares sum to K, so perfect balance costs K (not 1), and collapse costs E."""
    E = 8
    balanced = torch.stack([torch.roll(torch.arange(E).double(), i) for i in range(E)])
    loss = load_balancing_loss([balanced[None] * 1e-9], top_k)  # nearly uniform, every expert equally often
    assert float(loss) == pytest.approx(top_k, rel=1e-6)
    collapsed = torch.zeros(1, 4, E)
    collapsed[..., :top_k] = 50.0
    assert float(load_balancing_loss([collapsed], top_k)) == pytest.approx(E, rel=1e-5)


def test_balancing_loss_matches_transformers() -> None:
    """Three layers, two rows of seven tokens, with a left-padding mask and without."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 7, 6, generator=generator) * (1 + i) for i in range(3)]
    flat = tuple(layer.flatten(0, 1) for layer in layers)
    uneven = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    for mask in (None, torch.ones(2, 7), uneven):
        for top_k in (1, 2, 6):
            want = load_balancing_loss_func(flat, 6, top_k, attention_mask=mask)
            torch.testing.assert_close(load_balancing_loss(layers, top_k, mask), want)
    alone = load_balancing_loss([x[1:] for x in layers], 2), load_balancing_loss(layers, 2)
    assert alone[0] != alone[1], "the first row must matter for the mask to be tested"


def test_global_share_of_micro_batches() -> None:
    """The mean over micro-batches, each with the global share, is the loss of the whole batch, and so
    is its gradient; the mean of losses with their own shares is another, larger number."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(4, 9, 8, generator=generator, dtype=torch.float64)
    whole += 2 * torch.randn(4, 1, 8, generator=generator, dtype=torch.float64)  # each row has its taste
    whole.requires_grad_()
    loss = load_balancing_loss([whole], 2)
    (want,) = torch.autograd.grad(loss, whole)
    share = router_load(whole, 2).share
    assert not share.requires_grad
    parts = [load_balancing_loss([row[None]], 2, global_share=share) for row in whole]
    torch.testing.assert_close(torch.stack(parts).mean(), loss)
    (got,) = torch.autograd.grad(torch.stack(parts).mean(), whole)
    torch.testing.assert_close(got, want)
    own = torch.stack([load_balancing_loss([row[None]], 2) for row in whole]).mean()
    assert own > loss + 0.1


def test_z_loss_by_hand() -> None:
    """logsumexp of log probabilities is 0; of log 1, log 1, log 2 it is log 4."""
    assert float(z_loss([HAND.log()])) == pytest.approx(0.0, abs=1e-15)
    ones = torch.tensor([[[1.0, 1.0, 2.0]], [[2.0, 4.0, 2.0]]]).double().log()
    assert float(z_loss([ones])) == pytest.approx((math.log(4) ** 2 + math.log(8) ** 2) / 2)
    assert float(z_loss([ones, HAND.log()[None]])) == pytest.approx((math.log(4) ** 2 + math.log(8) ** 2) / 5)
    raised = z_loss([ones.bfloat16()])
    assert raised.dtype == torch.float32


def test_gradient_reaches_the_gate() -> None:
    """Balancing moves the router of every layer, and nothing that comes after the last router."""
    directory, ids, _, _ = reference("moe")
    model = Qwen3.from_pretrained(directory)
    trace = Trace(attention=False)
    model(ids, trace=trace)
    loss = load_balancing_loss(trace.router_logits, 3) + z_loss(trace.router_logits)
    parts = {
        "balancing": load_balancing_loss(trace.router_logits, 3),
        "z": z_loss(trace.router_logits),
        "both": loss,
    }
    for name, part in parts.items():
        assert part.requires_grad, f"the {name} loss is cut off from the graph"
        model.zero_grad()
        part.backward(retain_graph=True)
        for layer in model.model.layers:
            gradient = layer.mlp.gate.weight.grad
            assert gradient is not None and gradient.norm() > 1e-3, name
        assert model.lm_head.weight.grad is None and model.model.norm.weight.grad is None


def test_a_step_against_the_loss_balances() -> None:
    """Following the gradient for 200 steps spreads collapsed choices over all experts."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 12, generator=generator)
    gate = torch.randn(6, 12, generator=generator) * 0.1
    x = x + 2.0 * gate[0] / gate[0].norm() ** 2  # adds 2 to expert 0's logit: everybody likes it
    gate.requires_grad_()
    before = load_balancing_loss([(x @ gate.T)[None]], 1).item()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(load_balancing_loss([(x @ gate.T)[None]], 1), gate)
        gate = (gate - 0.05 * gradient).detach().requires_grad_()
    after = load_balancing_loss([(x @ gate.T)[None]], 1).item()
    assert before > 2 and after < 1.1, (before, after)


def test_top_1_renormalised_has_no_gradient() -> None:
    """A fact, and a trap: with K = 1 the renormalised weight is w / w = 1, a constant. The language
    model's loss then never trains the router; without renormalisation, or with K = 2, it does."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(10, 6, generator=generator)
    gate_up, down = torch.randn(4, 10, 6, generator=generator), torch.randn(4, 6, 5, generator=generator)

    def gradient_norm(top_k: int, normalize: bool) -> float:
        gate = torch.randn(4, 6, generator=torch.Generator().manual_seed(4)).requires_grad_()
        weights, experts = route(x @ gate.T, top_k, normalize)
        run_experts(x, weights, experts, gate_up, down).square().mean().backward()
        assert gate.grad is not None
        return float(gate.grad.norm())

    assert gradient_norm(1, True) < 1e-5
    assert min(gradient_norm(1, False), gradient_norm(2, True), gradient_norm(2, False)) > 0.1


def test_masked_tokens_have_no_gradient() -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    load_balancing_loss([logits], 2, mask).backward()
    assert logits.grad is not None
    assert (logits.grad[0, :2] == 0).all() and (logits.grad[0, 2:] != 0).any()
    everything_masked = load_balancing_loss([logits.detach()], 2, torch.zeros(2, 5))
    assert float(everything_masked) == 0.0, "no tokens, no loss, and no NaN"


def test_experts_nobody_chose_cost_nothing() -> None:
    """Tokens of one expert only: the result is that expert's, and the others get no gradient."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(3, 6, generator=generator)
    gate_up = torch.randn(4, 10, 6, generator=generator).requires_grad_()
    down = torch.randn(4, 6, 5, generator=generator)
    y = run_experts(x, torch.ones(3, 1), torch.full((3, 1), 2), gate_up, down)
    gate, up = (x @ gate_up[2].T).chunk(2, dim=-1)
    torch.testing.assert_close(y, (torch.nn.functional.silu(gate) * up) @ down[2].T)
    y.sum().backward()
    assert gate_up.grad is not None
    assert [bool(g.any()) for g in gate_up.grad] == [False, False, True, False]


def test_ids_are_what_the_trace_says() -> None:
    """The trace's choices are those of its own logits, in every layer."""
    directory, _, _, _ = reference("moe")
    trace = Trace(attention=False)
    with torch.no_grad():
        Qwen3.from_pretrained(directory)(token_ids(160, (1, 20), seed=3), trace=trace)
    for logits, experts in zip(trace.router_logits, trace.expert_ids, strict=True):
        assert (logits.topk(3, dim=-1).indices == experts).all()
