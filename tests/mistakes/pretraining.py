"""Of 13_pretraining."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from qwen3_ref.train import loop
from qwen3_ref.train.loop import Plan
from tests.mistakes import Mistake


def nll(z: Any, y: Any) -> Any:
    """Loss (b, t) of targets y (b, t) under logits z (b, t, V), by PyTorch."""
    z, y = torch.as_tensor(z), torch.as_tensor(y)
    loss = torch.nn.functional.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none")
    return loss.view(y.shape).numpy()


def nexts(z: Any, y: Any) -> Any:
    return nll(z[:, :-1], y[:, 1:])


def up_to(n: Any, t: int, less: int = 1) -> Any:
    return np.arange(t) < np.asarray(n)[:, None] - less


def some(z: Any, y: Any, n: Any, less: int = 1) -> Any:
    return nexts(z, y)[up_to(n, y.shape[1] - 1, less)]


def documents(z: Any, y: Any, n: Any) -> list[Any]:
    return [row[: k - 1] for row, k in zip(nexts(z, y), n, strict=True)]


def naive(z: Any, y: Any, n: Any) -> Any:
    with np.errstate(all="ignore"):
        q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        chosen = np.take_along_axis(q[:, :-1], y[:, 1:, None], -1)[..., 0]
        return -np.log(chosen)[up_to(n, y.shape[1] - 1)].mean()


def whole(total: Any) -> Any:
    """The loss as total(z) less the target's logit; total of (b, t, V) is (b, t)."""

    def answer(z: Any, y: Any, n: Any) -> Any:
        chosen = np.take_along_axis(z[:, :-1], y[:, 1:, None], -1)[..., 0]
        with np.errstate(all="ignore"):
            return (total(z[:, :-1]) - chosen)[up_to(n, y.shape[1] - 1)].mean()

    return answer


def by_softmax(exps: Any, more: float = 0.0) -> Any:
    """The loss as the logarithm of a probability, to which a little is added."""

    def answer(z: Any, y: Any, n: Any) -> Any:
        with np.errstate(all="ignore"):
            q = exps(z[:, :-1])
            q = np.take_along_axis(q / q.sum(-1, keepdims=True), y[:, 1:, None], -1)[..., 0]
            return -np.log(q + more)[up_to(n, y.shape[1] - 1)].mean()

    return answer


def top(z: Any) -> int:
    """Taken out of logits that are large."""
    return 900 if z.max() > 600 else 0


def mean(z: Any) -> Any:
    return z.mean(-1, keepdims=True)


def but_last(z: Any, y: Any, n: Any) -> Any:
    return nexts(z, y)[up_to(n, y.shape[1] - 1) & (y[:, 1:] < z.shape[2] - 1)].mean()


