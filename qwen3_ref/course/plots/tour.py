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
from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, Drawing, new_figure
from qwen3_ref.rope import frequencies, yarn_range
from qwen3_ref.tokenizer import Tokenizer

STATIONS = ("text", "ids", "stream", "attention", "feed-forward", "logits", "token")


def where(*lit: str) -> Text:
    """The path of `whole_path` as one line, with some of its STATIONS lit."""
    strangers = set(lit) - set(STATIONS)
    if strangers:
        raise ValueError(f"there is no station {sorted(strangers)[0]!r}; they are {', '.join(STATIONS)}.")
    line = Text()
    for name in STATIONS:
        before = {"text": "", "attention": "  \u2192  28 x [ "}.get(name, "  \u2192  ")
        line.append(before, style="#777777")
        line.append(f" {name} ", style="bold #ffffff on #0072B2" if name in lit else "black on #e8e8e8")
        line.append(" ]" if name == "feed-forward" else "", style="#777777")
    return line


def whole_path(config: Qwen3Config, text: str, ids: Sequence[int]) -> Drawing:
    """From text to the next token through a dense model, every box's area its number of parameters."""
    shapes = {name: math.prod(shape) for name, shape in config.tensor_shapes().items()}
    table = shapes["model.embed_tokens.weight"]
    first = {name: size for name, size in shapes.items() if name.startswith("model.layers.0.")}
    attention = sum(size for name, size in first.items() if "self_attn" in name)
    ffn = sum(size for name, size in first.items() if ".mlp." in name)
    blocks, height = config.num_hidden_layers, 10.0
    figure, ((axes,),) = new_figure(figsize=(9.2, 4.3))
    wide, narrow = table / 1e6 / height, (attention + ffn) / 1e6 / height
    share = height * attention / (attention + ffn)
    axes.add_patch(Rectangle((0, 0), wide, height, facecolor=GREEN, alpha=0.75, edgecolor="white"))
    left = wide + 4
    for block in range(blocks):
        for bottom, tall, colour in ((0.0, share, BLUE), (share, height - share, ORANGE)):
            x = left + block * narrow
            axes.add_patch(Rectangle((x, bottom), narrow, tall, facecolor=colour, edgecolor="white", lw=0.8))
    right = left + blocks * narrow + 4
    axes.add_patch(Rectangle((right, 0), wide, height, facecolor="white", edgecolor=GREEN, hatch="///"))
    end = right + wide
    middle = left + blocks * narrow / 2
    arrow = {"arrowstyle": "-|>", "color": "#333333", "lw": 1.6}
    for a, b in ((-3.2, 0), (wide, left), (left + blocks * narrow, right), (end, end + 3.2)):
        axes.annotate("", (b, height / 2), (a, height / 2), arrowprops=arrow)
    small = {"fontsize": 8.5, "ha": "center", "va": "bottom"}
    V, D = config.vocab_size, config.hidden_size
    axes.text(wide / 2, height + 0.3, f"embedding\n{V:,} rows of {D:,}", **small)
    axes.text(middle, height + 0.3, f"the stream, {D:,} numbers a token, through {blocks} blocks", **small)
    axes.text(right + wide / 2, height + 0.3, "logits: the same\ntable, read backwards", **small)
    inside = {"fontsize": 9.5, "ha": "center", "va": "center", "color": "white", "weight": "bold"}
    for y, what, size, colour in ((share / 2, "attention", attention, BLUE),
                                  ((share + height) / 2, "feed-forward", ffn, ORANGE)):  # fmt: skip
        cover = {"facecolor": colour, "edgecolor": "none"}
        axes.text(middle, y, f"{what}, {size / 1e6:.1f} million a block", bbox=cover, **inside)
    axes.text(wide / 2, height / 2, f"{table / 1e6:.0f}\nmillion", **inside)
    below = {"fontsize": 8.5, "va": "top"}
    axes.text(-3.2, -0.5, f"text: {text!r}\nids: {', '.join(map(str, ids))}", ha="left", **below)
    axes.text(end + 3.2, -0.5, "the next token,\nthen all of it again", ha="right", **below)
    axes.set(xlim=(-3.4, end + 3.4), ylim=(-1.9, height + 1.8))
    axes.axis("off")
    total = config.num_parameters() / 1e6
    share = blocks * (attention + ffn) / config.num_parameters()
    axes.set_title(f"{share:.0%} of {total:.0f} million parameters are in the blocks (area is their number)")
    numbers = {"embedding": table, "attention_a_block": attention, "feed_forward_a_block": ffn}
    return figure, numbers | {"blocks": blocks, "all": config.num_parameters(), "ids": list(ids)}


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
    largest = max(total, key=lambda name: total[name])
    stored, used = total[largest], active[largest]
    axes.set_title(f"The largest stores {stored:.0f} billion parameters (area); a token uses {used:.0f}")
    return figure, {"parameters_billions": total, "active_parameters_billions": active}


