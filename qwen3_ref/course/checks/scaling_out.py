"""Checks of 21_scaling_out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge

Made = tuple[tuple[Any, ...], Array, Wrong]


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def split_mlp(answer: Answer) -> Verdict:
    """answer(x, gates, ups, downs) -> the output (n, D) as each rank has it in the end, a list of w arrays;
    gates and ups are lists of w slices (F/w, D), downs of slices (D, F/w)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(w: int) -> Made:
            n, d, f = int(rng.integers(2, 4)), int(rng.integers(4, 7)), int(rng.integers(3, 6))
            x = rng.normal(size=(n, d))
            gates, ups = ([rng.normal(size=(f, d)) for _ in range(w)] for _ in range(2))
            downs = [rng.normal(size=(d, f)) for _ in range(w)]

            def parts(act: Any, of_up: Any = lambda z: z) -> Array:
                triples = zip(gates, ups, downs, strict=True)
                return np.stack([(act(x @ g.T) * of_up(x @ u.T)) @ d.T for g, u, d in triples])

            def silu(z: Array) -> Array:
                return z * _sigmoid(z)

            mine = parts(silu)
            whole = mine.sum(0)

            def everywhere(y: Array) -> Array:
                return np.stack([y] * w)

            summed = silu(np.sum([x @ g.T for g in gates], 0)) * np.sum([x @ u.T for u in ups], 0)
            wrong = [
                ("each rank has a part of the sum; an all-reduce is missing", mine),
                ("parts of a sum add up; you take their mean", everywhere(whole / w)),
                ("that is one array; every rank needs the sum, so give one a rank", whole),
                ("silu goes on the gate, not on up", everywhere(parts(lambda z: z, silu).sum(0))),
                ("the gate goes through silu", everywhere(parts(lambda z: z).sum(0))),
                ("silu(z) is z times its sigmoid", everywhere(parts(_sigmoid).sum(0))),
                ("up multiplies the gate; you add it",
                 everywhere(sum((silu(x @ g.T) + x @ u.T) @ d.T
                                for g, u, d in zip(gates, ups, downs, strict=True)))),  # type: ignore[arg-type]
                ("gate and up are split by columns: each rank's channels are its own and are not summed",
                 everywhere(sum(summed @ d.T for d in downs))),
                ("the sum is taken once, not once for each rank", everywhere(whole * w)),
                ("that is the first rank's part on every rank", everywhere(mine[0])),
                ("that is a reduce: one rank has the sum, and the others need it too",
                 np.stack([whole, *mine[1:]])),
                ("down takes the channels of its own rank", everywhere(sum(
                    (silu(x @ gates[r].T) * (x @ ups[r].T)) @ downs[(r + 1) % w].T for r in range(w)
                ))),  # type: ignore[arg-type]
            ]  # fmt: skip
            return (x, gates, ups, downs), everywhere(whole), wrong

        for w in (2, 3, 4):
            yield apart(lambda w=w: make(w))  # type: ignore[misc]

    return judge(answer, trials)


