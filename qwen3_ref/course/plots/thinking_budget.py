"""Drawings of 12_thinking_budget."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from qwen3_ref.course.plots.style import BLUE, COLOURS, GREEN, GREY, ORANGE, RED, SKY, Drawing, new_figure
from qwen3_ref.decode.generation import generate
from qwen3_ref.measure import statistics
from qwen3_ref.measure.accuracy import Row, chat_prompt, summarise
from qwen3_ref.measure.statistics import sign_test
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import Problem
from qwen3_ref.tokenizer import Tokenizer

NO_LIMIT = "none"
Curve = Mapping[str, Any]
"""A measured curve: `budget`, tokens (None: no limit), `accuracy`, `low` and `high` (0 to 1), `tokens`
that the model wrote for an answer on average, whether it is `better` than no thinking on the same problems
(sign test, 5%), `without`, the same numbers of non-thinking mode, and
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
    right = {(r.mode, r.budget, r.problem): r.correct for r in rows}
    plain = {problem: correct for (mode, _, problem), correct in right.items() if mode == "non-thinking"}

    def better(budget: Any) -> bool:  # on the same problems, beyond what a coin would give
        gains = [right["thinking", budget, p] - off for p, off in plain.items()]
        return gains.count(1) > gains.count(-1) and sign_test(gains.count(1), gains.count(-1)) < 0.05

    without, off = table["non-thinking", None], written["non-thinking", None]
    return {
        "budget": [key[1] for key in points],
        "accuracy": [point.pass_1 for point in points.values()],
        "low": [point.low for point in points.values()],
        "high": [point.high for point in points.values()],
        "tokens": [written[key] for key in points],
        "better": [better(key[1]) for key in points],
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


def raster(rows: Sequence[Row], budgets: Sequence[int]) -> Drawing:
    """A line a problem, a column a budget, a panel a family: dark where the answer is right. Problems are
    sorted by the length of their uncut thought, where a line is drawn."""
    families = list(dict.fromkeys(r.family for r in rows))
    figure, grid = new_figure(1, len(families), figsize=(8.6, 3.9))
    right = {(r.problem, r.budget): r.correct for r in rows}
    data: dict[str, Any] = {}
    for axes, family in zip(grid[0], families, strict=True):
        uncut = [r for r in rows if r.family == family and r.budget is None]
        uncut.sort(key=lambda r: (r.thinking_tokens, r.problem))
        lengths = [r.thinking_tokens for r in uncut]
        cells = [[right[r.problem, b] for b in budgets] for r in uncut]
        axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest")
        first = [sum(b < n for b in budgets) - 0.5 for n in lengths]  # the first budget that does not cut
        below = [i + 0.5 for i in range(len(first))]
        axes.step([first[0], *first], [-0.5, *below], where="pre", color=ORANGE)
        axes.set_xticks(range(0, len(budgets), 2), budgets[::2], fontsize=7.5)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_title(family, fontsize=9.5)
        pairs = [(b >= n, c) for n, row in zip(lengths, cells, strict=True)
                 for b, c in zip(budgets, row, strict=True)]  # fmt: skip
        groups = {fits: [c for f, c in pairs if f == fits] for fits in (True, False)}
        shares = {fits: fmean(found) if found else math.nan for fits, found in groups.items()}
        data[family] = {"lengths": lengths, "right": cells, "fits": shares[True], "cut": shares[False]}
    grid[0][0].set_ylabel("problems, short thoughts on top")
    figure.supxlabel("thinking budget, tokens; dark: right; from the line on the thought fits", fontsize=9)
    figure.suptitle("A curve is a crowd of steps, each where its problem's thought ends", x=0.01, ha="left",
                    weight="bold", fontsize=11)  # fmt: skip
    return figure, {"budgets": budgets, "families": data}


def frontier(curves: Mapping[str, Curve]) -> Drawing:
    """Accuracy against the tokens written for an answer, with 95% intervals, a panel a family; hollow:
    budgets that are not better than no thinking (square) on the same problems."""
    figure, grid = new_figure(1, len(curves), figsize=(8.6, 3.1), sharey=True)
    for axes, (family, curve) in zip(grid[0], curves.items(), strict=True):
        x = curve["tokens"]
        low, y, high = ([100 * v for v in curve[name]] for name in ("low", "accuracy", "high"))
        axes.vlines(x, low, high, color=BLUE, alpha=0.35, linewidth=2)
        axes.plot(x, y, "-", color=BLUE, linewidth=1.2)
        for at, value, better in zip(x, y, curve["better"], strict=True):
            axes.plot([at], [value], "o", color=BLUE, markersize=5, fillstyle="full" if better else "none")
        off = curve["without"]
        axes.vlines([off["tokens"]], 100 * off["low"], 100 * off["high"], color=ORANGE, alpha=0.5)
        axes.plot([off["tokens"]], [100 * off["accuracy"]], "s", color=ORANGE, markersize=6)
        axes.set(ylim=(-4, 104), xlim=(0, None))
        axes.tick_params(labelsize=8)
        axes.set_title(family, fontsize=9.5)
    grid[0][0].set_ylabel("right, %")
    wasted = sum(not better for curve in curves.values() for better in curve["better"])
    points = sum(len(curve["better"]) for curve in curves.values())
    figure.supxlabel("tokens written for an answer, mean (square: no thinking; bars: 95%)", fontsize=9)
    figure.suptitle(f"{wasted} of {points} budgets (hollow) are not shown to be better than no thinking",
                    x=0.01, ha="left", weight="bold", fontsize=11)  # fmt: skip
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


def beside_figure_2(figure_2: Mapping[str, Any], curves: Mapping[str, Curve]) -> Drawing:
    """The report's Figure 2 beside ours: the same scale upwards, the same width for a doubling."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.6, 3.9), sharey=True)
    budgets = figure_2["budget_tokens"]
    marks = "os^Dv"
    for (name, values), colour, mark in zip(figure_2["thinking"].items(), COLOURS, marks, strict=False):
        left.plot(budgets, values, f"{mark}-", color=colour, markersize=4, linewidth=1.6, label=name)
        left.plot([budgets[0] / 1.6], [figure_2["non_thinking"][name]], mark, color=colour, fillstyle="none")
    left.set_xscale("log", base=2)
    left.set_xticks(budgets, [f"{b // 1024}K" for b in budgets])
    left.set_title("Qwen3-235B-A22B, published", fontsize=9.5)
    for (family, curve), colour, mark in zip(curves.items(), COLOURS, marks, strict=False):
        x = [b for b in curve["budget"] if b is not None]
        y = [100 * v for v in curve["accuracy"][: len(x)]]
        right.plot(x, y, f"{mark}-", color=colour, markersize=4, linewidth=1.6, label=family)
        right.plot([x[0] / 1.6], [100 * curve["without"]["accuracy"]], mark, color=colour, fillstyle="none")
    right.set_xscale("log", base=2)
    right.set_xticks(x[::2], [str(b) for b in x[::2]])
    right.set_title("measured here", fontsize=9.5)
    low, high = min(x[0] / 2, 1e9), x[-1] * 1.15
    right.set_xlim(low, high)
    left.set_xlim(budgets[-1] * 1.15 / (high / low), budgets[-1] * 1.15)
    for axes in (left, right):
        axes.minorticks_off()
        axes.set_ylim(-4, 104)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="upper left")
    left.set_ylabel("right, %")
    figure.supxlabel("thinking budget, tokens (hollow: no thinking); a doubling has one width", fontsize=9)
    figure.suptitle("Theirs still rise at 32K; ours end where the last thought fits", x=0.01, ha="left",
                    weight="bold", fontsize=11)  # fmt: skip
    published = {k: figure_2[k] for k in ("budget_tokens", "thinking", "non_thinking")}
    return figure, {"published": published, "curves": curves}


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
