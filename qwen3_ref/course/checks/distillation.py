"""Checks of 17_distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reverse_kl(answer: Answer) -> Verdict:
    """answer(student, teacher) -> (n,): KL(student || teacher) in nats, from logits (n, V)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(*shifts: float, peak: float = 0.0) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, v = int(rng.integers(3, 6)), int(rng.integers(5, 9))
            student, teacher = rng.normal(0, 1.5, (2, n, v)) + np.resize(shifts, n)[:, None]
            student[:, 0], teacher[:, 1] = student[:, 0] + peak, teacher[:, 1] + peak
            s, t = _log_softmax(student), _log_softmax(teacher)
            q, p = np.exp(s), np.exp(t)
            want, middle = (q * (s - t)).sum(-1), np.log((p + q) / 2)
            two = ((q * (s - middle)).sum(-1) + (p * (t - middle)).sum(-1)) / 2
            wrong = [
                ("that is KL(teacher || student); the student's probabilities weigh here",
                 (p * (t - s)).sum(-1)),
                ("you take the mean over the vocabulary; a KL divergence is a sum over it", want / v),
                ("that is the cross-entropy; the student's entropy has to come off", -(q * t).sum(-1)),
                ("that is bits; nats come from the natural logarithm", want / np.log(2)),
                ("the sign is wrong; a KL divergence is never negative", -want),
                ("you take the mean of both directions", (want + (p * (t - s)).sum(-1)) / 2),
                ("that is the Jensen-Shannon divergence", two),
                ("the distances of the probabilities alone: that is total variation",
                 np.abs(p - q).sum(-1) / 2),
                ("you compare logits; softmax comes first", (q * (student - teacher)).sum(-1)),
                ("the log-ratios are not weighed by the student's probabilities", (s - t).sum(-1)),
                ("you take magnitudes of the terms; some of them are negative", (q * np.abs(s - t)).sum(-1)),
                ("wanted is one number a row, not a number a token", q * (s - t)),
                ("wanted is one number a row, not their mean", want.mean()),
            ]  # fmt: skip
            return (student, teacher), want, wrong

        yield apart(lambda: make(0.0))
        yield apart(lambda: make(0.0))
        arguments, want, _ = make(-900.0, 900.0)
        low = np.resize([True, False], len(want))
        yield Trial(arguments, want, [
            ("exp(900) is infinite and exp(-900) is 0: take the row's largest logit out first",
             np.full_like(want, np.nan)),
            ("one largest logit for all rows: a row far below it vanishes; take out each row's own",
             np.where(low, np.nan, want)),
        ], tolerance=2e-3)  # float32 may do  # fmt: skip
        arguments, want, _ = make(0.0, peak=890.0)
        remark = "a softmax can be 0, and its logarithm is lost: take logits less their logsumexp instead"
        lost = [(remark, np.full_like(want, value)) for value in (np.nan, np.inf)]
        yield Trial(arguments, want, lost)

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def reverse_gradient(answer: Answer) -> Verdict:
    """answer(student, teacher) -> (V,): the gradient of KL(student || teacher) with respect to the student's
    logits; both (V,)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            v = int(rng.integers(5, 8))
            student, teacher = rng.normal(0, 1.2, v), rng.normal(0, 1.2, v)
            s, t = _log_softmax(student), _log_softmax(teacher)
            q, p = np.exp(s), np.exp(t)
            kl = (q * (s - t)).sum()
            want = q * (s - t - kl)
            wrong = [
                ("that is the gradient of KL(teacher || student)", q - p),
                ("the mean log-ratio has to come off; a gradient of logits sums to 0", q * (s - t)),
                ("the sign is wrong: that is the way down, a gradient points up", -want),
                ("that sign is wrong, and it is the other direction's gradient", p - q),
                ("each part is weighed by the student's probability", s - t - kl),
                ("you weigh by the teacher's probabilities", p * (s - t - kl)),
                ("that is with respect to probabilities; go on to the logits", s - t + 1),
                ("adding 1 inside changes nothing only if the mean is taken off too", q * (s - t + 1)),
                ("the entropy's part is missing: q (log q + entropy)",
                 -q * (t - (q * t).sum())),
                ("the cross-entropy's part is missing", q * (s - (q * s).sum())),
                ("that is the divergence times q", q * kl),
                ("student and teacher have changed places", p * (t - s - (p * (t - s)).sum())),
                ("the mean that comes off is weighed by the student's probabilities",
                 q * (s - t - (s - t).mean())),
                ("the mean that comes off is KL(student || teacher), not the other direction",
                 q * (s - t - (p * (t - s)).sum())),
                ("a probability moves with every logit, not with its own alone", q * (1 - q) * (s - t + 1)),
                ("take the log-ratio, not the difference of probabilities",
                 q * (q - p - (q * (q - p)).sum())),
            ]  # fmt: skip
            return (student, teacher), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def mean_loss(answer: Answer) -> Verdict:
    """answer(values, lengths) -> a number: the mean over all tokens of all replies; values (n, r), of which
    only the first lengths[i] of row i belong to the reply."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(rubbish: float, full: int = 2) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, r = int(rng.integers(4, 7)), int(rng.integers(8, 11))
            lengths = rng.integers(3, r - 2, n)
            lengths[1:3] = 2, r - full
            real = np.arange(r) < lengths[:, None]
            values = rng.gamma(1.0, 1.0, (n, r))
            padded = np.where(real, values, rubbish * rng.uniform(0.9, 1.1, (n, r)))
            kept = np.where(real, values, 0.0)
            means = kept.sum(1) / lengths
            want = kept.sum() / lengths.sum()
            first, next_ = np.arange(r) < lengths[:, None] - 1, np.arange(r) <= lengths[:, None]
            wrong = [
                ("that is the mean of the replies' means: tokens of short replies weigh more", means.mean()),
                ("padding is counted: what lies behind a reply is no part of it", padded.mean()),
                ("padding adds nothing and yet is counted in the divisor", kept.mean()),
                ("you divide by the number of replies, not of their tokens", kept.sum() / n),
                ("that is the sum; divide by the number of tokens", kept.sum()),
                ("the last token of each reply, which ends it, is missing",
                 np.where(first, values, 0).sum() / first.sum()),
                ("the first token of each reply is missing",
                 (kept[:, 1:].sum() / (lengths - 1).sum())),
                ("one token too many of each reply", np.where(next_, padded, 0).sum() / next_.sum()),
                ("every reply has a length of its own; you take the first's", padded[:, : lengths[0]].mean()),
                ("every reply has a length of its own; you take the longest",
                 padded[:, : lengths.max()].mean()),
                ("every reply has a length of its own; you take the shortest",
                 padded[:, : lengths.min()].mean()),
                ("what lies behind a reply is added in, though the divisor is right",
                 padded.sum() / lengths.sum()),
                ("that is the mean over places of their means: late places, which few reach, weigh more",
                 np.mean([values[lengths > j, j].mean() for j in range(lengths.max())])),
                ("wanted is one number, not one a reply", means),
                ("you divide by the mean length once more", want / lengths.mean()),
            ]  # fmt: skip
            return (padded, lengths), np.asarray(want), [(a, np.asarray(b)) for a, b in wrong]

        for rubbish in (0.7, 11.0):
            yield apart(lambda: make(rubbish))  # noqa: B023

        def full() -> tuple[tuple[Any, ...], Array, Wrong]:
            arguments, want, _ = make(0.7, full=0)
            short = [row[: min(k, len(row) - 1)] for row, k in zip(*arguments, strict=True)]
            remark = "the last token of a reply as long as its row is missing"
            counts = sum(map(len, short)), arguments[1].sum()
            return arguments, want, [(remark, np.asarray(sum(map(sum, short)) / n)) for n in counts]

        yield apart(full)
        padded, want = make(float("nan"))[:2]
        remark = "a NaN behind a reply came through: 0 * NaN is NaN, so choose with np.where, or slice"
        yield Trial(padded, want, [(remark, np.asarray(float("nan")))])

    return judge(answer, trials)


