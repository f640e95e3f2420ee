"""Task families: splits that cannot overlap, answers worked out in another way, traces re-executed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys

import pytest
from num2words import num2words

from qwen3_ref.tasks import numbers
from qwen3_ref.tasks.documents import maths_documents, solved
from qwen3_ref.tasks.problems import (
    DIFFICULTIES,
    FAMILIES,
    SPLITS,
    Problem,
    is_correct,
    make_problems,
    next_line,
    right_steps,
    split_of,
)

GOLDEN = "651b58ae749f9094"
GOLDEN_MATHS = "355ee591e622d1c6"
"""What the shipped checkpoints learned from: 60,000 characters of it."""


def fingerprint() -> str:
    problems = [p for f in FAMILIES for s in SPLITS for p in make_problems(f, s, 60, seed=3)]
    return hashlib.sha256(repr(problems).encode()).hexdigest()[:16]


@functools.cache
def in_words(number: int, language: str) -> str:
    """By num2words, which the package's table was made with and which it does not need."""
    return str(num2words(number, lang=language))


def part_words(language: str, value: int) -> set[str]:
    """What a part of a number may be called: as it stands alone, or with what it has beside others."""
    alone = in_words(value, language)
    beside = {"ciento", "une", *(f"ו{alone}" for _ in "x")}
    return {alone, alone.removesuffix("s"), *beside}


def worked_out(problem: Problem) -> str:
    """The answer, by no code of tasks.py; of words, by a table that test_translation proves whole."""
    prompt = problem.prompt
    if problem.family == "arithmetic":
        terms = re.sub(r"\b0(\d)", r"\1", prompt.split(" mod ")[0])
        return f"{eval(terms) % 100:02}"
    if problem.family == "counting":
        items, kinds = prompt.split(" count ")
        return " ".join(f"{kind}{items.count('=' + kind)}" for kind in kinds.split())
    if problem.family == "conversion":
        rates, amounts = prompt.split(" convert ")
        factors = [int(re.findall(r"\d", rate)[0]) for rate in rates.split()] + [1]
        total, size = 0, 1
        for amount, factor in zip(amounts.split()[::-1], factors[::-1], strict=True):
            size *= factor
            total += int(amount[:-1]) * size
        return f"{total % 100:02}"
    if problem.family == "translation":
        _, source, target, said = prompt.split(" ", 3)
        number = int(said) if source == "digits" else numbers.number_of(source, said)
        return str(number) if target == "digits" else in_words(number, target)
    at = prompt.split("find ")[1]
    while not at.isdigit():
        at = re.findall(rf"^{at}=(\w+)$", prompt, re.MULTILINE)[0]
    return at


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_never_overlap(family: str) -> None:
    """Whatever the seeds: some 2,500 problems in all."""
    counts = {"train": 900, "validation": 100, "test": 250}
    found = {
        split: {p.prompt for seed in range(2) for p in make_problems(family, split, count, seed=seed)}
        for split, count in counts.items()
    }
    assert all(len(found[split]) >= count for split, count in counts.items())
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_the_split_is_the_hash_of_the_prompt() -> None:
    """80, 5 and 15 in 100: the first byte of the SHA-256, modulo 20, is below 16, is 16, or is above."""
    found = {split: 0 for split in SPLITS}
    for i in range(2000):
        share = int(hashlib.sha256(f"prompt {i}".encode()).hexdigest()[:2], 16) % 20
        want = "train" if share <= 15 else "validation" if share == 16 else "test"
        assert split_of(f"prompt {i}") == want
        found[want] += 1
    assert 0.77 < found["train"] / 2000 < 0.83 and 0.03 < found["validation"] / 2000 < 0.07


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_right_and_traces_lead_to_them(family: str) -> None:
    for problem in make_problems(family, "train", 600, seed=1):
        assert problem.answer == worked_out(problem)
        assert all(right_steps(problem, problem.trace))
        steps = problem.trace.split("\n")
        if family != "translation":
            want = 2 + 2 * problem.difficulty if family == "counting" else problem.difficulty
            assert len(steps) == want
        assert next_line(family, problem.prompt, steps) is None
        assert problem.difficulty in DIFFICULTIES[family]
        assert is_correct(problem, f" {problem.answer}\n") and not is_correct(problem, problem.answer + "0")


