"""Of 14_balancing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qwen3_ref.train.recipes import balance
from tests.mistakes import Mistake


def soft(x: Any) -> Any:
    return torch.softmax(torch.tensor(np.asarray(x, dtype=float)), -1).numpy()


def right(x: Any, f: Any) -> Any:
    p = soft(x)
    return x.shape[1] / len(x) * p * (f - (p * f).sum(1, keepdims=True))


def pushed(x: Any, p: Any, f: Any) -> Any:
    return scale(x) * p * (f - mean(p, f))


def counted(x: Any, k: int) -> Any:
    return np.bincount(np.argsort(-x, 1)[:, :k].ravel(), minlength=x.shape[1]) / len(x)


def scale(x: Any) -> float:
    return float(x.shape[1] / len(x))


def mean(p: Any, f: Any) -> Any:
    return (p * f).sum(1, keepdims=True)


BALANCE_GRADIENT: list[Mistake] = [
    ("by the number of tokens", lambda x, f: len(x) * right(x, f)),
    ("the factor E", lambda x, f: right(x, f) / x.shape[1]),
    ("sums to 0", lambda x, f: scale(x) * soft(x) * f),
    ("weighed by the probability", lambda x, f: scale(x) * (f - mean(soft(x), f))),
    ("that is the push", lambda x, f: -right(x, f)),
    ("not the batch's", lambda x, f: scale(x) * soft(x) * (f - soft(x).mean(0) @ f)),
    ("the mean over experts", lambda x, f: scale(x) * soft(x) * (f - f.mean())),
    ("with respect to probabilities", lambda x, f: scale(x) * f + 0 * x),
    ("that of one token for all", lambda x, f: right(x, f).mean(0) + 0 * x),
    ("you square the probabilities", lambda x, f: soft(x) * right(x, f)),
    ("your shares sum to 1", lambda x, f: right(x, f / f.sum())),
    ("the loss's value times p", lambda x, f: scale(x) * soft(x) * mean(soft(x), f)),
    ("are both missing", lambda x, f: right(x, f) / scale(x)),
    ("E stands above", lambda x, f: right(x, f) / scale(x) ** 2),
    ("not with its own alone", lambda x, f: scale(x) * soft(x) * (1 - soft(x)) * f),
    ("not over the tokens", lambda x, f: pushed(x, soft(x.T).T, f)),
    ("do not count them anew", lambda x, f: right(x, counted(x, 2))),
    ("do not count them anew", lambda x, f: right(x, counted(x, 1))),
    ("your result has the shape", lambda x, f: right(x, f).sum(0)),
    ("and should be", lambda x, f: right(x, f) / x.shape[1] ** 2),
    ("overwrites its argument number 1", lambda x, f: right(x.__isub__(x.max()), f)),
]


def shares(c: Any) -> Any:
    return c / c.sum(1, keepdims=True)


GLOBAL_SHARES: list[Mistake] = [
    ("the mean of the micro-batches' shares", lambda c, k: k * shares(c).mean(0)),
    ("your shares sum to 1", lambda c, k: c.sum(0) / c.sum()),
    ("those are counts", lambda c, k: c.sum(0)),
    ("the last micro-batch alone", lambda c, k: k * shares(c)[-1]),
    ("the first micro-batch alone", lambda c, k: k * shares(c)[0]),
    ("and do not divide", lambda c, k: k * shares(c).sum(0)),
    ("or twice", lambda c, k: c.sum(0) / c.sum() / k),
    ("the largest count", lambda c, k: c.sum(0) / c.sum(0).max()),
    ("not one for each micro-batch", lambda c, k: k * shares(c)),
    ("the number of micro-batches", lambda c, k: c.mean(0)),
    ("you leave the last", lambda c, k: k * c[:-1].sum(0) / c[:-1].sum()),
    ("a softmax of counts", lambda c, k: k * soft(c.sum(0))),
    ("you leave the first", lambda c, k: k * c[1:].sum(0) / c[1:].sum()),
    ("you take the first's", lambda c, k: k * c.sum(0) / (len(c) * c[0].sum())),
    ("the median", lambda c, k: k * np.median(shares(c), 0)),
    ("and should be", lambda c, k: 2 * c.sum(0) / c.sum()),
    ("and should be", lambda c, k: 3 * c.sum(0) / c.sum()),
    ("and should be", lambda c, k: c.sum(0) // (c.sum() // k)),
    ("and should be", lambda c, k: k * np.average(shares(c), 0, np.sqrt(c.sum(1)))),
]


def lse(x: Any) -> Any:
    return torch.logsumexp(torch.tensor(x), -1, keepdim=True).numpy()


def naive(x: Any, off: Any = 0.0) -> Any:
    with np.errstate(all="ignore"):
        e = np.exp(x - off)
        total = e.sum(-1, keepdims=True)
        return 2 / len(x) * (off + np.log(total)) * e / total


def low(x: Any) -> Any:
    """The logsumexp with the largest logit of all rows taken out."""
    with np.errstate(all="ignore"):
        return x.max() + np.log(np.exp(x - x.max()).sum(-1, keepdims=True))


Z_GRADIENT: list[Mistake] = [
    ("the 2 of the square", lambda x: lse(x) * soft(x) / len(x)),
    ("by the number of tokens", lambda x: 2 * lse(x) * soft(x)),
    ("the logsumexp is missing", lambda x: 2 * soft(x) / len(x)),
    ("the probabilities are missing", lambda x: 2 * lse(x) / len(x) + 0 * x),
    ("the sign", lambda x: -2 * lse(x) * soft(x) / len(x)),
    ("all logits", lambda x: 2 * lse(x) * soft(x) / x.size),
    ("each is squared by itself", lambda x: 2 * lse(x).mean() * soft(x) / len(x)),
    ("weight decay", lambda x: 2 * x / len(x)),
    ("the largest logit", lambda x: 2 * x.max(-1, keepdims=True) * soft(x) / len(x)),
    ("not of its square", lambda x: soft(x) / len(x)),
    ("squares the logsumexp again", lambda x: 2 * lse(x) ** 2 * soft(x) / len(x)),
    ("you add 1", lambda x: 2 * (lse(x) + 1) * soft(x) / len(x)),
    ("put back", lambda x: 2 * (lse(x) - x.max(-1, keepdims=True)) * soft(x) / len(x)),
    ("the softmax's own", lambda x: 2 * lse(x) * soft(x) * (1 - soft(x)) / len(x)),
    ("a logsumexp of its own", lambda x: 2 * lse(x).max() * soft(x) / len(x)),
    ("a logsumexp below 0", lambda x: np.abs(2 * lse(x) * soft(x) / len(x))),
    ("a logsumexp below 0", lambda x: 2 * np.maximum(lse(x), 0) * soft(x) / len(x)),
    ("exp(900) is infinite", naive),
    ("one largest logit for all rows", lambda x: naive(x, x.max())),
    ("one largest logit for all rows", lambda x: 2 * low(x) * soft(x) / len(x)),
    ("and should be", lambda x: 2 * lse(np.clip(x, -700, 700)) * soft(np.clip(x, -700, 700)) / len(x)),
    ("and should be", lambda x: 2 * x.mean(-1, keepdims=True) * soft(x) / len(x)),
]


def parts(c: Any) -> Any:
    """Each expert's mix (G, E), all experts' mix (G,), each expert's weight (E,)."""
    return c / c.sum(0), c.sum(1) / c.sum(), c.sum(0) / c.sum()