def text_kl(answer: Answer) -> Verdict:
    """answer(first, student, teacher, length) -> a number: KL(student || teacher) of texts of `length` tokens
    after a first token drawn from `first` (V,), which both share; student and teacher (V, V), a row for
    each last token."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(length: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            v = 4 if length == 3 else 3  # so that a mean over one is not a mean over the other
            first = rng.dirichlet(np.full(v, 0.7))
            q, p = rng.dirichlet(np.full(v, 0.8), v) + 0.02, rng.dirichlet(np.full(v, 0.8), v) + 0.02
            q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
            reverse, forward = (q * np.log(q / p)).sum(1), (p * np.log(p / q)).sum(1)

            def along(step: Array, each: Array, count: int = length) -> float:
                here, total = first, 0.0
                for _ in range(count):
                    total += float(here @ each)
                    here = here @ step
                return total

            late = along(q, reverse, length + 1) - along(q, reverse, 1)
            wrong = [
                ("the teacher writes your texts; in KL(student || teacher) the student does",
                 along(p, reverse)),
                ("each token's divergence goes the other way round", along(q, forward)),
                ("that is KL(teacher || student): its texts, its direction", along(p, forward)),
                ("that is per token; the divergence of texts is the sum", along(q, reverse) / length),
                ("each last token counts as much as any other; weigh it by how often the student is there",
                 length * float(reverse.mean())),
                ("after the first token you stay where you are; the student moves on",
                 length * float(first @ reverse)),
                ("the table stands on the right: here @ student, for its rows are where the student is",
                 along(q.T, reverse)),
                ("`first` is left out: texts do not begin with every token alike",
                 sum(float((np.linalg.matrix_power(q, k) @ reverse).mean()) for k in range(length))),
                ("the student draws its tokens; you follow the likeliest",
                 along(np.eye(v)[q.argmax(1)], reverse)),
                ("that is the cross-entropy; the student's entropy has to come off",
                 along(q, -(q * np.log(p)).sum(1))),
                ("one token too few", along(q, reverse, length - 1)),
                ("one token too many", along(q, reverse, length + 1)),
                ("you leave the first step out: it is drawn after `first` already", late),
                ("all texts begin with the likeliest token; `first` has others too",
                 _from(int(first.argmax()), q, reverse, length)),
                ("that is the divergence of the last token alone",
                 along(q, reverse) - along(q, reverse, length - 1)),
                ("the sign is wrong; a KL divergence is never negative", -along(q, reverse)),
            ]  # fmt: skip
            want = along(q, reverse)
            return (first, q, p, length), np.asarray(want), [(a, np.asarray(b)) for a, b in wrong]

        for length in (3, 4, 6):
            yield apart(lambda: make(length))  # noqa: B023

    return judge(answer, trials)


def _from(token: int, step: Array, each: Array, length: int) -> float:
    """`text_kl` of texts that begin with one token."""
    here, total = np.eye(len(step))[token], 0.0
    for _ in range(length):
        total += float(here @ each)
        here = here @ step
    return total
