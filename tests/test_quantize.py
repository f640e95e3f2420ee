"""Rounding to few bits: by hand, within its bound, GPTQ and AWQ, whole models, and the KV cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import MLP, Attention, Qwen3
from qwen3_ref.quantize.calibrated import awq, gptq, hessian
from qwen3_ref.quantize.kv_cache import QuantizedKVCache, decode, encode
from qwen3_ref.quantize.model import (
    QuantizedLinear,
    awq_fold,
    inputs_of,
    is_rounded,
    packed_model,
    round_model,
    table_bytes,
)
from qwen3_ref.quantize.rounding import Grid, pack, quantize, unpack
from tests.helpers import TINY, hard_model, reference, token_ids

IDS = token_ids(TINY.vocab_size, (3, 12), seed=4)
GRIDS = [Grid(b, g, s) for b in (2, 3, 4, 5, 6, 8) for g in (8, None) for s in (True, False)]


def matrix(rows: int = 12, columns: int = 32, seed: int = 0) -> np.ndarray:
    """Weights with an outlier, and a row of zeros."""
    w = np.random.default_rng(seed).normal(size=(rows, columns))
    w[0, 3], w[1] = 9.0, 0.0
    return w


# -- rounding ------------------------------------------------------------------------------------------


def test_by_hand_symmetric() -> None:
    """Three bits: codes 1 to 7 around 4, and the largest weight is three steps."""
    found = quantize([[0.75, -0.25, 0.6, -0.4]], Grid(3, None, symmetric=True))
    assert found.scale.tolist() == [[0.25]] and found.zero.tolist() == [[4]]
    assert found.codes.tolist() == [[7, 3, 6, 2]]
    assert found.dequantized().tolist() == [[0.75, -0.25, 0.5, -0.5]]


def test_by_hand_asymmetric() -> None:
    """Two bits, from -0.5 to 1: a step of a half, and 0 is code 1."""
    found = quantize([[1.0, -0.5, 0.2, 0.3]], Grid(2, None, symmetric=False))
    assert found.scale.tolist() == [[0.5]] and found.zero.tolist() == [[1]]
    assert found.codes.tolist() == [[3, 0, 1, 2]]
    assert found.dequantized().tolist() == [[1.0, -0.5, 0.0, 0.5]]


def test_all_is_computed_in_float64() -> None:
    """Whatever weights and inputs come as, and what comes out has the kinds that are promised."""
    w, x = matrix(4, 16), np.random.default_rng(3).normal(size=(20, 16))
    w, x = w.astype(np.float16), x.astype(np.float16)
    wide, far, grid = w.astype(np.float64), x.astype(np.float64), Grid(3, 8)
    results = {
        kind: [hessian(b), awq([np.asarray(a)], b, grid), *parts]
        for kind, a, b in (("half", w, x), ("double", wide, far), ("lists", w.tolist(), x.tolist()))
        for found in (quantize(a, grid), gptq(a, hessian(b), grid))
        for parts in [[found.codes, found.scale, found.zero, found.dequantized(), found.bound(b)]]
    }
    for kind, values in results.items():
        for value, want in zip(values, results["double"], strict=True):
            assert (value == want).all() and value.dtype == want.dtype, kind
    # A hair below the middle between two codes, which float32 takes for the middle.
    near, coarse = [[0.75, 0.375 - 1e-12]], Grid(3, None, symmetric=True)
    assert gptq(near, np.eye(2), coarse).codes.tolist() == quantize(near, coarse).codes.tolist() == [[7, 5]]
    assert quantize(near, coarse).bound([[0.1, 0.3]]).tolist() == [[pytest.approx(0.05, rel=1e-15)]]
    # So too where the error of one column brings the next near the middle, through the inputs' correlation.
    curvature = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    upper = np.linalg.cholesky(np.linalg.inv(curvature + 0.01 * np.eye(3))).T
    moved = (0.3 - 0.25) / upper[0, 0] * upper[0, 1]
    for off, code in ((-1e-10, 5), (1e-10, 6)):
        row = [[0.3, 0.375 + off + moved, 0.75]]
        assert gptq(row, curvature, coarse).codes.tolist() == [[5, code, 7]]
    names = [str(value.dtype) for value in results["half"]]
    assert names == ["float64", "float64", "uint8", "float64", "int64", "float64", "float64"]


def test_of_scales_that_lose_the_same_awq_takes_the_first() -> None:
    """Where all are exact there is nothing to gain, and weights stay as they are."""
    x = np.random.default_rng(0).normal(size=(20, 8)) * np.arange(1, 9)
    assert awq([np.zeros((3, 8))], x, Grid(4, 8)).tolist() == [1.0] * 8


def test_weights_of_one_sign_keep_zero() -> None:
    found = quantize([[2.0, 3.0]], Grid(4, None, symmetric=False))
    assert found.zero.tolist() == [[0]] and found.codes.tolist() == [[10, 15]]


@pytest.mark.parametrize("grid", GRIDS)
def test_no_weight_moves_more_than_half_a_step(grid: Grid) -> None:
    w = matrix()
    found = quantize(w, grid)
    size = w.shape[1] // found.scale.shape[1]
    assert (np.abs(found.dequantized() - w) <= found.scale.repeat(size, 1) / 2 * (1 + 1e-9)).all()
    assert (found.dequantized()[1] == 0).all() and found.codes.max() <= 2**grid.bits - 1
    assert found.scale.shape == (12, 1 if grid.group_size is None else 4)


@pytest.mark.parametrize("grid", GRIDS)
def test_products_stay_within_the_bound(grid: Grid) -> None:
    """The bound of the docstring holds, is no tighter than needed, and is not loose by much."""
    w, x = matrix(), np.random.default_rng(1).normal(size=(400, 32))
    found = quantize(w, grid)
    off, bound = np.abs(x @ (found.dequantized() - w).T), found.bound(x)
    assert (off <= bound * (1 + 1e-9)).all()
    if grid.bits == 4 and not grid.symmetric:  # errors all of one sign come near to it
        assert np.abs(found.dequantized() - w).sum(1)[0] >= 0.3 * found.bound(np.ones(32))[0]


def test_more_bits_and_smaller_groups_are_nearer() -> None:
    w = np.random.default_rng(0).normal(size=(64, 128))

    def error(*grid: Any) -> float:
        return float(np.sqrt(((quantize(w, Grid(*grid)).dequantized() - w) ** 2).mean()))

    errors = [error(bits, 32, False) for bits in range(2, 9)]
    assert all(a > 1.8 * b for a, b in zip(errors, errors[1:], strict=False))
    assert error(4, 16, False) < error(4, 64, False) < error(4, None, False) < error(4, None, True)
    # A Gaussian matrix in int4, groups of 128: .101 asymmetric, .117 symmetric (relative RMSE).
    assert error(4, 128, False) == pytest.approx(0.101, abs=0.004)
    assert error(4, 128, True) == pytest.approx(0.117, abs=0.004)
    assert error(8, None, True) == pytest.approx(0.0068, abs=0.001)


def test_bits_of_a_weight() -> None:
    bits = [Grid(4, 128, s).bits_per_weight(1024) for s in (True, False)]
    assert bits == [4.125, 4.15625] and Grid(4, 32, True).bits_per_weight(1024) == 4.5
    assert Grid(8, None, True).bits_per_weight(1024) == 8 + 16 / 1024


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_packing_is_exact(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, size=(5, 24)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, 3 * bits) and (unpack(packed, bits, 24) == codes).all()
    by_hand = sum(int(c) << bits * j for j, c in enumerate(codes[0]))
    assert int.from_bytes(packed[0].tobytes(), "little") == by_hand


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Grid(1), "bits is 1; it must be a whole number, at least 2"),
        (lambda: Grid(9), "bits is 9; a code has 2 to 8 bits"),
        (lambda: Grid(4, 0), "group_size is 0; it must be a whole number, at least 1"),
        (lambda: quantize(matrix(), Grid(4, 24)), "group_size 24 does not divide the 32 inputs"),
        (lambda: quantize(np.ones(4), Grid(4, None)), "the weights have 1 axes; give one matrix"),
        (lambda: quantize([[np.nan, 1]], Grid(4, None)), "the weights hold NaN"),
    ],
)
def test_what_cannot_be_rounded(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- GPTQ and AWQ --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [Grid(4, 8, False), Grid(3, None, True)])
def test_gptq_without_correlations_is_rounding(grid: Grid) -> None:
    w = matrix()
    found, plain = gptq(w, np.diag(np.arange(1.0, 33)), grid), quantize(w, grid)
    assert (found.codes == plain.codes).all() and (found.scale == plain.scale).all()


def test_gptq_two_by_two_by_hand() -> None:
    """H = [[2, 1], [1, 2]] without damping: of the first weight's error e, half goes to the second."""
    grid = Grid(3, None, symmetric=True)
    found = gptq([[0.75, 0.30]], [[2, 1], [1, 2]], grid, damping=0)
    assert found.codes.tolist() == [[7, 5]]  # no error in the first, so the second stays: 0.30 -> 0.25
    found = gptq([[0.65, 0.75]], [[2, 1], [1, 2]], grid, damping=0)
    # 0.65 -> 0.75 is 0.10 too much; H asks for half of it less in the second: 0.70, still code 7.
    assert found.codes.tolist() == [[7, 7]]
    found = gptq([[0.40, -0.75, 0.448]], np.array([[2.0, 0, 1.6], [0, 2, 0], [1.6, 0, 2]]), grid, damping=0)
    # 0.40 -> 0.50, 0.10 too much, of which 0.8 comes off the third: 0.368 -> 0.25 where rounding has 0.50.
    assert found.codes.tolist() == [[6, 1, 5]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gptq_loses_less_where_inputs_are_correlated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 32)) + 0.1 * rng.normal(size=(300, 32))
    w, grid = rng.normal(size=(16, 32)), Grid(3, 16, False)
    both = gptq(w, hessian(x), grid), quantize(w, grid)
    lost = [((x @ (q.dequantized() - w).T) ** 2).mean() for q in both]
    assert lost[0] < 0.5 * lost[1]


