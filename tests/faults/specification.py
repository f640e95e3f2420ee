"""Faults of the NumPy specification: it is guarded by the same suite as the model."""

from __future__ import annotations

from tests.faults.switch import Fault

Q = 'rotate(rms_norm(heads("q_proj"), w("self_attn.q_norm"), c.rms_norm_eps), cos, sin)'
K = Q.replace("q_", "k_")
ROOT = "gain * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))"
REPEAT = "k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)"
CAUSAL = "(real[:, None, :] & (key <= query)) | (key == query)"
POSITIONS = "np.maximum(np.cumsum(real, axis=1) - 1, 0)[:, start:]"
RENORMALISE = "(weights / weights.sum(axis=-1, keepdims=True) if normalize else weights)"


def fault(name: str, rows: str, words: str, *edits: str, by: str = "logits_dense") -> Fault:
    pairs = tuple(zip(edits[::2], edits[1::2], strict=True))
    return Fault(f"numpy_{name}", rows, words, "numpy_ref", pairs, (by,))


FAULTS = [
    fault(
        "qk_norm_after_rope",
        "1",
        "q and k are normalised after the rotation",
        Q,
        'rms_norm(rotate(heads("q_proj"), cos, sin), w("self_attn.q_norm"), c.rms_norm_eps)',
        K,
        'rms_norm(rotate(heads("k_proj"), cos, sin), w("self_attn.k_norm"), c.rms_norm_eps)',
    ),
    fault(
        "qk_norm_skipped",
        "3",
        "q and k are not normalised",
        Q,
        'rotate(heads("q_proj"), cos, sin)',
        K,
        'rotate(heads("k_proj"), cos, sin)',
    ),
    fault(
        "qk_norms_swapped",
        "measured",
        "q_norm normalises k, and k_norm q",
        Q,
        Q.replace("q_norm", "k_norm"),
        K,
        K.replace("k_norm", "q_norm"),
    ),
    fault(
        "rope_applied_twice",
        "4",
        "q and k are rotated twice",
        Q,
        f"rotate({Q}, cos, sin)",
        K,
        f"rotate({K}, cos, sin)",
    ),
    fault(
        "scale_from_hidden_size",
        "6",
        "scores are divided by the root of all channels, not of one head's",
        "np.sqrt(q.shape[-1])",
        "np.sqrt(q.shape[1] * q.shape[-1])",
    ),
    fault(
        "theta_ten_thousand",
        "7",
        "theta is 10,000 whatever the config says",
        "c.head_dim, c.rope_theta,",
        "c.head_dim, 10_000.0,",
    ),
    fault(
        "kv_heads_tiled",
        "8",
        "KV heads go 0, 1, 0, 1 to the query heads",
        REPEAT,
        "k, v = np.tile(k, (1, group, 1, 1)), np.tile(v, (1, group, 1, 1))",
    ),
    fault(
        "repeats_time_for_heads",
        "9",
        "the repetition runs along time; a reshape hides it",
        REPEAT,
        "k, v = (np.repeat(a, group, axis=2).reshape(a.shape[0], -1, *a.shape[2:]) for a in (k, v))",
    ),
    fault(
        "rope_interleaved",
        "10",
        "channel 2j turns with 2j + 1",
        "first, second = np.split(x, 2, axis=-1)",
        "first, second = x[..., ::2], x[..., 1::2]",
        "return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)",
        "return np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)",
    ),
    fault(
        "head_always_tied",
        "12",
        "the embedding is the head of untied models too",
        "tied = c.tie_word_embeddings",
        "tied = True",
    ),
    fault("eps_hard_coded", "13", "eps 1e-5 whatever the config says", ROOT, ROOT.replace("eps))", "1e-5))")),
    fault(
        "eps_outside_root",
        "measured",
        "eps is added to the root, not under it",
        ROOT,
        "gain * (x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps))",
    ),
    fault("norm_ignores_gain", "measured", "RMSNorm without its gain", ROOT, ROOT.removeprefix("gain * ")),
    fault(
        "norm_adds_one_to_gain",
        "14",
        "the gain is taken for 1 + w",
        ROOT,
        f"(1 + {ROOT}".replace(" *", ") *", 1),
    ),
    fault(
        "layer_norms_swapped",
        "measured",
        "each layer norm stands in the other's place",
        'w("input_layernorm"), c.rms_norm_eps)\n\n',
        'w("post_attention_layernorm"), c.rms_norm_eps)\n\n',
        'w("post_attention_layernorm"), c.rms_norm_eps)\n        if',
        'w("input_layernorm"), c.rms_norm_eps)\n        if',
    ),
    fault(
        "final_norm_not_applied",
        "measured",
        "the head reads the last block's output as it is",
        'x = rms_norm(x, self.weights["model.norm.weight"], c.rms_norm_eps)',
        "pass",
    ),
    fault(
        "never_renormalises",
        "15",
        "norm_topk_prob is taken for False",
        RENORMALISE,
        "weights",
        by="logits_moe",
    ),
    fault(
        "always_renormalises",
        "15",
        "norm_topk_prob is taken for True",
        RENORMALISE,
        RENORMALISE.replace("if normalize", "if True"),
        by="logits_moe_unnormalised",
    ),
    fault(
        "raw_logits_as_weights",
        "16",
        "without renormalisation the logits weigh the experts",
        RENORMALISE,
        RENORMALISE.replace("else weights", "else np.take_along_axis(logits, experts, -1)"),
        by="logits_moe_unnormalised",
    ),
    fault(
        "mask_not_shifted",
        "23",
        "the causal mask of a later chunk starts at column 0 again",
        CAUSAL,
        "(real[:, None, :] & (key <= query - start)) | (key == query)",
        by="cache_chunks_3_4_2",
    ),
    fault(
        "positions_restart",
        "25",
        "each call counts its positions from 0",
        POSITIONS,
        "np.maximum(np.cumsum(real[:, start:], axis=1) - 1, 0)",
        by="cache_chunks_3_4_2",
    ),
    fault(
        "one_position_row",
        "28",
        "the first row's positions serve all rows",
        POSITIONS,
        "np.broadcast_to(np.maximum(np.cumsum(real[:1], axis=1) - 1, 0), real.shape)[:, start:]",
        by="padding_dense",
    ),
    fault(
        "padding_attended",
        "29",
        "the mask forgets which columns are padding",
        CAUSAL,
        "np.ones_like(real[:, None, :]) & (key <= query)",
        by="padding_dense",
    ),
    fault(
        "yarn_factor_of_one",
        "34",
        "the attention factor is not applied",
        "cos_sin(positions, inv_freq, factor)",
        "cos_sin(positions, inv_freq)",
        by="logits_dense_yarn",
    ),
    fault(
        "yarn_ignored",
        "35",
        "rope_scaling is not read",
        "c.head_dim, c.rope_theta, c.rope_scaling,",
        "c.head_dim, c.rope_theta, None,",
        by="logits_dense_yarn",
    ),
    fault(
        "softmax_overflows",
        "own",
        "the maximum is not taken off before exp",
        "np.exp(x - x.max(axis=-1, keepdims=True))",
        "np.exp(x)",
        by="specification_by_hand",
    ),
    fault(
        "silu_without_half",
        "own",
        "the sigmoid is written with tanh(x), not tanh(x / 2)",
        "np.tanh(0.5 * x)",
        "np.tanh(x)",
    ),
]
