"""Drawings of 13_pretraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qwen3_ref.course.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    Drawing,
    headline,
    new_figure,
)

DOMAINS = {"code": GREEN, "language": PINK, "maths": BLUE, "reasoning": ORANGE}
_MARKS = dict(zip(DOMAINS, "sD^o", strict=True))
Interval = tuple[float, float, float]
"""(mean, low, high)."""
ARMS = {"across": GREY, "stopped": BLUE, "padded": RED, "fewer": ORANGE}


def stages(logs: Mapping[str, Mapping[str, Sequence[float]]], smooth: int = 10) -> Drawing:
    """Training loss (top) and learning rate (bottom) over the tokens seen, stage after stage; logs: stage ->
    "tokens" (millions, of all stages), "loss" in nats a token, "rate"."""
    figure, grid = new_figure(2, 1, figsize=(8.4, 4.6), sharex=True, height_ratios=(2, 1))
    top, bottom = grid[:, 0]
    data: dict[str, Any] = {}
    for (name, log), colour in zip(logs.items(), (BLUE, GREEN, RED), strict=True):
        tokens, loss, rate = (np.array(log[key]) for key in ("tokens", "loss", "rate"))
        n = len(loss) // smooth * smooth if len(loss) > 2 * smooth else len(loss)
        width = smooth if len(loss) > 2 * smooth else 2
        mean = loss[:n].reshape(-1, width).mean(1)
        where = tokens[:n].reshape(-1, width).mean(1)
        top.plot(tokens, loss, color=colour, alpha=0.25, linewidth=0.8)
        top.plot(where, mean, color=colour, label=name)
        bottom.plot(tokens, 1000 * rate, color=colour)
        data[name] = {"tokens": where, "loss": mean, "rate": rate[:: max(1, len(rate) // 20)]}
    top.set(ylabel="loss of the step, nats a token", ylim=(0.8, 6.5))
    top.legend(fontsize=9)
    bottom.set(xlabel="tokens seen, millions", ylabel="learning rate, 1e-3", ylim=(0, 3.3))
    headline(figure, "Most is learned early; what the later stages do, this curve cannot say")
    return figure, data


def by_domain(losses: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawing:
    """Held-out loss by domain after each stage, a mark a seed; losses: domain -> stage -> one a seed."""
    figure, grid = new_figure(figsize=(7.4, 3.7))
    axes = grid[0, 0]
    names = list(next(iter(losses.values())))
    for domain, by_stage in losses.items():
        means = [np.mean(by_stage[name]) for name in names]
        axes.plot(range(len(names)), means, color=DOMAINS[domain])
        for i, name in enumerate(names):
            axes.plot([i] * len(by_stage[name]), by_stage[name], _MARKS[domain], color=DOMAINS[domain],
                      markersize=5, label=domain if i == 0 else None)  # fmt: skip
    axes.set(xticks=range(len(names)), xticklabels=names, ylabel="held-out loss, nats a token", ylim=(0.5, 8))
    axes.legend(fontsize=9)
    axes.set_title("S1 and S2 lower all four; S3, for long texts, costs short ones a little")
    return figure, {"losses": losses}


def switch(steps: Mapping[str, Mapping[str, float]], models: Mapping[str, Mapping[str, float]]) -> Drawing:
    """Left: loss by domain at the end of S2, at the moment theta is raised, and after S3 with and without
    ABF. Right: the jump at that moment, by domain, of several models."""
    figure, grid = new_figure(1, 2, figsize=(9.6, 3.6), width_ratios=(1.5, 1))
    left, right = grid[0]
    names = list(steps)
    for domain, colour in DOMAINS.items():
        values = [steps[name][domain] for name in names]
        left.plot(range(3), values[:3], color=colour, marker=_MARKS[domain], label=domain)
        left.plot([0, 3], [values[0], values[3]], color=colour, linestyle=":", linewidth=1)
        left.plot([3], [values[3]], color=colour, marker=_MARKS[domain], markerfacecolor="white")
    left.plot([], [], ":", color=GREY, marker="o", markerfacecolor="white", linewidth=1, label="without ABF")
    left.set(xticks=range(len(names)), ylabel="held-out loss, nats a token", ylim=(0.5, 3.9))
    left.set_xticklabels(names, fontsize=8)
    left.legend(fontsize=8, ncols=5, loc="upper center", columnspacing=1.2)
    for i, jump in enumerate(models.values()):
        for k, (domain, colour) in enumerate(DOMAINS.items()):
            right.bar(i + 0.2 * (k - 1.5), jump[domain], 0.18, color=colour, label=None if i else domain)
    right.set(xticks=range(len(models)), xticklabels=list(models), ylabel="loss at the switch less before")
    right.legend(fontsize=8)
    for axes, title in ((left, "qwen3-nano, texts of 256 tokens"), (right, "the jump, in three models")):
        axes.set_title(title, fontsize=10, weight="normal")
    headline(figure, "A new theta is a shock, most for what is looked up; training takes it in")
    return figure, {"steps": steps, "models": models}


def live(log: Mapping[str, Sequence[float]], controls: Mapping[str, float], plan: Any) -> Drawing:
    """The training of the notebook: loss of each step and held-out loss by domain, with what counting alone
    reaches; below, the gradient's norm and the learning rate."""
    figure, grid = new_figure(1, 2, figsize=(9.4, 3.6), width_ratios=(1.6, 1))
    left, right = grid[0]
    left.plot(log["step"], log["loss"], color=GREY, linewidth=1, label="training")
    for domain in ("maths", "reasoning"):
        left.plot(log["at"], log[domain], color=DOMAINS[domain], marker=_MARKS[domain], markersize=4,
                  label=f"held out, {domain}")  # fmt: skip
    for (name, value), line in zip(controls.items(), (":", "--"), strict=True):
        left.axhline(value, color="black", linewidth=1, linestyle=line, label=name)
    left.set(xlabel="step", ylabel="loss, nats a token", ylim=(1.5, 8))
    left.legend(fontsize=8)
    right.plot(log["step"], log["norm"], color=RED, linewidth=1, label="gradient's norm")
    rates = [1000 * plan.rate(int(step)) for step in log["step"]]
    right.plot(log["step"], np.array(rates) / 10, color=BLUE, label="learning rate")
    right.axhline(plan.clip, color=GREY, linewidth=1, linestyle=":", label="clipped above")
    right.set(xlabel="step", ylabel="norm; rate in 1e-2", ylim=(0, None))
    right.legend(fontsize=8)
    headline(figure, "Half a minute of pre-training passes all that counting pairs can do")
    every = slice(9, None, 10)
    kept = {key: list(log[key]) for key in ("at", "maths", "reasoning")}
    return figure, {**kept, "controls": dict(controls), "loss": np.array(log["loss"])[every]}


