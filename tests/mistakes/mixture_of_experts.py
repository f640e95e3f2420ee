"""Of 06_mixture_of_experts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from qwen3_ref import moe, numpy_ref
from tests.mistakes import Mistake


def soft(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def spread(scores: Any, logits: Any, top_k: int, normalize: bool) -> Any:
    kept = np.where(logits >= -np.sort(-logits, axis=-1)[:, [top_k - 1]], scores, 0)
    return kept / kept.sum(axis=-1, keepdims=True) if normalize else kept


def short_softmax(logits: Any, top_k: int, normalize: bool) -> Any:
    """Top-k first, softmax second: the same only where the weights are renormalised."""
    return soft(np.where(logits >= -np.sort(-logits, axis=-1)[:, [top_k - 1]], logits, -np.inf))


def placed(logits: Any, top_k: int, change: Any) -> Any:
    """The probabilities of the chosen, best first, changed and put where they belong."""
    best = np.argsort(-logits, axis=-1)[:, :top_k]
    out = np.zeros_like(logits)
    np.put_along_axis(out, best, change(np.take_along_axis(soft(logits), best, axis=-1)), axis=-1)
    return out


def above_average(logits: Any, top_k: int, normalize: bool) -> Any:
    p = soft(logits)
    kept = np.where(p > 1 / p.shape[1], p, 0)
    return kept / kept.sum(axis=-1, keepdims=True) if normalize else kept


def two_digits(tensors: Any) -> Any:
    """The number cut out of the name at a fixed place: right up to 99."""
    parts: dict[str, dict[int, Any]] = {"gate": {}, "up": {}, "down": {}}
    for name, matrix in tensors.items():
        parts[name.split(".")[2][:-5]][int(name[8:10].strip("."))] = matrix
    return np.stack([np.concatenate([parts["gate"][e], parts["up"][e]]) for e in sorted(parts["gate"])])


def halves(tensors: Any, gates: Any, ups: Any, second: str = "up") -> Any:
    pairs = zip(gates, ups, strict=True)
    return np.stack(
        [
            np.concatenate([tensors[f"experts.{a}.{p}_proj.weight"] for a, p in ((g, "gate"), (u, second))])
            for g, u in pairs
        ]
    )


def stacked(tensors: Any, order: Any, parts: tuple[str, str] = ("gate", "up"), axis: int = 0) -> Any:
    return np.stack(
        [np.concatenate([tensors[f"experts.{e}.{p}_proj.weight"] for p in parts], axis) for e in order]
    )


def numbers(tensors: Any) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in tensors})


def met(tensors: Any) -> list[int]:
    return [int(name.split(".")[1]) for name in tensors if "gate" in name]


def each_as_met(tensors: Any) -> Any:
    """All gates as they come, and all ups as they come."""
    parts = [np.stack([a for n, a in tensors.items() if f".{p}_proj" in n]) for p in ("gate", "up")]
    return np.concatenate(parts, axis=1)


def in_turn(tensors: Any) -> Any:
    both = stacked(tensors, numbers(tensors))
    E, rows, D = both.shape
    return both.reshape(E, 2, rows // 2, D).swapaxes(1, 2).reshape(E, rows, D)


def put(out: Any, token: Any, share: Any, n: int, add: bool = True) -> Any:
    y = np.zeros((n, out.shape[1]))
    if add:
        np.add.at(y, token, share[:, None] * out)
    else:
        y[token] += share[:, None] * out
    return y


def losses(logits: Any, top_k: int, softmaxes: int = 1, own: bool = False) -> Any:
    p = soft(logits)
    chosen = (logits >= -np.sort(-logits, axis=-1)[..., [top_k - 1]]).astype(float)
    shares = chosen.mean(axis=1) if own else chosen.mean(axis=(0, 1))
    for _ in range(softmaxes - 1):
        p = soft(p)
    p = p if softmaxes else logits
    return logits.shape[-1] * (shares * p.mean(axis=1)).sum(axis=-1)


def picked(logits: Any, top_k: int) -> Any:
    return (logits >= -np.sort(-logits, axis=-1)[..., [top_k - 1]]).astype(float)


def with_shares(logits: Any, shares: Any, p: Any) -> Any:
    return logits.shape[-1] * (shares.mean(axis=(0, 1)) * p.mean(axis=1)).sum(axis=-1)


def losses_of_best(logits: Any) -> Any:
    return with_shares(logits, picked(logits, 1), soft(logits))


def swapped(logits: Any, top_k: int) -> Any:
    """A batch's own shares, and everybody's probabilities."""
    own, p = picked(logits, top_k).mean(axis=1), soft(logits).mean(axis=(0, 1))
    return logits.shape[-1] * (own * p).sum(axis=-1)


STORED_AND_USED: list[Mistake] = [
    ("the router is missing", lambda D, F, E, K: (3 * D * F * E, 3 * D * F * K)),
    ("three matrices", lambda D, F, E, K: (D * E + 2 * D * F * E, D * E + 2 * D * F * K)),
    ("the router works in full", lambda D, F, E, K: (D * E + 3 * D * F * E, D * K + 3 * D * F * K)),
    ("the router works on a token too", lambda D, F, E, K: (D * E + 3 * D * F * E, 3 * D * F * K)),
    ("stored too", lambda D, F, E, K: (3 * D * F * E, D * E + 3 * D * F * K)),
    ("no bias", lambda D, F, E, K: (D * E + E + 3 * D * F * E, D * E + E + 3 * D * F * K)),
    ("no shared expert", lambda D, F, E, K: (D * E + 3 * D * F * (E + 1), D * E + 3 * D * F * (K + 1))),
    ("stored comes first", lambda D, F, E, K: (D * E + 3 * D * F * K, D * E + 3 * D * F * E)),
    ("the shape ()", lambda D, F, E, K: D * E + 3 * D * F * E),
    ("norms are not asked for", lambda D, F, E, K: (D + D * E + 3 * D * F * E, D + D * E + 3 * D * F * K)),
    ("D wide, not F", lambda D, F, E, K: (F * E + 3 * D * F * E, F * E + 3 * D * F * K)),
    ("not what rests", lambda D, F, E, K: (D * E + 3 * D * F * E, 3 * D * F * (E - K))),
    ("numbers is wanted", lambda D, F, E, K: [str(D * E + 3 * D * F * E), str(D * E + 3 * D * F * K)]),
]
DENSE_WEIGHTS: list[Mistake] = [
    ("norm_topk_prob is off", lambda x, k, flag: spread(soft(x), x, k, True)),
    ("norm_topk_prob is off", short_softmax),
    ("norm_topk_prob is on", lambda x, k, flag: spread(soft(x), x, k, False)),
    ("these are the logits", lambda x, k, flag: spread(x, x, k, False)),
    ("these are the logits", lambda x, k, flag: spread(x, x, k, flag)),
    ("you keep every expert", lambda x, k, flag: soft(x)),
    ("lacks the zeros", lambda x, k, flag: -np.sort(-short_softmax(x, k, flag), axis=-1)[:, :k]),
    ("the least probable", lambda x, k, flag: spread(soft(x), -x, k, flag)),
    ("mark the chosen with 1", lambda x, k, flag: spread(np.ones_like(x), x, k, False)),
    ("you share equally", lambda x, k, flag: spread(np.ones_like(x), x, k, True)),
    ("one more", lambda x, k, flag: spread(soft(x), x, k + 1, flag)),
    ("one fewer", lambda x, k, flag: spread(soft(x), x, k - 1, flag)),
    ("the last axis", lambda x, k, flag: spread(soft(x.T).T, soft(x.T).T, k, flag)),
    (
        "in reverse",
        lambda x, k, flag: placed(x, k, lambda w: (w / w.sum(-1)[:, None] if flag else w)[:, ::-1]),
    ),
    ("one softmax is enough", lambda x, k, flag: placed(x, k, soft)),
    ("not all tokens' together", lambda x, k, flag: placed(x, k, lambda w: w / w.sum() if flag else w)),
    ("above 1/E", above_average),
    ("that calls qwen3_ref.numpy_ref.route", lambda x, k, flag: numpy_ref.route(x, k, flag)[0]),
]
STACK: list[Mistake] = [
    ("in alphabetical order: 10 comes before 2", lambda t: stacked(t, sorted(numbers(t), key=str))),
    ("in the order of the dict", lambda t: stacked(t, met(t))),
    ("in the order of the dict", lambda t: stacked(t, list(dict.fromkeys(int(n.split(".")[1]) for n in t)))),
    ("in the order of the dict", each_as_met),
    ("up comes first", lambda t: stacked(t, numbers(t), ("up", "gate"))),
    ("rows alternate", in_turn),
    ("transposed", lambda t: stacked(t, numbers(t)).swapaxes(1, 2)),
    ("along D", lambda t: stacked(t, numbers(t), axis=1)),
    ("one matrix", lambda t: np.concatenate(stacked(t, numbers(t)))),
    ("raises KeyError: 'experts.12", lambda t: stacked(t, range(13))),
    ("the shape (100, 4, 3); wanted is (104, 4, 3)", two_digits),
    ("but up is not", lambda t: halves(t, numbers(t), sorted(numbers(t), key=str))),
    (
        "but up is not",
        lambda t: halves(t, numbers(t), [int(n.split(".")[1]) for n in t if "up" in n]),
    ),
    ("gate again", lambda t: halves(t, numbers(t), numbers(t), "gate")),
    ("in descending order", lambda t: stacked(t, numbers(t)[::-1])),
]
COMBINE: list[Mistake] = [
    (
        "all three bugs are still there",
        lambda out, order, w: put(out, order % len(w), w.ravel(), len(w), add=False),
    ),
    ("order % n", lambda out, order, w: put(out, order % len(w), w.ravel()[order], len(w))),
    ("order % n", lambda out, order, w: put(out, order % len(w), w.ravel()[order], len(w), add=False)),
    ("order % n", lambda out, order, w: put(out, order % len(w), w.ravel(), len(w))),
    (
        "a token that appears twice",
        lambda out, order, w: put(out, order // w.shape[1], w.ravel()[order], len(w), add=False),
    ),
    ("take the weights at `order`", lambda out, order, w: put(out, order // w.shape[1], w.ravel(), len(w))),
    (
        "two bugs are left",
        lambda out, order, w: put(out, order // w.shape[1], w.ravel(), len(w), add=False),
    ),
    (
        "its weight is at order[r]",
        lambda out, order, w: put(out, order // w.shape[1], w.ravel()[np.argsort(order)], len(w)),
    ),
    ("the weights are missing", lambda out, order, w: put(out, order // w.shape[1], 1 + 0 * order, len(w))),
    ("do not divide by K", lambda out, r, w: put(out, r // w.shape[1], w.ravel()[r], len(w)) / w.shape[1]),
    ("by columns", lambda out, r, w: put(out, r // w.shape[1], w.T.ravel()[r], len(w))),
    ("a token's first for all", lambda out, r, w: put(out, r // w.shape[1], w[r // w.shape[1], 0], len(w))),
    ("its place among the K", lambda out, r, w: put(out, r % w.shape[1], w.ravel()[r], len(w))),
    (
        "its token is order[r] // K",
        lambda out, r, w: put(out, np.argsort(r) // w.shape[1], w.ravel()[r], len(w)),
    ),
    (
        "row r is not pick r",
        lambda out, order, w: (out.reshape(*w.shape, -1) * w[..., None]).sum(axis=1),
    ),
    (
        "it is not out[order]",
        lambda out, order, w: (out[order].reshape(*w.shape, -1) * w[..., None]).sum(axis=1),
    ),
]
GLOBAL_LOSSES: list[Mistake] = [
    ("take the softmax first", lambda x, k: losses(x, k, softmaxes=0)),
    ("a softmax of probabilities", lambda x, k: losses(x, k, softmaxes=2)),
    ("you count the shares in each micro-batch", lambda x, k: losses(x, k, own=True)),
    ("your shares sum to 1", lambda x, k: losses(x, k) / k),
    ("the factor E is missing", lambda x, k: losses(x, k) / x.shape[-1]),
    ("one loss for all", lambda x, k: losses(x, k).mean()),
    ("its own mean probabilities", lambda x, k: np.full(len(x), losses(x, k).mean())),
    ("not by n", lambda x, k: losses(x, k) * len(x)),
    ("divide the counts", lambda x, k: losses(x, k) * x.shape[0] * x.shape[1]),
    ("you take a mean", lambda x, k: losses(x, k) / x.shape[-1] ** 2),
    ("the other way round", swapped),
    ("the last axis", lambda x, k: with_shares(x, picked(x, k), soft(x.swapaxes(1, 2)).swapaxes(1, 2))),
    ("top_k experts, not one", lambda x, k: losses_of_best(x)),
    ("adds up probabilities", lambda x, k: with_shares(x, soft(x), soft(x))),
    ("adds up probabilities", lambda x, k: with_shares(x, k * soft(x), soft(x))),
    ("adds up probabilities", lambda x, k: with_shares(x, picked(x, k) * soft(x), soft(x))),
    ("undivided", lambda x, k: losses(x, k) / len(x)),
    (
        "that calls qwen3_ref.moe.load_balancing_loss",
        lambda x, k: moe.load_balancing_loss([torch.tensor(x)], k),
    ),
]
MISTAKES = {
    "stored_and_used": STORED_AND_USED,
    "dense_weights": DENSE_WEIGHTS,
    "stack": STACK,
    "combine": COMBINE,
    "global_losses": GLOBAL_LOSSES,
}


def by_matrices(D: int, F: int, E: int, K: int) -> list[int]:
    """Counted tensor by tensor, and in another type."""
    shapes = [(E, D)] + [(F, D), (F, D), (D, F)] * E
    used = shapes[: 1 + 3 * K]
    return [int(sum(np.prod(shape) for shape in some)) for some in (shapes, used)]


def by_loop(logits: Any, top_k: int, normalize: bool) -> Any:
    """Token by token, with Python's own sort."""
    out = []
    for row in logits.tolist():
        powers = [math.exp(x - max(row)) for x in row]
        p = [x / sum(powers) for x in powers]
        kept = sorted(range(len(p)), key=lambda e: -p[e])[:top_k]
        total = sum(p[e] for e in kept) if normalize else 1.0
        out.append([p[e] / total if e in kept else 0.0 for e in range(len(p))])
    return out


