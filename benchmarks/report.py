"""What was measured: tables in Markdown, the targets one by one, and the figure with the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from statistics import median
from typing import Any

from benchmarks.models import bytes_of_a_step, flops_of_prefill
from benchmarks.race import Result
from qwen3_ref.config import Qwen3Config

Found = dict[str, Any]
"""A report: name of a benchmark -> its results, what is missing, and what else it says."""

HALVES = ("float16", "bfloat16")
PRODUCTS = {"int8": "int8", "q8_0": "int8", "q4_0": "int8", "f16": "float16", "int4": "bfloat16"}
"""Which of the machine's products a precision is held against, where it is not its own name."""


def spread(rates: Sequence[float], unit: float = 1.0) -> str:
    """Median, and from the least to the most."""
    one, low, high = (f"{x / unit:.3g}" for x in (median(rates), min(rates), max(rates)))
    return f"{one} ({low} to {high})"


def of(results: Sequence[Result], task: str, family: str, *precisions: str) -> list[Result]:
    """Results of a task and a family, in these precisions (of any, if none is named)."""
    return [
        r
        for r in results
        if r.task == task and r.family == family and r.precision in (precisions or [r.precision])
    ]


def best(found: Sequence[Result]) -> Result | None:
    return max(found, key=lambda r: r.median, default=None)


def ratio(one: Result, other: Result) -> float:
    """The median of the rounds' ratios: neighbours in time, so that a busy minute falls out."""
    return median(a / b for a, b in zip(one.rates, other.rates, strict=True))


def chosen(result: Result) -> str:
    """The precision that stands behind "auto"."""
    return result.how.removeprefix("chose ").split(";")[0] if result.precision == "auto" else result.precision


def limit(config: Qwen3Config, results: Sequence[Result], result: Result) -> float | None:
    """The share of what the machine could do at most that a result reached."""
    precision = chosen(result)
    kind, *numbers = result.task.split()
    if kind == "decode":
        context, rows = int(numbers[0]), int(numbers[2])
        reads = of(results, "read", "machine")
        if not reads:
            return None
        step = result.median / rows
        return step * bytes_of_a_step(config, precision, context, rows) / reads[0].median
    if kind == "prefill":
        tokens = int(numbers[0])
        products = of(results, f"products {PRODUCTS.get(precision, precision)}", "machine")
        if not products:
            return None
        return result.median / tokens * flops_of_prefill(config, tokens) / products[0].median
    return None


