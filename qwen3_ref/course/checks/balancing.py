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
            n, e = int(rng.integers(3, 5)), int(rng.integers(5, 8))  # never as many tokens as experts
            logits = rng.normal(0, 1, (n, e))
            shares = 2 * rng.dirichlet(np.full(e, 1.0))
            p = softmax(logits)
            mean = (p * shares).sum(1, keepdims=True)
            want = e / n * p * (shares - mean)
            overall = (p.mean(0) * shares).sum()
            turned = softmax(logits.T).T
            anew = [(np.argsort(-logits, 1)[:, :k, None] == np.arange(e)).sum((0, 1)) / n for k in (1, 2)]
            wrong = [
                ("you do not divide by the number of tokens; p is a mean over them", want * n),
                ("the factor E is missing", want / e),
                ("the factor E and the number of tokens are both missing", want * n / e),
                ("E stands above and the number of tokens below", want * (n / e) ** 2),
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
                ("an expert's probability moves with every logit of its token, not with its own alone",
                 e / n * p * (1 - p) * shares),
                ("softmax goes over the experts of a token, not over the tokens",
                 e / n * turned * (shares - (turned * shares).sum(1, keepdims=True))),
                *(("the shares are given; do not count them anew", e / n * p * (f - p @ f[:, None]))
                  for f in anew),
            ]  # fmt: skip
            return (logits, shares), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def global_shares(answer: Answer) -> Verdict:
    """answer(counts, top_k) -> (E,): the shares of the global batch, which sum to top_k, from how often each
    of m micro-batches of different lengths chose each expert, (m, E)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(k: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            m, e = int(rng.integers(3, 5)), int(rng.integers(5, 8))
            tokens = rng.permutation([5, 40, 11, 90])[:m]
            scores = [rng.normal(0, 1.5, e) + rng.gumbel(size=(t, e)) for t in tokens]
            counts = np.stack([(np.argsort(-s, 1)[:, :k, None] == np.arange(e)).sum((0, 1)) for s in scores])
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
                ("you leave the first micro-batch out", k * counts[1:].sum(0) / counts[1:].sum()),
                ("every micro-batch has a length of its own; you take the first's",
                 total / (m * tokens[0])),
                ("that is the median of the micro-batches' shares", k * np.median(each, 0)),
                ("that is a softmax of counts; shares are counts over their sum", k * softmax(total * 1.0)),
            ]  # fmt: skip
            return (counts, k), want, wrong

        for k in [2, 3, 2][:: int(rng.choice([1, -1]))] + [3]:  # more than one, whoever writes one in
            yield apart(lambda: make(k))  # noqa: B023

    return judge(answer, trials)


def z_gradient(answer: Answer) -> Verdict:
    """answer(logits) -> (n, E): the gradient of the mean over tokens of logsumexp(logits) squared."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(*shifts: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, e = int(rng.integers(3, 5)), int(rng.integers(5, 8))
            logits = rng.normal(0, 2, (n, e)) + np.resize(shifts, n)[:, None]
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
                ("the largest logit was taken out and not put back", 2 / n * (lse - high) * p),
                ("the derivative of a logsumexp is the softmax; you take the softmax's own",
                 2 / n * lse * p * (1 - p)),
                ("each token has a logsumexp of its own, over its experts", 2 / n * lse.max() * p),
                ("a logsumexp below 0 is pushed up: its sign counts", 2 / n * np.abs(lse) * p),
                ("a logsumexp below 0 is pushed up: its sign counts", 2 / n * np.maximum(lse, 0) * p),
                ("exp(900) is infinite and exp(-900) is 0: take the row's largest logit out first",
                 np.full_like(want, np.nan)),
                ("one largest logit for all rows: a row far below it vanishes; take out each row's own",
                 np.where(high < high.max() - 700, np.nan, want)),
                ("one largest logit for all rows: a row far below it vanishes; take out each row's own",
                 np.where(high < high.max() - 700, -np.inf, want)),
            ]  # fmt: skip
            return (logits,), want, wrong

        yield apart(lambda: _without_nan(make(-6.0, 4.0)))
        yield apart(lambda: _without_nan(make(4.0)))
        yield Trial(*make(-900.0, 900.0))

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def specialisation(answer: Answer) -> Verdict:
    """answer(counts) -> a number: of counts (G, E), by domain and expert, the mean over experts, each weighed
    by its tokens, of half the sum of |its share of a domain - all experts' share of it|."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(dead: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            g, e = int(rng.integers(4, 6)), int(rng.integers(6, 8))  # of three, the largest is half the sum
            counts = rng.multinomial(60, rng.dirichlet(np.full(e, 0.5)), size=g) + 1
            counts = counts * rng.integers(1, 6, (g, 1)) * rng.integers(1, 8, e)
            counts[int(rng.integers(g)), 1:3] = 0
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
                ("a domain that an expert never serves counts too: it is missing from its mix",
                 (np.where(counts > 0, np.abs(share - average[:, None]), 0).sum(0) / 2 * weight).sum()),
                ("you compare with the mean of the experts' mixes; wanted is the mix of all tokens",
                 (np.abs(share - share[:, alive].mean(1, keepdims=True)).sum(0) / 2 * weight).sum()),
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


def _without_nan(made: tuple[tuple[Any, ...], Array, Wrong]) -> tuple[tuple[Any, ...], Array, Wrong]:
    """Without the mistakes that show where logits are far apart only."""
    arguments, want, wrong = made
    return arguments, want, [(r, w) for r, w in wrong if np.isfinite(w).all() and not np.array_equal(w, want)]
