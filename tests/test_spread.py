"""The spread of runs over their seeds, on results written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref.commands import line as cli
from qwen3_ref.measure import spread as spread_module
from qwen3_ref.measure.spread import spread

ITEMS = {
    "pretraining": {"pretraining.s1.loss.code": 3.0, "pretraining.reach-512.plain": 0.9},
    "reasoning": {"reasoning.pass-1": 0.8, "reasoning.pass-8": 0.9},
    "fusion": {"fusion.thinking.accuracy": 0.9, "fusion.budget-8.accuracy": 0.1, "fusion.obeyed.think": 1.0},
}
"""Of each row some items, of which those of pass@8, of reach and of obeying are not of the main numbers."""


def measured(run: Path, seed: int, more: float) -> Path:
    """A run in which every value is `more` than in ITEMS, after; before it was 0."""
    (run / "s1").mkdir(parents=True)
    (run / "s1" / "summary.json").write_text(json.dumps({"seed": seed}), encoding="utf-8")
    (run / "measured").mkdir()
    for row, values in ITEMS.items():
        items: list[dict[str, Any]] = [
            {
                "id": name, "what": name.upper(), "unit": "nats" if "loss" in name else "%",
                "before": {"value": 0.0}, "after": {"value": value + more, "low": 0, "high": 1, "n": 9},
            }
            for name, value in values.items()
        ]  # fmt: skip
        data = {"items": items, "missing": []}
        (run / "measured" / f"{row}.json").write_text(json.dumps(data), encoding="utf-8")
    return run


def test_the_spread_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [measured(tmp_path / str(seed), seed, more) for seed, more in ((0, 0.0), (7, 0.03), (2, -0.06))]
    assert cli.main(["measure", "spread", "--run", *map(str, runs)]) == 0
    assert capsys.readouterr().out == (
        "| what | mean of 3 runs | lowest | highest |\n|---|---|---|---|\n"
        "| PRETRAINING.S1.LOSS.CODE (nats) | 2.99 | 2.94 | 3.03 |\n"
        "| REASONING.PASS-1 | 79.0% | 74.0% | 83.0% |\n"
        "| FUSION.THINKING.ACCURACY | 89.0% | 84.0% | 93.0% |\n"
        "| FUSION.BUDGET-8.ACCURACY | 9.0% | 4.0% | 13.0% |\n"
        "\nSeeds 0, 7, 2.\n"
    )
    found = json.loads((runs[0] / "measured" / "spread.json").read_text(encoding="utf-8"))["spread"]
    assert found == spread(runs)
    assert found[1]["values"] == {"0": 0.8, "7": pytest.approx(0.83), "2": pytest.approx(0.74)}
    assert not (runs[1] / "measured" / "spread.json").exists()


def test_the_values_are_those_after_a_stage(tmp_path: Path) -> None:
    found = spread([measured(tmp_path / "a", 0, 0.0), measured(tmp_path / "b", 1, 0.5)])
    assert [item["values"] for item in found][:2] == [{"0": 3.0, "1": 3.5}, {"0": 0.8, "1": 1.3}]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one, two, same = (measured(tmp_path / name, seed, 0) for name, seed in (("a", 0), ("b", 1), ("c", 0)))
    with pytest.raises(ValueError, match="one run has no spread; give --run two directories or more"):
        spread([one])
    with pytest.raises(ValueError, match="the seeds of the runs are 0, 1, 0; each must be another one"):
        spread([one, two, same])
    path = two / "measured" / "reasoning.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"items": data["items"][1:]}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"reasoning.pass-1 is not in both .*/a and .*/b; measure them alike"
    ):
        spread([one, two])
    path.unlink()
    with pytest.raises(ValueError, match=r"reasoning.json is not there; run `measure reasoning --run .*/b`"):
        spread([one, two])
    with pytest.raises(ValueError, match=r"c0/s1/summary.json is not there; give the --out of `train nano`"):
        spread([tmp_path / "c0", one])


def test_the_main_numbers_are_measured() -> None:
    """Each beginning is that of a row that is read."""
    for name in spread_module.MAIN:
        assert name.split(".")[0] in spread_module.ROWS
