"""Checks of 18_decisions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def _arrays(wrong: list[tuple[str, Any]]) -> Wrong:
    return [(remark, np.asarray(value, np.float64)) for remark, value in wrong]


_STUDENT = {3: 4.303, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's two-sided 95% quantile for the mean of so many values."""


def paired_interval(answer: Answer) -> Verdict:
    """answer(a, b, quantile) -> (mean, low, high) of a - b over seeds; a and b (n,), one value a seed, and
    the quantile of Student's distribution for n."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(n: int, side: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            quantile = _STUDENT[n]
            d = np.zeros(n)
            while d.mean() * side <= 0:
                luck = rng.normal(3.0, 0.6, n)  # what a seed does to both
                a, b = luck + rng.normal(side * 0.3, 0.2, n), luck + rng.normal(0.0, 0.2, n)
                d = a - b
            mean, deviation = d.mean(), d.std(ddof=1)

            def around(middle: float, half: float) -> list[float]:
                return [middle, middle - half, middle + half]

            half = quantile * deviation / np.sqrt(n)
            parts = np.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / n)
            both = sum(quantile * x.std(ddof=1) / np.sqrt(n) for x in (a, b))
            size, ranked = np.abs(d), np.sort(a) - np.sort(b)
            wrong = [
                ("the two are not independent: a seed is good or bad for both, so take differences first",
                 around(mean, quantile * parts)),
                ("you add the two intervals; take the differences first, and then one interval",
                 around(mean, both)),
                ("the spread of a seed is not the spread of the mean: divide by the root of n",
                 around(mean, quantile * deviation)),
                ("divide by the root of n, not by n", around(mean, quantile * deviation / n)),
                ("the deviation's divisor is n - 1: the mean was estimated from the same values",
                 around(mean, quantile * d.std() / np.sqrt(n))),
                ("n - 1 belongs into the deviation, n under the root of the mean's",
                 around(mean, quantile * deviation / np.sqrt(n - 1))),
                ("1.96 is for many seeds; with so few take the quantile that is given",
                 around(mean, 1.96 * deviation / np.sqrt(n))),
                ("that is the variance; take its root", around(mean, quantile * d.var(ddof=1) / np.sqrt(n))),
                ("the sign: wanted is a less b", around(-mean, half)),
                ("you take magnitudes of the differences; their signs are the point",
                 around(size.mean(), quantile * size.std(ddof=1) / np.sqrt(n))),
                ("that is the median; the interval is the mean's", around(float(np.median(d)), half)),
                ("that is the range of the seeds, not an interval of the mean", [mean, d.min(), d.max()]),
                ("high and low are swapped", around(mean, -half)),
                ("that is the standard error; multiply by the quantile", around(mean, half / quantile)),
                ("half the width on each side, not a quarter", around(mean, half / 2)),
                ("that sorts the values; a seed's two belong together",
                 around(mean, quantile * ranked.std(ddof=1) / np.sqrt(n))),
            ]  # fmt: skip
            if side < 0:
                wrong.append(("the mean has lost its sign", around(-mean, half)))
                wrong = [pair for pair in wrong if "wanted is a less b" not in pair[0]]
            if n > 3:
                remark = "4.303 is for three seeds; take the quantile that is given"
                wrong.append((remark, around(mean, 4.303 * deviation / np.sqrt(n))))
            return (a, b, quantile), np.asarray(around(mean, half)), _arrays(wrong)

        some = rng.permutation([5, 6, 8, 10])[:3]  # of four, the root is half of them
        for n, side in zip((3, *some), (1, 1, -1, 1), strict=True):
            yield apart(lambda: make(int(n), side))  # noqa: B023

    return judge(answer, trials)


def sensitivity(answer: Answer) -> Verdict:
    """answer(losses, ceiling) -> a number: how far the losses of a sweep, none counted above the ceiling, lie
    above the best of them in the mean. A run that diverged has inf or NaN, and counts as the ceiling."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(broken: float | None) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, ceiling = int(rng.integers(4, 7)), float(rng.uniform(4.5, 6.5))
            losses = rng.uniform(ceiling - 2.4, ceiling - 0.4, n)
            worse = rng.permutation(n)[:2]
            losses[worse[0]] = ceiling + rng.uniform(2, 4)
            if broken is not None:
                losses[worse[1]] = broken
            real = np.isfinite(losses)
            capped = np.where(real, np.minimum(losses, ceiling), ceiling)
            kept = losses[real]
            want = capped.mean() - capped.min()
            wrong: list[tuple[str, Any]] = [
                ("a run that diverged counts too: as the ceiling",
                 np.minimum(kept, ceiling).mean() - kept.min()),
                ("whatever lies above the ceiling is left out; it counts as the ceiling",
                 losses[real & (losses <= ceiling)].mean() - kept.min()),
                ("that is the worst less the best; wanted is the mean less the best", np.ptp(capped)),
                ("that is the mean; the best has to come off", capped.mean()),
                ("that is the median less the best", np.median(capped) - capped.min()),
                ("that is the standard deviation", capped.std()),
                ("the sign: above the best is positive", -want),
                ("that is how far they lie below the ceiling", ceiling - capped.mean()),
                ("the best is counted with 0; do not leave it out of the mean", want * n / (n - 1)),
                ("that is the sum; take the mean", want * n),
                ("the best of all, not the first", capped.mean() - capped[0]),
                ("the best of all, not the last", capped.mean() - capped[-1]),
                ("relative to the best? wanted are nats", want / capped.min()),
            ]  # fmt: skip
            if broken is None:
                remark = "one loss lies above the ceiling; it counts as the ceiling"
                wrong[0] = remark, losses.mean() - losses.min()
            elif np.isnan(broken):
                remark = "every comparison with NaN is false, and np.minimum hands it on: look for it first"
                zero = np.where(real, capped, 0)
                wrong.append((remark, np.nan))
                wrong.append(("NaN is no number, not 0: it counts as the ceiling", zero.mean()))
            return (losses, ceiling), np.asarray(want), _arrays(wrong)

        yield apart(lambda: make(None))
        for broken in (np.inf, np.nan):
            yield apart(lambda: make(broken))  # noqa: B023
        ceiling = float(rng.uniform(4.5, 6.5))
        losses = rng.permutation(ceiling + rng.uniform(0.5, 3, 4))
        remark = "all lie above the ceiling, and so does the best of them: it counts as the ceiling too"
        values = (ceiling - losses.min(), losses.mean() - losses.min(), np.nan)
        mistakes = [(remark, value) for value in values]
        for bad in (losses, np.array([losses[0], np.nan, np.inf]), np.array([np.nan, np.inf, np.nan])):
            yield Trial((bad, ceiling), np.asarray(0.0), _arrays(mistakes[: 3 if bad is losses else 0]))
        even = np.full(4, ceiling - 1.0)
        yield Trial((even, ceiling), np.asarray(0.0), [])

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def _fits(x: Array, losses: Array, exponents: Array, unseen: float, weights: Any = 1.0) -> Array:
    """(exponents, 6): of the law that has the least weighed squares with each exponent what it says at
    `unseen`, its floor, and of its errors the sum of squares, that of magnitudes, the largest, and the sum
    of relative squares."""
    z, w = x ** -exponents[:, None], np.ones_like(x) * weights / np.sum(np.ones_like(x) * weights)
    mean, middle = z @ w, losses @ w
    scale = ((z - mean[:, None]) * (losses - middle)) @ w / ((z - mean[:, None]) ** 2 @ w)
    floor = middle - scale * mean
    error = np.abs(floor[:, None] + scale[:, None] * z - losses)
    measures = (error**2).sum(1), error.sum(1), error.max(1), ((error / losses) ** 2).sum(1)
    return np.stack([floor + scale * unseen**-exponents, floor, *measures], 1)


