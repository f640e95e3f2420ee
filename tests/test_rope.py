"""RoPE's settings: what is a number, and what is not; linear and NTK. YaRN's angles are in parity.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.rope import default_frequencies, frequencies, ntk_theta, scaling_problem, yarn_problem

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


# -- position interpolation and NTK-aware scaling ----------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 7.5])
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (64, 1e6), (40, 1e4)])
def test_linear_is_transformers(head_dim: int, theta: float, factor: float) -> None:
    scaling = {"rope_type": "linear", "factor": factor}
    config = transformers.Qwen3Config(head_dim=head_dim, rope_parameters=scaling | {"rope_theta": theta})
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
    config = transformers.Qwen3Config(head_dim=head_dim, rope_parameters=scaling)
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
