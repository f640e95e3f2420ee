"""Checks of 18_decisions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def _arrays(wrong: list[tuple[str, Any]]) -> Wrong:
    return [(remark, np.asarray(value, np.float64)) for remark, value in wrong]


def paired_interval(answer: Answer) -> Verdict:
    """answer(a, b, quantile) -> (mean, low, high) of a - b over seeds; a and b (n,), one value a seed, and
    the quantile of Student's distribution for n."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n = int(rng.integers(3, 6))
            quantile = {3: 4.303, 4: 3.182, 5: 2.776}[n]
            luck = rng.normal(3.0, 0.6, n)  # what a seed does to both
            a, b = luck + rng.normal(0.4, 0.15, n), luck + rng.normal(0.0, 0.15, n)
            d = a - b
            mean, deviation = d.mean(), d.std(ddof=1)

            def around(middle: float, half: float) -> list[float]:
                return [middle, middle - half, middle + half]

            half = quantile * deviation / np.sqrt(n)
            parts = np.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / n)
            both = sum(quantile * x.std(ddof=1) / np.sqrt(n) for x in (a, b))
            size = np.abs(d)
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
            ]  # fmt: skip
            return (a, b, quantile), np.asarray(around(mean, half)), _arrays(wrong)

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)


def sensitivity(answer: Answer) -> Verdict:
    """answer(losses, ceiling) -> a number: how far the losses of a sweep, none counted above the ceiling, lie
    above the best of them in the mean. A run that diverged has inf or NaN, and counts as the ceiling."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(broken: float | None) -> tuple[tuple[Any, ...], Array, Wrong]:
            n = int(rng.integers(4, 7))
            losses, ceiling = rng.uniform(3, 5, n), 5.4
            worse = rng.permutation(n)[:2]
            losses[worse[0]] = 9.0
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
            return (losses, ceiling), np.asarray(want), _arrays(wrong)

        yield apart(lambda: make(None))
        for broken in (np.inf, np.nan):
            yield apart(lambda: make(broken))  # noqa: B023

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def prediction(answer: Answer) -> Verdict:
    """answer(x, losses, exponents, unseen) -> a number: the loss at `unseen` by the law
    floor + scale * x ** -exponent that has the least squares, its exponent one of `exponents`."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            x = np.sort(np.exp(rng.uniform(0.0, 3.0, 5)))
            exponents = np.array([0.1, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0])
            unseen = float(x[-1] * rng.uniform(10, 20))
            losses = rng.uniform(1, 2) + rng.uniform(4, 8) * x ** -float(rng.choice([0.5, 1.0]))
            losses = losses + rng.normal(0, 0.1, 5)

            def squares(exponent: float, some: slice = slice(None)) -> tuple[float, float, float]:
                """Sum of squares, what the law says at `unseen`, and its floor."""
                design = np.stack([np.ones(5), x**-exponent], 1)[some]
                floor, scale = np.linalg.lstsq(design, losses[some], rcond=None)[0]
                error = np.square(design @ (floor, scale) - losses[some]).sum()
                return float(error), float(floor + scale * unseen**-exponent), float(floor)

            found = [squares(exponent) for exponent in exponents]
            error, want, floor = min(found)
            log = np.polyfit(np.log(x), np.log(losses), 1)
            line, semi = np.polyfit(x, losses, 1), np.polyfit(np.log(x), losses, 1)
            half = [squares(exponent, slice(2, None)) for exponent in exponents]
            wrong = [
                ("without a floor: a straight line in the logarithms goes on down to 0",
                 np.exp(np.polyval(log, np.log(unseen)))),
                ("that is a straight line; the loss falls by less and less", np.polyval(line, unseen)),
                ("that is a line in log x; the law has an exponent", np.polyval(semi, np.log(unseen))),
                ("that is the floor alone; add what the law says at `unseen`", floor),
                ("the first exponent of the list, not the best", found[0][1]),
                ("the last exponent of the list, not the best", found[-1][1]),
                ("the exponent in the middle of the list, not the best", found[len(found) // 2][1]),
                ("that is the last loss that was seen; the law goes on", losses[-1]),
                ("that is the sum of squares of the best exponent; wanted is its prediction", error),
                ("fitted on the three largest alone: three points fit any such law", min(half)[1]),
                ("you give the mean of all exponents' predictions", np.mean([f[1] for f in found])),
            ]  # fmt: skip
            return (x, losses, exponents, unseen), np.asarray(want), _arrays(wrong)

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def training_flops(answer: Answer) -> Verdict:
    """answer(parameters, layers, width, context, tokens) -> FLOPs of training on so many tokens in rows of
    `context`: 6 for each parameter and token, and the attention's, each token looking at half of the row
    in the mean; width: heads times head_dim."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, layers = int(rng.integers(2, 9)) * 1000, int(rng.integers(2, 6))
            width, context = 16 * int(rng.integers(2, 6)), 16 * int(rng.integers(3, 20))
            tokens = context * int(rng.integers(2, 9))
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
                ("rows, not tokens, times the work of a token", want / context),
                ("the attention of a row is counted for the whole text: context, not tokens, is the row",
                 tokens * (matrices + scores / context * tokens)),
                ("the backward pass is as long as two forward ones, not one", want / 3 * 2),
            ]  # fmt: skip
            return (n, layers, width, context, tokens), np.asarray(float(want)), _arrays(wrong)

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)
