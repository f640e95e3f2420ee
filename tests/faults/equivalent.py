"""Mutants that look like bugs and are none: nothing can tell them from the right code, and why.

The suite must pass with each of them on, or its reason is wrong.
"""

from __future__ import annotations

from tests.faults.switch import Fault

FAULTS = [
    Fault(
        name="positions_start_at_one",
        rows="measured",
        words="RoPE turns queries and keys alike, and their product depends on the distance alone.",
        module="model",
        right="positions = token_positions(real, start) if",
        wrong="positions = token_positions(real, start) + 1 if",
    ),
    Fault(
        name="padded_rows_start_late",
        rows="28, measured",
        words=(
            "Positions that count the padding shift a whole row by a constant: again only distances count. "
            "It is a bug only where prefill and decoding disagree, or one row's positions serve another."
        ),
        module="model",
        right="return (real.cumsum(dim=1) - 1).clamp_min(0)[:, start:]",
        wrong="return torch.arange(start, real.shape[1], device=real.device).expand(real.shape[0], -1)",
    ),
    Fault(
        name="positions_of_padding_are_negative",
        rows="28",
        words="Padding is masked out, so where it stands does not matter.",
        module="model",
        right=".clamp_min(0)",
        wrong="",
    ),
    Fault(
        name="causal_mask_is_strict",
        rows="own",
        words="key < query leaves out the token itself, and the diagonal that is added for padding brings it back.",
        module="model",
        right="(key <= query)) | (key == query)",
        wrong="(key < query)) | (key == query)",
    ),
    Fault(
        name="top_k_then_softmax_where_renormalised",
        rows="measured",
        words=(
            "With norm_topk_prob the sum over all experts cancels: exp(a) / (exp(a) + exp(b)) either way. "
            "Without it this is a bug (fault top_k_then_softmax)."
        ),
        module="moe",
        right="        weights = weights / weights.sum(dim=-1, keepdim=True)\n",
        wrong="        weights = at_least_float32(logits).gather(-1, experts).softmax(dim=-1)\n",
    ),
    Fault(
        name="finished_rows_count_as_tokens",
        rows="29",
        words="A row that has met its stop id goes on as filler, and its tokens are seen by itself only.",
        module="decode.generation",
        right="[[not row.reply.ended] for row",
        wrong="[[True] for row",
        by=("test_generate:test_greedy_equals_transformers",),
    ),
]