def rope_wavelengths(config: Qwen3Config, yarn: Mapping[str, Any]) -> Drawing:
    """Tokens per full turn of each rotating pair: theta 10,000, the model's own, and with YaRN."""
    d, theta, limit = config.head_dim, config.rope_theta, config.max_position_embeddings
    old, _ = frequencies(d, 10_000.0)
    plain, _ = frequencies(d, theta)
    scaled, factor = frequencies(d, theta, {k: v for k, v in yarn.items() if k != "source"}, limit)
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


def specialists(picks: Mapping[str, NDArray[Any]], num_experts: int) -> Drawing:
    """Which experts each kind of text goes to, in the layer where the kinds differ most.

    picks: for each kind the chosen experts (layers, tokens, K). `apart` in the data is, for each
    layer, the mean over kinds of the share of choices that would have to move to another expert for
    the kind to look like the mean of all kinds: 0 if the router does not look, at most 1.
    """
    loads = np.stack(
        [np.stack([np.bincount(layer.ravel(), minlength=num_experts) / len(layer) for layer in kind])
         for kind in picks.values()]
    )  # fmt: skip  # (kinds, layers, E): the share of tokens that chose the expert
    K = next(iter(picks.values())).shape[-1]
    apart = np.abs(loads - loads.mean(0)).sum(-1).mean(0) / (2 * K)
    layer = int(apart.argmax())
    shown = loads[:, layer]
    figure, ((axes,),) = new_figure(figsize=(7.6, 0.5 * len(picks) + 1.5))
    image = axes.imshow(shown, aspect="auto", cmap="Blues", vmin=0, vmax=float(shown.max()))
    for (row, column), value in np.ndenumerate(shown):
        colour = "white" if value > 0.55 * shown.max() else "black"
        label = f"{value:.2f}".removeprefix("0") if value >= 0.005 else "0"
        axes.text(column, row, label, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(picks)), list(picks))
    axes.set_xticks(range(num_experts))
    axes.set(xlabel=f"expert of layer {layer} (a token has {K})")
    axes.tick_params(length=0, labelsize=9)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("share of tokens", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    expert = int((shown.max(0) - shown.min(0)).argmax())
    most, least = int(shown[:, expert].argmax()), int(shown[:, expert].argmin())
    names = list(picks)
    axes.set_title(
        f"Expert {expert} is chosen by {100 * shown[most, expert]:.0f}% of the tokens of {names[most]}, "
        f"by {100 * shown[least, expert]:.0f}% of {names[least]}"
    )
    return figure, {"layer": layer, "apart": apart, "share_of_tokens": dict(zip(names, shown, strict=True))}


def expert_traffic(tokens: Sequence[int], measured: Sequence[float], config: Qwen3Config) -> Drawing:
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


def budget_curves(figure_2: Mapping[str, Any], own: Mapping[str, Any]) -> Drawing:
    """Figure 2 of the technical report, redrawn, and last a curve measured here: accuracy against the
    thinking budget. own: `budget_tokens`, `thinking` (a list, in %), `non_thinking` (in %)."""
    panels = [
        (name, figure_2["budget_tokens"], values, figure_2["non_thinking"][name], BLUE)
        for name, values in figure_2["thinking"].items()
    ]
    panels.append(("nano, counting", own["budget_tokens"], own["thinking"], own["non_thinking"], GREEN))
    figure, grid = new_figure(1, len(panels), figsize=(8.6, 2.9))
    for axes, (name, budgets, values, without, colour) in zip(grid[0], panels, strict=True):
        axes.semilogx(budgets, values, "o-", color=colour, base=2, markersize=4)
        axes.axhline(without, color=ORANGE, linestyle="--", linewidth=1.5)
        ticks = [b for b in budgets if b & (b - 1) == 0]
        axes.set_xticks(ticks, [f"{b // 1024}K" if b >= 1024 else f"{b}" for b in ticks])
        axes.minorticks_off()
        low, high = min(without, *values), max(values)
        axes.set_ylim(low - 0.18 * (high - low), high + 0.08 * (high - low))
        axes.annotate("no thinking", (budgets[-1], without), (0, -3), textcoords="offset points",
                      ha="right", va="top", fontsize=7.5, color="#a86f00")  # fmt: skip
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7.5)
    grid[0][0].set_ylabel("Pass@1, %")
    figure.supxlabel("thinking budget, tokens (each panel has its own scales)", fontsize=9)
    rising = sum(values[-1] > values[0] for _, _, values, _, _ in panels)
    title = f"{rising} of {len(panels)} curves rise with the budget, four of 235B and one measured here"
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    published = {k: figure_2[k] for k in ("budget_tokens", "thinking", "non_thinking")}
    return figure, {"published": published, "own": dict(own)}
