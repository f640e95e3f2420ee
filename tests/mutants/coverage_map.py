"""The map of which test runs which statement: made file by file, kept in a file that git ignores."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_ref.store.files import write_atomically
from tests.mutants.forks import fork

ROOT = Path(__file__).resolve().parents[2]
MAP = ROOT / "tests/mutants/map.tmp"
ELSEWHERE = ("test_faults.py", "test_mutants.py")
"""Files that run the others' tests again, or none of the package."""


@dataclass(frozen=True)
class Recorded:
    """One test: its address, the CPU time that it takes, its processes included, and what it runs."""

    id: str
    seconds: float
    ran: frozenset[str]

    @property
    def file(self) -> str:
        return self.id.partition("::")[0]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(file: Path, root: Path) -> dict[str, Any]:
    """What the tests of one file run, from a process of its own. Raises RuntimeError if none can be run."""

    def work() -> int:
        import pytest

        options = ["-q", "-p", "tests.mutants.recording", "-p", "no:cacheprovider", "-k", "not true_layer"]
        return int(pytest.main([*options, str(file)]))

    with tempfile.TemporaryDirectory() as folder:
        target, log = Path(folder) / "found.json", Path(folder) / "log.txt"
        os.waitpid(fork(root, log, work, QWEN3_RECORD=str(target)), 0)
        if not target.exists():
            said = log.read_text("utf-8", errors="replace")
            raise RuntimeError(f"{file.name} could not be run:\n{said[-2000:]}")
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def bring_up_to_date(root: Path = ROOT, *, afresh: bool = False, say: Any = print) -> None:
    """Record the test files that have changed since they were last recorded (all of them: afresh).

    What changes in the package since then is no reason: statements are known by their functions.
    """
    known: dict[str, Any] = json.loads(MAP.read_text(encoding="utf-8")) if MAP.exists() and not afresh else {}
    files = [p for p in sorted((root / "tests").glob("test_*.py")) if p.name not in ELSEWHERE]
    known = {file.name: known[file.name] for file in files if file.name in known}
    for file in files:
        sha = digest(file)
        if known.get(file.name, {}).get("sha256") == sha:
            continue
        found = record(file, root)
        known[file.name] = {"sha256": sha} | found
        failed = [name for name, test in found["tests"].items() if not test["passed"]]
        seconds = sum(test["seconds"] for test in found["tests"].values())
        say(f"recorded {file.name}: {len(found['tests'])} tests, {seconds:.0f} s", *failed, sep="\n  failed ")
        write_atomically(MAP, json.dumps(known))


def tests() -> Iterator[Recorded]:
    """Every recorded test that passed."""
    for found in json.loads(MAP.read_text(encoding="utf-8")).values():
        for name, test in found["tests"].items():
            if test["passed"]:
                yield Recorded(name, test["seconds"], frozenset(found["keys"][i] for i in test["ran"]))
