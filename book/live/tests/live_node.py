"""qwen3.js in node, for tests: hand it jobs (see run.mjs), get its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

LIVE = Path(__file__).resolve().parent.parent
NANOS = LIVE.parent.parent / "qwen3_ref" / "data" / "nano"
OLDEST = 20  # node's version from which on it has all that the pages use


def ask(*jobs: dict[str, Any], module: Path = LIVE / "qwen3.js", thought: Path | None = None) -> list[Any]:
    """The answers of qwen3.js, or of another module in its place; without node the test is not checked."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("not checked: there is no node on this machine")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST:
        pytest.skip(f"not checked: node {version.strip()} is older than {OLDEST}")
    asked = {"module": str(module), "thought": str(thought or module.parent / "thought.js"), "jobs": jobs}
    done = subprocess.run(
        [node, str(LIVE / "tests" / "run.mjs")],
        input=json.dumps(asked),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout)
    return answers
