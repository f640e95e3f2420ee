"""Checks of 14_balancing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge
from qwen3_ref.numpy_ref import softmax


def balance_gradient(answer: Answer) -> Verdict:
    """answer(logits, shares) -> (n, E): the gradient of E * sum(shares * mean probabilities) with respect to
    the logits (n, E); the shares (E,) are given and have none."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, e = int(rng.integers(4, 7)), int(rng.integers(5, 8))
            logits = rng.normal(0, 1, (n, e))
            shares = 2 * rng.dirichlet(np.full(e, 1.0))
            p = softmax(logits)
            mean = (p * shares).sum(1, keepdims=True)
            want = e / n * p * (shares - mean)
            overall = (p.mean(0) * shares).sum()
            wrong = [
                ("you do not divide by the number of tokens; p is a mean over them", want * n),
                ("the factor E is missing", want / e),
                ("the token's own mean share has to come off; a gradient of logits sums to 0",
                 e / n * p * shares),
                ("each part is weighed by the probability it belongs to", e / n * (shares - mean)),
                ("the sign is wrong: that is the push, a gradient points up", -want),
                ("each token takes off its own mean share, not the batch's", e / n * p * (shares - overall)),
                ("you take off the mean over experts; it is weighed by the token's probabilities",
                 e / n * p * (shares - shares.mean())),
                ("that is the gradient with respect to probabilities", np.tile(e / n * shares, (n, 1))),
                ("that of one token for all: each has its own probabilities",
                 np.tile(want.mean(0), (n, 1))),
                ("you square the probabilities: p stands once in front",
                 e / n * p**2 * (shares - mean)),
                ("your shares sum to 1; given are shares that sum to the number of chosen experts",
                 want / 2),
                ("that is the loss's value times p", e / n * p * mean),
            ]  # fmt: skip
            return (logits, shares), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def global_shares(answer: Answer) -> Verdict:
    """answer(counts, top_k) -> (E,): the shares of the global batch, which sum to top_k, from how often each
    of m micro-batches of different lengths chose each expert, (m, E)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            m, e, k = int(rng.integers(3, 5)), int(rng.integers(5, 8)), int(rng.integers(2, 4))
            tokens = rng.permutation([3, 40, 11, 90])[:m]
            counts = np.stack([rng.multinomial(k * t, rng.dirichlet(np.full(e, 1.0))) for t in tokens])
            total = counts.sum(0)
            each = counts / counts.sum(1, keepdims=True)
            want = k * total / total.sum()
            wrong = [
                ("that is the mean of the micro-batches' shares: short ones weigh too much",
                 k * each.mean(0)),
                ("your shares sum to 1; every token chooses top_k experts", want / k),
                ("those are counts; divide by the number of tokens", total * 1.0),
                ("you count the last micro-batch alone", k * each[-1]),
                ("you count the first micro-batch alone", k * each[0]),
                ("you add the micro-batches' shares up and do not divide", k * each.sum(0)),
                ("you divide by the number of picks and forget that there are top_k a token; or twice",
                 total / total.sum() / k),
                ("you divide by the largest count", total / total.max()),
                ("wanted is one share an expert, not one for each micro-batch", k * each),
                ("you divide by the number of micro-batches", total / m),
                ("you leave the last micro-batch out", k * counts[:-1].sum(0) / counts[:-1].sum()),
                ("that is a softmax of counts; shares are counts over their sum", k * softmax(total * 1.0)),
            ]  # fmt: skip
            return (counts, k), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def z_gradient(answer: Answer) -> Verdict:
    """answer(logits) -> (n, E): the gradient of the mean over tokens of logsumexp(logits) squared."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(shift: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, e = int(rng.integers(3, 6)), int(rng.integers(4, 8))
            logits = rng.normal(0, 2, (n, e)) + shift
            high = logits.max(-1, keepdims=True)
            lse = high + np.log(np.exp(logits - high).sum(-1, keepdims=True))
            p = softmax(logits)
            want = 2 / n * lse * p
            wrong = [
                ("the 2 of the square is missing", want / 2),
                ("you do not divide by the number of tokens", want * n),
                ("the logsumexp is missing: a square's gradient is twice it", 2 / n * p),
                ("the probabilities are missing: they are the gradient of a logsumexp",
                 2 / n * np.broadcast_to(lse, p.shape)),
                ("the sign is wrong", -want),
                ("you divide by the number of all logits", want / e),
                ("the mean of the logsumexps is squared; each is squared by itself", 2 / n * lse.mean() * p),
                ("that is weight decay of the logits: 2 times the logit itself", 2 / n * logits),
                ("you take the largest logit for the logsumexp", 2 / n * high * p),
                ("that is the gradient of the logsumexp, not of its square", p / n),
                ("that squares the logsumexp again", 2 / n * lse**2 * p),
                ("you add 1 to the logsumexp", 2 / n * (lse + 1) * p),
            ]  # fmt: skip
            return (logits,), want, wrong

        for shift in (0.0, 4.0):
            yield apart(lambda: make(shift))  # noqa: B023
        yield Trial(*make(900.0)[:2], [])  # exp(900) is infinite

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def specialisation(answer: Answer) -> Verdict:
    """answer(counts) -> a number: of counts (G, E), by domain and expert, the mean over experts, each weighed
    by its tokens, of half the sum of |its share of a domain - all experts' share of it|."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(dead: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            g, e = int(rng.integers(4, 6)), int(rng.integers(5, 8))  # of three, the largest is half the sum
            counts = rng.multinomial(60, rng.dirichlet(np.full(e, 0.5)), size=g) + 1
            counts = counts * rng.integers(1, 6, (g, 1)) * rng.integers(1, 8, e)
            if dead:
                counts[:, 0] = 0
            total = np.maximum(counts.sum(0), 1)
            average = counts.sum(1) / counts.sum()
            share = counts / total
            far = np.abs(share - average[:, None]).sum(0) / 2
            weight = counts.sum(0) / counts.sum()
            alive = counts.sum(0) > 0
            by_domain = counts / counts.sum(1, keepdims=True)
            other = np.abs(by_domain - weight).sum(1) / 2
            even = np.abs(share - 1 / g).sum(0) / 2
            wrong = [
                ("the half is missing: as it is, a mismatch is counted on both sides",
                 2 * (far * weight).sum()),
                ("experts are weighed by their tokens", far[alive].mean()),
                ("you compare with equal shares; domains differ in size", (even * weight).sum()),
                ("you compare domains by the experts they use; wanted are experts by the domains they serve",
                 other.mean()),
                ("you take squares; wanted are magnitudes",
                 (((share - average[:, None]) ** 2).sum(0) / 2 * weight).sum()),
                ("you take the largest difference; wanted is half of their sum",
                 (np.abs(share - average[:, None]).max(0) * weight).sum()),
                ("that is the most special expert's, not the mean", far[alive].max()),
                ("you take the mean over domains; wanted is half of the sum",
                 (2 * far * weight).sum() / g),
                ("wanted is one number, not one an expert", far),
                ("you weigh and do not divide by all tokens", (far * counts.sum(0)).sum()),
                ("that is how far the largest domain is above its share",
                 ((share - average[:, None]).max(0) * weight).sum() / 2),
            ]  # fmt: skip
            return (counts,), np.asarray((far * weight).sum()), [(a, np.asarray(b)) for a, b in wrong]

        for dead in (False, False):
            yield apart(lambda: make(dead))  # noqa: B023
        arguments, want, _ = make(True)
        remark = "an expert that serves nobody gives 0 / 0; it has no tokens, so it has no weight"
        yield Trial(arguments, want, [(remark, np.asarray(float("nan")))])

    with np.errstate(all="ignore"):
        return judge(answer, trials)
