"""Student copies as they are written, and what `check-student` says of files that are handed in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref.course import students
from qwen3_ref.course.students import Exercise, check, exercises, main, notebooks, read, table, write

QUICK = ("12_thinking_budget", "07_official_weights")
"""Lessons that run end to end here; the checks of all of them are proved in test_checks."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students")
    write(folder)
    return folder


def lesson(name: str) -> Path:
    return students.ROOT / "notebooks" / f"{name}.ipynb"


def answers(name: str) -> dict[str, str]:
    """Of the solutions the cell that ends in each check."""
    cells = read(lesson(name).parent / "solutions" / f"{name}.ipynb")["cells"]
    asked = [e.check for e in exercises(lesson(name))]
    return {check: c["source"] for check in asked for c in cells if f"\nchecks.{check}(" in c["source"]}


def save(path: Path, cells: list[str]) -> Path:
    """A notebook of code cells."""
    made = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source} for source in cells]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
    return path


def test_copies_are_the_lessons_without_what_was_found_out(copies: Path) -> None:
    """Of every lesson: each cell's source but for the way to the solutions, no output; and the exercises."""
    assert {path.name for path in copies.glob("*.ipynb")} == {path.name for path in notebooks()}
    assert len(notebooks()) >= 20
    for path in notebooks():
        theirs, ours = read(copies / path.name), read(path)
        assert "solutions/" not in "".join(c["source"] for c in theirs["cells"]), path.name
        for a, b in zip(theirs["cells"], ours["cells"], strict=True):
            assert not a.get("outputs") and not a.get("execution_count")
            same = a["source"] == b["source"]
            assert same or (a["cell_type"] == "markdown" and "](solutions/" in b["source"])
            assert len(b["source"]) - len(a["source"]) < 250, "no more than a sentence is missing"
        assert exercises(copies / path.name) == exercises(path) != []


def test_a_copy_by_hand() -> None:
    """Nothing has run, no sentence leads to the solutions, and all else is as it was."""
    text = (
        "Write it yourself. Solutions are in [solutions/01_a.ipynb](solutions/01_a.ipynb).\n\n**1. Go.** Do."
    )
    run = {"outputs": [{"text": ["3"]}], "execution_count": 4, "metadata": {"tags": ["x"]}}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": text},
        {"cell_type": "code", "source": "1 + 2"} | run,
    ]
    words, code = students.student_copy({"cells": cells, "nbformat": 4})["cells"]
    assert words["source"] == "Write it yourself.\n\n**1. Go.** Do."
    assert code == {
        "cell_type": "code",
        "source": "1 + 2",
        "outputs": [],
        "execution_count": None,
        "metadata": {},
    }
    assert cells[1]["outputs"], "the lesson itself is left alone"


def test_a_zip_holds_the_copy_and_how_to_go_about_it(copies: Path) -> None:
    for path in notebooks():
        with zipfile.ZipFile(copies / f"{path.stem}.zip") as archive:
            assert archive.namelist() == [f"{path.stem}/{path.name}", f"{path.stem}/README.txt"]
            assert archive.read(f"{path.stem}/{path.name}") == (copies / path.name).read_bytes()
            assert path.name in archive.read(f"{path.stem}/README.txt").decode("utf-8")


