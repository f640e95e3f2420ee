"""The parity suite: this package against transformers, and against itself told twice.

Each check is a function without arguments that raises AssertionError when the numbers differ.
`test_parity.py` runs them all; `test_faults.py` runs them again with a known bug switched on and
demands that one fails (the switch changes code in place, so names imported here are changed too).
The reference models are in helpers.py; nothing on that side uses the package.
"""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.initialization import no_init_weights
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3_ref import model as model_module
from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.compare import compare
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Qwen3, RMSNorm, Trace, rope_tables, rotate
from qwen3_ref.moe import route
from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3, rms_norm, silu, softmax
from qwen3_ref.numpy_ref import rotate as numpy_rotate
from qwen3_ref.rope import cos_sin, frequencies, yarn_range
from qwen3_ref.store.checkpoint import CheckpointError
from tests.helpers import (
    CASES,
    DENSE,
    MOE,
    cached_official,
    left_pad,
    official_alone,
    official_model,
    reference,
    scratch,
    token_ids,
)

CHECKS: dict[str, Callable[[], None]] = {}
ATOL = 5e-5  # float32 against transformers in float32
EXACT = 1e-10  # float64 against float64


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


def refused(
    words: str, call: Callable[..., Any], *given: Any, error: type[Exception] = ValueError, **named: Any
) -> str:
    """The message of the error that a call must raise; it holds the words."""
    try:
        call(*given, **named)
    except error as found:
        assert words in str(found), found
        return str(found)
    raise AssertionError(f"not refused: {words}")


def against_transformers(case: str) -> None:
    """PyTorch in float32 against transformers; NumPy in float64 against PyTorch in float64."""
    directory, ids, logits, wide = reference(case)
    with torch.no_grad():
        model = Qwen3.from_pretrained(directory)
        compare(f"{case}: PyTorch, transformers", model(ids), logits, atol=ATOL).require()
        double = Qwen3.from_pretrained(directory, dtype=torch.float64)(ids)
    spec = NumpyQwen3.from_pretrained(directory, dtype=np.float64)(ids.numpy())
    compare(f"{case}: NumPy, PyTorch in float64", spec, double, atol=EXACT).require()
    # transformers forms norms and angles in float32 even for a float64 model, hence not 1e-10.
    compare(f"{case}: NumPy, transformers", spec, wide, atol=ATOL).require()


def _register_cases() -> None:
    for case in CASES:
        function = functools.partial(against_transformers, case)
        CHECKS[f"logits_{case}"] = function


_register_cases()


def cached_equals_uncached(case: str, chunks: list[int]) -> None:
    """Feeding ids in chunks through one cache gives the logits of feeding them at once."""
    directory, ids, logits, _ = reference(case)
    model = Qwen3.from_pretrained(directory)
    spec, numpy_cache = NumpyQwen3.from_pretrained(directory, dtype=np.float64), NumpyCache()
    cache = KVCache(model.config, batch=2, length=sum(chunks))
    start = 0
    for n in chunks:
        part = slice(start, start + n)
        with torch.no_grad():
            got = model(ids[:, part], cache=cache)
        compare(f"chunk at {start}", got, logits[:, part], atol=ATOL).require()
        got = spec(ids[:, part].numpy(), cache=numpy_cache)
        compare(f"chunk at {start}, NumPy", got, logits[:, part], atol=ATOL).require()
        start += n
        assert cache.length == start == numpy_cache.length, "the cache counts its tokens"


@check
def cache_chunks_3_4_2() -> None:
    """A warm cache must shift the causal mask by the cached length: only multi-token chunks see it."""
    cached_equals_uncached("dense", [3, 4, 2, 1, 1, 30])


@check
def cache_chunks_moe_yarn() -> None:
    cached_equals_uncached("moe_tied_yarn", [3, 4, 2, 1, 7])


@check
def cache_two_turns() -> None:
    """A long first turn, token-by-token reply, then a second turn on the same cache."""
    cached_equals_uncached("dense_tied", [40, 1, 1, 1, 20, 1, 1])


