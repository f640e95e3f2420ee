"""Figures: one style, `save_figure`, and the drawings that the notebooks share.

Every drawing takes numbers and returns (figure, data): what is drawn is what is saved beside it.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from numpy.typing import NDArray
from PIL import Image
from rich.text import Text

from qwen3_ref.config import Qwen3Config
from qwen3_ref.files import write_atomically
from qwen3_ref.rope import frequencies, yarn_range
from qwen3_ref.tokenizer import Tokenizer

# Okabe and Ito's palette: told apart by readers with any common colour blindness, and in grey.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY)
STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.figsize": (7.2, 3.6),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}
matplotlib.rcParams.update(STYLE)  # once, for every figure: matplotlib reads it when a label is set
FIGURES = Path(__file__).resolve().parent.parent / "figures"
Drawing = tuple[Figure, dict[str, Any]]


def new_figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure in the house style and its axes (rows, columns); options go to `Figure.subplots`.

    It belongs to no window and no global state, so nothing has to be closed.
    """
    figure = Figure(figsize=options.pop("figsize", None))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(
    name: str, figure: Figure, data: Mapping[str, Any], *, alt: str, made_from: str
) -> None:
    """Show a figure in the notebook and keep it: figures/<name>.png and, beside it, <name>.json.

    data: the plotted numbers. alt: what the picture shows, for those who cannot see it, and its
    caption. made_from: the model or source, and the seed, behind the numbers.

    The environment variable QWEN3_FIGURES decides what happens to the files: "write" (`make
    notebooks`) replaces them, "check" (`make test`) recomputes the numbers and raises ValueError
    where one differs from the JSON by more than 0.2%, and by default they are left alone, so that
    playing with a notebook changes nothing.
    """
    record = {"alt": alt, "made_from": made_from, "data": rounded(data)}
    mode = os.environ.get("QWEN3_FIGURES", "")
    if mode not in ("", "write", "check"):
        raise ValueError(f"QWEN3_FIGURES is {mode!r}; it must be 'write', 'check' or unset.")
    target = FIGURES / f"{name}.json"
    if mode == "check":
        if not target.exists():
            raise ValueError(f"figure {name} was never saved; run `make notebooks`.")
        kept = json.loads(target.read_text(encoding="utf-8"))
        where = _difference(kept, record)
        if where:
            raise ValueError(f"figure {name} shows other numbers than {target.name}: {where}")
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette makes the file three times smaller; no metadata, so it changes only with the picture.
    Image.open(drawn).convert("RGB").quantize(96).save(buffer, format="png", optimize=True)
    if mode == "write":
        write_atomically(FIGURES / f"{name}.png", buffer.getvalue())
        write_atomically(target, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        from IPython.display import Markdown, display

        bundle = {"image/png": buffer.getvalue(), "text/plain": f"[{name}] {alt}"}
        display(bundle, raw=True, metadata={"image/png": {"alt": alt}})
        # No notebook viewer reads that metadata to a blind reader yet, so the words are a caption too.
        display(Markdown(f"**Figure {name}.** {alt}"))


def rounded(value: Any, digits: int = 4) -> Any:
    """`value` with every float at `digits` significant digits, arrays and tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist(), digits)
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    number = float(value)
    return float(f"{number:.{digits}g}") if math.isfinite(number) else str(number)


def _difference(kept: Any, now: Any, where: str = "") -> str:
    """Where two JSON values differ by more than the machine's arithmetic explains, or ""."""
    if isinstance(kept, dict) and isinstance(now, dict) and kept.keys() == now.keys():
        found = (_difference(kept[k], now[k], f"{where}.{k}") for k in kept)
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        found = (_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(kept, now, strict=True)))
    elif isinstance(kept, (int, float)) and isinstance(now, (int, float)):
        same = math.isclose(kept, now, rel_tol=2e-3, abs_tol=1e-9)
        return "" if same else f"{where} is {now} and was {kept}"
    else:
        return "" if kept == now else f"{where} is {now!r:.80} and was {kept!r:.80}"
    return next((text for text in found if text), "")


# -- drawings -------------------------------------------------------------------------------------


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



# -- notebook 03: RoPE -----------------------------------------------------------------------------


def rope_arrows(
    q: NDArray[Any], k: NDArray[Any], places: Sequence[tuple[int, int]], turned: Sequence[NDArray[Any]]
) -> Drawing:
    """A 2-D query and key at several places. turned: per place the array (2, 2) of both, rotated."""
    figure, grid = new_figure(1, len(places), figsize=(8.0, 3.5))
    limit = 1.15 * max(float(np.hypot(*q)), float(np.hypot(*k)))
    scores = []
    for axes, (m, n), pair in zip(grid[0], places, turned, strict=True):
        for (x, y), colour, label in zip(pair, (BLUE, ORANGE), (f"query at {m}", f"key at {n}"), strict=True):
            axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2})
            axes.plot([], [], color=colour, label=label)
        query, key = (math.degrees(math.atan2(y, x)) for x, y in pair)
        axes.add_patch(Wedge((0, 0), 0.3, key, query, color="#d9d9d9"))
        for (x, y), colour in zip((q, k), (BLUE, ORANGE), strict=True):
            axes.plot([0, x], [0, y], color=colour, linestyle=":", linewidth=1.2)
        scores.append(float(pair[0] @ pair[1]))
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="channel 0")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.set_title(f"{m - n} tokens apart, score {scores[-1]:.3f}", fontsize=9.5, weight="normal")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncol=2, fontsize=8, handlelength=1.2)
    grid[0][0].set_ylabel("channel 1")
    figure.suptitle(
        "Both arrows turn (dotted: unturned); the angle between them, and so the score, stays",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"places": places, "turned": turned, "score": scores}


