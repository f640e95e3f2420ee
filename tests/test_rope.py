"""RoPE's settings: what is a number, and what is not; linear and NTK. YaRN's angles are in parity.py."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import Qwen3Config as OfficialConfig

from qwen3_ref.cache import KVCache
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.context.stretch import Method, for_length, stretched
from qwen3_ref.course.compare import official_frequencies, official_model
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.rope import (
    YARN_BOUNDS,
    default_frequencies,
    frequencies,
    ntk_theta,
    rope_type,
    scaling_problem,
    yarn_problem,
    yarn_range,
)
from tests.helpers import tiny

YARN: dict[str, Any] = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
BY_PARTS: dict[str, Any] = dict(
    rope_type="llama3",
    factor=4.0,
    original_max_position_embeddings=32768,
    low_freq_factor=1.0,
    high_freq_factor=32.0,
)
LINEAR: dict[str, Any] = dict(rope_type="linear", factor=2.0)
NUMBERS = ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")
NUMBERS += ("mscale", "mscale_all_dim")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", [True, False, "4", 0, -1, math.inf, math.nan, [4.0]])
def test_what_is_no_number(name: str, wrong: Any) -> None:
    """True counts as 1 in Python; in a config it is a mistake."""
    assert name in (yarn_problem(YARN | {name: wrong}, 131072) or "")
    with pytest.raises(ValueError, match=f"{name} in rope_scaling is"):
        frequencies(128, 1e6, YARN | {name: wrong}, 131072)


def test_what_is_one() -> None:
    assert yarn_problem(YARN, 131072) is None
    assert yarn_problem(YARN | dict.fromkeys(NUMBERS[2:]), 131072) is None, "null is absent"
    assert yarn_problem(YARN | {"factor": 1}, 131072) is None
    assert "factor in rope_scaling is 0.9; it must be a number, at least 1" in (
        yarn_problem(YARN | {"factor": 0.9}, 131072) or ""
    )
    assert yarn_problem(YARN | {"attention_factor": 0.9}, 131072) is None, "this one may shrink"


@pytest.mark.parametrize(("name", "bounds"), YARN_BOUNDS.items())
def test_the_bounds_belong_to_what_they_bound(name: str, bounds: tuple[float, float]) -> None:
    """Just inside is taken, just outside refused; betas are tried one far from the other."""
    apart = {"beta_fast": {"beta_slow": 1e-6 / 2}, "beta_slow": {"beta_fast": 2e6}}.get(name, {})
    for edge, beyond in zip(bounds, (0, math.inf), strict=True):
        outside = math.nextafter(edge, beyond)
        assert f"{name} in rope_scaling is" in (yarn_problem(YARN | {name: outside}, 2**31) or ""), outside
        said = yarn_problem(YARN | apart | {name: edge}, 2**31)
        other = "beta_slow" if name == "beta_fast" else "beta_fast"
        assert said is None or (bool(apart) and said.startswith(f"{other} in rope_scaling is")), said


def test_turns_and_truth_of_yarn() -> None:
    """beta_fast stands above beta_slow, their defaults 32 and 1 included; truncate is a truth value."""
    for scaling in (
        {"beta_fast": 2, "beta_slow": 2},
        {"beta_fast": 1},
        {"beta_slow": 32},
        {"beta_fast": 0.5},
    ):
        assert "which must be above beta_slow" in (yarn_problem(YARN | scaling, 131072) or ""), scaling
    for scaling in ({"beta_fast": 2, "beta_slow": 1.99}, {"beta_fast": 1.01}, {"beta_slow": 31.9}):
        assert yarn_problem(YARN | scaling, 131072) is None, scaling
    for truncate in (True, False, None):
        assert yarn_problem(YARN | {"truncate": truncate}, 131072) is None
    for truncate in (1, 0, "true", 1.0):
        assert "truncate in rope_scaling is" in (yarn_problem(YARN | {"truncate": truncate}, 131072) or "")
    implied = {"original_max_position_embeddings": 1024}
    assert yarn_problem(implied, 1025) is None
    for longest in (1024, 1023):
        assert "factor is missing in rope_scaling" in (yarn_problem(implied, longest) or "")
    unsaid = "original_max_position_embeddings is missing in rope_scaling"
    assert unsaid in (yarn_problem({"factor": 4.0}, 40960) or ""), "nothing is taken for it in silence"


@pytest.mark.parametrize("truncate", [True, False, None])
@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"beta_fast": 8.0, "beta_slow": 2.0},
        {"original_max_position_embeddings": 8},  # a range that begins below the first pair
        {"original_max_position_embeddings": 10**9},  # and one that ends behind the last
        {"beta_fast": 1.001, "beta_slow": 1.0, "original_max_position_embeddings": 7},  # an empty one
        {"mscale": 2.0, "mscale_all_dim": 0.5},
        {"mscale": 2.0},
        {"mscale_all_dim": 2.0},
        {"factor": 1.0},
        {"attention_factor": 0.5, "mscale": 2.0, "mscale_all_dim": 0.5},
    ],
)
def test_every_setting_does_what_it_does_in_transformers(
    scaling: dict[str, Any], truncate: bool | None
) -> None:
    yarn = YARN | scaling | ({} if truncate is None else {"truncate": truncate})
    for head_dim in (6, 20):
        official = OfficialConfig(head_dim=head_dim, rope_parameters=yarn | {"rope_theta": 1e4})
        want, want_factor = official_frequencies(official)
        got, factor = frequencies(head_dim, 1e4, yarn, 2**31)
        assert factor == pytest.approx(want_factor, rel=1e-12)
        assert got == pytest.approx(want, rel=1e-12)


def test_the_range_of_pairs_by_hand() -> None:
    """With theta = e^2 it is d / 4 ln(L / (2 pi turns)): with d = 8 and L = 2 pi e^2, 4 - 2 ln(turns)."""
    theta, length = math.exp(2), 2 * math.pi * math.exp(2)
    assert yarn_range(8, theta, length, math.e, 1.0, False) == pytest.approx((2, 4))
    assert yarn_range(8, theta, length, math.exp(0.75), math.exp(0.3), True) == (2, 4)
    assert yarn_range(8, theta, length, 32.0, math.exp(-9), False) == (0, 7), "within the pairs"
    assert yarn_range(8, theta, length, 64.0, 32.0, False) == (0, pytest.approx(4 - 2 * math.log(32)))


def test_other_kinds_are_refused_and_none_is_plain() -> None:
    plain = 1e4 ** -np.array([0, 1 / 3, 2 / 3])
    for scaling in (None, {}, {"rope_type": "default"}):
        got, factor = frequencies(6, 1e4, scaling)
        assert factor == 1.0 and got.tolist() == pytest.approx(plain.tolist())
    with pytest.raises(ValueError, match="rope_type 'longrope' in rope_scaling is not supported"):
        frequencies(6, 1e4, {"rope_type": "longrope"})
    with pytest.raises(ValueError, match="factor in rope_scaling does nothing with rope_type 'default'"):
        frequencies(6, 1e4, {"factor": 4.0})
    implied, _ = frequencies(6, 1e4, {"rope_type": "yarn", "original_max_position_embeddings": 10_240})
    given, _ = frequencies(
        6, 1e4, {"rope_type": "yarn", "original_max_position_embeddings": 10_240, "factor": 4}
    )
    assert (implied == given).all(), "40,960 is the length where none is said"


# -- position interpolation and NTK-aware scaling ----------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 7.5])
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (64, 1e6), (40, 1e4)])
def test_linear_is_transformers(head_dim: int, theta: float, factor: float) -> None:
    scaling = {"rope_type": "linear", "factor": factor}
    config = OfficialConfig(head_dim=head_dim, rope_parameters=scaling | {"rope_theta": theta})
    want, want_factor = official_frequencies(config)
    got, got_factor = frequencies(head_dim, theta, scaling, 40960)
    assert got == pytest.approx(want, rel=1e-12) and got_factor == want_factor == 1
    assert (got == default_frequencies(head_dim, theta) / factor).all(), "in float64"


def test_ntk_slows_the_last_pair_alone() -> None:
    """Worked by hand for Qwen3's 128 channels: 4,088,994 for factor 4, and the ratios of some pairs."""
    theta = ntk_theta(128, 1e6, 4)
    assert round(theta) == 4_088_994
    ratio = default_frequencies(128, theta) / default_frequencies(128, 1e6)
    assert ratio[0] == 1 and ratio[63] == pytest.approx(1 / 4, abs=1e-12)
    assert ratio[[8, 16, 24, 32, 40]] == pytest.approx([0.8386, 0.7032, 0.5897, 0.4945, 0.4147], abs=5e-5)
    assert ntk_theta(64, 1e6, 1) == 1e6
    assert ntk_theta(64, 1e6, 2) == pytest.approx(_dynamic(64, 1e6, 2), rel=1e-6)


