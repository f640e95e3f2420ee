"""The exercise checks in both directions: solutions pass; blanks and likely mistakes are told apart.

The solutions are taken from the solution notebooks and the blanks from the notebooks themselves, so
what is proved is what a student meets. Checks draw fresh inputs, hence the repetitions.
"""

from __future__ import annotations

import ast
import copy
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref import rope
from qwen3_ref.course.checks import judge as checks
from qwen3_ref.course.checks import rope as checks_of_rope
from qwen3_ref.course.checks.judge import Verdict
from qwen3_ref.course.compare import as_array
from tests.mistakes import Mistake
from tests.mistakes.rope import tables, waves

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TIMES = 2  # each time, a check draws three times


def exercises(path: Path) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name of the check, the function it is given) for every check that a notebook calls."""
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    imports = "\n".join(
        ast.unparse(line)
        for source in sources
        for line in (ast.parse(source).body if "import " in source else [])
        if isinstance(line, ast.Import | ast.ImportFrom)
    )
    for source in sources:
        if not re.search(r"^checks\.\w+\(", source, re.MULTILINE):
            continue
        call = ast.parse(source).body[-1]
        assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call), source
        assert isinstance(call.value.func, ast.Attribute) and isinstance(call.value.args[0], ast.Name)
        names: dict[str, Any] = {}
        exec(imports, names)
        exec(source.replace(ast.unparse(call), ""), names)  # our own notebook's cell, but for the check
        yield call.value.func.attr, names[call.value.args[0].id]


def topic(path: Path) -> str:
    """Checks, drawings and mistakes of a notebook lie in files that are named as it is."""
    return path.stem[3:]


LESSONS = [path for path in sorted(NOTEBOOKS.glob("[0-2]*.ipynb")) if not path.stem.startswith("00")]
BLANKS = {(topic(path), name): f for path in LESSONS for name, f in exercises(path)}
SOLUTIONS = {
    (topic(path), name): f for path in LESSONS for name, f in exercises(path.parent / "solutions" / path.name)
}
MISTAKES: dict[tuple[str, str], list[Mistake]] = {
    (topic(path), name): mistakes
    for path in LESSONS
    for name, mistakes in importlib.import_module(f"tests.mistakes.{topic(path)}").MISTAKES.items()
}
RIGHT: dict[tuple[str, str], list[Callable[..., Any]]] = {
    (topic(path), name): answers
    for path in LESSONS
    for name, answers in getattr(
        importlib.import_module(f"tests.mistakes.{topic(path)}"), "ALSO_RIGHT", {}
    ).items()
}


def check(key: tuple[str, str]) -> Callable[..., Verdict]:
    """The check of one exercise."""
    module = importlib.import_module(f"qwen3_ref.course.checks.{key[0]}")
    function: Callable[..., Verdict] = getattr(module, key[1])
    return function


def test_every_check_belongs_to_an_exercise() -> None:
    public = {
        (path.stem, name)
        for path in Path(checks.__file__).parent.glob("[a-z]*.py")
        for name, f in vars(importlib.import_module(f"qwen3_ref.course.checks.{path.stem}")).items()
        if getattr(f, "__annotations__", {}).get("return") == "Verdict" and name != "judge"
    }
    assert set(BLANKS) == set(SOLUTIONS) == set(MISTAKES) == public


@pytest.mark.parametrize("key", BLANKS, ids=".".join)
def test_blank(key: tuple[str, str]) -> None:
    verdict = check(key)(BLANKS[key])
    assert not verdict and repr(verdict) == "not written yet"
    assert repr(check(key)(lambda *_: ...)) == "not written yet: it returns nothing"


@pytest.mark.parametrize("key", SOLUTIONS, ids=".".join)
def test_solution(key: tuple[str, str]) -> None:
    for _ in range(TIMES):
        verdict = check(key)(SOLUTIONS[key])
        assert verdict and repr(verdict) == "ok"


@pytest.mark.parametrize(("key", "right"), [(key, f) for key, answers in RIGHT.items() for f in answers])
def test_right_answer_written_differently(key: tuple[str, str], right: Callable[..., Any]) -> None:
    for _ in range(TIMES):
        assert repr(check(key)(right)) == "ok"


@pytest.mark.parametrize(
    ("key", "remark", "wrong"),
    [(key, *mistake) for key, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_mistake(key: tuple[str, str], remark: str, wrong: Callable[..., Any]) -> None:
    for _ in range(TIMES):
        verdict = check(key)(wrong)
        assert not verdict and remark in repr(verdict), repr(verdict)


@pytest.mark.parametrize("key", SOLUTIONS, ids=".".join)
def test_every_remark_has_its_mistake(key: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A remark that no wrong answer is known to get may be one that nobody can get.

    A part that several remarks have in common stands for the shortest of them.
    """
    remarks: set[str] = set()

    def gather(
        _: Any, trials: Callable[[np.random.Generator], Iterator[checks.Trial]], **_how: Any
    ) -> Verdict:
        for trial in [*trials(np.random.default_rng()), *trials(np.random.default_rng())]:
            remarks.update(remark for remark, _ in trial.mistakes)
        return Verdict(True, "ok")

    monkeypatch.setattr(f"qwen3_ref.course.checks.{key[0]}.judge", gather)
    check(key)(SOLUTIONS[key])
    found = [[remark for remark in remarks if part in remark] for part, _ in MISTAKES[key]]
    untried = remarks - {min(alike, key=len) for alike in found if alike}
    assert remarks and not untried, f"no mistake gets the remark {sorted(untried)}"


