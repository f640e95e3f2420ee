"""Of 15_reasoning_rl."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qwen3_ref.train.recipes import grpo
from tests.mistakes import Mistake


def rowwise(f: Any) -> Any:
    """f of rewards, their mean and their standard deviation (n, 1)."""
    return lambda r: f(r, r.mean(1, keepdims=True), r.std(1, keepdims=True))


def guarded(r: Any, by: Any) -> Any:
    """Advantages whose scale is `by(row)`, with a guard for equal rewards."""
    return np.array([(x - x.mean()) / by(x) if np.ptp(x) else 0 * x for x in r])


def silent(when: Any) -> Any:
    """Advantages that are 0 in the groups of which `when` is true."""
    return rowwise(lambda r, m, s: np.where([[when(x)] for x in r], 0.0, (r - m) / s))


def where_std(r: Any) -> Any:
    std = r.std(1, keepdims=True)
    return np.divide(r - r.mean(1, keepdims=True), std, out=np.zeros_like(r), where=std > 0)


GROUP: list[Mistake] = [
    ("with divisor g - 1", lambda r: guarded(r, lambda x: x.std(ddof=1))),
    ("Dr. GRPO's advantages", rowwise(lambda r, m, s: r - m)),
    ("by the variance", lambda r: guarded(r, lambda x: x.var())),
    ("the mean is the whole batch's", rowwise(lambda r, m, s: (r - r.mean()) / s)),
    ("the standard deviation is the whole batch's", rowwise(lambda r, m, s: (r - m) / r.std())),
    ("mean and standard deviation are the whole", lambda r: (r - r.mean()) / r.std()),
    ("a group is a row", lambda r: (r - r.mean(0)) / r.std(0)),
    ("the sign is wrong", rowwise(lambda r, m, s: (m - r) / s)),
    ("has to come off first", rowwise(lambda r, m, s: r / s)),
    ("the mean of the others", lambda r: np.array([[x - np.delete(g, i).mean() for i, x in enumerate(g)]
                                                   for g in r])),
    ("not its median", rowwise(lambda r, m, s: (r - np.median(r, 1, keepdims=True)) / s)),
    ("scale to 0 to 1", lambda r: np.array([(x - x.min()) / np.ptp(x) for x in r])),
    ("the mean distance", lambda r: guarded(r, lambda x: np.abs(x - x.mean()).mean())),
    ("something is added", rowwise(lambda r, m, s: (r - m) / (s + 1e-4))),
    ("something is added", rowwise(lambda r, m, s: (r - m) / (s + 1e-6))),
    ("lose their say", rowwise(lambda r, m, s: (r - m) / (s + 1e-8))),
    ("exactly 0 is asked for", rowwise(lambda r, m, s: (r - m) / (s + 1e-12))),
    ("differ by a millionth", silent(lambda x: x.std() < 1e-4)),
    ("differ by a millionth", silent(lambda x: np.allclose(x, x[0], atol=1e-5))),
    ("the first and the last reward", silent(lambda x: x[0] == x[-1])),
    ("the first two rewards", silent(lambda x: x[0] == x[1])),
    ("a reward that is the group's mean", silent(lambda x: np.isclose(x[0], x.mean()))),
    ("your result is", lambda r: (r - r[:, :7].mean(1, keepdims=True)) / r[:, :7].std(1, keepdims=True)),
    ("gave 0/0 = NaN", rowwise(lambda r, m, s: (r - m) / s)),
    ("you divide that rounding by itself", where_std),
    ("that calls qwen3_ref", lambda r: grpo.advantages(torch.tensor(r)).numpy()),
]  # fmt: skip


def clipped(
    mask: Any = None, mean: Any = None, how: Any = None, bounds: Any = None, ratio: Any = None
) -> Any:
    """The objective with one part of it changed."""

    def answer(new: Any, old: Any, a: Any, counted: Any, low: float, high: float) -> Any:
        ratios = (ratio or (lambda d, m: np.exp(d)))(new - old, counted)
        lo, hi = (bounds or (lambda x, y: (x, y)))(low, high)
        free, bound = ratios * a[:, None], np.clip(ratios, 1 - lo, 1 + hi) * a[:, None]
        kept = mask(counted) if mask else counted
        values = np.where(kept, (how or np.minimum)(free, bound), 0)
        if mean:
            return mean(values, kept)
        return (values.sum(1) / kept.sum(1)).mean()

    return answer


def up_to_the_end(counted: Any) -> Any:
    return np.cumsum(counted[:, ::-1], 1)[:, ::-1] > 0


def from_the_start(counted: Any) -> Any:
    return np.cumsum(counted, 1) > 0


def one_a_reply(d: Any, counted: Any) -> Any:
    mean = np.array([x[m].mean() for x, m in zip(d, counted, strict=True)])
    return np.repeat(np.exp(mean)[:, None], d.shape[1], 1)


def first_to_last(counted: Any) -> Any:
    return from_the_start(counted) & up_to_the_end(counted)


def without(*places: int) -> Any:
    """A mask that leaves places out."""
    return lambda counted: (
        counted & ~np.isin(np.arange(counted.shape[1]), np.arange(counted.shape[1])[[*places]])
    )


def written_down(new: Any, old: Any, a: Any, counted: Any, low: float, high: float) -> Any:
    """Bounds as they are in the lesson's text."""
    return clipped()(new, old, a, counted, 0.2, 0.28)


