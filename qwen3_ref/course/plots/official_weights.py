"""Drawings of 07_official_weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

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

PALE = "#d9d9d9"
PARTS = {"embed_tokens": SKY, "mlp": ORANGE, "self_attn": GREEN, "layernorm": RED, "norm": RED}


def _colour(name: str) -> str:
    return next((colour for part, colour in PARTS.items() if part in name), GREY)


def file_to_scale(first: bytes, data: int, ranges: Mapping[str, Sequence[int]], layer: int) -> Drawing:
    """A safetensors file three times: its first bytes, all of it, and one layer of it.

    first: the file's first bytes. data: where the tensor data begin. ranges: (begin, end) of each
    tensor in the file, in order.
    """
    figure, ((axes,),) = new_figure(figsize=(8.4, 4.3))
    axes.set(xlim=(-0.005, 1.005), ylim=(-0.25, 6.3))
    axes.axis("off")
    size = max(end for _, end in ranges.values())
    prefix = f"model.layers.{layer}."
    groups: dict[str, list[int]] = {"header": [0, data]}
    for name, (begin, end) in ranges.items():
        words = name.split(".")
        group = " ".join(words[1:3]).replace("layers", "layer") if words[1] == "layers" else words[1]
        groups[group] = [groups.get(group, [begin, end])[0], end]
    _bytes(axes, first, y=4.9)
    y = 2.6
    for group, (begin, end) in groups.items():
        colour = "black" if group == "header" else PALE if "layer" in group else _colour(group)
        axes.add_patch(Rectangle((begin / size, y), (end - begin) / size, 1, fc=colour, ec="white", lw=0.8))
        if end - begin > 0.05 * size:
            axes.text((begin + end) / 2 / size, y + 0.5, group, ha="center", va="center", fontsize=9)
    axes.text(0, y + 1.12, f"the whole file, {size:,} bytes", fontsize=9)
    final = f"norm, {ranges['model.norm.weight'][1] - ranges['model.norm.weight'][0]} bytes"
    axes.text(1, y + 1.12, final, fontsize=8, ha="right", color=RED)
    axes.add_patch(Polygon([(0, 4.85), (1, 4.85), (data / size, y + 1), (0, y + 1)], fc="#f2f2f2", zorder=0))
    begin, end = groups[f"layer {layer}"]
    corners = [(begin / size, y), (end / size, y), (1, 1.4), (0, 1.4)]
    axes.add_patch(Polygon(corners, fc="#f2f2f2", zorder=0))
    inside = {name.removeprefix(prefix): pair for name, pair in ranges.items() if name.startswith(prefix)}
    for name, (low, high) in inside.items():
        x, width = (low - begin) / (end - begin), (high - low) / (end - begin)
        axes.add_patch(Rectangle((x, 0.4), width, 1, fc=_colour(name), ec="white", lw=0.8))
        if width > 0.02:
            short = name.removesuffix(".weight").split(".")[-1]
            text = short if width > 0.12 else short.replace("_", "\n")
            axes.text(x + width / 2, 0.9, text, ha="center", va="center", fontsize=8.5)
    axes.text(
        0, 0.08, f"layer {layer}: feed-forward orange, attention green, gains of the norms red (hairlines)",
        fontsize=9, va="top",
    )  # fmt: skip
    figure.suptitle(
        "Eight bytes, a list of names, and then nothing but numbers, without a gap",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {"data_begin": data, "groups": groups, "layer": inside}


def _bytes(axes: Axes, first: bytes, y: float) -> None:
    """The first bytes, one box each: eight numbers, then characters."""
    for i, byte in enumerate(first):
        x, width = i / len(first), 1 / len(first)
        axes.add_patch(Rectangle((x, y), width, 0.62, fc=YELLOW if i < 8 else "white", ec="#999999", lw=0.6))
        text = f"{byte:02x}" if i < 8 else chr(byte)
        axes.text(x + width / 2, y + 0.3, text, ha="center", va="center", fontsize=7.5, family="monospace")
    length = int.from_bytes(first[:8], "little")
    axes.text(0, y + 0.75, f"8 bytes: the header's length, {length:,}", fontsize=9)
    axes.text(8.4 / len(first) + 0.14, y + 0.75, "then the header, which is text in JSON ...", fontsize=9)


def bits(value: float, misread: tuple[NDArray[Any], NDArray[Any]]) -> Drawing:
    """The bits of a number in float32 and bfloat16, and what bfloat16 numbers become as float16.

    misread: (true values, what float16 makes of their bits), both positive and rising.
    """
    figure, grid = new_figure(1, 2, figsize=(8.4, 3.3), gridspec_kw={"width_ratios": [1.75, 1]})
    left, right = grid[0]
    whole = np.array(value, dtype=np.float32).view(np.uint32)
    top = np.array(whole >> 16, dtype=np.uint16)
    rows = [
        (f"float32: {value:.7f}", f"{whole:032b}", (1, 8, 23)),
        (f"bfloat16, the upper half: {(whole >> 16 << 16).view(np.float32):.7f}", f"{top:016b}", (1, 8, 7)),
        (f"the same bits as float16: {top.view(np.float16):.4f}", f"{top:016b}", (1, 5, 10)),
    ]
    for row, (text, digits, fields) in enumerate(rows):
        y = -1.9 * row
        colours = [c for c, n in zip((PINK, ORANGE, SKY), fields, strict=True) for _ in range(n)]
        for i, (digit, colour) in enumerate(zip(digits, colours, strict=True)):
            left.add_patch(Rectangle((i, y), 1, 0.9, facecolor=colour, edgecolor="white"))
            left.text(i + 0.5, y + 0.42, digit, ha="center", va="center", fontsize=7.5)
        left.text(0, y + 1.05, text, fontsize=9)
    for x, colour, word in ((17.5, PINK, "sign"), (21.3, ORANGE, "exponent"), (27.3, SKY, "fraction")):
        left.add_patch(Rectangle((x, -3.6), 0.9, 0.6, facecolor=colour))
        left.text(x + 1.2, -3.5, word, fontsize=8.5)
    left.set(xlim=(-0.2, 32.2), ylim=(-4.1, 1.9))
    left.axis("off")
    true, wrong = misread
    right.loglog(true, wrong, color=RED)
    right.loglog(true, true, ":", color=GREY, linewidth=1.3)
    right.axvspan(1e-3, 1e-1, color="#eeeeee", zorder=0)
    right.text(1e-2, 20, "typical\nweights", ha="center", fontsize=8, color="#555555")
    right.text(2e-4, 2.4e-5, "dotted: read rightly", fontsize=8, color="#555555")
    right.set(xlabel="the bfloat16 number", ylabel="read as float16", ylim=(1e-5, 1e3))
    figure.suptitle(
        "One shift widens bfloat16; read as float16, every usual weight becomes about 1",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure, {
        "value": value,
        "bits": [digits for _, digits, _ in rows],
        "true": true,
        "as_float16": wrong,
    }


def sizes(rows: Sequence[tuple[str, int, str]]) -> Drawing:
    """Bytes of tensor data of every official checkpoint, and what was published to hold them against.

    rows: (name, computed bytes, evidence), evidence one of "shards", "bytes", "parameters", "nothing".
    """
    looks = {
        "shards": ("o", BLUE, "the size of every file equals the published one"),
        "bytes": ("s", GREEN, "the bytes of all tensors do"),
        "parameters": ("^", ORANGE, "the number of parameters does"),
        "nothing": ("x", GREY, "no published figure"),
    }
    figure, ((axes,),) = new_figure(figsize=(8.4, 6.0))
    for kind, (marker, colour, words) in looks.items():
        at = [(size, i) for i, (_, size, evidence) in enumerate(rows) if evidence == kind]
        axes.plot(*zip(*at, strict=True), marker, color=colour, markersize=7, linestyle="", label=words)
    for i, (_, size, _) in enumerate(rows):
        axes.text(size * 1.16, i, f"{size:,}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [name.removeprefix("Qwen3-") for name, _, _ in rows], fontsize=8.5)
    axes.set(
        xlim=(9e8, 9e12),
        ylim=(len(rows) - 0.4, -0.6),
        xlabel="bytes of tensor data, computed from the configuration (log scale)",
        title="The strongest figure published of each equals the computed one",
    )
    axes.legend(fontsize=8.5, loc="upper right")
    return figure, {"bytes": {name: size for name, size, _ in rows}, "evidence": {n: e for n, _, e in rows}}


def faults(losses: Mapping[str, float], chance: float) -> Drawing:
    """Loss in nats a token of the right model (first) and of faultily loaded ones."""
    figure, ((axes,),) = new_figure(figsize=(7.8, 3.7))
    top = 1.3 * chance
    colours = [BLUE] + [RED] * (len(losses) - 1)
    shown = [min(loss, top) for loss in losses.values()]
    axes.barh(range(len(losses)), shown, color=colours, height=0.65)
    for i, loss in enumerate(losses.values()):
        more = f"{loss:.2f}" if loss <= top else f"{loss:.0f}, beyond the axis"
        look = {"va": "center", "ha": "right", "fontsize": 8.5, "color": "white", "weight": "bold"}
        axes.text(min(loss, top) - 0.08, i, more, **look)
    axes.axvline(chance, color="black", linestyle="--", linewidth=1.2, zorder=0.5)
    axes.text(chance + 0.06, -0.72, "guessing at random", fontsize=8.5, va="bottom")
    axes.set_yticks(range(len(losses)), list(losses), fontsize=9)
    axes.set(xlim=(0, top), ylim=(len(losses) - 0.4, -0.6), xlabel="loss (nats a token)")
    figure.suptitle(
        "Each of them loads and runs: some faults ruin the model, some hide",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    axes.grid(axis="y", visible=False)
    return figure, {"loss": dict(losses), "chance": chance}


def parting(panels: Mapping[str, NDArray[Any]], parts: Sequence[str], tolerance: float) -> Drawing:
    """Relative difference of each part (rows) of each layer (columns) between two models.

    panels: title -> array (parts, layers); what lies below the tolerance counts as agreement.
    """
    figure, grid = new_figure(1, len(panels), figsize=(8.4, 4.6), sharey=True)
    for axes, (title, values) in zip(grid[0], panels.items(), strict=True):
        shown = np.where(values > tolerance, values, np.nan)
        norm = LogNorm(vmin=tolerance, vmax=10)
        axes.set_facecolor("#dcecf7")
        picture = axes.pcolormesh(shown, cmap="YlOrRd", norm=norm, edgecolor="white", linewidth=1.5)
        for (row, column), value in np.ndenumerate(values):
            wrong = value > tolerance
            text = f"{value:.2g}" if wrong else "="
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center",
                fontsize=8, color="white" if value > 0.9 else "black",
            )  # fmt: skip
        axes.set_xticks(np.arange(values.shape[1]) + 0.5, range(values.shape[1]))
        axes.set_yticks(np.arange(len(parts)) + 0.5, parts, fontsize=8.5)
        axes.set(xlabel="layer", ylim=(len(parts), 0))
        axes.set_title(title, fontsize=9.5, weight="normal")
        axes.tick_params(length=0)
        axes.grid(visible=False)
    bar = figure.colorbar(picture, ax=grid[0].tolist(), shrink=0.8)
    bar.set_label("largest difference / size of the right values", fontsize=8.5)
    figure.suptitle(
        "In a whole run one fault stains all that follows; part by part, each stands alone",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    clean = {title: np.where(values > tolerance, values, 0.0) for title, values in panels.items()}
    return figure, {"parts": list(parts), "relative_difference": clean, "tolerance": tolerance}
