"""Drawings of 09_generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREY, ORANGE, RED, Drawing, new_figure

Point = tuple[float, float, float]
"""(value, low, high) of a 95% interval."""
_SHOWN = 26
_LOOKS = {"accepted": ("#cfe6f5", BLUE), "own": ("#eeeeee", "#444444"), "refused": ("#fbe3d6", RED)}


def filters(steps: Mapping[str, Any], names: Sequence[str]) -> Drawing:
    """A panel a step: the probabilities (V,) of the tokens, most probable of the first step first; their
    names are given in that order. What a step has taken away is marked by a cross."""
    figure, grid = new_figure(len(steps), 1, figsize=(8.2, 1.45 * len(steps) + 0.8), sharex=True)
    order = np.argsort(-next(iter(steps.values())), kind="stable")[:_SHOWN]
    data: dict[str, Any] = {"tokens": list(names[:_SHOWN])}
    for axes, (name, p), colour in zip(grid[:, 0], steps.items(), COLOURS, strict=False):
        shown, kept = p[order], int((p > 0).sum())
        axes.bar(range(_SHOWN), shown, color=colour)
        gone = np.flatnonzero(shown == 0)
        axes.plot(gone, np.full(len(gone), 0.03), "x", color=GREY, markersize=4)
        entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
        text = f"{name}: {kept:,} tokens can come, entropy {entropy:.1f} nats"
        axes.set_title(text, fontsize=9, weight="normal")
        axes.set(ylim=(0, 0.75), ylabel="probability")
        axes.grid(axis="x", visible=False)
        data[name] = {"kept": kept, "entropy": entropy, "shown": shown}
    grid[-1, 0].set_xticks(range(_SHOWN), names[:_SHOWN], rotation=65, ha="right", fontsize=8)
    grid[-1, 0].set_xlabel(f"the {_SHOWN} most probable of {len(order) and len(p):,} tokens")
    figure.suptitle(
        "Temperature bends the distribution, filters cut its tail off",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, data


def loops(shares: Mapping[str, Mapping[float, Point]], copies: Mapping[str, Sequence[Point]]) -> Drawing:
    """Left: share of texts that end in a loop, by temperature. Right: probability of a sentence's tokens
    at its n-th copy."""
    figure, grid = new_figure(1, 2, figsize=(8.6, 3.7))
    left, right = grid[0]
    styles = list(zip(COLOURS, "os^", strict=False))
    for (name, points), (colour, mark) in zip(shares.items(), styles, strict=False):
        x, y = list(points), np.array(list(points.values()))
        error = np.abs(y[:, 1:] - y[:, :1]).T
        left.errorbar(x, y[:, 0], error, label=name, color=colour, marker=mark, capsize=3, linewidth=1.5)
    left.set(xlabel="temperature (0 is greedy)", ylabel="share of texts that end in a loop", ylim=(-0.03, 1))
    left.legend(fontsize=9)
    left.set_title("Loops come with greed ...")
    for (name, row), (colour, mark) in zip(copies.items(), styles, strict=False):
        y = np.array(row)
        error = np.abs(y[:, 1:] - y[:, :1]).T
        count = np.arange(1, len(y) + 1)
        right.errorbar(count, y[:, 0], error, label=name, color=colour, marker=mark, capsize=3, linewidth=1.5)
    right.set(xlabel="sentence number", ylabel="mean probability of its tokens", ylim=(-0.02, 0.6))
    right.legend(fontsize=9, loc="upper left")
    right.set_title("... and trained models copy")
    return figure, {"share": {k: dict(v) for k, v in shares.items()}, "copies": dict(copies)}


def work(replies: Sequence[int], without: Sequence[float], kept: Sequence[float], prompt: int) -> Drawing:
    """Operations (FLOP) for a reply of so many tokens, without a cache and with one."""
    figure, grid = new_figure(figsize=(6.4, 3.6))
    axes = grid[0, 0]
    axes.loglog(replies, without, "o-", color=ORANGE, label="without a cache", markersize=4)
    axes.loglog(replies, kept, "s-", color=BLUE, label="with a cache", markersize=4)
    factor = without[-1] / kept[-1]
    axes.annotate(
        f"{factor:,.0f} times", (replies[-1], (without[-1] * kept[-1]) ** 0.5), ha="right", va="center"
    )  # fmt: skip
    axes.set(xlabel=f"tokens of the reply (prompt: {prompt})", ylabel="operations (FLOP)")
    axes.legend()
    axes.set_title("A cache saves a factor that grows with the text")
    return figure, {"replies": replies, "without": without, "with": kept, "prompt": prompt}


def drafted(replies: Mapping[str, Sequence[tuple[str, str]]], width: int = 74) -> Drawing:
    """Replies as boxes of tokens, (text, "accepted" | "own" | "refused"); a refused one is struck out."""
    lines: list[tuple[str, list[tuple[int, str, str]]]] = []
    for title, tokens in replies.items():
        lines.append((title, []))
        place = width
        for text, kind in tokens:
            shown = text.replace("\n", "\u21b5").replace(" ", "\u2423") or "?"
            if place + len(shown) + 1 > width:
                lines.append(("", []))
                place = 0
            lines[-1][1].append((place, shown, kind))
            place += len(shown) + 1
    figure, grid = new_figure(figsize=(8.6, 0.33 * len(lines) + 1.0))
    axes = grid[0, 0]
    for row, (title, line) in enumerate(lines):
        if title:
            axes.text(0, -row, title, fontsize=9, va="center")
        for place, shown, kind in line:
            ground, ink = _LOOKS[kind]
            box = FancyBboxPatch((place, -row - 0.3), len(shown) - 0.1, 0.6, boxstyle="round,pad=0.06")
            box.set(facecolor=ground, edgecolor=ink, linewidth=0.7, mutation_aspect=0.5)
            axes.add_patch(box)
            where = (place + len(shown) / 2 - 0.05, -row - 0.02)
            axes.text(*where, shown, family="monospace", fontsize=8, ha="center", va="center", color=ink)
            if kind == "refused":
                axes.plot([place, place + len(shown) - 0.1], [-row, -row], color=ink, linewidth=1)
    for x, (kind, words) in zip(
        (0, 24, 42),
        (("accepted", "drafted and accepted"), ("refused", "drafted, refused"), ("own", "the model's own")),
        strict=True,
    ):
        ground, ink = _LOOKS[kind]
        frame = {"facecolor": ground, "edgecolor": ink, "pad": 2}
        axes.text(x, 1.1, words, fontsize=9, color=ink, bbox=frame)
    axes.set(xlim=(-0.5, width), ylim=(-len(lines), 1.8))
    axes.axis("off")
    axes.set_title("A pass of the model signs the blue tokens before it and adds a grey one")
    return figure, {title: [list(token) for token in tokens] for title, tokens in replies.items()}


def acceptance(drafts: Mapping[str, Sequence[tuple[int, float, float]]]) -> Drawing:
    """By draft: (tokens drafted a pass, tokens that a pass yielded, and how many equation 1 expects)."""
    figure, grid = new_figure(figsize=(6.6, 3.9))
    axes = grid[0, 0]
    for (name, points), colour, mark in zip(drafts.items(), (BLUE, ORANGE, GREY, RED), "os^v", strict=False):
        g, found, expected = zip(*points, strict=True)
        axes.plot(g, expected, "--", color=colour, linewidth=1.2)
        axes.plot(g, found, mark, color=colour, label=name, markersize=6)
    axes.plot([], [], "--", color="#444444", linewidth=1.2, label="1 + a + ... + a^g, a as measured")
    axes.set(xlabel="g, ids drafted for each pass of the model", ylabel="ids that a pass yields")
    axes.set(ylim=(0, None))
    axes.legend(fontsize=9)
    axes.set_title("What a pass yields is decided by who drafts")
    return figure, {name: [list(point) for point in points] for name, points in drafts.items()}
