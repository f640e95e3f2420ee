"""Drawings of 19_quantization_and_memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREEN, GREY, ORANGE, Drawing, new_figure
from qwen3_ref.course.plots.style import measured as measured

Point = Mapping[str, Any]
METHODS = {"rtn": ("nearest", "o-"), "gptq": ("GPTQ", "s--"), "awq": ("AWQ", "^:")}


def errors(found: Sequence[Mapping[str, Any]], inputs: int, at: tuple[int, int] = (4, 32)) -> Drawing:
    """Left: the relative error of weights by bits, a line a group size, the mean of all matrices. Right: of
    each matrix, by layer, at `at` (bits, group). inputs: what None stands for, the columns of most."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5), width_ratios=(1, 1.25))
    bits = sorted({f["bits"] for f in found})
    groups = sorted({f["group"] for f in found}, key=lambda g: g or 10**9)
    lines = {}
    for group, colour, mark in zip(groups, COLOURS, "os^D", strict=False):
        alike = [f for f in found if f["group"] == group]
        y = [float(np.mean([f["error"] for f in alike if f["bits"] == b])) for b in bits]
        name = f"{group}" if group else f"a row ({inputs} or more)"
        left.semilogy(bits, y, f"{mark}-", color=colour, label=name, markersize=4.5)
        lines[name] = y
    left.set(xlabel="bits a weight", ylabel="error of the weights, relative", xticks=bits)
    left.legend(title="group", fontsize=8, title_fontsize=8)
    chosen = [f for f in found if (f["bits"], f["group"]) == at]
    layers = sorted({int(f["name"].split(".")[2]) for f in chosen})
    kinds = list(dict.fromkeys(f["name"].split(".")[-2].removesuffix("_proj") for f in chosen))
    grid = np.full((len(layers), len(kinds)), np.nan)
    for f in chosen:
        part = f["name"].split(".")
        grid[layers.index(int(part[2])), kinds.index(part[-2].removesuffix("_proj"))] = f["error"]
    right.imshow(grid, cmap="cividis", aspect="auto", vmin=0, vmax=1.5 * np.nanmax(grid))
    middle = 0.75 * np.nanmax(grid)
    for (i, j), value in np.ndenumerate(grid):
        colour = "white" if value < middle else "black"
        right.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=7.5, color=colour)
    right.set_xticks(range(len(kinds)), kinds, fontsize=8.5)
    right.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    right.set(ylabel="layer", title=f"{at[0]} bits, groups of {at[1]}: all much alike")
    right.grid(visible=False)
    left.set_title("A bit halves the error")
    return figure, {"bits": bits, "by_group": lines, "matrices": kinds, "by_layer": grid}


def outliers(channels: Mapping[str, Sequence[float]]) -> Drawing:
    """Root mean square of each channel over the median channel's, sorted: a line a tensor."""
    figure, ((axes,),) = new_figure(figsize=(7.2, 3.4))
    tops, least = {}, 1.0
    for (name, values), colour, style in zip(
        channels.items(), COLOURS, ("-", "--", "-.", ":", "-"), strict=False
    ):
        y = np.sort(np.asarray(values))[::-1]
        y = y / np.median(y)
        axes.semilogy(np.linspace(0, 100, len(y)), y, style, color=colour, label=name)
        tops[name], least = float(y[0]), min(least, float(y[-1]))
    axes.set(xlabel="channels, loudest first, % of all", ylabel="size over the median's")
    known, most = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 100, 300, 1000), max(tops.values())
    ticks = [tick for tick in known if 0.8 * least < tick < 1.3 * most]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8.5)
    loudest = max(tops, key=lambda name: tops[name])
    axes.set_title(f"{loudest}: its loudest channel is {tops[loudest]:.0f} times the median one")
    return figure, {"largest": tops}