def _dynamic(head_dim: int, theta: float, factor: int) -> float:
    """The base that transformers' dynamic NTK takes for a text of `factor` times the length."""
    scaling = {"rope_type": "dynamic", "rope_theta": theta, "factor": 1.0}
    config = OfficialConfig(head_dim=head_dim, rope_parameters=scaling)
    long = config.max_position_embeddings * factor
    last = official_frequencies(config, long)[0][-1]
    return float(last) ** (-head_dim / (head_dim - 2))


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "linear"}, "factor is missing in rope_scaling, and 'linear' needs factor"),
        ({"rope_type": "dynamic"}, "factor is missing in rope_scaling, and 'dynamic' needs factor"),
        ({"rope_type": "dynamic", "factor": 0.9}, "factor in rope_scaling is 0.9; it must be"),
        (YARN | {"low_freq_factor": 1.0}, "low_freq_factor in rope_scaling does nothing with"),
        (YARN | {"beta_fst": 32}, "beta_fst"),
        (BY_PARTS | {"original_max_position_embeddings": None}, "original_max_position_embeddings is miss"),
        (BY_PARTS | {"high_freq_factor": None}, "high_freq_factor is missing in rope_scaling"),
        (BY_PARTS | {"low_freq_factor": 32.0}, "high_freq_factor in rope_scaling is 32.0, which must be abo"),
        (BY_PARTS | {"attention_factor": 1.0}, "attention_factor in rope_scaling does nothing with"),
        ({"rope_type": "linear", "factor": 0.5}, "factor in rope_scaling is 0.5; it must be"),
        ({"rope_type": "linear", "factor": True}, "factor in rope_scaling is True"),
        (LINEAR | {"beta_fast": 32}, "beta_fast in rope_scaling does nothing with"),
        (LINEAR | {"truncate": True}, "truncate in rope_scaling does nothing with"),
    ],
)
def test_scaling_that_cannot_be(scaling: dict[str, Any], words: str) -> None:
    assert words in (scaling_problem(scaling, 40960) or "")
    with pytest.raises(ValueError, match=words):
        frequencies(128, 1e6, scaling)
    with pytest.raises(ConfigError, match=words):
        replace(Qwen3Config.named("Qwen3-0.6B"), rope_scaling=scaling)