@check
def shortest_prompts() -> None:
    """One token, and two, of which the first must not see the second: whole, cached and eager."""
    directory, ids, logits, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    for n in (1, 2):
        with torch.no_grad():
            for trace in (None, Trace()):
                compare(f"{n} tokens", model(ids[:, :n], trace=trace), logits[:, :n], atol=ATOL).require()
                cache = KVCache(model.config, batch=2, length=4)
                model(ids[:, :n], cache=cache, trace=trace)
                got = model(ids[:, n : n + 2], cache=cache, trace=trace)
                compare(f"2 after {n}", got, logits[:, n : n + 2], atol=ATOL).require()


@check
def inputs_are_checked() -> None:
    """Ids and masks that do not fit are refused in a sentence, the same one by both models; the last id
    of the vocabulary fits, and integers of any width do."""
    directory, ids, _, _ = reference("dense")
    model, spec = Qwen3.from_pretrained(directory), NumpyQwen3.from_pretrained(directory)
    want = model(torch.tensor([[0, 159]]))
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32):
        assert torch.equal(model(torch.tensor([[0, 159]], dtype=kind)), want), kind
    for wrong, mask, words in (
        (torch.tensor([[3, 160]]), None, "token id 160 is outside the vocabulary of 160"),
        (torch.tensor([[-1, 3]]), None, "token id -1 is outside"),
        (torch.tensor([[1.0]]), None, "must be integers of shape (batch, tokens)"),
        (torch.ones(1, 2, dtype=torch.bool), None, "bool of shape (1, 2)"),
        (torch.tensor([1]), None, "int64 of shape (1,)"),
        (torch.zeros(1, 0, dtype=torch.long), None, "at least one of each"),
        (ids, torch.ones(2, 95), "attention_mask has shape (2, 95)"),
    ):
        said = []
        for refuses in (model, spec):
            said.append(refused(words, refuses, wrong, attention_mask=mask).replace("torch.", ""))
        assert said[0] == said[1]


@check
def cache_is_used() -> None:
    """Each decoding step computes one position, and the cache cannot overflow silently."""
    directory, ids, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    cache = KVCache(model.config, batch=2, length=5)
    with torch.no_grad():
        model(ids[:, :4], cache=cache)
        assert model(ids[:, 4:5], cache=cache).shape[1] == 1
        assert "length=6" in refused("5 of 5", model, ids[:, 5:6], cache=cache)
        other = KVCache(model.config, 2, 5, torch.bfloat16)
        refused("KVCache with dtype=torch.float32", model, ids[:, :1], cache=other)
        refused("length is -1", cache.truncate, -1)
        refused("logits_to_keep is 0", model, ids, logits_to_keep=0)
        refused("logits_to_keep is -1", model, ids, logits_to_keep=-1)
    assert torch.isfinite(cache.keys).all() and cache.length == 5


@check
def cache_truncated() -> None:
    """A truncated cache goes on from its first columns, or starts over, and sees nothing of the rest."""
    directory, ids, logits, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    cache = KVCache(model.config, batch=2, length=100)
    with torch.no_grad():
        model(ids.flip(1)[:, :25], attention_mask=(ids > 7)[:, :25], cache=cache)
        cache.truncate()
        first = model(ids[:, :20], cache=cache)
        model(ids.flip(1)[:, :9], cache=cache)
        cache.truncate(20)
        then = model(ids[:, 20:45], cache=cache)
    compare("after truncating", torch.cat([first, then], 1), logits[:, :45], atol=ATOL).require()


