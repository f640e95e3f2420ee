"""The parity suite, second half: angles, 16-bit floats, and layers of the true shapes.

Registers its checks beside those of parity.py; the rules are the same.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
import transformers

from tests.parity import (
    ATOL,
    CASES,
    CHECKS,
    DENSE,
    MOE,
    cached_official,
    check,
    official_model,
    reference,
    token_ids,
)


@check
def rope_tables_official() -> None:
    """Frequencies and attention factor, plain and YaRN, explicit and implicit, at Qwen3's true sizes."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from qwen3_ref.course.compare import compare
    from qwen3_ref.rope import frequencies

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
def specification_by_hand() -> None:
    """NumPy's parts by closed properties, at sizes where a careless formula overflows."""
    from qwen3_ref.course.compare import compare
    from qwen3_ref.numpy_ref import rms_norm, silu, softmax

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
    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.model import Qwen3

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
    from qwen3_ref.course.compare import compare
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
    from qwen3_ref.course.compare import compare
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
    close = torch.randn(2000, 128, generator=generator)  # in bfloat16, 1 row in 40 would choose others
    assert (route(close, 8, True)[1] == close.double().topk(8, dim=-1).indices).all()


@check
def rope_knows_only_distance() -> None:
    """The dot product of two rotated vectors depends on the distance between them alone."""
    from qwen3_ref.course.compare import compare
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


@check
def yarn_far_beyond_the_original_length() -> None:
    """500 tokens where the original length is 64, whole and through a cache, dense and MoE."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

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
    from decimal import Decimal, localcontext

    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import rope_tables
    from qwen3_ref.rope import cos_sin, frequencies

    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    values = Qwen3Config.named("Qwen3-0.6B").to_dict() | dict(rope_scaling=yarn)
    config = Qwen3Config.from_dict(values)
    where = [0, 40_959, 65_537, 131_071]
    cos, sin = rope_tables(config, torch.tensor([where]), torch.float32)
    inv_freq, factor = frequencies(128, 1e6, yarn, config.max_position_embeddings)
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
    from qwen3_ref.decode.generation import generate
    from qwen3_ref.model import Qwen3

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
    """One layer of the official shape, a small vocabulary, 96 tokens: PyTorch, and NumPy in float32,
    against transformers."""
    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

    settings = TRUE_SHAPES[name] | dict(head_dim=128, num_hidden_layers=1, max_position_embeddings=40960)
    official = Qwen3Config.named(name)
    moe = "num_experts" in settings
    fields = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"]
    fields += ["num_experts", "num_experts_per_tok", "moe_intermediate_size"] if moe else []
    fields += [] if moe else ["intermediate_size"]
    for field in fields:
        assert settings[field] == getattr(official, field), field
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
        want = theirs(ids).logits
        compare(f"one layer of {name}", ours(ids), want, atol=ATOL).require()
    weights = {key: tensor.numpy() for key, tensor in ours.named_official_tensors()}
    told = NumpyQwen3(config, weights)(ids.numpy())
    compare(f"one layer of {name}, NumPy", told, want, atol=ATOL).require()


for _name in TRUE_SHAPES:
    CHECKS[f"true_layer_{_name}"] = functools.partial(true_layer, _name)
SLOW = frozenset(f"true_layer_{name}" for name in TRUE_SHAPES)
"""Checks of seconds, not fractions: run once, not again for every fault."""