def nan_to_num(new: Any, old: Any, *rest: Any) -> Any:
    return multiplied(np.nan_to_num(new), np.nan_to_num(old), *rest)


def multiplied(new: Any, old: Any, a: Any, counted: Any, low: float, high: float) -> Any:
    ratio = np.exp(new - old)
    values = np.minimum(ratio * a[:, None], ratio.clip(1 - low, 1 + high) * a[:, None]) * counted
    return (values.sum(1) / counted.sum(1)).mean()


OBJECTIVE: list[Mistake] = [
    ("DAPO's", clipped(mean=lambda x, m: x.sum() / m.sum())),
    ("by the width of the array", clipped(mean=lambda x, m: x.mean())),
    ("that is the sum", clipped(mean=lambda x, m: x.sum())),
    ("the tokens of a reply are added up", clipped(mean=lambda x, m: x.sum(1).mean())),
    ("you keep the clipped value alone", clipped(how=lambda free, bound: bound)),
    ("nothing is clipped", clipped(how=lambda free, bound: free)),
    ("not the larger", clipped(how=np.maximum)),
    ("both bounds are `low`", clipped(bounds=lambda x, y: (x, x))),
    ("both bounds are `high`", clipped(bounds=lambda x, y: (y, y))),
    ("have changed places", clipped(bounds=lambda x, y: (y, x))),
    ("upside down", clipped(ratio=lambda d, m: np.exp(-d))),
    ("a ratio is their exponential", clipped(ratio=lambda d, m: d)),
    ("a reply may have gaps", clipped(mask=first_to_last)),
    ("the first place of the array", clipped(mask=without(0))),
    ("the last place of the array", clipped(mask=without(-1))),
    ("your result is", written_down),
    ("the prompt is counted", clipped(mask=up_to_the_end)),
    ("behind a reply is counted", clipped(mask=from_the_start)),
    ("prompt and padding too", clipped(mask=np.ones_like)),
    ("as in GSPO", clipped(ratio=one_a_reply)),
    ("the sign is that of a loss", lambda *x: -clipped()(*x)),
    ("a NaN or an infinity outside", multiplied),
    ("a NaN or an infinity outside", nan_to_num),
]


def soft(z: Any) -> Any:
    return np.exp(z) / np.exp(z).sum()


def walk(gradient: Any, count: int = 0, sign: float = 1.0, mean: Any = np.mean) -> Any:
    """`count` more updates than asked for along the mean of gradient(z, p, p0, drawn, a, low, high)."""

    def answer(z: Any, drawn: Any, a: Any, rate: float, updates: int, low: float, high: float) -> Any:
        z, p0 = z.copy(), soft(z)
        for _ in range(updates + count):
            z = z + sign * rate * mean(gradient(z, soft(z), p0, drawn, a, low, high), axis=0)
        return z

    return answer


def pieces(weigh: Any = None, hot: Any = None, old: Any = None) -> Any:
    def gradient(z: Any, p: Any, p0: Any, drawn: Any, a: Any, low: float, high: float) -> Any:
        ratio = p[drawn] / (old(p, p0, drawn) if old else p0[drawn])
        slope = (hot or (lambda e, p, p0: e - p))(np.eye(len(p))[drawn], p, p0)
        return (weigh or stopped)(ratio, a, low, high)[:, None] * slope

    return gradient


def stopped(ratio: Any, a: Any, low: float, high: float) -> Any:
    return np.where(np.where(a > 0, ratio > 1 + high, ratio < 1 - low), 0, ratio * a)


def by_either(ratio: Any, a: Any, low: float, high: float) -> Any:
    return np.where((ratio > 1 + high) | (ratio < 1 - low), 0, ratio * a)


def first_only(z: Any, drawn: Any, a: Any, rate: float, updates: int, low: float, high: float) -> Any:
    return walk(pieces())(z, drawn, a, rate, 1, low, high)


def bounded(least: Any = lambda low, high: 1 - low, most: Any = lambda low, high: 1 + high) -> Any:
    """The walk with other bounds."""

    def weigh(r: Any, a: Any, low: float, high: float) -> Any:
        return np.where(np.where(a > 0, r > most(low, high), r < least(low, high)), 0, r * a)

    return walk(pieces(weigh))


