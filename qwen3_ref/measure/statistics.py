"""Intervals and estimates that fit the design they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

import torch


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson interval of a share seen in n trials; unlike the normal one it is right at 0 and 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""The 97.5% quantile of Student's distribution for the mean of so many values."""


def effective(groups: Sequence[Sequence[bool]]) -> float:
    """How many independent trials tell as much as trials that come in groups of equal size, such as
    questions about one list: n / (variance of the groups' shares / what it would be by chance), at most n.
    For the n of `wilson`. (Kish's design effect.)"""
    shares = [fmean(group) for group in groups]
    share, size = fmean(shares), len(groups[0])
    n = size * len(groups)
    if len(groups) < 2 or share in (0, 1):
        return n
    return n / max(1.0, variance(shares) * size / (share * (1 - share)))


def sign_test(wins: int, losses: int) -> float:
    """How often chance alone, a coin for each pair that differs, gives a split at least as uneven as this
    one, on either side: the exact test of McNemar for two answers to each of the same problems."""
    n, k = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def rises(low: Sequence[float], high: Sequence[float]) -> bool:
    """Whether a curve rises as far as its intervals tell: the last one lies wholly above the first, and
    none lies wholly below one before it."""
    falls = any(high[j] < low[i] for j in range(len(low)) for i in range(j))
    return low[-1] > high[0] and not falls


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples, drawn from n of which some are correct, is."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n and 0 <= correct <= n, not n {n}, correct {correct}.")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


class ChiSquare(NamedTuple):
    """Pearson's test: its statistic, degrees of freedom, and how often chance alone gives as much."""

    statistic: float
    freedom: int
    p_value: float


def chi_square(counts: Sequence[int], probabilities: Sequence[float], least: float = 5.0) -> ChiSquare:
    """Whether counts are draws from a distribution. Cells of which fewer than `least` are expected are
    taken together, rarest first, or the test would not hold (Cochran's rule). A count where the
    probability is 0 gives a p-value of 0.

    Raises ValueError for lists of different lengths, without counts, or no distribution.
    """
    n = sum(counts)
    if len(counts) != len(probabilities) or n == 0 or abs(sum(probabilities) - 1) > 1e-6:
        raise ValueError("chi_square() needs as many probabilities as counts, a sum of 1, and counts.")
    cells: list[list[float]] = []  # seen, expected
    for expected, seen in sorted((n * p, c) for p, c in zip(probabilities, counts, strict=True)):
        if expected == 0 and seen:
            return ChiSquare(math.inf, 0, 0.0)
        if cells and cells[-1][1] < least:
            cells[-1] = [cells[-1][0] + seen, cells[-1][1] + expected]
        else:
            cells.append([seen, expected])
    freedom = len(cells) - 1
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    if freedom == 0:
        return ChiSquare(statistic, 0, 1.0)
    halves = (torch.tensor(x / 2, dtype=torch.float64) for x in (freedom, statistic))
    return ChiSquare(statistic, freedom, float(torch.special.gammaincc(*halves)))