def quality(points: Mapping[str, Point]) -> Drawing:
    """By bits, a line a method: how far predictions are from those at 16 bits, and accuracy with its
    intervals (free thinking: lines; without thinking, to the nearest: grey)."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5))
    data: dict[str, Any] = {}
    for (method, (name, style)), colour in zip(METHODS.items(), COLOURS, strict=False):
        some = [p for p in points.values() if p["method"] == method and p["bits"] < 16]
        bits = [p["bits"] for p in some]
        kl = [p["kl"] for p in some]
        unbound = [free(p) for p in some]
        left.semilogy(bits, kl, style, color=colour, label=name, markersize=4.5)
        places = [b + {"rtn": 0, "gptq": 0.12, "awq": -0.12}[method] for b in bits]
        _bars(right, places, unbound, colour, style, name)
        data[name] = {"bits": bits, "kl": kl, "accuracy": [f["accuracy"] for f in unbound]}
    exact = free(points["16"])
    right.axhspan(100 * exact["low"], 100 * exact["high"], color=GREY, alpha=0.15, label="16 bits")
    off = [p for p in points.values() if p["method"] == "rtn" and p["bits"] < 16]
    _bars(right, [p["bits"] for p in off], [_without(p) for p in off], GREY, "x:", "nearest, no thinking")
    left.set(xlabel="bits a weight", ylabel="KL from 16 bits, nats a token")
    right.set(xlabel="bits a weight", ylabel="right, %", ylim=(-4, 104))
    left.legend(fontsize=8.5)
    right.legend(fontsize=7.5, loc="center right")
    for axes in (left, right):
        axes.set_xticks([2, 3, 4, 8])
        axes.minorticks_off()
    left.set_title("GPTQ's predictions stay nearest")
    right.set_title("8 bits cost nothing; 2 nearly all")
    data["16 bits"] = exact["accuracy"]
    data["without thinking"] = [_without(p)["accuracy"] for p in off]
    return figure, data


def free(point: Point) -> Mapping[str, Any]:
    """The point of a budget curve without a budget."""
    return next(p for p in point["curve"] if p["mode"] == "thinking" and p["budget"] is None)


def _without(point: Point) -> Mapping[str, Any]:
    return next(p for p in point["curve"] if p["mode"] == "non-thinking")


def _bars(
    axes: Any, x: Sequence[float], found: Sequence[Mapping[str, Any]], colour: str, style: str, name: str
) -> None:
    y = np.array([100 * f["accuracy"] for f in found])
    low = y - [100 * f["low"] for f in found]
    high = [100 * f["high"] for f in found] - y
    axes.errorbar(x, y, [low, high], fmt=style, color=colour, markersize=4.5, linewidth=1.6, label=name)


def budget(points: Mapping[str, Point], names: Sequence[str]) -> Drawing:
    """Accuracy by budget, and against the tokens really written for a reply: a line a number of bits."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.7), sharey=True)
    data = {}
    looks = zip(names, COLOURS, ("o-", "s--", "^-.", "D:", "v-"), strict=False)
    for name, colour, style in looks:
        some = [p for p in points[name]["curve"] if p["mode"] == "thinking"]
        label = f"{name.split()[0]} bits"
        known = [p["budget"] for p in some if p["budget"] is not None]
        last = known[-1] + 12
        x = [*known, last]
        _bars(left, x, some, colour, style, label)
        left.set_xticks([*known[::2], last], [*map(str, known[::2]), "none"], fontsize=8)
        tokens = [p["tokens"] for p in some]
        right.plot(tokens, [100 * p["accuracy"] for p in some], style, color=colour, markersize=4.5)
        data[name] = {
            "budget": [p["budget"] for p in some],
            "accuracy": [p["accuracy"] for p in some],
            "tokens": tokens,
            "cut": [p["cut"] for p in some],
        }
    left.set(xlabel="thinking budget, tokens", ylabel="right, %", ylim=(-4, 104))
    right.set(xlabel="tokens written for a reply, mean")
    left.legend(fontsize=8, loc="upper left")
    left.set_title("The curve keeps its shape")
    right.set_title("At equal tokens, too, coarser is lower")
    return figure, data


