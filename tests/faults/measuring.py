"""Faults in measuring: what is asked, what counts as right, and how sure the number is."""

from __future__ import annotations

from tests.faults.switch import Fault


def fault(name: str, words: str, module: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, "own", words, module, ((old, new),), by)


SUMMARY = "test_evaluate:test_summary_by_hand"
EVERY_ROW = "test_measure:test_every_row_and_only_test_problems"
CHANGE = "test_measure:test_change_is_paired"
FAULTS = [
    fault(
        "measured_on_the_validation_split",
        "the table rests on the problems that recipes were tuned on",
        "train.measure",
        'SPLIT = "test"',
        'SPLIT = "validation"',
        EVERY_ROW,
    ),
    fault(
        "curves_on_the_validation_split",
        "`evaluate MODEL` asks the problems that recipes were tuned on",
        "evaluate",
        'make_problems(family, "test", args.count, seed=TEST_SEED)',
        'make_problems(family, "validation", args.count, seed=TEST_SEED)',
        EVERY_ROW,
    ),
    fault(
        "answers_of_another_model_taken",
        "a log is gone on with, whoever wrote it",
        "evaluate",
        'if any(line["run"] != run for line in lines):',
        "if False:",
        "test_measure:test_answers_of_another_model_are_refused",
    ),
    fault(
        "cut_answer_counts_as_right",
        "a reply that had no room to end is judged by what there is of it",
        "evaluate",
        "correct=finished and verify(problem, answer)",
        "correct=verify(problem, answer)",
        "test_measure:test_an_answer_that_was_cut_is_wrong",
    ),
    fault(
        "samples_taken_for_problems",
        "the interval counts two samples of one problem as two independent observations",
        "evaluate",
        "wilson(pass_1, len(by_problem))",
        "wilson(pass_1, len(rows))",
        SUMMARY,
    ),
    fault(
        "pass_k_is_pass_1",
        "pass@k with k = 1, whatever was sampled",
        "evaluate",
        "pass_at_k(len(c), sum(c), k)",
        "pass_at_k(len(c), sum(c), 1)",
        SUMMARY,
    ),
    fault(
        "change_not_paired",
        "the answers of other problems are subtracted",
        "train.nano_results",
        "if [(r.problem, r.sample) for r in before] != [(r.problem, r.sample) for r in after]:",
        "if len(before) != len(after):",
        CHANGE,
    ),
    fault(
        "before_and_after_swapped",
        "a gain is printed as a loss",
        "train.nano_results",
        "append(a.correct - b.correct)",
        "append(b.correct - a.correct)",
        CHANGE,
    ),
    fault(
        "samples_counted_as_problems",
        "eight samples of one problem narrow an interval as eight problems would",
        "train.nano_results",
        "return average([fmean(differences) for differences in gained.values()])",
        "return average([d for differences in gained.values() for d in differences])",
        CHANGE,
    ),
    fault(
        "scores_in_the_order_of_lengths",
        "rewards go to tasks in the order in which the model saw them",
        "train.measure",
        "for i, reply in zip(order, replies, strict=True):",
        "for i, reply in enumerate(replies):",
        "test_measure:test_scores_go_to_their_tasks",
    ),
]
