"""Checks of 13_pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def _nll(logits: Array, targets: Array) -> Array:
    """Loss of each target (b, t) under logits (b, t, V)."""
    top = logits.max(-1, keepdims=True)
    total = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    return np.asarray(total - np.take_along_axis(logits, targets[..., None], -1)[..., 0])


def batch_loss(answer: Answer) -> Verdict:
    """answer(logits, ids, lengths) -> a number: the mean loss in nats over all next tokens of documents
    ids (b, t), of which only the first lengths[i] of row i are the document; logits (b, t, V)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(shift: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            b, t, v = int(rng.integers(3, 5)), int(rng.integers(8, 11)), int(rng.integers(5, 8))
            lengths = rng.integers(3, t - 1, b)
            lengths[:2] = 3, t - 2
            ids = rng.integers(0, v, (b, t))
            logits = rng.normal(0, 1.5, (b, t, v))
            column = np.arange(t - 1)
            loss = _nll(logits[:, :-1], ids[:, 1:])  # of the token behind each
            real = column < lengths[:, None] - 1
            own, back = _nll(logits, ids), _nll(logits[:, 1:], ids[:, :-1])
            inside = np.arange(t) < lengths[:, None]
            far = _nll(logits[:, :-2], ids[:, 2:])
            kept = np.where(real, loss, 0.0)
            many = column < lengths[:, None]
            brief, late = column < lengths[:, None] - 2, real & (column > 0)
            hit = np.exp(-loss)
            wrong = [
                ("the labels are not shifted: each token is asked for itself, which it has just read",
                 own[inside].mean()),
                ("shifted the wrong way: that predicts the token before", back[real].mean()),
                ("shifted twice: that predicts the token after the next",
                 far[np.arange(t - 2) < lengths[:, None] - 2].mean()),
                ("that is the mean of the documents' means: tokens of short ones weigh more",
                 (kept.sum(1) / (lengths - 1)).mean()),
                ("padding is counted: behind a document there is nothing to learn", loss.mean()),
                ("padding adds nothing and yet is counted in the divisor", kept.mean()),
                ("n tokens have n - 1 next ones; divide by how many you added", kept.sum() / lengths.sum()),
                ("that is the sum; divide by the number of predicted tokens", kept.sum()),
                ("you divide by the number of documents", kept.sum() / b),
                ("one token too many of each document: the last one's next token is padding",
                 loss[many].mean()),
                ("the last token of each document is not asked for", loss[brief].mean()),
                ("the second token of each document, the first to be predicted, is missing",
                 loss[late].mean()),
                ("that is bits; nats come from the natural logarithm", loss[real].mean() / np.log(2)),
                ("the sign is wrong; a loss is what is to fall", -loss[real].mean()),
                ("you take the logarithm after the mean; it comes before", -np.log(hit[real].mean())),
                ("that is the probability, not minus its logarithm", hit[real].mean()),
                ("wanted is one number, not one a document", kept.sum(1) / (lengths - 1)),
            ]  # fmt: skip
            want = np.asarray(loss[real].mean())
            return (logits + shift, ids, lengths), want, [(a, np.asarray(x)) for a, x in wrong]

        for shift in (0.0, 0.0, 900.0):  # softmax does not change, and exp(900) is infinite
            yield apart(lambda: make(shift))  # noqa: B023

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def loss_gradient(answer: Answer) -> Verdict:
    """answer(logits, targets) -> (n, V): the gradient of the mean loss with respect to logits (n, V), over
    the positions whose target is not -100; targets (n,)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(masked: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, v = int(rng.integers(5, 8)), int(rng.integers(4, 7))
            logits, targets = rng.normal(0, 1.5, (n, v)), rng.integers(0, v - 1, n)
            if masked:
                targets[rng.permutation(n)[:2]] = -100
            real = targets != -100
            q = np.exp(logits - logits.max(-1, keepdims=True))
            q /= q.sum(-1, keepdims=True)
            hot = np.eye(v)[np.where(real, targets, 0)]
            count, keep = real.sum(), real[:, None]
            want = np.where(keep, q - hot, 0) / count
            last = q - np.eye(v)[targets % v if masked else targets]
            chosen = np.take_along_axis(q, np.where(real, targets, 0)[:, None], -1)
            wrong = [
                ("the sign is wrong: a gradient points where the loss rises", -want),
                ("the target's 1 is missing: q minus one-hot", np.where(keep, q, 0) / count),
                ("the target's 1 alone: the probabilities are missing", np.where(keep, -hot, 0) / count),
                ("that is with respect to probabilities; go on through softmax to the logits",
                 np.where(keep, -hot / q, 0) / count),
                ("that is the gradient of the sum; the loss is a mean", want * count),
                ("divided by the vocabulary too; the mean is over positions alone", want / v),
                ("only the target's own logit moves; softmax moves all the others too",
                 np.where(keep, (q - hot) * hot, 0) / count),
                ("weighed by q once more; that belongs to other losses",
                 np.where(keep, q * (q - hot), 0) / count),
                ("weighed by the target's probability: that is the gradient of minus the probability itself",
                 np.where(keep, chosen * (q - hot), 0) / count),
            ]  # fmt: skip
            if masked:
                wrong += [
                    ("you divide by all positions; those with the target -100 are not counted",
                     want * count / n),
                    ("-100 is an index from the end to Python; positions without a target have no gradient",
                     last / n),
                    ("positions without a target push in a direction: their rows are 0",
                     np.where(keep, q - hot, q) / count),
                    ("positions without a target are taken for token 0", (q - hot) / n),
                    ("positions without a target are taken for token 0, if not in the count",
                     (q - hot) / count),
                    ("give a row of zeros for a position without a target; do not leave it out",
                     want[real]),
                ]  # fmt: skip
            return (logits, targets), want, wrong

        for masked in (False, True, True):
            yield apart(lambda: make(masked))  # noqa: B023

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def border_mask(answer: Answer) -> Verdict:
    """answer(ids, end) -> (t, t): 1 where query i may look at key j, of packed ids (t,) in which each
    document is closed by `end`, which still belongs to it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            end = int(rng.integers(3, 9))
            lengths = rng.integers(2, 5, 3)
            texts = [np.append(rng.integers(10, 13, n), end) for n in lengths]
            ids = np.concatenate([*texts, rng.integers(10, 13, 3)])  # the last one is cut off
            t = len(ids)
            closed = (ids == end).astype(int)
            number, begins = np.cumsum(closed) - closed, np.cumsum(closed)
            same, causal = number[:, None] == number, np.tri(t, dtype=bool)
            late = begins[:, None] == begins
            mark = (ids == end)[None, :]
            near = number[:, None] - number <= 1
            last = number == number.max()
            first = number[:, None] == 0
            wrong = [
                ("you look ahead: a query sees keys up to its own place", same),
                ("that is the causal mask alone: queries look over the borders", causal),
                ("the mark belongs to the document that it closes, not to the next", late & causal),
                ("a query sees itself too", same & np.tri(t, k=-1, dtype=bool)),
                ("rows are queries and columns are keys; yours is the other way round", (same & causal).T),
                ("that is 1 where it may not look", ~(same & causal)),
                ("you hide the marks; they are tokens of their documents", same & causal & ~mark),
                ("you show all marks so far; those of other documents are behind borders too",
                 causal & (same | mark)),
                ("that compares tokens; two documents can hold the same ones",
                 causal & (ids[:, None] == ids)),
                ("the document before is seen too: only the one before that is shut off", causal & near),
                ("the last document is not closed and is one all the same", same & causal & ~last[:, None]),
                ("only the first border stops anything", causal & (first == first.T)),
            ]  # fmt: skip
            want = (same & causal).astype(float)
            return (ids, end), want, [(a, x.astype(float)) for a, x in wrong]

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def adamw(answer: Answer) -> Verdict:
    """answer(w, gradients, rate, decay, beta1, beta2, eps) -> w (n,) after a step of AdamW for each of
    gradients (steps, n)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, steps = int(rng.integers(3, 5)), int(rng.integers(4, 7))
            w, gradients = rng.normal(0, 1.5, n) + 1, rng.normal(0, 1, (steps, n)) + 0.4
            rate, decay, b1, b2, eps = 0.1, 0.8, 0.6, 0.8, 0.05

            def run(**how: Any) -> Array:
                x, m, v = w.copy(), np.zeros(n), np.zeros(n)
                one, two = how.get("betas", (b1, b2))
                peak = np.zeros(n)
                for i, g in enumerate(gradients):
                    k = i + how.get("from", 1)
                    g = g + decay * x if "l2" in how else g
                    m = one * m + (1 if "heavy" in how else 1 - one) * g
                    v = two * v + (1 - two) * (np.abs(g) if "size" in how else g * g)
                    a = m / (1 - one**k) if "raw" not in how and k else m
                    b = v / (1 - two**k) if "raw" not in how and "raw v" not in how and k else v
                    peak = np.maximum(peak, b)
                    b = peak if "peak" in how else b
                    move = a / (np.sqrt(b + eps) if "inside" in how else np.sqrt(b) + eps)
                    move = a / (b + eps) if "no root" in how else move
                    move = g / (np.sqrt(b) + eps) if "no momentum" in how else move
                    shrink = {"whole": decay, "none": 0.0, "twice": rate * rate * decay, "l2": 0.0}
                    part = next((shrink[key] for key in shrink if key in how), rate * decay)
                    if "after" in how:
                        x = x - rate * move
                        x = x * (1 - part)
                    else:
                        x = x * (1 + part if "grow" in how else 1 - part)
                        x = x + rate * move if "up" in how else x - rate * move
                return x

            wrong = [
                ("the decay goes through Adam's division: that is Adam with L2, not AdamW", run(l2=1)),
                ("the decay is missing", run(none=1)),
                ("the decay is not multiplied by the learning rate", run(whole=1)),
                ("the decay is multiplied by the learning rate twice", run(twice=1)),
                ("the weights grow by the decay; it takes away", run(grow=1)),
                ("the decay is taken of the new weights; it comes first", run(after=1)),
                ("no bias correction: m and v begin at 0 and have to be divided by 1 - beta^k", run(raw=1)),
                ("v lacks its bias correction", run(**{"raw v": 1})),
                ("steps count from 1 in the bias correction", run(**{"from": 2})),
                ("eps is added to the root, not under it", run(inside=1)),
                ("the root of v is missing", run(**{"no root": 1})),
                ("v is of the squares of the gradient", run(size=1)),
                ("the betas are exchanged", run(betas=(b2, b1))),
                ("m is of the gradient times 1 - beta1", run(heavy=1)),
                ("you step by the gradient itself; m is its running mean", run(**{"no momentum": 1})),
                ("you climb; a step goes against the gradient", run(up=1)),
                ("the largest v so far: that is AMSGrad", run(peak=1)),
            ]  # fmt: skip
            return (w, gradients, rate, decay, b1, b2, eps), run(), wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def rate(answer: Answer) -> Verdict:
    """answer(step, steps, peak, warmup, floor) -> a number: the learning rate of a step, counted from 0: up
    in a line over `warmup` steps to `peak`, then a half cosine to `floor` times it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(place: str) -> tuple[tuple[Any, ...], Array, Wrong]:
            steps, warmup = int(rng.integers(40, 70)), int(rng.integers(8, 14))
            peak, floor = float(rng.uniform(2, 4)), float(rng.uniform(0.2, 0.35))
            if place == "warm-up":
                step = int(rng.integers(2, warmup - 3))
                want = peak * (step + 1) / warmup
                wrong = [
                    ("the first step has a rate too: count it as 1 of the warm-up", peak * step / warmup),
                    ("that is no warm-up: it begins at the peak", peak),
                    ("the warm-up begins near 0, not at the floor",
                     peak * (floor + (1 - floor) * (step + 1) / warmup)),
                    ("the warm-up is over a step too late", peak * (step + 1) / (warmup + 1)),
                    ("the warm-up is a line; yours is a cosine",
                     peak * (1 - np.cos(np.pi * (step + 1) / warmup)) / 2),
                    ("the warm-up goes over `warmup` steps, not over all", peak * (step + 1) / steps),
                ]  # fmt: skip
            else:
                low, high = (0.75, 0.9) if place == "late" else (0.15, 0.7)
                step = warmup + int(rng.uniform(low, high) * (steps - warmup))
                done = (step - warmup) / (steps - warmup)

                def cosine(x: float, end: float = floor) -> float:
                    return float(end + (1 - end) * (1 + np.cos(np.pi * x)) / 2)

                want = peak * cosine(done)
                wrong = [
                    ("the cosine ends at 0, not at the floor", peak * cosine(done, 0.0)),
                    ("the cosine begins where the warm-up ends, not at step 0", peak * cosine(step / steps)),
                    ("that is a line, not a cosine", peak * (1 - (1 - floor) * done)),
                    ("a whole wave: the rate rises again; half of one is asked for", peak * cosine(2 * done)),
                    ("a quarter of a wave; half of one is asked for",
                     peak * (floor + (1 - floor) * float(np.cos(np.pi * done / 2)))),
                    ("the rate stays at its peak; it has to come down", peak),
                    ("the floor is a share of the peak, not a rate",
                     floor + (peak - floor) * (1 + float(np.cos(np.pi * done))) / 2),
                    ("the floor is added on top, so that the rate begins above the peak",
                     peak * (floor + cosine(done, 0.0))),
                    ("the cosine runs over all steps from the warm-up's end, and never arrives",
                     peak * cosine((step - warmup) / steps)),
                    ("the cosine takes radians, and half a wave is pi of them",
                     peak * (floor + (1 - floor) * (1 + float(np.cos(180 * done))) / 2)),
                ]  # fmt: skip
                if place == "late":  # earlier that is the cosine that ends at 0
                    wrong.append(("the rate is cut off at the floor; the cosine itself has to end there",
                                  peak * max(floor, cosine(done, 0.0))))  # fmt: skip
            return (step, steps, peak, warmup, floor), np.asarray(want), [
                (a, np.asarray(float(x))) for a, x in wrong
            ]

        for place in ("warm-up", "late", "early", "early"):
            yield apart(lambda: make(place))  # noqa: B023
        steps, warmup, peak, floor = 20, 5, 2.0, 0.25
        remark = "step `warmup` is the first behind it: there the cosine begins, at the peak"
        yield Trial((warmup, steps, peak, warmup, floor), np.asarray(peak), [
            (remark, np.asarray(peak * (warmup + 1) / warmup))
        ])  # fmt: skip
        yield Trial((0, 10, 3.0, 0, 0.5), np.asarray(3.0), [])

    return judge(answer, trials)
