"""Drawings of 00_tour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from rich.text import Text

from qwen3_ref.config import Qwen3Config
from qwen3_ref.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Drawing,
    new_figure,
)
from qwen3_ref.rope import frequencies, yarn_range
from qwen3_ref.tokenizer import Tokenizer


def fertility(tokens: Mapping[str, int], utf8_bytes: Mapping[str, int], baseline: str) -> Drawing:
    """Tokens for one sentence in many languages, each against `baseline`'s, with bytes per token."""
    names = sorted(tokens, key=lambda name: (tokens[name], name))
    figure, ((axes,),) = new_figure(figsize=(7.2, 0.21 * len(names) + 1.1))
    values = [tokens[name] for name in names]
    axes.barh(names, values, color=[ORANGE if n == baseline else BLUE for n in names], height=0.7)
    for i, name in enumerate(names):
        per_token = utf8_bytes[name] / tokens[name]
        axes.text(
            tokens[name] + 0.4, i, f"{tokens[name]}  ({per_token:.1f} bytes each)", va="center", fontsize=8
        )
    axes.set(xlabel="tokens for the same sentence", xlim=(0, max(values) * 1.28))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.set_title(f"One sentence costs {min(values)} to {max(values)} tokens, depending on the language")
    return figure, {"tokens": dict(tokens), "utf8_bytes": dict(utf8_bytes), "baseline": baseline}