BATCH_LOSS: list[Mistake] = [
    ("not shifted", lambda z, y, n: nll(z, y)[up_to(n, y.shape[1], 0)].mean()),
    ("the wrong way", lambda z, y, n: nll(z[:, 1:], y[:, :-1])[up_to(n, y.shape[1] - 1)].mean()),
    ("shifted twice", lambda z, y, n: nll(z[:, :-2], y[:, 2:])[up_to(n, y.shape[1] - 2, 2)].mean()),
    ("the documents' means", lambda z, y, n: np.mean([d.mean() for d in documents(z, y, n)])),
    ("padding is counted", lambda z, y, n: nexts(z, y).mean()),
    ("counted in the divisor", lambda z, y, n: some(z, y, n).sum() / nexts(z, y).size),
    ("n - 1 next ones", lambda z, y, n: some(z, y, n).sum() / sum(n)),
    ("that is the sum", lambda z, y, n: some(z, y, n).sum()),
    ("the number of documents", lambda z, y, n: some(z, y, n).sum() / len(n)),
    ("one token too many", lambda z, y, n: some(z, y, n, 0).mean()),
    ("not asked for", lambda z, y, n: some(z, y, n, 2).mean()),
    ("the first to be predicted", lambda z, y, n: np.concatenate([d[1:] for d in documents(z, y, n)]).mean()),
    ("that is bits", lambda z, y, n: some(z, y, n).mean() / math.log(2)),
    ("the sign is wrong", lambda z, y, n: -some(z, y, n).mean()),
    ("after the mean", lambda z, y, n: -np.log(np.exp(-some(z, y, n)).mean())),
    ("that is the probability", lambda z, y, n: np.exp(-some(z, y, n)).mean()),
    ("not one a document", lambda z, y, n: [d.mean() for d in documents(z, y, n)]),
    ("exp(890) is infinite", naive),
    ("exp(890) is infinite", whole(lambda z: np.log(np.exp(z).sum(-1)))),
    ("out of all places", whole(lambda z: np.log(np.exp(z - z.max()).sum(-1)) + z.max())),
    ("out of all places", whole(lambda z: np.log(np.exp(z - top(z)).sum(-1)) + top(z))),
    ("out of all places", by_softmax(lambda z: np.exp(z - z.max()))),
    ("not the mean", whole(lambda z: np.log(np.exp(z - mean(z)).sum(-1)) + mean(z)[..., 0])),
    ("not the mean", by_softmax(lambda z: np.exp(z - mean(z)))),
    ("its logarithm infinite", by_softmax(lambda z: np.exp(z - z.max(-1, keepdims=True)))),
    ("hides how wrong", by_softmax(lambda z: np.exp(z - z.max(-1, keepdims=True)), 1e-12)),
    ("hides how wrong", by_softmax(lambda z: np.exp(z - z.max(-1, keepdims=True)), 1e-9)),
    ("should be", whole(lambda z: np.log(np.exp(np.clip(z, -700, 700)).sum(-1)))),
    ("token 0 is a token", lambda z, y, n: nexts(z, y)[up_to(n, y.shape[1] - 1) & (y[:, 1:] > 0)].mean()),
    ("the last id of the vocabulary", but_last),
    (
        "that calls qwen3_ref",
        lambda z, y, n: loop.cross_entropy(torch.tensor(z[:, :-1]), torch.tensor(y[:, 1:])),
    ),
]


def parts(z: Any, y: Any) -> Any:
    """q, one-hot (token 0 where masked), mask (n, 1), count."""
    real = y != -100
    q = torch.softmax(torch.as_tensor(z), -1).numpy()
    return q, np.eye(z.shape[1])[np.where(real, y, 0)], real[:, None], real.sum()


def of(f: Any) -> Any:
    return lambda z, y: f(*parts(z, y))


def by_exps(exps: Any) -> Any:
    def answer(z: Any, y: Any) -> Any:
        _, h, r, n = parts(z, y)
        with np.errstate(all="ignore"):
            q = exps(z) / exps(z).sum(1, keepdims=True)
            return np.where(r, q - h, 0) / n

    return answer


def but_the_last(q: Any, h: Any, r: Any, n: Any) -> Any:
    """The last column taken for the place of -100."""
    return r * (q - h * (np.arange(q.shape[1]) < q.shape[1] - 1)) / n


LOSS_GRADIENT: list[Mistake] = [
    ("the sign is wrong", of(lambda q, h, r, n: r * (h - q) / n)),
    ("the target's 1 is missing", of(lambda q, h, r, n: r * q / n)),
    ("the target's 1 alone", of(lambda q, h, r, n: -(r * h) / n)),
    ("with respect to probabilities", of(lambda q, h, r, n: -(r * h) / q / n)),
    ("gradient of the sum", of(lambda q, h, r, n: r * (q - h))),
    ("divided by the vocabulary", of(lambda q, h, r, n: r * (q - h) / n / q.shape[1])),
    ("only the target's own logit", of(lambda q, h, r, n: r * (q - h) * h / n)),
    ("weighed by q once more", of(lambda q, h, r, n: r * q * (q - h) / n)),
    ("minus the probability itself", of(lambda q, h, r, n: r * (q * h).sum(1, keepdims=True) * (q - h) / n)),
    ("you divide by all positions", of(lambda q, h, r, n: r * (q - h) / len(q))),
    (
        "an index from the end",
        lambda z, y: (parts(z, y)[0] - np.eye(z.shape[1])[y % z.shape[1]]) / len(y),
    ),
    ("push in a direction", of(lambda q, h, r, n: (q - r * h) / n)),
    ("are taken for token 0", of(lambda q, h, r, n: (q - h) / len(q))),
    ("if not in the count", of(lambda q, h, r, n: (q - h) / n)),
    ("a row of zeros", of(lambda q, h, r, n: ((q - h) / n)[r[:, 0]])),
    ("token 0 is a target", lambda z, y: gradient_of_torch(z, np.where(y > 0, y, -100))),
    ("the last token of the vocabulary", of(but_the_last)),
    ("exp(890) is infinite", by_exps(np.exp)),
    ("out of all places", by_exps(lambda z: np.exp(z - z.max()))),
    ("out of all places", by_exps(lambda z: np.exp(z - top(z)))),
    ("not the mean", by_exps(lambda z: np.exp(z - mean(z)))),
    ("should be", of(lambda q, h, r, n: r * (q - h) / (len(q) - 2 * (not r.all())))),
]


