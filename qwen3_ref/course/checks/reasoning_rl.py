"""Checks of 15_reasoning_rl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge


def _apart(make: Callable[[], tuple[tuple[Any, ...], Array, Wrong]]) -> Trial:
    """`apart` for many mistakes of one shape: drawn until each two results differ by 0.0005 somewhere, beyond
    what the judge takes for equal."""
    for _ in range(20_000):
        trial = Trial(*make())
        found = np.stack([trial.want, *(array for _, array in trial.mistakes)]).reshape(
            len(trial.mistakes) + 1, -1
        )
        if not np.isfinite(found).all():
            continue
        gaps = np.abs(found[:, None] - found).max(-1) + np.eye(len(found))
        if gaps.min() > 5e-4 * max(1.0, float(np.abs(trial.want).max())):
            return trial
    raise AssertionError("no inputs tell these mistakes apart")


def group_advantages(answer: Answer) -> Verdict:
    """answer(rewards) -> (n, g): GRPO's advantages of rewards (n, g), a row a group: in standard deviations
    (divisor g) above the group's mean; exactly 0 in a group whose rewards are all equal."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(sizes: tuple[int, int]) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, g = int(rng.integers(3, 5)), int(rng.integers(*sizes))
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

        for sizes in ((4, 7), (8, 12)):
            yield apart(lambda: make(sizes))  # noqa: B023
        small = np.array([[0.0, 1e-6, 0.0, 2e-6], [1.0, 0.0, 0.0, 0.0]])
        centred = small - small.mean(1, keepdims=True)
        std = small.std(1, keepdims=True)
        remark = "something is added to the standard deviation: rewards that differ by little lose their say"
        wrong = [(remark, centred / (std + e)) for e in (1e-8, 1e-6, 1e-4)]
        remark = (
            "rewards that differ by a millionth differ: only a group whose rewards are equal teaches nothing"
        )
        wrong.append((remark, centred / std * [[0.0], [1.0]]))
        yield Trial((small,), centred / std, wrong)
        equal = np.array([[1.0, 0.0, 1.0, 0.0], [0.0] * 4, [1.0] * 4])
        want = np.array([[1.0, -1.0, 1.0, -1.0], [0.0] * 4, [0.0] * 4])
        nothing = want.copy()
        nothing[1:] = np.nan
        remark = "a group whose rewards are all equal gave 0/0 = NaN, and one NaN spoils every weight"
        yield Trial((equal,), want, [(remark, nothing)])
        # Two rewards that are equal, or one that is the mean, do not make a group of equals.
        rows = [[1.0, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0], [2.0, 1.0, 3.0, 4.0, 0.0]]
        some = rng.uniform(1, 3) * rng.permutation(np.array(rows))
        mean, first = some.mean(1, keepdims=True), some[:, :1]
        want = (some - mean) / some.std(1, keepdims=True)
        told = {
            "the first and the last reward of a group are equal there, and not all of them": some[:, -1:],
            "the first two rewards of a group are equal there, and not all of them": some[:, 1:2],
            "a reward that is the group's mean does not make all rewards equal": mean,
        }
        wrong = [(remark, np.where(np.isclose(first, x), 0.0, want)) for remark, x in told.items()]
        yield Trial((some,), want, wrong)
        rounded = np.array([[0.1] * 7, [1.0, 0, 0, 0, 0, 0, 0]])  # whose mean is not 0.1
        spread = rounded.std(1, keepdims=True)
        centred = rounded - rounded.mean(1, keepdims=True)
        want = centred / np.where(spread < 1e-9, 1.0, spread)
        want[0] = 0.0
        remark = (
            "0.1 seven times has a mean that is rounded, and you divide that rounding by itself: ask whether "
            "all rewards are equal, not whether the standard deviation is 0"
        )
        added = "something is added to the standard deviation, and exactly 0 is asked for, not nearly"
        wrong = [(remark, centred / spread), (added, centred / (spread + 1e-12))]
        yield Trial((rounded,), want, wrong, 1e-13)

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def clipped_objective(answer: Answer) -> Verdict:
    """answer(new, old, advantages, counted, low, high) -> a number, to be made large: GRPO's objective from
    log-probabilities (n, t) of whole texts, advantages (n,), and which tokens the policy chose (n, t)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(rubbish: tuple[float, ...]) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, t = 4, int(rng.integers(9, 12))
            low, high = rng.uniform(0.1, 0.2), rng.uniform(0.3, 0.4)
            begin, length = rng.integers(1, 4, n), rng.integers(3, 6, n)
            length[:2] = 1, 5
            begin[2:] = 0, t - length[3]  # one reply from the first place on, and one up to the last
            order, at = rng.permutation(n), np.arange(t)
            whole = (at >= begin[order, None]) & (at < (begin + length)[order, None])
            gap = at == (begin + rng.integers(1, np.maximum(length - 1, 2)))[order, None]
            counted = whole & ~(gap & (length[order, None] > 1))  # a tool's token within a reply
            old = np.log(rng.uniform(0.2, 0.9, (n, t)))
            log_ratio = rng.normal(0, 0.5, (n, t))
            new = old + log_ratio
            a = rng.uniform(0.5, 2.0, n) * rng.permutation([-1.0, -1.0, 1.0, 1.0])

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
            one = np.where(counted, log_ratio, 0).sum(1) / counted.sum(1)
            behind = np.cumsum(counted, 1) > 0
            prompt = np.cumsum(counted[:, ::-1], 1)[:, ::-1] > 0
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
                ("a reply may have gaps: a token counts where `counted` is true, not from first to last",
                 value(ratio, mask=whole)),
                ("the first place of the array is left out; `counted` alone says what counts",
                 value(ratio, mask=counted & (at > 0))),
                ("the last place of the array is left out; `counted` alone says what counts",
                 value(ratio, mask=counted & (at < t - 1))),
                ("the prompt is counted: the policy did not choose it", value(ratio, mask=prompt)),
                ("what stands behind a reply is counted", value(ratio, mask=behind)),
                ("all that the array holds is counted, prompt and padding too",
                 value(ratio, mask=np.ones_like(counted))),
                ("that has one ratio a reply, as in GSPO; here each token has its own",
                 value(np.exp(one)[:, None] + 0 * ratio)),
                ("the sign is that of a loss; wanted is what is to be made large", -want),
            ]  # fmt: skip
            if rubbish:
                new = np.where(counted, new, rng.choice(rubbish, new.shape))
                old = np.where(counted, old, -rng.choice(rubbish, old.shape))
            return (new, old, a, counted, low, high), np.asarray(want), [(k, np.asarray(v)) for k, v in wrong]

        for _ in range(3):
            yield _apart(lambda: make(()))
        remark = "a NaN or an infinity outside of the reply came through: 0 * NaN is NaN, and 0 * inf too; "
        remark += "choose with np.where, or slice"
        for rubbish in ((np.nan,), (np.nan, np.inf, 1e5)):
            arguments, want = make(rubbish)[:2]
            yield Trial(arguments, want, [(remark, np.asarray(np.nan))])

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def _updates(z: Array, drawn: Array, a: Array, rate: float, count: int, low: float, high: float,
             how: str = "") -> Array:  # fmt: skip
    """`steps`, or one of its mistakes."""

    def softmax(x: Array) -> Array:
        e = np.exp(x - x.max())
        return e / e.sum()

    bounds = {
        "root": (1 / (1 + low), 1 + high), "root above": (1 - low, 1 / (1 - high)),
        "powers": (np.exp(-low), np.exp(high)), "power below": (np.exp(-low), 1 + high),
        "power above": (1 - low, np.exp(high)), "swapped": (1 - high, 1 + low),
        "both low": (1 - low, 1 + low), "both high": (1 - high, 1 + high),
    }  # fmt: skip
    least, most = bounds.get(how, (1 - low, 1 + high))
    start = softmax(z)[drawn]
    first, z = softmax(z), z.copy()
    for i in range(count):
        p = softmax(z)
        old = {"fresh": p[drawn], "uniform": np.full(len(drawn), 1 / len(z))}.get(how, start)
        ratio = p[drawn] / old
        ratio = 1 / ratio if how == "inverse" else ratio
        stopped = ((a > 0) & (ratio > most)) | ((a < 0) & (ratio < least))
        if how == "both":
            stopped = (ratio > most) | (ratio < least)
        if how == "off":
            stopped = np.zeros_like(stopped)
        weight = np.where(stopped, 0, a * (1 if how == "no ratio" else ratio))
        if how == "kept":
            weight = a * ratio.clip(least, most)
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
            v, g = int(rng.integers(4, 6)), int(rng.integers(7, 10))
            z, rate = rng.normal(0, 0.8, v), rng.uniform(0.5, 0.8)
            low, high = rng.uniform(0.2, 0.3), rng.uniform(0.35, 0.45)
            drawn = rng.integers(0, v, g)
            a = rng.choice([-1.0, 1.0], g) * rng.uniform(0.6, 2.0, g)
            arguments = (z, drawn, a, rate, count, low, high)
            remarks = {
                "fresh": "old is taken anew at each update: every ratio is 1 then, and nothing is clipped",
                "uniform": "old is the policy that sampled, not a uniform one",
                "inverse": "the ratio is upside down: new over old",
                "both": "clipping stops a gain that went far enough, not the way back; mind the sign of A",
                "off": "nothing is clipped",
                "root": "the lower bound is 1 - low, not 1 / (1 + low): a bound is a share, not a factor",
                "root above": "the upper bound is 1 + high, not 1 / (1 - high)",
                **dict.fromkeys(
                    ("powers", "power below", "power above"),
                    "the bounds are 1 - low and 1 + high, no exponentials of -low and high",
                ),
                "swapped": "the bounds have changed places",
                "both low": "both bounds are `low`; the upper one is its own",
                "both high": "both bounds are `high`; the lower one is its own",
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

        for count in (8, 12, 10):
            yield _apart(lambda: make(count))  # noqa: B023

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

        def make_long() -> tuple[tuple[Any, ...], Array, Wrong]:
            n, r = 3, int(rng.integers(2000, 2200))
            lengths = r - rng.integers(1, 20, n)
            real = np.arange(r) < lengths[:, None]
            rare, often = (np.log(rng.uniform(*bounds, (n, r))) for bounds in ((0.05, 0.4), (0.5, 0.95)))
            up = np.array([[False], [True], [False]])
            new, old = np.where(up, often, rare), np.where(up, rare, often)
            kept, by_old = np.where(real, new - old, 0), np.where(real, old, 0)
            remark = (
                "a product of two thousand numbers leaves float64: add logarithms, and take exp at the end"
            )
            shares = [np.exp(x).prod(1) for x in (by_old + kept, by_old)]
            wrong = [np.exp(kept).prod(1) ** (1 / lengths), (shares[0] / shares[1]) ** (1 / lengths)]
            return (new, old, lengths), np.exp(kept.sum(1) / lengths), [(remark, x) for x in wrong]

        for _ in range(2):
            yield apart(lambda: make(0.0))
        arguments, want = make(float("nan"))[:2]
        remark = "a NaN behind a reply came through: 0 * NaN is NaN, so choose with np.where, or slice"
        yield Trial(arguments, want, [(remark, np.full(len(want), np.nan))])
        yield apart(make_long)

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def kl_estimate(answer: Answer) -> Verdict:
    """answer(new, reference) -> (n,): the estimate k3 of KL(new || reference) at n tokens that the policy
    drew, from their log-probabilities under the policy and under the reference."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> tuple[tuple[Any, ...], Array, Wrong]:
            n = int(rng.integers(4, 7))
            new, ref = np.log(rng.uniform(0.05, 0.9, (2, n)))
            new[0], ref[1] = (
                rng.uniform(-26, -24),
                rng.uniform(-26, -24),
            )  # all but impossible for one of them
            order = rng.permutation(n)
            new, ref = new[order], ref[order]
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
                ("nothing is to be cut off: a large estimate is what a rare token is worth",
                 want.clip(0, 10)),
                ("nothing is to be cut off: a large log-ratio is what a rare token is worth",
                 np.exp(d.clip(-20, 20)) - d.clip(-20, 20) - 1),
                ("the two models are mixed up in one of the terms", np.exp(-d) - d - 1),
            ]  # fmt: skip
            return (new, ref), want, wrong

        for _ in range(3):
            yield apart(make)

    return judge(answer, trials)