def family_to_scale(configs: Mapping[str, Qwen3Config]) -> Drawing:
    """One square a model, its area the parameters, the coloured part what one token uses."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.5))
    total = {name: c.num_parameters() / 1e9 for name, c in configs.items()}
    active = {name: c.num_active_parameters() / 1e9 for name, c in configs.items()}
    x, gap = 0.0, 2.2
    for name, config in configs.items():
        side, inner = math.sqrt(total[name]), math.sqrt(active[name])
        width = max(side, 2.6)  # room for the label below
        left = x + (width - side) / 2
        axes.add_patch(Rectangle((left, 0), side, side, facecolor="#d9d9d9", edgecolor="#999999"))
        colour = ORANGE if config.is_moe else BLUE
        axes.add_patch(Rectangle((left, 0), inner, inner, facecolor=colour, edgecolor="none"))
        centre = x + width / 2
        label = name.removeprefix("Qwen3-").removesuffix("-Instruct")
        axes.text(centre, -0.6, label.replace("-", "\n"), ha="center", va="top", fontsize=8)
        share = f"{total[name]:.3g} B" + (f"\n{active[name]:.3g} B used" if config.is_moe else "")
        axes.text(centre, side + 0.35, share, ha="center", va="bottom", fontsize=7.5)
        x += width + gap
    tallest = math.sqrt(max(total.values()))
    axes.set(xlim=(-0.5, x - gap + 0.5), ylim=(-4.6, tallest + 2.6), aspect="equal")
    axes.axis("off")
    axes.set_title("Area: parameters stored. Colour: parameters one token uses")
    return figure, {"parameters_billions": total, "active_parameters_billions": active}


def rope_wavelengths(config: Qwen3Config, yarn: Mapping[str, Any]) -> Drawing:
    """Tokens per full turn of each rotating pair: theta 10,000, the model's own, and with YaRN."""
    d, theta, limit = config.head_dim, config.rope_theta, config.max_position_embeddings
    old, _ = frequencies(d, 10_000.0)
    plain, _ = frequencies(d, theta)
    scaled, factor = frequencies(d, theta, yarn, limit)
    original = yarn["original_max_position_embeddings"]
    low, high = yarn_range(d, theta, original)
    figure, ((axes,),) = new_figure()
    pairs = np.arange(d // 2)
    axes.axvspan(low, high, color="#f2f2f2", zorder=0)
    axes.text((low + high) / 2, 9, "YaRN blends", ha="center", fontsize=8, color=GREY)
    axes.semilogy(pairs, 2 * np.pi / old, color=GREY, linestyle=":", label="theta = 10,000")
    axes.semilogy(pairs, 2 * np.pi / plain, color=BLUE, label=f"theta = {theta:,.0f}")
    axes.semilogy(
        pairs, 2 * np.pi / scaled, color=ORANGE, linestyle="--", label=f"with YaRN, factor {yarn['factor']:g}"
    )
    axes.axhline(original, color=GREEN, linewidth=1)
    axes.text(0.6, original * 1.25, f"{original:,} tokens of context", fontsize=8, color=GREEN)
    slow = int((2 * np.pi / plain > original).sum())
    axes.set(xlabel="rotating pair of a head's channels", ylabel="tokens for one full turn")
    axes.set_xlim(0, d // 2 - 1)
    axes.legend(loc="lower right", fontsize=8.5)
    axes.set_title(f"{slow} of {d // 2} pairs never complete a turn within the trained context")
    wavelengths = {"theta_10000": 2 * np.pi / old, "plain": 2 * np.pi / plain, "yarn": 2 * np.pi / scaled}
    return figure, {"wavelength_tokens": wavelengths, "attention_factor": factor, "blend": [low, high]}


def token_text(tokenizer: Tokenizer, ids: Sequence[int]) -> Text:
    """The text of some ids for a notebook or a terminal: neighbours told apart by shade, control
    tokens in colour, line ends visible."""
    text, control = Text(), set(tokenizer.control_tokens.values())
    for i, token in enumerate(ids):
        piece = tokenizer.decode([token])
        if token in control:
            text.append(piece, style="bold #ffffff on #0072B2")
        else:
            shade = ("black on #e8e8e8", "black on #fdf1d3")[i % 2]
            text.append(piece.replace("\n", "\u23ce\n"), style=shade)
    return text


def routing(weights: NDArray[Any], labels: Sequence[str]) -> Drawing:
    """Token x expert heat map of routing weights (t, E), zero where an expert was not chosen."""
    t, E = weights.shape
    figure, ((axes,),) = new_figure(figsize=(7.6, 0.2 * t + 1.3))
    image = axes.imshow(np.where(weights > 0, weights, np.nan), aspect="auto", cmap="viridis_r", vmin=0)
    axes.set_yticks(range(t), list(labels), fontsize=8)
    axes.set(xlabel=f"expert (of {E})")
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("routing weight", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    chosen = (weights > 0).sum(-1)
    used = int((weights > 0).any(0).sum())
    axes.set_title(f"{chosen.min()} experts for each token; {t} tokens together wake {used} of {E}")
    picks = [np.nonzero(row)[0] for row in weights]
    drawn = [row[chosen] for row, chosen in zip(weights, picks, strict=True)]
    return figure, {"tokens": list(labels), "experts": picks, "weights": drawn}


def expert_traffic(
    tokens: Sequence[int], measured: Sequence[float], config: Qwen3Config
) -> Drawing:
    """Distinct experts that a batch wakes, measured and for uniform routing, and the bytes they are."""
    E, K = config.num_experts, config.num_experts_per_tok
    assert E and K and config.moe_intermediate_size
    expected = E * (1 - (1 - K / E) ** np.asarray(tokens, float))
    megabytes = 3 * config.hidden_size * config.moe_intermediate_size * 2 / 1e6
    figure, ((axes,),) = new_figure(figsize=(7.2, 3.2))
    axes.semilogx(tokens, expected, color=GREY, linestyle="--", label="if every choice were equally likely")
    axes.semilogx(tokens, measured, "o", color=ORANGE, label="this router, counted")
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
    axes.minorticks_off()
    axes.set(xlabel="tokens in the batch", ylabel="different experts needed", ylim=(0, E * 1.05))
    right = axes.twinx()
    right.set_ylim(0, E * 1.05 * megabytes / 1e3)
    right.set_ylabel("weights to read, GB a layer")
    right.grid(visible=False)
    axes.legend(loc="lower right", fontsize=8.5)
    axes.set_title(
        f"A batch of {tokens[0]:,} needs {measured[0]:.0f} experts, "
        f"one of {tokens[-1]:,} needs {measured[-1]:.0f}"
    )
    return figure, {"tokens": tokens, "distinct": measured, "uniform": expected, "mb_per_expert": megabytes}


def budget_curves(figure_2: Mapping[str, Any]) -> Drawing:
    """Figure 2 of the technical report, redrawn: accuracy against the thinking budget."""
    figure, grid = new_figure(1, 4, figsize=(8.4, 2.9), sharex=True)
    budgets = figure_2["budget_tokens"]
    for axes, (name, values) in zip(grid[0], figure_2["thinking"].items(), strict=True):
        without = figure_2["non_thinking"][name]
        axes.semilogx(budgets, values, "o-", color=BLUE, base=2, markersize=4)
        axes.axhline(without, color=ORANGE, linestyle="--", linewidth=1.5)
        axes.set_xticks(budgets, [f"{b // 1024}" for b in budgets])
        axes.minorticks_off()
        low, high = min(without, *values), max(values)
        axes.set_ylim(low - 0.18 * (high - low), high + 0.08 * (high - low))
        axes.annotate("no thinking", (budgets[-1], without), (0, -3), textcoords="offset points",
                      ha="right", va="top", fontsize=7.5, color="#a86f00")  # fmt: skip
        axes.set_title(name, fontsize=9.5)
        axes.tick_params(labelsize=8)
    grid[0][0].set_ylabel("Pass@1, %")
    figure.supxlabel("thinking budget, thousands of tokens (each panel has its own scale)", fontsize=9)
    rising = sum(values[-1] > values[0] for values in figure_2["thinking"].values())
    title = f"{rising} of {len(grid[0])} benchmarks rise with the budget"
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure, {k: figure_2[k] for k in ("budget_tokens", "thinking", "non_thinking")}
