"""A config that reads farther than its weights were trained to, by one of the known methods.

Nothing but a few numbers of the config changes, and all of them are spelled so that transformers reads
them too. Sources: as `qwen3_ref.rope`, and the model cards of Qwen3 for YaRN's factor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

from qwen3_ref.arrays import require_whole
from qwen3_ref.config import Qwen3Config
from qwen3_ref.rope import AXES, ntk_theta
from qwen3_ref.store.errors import quoted

Method = Literal["plain", "linear", "ntk", "by-parts", "yarn", "dynamic", "dual-chunk"]


def stretched(
    config: Qwen3Config,
    method: Method,
    factor: float,
    original: int | None = None,
    *,
    scaled: bool = True,
) -> Qwen3Config:
    """The config with a context of `factor` times the `original` length (its max_position_embeddings, if
    absent: for Qwen3 say 32,768, since theirs is 40,960).

    plain: room, and nothing else. linear: position interpolation. ntk: NTK-aware, another rope_theta.
    by-parts: the YaRN paper's ramp, without its attention factor. yarn: as the official model cards write it.
    dynamic: NTK-aware of each text's own length; `factor` is the slope of `rope.dynamic_factor`.
    dual-chunk: Dual Chunk Attention with the official proportions, chunk_size `original` and local_size a
    32nd of it. scaled: whether the logits of the last two methods with a scale, yarn and dual-chunk, get it.

    What the config said of this before is replaced; which pair turns by which axis (M-RoPE) stays.
    Raises ConfigError for a factor below 1, ValueError for another method or length.
    """
    if method not in get_args(Method):
        raise ValueError(f"method is {quoted(method)}; it must be one of {', '.join(get_args(Method))}.")
    length = config.max_position_embeddings if original is None else require_whole("original", original, 1)
    axes = {name: value for name, value in (config.rope_scaling or {}).items() if name in AXES}
    kept_axes = {"rope_type": "default"} | axes if axes else None
    config = replace(
        config, max_position_embeddings=length, rope_scaling=kept_axes, dual_chunk_attention_config=None
    )
    if method in ("plain", "ntk", "dual-chunk"):
        theta = ntk_theta(config.head_dim, config.rope_theta, factor)  # judges the factor of all three
        room = int(length * factor)
        if method == "dual-chunk":
            chunks = {"chunk_size": length, "local_size": max(1, length // 32)}
            if scaled:
                chunks |= {"original_max_position_embeddings": length, "scale_length": room}
            return replace(config, max_position_embeddings=room, dual_chunk_attention_config=chunks)
        kept = config.rope_theta if method == "plain" else theta
        return replace(config, rope_theta=kept, max_position_embeddings=room)
    scaling: dict[str, Any] = {"rope_type": method, "factor": factor}
    if method in ("by-parts", "yarn"):
        scaling["original_max_position_embeddings"] = length
    if method == "by-parts":
        scaling |= {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 32.0}
    if method == "yarn" and not scaled:
        scaling["attention_factor"] = 1.0
    return replace(config, rope_scaling=scaling | axes)


def for_length(config: Qwen3Config, length: int, original: int) -> Qwen3Config:
    """The config for texts of up to `length` tokens, by YaRN with the smallest factor that makes room; as it
    was trained where `original` tokens are enough.

    YaRN in a config is static: it turns short texts otherwise too, and what it does to them grows with the
    factor, so one factor for all lengths is not free. The model cards say the same: 2 for texts of about
    65,536 tokens, 4 for 131,072. Raises ValueError for lengths that are no whole numbers from 1.
    """
    length, original = require_whole("length", length, 1), require_whole("original", original, 1)
    if length <= original:
        return stretched(config, "plain", 1, original)
    return stretched(config, "yarn", length / original, original)
