"""The study of small models that look something up in a picture: what is asked, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.measure import sight
from qwen3_ref.store import shipped

CELLS, ROW, COLUMN = torch.tensor([[[3, 1, 4], [1, 5, 2]]]), torch.tensor([1]), torch.tensor([2])
"""A picture of 2 rows and 3 columns, and a question whose answer is 2."""


def test_a_question_by_hand() -> None:
    """Ids: the row, the column, a mark, symbols in reading order, a mark; 8 symbols, 4 rows, 4 columns."""
    ids, positions = sight.tokens("counted", CELLS, ROW, COLUMN)
    assert ids.tolist() == [[9, 14, 16, 3, 1, 4, 1, 5, 2, 17]] and positions is None
    ids, positions = sight.tokens("counted, marked", CELLS, ROW, COLUMN)
    assert ids.tolist() == [[9, 14, 16, 3, 1, 4, 18, 1, 5, 2, 18, 17]] and positions is None
    for arm in ("sectioned", "interleaved"):
        ids, positions = sight.tokens(arm, CELLS, ROW, COLUMN)
        assert ids.tolist() == [[9, 14, 16, 3, 1, 4, 1, 5, 2, 17]] and positions is not None
        assert positions[:, 0].tolist() == [
            [0, 1, 2, 3, 3, 3, 3, 3, 3, 6],
            [0, 1, 2, 3, 3, 3, 4, 4, 4, 6],
            [0, 1, 2, 3, 4, 5, 3, 4, 5, 6],
        ]


def test_arms_begin_with_the_same_weights() -> None:
    models = {arm: sight.small_model(arm, 1) for arm in sight.ARMS}
    for model in models.values():
        for ours, other in zip(model.parameters(), models["counted"].parameters(), strict=True):
            assert torch.equal(ours, other)
    axes = {arm: model.model.axes for arm, model in models.items()}
    assert axes["counted"] is None and axes["counted, marked"] is None
    assert axes["sectioned"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert axes["interleaved"].tolist() == [0, 1, 2] * 4


def test_shapes_are_kept_apart_and_ceiling_is_the_commonest_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(sight.SEEN) == 7 and set(sight.SEEN).isdisjoint(sight.HELD_OUT)
    assert {w for _, w in sight.SEEN} == {h for h, _ in sight.SEEN} == {2, 3, 4}
    monkeypatch.setattr(sight, "pictures", lambda *_: (CELLS, ROW, COLUMN))
    assert sight.ceiling([(2, 3)], 1) == pytest.approx(2 / 6)


def test_the_study_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sight.json"
    command = ["--out", str(out), "--seeds", "0", "1", "--steps", "1"]
    assert sight.main(command) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["cells"]) == list(sight.ARMS) and found["chance"] == 1 / 8
    for cell in found["cells"].values():
        assert len(cell["seen"]) == len(cell["unseen"]) == 2
        assert all(0 < share < 0.4 for share in cell["seen"] + cell["unseen"]), "after one step"
    said = capsys.readouterr().out
    assert said.count("seed 0:") == 4 and "interleaved above sectioned, shapes unseen: " in said
    before = out.read_bytes()
    found["cells"]["sectioned"]["seen"].pop()
    found["cells"]["sectioned"]["unseen"].pop()
    out.write_text(json.dumps(found), encoding="utf-8")
    assert sight.main(command) == 0 and out.read_bytes() == before, "goes on from what is there"
    assert sight.main([*command[:-1], "2"]) == 1
    assert "is of other settings" in capsys.readouterr().err
    assert sight.main([*command[:2], "--seeds", "0"]) == 1


def shipped_study() -> Any:
    folder = shipped.find_nano("qwen3-nano").parent / "measured"
    return json.loads((folder / "sight.json").read_text(encoding="utf-8"))


def test_the_shipped_study_is_whole() -> None:
    """Its settings are those of the command, its ceilings come out again, and its differences follow."""
    found = shipped_study()
    settings = {"steps": sight.STEPS, "batch": sight.BATCH, "questions": 400, "seeds": [0, 1, 2]}
    assert found["settings"] == settings
    for name, shapes in (("seen", sight.SEEN), ("unseen", sight.HELD_OUT)):
        assert found["ceiling"][name] == pytest.approx(sight.ceiling(shapes, 400))
        for arm, values in found["interleaved above"].items():
            pairs = zip(found["cells"]["interleaved"][name], found["cells"][arm][name], strict=True)
            assert values[name]["mean"] == pytest.approx(sum(a - b for a, b in pairs) / 3)
