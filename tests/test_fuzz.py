"""2,000 mutated files and replies, the same on every run; `python -m tests.fuzz` has more."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX timers")
def test_mutated_files_meet_the_documented_error() -> None:
    from tests.fuzz import problems

    assert problems(2000, seed=0) == []
