"""Checks of 13_pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge
from qwen3_ref.numpy_ref import softmax


def _nll(logits: Array, targets: Array) -> Array:
    """Loss of each target (b, t) under logits (b, t, V)."""
    top = logits.max(-1, keepdims=True)
    total = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    return np.asarray(total - np.take_along_axis(logits, targets[..., None], -1)[..., 0])


def _arrays(wrong: list[tuple[str, Any]]) -> Wrong:
    return [(remark, np.asarray(value, np.float64)) for remark, value in wrong]


def _far(rng: np.random.Generator, kind: str, shape: tuple[int, ...], targets: Array) -> Array:
    """What to add to logits (..., t, V) so that they lie far from 0, and the loss stays finite."""
    places = shape[:-1]
    if kind == "high":
        return np.full(shape, 890.0)
    if kind == "apart":  # place by place
        return 890.0 * np.resize(rng.permutation([-1, 1, -1, 1, 0]), places)[..., None] * np.ones(shape)
    order = rng.random(shape)  # two logits of each place are high
    if kind == "targets high":
        np.put_along_axis(order[..., : targets.shape[-1], :], targets[..., None], -1, -1)
    else:
        np.put_along_axis(order[..., :1, :], targets[..., :1, None], 2, -1)
    return np.where(order.argsort(-1).argsort(-1) < 2, 890.0, -890.0)


_TOO_FAR: dict[str, list[tuple[str, Any]]] = {
    "high": [
        ("exp(890) is infinite: take the largest logit out first", np.nan),
        ("exp(890) is infinite: take the largest logit out first", np.inf),
    ],
    "apart": [
        ("one number is taken out of all places: one far below vanishes; take out each place's own largest",
         -np.inf),
        ("one number is taken out of all places: one far below vanishes; take out each place's own largest",
         np.nan),
    ],
    "targets high": [
        ("take out the largest logit of a place, not the mean: it can be far below the largest", np.inf),
        ("take out the largest logit of a place, not the mean: it can be far below the largest", np.nan),
    ],
    "wide": [
        ("a probability can be so small that it is 0 here, and its logarithm infinite: the loss is logsumexp "
         "less the target's logit", np.inf),
    ],
}  # fmt: skip
"""What known mistakes make of logits that `_far` has moved."""


def batch_loss(answer: Answer) -> Verdict:
    """answer(logits, ids, lengths) -> a number: the mean loss in nats over all next tokens of documents
    ids (b, t), of which only the first lengths[i] of row i are the document; logits (b, t, V)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            b, t, v = int(rng.integers(3, 5)), int(rng.integers(8, 11)), int(rng.integers(5, 8))
            lengths = rng.integers(3, t - 1, b)
            lengths[:2] = 3, t - 2
            ids = rng.integers(0, v, (b, t))
            ids[0, 1:3], ids[1, 1:3] = (0, v - 1), (v - 1, 0)  # the first and the last id are targets
            logits = rng.normal(0, 1.5, (b, t, v)) + 2.5 * (np.arange(v) == v - 1) - 2.5 * (np.arange(v) == 0)
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
                ("token 0 is a token like any other; padding is what lies behind a document",
                 loss[real & (ids[:, 1:] != 0)].mean()),
                ("the last id of the vocabulary is a token like any other",
                 loss[real & (ids[:, 1:] != v - 1)].mean()),
            ]  # fmt: skip
            return (logits, ids, lengths), np.asarray(loss[real].mean()), _arrays(wrong)

        def large(kind: str) -> Trial:
            """Logits up to 900, for whose sake a known mistake gives NaN or infinity."""
            (logits, ids, lengths), *_ = make()
            logits, wrong = logits + _far(rng, kind, logits.shape, ids[:, 1:]), _TOO_FAR[kind]
            loss = _nll(logits[:, :-1], ids[:, 1:])[np.arange(ids.shape[1] - 1) < lengths[:, None] - 1]
            if kind == "wide":  # some targets far below
                remark = "a small number that is added to a probability of 0 hides how wrong the model was"
                wrong = wrong + [(remark, -np.log(np.exp(-loss) + e).mean()) for e in (1e-12, 1e-9)]
            return Trial((logits, ids, lengths), np.asarray(loss.mean()), _arrays(wrong))

        yield apart(make)
        yield apart(make)
        for kind in ("high", "apart", "targets high", "wide"):
            yield large(kind)

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def loss_gradient(answer: Answer) -> Verdict:
    """answer(logits, targets) -> (n, V): the gradient of the mean loss with respect to logits (n, V), over
    the positions whose target is not -100; targets (n,)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(masked: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, v = int(rng.integers(6, 9)), int(rng.integers(4, 7))
            logits, targets = rng.normal(0, 1.5, (n, v)), rng.integers(0, v, n)
            places = rng.permutation(n)
            targets[places[:2]] = 0, v - 1  # the first and the last id are targets
            targets[places[2 : 2 + masked]] = -100
            real = targets != -100
            q = softmax(logits)
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
                ("token 0 is a target like any other; only -100 is none",
                 np.where(keep & (targets > 0)[:, None], q - hot, 0) / (targets > 0).sum()),
                ("the last token of the vocabulary is a target like any other; only -100 is none",
                 np.where(keep, q - hot * (np.arange(v) < v - 1), 0) / count),
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

        def large(kind: str) -> Trial:
            """Logits up to 900, for whose sake a known mistake gives NaN."""
            (logits, targets), *_ = make(0)
            far = _far(rng, kind, logits.shape, targets)
            q, nan = softmax(logits + far), np.full(logits.shape, np.nan)
            want = (q - np.eye(q.shape[1])[targets]) / len(targets)
            rows = (far == far.max()).all(1, keepdims=True)
            wrong = {"high": nan, "apart": np.where(rows, want, nan), "targets high": np.where(q, nan, 0)}
            return Trial((logits + far, targets), want, [(_TOO_FAR[kind][0][0], wrong[kind])])

        for masked in (0, *rng.permutation([1, 2, 3])[:2]):
            yield apart(lambda: make(int(masked)))  # noqa: B023
        for kind in ("high", "apart", "targets high"):
            yield large(kind)

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def border_mask(answer: Answer) -> Verdict:
    """answer(ids, end) -> (t, t): 1 where query i may look at key j, of packed ids (t,) in which each
    document is closed by `end`, which still belongs to it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def mask(closed: Array) -> Array:
            """The right mask, if these tokens are marks."""
            number = np.cumsum(closed) - closed
            return (number[:, None] == number) & np.tri(len(closed), dtype=bool)

        def make(end: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            words = np.setdiff1d([10, 11, 12, 13], end)[:3]
            texts = [np.append(rng.choice(words, n), end) for n in rng.integers(2, 5, 3)]
            ids = np.concatenate([*texts, rng.choice(words, 3)])  # the last one is cut off
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
            for extreme, name in ((ids.min(), "smallest"), (ids.max(), "largest")):
                if extreme != end:
                    remark = f"a mark is told by `end`; it need not be the {name} id"
                    wrong.append((remark, mask((ids == extreme).astype(int))))
            return (ids, end), (same & causal).astype(float), _arrays(wrong)

        def given(*pieces: int) -> tuple[Array, int, Array]:
            """ids of so many words, each piece but the last closed; `end`; and which are marks."""
            end = int(rng.integers(3, 30))
            words = np.setdiff1d([10, 11, 12, 13], end)
            ids = np.concatenate([np.append(rng.choice(words, n), end) for n in pieces])[:-1]
            return ids, end, (ids == end).astype(int)

        for end in rng.permutation([int(rng.integers(3, 9)), 11, int(rng.integers(20, 30))]):
            yield apart(lambda: make(int(end)))  # noqa: B023
        ids, end, closed = given(2, 0, *rng.integers(2, 4, 2))
        before, behind = np.append(0, closed[:-1]), np.append(closed[1:], 0)
        remark = "two marks in a row close two documents; the second of them is nothing but its mark"
        wrong = [(remark, mask(closed * (1 - before))), (remark, mask(closed * (1 - behind)))]
        yield Trial((ids, end), mask(closed) * 1.0, _arrays(wrong))
        ids, end, closed = given(0, *rng.integers(2, 5, 2))
        remark = "a row may begin with a mark: it closes what stands in the row before"
        wrong = [(remark, mask(closed * (np.arange(len(ids)) > 0)))]
        yield Trial((ids, end), mask(closed) * 1.0, _arrays(wrong))
        for pieces in ((*rng.integers(2, 5, 2), 0), rng.integers(3, 6, 1)):  # a mark at the end; none
            ids, end, closed = given(*pieces)
            yield Trial((ids, end), mask(closed) * 1.0, [])

    return judge(answer, trials)


def adamw(answer: Answer) -> Verdict:
    """answer(w, gradients, rate, decay, beta1, beta2, eps) -> w (n,) after a step of AdamW for each of
    gradients (steps, n)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, steps = int(rng.integers(3, 5)), int(rng.integers(4, 7))
            w, gradients = rng.normal(0, 1.5, n) + 1, rng.normal(0, 1, (steps, n)) + 0.4
            rate, decay, b1, b2, eps = rng.uniform([0.08, 0.7, 0.5, 0.75, 0.03], [0.12, 1, 0.65, 0.85, 0.07])

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
                    small = how.get("eps", eps)
                    move = a / (np.sqrt(b + eps) if "inside" in how else np.sqrt(b) + small)
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
                ("beta1 and beta2 are given; yours are the usual ones", run(betas=(0.9, 0.95))),
                ("beta1 and beta2 are given; yours are the usual ones", run(betas=(0.9, 0.999))),
                ("eps is given; yours is 1e-8 or none", run(eps=1e-8)),
                ("beta1, beta2 and eps are given; yours are the usual ones",
                 run(betas=(0.9, 0.95), eps=1e-8)),
                ("beta1, beta2 and eps are given; yours are the usual ones",
                 run(betas=(0.9, 0.999), eps=1e-8)),
            ]  # fmt: skip
            return (w, gradients, *map(float, (rate, decay, b1, b2, eps))), run(), wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)


def rate(answer: Answer) -> Verdict:
    """answer(step, steps, peak, warmup, floor) -> a number: the learning rate of a step, counted from 0: up
    in a line over `warmup` steps to `peak`, then a half cosine to `floor` times it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(place: str) -> tuple[tuple[Any, ...], Array, Wrong]:
            steps, warmup = int(rng.integers(25, 45)), int(rng.integers(8, 12))
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
                early = "the cosine begins a step early: at step `warmup` it is still at the peak"
                wrong += [
                    (_BEHIND, peak * cosine((step - warmup) / (steps - warmup - 1))),
                    (early, peak * cosine((step - warmup + 1) / (steps - warmup))),
                    (early, peak * cosine((step - warmup + 1) / (steps - warmup + 1))),
                ]
                if place == "late":  # earlier that is the cosine that ends at 0
                    wrong.append(("the rate is cut off at the floor; the cosine itself has to end there",
                                  peak * max(floor, cosine(done, 0.0))))  # fmt: skip
            return (step, steps, peak, warmup, floor), np.asarray(want), [
                (a, np.asarray(float(x))) for a, x in wrong
            ]

        for place in ("warm-up", "late", "early", "early"):
            yield apart(lambda: make(place))  # noqa: B023
        steps, warmup, peak, floor = int(rng.integers(15, 25)), int(rng.integers(4, 7)), 2.0, 0.25
        known = {  # what is asked of single steps, and the remark on another rate there
            0: (peak / warmup, [("the first step has a rate too: count it as 1 of the warm-up", 0.0)]),
            warmup - 1: (peak, [
                ("the last step of the warm-up has the peak itself",
                 peak * (floor + (1 - floor) * (1 + np.cos(np.pi / (steps - warmup))) / 2)),
                ("the last step of the warm-up has the peak itself", peak * (warmup - 1) / warmup),
            ]),
            warmup: (peak, [
                ("step `warmup` is the first behind it: there the cosine begins, at the peak",
                 peak * (warmup + 1) / warmup),
            ]),
            steps - 1: (
                peak * (floor + (1 - floor) * (1 - np.cos(np.pi / (steps - warmup))) / 2),
                [(_BEHIND, peak * floor), ("the last step has a rate too", 0.0)],
            ),
        }  # fmt: skip
        for step in rng.permutation(list(known)):
            want, wrong = known[int(step)]
            yield Trial((int(step), steps, peak, warmup, floor), np.asarray(want), _arrays(wrong))
        yield Trial((0, 10, 3.0, 0, 0.5), np.asarray(3.0), [])
        yield Trial((5, 10, 3.0, 0, 0.5), np.asarray(2.25), [
            ("without a warm-up too the rate comes down on the cosine", np.asarray(3.0)),
            ("without a warm-up the cosine begins at step 0, and goes over all steps",
             np.asarray(3 * (0.5 + 0.25 * (1 + np.cos(np.pi * 4 / 9))))),
        ])  # fmt: skip

    return judge(answer, trials)


_BEHIND = "the floor would be reached at step number `steps`, one behind the last"