def over_the_border(shares: Mapping[str, Sequence[Interval]], places: Sequence[str]) -> Drawing:
    """The share of attention that goes to earlier documents, in %, by place in the document: model ->
    (mean, low, high) for each of `places`."""
    figure, grid = new_figure(figsize=(7.4, 3.5))
    axes = grid[0, 0]
    for (name, values), colour, mark in zip(shares.items(), (BLUE, RED, ORANGE, GREY), "ovs^", strict=True):
        middle, low, high = 100 * np.array(values).T
        axes.errorbar(range(len(places)), middle, yerr=[middle - low, high - middle], color=colour,
                      marker=mark, capsize=3, label=name)  # fmt: skip
    axes.set(xticks=range(len(places)), xticklabels=places)
    axes.set(xlabel="place in the document (0: its first token)", ylim=(0, 100))
    axes.set_ylabel("attention to earlier\ndocuments, %")
    axes.legend(fontsize=9)
    axes.set_title("Most attention stays within the document; the mark is a small part of why")
    return figure, {"shares": shares}


def packing(
    curves: Mapping[str, Mapping[str, Sequence[Interval]]],
    costs: Mapping[str, Mapping[str, Interval]],
    places: Sequence[str],
    title: str,
) -> Drawing:
    """Left and middle: loss less that of `across` by place in the document, for two readings; right: over all
    places, by reading. All with intervals over seeds."""
    figure, grid = new_figure(1, 3, figsize=(11.4, 3.9), width_ratios=(1, 1, 1.15))
    for axes, (reading, arms) in zip(grid[0], curves.items(), strict=False):
        for k, (arm, values) in enumerate(arms.items()):
            middle, low, high = np.array(values).T
            axes.errorbar(np.arange(len(middle)) + 0.12 * (k - 1), middle, yerr=[middle - low, high - middle],
                          color=ARMS[arm], marker="os^"[k], markersize=4, capsize=2, linewidth=1.2,
                          label=arm)  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set(xticks=range(len(places)), xlabel="place in the document")
        axes.set_xticklabels(places, fontsize=7, rotation=30)
        axes.set_title(f"read {reading}", fontsize=10, weight="normal")
    grid[0, 0].set_ylabel("loss less that of `across`, nats")
    grid[0, 0].legend(fontsize=8)
    axes, readings = grid[0, 2], list(next(iter(costs.values())))
    for k, (arm, of) in enumerate(costs.items()):
        middle, low, high = np.array([of[reading] for reading in readings]).T
        y = np.arange(len(readings))[::-1] + 0.2 * (1 - k)
        axes.errorbar(middle, y, xerr=[middle - low, high - middle], fmt="os^"[k], color=ARMS[arm], capsize=3,
                      label=arm)  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(yticks=range(len(readings)), xlabel="loss less that of `across`, nats")
    axes.set_yticklabels(readings[::-1], fontsize=9)
    axes.set_title("all places, mean of the domains", fontsize=10, weight="normal")
    headline(figure, title)
    return figure, {"curves": curves, "costs": costs}


