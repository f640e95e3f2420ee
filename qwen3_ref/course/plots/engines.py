"""Drawings of 22_engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import (
    BLUE,
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

PARTS = {"embedding and head": BLUE, "attention": ORANGE, "feed-forward": GREEN,
         "keys and vocabulary": PINK, "norms": RED}  # fmt: skip


def to_scale(models: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Drawing:
    """Files by type, each a bar as long as it has bytes, in parts: model -> type -> part -> bytes."""
    figure, axes = new_figure(1, len(models), figsize=(8.6, 3.2))
    for panel, (model, files) in zip(axes[0], models.items(), strict=True):
        kinds = list(files)[::-1]
        scale, unit = (1e9, "GB") if max(sum(f.values()) for f in files.values()) > 1e8 else (1e6, "MB")
        left = np.zeros(len(kinds))
        for part, colour in PARTS.items():
            sizes = np.array([files[kind].get(part, 0) / scale for kind in kinds])
            panel.barh(range(len(kinds)), sizes, left=left, color=colour, label=part, height=0.7)
            left += sizes
        for row, total in enumerate(left):
            panel.text(total + left.max() * 0.02, row, f"{total:.2f}", va="center", fontsize=8.5, color=GREY)
        panel.set_yticks(range(len(kinds)), kinds)
        panel.grid(visible=False, axis="y")
        panel.set(xlabel=f"size of the file, {unit}", title=model, xlim=(0, left.max() * 1.15))
    axes[0][-1].legend(fontsize=8, loc="lower right")
    headline(figure, "Fewer bits shrink the blocks; the head and the vocabulary stay")
    return figure, {"bytes": models}


def parting(margins: NDArray[Any], parted: Mapping[str, Sequence[float]]) -> Drawing:
    """Margins of all tokens (logits), and for each program those at which it parted."""
    figure, axes = new_figure(2, 1, figsize=(8.0, 4.6), sharex=True, height_ratios=[1.2, 1])
    (top,), (bottom,) = axes
    edges = np.geomspace(1e-3, 40, 45)
    top.hist(np.clip(margins, edges[0], edges[-1]), edges, color=SKY)
    top.set(ylabel="tokens", title="Programs part where two tokens were nearly equal")
    names = [name for name in parted if parted[name]]
    for row, name in enumerate(names):
        at = parted[name]
        bottom.plot(at, [row] * len(at), "|", color=RED, markersize=12, markeredgewidth=1.8)
    bottom.set_yticks(range(len(names)), names, fontsize=8.5)
    bottom.set(xlabel="margin of the best token over the second, logits", ylim=(len(names) - 0.5, -0.5))
    bottom.set_xscale("log")
    kept = {name: at for name, at in parted.items() if "bfloat16" not in name}  # it hangs on the processor
    return figure, {"margins": np.sort(margins), "parted": kept}


def costs(found: Mapping[str, Mapping[str, float]], whole: float) -> Drawing:
    """Change of accuracy against 16 bits by size of the file, with intervals. found: type -> bytes, mean,
    low, high; whole: bytes at 16 bits."""
    figure, ((axes,),) = new_figure(figsize=(7.2, 3.4))
    axes.axhline(0, color=GREY, linewidth=1)
    for (kind, at), colour in zip(found.items(), (SKY, BLUE, ORANGE, RED), strict=False):
        x, mean = at["bytes"] / whole, 100 * at["mean"]
        error = [[mean - 100 * at["low"]], [100 * at["high"] - mean]]
        axes.errorbar([x], [mean], error, fmt="o", color=colour, capsize=4, markersize=7)
        axes.annotate(kind, (x, mean), textcoords="offset points", xytext=(8, 6), fontsize=9, color=colour)
    axes.set(xlabel="size of the file, share of bf16", ylabel="accuracy, points against bf16")
    axes.set(xlim=(0.2, 0.8), ylim=(-11, 1.5))
    axes.set_title("Eight bits cost nothing that can be seen here; five and four do")
    return figure, {"formats": found}
