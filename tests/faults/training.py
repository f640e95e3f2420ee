"""Faults of the training code: what is learned from, and what is not."""

from __future__ import annotations

from tests.faults.switch import Fault

COLLATE = "test_train:test_collate_by_hand"
LOSS = "test_train:test_loss_by_hand_and_all_masked"
MEANS = "test_grpo:test_three_means_over_two_replies_of_different_length"
FAULTS = [
    Fault(
        name="sft_learns_the_prompt",
        rows="37",
        words="the user's words are learned too",
        module="train.recipes.sft",
        right="targets[row, n - example.reply : n] = ids[row, n - example.reply : n]",
        wrong="targets[row, :n] = ids[row, :n]",
        by=(COLLATE,),
    ),
    Fault(
        name="sft_mask_one_late",
        rows="37",
        words="the first token of a reply is not learned",
        module="train.recipes.sft",
        right="targets[row, n - example.reply : n] = ids[row, n - example.reply : n]",
        wrong="targets[row, n - example.reply + 1 : n] = ids[row, n - example.reply + 1 : n]",
        by=(COLLATE,),
    ),
    Fault(
        name="grpo_counts_padding",
        rows="38",
        words="places after the end of a reply count in the mean",
        module="train.rollout",
        right="values = torch.where(counted, values, 0.0)",
        wrong="counted = torch.ones_like(counted)",
        by=(MEANS,),
    ),
    Fault(
        name="grpo_mean_over_tokens_for_sequences",
        rows="38",
        words="a token mean where a mean of means is stated",
        module="train.rollout",
        right="return (values.sum(-1) / counted.sum(-1).clamp_min(1)).mean()",
        wrong="return values.sum() / counted.sum()",
        by=(MEANS,),
    ),
    Fault(
        name="grpo_divides_by_padded_length",
        rows="38",
        words="each reply is divided by the longest one's length",
        module="train.rollout",
        right="values.sum(-1) / counted.sum(-1).clamp_min(1)",
        wrong="values.sum(-1) / counted.shape[1]",
        by=(MEANS,),
    ),
    Fault(
        name="grpo_clips_the_wrong_way",
        rows="own",
        words="the larger of clipped and unclipped is taken",
        module="train.recipes.grpo",
        right="return torch.minimum(",
        wrong="return torch.maximum(",
        by=("test_grpo:test_surrogate_by_hand",),
    ),
    Fault(
        name="grpo_advantage_uncentred",
        rows="own",
        words="rewards are scaled but not centred on their group",
        module="train.recipes.grpo",
        right="centred = rewards - rewards.mean(-1, keepdim=True)",
        wrong="centred = rewards",
        by=("test_grpo:test_advantages_by_hand",),
    ),
    Fault(
        name="all_masked_batch_is_nan",
        rows="37",
        words="a batch without a target gives a loss of NaN instead of an error",
        module="train.loop",
        right="if not bool((targets != IGNORE).any()):",
        wrong="if False:",
        by=(LOSS,),
    ),
    Fault(
        name="rl_pays_disobedience",
        rows="own",
        words="a right answer in the wrong mode earns as much as obeying",
        module="train.recipes.general_rl",
        right="mode_reward(sample, thinking) * is_correct(problem, sample.answer)",
        wrong="float(is_correct(problem, sample.answer))",
        by=("test_general_rl:test_disobeying_does_not_pay",),
    ),
]
