"""The parity suite: this package against transformers, and against itself told twice.

Each check is a function without arguments that raises AssertionError when the numbers differ.
`test_parity.py` runs them all; `test_faults.py` runs them again with a known bug switched on and
demands that one fails. For that reason the package is imported inside the functions, and nothing
on the reference side uses it.

The reference weights are hardened: fresh ones have every norm gain at 1 and a nearly silent network,
which lets 9 of 29 known bugs through. Here gains are 1 + 0.5 randn, other weights five times their
initial size, head_dim is not hidden_size / heads, and inputs are 96 tokens long.
"""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

CHECKS: dict[str, Callable[[], None]] = {}
ATOL = 5e-5  # float32 against transformers in float32
EXACT = 1e-10  # float64 against float64

DENSE = dict(
    vocab_size=160,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention_bias=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)
MOE = DENSE | dict(
    moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True
)
YARN = dict(
    rope_type="yarn", rope_theta=1e4, factor=3.0, original_max_position_embeddings=64
)  # factor is not max_position_embeddings / original (8)


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


def harden(model: torch.nn.Module, seed: int = 1) -> None:
    """Random gains, and other weights five times as large, so that every part of the model speaks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.5 * noise)
            else:
                parameter.copy_(0.1 * noise)


def official_model(settings: dict[str, Any], seed: int = 1) -> torch.nn.Module:
    """A hardened transformers model, float32, eager attention."""
    moe = "num_experts" in settings
    config_type = transformers.Qwen3MoeConfig if moe else transformers.Qwen3Config
    config = config_type(**copy.deepcopy(settings))
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    model = model.float().eval()
    harden(model, seed)
    model.tie_weights()
    return model


@functools.cache
def scratch() -> Path:
    """A temporary folder for this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="qwen3-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def token_ids(vocab_size: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Random ids."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def reference(case: str) -> tuple[Path, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(checkpoint directory, ids (2, 96), transformers' logits in float32, and in float64)."""
    settings = CASES[case]
    model = official_model(settings)
    directory = scratch() / case
    model.save_pretrained(directory)
    ids = token_ids(settings["vocab_size"], (2, 96))
    with torch.no_grad():
        logits = model(ids).logits
        wide = model.double()(ids).logits
    return directory, ids, logits, wide


CASES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "dense_tied": DENSE | dict(tie_word_embeddings=True),
    "dense_large_eps": DENSE | dict(rms_norm_eps=1e-2),
    "dense_yarn": DENSE | dict(rope_parameters=YARN),
    "dense_yarn_attention_factor": DENSE | dict(rope_parameters=YARN | dict(attention_factor=1.3)),
    "dense_one_kv_head": DENSE | dict(num_key_value_heads=1),
    "dense_mha": DENSE | dict(num_key_value_heads=4),
    "moe": MOE,
    "moe_unnormalised": MOE | dict(norm_topk_prob=False),
    "moe_tied_yarn": MOE | dict(tie_word_embeddings=True, rope_parameters=YARN),
    "moe_mixed_layers": MOE | dict(mlp_only_layers=[1]),
}


def against_transformers(case: str) -> None:
    """PyTorch in float32 against transformers; NumPy in float64 against PyTorch in float64."""
    from qwen3_ref.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

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


@functools.cache
def full_logits(case: str) -> torch.Tensor:
    """transformers' logits in float32: the uncached, unpadded truth that caches are held against."""
    return reference(case)[2]


def cached_equals_uncached(case: str, chunks: list[int]) -> None:
    """Feeding ids in chunks through one cache gives the logits of feeding them at once."""
    from qwen3_ref.compare import compare
    from qwen3_ref.model import KVCache, Qwen3
    from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3

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
def cache_is_used() -> None:
    """Each decoding step computes one position, and the cache cannot overflow silently."""
    from qwen3_ref.model import KVCache, Qwen3

    directory, ids, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    cache = KVCache(model.config, batch=2, length=5)
    with torch.no_grad():
        model(ids[:, :4], cache=cache)
        assert model(ids[:, 4:5], cache=cache).shape[1] == 1
        try:
            model(ids[:, 5:6], cache=cache)
        except ValueError as error:
            assert "5 of 5" in str(error) and "length=6" in str(error), error
        else:
            raise AssertionError("a full cache took one more token")
    assert torch.isfinite(cache.keys).all()


def left_pad(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, longest), padded on the left with id 7 (a real id: pads must not leak)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
    return ids, mask


def padded_equals_alone(case: str) -> None:
    """Uneven left-padded rows, prefilled in two chunks and decoded for 10 steps, equal each row alone."""
    from qwen3_ref.compare import compare
    from qwen3_ref.model import KVCache, Qwen3
    from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3

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
        pieces = [(batch[:, :11], mask[:, :11]), (batch[:, 11:], mask[:, 11:])]
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


@functools.cache
def cached_official(case: str) -> torch.nn.Module:
    return official_model(CASES[case])


def official_alone(case: str, row: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return cached_official(case)(row[None]).logits[0]


@check
def padding_dense() -> None:
    padded_equals_alone("dense")


@check
def padding_moe() -> None:
    padded_equals_alone("moe")


@check
def eager_equals_fused() -> None:
    """The attention that returns its weights computes what the fused kernel does; weights sum to 1."""
    from qwen3_ref.compare import compare
    from qwen3_ref.model import KVCache, Qwen3, Trace
    from qwen3_ref.numpy_ref import NumpyQwen3

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
    from qwen3_ref.compare import compare
    from qwen3_ref.model import Qwen3, Trace

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
    from qwen3_ref.compare import compare
    from qwen3_ref.model import Qwen3

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
def rope_tables_official() -> None:
    """Frequencies and attention factor, plain and YaRN, explicit and implicit, at Qwen3's true sizes."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from qwen3_ref.compare import compare
    from qwen3_ref.rope import frequencies

    base = dict(rope_type="yarn", rope_theta=1e6, original_max_position_embeddings=32768)
    for extra in (
        dict(factor=4.0),
        dict(factor=2.0),  # unlike 40960 / 32768
        dict(factor=4.0, attention_factor=1.0),
        dict(factor=4.0, beta_fast=16.0, beta_slow=2.0),
        dict(factor=4.0, truncate=False),
        dict(factor=40.0, mscale=1.0, mscale_all_dim=0.5),
    ):
        config = transformers.Qwen3Config(head_dim=128, rope_parameters=base | extra)
        want, want_factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        got, factor = frequencies(128, 1e6, base | extra, 40960)
        compare(f"YaRN {extra}", got / want.double().numpy(), np.ones(64), atol=1e-6).require()
        assert abs(factor - want_factor) < 1e-9, (factor, want_factor)
    plain, one = frequencies(128, 1e6)
    want = 1.0 / (1e6 ** (torch.arange(0, 128, 2, dtype=torch.float64) / 128))
    compare("plain", plain, want, atol=1e-12).require()
    assert one == 1.0


@check
def yarn_published_numbers() -> None:
    """Hand-worked for Qwen3's YaRN (head_dim 128, theta 1e6, 32,768 x 4): range, factor, ratios."""
    from qwen3_ref.rope import frequencies, yarn_range

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
def rope_in_sixteen_bits() -> None:
    """A bfloat16 model still forms angles and rotates in float32: at position 30,000 too."""
    from qwen3_ref.compare import compare
    from qwen3_ref.model import Qwen3, rope_tables, rotate

    directory, _, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory, dtype=torch.bfloat16)
    positions = torch.tensor([[0, 1, 255, 257, 1023, 30_000]])
    seen: list[torch.dtype] = []
    from qwen3_ref import model as module

    original = module.rotate

    def spy(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        seen.append(cos.dtype)
        return original(x, cos, sin)

    module.rotate = spy
    try:
        model(torch.zeros(1, 4, dtype=torch.long))
    finally:
        module.rotate = original
    assert set(seen) == {torch.float32}, seen
    cos, sin = rope_tables(model.config, positions, torch.float32)
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
    from qwen3_ref.compare import compare
    from qwen3_ref.model import RMSNorm
    from qwen3_ref.moe import route

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


@check
def rope_knows_only_distance() -> None:
    """The dot product of two rotated vectors depends on the distance between them alone."""
    from qwen3_ref.compare import compare
    from qwen3_ref.numpy_ref import rotate as numpy_rotate
    from qwen3_ref.rope import cos_sin, frequencies

    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 128))
    inv_freq, _ = frequencies(128, 1e6)

    def dot(i: int, j: int) -> float:
        ci, si = cos_sin(np.array([[i]]), inv_freq)
        cj, sj = cos_sin(np.array([[j]]), inv_freq)
        return float((numpy_rotate(q, ci, si) * numpy_rotate(k, cj, sj)).sum())

    compare("same distance", dot(7, 3), dot(30_007, 30_003), atol=1e-9).require()
    assert abs(dot(7, 3) - dot(7, 2)) > 1e-3


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
    """One layer of the official shape, a small vocabulary, 96 tokens, PyTorch and transformers."""
    from qwen3_ref.compare import compare
    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.model import Qwen3

    settings = TRUE_SHAPES[name] | dict(
        head_dim=128, num_hidden_layers=1, max_position_embeddings=40960
    )
    official = Qwen3Config.named(name)
    for field in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        assert settings[field] == getattr(official, field), field
    moe = "num_experts" in settings
    config_type = transformers.Qwen3MoeConfig if moe else transformers.Qwen3Config
    theirs = transformers.AutoModelForCausalLM.from_config(config_type(**copy.deepcopy(settings)))
    theirs = theirs.float().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_(0, 0.02, generator=generator)
            if key.endswith("norm.weight"):
                parameter.mul_(25).add_(1)
    config = Qwen3Config.from_dict(theirs.config.to_dict(), source=name)
    ours = Qwen3(config, device="meta").to_empty(device="cpu")
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ids = token_ids(settings["vocab_size"], (1, 96))
    with torch.no_grad():
        compare(f"one layer of {name}", ours(ids), theirs(ids).logits, atol=ATOL).require()


for _name in TRUE_SHAPES:
    CHECKS[f"true_layer_{_name}"] = functools.partial(true_layer, _name)
SLOW = frozenset(f"true_layer_{name}" for name in TRUE_SHAPES)
"""Checks of seconds, not fractions: run once, not again for every fault."""
