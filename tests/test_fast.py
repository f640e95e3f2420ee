"""The quicker model against the plain one: the same numbers to stated bounds, the same greedy ids, the same
sentences for bad input."""

from __future__ import annotations

import functools
import itertools
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.cache import KVCache
from qwen3_ref.chat import encode_chat
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import Generated, generate
from qwen3_ref.fast import choose as choosing
from qwen3_ref.fast import products
from qwen3_ref.fast.blocks import grouped_attention, normed
from qwen3_ref.fast.choose import agreeing, choose, parity_set
from qwen3_ref.fast.products import Int4, Int8, Plain, Precision, product_of
from qwen3_ref.model import Qwen3, Trace, eager_attention
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.tasks.problems import FAMILIES, make_problems
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import scratch

EVERY: tuple[Precision, ...] = ("float32", "float16", "bfloat16", "int8", "int4")
BOUNDS = {"float32": 2e-5, "float16": 0.01, "bfloat16": 0.04, "int8": 0.08, "int4": 0.45}
"""Of ||logits - plain float32's|| / ||plain float32's||, with random weights."""


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def off(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def greedy(model: Qwen3, tokenizer: Tokenizer, prompts: list[list[int]]) -> list[Generated]:
    return generate(model, prompts, max_new_tokens=32, tokenizer=tokenizer, stop_ids=tokenizer.stop_ids)


@torch.inference_mode()
def parity_rows() -> list[dict[str, list[int]]]:
    """What `data/parity_set.json` holds, made anew: of each family and mode the first two problems whose
    greedy replies have no near-tie, each id at least 1.25 times as likely as the next (any rounding may
    turn a tie: bfloat16 turned one of .164 against .160)."""
    model, tokenizer = Qwen3.from_pretrained("qwen3-nano"), Tokenizer.from_pretrained("qwen3-nano")
    found = []
    for family, thinking in itertools.product(FAMILIES, (True, False)):
        problems = make_problems(family, "validation", 20, seed=7)
        prompts = [
            encode_chat(tokenizer, [{"role": "user", "content": p.prompt}], enable_thinking=thinking)
            for p in problems
        ]
        replies = greedy(model, tokenizer, prompts)
        kept = []
        for prompt, reply in zip(prompts, replies, strict=True):
            logits = model(torch.tensor([prompt + reply[:-1]]), logits_to_keep=len(reply))[0]
            best = logits.topk(2).values
            if float((best[:, 0] - best[:, 1]).min()) >= math.log(1.25):
                kept.append({"prompt": prompt, "reply": list(reply)})
        found += kept[:2]
    return found


def config(**changes: Any) -> Qwen3Config:
    values = dict(
        vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, rope_theta=1e6, tie_word_embeddings=True,
        max_position_embeddings=512,
    )  # fmt: skip
    return Qwen3Config(**(values | changes))


MOE: dict[str, Any] = dict(
    model_type="qwen3_moe", num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
    norm_topk_prob=True,
)
CONFIGS = {
    "tied": config(),
    "untied": config(tie_word_embeddings=False),
    "moe": config(**MOE),
    "moe, dense first": config(**MOE, mlp_only_layers=(0,)),
}


@functools.cache
def saved() -> dict[str, Path]:
    """Checkpoints of random weights, norms' gains too: with all of them 1 nobody notices one left out."""
    found = {}
    for i, (name, settings) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(i)
        model = Qwen3(settings, generator=generator)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.5 * noise if key.endswith("norm.weight") else 0.1 * noise)
        found[name] = scratch() / f"fast{i}"
        model.save_pretrained(found[name])
    return found


