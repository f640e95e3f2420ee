"""Of 18_decisions."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3_ref.measure import decisions
from tests.mistakes import Mistake


def around(middle: Any, half: Any) -> Any:
    return [middle, middle - half, middle + half]


def of(f: Any) -> Any:
    """f of the differences, n and the quantile."""
    return lambda a, b, q: f(a - b, len(a), q)


def error(x: Any) -> Any:
    return np.std(x, ddof=1) / len(x) ** 0.5


def interval(d: Any, q: Any) -> Any:
    return around(d.mean(), q * error(d))


PAIRED_INTERVAL: list[Mistake] = [
    ("not independent", lambda a, b, q: around((a - b).mean(), q * np.hypot(error(a), error(b)))),
    ("you add the two intervals", lambda a, b, q: around((a - b).mean(), q * (error(a) + error(b)))),
    ("not the spread of the mean", of(lambda d, n, q: around(d.mean(), q * d.std(ddof=1)))),
    ("by the root of n, not by n", of(lambda d, n, q: around(d.mean(), q * d.std(ddof=1) / n))),
    ("divisor is n - 1", of(lambda d, n, q: around(d.mean(), q * d.std() / n**0.5))),
    ("n under the root", of(lambda d, n, q: around(d.mean(), q * d.std(ddof=1) / (n - 1) ** 0.5))),
    ("1.96 is for many", of(lambda d, n, q: around(d.mean(), 1.96 * error(d)))),
    ("that is the variance", of(lambda d, n, q: around(d.mean(), q * d.var(ddof=1) / n**0.5))),
    ("a less b", of(lambda d, n, q: around(-d.mean(), q * error(d)))),
    ("you take magnitudes", of(lambda d, n, q: around(abs(d).mean(), q * error(abs(d))))),
    ("that is the median", of(lambda d, n, q: around(np.median(d), q * error(d)))),
    ("the range of the seeds", of(lambda d, n, q: [d.mean(), d.min(), d.max()])),
    ("swapped", of(lambda d, n, q: around(d.mean(), -q * error(d)))),
    ("that is the standard error", of(lambda d, n, q: around(d.mean(), error(d)))),
    ("sorts the values", lambda a, b, q: interval(np.sort(a) - np.sort(b), q)),
    ("lost its sign", of(lambda d, n, q: around(abs(d.mean()), q * error(d)))),
    ("4.303 is for three", of(lambda d, n, q: around(d.mean(), 4.303 * error(d)))),
    ("should be", of(lambda d, n, q: around(d.mean(), {3: 4.303, 4: 3.182, 5: 2.776}.get(n, 2) * error(d)))),
    ("not a quarter", of(lambda d, n, q: around(d.mean(), q * error(d) / 2))),
]


def capped(x: Any, c: Any) -> Any:
    return np.minimum(np.nan_to_num(x, nan=c, posinf=c), c)


def spread(x: Any) -> Any:
    return x.mean() - x.min()


def lowest(x: Any) -> Any:
    return x.min() if len(x) else np.nan


SENSITIVITY: list[Mistake] = [
    (
        "a run that diverged counts too",
        lambda x, c: np.minimum(x[np.isfinite(x)], c).mean() - x[np.isfinite(x)].min(),
    ),
    ("is left out", lambda x, c: x[x <= c].mean() - np.nanmin(x)),
    ("one loss lies above", lambda x, c: x.mean() - x.min()),
    ("the worst less the best", lambda x, c: np.ptp(capped(x, c))),
    ("the best has to come off", lambda x, c: capped(x, c).mean()),
    ("that is the median", lambda x, c: np.median(capped(x, c)) - capped(x, c).min()),
    ("that is the standard deviation", lambda x, c: capped(x, c).std()),
    ("above the best is positive", lambda x, c: capped(x, c).min() - capped(x, c).mean()),
    ("below the ceiling", lambda x, c: c - capped(x, c).mean()),
    (
        "counted with 0",
        lambda x, c: (capped(x, c) - capped(x, c).min()).sum() / (len(x) - 1),
    ),
    ("that is the sum", lambda x, c: (capped(x, c) - capped(x, c).min()).sum()),
    ("not the first", lambda x, c: capped(x, c).mean() - capped(x, c)[0]),
    ("not the last", lambda x, c: capped(x, c).mean() - capped(x, c)[-1]),
    ("wanted are nats", lambda x, c: capped(x, c).mean() / capped(x, c).min() - 1),
    ("hands it on", lambda x, c: np.minimum(x, c).mean() - np.minimum(x, c).min()),
    ("hands it on", lambda x, c: np.where(x > c, c, x).mean() - np.nanmin(np.where(x > c, c, x))),
    ("NaN is no number", lambda x, c: spread(np.minimum(np.nan_to_num(x, nan=0.0), c))),
    ("all lie above the ceiling", lambda x, c: capped(x, c).mean() - np.nanmin(x)),
    ("all lie above the ceiling", lambda x, c: spread(capped(x, c) if np.nanmin(x) < c else x)),
    ("all lie above the ceiling", lambda x, c: capped(x, c).mean() - lowest(x[x <= c])),
    ("should be", lambda x, c: spread(capped(x, c)) if np.isfinite(x).any() else c),
    ("should be", lambda x, c: spread(capped(x, 5.4))),
]


def laws(x: Any, y: Any, exponents: Any, unseen: Any) -> Any:
    """(sum of squares, prediction, floor) of each exponent."""
    found = []
    for exponent in exponents:
        scale, floor = np.polyfit(x**-exponent, y, 1)
        law = lambda at: floor + scale * at**-exponent  # noqa: B023, E731
        found.append((np.square(law(x) - y).sum(), law(unseen), floor))
    return found


def line(x: Any, y: Any, u: Any) -> Any:
    return np.polyval(np.polyfit(x, y, 1), u)


def by_error(size: Any, weigh: Any = np.ones_like) -> Any:
    """The prediction of the exponent that is best by another measure of its errors."""

    def answer(x: Any, y: Any, exponents: Any, unseen: Any) -> Any:
        found = []
        for exponent in exponents:
            scale, floor = np.polyfit(x**-exponent, y, 1, w=weigh(y))
            found.append((size(floor + scale * x**-exponent - y, y), floor + scale * unseen**-exponent))
        return min(found)[1]

    return answer


def floored(x: Any, y: Any, exponents: Any, unseen: Any) -> Any:
    """Only laws whose floor is not below 0."""
    found = [law for law in laws(x, y, exponents, unseen) if law[2] >= 0]
    return min(found)[1] if found else 0.0


PREDICTION: list[Mistake] = [
    ("without a floor", lambda x, y, e, u: np.exp(line(np.log(x), np.log(y), np.log(u)))),
    ("a straight line;", lambda x, y, e, u: line(x, y, u)),
    ("a line in log x", lambda x, y, e, u: line(np.log(x), y, np.log(u))),
    ("the floor alone", lambda x, y, e, u: min(laws(x, y, e, u))[2]),
    ("the first exponent", lambda x, y, e, u: laws(x, y, e, u)[0][1]),
    ("the last exponent", lambda x, y, e, u: laws(x, y, e, u)[-1][1]),
    ("in the middle of the list", lambda x, y, e, u: laws(x, y, e, u)[len(e) // 2][1]),
    ("the last loss", lambda x, y, e, u: y[-1]),
    ("the sum of squares", lambda x, y, e, u: min(laws(x, y, e, u))[0]),
    ("the three largest", lambda x, y, e, u: min(laws(x[-3:], y[-3:], e, u))[1]),
    ("below 0 too", floored),
    ("not magnitudes", by_error(lambda error, y: np.abs(error).sum())),
    ("not magnitudes", by_error(lambda error, y: np.abs(error).max())),
    ("not magnitudes", by_error(lambda error, y: np.square(error / y).sum())),
    ("relative errors?", by_error(lambda error, y: np.square(error / y).sum(), lambda y: 1 / y)),
    ("may be the first or the last", lambda x, y, e, u: min(laws(x, y, e[1:-1], u))[1]),
    ("should be", lambda x, y, e, u: min(laws(x, y, [0.5, 1.0], u))[1]),
    ("should be", lambda x, y, e, u: min(laws(x, y, [0.1, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0], u))[1]),
    ("mean of all", lambda x, y, e, u: np.mean([found[1] for found in laws(x, y, e, u)])),
    ("that calls qwen3_ref", lambda x, y, e, u: decisions.fit(x, y)(u)),
]
TRAINING_FLOPS: list[Mistake] = [
    ("attention is missing", lambda n, k, w, c, t: 6 * n * t),
    ("forward pass alone: the backward", lambda n, k, w, c, t: t * (2 * n + 2 * k * w * c)),
    ("the parameters' part", lambda n, k, w, c, t: t * (2 * n + 6 * k * w * c)),
    ("the attention's part", lambda n, k, w, c, t: t * (6 * n + 2 * k * w * c)),
    ("half of the row", lambda n, k, w, c, t: t * (6 * n + 12 * k * w * c)),
    ("two operations", lambda n, k, w, c, t: t * (3 * n + 3 * k * w * c)),
    ("two products", lambda n, k, w, c, t: t * (6 * n + 3 * k * w * c)),
    ("every layer attends", lambda n, k, w, c, t: t * (6 * n + 6 * w * c)),
    ("for one token", lambda n, k, w, c, t: 6 * n + 6 * k * w * c),
    ("for one row", lambda n, k, w, c, t: c * (6 * n + 6 * k * w * c)),
    ("rows, not tokens", lambda n, k, w, c, t: t // c * (6 * n + 6 * k * w * c)),
    ("for the whole text", lambda n, k, w, c, t: t * (6 * n + 6 * k * w * t)),
    ("4 for each parameter", lambda n, k, w, c, t: t * (4 * n + 6 * k * w * c)),
    ("the backward pass alone, twice", lambda n, k, w, c, t: t * (6 * n + 4 * k * w * c)),
    ("the forward pass is counted twice", lambda n, k, w, c, t: t * (8 * n + 8 * k * w * c)),
    ("not for each channel", lambda n, k, w, c, t: t * (6 * n + 6 * k * w * w)),
    ("the exact mean", lambda n, k, w, c, t: t * (6 * n + 6 * k * w * (c + 1))),
    ("last row, which is not full", lambda n, k, w, c, t: t // c * c * (6 * n + 6 * k * w * c)),
    ("last row, which is not full", lambda n, k, w, c, t: 6 * n * t + t // c * c * 6 * k * w * c),
    ("it counts by its tokens", lambda n, k, w, c, t: -(-t // c) * c * (6 * n + 6 * k * w * c)),
    ("it counts by its tokens", lambda n, k, w, c, t: 6 * n * t - (-t // c) * c * 6 * k * w * c),
    ("two forward ones", lambda n, k, w, c, t: t * (4 * n + 4 * k * w * c)),
]
MISTAKES = {
    "paired_interval": PAIRED_INTERVAL,
    "sensitivity": SENSITIVITY,
    "prediction": PREDICTION,
    "training_flops": TRAINING_FLOPS,
}


def covaried(a: Any, b: Any) -> Any:
    """The standard error of the mean difference, from both variances less twice the covariance."""
    (aa, ab), (_, bb) = np.cov(a, b)
    return np.sqrt((aa + bb - 2 * ab) / len(a))


def by_cases(x: Any, c: Any) -> Any:
    told = x.copy()
    told[np.isnan(x) | (x > c)] = c
    return np.average(told - np.min(told))


def normal_equations(x: Any, y: Any, exponents: Any, unseen: Any) -> Any:
    """Least squares by means and covariances."""
    best, told = np.inf, 0.0
    for exponent in exponents:
        z = x**-exponent
        scale = np.mean((z - z.mean()) * (y - y.mean())) / z.var()
        floor = y.mean() - scale * z.mean()
        error = np.var(y - scale * z)
        if error < best:
            best, told = error, floor + scale * unseen**-exponent
    return told


def by_hand(x: Any, c: Any) -> Any:
    told = [value if value <= c else c for value in x]  # NaN is not at most anything
    return sum(value - min(told) for value in told) / len(told)


def by_steps(n: Any, k: Any, w: Any, c: Any, t: Any) -> Any:
    forward = 2 * n + k * sum(2 * 2 * w * seen for seen in (c / 2,))
    return 3 * forward * t


def by_rows(n: Any, k: Any, w: Any, c: Any, t: Any) -> Any:
    """A row's work: its c tokens, and a causal square of scores and one of values in each layer."""
    row = 2 * n * c + k * 2 * (2 * w) * c * c / 2
    return 3 * row * (t / c)


ALSO_RIGHT = {
    "paired_interval": [
        lambda a, b, q: tuple(
            np.mean(a - b) + s * q * np.sqrt(np.sum((a - b - np.mean(a - b)) ** 2) / (len(a) - 1) / len(a))
            for s in (0, -1, 1)
        ),
        of(lambda d, n, q: np.array(around(sum(d) / n, q * error(d)))),
        lambda a, b, q: around(a.mean() - b.mean(), q * covaried(a, b)),
    ],
    "sensitivity": [by_hand, by_cases, lambda x, c: float((capped(x, c) - capped(x, c).min()).mean())],
    "prediction": [
        lambda x, y, e, u: sorted(laws(x, y, e, u))[0][1],
        normal_equations,
        lambda x, y, e, u: laws(x, y, e, u)[int(np.argmin([f[0] for f in laws(x, y, e, u)]))][1],
    ],
    "training_flops": [by_steps, by_rows, lambda n, k, w, c, t: 6.0 * t * (n + k * w * c)],
}