@pytest.mark.parametrize("times", [1e-4, 1e4])
def test_gptq_does_not_ask_how_loud_all_inputs_are(times: float) -> None:
    """Damping is a share of the curvature, so inputs twice as loud are rounded for alike."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 16)) + 0.1 * rng.normal(size=(40, 16))
    w, grid = rng.normal(size=(8, 16)), Grid(3, 8, False)
    assert (gptq(w, hessian(x * times), grid).codes == gptq(w, hessian(x), grid).codes).all()


def test_gptq_of_dead_inputs() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8))
    x[:, 2] = 0
    w = np.random.default_rng(1).normal(size=(4, 8))
    before = w.copy()
    found = gptq(w, hessian(x), Grid(4, 8, False))
    assert (found.dequantized()[:, 2] == 0).all() and (w == before).all()


def test_awq_protects_the_loud_input() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 16))
    x[:, 5] *= 40
    w, grid = rng.normal(size=(24, 16)), Grid(3, None, False)
    s = awq([w], x, grid)
    assert s.argmax() == 5 and s[5] > 2 * np.median(s)
    assert np.sqrt(s.max() * s.min()) == pytest.approx(1)

    def lost(scale: np.ndarray) -> float:
        off = quantize(w * scale, grid).dequantized() / scale - w
        return float(((x @ off.T) ** 2).mean())

    assert lost(s) < 0.5 * lost(np.ones(16))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_awq_is_the_best_of_twenty_exponents_for_all_matrices_together(seed: int) -> None:
    """Tried one by one: s is mean |x| to the power r / 20, and what counts is the outputs of both."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, size=(200, 16)) * rng.uniform(0.2, 6, size=16)
    ws, grid = [rng.normal(size=(12, 16)), 3 * rng.standard_t(3, size=(30, 16))], Grid(3, None, False)
    tried = {}
    for r in range(20):
        s = np.array([sum(abs(row[j]) for row in x) / len(x) for j in range(16)]) ** (r / 20)
        s /= (max(s) * min(s)) ** 0.5
        off = [quantize(w * s, grid).dequantized() / s - w for w in ws]
        tried[r] = sum(((x @ o.T) ** 2).sum() for o in off), s
    best = min(tried, key=lambda r: tried[r][0])
    assert best not in (0, 10)
    np.testing.assert_allclose(awq(ws, x, grid), tried[best][1])