# -- products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 64), (33, 32), (160, 192)])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_products(shape: tuple[int, int], rows: int) -> None:
    """float32 to rounding; 16 bits to theirs; int8 and int4 to what their grids allow, output by output."""
    w, x = draws(*shape), draws(2, rows, shape[1], seed=1)
    want = x.double() @ w.double().T
    assert off(Plain(w)(x), want) < 1e-6
    assert off(Plain(w.bfloat16())(x), want) < 6e-3
    assert off(Plain(w.half())(x), want) < 1e-3
    # |x w - x' w'| <= |x| s_w / 2 + s_x / 2 |w'|, summed over inputs; x has 127 steps from 0 on
    got, scale = Int8(w)(x), w.abs().amax(1) / 127
    s = x.abs().amax(-1, keepdim=True) / (63 if Int8.reduced else 127)
    bound = x.abs().sum(-1, keepdim=True) * scale / 2 + s / 2 * (w.abs().sum(1) + shape[1] * scale / 2)
    assert bool(((got - want).abs() <= bound * 1.01).all())
    assert off(got, want) < (0.03 if Int8.reduced else 0.015)
    assert off(Int4(w)(x), want) < 0.11
    for product in (Plain(w), Plain(w.bfloat16()), Int8(w), Int4(w)):
        y = product(x)
        assert y.shape == (2, rows, shape[0]) and y.dtype == torch.float32


def test_int8_is_exact_on_its_grid() -> None:
    """Whole numbers up to 127 for weights, and as many steps as there are for activations, all hit: the
    sums are exact, and those of 16 bits would have overflown."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-127, 128, (40, 64), generator=generator).float()
    q[0], q[:, 0] = 127, 127
    steps = 63 if Int8.reduced else 127
    x = torch.randint(-steps, steps + 1, (5, 64), generator=generator).float()
    x[0], x[:, 0], x[1, 0] = steps, steps, -steps
    torch.testing.assert_close(Int8(q / 7)(x / 3) * 21, x @ q.T, rtol=2e-6, atol=1e-3)


def test_int4_is_exact_on_its_grid() -> None:
    """16 steps from the group's least to its largest: each group has its own."""
    codes = torch.arange(16).repeat(48, 4).float()  # (48, 64), two groups of 32
    scale = torch.tensor([0.5, 2.0]).repeat_interleave(32)
    w = codes * scale - 4 * scale
    assert torch.equal(Int4(w)(torch.eye(64)), w.T)


def test_a_row_does_not_know_its_neighbours() -> None:
    """One row's outlier must not coarsen another's scale, as one scale for the whole tensor would."""
    w, x = draws(64, 64), draws(4, 64, seed=1)
    alone = Int8(w)(x[:1])
    x[1:] *= 1000
    assert torch.equal(Int8(w)(x)[:1], alone)
    assert off(Int8(w)(x[1:]), x[1:] @ w.T) < 0.02


def test_rows_and_channels_of_zeros() -> None:
    w, x = draws(32, 32), draws(3, 32)
    w[4], x[1] = 0, 0
    for precision in EVERY:
        y = product_of(precision)(w.to(products.dtype_of(precision)))(x)
        assert bool(y.isfinite().all()) and float(y[1].abs().max()) < 1e-20 > float(y[:, 4].abs().max())


