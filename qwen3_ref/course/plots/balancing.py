"""Drawings of 14_balancing."""

from __future__ import annotations

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

WAYS = {"none": RED, "micro": ORANGE, "global": BLUE, "global + z": GREEN}
_NAMES = {"none": "no balancing", "micro": "micro-batch", "global": "global batch"}


def loads(cells: Mapping[str, Any]) -> Drawing:
    """For each way of balancing, how many tokens each of the 64 experts gets, over the mean, the busiest
    first; counts (seed, G, L, E) by way. A line a seed."""
    figure, grid = new_figure(1, len(cells), figsize=(9.2, 3.2), sharey=True)
    data = {}
    for axes, (way, counts) in zip(grid[0], cells.items(), strict=True):
        total = np.array(counts, dtype=float).sum(1)  # (seed, L, E)
        relative = total / total.mean(-1, keepdims=True)
        lines = -np.sort(-relative.reshape(len(total), -1), axis=1)
        for line in lines:
            axes.step(range(1, lines.shape[1] + 1), line, where="mid", color=WAYS[way], linewidth=1.3)
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
        dead = (relative < 0.1).sum((1, 2))
        axes.set_title(f"{_NAMES[way]}: {dead.mean():.0f} of 64 dead", fontsize=10, weight="normal")
        axes.set_xlabel("experts of four layers, busiest first")
        data[way] = lines
    grid[0, 0].set_ylabel("tokens, over an even share")
    headline(figure, "Without balancing a few experts do the work, and a fifth next to none")
    return figure, data


def training(runs: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Drawing:
    """Load, specialisation and the size of router logits by step, a line a seed, and their mean bold."""
    titles = {
        "max_load": "largest load over the mean",
        "specialisation": "specialisation by kind",
        "logits": "mean logsumexp squared",
    }
    figure, grid = new_figure(1, 3, figsize=(9.6, 3.3))
    for (key, title), axes in zip(titles.items(), grid[0], strict=True):
        for way, logs in runs.items():
            lines = np.array([log[key] for log in logs])
            axes.plot(logs[0]["step"], lines.T, color=WAYS[way], linewidth=0.7, alpha=0.6)
            axes.plot(logs[0]["step"], lines.mean(0), color=WAYS[way], label=way)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=10, weight="normal")
    grid[0, 0].set_ylim(1, 5)
    grid[0, 1].set_ylim(0, None)
    grid[0, 2].set_ylim(0, None)
    grid[0, 0].legend(fontsize=8, ncols=2, loc="upper right")
    headline(figure, "Both balance; only the global batch lets experts have a taste of their own")
    return figure, {way: [dict(log) for log in logs] for way, logs in runs.items()}


def deaths(runs: Mapping[str, Sequence[Sequence[float]]], steps: Sequence[int]) -> Drawing:
    """The share of tokens of each expert by step, a panel a run (step, E)."""
    figure, grid = new_figure(1, len(runs), figsize=(9.6, 3.0), sharey=True)
    for axes, (name, shares) in zip(grid[0], runs.items(), strict=True):
        lines = np.array(shares)
        for e in range(lines.shape[1]):
            dash = "--" if e >= len(COLOURS) else "-"
            axes.plot(steps, lines[:, e], dash, color=COLOURS[e % len(COLOURS)], linewidth=1.3)
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
        axes.set_title(name, fontsize=9.5, weight="normal")
        axes.set_xlabel("step")
    grid[0, 0].set_ylabel("tokens of an expert,\nover an even share")
    headline(figure, "What all tokens share starves some experts from the start; balancing feeds them")
    return figure, {"steps": list(steps), **{name: np.array(s) for name, s in runs.items()}}


def pruning(rises: Mapping[str, Mapping[int, Any]], kept: Mapping[str, Any]) -> Drawing:
    """Left: rise of the mean loss by experts removed from each layer, by who is removed; at random a mark a
    draw. Right: rise on each kind of text (column) when the half stays that one kind uses most (row)."""
    figure, grid = new_figure(1, 2, figsize=(9.4, 3.7), width_ratios=(1.25, 1))
    left, right = grid[0]
    styles = {"fewest tokens": (BLUE, "o-"), "least weight": (GREEN, "s-"), "most tokens": (RED, "^-")}
    for name, found in rises.items():
        x = list(found)
        if name == "at random":
            for k, values in found.items():
                left.plot([k] * len(values), values, "x", color=GREY, markersize=5)
            left.plot([], [], "x", color=GREY, label=name)
        else:
            colour, mark = styles[name]
            left.plot(x, list(found.values()), mark, color=colour, label=name, markersize=5, linewidth=1.4)
    left.set(xlabel="experts removed from each layer, of 16", ylabel="rise of the loss, nats a token",
             ylim=(0, None), xticks=list(next(iter(rises.values()))))  # fmt: skip
    left.legend(fontsize=8, title="removed are those with", title_fontsize=8)
    names, cells = list(kept), np.array(list(kept.values()))
    right.imshow(cells, cmap="Oranges", vmin=0, vmax=cells.max() * 1.2)
    for i in range(len(names)):
        for j in range(len(names)):
            dark = cells[i, j] > 0.8 * cells.max()
            right.text(j, i, f"{cells[i, j]:.2f}", ha="center", va="center", fontsize=9,
                       color="white" if dark else "black")  # fmt: skip
    right.set_xticks(range(len(names)), names, fontsize=8.5)
    right.set_yticks(range(len(names)), names, fontsize=8.5)
    right.set(xlabel="rise of the loss on", ylabel="half is kept that serves")
    right.grid(visible=False)
    headline(figure, "The least used experts are missed like any others; whom they serve tells more")
    return figure, {"rises": {k: dict(v) for k, v in rises.items()}, "kept": dict(kept)}

