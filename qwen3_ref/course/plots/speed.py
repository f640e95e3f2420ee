"""Drawings of 20_speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

Points = Mapping[str, Mapping[str, float]]


def roofline(points: Points, bandwidth: float, peak: float, card: tuple[str, float]) -> Drawing:
    """What a machine can reach by FLOPs for a byte, and where passes stand, a mark a model (label ->
    intensity). card: name and ridge of another machine."""
    figure, ((axes,),) = new_figure(figsize=(8.4, 4.2))
    x = np.geomspace(0.3, 3000, 200)
    axes.loglog(x, np.minimum(x * bandwidth, peak) / 1e9, color=GREY, zorder=1)
    ridge = peak / bandwidth
    axes.axvline(ridge, color=GREY, linestyle=":", linewidth=1.2)
    axes.text(ridge * 1.06, bandwidth * 0.36 / 1e9, f"ridge: {ridge:.0f}", fontsize=8.5, color=GREY)
    axes.axvline(card[1], color=GREEN, linestyle=":", linewidth=1.2)
    axes.text(card[1] * 1.06, bandwidth * 0.36 / 1e9, f"{card[0]}: {card[1]:.0f}", fontsize=8.5, color=GREEN)
    for (model, marks), colour, shape, below in zip(
        points.items(), (BLUE, ORANGE), "os", (0, 1), strict=False
    ):
        found = np.array(list(marks.values()))
        y = np.minimum(found * bandwidth, peak) / 1e9 * (0.86 if below else 1.0)
        axes.plot(found, y, shape, color=colour, label=model, markersize=6, zorder=3)
        crossed = [label for label, at in zip(marks, found, strict=True) if at > ridge]
        for label, at, height in zip(marks, found, y, strict=True):
            left = not below and (at <= ridge or label == crossed[0])
            axes.annotate(
                label, (at, height), textcoords="offset points", fontsize=8, color=colour,
                xytext=(-6 if left else 6, -12 if below else 6), ha="right" if left else "left",
            )  # fmt: skip
    axes.set(xlabel="arithmetic intensity, FLOPs for each byte", ylabel="at most, GFLOP/s")
    axes.set_ylim(bandwidth * 0.25 / 1e9, peak * 2.6 / 1e9)
    axes.legend(fontsize=8.5, loc="upper left")
    axes.set_title("Writing one text uses a small part of the arithmetic; reading a prompt uses all of it")
    return figure, {"ridge": ridge, "card": card[1], "intensity": points}


def contexts(found: Mapping[str, Mapping[str, Sequence[float]]], lengths: Sequence[int]) -> Drawing:
    """GB that a token reads by context: a panel a model, lines `weights`, `GQA` and `MHA`."""
    figure, axes = new_figure(1, len(found), figsize=(8.4, 3.6))
    styles = {"MHA": (RED, "--"), "GQA": (BLUE, "-"), "weights": (GREY, ":")}
    for panel, (model, lines) in zip(axes[0], found.items(), strict=True):
        for name, (colour, style) in styles.items():
            panel.plot(lengths, np.array(lines[name]) / 1e9, style, color=colour, label=name)
        panel.set(xlabel="tokens in the cache", ylabel="GB read for a token", title=model, ylim=(0, None))
        ticks = range(0, lengths[-1] + 1, 8192)
        panel.set_xticks(ticks, [f"{n // 1024}K" for n in ticks])
    axes[0][0].legend(fontsize=8.5)
    headline(figure, "What a token reads grows with the text, and grouped queries flatten the slope")
    return figure, {"lengths": list(lengths), "bytes": found}


def operations(stages: Mapping[str, int], views: Mapping[str, int]) -> Drawing:
    """Operations of one decode step by stage, those that compute and those that only look."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.2))
    names = list(stages)[::-1]
    y = np.arange(len(names))
    computing, looking = ([some[n] for n in names] for some in (stages, views))
    axes.barh(y, computing, color=BLUE, label="compute or copy")
    axes.barh(y, looking, left=computing, color="#d0d0d0", label="views")
    for place, value in zip(y, computing, strict=True):
        axes.text(value - 12, place, f"{value:,}", ha="right", va="center", color="white", fontsize=8.5)
    axes.set_yticks(y, names)
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="operations that one step dispatches")
    axes.legend(fontsize=8.5, loc="lower right", framealpha=0.9, frameon=True)
    first, last = next(iter(stages.values())), list(stages.values())[-1]
    axes.set_title(f"The same numbers with {100 * (1 - last / first):.0f}% fewer operations that compute")
    return figure, {"computing": stages, "views": views}


def distinct(
    lines: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
    errors: Mapping[str, Sequence[float]],
    experts: int,
) -> Drawing:
    """Distinct experts of a layer by the number of tokens, a line a case; errors: half intervals."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.8))
    for (name, values), colour, style in zip(lines.items(), COLOURS, ("--", ":", "o-", "s-"), strict=False):
        if name in errors:
            axes.errorbar(
                sizes, values, errors[name], fmt=style, color=colour, label=name, capsize=3, markersize=5
            )
        else:
            axes.plot(sizes, values, style, color=colour, label=name)
    axes.axhline(experts, color=GREY, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set(xlabel="tokens in one product", ylabel="different experts of a layer", ylim=(0, experts * 1.08))
    axes.legend(fontsize=8.5, loc="lower right")
    axes.set_title("Neighbours in a text share experts; different texts do so only by chance")
    return figure, {"tokens": list(sizes), "experts": lines, "half_interval": errors}
