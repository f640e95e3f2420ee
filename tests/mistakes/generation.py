"""Of 09_generation."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3_ref.decode import speculative
from tests.mistakes import Mistake


def cut(p: Any, mask: Any) -> Any:
    return np.where(mask, p, 0) / p[mask].sum()


def before(p: Any, order: Any) -> Any:
    """Sum of what comes before each token in an order."""
    found = np.empty_like(p)
    found[order] = np.cumsum(p[order]) - p[order]
    return found


def top(p: Any, n: Any) -> Any:
    return np.isin(np.arange(len(p)), np.argsort(-p)[:n])


def need(p: Any, limit: float) -> int:
    return int(np.searchsorted(np.cumsum(np.sort(p)[::-1]), limit)) + 1


def again(p: Any) -> Any:
    return np.where(p > 0, np.exp(p), 0) / np.exp(p)[p > 0].sum()


def right(p: Any, limit: float) -> Any:
    return cut(p, top(p, need(p, limit)))


NUCLEUS: list[Mistake] = [
    ("you drop the token that crosses", lambda p, t: cut(p, before(p, np.argsort(-p)) + p <= t)),
    ("you do not renormalise", lambda p, t: np.where(top(p, need(p, t)), p, 0)),
    ("one token too many", lambda p, t: cut(p, top(p, need(p, t) + 1))),
    ("from the least probable", lambda p, t: cut(p, before(p, np.argsort(p)) < t)),
    ("in the order of the ids", lambda p, t: cut(p, np.cumsum(p) - p < t)),
    ("your result is sorted", lambda p, t: np.sort(right(p, t))[::-1]),
    ("with top_p itself", lambda p, t: np.where(p >= t, p, 0)),
    ("that is min_p", lambda p, t: cut(p, p >= (1 - t) * p.max())),
    ("the share top_p of the tokens", lambda p, t: cut(p, top(p, int(t * len(p))))),
    ("you return which tokens stay", lambda p, t: top(p, need(p, t))),
    ("a softmax of probabilities", lambda p, t: again(np.where(top(p, need(p, t)), p, 0))),
    ("nothing is cut", lambda p, t: p),
    ("shared out equally", lambda p, t: (right(p, t) > 0) / (right(p, t) > 0).sum()),
    ("you divide by top_p", lambda p, t: np.where(right(p, t) > 0, p, 0) / t),
    ("not to top_p", lambda p, t: right(p, t) * t),
    ("", lambda p, t: cut(p, top(p, 3))),
    ("", lambda p, t: cut(p, top(p, 4))),
]


def penalty(x: Any, r: float) -> Any:
    return np.where(x > 0, x / r, x * r)


def of(x: Any, seen: Any, new: Any) -> Any:
    return np.where(np.isin(np.arange(len(x)), seen), new, x)


def one_by_one(x: Any, seen: Any, r: float) -> Any:
    """The slip of a loop over `seen`, in which a token comes twice."""
    x = x.copy()
    for i in seen:
        x[i] = x[i] / r if x[i] > 0 else x[i] * r
    return x


PENALISED: list[Mistake] = [
    ("you divide negative logits too", lambda x, s, r: of(x, s, x / r)),
    ("the other way round", lambda x, s, r: of(x, s, np.where(x > 0, x * r, x / r))),
    ("presence_penalty", lambda x, s, r: of(x, s, x - r)),
    ("once for each time", one_by_one),
    ("that were not seen", lambda x, s, r: of(penalty(x, r), s, x)),
    ("every token, seen or not", lambda x, s, r: penalty(x, r)),
    ("the last token alone", lambda x, s, r: of(x, s[-1:], penalty(x, r))),
    ("the negative ones must be multiplied", lambda x, s, r: of(x, s, np.where(x > 0, x / r, x))),
    ("the positive ones must be divided", lambda x, s, r: of(x, s, np.where(x < 0, x * r, x))),
    ("which makes the likely ones likelier", lambda x, s, r: of(x, s, x * r)),
    ("you forbid what was seen", lambda x, s, r: of(x, s, -np.inf)),
    ("unchanged", lambda x, s, r: x),
    ("the shape", lambda x, s, r: penalty(x, r)[s]),
    ("overwrites its argument", lambda x, s, r: np.divide(x, r, out=x)),
]


def every(mask: Any) -> Any:
    return np.tile(np.arange(mask.shape[1]), (len(mask), 1))


POSITIONS: list[Mistake] = [
    ("you count padding too", every),
    ("you count padding too", lambda m: every(m) * m),
    ("you begin at 1", lambda m: m.cumsum(1) * m),
    ("you begin at 1", lambda m: m.cumsum(1)),
    ("padding gets -1", lambda m: np.where(m == 1, m.cumsum(1) - 1, -1)),
    ("padding gets -1", lambda m: m.cumsum(1) - 1),
    ("goes on counting", lambda m: (m.cumsum(1) - 1).clip(0)),
    ("from the end of the row", lambda m: m * (m[:, ::-1].cumsum(1)[:, ::-1] - 1)),
    ("you count the padding", lambda m: (m == 0).cumsum(1)),
    ("the padding of the first", lambda m: (every(m) - m[0].argmax()).clip(0) * m),
    ("that is one row", lambda m: ((m.cumsum(1) - 1) * m)[0]),
    ("its row's length", lambda m: m * m.sum(1)[:, None]),
    ("its row's length", lambda m: m * (m.sum(1)[:, None] - 1)),
]


def run(stays: Any) -> Any:
    """How many True at the beginning of each row."""
    return [len(row) if all(row) else int(np.argmin(row)) for row in stays]


def at(p: Any, d: Any) -> Any:
    rows, columns = np.indices(d.shape)
    return p[rows, columns, d]


def after(p: Any, d: Any) -> Any:
    """p one place later, for all drafted ids but the last."""
    return at(p[:, 1:], d[:, :-1])


def by_first(p: Any, d: Any) -> Any:
    return p[np.arange(len(d))[:, None], 0, d]


KEPT: list[Mistake] = [
    ("you go on behind a refused one", lambda p, q, d, u: (u * at(q, d) < at(p, d)).sum(1)),
    ("upside down", lambda p, q, d, u: run(u < at(q, d) / at(p, d))),
    ("you compare u with p", lambda p, q, d, u: run(u < at(p, d))),
    ("likes it better than the draft", lambda p, q, d, u: run(at(p, d) >= at(q, d))),
    ("the refused one as kept", lambda p, q, d, u: [n + 1 for n in run(u < at(p, d) / at(q, d))]),
    (
        "the refused one as kept",
        lambda p, q, d, u: [min(n + 1, d.shape[1]) for n in run(u < at(p, d) / at(q, d))],
    ),
    ("one u for all", lambda p, q, d, u: run(u[:, :1] < at(p, d) / at(q, d))),
    ("one row for all", lambda p, q, d, u: run(u < by_first(p, d) / by_first(q, d))),
    ("drawn it greedily", lambda p, q, d, u: run(p.argmax(-1) == d)),
    ("you keep all", lambda p, q, d, u: [d.shape[1]] * len(d)),
    ("none is kept", lambda p, q, d, u: [0] * len(d)),
    ("p of the next place", lambda p, q, d, u: run(u[:, :-1] * at(q, d)[:, :-1] < after(p, d))),
    ("where u is above", lambda p, q, d, u: run(u >= at(p, d) / at(q, d))),
    ("the shape", lambda p, q, d, u: u < at(p, d) / at(q, d)),
]


def over(a: Any, b: Any) -> Any:
    return (a - b).clip(0) / (a - b).clip(0).sum()


def barred(p: Any, token: int) -> Any:
    return np.where(np.arange(len(p)) == token, 0, p) / (1 - p[token])


def soft(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


def or_last(p: Any, q: Any, n: int, f: Any) -> Any:
    """f of the refused row, and right where all were kept."""
    return p[n] if n == len(q) else f(p[n], q[n])


FOLLOWS: list[Mistake] = [
    ("that is p itself", lambda p, q, d, n: p[n]),
    ("you do not renormalise", lambda p, q, d, n: or_last(p, q, n, lambda a, b: (a - b).clip(0))),
    ("where q exceeds p; wanted", lambda p, q, d, n: or_last(p, q, n, lambda a, b: over(b, a))),
    ("you take the distance", lambda p, q, d, n: or_last(p, q, n, lambda a, b: over(abs(a - b), 0))),
    ("you forbid the refused id", lambda p, q, d, n: or_last(p, q, n, lambda a, b: barred(a, d[n]))),
    ("a softmax of the difference", lambda p, q, d, n: or_last(p, q, n, lambda a, b: soft(a - b))),
    ("has negative parts", lambda p, q, d, n: or_last(p, q, n, lambda a, b: a - b)),
    ("without cutting at 0", lambda p, q, d, n: or_last(p, q, n, lambda a, b: (a - b) / abs(a - b).sum())),
    ("by how much it does", lambda p, q, d, n: or_last(p, q, n, lambda a, b: cut(a, a > b))),
    ("you draw from q", lambda p, q, d, n: q[min(n, len(q) - 1)]),
    ("the row before", lambda p, q, d, n: p[n - 1]),
    ("the case that all were kept", lambda p, q, d, n: p[-1]),
    (
        "nothing to make up for",
        lambda p, q, d, n: over(p[min(n, len(q) - 1)], q[min(n, len(q) - 1)]),
    ),
    ("nothing to make up for", lambda p, q, d, n: over(p[n], q[min(n, len(q) - 1)])),
    (
        "nothing to make up for",
        lambda p, q, d, n: over(p[n], q[n]) if n < len(q) else barred(p[n], d[-1]),
    ),
    ("that calls qwen3_ref", lambda p, q, d, n: or_last(p, q, n, speculative.residual)),
]
MISTAKES = {
    "nucleus": NUCLEUS,
    "penalised": PENALISED,
    "positions": POSITIONS,
    "kept": KEPT,
    "follows": FOLLOWS,
}


def one_after_another(p: Any, limit: float) -> Any:
    """The most probable token again and again, until the sum is there."""
    left, taken = p.copy(), np.zeros_like(p)
    while taken.sum() < limit:
        i = int(left.argmax())
        taken[i], left[i] = left[i], 0
    return taken / taken.sum()


def counted(mask: Any) -> list[list[int]]:
    rows = []
    for row in mask.tolist():
        n, found = 0, []
        for here in row:
            found.append(n if here else 0)
            n += here
        rows.append(found)
    return rows


def until_refused(p: Any, q: Any, d: Any, u: Any) -> list[int]:
    kept = []
    for i in range(len(d)):
        n = 0
        while n < len(d[i]) and u[i, n] < min(1, p[i, n, d[i, n]] / q[i, n, d[i, n]]):
            n += 1
        kept.append(n)
    return kept


ALSO_RIGHT = {
    "nucleus": [right, one_after_another],
    "penalised": [
        lambda x, s, r: of(x, s, penalty(x, r)),
        lambda x, s, r: [min(z / r, z * r) if i in s else z for i, z in enumerate(x.tolist())],
    ],
    "positions": [lambda m: m * (m.cumsum(1) - 1), counted],
    "kept": [until_refused, lambda p, q, d, u: run(u < at(p, d) / at(q, d))],
    "follows": [
        lambda p, q, d, n: or_last(p, q, n, over),
        lambda p, q, d, n: over(p[n], np.vstack([q, 0 * q[:1]])[n]),
    ],
}
