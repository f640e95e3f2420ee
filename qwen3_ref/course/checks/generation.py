"""Checks of 09_generation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def nucleus(answer: Answer) -> Verdict:
    """answer(p, top_p) -> (V,): p cut to the fewest most probable tokens that reach top_p, renormalised."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(count: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            kept = np.zeros(0, dtype=bool)
            while kept.sum() != count:  # another number of tokens in each trial
                p = rng.dirichlet(np.full(rng.integers(8, 14), 0.8))
                limit = float(rng.uniform(0.5, 0.9))
                order = np.argsort(-p)
                before = np.empty_like(p)
                before[order] = np.cumsum(p[order]) - p[order]
                kept = before < limit
            rising = np.argsort(p)
            light = np.empty_like(p)
            light[rising] = np.cumsum(p[rising]) - p[rising]

            def cut(mask: Array) -> Array:
                return np.where(mask, p, 0) / max(float(p[mask].sum()), 1e-9)

            want, more = cut(kept), before < before[kept].max() + p[before == before[kept].max()] + 1e-12
            some = np.zeros_like(kept)
            some[order[: max(1, int(limit * len(p)))]] = True
            warm = np.where(kept, np.exp(p), 0)
            wrong = [
                ("you drop the token that crosses top_p; without it the sum stays below",
                 cut(before + p <= limit)),
                ("you do not renormalise; what is left must sum to 1", np.where(kept, p, 0)),
                ("you keep one token too many: the sum reached top_p before it", cut(more)),
                ("you add up from the least probable; begin with the most probable", cut(light < limit)),
                ("you add up in the order of the ids; the most probable come first",
                 cut(np.cumsum(p) - p < limit)),
                ("your result is sorted; put each probability back at its own id", want[order]),
                ("you compare each probability with top_p itself, not the running sum",
                 np.where(p >= limit, p, 0)),
                ("you compare each probability with a share of the largest: that is min_p",
                 cut(p >= (1 - limit) * p.max())),
                ("you keep the share top_p of the tokens; it is of the probability", cut(some)),
                ("you return which tokens stay; wanted are their probabilities", kept * 1.0),
                ("you take a softmax of probabilities; divide by their sum", warm / warm.sum()),
                ("nothing is cut", p),
                ("the kept are not shared out equally: they keep their proportions", kept / kept.sum()),
                ("you divide by top_p; what is kept sums to more", np.where(kept, p, 0) / limit),
                ("what is kept sums to 1, not to top_p", want * limit),
            ]  # fmt: skip
            return (p, limit), want, wrong

        for count in rng.permutation([3, 4, 5]):
            yield apart(partial(make, int(count)))

    return judge(answer, trials)


