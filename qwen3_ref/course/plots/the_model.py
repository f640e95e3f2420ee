"""Drawings of 05_the_model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
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
)

PARTS = {
    "embedding": SKY, "head": PINK, "attention": BLUE, "feed-forward": ORANGE, "router": GREEN, "norms": RED,
}  # fmt: skip


def block_diagram(config: Qwen3Config) -> Drawing:
    """The residual stream as a line, and what reads from it and writes to it, with a model's sizes."""
    c = config
    figure, ((axes,),) = new_figure(figsize=(8.4, 3.9))
    axes.set(xlim=(0, 21), ylim=(-1.2, 8.2))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str, width: float = 2.6) -> None:
        style = "round,pad=0.02,rounding_size=0.15"
        patch = FancyBboxPatch((x - width / 2, y - 0.55), width, 1.1, boxstyle=style, facecolor=colour)
        patch.set_edgecolor("#555555")
        axes.add_patch(patch)
        axes.text(x, y, text, ha="center", va="center", fontsize=8)

    def arrow(start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555"} | look)

    axes.plot([3.37, 16.4], [0.7, 0.7], color=BLUE, linewidth=5, solid_capstyle="butt")
    axes.text(5.05, 0.05, f"residual stream (t, {c.hidden_size:,})", fontsize=8, color=BLUE, va="top")
    light = {"grey": "#e5e5e5", "blue": "#cfe3f2", "orange": "#fbe3b3", "green": "#c9ebdf"}
    frame = FancyBboxPatch((4.6, -0.75), 10.6, 7.9, boxstyle="round,pad=0.05", facecolor="none")
    frame.set(edgecolor="#999999", linestyle="--")
    axes.add_patch(frame)
    axes.text(9.9, 7.35, f"one block, {c.num_hidden_layers} of them", ha="center", fontsize=9)
    h, k, d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    mixers = (
        (6.2, f"attention\n{h} queries, {k} keys\nand values of {d}", light["blue"]),
        (11.4, f"SwiGLU\n{c.hidden_size:,} to {c.intermediate_size:,}\nand back", light["orange"]),
    )
    for x, text, colour in mixers:
        arrow((x, 0.8), (x, 2.0))
        box(x, 2.6, "RMSNorm", light["grey"])
        arrow((x, 3.2), (x, 4.5))
        axes.text(x - 0.1, 1.3, "read", ha="right", fontsize=7.5, color=GREY)
        patch = FancyBboxPatch((x - 1.45, 4.6), 2.9, 1.9, boxstyle="round,pad=0.02", facecolor=colour)
        patch.set_edgecolor("#555555")
        axes.add_patch(patch)
        axes.text(x, 5.55, text, ha="center", va="center", fontsize=8)
        axes.plot([x + 1.5, x + 2.5], [5.55, 5.55], color="#555555", linewidth=1.2)
        arrow((x + 2.5, 5.55), (x + 2.5, 1.0))
        axes.text(x + 2.65, 2.6, "write", fontsize=7.5, color=GREY)
        axes.plot([x + 2.5], [0.7], "o", markersize=13, color="white", markeredgecolor="#555555")
        axes.text(x + 2.5, 0.68, "+", ha="center", va="center", fontsize=11)
    box(1.6, 2.6, "embedding", light["green"])
    axes.text(1.6, 3.35, f"{c.vocab_size:,} rows", ha="center", fontsize=7.5, color=GREY)
    arrow((1.6, 0.2), (1.6, 2.0))
    axes.text(1.6, -0.1, "ids (t,)", ha="center", va="top", fontsize=8)
    axes.plot([2.95, 3.42, 3.42], [2.6, 2.6, 0.7], color=BLUE, linewidth=2)
    box(17.6, 0.7, "RMSNorm", light["grey"], 2.3)
    box(17.6, 2.9, "head", light["green"], 2.3)
    arrow((17.6, 1.3), (17.6, 2.3))
    arrow((17.6, 3.5), (17.6, 4.5))
    axes.text(17.6, 4.65, f"logits\n(t, {c.vocab_size:,})", ha="center", fontsize=8)
    if c.tie_word_embeddings:
        axes.plot([1.6, 1.6, 20.0, 20.0, 18.9], [3.75, 7.95, 7.95, 2.9, 2.9], ":", color=GREEN)
        axes.text(16.0, 7.6, "the same matrix (tied)", fontsize=8, color=GREEN, va="top")
    axes.set_title("A block only adds to the residual stream")
    sizes = {key: getattr(c, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    return figure, sizes | {"heads": [h, k, d], "vocab_size": c.vocab_size, "tied": c.tie_word_embeddings}


def shares(stored: Mapping[str, Mapping[str, int]], used: Mapping[str, Mapping[str, int]]) -> Drawing:
    """Share of each part in the parameters stored and, for mixtures, in those a token uses."""
    rows = [(name, parts, False) for name, parts in stored.items()]
    for name, parts in used.items():
        place = [row[0] for row in rows].index(name) + 1
        rows.insert(place, (name, parts, True))
    figure, ((axes,),) = new_figure(figsize=(8.2, 0.33 * len(rows) + 1.5))
    labels = []
    for i, (name, parts, active) in enumerate(rows):
        total, left = sum(parts.values()), 0.0
        for part, colour in PARTS.items():
            share = 100 * parts.get(part, 0) / total
            axes.barh(i, share, left=left, color=colour, height=0.72, alpha=0.55 if active else 1.0)
            if share > 4.5:
                dark = part in ("attention",) and not active
                axes.text(left + share / 2, i, f"{share:.0f}%", ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
            left += share
        labels.append(
            f"  used by one token, {total / 1e9:.3g} B" if active else f"{name}, {total / 1e9:.3g} B"
        )
    axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
    axes.set(xlabel="share of the parameters, %", xlim=(0, 100))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    names = [part for part in PARTS if part not in ("router", "norms")]
    handles = [Patch(color=PARTS[part], label=part) for part in names]
    axes.legend(handles=handles, ncol=4, fontsize=8.5, loc="upper left", bbox_to_anchor=(0, -0.11))
    first = next(iter(stored.values()))
    share = 100 * first["embedding"] / sum(first.values())
    axes.set_title(f"The embedding: {share:.0f}% of {next(iter(stored))}, next to nothing of the largest")
    return figure, {"stored": stored, "used": used}


def towers(configs: Mapping[str, Qwen3Config]) -> Drawing:
    """Each model as a rectangle, hidden_size wide and num_hidden_layers high, with its FFN width behind."""
    figure, ((axes,),) = new_figure(figsize=(8.2, 3.9))
    x, gap, ticks, labels = 0.0, 2_600, [], []
    for name, c in configs.items():
        width = c.intermediate_size
        if c.is_moe:
            assert c.num_experts_per_tok and c.moe_intermediate_size
            width = c.num_experts_per_tok * c.moe_intermediate_size
        heads, wide = c.num_attention_heads * c.head_dim, max(width, 8_500)
        centre = x + wide / 2
        bars = ((width, ORANGE), (heads, BLUE), (c.hidden_size, GREY))  # wide ones first, the stream last
        for size, colour in sorted(bars, key=lambda bar: bar[0], reverse=True):
            bar = {"width": size, "color": colour, "edgecolor": "white", "linewidth": 0.5}
            axes.bar(centre, c.num_hidden_layers, **bar)
        ticks.append(centre)
        labels.append(f"{name}\n{c.hidden_size:,} x {c.num_hidden_layers}")
        x += wide + gap
    axes.set_xticks(ticks, labels, fontsize=7.5)
    axes.set(ylabel="blocks", xlim=(-gap / 2, x - gap / 2))
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    colours = {"feed-forward, used by one token": ORANGE, "query heads x 128": BLUE, "hidden_size": GREY}
    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    axes.legend(handles=handles, fontsize=8, loc="upper left", title="width, all on one scale",
                title_fontsize=8)  # fmt: skip
    deep = max(configs, key=lambda name: configs[name].num_hidden_layers)
    axes.set_title(f"Depth and width, to scale: {deep} is {configs[deep].num_hidden_layers} blocks deep")
    shape = {name: [c.hidden_size, c.num_hidden_layers, c.num_attention_heads] for name, c in configs.items()}
    return figure, {"hidden_layers_heads": shape}


def rule_error(lengths: Sequence[int], ratio: Mapping[str, Sequence[float]]) -> Drawing:
    """True FLOPs of a token over 2N, by how many tokens it sees."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.5))
    for (name, values), colour in zip(ratio.items(), (SKY, BLUE, GREEN, ORANGE, RED), strict=False):
        axes.loglog(lengths, values, color=colour, base=2)
        low = sorted(other[-1] for other in ratio.values()).index(values[-1]) == 0
        look = {"fontsize": 8, "color": colour, "va": "top" if low else "bottom"}
        axes.annotate(f" {name}", (lengths[-1], values[-1]), **look)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.text(lengths[-1], 0.97, "the 2N rule", fontsize=8, color=GREY, va="top", ha="right")
    ticks = list(lengths[::2])
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=8)
    axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_xlim(lengths[0], lengths[-1] * 2.3)
    axes.set_ylim(bottom=0.75)
    axes.set(xlabel="tokens that it sees", ylabel="FLOPs of one token / 2N")
    worst = max(ratio, key=lambda name: ratio[name][-1])
    axes.set_title(f"At {lengths[-1]:,} tokens {worst} computes {ratio[worst][-1]:.1f} times what 2N says")
    return figure, {"tokens": lengths, "flops_over_2n": ratio}


def lens_grid(tokens: Sequence[str], tops: Sequence[Sequence[str]], chance: NDArray[Any]) -> Drawing:
    """The logit lens on one text. tokens: t + 1 pieces; tops (depths, t): the lens's first choice;
    chance (depths, t): the probability it gives to the token that really comes next."""
    depths, t = chance.shape
    figure, ((axes,),) = new_figure(figsize=(8.6, 0.4 * depths + 1.3))
    axes.imshow(chance, aspect="auto", cmap="Blues", vmin=0, vmax=1, origin="lower")
    for i, row in enumerate(tops):
        for j, piece in enumerate(row):
            right = piece == tokens[j + 1]
            if right:
                place = (j - 0.45, i - 0.43)
                axes.add_patch(Rectangle(place, 0.9, 0.86, fill=False, edgecolor=ORANGE, linewidth=1.6))
            ink = "white" if chance[i, j] > 0.55 else "black" if right else GREY
            axes.text(j, i, visible(piece), ha="center", va="center", fontsize=9, color=ink)
    for j, piece in enumerate(tokens[1:]):
        axes.text(j, depths - 0.3, visible(piece), ha="center", va="bottom", fontsize=9, weight="bold")
    axes.text(-0.7, depths - 0.3, "really comes next", ha="right", va="bottom", fontsize=8.5)
    axes.set_xticks(range(t), [visible(piece) for piece in tokens[:-1]], fontsize=9)
    axes.set_yticks(range(depths), ["embedding", *(f"block {i}" for i in range(1, depths))], fontsize=8.5)
    axes.set_xlabel("token just read", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    _title(figure, "What it would say if it stopped here (framed: right; darker: surer of the right one)")
    return figure, {"tokens": tokens, "first_choice": tops, "probability": chance}


def attribution(names: Sequence[str], tokens: Mapping[str, NDArray[Any]]) -> Drawing:
    """What each branch adds to the lead of one token over its rival, (branches,) for each pair."""
    figure, grid = new_figure(1, len(tokens), figsize=(8.6, 3.3), sharey=True)
    for axes, (title, parts) in zip(grid[0], tokens.items(), strict=True):
        colours = [GREY if "emb" in name else ORANGE if "att" in name else BLUE for name in names]
        axes.barh(range(len(names)), parts, color=colours, height=0.7)
        span = float(np.abs(parts).max())
        for y, value in enumerate(parts):
            side = "left" if value >= 0 else "right"
            x = value + np.sign(value) * 0.03 * span
            axes.text(x, y, f"{round(value, 1) + 0.0:.1f}", ha=side, va="center", fontsize=8)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_xlim(min(0.0, parts.min()) - 0.35 * span, max(0.0, parts.max()) + 0.35 * span)
        axes.set_yticks(range(len(names)), names, fontsize=8.5)
        axes.grid(visible=False)
        axes.set_title(f"{title}:\nleads by {parts.sum():.1f}", fontsize=9.5, weight="normal")
        axes.set_xlabel("added to the lead, logits", fontsize=9)
    grid[0][0].invert_yaxis()
    _title(figure, "Who made it win: nearly all branches for =, the last SwiGLU for a computed digit")
    return figure, {"names": list(names), "tokens": dict(tokens)}


def _title(figure: Any, text: str) -> None:
    """The takeaway, over all panels."""
    figure.suptitle(text, x=0.01, ha="left", weight="bold", fontsize=11)


def visible(piece: str) -> str:
    """A token for a small cell: spaces, line ends and other invisible signs as marks, cut at four."""
    text = piece.replace("\n", "\u21b5").replace(" ", "\u2423")
    text = "".join(sign if sign.isprintable() else "\u00b7" for sign in text)
    return text if len(text) <= 4 else text[:3] + "\u2026"


def lens_ranks(median: Mapping[str, Sequence[float]], settled: Mapping[str, NDArray[Any]]) -> Drawing:
    """Left: median rank of the next token by depth, a line a domain. Right: share of tokens whose right
    answer leads from this depth on to the end, a kind of token in chained sums -> (depths, 3): mean and
    ends of the interval."""
    figure, (pair,) = new_figure(1, 2, figsize=(8.4, 3.8))
    styles = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (RED, ":"))
    ranks, share = pair
    for (name, values), (colour, dash) in zip(median.items(), styles, strict=False):
        ranks.plot(range(len(values)), values, dash, marker="o", markersize=4, color=colour, label=name)
    for (name, table), (colour, dash) in zip(settled.items(), styles, strict=False):
        x, spread = np.arange(len(table)), np.abs(table[:, 1:].T - table[:, 0])
        share.errorbar(x, table[:, 0], spread, fmt=dash, marker="o", markersize=4, capsize=3, color=colour,
                       label=name)  # fmt: skip
    for axes in pair:
        axes.set_xticks(range(len(x)), ["emb.", *map(str, range(1, len(x)))])
        axes.set_xlabel("after block")
    ranks.legend(fontsize=8)
    ranks.set_yscale("log")
    ranks.set_yticks([1, 3, 10, 30, 100, 300, 1000], ["1", "3", "10", "30", "100", "300", "1,000"])
    ranks.minorticks_off()
    ranks.set_ylabel("median rank of the next token")
    ranks.set_title("By domain, all tokens", fontsize=9.5, weight="normal")
    share.set(ylabel="% settled: right here and ever after", ylim=(-3, 103))
    share.set_title("In solved chained sums, by kind of token", fontsize=9.5, weight="normal")
    share.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.18), ncol=2)
    _title(figure, "Each block brings the next token nearer: here copies settle in block 3, sums in block 4")
    return figure, {"median_rank": median, "settled_percent": settled}


def precision(curves: Mapping[str, Mapping[str, Sequence[float]]], bounds: Mapping[str, float]) -> Drawing:
    """Difference from float64 by depth, panel -> curve -> values, with the bound for each format.

    Only bounds are saved: the last digits of float32 sums are the machine's own. Raises ValueError
    if a curve exceeds the bound that its name begins with.
    """
    figure, (pair,) = new_figure(1, len(curves), figsize=(8.4, 3.6), sharey=True)
    looks = {"float32": BLUE, "bfloat16": ORANGE}
    for axes, (title, lines) in zip(pair, curves.items(), strict=True):
        for name, values in lines.items():
            form = name.partition(",")[0]
            if max(values) > bounds[form]:
                raise ValueError(
                    f"{title}: {name} is off by {max(values):.1e}, more than {bounds[form]:.0e}."
                )
            official = "transformers" in name
            look = {"marker": "x", "markersize": 8} if official else {"marker": "o", "markersize": 4}
            line = {"linestyle": ":" if official else "-", "color": RED if official else looks[form]}
            axes.semilogy(values, label=name, **look, **line)
        axes.set_xticks(range(len(values)), [*map(str, range(1, len(values) - 1)), "norm", "logits"])
        axes.set_xlabel("after block")
        axes.set_title(title, fontsize=9.5, weight="normal")
        for form, bound in bounds.items():
            axes.axhline(bound, color=looks[form], linewidth=0.8)
            axes.text(0, bound * 1.25, f"allowed in {form}", fontsize=7.5, color=GREY)
    axes.set_ylim(3e-9, 1)
    pair[0].set_ylabel("difference / typical value")
    pair[0].legend(fontsize=7.5, loc="center right", bbox_to_anchor=(1.0, 0.6))
    figure.suptitle("Two programs, one error for each number format: rounding, not a bug",
                    x=0.01, ha="left", weight="bold", fontsize=11)  # fmt: skip
    return figure, {"allowed": bounds, "curves": {t: list(lines) for t, lines in curves.items()}}


def faults(losses: Mapping[str, float], same: Mapping[str, float], guess: float) -> Drawing:
    """Loss of each broken port on held-out text, and how often its first choice stays the right port's."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 0.36 * len(losses) + 1.3), sharey=True)
    names = list(losses)
    colours = [GREEN if i == 0 else RED for i in range(len(names))]
    left.barh(names, [losses[n] for n in names], color=colours, height=0.65)
    left.axvline(guess, color=GREY, linestyle="--", linewidth=1.2)
    left.text(guess, -0.75, " guessing", fontsize=8, color=GREY, ha="center", va="bottom")
    shades = [GREEN, *[YELLOW] * (len(names) - 1)]
    percent = {name: 100 * share for name, share in same.items()}
    right.barh(names, [percent[n] for n in names], color=shades, height=0.65, edgecolor="#999999")
    for axes, values, form in (
        (left, losses, "{:.2f}"),
        (right, percent, "{:.0f}%"),
    ):
        for i, name in enumerate(names):
            axes.annotate(form.format(values[name]), (values[name], i), (3, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelsize=8.5)
    left.set(xlabel="loss, nats a token (trained model)", xlim=(0, 1.18 * max([*losses.values(), guess])))
    right.set(xlabel="same next token as the right model,\nfresh weights, %", xlim=(0, 118))
    left.invert_yaxis()
    blind = [name for name in names[1:] if same[name] == 1]
    figure.suptitle(
        f"A test on fresh weights may not see {len(blind)} of these {len(names) - 1} faults",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"loss": losses, "same_choice_fresh": same, "loss_of_guessing": guess}