def padded_equals_alone(case: str) -> None:
    """Uneven left-padded rows, prefilled in three chunks and decoded for 10 steps, equal each row alone.

    The first chunk ends amid the tokens of one padded row and before those of the other.
    """
    directory, ids, _, _ = reference(case)
    model = Qwen3.from_pretrained(directory)
    spec = NumpyQwen3.from_pretrained(directory)
    lengths = [9, 4, 23]
    rows = [ids[i % 2, 3 * i : 3 * i + n] for i, n in enumerate(lengths)]
    new = token_ids(model.config.vocab_size, (3, 10), seed=5)
    batch, mask = left_pad(rows)
    cache, numpy_cache = KVCache(model.config, batch=3, length=batch.shape[1] + 10), NumpyCache()
    both = []
    with torch.no_grad():
        chunks = (slice(0, 16), slice(16, 21), slice(21, None))
        pieces = [(batch[:, chunk], mask[:, chunk]) for chunk in chunks]
        pieces += [(new[:, i : i + 1], torch.ones(3, 1, dtype=torch.long)) for i in range(10)]
        for piece, piece_mask in pieces:
            got = model(piece, attention_mask=piece_mask, cache=cache)
            told = spec(piece.numpy(), attention_mask=piece_mask.numpy(), cache=numpy_cache)
            both.append((got, torch.from_numpy(told)))
        got = torch.cat([pair[0] for pair in both], dim=1)
        told = torch.cat([pair[1] for pair in both], dim=1)
        for i, row in enumerate(rows):
            alone = official_alone(case, torch.cat([row, new[i]]))
            own = got[i, -len(alone) :]
            compare(f"row {i} of {len(row)} tokens", own, alone, atol=ATOL).require()
            compare(f"row {i}, NumPy", told[i, -len(alone) :], alone, atol=ATOL).require()


@check
def padding_dense() -> None:
    padded_equals_alone("dense")


@check
def padding_moe() -> None:
    padded_equals_alone("moe")


@check
def eager_equals_fused() -> None:
    """The attention that returns its weights computes what the fused kernel does; weights sum to 1."""
    directory, ids, logits, _ = reference("moe")
    model, trace = Qwen3.from_pretrained(directory), Trace()
    told = Trace()
    NumpyQwen3.from_pretrained(directory)(ids.numpy(), trace=told)
    with torch.no_grad():
        got = model(ids, trace=trace)
        compare("eager logits", got, logits, atol=ATOL).require()
        cache = KVCache(model.config, batch=2, length=96)
        model(ids[:, :50], cache=cache, trace=Trace())
        late = model(ids[:, 50:], cache=cache, trace=Trace())
        compare("eager on a warm cache", late, logits[:, 50:], atol=ATOL).require()
    c = model.config
    assert len(trace.attentions) == len(trace.router_logits) == c.num_hidden_layers
    assert len(trace.hidden_states) == c.num_hidden_layers + 1
    for name in ("hidden_states", "attentions", "router_logits", "expert_weights"):
        for layer, (a, b) in enumerate(zip(getattr(trace, name), getattr(told, name), strict=True)):
            compare(f"{name} {layer}, NumPy", a, b, atol=ATOL).require()
    for weights in trace.attentions:
        compare("rows sum to 1", weights.sum(-1), torch.ones(2, 4, 96), atol=1e-5).require()
        assert (weights.triu(1) == 0).all(), "nobody looks ahead"
    for a, b in zip(trace.expert_ids, told.expert_ids, strict=True):
        assert (a.numpy() == b).all(), "both choose the same experts"


@check
def official_hidden_states() -> None:
    """Layer by layer, so that a difference is found where it arises."""
    directory, ids, _, _ = reference("dense")
    trace = Trace()
    with torch.no_grad():
        Qwen3.from_pretrained(directory)(ids, trace=trace)
        official = cached_official("dense")(ids, output_hidden_states=True, output_attentions=True)
    for i, (a, b) in enumerate(zip(trace.hidden_states, official.hidden_states, strict=True)):
        compare(f"hidden state {i}", a, b, atol=ATOL).require()
    for i, (a, b) in enumerate(zip(trace.attentions, official.attentions, strict=True)):
        compare(f"attention weights {i}", a, b, atol=ATOL).require()


@check
def gradients() -> None:
    """Training: every weight's gradient equals the official one's, the router's included."""
    for case in ("dense_tied", "moe"):
        directory, ids, _, _ = reference(case)
        model, official = Qwen3.from_pretrained(directory), cached_official(case)
        official.zero_grad()
        for m in (model, official):
            out = m(ids)
            logits = out if isinstance(out, torch.Tensor) else out.logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        theirs = dict(official.named_parameters())
        for name, parameter in model.named_parameters():
            compare(f"{case} {name}", parameter.grad, theirs[name].grad, atol=ATOL).require()


