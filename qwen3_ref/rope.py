"""Rotary position embedding (RoPE): the angles, and nothing else.

Pure functions of numbers in NumPy; `numpy_ref.py` and `model.py` both rotate with these frequencies.

Sources: RoFormer (arXiv 2104.09864) for RoPE; Qwen3 technical report (arXiv 2505.09388) section 3.2
for theta = 1,000,000 (ABF); position interpolation (arXiv 2306.15595), NTK-aware scaling (as the YaRN
paper states it), YaRN (arXiv 2309.00071) and transformers' `modeling_rope_utils` for the scaled ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.store.errors import quoted

Float64Array = NDArray[np.float64]
ROPE_TYPES = ("default", "linear", "yarn")
YARN_BOUNDS = {
    "factor": (1, 10**6),
    "original_max_position_embeddings": (1, 2**31 - 1),
    "attention_factor": (1e-6, 10**6),
    "beta_fast": (1e-6, 10**6),
    "beta_slow": (1e-6, 10**6),
    "mscale": (1e-6, 10**6),
    "mscale_all_dim": (1e-6, 10**6),
}
"""The numbers of YaRN and between what they make sense; beyond, powers and logarithms would overflow."""


def default_frequencies(head_dim: int, theta: float) -> Float64Array:
    """Angular frequencies of the `head_dim / 2` rotating pairs, in radians per token.

    Pair j turns by `theta ** (-2 j / head_dim)` radians at each token: pair 0 by one radian, the
    last pair so slowly that it may never finish a turn inside the context.
    Shape: (head_dim / 2,), float64.
    """
    return theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def ntk_theta(head_dim: int, theta: float, factor: float) -> float:
    """The base of NTK-aware scaling: `rope_theta` under which the last pair is slowed `factor` times and
    the first not at all. No config names it, since a changed rope_theta is all there is to it.

    Raises ValueError for a factor below 1, or a head_dim below 4, whose last pair is the first.
    """
    if not 1 <= factor <= 10**6:
        raise ValueError(f"factor is {quoted(factor)}; it must be a number, at least 1 and up to 1,000,000.")
    if head_dim < 4:
        raise ValueError(f"head_dim is {head_dim}; NTK-aware scaling needs at least 4, which is two pairs.")
    return theta * factor ** (head_dim / (head_dim - 2))


def yarn_range(
    head_dim: int,
    theta: float,
    original_length: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, float]:
    """The pair indices (low, high) between which YaRN blends from "keep" to "stretch".

    A pair that makes `beta_fast` or more turns within `original_length` tokens keeps its frequency;
    one that makes `beta_slow` or fewer is slowed by the full factor.
    """

    def pair_that_turns(turns: float) -> float:
        return head_dim * math.log(original_length / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high  # the official code's guard against 0 / 0


def yarn_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int
) -> tuple[Float64Array, float]:
    """YaRN's frequencies (head_dim / 2,) and its attention factor.

    `scaling` is `rope_scaling` in the spelling of config.json. An explicit `factor` always counts;
    only where it is absent is it `max_position_embeddings / original_max_position_embeddings`.
    (transformers 4.52.3 ignored it when the original length was given: issue #38224.)
    The attention factor multiplies cos *and* sin, so it enters the logits squared.
    Raises ValueError for a scaling that `yarn_problem` finds wrong.
    """
    problem = yarn_problem(scaling, max_position_embeddings)
    if problem:
        raise ValueError(problem)
    given = {key: value for key, value in scaling.items() if value is not None}
    original = given.get("original_max_position_embeddings", max_position_embeddings)
    factor = given.get("factor", max_position_embeddings / original)
    low, high = yarn_range(
        head_dim,
        theta,
        original,
        given.get("beta_fast", 32.0),
        given.get("beta_slow", 1.0),
        given.get("truncate", True),
    )
    keep = default_frequencies(head_dim, theta)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
    return (1 - ramp) * keep + ramp * keep / factor, yarn_attention_factor(scaling, factor)


def scaling_problem(scaling: Mapping[str, Any], max_position_embeddings: int) -> str | None:
    """Why no frequencies follow from a `rope_scaling`, in one sentence, or None. Null is absent."""
    kind = scaling.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        return f"rope_type {quoted(kind)} in rope_scaling is not supported; use 'yarn', 'linear' or none."
    if kind == "yarn":
        return yarn_problem(scaling, max_position_embeddings)
    return linear_problem(scaling) if kind == "linear" else None


def linear_problem(scaling: Mapping[str, Any]) -> str | None:
    """The same of position interpolation, which has a factor and nothing else."""
    given = {key: value for key, value in scaling.items() if value is not None}
    for name in (*YARN_BOUNDS, "truncate"):
        if name in given and name != "factor":
            return f"{name} in rope_scaling does nothing with rope_type 'linear'; remove it, or use 'yarn'."
    if "factor" not in given:
        return "factor is missing in rope_scaling, and 'linear' has nothing else; give one, such as 4.0."
    return yarn_problem({"factor": given["factor"]}, max_position_embeddings=1)  # its rule of a factor


def yarn_problem(scaling: Mapping[str, Any], max_position_embeddings: int) -> str | None:
    """Why YaRN cannot be computed from a `rope_scaling`, in one sentence, or None. Null is absent."""
    given = {key: value for key, value in scaling.items() if value is not None}
    for name, (least, most) in YARN_BOUNDS.items():
        value = given.get(name, 1)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            words = f"{'at least 1' if least == 1 else f'above 0 (from {least})'} and up to {most:,}"
            return f"{name} in rope_scaling is {quoted(value)}; it must be a number, {words}."
    if type(given.get("truncate", True)) is not bool:
        return f"truncate in rope_scaling is {quoted(given['truncate'])}; it must be true or false."
    fast, slow = given.get("beta_fast", 32.0), given.get("beta_slow", 1.0)
    if fast <= slow:
        return f"beta_fast in rope_scaling is {fast}, which must be above beta_slow, {slow}; exchange them."
    original = given.get("original_max_position_embeddings", max_position_embeddings)
    if "factor" not in given and original >= max_position_embeddings:
        return (
            f"factor is missing in rope_scaling and does not follow from an "
            f"original_max_position_embeddings below max_position_embeddings {max_position_embeddings}; "
            f"give one, such as 4.0."
        )
    return None


def yarn_attention_factor(scaling: Mapping[str, Any], factor: float) -> float:
    """What YaRN multiplies cos and sin with: 0.1 ln(factor) + 1 unless the config states it."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)
    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return mscale(over) / mscale(under) if over and under else mscale(1.0)


def frequencies(
    head_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
    max_position_embeddings: int = 40_960,
) -> tuple[Float64Array, float]:
    """The frequencies (head_dim / 2,) in radians per token and the attention factor (1 if unscaled).

    `scaling` is a config's `rope_scaling`: None, or a mapping whose `rope_type` is "default", "linear"
    (position interpolation: all pairs slowed alike) or "yarn". Raises ValueError for any other type, and
    for what `scaling_problem` finds wrong.
    """
    scaling = scaling or {}
    problem = scaling_problem(scaling, max_position_embeddings)
    if problem:
        raise ValueError(problem)
    if scaling.get("rope_type") == "yarn":
        return yarn_frequencies(head_dim, theta, scaling, max_position_embeddings)
    keep = default_frequencies(head_dim, theta)
    return (keep / scaling["factor"] if scaling.get("rope_type") == "linear" else keep), 1.0


def cos_sin(
    positions: NDArray[Any], inv_freq: Float64Array, attention_factor: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """cos and sin of every angle; positions (...,) give two arrays (..., head_dim / 2), float64."""
    angles = np.asarray(positions, dtype=np.float64)[..., None] * inv_freq
    return np.cos(angles) * attention_factor, np.sin(angles) * attention_factor
