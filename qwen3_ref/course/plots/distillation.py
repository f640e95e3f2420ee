"""Drawings of 17_distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

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

Point = tuple[float, float, float]
"""(value, low, high) of a 95% interval."""
_MARKS = "osD^v<>"


def table_21(report: Mapping[str, tuple[float, float, float]], nano: Mapping[str, Any]) -> Drawing:
    """Left: pass@1 and pass@64 by way of training, % right, and what it cost in GPU hours. Right: pass@1 and
    pass@8 of the nano student, with intervals, and the replies that were drawn to learn from."""
    figure, grid = new_figure(1, 2, figsize=(9.4, 3.6))
    left, right = grid[0]
    names = list(report)
    for axes, ways, title in (
        (left, report, "The report: 8B, AIME'24"),
        (right, nano, "Here: 0.5 M parameters, test problems"),
    ):
        y = np.arange(len(names))[::-1]
        for i, name in zip(y, names, strict=True):
            one, many, cost = ways[name]
            for value, colour, mark in ((one, BLUE, "o"), (many, ORANGE, "s")):
                middle, low, high = value if isinstance(value, tuple) else (value, value, value)
                axes.errorbar(
                    middle, i, xerr=[[middle - low], [high - middle]], color=colour, marker=mark, capsize=3
                )
            axes.annotate(cost, (0.0, i + 0.26), xycoords=("axes fraction", "data"), fontsize=8, color=GREY,
                          xytext=(4, 0), textcoords="offset points", va="center")  # fmt: skip
        axes.set(yticks=y, ylim=(-0.5, len(names) - 0.4), xlabel="% right")
        axes.set_title(title, fontsize=10, weight="normal")
    left.set_yticklabels(names)
    right.set_yticklabels([])
    left.set_xlim(45, 100)
    right.set_xlim(12, 65)
    for axes, many in ((left, "pass@64"), (right, "pass@8")):
        for label, colour, mark in (("pass@1", BLUE, "o"), (many, ORANGE, "s")):
            axes.plot([], [], color=colour, marker=mark, linestyle="none", label=label)
        axes.legend(fontsize=8, loc="lower right", ncols=2)
    headline(figure, "A teacher moves all that a student can say, rewards what it says first")
    return figure, {"report": dict(report), "nano": dict(nano)}


def two_peaks(x: Any, teacher: Any, panels: Mapping[str, Mapping[str, Any]]) -> Drawing:
    """The teacher's probabilities over x as bars and, a panel each, what students end as."""
    figure, grid = new_figure(1, len(panels), figsize=(9.2, 3.3), sharey=True)
    styles = {"forward": (BLUE, "-"), "reverse": (RED, "--"), "reverse, from the right": (GREEN, ":")}
    for axes, (title, students) in zip(grid[0], panels.items(), strict=True):
        axes.bar(x, teacher, color="#dddddd", width=1.0, label="teacher")
        for name, probabilities in students.items():
            colour, line = styles[name]
            axes.plot(x, probabilities, color=colour, linestyle=line, label=name)
        axes.set(xlabel="what can be said (an id from 0 to 40)")
        axes.set_title(title, fontsize=10, weight="normal")
        axes.set_ylim(0, 0.19)
        axes.legend(fontsize=8, loc="upper center", ncols=2)
    grid[0, 0].set_ylabel("probability")
    headline(figure, "A student that is too small covers (forward) or chooses (reverse)")
    return figure, {"teacher": teacher, **{k: dict(v) for k, v in panels.items()}}