@check
def packed_experts() -> None:
    """transformers 5's layout, experts stacked (E, 2F, D) and (E, D, F) with F != D, loads the same."""
    directory, ids, logits, _ = reference("moe_unnormalised")
    packed = scratch() / "packed"
    packed.mkdir(exist_ok=True)
    shutil.copy(directory / "config.json", packed)
    tensors = cached_official("moe_unnormalised").state_dict()
    stacked = tensors["model.layers.0.mlp.experts.gate_up_proj"]
    assert stacked.shape == (8, 48, 32), "transformers stacks experts in memory"
    save_file({k: v.contiguous() for k, v in tensors.items()}, packed / "model.safetensors")
    with torch.no_grad():
        got = Qwen3.from_pretrained(packed)(ids)
    compare("packed experts", got, logits, atol=ATOL).require()
    told = NumpyQwen3.from_pretrained(packed)(ids.numpy())
    compare("packed experts, NumPy", told, logits, atol=ATOL).require()


@check
def every_tensor_is_used() -> None:
    """A tensor that the model has no place for, or lacks, is refused by name: never skipped."""
    directory, _, _, _ = reference("dense")
    odd = scratch() / "renamed"
    odd.mkdir(exist_ok=True)
    shutil.copy(directory / "config.json", odd)
    name, other = "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.query_norm.weight"
    whole = load_file(directory / "model.safetensors")
    extra = whole | {other: torch.ones(16)}
    renamed = {other if k == name else k: v for k, v in whole.items()}
    for tensors, words in ((extra, other), (renamed, name)):
        save_file(tensors, odd / "model.safetensors")
        for kind in (Qwen3, NumpyQwen3):
            refused(words, kind.from_pretrained, odd, error=CheckpointError)  # type: ignore[attr-defined]


# -- angles, 16-bit floats, true shapes ------------------------------------------------------------------


@check
def rope_tables_official() -> None:
    """Frequencies and attention factor, plain and YaRN, explicit and implicit, at Qwen3's true sizes."""
    base = dict(rope_type="yarn", rope_theta=1e6, original_max_position_embeddings=32768)
    for extra in (
        dict(factor=4.0),
        dict(factor=2.0),  # unlike 40960 / 32768
        dict(factor=4.0, attention_factor=1.0),
        dict(factor=4.0, beta_fast=16.0, beta_slow=2.0),
        dict(factor=4.0, truncate=False),
        dict(factor=40.0, mscale=1.0, mscale_all_dim=0.5),
        dict(factor=40.0, mscale=0.7),  # one without the other does not count
        dict(factor=1.0),
        dict(factor=4.0, rope_theta=30.0, beta_fast=1e4),  # the range ends beyond the last pair
        dict(factor=4.0, original_max_position_embeddings=64),  # and begins before the first
        dict(factor=4.0, original_max_position_embeddings=6),  # and is empty
    ):
        yarn = base | extra
        config = transformers.Qwen3Config(head_dim=128, rope_parameters=yarn)
        want, want_factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        got, factor = frequencies(128, yarn["rope_theta"], yarn, 40960)
        compare(f"YaRN {extra}", got / want.double().numpy(), np.ones(64), atol=2e-6).require()
        assert abs(factor - want_factor) < 1e-9, (factor, want_factor)
    plain, one = frequencies(128, 1e6)
    want = 1.0 / (1e6 ** (torch.arange(0, 128, 2, dtype=torch.float64) / 128))
    compare("plain", plain, want, atol=1e-12).require()
    assert one == 1.0


@check
def yarn_published_numbers() -> None:
    """Hand-worked for Qwen3's YaRN (head_dim 128, theta 1e6, 32,768 x 4): range, factor, ratios."""
    low, high = yarn_range(128, 1e6, 32768, truncate=False)
    assert abs(low - 23.5959) < 1e-4 and abs(high - 39.6509) < 1e-4
    assert yarn_range(128, 1e6, 32768) == (23, 40)
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    scaled, factor = frequencies(128, 1e6, yarn, 40960)
    plain, _ = frequencies(128, 1e6)
    assert abs(factor - 1.138629436) < 1e-9
    assert abs(scaled[24] - 5.375321e-3) < 1e-9 and abs(scaled[39] - 6.490394e-5) < 1e-11
    assert (scaled[:24] == plain[:24]).all() and np.allclose(scaled[40:], plain[40:] / 4, rtol=1e-12)
    # Without a factor it is max_position_embeddings / original.
    implied, _ = frequencies(128, 1e6, yarn | dict(factor=None), 131072)
    assert (implied == scaled).all()


