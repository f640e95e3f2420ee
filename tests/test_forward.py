"""The forward pass: what it makes and when, what can be exchanged, what it refuses, what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_ref import model as module
from qwen3_ref import numpy_ref
from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Experts, Qwen3, Trace, eager_attention
from qwen3_ref.moe import load_balancing_loss, route, router_load, z_loss
from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3
from qwen3_ref.rope import frequencies
from qwen3_ref.train.recipes import balance, pretrain
from tests.helpers import (
    TINY,
    cached_official,
    hard_model,
    harden,
    official_alone,
    reference,
    token_ids,
)

ATOL = 5e-5  # float32 against transformers in float32


def settings(**changes: Any) -> Qwen3Config:
    return Qwen3Config.from_dict(TINY.to_dict() | {"architectures": None} | changes)


def moe(**changes: Any) -> Qwen3Config:
    sizes = dict(num_experts=16, num_experts_per_tok=3, moe_intermediate_size=10, norm_topk_prob=True)
    return settings(model_type="qwen3_moe", **sizes | changes)


def in_numpy(model: Qwen3) -> NumpyQwen3:
    return NumpyQwen3(model.config, {name: t.numpy() for name, t in model.named_official_tensors()})


# -- made only when needed, and once ---------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The size of the largest boolean tensor that was made: a mask, if there is one."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = function(*given, **(named or {}))
        if isinstance(made, Tensor) and made.dtype == torch.bool:
            self.size = max(self.size, made.numel())
        return made


@torch.no_grad()
def test_no_mask_where_none_is_needed() -> None:
    """Of t * t booleans, a plain prefill and a lone token without padding make none; a later chunk makes
    one for all rows, and padding one for each."""
    config, t = settings(max_position_embeddings=600), 300
    model, ids = Qwen3(config), token_ids(TINY.vocab_size, (2, 300))
    ones, padded = torch.ones_like(ids), torch.ones_like(ids).index_fill(1, torch.arange(2), 0)
    cache = KVCache(config, 2, 400)
    for given, options, size in (
        (ids, {}, 2 * t),
        (ids, dict(attention_mask=ones), 2 * t),
        (ids, dict(attention_mask=ones, cache=cache), 2 * t),
        (ids[:, :1], dict(cache=cache), 2 * (t + 1)),
        (ids[:, :5], dict(cache=cache), 5 * (t + 6)),
        (ids, dict(attention_mask=padded), 2 * t * t),
        (ids, dict(trace=Trace(attention=False)), 2 * t),
    ):
        with Largest() as largest:
            model(given, **options)  # type: ignore[arg-type]
        assert largest.size == size, (tuple(given.shape), options.keys())


@contextmanager
def counted(*names: str) -> Iterator[dict[str, int]]:
    """How often functions of the model's module are called."""
    calls = dict.fromkeys(names, 0)

    def counting(name: str, function: Any) -> Any:
        def count(*given: Any) -> Any:
            calls[name] += 1
            return function(*given)

        return count

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(module, name, counting(name, getattr(module, name)))
        yield calls


@torch.no_grad()
def test_tables_and_mask_are_made_once_a_pass() -> None:
    """And frequencies once for all passes; tables of one row serve all rows without padding."""
    ids = token_ids(TINY.vocab_size, (2, 6))
    with counted("frequencies", "rope_tables", "causal_mask") as calls:
        model = Qwen3(settings(num_hidden_layers=3))
        assert calls == {"frequencies": 1, "rope_tables": 0, "causal_mask": 0}
        cache = KVCache(model.config, 2, 20)
        model(ids, cache=cache)
        model(ids[:, :1], cache=cache)
        assert calls == {"frequencies": 1, "rope_tables": 2, "causal_mask": 0}
        model(ids, cache=cache)
        assert calls == {"frequencies": 1, "rope_tables": 3, "causal_mask": 1}
        model(ids, trace=Trace())  # the eager path, whose weights are wanted, needs one
        assert calls == {"frequencies": 1, "rope_tables": 4, "causal_mask": 2}


