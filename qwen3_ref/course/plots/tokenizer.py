"""Drawings of 01_tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    Drawing,
    new_figure,
)

Stage = tuple[int, Sequence[bytes]]


def growth(merges: Sequence[int], bytes_per_token: Mapping[str, Sequence[float]]) -> Drawing:
    """Bytes a token against the number of merges learned, one line a text; the first is the trained."""
    figure, ((axes,),) = new_figure(figsize=(7.4, 3.6))
    lines = zip(bytes_per_token.items(), COLOURS, strict=False)
    ends = []
    for i, ((_, values), colour) in enumerate(lines):
        axes.plot(merges, values, color=colour, linewidth=3 if i == 0 else 1.8)
        ends.append((values[-1], colour))
    at = spread([value for value, _ in ends], 0.14)
    for name, (value, colour), y in zip(bytes_per_token, ends, at, strict=True):
        axes.annotate(f"{name}, {value:.1f}", (merges[-1], y), (6, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=colour, annotation_clip=False)  # fmt: skip
    axes.set(xlabel="merges learned", ylabel="bytes a token", xlim=(0, 1.2 * merges[-1]))
    axes.set_xticks(range(0, merges[-1] + 1, 100))
    axes.set_ylim(0.8, 1.08 * max(max(v) for v in bytes_per_token.values()))
    axes.set_title("Tokens grow long on the text they were learned from, hardly elsewhere")
    return figure, {"merges": merges, "bytes_per_token": bytes_per_token}


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved apart, upwards, until neighbours are `gap` from each other: places for labels."""
    places = list(values)
    order = np.argsort(places)
    for below, above in zip(order, order[1:], strict=False):
        places[above] = max(places[above], places[below] + gap)
    return places


def cuts(words: Mapping[str, Mapping[str, Sequence[bytes]]]) -> Drawing:
    """Words, one a column, cut by growing vocabularies, one a row: a box a token, as wide as its bytes.

    words: word -> name of the vocabulary -> the tokens.
    """
    widths = [sum(map(len, next(iter(rows.values())))) for rows in words.values()]
    rows = list(next(iter(words.values())))
    figure, grid = new_figure(
        1, len(words), figsize=(9.2, 0.42 * len(rows) + 1.2), gridspec_kw={"width_ratios": widths}
    )
    for axes, (word, vocabularies), width in zip(grid[0], words.items(), widths, strict=True):
        for row, tokens in enumerate(vocabularies.values()):
            x, fill = 0, "#cfe3f1" if len(tokens) > 1 else "#fbe3b0"
            for token in tokens:
                axes.add_patch(Rectangle((x + 0.05, row + 0.1), len(token) - 0.1, 0.8, facecolor=fill,
                                         edgecolor=GREY, linewidth=0.8))  # fmt: skip
                axes.text(x + len(token) / 2, row + 0.5, shown(token), ha="center", va="center",
                          fontsize=8.5 if len(shown(token)) <= len(token) else 7.5)  # fmt: skip
                x += len(token)
            axes.text(width + 0.25, row + 0.5, f"{len(tokens)}", va="center", fontsize=9, weight="bold")
        axes.set(xlim=(0, width + 1.3), ylim=(len(rows), 0))
        axes.set_xticks([])
        axes.set_yticks([row + 0.5 for row in range(len(rows))], rows if axes is grid[0][0] else [])
        axes.tick_params(length=0, labelsize=9)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(word, fontsize=10, weight="normal", loc="center")
    figure.suptitle(
        "The more merges, the fewer tokens; a frequent word ends as one (yellow), a rare one does not",
        x=0.01, ha="left", weight="bold", fontsize=10.5,
    )  # fmt: skip
    cut = {word: {name: [shown(t) for t in tokens] for name, tokens in rows.items()}
           for word, rows in words.items()}  # fmt: skip
    return figure, {"tokens": cut}


