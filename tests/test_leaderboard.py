"""The class' leaderboard: what an entry scores, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leaderboard
from benchmarks.leaderboard import HEADER, Score, main, minutes_of
from qwen3_ref.measure.statistics import wilson
from qwen3_ref.store.shipped import find_nano

ROOT = Path(__file__).resolve().parent.parent


def entry(folder: Path, device: str = "cpu", **about: Any) -> Path:
    """An entry with the shipped student as its model, trained in two stages of half a minute each."""
    shutil.copytree(find_nano("qwen3-nano-student"), folder / "off-policy" / "model")
    for stage in ("s1", "off-policy"):
        (folder / stage).mkdir(exist_ok=True)
        summary = {"stage": stage, "cpu_seconds": 30.0, "device": device}
        (folder / stage / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = json.dumps({"name": "Ada | Bob", "model": "off-policy/model"} | about)
    (folder / "entry.json").write_text(text, encoding="utf-8")
    return folder


def test_a_row_says_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The student is right too seldom to be ranked; its numbers stand in the row all the same."""
    assert main([str(entry(tmp_path)), "--seed", "5", "--count", "4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(HEADER)
    row = re.search(
        r"^\| Ada / Bob \| 455,712 \| (\d+\.\d) \(.*\) \| 5 \| 1\.0 \| not ranked \|$", out, re.MULTILINE
    )
    assert row and 10 < float(row[1]) < 50 and "Not ranked: below 50% right." in out
    assert main([str(tmp_path), "--seed", "5", "--count", "4"]) == 0
    assert capsys.readouterr().out == out, "a seed draws the same problems again"


def test_scores_by_hand() -> None:
    score = Score("a", 1000, 60, 80, 7, 3.0)
    low, high = (100 * share for share in wilson(0.75, 80))
    assert score.row() == f"| a | 1,000 | 75.0 ({low:.1f} to {high:.1f}) | 7 | 3.0 | 25.00 |"
    assert Score("a", 1, 40, 80, 7, 2.0).ratio == 25 and Score("a", 1, 39, 80, 7, 2.0).ratio is None
    assert (
        Score("a", 1, 80, 80, 7, None).ratio is None
        and "not on a CPU" in Score("a", 1, 80, 80, 7, None).row()
    )


def test_minutes_are_those_of_all_stages_on_a_cpu(tmp_path: Path) -> None:
    assert minutes_of(entry(tmp_path / "a")) == 1.0
    other = entry(tmp_path / "b")
    (other / "s1" / "summary.json").write_text(
        '{"cpu_seconds": 90, "device": "NVIDIA H100"}', encoding="utf-8"
    )
    assert minutes_of(other) is None


def broken(folder: Path, what: str) -> list[str]:
    extra: list[str] = []
    if what == "the public seed":
        extra = ["--seed", "2025"]
    elif what == "no problems":
        extra = ["--count", "0"]
    elif what == "no entry.json":
        (folder / "entry.json").unlink()
    elif what == "no name":
        (folder / "entry.json").write_text('{"model": "off-policy/model"}', encoding="utf-8")
    elif what == "a model elsewhere":
        (folder / "entry.json").write_text('{"name": "a", "model": "../.."}', encoding="utf-8")
    elif what == "no logs":
        for file in folder.rglob("summary.json"):
            file.unlink()
    elif what == "no seconds":
        (folder / "s1" / "summary.json").write_text('{"device": "cpu", "cpu_seconds": 0}', encoding="utf-8")
    return extra


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("the public seed", "seed 2025 draws the problems of the published numbers"),
        ("no problems", "--count is 0; give 1 or more"),
        ("no entry.json", "entry.json"),
        ("no name", "has to hold a name and a model"),
        ("a model elsewhere", "is no folder in"),
        ("no logs", "has no summary.json"),
        ("no seconds", "states no cpu_seconds above 0"),
    ],
)
def test_what_is_refused(
    what: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = broken(entry(tmp_path / "it"), what)
    assert main([str(tmp_path / "it"), "--seed", "5", "--count", "1", *extra]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1


def test_a_large_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(leaderboard, "MOST_PARAMETERS", 400_000)
    assert main([str(entry(tmp_path)), "--seed", "5", "--count", "1"]) == 2
    assert "455,712 parameters are more than 400,000" in capsys.readouterr().err


def test_the_page_has_ten_rules_and_rows_of_this_form() -> None:
    text = (ROOT / "benchmarks" / "leaderboard.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)] == list(range(1, 11))
    assert HEADER in text and f"{leaderboard.MOST_PARAMETERS:,} parameters" in text
    rows = re.findall(r"^\| `?[\w-]+.*\|$", text.partition(HEADER)[2], re.MULTILINE)
    measured = r"\| .+ \| [\d,]+ \| [\d.]+ \([\d.]+ to [\d.]+\) \| \d+ "
    form = measured + r"\| (not on a CPU|[\d.]+) \| (not ranked|[\d.]+) \|"
    assert rows and all(re.fullmatch(form, row) for row in rows)