# -- models --------------------------------------------------------------------------------------------


def run(model: Qwen3, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, **options)


def test_what_is_rounded_and_what_not() -> None:
    model = hard_model()
    rounded, table = round_model(model, Grid(4, 8))
    after = dict(rounded.named_official_tensors())
    for name, before in model.named_official_tensors():
        assert (name in table) == is_rounded(name) == (not torch.equal(before, after[name])), name
    assert "model.embed_tokens.weight" in round_model(model, Grid(4, 8), embeddings=True)[1]


def ours(case: str) -> Qwen3:
    """Our model of the hardened weights of transformers' small one."""
    return Qwen3.from_pretrained(reference(case)[0])


def moe_model() -> Qwen3:
    return ours("moe")


def test_the_router_is_never_rounded() -> None:
    model = moe_model()
    rounded, table = round_model(model, Grid(2, 8))
    assert not any("mlp.gate.weight" in name or "norm" in name for name in table)
    assert sum(".experts." in name for name in table) == 3 * 8 * 3
    for a, b in zip(model.model.layers, rounded.model.layers, strict=True):
        assert torch.equal(a.mlp.gate.weight, b.mlp.gate.weight)  # type: ignore[union-attr]


def test_each_expert_has_scales_of_its_own() -> None:
    model = moe_model()
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[3] *= 100  # type: ignore[union-attr, index, operator]
    loud, plain = (round_model(m, Grid(4, 8))[1] for m in (model, moe_model()))
    name = "model.layers.0.mlp.experts.{}.down_proj.weight"
    assert (loud[name.format(2)].scale == plain[name.format(2)].scale).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("case", ["dense", "moe"])
