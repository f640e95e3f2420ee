"""Drawings of 16_fusion_and_general_rl: texts with their loss mask coloured, and six figures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3_ref.course.plots.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Drawing,
    headline,
    new_figure,
)
from qwen3_ref.tokenizer import Tokenizer

Point = tuple[float, float, float]
"""(value, low, high) of a 95% interval."""


class Masked:
    """A text of tokens for a notebook, those with a loss on orange ground in HTML and between `«` and `»` in
    plain text; control tokens are bold, and in double brackets. `title`: a line above it."""

    def __init__(
        self, tokenizer: Tokenizer, ids: Sequence[int], learned: Sequence[bool], title: str = ""
    ) -> None:
        self.title = title
        names = {i: mark for mark, i in tokenizer.control_tokens.items()}
        self.runs: list[tuple[str, bool, bool]] = []  # text, whether it is a mark, whether it has a loss
        run: list[int] = []
        for place, (token, has) in enumerate(zip(ids, learned, strict=True)):
            if token in names:
                self.runs.append((names[token], True, bool(has)))
                continue
            run.append(token)
            after = ids[place + 1 : place + 2]
            if not after or after[0] in names or bool(learned[place + 1]) != bool(has):
                self.runs.append((tokenizer.decode(run), False, bool(has)))
                run = []

    def __repr__(self) -> str:
        text, on = f"{self.title}:\n" if self.title else "", False
        for part, mark, has in self.runs:
            text += ("\u00ab" if has else "\u00bb") * (has != on) + (f"\u27e6{part}\u27e7" if mark else part)
            on = has
        return text + "\u00bb" * on

    def _repr_html_(self) -> str:
        parts = []
        for text, mark, has in self.runs:
            style = "background:#ffdca8;color:#000000" if has else "color:#666666"
            style += ";font-weight:bold" if mark else ""
            shown = html.escape(text).replace("\n", "\u21b5\n")
            parts.append(f'<span style="{style}">{shown}</span>')
        title = f"<p><em>{html.escape(self.title)}</em></p>" if self.title else ""
        return f'{title}<pre style="white-space:pre-wrap;line-height:1.5">{"".join(parts)}</pre>'


def price(report: Mapping[str, Sequence[float]], nano: Mapping[str, Sequence[Point]]) -> Drawing:
    """What two stages changed, in points of thinking accuracy: the report's benchmarks (left), and our
    families with their intervals (right); each name -> (fusion, general RL)."""
    figure, grid = new_figure(1, 2, figsize=(9.2, 3.7))
    panels = ((report, "Qwen3-32B, the report's Table 22"), (nano, "qwen3-nano, 500 problems a family"))
    for axes, (rows, title) in zip(grid[0], panels, strict=True):
        names = list(rows)
        for k, (colour, mark, label) in enumerate(((BLUE, "o", "fusion"), (ORANGE, "s", "general RL"))):
            for i, name in enumerate(names):
                value: Any = rows[name][k]
                middle, low, high = value if isinstance(value, tuple) else (value, value, value)
                y = len(names) - i + (0.15 if k == 0 else -0.15)
                axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.5)
                axes.plot(middle, y, mark, color=colour, markersize=5, label=label if i == 0 else None)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set(yticks=range(len(names), 0, -1), xlabel="change, points")
        axes.set_yticklabels(names, fontsize=9)
        axes.set_title(title, fontsize=10, weight="normal")
    grid[0, 0].legend(fontsize=9, loc="lower right")
    headline(figure, "Following instructions is paid for in mathematics and code")
    return figure, {"report": dict(report), "nano": dict(nano)}


def budgets(curves: Mapping[str, Mapping[str, Point]]) -> Drawing:
    """Accuracy (0 to 1) by thinking budget, one curve a stage: budget -> point."""
    figure, grid = new_figure(figsize=(6.6, 3.2))
    axes = grid[0, 0]
    for (name, points), colour, mark in zip(curves.items(), (GREY, BLUE), "os", strict=True):
        x = np.arange(len(points))
        values = 100 * np.array(list(points.values()))
        axes.fill_between(x, values[:, 1], values[:, 2], color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, values[:, 0], mark + "-", color=colour, label=name, markersize=5)
        axes.set(xticks=x, xlabel="thinking budget, tokens", ylabel="% right", ylim=(0, 100))
        axes.set_xticklabels(points)
    axes.set_title("Fusion changes the left end alone: an answer right after the cut")
    axes.legend(loc="upper left", fontsize=9)
    return figure, {name: dict(points) for name, points in curves.items()}


def rules(found: Mapping[str, Mapping[int, Point]]) -> Drawing:
    """How often (0 to 1) a model's mode is what each rule says, by the turn that it answers in."""
    figure, grid = new_figure(figsize=(6.8, 3.3))
    axes = grid[0, 0]
    styles = zip((BLUE, RED, ORANGE, GREEN), "osD^", strict=True)
    for k, ((name, points), (colour, mark)) in enumerate(zip(found.items(), styles, strict=False)):
        turn = np.array(list(points)) + 0.06 * (k - 1.5)
        values = 100 * np.array(list(points.values()))
        spread = np.abs(values[:, 1:].T - values[:, 0])
        axes.errorbar(turn, values[:, 0], yerr=spread, color=colour, marker=mark, label=name, capsize=2)
    axes.set(xlabel="turn", ylabel="replies in that mode, %", ylim=(0, 104), xticks=list(points))
    axes.set_title("Only the last flag tells in which mode it answers")
    axes.legend(fontsize=9, loc="lower left")
    return figure, {name: {str(k): v for k, v in points.items()} for name, points in found.items()}