def test_linear_in_a_config() -> None:
    config = replace(Qwen3Config.named("Qwen3-0.6B"), rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert config.context_length == 2 * 40_960
    assert Qwen3Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("factor", [0.5, math.nan, 1e7])
def test_ntk_that_cannot_be(factor: float) -> None:
    with pytest.raises(ValueError, match="factor is .*; it must be a number, at least 1"):
        ntk_theta(128, 1e6, factor)
    with pytest.raises(ValueError, match="head_dim is 2; NTK-aware scaling needs at least 4"):
        ntk_theta(2, 1e6, 4)


# -- every method, pair by pair ------------------------------------------------------------------------

PAIRS = [0, 8, 16, 24, 28, 30, 32, 36, 40, 63]
RATIOS = {
    "linear": [0.25] * 10,
    "ntk": [1, 0.8386, 0.7032, 0.5897, 0.5400, 0.5168, 0.4945, 0.4529, 0.4147, 0.25],
    "yarn": [1, 1, 1, 0.9559, 0.7794, 0.6912, 0.6029, 0.4265, 0.25, 0.25],
    "by-parts": [1, 1, 1, 0.9353, 0.5250, 0.4201, 0.3520, 0.2790, 0.25, 0.25],
}
"""New frequency over old for factor 4 of a real Qwen3 (128 channels, theta 1,000,000, 32,768 tokens), worked
out apart from this code."""


@pytest.mark.parametrize("method", RATIOS)
def test_published_pairs(method: Any) -> None:
    c = stretched(Qwen3Config.named("Qwen3-8B"), method, 4, 32_768)
    got, factor = frequencies(c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
    ratio = got / default_frequencies(128, 1e6)
    assert ratio[PAIRS].tolist() == pytest.approx(RATIOS[method], abs=5e-5)
    assert factor == pytest.approx(1.138629 if method == "yarn" else 1, abs=5e-7)
    assert c.context_length == 131_072


def test_the_ramp_without_whole_numbers() -> None:
    got, _ = frequencies(128, 1e6, YARN | {"truncate": False}, 40_960)
    ratio = got / default_frequencies(128, 1e6)
    want = [1, 1, 1, 0.9811, 0.7943, 0.7008, 0.6074, 0.4205, 0.25, 0.25]
    assert ratio[PAIRS].tolist() == pytest.approx(want, abs=5e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 7.5])
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (64, 1e6), (40, 1e4)])
def test_by_parts_is_transformers_llama3(head_dim: int, theta: float, factor: float) -> None:
    scaling = BY_PARTS | {"factor": factor}
    config = OfficialConfig(head_dim=head_dim, rope_parameters=scaling | {"rope_theta": theta})
    want, want_factor = official_frequencies(config)
    got, got_factor = frequencies(head_dim, theta, scaling, 40960)
    assert got == pytest.approx(want, rel=1e-12) and got_factor == want_factor == 1