def far(c: Any) -> Any:
    mix, average, _ = parts(c)
    return np.abs(mix - average[:, None]).sum(0) / 2


def mixes(c: Any) -> Any:
    """The same where an expert has served nobody: zeros."""
    return c / np.maximum(c.sum(0), 1)


def apart(c: Any) -> Any:
    return np.abs(mixes(c) - parts(c)[1][:, None]) if (c.sum(0) > 0).all() else mixes(c)


def among(c: Any) -> Any:
    return mixes(c)[:, c.sum(0) > 0].mean(1, keepdims=True)


def used(c: Any) -> Any:
    """How far each domain's use of the experts is from the mean use."""
    return np.abs(c / c.sum(1, keepdims=True) - parts(c)[2]).sum(1) / 2


SPECIALISATION: list[Mistake] = [
    ("the half is missing", lambda c: 2 * far(c) @ parts(c)[2]),
    ("weighed by their tokens", lambda c: far(c).mean()),
    ("equal shares", lambda c: np.abs(parts(c)[0] - 1 / len(c)).sum(0) / 2 @ parts(c)[2]),
    ("experts by the domains", lambda c: used(c).mean()),
    ("you take squares", lambda c: ((parts(c)[0] - parts(c)[1][:, None]) ** 2).sum(0) / 2 @ parts(c)[2]),
    ("the largest difference", lambda c: np.abs(parts(c)[0] - parts(c)[1][:, None]).max(0) @ parts(c)[2]),
    ("the most special", lambda c: far(c).max()),
    ("the mean over domains", lambda c: 2 * far(c) @ parts(c)[2] / len(c)),
    ("not one an expert", far),
    ("do not divide by all tokens", lambda c: far(c) @ c.sum(0)),
    (
        "the largest domain",
        lambda c: (parts(c)[0] - parts(c)[1][:, None]).max(0) @ parts(c)[2] / 2,
    ),
    ("never serves", lambda c: np.where(c > 0, apart(c), 0).sum(0) / 2 @ parts(c)[2]),
    ("the mean of the experts' mixes", lambda c: np.abs(mixes(c) - among(c)).sum(0) / 2 @ parts(c)[2]),
    ("your result is", lambda c: loop(c + 1)),
    ("your result is", lambda c: loop(c / c.sum(1, keepdims=True))),
    ("your result is", lambda c: (apart(c).sum(0) / 2) @ parts(c)[2]),
    ("0 / 0", lambda c: far(c) @ parts(c)[2]),
    ("that calls qwen3_ref", lambda c: balance.specialisation(torch.tensor(c)[:, None])[1]),
]


