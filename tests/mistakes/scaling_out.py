"""Of 21_scaling_out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mistakes import Mistake


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def silu(z: Any) -> Any:
    return z * sigmoid(z)


def same(z: Any) -> Any:
    return z


def parts(x: Any, gates: Any, ups: Any, downs: Any, act: Any = silu, of_up: Any = same) -> list[Any]:
    return [(act(x @ g.T) * of_up(x @ u.T)) @ d.T for g, u, d in zip(gates, ups, downs, strict=True)]


def whole(*given: Any, **how: Any) -> Any:
    return sum(parts(*given, **how))


def on_all(y: Any, ranks: Any) -> list[Any]:
    return [y for _ in ranks]


def added(x: Any, gates: Any, ups: Any, downs: Any) -> list[Any]:
    y = sum((silu(x @ g.T) + x @ u.T) @ d.T for g, u, d in zip(gates, ups, downs, strict=True))
    return on_all(y, gates)


def summed_early(x: Any, gates: Any, ups: Any, downs: Any) -> list[Any]:
    inner = silu(sum(x @ g.T for g in gates)) * sum(x @ u.T for u in ups)
    return on_all(sum(inner @ d.T for d in downs), gates)


def neighbours(x: Any, gates: Any, ups: Any, downs: Any) -> list[Any]:
    return on_all(whole(x, gates, ups, [*downs[1:], downs[0]]), gates)


def reduced(x: Any, gates: Any, ups: Any, downs: Any) -> list[Any]:
    found = parts(x, gates, ups, downs)
    return [sum(found), *found[1:]]


SPLIT: list[Mistake] = [
    ("an all-reduce is missing", parts),
    ("you take their mean", lambda *a: on_all(whole(*a) / len(a[1]), a[1])),
    ("that is one array", whole),
    ("silu goes on the gate, not on up", lambda *a: on_all(whole(*a, act=same, of_up=silu), a[1])),
    ("the gate goes through silu", lambda *a: on_all(whole(*a, act=same), a[1])),
    ("z times its sigmoid", lambda *a: on_all(whole(*a, act=sigmoid), a[1])),
    ("you add it", added),
    ("are not summed", summed_early),
    ("not once for each rank", lambda *a: on_all(whole(*a) * len(a[1]), a[1])),
    ("the first rank's part on every rank", lambda *a: on_all(parts(*a)[0], a[1])),
    ("that is a reduce", reduced),
    ("the channels of its own rank", neighbours),
]


def by_whole_matrices(x: Any, gates: Any, ups: Any, downs: Any) -> Any:
    """Put together again."""
    gate, up, down = np.concatenate(gates), np.concatenate(ups), np.concatenate(downs, axis=1)
    return np.stack([(silu(x @ gate.T) * (x @ up.T)) @ down.T] * len(gates))


def ring(x: Any, gates: Any, ups: Any, downs: Any) -> list[Any]:
    """Each rank adds what comes round."""
    own = parts(x, gates, ups, downs)
    carried, total = list(own), [p.copy() for p in own]
    for _ in range(len(own) - 1):
        carried = carried[-1:] + carried[:-1]
        total = [t + c for t, c in zip(total, carried, strict=True)]
    return total


def norm(y: Any, weight: Any, eps: float, square: Any = None) -> Any:
    square = (y**2).mean(1, keepdims=True) if square is None else square
    return y / np.sqrt(square + eps) * weight


def squares(x: Any, p: Any) -> Any:
    return (x**2).mean(1, keepdims=True) + sum((q**2).mean(1, keepdims=True) for q in p)


def root_first(x: Any, p: Any, w: Any, e: float) -> Any:
    y = x + sum(p)
    return y / (np.sqrt((y**2).mean(1, keepdims=True)) + e) * w


def centred(x: Any, p: Any, w: Any, e: float) -> Any:
    y = x + sum(p)
    return norm(y - y.mean(1, keepdims=True), w, e)


def with_square(of: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda x, p, w, e: norm(x + sum(p), w, e, of((x + sum(p)) ** 2))


NORM: list[Mistake] = [
    ("all-reduce first, then norm", lambda x, p, w, e: sum(norm(x + q, w, e) for q in p)),
    ("all-reduce first, then norm", lambda x, p, w, e: norm(x, w, e) + sum(norm(q, w, e) for q in p)),
    ("all-reduce first, then norm", lambda x, p, w, e: norm(x + sum(norm(q, w, e) for q in p), w, e)),
    ("add it once, not once a rank", lambda x, p, w, e: norm(sum(x + q for q in p), w, e)),
    ("you take their mean", lambda x, p, w, e: norm(x + np.mean(p, axis=0), w, e)),
    ("is not the sum of squares", lambda x, p, w, e: norm(x + sum(p), w, e, squares(x, p))),
    ("x is missing", lambda x, p, w, e: norm(sum(p), w, e)),
    ("the parts are missing", lambda x, p, w, e: norm(x, w, e)),
    ("the first rank's part alone", lambda x, p, w, e: norm(x + p[0], w, e)),
    ("eps stands under the root", root_first),
    ("eps is missing", lambda x, p, w, e: norm(x + sum(p), w, 0)),
    ("takes no mean off", centred),
    ("the gain is missing", lambda x, p, w, e: norm(x + sum(p), 1, e)),
    ("not 1 + weight", lambda x, p, w, e: norm(x + sum(p), 1 + w, e)),
    ("it is their mean", with_square(lambda s: s.sum(1, keepdims=True))),
    ("not over tokens", with_square(lambda s: s.mean(0, keepdims=True))),
    ("not added to it again", lambda x, p, w, e: x + sum(p) + norm(x + sum(p), w, e)),
]


def token_by_token(x: Any, p: Any, w: Any, e: float) -> list[Any]:
    """In Python's numbers."""
    rows = []
    for i in range(len(x)):
        y = [x[i][j] + sum(q[i][j] for q in p) for j in range(len(w))]
        root = math.sqrt(sum(v * v for v in y) / len(y) + e)
        rows.append([v / root * g for v, g in zip(y, w, strict=True)])
    return rows