def test_frequencies_survive_whatever_happens_to_a_model() -> None:
    """In float64 after every conversion, on "meta", in a copy; another theta is another model's."""
    yarn = dict(rope_type="yarn", factor=3.0, original_max_position_embeddings=16)
    config = settings(rope_scaling=yarn)
    want, factor = frequencies(6, config.rope_theta, yarn, 64)
    model = Qwen3(config)
    for other in (
        model,
        Qwen3(config, device="meta"),
        Qwen3(config, dtype=torch.bfloat16),
        copy.deepcopy(model).to(torch.bfloat16).to(torch.float64),
        copy.deepcopy(model).to("meta").to_empty(device="cpu"),
    ):
        assert other.model.inv_freq.dtype == np.float64 and (other.model.inv_freq == want).all()
        assert other.model.rope_factor == factor > 1
    changed = pretrain.with_rope_theta(model, 1e6)
    assert (changed.model.inv_freq == frequencies(6, 1e6, yarn, 64)[0]).all()
    assert (model.model.inv_freq == want).all() and "inv_freq" not in "".join(model.state_dict())
    ids = token_ids(TINY.vocab_size, (1, 30))
    assert torch.equal(copy.deepcopy(model)(ids), model(ids))


# -- exchanged -------------------------------------------------------------------------------------------


class Product(nn.Module):
    """A product of another make: columns added up one by one in float64, rounded at the end."""

    def __init__(self, linear: nn.Linear, seen: list[str]) -> None:
        super().__init__()
        self.weight, self.seen = linear.weight.detach().double(), seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append("product")
        return (x.double() @ self.weight.T).to(x.dtype)


class OneByOne(nn.Module):
    """Experts of another make: token by token."""

    def __init__(self, experts: Experts, seen: list[str]) -> None:
        super().__init__()
        self.gate_up, self.down, self.seen = experts.gate_up_proj, experts.down_proj, seen

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        self.seen.append("experts")
        rows = []
        for token, row, chosen in zip(x, weights, experts, strict=True):
            parts = []
            for weight, e in zip(row, chosen.tolist(), strict=True):
                gate, up = (self.gate_up[e] @ token).chunk(2)
                parts.append(weight * (self.down[e] @ (F.silu(gate) * up)))
            rows.append(torch.stack(parts).sum(0))
        return torch.stack(rows)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_products_experts_attention_and_head_can_be_exchanged(tied: bool) -> None:
    """Each for an equal one: prefill, a chunk and a step on a cache say the same, and all were used."""
    model = Qwen3(moe(tie_word_embeddings=tied, mlp_only_layers=[1]))
    harden(model)
    ids = token_ids(TINY.vocab_size, (2, 12), seed=1)

    def passes() -> Tensor:
        cache = KVCache(model.config, 2, 12)
        return torch.cat([model(part, cache=cache) for part in ids.split([7, 4, 1], 1)], 1)

    want, seen = passes(), list[str]()

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        seen.append("attention")
        t, s = q.shape[2], k.shape[2]
        causal = torch.ones(t, s, dtype=torch.bool).tril(s - t)[None, None]
        return eager_attention(q, k, v, causal if mask is None else mask)[0]

    def head(x: Tensor) -> Tensor:
        seen.append("head")
        weight = model.model.embed_tokens.weight if tied else model.lm_head.weight
        return torch.einsum("btd,vd->btv", x, weight)

    products = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(parent, name, Product(child, seen))
                products += 1
            elif isinstance(child, Experts):
                setattr(parent, name, OneByOne(child, seen))
    for block in model.model.layers:
        block.self_attn.attend = attend
    model.head = head  # type: ignore[method-assign]
    assert products == 2 * 4 + 3 + 1, "two attentions, one feed-forward, one router"
    torch.testing.assert_close(passes(), want, atol=1e-5, rtol=0)
    assert {name: seen.count(name) for name in set(seen)} == {
        "product": 3 * products,
        "experts": 3,
        "attention": 3 * 2,
        "head": 3,
    }


@torch.no_grad()
def test_the_decoder_alone_gives_the_last_hidden_state() -> None:
    directory, ids, _, _ = reference("dense_tied")
    model = Qwen3.from_pretrained(directory)
    got = model.model(ids)
    torch.testing.assert_close(
        got, cached_official("dense_tied").model(ids).last_hidden_state, atol=ATOL, rtol=0
    )
    assert torch.equal(model.head(got), model(ids))