def penalised(answer: Answer) -> Verdict:
    """answer(logits, seen, penalty) -> (V,): the logits after the repetition penalty."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            x, r = rng.normal(0, 3, 9), float(rng.uniform(1.15, 1.8))
            seen = rng.choice(9, 4, replace=False).tolist()
            seen = [*seen, seen[1], seen[0], seen[1]]
            here = np.isin(np.arange(9), seen)
            times = np.bincount(seen, minlength=9)
            last = np.arange(9) == seen[-1]
            right = np.where(x > 0, x / r, x * r)
            wrong = [
                ("you divide negative logits too, which makes their tokens more probable; multiply them",
                 np.where(here, x / r, x)),
                ("you multiply the positive and divide the negative; it is the other way round",
                 np.where(here, np.where(x > 0, x * r, x / r), x)),
                ("you subtract the penalty: that is another one, presence_penalty", np.where(here, x - r, x)),
                ("you penalise once for each time that a token was seen; it is once for all",
                 np.where(x > 0, x / r**times, x * r**times)),
                ("you penalise the tokens that were not seen", np.where(here, x, right)),
                ("you penalise every token, seen or not", right),
                ("you penalise the last token alone; all of `seen` count", np.where(last, right, x)),
                ("the positive logits are right; the negative ones must be multiplied",
                 np.where(here & (x > 0), x / r, x)),
                ("the negative logits are right; the positive ones must be divided",
                 np.where(here & (x < 0), x * r, x)),
                ("you multiply all of them, which makes the likely ones likelier",
                 np.where(here, x * r, x)),
                ("you forbid what was seen; it only becomes less probable", np.where(here, -np.inf, x)),
                ("the logits come back unchanged", x),
            ]  # fmt: skip
            return (x, seen, r), np.where(here, right, x), wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def positions(answer: Answer) -> Verdict:
    """answer(mask) -> (b, t): the position of each token in its own row; 0 for padding, on either side."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            t = int(rng.integers(9, 14))
            mask = np.zeros((4, t), dtype=np.int64)
            for row in range(4):
                left, right = rng.integers(1, 4, size=2)
                mask[row, left : t - (right if row % 2 else 0)] = 1
            count = mask.cumsum(1)
            place = np.arange(t) + np.zeros((4, 1), dtype=np.int64)
            want = np.where(mask == 1, count - 1, 0)
            back = mask[:, ::-1].cumsum(1)[:, ::-1]
            wrong = [
                ("you count padding too: the first token of each row is at 0", place),
                ("you count padding too: the first token of each row is at 0", place * mask),
                ("you begin at 1; the first token is at 0", count * mask),
                ("you begin at 1; the first token is at 0", count),
                ("padding gets -1; wanted is 0", np.where(mask == 1, count - 1, -1)),
                ("padding gets -1; wanted is 0", count - 1),
                ("padding behind a text goes on counting; wanted is 0", np.maximum(count - 1, 0)),
                ("you count from the end of the row", np.where(mask == 1, back - 1, 0)),
                ("you count the padding, not the tokens", (1 - mask).cumsum(1)),
                ("every row gets the padding of the first; each has its own",
                 np.maximum(place - int((mask[0] == 0).argmin()), 0) * mask),
                ("that is one row; each has positions of its own", want[0]),
                ("every token is at its row's length", mask * mask.sum(1, keepdims=True)),
                ("every token is at its row's length", mask * (mask.sum(1, keepdims=True) - 1)),
            ]  # fmt: skip
            return (mask,), want * 1.0, [(remark, value * 1.0) for remark, value in wrong]

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def kept(answer: Answer) -> Verdict:
    """answer(p, q, drafted, u) -> (n,): how many of its g drafted ids each of n replies keeps, those before
    the first that is refused; p and q (n, g, V), drafted and u (n, g)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def count(stays: Array) -> Array:
            """How many stay before the first that does not, row by row."""
            return np.logical_and.accumulate(stays, axis=1).sum(1)

        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, g, v = 7, int(rng.integers(4, 7)), 5
            q = rng.dirichlet(np.full(v, 1.0), (n, g))
            p = 0.5 * q + 0.5 * rng.dirichlet(np.full(v, 1.0), (n, g))
            drafted = (rng.random((n, g, 1)) > q.cumsum(-1)[..., :-1]).sum(-1)
            u = rng.random((n, g))

            def of(table: Array) -> Array:
                return np.take_along_axis(table, drafted[..., None], -1)[..., 0]

            pd, qd = of(p), of(q)
            stays = u * qd < pd
            first, last = of(p[:, :1].repeat(g, 1)), of(q[:, :1].repeat(g, 1))
            right = count(stays)
            wrong = [
                ("you go on behind a refused one; what follows it was drafted for another text",
                 stays.sum(1)),
                ("your ratio is upside down: it is p / q", count(u * pd < qd)),
                ("you compare u with p; a draft is kept with probability p / q", count(u < pd)),
                ("you keep it only where the model likes it better than the draft did", count(pd >= qd)),
                ("you count the refused one as kept", np.minimum(right + 1, g)),
                ("you count the refused one as kept", right + 1),
                ("one u for all: each drafted id has its own", count(u[:, :1] * qd < pd)),
                ("one row for all: each drafted id has its own p and q", count(u * last < first)),
                ("you keep it only where the model would have drawn it greedily",
                 count(p.argmax(-1) == drafted)),
                ("you keep all that was drafted", np.full(n, g)),
                ("none is kept", np.zeros(n)),
                ("p of the next place judges it; row i judges drafted[i]",
                 count((u * qd)[:, :-1] < of(np.roll(p, -1, axis=1))[:, :-1])),
                ("you keep it where u is above the ratio, and refuse it below", count(~stays)),
            ]  # fmt: skip
            return (p, q, drafted, u), right, [(remark, np.asarray(value)) for remark, value in wrong]

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def follows(answer: Answer) -> Verdict:
    """answer(p, q, drafted, kept) -> (V,): what the model's own id is drawn from, behind the kept ones;
    p has a row more than q."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(whole: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            g, v = 4, 6
            p, q = rng.dirichlet(np.full(v, 1.0), g + 1), rng.dirichlet(np.full(v, 1.0), g)
            drafted = [int(rng.choice(v, p=row)) for row in q]
            n = g if whole else int(rng.integers(1, g - 1))
            own, theirs = p[n], q[min(n, g - 1)]
            missing = np.maximum(own - theirs, 0)
            softmax = np.exp(own - theirs)
            barred = np.where(np.arange(v) == drafted[min(n, g - 1)], 0, own)
            always = np.maximum(p[g - 1] - q[g - 1], 0)
            wrong = [
                ("you draw from q; the model's own id comes from p", theirs),
                ("you take the row before: row `kept` is the first that was not kept", p[n - 1]),
            ]
            if whole:
                want = own
                wrong += [
                    ("all were kept, so there is nothing to make up for: p's last row as it is",
                     always / always.sum()),
                    ("all were kept, so there is nothing to make up for: p's last row as it is",
                     missing / missing.sum()),
                    ("all were kept, so there is nothing to make up for: p's last row as it is",
                     barred / barred.sum()),
                ]  # fmt: skip
            else:
                want = missing / missing.sum()
                over, apart = np.maximum(theirs - own, 0), np.abs(own - theirs)
                wrong += [
                    ("that is p itself: then the result is not p's, since refusals are not even-handed", own),
                    ("you do not renormalise; it must sum to 1", missing),
                    ("you take where q exceeds p; wanted is what p has too much", over / over.sum()),
                    ("you take the distance; where q exceeds p nothing may come", apart / apart.sum()),
                    ("you forbid the refused id and leave the rest of p; others have had their share too",
                     barred / barred.sum()),
                    ("you take a softmax of the difference; cut it at 0 and divide by the sum",
                     softmax / softmax.sum()),
                    ("a difference has negative parts; cut it at 0", own - theirs),
                    ("that is the row for the case that all were kept", p[g]),
                    ("you subtract without cutting at 0 before you divide",
                     (own - theirs) / np.abs(own - theirs).sum()),
                    ("you leave p where it exceeds q; wanted is by how much it does",
                     np.where(own > theirs, own, 0) / own[own > theirs].sum()),
                ]  # fmt: skip
            return (p, q, drafted, n), want, wrong

        for whole in (False, True, False):
            yield apart(lambda: make(whole))  # noqa: B023

    return judge(answer, trials)
