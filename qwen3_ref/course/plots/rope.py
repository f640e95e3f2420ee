"""Drawings of 03_rope."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle, Wedge
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Drawing, new_figure
from qwen3_ref.rope import frequencies


def _title(figure: Any, text: str) -> None:
    """The takeaway, over all panels."""
    figure.suptitle(text, x=0.01, ha="left", weight="bold", fontsize=11)


def arrows(
    q: NDArray[Any], k: NDArray[Any], places: Sequence[tuple[int, int]], turned: Sequence[NDArray[Any]]
) -> Drawing:
    """A 2-D query and key at several places. turned: per place the array (2, 2) of both, rotated."""
    figure, grid = new_figure(1, len(places), figsize=(8.0, 3.5))
    limit = 1.15 * max(float(np.hypot(*q)), float(np.hypot(*k)))
    scores = []
    for axes, (m, n), pair in zip(grid[0], places, turned, strict=True):
        for (x, y), colour, label in zip(pair, (BLUE, ORANGE), (f"query at {m}", f"key at {n}"), strict=True):
            axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2})
            axes.plot([], [], color=colour, label=label)
        query, key = (math.degrees(math.atan2(y, x)) for x, y in pair)
        axes.add_patch(Wedge((0, 0), 0.3, key, query, color="#d9d9d9"))
        for (x, y), colour in zip((q, k), (BLUE, ORANGE), strict=True):
            axes.plot([0, x], [0, y], color=colour, linestyle=":", linewidth=1.2)
        scores.append(float(pair[0] @ pair[1]))
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="channel 0")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.set_title(f"{m - n} tokens apart, score {scores[-1]:.3f}", fontsize=9.5, weight="normal")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncol=2, fontsize=8, handlelength=1.2)
    grid[0][0].set_ylabel("channel 1")
    figure.suptitle(
        "Both arrows turn (dotted: unturned); the angle between them, and so the score, stays",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"places": places, "turned": turned, "score": scores}


def layouts(interleaved: NDArray[Any], order: NDArray[Any], half: NDArray[Any]) -> Drawing:
    """The rotation matrix (d, d) in both layouts and the permutation matrix between them."""
    d = len(order)
    panels = {
        "paper: neighbours turn": (interleaved, np.arange(d) // 2),
        "permutation P": (order, np.zeros(d, dtype=int)),
        "Qwen3: j turns with j + d/2": (half, np.arange(d) % (d // 2)),
    }
    figure, grid = new_figure(1, 3, figsize=(8.2, 3.5))
    for axes, (title, (matrix, pair)) in zip(grid[0], panels.items(), strict=True):
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "#cccccc" if title.startswith("perm") else (SKY, ORANGE, GREEN, PINK)[pair[i]]
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
            text = "c" if i == j else "s" if matrix[i, j] > 0 else "\u2212s"
            text = "1" if title.startswith("perm") else text
            axes.text(j, i, text, ha="center", va="center", fontsize=8)
        axes.set(xlim=(-0.5, d - 0.5), ylim=(d - 0.5, -0.5), aspect="equal", xlabel="channel in")
        axes.set_xticks(range(d))
        axes.set_yticks(range(d))
        axes.tick_params(labelsize=8, length=0)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("channel out")
    figure.suptitle(
        "One rotation, two orders of the channels (c cosine, s sine; a colour is a frequency)",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"interleaved": interleaved, "permutation": order, "half_split": half}


def theta_wavelengths(head_dim: int, thetas: Sequence[float], contexts: Sequence[int]) -> Drawing:
    """Tokens per full turn of each pair for several theta, against context lengths."""
    figure, ((axes,),) = new_figure()
    waves = {f"{theta:,.0f}": 2 * np.pi / frequencies(head_dim, theta)[0] for theta in thetas}
    slow = {name: [int((wave > length).sum()) for length in contexts] for name, wave in waves.items()}
    looks = ((":", GREY), ("-", BLUE), ("--", ORANGE), ("-.", GREEN))
    for (name, wave), (style, colour) in zip(waves.items(), looks, strict=False):
        axes.semilogy(wave, style, color=colour, label=f"theta = {name}")
    for length in contexts:
        axes.axhline(length, color="#999999", linewidth=1)
        axes.text(0.6, length * 1.15, f"{length:,} tokens of context", fontsize=8, color="#555555")
    axes.set(xlabel="rotating pair j of a head's channels", ylabel="tokens for one full turn")
    axes.set_xlim(0, head_dim // 2 - 1)
    axes.legend(loc="lower right", fontsize=8.5)
    few, many = (slow[f"{theta:,.0f}"][-1] for theta in (thetas[0], thetas[-1]))
    axes.set_title(
        f"{many} of {head_dim // 2} pairs outlast a context of {contexts[-1]:,} tokens, "
        f"with theta {thetas[0]:,.0f} only {few}"
    )
    return figure, {"wavelength_tokens": waves, "contexts": contexts, "pairs_slower_than_context": slow}


def angles(head_dim: int, theta: float, places: Sequence[int], pairs: Sequence[int]) -> Drawing:
    """Where every pair points, by position: some pairs as arrows at a few places, and below all pairs at all
    places up to the last (log scale), a colour for each direction."""
    speed = frequencies(head_dim, theta)[0]
    figure, grid = new_figure(2, 1, figsize=(8.0, 4.9), height_ratios=[len(pairs), 4.5])
    arrows, heat = grid[:, 0]
    wheel = colormaps["twilight_shifted"]
    for row, pair in enumerate(pairs):
        for column, place in enumerate(places):
            a = float(place * speed[pair])
            x, y = 0.36 * math.cos(a), 0.36 * math.sin(a)
            colour = wheel(a % (2 * math.pi) / (2 * math.pi))
            arrows.add_patch(Wedge((column, -row), 0.4, 0, 360, width=0.03, color="#dddddd"))
            style = {"arrowstyle": "-|>", "lw": 2, "color": colour, "shrinkA": 0, "shrinkB": 0}
            arrows.annotate("", (column + x, -row + y), (column - 0.6 * x, -row - 0.6 * y), arrowprops=style)
        done = places[-1] * speed[pair] / (2 * math.pi)
        turns = f"{done:,.0f} turns" if done >= 10 else f"{done:.2g} turn{'s' if done > 1 else ''}"
        arrows.text(len(places) - 0.4, -row, turns, fontsize=8.5, va="center")
    arrows.set(xlim=(-0.5, len(places) + 0.9), ylim=(-len(pairs) + 0.5, 0.5), aspect="equal")
    arrows.set_xticks(range(len(places)), [f"{place:,}" for place in places], fontsize=8)
    arrows.set_yticks([-row for row in range(len(pairs))], [f"pair {pair}" for pair in pairs], fontsize=8.5)
    arrows.tick_params(length=0)
    arrows.xaxis.tick_top()
    arrows.spines[:].set_visible(False)
    arrows.grid(visible=False)
    edges = np.geomspace(1, places[-1], 401)
    at = np.sqrt(edges[:-1] * edges[1:]).round()
    turned = (at * speed[:, None]) % (2 * np.pi)  # (pairs, places)
    heat.pcolormesh(edges, np.arange(len(speed) + 1) - 0.5, turned, cmap=wheel, vmin=0, vmax=2 * np.pi)
    first = 2 * np.pi / speed  # a full turn
    heat.plot(first, np.arange(len(speed)), color="black", lw=1.5)
    inside = int((first < places[-1]).sum())
    heat.text(first[inside // 2] * 0.8, inside // 2 + 8, "first turn", fontsize=9, ha="right", color="white")
    heat.set(xscale="log", xlabel="position (log scale)", ylabel="pair", ylim=(len(speed) - 0.5, -0.5))
    heat.set_xlim(1, places[-1])
    heat.grid(visible=False)
    never = int((first > places[-1]).sum())
    _title(figure, f"Every pair turns, each slower than the last: {never} of {len(speed)} never come round")
    return figure, {"places": list(places), "pairs": list(pairs), "tokens_a_turn": first, "never": never}


def distance(
    distances: NDArray[Any], scores: Mapping[str, NDArray[Any]], by_pair: NDArray[Any]
) -> Drawing:
    """The score of two equal vectors by distance: what each pair adds, by_pair (pairs, distances), from 1 to
    -1, and the mean of all pairs for several theta; by_pair belongs to the last one."""
    figure, grid = new_figure(2, 1, figsize=(8.0, 4.6), sharex=True, height_ratios=[1.3, 1])
    heat, mean = grid[:, 0]
    shown = heat.pcolormesh(distances, np.arange(len(by_pair)), by_pair, cmap="RdBu", vmin=-1, vmax=1)
    heat.set(xscale="log", ylabel="pair", ylim=(len(by_pair) - 0.5, -0.5))
    heat.grid(visible=False)
    figure.colorbar(shown, ax=heat, label="cosine of its angle", ticks=[-1, 0, 1])
    name = list(scores)[-1]
    heat.set_title(f"what each pair adds, theta = {name}", fontsize=9.5, weight="normal")
    looks = zip(scores.items(), ("--", "-"), (ORANGE, BLUE), strict=True)
    for (theta, values), style, colour in looks:
        mean.plot(distances, values, style, color=colour, label=f"theta = {theta}", linewidth=1.6)
    mean.axhline(0, color="#999999", linewidth=0.8)
    mean.set(xlabel="distance, tokens (log scale)", ylabel="score", ylim=(-0.25, 1.05))
    mean.set_title("mean of all pairs", fontsize=9.5, weight="normal")
    mean.legend(fontsize=8.5, loc="upper right")
    _title(figure, "Pairs fall out of step one after the other, and the score fades; later for larger theta")
    return figure, {"distances": distances, "scores": dict(scores)}


def reach(panels: Mapping[str, Mapping[str, NDArray[Any]]]) -> Drawing:
    """How much of its first turn each pair makes in the whole context. Each panel: what was trained, the
    naive extension and the mended one, in this order; unseen are angles that training never reached."""
    figure, grid = new_figure(1, len(panels), figsize=(8.4, 3.5), sharey=True)
    unseen: dict[str, list[int]] = {}
    for axes, (title, lines) in zip(grid[0], panels.items(), strict=True):
        trained, *others = lines.values()
        unseen[title] = [int(((trained < 1) & (new > trained * (1 + 1e-9))).sum()) for new in others]
        names, pairs = list(lines), np.arange(len(trained))
        seen, naive, mended = (np.minimum(turns, 1) for turns in (trained, *others))
        axes.bar(pairs, seen, width=1.0, color="#c9ddec", label=names[0])
        axes.bar(pairs, naive - seen, bottom=seen, width=1.0, color=RED, alpha=0.85, label=names[1])
        axes.step(pairs, mended, where="mid", color=BLUE, lw=2, label=names[2])
        start = int(np.argmax(trained < 1)) - 8
        axes.set(xlabel="pair", xlim=(start, len(trained) - 0.5), ylim=(0, 1.45))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "\u00bc", "\u00bd", "\u00be", "1 or more"])
        axes.grid(visible=False)
        axes.legend(fontsize=8, loc="upper right")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("turns at the end of the context")
    lost = " and ".join(str(values[0]) for values in unseen.values())
    left = " and ".join(str(values[1]) for values in unseen.values() if values[1]) or "none"
    _title(figure, f"{lost} pairs would meet angles they never saw (red); ABF and YaRN leave {left}")
    return figure, {"turns": panels, "pairs_at_unseen_angles": unseen}


def order(ceiling: NDArray[Any], cells: Mapping[str, NDArray[Any]], chance: float) -> Drawing:
    """Letters named right by place. cells: model -> (seeds, places); ceiling: of who knows no order."""
    figure, ((axes,),) = new_figure(1, 1, figsize=(7.6, 3.4))
    places = np.arange(3, 3 + len(ceiling))
    looks = ((SKY, "-", "s"), (ORANGE, "-", "o"), (BLUE, "--", "^"), (RED, "-", "D"))
    for (name, values), (colour, style, mark) in zip(cells.items(), looks, strict=True):
        axes.plot(places, values.mean(0), style, marker=mark, ms=4.5, color=colour, label=name)
        axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(places, ceiling, color="black", lw=1.2, ls=":", label="ceiling without order")
    axes.axhline(chance, color="#999999", lw=1)
    axes.text(places[-1], chance + 0.015, "guessing", fontsize=8, ha="right", color="#555555")
    axes.set(xlabel="place in the text", ylabel="named right", ylim=(0, 1.06))
    axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _title(figure, "Without positions one layer is blind to order, and two are not")
    return figure, {"ceiling": ceiling, "cells": dict(cells)}


def faults(
    sliding: Mapping[str, NDArray[Any]], positions: NDArray[Any], errors: Mapping[str, NDArray[Any]]
) -> Drawing:
    """A fixed pair of vectors slid along the text, right and wrong; and the error of several faults."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5))
    for (name, values), style, colour in zip(sliding.items(), ("-", "--"), (BLUE, RED), strict=True):
        left.plot(values, style, color=colour, label=name)
    left.set(xlabel="position of the key (query 4 tokens on)", ylabel="score")
    left.margins(y=0.3)
    left.legend(fontsize=8.5, loc="upper right")
    left.set_title("the same two vectors, slid along a text", fontsize=9.5, weight="normal")
    looks = zip(errors.items(), ("--", "-", "-."), (RED, GREEN, ORANGE), strict=True)
    for (name, values), style, colour in looks:
        right.loglog(positions, values, style, color=colour, label=name)
    right.set(xlabel="distance to the key, tokens (log scale)", ylabel="error, in typical scores")
    right.set_ylim(1e-4, 10)
    right.legend(fontsize=8, loc="lower right")
    right.set_title("how wrong each fault is, by distance", fontsize=9.5, weight="normal")
    figure.suptitle(
        "Mixed-up tables are wrong from the second token on; rounded angles hide in short texts",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"sliding": dict(sliding), "positions": positions, "errors": dict(errors)}
