"""Drawings of 08_debugging_lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, RED, Drawing, new_figure

Array = NDArray[Any]
TITLE = {"x": 0.01, "ha": "left", "weight": "bold", "fontsize": 11}
FLOOR = 1e-5  # relative differences below it are drawn as none
UNCHANGED = "#dcecf7"


def _means(values: Array, window: int) -> Array:
    """Means over stretches of `window` positions; what is left over at the end is dropped."""
    count = len(values) // window
    return np.asarray(values[: count * window].reshape(count, window).mean(axis=1))


def gallery(
    usual: Array, curves: Mapping[str, Array], agreement: Mapping[str, float], window: int
) -> Drawing:
    """What wrong programs add to the right one's loss `usual` by position (t,), a panel each."""
    columns = 4
    rows = -(-len(curves) // columns)
    figure, grid = new_figure(rows, columns, figsize=(8.6, 1.65 * rows + 0.5), sharex=True, sharey=True)
    means = {name: _means(curve - usual, window) for name, curve in curves.items()}
    centres = (np.arange(len(usual) // window) + 0.5) * window
    for axes, (name, curve) in zip(grid.flat, means.items(), strict=False):
        axes.axhline(0, color=GREY, linewidth=1)
        axes.fill_between(centres, 0, curve, color=RED, alpha=0.35, linewidth=0)
        axes.plot(centres, curve, color=RED, linewidth=1.5)
        axes.set_title(name, fontsize=8.5, weight="normal")
        axes.text(
            0.97, 0.93, f"{agreement[name]:.0%}", transform=axes.transAxes, ha="right", va="top",
            fontsize=9, weight="bold", color=BLUE,
        )  # fmt: skip
        axes.tick_params(labelsize=8)
    for axes in grid.flat[len(means) :]:
        axes.axis("off")
    grid[0][0].set(ylim=(-1.2, 6.5), yticks=(0, 2, 4, 6))
    figure.supxlabel("position in the text (tokens)", fontsize=9.5)
    figure.supylabel("added loss (nats a token)", fontsize=9.5)
    figure.suptitle("Some bugs shout, some begin late, some cannot be seen in the loss at all", **TITLE)
    return figure, {"added_loss": means, "same_token": dict(agreement), "window": window}


def fingerprints(
    off: Mapping[str, Array],
    window: int,
    title: str = "In the logits every bug leaves a trace; where it begins says what it is",
) -> Drawing:
    """Relative difference of the logits by position (t,), a row for each bug."""
    means = np.array([_means(row, window) for row in off.values()])
    shown = np.where(means > FLOOR, means, np.nan)
    figure, ((axes,),) = new_figure(figsize=(8.6, 0.22 * len(off) + 1.0))
    axes.set_facecolor(UNCHANGED)
    edges = np.arange(means.shape[1] + 1) * window
    picture = axes.pcolormesh(
        edges, np.arange(len(means) + 1), shown, cmap="YlOrRd", norm=LogNorm(vmin=FLOOR, vmax=1)
    )
    axes.hlines(np.arange(1, len(means)), 0, edges[-1], color="white", linewidth=1.5)
    axes.set_yticks(np.arange(len(means)) + 0.5, list(off), fontsize=8.5)
    axes.set(xlabel="position in the text (tokens)", ylim=(len(means), 0))
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    bar = figure.colorbar(picture, ax=axes, shrink=0.85, extend="max")
    bar.set_label("difference / size\nof the right logits\n(blue: none)", fontsize=8.5)
    figure.suptitle(title, **TITLE)
    rows = dict(zip(off, np.where(means > FLOOR, means, 0.0), strict=True))
    return figure, {"relative_difference": rows, "window": window}


def blindness(faults: Sequence[str], blind: Mapping[str, Sequence[bool]]) -> Drawing:
    """Which test (columns) lets which fault (rows) through."""
    table = np.array(list(blind.values())).T
    figure, ((axes,),) = new_figure(figsize=(8.6, 6.4))
    colours = ListedColormap([UNCHANGED, ORANGE])
    axes.pcolormesh(table, cmap=colours, vmin=0, vmax=1, edgecolor="white", linewidth=1.5)
    for (row, column), through in np.ndenumerate(table):
        if through:
            axes.text(column + 0.5, row + 0.5, "blind", ha="center", va="center", fontsize=7.5, color="black")
    names = [f"{name} ({int(sum(column))})" for name, column in blind.items()]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=40, ha="left", fontsize=8.5)
    axes.set_yticks(np.arange(len(faults)) + 0.5, faults, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set(ylim=(len(faults), 0))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    figure.suptitle(
        "Every weakness of a test lets something through; the usual test has most of them", **TITLE
    )
    return figure, {"faults": list(faults), "lets_through": {k: list(v) for k, v in blind.items()}}


def onset(drifts: Mapping[str, Array], limit: int) -> Drawing:
    """Relative difference of the logits by position (t,), a line for each dtype."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.4))
    for (name, drift), colour in zip(drifts.items(), (GREEN, RED), strict=True):
        axes.plot(drift, color=colour, label=name, linewidth=2.6 if colour == GREEN else 1.4)
    axes.axvline(limit, color="black", linestyle="--", linewidth=1)
    top = max(float(drift.max()) for drift in drifts.values())
    axes.text(limit - 4, 0.9 * top, f"position {limit}", ha="right", fontsize=9)
    axes.set(xlabel="position in the text (tokens)", ylabel="difference / size of the logits")
    axes.legend(title="the model runs in", loc="upper left", fontsize=9, title_fontsize=9)
    figure.suptitle("Silent in float32, silent in short texts: the bug needs both conditions", **TITLE)
    return figure, {"relative_difference": dict(drifts)}