def first_token(steps: Sequence[int], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawing:
    """How probable it is that a thought that has been opened is empty, by step; a panel for what is asked,
    a curve for each way to train."""
    figure, grid = new_figure(1, len(curves), figsize=(8.4, 3.1), sharey=True)
    for axes, (asked, ways) in zip(grid[0], curves.items(), strict=True):
        for (name, values), colour, mark in zip(ways.items(), (RED, BLUE), "os", strict=True):
            axes.plot(steps, values, mark + "-", color=colour, markersize=4, label=name)
        axes.set(xlabel="step", ylim=(-0.03, 1.03))
        axes.set_title(asked, fontsize=10, weight="normal")
    grid[0, 0].set_ylabel("probability of an empty thought")
    grid[0, 0].legend(fontsize=8, loc="center right")
    headline(figure, "A few steps of loss on an empty block empty every thought")
    return figure, {"steps": list(steps), **{k: dict(v) for k, v in curves.items()}}


def ways(cells: Mapping[str, Mapping[str, Sequence[float]]], before: Mapping[str, float]) -> Drawing:
    """Scores (0 to 1) after each way of fine-tuning, a dot a seed and a bar for their mean, a panel for each
    measure; dashed: before."""
    names = list(cells)[::-1]
    figure, grid = new_figure(1, len(before), figsize=(12.6, 3.9), sharey=True)
    colours = [*COLOURS, "#332288", GREY]
    for axes, (what, value) in zip(grid[0], before.items(), strict=True):
        for y, name in enumerate(names):
            shares = 100 * np.array(cells[name][what])
            colour = colours[(len(names) - 1 - y) % len(colours)]
            axes.plot(shares, np.full(len(shares), y), "o", color=colour, markersize=5, alpha=0.8)
            axes.plot([shares.mean()] * 2, [y - 0.32, y + 0.32], color="black", linewidth=2)
        axes.axvline(100 * value, color=GREY, linewidth=1.2, linestyle="--")
        axes.set(xlim=(-5, 105), xticks=(0, 50, 100))
        axes.set_title(what.replace(", ", ",\n"), fontsize=9, weight="normal")
    grid[0, 0].set_yticks(range(len(names)), names, fontsize=9)
    grid[0, len(before) // 2].set_xlabel(
        "% (a dot: one seed; a black bar: their mean, no interval; dashed: before any fine-tuning)"
    )
    headline(figure, "A mask keeps the habit of thinking; what is thought is kept by rehearsal alone")
    return figure, {"cells": {k: dict(v) for k, v in cells.items()}, "before": dict(before)}


def bought(runs: Mapping[str, Mapping[str, Point]]) -> Drawing:
    """What general RL changed, in points with 95% intervals: run -> what -> point."""
    rows = list(dict.fromkeys(what for run in runs.values() for what in run))
    figure, grid = new_figure(figsize=(7.6, 0.34 * len(rows) + 1.2))
    axes = grid[0, 0]
    for k, ((run, points), colour, mark) in enumerate(zip(runs.items(), (BLUE, RED), "os", strict=False)):
        for what, (value, low, high) in points.items():
            y = len(rows) - rows.index(what) + (0.14 if k == 0 else -0.14)
            axes.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.5)
            axes.plot(value, y, mark, color=colour, markersize=5)
        asked = "" if len(points) == len(rows) else f" (asked the lower {len(points)} rows only)"
        axes.plot([], [], mark, color=colour, label=run + asked)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(
        yticks=range(len(rows), 0, -1),
        xlabel="change by general RL, points (bars: 95% interval over problems)",
    )
    axes.set_yticklabels(rows, fontsize=9)
    axes.set_title("One reward had something to buy, and sums paid for it")
    axes.legend(fontsize=8, loc="upper right")
    return figure, {run: dict(points) for run, points in runs.items()}
