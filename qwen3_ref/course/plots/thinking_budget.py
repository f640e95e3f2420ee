"""Drawings of 12_thinking_budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREEN, GREY, ORANGE, RED, SKY, Drawing, new_figure
from qwen3_ref.decode.generation import generate
from qwen3_ref.measure import statistics
from qwen3_ref.measure.accuracy import Row, chat_prompt, summarise
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import Problem
from qwen3_ref.tokenizer import Tokenizer

NO_LIMIT = "none"
Curve = Mapping[str, Any]
"""A measured curve: `budget`, tokens (None: no limit), `accuracy`, `low` and `high` (0 to 1), `tokens`
that the model wrote for an answer on average, `without`, the same numbers of non-thinking mode, and
`problems`, how many each point rests on."""


def curve(rows: Sequence[Row]) -> dict[str, Any]:
    """A `Curve` of the answers of `evaluate` in both modes."""
    table = summarise(rows)
    written = {
        key: sum(r.thinking_tokens + r.answer_tokens for r in rows if (r.mode, r.budget) == key)
        / sum((r.mode, r.budget) == key for r in rows)
        for key in table
    }
    points = {key: value for key, value in table.items() if key[0] == "thinking"}
    without, off = table["non-thinking", None], written["non-thinking", None]
    return {
        "budget": [key[1] for key in points],
        "accuracy": [point.pass_1 for point in points.values()],
        "low": [point.low for point in points.values()],
        "high": [point.high for point in points.values()],
        "tokens": [written[key] for key in points],
        "without": {"accuracy": without.pass_1, "low": without.low, "high": without.high, "tokens": off},
        "problems": without.problems,
    }


def announce(
    model: Qwen3, tokenizer: Tokenizer, problems: Sequence[Problem], budgets: Sequence[int | None], room: int
) -> None:
    """Print how long `evaluate` will take at most, from the time of a few tokens of the whole batch."""
    prompts = [chat_prompt(tokenizer, problem, "thinking") for problem in problems]
    times = []
    for tokens in (1, 9):
        start = time.perf_counter()
        generate(model, prompts, max_new_tokens=tokens)
        times.append(time.perf_counter() - start)
    a_token = max(times[1] - times[0], 0.0) / 8
    steps = sum(room if b is None else min(room, b + room // 8) for b in budgets) + room // 8
    minutes = (steps * a_token + (len(budgets) + 1) * times[0]) / 60
    speed = f"{len(problems)} problems, {1000 * a_token:.0f} ms a step"
    print(f"{speed}: at most {minutes:.0f} minutes from now.", flush=True)


def _places(budgets: Sequence[int | None], longest: float) -> list[float]:
    """Where budgets stand on the axis: no limit at the longest thought there is."""
    return [longest if b is None else max(b, 1) for b in budgets]


def _budget_axis(axes: Axes, budgets: Sequence[int | None], longest: float) -> None:
    """A base-2 axis of budgets whose last mark says that nothing is cut there."""
    axes.set_xscale("log", base=2)
    room = [b for b in budgets if b is not None and 2 * b < 1.22 * longest]
    shown = [*(b for b in room if (b & (b - 1)) == 0), None]  # powers of two, and the end
    axes.set_xticks(
        _places(shown, 1.22 * longest), [NO_LIMIT if b is None else f"{b}" for b in shown], fontsize=8
    )
    axes.minorticks_off()
    axes.set_ylim(-4, 104)
    axes.tick_params(labelsize=8)


def _draw(axes: Axes, curve: Curve, longest: float, colour: str, style: str = "o-", label: str = "") -> None:
    x = _places(curve["budget"], 1.22 * longest)
    low, y, high = ([100 * v for v in curve[name]] for name in ("low", "accuracy", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, y, style, color=colour, markersize=3.5, linewidth=1.8, label=label)


def _without(axes: Axes, curve: Curve) -> None:
    value = curve["without"]
    axes.axhspan(100 * value["low"], 100 * value["high"], color=ORANGE, alpha=0.16, linewidth=0)
    axes.axhline(100 * value["accuracy"], color=ORANGE, linestyle="--", linewidth=1.5)


def rises(curve: Curve) -> bool:
    """Whether accuracy rises with the budget, see `statistics.rises`."""
    return statistics.rises(curve["low"], curve["high"])


def by_family(curves: Mapping[str, Curve], longest: float) -> Drawing:
    """Accuracy against budget, a panel a family, with 95% bands and the line of non-thinking mode."""
    figure, grid = new_figure(1, len(curves), figsize=(8.4, 3.0), sharey=True)
    for axes, (family, curve) in zip(grid[0], curves.items(), strict=True):
        _draw(axes, curve, longest, BLUE)
        _without(axes, curve)
        _budget_axis(axes, curve["budget"], longest)
        axes.set_title(family, fontsize=9.5)
    first = next(iter(curves.values()))
    grid[0][0].set_ylabel("right, %")
    problems = first["problems"]
    about = f"{problems} problems a panel, bands are 95%; dashed: no thinking"
    figure.supxlabel(f"thinking budget, tokens ({about})", fontsize=9)
    count = sum(map(rises, curves.values()))
    title = f"{count} of {len(curves)} families rise with the budget by more than noise explains"
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure, {"curves": curves, "longest_thought": longest}


def by_difficulty(
    groups: Mapping[str, Mapping[str, Curve]], needs: Mapping[str, Mapping[str, float]]
) -> Drawing:
    """Accuracy against budget by difficulty, a panel a family. needs: the mean length of a thought that
    nobody cuts, which is marked on the axis."""
    figure, grid = new_figure(1, len(groups), figsize=(8.4, 3.3), sharey=True)
    longest = max(max(lengths.values()) for lengths in needs.values())
    looks = ((SKY, "o-"), (BLUE, "s--"), ("#00304d", "^:"))
    for axes, (family, lines) in zip(grid[0], groups.items(), strict=True):
        for (name, curve), (colour, style) in zip(lines.items(), looks, strict=False):
            _draw(axes, curve, longest, colour, style, name)
            axes.plot([needs[family][name]], [-1.5], "v", color=colour, markersize=6, clip_on=False)
        _budget_axis(axes, next(iter(lines.values()))["budget"], longest)
        axes.set_title(family, fontsize=9.5)
    grid[0][0].set_ylabel("right, %")
    grid[0][0].legend(fontsize=8, loc="upper left", title="difficulty", title_fontsize=8)
    counts = sorted({curve["problems"] for lines in groups.values() for curve in lines.values()})
    figure.supxlabel(
        f"thinking budget, tokens; {' or '.join(map(str, counts))} problems a line; triangles: mean length "
        "of an uncut thought",
        fontsize=9,
    )
    ends = [list(lengths.values()) for lengths in needs.values()]
    longer = sum(lengths[-1] > 1.3 * lengths[0] for lengths in ends)
    title = f"Harder problems think longer in {longer} of {len(ends)} families; rising curves rise later"
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure, {"groups": groups, "mean_thought": needs}


def frontier(curves: Mapping[str, Curve]) -> Drawing:
    """Accuracy against the tokens written for an answer: a line a family, hollow: non-thinking mode."""
    figure, ((axes,),) = new_figure(figsize=(7.2, 3.8))
    wasted = 0
    for (family, curve), colour, mark in zip(curves.items(), COLOURS, "os^Dv", strict=False):
        x, y = curve["tokens"], [100 * v for v in curve["accuracy"]]
        axes.plot(x, y, f"{mark}-", color=colour, markersize=4.5, linewidth=1.6, label=family)
        off = curve["without"]
        at = [off["tokens"]], [100 * off["accuracy"]]
        axes.plot(*at, mark, color=colour, markersize=9, fillstyle="none")
        wasted += sum(
            low <= off["high"] and t > off["tokens"] for low, t in zip(curve["low"], x, strict=True)
        )
    points = sum(len(curve["accuracy"]) for curve in curves.values())
    axes.set(xlabel="tokens written for an answer, mean", ylabel="right, %", ylim=(-4, 104))
    axes.set_xlim(0)
    legend = {"fontsize": 8.5, "title_fontsize": 8.5, "title": "hollow:\nno thinking"}
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **legend)
    axes.set_title(f"{wasted} of {points} budgets cost more than no thinking and are not clearly better")
    return figure, {"curves": curves, "not_better_than_no_thinking": wasted}


def mid_number(shares: Mapping[str, Mapping[str, float]], cuts: Mapping[str, int]) -> Drawing:
    """What the answer was, by where the thought was cut: stacked shares (0 to 1), a bar a place."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 2.9))
    places = list(shares)
    left = [0.0] * len(places)
    outcomes = list(next(iter(shares.values())))
    looks = zip(outcomes, (BLUE, SKY, RED, ORANGE, "#dddddd"), ("", "//", "", "..", ""), strict=False)
    for outcome, colour, hatch in looks:
        widths = [100 * shares[place][outcome] for place in places]
        look = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        axes.barh(places, widths, left=left, label=outcome, height=0.66, **look)
        for i, width in enumerate(widths):
            if width >= 8:
                dark = colour in (BLUE, RED)
                axes.text(left[i] + width / 2, i, f"{width:.0f}", ha="center", va="center", fontsize=8.5,
                          color="white" if dark else "black")  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(places)), [f"{place}\n({cuts[place]} cuts)" for place in places], fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlabel="share of the answers, %", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8, ncol=3, loc="upper center", bbox_to_anchor=(0.42, -0.24), handlelength=1.4)
    first = outcomes[0]
    best = max(places, key=lambda place: shares[place][first])
    axes.set_title(f"{100 * shares[best][first]:.0f}% answer the last result if cut {best}")
    return figure, {"shares": shares, "cuts": cuts}


