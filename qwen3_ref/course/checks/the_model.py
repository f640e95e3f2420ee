"""Checks of 05_the_model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge
from qwen3_ref.numpy_ref import rms_norm


def parameters(answer: Answer) -> Verdict:
    """answer(V, D, F, L, h, g, d, tied) -> the number of parameters of a dense model."""

    def count(V: int, D: int, F: int, L: int, h: int, k: int, d: int, tied: bool, but: str = "") -> int:
        q = D if but == "head_dim" else h * d
        kv = q if but == "mha" else k * d
        attention = D * q + 2 * D * kv + (0 if but == "o" else q * D)
        ffn = (2 if but == "gate" else 3) * D * F
        gains = (0 if but == "no gains" else 2 * D) + (0 if but in ("no gains", "qk") else 2 * d)
        gains += (h + k - 2) * d if but == "qk per head" else 0
        last = 0 if but in ("no gains", "final") else D
        matrices = {"one": 1, "two": 2}.get(but, 1 if tied else 2)
        biases = q + 2 * kv if but == "bias" else 0
        return matrices * V * D + L * (attention + ffn + gains + biases) + last

    words = {
        "two": "you count the embedding twice although it is tied: one matrix does both jobs",
        "one": "you count one matrix for embedding and head, but here they are not tied",
        "head_dim": "you take the query width to be D; it is h * d",
        "mha": "you give every query head its own key and value head; there are only g of them",
        "o": "o_proj is missing: attention has four matrices",
        "gate": "a feed-forward has three matrices here: gate, up and down",
        "no gains": "the gains of the norms are missing: 2 D + 2 d a block, D at the end",
        "qk": "the gains of QK-Norm are missing: d for queries, d for keys in each block",
        "qk per head": "all heads of a layer share one gain vector of QK-Norm: d for queries, d for keys",
        "final": "the gains of the final norm are missing",
        "bias": "you count biases; Qwen3's projections have none",
    }

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for tied in (True, False):  # sizes so small that every gain shows
            V, D, F, L = (int(rng.integers(*r)) for r in ((61, 64), (9, 14), (15, 20), (3, 6)))
            k, group, d = int(rng.integers(2, 4)), int(rng.integers(2, 4)), 2 * int(rng.integers(4, 6))
            sizes = (V, D, F, L, k * group, k, d, tied)
            wrong = [(text, np.array(count(*sizes, but=but))) for but, text in words.items()]
            want = count(*sizes)
            mistakes = [(text, value) for text, value in wrong if value != want]
            yield Trial(sizes, np.array(want), mistakes, 0.5)

    return judge(answer, trials)


def block(answer: Answer) -> Verdict:
    """answer(x, attention, feed_forward, first_gain, second_gain, eps) -> x after one block, (t, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for t, D in ((4, 6), (5, 3)):
            x, eps = 0.6 * rng.normal(size=(t, D)), 0.2
            g, h = 1 + 0.5 * rng.normal(size=(2, D))
            mix = np.tril(rng.uniform(0.2, 1, size=(t, t)))
            # Stand-ins: one mixes positions, one works on each by itself. Both are NumPy's own, since
            # calling a function of this package counts as borrowing.
            a, f = partial(np.matmul, mix), np.sinh
            norm = partial(rms_norm, eps=eps)
            y = x + a(norm(x, g))
            u, v = norm(x, g), norm(y, h)
            swapped = x + a(norm(x, h))
            post = norm(x + a(x), g)
            after = u + a(u)
            said = x + norm(a(x), g)
            mistakes = [
                ("the two gains are swapped: the first belongs to attention", swapped + f(norm(swapped, g))),
                (
                    "your residual is taken after the norm: add to x itself",
                    norm(after, h) + f(norm(after, h)),
                ),
                ("your residual is taken after the norm: add to x itself", v + f(v)),
                (
                    "that is post-norm: the norm stands before attention, not after the sum",
                    norm(post + f(post), h),
                ),
                (
                    "your feed-forward reads x from before attention; it reads what attention left",
                    y + f(norm(x, h)),
                ),
                ("you return what the feed-forward says; add it to the stream", f(v)),
                ("attention's own x is lost: add what it says to x", a(u) + f(norm(a(u), h))),
                ("you add both branches to x but lose what attention wrote", x + f(v)),
                ("your feed-forward reads without a norm", y + f(y)),
                ("your attention reads without a norm", x + a(x) + f(norm(x + a(x), h))),
                ("you normalise what a branch says; normalise what it reads", said + norm(f(said), h)),
                ("the feed-forward is missing", y),
                ("your order is reversed: attention comes first", x + f(u) + a(norm(x + f(u), h))),
                ("eps is missing, or stands outside the root", _outside(x, a, f, g, h, 0.0)),
                ("eps is missing, or stands outside the root", _outside(x, a, f, g, h, eps)),
            ]
            yield Trial((x, a, f, g, h, eps), y + f(v), mistakes)

    return judge(answer, trials)


def _outside(x: Array, attention: Answer, feed_forward: Answer, g: Array, h: Array, eps: float) -> Array:
    """The block with eps added to the root."""

    def norm(x: Array, gain: Array) -> Array:
        out: Array = gain * x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps)
        return out

    y = x + attention(norm(x, g))
    return np.asarray(y + feed_forward(norm(y, h)))