def where(replies: Mapping[str, Sequence[tuple[str, float]]], width: int = 104) -> Drawing:
    """Replies as boxes of tokens, (text, KL divergence in nats), the darker the more the two disagree."""
    lines: list[tuple[str, list[tuple[int, str, float]]]] = []
    for title, tokens in replies.items():
        row: list[tuple[int, str, float]] = []
        place = 0
        for text, value in tokens:
            shown = text.replace("\n", "\u21b5").replace(" ", "\u2423")
            if place + len(shown) > width:
                lines.append((title, row))
                title, row, place = "", [], 0
            row.append((place, shown, value))
            place += len(shown) + 1
        lines.append((title, row))
    height = sum(2.6 if title else 1.3 for title, _ in lines)
    figure, grid = new_figure(figsize=(9.2, 0.27 * height + 0.8))
    axes, shades, y = grid[0, 0], colormaps["Oranges"], 0.0
    for title, row in lines:
        if title:
            y -= 1.3
            axes.text(0, y, title, fontsize=8.5, color="#444444", va="center")
        y -= 1.3
        for place, shown, value in row:
            depth = min(1.0, value / 3.0)
            axes.text(
                place, y, shown, fontsize=8.5, family="monospace", va="center",
                color="white" if depth > 0.7 else "black",
                bbox={"boxstyle": "square,pad=0.12", "facecolor": shades(0.05 + 0.9 * depth), "linewidth": 0},
            )  # fmt: skip
    axes.set(xlim=(-0.5, width + 2), ylim=(y - 1, 0.2))
    axes.axis("off")
    bar = figure.colorbar(
        _scale(shades), ax=axes, orientation="horizontal", fraction=0.035, pad=0.01, aspect=50
    )  # fmt: skip
    bar.set_label("KL(student || teacher) at the token, nats (3 and more: darkest)", fontsize=8)
    axes.set_title("A few tokens of a reply carry nearly all of the disagreement")
    return figure, {name: [value for _, value in tokens] for name, tokens in replies.items()}



def _scale(shades: Any) -> Any:
    return ScalarMappable(Normalize(0, 3), shades)


def directions(runs: Mapping[str, Mapping[str, Sequence[float]]], smooth: int = 10) -> Drawing:
    """What two runs of on-policy distillation logged by step, each point the mean of `smooth` steps: both
    divergences and the student's entropy, in nats a token."""
    figure, grid = new_figure(1, 3, figsize=(9.6, 3.2))
    titles = {"reverse": "KL(student || teacher)", "forward": "KL(teacher || student)", "entropy": "entropy"}
    data: dict[str, Any] = {}
    for (key, title), axes in zip(titles.items(), grid[0], strict=True):
        for (name, log), colour, line in zip(runs.items(), (RED, BLUE), "-s", strict=True):
            values = np.array(log[key])[: len(log[key]) // smooth * smooth].reshape(-1, smooth).mean(1)
            steps = smooth * (np.arange(len(values)) + 0.5)
            mark = "" if line == "-" else "s"
            axes.plot(steps, values, color=colour, marker=mark, markersize=3, label=name)
            data.setdefault(name, {})[key] = values
        axes.set(xlabel="step", ylim=(0, None))
        axes.set_title(title, fontsize=10, weight="normal")
    grid[0, 0].set_ylabel("nats a token")
    grid[0, 0].legend(fontsize=8)
    headline(figure, "Reverse KL makes a student nearer on its own side, and surer of itself")
    return figure, data


def healed(ways: Mapping[str, Mapping[str, Any]], lines: Mapping[str, tuple[float, float]]) -> Drawing:
    """Accuracy after each way of healing, a mark a seed and a bar for their mean, greedy (left) and sampled;
    lines: what the teacher and the pruned model reach without training."""
    figure, grid = new_figure(1, 2, figsize=(9.6, 3.9), sharey=True)
    names = list(ways)[::-1]
    colours = dict(zip(ways, (*COLOURS, GREY), strict=False))
    for k, (axes, what) in enumerate(zip(grid[0], ("greedy", "sampled"), strict=True)):
        for y, name in enumerate(names):
            values = 100 * np.array(ways[name][what])
            axes.plot(values, np.full(len(values), y), "o", color=colours[name], markersize=5, alpha=0.8)
            axes.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color="black", linewidth=2)
        for (name, value), line in zip(lines.items(), ("--", ":"), strict=False):
            axes.axvline(100 * value[k], color=GREY, linewidth=1, linestyle=line, label=name)
        axes.set(xlabel="% right", xlim=(0, 100))
        axes.set_title("greedy" if k == 0 else "drawn at temperature 1", fontsize=10, weight="normal")
    minutes = [f"{name} ({np.mean(ways[name]['seconds']) / 60:.1f} min)" for name in names]
    grid[0, 0].set_yticks(range(len(names)), minutes, fontsize=9)
    grid[0, 1].legend(fontsize=8, loc="lower right")
    headline(figure, "A teacher heals a pruned model, rewards a little, its own words not at all")
    return figure, {"ways": {k: dict(v) for k, v in ways.items()}, "lines": dict(lines)}
