"""Faults of the translation family, of seeds and shares, and of what a student is asked."""

from __future__ import annotations

from tests.faults.stages import own

WORDS = "test_translation"
SEEDS = "test_seeds"

FAULTS = [
    own(
        "hundreds_without_their_neighbour",
        "1101 is said as if nothing followed the hundreds: mil cien uno",
        "tasks.numbers",
        '"hundreds between" if rest else "hundreds after"',
        '"hundreds after" if rest else "hundreds after"',
        f"{WORDS}:test_a_number_is_its_parts",
    ),
    own(
        "a_number_has_many_splits",
        "a test number is a train number in another pair of languages",
        "tasks.problems",
        'return split_of_number(_number(prompt)) if family == "translation" else split_of(prompt)',
        "return split_of(prompt)",
        f"{WORDS}:test_a_number_has_one_split",
    ),
    own(
        "documents_say_test_numbers",
        "numbers of the test split are said in pre-training documents",
        "tasks.documents",
        'if split_of_number(number) == "train":',
        "if True:",
        f"{WORDS}:test_documents_say_train_numbers_alone",
    ),
    own(
        "a_misread_part_is_not_taken_at_its_word",
        "a translation's right consequence of a slip is judged wrong",
        "tasks.problems",
        "if heard:  # from here on the number is what the lines say",
        "if False:",
        f"{WORDS}:test_lines_are_taken_at_their_word",
    ),
    own(
        "one_difficulty_ends_all",
        "when the numbers of one digit end, so do the problems",
        "tasks.problems",
        "turn, misses = turn[1:], 0",
        "turn, misses = [], 0",
        f"{WORDS}:test_a_difficulty_without_problems_is_passed_over",
    ),
    own(
        "stages_share_problems",
        "what one stage learned from, another draws again",
        "train.seeds",
        "lines=lines, share=SHARES[use])",
        "lines=lines)",
        f"{SEEDS}:test_stages_meet_where_the_recipe_says_so",
    ),
    own(
        "one_seed_for_every_use",
        "every draw of a run begins with the same random numbers",
        "train.seeds",
        'f"{name} {run_seed}".encode()',
        'f"{run_seed}".encode()',
        f"{SEEDS}:test_a_seed_is_a_hash_of_its_name_and_the_run",
    ),
    own(
        "the_easiest_queries_are_learned",
        "of the learnable queries the easiest are kept",
        "train.queries",
        "sorted(between, key=lambda i: rates[i])[:count]",
        "sorted(between, key=lambda i: -rates[i])[:count]",
        "test_grpo:test_queries_leave_out_what_the_cold_start_used_and_what_teaches_nothing",
    ),
    own(
        "the_pool_is_not_cut",
        "all learnable queries are learned from, however easy",
        "train.queries",
        "key=lambda i: rates[i])[:count]",
        "key=lambda i: rates[i])",
        "test_grpo:test_queries_leave_out_what_the_cold_start_used_and_what_teaches_nothing",
    ),
    own(
        "no_flag_is_no_thought",
        "a student learns not to think where nothing is said",
        "train.recipes.distill",
        'thinking = flag != " /no_think"',
        'thinking = flag == " /think"',
        "test_distill:test_teacher_replies_become_examples_in_both_modes",
    ),
    own(
        "a_wrong_answer_in_time_is_paid",
        "a short thought earns as much with a wrong answer as with a right one",
        "train.recipes.general_rl",
        "return length_reward(sample, limit) * (alone or is_correct(problem, sample.answer))",
        "return length_reward(sample, limit)",
        "test_general_rl:test_a_limit_is_paid_with_a_right_answer",
    ),
    own(
        "a_limit_below_the_steps",
        "a third of the limits can only be kept by leaving out steps",
        "train.recipes.general_rl",
        "limited(cut, round(own * _pick(limits.times, rng)), alone=limits.alone),",
        "limited(cut, round(own * _pick(limits.times, rng) * 0.75), alone=limits.alone),",
        "test_general_rl:test_no_limit_that_is_trained_on_is_too_small",
    ),
    own(
        "bfloat16_where_it_is_imitated",
        "a CPU without instructions for bfloat16 trains in it, several times slower",
        "train.run",
        'return "fp32", "PyTorch tells',
        'return "bf16", "PyTorch tells',
        "test_train_command:test_the_cpu_is_asked_for_its_precision",
    ),
    own(
        "a_student_rewarded_for_a_flag_alone",
        "reinforcement learning asks the student with a flag, and the protocol without one",
        "train.stages",
        'Stage("student-rl", "off-policy", Grpo(), _right_answers),',
        'Stage("student-rl", "off-policy", Grpo(), _right_answers, flags=(" /think",)),',
        "test_train_command:test_the_stages_are_those_of_the_report",
    ),
    own(
        "spread_of_one_seed",
        "a run counts twice",
        "measure.spread",
        "if len({*seeds}) < len(seeds):",
        "if False:",
        "test_spread:test_what_cannot_be_compared",
    ),
    own(
        "spread_of_what_was_before",
        "the spread is that of the values before a stage",
        "measure.spread",
        'of[name]["after"]["value"]',
        'of[name]["before"]["value"]',
        "test_spread:test_the_values_are_those_after_a_stage",
    ),
]