def scaling(
    sizes: Mapping[float, Sequence[float]],
    law: Callable[[float], float],
    predicted: Interval,
    tokens: Mapping[float, Sequence[float]],
    rates: Mapping[str, Mapping[float, Sequence[float]]],
) -> Drawing:
    """Loss over size, tokens and learning rate, a mark a seed.

    sizes: parameters without embeddings -> losses, the last of which the law did not see. predicted: what it
    says there, with its interval. tokens: thousands read -> losses. rates: width -> learning rate -> losses.
    """
    figure, grid = new_figure(1, 3, figsize=(11.4, 3.7), width_ratios=(1.25, 1, 1))
    left, middle, right = grid[0]
    *known, unseen = sorted(sizes)
    for x in known:
        left.plot(
            [x] * len(sizes[x]),
            sizes[x],
            "o",
            color=BLUE,
            markersize=4,
            label="measured" if x == known[0] else None,
        )
    line = np.geomspace(known[0], unseen, 60)
    left.plot(line, [law(x) for x in line], color=GREY, linewidth=1.2, label="law of five sizes")
    value, low, high = predicted
    left.errorbar(
        unseen * 0.95,
        value,
        yerr=[[value - low], [high - value]],
        fmt="D",
        color=ORANGE,
        capsize=3,
        label="its prediction",
    )
    left.plot(
        [unseen * 1.05] * len(sizes[unseen]),
        sizes[unseen],
        "s",
        color=RED,
        markersize=4,
        label="measured there",
    )
    left.set(xscale="log", xlabel="parameters without embeddings", ylabel="held-out loss, nats a token")
    left.legend(fontsize=8)
    for x, losses in tokens.items():
        middle.plot([x] * len(losses), losses, "o", color=GREEN, markersize=4)
    middle.plot(list(tokens), [np.mean(losses) for losses in tokens.values()], color=GREEN, linewidth=1.2)
    middle.set(xscale="log", xlabel="tokens read, thousands")
    for (name, by_rate), colour, mark in zip(rates.items(), (PINK, BLUE, RED), "^os", strict=True):
        right.plot(
            list(by_rate),
            [np.mean(v) for v in by_rate.values()],
            color=colour,
            linewidth=1.2,
            marker=mark,
            markersize=4,
            label=name,
        )
        for x, losses in by_rate.items():
            right.plot([x] * len(losses), losses, mark, color=colour, markersize=3, alpha=0.5)
    right.set(xscale="log", xlabel="learning rate")
    right.legend(fontsize=8, title="width", title_fontsize=8)
    for axes in (left, middle):
        axes.minorticks_off()
    left.set_xticks([known[0], known[2], unseen], [f"{x / 1000:.0f}k" for x in (known[0], known[2], unseen)])
    middle.set_xticks(list(tokens), [f"{x:.0f}" for x in tokens])
    title = "Five sizes foretell a sixth only roughly; twice the tokens pay as much as 16 times the size"
    headline(figure, title)
    kept = {
        "sizes": {str(x): list(v) for x, v in sizes.items()},
        "predicted": predicted,
        "tokens": {str(x): list(v) for x, v in tokens.items()},
        "rates": {name: {str(x): list(v) for x, v in some.items()} for name, some in rates.items()},
    }
    return figure, kept