def number(ids: Any, end: int) -> list[int]:
    found, now = [], 0
    for i in ids:
        found.append(now)
        now += int(i == end)
    return found


def pairs(rule: Any) -> Any:
    """A mask from a rule of (i, j, numbers, ids, end), for each pair."""

    def answer(ids: Any, end: int) -> Any:
        n = number(ids, end)
        return [[float(rule(i, j, n, ids, end)) for j in range(len(ids))] for i in range(len(ids))]

    return answer


def late(ids: Any, end: int) -> Any:
    n = np.cumsum(ids == end)
    return ((n[:, None] == n) & np.tri(len(ids), dtype=bool)).astype(int)


def blocks(ids: Any, end: Any) -> Any:
    mask, begin = np.zeros((len(ids), len(ids)), bool), 0
    for stop in [*(np.flatnonzero(ids == end) + 1), len(ids)]:
        mask[begin:stop, begin:stop] = np.tri(stop - begin)
        begin = stop
    return mask


def runs(ids: Any, end: int) -> Any:
    """A document begins where a mark is followed by none."""
    mark = ids == end
    begins = np.append(False, mark[:-1]) & ~mark
    n = np.cumsum(begins)
    return (n[:, None] == n) & np.tri(len(ids), dtype=bool)


def firsts(ids: Any, end: int) -> Any:
    """A mark behind a mark belongs to the next document."""
    mark = ids == end
    return blocks(np.where(mark & np.append(False, mark[:-1]), -1, ids), end)


def one_further(ids: Any, end: int) -> Any:
    """Writes the number of the document behind each mark, whether there is one or not."""
    n, now = np.zeros(len(ids), int), 0
    for i in np.flatnonzero(ids == end):
        now += 1
        n[i + 1] = now
    n = np.maximum.accumulate(n)
    return (n[:, None] == n) & np.tri(len(ids), dtype=bool)


BORDER_MASK: list[Mistake] = [
    ("you look ahead", pairs(lambda i, j, n, ids, end: n[i] == n[j])),
    ("the causal mask alone", lambda ids, end: np.tri(len(ids))),
    ("the document that it closes", late),
    ("a query sees itself", pairs(lambda i, j, n, ids, end: n[i] == n[j] and j < i)),
    ("rows are queries", pairs(lambda i, j, n, ids, end: n[i] == n[j] and i <= j)),
    ("1 where it may not", pairs(lambda i, j, n, ids, end: n[i] != n[j] or j > i)),
    ("you hide the marks", pairs(lambda i, j, n, ids, end: n[i] == n[j] and j <= i and ids[j] != end)),
    ("you show all marks", pairs(lambda i, j, n, ids, end: j <= i and (n[i] == n[j] or ids[j] == end))),
    ("that compares tokens", pairs(lambda i, j, n, ids, end: j <= i and ids[i] == ids[j])),
    ("the document before", pairs(lambda i, j, n, ids, end: j <= i and n[i] - n[j] < 2)),
    ("is not closed", pairs(lambda i, j, n, ids, end: j <= i and n[i] == n[j] and n[i] < max(n))),
    ("need not be the smallest", lambda ids, end: blocks(ids, ids.min())),
    ("need not be the largest", lambda ids, end: blocks(ids, ids.max())),
    ("the causal mask alone", lambda ids, end: blocks(np.where(ids < 10, 0, ids), 0)),
    ("two marks in a row", runs),
    ("two marks in a row", firsts),
    ("may begin with a mark", lambda ids, end: blocks(np.where(np.arange(len(ids)) > 0, ids, -1), end)),
    ("raises IndexError", one_further),
    ("raises IndexError", lambda ids, end: blocks(ids, end) * (np.flatnonzero(ids == end)[0] >= 0)),
    ("only the first border", pairs(lambda i, j, n, ids, end: j <= i and (n[i] == 0) == (n[j] == 0))),
]


