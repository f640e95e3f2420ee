"""Drawings of 18_decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREY, RED, Drawing, headline, new_figure

Told = tuple[str, Sequence[float], float, float, float, str]
"""A question, its value of each seed, their mean, the ends of the interval, and its unit."""


def _forest(axes: Axes, questions: Sequence[Told], name: str = "the decision") -> dict[str, Any]:
    """Intervals about 0, one a row, in the units of the first question; points are seeds."""
    scale = 100 if questions[0][5] == "of 1" else 1
    for i, (_, values, mean, low, high, _) in enumerate(questions):
        colour = BLUE if low > 0 else RED if high < 0 else GREY
        axes.plot([scale * low, scale * high], [-i, -i], color=colour)
        axes.plot(scale * mean, -i, "o", color=colour)
        axes.plot([scale * v for v in values], [-i - 0.16] * len(values), "|", color="#444444", markersize=5)
        axes.annotate(questions[i][0], (0.01, -i), (0, 11), ("axes fraction", "data"), "offset points",
                      fontsize=8, va="center")  # fmt: skip
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set(yticks=[], ylim=(-len(questions) + 0.6, 0.55))
    unit = {"of 1": "points", "nats": "nats a token"}.get(questions[0][5], questions[0][5])
    axes.set_xlabel(f"{unit}; right of 0: for {name}")
    return {q[0]: [q[2], q[3], q[4]] for q in questions}


def answers(
    title: str, arms: Mapping[str, Sequence[float]], what: str, questions: Sequence[Told], name: str,
    joined: bool = True,
) -> Drawing:  # fmt: skip
    """Left: a number of each arm, seed by seed, the same seed joined by a line if `joined`. Right: the
    questions' intervals, blue where they lie above 0, red below, grey where they hold it."""
    figure, grid = new_figure(1, 2, figsize=(9.2, 1.1 + 0.42 * max(len(questions), len(arms), 3)))
    left, right = grid[0]
    for seed, values in enumerate(zip(*arms.values(), strict=True)):
        style = "o-" if joined else "o"
        left.plot(values, range(0, -len(arms), -1), style, color=COLOURS[seed], markersize=4, linewidth=0.8,
                  label=f"seed {seed}")  # fmt: skip
    left.set(yticks=range(0, -len(arms), -1), xlabel=what, ylim=(-len(arms) + 0.5, 0.5))
    left.set_yticklabels(list(arms), fontsize=8)
    left.legend(fontsize=7, loc="best")
    data = _forest(right, questions, name)
    headline(figure, title)
    return figure, {"arms": {k: list(v) for k, v in arms.items()}, "questions": data}


def sweep(
    title: str, rates: Sequence[float], losses: Mapping[str, Any], logits: Mapping[str, Any], ceiling: float,
    questions: Sequence[Told],
) -> Drawing:  # fmt: skip
    """Left: loss (rates, seeds) by learning rate for each variant, and that of counting tokens. Middle: the
    largest attention logit. Right: the questions' intervals."""
    figure, grid = new_figure(1, 3, figsize=(10.4, 3.0))
    for axes, numbers in zip(grid[0], (losses, logits), strict=False):
        for i, (variant, table) in enumerate(numbers.items()):
            table = np.asarray(table, np.float64)
            axes.plot(rates, table.mean(1), color=COLOURS[i], marker="osD"[i], markersize=4, label=variant)
            for seed in table.T:
                axes.plot(rates, seed, color=COLOURS[i], linewidth=0.5)
        axes.set(xscale="log", xlabel="learning rate")
    left, middle, right = grid[0]
    left.axhline(ceiling, color=GREY, linestyle=":", label="counting tokens")
    left.set_ylabel("held-out loss, nats a token")
    left.set_ylim(top=ceiling + 0.35)
    left.legend(fontsize=7, ncols=2, loc="upper center")
    middle.set(ylabel="largest attention logit", yscale="log")
    data = _forest(right, questions, "QK-Norm")
    headline(figure, title)
    return figure, {
        "losses": {k: np.asarray(v) for k, v in losses.items()},
        "logits": {k: np.asarray(v) for k, v in logits.items()},
        "questions": data,
    }
