"""Faults of the forward pass in PyTorch: norms and RoPE."""

from __future__ import annotations

from tests.faults.switch import Fault

QK = """\
        q = rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)
"""
MEAN_SQUARE = "wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)"
ROTATION = """\
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # the same angle for every head
    out = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
"""


def fault(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "model", ((old, new),), by or ("logits_dense",))


def rope(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "rope", ((old, new),), by or ("rope_tables_official",))


NORMS = [
    fault(
        "qk_norm_after_rope",
        "1",
        "q and k are normalised after the rotation: the gains meet the wrong channels",
        QK,
        QK.replace(
            "rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)",
            "self.q_norm(rotate(heads(self.q_proj(x)), cos, sin))",
        ).replace(
            "rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)",
            "self.k_norm(rotate(heads(self.k_proj(x)), cos, sin))",
        ),
    ),
    fault(
        "qk_norm_skipped",
        "3",
        "q and k are not normalised, as where the attribute has another name",
        QK,
        QK.replace("self.q_norm(heads(self.q_proj(x)))", "heads(self.q_proj(x))").replace(
            "self.k_norm(heads(self.k_proj(x)))", "heads(self.k_proj(x))"
        ),
    ),
    fault(
        "qk_norms_swapped",
        "measured",
        "q_norm normalises k, and k_norm q",
        QK,
        QK.replace("self.q_norm", "self.other")
        .replace("self.k_norm", "self.q_norm")
        .replace("self.other", "self.k_norm"),
    ),
    fault(
        "qk_norm_over_all_heads",
        "own",
        "one mean square for all heads of a token, as other models have it",
        ".mean(-1, keepdim=True) + self.eps",
        ".mean((1, 3) if x.dim() == 4 else -1, keepdim=True) + self.eps",
    ),
    fault(
        "layer_norms_swapped",
        "measured",
        "input_layernorm before the feed-forward and post_attention_layernorm before attention",
        """\
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)
        return x + self.mlp(self.post_attention_layernorm(x), trace)
""",
        """\
        x = x + self.self_attn(self.post_attention_layernorm(x), cos, sin, mask, cache, trace)
        return x + self.mlp(self.input_layernorm(x), trace)
""",
    ),
    fault(
        "norm_ignores_weight",
        "measured",
        "RMSNorm without its gain",
        "return self.weight * wide.to(x.dtype)",
        "return wide.to(x.dtype)",
    ),
    fault(
        "norm_adds_one_to_weight",
        "2, 14",
        "the gain is taken for Gemma's, 1 + w",
        "return self.weight * wide.to(x.dtype)",
        "return (1 + self.weight) * wide.to(x.dtype)",
    ),
    fault(
        "norm_eps_hard_coded",
        "13",
        "eps 1e-5 whatever the config says",
        MEAN_SQUARE,
        MEAN_SQUARE.replace("self.eps", "1e-5"),
    ),
    fault(
        "norm_eps_outside_root",
        "measured",
        "eps is added to the root, not under it",
        MEAN_SQUARE,
        "wide / (wide.square().mean(-1, keepdim=True).sqrt() + self.eps)",
    ),
    fault(
        "norm_subtracts_mean",
        "own",
        "LayerNorm's centring",
        MEAN_SQUARE,
        MEAN_SQUARE.replace("wide * ", "(wide - wide.mean(-1, keepdim=True)) * "),
    ),
    fault(
        "norm_in_sixteen_bits",
        "own",
        "the mean square is taken in the model's 16-bit dtype",
        "wide = at_least_float32(x)\n",
        "wide = x\n",
        "dtypes_of_norm_and_router",
    ),
    fault(
        "norm_lowers_float64",
        "own",
        "the mean square is always taken in float32",
        "wide = at_least_float32(x)\n",
        "wide = x.float()\n",
    ),
    fault(
        "final_norm_not_applied",
        "measured",
        "the head reads the last block's output as it is",
        "        x = self.model.norm(x)\n",
        "",
    ),
]
ROPE = [
    fault(
        "rope_applied_twice",
        "4",
        "q and k are rotated twice, so distances double",
        QK,
        QK.replace("rotate(", "rotate(rotate(").replace("cos, sin)", "cos, sin), cos, sin)"),
    ),
    fault(
        "rope_on_queries_only",
        "own",
        "keys are not rotated: scores depend on the query's position",
        QK,
        QK.replace(
            "rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)", "self.k_norm(heads(self.k_proj(x)))"
        ),
    ),
    fault(
        "rope_on_values_too",
        "own",
        "values are rotated as well",
        "v = heads(self.v_proj(x))",
        "v = rotate(heads(self.v_proj(x)), cos, sin)",
    ),
    fault(
        "rope_interleaved",
        "10",
        "channel 2j turns with 2j + 1, as in the paper; Qwen3's weights are for j with j + d/2",
        ROTATION,
        ROTATION.replace(
            "x.to(cos.dtype).chunk(2, dim=-1)", "x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)"
        )
        .replace("torch.cat(", "torch.stack(")
        .replace("dim=-1)\n", "dim=-1).flatten(-2)\n"),
    ),
    fault(
        "rope_half_split_with_interleaved_frequencies",
        "10",
        "rotate_half, but the table repeats each frequency in neighbours: 0, 0, 1, 1, ...",
        ROTATION,
        ROTATION.replace(
            "cos[:, None], sin[:, None]",
            "(a[:, None].repeat_interleave(2, dim=-1).chunk(2, dim=-1) for a in (cos, sin))",
        ).replace(
            "[first * cos - second * sin, second * cos + first * sin]",
            "[first * cos[0] - second * sin[0], second * cos[1] + first * sin[1]]",
        ),
    ),
    fault(
        "rope_turns_backwards",
        "own",
        "the sine has the other sign",
        "[first * cos - second * sin, second * cos + first * sin]",
        "[first * cos + second * sin, second * cos - first * sin]",
    ),
    fault(
        "rope_products_in_sixteen_bits",
        "11",
        "x * cos is formed in bfloat16",
        ROTATION,
        ROTATION.replace("x.to(cos.dtype).chunk", "x.chunk").replace(
            "cos[:, None], sin[:, None]", "cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)"
        ),
        "rope_in_sixteen_bits",
    ),
    fault(
        "rope_tables_in_sixteen_bits",
        "11",
        "cos and sin in the dtype of the model",
        "rope_tables(c, positions, at_least_float32(x).dtype)",
        "rope_tables(c, positions, x.dtype)",
        "rope_in_sixteen_bits",
    ),
    fault(
        "rope_frequencies_in_bfloat16",
        "11",
        "the frequencies go through bfloat16",
        "turns = torch.as_tensor(inv_freq, dtype=wide, device=positions.device)",
        "turns = torch.as_tensor(inv_freq, device=positions.device).bfloat16().to(wide)",
    ),
    fault(
        "rope_angles_in_float32",
        "11",
        "angles are formed in float32, also for a float64 model",
        'wide = torch.float32 if positions.device.type == "mps" else torch.float64',
        "wide = torch.float32",
    ),
    fault(
        "rope_theta_ten_thousand",
        "7",
        "theta is the class default, not the config's",
        "config.head_dim, config.rope_theta, config.rope_scaling",
        "config.head_dim, 10_000.0, config.rope_scaling",
    ),
    rope(
        "rope_exponent_halved",
        "own",
        "theta ** (-j / d) in place of (-2j / d)",
        "np.arange(0, head_dim, 2, dtype=np.float64) / head_dim",
        "np.arange(head_dim // 2, dtype=np.float64) / head_dim",
    ),
    fault(
        "yarn_scales_cosine_only",
        "34",
        "the attention factor multiplies cos but not sin",
        "(angles.sin() * factor).to(dtype)",
        "angles.sin().to(dtype)",
        "logits_dense_yarn",
    ),
    rope(
        "yarn_attention_factor_ignored",
        "34",
        "the attention factor is always 1",
        ", yarn_attention_factor(scaling, factor)",
        ", 1.0",
    ),
    rope(
        "yarn_explicit_attention_factor_ignored",
        "34",
        "the config's own attention_factor is not read",
        "if given is not None:",
        "if False:",
    ),
    rope(
        "yarn_mscale_ignored",
        "34",
        "mscale and mscale_all_dim are not read",
        "return mscale(over) / mscale(under) if over and under else mscale(1.0)",
        "return mscale(1.0)",
    ),
    rope(
        "yarn_factor_ignored",
        "35",
        "the factor is max / original length even where the config states it",
        'factor = given.get("factor", max_position_embeddings / original)',
        "factor = max_position_embeddings / original",
    ),
    rope(
        "yarn_ignored",
        "35",
        "rope_scaling is not read at all",
        'if scaling is None or kind == "default":',
        "if True:",
    ),
    rope(
        "yarn_as_linear_scaling",
        "35",
        "all frequencies are divided by the factor",
        "(1 - ramp) * keep + ramp * keep / factor",
        "keep / factor",
    ),
    rope(
        "yarn_ramp_inverted",
        "35",
        "fast pairs are stretched and slow ones kept",
        "(1 - ramp) * keep + ramp * keep / factor",
        "ramp * keep + (1 - ramp) * keep / factor",
    ),
    rope(
        "yarn_truncate_ignored",
        "35",
        "the range is always rounded to whole pairs",
        "if truncate:",
        "if True:",
    ),
    rope(
        "yarn_betas_ignored",
        "35",
        "beta_fast and beta_slow are always 32 and 1",
        'given.get("beta_fast", 32.0),\n        given.get("beta_slow", 1.0),',
        "32.0,\n        1.0,",
    ),
]
FAULTS = [*NORMS, *ROPE]
