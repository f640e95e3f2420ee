"""Drawings of 03_rope."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle, Wedge
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Drawing, new_figure
from qwen3_ref.rope import frequencies


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


def dials(head_dim: int, thetas: Sequence[float], tokens: int, pairs: Sequence[int]) -> Drawing:
    """How far some pairs have turned after `tokens` tokens: a dial each, a row for each theta."""
    figure, grid = new_figure(len(thetas), len(pairs), figsize=(8.2, 1.15 * len(thetas) + 0.7))
    turns = {f"{t:,.0f}": tokens * frequencies(head_dim, t)[0] / (2 * np.pi) for t in thetas}
    for row, (name, turn) in zip(grid, turns.items(), strict=True):
        for axes, pair in zip(row, pairs, strict=True):
            done = turn[pair] >= 1
            colour = BLUE if done else ORANGE
            axes.add_patch(Wedge((0, 0), 1, 0, 360, width=0.28, color="#e5e5e5"))
            stop = 360.0 if done else 360 * float(turn[pair])
            axes.add_patch(Wedge((0, 0), 1, 0, max(stop, 2.0), width=0.28, color=colour))
            label = f"{turn[pair]:,.0f}" if turn[pair] >= 10 else f"{turn[pair]:.2g}"
            axes.text(0, 0, label, ha="center", va="center", fontsize=8.5)
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"theta =\n{name}", fontsize=9, rotation=0, ha="right", va="center")
    for axes, pair in zip(grid[0], pairs, strict=True):
        axes.set_title(f"pair {pair}", fontsize=9, weight="normal", loc="center")
    first = [int((turn < 1).sum()) for turn in turns.values()]
    figure.suptitle(
        f"In {tokens:,} tokens {first[0]} of {head_dim // 2} pairs never finish a turn (orange), "
        f"with the larger theta {first[-1]}",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"turns": turns, "tokens": tokens, "pairs": pairs, "never_complete_a_turn": first}


def distance(
    distances: NDArray[Any], scores: Mapping[str, NDArray[Any]], single: Mapping[str, NDArray[Any]]
) -> Drawing:
    """The score of two fixed vectors by distance: of single pairs (first panel), of a whole head."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5))
    near = len(next(iter(single.values())))
    for (name, values), style in zip(single.items(), ("-", "-", "--"), strict=True):
        left.plot(range(near), values, style, label=name, linewidth=1.6)
    left.set(xlabel="distance, tokens", ylabel="score (1 at distance 0)")
    left.set_ylim(-1.1, 1.45)
    left.legend(fontsize=8.5, loc="upper center", ncol=len(single))
    left.set_title("single pairs, theta 1,000,000", fontsize=9.5, weight="normal")
    for (name, values), style, colour in zip(scores.items(), (":", "-"), (GREY, BLUE), strict=True):
        right.semilogx(distances, values, style, color=colour, label=f"theta = {name}", linewidth=1.6)
    right.set(xlabel="distance, tokens (log scale)", ylim=(-0.25, 1.05))
    right.axhline(0, color="#999999", linewidth=0.8)
    right.legend(fontsize=8.5, loc="upper right")
    right.set_title("all pairs of a head together", fontsize=9.5, weight="normal")
    figure.suptitle(
        "Two equal vectors: the score fades with distance, later with a larger theta",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"distances": distances, "scores": dict(scores), "single": dict(single)}


def reach(panels: Mapping[str, Mapping[str, NDArray[Any]]]) -> Drawing:
    """Turns at the end of the context by pair. Each panel: what was trained, the naive extension and
    the mended one, in this order; unseen are pairs that pass an angle their training never reached."""
    figure, grid = new_figure(1, len(panels), figsize=(8.4, 3.7), sharey=True)
    unseen: dict[str, list[int]] = {}
    for axes, (title, lines) in zip(grid[0], panels.items(), strict=True):
        trained, *others = lines.values()
        unseen[title] = [int(((trained < 1) & (new > trained * (1 + 1e-9))).sum()) for new in others]
        for (name, turns), style, colour in zip(
            lines.items(), ("-", ":", "--"), (GREY, RED, BLUE), strict=True
        ):
            axes.semilogy(turns, style, color=colour, label=name)
        axes.fill_between(
            range(len(trained)), trained, others[0], where=trained < 1, color=RED, alpha=0.2,
            linewidth=0, label="angles never seen",
        )  # fmt: skip
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel="rotating pair j", xlim=(0, len(trained) - 1), ylim=(2e-3, 4e4))
        axes.legend(fontsize=8, loc="upper right")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("turns at the end of the context")
    grid[0][0].text(1, 0.62, "one full turn: every angle seen", fontsize=8, va="top")
    naive = " and ".join(str(values[0]) for values in unseen.values())
    mended = " and ".join(str(values[1]) for values in unseen.values() if values[1]) or "none"
    figure.suptitle(
        f"{naive} pairs would meet angles they never trained on; with ABF and YaRN, {mended}",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"turns": panels, "pairs_at_unseen_angles": unseen}


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
