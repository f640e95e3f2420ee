"""Drawings of 06_mixture_of_experts, and the texts that its router is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    Drawing,
    new_figure,
)  # fmt: skip
from qwen3_ref.tasks.documents import maths_documents, solved
from qwen3_ref.tasks.problems import FAMILIES, make_problems

CODE = '''\
class Shelf:
    """Books by title, and who has them."""

    def __init__(self, titles):
        self.books = {title: None for title in titles}

    def lend(self, title, reader):
        if title not in self.books:
            raise KeyError(f"there is no book called {title!r}")
        if self.books[title] is not None:
            raise ValueError("somebody else has it")
        self.books[title] = reader
        return self

    def give_back(self, title):
        reader, self.books[title] = self.books[title], None
        return reader

    @property
    def free(self):
        return [title for title, reader in self.books.items() if reader is None]


def group_by(items, key):
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def read_table(path, separator=","):
    rows = []
    with open(path, encoding="utf-8") as file:
        names = next(file).strip().split(separator)
        for number, line in enumerate(file, start=2):
            values = line.strip().split(separator)
            if len(values) != len(names):
                raise ValueError(f"line {number} has {len(values)} values")
            rows.append(dict(zip(names, values)))
    return rows


def moving_average(values, width=3):
    if width < 1:
        raise ValueError("the width must be positive")
    total = sum(values[:width])
    result = [total / width]
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        result.append(total / width)
    return result


if __name__ == "__main__":
    import sys

    for row in read_table(sys.argv[1]):
        print(row)
'''
LANGUAGE = """\
The harbour was quiet when the last of the boats came in. An old man who had been waiting on the wall \
since noon stood up, counted the lanterns, and walked slowly down to the water. Nobody asked him what he \
was looking for. It had rained in the night, and the stones were still dark.

Most of what we know about the early town comes from the letters of a single family. They were written \
over more than a hundred years, and they speak of prices, of weather, of marriages and of debts, but \
hardly ever of what we would call history. When the war is named at all, it is because the bread has \
become dear. That is not carelessness. People describe what changes from one week to the next, and leave \
out what everybody knows.

A good map does not show everything. It shows what the reader needs in order to find the way, and it is \
silent about the rest. The first sailors who drew these coasts put in every rock and left the hills \
empty, because a rock can sink a ship and a hill cannot. Later, when roads were built, the hills were \
filled in and the rocks became smaller. Neither of the two maps is wrong. Each of them was made by \
someone who had to arrive somewhere before the evening.

