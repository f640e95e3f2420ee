"""Faults of balancing the experts: whose choices are counted, over what, and what gets a gradient."""

from __future__ import annotations

from tests.faults.switch import Fault


def fault(name: str, words: str, edits: tuple[tuple[str, str], ...], by: str, rows: str = "own") -> Fault:
    return Fault(f"balance_{name}", rows, words, "train.balance", edits, (f"test_balance:{by}",))


COUNTS, RUNNING, SHARES = (
    "test_counts_by_hand",
    "test_counting_as_you_go",
    "test_shares_over_parts_and_ranks_by_hand",
)
FAULTS = [
    fault(
        "counts_padding",
        "padding chooses experts too",
        (("return chosen if mask is None else chosen * mask[..., None]", "return chosen"),),
        COUNTS,
    ),
    fault(
        "counts_in_16_bits",
        "picks are added up in bfloat16, which rounds from 256 on",
        (("at_least_float32(logits.detach())", "logits.detach()"),),
        COUNTS,
    ),
    fault(
        "gradient_through_counts",
        "soft counts: the shares get the probabilities' gradient",
        (
            ("logits = at_least_float32(logits.detach())", "soft = logits.softmax(-1)"),
            (
                "return chosen if mask is None else chosen *",
                "chosen = chosen + soft - soft.detach()\n    return chosen if mask is None else chosen *",
            ),
        ),
        RUNNING,
    ),
    fault(
        "counts_stay_on_their_rank",
        "the picks of other ranks are not added",
        (("            dist.all_reduce(total)\n", "            pass\n"),),
        SHARES,
    ),
    fault(
        "counts_added_in_place",
        "the sum over ranks is kept and summed again at the next micro-batch",
        (("total = self.counts.clone()", "total = self.counts"),),
        SHARES,
    ),
    fault(
        "counts_of_the_last_part_only",
        "each micro-batch starts the count afresh",
        (("counts if self.counts is None else self.counts + counts", "counts"),),
        SHARES,
    ),
    fault(
        "share_divided_by_k",
        "shares sum to one in one path and to K in the other",
        (("return top_k * total /", "return total /"),),
        SHARES,
    ),
    fault(
        "micro_shares_in_the_global_loss",
        "what was counted over the global batch is not used",
        (('shares=shares if weights.balancing == "global" else None', "shares=None"),),
        RUNNING,
    ),
    fault(
        "micro_is_global",
        "all rows of a device are balanced together, whatever was asked",
        (('parts if balancing == "micro" else 1', "1"),),
        "test_one_pass_has_the_gradient_of_many",
    ),
    fault(
        "layers_pooled",
        "one layer's overload makes up for another's neglect",
        (("in enumerate(router_logits):", "in enumerate([torch.cat(list(router_logits))]):"),),
        "test_balancing_loss_by_hand",
    ),
    fault(
        "coefficient_unused",
        "the loss is added at full strength",
        (("lm + self.coefficient * balance", "lm + balance"),),
        "test_weights_by_hand",
        "21",
    ),
    fault(
        "gradients_summed_over_ranks",
        "two ranks take steps twice as large",
        (("len(micro_batches) * ranks()", "len(micro_batches)"),),
        "test_a_rank_with_the_same_rows_changes_nothing",
    ),
    fault(
        "specialisation_unweighted",
        "an expert with three tokens counts as much as one with three thousand",
        (("float((distance * by_expert).nansum() / by_expert.sum())", "float(distance.nanmean())"),),
        "test_specialisation_by_hand",
    ),
]
