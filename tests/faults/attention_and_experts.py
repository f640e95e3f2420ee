"""Faults of the forward pass in PyTorch: attention, head, experts."""

from __future__ import annotations

from tests.faults.switch import Fault

FUSED = "q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]"
REPEAT = "k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)"
HEAD = "head = self.model.embed_tokens if c.tie_word_embeddings else self.lm_head"
RENORMALISE = """\
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
"""
CHOICE = """\
    probabilities = at_least_float32(logits).softmax(dim=-1)
    weights, experts = probabilities.topk(top_k, dim=-1)
"""


def fault(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "model", ((old, new),), by or ("logits_dense",))


def moe(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "moe", ((old, new),), by or ("logits_moe",))


ATTENTION = [
    fault(
        "scale_from_hidden_over_heads",
        "6",
        "scores are divided by sqrt(hidden / heads)",
        FUSED,
        FUSED + ", scale=(x.shape[-1] / q.shape[1]) ** -0.5",
    ),
    fault(
        "scale_from_hidden_size",
        "6",
        "scores are divided by sqrt(hidden_size)",
        FUSED,
        FUSED + ", scale=x.shape[-1] ** -0.5",
    ),
    fault("scale_missing", "6", "scores are not divided", FUSED, FUSED + ", scale=1.0"),
    fault(
        "eager_scale_missing",
        "6",
        "scores are not divided, on the path that returns weights",
        " * q.shape[-1] ** -0.5",
        "",
        "eager_equals_fused",
    ),
    fault(
        "kv_heads_tiled",
        "8",
        "KV heads go 0, 1, 0, 1 to the query heads, not 0, 0, 1, 1",
        FUSED,
        "q, k.repeat(1, q.shape[1] // k.shape[1], 1, 1), v.repeat(1, q.shape[1] // v.shape[1], 1, 1), "
        "attn_mask=mask, is_causal=causal",
    ),
    fault(
        "eager_kv_heads_tiled",
        "8",
        "the same on the path that returns weights",
        REPEAT,
        "k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)",
        "eager_equals_fused",
    ),
    fault(
        "eager_repeats_time_for_heads",
        "9",
        "the repetition runs along time; a reshape hides it",
        REPEAT,
        "k, v = (a.repeat_interleave(group, dim=2).reshape(a.shape[0], -1, *a.shape[2:]) for a in (k, v))",
        "eager_equals_fused",
    ),
    fault(
        "heads_split_without_transpose",
        "9",
        "(b, t, h d) is viewed as (b, h, t, d) at once",
        "projected.view(b, t, -1, self.head_dim).transpose(1, 2)",
        "projected.view(b, -1, t, self.head_dim)",
    ),
    fault(
        "heads_joined_without_transpose",
        "9",
        "(b, h, t, d) is reshaped to (b, t, h d) at once",
        "out.transpose(1, 2).reshape(b, t, -1)",
        "out.reshape(b, t, -1)",
    ),
    fault(
        "causal_mask_missing",
        "24",
        "every token sees the whole prompt",
        "causal = mask is None and t > 1",
        "causal = False",
    ),
    fault(
        "softmax_over_queries",
        "own",
        "the eager softmax runs along the wrong axis",
        'float("-inf")).softmax(dim=-1)',
        'float("-inf")).softmax(dim=-2)',
        "eager_equals_fused",
    ),
    fault(
        "residual_missing",
        "own",
        "attention's output replaces the stream",
        "x = x + self.self_attn(",
        "x = self.self_attn(",
    ),
    fault(
        "parallel_block",
        "own",
        "feed-forward reads the block's input, as in GPT-J",
        "x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)\n        return x",
        "y = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)\n        return y",
    ),
    fault(
        "gelu_for_silu",
        "own",
        "the gate's activation is GELU",
        "F.silu(self.gate_proj(x))",
        "F.gelu(self.gate_proj(x))",
    ),
    fault(
        "gate_and_up_exchanged",
        "own",
        "the activation is on the up projection",
        "F.silu(self.gate_proj(x)) * self.up_proj(x)",
        "F.silu(self.up_proj(x)) * self.gate_proj(x)",
    ),
]
HEADS = [
    fault(
        "head_always_tied",
        "12",
        "the embedding is the head of untied models too",
        HEAD,
        "head = self.model.embed_tokens",
    ),
    fault(
        "head_tie_flag_reversed",
        "12",
        "tied where the config says untied",
        HEAD,
        HEAD.replace("if c", "if not c"),
    ),
    fault(
        "head_of_tied_model_random",
        "12, measured",
        "a tied model has a head of its own that nobody loaded",
        HEAD,
        HEAD.replace("self.model.embed_tokens if", "nn.Linear(c.hidden_size, c.vocab_size) if"),
        "logits_dense_tied",
    ),
]
EXPERTS = [
    moe(
        "router_never_renormalises",
        "15",
        "norm_topk_prob is taken for False",
        "    if normalize:\n",
        "    if False:\n",
    ),
    moe(
        "router_always_renormalises",
        "15",
        "norm_topk_prob is taken for True",
        "    if normalize:\n",
        "    if True:\n",
        "logits_moe_unnormalised",
    ),
    moe(
        "router_raw_logits_as_weights",
        "16",
        "without renormalisation the logits weigh the experts",
        RENORMALISE,
        RENORMALISE + "    else:\n        weights = at_least_float32(logits).gather(-1, experts)\n",
        "logits_moe_unnormalised",
    ),
    moe(
        "router_softmax_in_bfloat16",
        "17",
        "probabilities are rounded to bfloat16",
        CHOICE,
        CHOICE.replace("at_least_float32(logits)", "logits.bfloat16()"),
    ),
    moe(
        "router_chooses_in_bfloat16",
        "17",
        "only the choice is made in bfloat16: near-ties go astray",
        CHOICE,
        CHOICE.replace(
            "weights, experts = probabilities.topk(top_k, dim=-1)",
            "experts = probabilities.bfloat16().topk(top_k, dim=-1).indices\n"
            "    weights = probabilities.gather(-1, experts)",
        ),
        "dtypes_of_norm_and_router",
    ),
    moe(
        "router_softmax_in_model_dtype",
        "17",
        "the softmax of a 16-bit model runs in 16 bits",
        CHOICE,
        CHOICE.replace("at_least_float32(logits)", "logits"),
        "dtypes_of_norm_and_router",
    ),
    moe(
        "top_k_then_softmax",
        "measured",
        "softmax over the chosen logits: right only where renormalised",
        CHOICE + RENORMALISE,
        "    weights, experts = at_least_float32(logits).topk(top_k, dim=-1)\n"
        "    weights = weights.softmax(dim=-1)\n",
        "logits_moe_unnormalised",
    ),
    moe(
        "router_sigmoid",
        "own",
        "sigmoid scores, as other models have them",
        CHOICE,
        CHOICE.replace("softmax(dim=-1)", "sigmoid()"),
    ),
    moe("expert_weights_not_applied", "own", "experts' outputs are added unweighted", " * share[block]", ""),
    moe(
        "experts_overwrite_each_other",
        "own",
        "the last expert of a token wins; they should add up",
        "y = y.index_add(0,",
        "y = y.index_copy(0,",
    ),
    moe(
        "expert_gate_and_up_exchanged",
        "22",
        "the activation is on the up half of the packed rows",
        "F.silu(gate) * up",
        "F.silu(up) * gate",
    ),
    moe(
        "expert_halves_interleaved",
        "22",
        "gate and up rows of the packed tensor are read in turn",
        "gate, up = F.linear(x[token[block]], gate_up[e]).chunk(2, dim=-1)",
        "gate, up = F.linear(x[token[block]], gate_up[e]).unflatten(-1, (-1, 2)).unbind(-1)",
    ),
    moe(
        "dispatch_sends_other_tokens",
        "own",
        "a pick's token is found by remainder, not by division",
        "token = order // experts.shape[1]",
        "token = order % x.shape[0]",
    ),
]
FAULTS = [*ATTENTION, *HEADS, *EXPERTS]