def rope_layouts(interleaved: NDArray[Any], order: NDArray[Any], half: NDArray[Any]) -> Drawing:
    """The rotation matrix (d, d) in both layouts and the permutation matrix between them."""
    d = len(order)
    panels = {
        "paper: neighbours turn": (interleaved, np.arange(d) // 2),
        "permutation P": (order, np.zeros(d, dtype=int)),
        "Qwen3: j turns with j + d/2": (half, np.arange(d) % (d // 2)),
    }
    figure, grid = new_figure(1, 3, figsize=(8.2, 3.5))
    for axes, (title, (matrix, pair)) in zip(grid[0], panels.items(), strict=True):
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "#cccccc" if title.startswith("perm") else (SKY, ORANGE, GREEN, PINK)[pair[i]]
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
            text = "c" if i == j else "s" if matrix[i, j] > 0 else "\u2212s"
            text = "1" if title.startswith("perm") else text
            axes.text(j, i, text, ha="center", va="center", fontsize=8)
        axes.set(xlim=(-0.5, d - 0.5), ylim=(d - 0.5, -0.5), aspect="equal", xlabel="channel in")
        axes.set_xticks(range(d))
        axes.set_yticks(range(d))
        axes.tick_params(labelsize=8, length=0)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("channel out")
    figure.suptitle(
        "One rotation, two orders of the channels (c cosine, s sine; a colour is a frequency)",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"interleaved": interleaved, "permutation": order, "half_split": half}


def rope_theta_wavelengths(head_dim: int, thetas: Sequence[float], contexts: Sequence[int]) -> Drawing:
    """Tokens per full turn of each pair for several theta, against context lengths."""
    figure, ((axes,),) = new_figure()
    waves = {f"{theta:,.0f}": 2 * np.pi / frequencies(head_dim, theta)[0] for theta in thetas}
    slow = {name: [int((wave > length).sum()) for length in contexts] for name, wave in waves.items()}
    looks = ((":", GREY), ("-", BLUE), ("--", ORANGE), ("-.", GREEN))
    for (name, wave), (style, colour) in zip(waves.items(), looks, strict=False):
        axes.semilogy(wave, style, color=colour, label=f"theta = {name}")
    for length in contexts:
        axes.axhline(length, color="#999999", linewidth=1)
        axes.text(0.6, length * 1.15, f"{length:,} tokens of context", fontsize=8, color="#555555")
    axes.set(xlabel="rotating pair j of a head's channels", ylabel="tokens for one full turn")
    axes.set_xlim(0, head_dim // 2 - 1)
    axes.legend(loc="lower right", fontsize=8.5)
    few, many = (slow[f"{theta:,.0f}"][-1] for theta in (thetas[0], thetas[-1]))
    axes.set_title(
        f"{many} of {head_dim // 2} pairs outlast a context of {contexts[-1]:,} tokens, "
        f"with theta {thetas[0]:,.0f} only {few}"
    )
    return figure, {"wavelength_tokens": waves, "contexts": contexts, "pairs_slower_than_context": slow}


def rope_dials(head_dim: int, thetas: Sequence[float], tokens: int, pairs: Sequence[int]) -> Drawing:
    """How far some pairs have turned after `tokens` tokens: a dial each, a row for each theta."""
    figure, grid = new_figure(len(thetas), len(pairs), figsize=(8.2, 1.15 * len(thetas) + 0.7))
    turns = {f"{t:,.0f}": tokens * frequencies(head_dim, t)[0] / (2 * np.pi) for t in thetas}
    for row, (name, turn) in zip(grid, turns.items(), strict=True):
        for axes, pair in zip(row, pairs, strict=True):
            done = turn[pair] >= 1
            colour = BLUE if done else ORANGE
            axes.add_patch(Wedge((0, 0), 1, 0, 360, width=0.28, color="#e5e5e5"))
            stop = 360.0 if done else 360 * float(turn[pair])
            axes.add_patch(Wedge((0, 0), 1, 0, max(stop, 2.0), width=0.28, color=colour))
            label = f"{turn[pair]:,.0f}" if turn[pair] >= 10 else f"{turn[pair]:.2g}"
            axes.text(0, 0, label, ha="center", va="center", fontsize=8.5)
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"theta =\n{name}", fontsize=9, rotation=0, ha="right", va="center")
    for axes, pair in zip(grid[0], pairs, strict=True):
        axes.set_title(f"pair {pair}", fontsize=9, weight="normal", loc="center")
    first = [int((turn < 1).sum()) for turn in turns.values()]
    figure.suptitle(
        f"In {tokens:,} tokens {first[0]} of {head_dim // 2} pairs never finish a turn (orange), "
        f"with the larger theta {first[-1]}",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"turns": turns, "tokens": tokens, "pairs": pairs, "never_complete_a_turn": first}


def rope_distance(
    distances: NDArray[Any], scores: Mapping[str, NDArray[Any]], single: Mapping[str, NDArray[Any]]
) -> Drawing:
    """The score of two fixed vectors by distance: of single pairs (first panel), of a whole head."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5))
    near = len(next(iter(single.values())))
    for (name, values), style in zip(single.items(), ("-", "-", "--"), strict=True):
        left.plot(range(near), values, style, label=name, linewidth=1.6)
    left.set(xlabel="distance, tokens", ylabel="score (1 at distance 0)")
    left.set_ylim(-1.1, 1.45)
    left.legend(fontsize=8.5, loc="upper center", ncol=len(single))
    left.set_title("single pairs, theta 1,000,000", fontsize=9.5, weight="normal")
    for (name, values), style, colour in zip(scores.items(), (":", "-"), (GREY, BLUE), strict=True):
        right.semilogx(distances, values, style, color=colour, label=f"theta = {name}", linewidth=1.6)
    right.set(xlabel="distance, tokens (log scale)", ylim=(-0.25, 1.05))
    right.axhline(0, color="#999999", linewidth=0.8)
    right.legend(fontsize=8.5, loc="upper right")
    right.set_title("all pairs of a head together", fontsize=9.5, weight="normal")
    figure.suptitle(
        "Two equal vectors: the score fades with distance, later with a larger theta",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"distances": distances, "scores": dict(scores), "single": dict(single)}


def rope_reach(panels: Mapping[str, Mapping[str, NDArray[Any]]]) -> Drawing:
    """Turns at the end of the context by pair. Each panel: what was trained, the naive extension and
    the mended one, in this order; unseen are pairs that pass an angle their training never reached."""
    figure, grid = new_figure(1, len(panels), figsize=(8.4, 3.7), sharey=True)
    unseen: dict[str, list[int]] = {}
    for axes, (title, lines) in zip(grid[0], panels.items(), strict=True):
        trained, *others = lines.values()
        unseen[title] = [int(((trained < 1) & (new > trained * (1 + 1e-9))).sum()) for new in others]
        for (name, turns), style, colour in zip(
            lines.items(), ("-", ":", "--"), (GREY, RED, BLUE), strict=True
        ):
            axes.semilogy(turns, style, color=colour, label=name)
        axes.fill_between(
            range(len(trained)), trained, others[0], where=trained < 1, color=RED, alpha=0.2,
            linewidth=0, label="angles never seen",
        )  # fmt: skip
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel="rotating pair j", xlim=(0, len(trained) - 1), ylim=(2e-3, 4e4))
        axes.legend(fontsize=8, loc="upper right")
        axes.set_title(title, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("turns at the end of the context")
    grid[0][0].text(1, 0.62, "one full turn: every angle seen", fontsize=8, va="top")
    naive = " and ".join(str(values[0]) for values in unseen.values())
    mended = " and ".join(str(values[1]) for values in unseen.values() if values[1]) or "none"
    figure.suptitle(
        f"{naive} pairs would meet angles they never trained on; with ABF and YaRN, {mended}",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"turns": panels, "pairs_at_unseen_angles": unseen}


def rope_faults(
    sliding: Mapping[str, NDArray[Any]], positions: NDArray[Any], errors: Mapping[str, NDArray[Any]]
) -> Drawing:
    """A fixed pair of vectors slid along the text, right and wrong; and the error of several faults."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.4, 3.5))
    for (name, values), style, colour in zip(sliding.items(), ("-", "--"), (BLUE, RED), strict=True):
        left.plot(values, style, color=colour, label=name)
    left.set(xlabel="position of the key (query 4 tokens on)", ylabel="score")
    left.margins(y=0.3)
    left.legend(fontsize=8.5, loc="upper right")
    left.set_title("the same two vectors, slid along a text", fontsize=9.5, weight="normal")
    looks = zip(errors.items(), ("--", "-", "-."), (RED, GREEN, ORANGE), strict=True)
    for (name, values), style, colour in looks:
        right.loglog(positions, values, style, color=colour, label=name)
    right.set(xlabel="distance to the key, tokens (log scale)", ylabel="error, in typical scores")
    right.set_ylim(1e-4, 10)
    right.legend(fontsize=8, loc="lower right")
    right.set_title("how wrong each fault is, by distance", fontsize=9.5, weight="normal")
    figure.suptitle(
        "Mixed-up tables are wrong from the second token on; rounded angles hide in short texts",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"sliding": dict(sliding), "positions": positions, "errors": dict(errors)}