def merge_trees(words: Mapping[str, Sequence[Stage]], sizes: Sequence[int]) -> Drawing:
    """How words grow from bytes: each node as high as the number of the merge that is made there.

    words: per word its states, (rank of the merge just made or -1, the parts). sizes: numbers of
    merges at which to draw cuts through the trees.
    """
    leaves = [len(stages[0][1]) for stages in words.values()]
    figure, grid = new_figure(
        1, len(words), figsize=(9.2, 4.8), sharey=True, gridspec_kw={"width_ratios": leaves}
    )
    joins: dict[str, list[tuple[str, int]]] = {}
    for axes, (word, stages) in zip(grid[0], words.items(), strict=True):
        joins[word] = []
        height = {(i, i + 1): 1.4 for i in range(len(stages[0][1]))}
        centre = {span: float(span[0]) for span in height}
        for i, part in enumerate(stages[0][1]):
            axes.text(i, 1.15, shown(part), ha="center", va="top", fontsize=9, family="monospace")
        before = set(height)
        for rank, parts in stages[1:]:
            ends = np.cumsum([len(part) for part in parts])
            spans = {(int(end) - len(part), int(end)): part for end, part in zip(ends, parts, strict=True)}
            for span in spans.keys() - before:
                left, right = sorted(child for child in before - spans.keys() if inside(child, span))
                height[span], centre[span] = 1.0 + rank, (centre[left] + centre[right]) / 2
                for child in (left, right):
                    x, y = [centre[child], centre[child], centre[span]], height[span]
                    axes.plot(x, [height[child], y, y], color=BLUE, linewidth=1.4)
                joins[word].append((shown(spans[span]), 1 + rank))
                axes.text(
                    centre[span],
                    height[span] * 1.12,
                    shown(spans[span]),
                    ha="center",
                    va="bottom",
                    fontsize=7.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
                )
            before = set(spans)
        for size in sizes:
            axes.axhline(size, color=ORANGE, linewidth=1, linestyle="--", zorder=0)
        axes.set_yscale("log")
        axes.set(ylim=(0.5, 400_000), xlim=(-0.8, len(stages[0][1]) - 0.2))
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(word, fontsize=10, weight="normal", loc="center")
    ticks = [10, 100, 1_000, 10_000, 100_000]
    grid[0][0].set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    grid[0][0].minorticks_off()
    grid[0][0].set_ylabel("number of the merge")
    figure.suptitle(
        "Trees grow in the order of merges; a cut at any height is the word in a smaller vocabulary",
        x=0.01, ha="left", weight="bold", fontsize=10.5,
    )  # fmt: skip
    return figure, {"joins": joins, "cuts": list(sizes)}


def inside(child: tuple[int, int], span: tuple[int, int]) -> bool:
    """Whether one span of bytes lies within another."""
    return span[0] <= child[0] and child[1] <= span[1]


def shown(token: bytes) -> str:
    """A token for the eye: a space as an open box, bytes that are no text in hexadecimal."""
    try:
        return token.decode().replace(" ", "\u2423")
    except UnicodeDecodeError:
        return token.hex(" ") if len(token) < 3 else token.hex()


GROUP_COLOURS = (BLUE, ORANGE, GREEN, PINK, RED, YELLOW, "#4d4d4d", SKY, "#c8c8c8")


