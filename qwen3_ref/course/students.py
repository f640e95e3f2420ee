"""Student copies of the lessons, and what a student's file achieves.

`python -m qwen3_ref.course.students write [DIR]` (`make students`) writes each lesson without outputs and
without the way to its solutions, and a zip of it to hand out. `... check FILE` (`make check-student
NOTEBOOK=FILE`) runs a file that was handed in, in a process of its own with a time limit, and prints which
exercises are passed. The verdicts are those of our checks, called anew on the student's functions: what a
file says about itself does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_ref.store.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
LESSON = re.compile(r"^from qwen3_ref\.course\.checks import (\w+) as checks$", re.MULTILINE)
TITLE = re.compile(r"^\*\*(\d)\. (.+?)\.?\*\*", re.MULTILINE)
TO_SOLUTIONS = re.compile(r" ?[^.\n]*\[solutions/[^\]]*\]\(solutions/[^)]*\)\.?")
"""The sentence of a lesson that leads to its solutions."""
READ_ME = """{title}

You need the course's environment: Python 3.11 or newer with qwen3_ref installed, no network.
Open {file} in JupyterLab and run it from the top (Run, Run All Cells); it takes about a minute.
Write your answers in place of `raise NotImplementedError`. The line `checks.…` below each answer says "ok",
or what is wrong with it and why. Keep the names of the functions. Hand in {file}.
"""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson: the name of its check, and the name of the function that it judges."""

    number: int
    title: str
    check: str
    function: str


def notebooks() -> list[Path]:
    """The lessons with exercises, in reading order."""
    found = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(f"there are no notebooks in {ROOT / 'notebooks'}; run this in the repository.")
    return [path for path in found if exercises(path)]


def read(path: Path) -> dict[str, Any]:
    """A notebook. Raises ValueError if the file is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data["cells"], list):
            raise TypeError
        for cell in data["cells"]:
            cell["source"] = "".join(cell["source"])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not a notebook; hand in the .ipynb file as JupyterLab saves it."
        ) from None
    return dict(data)


def exercises(path: Path) -> list[Exercise]:
    """The exercises of a lesson, in order: each is a cell that ends in `checks.NAME(function)`."""
    found: list[Exercise] = []
    number, title = 0, ""
    for cell in read(path)["cells"]:
        source = cell["source"]
        if cell["cell_type"] == "markdown":
            for digits, words in TITLE.findall(source):
                number, title = int(digits), words
        elif call := re.search(r"^checks\.(\w+)\((\w+)\)$", source, re.MULTILINE):
            found.append(Exercise(number, title, call[1], call[2]))
    return found


def student_copy(notebook: dict[str, Any]) -> dict[str, Any]:
    """The lesson as it is handed out: nothing has run yet, and no sentence leads to the solutions."""
    cells = []
    for cell in notebook["cells"]:
        new = cell | {"metadata": {}}
        if cell["cell_type"] == "code":
            new |= {"outputs": [], "execution_count": None}
        else:
            new["source"] = TO_SOLUTIONS.sub("", cell["source"])
        cells.append(new)
    return notebook | {"cells": cells}


def write(folder: Path) -> list[Path]:
    """Write the copies and their zips into a folder; returns the copies. The same lessons give the same
    bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in notebooks():
        notebook = student_copy(read(path))
        left = [c["source"] for c in notebook["cells"] if "solutions/" in c["source"]]
        if left:
            raise ValueError(f"{path.name} still leads to its solutions: {left[0][:80]!r}; mend the text.")
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        copy = folder / path.name
        write_atomically(copy, text)
        title = notebook["cells"][0]["source"].splitlines()[0].lstrip("# ")
        words = READ_ME.format(title=title, file=path.name)
        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "lesson.zip"
            with zipfile.ZipFile(packed, "w") as archive:
                for name, content in ((path.name, text), ("README.txt", words)):
                    info = zipfile.ZipInfo(f"{path.stem}/{name}")  # dated 1980, whenever it is made
                    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(info, content)
            write_atomically(copy.with_suffix(".zip"), packed.read_bytes())
        written.append(copy)
    return written


# -- what a student's file achieves ----------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Of one exercise: whether our check passes, and what it says."""

    exercise: Exercise
    ok: bool
    line: str


def lesson_of(notebook: dict[str, Any], name: str) -> Path:
    """The lesson that a student's file began as, by the checks that it imports."""
    for cell in notebook["cells"]:
        found = LESSON.search(cell["source"]) if cell.get("cell_type") == "code" else None
        for path in notebooks() if found else []:
            if found and path.stem[3:] == found[1]:
                return path
    raise ValueError(
        f"{name} belongs to no lesson: no cell says `from qwen3_ref.course.checks import … as checks`."
    )