STEPS: list[Mistake] = [
    ("not 1 / (1 + low)", bounded(lambda low, high: 1 / (1 + low))),
    ("not 1 / (1 - high)", bounded(most=lambda low, high: 1 / (1 - high))),
    ("no exponentials", bounded(lambda low, high: np.exp(-low), lambda low, high: np.exp(high))),
    ("no exponentials", bounded(lambda low, high: np.exp(-low))),
    ("no exponentials", bounded(most=lambda low, high: np.exp(high))),
    ("have changed places", bounded(lambda low, high: 1 - high, lambda low, high: 1 + low)),
    ("both bounds are `low`", bounded(most=lambda low, high: 1 + low)),
    ("both bounds are `high`", bounded(lambda low, high: 1 - high)),
    ("your result is", bounded(lambda low, high: 0.88, lambda low, high: 1.2)),
    ("taken anew at each update", walk(pieces(old=lambda p, p0, i: p[i]))),
    ("not a uniform one", walk(pieces(old=lambda p, p0, i: np.full(len(i), 1 / len(p))))),
    ("upside down", walk(pieces(lambda r, a, lo, hi: stopped(1 / r, a, lo, hi)))),
    ("not the way back", walk(pieces(by_either))),
    ("nothing is clipped", walk(pieces(lambda r, a, lo, hi: r * a))),
    ("not that of the bound", walk(pieces(lambda r, a, lo, hi: a * r.clip(1 - lo, 1 + hi)))),
    ("the ratio is missing", walk(pieces(lambda r, a, lo, hi: stopped(r, a, lo, hi) / r))),
    ("the p is missing", walk(pieces(hot=lambda e, p, p0: e))),
    ("p is that of the start", walk(pieces(hot=lambda e, p, p0: e - p0))),
    ("adds the group up", walk(pieces(), mean=np.sum)),
    ("downhill", walk(pieces(), sign=-1.0)),
    ("one update only", first_only),
    ("one update too many", walk(pieces(), count=1)),
    ("nothing has changed", lambda z, *rest: z),
]


def each(f: Any) -> Any:
    """f of the log-ratios of each reply alone."""
    return lambda new, old, n: np.array([f((a - b)[:k]) for a, b, k in zip(new, old, n, strict=True)])


def of_means(new: Any, old: Any, n: Any) -> Any:
    rows = zip(new, old, n, strict=True)
    return np.array([np.exp(a[:k]).mean() / np.exp(b[:k]).mean() for a, b, k in rows])


def of_products(new: Any, old: Any, n: Any) -> Any:
    """Two probabilities of a whole reply, and the root of their ratio."""
    rows = zip(new, old, n, strict=True)
    return np.array([(np.exp(a[:k]).prod() / np.exp(b[:k]).prod()) ** (1 / k) for a, b, k in rows])


def masked(new: Any, old: Any, n: Any) -> Any:
    return np.exp(((new - old) * (np.arange(new.shape[1]) < n[:, None])).sum(1) / n)


SEQUENCE: list[Mistake] = [
    ("root is to be taken", each(lambda d: np.exp(d.sum()))),
    ("arithmetic mean", each(lambda d: np.exp(d).mean())),
    ("that is its logarithm", each(np.mean)),
    ("upside down", each(lambda d: np.exp(-d.mean()))),
    ("behind a reply is counted", lambda new, old, n: np.exp((new - old).mean(1))),
    (
        "the width of the array",
        lambda new, old, n: each(lambda d: np.exp(d.sum() / new.shape[1]))(new, old, n),
    ),
    (
        "you mix all replies",
        lambda new, old, n: np.full(
            len(n), np.exp(np.concatenate([(a - b)[:k] for a, b, k in zip(new, old, n, strict=True)]).mean())
        ),
    ),
    ("the last token's ratio alone", each(lambda d: np.exp(d[-1]))),
    ("is missing", each(lambda d: np.exp(d[:-1].mean()))),
    ("once more", each(lambda d: np.exp(d.mean() / len(d)))),
    ("not of its root", each(lambda d: np.exp(d.sum() / len(d) ** 0.5))),
    ("averaged first", of_means),
    ("not one a token", lambda new, old, n: np.exp(new - old)),
    ("not their mean", lambda *x: each(lambda d: np.exp(d.mean()))(*x).mean()),
    ("a NaN behind a reply", masked),
    ("add logarithms", each(lambda d: np.prod(np.exp(d)) ** (1 / len(d)))),
    ("add logarithms", each(lambda d: np.exp(d.sum()) ** (1 / len(d)))),
    ("add logarithms", of_products),
]


def of_log_ratio(d: Any) -> Any:
    return np.exp(d) - d - 1


