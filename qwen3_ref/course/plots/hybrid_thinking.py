"""Drawings of 11_hybrid_thinking: prompts with their control tokens coloured, and three figures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from qwen3_ref.course.plots.style import BLUE, GREY, ORANGE, RED, Drawing, new_figure
from qwen3_ref.measure.statistics import wilson
from qwen3_ref.tokenizer import Tokenizer


class Coloured:
    """A text of tokens for a notebook: control tokens on a dark ground in HTML, in double brackets in
    plain text, so that they can be told from the same characters typed out. `title`: a line above it."""

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], title: str = "") -> None:
        self.title = title
        names = {i: mark for mark, i in tokenizer.control_tokens.items()}
        self.runs: list[tuple[str, bool]] = []
        plain: list[int] = []
        for i in ids:
            if i not in names:
                plain.append(i)
                continue
            self.runs += [(tokenizer.decode(plain), False)] if plain else []
            self.runs.append((names[i], True))
            plain = []
        self.runs += [(tokenizer.decode(plain), False)] if plain else []

    def __repr__(self) -> str:
        title = f"{self.title}:\n" if self.title else ""
        return title + "".join(f"\u27e6{text}\u27e7" if mark else text for text, mark in self.runs)

    def _repr_html_(self) -> str:
        dark = "background:#0b3d66;color:#ffffff;border-radius:3px;padding:0 3px"
        parts = [f'<b style="{dark}">{html.escape(t)}</b>' if m else html.escape(t) for t, m in self.runs]
        title = f"<p><em>{html.escape(self.title)}</em></p>" if self.title else ""
        return f'{title}<pre style="white-space:pre-wrap;line-height:1.5">{"".join(parts)}</pre>'


def prompt_lengths(stripped: Sequence[int], kept: Sequence[int]) -> Drawing:
    """Tokens of the prompt at each turn, as the template writes it and with all thoughts left in."""
    figure, grid = new_figure(1, 1)
    axes, turn = grid[0][0], np.arange(1, len(stripped) + 1)
    axes.bar(turn - 0.2, kept, 0.38, color=ORANGE, label="all thoughts left in")
    axes.bar(turn + 0.2, stripped, 0.38, color=BLUE, label="as the template writes it")
    for x, values in ((turn - 0.2, kept), (turn + 0.2, stripped)):
        for place, value in zip(x, values, strict=True):
            axes.text(place, value, f"{value}", ha="center", va="bottom", fontsize=9)
    axes.set(xlabel="turn", ylabel="tokens of the prompt", xticks=turn, ylim=(0, 1.25 * max(kept)))
    axes.set_title("With each question the thoughts before it are dropped")
    axes.legend(loc="upper left")
    return figure, {"stripped": stripped, "kept": kept}


def switches(groups: Mapping[str, Mapping[str, tuple[int, int]]], title: str) -> Drawing:
    """Shares with Wilson intervals, one panel a group: name -> (how many, of how many)."""
    sizes = [len(cells) for cells in groups.values()]
    figure, grid = new_figure(
        len(groups), 1, figsize=(7.6, 0.42 * sum(sizes) + 1.0 * len(groups) + 0.4),
        sharex=True, height_ratios=[n + 0.6 for n in sizes],
    )  # fmt: skip
    data: dict[str, dict[str, list[float]]] = {}
    for axes, (group, cells) in zip(grid[:, 0], groups.items(), strict=True):
        data[group] = {}
        for row, (name, (count, n)) in enumerate(cells.items()):
            low, high = wilson(count / n, n)
            data[group][name] = [count / n, low, high]
            colour = RED if name.startswith("control") else BLUE
            axes.plot([100 * low, 100 * high], [row, row], color=colour, linewidth=5, alpha=0.35)
            axes.plot(100 * count / n, row, "o", color=colour, markersize=7)
            side = dict(ha="left", xytext=(9, 0)) if count < n / 2 else dict(ha="right", xytext=(-12, 0))
            axes.annotate(
                f"{count} of {n}", (100 * (high if count < n / 2 else low), row),
                textcoords="offset points", va="center", fontsize=9, color=GREY, **side,
            )  # fmt: skip
        axes.set(yticks=range(len(cells)), ylim=(len(cells) - 0.4, -0.6), xlim=(-3, 103))
        axes.set_yticklabels([name.strip() for name in cells], fontsize=9)
        axes.set_title(group, fontsize=10, weight="normal")
    grid[-1, 0].set_xlabel("share of replies, % (band: 95% interval over problems)")
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure, data
