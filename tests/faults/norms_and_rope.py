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


NORMS = [
    Fault(
        name="qk_norm_after_rope",
        rows="1",
        words="q and k are normalised after the rotation: the gains meet the wrong channels",
        module="model",
        right=QK,
        wrong=QK.replace(
            "rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)",
            "self.q_norm(rotate(heads(self.q_proj(x)), cos, sin))",
        ).replace(
            "rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)",
            "self.k_norm(rotate(heads(self.k_proj(x)), cos, sin))",
        ),
        by=("logits_dense",),
    ),
    Fault(
        name="qk_norm_skipped",
        rows="3",
        words="q and k are not normalised, as where the attribute has another name",
        module="model",
        right=QK,
        wrong=QK.replace("self.q_norm(heads(self.q_proj(x)))", "heads(self.q_proj(x))").replace(
            "self.k_norm(heads(self.k_proj(x)))", "heads(self.k_proj(x))"
        ),
        by=("logits_dense",),
    ),
    Fault(
        name="qk_norms_swapped",
        rows="measured",
        words="q_norm normalises k, and k_norm q",
        module="model",
        right=QK,
        wrong=QK.replace("self.q_norm", "self.other")
        .replace("self.k_norm", "self.q_norm")
        .replace("self.other", "self.k_norm"),
        by=("logits_dense",),
    ),
    Fault(
        name="qk_norm_over_all_heads",
        rows="own",
        words="one mean square for all heads of a token, as other models have it",
        module="model",
        right=".mean(-1, keepdim=True) + self.eps",
        wrong=".mean((1, 3) if x.dim() == 4 else -1, keepdim=True) + self.eps",
        by=("logits_dense",),
    ),
    Fault(
        name="layer_norms_swapped",
        rows="measured",
        words="input_layernorm before the feed-forward and post_attention_layernorm before attention",
        module="model",
        right="""\
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)
        return x + self.mlp(self.post_attention_layernorm(x), trace)
""",
        wrong="""\
        x = x + self.self_attn(self.post_attention_layernorm(x), cos, sin, mask, cache, trace)
        return x + self.mlp(self.input_layernorm(x), trace)
""",
        by=("logits_dense",),
    ),
    Fault(
        name="norm_ignores_weight",
        rows="measured",
        words="RMSNorm without its gain",
        module="model",
        right="return self.weight * wide.to(x.dtype)",
        wrong="return wide.to(x.dtype)",
        by=("logits_dense",),
    ),
    Fault(
        name="norm_adds_one_to_weight",
        rows="2, 14",
        words="the gain is taken for Gemma's, 1 + w",
        module="model",
        right="return self.weight * wide.to(x.dtype)",
        wrong="return (1 + self.weight) * wide.to(x.dtype)",
        by=("logits_dense",),
    ),
    Fault(
        name="norm_eps_hard_coded",
        rows="13",
        words="eps 1e-5 whatever the config says",
        module="model",
        right=MEAN_SQUARE,
        wrong=MEAN_SQUARE.replace("self.eps", "1e-5"),
        by=("logits_dense",),
    ),
    Fault(
        name="norm_eps_outside_root",
        rows="measured",
        words="eps is added to the root, not under it",
        module="model",
        right=MEAN_SQUARE,
        wrong="wide / (wide.square().mean(-1, keepdim=True).sqrt() + self.eps)",
        by=("logits_dense",),
    ),
    Fault(
        name="norm_subtracts_mean",
        rows="own",
        words="LayerNorm's centring",
        module="model",
        right=MEAN_SQUARE,
        wrong=MEAN_SQUARE.replace("wide * ", "(wide - wide.mean(-1, keepdim=True)) * "),
        by=("logits_dense",),
    ),
    Fault(
        name="norm_in_sixteen_bits",
        rows="own",
        words="the mean square is taken in the model's 16-bit dtype",
        module="model",
        right="wide = at_least_float32(x)\n",
        wrong="wide = x\n",
        by=("dtypes_of_norm_and_router",),
    ),
    Fault(
        name="norm_lowers_float64",
        rows="own",
        words="the mean square is always taken in float32",
        module="model",
        right="wide = at_least_float32(x)\n",
        wrong="wide = x.float()\n",
        by=("logits_dense",),
    ),
    Fault(
        name="final_norm_not_applied",
        rows="measured",
        words="the head reads the last block's output as it is",
        module="model",
        right="        x = self.norm(x)\n",
        wrong="",
        by=("logits_dense",),
    ),
]
ROPE = [
    Fault(
        name="rope_applied_twice",
        rows="4",
        words="q and k are rotated twice, so distances double",
        module="model",
        right=QK,
        wrong=QK.replace("rotate(", "rotate(rotate(").replace("cos, sin)", "cos, sin), cos, sin)"),
        by=("logits_dense",),
    ),
    Fault(
        name="rope_on_queries_only",
        rows="own",
        words="keys are not rotated: scores depend on the query's position",
        module="model",
        right=QK,
        wrong=QK.replace(
            "rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)", "self.k_norm(heads(self.k_proj(x)))"
        ),
        by=("logits_dense",),
    ),
    Fault(
        name="rope_on_values_too",
        rows="own",
        words="values are rotated as well",
        module="model",
        right="v = heads(self.v_proj(x))",
        wrong="v = rotate(heads(self.v_proj(x)), cos, sin)",
        by=("logits_dense",),
    ),
    Fault(
        name="rope_interleaved",
        rows="10",
        words="channel 2j turns with 2j + 1, as in the paper; Qwen3's weights are for j with j + d/2",
        module="model",
        right=ROTATION,
        wrong=ROTATION.replace(
            "x.to(cos.dtype).chunk(2, dim=-1)", "x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)"
        )
        .replace("torch.cat(", "torch.stack(")
        .replace("dim=-1)\n", "dim=-1).flatten(-2)\n"),
        by=("logits_dense",),
    ),
    Fault(
        name="rope_half_split_with_interleaved_frequencies",
        rows="10",
        words="rotate_half, but the table repeats each frequency in neighbours: 0, 0, 1, 1, ...",
        module="model",
        right=ROTATION,
        wrong=ROTATION.replace(
            "cos[:, None], sin[:, None]",
            "(a[:, None].repeat_interleave(2, dim=-1).chunk(2, dim=-1) for a in (cos, sin))",
        ).replace(
            "[first * cos - second * sin, second * cos + first * sin]",
            "[first * cos[0] - second * sin[0], second * cos[1] + first * sin[1]]",
        ),
        by=("logits_dense",),
    ),
    Fault(
        name="rope_turns_backwards",
        rows="own",
        words="the sine has the other sign",
        module="model",
        right="[first * cos - second * sin, second * cos + first * sin]",
        wrong="[first * cos + second * sin, second * cos - first * sin]",
        by=("logits_dense",),
    ),
    Fault(
        name="rope_products_in_sixteen_bits",
        rows="11",
        words="x * cos is formed in bfloat16",
        module="model",
        right=ROTATION,
        wrong=ROTATION.replace("x.to(cos.dtype).chunk", "x.chunk").replace(
            "cos[:, None], sin[:, None]", "cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)"
        ),
        by=("rope_in_sixteen_bits",),
    ),
    Fault(
        name="rope_tables_in_sixteen_bits",
        rows="11",
        words="cos and sin in the dtype of the model",
        module="model",
        right="self.rope_factor, at_least_float32(x).dtype, self.axes)",
        wrong="self.rope_factor, x.dtype, self.axes)",
        by=("rope_in_sixteen_bits",),
    ),
    Fault(
        name="rope_frequencies_in_bfloat16",
        rows="11",
        words="the frequencies go through bfloat16",
        module="model",
        right="turns = torch.as_tensor(inv_freq, dtype=wide, device=positions.device)",
        wrong="turns = torch.as_tensor(inv_freq, device=positions.device).bfloat16().to(wide)",
        by=("logits_dense",),
    ),
    Fault(
        name="rope_angles_in_float32",
        rows="11",
        words="angles are formed in float32, also for a float64 model",
        module="model",
        right='wide = torch.float32 if positions.device.type == "mps" else torch.float64',
        wrong="wide = torch.float32",
        by=("logits_dense",),
    ),
    Fault(
        name="rope_theta_ten_thousand",
        rows="7",
        words="theta is the class default, not the config's",
        module="model",
        right="config.head_dim, config.rope_theta, config.rope_scaling",
        wrong="config.head_dim, 10_000.0, config.rope_scaling",
        by=("logits_dense",),
    ),
    Fault(
        name="rope_exponent_halved",
        rows="own",
        words="theta ** (-j / d) in place of (-2j / d)",
        module="rope",
        right="np.arange(0, head_dim, 2, dtype=np.float64) / head_dim",
        wrong="np.arange(head_dim // 2, dtype=np.float64) / head_dim",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_scales_cosine_only",
        rows="34",
        words="the attention factor multiplies cos but not sin",
        module="model",
        right="(angles.sin() * factor).to(dtype)",
        wrong="angles.sin().to(dtype)",
        by=("logits_dense_yarn",),
    ),
    Fault(
        name="yarn_attention_factor_ignored",
        rows="34",
        words="the attention factor is always 1",
        module="rope",
        right=", yarn_attention_factor(scaling, factor)",
        wrong=", 1.0",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_explicit_attention_factor_ignored",
        rows="34",
        words="the config's own attention_factor is not read",
        module="rope",
        right="if given is not None:",
        wrong="if False:",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_mscale_ignored",
        rows="34",
        words="mscale and mscale_all_dim are not read",
        module="rope",
        right="return mscale(over) / mscale(under) if over and under else mscale(1.0)",
        wrong="return mscale(1.0)",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_factor_ignored",
        rows="35",
        words="the factor is max / original length even where the config states it",
        module="rope",
        right='factor = given.get("factor", max_position_embeddings / original)',
        wrong="factor = max_position_embeddings / original",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_ignored",
        rows="35",
        words="rope_scaling is not read at all",
        module="rope",
        right='if kind == "yarn":\n        return yarn_frequencies',
        wrong="if False:\n        return yarn_frequencies",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_as_linear_scaling",
        rows="35",
        words="all frequencies are divided by the factor",
        module="rope",
        right="(1 - ramp) * keep + ramp * keep / factor",
        wrong="keep / factor",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_ramp_inverted",
        rows="35",
        words="fast pairs are stretched and slow ones kept",
        module="rope",
        right="(1 - ramp) * keep + ramp * keep / factor",
        wrong="ramp * keep + (1 - ramp) * keep / factor",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_truncate_ignored",
        rows="35",
        words="the range is always rounded to whole pairs",
        module="rope",
        right="if truncate:",
        wrong="if True:",
        by=("rope_tables_official",),
    ),
    Fault(
        name="yarn_betas_ignored",
        rows="35",
        words="beta_fast and beta_slow are always 32 and 1",
        module="rope",
        right='given.get("beta_fast", 32.0),\n        given.get("beta_slow", 1.0),',
        wrong="32.0,\n        1.0,",
        by=("rope_tables_official",),
    ),
]
FAULTS = [*NORMS, *ROPE]