def test_many_rows_are_converted_in_parts() -> None:
    """64 rows a time, as the kernels' blocks have them: the same numbers as all at once."""
    w, x = draws(200, 64), draws(2, 64, seed=1)
    for kind in (Int8, Int4):
        whole = kind(w)(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_ROWS", 64)
            assert torch.equal(kind(w)(x), whole)


# -- blocks --------------------------------------------------------------------------------------------


def test_norm_at_extremes() -> None:
    x = torch.stack([draws(64) * 1e-4, draws(64) * 1e4, torch.zeros(64)])
    want = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * 3
    torch.testing.assert_close(normed(x, torch.full((64,), 3.0), 1e-6).double(), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("t", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_attention(t: int, masked: bool) -> None:
    """Which query heads share a KV head is `eager_attention`'s."""
    s = 9 if masked or t == 1 else t
    q, k, v = draws(2, 6, t, 8), draws(2, 3, s, 8, seed=1), draws(2, 3, s, 8, seed=2)
    causal = torch.ones(s, s, dtype=torch.bool).tril()[None, None, s - t :]
    seen = causal.expand(2, 1, t, s).clone()
    if masked:
        seen[0, :, :, :4] = False
    want, _ = eager_attention(q, k, v, seen)
    torch.testing.assert_close(grouped_attention(q, k, v, seen if masked else None), want)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", EVERY)
def test_logits(name: str, precision: Precision) -> None:
    """A whole pass; then uneven rows with a cache: prompt, one token, one more and several."""
    plain = Qwen3.from_pretrained(saved()[name])
    fast = Qwen3.from_pretrained(saved()[name], precision=precision)
    ids = torch.randint(160, (2, 24), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.inference_mode():
        want = plain(ids, attention_mask=mask)
        assert off(fast(ids, attention_mask=mask)[mask.bool()], want[mask.bool()]) < BOUNDS[precision]
        cache, parts = KVCache(fast.config, 2, 24, fast.dtype), []
        for columns in (slice(0, 16), slice(16, 17), slice(17, 18), slice(18, 24)):
            parts.append(fast(ids[:, columns], attention_mask=mask[:, columns], cache=cache))
        got = torch.cat(parts, dim=1)
        assert got.dtype == torch.float32
        assert off(got[mask.bool()], want[mask.bool()]) < BOUNDS[precision]
        # one row, without padding: no mask at all
        one = KVCache(fast.config, 1, 24, fast.dtype)
        fast(ids[:1, :23], cache=one)
        assert off(fast(ids[:1, 23:], cache=one)[0, -1], want[0, -1]) < BOUNDS[precision] * 1.5


def test_float32_is_the_plain_model() -> None:
    """Logits to rounding, and what a trace sees: streams, attention, routing."""
    ids = torch.randint(160, (1, 12), generator=torch.Generator().manual_seed(3))
    traces = Trace(), Trace()
    plain = Qwen3.from_pretrained(saved()["moe"])
    fast = Qwen3.from_pretrained(saved()["moe"], precision="float32")
    with torch.inference_mode():
        a, b = plain(ids, trace=traces[0]), fast(ids, trace=traces[1])
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    for kind in ("hidden_states", "attentions", "router_logits", "expert_weights"):
        for x, y in zip(getattr(traces[0], kind), getattr(traces[1], kind), strict=True):
            torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-3)
    for x, y in zip(traces[0].expert_ids, traces[1].expert_ids, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("scaling", ["yarn", "dual"])
def test_long_context_settings_are_kept(tmp_path: Path, scaling: str) -> None:
    settings: dict[str, Any] = dict(
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    )
    if scaling == "dual":
        settings = dict(dual_chunk_attention_config={"chunk_size": 24, "local_size": 8})
    Qwen3(config(**settings)).save_pretrained(tmp_path / "m")
    plain, fast = (Qwen3.from_pretrained(tmp_path / "m", precision=p) for p in (None, "float32"))
    ids = torch.randint(160, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids), fast(ids), atol=2e-5, rtol=1e-4)


# -- loading and choosing --------------------------------------------------------------------------------


def test_parity_set_is_the_nanos() -> None:
    text = resources.files("qwen3_ref").joinpath("data/parity_set.json").read_text(encoding="utf-8")
    assert json.loads(text)["rows"] == parity_rows()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_greedy_ids_of_the_nano(precision: Precision) -> None:
    """16 and 8 bits keep all of them, drawn one by one through the cache."""
    prompts, replies = parity_set()
    model = Qwen3.from_pretrained("qwen3-nano", precision=precision)
    got = greedy(model, Tokenizer.from_pretrained("qwen3-nano"), prompts)
    assert [list(reply) for reply in got] == replies
    assert agreeing(model, prompts, replies) == sum(map(len, replies))


def test_auto_takes_the_fastest_that_is_true() -> None:
    with pytest.MonkeyPatch.context() as patch:
        seconds = {"float32": 6.0, "float16": 5.0, "bfloat16": 3.0, "int8": 2.0, "int4": 1.0}
        patch.setattr(choosing, "_seconds", lambda precision, shape: seconds[precision])
        total = sum(map(len, parity_set()[1]))
        right = {"int4": total - 40, "int8": total - 1, "bfloat16": total, "float32": total}
        patch.setattr(choosing, "agreeing", lambda model, *_: right[model])
        found = choose("auto", config(), torch.device("cpu"), lambda precision: precision)
        assert found.precision == "bfloat16" and found.speed["bfloat16"] == 2
        assert found.agrees == {"int4": total - 40, "int8": total - 1, "bfloat16": total}
        assert str(found) == (
            "bfloat16: one token's products take 0.50 of float32's time (float16 0.83, int8 0.33, int4 "
            f"0.17), and all {total} greedy ids of the parity set are float32's; int4 has {total - 40} of "
            f"them; int8 has {total - 1} of them"
        )


def test_auto_where_nothing_is_true() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_seconds", lambda precision, shape: 1.0)
        patch.setattr(choosing, "agreeing", lambda model, *_: 0)
        with pytest.raises(ValueError, match="^no precision gives the 264 ids .* float32 neither; name one"):
            choose("auto", config(), torch.device("cpu"), lambda precision: precision)


def test_a_busy_machine_is_timed_too() -> None:
    """Where one round takes longer than all of the time there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_SECONDS", 0.0)
        assert 0 < choosing._seconds("float32", (64, 32)) < 10


def test_auto_leaves_out_what_is_not_there() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_seconds", lambda precision, shape: 1.0)
        patch.setattr(choosing, "unavailable", lambda p, inputs: None if p == "float32" else "none")
        nano = Qwen3.from_pretrained("qwen3-nano")
        assert choose("auto", config(), torch.device("cpu"), lambda p: nano).precision == "float32"
        with pytest.raises(ValueError, match="^none; take float32.$"):
            choose("int8", config(), torch.device("cpu"), lambda p: p)


def test_auto_from_pretrained() -> None:
    model = Qwen3.from_pretrained(saved()["tied"], precision="auto")
    assert model.choice is not None and "parity set" in str(model.choice)
    assert Qwen3.from_pretrained(saved()["tied"]).choice is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(precision="int3"), r"^precision is 'int3'; it must be auto, float32, .*int4 or None\.$"),
        (dict(precision=torch.int8), r"^precision is torch\.int8; it must be"),
        (dict(precision="int8", dtype=torch.float16), r"^dtype and precision are both given"),
        (dict(precision="int8", device="meta"), r"has kernels for the CPU alone and the device is meta"),
    ],
)
def test_bad_input(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Qwen3.from_pretrained(saved()["tied"], **given)


def test_int4_says_which_size_it_cannot_divide(tmp_path: Path) -> None:
    Qwen3(config(intermediate_size=40)).save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="groups of 32 inputs, and this model has matrices of 40; take"):
        Qwen3.from_pretrained(tmp_path / "m", precision="int4")
    assert Qwen3.from_pretrained(tmp_path / "m", precision="int8").choice is not None


def test_a_quick_model_is_not_saved_nor_trained(tmp_path: Path) -> None:
    for precision in ("float32", "int8"):
        model = Qwen3.from_pretrained(saved()["tied"], precision=precision)  # type: ignore[arg-type]
        with pytest.raises((ValueError, CheckpointError), match="no official names"):
            model.save_pretrained(tmp_path / precision)
        assert not any(p.requires_grad for p in model.parameters())
        assert not (tmp_path / precision).exists()


def test_a_quantised_cache_serves() -> None:
    from qwen3_ref.quantize.kv_cache import QuantizedKVCache

    fast = Qwen3.from_pretrained(saved()["tied"], precision="float32")
    plain = Qwen3.from_pretrained(saved()["tied"])
    ids = torch.randint(160, (1, 12), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        a, b = (m(ids, cache=QuantizedKVCache(m.config, 1, 16)) for m in (plain, fast))
    assert off(b, a) < 0.05
