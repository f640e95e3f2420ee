"""Drawings of 23_beyond_text, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    Drawing,
    headline,
    new_figure,
)
from qwen3_ref.mrope import Layout

AXES = ("time", "height", "width")
LOOK = {"time": (BLUE, "o"), "height": (ORANGE, "s"), "width": (GREEN, "^")}
Array = NDArray[Any]


def strips(layouts: Mapping[str, Array | None]) -> Drawing:
    """Which axis each pair turns by, a strip a layout; None: all pairs turn by the one position there is."""
    figure, ((axes,),) = new_figure(figsize=(8.4, 2.6))
    for line, axis in enumerate(layouts.values()):
        for pair in range(64):
            colour = "#bbbbbb" if axis is None else LOOK[AXES[axis[pair]]][0]
            axes.add_patch(Rectangle((pair + 0.06, line + 0.12), 0.88, 0.76, color=colour, linewidth=0))
            if axis is not None:
                axes.text(
                    pair + 0.5,
                    line + 0.5,
                    "THW"[axis[pair]],
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white",
                )
    axes.set(xlim=(0, 64), ylim=(len(layouts), 0), xlabel="pair (0 is the fastest, 63 the slowest)")
    axes.set_yticks(np.arange(len(layouts)) + 0.5, list(layouts))
    axes.set_xticks(np.arange(0, 64, 8) + 0.5, [str(n) for n in range(0, 64, 8)])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    known = [Patch(color=LOOK[name][0], label=name) for name in AXES] + [
        Patch(color="#bbbbbb", label="one for all")
    ]
    axes.legend(handles=known, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    headline(figure, "Each pair turns by one of three positions")
    return figure, {name: "all" if axis is None else axis for name, axis in layouts.items()}


def spectra(wavelengths: Mapping[str, Mapping[str, Array]]) -> Drawing:
    """Tokens per turn of the pairs of each axis, on a log scale, a panel a layout."""
    figure, grid = new_figure(1, len(wavelengths), figsize=(8.4, 2.9), sharey=True, sharex=True)
    for panel, (title, found) in zip(grid[0], wavelengths.items(), strict=True):
        for line, (name, values) in enumerate(found.items()):
            colour, mark = LOOK[name]
            panel.plot(values, np.full(len(values), line), mark, color=colour, ms=5, alpha=0.8)
        panel.set(xscale="log", xlabel="steps for a whole turn (log scale)", ylim=(len(found) - 0.5, -0.5))
        panel.set_yticks(range(len(found)), list(found))
        panel.set_title(title, fontsize=9.5, weight="normal")
    headline(figure, "In sections each axis has a part of the spectrum; interleaved each has all of it")
    return figure, {title: dict(found) for title, found in wavelengths.items()}


def blur(distances: Array, scores: Mapping[str, Mapping[str, Array]]) -> Drawing:
    """How much of the score of a key like the query is lost when it stands so many steps away, along one
    axis at a time: 1 minus the mean cosine of the pairs that turn by it."""
    figure, grid = new_figure(1, len(scores), figsize=(8.4, 3.3), sharey=True)
    for panel, (title, found) in zip(grid[0], scores.items(), strict=True):
        for name, values in found.items():
            panel.loglog(distances, values, color=LOOK[name][0], marker=LOOK[name][1], ms=3.5, label=name)
        panel.set(xlabel="steps along one axis (log scale)", ylim=(1e-10, 4))
        panel.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("score lost, of a full 1 (log scale)")
    grid[0][-1].legend(fontsize=8.5, loc="lower right")
    headline(figure, "In sections a neighbour in the same row looks like the token itself")
    return figure, {"distances": distances, **{title: dict(found) for title, found in scores.items()}}


def row(layout: Layout) -> Drawing:
    """The three positions of every token of a row, in the order in which they are read."""
    figure, ((axes,),) = new_figure(figsize=(8.2, 3.3))
    seen = np.flatnonzero(layout.visual)
    axes.axvspan(seen[0] - 0.5, seen[-1] + 0.5, color="#f2f2f2")
    axes.text(
        seen.mean(), len(layout.kinds) - 2, "picture", ha="center", va="top", fontsize=9, color="#444444"
    )
    n = np.arange(layout.ids.shape[1])
    axes.plot(n, n, color="#999999", lw=1.2, ls=":", label="counted")
    for i, name in enumerate(AXES):
        colour, mark = LOOK[name]
        axes.plot(n + 0.14 * (i - 1), layout.ids[i], mark, color=colour, ms=4.5, label=name)
    axes.set(xlabel="token, in reading order", ylabel="position", ylim=(-0.6, len(n) - 0.4))
    axes.legend(fontsize=8.5, loc="upper left")
    headline(figure, "Text moves on all axes at once; in a picture rows and columns count for themselves")
    return figure, {"ids": layout.ids, "kinds": layout.kinds.tolist()}


def time_line(layout: Layout, start: float, per_second: float) -> Drawing:
    """Tokens of a video with sound by their time; below, the order in which the model reads them."""
    figure, ((above,), (below,)) = new_figure(2, 1, figsize=(8.4, 4.2), height_ratios=(3, 1), sharex=False)
    ids, kinds = layout.ids, layout.kinds
    video, sound = kinds == "video", kinds == "audio"
    seconds = (ids[0] - start) / per_second
    rows = ids[1] - start
    columns = ids[2] - start
    above.plot(
        seconds[video] + 0.025 * columns[video], rows[video], "s", color=ORANGE, ms=4,
        label="video: a square is a token, by row and column",
    )  # fmt: skip
    above.plot(seconds[sound], np.full(int(sound.sum()), -1.2), "|", color=BLUE, ms=12, mew=2,
               label="sound: a stroke is a token, 13 a second")  # fmt: skip
    above.set(xlabel="time of the token, seconds from the start", ylim=(rows[video].max() + 0.7, -2.2))
    above.set_yticks(
        [-1.2, *range(int(rows[video].max()) + 1)],
        ["sound", *(f"row {n}" for n in range(int(rows[video].max()) + 1))],
    )
    above.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    inside = np.flatnonzero(video | sound)
    for place, n in enumerate(inside):
        colour = ORANGE if video[n] else BLUE
        below.add_patch(Rectangle((place, 0), 0.9, 1, color=colour, linewidth=0))
    below.set(xlim=(0, len(inside)), ylim=(0, 1), xlabel="token, in reading order")
    below.set_yticks([])
    below.grid(visible=False)
    headline(figure, "Sound and video stand on one time line, and are read in its order")
    return figure, {
        "seconds": seconds[video | sound],
        "kinds": kinds[video | sound].tolist(),
        "rows": rows[video],
    }


def sight(
    cells: Mapping[str, Mapping[str, Sequence[float]]], ceiling: Mapping[str, float], chance: float
) -> Drawing:
    """Right answers about pictures by arm, a mark a seed; shapes seen in training, and others."""
    figure, grid = new_figure(1, 2, figsize=(8.4, 3.2), sharey=True)
    titles = {"seen": "pictures of shapes that training had", "unseen": "of two shapes that it had not"}
    for panel, (name, title) in zip(grid[0], titles.items(), strict=True):
        for line, (values, colour) in enumerate(zip(cells.values(), (BLUE, SKY, PINK, ORANGE), strict=True)):
            one = np.array(values[name])
            panel.plot(one, line + np.linspace(-0.16, 0.16, len(one)), "o", color=colour, ms=6)
            panel.plot([one.mean()] * 2, [line - 0.3, line + 0.3], color=colour, lw=2.5)
        panel.axvline(ceiling[name], color="black", lw=1.2, ls=":")
        panel.axvline(chance, color="#999999", lw=1)
        panel.set(xlim=(0, 1.03), ylim=(len(cells) - 0.5, -0.5), xlabel="right answers, share")
        panel.set_yticks(range(len(cells)), list(cells))
        panel.set_title(title, fontsize=9.5, weight="normal")
    headline(figure, "Rows and columns as positions, dealt out: what was learned holds for other shapes")
    grid[0][0].text(chance - 0.01, len(cells) - 0.55, "guessing", fontsize=8, ha="right", rotation=90)
    grid[0][0].text(ceiling["seen"] + 0.01, len(cells) - 0.55, "not knowing where", fontsize=8, rotation=90)
    return figure, {
        "cells": {k: {n: list(v[n]) for n in titles} for k, v in cells.items()},
        "ceiling": dict(ceiling),
    }


def jump(layouts: Mapping[str, tuple[Array, float]]) -> Drawing:
    """Time of each token of a row, and of the first one generated (a star); right, and as a port has it."""
    figure, ((axes,),) = new_figure(figsize=(8.0, 3.3))
    looks = zip(layouts.items(), ((BLUE, "o", "-"), (RED, "D", "--")), strict=True)
    for (name, (times, following)), (colour, mark, style) in looks:
        n = np.arange(len(times))
        axes.plot(n, times, style, marker=mark, ms=5, lw=1, color=colour, label=name)
        axes.plot([len(times)], [following], "*", ms=13, color=colour)
    axes.set(xlabel="token, in reading order (star: the first that is generated)", ylabel="time position")
    axes.legend(fontsize=8.5, loc="upper left")
    headline(figure, "A question that stands before the pictures it asks about")
    return figure, {name: {"times": times, "following": f} for name, (times, f) in layouts.items()}
