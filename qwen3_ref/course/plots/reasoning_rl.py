"""Drawings of 15_reasoning_rl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

Point = tuple[float, float, float]
"""(value, low, high) of a 95% interval."""
_LINES = ("-", "--", "-.", ":", "-")


def _smooth(values: Sequence[float | None], width: int) -> tuple[Any, Any]:
    """Means of `width` values at a time (NaN where there is none), and the middle of each."""
    numbers = np.array([np.nan if v is None else v for v in values], dtype=float)
    rows = numbers[: len(numbers) // width * width].reshape(-1, width)
    seen = ~np.isnan(rows)
    means = np.where(seen, rows, 0).sum(1) / np.where(seen.any(1), seen.sum(1), np.nan)
    return width * (np.arange(len(means)) + 0.5), means


def shipped(
    accuracy: Mapping[int, Point], pass_8: Sequence[Point], logs: Mapping[str, Mapping[str, Sequence[float]]]
) -> Drawing:
    """Left: pass@1 by step with its interval, and pass@8 at both ends, in %. Then entropy and the share of
    groups with signal, by step, of each log."""
    figure, grid = new_figure(1, 3, figsize=(9.8, 3.3))
    first, second, third = grid[0]
    steps = list(accuracy)
    value, low, high = 100 * np.array([accuracy[s] for s in steps]).T
    first.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    first.plot(steps, value, color=BLUE, label="pass@1")
    for step, (middle, below, above) in zip((steps[0], steps[-1]), 100 * np.array(pass_8), strict=True):
        label = "pass@8" if step == steps[0] else None
        first.errorbar(
            step, middle, yerr=[[middle - below], [above - middle]], color=ORANGE, marker="s", capsize=3,
            linestyle="none", label=label,
        )  # fmt: skip
    first.set(xlabel="step", ylabel="% of 500 test problems", ylim=(60, 100))
    first.legend(fontsize=8, loc="lower right")
    first.set_title("qwen3-nano", fontsize=10, weight="normal")
    data: dict[str, Any] = {"pass@1": {str(k): v for k, v in accuracy.items()}, "pass@8": list(pass_8)}
    for axes, key, title in ((second, "entropy", "entropy, nats a token"),
                             (third, "mixed", "groups with signal, %")):  # fmt: skip
        for (name, log), colour, mark in zip(logs.items(), (BLUE, GREEN), ("", "o"), strict=True):
            x, y = _smooth(log[key], 10)
            y = 100 * y if key == "mixed" else y
            axes.plot(x, y, color=colour, marker=mark, markersize=3, label=name)
            data.setdefault(name, {})[key] = y
        axes.set(xlabel="step", ylim=(0, 100 if key == "mixed" else None))
        axes.set_title(title, fontsize=10, weight="normal")
    second.legend(fontsize=8)
    headline(figure, "GRPO (mean a reply, by std, clip .2/.2, no KL): pass@1 rises, entropy and signal fall")
    return figure, data


def three_answers(runs: Mapping[str, Mapping[str, Any]], group: int) -> Drawing:
    """Of policies with three answers, by step: pass@1 and pass@group, entropy, and the share of groups with
    signal; the mean over policies, and for pass@1 the middle 80% of them."""
    figure, grid = new_figure(1, 3, figsize=(9.8, 3.3))
    data: dict[str, Any] = {}
    for (name, found), colour, line in zip(runs.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        p, entropy, signal = (np.asarray(found[key]) for key in ("right", "entropy", "signal"))
        steps = np.arange(len(p))
        many = (1 - (1 - p) ** group).mean(1)
        below, above = np.quantile(p, (0.1, 0.9), axis=1)
        grid[0, 0].fill_between(steps, 100 * below, 100 * above, color=colour, alpha=0.18, linewidth=0)
        grid[0, 0].plot(steps, 100 * p.mean(1), color=colour, linestyle=line, label=f"pass@1, {name}")
        grid[0, 0].plot(steps, 100 * many, color=colour, linestyle=":", label=f"pass@{group}, {name}")
        grid[0, 1].plot(steps, entropy.mean(1), color=colour, linestyle=line, label=name)
        grid[0, 2].plot(steps, 100 * signal.mean(1), color=colour, linestyle=line, label=name)
        kept = slice(0, None, 25)
        data[name] = {
            "pass@1": p.mean(1)[kept], "lowest tenth": below[kept], "highest tenth": above[kept],
            f"pass@{group}": many[kept], "entropy": entropy.mean(1)[kept], "signal": signal.mean(1)[kept],
        }  # fmt: skip
    titles = ("% right (band: 80% of policies)", "entropy, nats", "groups with signal, %")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set(xlabel="step", ylim=(0, 1.15 if "entropy" in title else 105))
        axes.set_title(title, fontsize=10, weight="normal")
    grid[0, 0].legend(fontsize=7.5, loc="center right")
    grid[0, 2].legend(fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.9))
    headline(figure, "GRPO on three answers: true rewards find the right one, a coin finds none")
    return figure, data


def clipping(ratios: Any, curves: Mapping[str, Any], ceilings: Mapping[str, Any], p: Any) -> Drawing:
    """Left: the objective of a token over its ratio, a curve each. Right: the probability at which a gain
    stops, over the probability that the token was drawn with."""
    figure, grid = new_figure(1, 2, figsize=(9.2, 3.4))
    left, right = grid[0]
    looks = ((BLUE, "-"), (ORANGE, "--"), (RED, "-"))
    for (name, values), (colour, line) in zip(curves.items(), looks, strict=True):
        left.plot(ratios, values, color=colour, linestyle=line, label=name)
    left.axvline(1, color=GREY, linewidth=1, linestyle=":")
    left.set(xlabel="ratio: probability now / when drawn", ylabel="objective of the token")
    left.legend(fontsize=8, loc="lower left")
    for (name, values), colour, line in zip(ceilings.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        right.plot(p, np.asarray(values) - p, color=colour, linestyle=line, label=name)
    right.set(xlabel="probability when drawn", ylabel="gain at which its gradient stops")
    right.legend(fontsize=8, loc="upper left")
    headline(figure, "A clip range is a share of what was there: rare tokens may gain least")
    return figure, {"ratios": ratios[::10], "curves": {k: np.asarray(v)[::10] for k, v in curves.items()},
                    "ceilings": {k: np.asarray(v)[::10] for k, v in ceilings.items()}}  # fmt: skip


def length_bias(lengths: Any, weights: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> Drawing:
    """Left: what a token of a reply weighs, over the reply's length, for each mean. Middle and right: the
    share of long replies among the right and among the wrong ones, by step."""
    figure, grid = new_figure(1, 3, figsize=(9.8, 3.4))
    styles = dict(zip(weights, ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-.")), strict=True))
    for name, values in weights.items():
        grid[0, 0].plot(lengths, values, color=styles[name][0], linestyle=styles[name][1], label=name)
    grid[0, 0].set(xlabel="length of the reply, tokens", ylabel="weight of one of its tokens", yscale="log")
    grid[0, 0].set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    grid[0, 0].minorticks_off()
    grid[0, 0].set_title("two replies, the other of 8 tokens", fontsize=10, weight="normal")
    grid[0, 0].legend(fontsize=8)
    for axes, key in ((grid[0, 1], "right"), (grid[0, 2], "wrong")):
        for name, found in runs.items():
            values = 100 * np.asarray(found[key])
            axes.plot(values, color=styles[name][0], linestyle=styles[name][1], label=name)
        axes.axhline(50, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="step", ylim=(0, 100), ylabel="% of them that are long")
        axes.set_title(f"{key} replies", fontsize=10, weight="normal")
    headline(figure, "Unasked, a mean per reply shortens what is right and lengthens what is wrong")
    kept = {n: {k: np.asarray(v)[::25] for k, v in found.items()} for n, found in runs.items()}
    return figure, {"weights": dict(weights), "runs": kept}


def study(ways: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawing:
    """A row a way, a mark a seed and a bar for their mean: pass@1 and pass@8 (%), entropy (nats a token),
    and the tokens of right (filled, above) and wrong (open, below) replies. The first way is the start."""
    figure, grid = new_figure(1, 4, figsize=(10.4, 3.6), sharey=True)
    names, colours = list(ways), dict(zip(ways, (GREY, *COLOURS), strict=False))
    for axes, key, title in zip(
        grid[0], ("pass@1", "pass@8", "entropy", "tokens right"),
        ("pass@1, %", "pass@8, %", "entropy, nats", "tokens: right \u25cf, wrong \u25cb"), strict=True,
    ):  # fmt: skip
        for y, name in enumerate(reversed(names)):
            scale = 100 if "pass" in key else 1
            values = scale * np.asarray(ways[name][key], dtype=float)
            rows: list[tuple[Any, float, str]] = [(values, y, colours[name])]
            if key == "tokens right":  # right ones above the row's line, wrong ones below it
                wrong = np.asarray(ways[name]["tokens wrong"], dtype=float)
                rows = [(values, y + 0.17, colours[name]), (wrong, y - 0.17, "none")]
            for some, at, face in rows:
                half = 0.3 / len(rows)
                axes.plot(some, np.full(len(some), at), "o", color=colours[name], markerfacecolor=face,
                          markersize=5, alpha=0.8)  # fmt: skip
                axes.plot([some.mean()] * 2, [at - half, at + half], color="black", linewidth=2)
        start = np.asarray(ways[names[0]][key], dtype=float).mean() * (100 if "pass" in key else 1)
        axes.axvline(start, color=GREY, linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=10, weight="normal")
    grid[0, 0].set_yticks(range(len(names)), names[::-1], fontsize=9)
    figure.supxlabel(
        "a dot: one seed; a black bar: their mean, no interval; dotted: the start's mean", fontsize=9
    )
    headline(figure, "What is paid for matters more than which variant of GRPO learns it")
    return figure, {name: dict(found) for name, found in ways.items()}


def curves(ways: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]], width: int = 2) -> Drawing:
    """By step, the mean over seeds of `width` steps at a time: share of right replies, entropy, share of
    groups with signal, share of tokens that clipping stopped, for each way."""
    figure, grid = new_figure(1, 4, figsize=(10.6, 3.5))
    data: dict[str, Any] = {}
    panels = {"right": "right, %", "entropy": "entropy, nats", "mixed": "groups with signal, %",
              "clipped": "tokens clipped, % (+0.01)"}  # fmt: skip
    for (key, title), axes in zip(panels.items(), grid[0], strict=True):
        for (name, log), colour, line in zip(ways.items(), COLOURS, _LINES, strict=False):
            both = [_smooth(values, width) for values in log[key]]
            y = np.mean([values for _, values in both], axis=0) * (1 if key == "entropy" else 100)
            shown = y + (0.01 if key == "clipped" else 0)
            axes.plot(both[0][0], shown, color=colour, linestyle=line, label=name)
            data.setdefault(name, {})[key] = y
        axes.set(xlabel="step")
        axes.set_title(title, fontsize=10, weight="normal")
    for axes in (grid[0, 0], grid[0, 2]):
        axes.set_ylim(0, 105)
    grid[0, 1].set_ylim(0, None)
    grid[0, 3].set_yscale("log")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    headline(figure, "In training: five ways from the same start, the mean of four seeds")
    return figure, data


def hack(changes: Mapping[str, Mapping[str, Point]], rewards: Mapping[str, tuple[Any, Any]]) -> Drawing:
    """Left: the reward of held-out tasks by step, as each run pays it. Right: what each run changed of the
    thinking accuracy, by family, in points with its interval."""
    figure, grid = new_figure(1, 2, figsize=(9.4, 3.5), width_ratios=(1, 1.5))
    left, right = grid[0]
    for (name, (steps, values)), colour, mark in zip(rewards.items(), (RED, BLUE), "so", strict=True):
        left.plot(steps, values, color=colour, marker=mark, markersize=4, label=name)
    left.set(xlabel="update", ylabel="mean reward of held-out tasks, 0 to 1")
    left.set_title("what each run is paid", fontsize=10, weight="normal")
    left.legend(fontsize=8)
    families = list(next(iter(changes.values())))
    y = np.arange(len(families))[::-1]
    looks = ((RED, "s", 0.13), (BLUE, "o", -0.13))
    for (name, found), (colour, mark, shift) in zip(changes.items(), looks, strict=True):
        value, low, high = 100 * np.array([found[f] for f in families]).T
        right.errorbar(
            value, y + shift, xerr=[value - low, high - value], color=colour, marker=mark, capsize=3,
            linestyle="none", label=name,
        )  # fmt: skip
    right.axvline(0, color=GREY, linewidth=1)
    right.set_yticks(y, families)
    right.set(xlabel="change of accuracy, points (bars: 95% interval over 500 problems)")
    right.set_title("the same problems without a limit", fontsize=10, weight="normal")
    headline(figure, "A reward that does not ask what a short thought led to: it rises, and conversions fall")
    return figure, {"changes": {k: dict(v) for k, v in changes.items()},
                    "rewards": {k: [list(s), list(v)] for k, (s, v) in rewards.items()}}  # fmt: skip