def rows(groups: Mapping[str, NDArray[Any]], width: int, ordinary: int, control: int, total: int) -> Drawing:
    """What the embedding's rows are. groups: per kind its number of ids in each bin of `width` ids."""
    figure, grid = new_figure(2, 1, figsize=(8.6, 4.6), gridspec_kw={"height_ratios": (5, 1)})
    axes, strip = grid[0][0], grid[1][0]
    starts = np.arange(len(next(iter(groups.values())))) * width
    sizes = np.minimum(starts + width, ordinary) - starts
    bottom = np.zeros(len(starts))
    for (name, counts), colour in zip(groups.items(), GROUP_COLOURS, strict=True):
        share = 100 * np.asarray(counts) / sizes
        axes.bar(starts, share, sizes, bottom, align="edge", color=colour, linewidth=0,
                 label=f"{name} {int(np.sum(counts)):,}")  # fmt: skip
        bottom += share
    axes.set(xlim=(0, total), ylim=(0, 100), ylabel="share of the rows, %", xlabel="id, oldest merge first")
    axes.set_xticks(range(0, total, 25_000), [f"{i:,}" for i in range(0, total, 25_000)])
    axes.grid(visible=False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
    ends = (ordinary, ordinary + control, total)
    start = ordinary - 60
    fills = ("#dddddd", RED, "white")
    texts = ("ordinary", f"{control} control", f"{total - ends[1]} rows that no token uses")
    for end, fill, text in zip(ends, fills, texts, strict=True):
        strip.add_patch(Rectangle((start, 0), end - start, 1, facecolor=fill, edgecolor=GREY))
        strip.text((start + end) / 2, 1.12, text, ha="center", va="bottom", fontsize=8.5)
        strip.text(end, -0.15, f"{end:,}", ha="left" if fill == RED else "right", va="top", fontsize=8)
        start = end
    strip.set(xlim=(ordinary - 60, total + 4), ylim=(-0.05, 1.05))
    strip.axis("off")
    figure.suptitle(
        f"{ordinary:,} of {total:,} rows are learned tokens; the last {total - ordinary} (below) are not",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    totals = {name: int(np.sum(counts)) for name, counts in groups.items()}
    return figure, {"ids_per_bin": width, "counts": groups, "totals": totals, "ends": ends}


def fertility(languages: Mapping[str, Mapping[str, int]], baseline: str) -> Drawing:
    """Tokens = characters x bytes a character / bytes a token, for one text in many languages.

    languages: per language its "characters", "bytes", "pieces" of the pre-tokenizer, and "tokens".
    """
    names = sorted(languages, key=lambda name: -languages[name]["tokens"])
    table = {name: languages[name] for name in names}
    columns: dict[str, list[float]] = {
        "characters": [row["characters"] for row in table.values()],
        "x  bytes a character": [row["bytes"] / row["characters"] for row in table.values()],
        "/  bytes a token": [row["bytes"] / row["tokens"] for row in table.values()],
        "=  tokens": [row["tokens"] for row in table.values()],
    }
    figure, grid = new_figure(1, 4, figsize=(9.0, 0.2 * len(names) + 1.2), sharey=True)
    colours = [ORANGE if name == baseline else BLUE for name in names]
    for axes, (title, values) in zip(grid[0], columns.items(), strict=True):
        axes.barh(names, values, color=colours, height=0.72)
        for i, value in enumerate(values):
            text = f"{value}" if isinstance(value, int) else f"{value:.1f}"
            axes.text(value + 0.03 * max(values), i, text, va="center", fontsize=7.5)
        axes.set(xlim=(0, 1.2 * max(values)), ylim=(len(names) - 0.4, -0.6))
        axes.grid(visible=False)
        axes.tick_params(axis="y", labelsize=8.5, length=0)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    floor = [row["pieces"] for row in table.values()]
    grid[0][3].scatter(floor, range(len(names)), marker="|", s=60, color="black", zorder=3,
                       label="pieces of the pattern: no vocabulary can do better")  # fmt: skip
    figure.legend(loc="outside lower right", fontsize=8)
    most = names[0]
    ratio = table[most]["tokens"] / table[baseline]["tokens"]
    figure.suptitle(
        f"{most} pays {ratio:.1f} times what {baseline} pays: longer characters, shorter tokens",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"languages": table, "baseline": baseline}


def digits(
    cuts: Mapping[str, Sequence[Sequence[str]]],
    sums: Sequence[int],
    known: Mapping[str, Sequence[float]],
) -> Drawing:
    """Left: how growing numbers are cut, right-aligned. Right: share of the facts of addition met.

    cuts: per pattern the tokens of each number. known: per width of token the share, 0 to 1, of facts
    that so many random sums contain.
    """
    figure, grid = new_figure(1, 3, figsize=(9.2, 3.5), gridspec_kw={"width_ratios": (1, 1, 1.7)})
    for axes, (title, numbers) in zip(grid[0][:2], cuts.items(), strict=True):
        longest = max(sum(map(len, tokens)) for tokens in numbers)
        for row, tokens in enumerate(numbers):
            x = longest - sum(map(len, tokens))
            for token in tokens:
                fill = "#fbe3b0" if len(token) > 1 else "#cfe3f1"
                axes.add_patch(Rectangle((x + 0.06, row + 0.1), len(token) - 0.12, 0.8, facecolor=fill,
                                         edgecolor=GREY, linewidth=0.8))  # fmt: skip
                for digit in token:
                    axes.text(x + 0.5, row + 0.5, digit, ha="center", va="center", fontsize=9)
                    x += 1
        axes.set(xlim=(0, longest), ylim=(len(numbers), 0), aspect="equal")
        axes.axis("off")
        axes.set_title(title, fontsize=9.5, weight="normal", loc="center")
    axes = grid[0][2]
    for (name, share), colour in zip(known.items(), (BLUE, GREEN, RED), strict=True):
        axes.semilogx(sums, [100 * value for value in share], color=colour)
        half = sums[int(np.searchsorted(share, 0.5))]
        place = {"ha": "right", "y": 64} if colour == RED else {"ha": "left", "y": 30}
        axes.text(
            half * (0.5 if colour == RED else 1.3), s=name, fontsize=8, color=colour, va="center", **place
        )
    axes.set(xlabel="sums of two six-digit numbers read", ylabel="facts met, %", ylim=(0, 104))
    figure.suptitle(
        "Single digits keep their place and need 200 facts; groups of three shift, and need 2 million",
        x=0.01, ha="left", weight="bold", fontsize=10.5,
    )  # fmt: skip
    return figure, {"cuts": cuts, "sums": sums, "share_of_facts": known}
