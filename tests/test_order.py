"""Order without positions: what is proved of one layer, the ceiling by hand, and what ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import qwen3_ref
from qwen3_ref.measure import order

KEPT = Path(qwen3_ref.__file__).parent / "data/nano/measured/order.json"


def test_one_layer_without_positions_is_a_bag_and_two_are_not() -> None:
    """Exchange two letters before the last: the last logits stay in one layer, and change in two."""
    ids = order.letters(3, 4)
    other = ids.clone()
    other[:, [2, 9]] = ids[:, [9, 2]]
    assert not torch.equal(ids, other)
    with torch.inference_mode():
        apart = {
            (layers, positions): float((model(ids) - model(other))[:, -1].abs().max())
            for layers, positions in order.CELLS
            for model in [order.small_model(layers, positions, seed=0)]
        }
    assert apart[1, False] < 1e-6
    assert min(apart[1, True], apart[2, False], apart[2, True]) > 1e-4


def test_asked_is_two_back() -> None:
    ids = order.letters(0, 2)
    found, want = order.asked(torch.arange(17).view(1, 17, 1).expand(2, 17, 1), ids)
    for place, at in enumerate(found[0, :, 0].tolist()):
        assert torch.equal(want[:, place], ids[:, at - order.BACK])
    assert found[0, 0, 0] == 3 and found[0, -1, 0] == 16, "the first token is no letter and never asked for"


def test_ceiling_by_hand() -> None:
    """Letters 5 5 6 ... : before the third stand 5 5, before the fourth 5 5 6, before the fifth 5 5 6 6."""
    text = torch.tensor([[0, 5, 5, 6, 6, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]])
    assert order.ceiling(text)[:3] == pytest.approx([1, 2 / 3, 1 / 2])


def test_what_ships_says_so() -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    cells = {name: np.array(found) for name, found in kept["cells"].items()}
    ceiling = np.array(kept["ceiling"])
    assert kept["settings"] == {"letters": 8, "length": 16, "back": 2, "steps": 400, "seeds": [0, 1, 2, 3, 4]}
    assert np.allclose(order.ceiling(order.letters(7, 2_000)), ceiling, atol=1e-4)
    assert cells["1 layer, no positions"].mean(1).max() < ceiling.mean() + 0.01
    assert cells["2 layers, no positions"].mean(1).min() > 0.95
    assert min(cells[f"{name}, RoPE"].min() for name in ("1 layer", "2 layers")) > 0.99


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert order.main(["--out", str(tmp_path / "o.json"), "--seeds", "0", "--steps", "2"]) == 0
    made = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert {name: np.shape(found) for name, found in made["cells"].items()} == {
        f"{layers}, {positions}": (1, 14)
        for layers in ("1 layer", "2 layers")
        for positions in ("RoPE", "no positions")
    }
    assert "2 layers, no positions, seed 0" in capsys.readouterr().out
    assert order.main(["--out", str(tmp_path / "o.json" / "no"), "--seeds", "0", "--steps", "1"]) == 1
    assert "error: " in capsys.readouterr().err
