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


def steps(
    keys: NDArray[Any], values: NDArray[Any], scores: NDArray[Any], shares: Mapping[str, NDArray[Any]]
) -> Drawing:
    """Attention of one query over a few tokens, step by step: scores (s,) are q . k / root d; shares: a title
    for each place the query may stand at -> (s,) weights. values (s, 2)."""
    figure, grid = new_figure(len(shares), 4, figsize=(8.4, 1.6 * len(shares) + 0.6), )
    s, colours = len(keys), (BLUE, ORANGE, GREEN)
    tokens = [f"token {j}\n({', '.join(f'{x:g}' for x in key)})" for j, key in enumerate(keys)]
    for number, (row, (title, weights)) in enumerate(zip(grid, shares.items(), strict=True)):
        seen, last = weights > 0, number == len(shares) - 1
        rows = (scores, np.where(seen, scores, np.nan), weights)
        for axes, heights in zip(row, rows, strict=False):
            axes.bar(range(s), np.nan_to_num(heights), color=colours[:s], width=0.6)
            for j, height in enumerate(heights):
                text = "\u2212\u221e" if np.isnan(height) else f"{height:.3g}"
                axes.text(j, np.nan_to_num(height), text, ha="center", va="bottom", fontsize=9)
            axes.set_xticks(range(s), tokens if last else [""] * s, fontsize=6.5)
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.margins(y=0.3)
        row[0].set_ylabel(title, fontsize=8.5)
        mixed, floor = weights[:, None] * values, np.zeros(values.shape[1])
        for part, colour in zip(mixed, colours, strict=False):
            row[3].bar(range(len(floor)), part, bottom=floor, color=colour, width=0.5)
            floor = floor + part
        for channel, total in enumerate(floor):
            row[3].text(channel, total, f"{total:.3f}", ha="center", va="bottom", fontsize=9)
        row[3].set_xticks(range(len(floor)), [f"channel {i}" for i in range(len(floor))], fontsize=8)
        row[3].grid(visible=False)
        row[3].set_yticks([])
        row[3].set_ylim(0, 1.25 * float(floor.max()))
    names = ("1. score: q \u00b7 k / \u221ad", "2. mask", "3. softmax: shares", "4. mix of the values")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name, fontsize=9.5, weight="normal")
    _title(figure, "Score, mask, softmax, mix: all of attention, on the numbers of the table")
    return figure, {"scores": scores, "shares": dict(shares)}


def sharing(designs: Mapping[str, int], heads: int) -> Drawing:
    """Which query head reads which KV head. designs: name -> number of KV heads, a divisor of `heads`."""
    figure, grid = new_figure(1, len(designs), figsize=(8.4, 2.3))
    colours = (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#B8A900", GREY)
    for axes, (name, kv) in zip(grid[0], designs.items(), strict=True):
        group = heads // kv
        for i in range(heads):
            own = i // group
            centre = own * group + (group - 1) / 2
            axes.plot([i, centre], [1.62, 0.72], color=colours[own], lw=1.4, zorder=1)
            axes.add_patch(Rectangle((i - 0.38, 1.6), 0.76, 0.5, facecolor="white", edgecolor=colours[own]))
            axes.text(i, 1.85, f"q{i}", ha="center", va="center", fontsize=8)
        for own in range(kv):
            centre = own * group + (group - 1) / 2
            axes.add_patch(Rectangle((centre - 0.42, 0.1), 0.84, 0.6, facecolor=colours[own], alpha=0.9))
            axes.text(centre, 0.4, f"kv{own}", ha="center", va="center", fontsize=8, color="white")
        axes.set(xlim=(-0.7, heads - 0.3), ylim=(-0.45, 2.3), xticks=[], yticks=[])
        axes.text(
            (heads - 1) / 2, -0.3, f"the cache holds {kv} of {heads} heads: {kv / heads:.3g}", ha="center",
            fontsize=8.5,
        )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=9.5, weight="normal")
    _title(figure, "Neighbouring query heads share a KV head, and only KV heads are kept")
    return figure, {"designs": dict(designs), "heads": heads}


def _write(axes: Any, share: NDArray[Any], how: str, dark: NDArray[Any]) -> None:
    """The numbers (layers, heads) into the fields of a map, in white where it is dark."""
    for (layer, head), value in np.ndenumerate(share):
        ink = "white" if dark[layer, head] else "black"
        axes.text(head, layer, format(value, how), ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(share.shape[1]))
    axes.set_yticks(range(share.shape[0]))
    axes.tick_params(length=0)
    axes.grid(visible=False)