def next_norm(answer: Answer) -> Verdict:
    """answer(x, parts, weight, eps) -> (n, D): RMSNorm of the stream x (n, D) after a row-parallel o_proj,
    whose parts (n, D) lie on w ranks."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(w: int) -> Made:
            n, d = int(rng.integers(3, 5)), int(rng.integers(6, 9))
            x, weight, eps = rng.normal(size=(n, d)), rng.normal(size=d), float(rng.uniform(0.4, 0.9))
            parts = [rng.normal(size=(n, d)) for _ in range(w)]

            def norm(y: Array, e: float = eps, square: Array | None = None) -> Array:
                square = (y**2).mean(1, keepdims=True) if square is None else square
                return y / np.sqrt(square + e) * weight

            total = sum(parts)
            stream = x + total
            squares = ((x**2).sum(1, keepdims=True) + sum((p**2).sum(1, keepdims=True) for p in parts)) / d
            early = "the norm of a sum is not the sum of norms: all-reduce first, then norm"
            centred = stream - stream.mean(1, keepdims=True)
            root = np.sqrt((stream**2).mean(1, keepdims=True))
            wrong = [
                (early, sum(norm(x + p) for p in parts)),
                (early, norm(x) + sum(norm(p) for p in parts)),
                (early, norm(x + sum(norm(p) for p in parts))),
                ("the stream is whole on every rank: add it once, not once a rank", norm(w * x + total)),
                ("parts of a sum add up; you take their mean", norm(x + total / w)),
                ("the square of a sum is not the sum of squares", norm(stream, square=squares)),
                ("the block adds to the stream: x is missing", norm(np.asarray(total))),
                ("the parts are missing", norm(x)),
                ("that is the first rank's part alone", norm(x + parts[0])),
                ("eps stands under the root", stream / (root + eps) * weight),
                ("eps is missing", norm(stream, 0.0)),
                ("RMSNorm takes no mean off", norm(centred)),
                ("the gain is missing", norm(stream) / weight),
                ("the gain is weight, not 1 + weight", norm(stream) / weight * (1 + weight)),
                ("you divide by the root of the sum of squares; it is their mean",
                 norm(stream, square=(stream**2).sum(1, keepdims=True))),
                ("a token's square is taken over its own channels, not over tokens",
                 norm(stream, square=(stream**2).mean(0, keepdims=True))),
                ("the norm is what the next layer reads; the stream is not added to it again",
                 stream + norm(stream)),
            ]  # fmt: skip
            return (x, parts, weight, eps), norm(stream), [(r, np.asarray(a)) for r, a in wrong]

        for w in (2, 3, 4):
            yield apart(lambda w=w: make(w))  # type: ignore[misc]

    return judge(answer, trials)


def global_loss(answer: Answer) -> Verdict:
    """answer(counts, probabilities, tokens) -> a number: the balancing loss of the whole batch, E times the
    sum of share times mean probability, from what the ranks of a dp x tp mesh counted, (dp, tp, E) each;
    tokens (dp,), the same for all tp ranks of a row."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(dp: int, tp: int, k: int) -> Made:
            e = int(rng.integers(5, 9))
            tokens = rng.permutation([6, 40, 15, 90])[:dp]
            p = [rng.dirichlet(np.full(e, 0.7), size=t) for t in tokens]
            chosen = [(np.argsort(-q, 1)[:, :k, None] == np.arange(e)).sum((0, 1)) for q in p]
            counts = np.repeat(np.stack(chosen)[:, None], tp, 1)
            sums = np.repeat(np.stack([q.sum(0) for q in p])[:, None], tp, 1)
            c, s, n = counts[:, 0], sums[:, 0], tokens.sum()
            share, mean = c / tokens[:, None], s / tokens[:, None]
            whole, middle = c.sum(0) / n, s.sum(0) / n
            want = e * (whole * middle).sum()
            each = e * (share * mean).sum(1)
            twice = "the ranks of tp have the same tokens: count one of them, or divide by all"
            means = "ranks have different numbers of tokens: add up first, then divide"
            wrong = [
                (twice, want * tp),
                (twice, want * tp**2),
                ("that is micro-batch balancing: the shares are to be the whole batch's", each.mean()),
                ("that is micro-batch balancing: the shares are to be the whole batch's",
                 (each * tokens).sum() / n),
                (means, e * (share.mean(0) * mean.mean(0)).sum()),
                (means, e * (whole * mean.mean(0)).sum()),
                (means, e * (share.mean(0) * middle).sum()),
                ("that is the first rank's loss alone", each[0]),
                ("you add the losses of ranks up", each.sum()),
                ("the factor E is missing", want / e),
                ("shares are of tokens and sum to the number of chosen experts, not to 1", want / k),
                ("probabilities come as sums over tokens; divide by the tokens", want * n),
                ("counts and probabilities come as sums over tokens; divide both by the tokens", want * n**2),
                ("wanted is one number, the sum over experts", e * whole * middle),
                ("you take the product of sums, not the sum of products", e * whole.sum() * middle.sum()),
                ("the mean over experts has the E in it already: take the sum", want / e**2),
                ("choices are compared with probabilities, not with themselves", e * (whole**2).sum()),
            ]  # fmt: skip
            given = (counts, sums, tokens)
            return given, np.asarray(want), [(r, np.asarray(v)) for r, v in wrong]

        for sizes in ((2, 2, 2), (3, 4, 2), (2, 3, 3)):
            yield apart(lambda sizes=sizes: make(*sizes))  # type: ignore[misc]

    return judge(answer, trials)


