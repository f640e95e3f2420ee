"""Faults of the forward pass in PyTorch: attention, head, experts."""

from __future__ import annotations

from tests.faults.switch import Fault

FUSED = "q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]"
ATTEND = "out = self.attend(q, k, v, mask)"
REPEAT = "k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)"
HEAD = """\
        if self.config.tie_word_embeddings and not hasattr(self, "lm_head"):
            return F.linear(x, self.model.embed_tokens.weight)
"""
RENORMALISE = """\
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
"""
CHOICE = """\
    probabilities = at_least_float32(logits).softmax(dim=-1)
    experts = best(probabilities, top_k)
    weights = probabilities.gather(-1, experts)
"""


ATTENTION = [
    Fault(
        name="scale_from_hidden_over_heads",
        rows="6",
        words="scores are divided by sqrt(hidden / heads)",
        module="model",
        right=ATTEND,
        wrong=ATTEND.replace("(q,", "(q * (self.head_dim * q.shape[1] / x.shape[-1]) ** 0.5,"),
        by=("logits_dense",),
    ),
    Fault(
        name="scale_from_hidden_size",
        rows="6",
        words="scores are divided by sqrt(hidden_size)",
        module="model",
        right=ATTEND,
        wrong=ATTEND.replace("(q,", "(q * (self.head_dim / x.shape[-1]) ** 0.5,"),
        by=("logits_dense",),
    ),
    Fault(
        name="scale_missing",
        rows="6",
        words="scores are not divided",
        module="model",
        right=FUSED,
        wrong=FUSED + ", scale=1.0",
        by=("logits_dense",),
    ),
    Fault(
        name="eager_scale_missing",
        rows="6",
        words="scores are not divided, on the path that returns weights",
        module="model",
        right=" * q.shape[-1] ** -0.5",
        wrong="",
        by=("eager_equals_fused",),
    ),
    Fault(
        name="kv_heads_tiled",
        rows="8",
        words="KV heads go 0, 1, 0, 1 to the query heads, not 0, 0, 1, 1",
        module="model",
        right=FUSED,
        wrong=(
            "q, k.repeat(1, q.shape[1] // k.shape[1], 1, 1), v.repeat(1, q.shape[1] // v.shape[1], 1, 1), "
            "attn_mask=mask, is_causal=causal"
        ),
        by=("logits_dense",),
    ),
    Fault(
        name="eager_kv_heads_tiled",
        rows="8",
        words="the same on the path that returns weights",
        module="model",
        right=REPEAT,
        wrong="k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)",
        by=("eager_equals_fused",),
    ),
    Fault(
        name="eager_repeats_time_for_heads",
        rows="9",
        words="the repetition runs along time; a reshape hides it",
        module="model",
        right=REPEAT,
        wrong="k, v = (a.repeat_interleave(group, dim=2).reshape(a.shape[0], -1, *a.shape[2:]) for a in (k, v))",
        by=("eager_equals_fused",),
    ),
    Fault(
        name="heads_split_without_transpose",
        rows="9",
        words="(b, t, h d) is viewed as (b, h, t, d) at once",
        module="model",
        right="projected.view(b, t, -1, self.head_dim).transpose(1, 2)",
        wrong="projected.view(b, -1, t, self.head_dim)",
        by=("logits_dense",),
    ),
    Fault(
        name="heads_joined_without_transpose",
        rows="9",
        words="(b, h, t, d) is reshaped to (b, t, h d) at once",
        module="model",
        right="out.transpose(1, 2).reshape(b, t, -1)",
        wrong="out.reshape(b, t, -1)",
        by=("logits_dense",),
    ),
    Fault(
        name="causal_mask_missing",
        rows="24",
        words="every token sees the whole prompt",
        module="model",
        right="causal = mask is None and q.shape[2] > 1",
        wrong="causal = False",
        by=("logits_dense",),
    ),
    Fault(
        name="softmax_over_queries",
        rows="own",
        words="the eager softmax runs along the wrong axis",
        module="model",
        right='float("-inf")).softmax(dim=-1)',
        wrong='float("-inf")).softmax(dim=-2)',
        by=("eager_equals_fused",),
    ),
    Fault(
        name="residual_missing",
        rows="own",
        words="attention's output replaces the stream",
        module="model",
        right="x = x + self.self_attn(",
        wrong="x = self.self_attn(",
        by=("logits_dense",),
    ),
    Fault(
        name="parallel_block",
        rows="own",
        words="feed-forward reads the block's input, as in GPT-J",
        module="model",
        right="x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)\n        return x",
        wrong="y = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)\n        return y",
        by=("logits_dense",),
    ),
    Fault(
        name="gelu_for_silu",
        rows="own",
        words="the gate's activation is GELU",
        module="model",
        right="F.silu(self.gate_proj(x))",
        wrong="F.gelu(self.gate_proj(x))",
        by=("logits_dense",),
    ),
    Fault(
        name="gate_and_up_exchanged",
        rows="own",
        words="the activation is on the up projection",
        module="model",
        right="F.silu(self.gate_proj(x)) * self.up_proj(x)",
        wrong="F.silu(self.up_proj(x)) * self.gate_proj(x)",
        by=("logits_dense",),
    ),
]
HEADS = [
    Fault(
        name="head_always_tied",
        rows="12",
        words="the embedding is the head of untied models too",
        module="model",
        right=HEAD,
        wrong=HEAD.replace("if self.config.tie_word_embeddings and not hasattr(self, \"lm_head\")", "if True"),
        by=("logits_dense",),
    ),
    Fault(
        name="head_tie_flag_reversed",
        rows="12",
        words="tied where the config says untied",
        module="model",
        right=HEAD,
        wrong=HEAD.replace("if self", "if not self").replace(" and not hasattr(self, \"lm_head\")", ""),
        by=("logits_dense",),
    ),
    Fault(
        name="head_of_tied_model_random",
        rows="12, measured",
        words="a tied model has a head of its own that nobody loaded",
        module="model",
        right=HEAD,
        wrong=HEAD.replace("self.model.embed_tokens", "nn.Linear(x.shape[-1], self.config.vocab_size)"),
        by=("logits_dense_tied",),
    ),
]
EXPERTS = [
    Fault(
        name="router_never_renormalises",
        rows="15",
        words="norm_topk_prob is taken for False",
        module="moe",
        right="    if normalize:\n",
        wrong="    if False:\n",
        by=("logits_moe",),
    ),
    Fault(
        name="router_always_renormalises",
        rows="15",
        words="norm_topk_prob is taken for True",
        module="moe",
        right="    if normalize:\n",
        wrong="    if True:\n",
        by=("logits_moe_unnormalised",),
    ),
    Fault(
        name="router_raw_logits_as_weights",
        rows="16",
        words="without renormalisation the logits weigh the experts",
        module="moe",
        right=RENORMALISE,
        wrong=RENORMALISE + "    else:\n        weights = at_least_float32(logits).gather(-1, experts)\n",
        by=("logits_moe_unnormalised",),
    ),
    Fault(
        name="router_softmax_in_bfloat16",
        rows="17",
        words="probabilities are rounded to bfloat16",
        module="moe",
        right=CHOICE,
        wrong=CHOICE.replace("at_least_float32(logits)", "logits.bfloat16()"),
        by=("logits_moe",),
    ),
    Fault(
        name="router_chooses_in_bfloat16",
        rows="17",
        words="only the choice is made in bfloat16: near-ties go astray",
        module="moe",
        right=CHOICE,
        wrong=CHOICE.replace("best(probabilities, top_k)", "best(probabilities.bfloat16(), top_k)"),
        by=("dtypes_of_norm_and_router",),
    ),
    Fault(
        name="router_softmax_in_model_dtype",
        rows="17",
        words="the softmax of a 16-bit model runs in 16 bits",
        module="moe",
        right=CHOICE,
        wrong=CHOICE.replace("at_least_float32(logits)", "logits"),
        by=("dtypes_of_norm_and_router",),
    ),
    Fault(
        name="top_k_then_softmax",
        rows="measured",
        words="softmax over the chosen logits: right only where renormalised",
        module="moe",
        right=CHOICE + RENORMALISE,
        wrong=(
            "    weights, experts = at_least_float32(logits).topk(top_k, dim=-1)\n"
            "    weights = weights.softmax(dim=-1)\n"
        ),
        by=("logits_moe_unnormalised",),
    ),
    Fault(
        name="router_sigmoid",
        rows="own",
        words="sigmoid scores, as other models have them",
        module="moe",
        right=CHOICE,
        wrong=CHOICE.replace("softmax(dim=-1)", "sigmoid()"),
        by=("logits_moe",),
    ),
    Fault(
        name="expert_weights_not_applied",
        rows="own",
        words="experts' outputs are added unweighted",
        module="moe",
        right=" * share[block]",
        wrong="",
        by=("logits_moe",),
    ),
    Fault(
        name="experts_overwrite_each_other",
        rows="own",
        words="the last expert of a token wins; they should add up",
        module="moe",
        right="y = y.index_add(0,",
        wrong="y = y.index_copy(0,",
        by=("logits_moe",),
    ),
    Fault(
        name="expert_gate_and_up_exchanged",
        rows="22",
        words="the activation is on the up half of the packed rows",
        module="moe",
        right="F.silu(gate) * up",
        wrong="F.silu(up) * gate",
        by=("logits_moe",),
    ),
    Fault(
        name="expert_halves_interleaved",
        rows="22",
        words="gate and up rows of the packed tensor are read in turn",
        module="moe",
        right="gate, up = F.linear(x[token[block]], gate_up[e]).chunk(2, dim=-1)",
        wrong="gate, up = F.linear(x[token[block]], gate_up[e]).unflatten(-1, (-1, 2)).unbind(-1)",
        by=("logits_moe",),
    ),
    Fault(
        name="dispatch_sends_other_tokens",
        rows="own",
        words="a pick's token is found by remainder, not by division",
        module="moe",
        right="token = order // experts.shape[1]",
        wrong="token = order % x.shape[0]",
        by=("logits_moe",),
    ),
]
FAULTS = [*ATTENTION, *HEADS, *EXPERTS]