def heads(measures: Mapping[str, NDArray[Any]]) -> Drawing:
    """What each head looks at. measures: name -> (layers, heads), shares of attention from 0 to 1."""
    figure, grid = new_figure(1, len(measures), figsize=(3.0 * len(measures), 3.2))
    for axes, (name, share) in zip(grid[0], measures.items(), strict=True):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        _write(axes, share, ".2f", share > 0.55)
        axes.set(xlabel="query head", title="")
        axes.set_title(name, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("layer")
    named = list(measures)[-1]
    layer, head = np.unravel_index(measures[named].argmax(), measures[named].shape)
    _title(figure, f"Layer {layer}, head {head} looks at the asked line; no other does")
    return figure, dict(measures)


def lookup(
    pieces: Sequence[str],
    asked: tuple[int, int],
    panels: Mapping[str, tuple[Sequence[int], NDArray[Any]]],
) -> Drawing:
    """Attention over a whole prompt. asked: first and last + 1 column of the asked line.
    panels: title -> (query columns, weights (queries, columns))."""
    labels = _tokens(pieces)
    heights = [len(queries) + 1.6 for queries, _ in panels.values()]
    figure, grid = new_figure(len(panels), 1, figsize=(8.8, 0.25 * sum(heights) + 0.9), height_ratios=heights)
    for axes, (title, (queries, weights)) in zip(grid[:, 0], panels.items(), strict=True):
        n, columns = weights.shape
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        first, last = asked
        box = Rectangle((first - 0.5, -0.48), last - first, n - 0.05, fill=False, edgecolor=ORANGE, lw=2)
        axes.add_patch(box)
        for j in (j for j, piece in enumerate(pieces[:columns]) if "\n" in piece):  # lines apart
            axes.axvline(j + 0.5, color="#999999", lw=0.7)
        axes.set_xticks(range(columns), labels[:columns], fontsize=8, family="monospace")
        for tick in axes.get_xticklabels():
            if len(tick.get_text()) > 2:  # too wide for its column
                tick.set(fontsize=6, rotation=90)
        axes.set_yticks(range(n), [f"\u2018{labels[q]}\u2019, column {q}" for q in queries], fontsize=8)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[-1, 0].set_xlabel("key: the tokens of the text (\u21b5 line break, \u00b7 space)")
    _title(figure, "Three heads, three steps: the asked line (orange) is found by what its digits carry")
    return figure, {
        "pieces": list(pieces), "asked": list(asked),
        "weights": {title: [list(queries), weights] for title, (queries, weights) in panels.items()},
    }  # fmt: skip


def paths(panels: Mapping[str, Mapping[str, NDArray[Any]]]) -> Drawing:
    """What one message decides. panels: title -> (sender -> (mean, low, high)), shares of the full swing."""
    figure, grid = new_figure(
        1, len(panels), figsize=(8.6, 2.9), width_ratios=[max(len(bars), 8) for bars in panels.values()]
    )
    for axes, (title, bars) in zip(grid[0], panels.items(), strict=True):
        table = 100 * np.array(list(bars.values()))
        colours = [ORANGE if low > 10 else GREY for low in table[:, 1]]
        axes.bar(range(len(bars)), table[:, 0], color=colours, width=0.65)
        spread = np.abs(table[:, 1:].T - table[:, 0])
        axes.errorbar(range(len(bars)), table[:, 0], spread, fmt="none", ecolor="black", lw=1.2, capsize=3)
        for x, (mean, _, high) in enumerate(table):
            axes.text(x, max(high, 0) + 3, f"{abs(round(mean))}", ha="center", fontsize=9)
        axes.set_xticks(range(len(bars)), list(bars), fontsize=8.5)
        axes.set(ylim=(-8, 112), xlabel="sender: layer.head")
        axes.axhline(0, color="black", lw=0.8)
        axes.grid(visible=False, axis="x")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("share of the full swing, %")
    first, *_, last = (
        " and ".join(name for name, (_, low, _) in bars.items() if low > 0.1) for bars in panels.values()
    )
    _title(figure, f"Heads {first} write the finder's keys; most of what they fetch is from {last}")
    return figure, {"panels": {title: dict(bars) for title, bars in panels.items()}}


def silenced(base: float, single: NDArray[Any]) -> Drawing:
    """Accuracy when one query head is off, (layers, heads); base: with all of them."""
    figure, ((axes,),) = new_figure(1, 1, figsize=(5.6, 3.2))
    axes.imshow(single, cmap="Oranges_r", vmin=0, vmax=1, aspect="auto")
    _write(axes, single, ".0%", single < 0.35)
    axes.set(xlabel="query head that says nothing", ylabel="layer")
    needed = int((single < base - 0.1).sum())
    _title(figure, f"Silencing one of {needed} heads costs over a tenth of the look-ups")
    return figure, {"base": base, "single": single}


def logits(growth: NDArray[Any], lines: Mapping[str, NDArray[Any]], limit: float) -> Drawing:
    """Scores as the weights of q_proj and k_proj grow. lines: name -> (2, growths), the largest score and the
    mean weight of each query's favourite key. limit: the largest score of float16."""
    figure, grid = new_figure(1, 2, figsize=(8.2, 2.9))
    left, right = grid[0]
    for (name, (largest, favourite)), colour in zip(lines.items(), (RED, BLUE), strict=True):
        left.plot(growth, largest, color=colour, label=name)
        right.plot(growth, favourite, color=colour, label=name)
    left.axhline(limit, color=GREY, lw=1, linestyle=":")
    left.text(1, limit * 1.4, "float16 ends here", fontsize=8, color="#444444")
    left.set(yscale="log", ylabel="query \u00b7 key / \u221ahead_dim")
    right.set(ylim=(-0.03, 1.05), ylabel="share of the attention")
    for axes, title in zip(grid[0], ("largest score", "the favourite key's share"), strict=True):
        axes.set(xscale="log", xlabel="growth of q_proj and k_proj")
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    right.legend(fontsize=8.5, loc="center right")
    _title(figure, "Without QK-Norm scores grow with the square of the weights; with it they stay")
    return figure, {"growth": growth, "lines": dict(lines), "float16_ends": limit}


def cache(family: Mapping[str, Qwen3Config], contexts: Sequence[int], at: int) -> Drawing:
    """By model: how long one conversation may be until its cache outweighs the model, and the cache of `at`
    tokens in GB, as it is and with a KV head for every query head (MHA). contexts: lengths to mark."""
    figure, grid = new_figure(1, 2, figsize=(8.6, 3.3), sharey=True)
    left, right = grid[0]
    mha = {
        name: c.kv_cache_bytes(at) / 1e9 * c.num_attention_heads / c.num_key_value_heads
        for name, c in family.items()
    }
    now = {name: c.kv_cache_bytes(at) / 1e9 for name, c in family.items()}
    equal = {name: c.weight_bytes() / c.kv_cache_bytes(1) for name, c in family.items()}
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for length in contexts:
        left.axvline(length, color="#999999", lw=1)
        left.text(length * 1.06, -0.75, f"{length // 1024}K", fontsize=8, color="#555555", va="center")
    for y, name in enumerate(family):
        left.plot(equal[name], y, "o", color=GREEN)
        left.text(equal[name] * 1.3, y, f"{equal[name]:,.0f}", va="center", fontsize=8.5, bbox=white)
        right.plot([now[name], mha[name]], [y, y], color="#cccccc", linewidth=3, zorder=1)
        right.plot(now[name], y, "o", color=BLUE, label="as it is (GQA)" if y == 0 else None)
        right.plot(mha[name], y, "D", color=ORANGE, label="with MHA" if y == 0 else None)
        ratio = round(mha[name] / now[name])
        right.text(mha[name] * 1.25, y, f"x {ratio}", va="center", fontsize=8.5)
    left.set_yticks(range(len(family)), [name.removeprefix("Qwen3-") for name in family], fontsize=9)
    left.set(xscale="log", xlabel="tokens", xlim=(5e3, 3e7), ylim=(len(family) - 0.5, -1.1))
    left.set_title("tokens whose cache weighs as much as the model", fontsize=9.5, weight="normal")
    right.set(xscale="log", xlabel=f"KV cache of {at:,} tokens, GB (bfloat16)", xlim=(2, 400))
    right.legend(fontsize=8, loc="upper right")
    right.set_title("what sharing KV heads saves", fontsize=9.5, weight="normal")
    for axes in (left, right):
        axes.grid(visible=False)
    _title(figure, "Depth and KV heads decide the cache, not size: the 235B model keeps less than the 32B")
    return figure, {"contexts": contexts, "tokens_equal": equal, "at": at, "gb_gqa": now, "gb_mha": mha}


def faults(accuracy: Mapping[str, float], agree: Mapping[str, float]) -> Drawing:
    """A trained model with one wrong line each: look-ups right, and next tokens of a text that stay."""
    figure, grid = new_figure(1, 2, figsize=(7.8, 2.7), sharey=True)
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
    quiet = sum(share > 0.95 for share in accuracy.values()) - 1  # less the right one
    _title(figure, f"Of {len(accuracy) - 1} wrong lines {quiet} answer every look-up and are wrong elsewhere")
    return figure, {"accuracy": dict(accuracy), "agree": dict(agree)}
