"""What was measured of the nano family, and how it is printed: one Markdown table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from qwen3_ref.measure.accuracy import PROTOCOL, Row, summarise
from qwen3_ref.measure.statistics import STUDENT, effective, rises, wilson
from qwen3_ref.tasks.problems import FAMILIES


@dataclass(frozen=True)
class Number:
    """A value, its 95% interval (None: it was counted, not sampled), and what it rests on: n problems,
    or tokens of a loss."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Item:
    """One line of the table. id: what thresholds call it, and never changes; what: how a reader knows it.
    unit: "%" (values are shares), else as the values are. before: None where there is nothing to compare
    with. change: after less before on the same problems, paired; None where the problems differ."""

    id: str
    what: str
    before: Number | None
    after: Number
    unit: str = "%"
    change: Number | None = None


def versus(
    id: str,
    what: str,
    pair: Iterable[Sequence[Row]],
    of: Callable[[Sequence[Row]], Number] | None = None,
    score: Score | None = None,
) -> Item:
    """The item of answers to the same problems before and after. of: the number of each (`accuracy`);
    score: of one problem's answers, whose mean that number is (the share of right ones)."""
    before, after = pair
    of = of or accuracy
    return Item(id, what, of(before), of(after), change=change(before, after, score or right))


def versus_hits(id: str, what: str, pair: Iterable[Sequence[bool]]) -> Item:
    """The same of hits, one a problem."""
    before, after = pair
    gained = [int(a) - int(b) for b, a in zip(before, after, strict=True)]
    return Item(id, what, share(before), share(after), change=mean_of(gained))


def share(hits: Sequence[bool]) -> Number:
    """The share of hits, with Wilson's 95% interval."""
    return Number(fmean(hits), *wilson(fmean(hits), len(hits)), len(hits))


def share_of(groups: Sequence[Sequence[bool]]) -> Number:
    """The share of hits that come in groups of equal size, such as questions about one list."""
    value = fmean(map(fmean, groups))
    return Number(value, *wilson(value, effective(groups)), sum(map(len, groups)))


def mean_of(values: Sequence[float], each: int = 1, quantile: float | None = None) -> Number:
    """The mean, with a 95% interval: the normal one, or of another `quantile` (Student's, for a few
    seeds). `n` counts each value `each` times."""
    quantile = NormalDist().inv_cdf(0.975) if quantile is None else quantile
    half = quantile * stdev(values) / len(values) ** 0.5
    return Number(fmean(values), fmean(values) - half, fmean(values) + half, len(values) * each)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """`mean_of` one value a seed, 2 to 8 of them, with Student's quantile, as JSON values."""
    number = mean_of(values, quantile=STUDENT[len(values)])
    return {"mean": number.value, "low": number.low, "high": number.high}


Score = Callable[[Sequence[Row]], float]


def right(rows: Sequence[Row]) -> float:
    """The share of right answers among those to one problem."""
    return fmean(r.correct for r in rows)


def lenient(rows: Sequence[Row]) -> float:
    """The same, judged by what stands behind the last `</think>`."""
    return fmean(r.lenient for r in rows)


def any_right(rows: Sequence[Row]) -> float:
    """1 if any of a problem's answers is right."""
    return float(any(r.correct for r in rows))


def change(before: Sequence[Row], after: Sequence[Row], score: Score = right) -> Number:
    """How much higher `after` scores on the same problems, as a paired difference: what is hard for both
    does not widen the interval. Samples of one problem make one score: they are not independent of each
    other. Raises ValueError if the problems differ."""
    if [(r.problem, r.sample) for r in before] != [(r.problem, r.sample) for r in after]:
        raise ValueError("before and after hold answers to different problems; measure them alike.")
    pairs = defaultdict[object, list[tuple[Row, Row]]](list)
    for b, a in zip(before, after, strict=True):
        pairs[a.problem].append((b, a))
    scores = [[score(rows) for rows in zip(*both, strict=True)] for both in pairs.values()]
    return mean_of([new - old for old, new in scores])


def accuracy(rows: Sequence[Row]) -> Number:
    """pass@1 over all rows; n counts problems."""
    (found,) = summarise(rows, by=()).values()
    return Number(found.pass_1, found.low, found.high, found.problems)


def lenient_accuracy(rows: Sequence[Row]) -> Number:
    """The same, judged by what stands behind the last `</think>`."""
    (found,) = summarise(rows, by=()).values()
    return Number(found.lenient, *wilson(found.lenient, found.problems), found.problems)


def any_of(rows: Sequence[Row]) -> Number:
    """pass@k with k = all samples of a problem: the share of problems that any of them solves."""
    (found,) = summarise(rows, by=()).values()
    return Number(found.pass_k, *wilson(found.pass_k, found.problems), found.problems)


