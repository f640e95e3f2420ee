"""Checks of 06_mixture_of_experts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge
from qwen3_ref.numpy_ref import route, softmax


def stored_and_used(answer: Answer) -> Verdict:
    """answer(D, F, E, K) -> parameters of one MoE layer, stored and used on a token."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            D, F = int(rng.integers(40, 60)), int(rng.integers(11, 20))
            E, K = int(rng.integers(11, 20)), int(rng.integers(2, 6))  # more than twice as many
            router, expert = D * E, 3 * D * F
            want = np.array([router + E * expert, router + K * expert])
            mistakes = [
                ("the router is missing: it has a row of D values for each expert", want - router),
                ("an expert has three matrices: gate, up and down", want - [E * D * F, K * D * F]),
                ("the router works in full: it scores all E experts", want - [0, (E - K) * D]),
                ("the router is stored too, not only used", want - [router, 0]),
                ("the router works on a token too", want - [0, router]),
                ("Qwen3's router has no bias", want + E),
                ("there is no shared expert in Qwen3", want + expert),
                ("norms are not asked for: the router and the experts alone", want + D),
                ("the router's rows are D wide, not F", want + E * (F - D)),
                ("used counts what works on a token, not what rests", want * [1, 0] + [0, (E - K) * expert]),
                ("stored comes first, used second", want[::-1]),
            ]
            yield Trial((D, F, E, K), want.astype(float), mistakes, 0.5)

    return judge(answer, trials)