def beside_figure_2(figure_2: Mapping[str, Any], curves: Mapping[str, Curve], longest: float) -> Drawing:
    """The report's Figure 2 above ours: the same scale upwards, the same width for a doubling."""
    names = list(figure_2["thinking"])
    columns = max(len(names), len(curves))
    figure, grid = new_figure(2, columns, figsize=(8.4, 4.6), sharey=True)
    budgets = figure_2["budget_tokens"]
    doublings = budgets[-1] / budgets[0]
    for axes, name in zip(grid[0], names, strict=False):
        axes.semilogx(budgets, figure_2["thinking"][name], "o-", color=BLUE, base=2, markersize=4)
        axes.axhline(figure_2["non_thinking"][name], color=ORANGE, linestyle="--", linewidth=1.5)
        axes.set_xticks(budgets, [f"{b // 1024}K" for b in budgets], fontsize=8)
        axes.set_xlim(budgets[0] / 1.2, budgets[-1] * 1.2)
        axes.set_title(name, fontsize=9.5)
    for axes, (family, curve) in zip(grid[1], curves.items(), strict=False):
        _draw(axes, curve, longest, BLUE)
        _without(axes, curve)
        _budget_axis(axes, curve["budget"], longest)
        right = 1.22 * longest * 1.2
        axes.set_xlim(right / doublings / 1.44, right)
        axes.set_title(family, fontsize=9.5)
    for axes in [*grid[0][len(names) :], *grid[1][len(curves) :]]:
        axes.set_visible(False)
    for axes in grid.flat:
        axes.minorticks_off()
        axes.set_ylim(-4, 104)
        axes.tick_params(labelsize=8)
    grid[0][0].set_ylabel("235B, Pass@1, %")
    grid[1][0].set_ylabel("nano, right, %")
    figure.supxlabel("thinking budget, tokens (dashed: no thinking)", fontsize=9)
    above = [_gains_in_the_middle(list(values)) for values in figure_2["thinking"].values()]
    below = [_gains_in_the_middle(curve["accuracy"]) for curve in curves.values() if rises(curve)]
    figure.suptitle(
        f"Slow, steep, slow: {sum(above)} of {len(above)} published curves and {sum(below)} of {len(below)} "
        "that rise here",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    published = {k: figure_2[k] for k in ("budget_tokens", "thinking", "non_thinking")}
    return figure, {"published": published, "curves": curves, "longest_thought": longest}


def _gains_in_the_middle(values: Sequence[float]) -> bool:
    """Whether a curve gains most neither at its first step nor at its last."""
    gains = [b - a for a, b in zip(values, values[1:], strict=False)]
    return 0 < gains.index(max(gains)) < len(gains) - 1


def faults(
    budgets: Sequence[int],
    right: Mapping[str, Sequence[float]],
    spent: Mapping[str, Sequence[float]],
    thought: int,
) -> Drawing:
    """Accuracy, and tokens really computed in the thought, by budget: the right loop and two bugs on
    problems whose thoughts all have the same length."""
    figure, (panels,) = new_figure(1, 2, figsize=(8.4, 3.5))
    looks = ((BLUE, "-", 3.2), (RED, "--", 1.8), (GREEN, "-.", 1.8))
    for axes, lines in zip(panels, (right, spent), strict=True):
        axes.axvline(thought, color=GREY, linewidth=1)
        for (name, values), (colour, style, width) in zip(lines.items(), looks, strict=True):
            scaled = [100 * v for v in values] if axes is panels[0] else values
            axes.plot(budgets, scaled, style, color=colour, linewidth=width, label=name)
        axes.set_xlabel("thinking budget, tokens")
    panels[0].set(ylabel="right, %", ylim=(-4, 135), yticks=range(0, 101, 25))
    panels[1].set(ylabel="tokens computed in the thought", ylim=(0, 1.25 * thought))
    panels[0].legend(fontsize=8, loc="upper left")
    panels[1].annotate(f"an uncut thought: {thought}", (thought, 1), (-4, 0), textcoords="offset points",
                       fontsize=8, ha="right", color=GREY)  # fmt: skip
    figure.suptitle(
        "One bug fails just past the thought's length; one looks too good, and saves nothing",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"budgets": budgets, "right": right, "spent": spent, "thought": thought}
