"""How much a run differs from a run: the main numbers of runs that differ in their seed alone.

The intervals of the measured table cover problems. What they leave out is that another run of the same
recipe leaves another model; that is seen only by training it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROWS = ("pretraining", "reasoning", "fusion")
"""The rows that are read: of the stages that each seed trains."""
MAIN = (
    "pretraining.s1.loss.", "pretraining.s2.loss.", "pretraining.s3.loss.", "pretraining.retrieval-1024.",
    "reasoning.pass-1", "fusion.thinking.accuracy", "fusion.non-thinking.accuracy", "fusion.budget-",
)  # fmt: skip
"""Beginnings of the ids of what is compared."""


def spread(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The main numbers of `measure` in several run directories: id, what, unit, and the value of each run.

    Raises ValueError for fewer than two runs, for two of one seed, for a row that a run has not measured,
    and for runs that measured different things.
    """
    if len(runs) < 2:
        raise ValueError("one run has no spread; give --run two directories or more, of different seeds.")
    seeds = [_seed(run) for run in runs]
    if len({*seeds}) < len(seeds):
        raise ValueError(f"the seeds of the runs are {', '.join(map(str, seeds))}; each must be another one.")
    found = [{item["id"]: item for item in _items(run)} for run in runs]
    for run, other in zip(runs[1:], found[1:], strict=True):
        if differing := sorted(found[0].keys() ^ other.keys()):
            raise ValueError(f"{differing[0]} is not in both {runs[0]} and {run}; measure them alike.")
    return [
        {
            "id": name,
            "what": item["what"],
            "unit": item["unit"],
            "values": {str(seed): of[name]["after"]["value"] for seed, of in zip(seeds, found, strict=True)},
        }
        for name, item in found[0].items()
    ]


def _seed(run: Path) -> int:
    path = run / "s1" / "summary.json"
    if not path.exists():
        raise ValueError(f"{path} is not there; give the --out of `train nano` as --run.")
    return int(json.loads(path.read_text(encoding="utf-8"))["seed"])


def _items(run: Path) -> list[dict[str, Any]]:
    from qwen3_ref.measure.table import read_result  # needs PyTorch: what is refused is so without it

    items: list[dict[str, Any]] = []
    for row in ROWS:
        path = run / "measured" / f"{row}.json"
        if not path.exists():
            raise ValueError(f"{path} is not there; run `measure {row} --run {run}` first.")
        items += [item for item in read_result(path)["items"] if item["id"].startswith(MAIN)]
    return items


def spread_table(found: Sequence[dict[str, Any]]) -> str:
    """The mean over runs, and the lowest and highest of them, as a Markdown table."""
    from qwen3_ref.measure.table import cell

    seeds = list(found[0]["values"])
    lines = [f"| what | mean of {len(seeds)} runs | lowest | highest |", "|---|---|---|---|"]
    for item in found:
        values, unit = list(item["values"].values()), item["unit"]
        numbers = (fmean(values), min(values), max(values))
        cells = [cell({"value": number, "low": None}, unit) for number in numbers]
        what = item["what"] + (f" ({unit})" if unit != "%" else "")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Seeds {', '.join(seeds)}."]) + "\n"