def qk_norm(study: Mapping[str, Any]) -> Drawing:
    """How much the loss rises when bits are saved: a dot a seed, a colour a variant, a column a way."""
    figure, ((axes,),) = new_figure(figsize=(8.4, 3.6))
    rises = study["rises"]
    ways = list(next(iter(rises.values())))
    for k, (name, colour, mark) in enumerate(zip(rises, (BLUE, ORANGE, GREEN), "os^", strict=True)):
        for i, way in enumerate(ways):
            x = [i + 0.22 * (k - 1)] * len(rises[name][way])
            y = [max(v, 1e-5) for v in rises[name][way]]
            axes.semilogy(x, y, mark, color=colour, markersize=5, label=name if i == 0 else None)
    axes.set_xticks(range(len(ways)), [way.replace(" ", "\n", 1) for way in ways], fontsize=8)
    axes.set(ylabel="rise of the loss, nats a token\n(0 or less: at the bottom)")
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8.5)
    apart = sum(n["low"] > 0 or n["high"] < 0 for ways_ in study["paired"].values() for n in ways_.values())
    total = sum(len(ways_) for ways_ in study["paired"].values())
    axes.set_title(f"QK-Norm on and off: beyond their error lie {apart} of {total} paired differences")
    return figure, {"rises": rises, "paired": study["paired"]}


def memory_map(
    need: Mapping[str, Mapping[str, tuple[float, float]]], cards: Mapping[str, float], length: int
) -> Drawing:
    """Weights (dark) and KV cache (light) of each model in each format, GB, with the sizes of cards."""
    figure, ((axes,),) = new_figure(figsize=(8.4, 4.4))
    formats = list(next(iter(need.values())))
    width = 0.8 / len(formats)
    for k, (kind, colour) in enumerate(zip(formats, COLOURS, strict=False)):
        x = np.arange(len(need)) + (k - (len(formats) - 1) / 2) * width
        weights = [need[name][kind][0] / 1e9 for name in need]
        total = [sum(need[name][kind]) / 1e9 for name in need]
        axes.bar(x, total, width * 0.92, color=colour, alpha=0.35)
        axes.bar(x, weights, width * 0.92, color=colour, label=kind)
    for name, memory in cards.items():
        axes.axhline(memory / 1e9, color=GREY, linewidth=1, linestyle="--")
        axes.text(len(need) + 0.33, memory / 1e9, name, fontsize=8, va="bottom", ha="right", color="#444444")
    axes.set_yscale("log")
    axes.set_xticks(range(len(need)), [n.removeprefix("Qwen3-") for n in need], fontsize=8, rotation=20)
    axes.set(ylabel="GB, logarithmic", xlim=(-0.6, len(need) + 0.35))
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8.5, loc="upper left", title=f"pale: KV cache, {length // 1024}K", title_fontsize=8)
    one = max(cards, key=lambda name: cards[name])
    fits = sum(sum(kinds["int4-g128"]) < 0.9 * cards[one] for kinds in need.values())
    axes.set_title(f"At 4 bits, {fits} of {len(need)} models fit one {one} with 32K tokens")
    return figure, {"need_gb": {n: {k: [v / 1e9 for v in b] for k, b in d.items()} for n, d in need.items()}}


def damage(losses: Mapping[str, float]) -> Drawing:
    """The loss of a model under each bug of a loader, with the right one and blind guessing."""
    figure, ((axes,),) = new_figure(figsize=(7.2, 2.9))
    names = list(losses)
    axes.barh(names, list(losses.values()), color=[BLUE, *[ORANGE] * (len(names) - 2), GREY], height=0.6)
    for i, value in enumerate(losses.values()):
        axes.text(value, i, f" {value:.2f}", va="center", fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlabel="loss on the model's own part, nats a token")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.15 * max(losses.values()))
    *bugs, blind = list(losses.values())[1:]
    lost = sum(loss > blind - 0.1 for loss in bugs)
    axes.set_title(f"{lost} of {len(bugs)} bugs leave nothing but guessing, or worse")
    return figure, {"losses": losses}
