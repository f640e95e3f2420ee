"""Of 10_long_context."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qwen3_ref import rope
from tests.mistakes import Mistake


def turns(f: Any, n: int) -> Any:
    return n * f / (2 * np.pi)


def m(s: float) -> float:
    return 0.1 * math.log(s) + 1


def power(s: float) -> float:
    return float(2 ** math.ceil(math.log2(s)))


def fit(n: int, original: int) -> float:
    return max(1.0, n / original)


def apart(n: int) -> Any:
    return np.subtract.outer(np.arange(n), np.arange(n))


def distances(n: int, c: int, s: int, near: Any, inter: Any) -> Any:
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    back = i // s - j // s
    query = np.where(back == 0, i % s, np.where(back == 1, near(i % s), inter(i % s)))
    return np.where(i >= j, query - j % s, -1)


NEVER: list[Mistake] = [
    ("those are the pairs that do complete a turn", lambda f, n: turns(f, n) >= 1),
    ("you count radians", lambda f, n: n * f < 1),
    ("you ask for half a turn", lambda f, n: n * f < np.pi),
    ("you return the turns", turns),
    ("all pairs whatever is given", lambda f, n: np.ones(len(f))),
    ("how many there are", lambda f, n: (turns(f, n) < 1).sum()),
    ("should be", lambda f, n: np.zeros(len(f))),
    ("the shape", lambda f, n: f[turns(f, n) < 1]),
]
BASE: list[Mistake] = [
    ("you multiply theta by factor", lambda d, t, s, j: t * s),
    ("upside down", lambda d, t, s, j: t * s ** (2 * j / d)),
    ("whatever j is", lambda d, t, s, j: t * s ** (d / (d - 2))),
    ("you raise the whole product", lambda d, t, s, j: (t * s) ** (d / (2 * j))),
    ("you divide; a slower pair", lambda d, t, s, j: t / s ** (d / (2 * j))),
    ("theta is missing", lambda d, t, s, j: s ** (d / (2 * j))),
    ("for pair j - 1", lambda d, t, s, j: t * s ** (d / (2 * j - 2))),
    ("for pair j + 1", lambda d, t, s, j: t * s ** (d / (2 * j + 2))),
    ("a pair is two channels", lambda d, t, s, j: t * s ** (d / j)),
    ("new frequency", lambda d, t, s, j: t ** (-2 * j / d) / s),
    ("unchanged", lambda d, t, s, j: t),
    ("that calls qwen3_ref.rope.ntk_theta", lambda d, t, s, j: rope.ntk_theta(d, t, s)),
    ("the shape", lambda d, t, s, j: [t * s ** (d / (2 * j))] * d),
]


def pair(d: int, t: float, length: float, n: float) -> float:
    """The index, not rounded, at which a pair makes n turns in a length."""
    return d / 2 * math.log(length / (2 * math.pi * n), t)


def blend(share: Any, d: int, t: float, s: float) -> Any:
    fast = t ** (-2 * np.arange(d // 2) / d)
    return fast * (1 - share + share / s)


def ramp(low: float, high: float, d: int, t: float, s: float) -> Any:
    return blend(np.clip((np.arange(d // 2) - low) / (high - low), 0, 1), d, t, s)


def ends(d: int, t: float, n: int) -> tuple[int, int]:
    return math.floor(pair(d, t, n, 32)), math.ceil(pair(d, t, n, 1))


def by_turns(d: int, t: float, n: int, s: float) -> Any:
    return blend(1 - np.clip((turns(t ** (-2 * np.arange(d // 2) / d), n) - 1) / 31, 0, 1), d, t, s)


def unclipped(d: int, t: float, n: int, s: float) -> Any:
    low, high = ends(d, t, n)
    return blend((np.arange(d // 2) - low) / (high - low), d, t, s)


def switched(end: int, d: int, t: float, n: int, s: float) -> Any:
    return blend(np.arange(d // 2) > (ends(d, t, n)[0] if end == 0 else ends(d, t, n)[1] - 1), d, t, s)


def rounded_by(low: Any, high: Any) -> Any:
    return lambda d, t, n, s: ramp(low(pair(d, t, n, 32)), high(pair(d, t, n, 1)), d, t, s)


def geometric(d: int, t: float, n: int, s: float) -> Any:
    """Blends the exponents: s to the power of the share."""
    low, high = ends(d, t, n)
    return blend(0, d, t, s) * s ** -np.clip((np.arange(d // 2) - low) / (high - low), 0, 1)


RAMP: list[Mistake] = [
    ("yours are not rounded", rounded_by(float, float)),
    ("longer at both ends", rounded_by(round, round)),
    ("longer at both ends", rounded_by(int, int)),
    ("longer at both ends", rounded_by(math.ceil, math.ceil)),
    ("linear in turns", by_turns),
    ("runs the wrong way", lambda d, t, n, s: ramp(*ends(d, t, n)[::-1], d, t, s)),
    ("clip it", unclipped),
    ("a turn is 2 pi radians", lambda d, t, n, s: ramp(*ends(d, t, round(2 * math.pi * n)), d, t, s)),
    ("the length that was trained", lambda d, t, n, s: ramp(*ends(d, t, n * s), d, t, s)),
    ("indices of channels", lambda d, t, n, s: ramp(*ends(2 * d, t, n), d, t, s)),
    ("counted from 0", lambda d, t, n, s: ramp(ends(d, t, n)[0] - 1, ends(d, t, n)[1] - 1, d, t, s)),
    ("you multiply by factor", lambda d, t, n, s: ramp(*ends(d, t, n), d, t, 1 / s)),
    ("you blend the exponents", geometric),
    ("you switch at once", lambda *a: switched(0, *a)),
    ("you switch at once", lambda *a: switched(1, *a)),
    ("not the frequencies", lambda d, t, n, s: m(s) * ramp(*ends(d, t, n), d, t, s)),
    ("you slow every pair", lambda d, t, n, s: blend(1, d, t, s)),
    ("unchanged", lambda d, t, n, s: blend(0, d, t, s)),
    ("that calls qwen3_ref.rope.yarn_range", lambda d, t, n, s: ramp(*rope.yarn_range(d, t, n), d, t, s)),
    ("should be", lambda d, t, n, s: ramp(23, 40, d, t, s)),
]
FACTOR: list[Mistake] = [
    ("never below 1", lambda n, o: (n / o, m(n / o))),
    ("you round the factor up", lambda n, o: (math.ceil(n / o), m(math.ceil(n / o)))),
    ("you round the factor up", lambda n, o: (power(n / o), m(power(n / o)))),
    ("the factor comes first", lambda n, o: (m(fit(n, o)), fit(n, o))),
    ("to base 10", lambda n, o: (fit(n, o), 0.1 * math.log10(fit(n, o)) + 1)),
    ("to base 2", lambda n, o: (fit(n, o), 0.1 * math.log2(fit(n, o)) + 1)),
    ("m squared", lambda n, o: (fit(n, o), m(fit(n, o)) ** 2)),
    ("lacks the + 1", lambda n, o: (fit(n, o), 0.1 * math.log(fit(n, o)))),
    ("4 whatever is given", lambda n, o: (4.0, m(4.0))),
    ("upside down", lambda n, o: (o / n, m(o / n))),
    ("you round the factor up", lambda n, o: (max(2, n / o), m(max(2, n / o))) if n > o else (1, 1)),
    ("should be", lambda n, o: (fit(n, o), 1.0)),
    ("should be", lambda n, o: (max(1, n // o), m(max(1, n // o)))),
    ("the shape", lambda n, o: fit(n, o)),
]
CHUNKED: list[Mistake] = [
    ("that is plain attention", lambda n, c, w: np.tril(apart(n) + 1) - 1),
    ("you never cap", lambda n, c, w: distances(n, c, c - w, lambda k: c - w + k, lambda k: c)),
    ("distances turn negative", lambda n, c, w: distances(n, c, c - w, lambda k: k, lambda k: k)),
    (
        "stand at chunk_size for every query, not at s",
        lambda n, c, w: distances(n, c, c - w, lambda k: np.minimum(c - w + k, c), lambda k: c - w),
    ),
    (
        "the paper's variant",
        lambda n, c, w: distances(n, c, c - w, lambda k: np.minimum(c - w + k, c - 1), lambda k: c - 1),
    ),
    (
        "chunk_size - local_size tokens, not chunk_size",
        lambda n, c, w: distances(n, c, c, lambda k: np.minimum(c + k, c), lambda k: c),
    ),
    (
        "keys after the query get -1",
        lambda n, c, w: np.where(
            np.tri(n, dtype=bool),
            distances(n, c, c - w, lambda k: np.minimum(c - w + k, c), lambda k: c),
            np.subtract.outer(np.arange(n) % (c - w), np.arange(n) % (c - w)),
        ),
    ),
    ("the one before is nearer", lambda n, c, w: distances(n, c, c - w, lambda k: c, lambda k: c)),
    (
        "older chunks are taken for the one before",
        lambda n, c, w: distances(
            n, c, c - w, lambda k: np.minimum(c - w + k, c), lambda k: np.minimum(c - w + k, c)
        ),
    ),
]
MISTAKES = {
    "never_turned": NEVER,
    "new_base": BASE,
    "yarn_ramp": RAMP,
    "factor": FACTOR,
    "chunked": CHUNKED,
}


def yarn_by_loop(d: int, t: float, n: int, s: float) -> list[float]:
    low, high = ends(d, t, n)
    found = []
    for i in range(d // 2):
        share = min(1.0, max(0.0, (i - low) / (high - low)))
        found.append(t ** (-2 * i / d) * (1 - share * (1 - 1 / s)))
    return found


def by_pairs(n: int, c: int, w: int) -> Any:
    s, found = c - w, np.full((n, n), -1.0)
    for i in range(n):
        for j in range(i + 1):
            back = i // s - j // s
            place = i % s if back == 0 else min(s + i % s, c) if back == 1 else c
            found[i, j] = place - j % s
    return found


def whole(n: int, c: int, w: int) -> Any:
    return distances(n, c, c - w, lambda k: np.minimum(c - w + k, c), lambda k: c)


ALSO_RIGHT = {
    "never_turned": [
        lambda f, n: turns(f, n) < 1,
        lambda f, n: [1.0 if 2 * math.pi / x > n else 0.0 for x in f],
    ],
    "new_base": [
        lambda d, t, s, j: t * s ** (d / (2 * j)),
        lambda d, t, s, j: math.exp(math.log(t) + math.log(s) * d / 2 / j),
    ],
    "yarn_ramp": [yarn_by_loop, lambda d, t, n, s: ramp(*ends(d, t, n), d, t, s)],
    "factor": [
        lambda n, o: (fit(n, o), m(fit(n, o))),
        lambda n, o: np.array([n / o, 0.1 * np.log(n / o) + 1]) if n > o else [1.0, 1.0],
    ],
    "chunked": [by_pairs, whole],
}