def one(a: Any) -> Any:
    return a[:, 0]


def shares(c: Any, t: Any) -> Any:
    return one(c) / t[:, None]


def loss(f: Any, p: Any) -> Any:
    return len(f) * (f * p).sum()


def right(c: Any, s: Any, t: Any) -> Any:
    return loss(one(c).sum(0) / t.sum(), one(s).sum(0) / t.sum())


def each(c: Any, s: Any, t: Any) -> Any:
    return np.array([loss(f, p) for f, p in zip(shares(c, t), shares(s, t), strict=True)])


GLOBAL: list[Mistake] = [
    ("count one of them, or divide by all",
     lambda c, s, t: loss(c.sum((0, 1)) / t.sum(), one(s).sum(0) / t.sum())),
    ("count one of them, or divide by all",
     lambda c, s, t: loss(c.sum((0, 1)) / t.sum(), s.sum((0, 1)) / t.sum())),
    ("that is micro-batch balancing", lambda c, s, t: each(c, s, t).mean()),
    ("that is micro-batch balancing", lambda c, s, t: (each(c, s, t) * t).sum() / t.sum()),
    ("add up first, then divide", lambda c, s, t: loss(shares(c, t).mean(0), shares(s, t).mean(0))),
    ("add up first, then divide", lambda c, s, t: loss(one(c).sum(0) / t.sum(), shares(s, t).mean(0))),
    ("add up first, then divide", lambda c, s, t: loss(shares(c, t).mean(0), one(s).sum(0) / t.sum())),
    ("the first rank's loss alone", lambda c, s, t: each(c, s, t)[0]),
    ("you add the losses of ranks up", lambda c, s, t: each(c, s, t).sum()),
    ("the factor E is missing", lambda c, s, t: right(c, s, t) / c.shape[-1]),
    ("not to 1", lambda c, s, t: loss(one(c).sum(0) / one(c).sum(), one(s).sum(0) / t.sum())),
    ("probabilities come as sums over tokens", lambda c, s, t: loss(one(c).sum(0) / t.sum(), one(s).sum(0))),
    ("divide both by the tokens", lambda c, s, t: loss(one(c).sum(0), one(s).sum(0))),
    ("wanted is one number", lambda c, s, t: c.shape[-1] * one(c).sum(0) * one(s).sum(0) / t.sum() ** 2),
    ("you take the product of sums",
     lambda c, s, t: c.shape[-1] * one(c).sum() * one(s).sum() / t.sum() ** 2),
    ("take the sum", lambda c, s, t: right(c, s, t) / c.shape[-1] ** 2),
    ("not with themselves", lambda c, s, t: loss(one(c).sum(0) / t.sum(), one(c).sum(0) / t.sum())),
    ("should be", lambda c, s, t: right(c, s, t) + 1),
]  # fmt: skip


