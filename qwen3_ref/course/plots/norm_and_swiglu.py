"""Drawings of 02_norm_and_swiglu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Circle
from numpy.typing import NDArray

from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, RED, Drawing, new_figure

Array = NDArray[Any]
TITLE = {"x": 0.01, "ha": "left", "weight": "bold", "fontsize": 11}


def sphere(before: Array, after: Mapping[str, Array]) -> Drawing:
    """Points of the plane and where two norms put them. before and each of after: (points, 2)."""
    figure, grid = new_figure(1, len(after), figsize=(8.2, 4.1))
    corner = float(np.sqrt(2))
    for axes, (name, places) in zip(grid[0], after.items(), strict=True):
        axes.add_patch(Circle((0, 0), corner, fill=False, color=GREY, linewidth=1, linestyle=":"))
        for start, end in zip(before, places, strict=True):
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#999999", "lw": 1})
        axes.plot(*before.T, "o", color=ORANGE, markersize=5, label="before")
        axes.plot(*places.T, "o", color=BLUE, markersize=6, label="after")
        axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xlabel="channel 0")
        axes.set_title(name, fontsize=9.5, weight="normal")
        axes.legend(fontsize=8, loc="lower right", handletextpad=0.2)
    grid[0][0].set_ylabel("channel 1")
    figure.suptitle("RMSNorm keeps every direction; LayerNorm of two numbers keeps one bit", **TITLE)
    return figure, {"before": before, "after": after}


def epsilon(sizes: Array, curves: Mapping[str, Array], marks: Mapping[str, float]) -> Drawing:
    """Size of what a norm returns by the size of what it gets; marks: sizes found in models."""
    figure, ((axes,),) = new_figure(figsize=(7.6, 3.8))
    looks = zip(curves.items(), ("-", "--", "-."), (BLUE, ORANGE, RED), strict=True)
    for (name, curve), style, colour in looks:
        axes.semilogx(sizes, curve, style, color=colour, label=name)
    for name, place in marks.items():
        axes.axvline(place, color=GREY, linewidth=1, linestyle=":")
        axes.text(place * 1.12, 0.06, name, fontsize=8, color="#444444", rotation=90)
    axes.set(xlabel="root mean square of the input (log scale)", ylabel="root mean square of the output")
    axes.set_ylim(0, 1.1)
    axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0, 0.94))
    axes.set_title("Epsilon decides from which size on a vector counts as a signal")
    return figure, {"sizes": sizes, "curves": curves, "marks": marks}


def gate(
    x: Array, curves: Mapping[str, Array], surface: Array, gates: Array, ups: Array, at: float
) -> Drawing:
    """Left: activation functions over x. Right: silu(gate) * up over the square x by x as surface
    (up, gate), with live pairs gates, ups of one token's or several tokens' channels; at: contour step."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(8.6, 3.9), width_ratios=[1, 1.15])
    looks = zip(curves.items(), ("-", "--", ":"), (BLUE, ORANGE, GREY), strict=True)
    for (name, curve), style, colour in looks:
        left.plot(x, curve, style, color=colour, label=name)
    left.set(xlabel="x", ylabel="f(x)", xlim=(-5, 5), ylim=(-0.6, 5))
    left.legend(fontsize=8.5, loc="upper left")
    left.set_title("one input: a soft switch", fontsize=9.5, weight="normal")
    limit = at * np.ceil(np.abs(surface).max() / at)
    levels = np.arange(-limit, limit + at / 2, at)
    filled = right.contourf(x, x, surface, levels=levels, cmap="PuOr_r")
    right.contour(x, x, surface, levels=levels, colors="white", linewidths=0.5)
    right.plot(gates, ups, ".", color="black", markersize=1.6, alpha=0.5)
    right.set(xlabel="gate", ylabel="up", xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
    right.grid(visible=False)
    right.set_title("two inputs: silu(gate) · up; dots: a trained layer", fontsize=9.5, weight="normal")
    figure.colorbar(filled, ax=right, label="value of the hidden channel", shrink=0.9)
    figure.suptitle("The gate decides whether a channel speaks, up decides what it says", **TITLE)
    some = {name: curve[::20] for name, curve in curves.items()}
    dots = {"gates": gates[::20], "ups": ups[::20]}
    return figure, {"x": x[::20], "curves": some, "surface": surface[::20, ::20]} | dots


def stream(labels: Sequence[str], before: Array, after: Array, added: Array, fresh: Array) -> Drawing:
    """The residual stream of a trained model. before, after (norms, tokens): root mean square of what
    enters and leaves each norm; added (norms - 1, tokens): of what the branch behind it adds. fresh, as
    before: the stream of the same model untrained."""
    figure, ((axes,),) = new_figure(figsize=(7.8, 4.0))
    place = np.arange(len(labels))
    series = {
        "the stream, entering the norm": (before, BLUE, "o-"),
        "leaving the norm, into the branch": (after, ORANGE, "s--"),
        "what the branch adds": (added, GREEN, "^:"),
    }
    for name, (values, colour, style) in series.items():
        where = place[: len(values)]
        axes.fill_between(where, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
        axes.semilogy(where, values.mean(1), style, color=colour, label=name, markersize=5)
    axes.semilogy(place, fresh.mean(1), color=GREY, linewidth=1.4, label="the stream, untrained")
    axes.set_xticks(place, labels)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set(xlabel="norm, from bottom to top of the model", ylabel="root mean square (log scale)")
    axes.legend(fontsize=8.5, loc="lower right")
    growth = before.mean(1)[-1] / before.mean(1)[0]
    axes.set_title(f"The stream grows {growth:.0f}-fold on its way up; the branches see one size")
    means = {"before": before.mean(1), "after": after.mean(1), "added": added.mean(1)}
    means["before_untrained"] = fresh.mean(1)
    return figure, {"norms": labels, "smallest_after": after.min(1), "largest": before.max(1)} | means


def trained(
    runs: Mapping[float, Mapping[str, Array]], levels: Mapping[str, float], window: int = 8
) -> Drawing:
    """Losses while training: learning rate -> arrangement -> (steps, stacks), drawn as means over
    `window` steps, a thin line a stack. levels: losses to compare with, by what one must know."""
    figure, grid = new_figure(1, len(runs), figsize=(8.6, 3.7), sharey=True)
    looks = {"pre-norm": (BLUE, "-"), "post-norm": (ORANGE, "--")}
    ends: dict[str, dict[str, Array]] = {}
    for axes, (rate, arrangements) in zip(grid[0], runs.items(), strict=True):
        ends[f"{rate:g}"] = {}
        for name, losses in arrangements.items():
            colour, style = looks[name]
            total = np.cumsum(np.concatenate([np.zeros_like(losses[:1]), losses]), axis=0)
            smooth = (total[window:] - total[:-window]) / window  # (steps - window + 1, stacks)
            axes.plot(np.arange(window, len(losses) + 1), smooth, style, color=colour, linewidth=0.9)
            axes.plot([], [], style, color=colour, label=name)
            ends[f"{rate:g}"][name] = smooth[-1]
        for level in levels.values():
            axes.axhline(level, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="step")
        axes.set_title(f"learning rate {rate:g}", fontsize=9.5, weight="normal")
    places = ((0.98, ("right", "bottom")), (0.03, ("left", "top")))
    for (name, level), (x, sides) in zip(levels.items(), places, strict=True):
        grid[0][0].text(x, level, f"knowing {name}", fontsize=8, color="#444444", ha=sides[0], va=sides[1],
                        transform=grid[0][0].get_yaxis_transform())  # fmt: skip
    grid[0][0].set_ylabel("loss, nats a letter")
    grid[0][-1].legend(fontsize=8.5, loc="upper right")
    figure.suptitle(
        "The larger the steps, the more post-norm falls behind; with small ones it does not", **TITLE
    )
    return figure, {"loss_at_the_end": ends, "levels": levels, "steps_in_a_mean": window}


def sixteen_bits(sizes: Array, errors: Mapping[str, Mapping[str, Array]], largest: float) -> Drawing:
    """Relative error of a norm by activation size: dtype -> way of computing it -> errors.
    largest: the largest token of a trained model, drawn as a mark."""
    figure, grid = new_figure(1, len(errors), figsize=(8.6, 3.8), sharey=True)
    looks = (("-", BLUE), ("--", ORANGE), ("-.", RED))
    fails: dict[str, dict[str, float | None]] = {}
    for axes, (dtype, ways) in zip(grid[0], errors.items(), strict=True):
        fails[dtype] = {}
        for (name, values), (style, colour) in zip(ways.items(), looks, strict=True):
            axes.loglog(sizes, values, style, color=colour, label=name)
            useless = sizes[(values > 0.3) & (sizes >= 1)]
            fails[dtype][name] = float(useless[0]) if len(useless) else None
        axes.axvline(largest, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="root mean square of the input (log scale)", ylim=(1e-5, 8))
        axes.set_title(dtype, fontsize=9.5, weight="normal")
    grid[0][0].set_ylabel("relative error (1: all is lost)")
    grid[0][0].legend(fontsize=8.5, loc="upper left", title="where the squares live", title_fontsize=8.5)
    grid[0][-1].text(largest * 0.8, 3, "largest token of the nano", fontsize=8, color="#444444", ha="right")
    figure.suptitle("float16 without the cast fails at large activations; bfloat16 is only coarse", **TITLE)
    return figure, {"sizes": sizes, "errors": errors, "error_over_0.3_from": fails, "largest": largest}


def faults(loss: Mapping[str, float], logits: Mapping[str, float], tolerance: float) -> Drawing:
    """For each bug, how much worse a text is predicted (nats a token) and how far the logits move."""
    figure, ((axes,),) = new_figure(figsize=(7.8, 3.9))
    names = sorted(loss, key=lambda name: logits[name])
    for row, name in enumerate(names):
        axes.plot([abs(loss[name]), logits[name]], [row, row], color="#cccccc", linewidth=2, zorder=1)
    axes.semilogx([abs(loss[n]) for n in names], range(len(names)), "o", color=BLUE,
                  label="change of the loss, nats a token", zorder=2)  # fmt: skip
    axes.semilogx([logits[n] for n in names], range(len(names)), "D", color=RED,
                  label="largest change of a logit", zorder=2)  # fmt: skip
    axes.axvline(tolerance, color=GREY, linestyle=":", linewidth=1.2)
    axes.text(tolerance * 0.85, len(names) - 0.6, f"a tolerance of {tolerance:g}", fontsize=8, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="change against the right model (log scale)", ylim=(-0.6, len(names) - 0.2))
    axes.legend(fontsize=8.5, loc="lower right")
    axes.set_title("Some bugs shout, the epsilons whisper: compare logits, not losses")
    return figure, {"loss": loss, "logits": logits, "tolerance": tolerance}