@check
def specification_by_hand() -> None:
    """NumPy's parts by closed properties, at sizes where a careless formula overflows."""
    with np.errstate(all="ignore"):  # an overflow shows as NaN or infinity
        compare("softmax", softmax(np.array([1000.0, 1000.0, 0.0])), [0.5, 0.5, 0.0], atol=1e-15).require()
        compare("silu", silu(np.array([-1000.0, 0.0, 1000.0])), [0.0, 0.0, 1000.0], atol=1e-12).require()
    one = np.log(3.0)  # its sigmoid is 3 / 4
    compare("silu", silu(np.array([one, -one])), [0.75 * one, -0.25 * one], atol=1e-15).require()
    x = np.random.default_rng(0).normal(size=(5, 64))
    gain = np.arange(64.0)
    compare("scale", rms_norm(7 * x, gain, 1e-30), rms_norm(x, gain, 1e-30), atol=1e-12).require()
    compare("eps", rms_norm(np.full(4, 3.0), np.ones(4), 16.0), np.full(4, 0.6), atol=1e-15).require()


@check
def fresh_weights() -> None:
    """Gains 1, the rest normal with the config's spread; the generator alone decides them."""
    config = Qwen3Config.from_pretrained(reference("moe")[0])

    def weights(seed: int | None) -> dict[str, torch.Tensor]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return dict(Qwen3(config, generator=generator).named_parameters())

    zero, again, default, other = weights(0), weights(0), weights(None), weights(1)
    for name, value in zero.items():
        assert (value == again[name]).all() and (value == default[name]).all(), name
        if name.endswith("norm.weight"):
            assert (value == 1).all(), name
        else:
            assert abs(value.mean()) < 4e-3 and 0.7 < value.std() / config.initializer_range < 1.3, name
            assert (value != other[name]).any(), name


