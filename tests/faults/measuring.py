"""Faults in measuring: what is asked, what counts as right, and how sure the number is."""

from __future__ import annotations

from tests.faults.switch import Fault

SUMMARY = "test_evaluate:test_summary_by_hand"
EVERY_ROW = "test_measure:test_every_row_and_only_test_problems"
CHANGE = "test_measure:test_change_is_paired"
FAULTS = [
    Fault(
        name="measured_on_the_validation_split",
        rows="own",
        words="the table rests on the problems that recipes were tuned on",
        module="measure.rows",
        right='SPLIT = "test"',
        wrong='SPLIT = "validation"',
        by=(EVERY_ROW,),
    ),
    Fault(
        name="curves_on_the_validation_split",
        rows="own",
        words="`evaluate MODEL` asks the problems that recipes were tuned on",
        module="commands.evaluate",
        right='make_problems(family, "test", args.count, seed=TEST_SEED)',
        wrong='make_problems(family, "validation", args.count, seed=TEST_SEED)',
        by=(EVERY_ROW,),
    ),
    Fault(
        name="answers_of_another_model_taken",
        rows="own",
        words="a log is gone on with, whoever wrote it",
        module="measure.accuracy",
        right='if any(line.get("run") != run(line["mode"]) for line in lines):',
        wrong="if False:",
        by=("test_measure:test_answers_of_another_model_are_refused",),
    ),
    Fault(
        name="cut_answer_counts_as_right",
        rows="own",
        words="a reply that had no room to end is judged by what there is of it",
        module="measure.accuracy",
        right="correct=finished and is_correct(problem, answer)",
        wrong="correct=is_correct(problem, answer)",
        by=("test_measure:test_an_answer_that_was_cut_is_wrong",),
    ),
    Fault(
        name="samples_taken_for_problems",
        rows="own",
        words="the interval counts two samples of one problem as two independent observations",
        module="measure.accuracy",
        right="wilson(pass_1, len(by_problem))",
        wrong="wilson(pass_1, len(rows))",
        by=(SUMMARY,),
    ),
    Fault(
        name="pass_k_is_pass_1",
        rows="own",
        words="pass@k with k = 1, whatever was sampled",
        module="measure.accuracy",
        right="pass_at_k(len(c), sum(c), k)",
        wrong="pass_at_k(len(c), sum(c), 1)",
        by=(SUMMARY,),
    ),
    Fault(
        name="change_not_paired",
        rows="own",
        words="the answers of other problems are subtracted",
        module="measure.table",
        right="if [(r.problem, r.sample) for r in before] != [(r.problem, r.sample) for r in after]:",
        wrong="if len(before) != len(after):",
        by=(CHANGE,),
    ),
    Fault(
        name="before_and_after_swapped",
        rows="own",
        words="a gain is printed as a loss",
        module="measure.table",
        right="return mean_of([new - old for old, new in scores])",
        wrong="return mean_of([old - new for old, new in scores])",
        by=(CHANGE,),
    ),
    Fault(
        name="samples_counted_as_problems",
        rows="own",
        words="eight samples of one problem narrow an interval as eight problems would",
        module="measure.table",
        right="scores = [[score(rows) for rows in zip(*both, strict=True)] for both in pairs.values()]",
        wrong="scores = [[score([r]) for r in pair] for both in pairs.values() for pair in both]",
        by=(CHANGE,),
    ),
    Fault(
        name="scores_in_the_order_of_lengths",
        rows="own",
        words="rewards go to tasks in the order in which the model saw them",
        module="measure.rows",
        right="for i, reply in zip(order, replies, strict=True):",
        wrong="for i, reply in enumerate(replies):",
        by=("test_measure:test_scores_go_to_their_tasks",),
    ),
    Fault(
        name="calls_judged_by_their_first_digit",
        rows="own",
        words="a call's result counts as right where the answer only begins with it",
        module="measure.modes",
        right="int(result) == int(answer)",
        wrong="answer.startswith(result)",
        by=("test_modes:test_a_result_and_an_answer_are_one_number",),
    ),
    Fault(
        name="control_of_a_tool_is_no_longer",
        rows="own",
        words="the system turn of prose, the control for a tool's price, is one word long",
        module="measure.modes",
        right=">= room:",
        wrong=">= 0:",
        by=("test_modes:test_the_control_of_a_tool_is_a_prompt_as_long_that_offers_none",),
    ),
]