def read_result(path: Path) -> dict[str, Any]:
    """What `measure` wrote of a row. Raises ValueError, naming the file, if it is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "items" not in found:
        raise ValueError(f"{path} is not a result of `measure {path.stem}`; delete it and measure again.")
    return found


# -- what a run must reach -----------------------------------------------------------------------------

AT_LEAST: Mapping[str, float] = {
    "pretraining.retrieval-1024.abf": 0.75,
    "reasoning.pass-1.change": 0.02,
    "fusion.thinking.accuracy": 0.75,
    "fusion.thinking.accuracy.change": -0.02,
    "fusion.obeyed.no-think": 0.95,
    "fusion.obeyed.think": 0.95,
    "general.mode.many-turns": 0.98,
    "general.tool-call.valid": 0.95,
    "general.length.obeyed": 0.8,
}
"""What the shipped run must measure, by the items' ids, and with ".change" of their change. A run of another
seed may miss one: of three, one had not learned to look up after S3."""
ABOVE = (
    ("pretraining.retrieval-1024.abf", "pretraining.retrieval-1024.no-abf"),
    ("fusion.budget-32.accuracy", "fusion.budget-0.accuracy"),
    ("fusion.thinking.accuracy", "fusion.non-thinking.accuracy"),
)
"""Pairs where the first must be above the second, with their 95% intervals apart."""
RISING = 3
"""Families, at least, whose accuracy rises with the budget, within error."""


def thresholds(folder: Path, rows: Sequence[str]) -> list[tuple[bool, str]]:
    """Each threshold as a sentence, and whether it is reached. A line that is not measured is not."""
    paths = [folder / f"{row}.json" for row in rows]
    if absent := [path for path in paths if not path.exists()]:
        return [(False, f"{path} is not there; run `measure {path.stem}` first.") for path in absent]
    results = [read_result(path) for path in paths]
    items = {item.get("id"): item for result in results for item in result["items"]}  # old ones have none
    found: list[tuple[bool, str]] = []
    for name, least in AT_LEAST.items():
        changed = name.endswith(".change")
        item = items.get(name.removesuffix(".change"))
        value = None if item is None else item.get("change") if changed else item["after"]
        if item is None or value is None:
            found.append((False, f"{name}: not measured"))
            continue
        unit = "points" if changed else item["unit"]
        bound = cell({"value": least, "low": None}, unit)
        what = item["what"] + (", its change" if changed else "")
        found.append((value["value"] >= least, f"{what}: {cell(value, unit)}, at least {bound}"))
    for name, other in ABOVE:
        if name not in items or other not in items:
            found.append((False, f"{other if name in items else name}: not measured"))
            continue
        high, low = items[name]["after"], items[other]["after"]
        told = f"{items[name]['what']}: {cell(high, '%')}, above {items[other]['what']}: {cell(low, '%')}"
        found.append((high["low"] > low["high"], told))
    curves = [c for result in results for c in result.get("curves", []) if c["stage"] == "fusion"]
    by_family = {f: [c for c in curves if c["family"] == f and c["mode"] == "thinking"] for f in FAMILIES}
    rising = [f for f, c in by_family.items() if c and rises([p["low"] for p in c], [p["high"] for p in c])]
    told = f"accuracy rises with the budget: {', '.join(rising) or 'no family'}, at least {RISING} families"
    return [*found, (len(rising) >= RISING, told)]


# -- the table -----------------------------------------------------------------------------------------


def render(folder: Path, rows: Sequence[str]) -> tuple[str, list[str]]:
    """The table of all rows that were measured, and a sentence for each that was not.

    Raises ValueError if there is none.
    """
    lines, after, missing = list[str](), list[str](), list[str]()
    for row in rows:
        path = folder / f"{row}.json"
        if not path.exists():
            missing.append(f"{path} is not there; run `measure {row}` first.")
            continue
        data = read_result(path)
        lines += [_line(item, row) for item in data["items"]]
        missing += data["missing"]
        if steps := data.get("accuracy_by_step"):
            curve = ", ".join(f"{step}: {100 * found['value']:.1f}" for step, found in steps.items())
            asked = next(iter(steps.values()))["n"]
            after += [f"GRPO, pass@1 in % by step ({asked} problems, `measure reasoning`): {curve}.", ""]
        if students := data.get("table_21"):
            after += [*_table_21(students), ""]
    if not lines:
        raise ValueError(f"nothing is measured in {folder}; run `measure all` first.")
    head = ["| what | before | after | change | n | measured by |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines, "", NOTE, "", *after]).rstrip("\n") + "\n", missing


def _line(item: Mapping[str, Any], row: str) -> str:
    unit = item["unit"]
    what = item["what"] + (f" ({unit})" if unit != "%" else "")
    before = "" if item["before"] is None else cell(item["before"], unit)
    change = "" if item.get("change") is None else cell(item["change"], CHANGES.get(unit, unit), sign="+")
    # A value that was counted rests on itself.
    n = "" if item["after"]["low"] is None else f"{item['after']['n']:,}"
    cells = [what, before, cell(item["after"], unit), change, n, f"`python -m qwen3_ref measure {row}`"]
    return f"| {' | '.join(cells)} |"


NOTE = (
    f"Changes are of the same problems, in percentage points or in the row's unit. {PROTOCOL} Intervals are "
    f"of 95% and cover problems, not training runs: another run of the same recipe differs by more."
)
CHANGES = {"%": "points"}
"""The unit of a change."""


def cell(number: Mapping[str, Any], unit: str, sign: str = "") -> str:
    """ "61.2% (58.0 to 64.3)" of a share; replies are whole; other units as they are, with two decimals."""
    if unit == "replies":
        return f"{number['value']:,.0f}"
    scale, digits = (100, 1) if unit in ("%", "points") else (1, 2)
    sign = "+" if unit == "points" else sign
    percent = "%" if unit == "%" else ""
    text = f"{scale * number['value']:{sign}.{digits}f}{percent}"
    if number["low"] is None:
        return text
    return f"{text} ({scale * number['low']:{sign}.{digits}f} to {scale * number['high']:{sign}.{digits}f})"


def _table_21(students: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The layout of the report's Table 21: a method a line, its scores and what it cost."""
    columns = list(next(iter(students.values())))
    lines = [f"| student | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for stage, numbers in students.items():
        cells = [cell(numbers[c], "replies" if c == "replies drawn" else "%") for c in columns]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return lines