@pytest.mark.parametrize("key", [k for k in SOLUTIONS if k[1] != "two_calls"], ids=".".join)
def test_every_array_of_a_remark_is_what_a_wrong_answer_returns(
    key: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remark may know its mistake in several shapes: each of them is returned by one of our wrong answers
    in some trial. (What two_calls is given can be called but once.)"""
    trials: list[checks.Trial] = []

    def gather(_: Any, draw: Callable[[np.random.Generator], Iterator[checks.Trial]], **_how: Any) -> Verdict:
        trials.extend(draw(np.random.default_rng(5)))
        return Verdict(True, "ok")

    monkeypatch.setattr(f"qwen3_ref.course.checks.{key[0]}.judge", gather)
    check(key)(SOLUTIONS[key])
    found: dict[tuple[str, int], bool] = {}
    for trial in trials:
        returned = [returns(wrong, trial) for _, wrong in MISTAKES[key]]
        seen: Counter[str] = Counter()
        for remark, array in trial.mistakes:
            seen[remark] += 1
            same = any(got is not None and alike(trial, got, array) for got in returned)
            found[remark, seen[remark]] = found.get((remark, seen[remark]), False) or same
    missing = sorted(place for place, hit in found.items() if not hit)
    assert found and not missing, f"no wrong answer returns (remark, how manieth) {missing}"


def returns(wrong: Callable[..., Any], trial: checks.Trial) -> Any:
    """What an answer returns, as an array; None if it raises or returns what is none."""
    try:
        with np.errstate(all="ignore"):
            return as_array(wrong(*copy.deepcopy(trial.arguments)))
    except Exception:  # a wrong answer may raise whatever it likes
        return None


def alike(trial: checks.Trial, got: Any, array: Any) -> bool:
    if got.shape != array.shape:
        return False
    return trial.same(got, array) if got.dtype.kind not in "USO" else bool((got == array).all())


def test_at_least_so_many_mistakes_an_exercise() -> None:
    """Eight in the lessons that have right answers written differently too, three in the others."""
    sworn = {lesson for lesson, _ in RIGHT}
    assert all(len(mistakes) >= (8 if key[0] in sworn else 3) for key, mistakes in MISTAKES.items())
    assert all(RIGHT.get(key) for key in MISTAKES if key[0] in sworn)


# -- what nobody gets past -------------------------------------------------------------------------


def test_the_reference_is_no_answer() -> None:
    """Under its own name, and behind an alias."""
    verdict = checks_of_rope.wavelengths(rope.default_frequencies)
    assert "that calls qwen3_ref.rope.default_frequencies" in repr(verdict)
    alias = rope.cos_sin
    verdict = checks_of_rope.tables(lambda p, f, kind: [torch.tensor(a) for a in alias(p.numpy(), f.numpy())])
    assert "that calls qwen3_ref.rope.cos_sin" in repr(verdict)


@pytest.mark.parametrize("key", SOLUTIONS, ids=".".join)
def test_answers_written_down_do_not_pass_again(key: tuple[str, str]) -> None:
    """Small whole numbers may come again by chance; three times in a row they do not."""
    replayed, constant = [], []
    for _ in range(3):
        kept: list[Any] = []

        def write_down(*given: Any, kept: list[Any] = kept) -> Any:
            kept.append(SOLUTIONS[key](*given))
            return kept[-1]

        assert check(key)(write_down)
        replay = iter(kept)
        replayed.append(bool(check(key)(lambda *_, replay=replay: next(replay))))
        constant.append(bool(check(key)(lambda *_, kept=kept: kept[0])))
    assert not all(replayed), "the inputs were the same"
    assert not all(constant), "a constant passes"


def test_what_a_student_may_hand_in() -> None:
    def raises(*_: Any) -> Any:
        raise KeyError("theta")

    assert "pass the function itself" in repr(checks_of_rope.wavelengths(np.ones(4)))  # type: ignore[arg-type]
    assert repr(checks_of_rope.wavelengths(raises)) == "your function raises KeyError: 'theta'"
    assert "an array of numbers is wanted, not str" in repr(checks_of_rope.wavelengths(lambda d, t: "long"))
    assert "your result is nan" in repr(checks_of_rope.wavelengths(lambda d, t: np.full(d // 2, np.nan)))
    assert checks_of_rope.wavelengths(lambda d, t: list(waves(d, t))), "a list of numbers is as good"
    assert checks_of_rope.wavelengths(lambda d, t: torch.tensor(waves(d, t)).float()), "and so is a tensor"
    single = checks_of_rope.tables(lambda p, f, kind: tables(p[:, None].float() * f.float(), kind))
    assert single, "float32 angles will do"
