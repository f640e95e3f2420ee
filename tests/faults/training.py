"""Faults of the training code: what is learned from, and what is not."""

from __future__ import annotations

from tests.faults.switch import Fault


def fault(name: str, rows: str, words: str, module: str, old: str, new: str, by: str) -> Fault:
    return Fault(name, rows, words, module, ((old, new),), (by,))


COLLATE = "test_train:test_collate_by_hand"
LOSS = "test_train:test_loss_by_hand_and_all_masked"
MEANS = "test_grpo:test_three_means_over_two_replies_of_different_length"
FAULTS = [
    fault(
        "sft_learns_the_prompt",
        "37",
        "the user's words are learned too",
        "train.sft",
        "targets[row, n - example.reply : n] = ids[row, n - example.reply : n]",
        "targets[row, :n] = ids[row, :n]",
        COLLATE,
    ),
    fault(
        "sft_mask_one_late",
        "37",
        "the first token of a reply is not learned",
        "train.sft",
        "targets[row, n - example.reply : n] = ids[row, n - example.reply : n]",
        "targets[row, n - example.reply + 1 : n] = ids[row, n - example.reply + 1 : n]",
        COLLATE,
    ),
    fault(
        "grpo_counts_padding",
        "38",
        "places after the end of a reply count in the mean",
        "train.rollout",
        "values = torch.where(counted, values, 0.0)",
        "counted = torch.ones_like(counted)",
        MEANS,
    ),
    fault(
        "grpo_mean_over_tokens_for_sequences",
        "38",
        "a token mean where a mean of means is stated",
        "train.rollout",
        "return (values.sum(-1) / counted.sum(-1).clamp_min(1)).mean()",
        "return values.sum() / counted.sum()",
        MEANS,
    ),
    fault(
        "grpo_divides_by_padded_length",
        "38",
        "each reply is divided by the longest one's length",
        "train.rollout",
        "values.sum(-1) / counted.sum(-1).clamp_min(1)",
        "values.sum(-1) / counted.shape[1]",
        MEANS,
    ),
    fault(
        "grpo_clips_the_wrong_way",
        "own",
        "the larger of clipped and unclipped is taken",
        "train.grpo",
        "return torch.minimum(",
        "return torch.maximum(",
        "test_grpo:test_surrogate_by_hand",
    ),
    fault(
        "grpo_advantage_uncentred",
        "own",
        "rewards are scaled but not centred on their group",
        "train.grpo",
        "centred = rewards - rewards.mean(-1, keepdim=True)",
        "centred = rewards",
        "test_grpo:test_advantages_by_hand",
    ),
    fault(
        "all_masked_batch_is_nan",
        "37",
        "a batch without a target gives a loss of NaN instead of an error",
        "train.loop",
        "if not bool((targets != IGNORE).any()):",
        "if False:",
        LOSS,
    ),
    fault(
        "rl_pays_disobedience",
        "own",
        "a right answer in the wrong mode earns as much as obeying",
        "train.general_rl",
        "mode_reward(sample, thinking) * verify(problem, sample.answer)",
        "float(verify(problem, sample.answer))",
        "test_general_rl:test_disobeying_does_not_pay",
    ),
]