def flops(answer: Answer) -> Verdict:
    """answer(V, D, F, L, h, g, d, seen) -> FLOPs of one token that sees so many tokens."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(2):
            # More tokens than a matrix of all blocks has rows, or a missing head is a missing gate.
            V, D, F, L = (int(rng.integers(*r)) for r in ((100, 120), (9, 14), (15, 20), (3, 6)))
            k, d = int(rng.integers(2, 4)), 2 * int(rng.integers(4, 6))
            group = 7  # more than L: with L, "KV heads" and "one block" would be one mistake; with 2, "half"
            h, seen = k * group, int(rng.integers(40, 60))
            weights = L * (2 * D * h * d + 2 * D * k * d + 3 * D * F)
            scores, gains = 4 * L * h * d * seen, L * (2 * D + 2 * d) + D
            want = 2 * (weights + V * D) + scores
            mistakes = [
                ("a weight costs two operations, a multiplication and an addition", weights + V * D + scores),
                ("the look-up of the embedding is no product; only the head costs", want + 2 * V * D),
                ("the head is missing: V * D weights", want - 2 * V * D),
                ("gains multiply single channels; count matrix products only", want + 2 * gains),
                ("gains multiply single channels; count matrix products only", want + 4 * L * D),
                ("attention over the seen tokens is missing: that is the 2N rule", want - scores),
                (
                    "attention costs 4 a channel: two for the score, two for the mix of values",
                    want - scores // 2,
                ),
                (
                    "scores are computed for every query head, h of them, not g",
                    want - scores + scores * k // h,
                ),
                ("attention's width is h * d, not D", want - scores + 4 * L * D * seen),
                ("every block attends: the scores count L times", want - scores + scores // L),
                ("attention has four matrices: q, k, v and o", want - 2 * L * D * h * d),
                ("a feed-forward has three matrices here: gate, up and down", want - 2 * L * D * F),
            ]
            yield Trial(
                (V, D, F, L, h, k, d, seen), np.array(want), [(s, np.array(n)) for s, n in mistakes], 0.5
            )

    return judge(answer, trials)


def lens(answer: Answer) -> Verdict:
    """answer(hidden, gain, head, following) -> (depths, t) ranks, 1 the best. hidden (depths, t, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for depths, t, D, V in ((3, 5, 4, 40), (4, 3, 6, 60)):
            hidden, gain, head = rng.normal(size=(depths, t, D)), rng.normal(size=D), rng.normal(size=(V, D))
            following = rng.integers(V, size=t)

            def rank(
                gain: Array, hidden: Array = hidden, head: Array = head, right: Array = following
            ) -> Array:
                logits = (hidden * gain) @ head.T
                score = logits[:, np.arange(len(right)), right][..., None]
                return np.asarray((logits > score).sum(-1) + 1)

            want = rank(gain)
            by_rank = np.argsort(-(hidden * gain) @ head.T, axis=-1)[:, np.arange(t), following]
            mistakes = [
                ("argsort lists the ids by rank; you want the rank of one id", by_rank),
                ("argsort lists the ids by rank; you want the rank of one id", by_rank + 1),
                ("your first choice has rank 0; ranks begin at 1", want - 1),
                ("your ranks run the wrong way: the largest logit has rank 1", V + 1 - want),
                ("your ranks run the wrong way: the largest logit has rank 1", V - want),
                ("the gain of the final norm is missing; its division alone moves no rank", rank(np.ones(D))),
                ("you return the rank at the last depth only", want[-1]),
                ("your axes are swapped: a row is a depth", want.T),
                ("each position has an id of its own in `following`; you use the first for all",
                 rank(gain, right=np.full(t, following[0]))),
                ("every depth has its own stream; yours all have the last one's rank",
                 np.broadcast_to(want[-1], want.shape)),
                ("you divide by the gain; the norm multiplies with it", rank(1 / gain)),
            ]
            yield Trial((hidden, gain, head, following), want, mistakes)

    return judge(answer, trials)


def head(answer: Answer) -> Verdict:
    """answer(x, weights, tied, eps) -> logits (t, V) from the last block's output x (t, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        t, D, V, eps = 4, 6, 9, 0.2
        for tied, stored in ((False, True), (True, False), (True, True)):
            x, gain = rng.normal(size=(t, D)), rng.normal(size=D)
            embedding, other = rng.normal(size=(2, V, D))
            names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
            weights = dict(zip(names, (embedding, gain, other), strict=True))
            if not stored:
                del weights["lm_head.weight"]
            right, wrong = (embedding, other) if tied else (other, embedding)
            y = rms_norm(x, gain, eps)
            told = (
                "the config says tied, so the embedding is the head, whatever else lies in the file"
                if tied
                else "the config says not tied, and yet you use the embedding as the head"
            )
            mistakes = [
                (told, y @ wrong.T),
                ("the final norm is missing", x @ right.T),
                ("the final norm is missing, and the wrong matrix is the head", x @ wrong.T),
                ("the final norm has a gain, model.norm.weight", rms_norm(x, np.ones(D), eps) @ right.T),
                ("eps is not the one given", rms_norm(x, gain, 1e-6) @ right.T),
                (
                    "Qwen3 does not scale by the root of hidden_size; other families do",
                    y @ right.T / np.sqrt(D),
                ),
                (
                    "Qwen3 does not scale by the root of hidden_size; other families do",
                    y @ right.T * np.sqrt(D),
                ),
            ]
            yield Trial((x, weights, tied, eps), y @ right.T, mistakes)

    return judge(answer, trials)
