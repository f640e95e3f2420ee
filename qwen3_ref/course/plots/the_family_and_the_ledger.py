"""Drawings of 24_the_family_and_the_ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3_ref.course.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    SKY,
    Drawing,
    headline,
    new_figure,
)

_COLOURS = {"true": BLUE, "imprecise": SKY, "false": ORANGE, "cannot be known": GREY}
_MARKS = "oosDv^P"


def verdicts(counts: Mapping[str, Mapping[str, int]], title: str) -> Drawing:
    """Claims by group, a bar a group, in pieces by verdict; the number stands in each piece."""
    figure, ((axes,),) = new_figure(figsize=(8.0, 4.0))
    groups = sorted(counts, key=lambda group: sum(counts[group].values()))
    start = np.zeros(len(groups))
    for verdict, colour in _COLOURS.items():
        sizes = np.array([counts[group][verdict] for group in groups])
        axes.barh(groups, sizes, left=start, color=colour, label=verdict)
        for i, size in enumerate(sizes):
            if size:
                dark = verdict in ("true", "cannot be known")
                axes.text(start[i] + size / 2, i, str(size), ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
        start += sizes
    axes.set(xlabel="claims")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8.5, loc="lower right")
    axes.set_title(title)
    return figure, {"counts": counts}


def ratios(rows: Sequence[tuple[str, float, float, str]], title: str) -> Drawing:
    """(label, lowest said over right, highest, verdict): how far a number as said is from the right one; a
    line where a range was said."""
    figure, ((axes,),) = new_figure(figsize=(8.0, 0.9 + 0.24 * len(rows)))
    ordered = sorted(rows, key=lambda row: -row[2])
    axes.axvspan(7 / 8, 9 / 8, color="#eeeeee", zorder=0)
    axes.axvline(1, color="#444444", linewidth=0.8)
    for i, (_, low, high, verdict) in enumerate(ordered):
        axes.plot([low, high], [i, i], color=_COLOURS[verdict], zorder=2)
        axes.plot([(low * high) ** 0.5], [i], "o", color=_COLOURS[verdict], markersize=6, zorder=3)
    axes.set_xscale("log")
    ticks = [0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(ordered)), [row[0] for row in ordered], fontsize=8)
    axes.set(xlabel="said / right (log scale; grey: within an eighth)", ylim=(-0.7, len(ordered) - 0.3))
    for verdict in ("true", "imprecise", "false"):
        axes.plot([], [], "o", color=_COLOURS[verdict], label=verdict)
    axes.legend(fontsize=8.5, loc="center left")
    axes.set_title(title)
    return figure, {"ratios": {row[0]: [row[1], row[2]] for row in ordered}}


def base_models(columns: Sequence[str], rows: Mapping[str, Sequence[float]], title: str) -> Drawing:
    """A table of benchmarks: a line a benchmark, a mark a model; the last model is in front."""
    figure, ((axes,),) = new_figure(figsize=(8.4, 4.8))
    names = list(rows)[::-1]
    values = np.array([rows[name] for name in names], dtype=float)
    for i, row in enumerate(values):
        axes.plot([row.min(), row.max()], [i, i], color="#dddddd", linewidth=1.5, zorder=1)
    others = [COLOURS[2], COLOURS[4], ORANGE, GREY]
    for j, column in enumerate(columns):
        last = j == len(columns) - 1
        axes.plot(values[:, j], range(len(names)), _MARKS[j + 1] if not last else "o", linestyle="",
                  color=BLUE if last else others[j], markersize=8 if last else 5.5, label=column,
                  zorder=2 if last else 3)  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set(xlabel="score, %")
    axes.legend(fontsize=8, loc="lower left")
    axes.set_title(title)
    return figure, {"columns": list(columns), "rows": {k: list(v) for k, v in rows.items()}}


def contests(tables: Mapping[str, tuple[Sequence[str], Mapping[str, Sequence[float | None]]]],
             title: str) -> Drawing:  # fmt: skip
    """A panel a table: bars of each model for two contests, the last model's in blue."""
    figure, panels = new_figure(1, len(tables), figsize=(9.2, 3.8), sharey=True)
    data: dict[str, Any] = {}
    for axes, (name, (columns, rows)) in zip(panels[0], tables.items(), strict=True):
        for k, (contest, row) in enumerate(rows.items()):
            at = np.arange(len(columns)) + 0.2 * (2 * k - 1)
            for x, value, model in zip(at, row, columns, strict=True):
                if value is None:
                    continue
                ours = model == columns[-1]
                axes.bar(x, value, 0.38, color=BLUE if ours else GREY, alpha=1 if k == 0 else 0.55)
                axes.text(x, value + 1, f"{value:.0f}", ha="center", fontsize=7.5)
            data.setdefault(name, {})[contest] = dict(zip(columns, row, strict=True))
        axes.set_xticks(range(len(columns)), [c.replace("-", "-\n", 1) for c in columns], fontsize=7)
        axes.grid(axis="x", visible=False)
        axes.set_title(name, fontsize=9.5)
    panels[0][0].set(ylabel="solved at the first attempt, %", ylim=(0, 112))
    first, second = next(iter(tables.values()))[1]
    panels[0][0].text(0.02, 0.97, f"dark: {first}, light: {second}", transform=panels[0][0].transAxes,
                      fontsize=8, va="top")  # fmt: skip
    headline(figure, title)
    return figure, data