@pytest.mark.parametrize("slope", [1.0, 4.0])
@pytest.mark.parametrize("length", [100, 40_960, 40_961, 81_920, 163_840])
def test_dynamic_is_transformers(length: int, slope: float) -> None:
    scaling = {"rope_type": "dynamic", "factor": slope}
    config = OfficialConfig(
        head_dim=128, max_position_embeddings=40_960, rope_parameters=scaling | {"rope_theta": 1e6}
    )
    want, _ = official_frequencies(config, length)
    got, _ = frequencies(128, 1e6, scaling, 40_960, length)
    assert got == pytest.approx(want, rel=1e-12)


def test_dynamic_ntk_with_slope_one_is_ntk_of_the_length() -> None:
    """At four times the length it stretches four times; with slope 4, which users take for the factor of
    YaRN, 13 times."""
    one, four = ({"rope_type": "dynamic", "factor": f} for f in (1.0, 4.0))
    static = default_frequencies(128, ntk_theta(128, 1e6, 4))
    assert frequencies(128, 1e6, one, 32_768, 131_072)[0] == pytest.approx(static, rel=1e-12)
    plain = default_frequencies(128, 1e6)
    assert (frequencies(128, 1e6, four, 32_768, 131_072)[0] / plain)[-1] == pytest.approx(1 / 13)
    assert frequencies(128, 1e6, four, 32_768)[0] == pytest.approx(plain), "no length is the trained one"