PROGRAM = """\
import json, signal, sys
import matplotlib
matplotlib.use("agg")
import qwen3_ref.course.checks.{topic} as ours

MARK, LIMIT = {mark!r}, {limit!r}
judged = [(check, function, getattr(ours, check)) for check, function in {judged!r}]
scope = {{"__name__": "handed_in"}}
sys.modules["handed_in"] = type(sys)("handed_in")


def late(*_):
    raise TimeoutError(f"no end within {{LIMIT:.0f}} s")


def within_the_limit(work):
    if hasattr(signal, "setitimer"):  # elsewhere the whole process has a limit, and this has none
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, LIMIT, 1)  # and again: a check may call an answer anew
    try:
        return work()
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


for number, cell in enumerate({cells!r}, 1):
    try:
        within_the_limit(lambda: exec(compile(cell, f"cell {{number}}", "exec"), scope))
    except BaseException as error:
        print(f"cell {{number}} raises {{type(error).__name__}}: {{error}}", file=sys.stderr)
for check, function, judge in judged:
    ok, line = False, f"there is no function {{function}}; keep its name"
    try:
        if function in scope:
            verdict = within_the_limit(lambda: judge(scope[function]))
            ok, line = bool(verdict), repr(verdict)
    except BaseException as error:
        line = f"the check stops with {{type(error).__name__}}: {{error}}"
    sys.__stdout__.write("\\n" + MARK + json.dumps([check, ok, line]) + "\\n")
    sys.__stdout__.flush()
"""
"""What the process runs: every cell that is Python, whatever it raises, then our checks, taken from the
package before the first cell of the student's runs."""


def program(notebook: dict[str, Any], lesson: Path, mark: str, limit: float) -> str:
    """PROGRAM for one file: verdicts begin with `mark`, a cell or a check may take `limit` seconds."""
    cells = [
        code(cell["source"])
        for cell in notebook["cells"]
        if cell.get("cell_type") == "code" and cell["source"].strip()
    ]
    judged = [(e.check, e.function) for e in exercises(lesson)]
    return PROGRAM.format(topic=lesson.stem[3:], mark=mark, limit=limit, judged=judged, cells=cells)


def code(source: str) -> str:
    """A cell without the lines that only IPython knows."""
    lines = [line if not re.match(r"\s*[%!?]", line) else "" for line in source.splitlines()]
    return "\n".join(lines)


def check(path: Path, seconds: float = 300, limit: float = 60) -> list[Result]:
    """Run a student's file and judge its exercises; nothing of it runs in this process.

    The process has an empty folder to work in and `seconds` to end, and each of its cells and checks `limit`
    seconds. What was not reached counts as not passed. This keeps out accidents, not malice: the code runs
    with your rights. Raises ValueError for a file that is no notebook of the course.
    """
    notebook = read(path)
    lesson = lesson_of(notebook, path.name)
    asked, mark = exercises(lesson), f"verdict {secrets.token_hex(16)} "
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    environment.pop("QWEN3_FIGURES", None)
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "handed_in.py"
        script.write_text(program(notebook, lesson, mark, limit), encoding="utf-8")
        late = False
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", script.name], cwd=scratch, env=environment,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False,
            )  # fmt: skip
            said = done.stdout
        except subprocess.TimeoutExpired as error:
            said, late = error.stdout or b"", True
    heard: dict[str, tuple[bool, str]] = {}
    for line in said.decode("utf-8", "replace").splitlines():
        if line.startswith(mark):
            name, ok, words = json.loads(line.removeprefix(mark))
            heard[name] = (ok, words)
    missing = f"not reached within {seconds:.0f} s" if late else "not reached: the file ended the process"
    return [Result(e, *heard.get(e.check, (False, missing))) for e in asked]


def table(name: str, results: Sequence[Result]) -> Iterator[str]:
    """The lines that `check` prints for a file."""
    yield f"{name}: {sum(r.ok for r in results)} of {len(results)} exercises passed"
    for r in results:
        yield f"  {r.exercise.number}  {r.exercise.title:<44} {'passed' if r.ok else r.line}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The two commands; `check` returns 1 if an exercise is not passed, 2 for a file that is none of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen3_ref.course.students", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="student copies of all lessons, and a zip of each")
    writing.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "students")
    checking = commands.add_parser("check", help="run files that were handed in")
    checking.add_argument("files", type=Path, nargs="+", metavar="FILE")
    checking.add_argument("--seconds", type=float, default=300, help="for one file (default: 300)")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "write":
            copies = write(asked.folder)
            print(f"{len(copies)} student copies, and a zip of each, in {asked.folder}")
            return 0
        passed = True
        for path in asked.files:
            results = check(path, asked.seconds)
            print("\n".join(table(path.name, results)))
            passed = passed and all(r.ok for r in results)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