def prediction(answer: Answer) -> Verdict:
    """answer(x, losses, exponents, unseen) -> a number: the loss at `unseen` by the law
    floor + scale * x ** -exponent that has the least squares, its exponent one of `exponents`."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(kind: str) -> tuple[tuple[Any, ...], Array, Wrong]:
            while True:
                x = np.sort(np.exp(rng.uniform(0.0, 3.0, int(rng.integers(5, 8)))))
                low, high = {"first": (0.7, 2.5), "last": (0.1, 0.8)}.get(kind, (0.1, 2.2))
                exponents = np.sort(rng.uniform(low, high, 7))
                unseen = float(x[-1] * rng.uniform(10, 20))
                losses = rng.uniform(1, 2) + rng.uniform(4, 8) * x ** -float(rng.uniform(0.4, 1.2))
                losses = losses + rng.normal(0, 0.15, len(x))
                found = _fits(x, losses, exponents, unseen)
                best, *others = found[:, 2:].argmin(0).tolist()
                below, agreed = found[best, 1] < 0, others == [best] * 3
                place = {0: "first", 6: "last", 3: "the fourth"}.get(best, "middle")
                place = "below" if place == "middle" and below else place
                place = "errors" if 0 < best < 6 and best not in others else place if agreed else ""
                if place == kind and below == (kind == "below"):
                    break

            want = found[best, 0]
            wrong: list[tuple[str, Any]]
            if kind == "errors":
                remark = "the squares of the errors decide, not magnitudes, the largest or relative ones"
                wrong = [(remark, found[i, 0]) for i in others]
            elif kind == "below":
                above = found[found[:, 1] >= 0]
                wrong = [("the floor may be anything here, below 0 too",
                          above[above[:, 2].argmin(), 0] if len(above) else 0.0)]  # fmt: skip
            elif kind in ("first", "last"):
                inner = found[1 + found[1:-1, 2].argmin(), 0]
                wrong = [("the best exponent may be the first or the last of the list", inner)]
            else:
                log = np.polyfit(np.log(x), np.log(losses), 1)
                line, semi = np.polyfit(x, losses, 1), np.polyfit(np.log(x), losses, 1)
                half = _fits(x[-3:], losses[-3:], exponents, unseen)
                shares = _fits(x, losses, exponents, unseen, 1 / losses**2)
                wrong = [
                    ("without a floor: a straight line in the logarithms goes on down to 0",
                     np.exp(np.polyval(log, np.log(unseen)))),
                    ("that is a straight line; the loss falls by less and less", np.polyval(line, unseen)),
                    ("that is a line in log x; the law has an exponent", np.polyval(semi, np.log(unseen))),
                    ("that is the floor alone; add what the law says at `unseen`", found[best, 1]),
                    ("the first exponent of the list, not the best", found[0, 0]),
                    ("the last exponent of the list, not the best", found[-1, 0]),
                    ("the exponent in the middle of the list, not the best", found[3, 0]),
                    ("that is the last loss that was seen; the law goes on", losses[-1]),
                    ("that is the sum of squares of the best exponent; wanted is its prediction",
                     found[best, 2]),
                    ("fitted on the three largest alone: three points fit any such law",
                     half[half[:, 2].argmin(), 0]),
                    ("you give the mean of all exponents' predictions", found[:, 0].mean()),
                    ("relative errors? wanted are the least squares of the losses themselves",
                     shares[shares[:, 5].argmin(), 0]),
                ]  # fmt: skip
            return (x, losses, exponents, unseen), np.asarray(want), _arrays(wrong)

        for kind in ("middle", "errors", "below", "first", "last"):
            yield apart(lambda: make(kind))  # noqa: B023

    return judge(answer, trials)


def training_flops(answer: Answer) -> Verdict:
    """answer(parameters, layers, width, context, tokens) -> FLOPs of training on so many tokens in rows of
    `context`: 6 for each parameter and token, and the attention's, each token looking at half of the row
    in the mean; width: heads times head_dim."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(cut: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, layers = int(rng.integers(10, 60)) * 100, int(rng.integers(2, 6))
            width, context = 16 * int(rng.integers(2, 6)), 6 * int(rng.integers(3, 8))
            tokens = context * int(rng.integers(2, 9)) + (int(rng.integers(3, context - 3)) if cut else 0)
            whole = tokens // context * context
            matrices, scores = 6 * n, 6 * layers * width * context

            want = tokens * (matrices + scores)
            wrong = [
                ("attention is missing: its work grows with the row, and no parameter tells of it",
                 tokens * matrices),
                ("forward pass alone: the backward pass takes twice as much again", want / 3),
                ("the parameters' part is of the forward pass alone", tokens * (matrices / 3 + scores)),
                ("the attention's part is of the forward pass alone", tokens * (matrices + scores / 3)),
                ("a causal token looks at half of the row in the mean", tokens * (matrices + 2 * scores)),
                ("a product and a sum are two operations", want / 2),
                ("scores and the sum of values are two products", tokens * (matrices + scores / 2)),
                ("every layer attends", tokens * (matrices + scores / layers)),
                ("that is for one token", want / tokens),
                ("that is for one row", want / tokens * context),
                ("rows, not tokens, times the work of a token", tokens // context * (matrices + scores)),
                ("the attention of a row is counted for the whole text: context, not tokens, is the row",
                 tokens * (matrices + scores / context * tokens)),
                ("the backward pass is as long as two forward ones, not one", want / 3 * 2),
                ("4 for each parameter and token is the backward pass alone; the forward pass adds 2",
                 tokens * (matrices / 3 * 2 + scores)),
                ("the attention's part is of the backward pass alone, twice the forward one",
                 tokens * (matrices + scores / 3 * 2)),
                ("the forward pass is counted twice: that is with its activations computed again",
                 want / 3 * 4),
                ("scores are `width` products for each token that is looked at, not for each channel",
                 tokens * (matrices + scores / context * width)),
                ("half of the row is asked for; (context + 1) / 2 is the exact mean",
                 tokens * (matrices + scores / context * (context + 1))),
            ]  # fmt: skip
            if cut:
                wrong += [
                    ("the tokens of the last row, which is not full, count too", whole * (matrices + scores)),
                    ("the tokens of the last row, which is not full, count too",
                     tokens * matrices + whole * scores),
                    ("the last row is not full; it counts by its tokens",
                     (whole + context) * (matrices + scores)),
                    ("the last row is not full; it counts by its tokens",
                     tokens * matrices + (whole + context) * scores),
                ]  # fmt: skip
            return (n, layers, width, context, tokens), np.asarray(float(want)), _arrays(wrong)

        for cut in (False, True, True):
            yield apart(lambda: make(cut))  # noqa: B023

    return judge(answer, trials)