def test_the_same_lessons_give_the_same_bytes(
    copies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["write", str(tmp_path)]) == 0
    assert f"{len(notebooks())} student copies" in capsys.readouterr().out
    for path in sorted(copies.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_exercises_are_found_with_their_titles() -> None:
    found = exercises(lesson("12_thinking_budget"))
    assert found[:2] == [
        Exercise(1, "What is inside?", "inside", "inside"),
        Exercise(2, "The whole rule", "thought", "thought"),
    ]
    assert [e.number for e in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("name", QUICK)
def test_the_blank_fails_and_the_solved_copy_passes(name: str, copies: Path, tmp_path: Path) -> None:
    """The copy as it is handed out, run as it is handed in; then with the solutions' cells in place."""
    blank = check(copies / f"{name}.ipynb", seconds=900, limit=300)
    assert [r.line for r in blank] == ["not written yet"] * len(blank) and not any(r.ok for r in blank)
    notebook, solved = read(copies / f"{name}.ipynb"), answers(name)
    for cell in notebook["cells"]:
        for key, source in solved.items():
            if cell["cell_type"] == "code" and f"\nchecks.{key}(" in cell["source"]:
                cell["source"] = source
    done = tmp_path / "of a student.ipynb"
    done.write_text(json.dumps(notebook), encoding="utf-8")
    results = check(done, seconds=900, limit=300)
    assert [r.line for r in results] == ["ok"] * len(exercises(lesson(name)))
    assert all(r.ok for r in results)


IMPORT = "from qwen3_ref.course.checks import thinking_budget as checks"
NONSENSE: dict[str, Callable[[str], str]] = {
    "a mistake": lambda _: "def inside(ids, opening, closing):\n    return len(ids)",
    "no end": lambda _: "def inside(ids, opening, closing):\n    while True:\n        pass",
    "an exit": lambda _: "def inside(ids, opening, closing):\n    raise SystemExit",
    "another name": lambda right: right.replace("def inside(", "def within("),
    "its own verdict": lambda _: (
        "def inside(*a):\n    return 0\nprint('inside ok')\nchecks.inside = lambda f: 'ok'"
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_one_bad_answer_leaves_the_others_alone(what: str, tmp_path: Path) -> None:
    solved = answers("12_thinking_budget")
    cells = [IMPORT, "%matplotlib inline\n!echo hello", "1 / 0", NONSENSE[what](solved["inside"])]
    cells += [source for name, source in solved.items() if name != "inside"]
    results = check(save(tmp_path / "a.ipynb", cells), limit=8)
    first, *rest = results
    assert not first.ok and all(r.ok for r in rest) and len(rest) >= 2
    said = {
        "no end": "TimeoutError: no end within 8 s", "an exit": "stops with SystemExit",
        "another name": "there is no function inside; keep its name",
    }.get(what, "")  # fmt: skip
    assert said in first.line and first.line != "ok"


def test_what_ends_the_process_or_never_ends(tmp_path: Path) -> None:
    gone = check(save(tmp_path / "a.ipynb", [IMPORT, "import os\nos._exit(0)"]))
    assert {r.line for r in gone} == {"not reached: the file ended the process"}
    slow = "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(600)"
    late = check(save(tmp_path / "b.ipynb", [IMPORT, slow]), seconds=6)
    assert {r.line for r in late} == {"not reached within 6 s"}


def test_a_file_works_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(save(tmp_path / "a.ipynb", [IMPORT, "open('left', 'w').write('x')"]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "is not a notebook"),
        ('{"cells": 3}', "is not a notebook"),
        ("[]", "is not a notebook"),
        (json.dumps({"cells": []}), "belongs to no lesson"),
    ],
)
def test_files_that_are_none_of_ours(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1


def test_the_table_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [IMPORT, *answers("12_thinking_budget").values()]
    assert main(["check", str(save(tmp_path / "ada.ipynb", cells))]) == 0
    out = capsys.readouterr().out
    count = len(cells) - 1
    assert (
        out.startswith(f"ada.ipynb: {count} of {count} exercises passed\n")
        and out.count(" passed\n") == count + 1
    )
    assert main(["check", str(save(tmp_path / "bob.ipynb", [IMPORT]))]) == 1
    assert "keep its name" in capsys.readouterr().out


def test_a_lesson_that_leads_to_its_solutions_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def left(notebook: dict[str, Any]) -> dict[str, Any]:
        return notebook

    monkeypatch.setattr(students, "student_copy", left)
    with pytest.raises(ValueError, match="still leads to its solutions"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())
    assert list(table("a", [])) == ["a: 0 of 0 exercises passed"]