def walk(step: Any) -> Any:
    """AdamW with one thing changed: step(w, m, v, g, k, settings) -> w, m, v."""

    def answer(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
        m, v = np.zeros_like(w), np.zeros_like(w)
        for k, g in enumerate(gradients, 1):
            w, m, v = step(w, m, v, g, k, (rate, decay, b1, b2, eps))
        return w

    return answer


def moments(m: Any, v: Any, g: Any, s: Any) -> Any:
    return s[2] * m + (1 - s[2]) * g, s[3] * v + (1 - s[3]) * g**2


def move(m: Any, v: Any, k: int, s: Any) -> Any:
    return s[0] * (m / (1 - s[2] ** k)) / (np.sqrt(v / (1 - s[3] ** k)) + s[4])


def plain(shrink: Any, how: Any = move, of_moments: Any = moments) -> Any:
    def step(w: Any, m: Any, v: Any, g: Any, k: int, s: Any) -> Any:
        m, v = of_moments(m, v, g, s)
        return w * shrink(s) - how(m, v, k, s), m, v

    return walk(step)


def usual(s: Any) -> Any:
    return 1 - s[0] * s[1]


def l2(w: Any, m: Any, v: Any, g: Any, k: int, s: Any) -> Any:
    m, v = moments(m, v, g + s[1] * w, s)
    return w - move(m, v, k, s), m, v


def after(w: Any, m: Any, v: Any, g: Any, k: int, s: Any) -> Any:
    m, v = moments(m, v, g, s)
    return (w - move(m, v, k, s)) * usual(s), m, v


def no_momentum(w: Any, m: Any, v: Any, g: Any, k: int, s: Any) -> Any:
    m, v = moments(m, v, g, s)
    return w * usual(s) - s[0] * g / (np.sqrt(v / (1 - s[3] ** k)) + s[4]), m, v


def adam_l2(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    """torch.optim.Adam, whose weight_decay is L2."""
    x = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.Adam([x], lr=rate, betas=(b1, b2), eps=eps, weight_decay=decay)
    for g in gradients:
        x.grad = torch.tensor(g)
        optimizer.step()
    return x.detach()


def of_torch(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    x = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.AdamW([x], lr=rate, betas=(b1, b2), eps=eps, weight_decay=decay)
    for g in gradients:
        x.grad = torch.tensor(g)
        optimizer.step()
    return x.detach()


def amsgrad(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    m, v, top = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for k, g in enumerate(gradients, 1):
        m, v = moments(m, v, g, (0, 0, b1, b2))
        top = np.maximum(top, v / (1 - b2**k))
        w = w * (1 - rate * decay) - rate * m / (1 - b1**k) / (np.sqrt(top) + eps)
    return w


def in_place(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    w += of_torch(w, gradients, rate, decay, b1, b2, eps).numpy() - w
    return w


def one_pass(w: Any, gradients: Any, rate: Any, decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    """The running means of a step as weighed sums of all gradients so far."""
    for k in range(1, len(gradients) + 1):
        one, two = (b ** np.arange(k)[::-1][:, None] for b in (b1, b2))
        m = (one * gradients[:k]).sum(0) / one.sum()  # the weights' sum is the correction
        v = (two * gradients[:k] ** 2).sum(0) / two.sum()
        w = w - rate * (decay * w + m / (eps + v**0.5))
    return w


ADAMW: list[Mistake] = [
    ("Adam with L2", adam_l2),
    ("Adam with L2", walk(l2)),
    ("the decay is missing", plain(lambda s: 1)),
    ("not multiplied by the learning rate", plain(lambda s: 1 - s[1])),
    ("the learning rate twice", plain(lambda s: 1 - s[0] ** 2 * s[1])),
    ("the weights grow", plain(lambda s: 1 + s[0] * s[1])),
    ("of the new weights", walk(after)),
    ("no bias correction", plain(usual, lambda m, v, k, s: s[0] * m / (np.sqrt(v) + s[4]))),
    ("v lacks", plain(usual, lambda m, v, k, s: s[0] * m / (1 - s[2] ** k) / (np.sqrt(v) + s[4]))),
    ("steps count from 1", plain(usual, lambda m, v, k, s: move(m, v, k + 1, s))),
    (
        "not under it",
        plain(usual, lambda m, v, k, s: s[0] * m / (1 - s[2] ** k) / np.sqrt(v / (1 - s[3] ** k) + s[4])),
    ),
    (
        "the root of v",
        plain(usual, lambda m, v, k, s: s[0] * m / (1 - s[2] ** k) / (v / (1 - s[3] ** k) + s[4])),
    ),
    (
        "of the squares",
        plain(usual, move, lambda m, v, g, s: (moments(m, v, g, s)[0], s[3] * v + (1 - s[3]) * abs(g))),
    ),
    ("exchanged", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, b2, b1, eps)),
    ("times 1 - beta1", plain(usual, move, lambda m, v, g, s: (s[2] * m + g, moments(m, v, g, s)[1]))),
    ("the gradient itself", walk(no_momentum)),
    ("you climb", plain(usual, lambda m, v, k, s: -move(m, v, k, s))),
    ("AMSGrad", amsgrad),
    ("yours are the usual ones", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, 0.9, 0.95, eps)),
    ("yours are the usual ones", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, 0.9, 0.999, eps)),
    ("and eps are given", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, 0.9, 0.95, 1e-8)),
    ("and eps are given", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, 0.9, 0.999, 1e-8)),
    ("1e-8 or none", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, b1, b2, 1e-8)),
    ("1e-8 or none", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, d, b1, b2, 0.0)),
    ("should be", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, 0.1, 0.8, 0.6, 0.8, 0.05)),
    ("should be", lambda w, g, r, d, b1, b2, eps: of_torch(w, g, r, b2, b1, d, eps)),
    ("overwrites its argument", in_place),
]


