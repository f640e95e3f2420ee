"""One mistake at a time: a copy of the tree, a forked process, the tests that run the line."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.mutants.coverage_map import ROOT, Recorded
from tests.mutants.forks import fork
from tests.mutants.mutations import Mutant

COPIED = "qwen3_ref tests notebooks figures benchmarks README.md Makefile environment.yml pyproject.toml"
COPIED += " requirements.lock"
NOTICED, SURVIVED, HANGS, UNRUN = "noticed", "survived", "noticed (hangs)", "survived (no test runs it)"


def chosen(mutant: Mutant, tests: Iterable[Recorded], limit: float) -> list[list[Recorded]]:
    """The tests that run the line, file by file: what is done soonest first, up to so many seconds.

    A line outside functions, or a default, is run by all that use the file, and looked at by a test that
    has the file's name in brackets. At the end come the other tests of the file that runs the line most
    often: what a cache holds may have been made before them.
    """
    tests = list(tests)
    function = f"{mutant.file} {mutant.scope} "
    keys = [f"{function}{mutant.statement}", function, f"{mutant.file} "]
    hits: list[Recorded] = []
    for exactly, key in zip((True, False, False), keys, strict=True):  # what is new has no recording yet
        if not hits and (mutant.scope or key == keys[-1]):
            hits = [t for t in tests if (key in t.ran if exactly else any(k.startswith(key) for k in t.ran))]
    if not mutant.scope or mutant.statement == 0:
        hits += [t for t in tests if t.id.endswith(f"[{mutant.file}]") and t not in hits]
    files: dict[str, list[Recorded]] = defaultdict(list)
    for test in sorted(hits, key=lambda t: t.seconds):
        files[test.file].append(test)
    groups = sorted(files.values(), key=lambda group: sum(t.seconds for t in group))
    if files:
        most = max(files, key=lambda name: len(files[name]))
        groups.append(sorted((t for t in tests if t.file == most and t not in hits), key=lambda t: t.seconds))
    spent, kept = 0.0, []
    for group in groups:
        part = []
        for test in group:
            if spent + test.seconds <= limit or not kept and not part:
                spent += test.seconds
                part.append(test)
        if part:
            kept.append(part)
    return kept


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """So many copies of the tree, compiled, to put mistakes into."""
    with tempfile.TemporaryDirectory(prefix="qwen3-mutants-") as folder:
        trees = [Path(folder) / str(i) for i in range(count)]
        for tree in trees:
            tree.mkdir()
            for name in COPIED.split():
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
                copy(ROOT / name, tree / name)
        yield trees


class Only:
    """A pytest plugin that runs these tests in this order, and ends the process in one that hangs. Unlike ids
    on the command line, one that is not there (a case is named by a path, or by what the mistake changes) is
    no error."""

    def __init__(self, ids: list[str], seconds: float) -> None:
        self.place, self.seconds = {name: i for i, name in enumerate(ids)}, seconds

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        chosen = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(chosen, key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logstart(self) -> None:
        self.wait(self.seconds)

    @staticmethod
    def wait(seconds: float) -> None:
        """End this process after so many seconds of its own work, as others may work beside it, or after ten
        times as many by the clock: then it sleeps. 0: never."""
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _tests(groups: list[list[Recorded]], slowest: dict[str, float]) -> int:
    """Run the tests, file by file: 0 if all pass. What takes three times as long as the slowest test of its
    file, and 20 seconds more, hangs: a fixture may be made for another test than it was recorded for."""
    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
    settings.load_profile("mutants")
    for group in groups:
        file = group[0].file
        only = Only([test.id for test in group], 20 + 3 * slowest[file])
        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "--no-header", file]
        only.wait(only.seconds)
        code = int(pytest.main(options, plugins=[only]))
        only.wait(0)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):  # none: all have new names
            return code
    return 0


def failing(ids: Iterable[str], tests: Iterable[Recorded]) -> set[str]:
    """Which of these tests fail without any mistake, now and on this machine: they notice nothing."""
    wanted, found = set(ids), set()
    with copies(1) as (tree,):
        for test in (t for t in tests if t.id in wanted):
            pid = fork(tree, tree / "log.tmp", functools.partial(_tests, [[test]], {test.file: 1e3}))
            if os.waitpid(pid, 0)[1]:
                found.add(test.id)
    return found


def run(
    mutants: list[Mutant], tests: list[Recorded], *, jobs: int, limit: float
) -> Iterator[tuple[Mutant, str, str]]:
    """(mutant, verdict, what the first failing test says) of each, as they are done.

    Raises RuntimeError if a process ends in a way that says nothing (out of memory, say).
    """
    slowest: dict[str, float] = defaultdict(float)
    for test in tests:
        slowest[test.file] = max(slowest[test.file], test.seconds)
    waiting = list(reversed(mutants))
    sources = {m.file: (ROOT / "qwen3_ref" / m.file).read_text(encoding="utf-8") for m in mutants}
    busy: dict[int, tuple[Mutant, int]] = {}
    with copies(jobs) as trees:
        free = list(range(jobs))
        while waiting or busy:
            while waiting and free:
                mutant = waiting.pop()
                groups = chosen(mutant, tests, limit)
                if not groups:
                    yield mutant, UNRUN, ""
                    continue
                slot = free.pop()
                where = trees[slot] / "qwen3_ref" / mutant.file
                where.write_text(mutant.applied(sources[mutant.file]), encoding="utf-8")
                for stale in (where.parent / "__pycache__").glob(f"{where.stem}.*.pyc"):
                    stale.unlink()
                pid = fork(trees[slot], trees[slot] / "log.tmp", functools.partial(_tests, groups, slowest))
                busy[pid] = mutant, slot
            time.sleep(0.05)
            for pid, (mutant, slot) in list(busy.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if not done:
                    continue
                try:
                    os.killpg(pid, signal.SIGKILL)  # and what its tests have started
                except ProcessLookupError:
                    pass
                del busy[pid]
                free.append(slot)
                where = trees[slot] / "qwen3_ref" / mutant.file
                where.write_text(sources[mutant.file], encoding="utf-8")
                said = (trees[slot] / "log.tmp").read_text("utf-8", errors="replace")
                code = os.waitstatus_to_exitcode(status)
                hangs = code in (-signal.SIGPROF, -signal.SIGALRM)
                if not hangs and code not in (0, 1, 2):  # passed, failed, could not be imported
                    raise RuntimeError(f"pytest ended with {code} on {mutant.after}\n{said[-2000:]}")
                verdict = HANGS if hangs else SURVIVED if code == 0 else NOTICED
                why = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
                yield mutant, verdict, why[0] if why else "" if code == 0 else said[-300:]