def test_dtype_and_device_are_the_weights() -> None:
    """float32 unless another is asked for; NumPy's specification reads float64."""
    directory, ids, _, _ = reference("dense")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model = Qwen3.from_pretrained(directory, dtype=dtype)
        assert model.dtype == dtype == model(ids[:, :3]).dtype and model.device == torch.device("cpu")
    assert Qwen3.from_pretrained(directory).dtype == torch.float32 == Qwen3(TINY).dtype
    assert KVCache(TINY, 1, 2).keys.dtype == torch.float32
    assert Qwen3(TINY, device="meta").device.type == "meta"
    spec = NumpyQwen3.from_pretrained(directory)
    assert {w.dtype for w in spec.weights.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_fresh_weights_have_the_configs_spread(spread: float) -> None:
    """Like transformers', and again when they are drawn again; gains are 1."""
    model = Qwen3(moe(initializer_range=spread, tie_word_embeddings=False, hidden_size=64))
    for _ in range(2):
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                assert (value == 1).all(), name
            else:
                assert 0.85 < value.detach().std() / spread < 1.15, name
        model.reset_parameters(torch.Generator().manual_seed(1))


# -- NumPy computes in the dtype of its inputs -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_computes_in_the_dtype_of_its_weights(dtype: Any) -> None:
    """Every number on the way, of both kinds of layer, with a cache and without."""
    model = Qwen3(moe(mlp_only_layers=[0]), dtype=torch.float64)
    weights = {name: t.numpy().astype(dtype) for name, t in model.named_official_tensors()}
    spec, cache, ids = NumpyQwen3(model.config, weights), NumpyCache(), np.array([[1, 2, 3]])
    for options in ({}, {"cache": cache}, {"cache": cache}):
        trace = Trace()
        logits = spec(ids, trace=trace, **options)  # type: ignore[arg-type]
        arrays = [logits, *trace.hidden_states, *trace.attentions, *trace.router_logits]
        arrays += [*trace.expert_weights, *cache.keys, *cache.values]
        assert {a.dtype for a in arrays} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_functions_keep_their_dtype(dtype: Any) -> None:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> Any:
        return rng.normal(size=shape).astype(dtype)

    q, k, allowed = some(1, 4, 3, 6), some(1, 2, 3, 6), np.tri(3, dtype=bool)[None]
    made = [
        numpy_ref.rms_norm(some(2, 5), some(5), 1e-6),
        numpy_ref.softmax(some(2, 5)),
        numpy_ref.silu(some(2, 5)),
        numpy_ref.swiglu(some(2, 5), some(7, 5), some(7, 5), some(5, 7)),
        numpy_ref.rotate(q, some(1, 3, 3), some(1, 3, 3)),
        *numpy_ref.attention(q, k, k, allowed),
        numpy_ref.route(some(2, 5), 2, True)[0],
        numpy_ref.route(some(2, 5), 2, False)[0],
    ]
    assert {a.dtype for a in made} == {np.dtype(dtype)}


# -- equal experts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_experts_the_lower_index_is_chosen(dtype: torch.dtype, normalize: bool) -> None:
    """By the router of both models, and by everything that counts its choices; the truth is Python's
    own stable sort. Few different values among many experts, so ties lie at the edge of the choice too."""
    generator = torch.Generator().manual_seed(0)
    for experts, top_k in ((5, 2), (16, 3), (128, 8), (160, 8), (8, 8)):
        logits = torch.randint(-2, 3, (1, 40, experts), generator=generator).to(dtype)
        want = [sorted(range(experts), key=lambda e: -row[e])[:top_k] for row in logits[0].tolist()]
        weights, chosen = route(logits, top_k, normalize)
        told_weights, told = numpy_ref.route(logits.numpy(), top_k, normalize)
        assert chosen[0].tolist() == want == told[0].tolist(), (experts, top_k)
        torch.testing.assert_close(weights, torch.from_numpy(told_weights), atol=1e-6, rtol=0)
        counts = torch.zeros(experts, dtype=dtype)
        for row in want:
            counts[row] += 1
        torch.testing.assert_close(router_load(logits, top_k).share, counts / 40)
        assert torch.equal(balance.count_picks([logits], top_k)[0].to(dtype), counts)


@torch.no_grad()
def test_a_silent_router_chooses_alike_in_both_models() -> None:
    """All logits 0, as with a router that starts at zero."""
    model = Qwen3(moe(), dtype=torch.float64)
    harden(model)
    for block in model.model.layers:
        block.mlp.gate.weight.zero_()
    ids, trace = token_ids(TINY.vocab_size, (2, 6)), Trace()
    got = model(ids, trace=trace)
    assert all((experts == torch.arange(3)).all() for experts in trace.expert_ids)
    np.testing.assert_allclose(in_numpy(model)(ids.numpy()), got.numpy(), atol=1e-10)


# -- losses: padding, and nothing to balance -------------------------------------------------------------


def test_padding_counts_in_no_loss() -> None:
    """Rows with five padded positions cost what they cost without them: z-loss, balancing, both through
    the recipe; and padding gets no gradient."""
    generator = torch.Generator().manual_seed(0)
    alone = [torch.randn(2, 3, 4, generator=generator) for _ in range(2)]
    padded = [torch.cat([torch.full((2, 5, 4), 7.0), layer], 1).requires_grad_() for layer in alone]
    mask = torch.tensor([[0] * 5 + [1] * 3] * 2)
    for got, want in (
        (z_loss(padded, mask), z_loss(alone)),
        (z_loss(padded, mask.bool()), z_loss(alone)),
        (load_balancing_loss(padded, 2, mask), load_balancing_loss(alone, 2)),
        (balance.balancing_loss(padded, 2, 2, mask=mask), balance.balancing_loss(alone, 2, 2)),
    ):
        torch.testing.assert_close(got, want)
    lm, weights = torch.tensor(1.0), balance.Weights("none", z_loss=0.5)
    torch.testing.assert_close(weights.total(lm, lm, padded, mask), weights.total(lm, lm, alone))
    assert z_loss(padded) > 2 * z_loss(alone), "the padding must matter for the mask to be tested"
    z_loss(padded, mask).backward()
    for layer in padded:
        assert layer.grad is not None and not layer.grad[:, :5].any() and layer.grad[:, 5:].all()
    assert float(z_loss(alone, torch.zeros(2, 3))) == 0.0, "no tokens, no loss, and no NaN"
    for loss in (lambda m: z_loss(alone, m), lambda m: load_balancing_loss(alone, 2, m)):
        with pytest.raises(ValueError, match=r"mask has shape \(3, 2\).*\(2, 3\) tokens"):
            loss(torch.ones(3, 2))


def test_without_expert_layers_there_is_nothing_to_balance() -> None:
    """A MoE config whose layers are all dense runs, and its empty losses are refused in a sentence."""
    model, trace = Qwen3(moe(mlp_only_layers=[0, 1])), Trace(attention=False)
    model(torch.tensor([[1, 2, 3]]), trace=trace)
    assert trace.router_logits == []
    for loss in (
        lambda: load_balancing_loss(trace.router_logits, 2),
        lambda: z_loss(trace.router_logits),
        lambda: balance.balancing_loss(trace.router_logits, 2),
        lambda: balance.count_picks(trace.router_logits, 2),
        lambda: balance.co_activation(trace.router_logits, 2),
    ):
        with pytest.raises(ValueError, match="no layer of the model has experts to balance"):
            loss()


def test_counts_may_be_numpys() -> None:
    """Numbers of eight bits too, though a sum of theirs ends at 255 and their negative is large."""
    model = hard_model()
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids, logits_to_keep=np.uint8(1)).shape == (1, 1, TINY.vocab_size)
    cache = KVCache(TINY, np.uint8(2), np.uint8(12))
    cache.reserve(np.uint8(5))
    assert cache.batch == 2 and cache.capacity == 12
    prompts = [[1] * 20, [2] * 250]
    config = settings(max_position_embeddings=300)
    long = generate(Qwen3(config), prompts, max_new_tokens=np.uint8(10), batch_size=np.uint8(1))
    assert [len(reply) for reply in long] == [10, 10]