def up(f: Any) -> Any:
    """A wrong warm-up, and a right cosine behind it."""
    return lambda k, n, p, w, low: f(k, n, p, w, low) if k < w else p * wave((k - w) / (n - w), low)


def down(f: Any) -> Any:
    """A right warm-up, and behind it something else; f(done, k, n, p, w, low)."""
    return lambda k, n, p, w, low: p * (k + 1) / w if k < w else f((k - w) / (n - w), k, n, p, w, low)


def wave(x: float, low: float = 0.0) -> float:
    return low + (1 - low) * (1 + math.cos(math.pi * x)) / 2


def too_long(k: Any, n: Any, p: Any, w: Any, low: Any) -> Any:
    return p * (k + 1) / w if k <= w and w else p * wave((k - w) / (n - w), low)


def right_rate(k: Any, n: Any, p: Any, w: Any, low: Any, until: Any = None) -> Any:
    """The right rate, the line up to `until` alone."""
    return p * (k + 1) / w if k < (w if until is None else until) else p * wave((k - w) / (n - w), low)


RATE: list[Mistake] = [
    ("the first step has a rate", up(lambda k, n, p, w, low: p * k / w)),
    ("that is no warm-up", up(lambda k, n, p, w, low: p)),
    ("begins near 0", up(lambda k, n, p, w, low: p * (low + (1 - low) * (k + 1) / w))),
    ("a step too late", up(lambda k, n, p, w, low: p * (k + 1) / (w + 1))),
    ("yours is a cosine", up(lambda k, n, p, w, low: p * (1 - math.cos(math.pi * (k + 1) / w)) / 2)),
    ("not over all", up(lambda k, n, p, w, low: p * (k + 1) / n)),
    ("the cosine ends at 0", down(lambda d, k, n, p, w, low: p * wave(d))),
    ("not at step 0", down(lambda d, k, n, p, w, low: p * wave(k / n, low))),
    ("that is a line", down(lambda d, k, n, p, w, low: p * (1 - (1 - low) * d))),
    ("a whole wave", down(lambda d, k, n, p, w, low: p * wave(2 * d, low))),
    (
        "a quarter of a wave",
        down(lambda d, k, n, p, w, low: p * (low + (1 - low) * math.cos(math.pi * d / 2))),
    ),
    ("stays at its peak", down(lambda d, k, n, p, w, low: p)),
    ("not a rate", down(lambda d, k, n, p, w, low: low + (p - low) * wave(d))),
    ("added on top", down(lambda d, k, n, p, w, low: p * (low + wave(d)))),
    ("never arrives", down(lambda d, k, n, p, w, low: p * wave((k - w) / n, low))),
    ("cut off at the floor", down(lambda d, k, n, p, w, low: p * max(low, wave(d)))),
    ("radians", down(lambda d, k, n, p, w, low: p * (low + (1 - low) * (1 + math.cos(180 * d)) / 2))),
    ("the first behind it", too_long),
    ("one behind the last", down(lambda d, k, n, p, w, low: p * wave((k - w) / (n - w - 1), low))),
    ("one behind the last", lambda k, n, p, w, low: p * low if k == n - 1 else right_rate(k, n, p, w, low)),
    ("a step early", down(lambda d, k, n, p, w, low: p * wave((k - w + 1) / (n - w), low))),
    ("a step early", down(lambda d, k, n, p, w, low: p * wave((k - w + 1) / (n - w + 1), low))),
    ("the last step has a rate", lambda k, n, p, w, low: (k < n - 1) * right_rate(k, n, p, w, low)),
    ("the first step has a rate", lambda k, n, p, w, low: (k > 0 or not w) * right_rate(k, n, p, w, low)),
    ("the peak itself", lambda k, n, p, w, low: right_rate(k, n, p, w, low, w - 1)),
    ("the peak itself", lambda k, n, p, w, low: right_rate(k - (0 < k == w - 1), n, p, w, low)),
    ("without a warm-up too", lambda k, n, p, w, low: right_rate(k, n, p, w, low) if w else p),
    ("goes over all steps", lambda k, n, p, w, low: right_rate(k, n, p, w or min(k, 1), low)),
    ("that calls qwen3_ref", lambda k, n, p, w, low: Plan(n, p, w, low).rate(k)),
    (
        "raises ZeroDivisionError",
        lambda k, n, p, w, low: min(1, (k + 1) / w) * p * wave(max(0, k - w) / (n - w), low),
    ),
]


