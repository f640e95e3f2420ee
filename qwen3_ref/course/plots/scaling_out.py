"""Drawings of 21_scaling_out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from qwen3_ref.course.plots.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Drawing,
    headline,
    new_figure,
)

_RANKS = (BLUE, ORANGE, GREEN, PINK)
_TENSORS = ("embedding", "q, gate, up", "o, down", "norms", *(f"expert {e}" for e in range(4)))


def _share(way: str, tensor: str, rank: int) -> tuple[float, float, float, float] | None:
    """(left, bottom, width, height) of what one of four ranks holds of a unit square, rows being outputs."""
    row = (0.0, 1 - (rank + 1) / 4, 1.0, 0.25)
    if way == "dp":
        return 0.0, 0.0, 1.0, 1.0
    if way == "fsdp":
        return row
    if way == "ep":
        if tensor.startswith("expert"):
            return (0.0, 0.0, 1.0, 1.0) if tensor == f"expert {rank}" else None
        return 0.0, 0.0, 1.0, 1.0
    if tensor == "norms":
        return 0.0, 0.0, 1.0, 1.0
    return (rank / 4, 0.0, 0.25, 1.0) if tensor == "o, down" else row


def who_holds_what() -> Drawing:
    """Four ranks, four ways: which part of each matrix a rank has while it trains."""
    ways = {"dp=4": "a copy each", "fsdp=4": "slices of all", "tp=4": "rows, columns, heads",
            "ep=4": "whole experts"}  # fmt: skip
    figure, grid = new_figure(2, 2, figsize=(8.4, 4.6))
    held: dict[str, list[float]] = {}
    for axes, (way, words) in zip(grid.ravel(), ways.items(), strict=True):
        name = way.split("=")[0]
        for rank in range(4):
            total = 0.0
            for i, tensor in enumerate(_TENSORS):
                left, bottom = 1.12 * i, 1.25 * (3 - rank)
                outline = {"facecolor": "white", "edgecolor": "#bbbbbb", "lw": 0.7}
                axes.add_patch(Rectangle((left, bottom), 1, 1, **outline))  # type: ignore[arg-type]
                part = _share(name, tensor, rank)
                if part is not None:
                    x, y, width, height = part
                    axes.add_patch(
                        Rectangle((left + x, bottom + y), width, height, facecolor=_RANKS[rank], lw=0)
                    )
                    total += width * height
            held.setdefault(way, []).append(total / len(_TENSORS))
        axes.set(xlim=(-0.1, 1.12 * len(_TENSORS)), ylim=(-0.15, 5.0))
        axes.set_xticks(
            [1.12 * i + 0.5 for i in range(len(_TENSORS))],
            ["emb.", "q, gate,\nup", "o,\ndown", "norms", "e0", "e1", "e2", "e3"], fontsize=7.5,
        )  # fmt: skip
        axes.set_yticks([1.25 * (3 - r) + 0.5 for r in range(4)], [f"rank {r}" for r in range(4)], fontsize=8)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(f"{way}: {words}", fontsize=10)
    headline(figure, "Four ways to share a block: copies, slices, cut matrices, whole experts")
    return figure, {"share of these tensors by rank": held}


def tokens_sent(matrices: Mapping[str, Any]) -> Drawing:
    """From which rank to which rows travel: a panel a case, (w, w) counts each."""
    figure, ((*panels,),) = new_figure(1, len(matrices), figsize=(7.2, 3.4))
    most = max(np.max(m) for m in matrices.values())
    for axes, (name, m) in zip(panels, matrices.items(), strict=True):
        axes.imshow(m, cmap="Blues", vmin=0, vmax=most * 1.25)
        for (i, j), count in np.ndenumerate(np.asarray(m)):
            axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=9,
                      color="white" if count > 0.7 * most else "black")  # fmt: skip
        w = len(m)
        axes.set_xticks(range(w), [f"{4 * r}-{4 * r + 3}" for r in range(w)])
        axes.set(xlabel="experts on the receiving rank", title=name)
        axes.grid(visible=False)
    first = panels[0]
    first.set_yticks(range(4), ["0: code", "1: language", "2: maths", "3: reasoning"])
    first.set_ylabel("rank, and what it reads")
    for axes in panels[1:]:
        axes.set_yticks(range(4), [])
    headline(figure, "Tokens of each text go to experts of their own, so some ranks get more than others")
    return figure, {"rows": {name: np.asarray(m) for name, m in matrices.items()}}


def memory_by_ranks(
    ranks: Sequence[int], lines: Mapping[str, Sequence[float | None]], room: float
) -> Drawing:
    """GB on each card by the number of cards, a line a way; room: what may be used."""
    figure, ((axes,),) = new_figure(figsize=(7.8, 4.2))
    for (name, values), colour, mark in zip(lines.items(), COLOURS, "osD^v", strict=False):
        found = [(n, v) for n, v in zip(ranks, values, strict=True) if v is not None]
        axes.plot(*zip(*found, strict=True), f"{mark}-", color=colour, markersize=4.5, label=name)
    axes.axhline(room, color=GREY, linestyle="--", linewidth=1.3)
    words = f"{room:.0f} GB: what may be used of 80"
    axes.text(ranks[0], room * 1.07, words, va="bottom", fontsize=8.5, color=GREY)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ranks, [str(n) for n in ranks])
    ticks = [20, 50, 100, 200, 500, 1000, 2000, 5000]
    axes.set_yticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.set(xlabel="cards", ylabel="GB on each card")
    axes.legend(fontsize=8.5, loc="lower left")
    axes.set_title("Copies never shrink; slices do, down to what has to be whole for a moment")
    return figure, {"cards": list(ranks), "GB": lines, "room": room}


Bars = Sequence[tuple[str, float, float, str]]


def timeline(panels: Mapping[str, Bars], lanes: Sequence[str]) -> Drawing:
    """Bars (lane, start, end, kind) in milliseconds, a panel a case, those of one place side by side on one
    scale; kinds are forward, backward, and what is sent."""
    colours = {"forward": BLUE, "backward": SKY, "gather": ORANGE, "reduce-scatter": GREEN,
               "all-reduce": RED}  # fmt: skip
    figure, grid = new_figure(2, len(panels) // 2, figsize=(8.8, 4.0), sharex="col")
    seen: set[str] = set()
    ends = {name: max(end for _, _, end, _ in bars) for name, bars in panels.items()}
    for axes, (name, bars) in zip(grid.T.ravel(), panels.items(), strict=True):
        for lane, start, end, kind in bars:
            label = None if kind in seen else kind
            seen.add(kind)
            axes.barh(len(lanes) - 1 - lanes.index(lane), end - start, 0.72, left=start, color=colours[kind],
                      edgecolor="white", linewidth=0.5, label=label)  # fmt: skip
        axes.set_yticks(range(len(lanes)), lanes[::-1])
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-0.6, len(lanes) - 0.4)
        axes.set_title(f"{name}: {ends[name]:.0f} ms", fontsize=9.5)
    for axes in grid[-1]:
        axes.set_xlabel("milliseconds, at least")
    handles = [h for axes in grid.T.ravel() for h in axes.get_legend_handles_labels()[0]]
    names = [n for axes in grid.T.ravel() for n in axes.get_legend_handles_labels()[1]]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8.5)
    headline(figure, "Sending hides behind computing while the link is quick enough, and only then")
    drawn = {name: [list(bar) for bar in bars] for name, bars in panels.items()}
    return figure, {"ends": ends, "bars": drawn}


def losses(curves: Mapping[str, Sequence[float]]) -> Drawing:
    """The same training on one, two and four ranks."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.4))
    names = list(curves)
    for (name, values), colour, width, style in zip(
        curves.items(), (GREY, BLUE, ORANGE, GREEN), (6, 3.2, 1.6, 1.2), ("-", "-", "--", ":"), strict=False
    ):
        left.plot(range(1, len(values) + 1), values, style, color=colour, linewidth=width, label=name)
    left.set(xlabel="step", ylabel="loss, nats a token", title="Loss")
    left.legend(fontsize=8.5)
    first = np.array(curves[names[0]])
    worst = {}
    for name, colour, mark in zip(names[1:], (BLUE, ORANGE, GREEN), "osD", strict=False):
        gap = np.maximum(np.abs(np.array(curves[name]) - first), 1e-17)
        worst[name] = bool(gap.max() < 1e-10)
        right.semilogy(range(1, len(gap) + 1), gap, mark, color=colour, markersize=3.5, label=name)
    right.axhline(1e-10, color=GREY, linestyle="--", linewidth=1.2)
    right.text(1, 1.6e-10, "1e-10", fontsize=8.5, color=GREY)
    right.set(xlabel="step", ylabel="nats", title=f"Distance from {names[0]}", ylim=(3e-18, 1e-8))
    right.legend(fontsize=8.5, loc="center right")
    headline(figure, "The same losses on one rank and on many, to the rounding of float64")
    return figure, {"losses": curves, "within 1e-10": worst}


def drift(
    steps: Sequence[int], curves: Mapping[str, Sequence[float]], apart: Mapping[str, Sequence[float]]
) -> Drawing:
    """Break it: losses of right and wrong, and how far two ranks' gains have come apart."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.4))
    for (name, values), colour, style, width in zip(
        curves.items(), (BLUE, RED), ("-", "--"), (4, 1.6), strict=True
    ):
        left.plot(range(1, len(values) + 1), values, style, color=colour, linewidth=width, label=name)
    left.set(xlabel="step", ylabel="training loss, nats a token", title="What the log shows")
    left.legend(fontsize=8.5)
    for (name, values), colour, mark in zip(apart.items(), (RED, ORANGE, BLUE), "osD", strict=False):
        right.plot(steps, values, f"{mark}-", color=colour, markersize=4, label=name)
    right.set(xlabel="step", ylabel="largest difference of a gain", ylim=(-0.005, None))
    right.set_title("What it does not")
    right.legend(fontsize=8.5)
    headline(figure, "The loss says nothing while two ranks' norms drift apart")
    return figure, {"losses": curves, "steps": list(steps), "apart": apart}