# -- what is refused -------------------------------------------------------------------------------------

GOOD = torch.tensor([[1, 2, 3]])
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ([[1, 2, 3]], {}, "input_ids is a list; make it a tensor"),
    (np.array([[1, 2, 3]]), {}, "input_ids is a ndarray; make it a tensor"),
    (GOOD.to("meta"), {}, r"input_ids is on meta and the model on cpu; move it with .to\(model.device\)"),
    (GOOD, dict(attention_mask=[[1, 1, 1]]), "attention_mask is a list"),
    (
        GOOD,
        dict(attention_mask=torch.ones(1, 3, device="meta", dtype=torch.bool)),
        "attention_mask is on meta",
    ),
    (GOOD, dict(attention_mask=torch.ones(1, 3)), "1 or True for a token.*got torch.float32"),
    (GOOD, dict(attention_mask=torch.tensor([[0.0, 0.0, float("-inf")]])), "got torch.float32"),
    (GOOD, dict(attention_mask=torch.tensor([[1, 2, 3]])), "got numbers from 1 to 3"),
    (GOOD, dict(attention_mask=torch.tensor([[-1, 0, 1]])), "got numbers from -1 to 1"),
    (GOOD, dict(attention_mask=torch.ones(1, 1, 3, 3).bool()), "attention_mask has shape"),
    (GOOD, dict(logits_to_keep=True), "logits_to_keep is True; it must be a whole number"),
    (GOOD, dict(logits_to_keep=1.0), "logits_to_keep is 1.0"),
    (GOOD, dict(logits_to_keep="1"), "logits_to_keep is '1'"),
    (GOOD, dict(logits_to_keep=1, attention_mask=torch.tensor([[1, 1, 0]])), "put the padding on the left"),
]