def test_difficulties_come_in_turn_and_problems_differ() -> None:
    problems = make_problems("conversion", "validation", 60)
    assert [p.difficulty for p in problems] == 10 * list(DIFFICULTIES["conversion"])
    assert len({p.prompt for p in problems}) == 60
    assert {p.difficulty for p in make_problems("arithmetic", "test", 30, 4)} == {4}
    assert make_problems("counting", "test", 50, seed=1) != make_problems("counting", "test", 50, seed=2)


def test_none_and_the_bounds() -> None:
    """What just fits is taken: no problem at all, and the shortest and longest context of a look-up."""
    assert make_problems("counting", "test", 0) == []
    for lines in (7, 260):
        (problem,) = make_problems("retrieval", "test", 1, 6, lines=lines)
        assert problem.prompt.count("=") == lines and problem.trace.count("\n") == 5
    (problem,) = make_problems("retrieval", "test", 1, 6)
    assert problem.prompt.count("=") == 6 + 12
    for wrong in (6, 261):
        with pytest.raises(ValueError, match=f"lines is {wrong} "):
            make_problems("retrieval", "test", 1, lines=wrong)


def test_what_counts_in_an_answer() -> None:
    """White space at the ends aside, every character does: case, spaces within, leading zeros."""
    problem = Problem("counting", 1, "a=x b=y c=x d=x count x y", "", "x3 y1")
    for right in ("x3 y1", " x3 y1", "x3 y1\n\n", "\t x3 y1 "):
        assert is_correct(problem, right), right
    for wrong in ("X3 Y1", "x3  y1", "x3y1", "y1 x3", "x3 y1.", "x03 y1", "x3", "", "the answer is x3 y1"):
        assert not is_correct(problem, wrong), wrong
    for wrong in ("7", "007", "+07", "07.0", "70"):
        assert not is_correct(Problem("arithmetic", 1, "", "", "07"), wrong), wrong


def test_a_line_that_cannot_be_read_has_no_next() -> None:
    prompt = "37+45-17 mod 100"
    assert next_line("arithmetic", prompt, ["37+45=82"]) == "82-17=65"
    with pytest.raises(ValueError, match=r"no step follows \['well'\] in '37\+45-17 mod 100'"):
        next_line("arithmetic", prompt, ["well"])
    with pytest.raises(ValueError, match="no step follows"):
        next_line("retrieval", "a1=b2\nb2=07\nfind a1", ["a1=b3"])


def test_documents_are_true() -> None:
    """Each line of the generated mathematics, worked out again; and no character more than is needed."""
    found = maths_documents(60_000)
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == GOLDEN_MATHS
    assert sum(map(len, found[:-1])) < 60_000 <= sum(map(len, found))
    kinds = {"sum": 0, "product": 0, "order": 0, "sort": 0, "look-up": 0, "words": 0}
    for document in found:
        lines = document.split("\n")
        if "find" in document:
            kinds["look-up"] += 1
            continue
        if lines[0].startswith("translate "):
            kinds["words"] += 1
            _, source, target = lines[0].split()
            for line in lines[1:]:
                said = line.split("=")[::-1 if target == "digits" else 1]
                assert said[1].strip(" ,").removeprefix("and ") in part_words(
                    target if source == "digits" else source, int(said[0])
                ), line
            continue
        assert len(lines) == 8
        for line in lines:
            if line.startswith("sort "):
                given, want = (part.split() for part in line.removeprefix("sort ").split(": "))
                assert sorted(given, key=int) == want and len(given) == 5
                kinds["sort"] += 1
            elif " " in line:
                a, sign, b = line.split()
                assert eval(f"{a}{sign.replace('=', '==')}{b}"), line
                kinds["order"] += 1
            else:
                work, result = line.split("=")
                assert f"{eval(re.sub(r'0(?=[0-9])', '', work)) % 100:02}" == result, line
                kinds["product" if "*" in line else "sum"] += 1
    assert kinds["sum"] > kinds["product"] > kinds["order"] > 0 < kinds["sort"]
    assert 0.15 < kinds["look-up"] / len(found) < 0.35
    assert 0.1 < kinds["words"] / len(found) < 0.3


