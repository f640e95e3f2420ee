"""Mutants that look like bugs and are none: nothing can tell them from the right code, and why.

The suite must pass with each of them on, or its reason is wrong.
"""

from __future__ import annotations

from tests.faults.switch import Fault

FAULTS = [
    Fault(
        "positions_start_at_one",
        "measured",
        "RoPE turns queries and keys alike, and their product depends on the distance alone.",
        "model",
        (
            (
                "positions, allowed = positions_and_mask(real, start)\n",
                "positions, allowed = positions_and_mask(real, start)\n        positions = positions + 1\n",
            ),
        ),
    ),
    Fault(
        "padded_rows_start_late",
        "28, measured",
        "Positions that count the padding shift a whole row by a constant: again only distances count. "
        "It is a bug only where prefill and decoding disagree, or one row's positions serve another.",
        "model",
        (
            (
                "positions = (real.cumsum(dim=1) - 1).clamp_min(0)[:, start:]",
                "positions = column[start:].expand(real.shape[0], -1)",
            ),
        ),
    ),
    Fault(
        "positions_of_padding_are_negative",
        "28",
        "Padding is masked out, so where it stands does not matter.",
        "model",
        ((".clamp_min(0)", ""),),
    ),
    Fault(
        "causal_mask_is_strict",
        "own",
        "key < query leaves out the token itself, and the diagonal that is added for padding brings it back.",
        "model",
        (("(key <= query)) | (key == query)", "(key < query)) | (key == query)"),),
    ),
    Fault(
        "top_k_then_softmax_where_renormalised",
        "measured",
        "With norm_topk_prob the sum over all experts cancels: exp(a) / (exp(a) + exp(b)) either way. "
        "Without it this is a bug (fault top_k_then_softmax).",
        "moe",
        (
            (
                "        weights = weights / weights.sum(dim=-1, keepdim=True)\n",
                "        weights = at_least_float32(logits).gather(-1, experts).softmax(dim=-1)\n",
            ),
        ),
    ),
    Fault(
        "finished_rows_count_as_tokens",
        "29",
        "A row that has met its stop id goes on as filler, and its tokens are seen by itself only.",
        "generate",
        (("[[0 if row.reply.ended else 1] for row", "[[1] for row"),),
        ("test_generate:test_greedy_equals_transformers",),
    ),
]