@pytest.mark.parametrize("ids, options, words", REFUSED)
def test_wrong_kinds_are_refused_in_a_sentence(ids: Any, options: dict[str, Any], words: str) -> None:
    model = hard_model()
    cache = KVCache(TINY, 1, 5)
    with pytest.raises(ValueError, match=words) as refused:
        model(ids, cache=cache, **options)
    assert "\n" not in str(refused.value) and cache.length == 0


@pytest.mark.parametrize("mask", [[[1.0, 1.0, 1.0]], [[0.0, float("-inf"), 0.0]], [[1, 2, 0]], [[-1, 1, 1]]])
def test_numpy_refuses_the_same_masks(mask: Any) -> None:
    with pytest.raises(ValueError, match="attention_mask must hold 1 or True for a token"):
        in_numpy(hard_model())([[1, 2, 3]], attention_mask=np.array(mask))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_masks_of_every_whole_kind_are_taken(kind: torch.dtype) -> None:
    model, mask = hard_model(), torch.tensor([[0, 1, 1]])
    want = model(GOOD[:, 1:])
    torch.testing.assert_close(model(GOOD, attention_mask=mask.to(kind))[:, 1:], want, atol=1e-6, rtol=0)
    told = in_numpy(model)(GOOD, attention_mask=mask.to(kind).numpy())
    np.testing.assert_allclose(told[:, 1:], want.detach().numpy(), atol=1e-5)


@torch.no_grad()
def test_a_finished_row_may_be_all_padding() -> None:
    """As `generate` has it: nothing of that row is kept, and the others keep their logits."""
    model = hard_model()
    cache = KVCache(TINY, 2, 5)
    model(GOOD.expand(2, -1), cache=cache)
    got = model(
        torch.tensor([[4], [5]]), cache=cache, attention_mask=torch.tensor([[1], [0]]), logits_to_keep=1
    )
    torch.testing.assert_close(got[0], model(torch.tensor([[1, 2, 3, 4]]))[0, -1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_end_of_a_right_padded_row_may_be_kept() -> None:
    """As training has it, with replies padded on the right: some of what is kept are tokens."""
    model = hard_model()
    ids, mask = torch.cat([GOOD, GOOD]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    got = model(ids, attention_mask=mask, logits_to_keep=2)
    want = model(GOOD)[0]
    torch.testing.assert_close(got[0], want[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1, 0], want[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["dense", "moe"])
def test_padding_changes_no_token_wherever_it_stands(case: str) -> None:
    """Left, right and in the middle, at once and in chunks on a cache, in PyTorch and NumPy: a token's
    logits are transformers' for the tokens alone."""
    directory, ids, _, _ = reference(case)
    model, spec = Qwen3.from_pretrained(directory), NumpyQwen3.from_pretrained(directory)
    masks = ["0011111011", "1111111000", "1001101101"]
    real = torch.tensor([[int(c) for c in mask] for mask in masks])
    rows = ids[:1, :30].view(3, 10)
    cache, told = KVCache(model.config, 3, 10), NumpyCache()
    with torch.no_grad():
        whole = model(rows, attention_mask=real)
        parts = list(zip(rows.split([4, 5, 1], 1), real.split([4, 5, 1], 1), strict=True))
        pieces = torch.cat([model(a, attention_mask=m, cache=cache) for a, m in parts], 1)
    spoken = [spec(a.numpy(), attention_mask=m.numpy(), cache=told) for a, m in parts]
    for i, row in enumerate(real.bool()):
        alone = official_alone(case, rows[i, row])
        for got in (whole, pieces, torch.from_numpy(np.concatenate(spoken, 1)).float()):
            torch.testing.assert_close(got[i, row], alone, atol=ATOL, rtol=0)