def divided_by_all(c: Any, s: Any, t: Any) -> Any:
    """Every rank counted, every rank's tokens too."""
    n = t.sum() * c.shape[1]
    return c.shape[-1] * np.dot(c.reshape(-1, c.shape[-1]).sum(0) / n, s.reshape(-1, s.shape[-1]).sum(0) / n)


def rank_by_rank(c: Any, s: Any, t: Any) -> float:
    """Each rank's part with the global shares, weighed by its tokens."""
    f = c.mean(1).sum(0) / t.sum()
    return float(sum(n * loss(f, s[r, 0] / n) for r, n in enumerate(t)) / t.sum())


def lse(z: Any) -> Any:
    high = z.max(1)
    return high + np.log(np.exp(z - high[:, None]).sum(1))


def target(z: Any, t: Any) -> Any:
    return np.concatenate(z, 1)[np.arange(len(t)), t]


def total(z: Any) -> Any:
    return lse(np.concatenate(z, 1))


def local(z: Any) -> Any:
    return np.stack([lse(part) for part in z])


def read(z: Any, t: Any, index: Callable[[int, int], Any]) -> Any:
    k = z[0].shape[1]
    return sum(part[np.arange(len(t)), index(r, k)] for r, part in enumerate(z))


def naive(z: Any, t: Any) -> Any:
    return (np.log(sum(np.exp(part).sum(1) for part in z)) - target(z, t)).mean()


def apiece(z: Any, t: Any) -> Any:
    sums = sum(np.exp(part - part.max(1)[:, None]).sum(1) for part in z)
    return (np.concatenate(z, 1).max(1) + np.log(sums) - target(z, t)).mean()


def owners(z: Any, t: Any) -> Any:
    return local(z)[t // z[0].shape[1], np.arange(len(t))]


def mean_loss(z: Any, t: Any) -> Any:
    return (total(z) - target(z, t)).mean()


VOCABULARY: list[Mistake] = [
    ("not over the owner's", lambda z, t: (owners(z, t) - target(z, t)).mean()),
    ("logsumexps do not add up", lambda z, t: (local(z).sum(0) - target(z, t)).mean()),
    ("logsumexps have no mean", lambda z, t: (local(z).mean(0) - target(z, t)).mean()),
    ("leaves out all ranks but one", lambda z, t: (local(z).max(0) - target(z, t)).mean()),
    ("you read the first one's", lambda z, t: (total(z) - z[0][np.arange(len(t)), t % z[0].shape[1]]).mean()),
    ("not another word's logit", lambda z, t: (total(z) - read(z, t, lambda r, k: t % k)).mean()),
    ("not another word's logit",
     lambda z, t: (total(z) - read(z, t, lambda r, k: np.clip(t - r * k, 0, k - 1))).mean()),
    ("not their sum", lambda z, t: mean_loss(z, t) * len(t)),
    ("wanted is one number", lambda z, t: total(z) - target(z, t)),
    ("the sign is wrong", lambda z, t: -mean_loss(z, t)),
    ("and not put back", lambda z, t: (total(z) - np.concatenate(z, 1).max(1) - target(z, t)).mean()),
    ("their sums do not add up like that", apiece),
    ("the target's logit is missing", lambda z, t: total(z).mean()),
    ("the logarithm is missing", lambda z, t: -np.exp(target(z, t) - total(z)).mean()),
    ("by the number of ranks as well", lambda z, t: mean_loss(z, t) / len(z)),
    ("take the largest of all ranks out first", naive),
]  # fmt: skip


def three_sums(z: Any, t: Any) -> float:
    """As ranks do it: the largest, the sum, and the target from whoever has it."""
    k, rows = z[0].shape[1], np.arange(len(t))
    high = np.max([part.max(1) for part in z], axis=0)
    sums, hits = np.zeros(len(t)), np.zeros(len(t))
    for r, part in enumerate(z):
        sums += np.exp(part - high[:, None]).sum(1)
        here = (t >= r * k) & (t < (r + 1) * k)
        hits += np.where(here, part[rows, np.where(here, t - r * k, 0)], 0)
    return float((high + np.log(sums) - hits).mean())


MISTAKES: dict[str, list[Mistake]] = {
    "split_mlp": SPLIT,
    "next_norm": NORM,
    "global_loss": GLOBAL,
    "vocabulary_loss": VOCABULARY,
}
ALSO_RIGHT: dict[str, list[Callable[..., Any]]] = {
    "split_mlp": [by_whole_matrices, ring],
    "next_norm": [token_by_token],
    "global_loss": [divided_by_all, rank_by_rank],
    "vocabulary_loss": [three_sums, mean_loss],
}