def test_codes_in_memory_compute_the_same(case: str, bits: int) -> None:
    rounded, table = round_model(ours(case), Grid(bits, 8, False))
    light = packed_model(rounded, table)
    assert any(isinstance(m, QuantizedLinear) for m in light.modules())
    ids = token_ids(160, (2, 9), seed=1)
    with torch.no_grad():
        torch.testing.assert_close(light(ids), rounded(ids), atol=2e-4, rtol=1e-4)
    kept = sum(p.nbytes for n, p in light.named_buffers() if n.endswith("packed"))
    assert kept == sum(q.codes.size for q in table.values()) * bits / 8
    assert kept < table_bytes(table)


def test_a_model_in_codes_is_not_saved_in_part(tmp_path: Path) -> None:
    rounded, table = round_model(hard_model(), Grid(4, 8))
    with pytest.raises(ValueError, match="some weights of the model lie in codes"):
        packed_model(rounded, table).save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    rounded.save_pretrained(tmp_path / "whole")
    assert torch.equal(run(Qwen3.from_pretrained(tmp_path / "whole")), run(rounded))


def test_awq_is_exact_before_rounding() -> None:
    model = hard_model()
    before = run(model)
    block = model.model.layers[0]
    attention, mlp = block.self_attn, block.mlp
    assert isinstance(attention, Attention) and isinstance(mlp, MLP)
    moved = 0
    for linears, first in (
        ([attention.q_proj, attention.k_proj, attention.v_proj], block.input_layernorm),
        ([attention.o_proj], attention.v_proj),
        ([mlp.gate_proj, mlp.up_proj], block.post_attention_layernorm),
        ([mlp.down_proj], mlp.up_proj),
    ):
        s = awq_fold(list(linears), first, inputs_of(model, linears[0], IDS), Grid(3, 8))
        grouped = first is attention.v_proj
        assert (s == 1).all() == grouped  # fewer value heads than query heads: o_proj gets no scaling
        moved += not grouped
    assert moved == 3
    torch.testing.assert_close(run(model), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibration_helps(method: Any) -> None:
    """On the text that it was calibrated on, logits move less than by plain rounding."""
    model = hard_model()
    rounded, table = round_model(model, Grid(3, 8), method, IDS)
    plain, same = round_model(model, Grid(3, 8))
    assert table.keys() == same.keys()
    block, fresh = rounded.model.layers[1], model.model.layers[1]
    x = inputs_of(model, fresh.mlp.down_proj, IDS)  # type: ignore[union-attr, arg-type]
    assert x.shape == (36, TINY.intermediate_size)
    assert torch.isfinite(run(rounded)).all() and not torch.equal(run(rounded), run(plain))
    assert block is not fresh


def test_what_a_model_cannot_be_rounded_by() -> None:
    for options, words in (
        (dict(method="best"), "there is no method 'best'; there are rtn, gptq, awq"),
        (dict(method="gptq"), "gptq needs calibration"),
    ):
        with pytest.raises(ValueError, match=words):
            round_model(hard_model(), Grid(4, 8), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gptq is written for dense models"):
        round_model(moe_model(), Grid(4, 8), "gptq", IDS)


# -- the KV cache --------------------------------------------------------------------------------------


def test_four_bits_by_hand() -> None:
    codes, scale = encode(torch.tensor([0.7, -0.3, 0.14, 0.0]), 4)
    assert scale.tolist() == pytest.approx([0.1])
    assert codes.tolist() == [15 | 9 << 4, 5 | 8 << 4]  # codes + 8: 15, 5, 9, 8; low half is the first half
    assert decode(codes, scale).tolist() == pytest.approx([0.7, -0.3, 0.1, 0.0])


@pytest.mark.parametrize("bits", [8, 4])
def test_each_vector_has_its_own_scale(bits: int) -> None:
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] *= 1000
    x[1, 1, 1] = 0
    codes, scale = encode(x, bits)
    assert scale.shape == (2, 3, 5, 1) and len(scale.unique()) == 30
    assert ((decode(codes, scale) - x).abs() <= scale / 2 * (1 + 1e-5)).all()
    assert (decode(codes, scale)[1, 1, 1] == 0).all()


@pytest.mark.parametrize("bits", [(None, None), (8, 8), (8, None), (4, 4)])
def test_a_cache_of_few_bits(bits: tuple[int | None, int | None]) -> None:
    """In pieces as at once; and near to a cache of floats, by how many bits it has."""
    model = hard_model()
    keys, values = bits

    def make() -> QuantizedKVCache:
        return QuantizedKVCache(TINY, 3, 12, key_bits=keys, value_bits=values)

    whole, cache = run(model, cache=make()), make()
    with torch.no_grad():
        parts = torch.cat([model(part, cache=cache) for part in IDS.split([5, 1, 6], 1)], 1)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    off = float((whole - run(model)).abs().mean() / run(model).std())
    assert off < {None: 1e-6, 8: 0.1, 4: 1.5}[keys if keys else values]
    assert (off > 0.0005) == (keys is not None)


def test_its_memory_is_what_is_said() -> None:
    float_bytes = TINY.kv_cache_bytes(12, 3, 4)
    values = float_bytes // 4
    scales = values // TINY.head_dim * 4
    assert QuantizedKVCache(TINY, 3, 12).nbytes == values + scales
    assert QuantizedKVCache(TINY, 3, 12, key_bits=4, value_bits=4).nbytes == values // 2 + scales
    cache = QuantizedKVCache(TINY, 3, 12)
    assert cache.keys.untyped_storage().nbytes() <= 4  # what it shows of its shape takes no room


def test_it_takes_the_place_of_a_kv_cache() -> None:
    """Truncated, selected, grown, kept for a prompt, and refused like the one of floats."""
    model = hard_model()
    cache = QuantizedKVCache(TINY, 3, 5)
    with torch.no_grad():
        model(IDS[:, :5], cache=cache)
        with pytest.raises(ValueError, match="holds 5 of 5 tokens and 7 more do not fit"):
            model(IDS[:, 5:], cache=cache)
        cache.reserve(12)
        cache.truncate(4)
        rest = model(IDS[:, 4:], cache=cache)
        whole = run(model, cache=QuantizedKVCache(TINY, 3, 12))
        torch.testing.assert_close(rest, whole[:, 4:], atol=1e-4, rtol=1e-4)
        picked = cache.select([2, 0])
        picked.truncate(4)
        again = model(IDS[[2, 0], 4:], cache=picked)
        torch.testing.assert_close(again, rest[[2, 0]], atol=1e-4, rtol=1e-4)
    assert (picked.batch, picked.capacity, cache.length) == (2, 12, 12)
    one = cache.select([1])
    assert one.keep(IDS[1].tolist()) == 11
    with pytest.raises(ValueError, match="there is no row 3"):
        cache.select([3])
    with pytest.raises(ValueError, match="key_bits is 3; it must be 8, 4, or None"):
        QuantizedKVCache(TINY, 1, 4, key_bits=3)
    other = replace(TINY, num_hidden_layers=TINY.num_hidden_layers + 1)
    with pytest.raises(ValueError, match="the cache is made for"):
        run(model, cache=QuantizedKVCache(other, 3, 12))


def test_generation_through_it() -> None:
    model = hard_model()
    prompt = IDS[0, :6].tolist()
    plain = generate(model, [prompt], max_new_tokens=4)[0]
    cache = QuantizedKVCache(TINY, 1, 12)
    with torch.no_grad():
        first = int(model(torch.tensor([prompt]), cache=cache)[0, -1].argmax())
    assert isinstance(cache, KVCache) and first == plain[0]


@pytest.mark.parametrize("bits", [8, 4, None])
def test_a_cache_that_grows_is_one_that_was_large(bits: int | None) -> None:
    """Room that is made later holds what a cache of that room holds, and less room than there is, nothing."""
    model, ids = hard_model(), token_ids(TINY.vocab_size, (2, 9))
    large, small = (QuantizedKVCache(TINY, 2, n, key_bits=bits, value_bits=bits) for n in (9, 4))
    with torch.no_grad():
        want = [model(part, cache=large) for part in (ids[:, :4], ids[:, 4:])]
        found = [model(ids[:, :4], cache=small)]
        small.reserve(2)
        assert small.capacity == 4
        small.reserve(9)
        assert small.capacity == 9 and small.nbytes == large.nbytes
        found.append(model(ids[:, 4:], cache=small))
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    with pytest.raises(ValueError, match="no room for a cache of 2 times 1000000000000000000 tokens"):
        small.reserve(10**18)
    assert small.capacity == 9
