"""Drawings of 04_attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Drawing, new_figure


def _title(figure: Any, text: str) -> None:
    """The takeaway, over all panels."""
    figure.suptitle(text, x=0.01, ha="left", weight="bold", fontsize=11)


def _tokens(pieces: Sequence[str]) -> list[str]:
    """Tokens as labels: a line break and a leading space are made visible."""
    return [piece.replace("\n", "\u21b5").replace(" ", "\u00b7") for piece in pieces]


def masks(panels: Mapping[str, tuple[NDArray[Any], int, Sequence[int]]]) -> Drawing:
    """Masks as grids. Each panel: allowed (t, s), the number of cached columns, positions of the s columns
    (-1 for padding)."""
    widths = [max(len(positions), 7) for _, _, positions in panels.values()]
    figure, grid = new_figure(1, len(panels), figsize=(9.2, 3.3), width_ratios=widths)
    for axes, (title, (allowed, past, positions)) in zip(grid[0], panels.items(), strict=True):
        t, s = allowed.shape
        for i, j in np.ndindex(t, s):
            pad = positions[j] < 0 or positions[s - t + i] < 0
            seen = "#bbbbbb" if pad else SKY if j < past else BLUE
            colour = seen if allowed[i, j] else "#f2f2f2"
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        labels = ["pad" if p < 0 else str(p) for p in positions]
        axes.set_xticks(range(s), labels)
        axes.set_yticks(range(t), labels[s - t :])
        axes.set(xlim=(-0.5, s - 0.5), ylim=(t - 0.5, -0.5), xlabel="position of the key")
        axes.set_aspect("equal", anchor="NW")
        axes.tick_params(labelsize=7.5, length=0)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9, weight="normal")
    grid[0][0].set_ylabel("position of the query")
    _title(figure, "A query sees real keys up to itself: new ones (blue) and those in the cache (light blue)")
    return figure, {"masks": {k: [a.astype(int), past, list(p)] for k, (a, past, p) in panels.items()}}


def heads(measures: Mapping[str, NDArray[Any]]) -> Drawing:
    """What each head looks at. measures: name -> (layers, heads), shares of attention from 0 to 1."""
    figure, grid = new_figure(1, len(measures), figsize=(8.4, 3.4))
    for axes, (name, share) in zip(grid[0], measures.items(), strict=True):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (layer, head), value in np.ndenumerate(share):
            ink = "white" if value > 0.55 else "black"
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(share.shape[1]))
        axes.set_yticks(range(share.shape[0]))
        axes.set(xlabel="query head", title="")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(name, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("layer")
    named = list(measures)[-1]
    layer, head = np.unravel_index(measures[named].argmax(), measures[named].shape)
    _title(
        figure,
        f"Heads specialise: layer {layer}, head {head} puts {measures[named].max():.0%} "
        "of its attention on the asked line",
    )
    return figure, dict(measures)


def lookup(
    pieces: Sequence[str],
    asked: tuple[int, int],
    panels: Mapping[str, tuple[Sequence[int], NDArray[Any]]],
) -> Drawing:
    """Attention over a whole prompt. asked: first and last + 1 column of the asked line.
    panels: title -> (query columns, weights (queries, columns))."""
    labels = _tokens(pieces)
    figure, grid = new_figure(len(panels), 1, figsize=(9.2, 1.55 * len(panels) + 0.9))
    for axes, (title, (queries, weights)) in zip(grid[:, 0], panels.items(), strict=True):
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        n = len(queries)
        first, last = asked
        box = Rectangle((first - 0.5, -0.48), last - first, n - 0.05, fill=False, edgecolor=ORANGE, lw=2)
        axes.add_patch(box)
        axes.set_xticks(range(weights.shape[1]), labels[: weights.shape[1]], fontsize=8)
        for tick, label in zip(axes.get_xticklabels(), labels, strict=False):
            tick.set_rotation(90 if len(label) > 2 else 0)
        axes.set_yticks(range(n), [f"{labels[q]}  ({q})" for q in queries], fontsize=8)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_ylabel("query (column)", fontsize=8.5)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[-1, 0].set_xlabel("key: the tokens of the prompt (\u21b5 line break, \u00b7 space)")
    _title(figure, "The asked line (orange) among the others: how a head finds it")
    return figure, {
        "pieces": list(pieces), "asked": list(asked),
        "weights": {title: [list(queries), weights] for title, (queries, weights) in panels.items()},
    }  # fmt: skip


def silenced(base: float, single: NDArray[Any], group: NDArray[Any]) -> Drawing:
    """Accuracy when one query head (layers, heads) or one KV head with its group (layers, kv) is off."""
    figure, grid = new_figure(1, 2, figsize=(7.6, 3.4), width_ratios=[2, 1.25])
    panels = {"one query head off": (single, "query head"), "one KV head off": (group, "KV head")}
    for axes, (title, (accuracy, label)) in zip(grid[0], panels.items(), strict=True):
        axes.imshow(accuracy, cmap="Oranges_r", vmin=0, vmax=1, aspect="auto")
        for (layer, head), value in np.ndenumerate(accuracy):
            ink = "white" if value < 0.35 else "black"
            axes.text(head, layer, f"{value:.0%}", ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(accuracy.shape[1]))
        axes.set_yticks(range(accuracy.shape[0]))
        axes.set_xlabel(label)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("layer")
    needed = int((group < base - 0.3).sum())
    _title(figure, f"Look-ups ({base:.0%} right with all heads) need {needed} of {group.size} KV heads")
    return figure, {"base": base, "single": single, "group": group}


def logits(
    growth: NDArray[Any],
    largest: Mapping[str, NDArray[Any]],
    favourite: Mapping[str, NDArray[Any]],
    error: Mapping[str, NDArray[Any]],
) -> Drawing:
    """Scores as the weights of q_proj and k_proj grow. Each mapping: line -> values over growth, NaN where
    a number was no longer finite: the largest score, the mean weight of each query's favourite key, and the
    largest error of a score by rounding."""
    figure, grid = new_figure(1, 3, figsize=(9.6, 3.8))
    looks = {
        "float32": ("-", GREY, 5), "bfloat16": ("--", ORANGE, 2), "float16": (":", RED, 2.5),
        "QK-Norm, float32": ("-", SKY, 5), "QK-Norm, bfloat16": ("--", BLUE, 2),
        "QK-Norm, float16": (":", "black", 2),
    }  # fmt: skip
    panels = (
        ("largest score", largest),
        ("mean weight of the favourite key", favourite),
        ("largest error of a score by rounding", error),
    )
    for axes, (title, lines) in zip(grid[0], panels, strict=True):
        for name, values in lines.items():
            style, colour, width = looks[name]
            axes.plot(growth, values, style, color=colour, label=name, linewidth=width)
            lost = np.isnan(values)
            if lost.any():
                last = int(np.argmax(lost)) - 1
                axes.plot(growth[last], values[last], "x", color=colour, markersize=9, mew=2.5)
        axes.set(xscale="log", xlabel="growth of q_proj and k_proj")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set(yscale="log", ylim=(0.5, 1e6), ylabel="query \u00b7 key / \u221ahead_dim")
    grid[0][1].set(ylim=(-0.03, 1.05), ylabel="share")
    grid[0][2].set(yscale="log", ylabel="query \u00b7 key / \u221ahead_dim")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=6, fontsize=8, columnspacing=1.2)
    _title(figure, "Without QK-Norm scores grow with the square of the weights; with it they stay")
    return figure, {
        "growth": growth, "largest": dict(largest), "favourite": dict(favourite), "error": dict(error)
    }  # fmt: skip


def cache(family: Mapping[str, Qwen3Config], contexts: Sequence[int], at: int) -> Drawing:
    """KV cache in GB by context, and at one context against a KV head for every query head (MHA)."""
    figure, grid = new_figure(1, 2, figsize=(9.2, 4.0), width_ratios=[1.15, 1])
    left, right = grid[0]
    sizes = {name: [c.kv_cache_bytes(n) / 1e9 for n in contexts] for name, c in family.items()}
    mha = {
        name: c.kv_cache_bytes(at) / 1e9 * c.num_attention_heads / c.num_key_value_heads
        for name, c in family.items()
    }
    now = {name: c.kv_cache_bytes(at) / 1e9 for name, c in family.items()}
    together: dict[float, list[str]] = {}
    for name, values in sizes.items():
        together.setdefault(values[-1], []).append(name.removeprefix("Qwen3-"))
    looks = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-"), (PINK, "-."), (RED, "--"), (GREY, ":"))
    spread = np.linspace(0, 1, len(together))
    low, high = np.log10(min(together)), np.log10(max(together))
    for place, (size, names), (colour, style) in zip(spread, sorted(together.items()), looks, strict=False):
        line = sizes[f"Qwen3-{names[0]}"]
        left.loglog(contexts, line, style, color=colour)
        height = 10 ** (low - 0.1 + (high - low + 0.2) * place)  # apart, where the lines end close together
        left.annotate(
            " = ".join(names), (contexts[-1], size), (contexts[-1] * 1.25, height), fontsize=8.5,
            va="center", arrowprops={"arrowstyle": "-", "color": colour, "lw": 1},
        )  # fmt: skip
    left.set_xticks(contexts, [f"{n // 1024}K" for n in contexts], minor=False)
    left.minorticks_off()
    left.set(xlabel="tokens in the context", ylabel="KV cache, GB (bfloat16)")
    left.set_xlim(contexts[0], contexts[-1] * 12)
    left.set_title("one conversation", fontsize=9.5, weight="normal")
    for y, name in enumerate(family):
        right.plot([now[name], mha[name]], [y, y], color="#cccccc", linewidth=3, zorder=1)
        right.plot(now[name], y, "o", color=BLUE, label="as it is (GQA)" if y == 0 else None)
        right.plot(mha[name], y, "D", color=ORANGE, label="with MHA" if y == 0 else None)
        ratio = round(mha[name] / now[name])
        right.text(mha[name] * 1.25, y, f"x {ratio}", va="center", fontsize=8.5)
    right.set_yticks(range(len(family)), [name.removeprefix("Qwen3-") for name in family], fontsize=8.5)
    right.invert_yaxis()
    right.set(xscale="log", xlabel=f"KV cache at {at:,} tokens, GB", xlim=(2, 400))
    right.legend(fontsize=8, loc="upper right")
    right.set_title("what sharing KV heads saves", fontsize=9.5, weight="normal")
    _title(figure, "Depth and KV heads decide the cache, not size: the 235B model keeps less than the 32B")
    return figure, {"contexts": contexts, "gb": sizes, "at": at, "gb_gqa": now, "gb_mha": mha}


def faults(accuracy: Mapping[str, float], agree: Mapping[str, float]) -> Drawing:
    """A trained model with one wrong line each: look-ups right, and next tokens of a text that stay."""
    figure, grid = new_figure(1, 2, figsize=(8.8, 3.4), sharey=True)
    panels = (("look-ups answered right", accuracy), ("next tokens as the right model picks them", agree))
    for axes, (title, values) in zip(grid[0], panels, strict=True):
        names = list(values)
        colours = [BLUE if i == 0 else RED for i in range(len(names))]
        axes.barh(range(len(names)), list(values.values()), color=colours, height=0.65)
        for y, value in enumerate(values.values()):
            axes.text(value + 0.02, y, f"{value:.0%}", va="center", fontsize=8.5)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set(xlim=(0, 1.15), xlabel="share")
        axes.grid(visible=False, axis="y")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].invert_yaxis()
    _title(figure, "One wrong line in attention: shapes fit, nothing crashes, and answers go wrong")
    return figure, {"accuracy": dict(accuracy), "agree": dict(agree)}
