"""Of 08_debugging_lab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mistakes import Mistake


def off(got: Any, want: Any) -> Any:
    return np.abs(got - want)


def size(want: Any) -> Any:
    return np.sqrt(np.mean(want * want))


def first(wrong: Any, otherwise: Any = None) -> Any:
    return np.flatnonzero(wrong)[0] if wrong.any() else len(wrong) if otherwise is None else otherwise


def turned(x: Any, cos: Any, sin: Any) -> Any:
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def neighbours(x: Any, cos: Any, sin: Any) -> Any:
    out = np.empty_like(x)
    out[:, 0::2] = x[:, 0::2] * cos - x[:, 1::2] * sin
    out[:, 1::2] = x[:, 1::2] * cos + x[:, 0::2] * sin
    return out


def lengths(right: Any, wrong: Any, limit: int, tolerance: float = 1e-6) -> list[int]:
    return [t for t in range(1, limit + 1) if np.abs(right(t) - wrong(t)).max() > tolerance]


def bisected(right: Any, wrong: Any, limit: int) -> int:
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        shows = np.abs(right(middle) - wrong(middle)).max() > 1e-6
        low, high = (low, middle) if shows else (middle + 1, high)
    return low


def bisected_above(right: Any, wrong: Any, limit: int) -> int:
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        shows = np.abs(right(middle) - wrong(middle)).max() > 1e-6
        low, high = (low, middle) if shows else (middle, high)
    return high if lengths(right, wrong, limit)[-1:] == [limit] else 0


def by_first_token(v: Any, out: Any) -> Any:
    return np.abs(out[:, None, 0] - v[None, :, 0]).max(-1).argmin(1)


def distances(v: Any, out: Any) -> Any:
    return ((out[:, None] - v[None]) ** 2).sum((2, 3))


def of(search: Callable[[list[int], int], Any]) -> Callable[..., Any]:
    """An answer to `shortest`, from the lengths at which the two differ and the limit."""
    return lambda right, wrong, limit: search(lengths(right, wrong, limit), limit)


def last_looked_at(got: Any, want: Any, tolerance: float) -> int:
    position = 0
    for position in range(len(want)):
        if off(got, want)[position].max() > tolerance * size(want):
            break
    return position


ONSET: list[Mistake] = [
    ("your tolerance is absolute", lambda a, b, e: first((off(a, b) > e).any(1))),
    ("you average over the vocabulary", lambda a, b, e: first(off(a, b).mean(1) > e * size(b))),
    ("one logit is enough", lambda a, b, e: first(np.sqrt((off(a, b) ** 2).mean(1)) > e * size(b))),
    ("you compare winning tokens", lambda a, b, e: first(a.argmax(1) != b.argmax(1))),
    ("not of a row", lambda a, b, e: first(off(a, b).max(1) > e * np.sqrt((b * b).mean(1)))),
    ("nor a spread", lambda a, b, e: first(off(a, b).max(1) > e * b.std())),
    ("nor a mean", lambda a, b, e: first(off(a, b).max(1) > e * np.abs(b).mean())),
    ("not its largest value", lambda a, b, e: first(off(a, b).max(1) > e * np.abs(b).max())),
    ("its length as a vector", lambda a, b, e: first(off(a, b).max(1) > e * np.linalg.norm(b))),
    ("yours is one more", lambda a, b, e: first(off(a, b).max(1) > e * size(b)) + 1),
    ("the last such position", lambda a, b, e: np.flatnonzero(off(a, b).max(1) > e * size(b))[-1]),
    ("how many positions differ", lambda a, b, e: np.sum(off(a, b).max(1) > e * size(b))),
    ("a place among all numbers", lambda a, b, e: np.argmax(off(a, b) > e * size(b))),
    ("all logits of a position", lambda a, b, e: first((off(a, b) > e * size(b)).all(1))),
    ("where nothing differs the answer is t", lambda a, b, e: np.argmax(off(a, b).max(1) > e * size(b))),
    ("where nothing differs the answer is t", lambda a, b, e: first(off(a, b).max(1) > e * size(b), -1)),
    ("where nothing differs the answer is t", last_looked_at),
]
SHORTEST: list[Mistake] = [
    ("you bisect", bisected),
    ("do you try every t", bisected_above),
    ("the largest such t", of(lambda bad, limit: max(bad, default=0))),
    ("one too few", of(lambda bad, limit: min(bad) - 1 if bad else 0)),
    ("stops before limit", lambda right, wrong, limit: min(lengths(right, wrong, limit - 1), default=0)),
    ("your tolerance too wide", lambda a, b, limit: min(lengths(a, b, limit, 1e-3), default=0)),
    ("the answer is 0", of(lambda bad, limit: min(bad, default=limit))),
    ("the answer is 0", of(lambda bad, limit: min(bad, default=limit + 1))),
    ("the answer is 0", of(lambda bad, limit: min(bad, default=-1))),
    (
        "you ask for equal numbers",
        lambda a, b, n: min([t for t in range(1, n) if any(a(t) != b(t))], default=0),
    ),
    ("you ask for equal numbers", lambda a, b, n: min(lengths(a, b, n, 0.0), default=0)),
    ("your tolerance too wide", lambda a, b, n: min(lengths(a, b, n, 1e-5), default=0)),
    (
        "your tolerance too wide",
        lambda a, b, n: next((t for t in range(1, n + 1) if np.abs(a(t) - b(t)).mean() > 1e-6), 0),
    ),
    (
        "you add the differences up",
        lambda a, b, n: next((t for t in range(1, n + 1) if np.abs(a(t) - b(t)).sum() > 1e-6), 0),
    ),
    ("you start too late", of(lambda bad, limit: min([t for t in bad if t > 1], default=0))),
    ("you start too late", lambda a, b, n: 0 if 1 in (bad := lengths(a, b, n)) else min(bad, default=0)),
    ("you go on beyond limit", lambda a, b, n: min(lengths(a, b, n + 9), default=0)),
]
RESCUE: list[Mistake] = [
    ("as they were in the cache", lambda c, g, cos, sin: c),
    ("not put back", lambda c, g, cos, sin: c / g),
    ("are not rotated", lambda c, g, cos, sin: g * turned(c / g, cos, -sin)),
    ("neither rotated nor scaled", lambda c, g, cos, sin: turned(c / g, cos, -sin)),
    ("your keys have it twice", lambda c, g, cos, sin: turned(g * turned(c, cos, -sin), cos, sin)),
    ("you turn forwards twice", lambda c, g, cos, sin: turned(g * turned(c / g, cos, sin), cos, sin)),
    ("pairs are neighbours", lambda c, g, cos, sin: neighbours(g * neighbours(c / g, cos, -sin), cos, sin)),
    ("you turn back at the end", lambda c, g, cos, sin: turned(g * turned(c / g, cos, -sin), cos, -sin)),
]
READERS: list[Mistake] = [
    ("that is how Qwen3 shares them", lambda q, k, v, out: np.arange(len(q)) // (len(q) // len(k))),
    ("the usual bug", lambda q, k, v, out: np.arange(len(q)) % len(k)),
    ("they count from 0", lambda q, k, v, out: by_first_token(v, out) + 1),
    ("whose values lie nearest", lambda q, k, v, out: distances(v, out).argmin(1)),
    ("the head that fits worst", lambda q, k, v, out: distances(v, out).argmax(1)),
    ("from the last", lambda q, k, v, out: len(v) - 1 - by_first_token(v, out)),
    ("should be", lambda q, k, v, out: 0 * by_first_token(v, out)),
    ("not a table", lambda q, k, v, out: np.eye(len(v))[by_first_token(v, out)]),
]
MISTAKES = {"onset": ONSET, "shortest": SHORTEST, "rescue": RESCUE, "readers": READERS}


def onset_by_loop(got: Any, want: Any, tolerance: float) -> int:
    limit = tolerance * float(np.linalg.norm(want)) / want.size**0.5
    for i, (a, b) in enumerate(zip(got.tolist(), want.tolist(), strict=True)):
        if max(abs(x - y) for x, y in zip(a, b, strict=True)) > limit:
            return i
    return len(want)


def rescued_in_complex(cached: Any, gain: Any, cos: Any, sin: Any) -> Any:
    """Pairs as complex numbers, turned by e^(i angle)."""
    half, turn = cached.shape[1] // 2, cos + 1j * sin
    x = cached / gain
    z = (x[:, :half] + 1j * x[:, half:]) * turn.conj()
    back = np.concatenate([z.real, z.imag], axis=1) * gain
    z = (back[:, :half] + 1j * back[:, half:]) * turn
    return np.concatenate([z.real, z.imag], axis=1)


def readers_by_trial(q: Any, k: Any, v: Any, out: Any) -> list[int]:
    """Every KV head tried for every query head, and the attention computed."""
    t, found = q.shape[1], []
    for head, came in zip(q, out, strict=True):
        gaps = []
        for keys, values in zip(k, v, strict=True):
            s = np.where(np.tri(t) > 0, head @ keys.T / q.shape[2] ** 0.5, -np.inf)
            w = np.exp(s - s.max(1, keepdims=True))
            gaps.append(np.abs(w / w.sum(1, keepdims=True) @ values - came).max())
        found.append(int(np.argmin(gaps)))
    return found


ALSO_RIGHT = {
    "onset": [onset_by_loop, lambda a, b, e: first(off(a, b).max(1) > e * size(b))],
    "shortest": [
        of(lambda bad, limit: min(bad, default=0)),
        lambda a, b, n: next((t for t in range(1, n + 1) if max(abs(a(t) - b(t))) > 1e-6), 0),
    ],
    "rescue": [
        rescued_in_complex,
        lambda c, g, cos, sin: turned(g * turned(c / g, cos, -sin), cos, sin),
    ],
    "readers": [readers_by_trial, lambda q, k, v, out: by_first_token(v, out)],
}