def masked(logits: Any, top_k: int, normalize: bool) -> Any:
    """In PyTorch; the softmax of the kept logits, as long as they are to be normalised."""
    x = torch.tensor(logits)
    kept = torch.zeros_like(x).scatter(-1, x.topk(top_k).indices, 1)
    if normalize:
        return x.masked_fill(kept == 0, -math.inf).softmax(-1)
    return x.softmax(-1) * kept


def stacked_by_max(tensors: Any) -> Any:
    """Filled in as the names come."""
    count = 1 + max(int(name.split(".")[1]) for name in tensors)
    F, D = tensors["experts.0.gate_proj.weight"].shape
    out = np.empty((count, 2 * F, D))
    for name, matrix in tensors.items():
        e, part = int(name.split(".")[1]), name.split(".")[2]
        if part != "down_proj":
            out[e, F * (part == "up_proj") :][:F] = matrix
    return out


def combined_by_sorting(out: Any, order: Any, weights: Any) -> Any:
    """Rows back in the order of picks, then summed over each token's."""
    picks = np.empty_like(out)
    picks[order] = out
    return np.einsum("nkd,nk->nd", picks.reshape(*weights.shape, -1), weights)


def combined_by_loop(out: Any, order: Any, weights: Any) -> Any:
    y = np.zeros((len(weights), out.shape[1]))
    for row, pick in zip(out, order, strict=True):
        n, k = divmod(int(pick), weights.shape[1])
        y[n] += weights[n, k] * row
    return y


def losses_in_torch(logits: Any, top_k: int) -> Any:
    x = torch.tensor(logits)
    m, n, E = x.shape
    counts = torch.bincount(x.topk(top_k).indices.flatten(), minlength=E)
    shares = (counts / (m * n)).to(x)
    return [E * float(shares @ batch.softmax(-1).mean(0)) for batch in x]


ALSO_RIGHT = {
    "stored_and_used": [
        by_matrices,
        lambda D, F, E, K: np.array([E * (D + 3 * D * F), E * D + K * 3 * D * F], float),
    ],
    "dense_weights": [by_loop, masked],
    "stack": [stacked_by_max, lambda t: torch.tensor(stacked(t, numbers(t)))],
    "combine": [combined_by_sorting, combined_by_loop],
    "global_losses": [losses_in_torch, lambda x, k: tuple(losses(x, k))],
}