She taught the younger children to read in the kitchen, with flour on the table. They wrote the letters \
with one finger, and she wiped them out again with her sleeve. By the end of the winter all of them could \
read the names on the boats, and the smallest one could also write her own.
"""


def sample_texts() -> dict[str, str]:
    """One text for each of the four domains that the nano models were trained on: code and English
    prose written for this lesson, lines of maths, and solved problems of the test split."""
    problems = [make_problems(family, "test", 12) for family in FAMILIES]
    reasoning = "\n\n".join(solved(p) for row in zip(*problems, strict=True) for p in row)
    return {
        "code": CODE,
        "language": LANGUAGE,
        "maths": "\n".join(maths_documents(2_000)),
        "reasoning": reasoning,
    }


def _heading(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", weight="bold", fontsize=11)


def active_shares(models: Mapping[str, Qwen3Config]) -> Drawing:
    """What is stored and what works on one token, by part: two bars a model, in billions."""
    figure, grid = new_figure(len(models), 1, figsize=(8.0, 1.25 * len(models) + 0.9))
    kinds = ("experts", "attention", "embedding and head", "router")
    data: dict[str, Any] = {}
    for axes, (name, config) in zip(grid[:, 0], models.items(), strict=True):
        stored = dict.fromkeys(kinds, 0)
        for tensor, shape in config.tensor_shapes().items():
            kind = (
                "experts" if ".experts." in tensor
                else "router" if ".mlp.gate." in tensor
                else "embedding and head" if tensor in ("lm_head.weight", "model.embed_tokens.weight")
                else "attention"
            )  # fmt: skip  # the few gains of the norms go with attention
            stored[kind] += int(np.prod(shape))
        assert config.num_experts and config.num_experts_per_tok
        used = stored | {"experts": stored["experts"] * config.num_experts_per_tok // config.num_experts}
        for row, parts in enumerate((stored, used)):
            left = 0.0
            for (kind, number), colour in zip(parts.items(), (BLUE, ORANGE, GREEN, RED), strict=True):
                axes.barh(row, number / 1e9, left=left, color=colour, height=0.7, label=kind)
                left += number / 1e9
            axes.text(left + 0.006 * sum(stored.values()) / 1e9, row, f"{left:.1f}", va="center", fontsize=9)
        axes.set_yticks([0, 1], ["stored", "used on a token"])
        axes.set(ylim=(1.5, -0.5), xlim=(0, 1.08 * sum(stored.values()) / 1e9))
        share = sum(used.values()) / sum(stored.values())
        axes.set_title(f"{name}: {100 * share:.1f}% used", fontsize=9.5, weight="normal")
        axes.tick_params(labelsize=8.5)
        data[name] = {"stored": stored, "used": used, "share_used": share}
    grid[-1][0].set_xlabel("parameters, billions")
    handles, labels = grid[0][0].get_legend_handles_labels()
    grid[0][0].legend(handles[:3], labels[:3], fontsize=8.5, loc="lower right", ncol=3)
    at_work = [100 * m["used"]["experts"] / sum(m["used"].values()) for m in data.values()]
    _heading(
        figure,
        "Almost all that is stored is experts; of what works on a token, "
        f"they are {min(at_work):.0f} to {max(at_work):.0f}%",
    )
    return figure, data


def dispatch(tokens: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawing:
    """What three dispatches cost by batch size: a panel for each kind of cost, log-log."""
    figure, grid = new_figure(1, len(panels), figsize=(8.6, 3.5))
    for axes, (title, lines) in zip(grid[0], panels.items(), strict=True):
        for (name, values), style, colour in zip(
            lines.items(), ("-", "-", "--"), (ORANGE, BLUE, RED), strict=True
        ):
            wide = 5 if name == "by token" else 2  # it may lie under the next one
            axes.loglog(tokens, values, style, color=colour, label=name, linewidth=wide)
        axes.set_title(title, fontsize=9.5, weight="normal")
        axes.set_xlabel("tokens in the batch")
        axes.margins(y=0.12)
    grid[0][0].set_ylabel("count (log scale)")
    grid[0][0].legend(fontsize=8.5)
    _heading(figure, "Sorting by expert is never the dearest in work, in reading or in memory")
    return figure, {"tokens": tokens, "costs": panels}


def heat(tokens: Sequence[str], weights: Mapping[str, NDArray[Any]]) -> Drawing:
    """Weights (t, E) of a text's tokens, zero where an expert was not chosen, a panel a layer."""
    figure, grid = new_figure(1, len(weights), figsize=(8.4, 0.19 * len(tokens) + 1.2), sharey=True)
    image: Any = None
    for axes, (title, shown) in zip(grid[0], weights.items(), strict=True):
        chosen = np.where(shown > 0, shown, np.nan)
        image = axes.imshow(chosen, aspect="auto", cmap="viridis_r", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9.5, weight="normal")
        axes.set_xticks(range(0, shown.shape[1], 3))
        axes.set_xlabel("expert")
        axes.tick_params(length=0, labelsize=8)
        axes.set_yticks(np.arange(len(tokens) + 1) - 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", axis="y", color="#eeeeee", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
    grid[0][0].set_yticks(range(len(tokens)), list(tokens), family="monospace", fontsize=7.5)
    bar = figure.colorbar(image, ax=list(grid[0]), pad=0.01, aspect=40)
    bar.set_label("weight of the expert", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    pairs = {title: len({tuple(np.flatnonzero(row)) for row in w}) for title, w in weights.items()}
    _heading(figure, "Two experts for each token, and other ones in every layer")
    return figure, {"tokens": list(tokens), "weights": dict(weights), "different_choices": pairs}


def domains(counts: NDArray[Any], names: Sequence[str], apart: Sequence[float]) -> Drawing:
    """Picks (G, L, E) by domain: shares of a domain's tokens, a panel a layer. apart (L,) is the mean
    total variation distance of an expert's domains from the average."""
    G, L, E = counts.shape
    shares = counts / counts.sum(-1, keepdims=True)  # of a domain's picks
    limit = float(shares.max())
    figure, grid = new_figure((L + 1) // 2, 2, figsize=(8.6, 0.36 * G * ((L + 1) // 2) + 1.7), sharey=True)
    image: Any = None
    for layer, axes in zip(range(L), grid.ravel(), strict=False):
        order = np.lexsort((-shares[:, layer].max(0), shares[:, layer].argmax(0)))  # by favourite domain
        image = axes.imshow(shares[:, layer][:, order], aspect="auto", cmap="Blues", vmin=0, vmax=limit)
        axes.set_xticks(range(E), order)
        axes.set_yticks(range(G), list(names))
        axes.tick_params(length=0, labelsize=8)
        axes.grid(visible=False)
        axes.set_title(f"layer {layer}: specialisation {apart[layer]:.2f}", fontsize=9.5, weight="normal")
    for axes in grid[-1]:
        axes.set_xlabel("expert, sorted by its favourite domain", fontsize=9)
    bar = figure.colorbar(image, ax=list(grid.ravel()), pad=0.01, aspect=30)
    bar.set_label("share of a domain's picks", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    _heading(figure, f"Each kind of text leans on other experts (an even router: {1 / E:.2f} in every cell)")
    return figure, {"share_of_picks": shares, "domains": list(names), "specialisation": list(apart)}


def controls(by_layer: Mapping[str, NDArray[Any]]) -> Drawing:
    """Two statistics of routing by layer, (draws, 2, L) for each kind of model, the trained one first."""
    figure, grid = new_figure(1, 2, figsize=(8.4, 3.6))
    looks = list(zip((BLUE, ORANGE, GREEN, GREY), ("D", "o", "s", "x"), strict=True))
    names = ("specialisation by kind of text", "experts in common: equal tokens less any two")
    for i, (axes, title) in enumerate(zip(grid[0], names, strict=True)):
        for k, ((name, values), (colour, marker)) in enumerate(zip(by_layer.items(), looks, strict=False)):
            layers = np.arange(values.shape[2]) + 0.13 * (k - 1.5)
            for draw in values:
                axes.plot(layers, draw[i], marker, color=colour, markersize=8 if k == 0 else 5, alpha=0.85)
            axes.plot([], [], marker, color=colour, label=f"{name} ({len(values)})")
        axes.set_xticks(range(values.shape[2]))
        axes.set(xlabel="layer", ylabel="share", ylim=(0, None))
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].legend(fontsize=8, loc="lower right")
    _heading(figure, "Kinds of text part under any router; the trained one holds on to the token more firmly")
    return figure, {"by_layer": dict(by_layer)}


def coloured_text(
    pieces: Sequence[str], runs: Mapping[str, Mapping[int, NDArray[Any]]], excerpt: Sequence[int]
) -> Drawing:
    """A text coloured by each token's first expert: a column a run, a row a moment of training. pieces:
    the tokens of `excerpt`, indices into the tokens of runs[name][step], (n, 2) experts, best first."""
    figure, grid = new_figure(3, len(runs), figsize=(8.2, 5.3))
    palette = (BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW, GREY)
    width = 46
    shares: dict[str, dict[int, Any]] = {name: {} for name in runs}
    for column, (name, steps) in enumerate(runs.items()):
        for axes, (step, experts) in zip(grid[:, column], steps.items(), strict=True):
            share = np.bincount(experts.ravel(), minlength=len(palette)) / experts.size
            shares[name][step] = share
            x, y = 0, 0
            for piece, expert in zip(pieces, experts[list(excerpt), 0], strict=True):
                shown = piece.replace("\n", "\u21b5").replace(" ", "\u00b7")
                if x + len(shown) > width:
                    x, y = 0, y + 1
                box = Rectangle((x, y), len(shown), 1, fc=palette[expert], alpha=0.55, edgecolor="white")
                axes.add_patch(box)
                axes.text(x + len(shown) / 2, y + 0.55, shown, family="monospace", fontsize=7.5,
                          ha="center", va="center")  # fmt: skip
                x += len(shown)
            left = 0.0
            for expert in np.argsort(-share, kind="stable"):  # the bar below: the picks of all texts
                length = width * share[expert]
                axes.add_patch(Rectangle((left, y + 1.6), length, 0.8, facecolor=palette[expert], alpha=0.8))
                left += length
            axes.set(xlim=(0, width), ylim=(y + 2.6, -0.2), xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
            axes.set_title(f"{name}, step {step}: the busiest has {100 * share.max():.0f}% of the picks",
                           fontsize=9, weight="normal")  # fmt: skip
    figure.supxlabel("colour: a token's first expert; bars: each expert's share of all picks", fontsize=9)
    _heading(figure, "A pattern is there before any training; what balancing changes is the bars")
    return figure, {"share_of_picks": shares}


def ties(panels: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Drawing:
    """Margins of the choice and which choices flip: each panel has margins (n,), in steps of bfloat16,
    between the last expert chosen and the first left out, and flipped (n,) bool."""
    figure, grid = new_figure(1, len(panels), figsize=(8.6, 3.2), sharey=True)
    data: dict[str, Any] = {}
    bins = np.geomspace(2**-5, 2**10, 16)
    for axes, (title, (margins, flipped)) in zip(grid[0], panels.items(), strict=True):
        shown = np.clip(margins, bins[0], bins[-1] * 0.999)
        every, changed = (100 * np.histogram(a, bins)[0] / len(margins) for a in (shown, shown[flipped]))
        axes.bar(bins[:-1], every, np.diff(bins), align="edge", color=SKY, label="all choices")
        axes.bar(bins[:-1], changed, np.diff(bins), align="edge", color=RED, label="change when rounded")
        axes.axvline(1, color="black", linewidth=0.9)
        axes.set_xscale("log", base=2)
        axes.set_xticks([2**-5, 1, 32, 1024], ["1/32", "1", "32", "1024"])
        axes.minorticks_off()
        axes.tick_params(labelsize=8.5)
        rate = float(flipped.mean())
        axes.set_title(f"{title}:\n{100 * rate:.1f}% change", fontsize=9, weight="normal")
        below = float((margins <= 1).mean())
        data[title] = {"flips": rate, "below_one_step": below, "median": np.median(margins)}
    grid[0][0].set_ylabel("choices, %")
    grid[0][0].legend(fontsize=7.5, loc="upper left", handlelength=1)
    grid[0][0].set_ylim(0, 1.22 * grid[0][0].get_ylim()[1])
    figure.supxlabel("margin of the choice, in steps of bfloat16 (log scale)", fontsize=9)
    _heading(figure, "Only margins below one step change sides; more experts make more of them")
    return figure, data


def faults(loss: Mapping[str, float]) -> Drawing:
    """Loss of the whole model with one fault switched on; the first entry is the right model."""
    figure, ((axes,),) = new_figure(figsize=(7.8, 0.32 * len(loss) + 1.1))
    right = next(iter(loss.values()))
    values = np.array(list(loss.values()))
    colours = [GREEN if abs(v - right) < 1e-6 else ORANGE if v < right + 0.05 else RED for v in values]
    axes.barh(range(len(loss)), values, color=colours, height=0.7)
    for row, value in enumerate(values):
        gap = value - right
        text = f"{value:.2f}  ({round(gap, 3) + 0:+.3f})" if row and abs(gap) > 1e-6 else f"{value:.2f}"
        axes.text(value + 0.04, row, text, va="center", fontsize=8.5)
    axes.axvline(right, color=GREY, linewidth=0.9)
    axes.set_yticks(range(len(loss)), list(loss))
    axes.set(xlabel="loss, nats a token", ylim=(len(loss) - 0.4, -0.6), xlim=(0, 1.2 * values.max()))
    axes.tick_params(labelsize=9)
    same, hidden = colours.count(GREEN) - 1, colours.count(ORANGE)
    axes.set_title(f"{same} of these changes cost nothing, and {hidden} more less than 0.05 nats")
    return figure, {"loss": dict(loss)}


def push(names: Sequence[str], panels: Mapping[str, NDArray[Any]]) -> Drawing:
    """What a step of descent on the balancing loss does to one token's router logits: bars by expert."""
    figure, grid = new_figure(1, len(panels), figsize=(7.6, 2.9), sharey=True)
    for axes, (title, change), colour in zip(grid[0], panels.items(), (RED, BLUE), strict=True):
        axes.bar(range(len(change)), change, color=colour, width=0.6)
        axes.axhline(0, color="black", linewidth=0.8)
        if np.abs(change).max() < 1e-9:
            axes.text(0.5, 0.6, "no push on any expert", transform=axes.transAxes, ha="center", color=colour)
        axes.set_xticks(range(len(change)), list(names), fontsize=8.5)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("push on the logit")
    top = max(float(np.abs(change).max()) for change in panels.values())
    grid[0][0].set_ylim(-1.3 * top, 1.3 * top)
    _heading(figure, "Counted in one micro-batch the loss drives a code token from its expert; globally not")
    return figure, {"push": dict(panels)}


def cut(full: int, narrow: int) -> Drawing:
    """A layer of 30B-A3B's width as cells of `narrow` channels, eight lit; beside it, sixteen wide ones."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.2, 2.5))
    lit = {left: {5}, right: {3, 18, 37, 51, 66, 90, 107, 121}}
    for axes, count, title in (
        (left, full // (8 * narrow), "16 wide experts, 1 at work"),
        (right, full // narrow, "128 narrow experts, 8 at work"),
    ):
        columns = 16
        rows = count // columns
        for i in range(count):
            x, y = i % columns, i // columns
            colour = ORANGE if i in lit[axes] else "#d9d9d9"
            axes.add_patch(Rectangle((x, y * 8 / rows), 0.88, 8 / rows - 0.14, facecolor=colour))
        axes.set(xlim=(-0.2, columns + 0.1), ylim=(8.1, -0.2), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    _heading(figure, "The same numbers stored, the same number at work, far more ways to choose")
    return figure, {"wide": full // (8 * narrow), "narrow": full // narrow, "channels": full}
