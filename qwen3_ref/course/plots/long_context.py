"""Drawings of 10_long_context, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.patches import Wedge
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREEN, GREY, ORANGE, RED, SKY, Drawing, new_figure
from qwen3_ref.measure.statistics import effective, wilson
from qwen3_ref.measure.table import mean_of

NAMES = {
    "plain": "as trained",
    "linear": "position interpolation",
    "ntk": "NTK-aware",
    "dynamic": "dynamic NTK",
    "by-parts": "NTK by parts",
    "yarn": "YaRN",
    "yarn, m = 1": "YaRN without m",
    "dual-chunk": "DCA without scale",
    "dual-chunk, m": "DCA, logits times m\u00b2",
}
Marks = Sequence[str]
"""For each list a string of 0 and 1, one a question."""


def share(marks: Marks, part: slice = slice(None)) -> tuple[float, float, float]:
    """(share right, low, high): Wilson's interval for as many problems as the lists are worth, since
    questions about one list are not independent."""
    groups = [[mark == "1" for mark in text[part]] for text in marks]
    value = fmean(map(fmean, groups))
    return (value, *wilson(value, effective(groups)))


def gain(new: Marks, old: Marks) -> tuple[float, float, float]:
    """(mean change, low, high) over the lists that both have read, each against itself."""
    changes = [
        fmean(int(a) - int(b) for a, b in zip(x, y, strict=True)) for x, y in zip(new, old, strict=False)
    ]
    return mean(changes)


def mean(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with the normal 95% interval."""
    found = mean_of(values)
    assert found.low is not None and found.high is not None
    return found.value, found.low, found.high


def dials(inv_freq: NDArray[Any], pairs: Sequence[int], trained: int, longer: int) -> Drawing:
    """Angles (radians) that pairs have been at after `trained` tokens, and what `longer` adds."""
    figure, grid = new_figure(1, len(pairs), figsize=(8.2, 2.5))
    turns = {}
    for axes, pair in zip(grid[0], pairs, strict=True):
        old, new = (float(n * inv_freq[pair] / (2 * np.pi)) for n in (trained, longer))
        turns[pair] = [old, new]
        axes.add_patch(Wedge((0, 0), 1, 0, 360, color="#eeeeee"))
        axes.add_patch(Wedge((0, 0), 1, 0, 360 * min(new, 1), color=ORANGE))
        axes.add_patch(Wedge((0, 0), 1, 0, 360 * min(old, 1), color=BLUE))
        axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
        axes.axis("off")
        digits = 0 if new >= 10 else 2
        axes.set_title(
            f"pair {pair}\n{old:,.{digits}f} turns,\nthen {new:,.{digits}f}",
            fontsize=9, weight="normal", loc="center",
        )  # fmt: skip
    figure.suptitle(
        "Slow pairs are taken to angles (orange) that training (blue) never saw",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"trained": trained, "longer": longer, "turns": turns}


def ramp(ratios: Mapping[str, NDArray[Any]], low: float, high: float) -> Drawing:
    """New frequency over old, pair by pair, by method; low and high: where YaRN's ramp begins and ends."""
    figure, grid = new_figure(figsize=(7.6, 3.9))
    axes = grid[0, 0]
    axes.axvspan(low, high, color="#f2f2f2")
    for (name, ratio), colour, style in zip(
        ratios.items(), (GREY, GREEN, ORANGE, BLUE), ("-", "-", "--", "-"), strict=True
    ):
        axes.plot(ratio, label=name, color=colour, linestyle=style)
    for place, text in ((low, f"low {low:.0f}: 32 turns"), (high, f"high {high:.0f}: 1 turn")):
        axes.annotate(text, (place, 1.03), ha="center", fontsize=8.5, color="#444444")
    axes.set(xlabel="pair (0 is the fastest)", ylabel="new frequency / old", ylim=(0, 1.1))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92), fontsize=8)
    axes.set_title("All methods slow the slow pairs; they differ in what they do to the others")
    return figure, {"low": low, "high": high, **ratios}


def entropies(rows: Mapping[str, NDArray[Any]]) -> Drawing:
    """Mean entropy (nats) of each head's attention; the first row is what training had, all others are
    drawn against it."""
    figure, grid = new_figure(figsize=(5.6, 4.6))
    axes = grid[0, 0]
    (first, base), *others = rows.items()
    most = 1.05 * max(float(row.max()) for row in rows.values())
    axes.plot([0, most], [0, most], color=GREY, linewidth=1)
    for (name, row), colour, mark in zip(others, (ORANGE, BLUE), "so", strict=True):
        label = f"{name}: mean {row.mean():.2f}"
        axes.plot(base, row, mark, label=label, color=colour, markersize=5, alpha=0.85)
    axes.set(xlabel=f"entropy of a head, {first} (nats)", ylabel="entropy of the same head (nats)")
    axes.set(xlim=(0, most), ylim=(0, most))
    axes.legend(fontsize=9, loc="upper left")
    axes.set_title("A longer list spreads attention; m brings it back")
    return figure, dict(rows)