def test_a_solved_problem_is_a_document() -> None:
    problem = Problem("arithmetic", 2, "37+45-17 mod 100", "37+45=82\n82-17=65", "65")
    assert solved(problem) == "37+45-17 mod 100\n37+45=82\n82-17=65\nanswer 65"


def test_the_same_on_every_machine() -> None:
    """The fingerprint is of another machine's run, and does not move with Python's string hashing."""
    assert fingerprint() == GOLDEN
    code = "from tests.test_tasks import fingerprint; print(fingerprint())"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == GOLDEN, done.stderr


def test_every_step_is_needed() -> None:
    """Retrieval: the chain is as long as the difficulty says, and other chains end in numbers too."""
    for problem in make_problems("retrieval", "test", 60, lines=40):
        *pairs, question = problem.prompt.split("\n")
        assert len(pairs) == 40 and len({pair[:2] for pair in pairs}) == 40
        assert sum(pair.split("=")[1].isdigit() for pair in pairs) >= 10
        assert problem.trace.startswith(question.removeprefix("find "))


def test_right_steps_find_the_wrong_one() -> None:
    problem = Problem("arithmetic", 3, "37+45-17+08 mod 100", "37+45=82\n82-17=65\n65+08=73", "73")
    right, off_by_one = problem.trace, "37+45=83\n83-17=66\n66+08=74"
    assert right_steps(problem, right) == [True, True, True]
    assert right_steps(problem, off_by_one) == [False, True, True]  # the slip, and what follows from it
    assert right_steps(problem, "37+45=82\n82-17=66\n65+08=73") == [True, False, False]
    assert right_steps(problem, "37+45=82\n65+08=73") == [True, False]  # a step left out
    assert right_steps(problem, right + "\n73+08=81") == [True, True, True, False]  # one too many
    assert right_steps(problem, "well, 82\n82-17=65") == [False, False]
    assert right_steps(problem, "") == []


@pytest.mark.parametrize("family", FAMILIES)
def test_right_steps_see_every_changed_digit(family: str) -> None:
    for problem in make_problems(family, "train", 30):
        steps = problem.trace.split("\n")
        for i, step in enumerate(steps):
            last = step[-1]
            changed = step[:-1] + (str((int(last) + 1) % 10) if last.isdecimal() else "")
            assert not right_steps(problem, "\n".join([*steps[:i], changed, *steps[i + 1 :]]))[i]


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: make_problems("chess", "test", 1), ["'chess'", "arithmetic", "retrieval"]),
        (lambda: make_problems("counting", "dev", 1), ["'dev'", "validation"]),
        (lambda: make_problems("counting", "test", 1, 7), ["7", "1 to 6"]),
        (lambda: make_problems("counting", "test", -1), ["-1"]),
        (lambda: make_problems("counting", "test", 1, lines=20), ["lines", "counting"]),
        (lambda: make_problems("retrieval", "test", 1, lines=900), ["900", "260"]),
        (lambda: make_problems("counting", "validation", 9000, 1), ["9000", "difficulty 1", "validation"]),
    ],
)
def test_errors_name_the_thing(call: object, names: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()  # type: ignore[operator]
    assert all(name in str(error.value) for name in names), error.value
