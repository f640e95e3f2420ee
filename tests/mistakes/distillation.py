"""Of 17_distillation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qwen3_ref.train.recipes import distill
from tests.mistakes import Mistake


def logs(x: Any) -> Any:
    return torch.log_softmax(torch.tensor(x), -1).numpy()


def both(s: Any, t: Any) -> Any:
    """log q, log p, q, p."""
    s, t = logs(s), logs(t)
    return s, t, np.exp(s), np.exp(t)


def kl(s: Any, t: Any) -> Any:
    s, t, q, _ = both(s, t)
    return (q * (s - t)).sum(-1)


def shannon(s: Any, t: Any) -> Any:
    s, t, q, p = both(s, t)
    m = np.log((p + q) / 2)
    return ((q * (s - m)).sum(-1) + (p * (t - m)).sum(-1)) / 2


def soft(x: Any, off: Any) -> Any:
    e = np.exp(x - off(x))
    return e / e.sum(-1, keepdims=True)


def unlogged(off: Any, floor: float = 0.0) -> Any:
    """By probabilities, with `off` taken out of the logits first and `floor` added afterwards."""

    def answer(s: Any, t: Any) -> Any:
        with np.errstate(all="ignore"):
            q, p = soft(s, off) + floor, soft(t, off) + floor
            return (q * np.log(q / p)).sum(-1)

    return answer


def row_max(x: Any) -> Any:
    return x.max(-1, keepdims=True)


def seen_alone(s: Any, t: Any) -> Any:
    with np.errstate(all="ignore"):
        q, p = soft(s, row_max), soft(t, row_max)
        return np.where(q > 0, q * np.log(q / p), 0).sum(-1)


def of(f: Any) -> Any:
    return lambda s, t: f(*both(s, t))


REVERSE_KL: list[Mistake] = [
    ("that is KL(teacher || student)", lambda s, t: kl(t, s)),
    ("you take the mean over the vocabulary", lambda s, t: kl(s, t) / s.shape[-1]),
    ("that is the cross-entropy", of(lambda s, t, q, p: -(q * t).sum(-1))),
    ("that is bits", lambda s, t: kl(s, t) / np.log(2)),
    ("the sign is wrong", lambda s, t: -kl(s, t)),
    ("the mean of both directions", lambda s, t: (kl(s, t) + kl(t, s)) / 2),
    ("Jensen-Shannon", shannon),
    ("that is total variation", of(lambda s, t, q, p: np.abs(p - q).sum(-1) / 2)),
    ("you compare logits", lambda s, t: (both(s, t)[2] * (s - t)).sum(-1)),
    ("not weighed by the student's", of(lambda s, t, q, p: (s - t).sum(-1))),
    ("you take magnitudes", of(lambda s, t, q, p: (q * np.abs(s - t)).sum(-1))),
    ("not a number a token", of(lambda s, t, q, p: q * (s - t))),
    ("not their mean", lambda s, t: kl(s, t).mean()),
    ("exp(900) is infinite", unlogged(lambda x: 0)),
    ("one largest logit for all rows", unlogged(lambda x: x.max())),
    ("a softmax can be 0", unlogged(row_max)),
    ("a softmax can be 0", seen_alone),
    ("and should be", unlogged(row_max, 1e-10)),
    ("and should be", lambda s, t: kl(np.clip(s, -100, 100), np.clip(t, -100, 100))),
    ("and should be", lambda s, t: kl(s / 2, t / 2)),
    ("and should be", lambda s, t: kl(s, t) + kl(t, s)),
    ("your result has the shape", lambda s, t: kl(s, t)[:, None]),
    (
        "that calls qwen3_ref",
        lambda s, t: distill.divergence(torch.tensor(s), torch.tensor(t), "reverse"),
    ),
]


def at(f: Any) -> Any:
    """f of log q, log p, q, p and the divergence."""

    def answer(s: Any, t: Any) -> Any:
        s, t, q, p = both(s, t)
        return f(s, t, q, p, (q * (s - t)).sum())

    return answer


REVERSE_GRADIENT: list[Mistake] = [
    ("that is the gradient of KL(teacher || student)", at(lambda s, t, q, p, d: q - p)),
    ("sums to 0", at(lambda s, t, q, p, d: q * (s - t))),
    ("that is the way down", at(lambda s, t, q, p, d: -q * (s - t - d))),
    ("the other direction's gradient", at(lambda s, t, q, p, d: p - q)),
    ("weighed by the student's", at(lambda s, t, q, p, d: s - t - d)),
    ("by the teacher's probabilities", at(lambda s, t, q, p, d: p * (s - t - d))),
    ("with respect to probabilities", at(lambda s, t, q, p, d: s - t + 1)),
    ("adding 1 inside", at(lambda s, t, q, p, d: q * (s - t + 1))),
    ("the entropy's part is missing", at(lambda s, t, q, p, d: -q * (t - (q * t).sum()))),
    ("the cross-entropy's part is missing", at(lambda s, t, q, p, d: q * (s - (q * s).sum()))),
    ("that is the divergence times q", at(lambda s, t, q, p, d: q * d)),
    ("have changed places", lambda s, t: at(lambda s, t, q, p, d: q * (s - t - d))(t, s)),
    ("weighed by the student's probabilities", at(lambda s, t, q, p, d: q * (s - t - (s - t).mean()))),
    ("not the other direction", at(lambda s, t, q, p, d: q * (s - t - p @ (t - s)))),
    ("not with its own alone", at(lambda s, t, q, p, d: q * (1 - q) * (s - t + 1))),
    ("and should be", at(lambda s, t, q, p, d: q * (s - t - d) / len(s))),
    ("and should be", at(lambda s, t, q, p, d: q * (s - t - d) / np.log(2))),
    ("your result has the shape", at(lambda s, t, q, p, d: d)),
    ("not the difference of probabilities", at(lambda s, t, q, p, d: q * (q - p - (q * (q - p)).sum()))),
]


def real(v: Any, n: Any, more: int = 0) -> Any:
    return np.arange(v.shape[1]) < n[:, None] + more


def rows(v: Any, n: Any) -> Any:
    return [row[:length] for row, length in zip(v, n, strict=True)]


MEAN_LOSS: list[Mistake] = [
    ("the mean of the replies' means", lambda v, n: np.mean([r.mean() for r in rows(v, n)])),
    ("padding is counted: what", lambda v, n: v.mean()),
    ("counted in the divisor", lambda v, n: np.where(real(v, n), v, 0).mean()),
    ("the number of replies", lambda v, n: np.where(real(v, n), v, 0).sum() / len(v)),
    ("that is the sum", lambda v, n: np.where(real(v, n), v, 0).sum()),
    ("the last token of each reply", lambda v, n: v[real(v, n, -1)].mean()),
    ("the first token of each reply", lambda v, n: np.concatenate([r[1:] for r in rows(v, n)]).mean()),
    ("one token too many", lambda v, n: v[real(v, n, 1)].mean()),
    ("you take the first's", lambda v, n: v[:, : n[0]].mean()),
    ("you take the longest", lambda v, n: v[:, : max(n)].mean()),
    ("you take the shortest", lambda v, n: v[:, : min(n)].mean()),
    ("though the divisor is right", lambda v, n: v.sum() / n.sum()),
    ("late places", lambda v, n: np.mean([v[n > j, j].mean() for j in range(max(n))])),
    ("as long as its row", lambda v, n: v[:, :-1][real(v[:, :-1], n)].mean()),
    ("as long as its row", lambda v, n: v[:, :-1][real(v[:, :-1], n)].sum() / n.sum()),
    ("your result is", lambda v, n: np.median(v[real(v, n)])),
    ("your result is", lambda v, n: v[real(v, np.sort(n))].mean()),
    ("padding is counted: what", lambda v, n: np.nanmean(v)),
    ("your result is", lambda v, n: v[(v != v[0, -1]) & ~np.isnan(v)].mean()),
    ("not one a reply", lambda v, n: [r.mean() for r in rows(v, n)]),
    ("once more", lambda v, n: v[real(v, n)].mean() / n.mean()),
    ("a NaN behind a reply", lambda v, n: (v * real(v, n)).sum() / n.sum()),
]


def walk(first: Any, step: Any, each: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(float(first @ each))
        first = first @ step
    return found


def token(q: Any, p: Any) -> Any:
    return (q * np.log(q / p)).sum(1)


TEXT_KL: list[Mistake] = [
    ("the teacher writes", lambda f, q, p, n: sum(walk(f, p, token(q, p), n))),
    ("goes the other way round", lambda f, q, p, n: sum(walk(f, q, token(p, q), n))),
    ("that is KL(teacher || student)", lambda f, q, p, n: sum(walk(f, p, token(p, q), n))),
    ("that is per token", lambda f, q, p, n: np.mean(walk(f, q, token(q, p), n))),
    ("as much as any other", lambda f, q, p, n: n * token(q, p).mean()),
    ("you stay where you are", lambda f, q, p, n: n * (f @ token(q, p))),
    ("one token too few", lambda f, q, p, n: sum(walk(f, q, token(q, p), n - 1))),
    ("one token too many", lambda f, q, p, n: sum(walk(f, q, token(q, p), n + 1))),
    ("you leave the first step out", lambda f, q, p, n: sum(walk(f @ q, q, token(q, p), n))),
    (
        "with the likeliest token",
        lambda f, q, p, n: sum(walk(np.eye(len(f))[f.argmax()], q, token(q, p), n)),
    ),
    ("here @ student", lambda f, q, p, n: sum(walk(f, q.T, token(q, p), n))),
    ("`first` is left out", lambda f, q, p, n: sum(walk(np.full(len(f), 1 / len(f)), q, token(q, p), n))),
    ("the likeliest", lambda f, q, p, n: sum(walk(f, np.eye(len(f))[q.argmax(1)], token(q, p), n))),
    ("the cross-entropy", lambda f, q, p, n: sum(walk(f, q, -(q * np.log(p)).sum(1), n))),
    ("your result is", lambda f, q, p, n: sum(walk(f, (q + p) / 2, token(q, p), n))),
    ("your result is", lambda f, q, p, n: sum(walk(f, q, token(q, p), n)) / np.log(2)),
    ("your result is", lambda f, q, p, n: sum(walk(f, q, token(q, p), n)) / (n + 1)),
    ("your result has the shape", lambda f, q, p, n: walk(f, q, token(q, p), n)),
    ("of the last token alone", lambda f, q, p, n: walk(f, q, token(q, p), n)[-1]),
    ("the sign is wrong", lambda f, q, p, n: -sum(walk(f, q, token(q, p), n))),
]


def by_texts(first: Any, q: Any, p: Any, length: int) -> Any:
    """Every text by itself."""
    total = 0.0
    for path in np.ndindex(*(len(first),) * (length + 1)):
        chance, ratio = first[path[0]], 0.0
        for a, b in zip(path, path[1:], strict=False):
            chance, ratio = chance * q[a, b], ratio + np.log(q[a, b] / p[a, b])
        total += chance * ratio
    return total


def backwards(first: Any, q: Any, p: Any, length: int) -> Any:
    """What is still to come, from the end on."""
    to_come = np.zeros(len(first))
    for _ in range(length):
        to_come = token(q, p) + q @ to_come
    return first @ to_come


def by_torch(s: Any, t: Any) -> Any:
    x = torch.tensor(s, requires_grad=True)
    p = torch.tensor(t).log_softmax(-1)
    torch.nn.functional.kl_div(p, x.log_softmax(-1), reduction="sum", log_target=True).backward()
    return x.grad


MISTAKES = {
    "reverse_kl": REVERSE_KL,
    "reverse_gradient": REVERSE_GRADIENT,
    "mean_loss": MEAN_LOSS,
    "text_kl": TEXT_KL,
}
ALSO_RIGHT = {
    "reverse_kl": [
        lambda s, t: torch.nn.functional.kl_div(
            torch.tensor(logs(t)), torch.tensor(logs(s)), reduction="none", log_target=True
        ).sum(-1),
        lambda s, t: [float(kl(a, b)) for a, b in zip(s, t, strict=True)],
        lambda s, t: kl(s.astype(np.float32), t.astype(np.float32)),
        of(lambda s, t, q, p: (p + q * (s - t)).sum(-1) - 1),
    ],
    "reverse_gradient": [by_torch, lambda s, t: list(at(lambda s, t, q, p, d: q * s - q * t - q * d)(s, t))],
    "mean_loss": [
        lambda v, n: float(v[real(v, n)].mean()),
        lambda v, n: sum(r.sum() for r in rows(v, n)) / sum(n),
        lambda v, n: np.average([r.mean() for r in rows(v, n)], weights=n),
    ],
    "text_kl": [by_texts, backwards],
}