def dense_weights(answer: Answer) -> Verdict:
    """answer(logits (n, E), top_k, normalize) -> weights (n, E), zero where not chosen."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for n, E, top_k, normalize in ((5, 8, 3, True), (6, 9, 2, False), (4, 4, 2, True)):
            logits = 2 * rng.normal(size=(n, E)) + rng.normal(size=(n, 1))
            p = softmax(logits)
            weights, experts = route(logits, top_k, normalize)

            def spread(values: Array, where: Array = experts, like: Array = logits) -> Array:
                out = np.zeros_like(like)
                np.put_along_axis(out, where, values, axis=-1)
                return out

            first = np.take_along_axis(logits, experts, axis=-1)
            no_softmax = "these are the logits; the weights are probabilities"
            flag = "norm_topk_prob is {}: the chosen weights {} sum to 1"
            on, off = route(logits, top_k, True)[0], route(logits, top_k, False)[0]
            first_p = np.take_along_axis(p, experts, axis=-1)
            above = np.where(p > 1 / E, p, 0)
            above = above / above.sum(-1, keepdims=True) if normalize else above
            least = np.argsort(p, axis=-1)[:, :top_k]
            worst = np.take_along_axis(p, least, axis=-1)
            mistakes = [
                (no_softmax, spread(first)),
                (no_softmax, spread(first / first.sum(-1)[:, None])),
                (flag.format("off", "are left as they are, they need not"), spread(on)),
                (flag.format("on", "are divided by their sum, so that they"), spread(off)),
                ("you keep every expert; all but the top_k are 0", p),
                ("your result lacks the zeros: it is (n, E), a column for each expert", weights),
                ("you choose the least probable experts", spread(worst / worst.sum(-1)[:, None], least)),
                ("you choose the least probable experts", spread(worst, least)),
                (
                    "each expert has its own weight: yours go to the chosen in reverse",
                    spread(weights[:, ::-1]),
                ),
                ("one softmax is enough: you take that of the probabilities again", spread(softmax(first_p))),
                (
                    "each token's weights sum to 1 by themselves, not all tokens' together",
                    spread(first_p / first_p.sum()),
                ),
                (
                    "each token has top_k experts, however small their probabilities: yours are above 1/E",
                    above,
                ),
                ("the softmax goes over the experts, the last axis", _other_axis(logits, top_k, normalize)),
                ("you mark the chosen with 1; wanted are their weights", spread(np.ones_like(weights))),
                ("you share equally; the weights are the router's", spread(np.full_like(weights, 1 / top_k))),
                ("top_k experts are kept; you keep one more", _k(logits, top_k + 1, normalize)),
                ("top_k experts are kept; you keep one fewer", _k(logits, top_k - 1, normalize)),
            ]
            yield Trial((logits, top_k, normalize), spread(weights), mistakes)

    return judge(answer, trials)


def _k(logits: Array, top_k: int, normalize: bool) -> Array:
    """The right answer for another top_k."""
    weights, experts = route(logits, top_k, normalize)
    out = np.zeros_like(logits)
    np.put_along_axis(out, experts, weights, axis=-1)
    return out


def _other_axis(logits: Array, top_k: int, normalize: bool) -> Array:
    """The softmax over the tokens."""
    p = softmax(logits.T).T
    experts = np.argsort(-p, axis=-1)[:, :top_k]
    weights = np.take_along_axis(p, experts, axis=-1)
    out = np.zeros_like(logits)
    np.put_along_axis(out, experts, weights / weights.sum(-1, keepdims=True) if normalize else weights, -1)
    return out


def stack(answer: Answer) -> Verdict:
    """answer({"experts.<e>.<part>_proj.weight": array}) -> gate_up (E, 2F, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for E, F, D in ((12, 3, 5), (23, 4, 4), (104, 2, 3)):
            gate, up = rng.normal(size=(2, E, F, D))
            down = rng.normal(size=(E, D, F))
            parts = {"gate": gate, "up": up, "down": down}
            named = [(f"experts.{e}.{p}_proj.weight", a[e]) for p, a in parts.items() for e in range(E)]
            tensors = {named[i][0]: named[i][1] for i in rng.permutation(len(named))}
            want = np.concatenate([gate, up], axis=1)
            alphabetical = sorted(range(E), key=str)
            met = list(dict.fromkeys(int(name.split(".")[1]) for name in tensors))
            gates = [int(n.split(".")[1]) for n in tensors if "gate" in n]
            ups = [int(n.split(".")[1]) for n in tensors if "up" in n]
            in_turn = np.stack([gate, up], axis=2).reshape(E, 2 * F, D)
            numbers = "your experts are in alphabetical order: 10 comes before 2; sort by the number"
            as_met = "your experts are in the order of the dict; sort by the number in the name"
            mistakes = [
                (numbers, want[alphabetical]),
                (as_met, want[met]),
                (as_met, want[gates]),
                (as_met, np.concatenate([gate[gates], up[ups]], axis=1)),
                (
                    "gate is in order, but up is not: sort it by the number too",
                    np.concatenate([gate, up[ups]], axis=1),
                ),
                (
                    "gate is in order, but up is not: sort it by the number too",
                    np.concatenate([gate, up[alphabetical]], axis=1),
                ),
                (
                    "the second half of yours is gate again; it should be up",
                    np.concatenate([gate, gate], axis=1),
                ),
                ("your experts are in descending order; 0 comes first", want[::-1]),
                ("up comes first in yours; gate rows go first", np.concatenate([up, gate], axis=1)),
                ("your gate and up rows alternate; all gate rows go first", in_turn),
                ("your experts are transposed: wanted is (E, 2F, D)", want.swapaxes(1, 2)),
                ("you join gate and up along D; join them along F", np.concatenate([gate, up], axis=2)),
                ("you join all experts into one matrix", want.reshape(-1, D)),
            ]
            yield Trial((tensors,), want, mistakes)

    return judge(answer, trials)


def combine(answer: Answer) -> Verdict:
    """answer(out (n K, D), order (n K,), weights (n, K)) -> y (n, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for n, K, D in ((7, 3, 4), (5, 2, 6)):
            experts = np.argsort(rng.random((n, 6)), axis=1)[:, :K]
            order = np.argsort(experts.ravel(), kind="stable")
            weights, out = rng.dirichlet(np.ones(K), size=n), rng.normal(size=(n * K, D))

            def put(
                token: Array, share: Array, add: bool = True, rows: Array = out, shape: Array = weights
            ) -> Array:
                y = np.zeros((len(shape), rows.shape[1]))
                if add:
                    np.add.at(y, token, share[:, None] * rows)
                else:
                    y[token] = share[:, None] * rows
                return y

            token, share = order // K, weights.ravel()[order]
            lost = "a token that appears twice keeps its last row: y[token] += does not add repeated rows"
            its_own = "weights.ravel() is in the order of picks, out is sorted: take the weights at `order`"
            division = "the token of a pick is order // K, not order % {}"
            in_slots = np.arange(n * K) // K
            backwards = weights.ravel()[np.argsort(order)]
            mistakes = [
                (lost, put(token, share, add=False)),
                (its_own, put(token, weights.ravel())),
                (f"two bugs are left. {its_own}; and {lost}", put(token, weights.ravel(), add=False)),
                (division.format("n"), put(order % n, share)),
                (division.format("n"), put(order % n, share, add=False)),
                (division.format("n"), put(order % n, weights.ravel())),
                (
                    "all three bugs are still there: the token, its weight, and repeated rows",
                    put(order % n, weights.ravel(), add=False),
                ),
                ("row r of out is pick order[r], so its weight is at order[r]", put(token, backwards)),
                ("the weights are missing", put(token, np.ones(n * K))),
                (
                    "the weights of a token's picks sum to 1 already: do not divide by K",
                    put(token, share) / K,
                ),
                (
                    "pick p is [p // K, p % K] of weights: yours go by columns",
                    put(token, weights.T.ravel()[order]),
                ),
                (
                    "each pick has its own weight; you take a token's first for all",
                    put(token, weights[token, 0]),
                ),
                ("pick p belongs to token p // K: p % K is its place among the K", put(order % K, share)),
                (
                    "row r of out is pick order[r]: its token is order[r] // K",
                    put(np.argsort(order) // K, share),
                ),
                (
                    "rows of out are sorted by expert: row r is not pick r but pick order[r]",
                    put(in_slots, weights.ravel()),
                ),
                (
                    "that goes the wrong way: row r of out is pick order[r], so it is not out[order]",
                    put(in_slots, weights.ravel(), rows=out[order]),
                ),
            ]
            yield Trial((out, order, weights), put(token, share), mistakes)

    return judge(answer, trials)


def global_losses(answer: Answer) -> Verdict:
    """answer(logits (m, n, E), top_k) -> (m,) balancing losses with the shares of the global batch."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for m, n, E, top_k in ((3, 6, 8, 2), (2, 9, 5, 3)):
            logits = 1.5 * rng.normal(size=(m, n, E)) + 2 * rng.normal(size=(m, 1, E))  # each its taste
            p = softmax(logits)
            chosen = np.zeros_like(p)
            np.put_along_axis(chosen, route(logits, top_k, False)[1], 1.0, axis=-1)
            mean_p, own, shares = p.mean(1), chosen.mean(1), chosen.mean((0, 1))
            want = E * (shares * mean_p).sum(-1)
            twice = softmax(p)
            best = p == p.max(-1, keepdims=True)
            mistakes = [
                ("you count the shares in each micro-batch; count over all", E * (own * mean_p).sum(-1)),
                ("that is a softmax of probabilities; one is enough", E * (shares * twice.mean(1)).sum(-1)),
                ("your shares sum to 1; here they sum to top_k", want / top_k),
                ("the factor E is missing", want / E),
                ("that is one loss for all; wanted is one for each micro-batch", want.mean()),
                ("every micro-batch has its own mean probabilities", np.full(m, want.mean())),
                ("shares are of tokens: divide the counts by m * n", want * m * n),
                ("shares are of all tokens: divide by m * n, not by n", want * m),
                ("these are logits; take the softmax first", E * (shares * logits.mean(1)).sum(-1)),
                ("wanted is the sum over experts, times E: you take a mean", want / E / E),
                (
                    "yours is the other way round: shares are of all, probabilities each micro-batch's own",
                    E * (own * mean_p.mean(0)).sum(-1),
                ),
                (
                    "the softmax goes over the experts, the last axis",
                    E * (shares * softmax(logits.swapaxes(1, 2)).mean(2)).sum(-1),
                ),
                ("a token chooses top_k experts, not one", E * (best.mean((0, 1)) * mean_p).sum(-1)),
                (
                    "a share counts choices, 1 for each; yours adds up probabilities",
                    E * (mean_p.mean(0) * mean_p).sum(-1),
                ),
                (
                    "a share counts choices, 1 for each; yours adds up probabilities",
                    top_k * E * (mean_p.mean(0) * mean_p).sum(-1),
                ),
                (
                    "a share counts choices, 1 for each; yours adds up probabilities",
                    E * ((chosen * p).mean((0, 1)) * mean_p).sum(-1),
                ),
                ("the losses come undivided: there is one for each micro-batch", want / m),
            ]
            yield Trial((logits, top_k), want, mistakes)

    return judge(answer, trials)
