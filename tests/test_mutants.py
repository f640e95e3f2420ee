"""The runner of `python -m tests.mutants`: its mistakes compile, are told apart, and find their tests."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import EQUIVALENT, everything, report
from tests.mutants.coverage_map import ROOT, Recorded
from tests.mutants.mutations import mutants
from tests.mutants.running import Only, chosen

SOURCE = '''"""Words."""
SIZE = 3


def f(a: int, b: int = 2, *, deep: bool = True) -> int:
    """Words 7."""
    if not deep and a < b:
        raise ValueError(f"{a} is {1 + 1}")
    g(a, b, key="x", encoding="utf-8")
    return max(a[1:], d["name"]) + 0.5
'''


def test_every_kind_at_once() -> None:
    found = {(m.scope, m.statement, m.kind, m.new) for m in mutants("x.py", SOURCE)}
    assert found == {
        ("", 2, "one off", "4"),
        ("", 2, "one off", "2"),
        ("f", 0, "one off", "3"),
        ("f", 0, "one off", "1"),
        ("f", 0, "True for False", "False"),
        ("f", 2, "not left out", "deep"),
        ("f", 2, "and for or", "or"),
        ("f", 2, "another comparison", "<="),
        ("f", 3, "statement left out", "pass"),
        ("f", 4, "statement left out", "pass"),
        ("f", 4, "argument not handed on", "g(a, b, encoding='utf-8')"),
        ("f", 4, "arguments swapped", "b, a"),
        ("f", 5, "another name", "min"),
        ("f", 5, "one off", "2"),
        ("f", 5, "another end of a slice", "1 + 1"),
        ("f", 5, "misspelt key", "'name_'"),
        ("f", 5, "another operator", "-"),
        ("f", 5, "another number", "0.75"),
    }


@pytest.mark.parametrize("file", ["rope.py", "chat.py", "train/stages.py", "commands/chat.py"])
def test_mistakes_compile_and_change_one_place(file: str) -> None:
    source = (ROOT / "qwen3_ref" / file).read_text(encoding="utf-8")
    right = ast.dump(ast.parse(source))
    found = list(mutants(file, source))
    count = 0
    for mutant in found[:: len(found) // 12]:
        wrong = mutant.applied(source)
        assert ast.dump(ast.parse(wrong)) != right, (mutant.before, mutant.after)
        assert mutant.before != mutant.after
        count += 1
    assert count > 5


def test_the_tests_that_run_the_line() -> None:
    """First the file that is soonest done. A line outside functions is run by all that use its file."""
    line = next(m for m in mutants("x.py", SOURCE) if m.kind == "another comparison")
    constant = next(m for m in mutants("x.py", SOURCE) if not m.scope)
    tests = [
        Recorded("tests/a.py::slow", 50.0, frozenset({"x.py f 2"})),
        Recorded("tests/b.py::fast", 1.0, frozenset({"x.py f 2", "x.py f 3"})),
        Recorded("tests/b.py::other", 2.0, frozenset({"x.py f 4"})),
        Recorded("tests/c.py::stranger", 0.1, frozenset({"y.py f 2"})),
    ]

    def names(limit: float, mutant: object = line) -> list[str]:
        return [t.id.partition("::")[2] for group in chosen(mutant, tests, limit) for t in group]

    assert names(60) == ["fast", "slow", "other"]
    assert names(20) == ["fast", "other"]
    assert names(0.5) == ["fast"], "one at least"
    assert names(60, constant) == ["fast", "other", "slow"]


def test_the_share_by_room() -> None:
    rows = [("core.py", "noticed"), ("core.py", "survived (no test runs it)"), ("a/b.py", "noticed (hangs)")]
    rows += [("a/b.py", "equivalent")]
    lines = report([{"file": file, "verdict": verdict} for file, verdict in rows]).splitlines()[1:]
    assert [line.split() for line in lines] == [
        ["a", "1", "1", "100.0%", "1"],
        ["core", "2", "1", "50.0%", "0"],
        ["all", "3", "2", "66.7%", "1"],
        "2 of 3: 66.7% (20.8% to 93.9%)".split(),
    ]


def test_work_is_counted_and_not_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that turns in circles, or sleeps for ever, is ended; one that is done is not."""
    only, clocks = Only([], 3.0), []
    with monkeypatch.context() as patch:
        patch.setattr(signal, "setitimer", lambda clock, seconds: clocks.append((clock, seconds)))
        only.pytest_runtest_logstart()
        only.wait(0)
    work, time_by_the_clock = signal.ITIMER_PROF, signal.ITIMER_REAL
    assert clocks == [(work, 3), (time_by_the_clock, 30), (work, 0), (time_by_the_clock, 0)]

    # By a process of its own: a fork of a test that goes on would tell its results to the same master.
    for clock, what, code in (
        ("PROF", "while True: pass", -signal.SIGPROF), ("REAL", "signal.pause()", -signal.SIGALRM)
    ):  # fmt: skip
        script = f"import signal\nsignal.setitimer(signal.ITIMER_{clock}, 0.02)\n{what}"
        assert subprocess.run([sys.executable, "-c", script]).returncode == code


def test_the_equivalents_are_still_there() -> None:
    """Each is a mistake that could be drawn today, and has a reason."""
    entries = json.loads(Path(EQUIVALENT).read_text(encoding="utf-8"))
    keys = [(e["file"], e["before"], e["after"]) for e in entries]
    files = sorted({e["file"] for e in entries})
    today = {(m.file, m.before, m.after) for file in files for m in everything(file)}
    assert len(set(keys)) == len(keys)
    assert not (gone := set(keys) - today), gone
    assert all(len(e["why"].split()) > 3 for e in entries)
