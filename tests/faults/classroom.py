"""Faults of what is handed out to students, and of what is said about what they hand in."""

from __future__ import annotations

from tests.faults.switch import Fault

_BAD = "test_students:test_one_bad_answer_leaves_the_others_alone"
FAULTS = [
    Fault(
        name="outputs_handed_out",
        words="a student's copy shows what the lesson printed",
        module="course.students",
        right='new |= {"outputs": [], "execution_count": None}',
        wrong='new |= {"execution_count": None}',
        by=("test_students:test_a_copy_by_hand",),
    ),
    Fault(
        name="way_to_the_solutions_handed_out",
        words="a student's copy leads to the solutions",
        module="course.students",
        right='TO_SOLUTIONS.sub("", cell["source"])',
        wrong='cell["source"]',
        by=("test_students:test_a_copy_by_hand",),
    ),
    Fault(
        name="verdict_of_the_file_believed",
        words="the check that judges is the one in the student's file",
        module="course.students",
        right="within_the_limit(lambda: judge(scope[function]))",
        wrong='within_the_limit(lambda: getattr(scope["checks"], check)(scope[function]))',
        by=(f"{_BAD}[its own verdict]",),
    ),
    Fault(
        name="a_failing_check_ends_all",
        words="an answer that leaves Python takes the exercises after it along",
        module="course.students",
        right='    except BaseException as error:\n        line = f"the check stops',
        wrong='    except Exception as error:\n        line = f"the check stops',
        by=(f"{_BAD}[an exit]",),
    ),
]
