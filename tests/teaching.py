"""The tables of TEACHING.md that come from the course itself: `python -m tests.teaching` writes them.

Minutes are those that the lessons state, and expected wrong answers are the remarks of the exercises' checks,
in the order of tests/mistakes: each of them is what some wrong answer there is told.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from qwen3_ref.course.checks.judge import Trial, Verdict
from qwen3_ref.course.students import exercises, notebooks, read
from qwen3_ref.store.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
TEACHING = ROOT / "TEACHING.md"
GENERIC = re.compile(
    r"should be|your result|is wanted|your function|not written yet|Error|wanted is \(|that calls|"
    r"changes the (list|dict)|overwrites"
)
"""Of remarks that name no mistake."""


def remarks(topic: str, check: str) -> list[str]:
    """The remarks that a check can make, from trials drawn with one seed."""
    module = importlib.import_module(f"qwen3_ref.course.checks.{topic}")
    found: dict[str, None] = {}

    def gather(_: Any, trials: Callable[[np.random.Generator], Iterator[Trial]], **_how: Any) -> Verdict:
        for trial in trials(np.random.default_rng(0)):
            found.update(dict.fromkeys(remark for remark, _ in trial.mistakes))
        return Verdict(True, "ok")

    with mock.patch.object(module, "judge", gather):
        getattr(module, check)(lambda *_: None)
    return list(found)


def expected(topic: str, check: str) -> list[str]:
    """What wrong answers to an exercise are told, the likeliest first, as tests/mistakes has them."""
    mistakes = importlib.import_module(f"tests.mistakes.{topic}").MISTAKES[check]
    known = remarks(topic, check)
    found: dict[str, None] = {}
    for part, _ in mistakes:
        whole = min((remark for remark in known if part in remark), key=len, default=part)
        if not GENERIC.search(part) and len(whole.split()) > 2:
            found[whole] = None
    return list(found)


def wrong_answers() -> str:
    """Every exercise with the remarks on its wrong answers."""
    lines = []
    for path in notebooks():
        lines += [f"### {title(path)}", ""]
        for e in exercises(path):
            lines += [
                f"**{e.number}. {e.title}**",
                "",
                *(f"- {r}" for r in expected(path.stem[3:], e.check)),
                "",
            ]
    return "\n".join(lines).rstrip()


def title(path: Path) -> str:
    """The heading of a lesson."""
    return str(read(path)["cells"][0]["source"].splitlines()[0].removeprefix("# "))


WORDS = {"half an hour": "30", "three quarters of an hour": "45", "an hour": "60"}


def minutes(path: Path) -> tuple[str, str]:
    """What a lesson says of its time, in minutes: to read, and for the exercises, or ""."""
    (line,) = re.findall(r"^\*\*Time\*\* (.+)$", read(path)["cells"][0]["source"], re.MULTILINE)
    reading = re.match(r"(\d+) minutes", line)
    work = re.search(rf"({'|'.join(WORDS)}|\d+)(?: minutes)? for the exercises", line.lower())
    return reading[1] if reading else "", WORDS.get(work[1], work[1]) if work else ""


def table() -> str:
    """Each lesson with its minutes and exercises."""
    lines = ["| lesson | minutes to read | exercises | minutes for them |", "|---|---|---|---|"]
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        reading, work = minutes(path)
        count = len(exercises(path)) or ""
        lines.append(f"| [{title(path)}](notebooks/{path.name}) | {reading} | {count} | {work} |")
    return "\n".join(lines)


def made(text: str) -> str:
    """TEACHING.md with its tables as they should be now."""
    for name, content in {"minutes": table(), "wrong answers": wrong_answers()}.items():
        mark = re.compile(
            rf"(?<=<!-- {name}: made by `python -m tests.teaching` -->\n).*?(?=\n<!-- end -->)", re.DOTALL
        )
        if not mark.search(text):
            raise ValueError(f"TEACHING.md has no place for {name}.")
        text = mark.sub(lambda _, content=content: content, text, count=1)  # type: ignore[misc]
    return text


def main() -> int:
    """Write the tables."""
    write_atomically(TEACHING, made(TEACHING.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
