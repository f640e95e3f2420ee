"""RoPE's settings: what is a number, and what is not; linear and NTK. YaRN's angles are in parity.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config as OfficialConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.rope import (
    YARN_BOUNDS,
    default_frequencies,
    frequencies,
    ntk_theta,
    scaling_problem,
    yarn_problem,
    yarn_range,
)

YARN: dict[str, Any] = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
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
    assert "factor is missing" in (yarn_problem({}, 4096) or ""), "the whole length is the original one"


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
        want, want_factor = ROPE_INIT_FUNCTIONS["yarn"](official, "cpu")
        got, factor = frequencies(head_dim, 1e4, yarn, 2**31)
        assert factor == pytest.approx(want_factor, rel=1e-12)
        torch.testing.assert_close(torch.from_numpy(got), want.double(), rtol=1e-5, atol=0)


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
    with pytest.raises(ValueError, match="rope_type 'llama3' in rope_scaling is not supported"):
        frequencies(6, 1e4, {"rope_type": "llama3"})
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
    want, want_factor = ROPE_INIT_FUNCTIONS["linear"](config, "cpu")
    got, got_factor = frequencies(head_dim, theta, scaling, 40960)
    assert got == pytest.approx(want.double().numpy(), rel=2e-6) and got_factor == want_factor == 1
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
    last = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=long)[0][-1]
    return float(last) ** (-head_dim / (head_dim - 2))


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "linear"}, "factor is missing in rope_scaling, and 'linear' has nothing else"),
        ({"rope_type": "linear", "factor": 0.5}, "factor in rope_scaling is 0.5; it must be"),
        ({"rope_type": "linear", "factor": True}, "factor in rope_scaling is True"),
        (LINEAR | {"beta_fast": 32}, "beta_fast in rope_scaling does nothing with"),
        (LINEAR | {"truncate": True}, "truncate in rope_scaling does nothing with"),
        ({"rope_type": "dynamic", "factor": 2}, "rope_type 'dynamic' in rope_scaling is not supported"),
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
