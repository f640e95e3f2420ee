"""The one style of all figures, and `save_figure`."""

from __future__ import annotations

import io
import json
import math
import os
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from qwen3_ref.store.files import write_atomically

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
FIGURES = Path(__file__).resolve().parents[3] / "figures"
SLIDES = FIGURES.parent / "build" / "slides"
Drawing = tuple[Figure, dict[str, Any]]


def new_figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure in the house style and its axes (rows, columns); options go to `Figure.subplots`.

    It belongs to no window and no global state, so nothing has to be closed.
    """
    figure = Figure(figsize=options.pop("figsize", None))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def headline(figure: Figure, text: str) -> None:
    """What several panels show together, over them."""
    figure.suptitle(text, x=0.01, ha="left", weight="bold", fontsize=11)


def save_figure(
    name: str, figure: Figure, data: Mapping[str, Any], *, alt: str, made_from: str, within: float = 1e-9
) -> None:
    """Show a figure in the notebook and keep it: figures/<name>.png and, beside it, <name>.json.

    data: the plotted numbers. alt: what the picture shows, for those who cannot see it. made_from: the
    model or source, and the seed, behind the numbers. within: what may change with the processor, in the
    numbers' unit (16-bit products, or differences near rounding). The line under it is `caption_of` it.

    The environment variable QWEN3_FIGURES decides what happens to the files: "write" (`make
    notebooks`) replaces them, "check" (`make course`) recomputes the numbers and raises ValueError
    where one differs from the JSON by more than 0.2% and `within`, "slides" (`make slides`) draws a large
    one into build/slides, and by default they are left alone, so that playing with a notebook changes
    nothing.
    """
    record = {"alt": alt, "made_from": made_from, "data": rounded(data)}
    mode = os.environ.get("QWEN3_FIGURES", "")
    if mode not in ("", "write", "check", "slides"):
        raise ValueError(f"QWEN3_FIGURES is {mode!r}; it must be 'write', 'check', 'slides' or unset.")
    target = FIGURES / f"{name}.json"
    if mode == "check":
        if not target.exists():
            raise ValueError(f"figure {name} was never saved; run `make notebooks`.")
        kept = json.loads(target.read_text(encoding="utf-8"))
        where = _difference(kept, record, within)
        if where:
            raise ValueError(f"figure {name} shows other numbers than {target.name}: {where}")
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette makes the file three times smaller; no metadata, so it changes only with the picture.
    # This method keeps rare colours: the default one let a single red bar turn orange.
    palette = Image.open(drawn).convert("RGB").quantize(96, method=Image.Quantize.MAXCOVERAGE)
    palette.save(buffer, format="png", optimize=True)
    if mode == "write":
        write_atomically(FIGURES / f"{name}.png", buffer.getvalue())
        write_atomically(target, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if mode == "slides":
        large = io.BytesIO()
        figure.savefig(large, format="png", dpi=1920 / figure.get_figwidth())
        SLIDES.mkdir(parents=True, exist_ok=True)
        write_atomically(SLIDES / f"{name}.png", large.getvalue())
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        from IPython.display import Markdown, display

        bundle = {"image/png": buffer.getvalue(), "text/plain": f"[{name}] {alt}"}
        display(bundle, raw=True, metadata={"image/png": {"alt": alt}})
        # No notebook viewer reads that metadata to a blind reader yet: the caption has to do without it.
        display(Markdown(caption_of(name, alt)))


def caption_of(name: str, alt: str) -> str:
    """The line under a figure, in Markdown: its number in its lesson and what to see in it, both from
    figures/captions.toml; for a figure that is not in there its name and `alt`."""
    file = FIGURES / "captions.toml"
    captions = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if name not in captions:
        return f"**Figure {name}.** {alt}"
    lesson = name.partition("_")[0]
    place = [key for key in captions if key.partition("_")[0] == lesson].index(name) + 1
    return f"**Figure {int(lesson)}.{place}.** {captions[name]}"


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


def _difference(kept: Any, now: Any, within: float = 1e-9, where: str = "") -> str:
    """Where two JSON values differ by more than the machine's arithmetic explains, or ""."""
    if isinstance(kept, dict) and isinstance(now, dict) and kept.keys() == now.keys():
        found = (_difference(kept[k], now[k], within, f"{where}.{k}") for k in kept)
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        pairs = enumerate(zip(kept, now, strict=True))
        found = (_difference(a, b, within, f"{where}[{i}]") for i, (a, b) in pairs)
    elif isinstance(kept, (int, float)) and isinstance(now, (int, float)):
        same = math.isclose(kept, now, rel_tol=2e-3, abs_tol=within)
        return "" if same else f"{where} is {now} and was {kept}"
    else:
        return "" if kept == now else f"{where} is {now!r:.80} and was {kept!r:.80}"
    return next((text for text in found if text), "")


# -- drawings -------------------------------------------------------------------------------------


def measured(name: str) -> dict[str, Any]:
    """What a command of `qwen3_ref.measure` found, as it ships, such as
    "quantization" or "balancing"."""
    folder = files("qwen3_ref").joinpath("data", "nano", "measured")
    found: dict[str, Any] = json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return found