def vocabulary_loss(answer: Answer) -> Verdict:
    """answer(logits, targets) -> a number: the mean next-token loss of targets (n,), from a list of w slices
    (n, V/w) of the logits; rank r has the ids from r V/w on."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(w: int, shift: float = 0.0) -> Made:
            n, k = int(rng.integers(3, 6)), int(rng.integers(4, 7))
            all_of = rng.normal(0, 2, (n, w * k)) + shift
            logits = np.split(all_of, w, axis=1)
            targets = np.concatenate([[w * k - 1 - int(rng.integers(k))], rng.integers(w * k, size=n - 1)])
            rows = np.arange(n)
            right = all_of[rows, targets]
            high = all_of.max(1)
            lse = high + np.log(np.exp(all_of - high[:, None]).sum(1))
            want = (lse - right).mean()
            if shift:
                remark = "exp of such a logit is infinite or 0: take the largest of all ranks out first"
                return (logits, targets), np.asarray(want), [(remark, np.asarray(np.sign(shift) * np.inf))]
            local = np.stack([np.log(np.exp(z).sum(1)) for z in logits])  # (w, n)
            tops = np.stack([z.max(1) for z in logits])
            own = local[targets // k, rows]
            clipped = sum(z[rows, np.clip(targets - r * k, 0, k - 1)] for r, z in enumerate(logits))
            folded = sum(z[rows, targets % k] for z in logits)
            firsts = logits[0][rows, targets % k]
            stranger = "a rank that does not have the target gives 0, not another word's logit"
            apiece = np.log(sum(np.exp(z - t[:, None]).sum(1) for z, t in zip(logits, tops, strict=True)))
            wrong = [
                ("the sum goes over the words of all ranks, not over the owner's", (own - right).mean()),
                ("logsumexps do not add up; what is under the logarithm does", (local.sum(0) - right).mean()),
                ("logsumexps have no mean; add up what is under the logarithm",
                 (local.mean(0) - right).mean()),
                ("the largest logsumexp leaves out all ranks but one", (local.max(0) - right).mean()),
                ("a target lies on one rank; you read the first one's", (lse - firsts).mean()),
                (stranger, (lse - clipped).mean()),
                (stranger, (lse - folded).mean()),
                ("the mean over tokens, not their sum", want * n),
                ("wanted is one number, the mean over tokens", lse - right),
                ("the sign is wrong: a loss is positive", -want),
                ("the largest logit was taken out and not put back", (lse - high - right).mean()),
                ("ranks took out different largest logits; their sums do not add up like that",
                 (high + apiece - right).mean()),
                ("the target's logit is missing", lse.mean()),
                ("the logarithm is missing: that is minus the mean probability", -np.exp(right - lse).mean()),
                ("you divide by the number of ranks as well", want / w),
            ]  # fmt: skip
            return (logits, targets), np.asarray(want), [(r, np.asarray(v)) for r, v in wrong]

        for w in (2, 3, 4):
            yield apart(lambda w=w: make(w))  # type: ignore[misc]
        yield Trial(*make(2, 900.0))
        yield Trial(*make(3, -900.0))

    with np.errstate(all="ignore"):
        return judge(answer, trials)
