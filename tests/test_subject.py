"""The model that a lesson is about."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from qwen3_ref.config import ConfigError
from qwen3_ref.course.subject import subject
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.shipped import find_nano
from tests.execute_notebooks import cells_of, official


def test_a_nano_by_its_name_and_another_by_its_directory(tmp_path: Path) -> None:
    nano = subject("qwen3-nano-student")
    assert not nano.official and nano.estimate(2000).endswith("well within a minute.")
    place = tmp_path / "mine"
    shutil.copytree(find_nano("qwen3-nano-student"), place)
    threads = torch.get_num_threads()
    try:
        assert torch.equal(subject(str(place)).model.model.norm.weight, nano.model.model.norm.weight)
    finally:
        torch.set_num_threads(threads)


def test_an_official_snapshot_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory of the official name stands for the snapshot: what counts is where it was found."""
    shutil.copytree(find_nano("qwen3-nano-student"), tmp_path / "Qwen3-0.6B")
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    threads = torch.get_num_threads()
    try:
        found = subject("Qwen3-0.6B")
    finally:
        torch.set_num_threads(threads)
    assert found.official
    told = found.estimate(5_000_000, read=10**8, rounded=10_000)
    minutes = [
        int(re.search(r"about ([\d,]+) min", text)[1].replace(",", ""))
        for text in (  # type: ignore[index]
            found.estimate(5_000_000),
            found.estimate(0, read=10**8),
            found.estimate(0, rounded=10_000),
            told,
        )
    ]
    want = (
        "Qwen3-0.6B: 5,000,000 tokens to write, 100,000,000 to read, all weights to round 10000 times: about "
    )
    assert told.startswith(want) and min(minutes) > 1 and minutes[3] > 0.5 * sum(minutes[:3])


@pytest.mark.parametrize("number", ["09", "10", "11", "12", "19"])
def test_lessons_are_about_what_one_line_says(number: str) -> None:
    """That they run on an official snapshot, `python tests/execute_notebooks.py --snapshot` proves."""
    (path,) = (Path(__file__).parent.parent / "notebooks").glob(f"{number}_*.ipynb")
    cells = cells_of(path)
    assert official(cells) == 1
    code = [cell["source"] if cell["cell_type"] == "code" else "" for cell in cells]
    (place,) = (
        i for i, s in enumerate(code) if re.search(r'^(MODEL|SNAPSHOT) = "Qwen3-0.6B', s, re.MULTILINE)
    )
    assert place < 6, "at the top"
    assert any("estimate(" in source or "announce(" in source for source in code), "how long it will take"


def test_what_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="fetch Qwen3-32B"):
        subject("Qwen3-32B")
    with pytest.raises(ConfigError, match="not an official"):
        subject("qwen3-nan0")