def heat(
    cells: Mapping[str, Any], methods: Sequence[str], lengths: Sequence[int], depths: Sequence[float]
) -> Drawing:
    """Share of right look-ups by depth and length, a panel a method."""
    figure, grid = new_figure(1, len(methods), figsize=(8.6, 3.5), sharey=True)
    data: dict[str, Any] = {"lengths": lengths, "depths": depths}
    for axes, method in zip(grid[0], methods, strict=True):
        table = np.zeros((len(depths), len(lengths)))
        for column, length in enumerate(lengths):
            marks = cells[f"{method}, {length}"]["right"]
            each = len(marks[0]) // len(depths)
            for row in range(len(depths)):
                table[row, column] = share(marks, slice(row * each, (row + 1) * each))[0]
        axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(table.shape):
            colour = "white" if table[row, column] < 0.5 else "black"
            text = f"{100 * table[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], rotation=60, fontsize=8)
        axes.grid(False)
        axes.set_title(NAMES[method], fontsize=9, weight="normal", loc="center")
        data[method] = table
    grid[0][0].set_yticks(range(len(depths)), [f"{d:.2f}" for d in depths], fontsize=8)
    grid[0][0].set_ylabel("depth of the line (0: the beginning)")
    figure.supxlabel("tokens (trained: 1,024)", fontsize=9)
    figure.suptitle(
        "Look-ups that succeed, in %: the far end is lost first; methods differ in how much they keep",
        x=0.01, ha="left", weight="bold", fontsize=10,
    )  # fmt: skip
    return figure, data


def scales(cells: Mapping[str, Any], methods: Sequence[str], lengths: Sequence[int]) -> Drawing:
    """Share of right look-ups over all depths, with intervals, a group a length."""
    figure, grid = new_figure(figsize=(7.6, 3.9))
    axes, data = grid[0, 0], {}
    width = 0.8 / len(methods)
    for i, (method, colour) in enumerate(zip(methods, (GREY, SKY, BLUE, ORANGE, RED), strict=True)):
        points = [share(cells[f"{method}, {length}"]["right"]) for length in lengths]
        data[method] = points
        for group, (value, low, high) in enumerate(points):
            x = group + (i - (len(methods) - 1) / 2) * width
            label = NAMES[method] if group == 0 else None
            axes.bar(x, 100 * value, width * 0.92, color=colour, label=label)
            axes.plot([x, x], [100 * low, 100 * high], color="black", linewidth=1.2)
    axes.set_xticks(range(len(lengths)), [f"{n:,} tokens" for n in lengths])
    axes.set(ylabel="look-ups right (%)", ylim=(0, 105))
    axes.legend(fontsize=8.5, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    axes.set_title("The scale m earns its place in both techniques (lines: 95%)")
    return figure, {"lengths": lengths, **data}


def matrices(tables: Mapping[str, NDArray[Any]], farthest: int) -> Drawing:
    """Distances (t, t) that a model is shown, a panel a technique; -1 for keys after the query. What lies
    beyond `farthest`, which training never saw, is hatched red."""
    figure, grid = new_figure(1, len(tables), figsize=(8.4, 3.9), sharey=True)
    most = max(float(table.max()) for table in tables.values())
    for axes, (name, table) in zip(grid[0], tables.items(), strict=True):
        shown = np.ma.masked_less(table, 0)
        axes.imshow(shown, cmap="cividis_r", vmin=0, vmax=most)
        beyond = np.ma.masked_where(table <= farthest, np.ones_like(table, dtype=float))
        axes.imshow(beyond, cmap="autumn", vmin=1, vmax=2)
        axes.grid(False)
        axes.set_title(name, fontsize=9, weight="normal", loc="center")
        axes.set_xlabel("key")
    grid[0][0].set_ylabel("query")
    figure.suptitle(
        f"Distances the model is shown: darker is farther, red is beyond the {farthest} it knows",
        x=0.01, ha="left", weight="bold", fontsize=10.5,
    )  # fmt: skip
    return figure, {"farthest": farthest, **tables}


def ruler(table: Mapping[str, Any], models: Sequence[str]) -> Drawing:
    """The report's RULER scores: thinking less non-thinking, by length."""
    figure, grid = new_figure(figsize=(7.4, 3.7))
    axes, lengths = grid[0, 0], table["columns"][1:]
    data = {}
    for model, colour, mark in zip(models, COLOURS, "os^Dvx", strict=False):
        pairs = zip(table["thinking"][model][1:], table["non_thinking"][model][1:], strict=True)
        data[model] = [round(a - b, 1) for a, b in pairs]
        axes.plot(data[model], f"{mark}-", color=colour, label=model, markersize=4.5)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set(xlabel="length (tokens)", ylabel="thinking less non-thinking (points)")
    axes.legend(fontsize=8, ncol=2)
    axes.set_title("Published: thinking costs retrieval nearly everywhere")
    return figure, {"lengths": lengths, **data}