@check
def rope_in_sixteen_bits() -> None:
    """A bfloat16 model still forms angles and rotates in float32: at position 30,000 too."""
    directory, _, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory, dtype=torch.bfloat16)
    positions = torch.tensor([[0, 1, 255, 257, 1023, 30_000]])
    seen: list[torch.dtype] = []

    original = model_module.rotate

    def spy(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        seen.append(cos.dtype)
        return original(x, cos, sin)

    model_module.rotate = spy
    try:
        model(torch.zeros(1, 4, dtype=torch.long))
    finally:
        model_module.rotate = original
    assert set(seen) == {torch.float32}, seen
    cos, sin = rope_tables(positions, model.model.inv_freq, model.model.rope_factor, torch.float32)
    theta = model.config.rope_theta
    angles = positions[..., None].double() * theta ** (-torch.arange(0, 16, 2).double() / 16)
    compare("cos", cos, angles.cos(), atol=1e-6).require()
    compare("sin", sin, angles.sin(), atol=1e-6).require()
    x = torch.randn(1, 1, 6, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = rotate(x.double(), angles.cos(), angles.sin())
    assert rotate(x, cos, sin).dtype == torch.bfloat16
    # One rounding to bfloat16 at the very end: at most half a unit in the last place.
    compare("rotated", rotate(x, cos, sin), wide.bfloat16(), atol=0, rtol=2**-7).require()
    exact = (rotate(x, cos, sin).double() - wide).abs() <= wide.abs() * 2**-8 + 1e-6
    assert exact.all(), "products were rounded before the sum"


@check
def dtypes_of_norm_and_router() -> None:
    """16-bit inputs are raised to float32 inside norm and router; float64 is never lowered."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 256, generator=generator) * 300  # squares overflow float16
    norm = RMSNorm(256, 1e-6)
    got = norm.half()(x.half())
    want = x.half().double() / x.half().double().square().mean(-1, keepdim=True).sqrt()
    compare("float16 norm", got, want, atol=2e-3).require()
    wide = torch.randn(4, 256, generator=generator, dtype=torch.float64)
    want = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    compare("float64 norm", RMSNorm(256, 1e-6).double()(wide), want, atol=1e-14).require()
    logits = torch.randn(2000, 128, generator=generator).bfloat16()
    weights, experts = route(logits, 8, True)
    assert weights.dtype == torch.float32
    p = logits.double().softmax(-1)
    best = p.topk(8, dim=-1)
    picked = p.gather(1, experts)
    # Near-ties: the chosen probabilities are the eight largest, to float32's precision.
    compare("chosen", picked.sort(-1).values, best.values.sort(-1).values, atol=1e-7).require()
    compare("weights", weights, picked / picked.sum(-1, keepdim=True), atol=1e-6).require()
    assert route(logits.double(), 8, True)[0].dtype == torch.float64
    close = torch.randn(2000, 128, generator=generator)  # in bfloat16, 1 row in 40 would choose others
    assert (route(close, 8, True)[1] == close.double().topk(8, dim=-1).indices).all()


@check
def rope_knows_only_distance() -> None:
    """The dot product of two rotated vectors depends on the distance between them alone."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 128))
    inv_freq, _ = frequencies(128, 1e6)

    def dot(i: int, j: int) -> float:
        ci, si = cos_sin(np.array([[i]]), inv_freq)
        cj, sj = cos_sin(np.array([[j]]), inv_freq)
        return float((numpy_rotate(q, ci, si) * numpy_rotate(k, cj, sj)).sum())

    compare("same distance", dot(7, 3), dot(30_007, 30_003), atol=1e-9).require()
    assert abs(dot(7, 3) - dot(7, 2)) > 1e-3


@check
def yarn_far_beyond_the_original_length() -> None:
    """500 tokens where the original length is 64, whole and through a cache, dense and MoE."""
    ids = token_ids(DENSE["vocab_size"], (1, 500), seed=9)
    for case in ("dense_yarn", "moe_tied_yarn"):
        directory = reference(case)[0]
        with torch.no_grad():
            want = cached_official(case)(ids).logits
            model = Qwen3.from_pretrained(directory)
            compare(f"{case}, 500 tokens", model(ids), want, atol=ATOL).require()
            cache = KVCache(model.config, batch=1, length=500)
            model(ids[:, :490], cache=cache)
            late = model(ids[:, 490:], cache=cache)
            compare(f"{case}, the last 10", late, want[:, 490:], atol=ATOL).require()
        spec = NumpyQwen3.from_pretrained(directory)
        compare(f"{case}, 500 tokens, NumPy", spec(ids.numpy()), want, atol=ATOL).require()


@check
def rope_tables_at_long_positions() -> None:
    """cos and sin at the end of 131,072 tokens, with Qwen3's YaRN, to float32's last digit.

    The truth is worked in 50-digit decimals: the angle as a fraction of a turn, exactly.
    """
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    values = Qwen3Config.named("Qwen3-0.6B").to_dict() | dict(rope_scaling=yarn)
    config = Qwen3Config.from_dict(values)
    where = [0, 40_959, 65_537, 131_071]
    inv_freq, factor = frequencies(128, 1e6, yarn, config.max_position_embeddings)
    cos, sin = rope_tables(torch.tensor([where]), inv_freq, factor, torch.float32)
    exact_cos, exact_sin = cos_sin(np.array([where]), inv_freq, factor)
    with localcontext() as context:
        context.prec = 50
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
        for row, position in enumerate(where):
            for j in range(64):
                # low 23, high 40 (see yarn_published_numbers): keep below, a quarter above, a ramp between
                ramp = min(max(Decimal(j - 23) / 17, Decimal(0)), Decimal(1))
                frequency = Decimal(10) ** (Decimal(-12 * j) / 128) * (1 - ramp + ramp / 4)
                angle = float((position * frequency) % (2 * pi))
                scale = 0.1 * np.log(4) + 1
                for got, want in ((exact_cos, np.cos(angle)), (exact_sin, np.sin(angle))):
                    assert abs(got[0, row, j] - scale * want) < 1e-9, (position, j)
    compare("cos in float32", cos, exact_cos, atol=1e-7).require()
    compare("sin in float32", sin, exact_sin, atol=1e-7).require()


@check
def sixteen_bit_model() -> None:
    """bfloat16 and float16: no further from float32 than transformers is, and greedy agrees where
    float32's own lead over the second token is clear."""
    largest_error = {torch.bfloat16: 0.01, torch.float16: 0.003}  # of the largest logit, root mean square
    for case, seed in (("dense", 31), ("moe", 30)):
        directory, ids, logits, _ = reference(case)
        prompt = token_ids(DENSE["vocab_size"], (1, 6), seed=seed)[0].tolist()
        wide = Qwen3.from_pretrained(directory)
        (easy,) = generate(wide, [prompt], max_new_tokens=12)
        with torch.no_grad():
            best = wide(torch.tensor([prompt + easy]))[0, 5:-1].topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 0.05, "not an easy case"
        for dtype, bound in largest_error.items():
            model = Qwen3.from_pretrained(directory, dtype=dtype)
            theirs = official_model(CASES[case]).to(dtype)
            with torch.no_grad():
                ours = model(ids)
                assert ours.dtype == dtype
                error = (ours.float() - logits).square().mean().sqrt()
                official_error = (theirs(ids).logits.float() - logits).square().mean().sqrt()
            assert error <= 1.25 * official_error, (case, dtype, error, official_error)
            assert error <= bound * logits.abs().max(), (case, dtype, error)
            assert generate(model, [prompt], max_new_tokens=12) == [easy], (case, dtype)


# True layer shapes: (hidden, ffn, q heads, kv heads) of 0.6B, 8B, 32B and 30B-A3B's experts.
TRUE_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": DENSE
    | dict(hidden_size=1024, intermediate_size=3072, num_attention_heads=16, num_key_value_heads=8),
    "Qwen3-8B": DENSE
    | dict(hidden_size=4096, intermediate_size=12288, num_attention_heads=32, num_key_value_heads=8),
    "Qwen3-32B": DENSE
    | dict(hidden_size=5120, intermediate_size=25600, num_attention_heads=64, num_key_value_heads=8),
    "Qwen3-30B-A3B": MOE
    | dict(
        hidden_size=2048,
        moe_intermediate_size=768,
        num_attention_heads=32,
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
    ),
}


def true_layer(name: str) -> None:
    """One layer of the official shape, a small vocabulary, 16 tokens: PyTorch, and NumPy in float32,
    against transformers."""
    settings = TRUE_SHAPES[name] | dict(head_dim=128, num_hidden_layers=1, max_position_embeddings=40960)
    official = Qwen3Config.named(name)
    moe = "num_experts" in settings
    fields = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"]
    fields += ["num_experts", "num_experts_per_tok", "moe_intermediate_size"] if moe else []
    fields += [] if moe else ["intermediate_size"]
    for field in fields:
        assert settings[field] == getattr(official, field), field
    config_type = transformers.Qwen3MoeConfig if moe else transformers.Qwen3Config
    with no_init_weights():
        theirs = transformers.AutoModelForCausalLM.from_config(config_type(**copy.deepcopy(settings)))
    theirs = theirs.float().eval()
    # Half a billion draws would take longer than the comparison: a million, over and over. The number is
    # prime, so that no two rows and no two matrices begin alike.
    draws = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        at = 0
        for key, parameter in theirs.named_parameters():
            flat, turned = parameter.view(-1), draws.roll(-at)
            for i in range(0, len(flat), len(draws)):
                flat[i : i + len(draws)] = turned[: len(flat) - i]
            at += len(flat)
            if key.endswith("norm.weight"):
                parameter.mul_(25).add_(1)
    config = Qwen3Config.from_dict(theirs.config.to_dict(), source=name)
    ours = Qwen3(config, device="meta").to_empty(device="cpu")
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ids = token_ids(settings["vocab_size"], (1, 16))
    with torch.no_grad():
        want = theirs(ids).logits
        compare(f"one layer of {name}", ours(ids), want, atol=ATOL).require()
    weights = {key: tensor.numpy() for key, tensor in ours.named_official_tensors()}
    told = NumpyQwen3(config, weights)(ids.numpy())
    compare(f"one layer of {name}, NumPy", told, want, atol=ATOL).require()


for _name in TRUE_SHAPES:
    CHECKS[f"true_layer_{_name}"] = functools.partial(true_layer, _name)
SLOW = frozenset(f"true_layer_{name}" for name in TRUE_SHAPES)
"""Checks of seconds, not fractions: run once, not again for every fault."""