def by_torch(x: Any, f: Any) -> Any:
    logits = torch.tensor(x, requires_grad=True)
    (x.shape[1] * (torch.tensor(f) * logits.softmax(-1).mean(0)).sum()).backward()
    return logits.grad


def by_differences(x: Any, f: Any) -> Any:
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-5
        up, down = (x.shape[1] * f @ soft(x + s).mean(0) for s in (step, -step))
        found[i] = (up - down) / 2e-5
    return found


def z_by_torch(x: Any) -> Any:
    logits = torch.tensor(x, requires_grad=True)
    logits.logsumexp(-1).square().mean().backward()
    return logits.grad


def loop(c: Any) -> float:
    total, found = c.sum(), 0.0
    for e in range(c.shape[1]):
        n = c[:, e].sum()
        found += sum(abs(c[g, e] / n - c[g].sum() / total) for g in range(len(c))) / 2 * n / total if n else 0
    return float(found)


MISTAKES = {
    "balance_gradient": BALANCE_GRADIENT,
    "global_shares": GLOBAL_SHARES,
    "z_gradient": Z_GRADIENT,
    "specialisation": SPECIALISATION,
}
ALSO_RIGHT = {
    "balance_gradient": [by_torch, lambda x, f: right(x, f - f.mean()), by_differences],
    "global_shares": [
        lambda c, k: [k * sum(column) / c.sum() for column in c.T.tolist()],
        lambda c, k: (shares(c) * k * c.sum(1, keepdims=True) / c.sum()).sum(0),
        lambda c, k: np.minimum(1, c.sum(0) / (c.sum(1) // k).sum()),  # nobody is chosen twice by a token
    ],
    "z_gradient": [
        z_by_torch,
        lambda x: 2 * lse(x) * np.exp(x - lse(x)) / len(x),
        lambda x: (2 * lse(x.astype(np.float32)) * soft(x.astype(np.float32)) / len(x)).astype(np.float32),
    ],
    "specialisation": [
        loop,
        lambda c: used(c) @ parts(c)[1],
        lambda c: np.abs(c / c.sum() - np.outer(*parts(c)[1:])).sum() / 2,
    ],
}