KL: list[Mistake] = [
    ("that is for KL(reference || new)", lambda p, q: np.exp(p - q) - (p - q) - 1),
    ("that is k1", lambda p, q: p - q),
    ("that is k2", lambda p, q: (p - q) ** 2 / 2),
    ("the sign is wrong", lambda p, q: 1 + (q - p) - np.exp(q - p)),
    ("the 1 is missing", lambda p, q: np.exp(q - p) - (q - p)),
    ("the logarithm is missing", lambda p, q: np.exp(q - p) - 1),
    ("the logarithm's sign", lambda p, q: np.exp(q - p) + (q - p) - 1),
    ("bits", lambda p, q: np.exp(q - p) - (q - p) / np.log(2) - 1),
    ("has weighed already", lambda p, q: np.exp(p) * (np.exp(q - p) - (q - p) - 1)),
    ("of the exact sum", lambda p, q: np.exp(p) * (p - q)),
    ("you take probabilities", lambda p, q: np.exp(q) - np.exp(p)),
    ("that is the ratio", lambda p, q: np.exp(q - p)),
    ("not their mean", lambda p, q: (np.exp(q - p) - (q - p) - 1).mean()),
    ("a large estimate is what", lambda p, q: (np.exp(q - p) - (q - p) - 1).clip(0, 10)),
    ("a large log-ratio is what", lambda p, q: of_log_ratio((q - p).clip(-20, 20))),
    ("your result is", lambda p, q: of_log_ratio((q - p).clip(-5, 5))),
    ("your result is", lambda p, q: of_log_ratio(q - np.maximum(p, np.log(1e-8)))),
    ("mixed up", lambda p, q: np.exp(p - q) - (q - p) - 1),
    ("that calls qwen3_ref", lambda p, q: grpo.k3(torch.tensor(p), torch.tensor(q)).numpy()),
]


def by_torch(z: Any, drawn: Any, a: Any, rate: float, updates: int, low: float, high: float) -> Any:
    """The updates by autograd, from the objective alone."""
    x = torch.tensor(z, requires_grad=True)
    advantage, old = torch.tensor(a), x.detach().log_softmax(-1)[drawn]
    for _ in range(updates):
        ratio = (x.log_softmax(-1)[drawn] - old).exp()
        torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).mean().backward()
        assert x.grad is not None
        x = (x + rate * x.grad).detach().requires_grad_()
    return x.detach()


def by_signs(new: Any, old: Any, a: Any, counted: Any, low: float, high: float) -> float:
    """A gain stops at its upper bound, a loss at its lower one: no minimum is needed."""
    means = []
    for x, y, advantage, kept in zip(new, old, a, counted, strict=True):
        ratio = np.exp(x[kept] - y[kept])
        ratio = np.minimum(ratio, 1 + high) if advantage > 0 else np.maximum(ratio, 1 - low)
        means.append(advantage * ratio.mean())
    return float(np.mean(means))


def one_by_one(new: Any, old: Any, a: Any, counted: Any, low: float, high: float) -> float:
    total = 0.0
    for i in range(len(a)):
        own = []
        for j in np.flatnonzero(counted[i]):
            ratio = np.exp(new[i, j] - old[i, j])
            own.append(min(ratio * a[i], min(max(ratio, 1 - low), 1 + high) * a[i]))
        total += sum(own) / len(own)
    return float(total / len(a))


MISTAKES = {
    "group_advantages": GROUP,
    "clipped_objective": OBJECTIVE,
    "steps": STEPS,
    "sequence_ratio": SEQUENCE,
    "kl_estimate": KL,
}
ALSO_RIGHT = {
    "group_advantages": [
        lambda r: guarded(r, np.std).tolist(),
        lambda r: np.where(np.diff(r).any(1)[:, None], r - r.mean(1, keepdims=True), 0)
        / np.where(np.ptp(r, 1, keepdims=True) > 0, r.std(1, keepdims=True), 1),
        lambda r: torch.tensor(
            np.stack([0 * x if len(set(x.tolist())) == 1 else (x - x.mean()) / x.std() for x in r])
        ),
    ],
    "clipped_objective": [one_by_one, by_signs, lambda *x: torch.tensor(clipped()(*x))],
    "steps": [by_torch, walk(pieces()), bounded()],
    "sequence_ratio": [
        each(lambda d: np.prod(np.exp(d / len(d)))),
        each(lambda d: 2 ** (d / np.log(2)).mean()),
        lambda *x: [float(np.exp(np.mean((a - b)[:k]))) for a, b, k in zip(*x, strict=True)],
    ],
    "kl_estimate": [lambda p, q: np.exp(q) / np.exp(p) - np.log(np.exp(q) / np.exp(p)) - 1,
                    lambda p, q: np.expm1(q - p) + (p - q),
                    lambda p, q: torch.exp(torch.tensor(q - p)) - torch.tensor(q - p) - 1],
}  # fmt: skip
