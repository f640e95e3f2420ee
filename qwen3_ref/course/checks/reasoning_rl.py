"""Checks of 15_reasoning_rl."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def group_advantages(answer: Answer) -> Verdict:
    """answer(rewards) -> (n, g): GRPO's advantages of rewards (n, g), a row a group: in standard deviations
    (divisor g) above the group's mean; exactly 0 in a group whose rewards are all equal."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, g = int(rng.integers(3, 5)), int(rng.integers(4, 7))
            r = 100 * rng.gamma(1.5, 1.0, (n, g)) * rng.uniform(0.5, 2.0, (n, 1))
            mean, std = r.mean(1, keepdims=True), r.std(1, keepdims=True)
            others = (r.sum(1, keepdims=True) - r) / (g - 1)
            wrong = [
                ("that divides by the standard deviation with divisor g - 1, as TRL does",
                 (r - mean) / r.std(1, keepdims=True, ddof=1)),
                ("the standard deviation is missing: those are Dr. GRPO's advantages", r - mean),
                ("you divide by the variance, not by its root", (r - mean) / std**2),
                ("the mean is the whole batch's; each group has its own", (r - r.mean()) / std),
                ("the standard deviation is the whole batch's; each group has its own", (r - mean) / r.std()),
                ("mean and standard deviation are the whole batch's; each group has its own",
                 (r - r.mean()) / r.std()),
                ("you go down the columns; a group is a row", (r - r.mean(0)) / r.std(0)),
                ("the sign is wrong: what is better than its group is positive", (mean - r) / std),
                ("the group's mean has to come off first", r / std),
                ("that is each reward against the mean of the others (RLOO)", r - others),
                ("the middle of a group is its mean, not its median",
                 (r - np.median(r, 1, keepdims=True)) / std),
                ("you scale to 0 to 1 within the group",
                 (r - r.min(1, keepdims=True)) / np.ptp(r, 1, keepdims=True)),
                ("you divide by the mean distance from the mean, not by the standard deviation",
                 (r - mean) / np.abs(r - mean).mean(1, keepdims=True)),
            ]  # fmt: skip
            return (r,), (r - mean) / std, wrong

        for _ in range(2):
            yield apart(make)
        small = np.array([[0.0, 1e-3, 0.0, 2e-3], [1.0, 0.0, 0.0, 0.0]])
        centred = small - small.mean(1, keepdims=True)
        std = small.std(1, keepdims=True)
        remark = "something is added to the standard deviation: rewards that differ by little lose their say"
        yield Trial((small,), centred / std, [(remark, centred / (std + e)) for e in (1e-6, 1e-5, 1e-4)])
        equal = np.array([[1.0, 0.0, 1.0, 0.0], [0.0] * 4, [1.0] * 4])
        want = np.array([[1.0, -1.0, 1.0, -1.0], [0.0] * 4, [0.0] * 4])
        nothing = want.copy()
        nothing[1:] = np.nan
        remark = "a group whose rewards are all equal gave 0/0 = NaN, and one NaN spoils every weight"
        yield Trial((equal,), want, [(remark, nothing)])
        rounded = np.array([[0.1] * 7, [1.0, 0, 0, 0, 0, 0, 0]])  # whose mean is not 0.1
        spread = rounded.std(1, keepdims=True)
        want = (rounded - rounded.mean(1, keepdims=True)) / np.where(spread < 1e-9, 1.0, spread)
        want[0] = 0.0
        noise = want.copy()
        with np.errstate(all="ignore"):
            noise[0] = (rounded[0] - rounded[0].mean()) / rounded[0].std()
        remark = (
            "0.1 seven times has a mean that is rounded, and you divide that rounding by itself: ask whether "
            "all rewards are equal, not whether the standard deviation is 0"
        )
        yield Trial((rounded,), want, [(remark, noise)])

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def clipped_objective(answer: Answer) -> Verdict:
    """answer(new, old, advantages, counted, low, high) -> a number, to be made large: GRPO's objective from
    log-probabilities (n, t) of whole texts, advantages (n,), and which tokens the policy chose (n, t)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(rubbish: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, t, low, high = 4, 9, 0.2, 0.35
            begin, length = rng.integers(1, 4, n), rng.integers(1, 6, n)
            length[:2] = 1, 5
            at = np.arange(t)
            counted = (at >= begin[:, None]) & (at < (begin + length)[:, None])
            old = np.log(rng.uniform(0.2, 0.9, (n, t)))
            log_ratio = rng.normal(0, 0.5, (n, t))
            new = old + log_ratio
            a = rng.normal(0, 1.5, n)

            def value(ratio: Array, weigh: str = "sequence", lo: float = low, hi: float = high,
                      how: str = "min", mask: Array = counted) -> float:  # fmt: skip
                free, bound = ratio * a[:, None], ratio.clip(1 - lo, 1 + hi) * a[:, None]
                x = {"min": np.minimum(free, bound), "max": np.maximum(free, bound), "free": free,
                     "bound": bound}[how]  # fmt: skip
                x = np.where(mask, x, 0.0)
                if weigh == "sequence":
                    return float((x.sum(1) / mask.sum(1)).mean())
                return float(x.sum() / {"token": mask.sum(), "constant": n * t, "sum": 1, "rows": n}[weigh])

            ratio = np.exp(log_ratio)
            whole = np.where(counted, log_ratio, 0).sum(1) / counted.sum(1)
            behind = at >= begin[:, None]
            prompt = at < (begin + length)[:, None]
            want = value(ratio)
            wrong = [
                ("that is the mean over all tokens, DAPO's; GRPO's is over each reply first",
                 value(ratio, "token")),
                ("that divides by the width of the array, a constant, as in Dr. GRPO",
                 value(ratio, "constant")),
                ("that is the sum; two means are to be taken", value(ratio, "sum")),
                ("the tokens of a reply are added up; their mean is to be taken", value(ratio, "rows")),
                ("you keep the clipped value alone; the smaller of the two counts",
                 value(ratio, how="bound")),
                ("nothing is clipped", value(ratio, how="free")),
                ("the smaller of the two counts, not the larger", value(ratio, how="max")),
                ("both bounds are `low`; the upper one is its own", value(ratio, hi=low)),
                ("both bounds are `high`; the lower one is its own", value(ratio, lo=high)),
                ("the bounds have changed places", value(ratio, lo=high, hi=low)),
                ("the ratio is upside down: new over old", value(1 / ratio)),
                ("those are differences of logarithms; a ratio is their exponential", value(log_ratio)),
                ("the prompt is counted: the policy did not choose it", value(ratio, mask=prompt)),
                ("what stands behind a reply is counted", value(ratio, mask=behind)),
                ("all that the array holds is counted, prompt and padding too",
                 value(ratio, mask=np.ones_like(counted))),
                ("that has one ratio a reply, as in GSPO; here each token has its own",
                 value(np.exp(whole)[:, None] + 0 * ratio)),
                ("the sign is that of a loss; wanted is what is to be made large", -want),
            ]  # fmt: skip
            given = tuple(np.where(counted, x, rubbish) if np.isnan(rubbish) else x for x in (new, old))
            return (*given, a, counted, low, high), np.asarray(want), [(k, np.asarray(v)) for k, v in wrong]

        for _ in range(3):
            yield apart(lambda: make(0.0))
        arguments, want = make(float("nan"))[:2]
        remark = "a NaN outside of the reply came through: 0 * NaN is NaN, so choose with np.where, or slice"
        yield Trial(arguments, want, [(remark, np.asarray(float("nan")))])

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def _updates(z: Array, drawn: Array, a: Array, rate: float, count: int, low: float, high: float,
             how: str = "") -> Array:  # fmt: skip
    """`steps`, or one of its mistakes."""

    def softmax(x: Array) -> Array:
        e = np.exp(x - x.max())
        return e / e.sum()

    start = softmax(z)[drawn]
    first, z = softmax(z), z.copy()
    for i in range(count):
        p = softmax(z)
        old = {"fresh": p[drawn], "uniform": np.full(len(drawn), 1 / len(z))}.get(how, start)
        ratio = p[drawn] / old
        ratio = 1 / ratio if how == "inverse" else ratio
        stopped = ((a > 0) & (ratio > 1 + high)) | ((a < 0) & (ratio < 1 - low))
        if how == "both":
            stopped = (ratio > 1 + high) | (ratio < 1 - low)
        if how == "off":
            stopped = np.zeros_like(stopped)
        weight = np.where(stopped, 0, a * (1 if how == "no ratio" else ratio))
        if how == "kept":
            weight = a * ratio.clip(1 - low, 1 + high)
        hot = np.eye(len(z))[drawn] - (0 if how == "one-hot" else first if how == "stale" else p)
        g = (weight[:, None] * hot).sum(0) / (1 if how == "sum" else len(drawn))
        z += rate * (-g if how == "down" else g)
        if how == "once" and i == 0:
            break
    return z


def steps(answer: Answer) -> Verdict:
    """answer(z, drawn, advantages, rate, updates, low, high) -> (V,): the logits z (V,) of a policy whose
    replies are one token long, after so many updates on one group: drawn (g,) ids, advantages (g,)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(count: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            v, g = int(rng.integers(4, 6)), 7
            z, low, high, rate = rng.normal(0, 0.8, v), 0.12, 0.2, 0.7
            drawn = np.concatenate([np.arange(v), rng.integers(0, v, g - v)])
            a = rng.choice([-1.0, 1.0], g) * rng.uniform(0.6, 2.0, g)
            arguments = (z, drawn, a, rate, count, low, high)
            remarks = {
                "fresh": "old is taken anew at each update: every ratio is 1 then, and nothing is clipped",
                "uniform": "old is the policy that sampled, not a uniform one",
                "inverse": "the ratio is upside down: new over old",
                "both": "clipping stops a gain that went far enough, not the way back; mind the sign of A",
                "off": "nothing is clipped",
                "kept": "beyond the bound the objective is flat: its gradient is 0, not that of the bound",
                "no ratio": "the gradient of a ratio is the ratio times that of ln p; the ratio is missing",
                "one-hot": "the gradient of ln p is one-hot less p; the p is missing",
                "stale": "p is that of the start: in the gradient of ln p it is the policy's of now",
                "sum": "that adds the group up; its mean is to be taken",
                "down": "that goes downhill: the objective is to be made large",
                "once": "that is one update only",
            }
            with np.errstate(all="ignore"):
                wrong = [(told, _updates(*arguments, how=how)) for how, told in remarks.items()]
            wrong.append(("one update too many", _updates(z, drawn, a, rate, count + 1, low, high)))
            wrong.append(("nothing has changed", z))
            return arguments, _updates(*arguments), wrong

        for count in (4, 6, 5):
            yield apart(lambda: make(count))  # noqa: B023

    return judge(answer, trials)


def sequence_ratio(answer: Answer) -> Verdict:
    """answer(new, old, lengths) -> (n,): GSPO's ratio of each reply, from log-probabilities (n, r) of which
    the first lengths[i] of row i are the reply's."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(rubbish: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, r = 4, int(rng.integers(7, 10))
            lengths = rng.integers(3, r - 1, n)
            lengths[:2] = 3, r - 2
            real = np.arange(r) < lengths[:, None]
            old = np.log(rng.uniform(0.1, 0.9, (n, r)))
            d = rng.normal(0, 0.6, (n, r))
            kept = np.where(real, d, 0)
            mean = kept.sum(1) / lengths
            last = d[np.arange(n), lengths - 1]
            first = np.arange(r) < lengths[:, None] - 1
            wrong = [
                ("that is the ratio of the whole reply; its length-th root is to be taken",
                 np.exp(kept.sum(1))),
                ("that is the arithmetic mean of the ratios; wanted is the geometric one",
                 np.where(real, np.exp(d), 0).sum(1) / lengths),
                ("that is its logarithm", mean),
                ("the ratio is upside down: new over old", np.exp(-mean)),
                ("what stands behind a reply is counted", np.exp(d.mean(1))),
                ("you divide by the width of the array, not by the reply's length", np.exp(kept.mean(1))),
                ("one number a reply: you mix all replies", np.full(n, np.exp(kept.sum() / lengths.sum()))),
                ("that is the last token's ratio alone", np.exp(last)),
                ("the last token, which ends the reply, is missing",
                 np.exp(np.where(first, d, 0).sum(1) / (lengths - 1))),
                ("you divide the mean by the length once more", np.exp(mean / lengths)),
                ("the root is of the length, not of its root", np.exp(kept.sum(1) / np.sqrt(lengths))),
                ("probabilities are averaged first; the mean is of the log-ratios",
                 (np.where(real, np.exp(old + d), 0).sum(1) / np.where(real, np.exp(old), 0).sum(1))),
                ("wanted is one number a reply, not one a token", np.exp(d)),
                ("wanted is one number a reply, not their mean", np.asarray(np.exp(mean).mean())),
            ]  # fmt: skip
            new = old + d
            if np.isnan(rubbish):
                new = np.where(real, new, rubbish)
            return (new, old, lengths), np.exp(mean), wrong

        for _ in range(2):
            yield apart(lambda: make(0.0))
        arguments, want = make(float("nan"))[:2]
        remark = "a NaN behind a reply came through: 0 * NaN is NaN, so choose with np.where, or slice"
        yield Trial(arguments, want, [(remark, np.full(len(want), np.nan))])

    return judge(answer, trials)


def kl_estimate(answer: Answer) -> Verdict:
    """answer(new, reference) -> (n,): the estimate k3 of KL(new || reference) at n tokens that the policy
    drew, from their log-probabilities under the policy and under the reference."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n = int(rng.integers(4, 7))
            new, ref = np.log(rng.uniform(0.05, 0.9, n)), np.log(rng.uniform(0.05, 0.9, n))
            d = ref - new
            want = np.exp(d) - d - 1
            wrong = [
                ("that is for KL(reference || new), of tokens that the reference drew", np.exp(-d) + d - 1),
                ("that is k1: right on average, and negative for every other token", -d),
                ("that is k2, half the square: near only while the two are near", d**2 / 2),
                ("the sign is wrong: k3 is never negative", -want),
                ("the 1 is missing, and equal models would be 1 apart", np.exp(d) - d),
                ("the logarithm is missing", np.exp(d) - 1),
                ("the logarithm's sign is wrong", np.exp(d) + d - 1),
                ("that is bits in its logarithm", np.exp(d) - d / np.log(2) - 1),
                ("you weigh by the policy's probability; drawing from it has weighed already",
                 np.exp(new) * want),
                ("that is one term of the exact sum, not the estimate of one draw", np.exp(new) * -d),
                ("you take probabilities, which came as logarithms, from one another",
                 np.exp(ref) - np.exp(new)),
                ("that is the ratio; two more terms make it a divergence", np.exp(d)),
                ("wanted is one number a token, not their mean", np.asarray(want.mean())),
                ("the two models are mixed up in one of the terms", np.exp(-d) - d - 1),
            ]  # fmt: skip
            return (new, ref), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)
