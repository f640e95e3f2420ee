"""Rotary position embedding (RoPE): the angles, and nothing else.

Pure functions of numbers in NumPy; `numpy_ref.py` and `model.py` both rotate with these frequencies.

Sources: RoFormer (arXiv 2104.09864) for RoPE; Qwen3 technical report (arXiv 2505.09388) section 3.2
for theta = 1,000,000 (ABF); position interpolation (arXiv 2306.15595), NTK-aware scaling, dynamic and by
parts (as the YaRN paper states them), YaRN (arXiv 2309.00071) and transformers' `modeling_rope_utils` for
the scaled ones. The paper's ramp is linear in the turns of a pair, that of every implementation, Qwen3's
included, in the pair's index: the first is rope_type "llama3" with low_freq_factor 1 and high_freq_factor
32, the second "yarn".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.store.errors import quoted

Float64Array = NDArray[np.float64]
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
BOUNDS = YARN_BOUNDS | dict.fromkeys(("low_freq_factor", "high_freq_factor"), (1e-6, 10**6))
"""The same of every number in a `rope_scaling`."""
BY_PARTS = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": BY_PARTS,
    "yarn": (*YARN_BOUNDS, "truncate"),
}
"""What a `rope_scaling` of each type may say besides its type; all of it must be said but for YaRN's."""
AXES = ("mrope_section", "mrope_interleaved")
"""What it may say beside any of them, which slows no pair: whose position a pair turns by (`mrope.py`)."""


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


def dynamic_factor(factor: float, length: int, original: int) -> float:
    """How far dynamic NTK stretches a text of `length` tokens: `factor` is no stretch but a slope. With 1
    it is length / original, with 4 a text four times as long is stretched 13 times."""
    return factor * max(length, original) / original - (factor - 1)


def by_parts_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> Float64Array:
    """NTK by parts as the YaRN paper prints it (section 3.2), which is rope_type "llama3": a pair that
    makes `high_freq_factor` turns within the original length keeps its frequency (head_dim / 2,), one that
    makes `low_freq_factor` or fewer is slowed by the full factor, and between them the blend is linear in
    the *turns*, where `yarn_frequencies` is linear in the pair's index."""
    keep = default_frequencies(head_dim, theta)
    turns = scaling["original_max_position_embeddings"] * keep / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * keep + (1 - kept) * keep / scaling["factor"]


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
    original = given["original_max_position_embeddings"]
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


def rope_type(scaling: Mapping[str, Any]) -> str:
    """The type of a `rope_scaling`, in the new spelling ("rope_type") or the old ("type")."""
    kind = scaling.get("rope_type", scaling.get("type"))
    return "default" if kind is None else kind


def scaling_problem(scaling: Mapping[str, Any], max_position_embeddings: int) -> str | None:
    """Why no frequencies follow from a `rope_scaling`, in one sentence, or None. Null is absent."""
    kind = rope_type(scaling)
    if not isinstance(kind, str) or kind not in SETTINGS:
        known = ", ".join(map(repr, list(SETTINGS)[1:]))
        return f"rope_type {quoted(kind)} in rope_scaling is not supported; use one of {known}, or none."
    given = {key: value for key, value in scaling.items() if value is not None}
    for name in given:
        if name not in ("rope_type", "type", "rope_theta", *AXES, *SETTINGS[kind]):
            others = [repr(other) for other, names in SETTINGS.items() if name in names]
            hint = f", or use {' or '.join(others)}" if others else ""
            return f"{name} in rope_scaling does nothing with rope_type {kind!r}; remove it{hint}."
    if kind == "yarn":
        return yarn_problem(scaling, max_position_embeddings)
    for name in SETTINGS[kind]:
        if name not in given:
            return (
                f"{name} is missing in rope_scaling, and {kind!r} needs {', '.join(SETTINGS[kind])}; give "
                f"all of them, or use 'yarn'."
            )
    if problem := _wrong_number(given, SETTINGS[kind]):
        return problem
    if kind == "llama3" and given["high_freq_factor"] <= given["low_freq_factor"]:
        return (
            f"high_freq_factor in rope_scaling is {given['high_freq_factor']}, which must be above "
            f"low_freq_factor, {given['low_freq_factor']}; exchange them."
        )
    return None


def _wrong_number(given: Mapping[str, Any], names: Iterable[str]) -> str | None:
    for name in names:
        (least, most), value = BOUNDS[name], given.get(name, 1)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            words = f"{'at least 1' if least == 1 else f'above 0 (from {least})'} and up to {most:,}"
            return f"{name} in rope_scaling is {quoted(value)}; it must be a number, {words}."
    return None


def yarn_problem(scaling: Mapping[str, Any], max_position_embeddings: int) -> str | None:
    """Why YaRN cannot be computed from a `rope_scaling`, in one sentence, or None. Null is absent."""
    given = {key: value for key, value in scaling.items() if value is not None}
    if problem := _wrong_number(given, YARN_BOUNDS):
        return problem
    if type(given.get("truncate", True)) is not bool:
        return f"truncate in rope_scaling is {quoted(given['truncate'])}; it must be true or false."
    fast, slow = given.get("beta_fast", 32.0), given.get("beta_slow", 1.0)
    if fast <= slow:
        return f"beta_fast in rope_scaling is {fast}, which must be above beta_slow, {slow}; exchange them."
    if "original_max_position_embeddings" not in given:  # transformers would take max_position_embeddings
        return (
            f"original_max_position_embeddings is missing in rope_scaling, and max_position_embeddings "
            f"{max_position_embeddings:,} need not be the length that was trained; give that, which is "
            f"32768 for Qwen3."
        )
    original = given["original_max_position_embeddings"]
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
    length: int | None = None,
) -> tuple[Float64Array, float]:
    """The frequencies (head_dim / 2,) in radians per token and the attention factor (1 but for YaRN).

    `scaling` is a config's `rope_scaling`: None, or a mapping whose `rope_type` is "default", "linear"
    (position interpolation: all pairs slowed alike), "dynamic" (NTK-aware, of the `length` that the text
    has, beyond max_position_embeddings), "llama3" (NTK by parts) or "yarn". NTK-aware scaling of a fixed
    factor is no type of its own but another `theta`: `ntk_theta`.
    Raises ValueError for any other type, and for what `scaling_problem` finds wrong.
    """
    scaling = scaling or {}
    problem = scaling_problem(scaling, max_position_embeddings)
    if problem:
        raise ValueError(problem)
    kind = rope_type(scaling)
    if kind == "yarn":
        return yarn_frequencies(head_dim, theta, scaling, max_position_embeddings)
    if kind == "llama3":
        return by_parts_frequencies(head_dim, theta, scaling), 1.0
    if kind == "dynamic":
        longest = max_position_embeddings if length is None else length
        stretch = dynamic_factor(scaling["factor"], longest, max_position_embeddings)
        return default_frequencies(head_dim, ntk_theta(head_dim, theta, stretch)), 1.0
    keep = default_frequencies(head_dim, theta)
    return (keep / scaling["factor"] if kind == "linear" else keep), 1.0


def cos_sin(
    positions: NDArray[Any], inv_freq: Float64Array, attention_factor: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """cos and sin of every angle; positions (...,) give two arrays (..., head_dim / 2), float64."""
    angles = np.asarray(positions, dtype=np.float64)[..., None] * inv_freq
    return np.cos(angles) * attention_factor, np.sin(angles) * attention_factor
