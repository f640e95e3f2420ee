"""Of 10_long_context."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qwen3_ref import rope
from tests.mistakes import Mistake


def turns(f: Any, n: int) -> Any:
    return n * f / (2 * np.pi)


def mix(kept: Any, f: Any, s: float) -> Any:
    return kept * f + (1 - kept) * f / s


def line(f: Any, n: int) -> Any:
    return (turns(f, n) - 1) / 31


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
NTK: list[Mistake] = [
    ("you multiply theta by factor", lambda d, t, s: t * s),
    ("upside down", lambda d, t, s: t * s ** ((d - 2) / d)),
    ("you raise the whole product", lambda d, t, s: (t * s) ** (d / (d - 2))),
    ("you divide; a slower pair", lambda d, t, s: t / s ** (d / (d - 2))),
    ("theta is missing", lambda d, t, s: s ** (d / (d - 2))),
    ("your exponent is d / (d - 1)", lambda d, t, s: t * s ** (d / (d - 1))),
    ("unchanged", lambda d, t, s: t),
    ("that calls qwen3_ref.rope.ntk_theta", rope.ntk_theta),
    ("the shape", lambda d, t, s: [t * s ** (d / (d - 2))] * d),
]
BY_PARTS: list[Mistake] = [
    (
        "linear in the pair's index",
        lambda f, n, s: mix(np.clip(np.log(turns(f, n)) / np.log(32), 0, 1), f, s),
    ),
    ("runs the wrong way", lambda f, n, s: mix(1 - np.clip(line(f, n), 0, 1), f, s)),
    ("clip it", lambda f, n, s: mix(line(f, n), f, s)),
    ("you slow every pair", lambda f, n, s: f / s),
    ("you count radians", lambda f, n, s: mix(np.clip((n * f - 1) / 31, 0, 1), f, s)),
    ("your ramp ends at 0 turns", lambda f, n, s: mix(np.clip(turns(f, n) / 32, 0, 1), f, s)),
    ("you multiply by factor", lambda f, n, s: mix(np.clip(line(f, n), 0, 1), f, 1 / s)),
    ("you switch at once", lambda f, n, s: np.where(turns(f, n) > 1, f, f / s)),
    ("you switch at once", lambda f, n, s: np.where(turns(f, n) >= 32, f, f / s)),
    ("unchanged", lambda f, n, s: f),
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
    "ntk": NTK,
    "by_parts": BY_PARTS,
    "factor": FACTOR,
    "chunked": CHUNKED,
}