def test_factor_one_changes_nothing() -> None:
    for method in ("plain", "linear", "ntk", "by-parts", "yarn", "dynamic"):
        c = stretched(Qwen3Config.named("Qwen3-8B"), method, 1, 32_768)  # type: ignore[arg-type]
        got, factor = frequencies(c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
        assert got == pytest.approx(default_frequencies(128, 1e6), rel=1e-15) and factor == 1, method


def test_the_wrong_original_length_is_another_model() -> None:
    """What transformers takes in silence where the original length is missing: the pairs move."""
    assert yarn_range(128, 1e6, 40_960, truncate=False) == pytest.approx((24.63, 40.68), abs=0.01)
    right, wrong = (
        frequencies(128, 1e6, YARN | {"original_max_position_embeddings": n}, 40_960)[0]
        for n in (32_768, 40_960)
    )
    assert abs(wrong / right - 1).max() > 0.05


def test_both_spellings_of_the_type() -> None:
    old = {("type" if k == "rope_type" else k): v for k, v in YARN.items()}
    assert scaling_problem(old, 40_960) is None and rope_type(old) == "yarn"
    assert (frequencies(128, 1e6, old)[0] == frequencies(128, 1e6, YARN)[0]).all()


# -- a config that reads farther -----------------------------------------------------------------------


@pytest.mark.parametrize("method", get_args(Method))
def test_stretched_configs_are_read_by_transformers(method: Method) -> None:
    """What is written is what transformers computes with; Dual Chunk Attention alone is unknown to it."""
    config = stretched(Qwen3Config.named("Qwen3-8B"), method, 4, 32_768)
    assert config.context_length == 131_072
    assert Qwen3Config.from_dict(config.to_dict()) == config
    if method == "dual-chunk":
        return
    official = OfficialConfig.from_dict(config.to_dict())
    kind = official.rope_parameters["rope_type"]
    ours, factor = frequencies(
        config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings
    )
    if kind == "default":
        assert official.rope_parameters["rope_theta"] == config.rope_theta
    else:
        theirs, their_factor = official_frequencies(official)
        assert ours == pytest.approx(theirs, rel=1e-12) and factor == their_factor


def test_the_scale_of_dual_chunk_attention_can_be_left_out_and_no_chunk_stays() -> None:
    chunked = stretched(Qwen3Config.named("Qwen3-8B"), "dual-chunk", 4, 32_768, scaled=False)
    assert chunked.dual_chunk_attention_config == {"chunk_size": 32_768, "local_size": 1024}
    assert stretched(chunked, "yarn", 4, 32_768).dual_chunk_attention_config is None
    assert stretched(chunked, "plain", 4, 32_768).dual_chunk_attention_config is None


def test_stretched_replaces_what_was_there() -> None:
    once = stretched(Qwen3Config.named("Qwen3-8B"), "yarn", 4, 32_768)
    again = stretched(once, "yarn", 2, 32_768)
    assert again == stretched(Qwen3Config.named("Qwen3-8B"), "yarn", 2, 32_768)
    unscaled = stretched(once, "yarn", 4, 32_768, scaled=False)
    assert (unscaled.rope_scaling or {}).get("attention_factor") == 1.0
    chunks = stretched(once, "dual-chunk", 4, 32_768).dual_chunk_attention_config
    assert chunks == {
        "chunk_size": 32_768, "local_size": 1024,
        "original_max_position_embeddings": 32_768, "scale_length": 131_072,
    }  # fmt: skip
    with pytest.raises(ValueError, match="method is 'yarnn'; it must be one of plain, linear"):
        stretched(once, "yarnn", 4)  # type: ignore[arg-type]
    for method in get_args(Method):
        with pytest.raises(ValueError, match="factor"):
            stretched(once, method, 0.5, 32_768)


def test_a_factor_for_a_length() -> None:
    """As the model cards say: 2 for 65,536 tokens, 4 for 131,072, none within the trained length."""
    config = Qwen3Config.named("Qwen3-8B")
    for length, factor in ((65_536, 2), (131_072, 4)):
        assert for_length(config, length, 32_768) == stretched(config, "yarn", factor, 32_768)
        assert for_length(config, length, 32_768).context_length == length
    short = for_length(stretched(config, "yarn", 4, 32_768), 32_768, 32_768)
    assert short.rope_scaling is None and short.context_length == 32_768
    with pytest.raises(ValueError, match="length is 0"):
        for_length(config, 0, 32_768)
    with pytest.raises(ValueError, match="original is 0"):
        for_length(config, 5, 0)
    assert for_length(config, 1, 1).context_length == 1
    assert for_length(config, 3, 1) == stretched(config, "yarn", 3, 1), "one is the least of both"


# -- dynamic NTK in a model: where the length changes the frequencies ----------------------------------


def dynamic_model() -> Qwen3:
    config = replace(
        tiny(num_hidden_layers=2).config,
        max_position_embeddings=8,
        rope_scaling={"rope_type": "dynamic", "factor": 1.0},
    )
    return Qwen3(config, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_dynamic_model_is_transformers_at_every_length(tmp_path: Path) -> None:
    model = dynamic_model()
    model.save_pretrained(tmp_path)
    theirs, numpy = official_model(tmp_path, torch.float64), NumpyQwen3.from_pretrained(tmp_path)
    for length in (5, 8, 9, 20, 6):  # transformers goes back to the trained frequencies, too
        ids = torch.arange(length)[None] * 7 % model.config.vocab_size
        with torch.no_grad():
            ours, want = model(ids), theirs(ids).logits
        assert torch.allclose(ours, want, atol=2e-5), length
        assert np.allclose(numpy(ids.numpy()), ours.numpy(), atol=1e-10), length


def test_a_cache_cannot_follow_dynamic_frequencies() -> None:
    """Within the trained length it can. Beyond, what each layer cached came of other frequencies: even keys
    kept unrotated would not mend it, since all layers but the first saw other inputs."""
    model = dynamic_model()
    ids = torch.arange(12)[None]
    cache = KVCache(model.config, 1, 20, torch.float64)
    with torch.no_grad():
        whole = model(ids[:, :8])
        parts = torch.cat([model(ids[:, i : i + 1], cache=cache) for i in range(8)], dim=1)
        assert torch.allclose(whole, parts, atol=1e-12)
        with pytest.raises(ValueError, match="rope_type 'dynamic' turns a text of 9 tokens unlike a shorter"):
            model(ids[:, 8:9], cache=cache)
        assert cache.length == 8, "and the cache is as it was"
        mask = torch.ones(2, 12, dtype=torch.long)
        mask[1, :2] = 0
        with pytest.raises(ValueError, match="these rows differ in length; fix one length"):
            model(ids.expand(2, 12), attention_mask=mask)
        row = model(ids[:, 2:])
        same = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids[:, 2:]], dim=1)
        padded = model(same, attention_mask=mask[1:])[:, 2:]
        assert torch.allclose(row, padded, atol=1e-12), "padding is no length"


def test_too_long_a_prompt_says_what_to_change() -> None:
    model = tiny()
    prompt = [1] * (model.config.context_length + 1)
    with pytest.raises(ValueError, match="context is .*stretch the context: .*for_length"):
        generate(model, [prompt], max_new_tokens=1)
    small = replace(model.config, max_position_embeddings=8)
    for method, words in (("yarn", "raise factor in rope_scaling"), ("dual-chunk", "larger scale_length")):
        longer = Qwen3(stretched(small, method, 2))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=words):
            generate(longer, [[1] * 16], max_new_tokens=1)