def gradient_of_torch(z: Any, y: Any) -> Any:
    x = torch.tensor(z, requires_grad=True)
    torch.nn.functional.cross_entropy(x, torch.tensor(y)).backward()
    return x.grad


def loss_of_torch(z: Any, y: Any, n: Any) -> Any:
    targets = np.where(up_to(n, y.shape[1] - 1), y[:, 1:], -100)
    return torch.nn.functional.cross_entropy(
        torch.tensor(z[:, :-1]).flatten(0, 1), torch.tensor(targets).flatten()
    )


def numbered_from_behind(ids: Any, end: int) -> Any:
    """Documents told by the number of marks from each token to the end of the row."""
    left = np.cumsum((ids == end)[::-1])[::-1]
    return np.tril(left[:, None] == left).astype(float)


def no_mark_between(ids: Any, end: int) -> Any:
    """Query i sees key j if no mark stands in j .. i - 1."""
    marks = np.append(0, np.cumsum(ids == end))
    return np.tri(len(ids)) * (marks[:-1] - marks[:-1, None] == 0)


MISTAKES = {
    "batch_loss": BATCH_LOSS,
    "loss_gradient": LOSS_GRADIENT,
    "border_mask": BORDER_MASK,
    "adamw": ADAMW,
    "rate": RATE,
}
ALSO_RIGHT = {
    "batch_loss": [
        loss_of_torch,
        lambda z, y, n: sum(d.sum() for d in documents(z, y, n)) / (sum(n) - len(n)),
        whole(lambda z: np.logaddexp.reduce(z, axis=-1)),
    ],
    "loss_gradient": [
        gradient_of_torch,
        of(lambda q, h, r, n: list(r * (q - h) / n)),
        lambda z, y: by_exps(lambda x: np.exp(x - np.logaddexp.reduce(x, axis=1, keepdims=True)))(z, y),
    ],
    "border_mask": [
        blocks,
        pairs(lambda i, j, n, ids, end: j <= i and n[i] == n[j]),
        numbered_from_behind,
        no_mark_between,
    ],
    "adamw": [of_torch, plain(usual), one_pass],
    "rate": [
        lambda k, n, p, w, low: p * min((k + 1) / w if w else 1, wave(max(0, k - w) / (n - w), low)),
        down(lambda d, k, n, p, w, low: np.float64(p) * (low + (1 - low) * np.cos(np.pi * d / 2) ** 2)),
    ],
}