def table(config: Qwen3Config, results: Sequence[Result], task: str, unit: str) -> list[str]:
    """One task: who, how fast, how near to the limit, with how much memory."""
    rows = sorted((r for r in results if r.task == task), key=lambda r: -r.median)
    lines = [
        f"| {task} | {unit}: median (least to most) | of the limit | peak GB | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        share = limit(config, results, r)
        lines.append(
            f"| {r.entrant} | {spread(r.rates)} | {'' if share is None else f'{share:.0%}'} | "
            f"{f'{r.peak / 1e9:.2f}' if r.peak else ''} | {r.how} |"
        )
    return lines


def machine(results: Sequence[Result]) -> list[str]:
    """What the machine did in the same rounds."""
    said = []
    for r in results:
        if r.family == "machine":
            what = "GB/s read" if r.task == "read" else f"GFLOP/s in {r.task.removeprefix('products ')}"
            said.append(f"{spread(r.rates, 1e9)} {what}")
    return [f"The machine in the same rounds: {'; '.join(said)}."] if said else []


# -- the targets ----------------------------------------------------------------------------------------


Target = tuple[str, float | None, float, str]
"""What, how much was measured (None: not measured), how much is wanted, and against whom."""


def _against(what: str, ours: Sequence[Result], theirs: Sequence[Result], wanted: float) -> Target:
    one, other = best(ours), best(theirs)
    if one is None or other is None:
        return what, None, wanted, ""
    return (
        what,
        ratio(one, other),
        wanted,
        f"{one.entrant} {one.median:.3g}, {other.entrant} {other.median:.3g}",
    )


def targets(found: Found) -> list[Target]:
    """Every target for which its benchmark was run; where a ratio is wanted, of rates in the same rounds."""
    said: list[Target] = []

    def results(name: str) -> list[Result]:
        kept: list[Result] = found[name]["results"]
        return kept

    if "decode" in found:
        r, task = results("decode"), found["decode"]["task"]
        ours = lambda p: of(r, task, "ours", p)  # noqa: E731
        llama = lambda p: of(r, task, "llama.cpp", p)  # noqa: E731
        peers = lambda *p: of(r, task, "transformers", *p)  # noqa: E731
        said += [
            _against("decode: auto over llama.cpp q8_0", ours("auto"), llama("q8_0"), 1.0),
            _against("decode: auto over transformers' best 16-bit", ours("auto"), peers(*HALVES), 3.0),
            *(
                _against(f"decode: {p} over transformers {p}", ours(p), peers(p), 1.2)
                for p in ("float32", *HALVES)
            ),
            _against("decode: int4 over llama.cpp q4_0", ours("int4"), llama("q4_0"), 0.8),
        ]
    if "prefill" in found:
        r, task = results("prefill"), found["prefill"]["task"]
        said += [
            _against(
                "prefill: auto over llama.cpp's best",
                of(r, task, "ours", "auto"),
                of(r, task, "llama.cpp"),
                1.0,
            ),
            _against(
                "prefill: auto over transformers' best",
                of(r, task, "ours", "auto"),
                of(r, task, "transformers"),
                1.3,
            ),
        ]
    if "batch" in found:
        r, (one, many) = results("batch"), found["batch"]["tasks"]
        auto = of(r, many, "ours", "auto")
        said += [
            _against("batch 16: auto over its own batch 1", auto, of(r, one, "ours", "auto"), 8.0),
            _against("batch 16: auto over transformers' best", auto, of(r, many, "transformers"), 1.2),
        ]
    if "context" in found:
        r, (short, long) = results("context"), found["context"]["tasks"]
        auto = of(r, long, "ours", "auto")
        said.append(_against("context: auto at 8,192 over 32", auto, of(r, short, "ours", "auto"), 0.5))
    if "moe" in found:
        r = results("moe")
        for n in found["moe"]["tokens"]:
            theirs = of(r, f"moe {n}", "transformers", "float32")
            said.append(
                _against(f"MoE layer, {n} tokens: float32", of(r, f"moe {n}", "ours", "float32"), theirs, 1.0)
            )
        for n in found["moe"]["tokens"][:2]:
            theirs = of(r, f"moe {n}", "transformers", "float32")
            said.append(
                _against(f"MoE layer, {n} tokens: int8", of(r, f"moe {n}", "ours", "int8"), theirs, 2.5)
            )
    if "rollouts" in found:
        r = results("rollouts")
        said.append(
            _against(
                "rollouts: as trained over transformers' generate",
                of(r, "rollouts", "ours", "plain"),
                of(r, "rollouts", "transformers"),
                3.0,
            )  # fmt: skip
        )
    return said


def judged(found: Found) -> list[str]:
    """The targets as a table."""
    lines = ["| target | measured | wanted | |", "|---|---|---|---|"]
    for what, measured, wanted, who in targets(found):
        verdict = "not measured" if measured is None else f"{measured:.2f}x"
        met = "" if measured is None else "yes" if measured >= wanted else "no"
        lines.append(f"| {what} | {verdict} ({who}) | {wanted:.3g}x | {met} |".replace(" ()", ""))
    for row in found.get("load", {}).get("rows", []):
        if row["kind"] in ("auto", "float32", *HALVES, "int8", "int4"):
            met = "yes" if row["ratio"] <= 1.15 else "no"
            lines.append(
                f"| load: peak over weights, {row['kind']} | {row['ratio']:.3f}x | at most 1.15x | {met} |"
            )
    if "load" in found:
        info = median(found["load"]["info_seconds"])
        lines.append(f"| `info` | {info:.2f} s | under 0.5 s | {'yes' if info < 0.5 else 'no'} |")
    if "notebooks" in found and "seconds" in found["notebooks"]:
        minutes = found["notebooks"]["seconds"] / 60
        met = "yes" if minutes <= 12 else "no"
        lines.append(f"| the course under nbval | {minutes:.1f} min | at most 12 | {met} |")
    return lines if len(lines) > 2 else []


# -- the figure -----------------------------------------------------------------------------------------


def speed(config: Qwen3Config, found: Found) -> tuple[Any, dict[str, Any]]:
    """Decoding against what memory allows (left) and prefill against what products allow (right)."""
    from qwen3_ref.course.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, headline, new_figure

    colours = {
        "ours": BLUE, "transformers": ORANGE, "llama.cpp": GREEN, "llms-from-scratch": PINK,
        "reasoning-from-scratch": SKY,
    }  # fmt: skip
    figure, axes = new_figure(1, 2, figsize=(10, 5), width_ratios=[1.15, 1])
    left, right = axes[0]
    results, task = found["decode"]["results"], found["decode"]["task"]
    context = int(task.split()[1])
    bandwidth = of(results, "read", "machine")[0].median
    points: dict[str, dict[str, Any]] = {}
    last: dict[tuple[float, bool], float] = {}  # where the label below stands, in points
    for r in sorted((r for r in results if r.task == task), key=lambda r: r.median):
        size = bytes_of_a_step(config, chosen(r), context) / 1e9
        points[r.entrant] = {"gigabytes": size, "tokens_per_second": sorted(r.rates)}
        colour, low, high = colours[r.family], min(r.rates), max(r.rates)
        left.plot([size, size], [low, high], color=colour, linewidth=1.5)
        left.plot(size, r.median, "o", color=colour, label=r.family)
        if r.family.endswith("from-scratch"):
            continue  # the legend names them
        on_left = r.family == "ours"
        at = 200 * log10(r.median)  # the axis has some 200 points for a decade
        up = max(0.0, last.get((round(size, 1), on_left), -99.0) + 9 - at)
        last[round(size, 1), on_left] = at + up
        left.annotate(
            r.precision, (size, r.median), fontsize=8, color=colour, xytext=(-6 if on_left else 6, up),
            textcoords="offset points", va="center", ha="right" if on_left else "left",
        )  # fmt: skip
    sizes = [p["gigabytes"] for p in points.values()]
    line = [min(sizes) * 0.75, max(sizes) * 1.35]
    left.plot(line, [bandwidth / 1e9 / x for x in line], color=GREY, linestyle="--", linewidth=1.2)
    left.annotate(
        f"{bandwidth / 1e9:.0f} GB/s", (line[0], bandwidth / 1e9 / line[0]), fontsize=8, color=GREY,
        xytext=(4, 4), textcoords="offset points",
    )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="GB that a token reads", ylabel="tokens a second, one row")
    for axis, ticks in ((left.xaxis, (0.2, 0.3, 0.5, 1, 2, 3)), (left.yaxis, (2, 3, 5, 10, 20, 30, 50, 100))):
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in ticks if low <= tick <= high])
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    known = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    left.legend(known.values(), known.keys(), loc="upper right", fontsize=8)
    left.set_title("Decoding: bytes decide")

    bars = sorted((r for r in found["prefill"]["results"] if r.family != "machine"), key=lambda r: r.median)
    limits = {}
    for y, r in enumerate(bars):
        right.barh(y, r.median, color=colours[r.family], height=0.7)
        right.plot([min(r.rates), max(r.rates)], [y, y], color="#333333", linewidth=1)
        share = limit(config, found["prefill"]["results"], r)
        if share:
            limits[r.entrant] = r.median / share
    right.set_yticks(range(len(bars)), [r.entrant for r in bars], fontsize=8)
    right.set(xlabel="tokens a second")
    right.set_title("Prefill: products decide")
    headline(figure, "How fast, and how near to what this machine can do")
    prefill = {r.entrant: sorted(r.rates) for r in bars}
    return figure, {
        "bandwidth_gb_per_second": bandwidth / 1e9, "decode": points, "prefill_tokens_per_second": prefill,
        "prefill_limit": limits,
    }  # fmt: skip
