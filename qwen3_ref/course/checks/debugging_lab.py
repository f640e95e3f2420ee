"""Checks of 08_debugging_lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge


def onset(answer: Answer) -> Verdict:
    """answer(got, want, tolerance): logits (t, V) -> first position off by tolerance * rms(want), or t."""

    def first(off: Array) -> Array:
        return np.array(float(np.argmax(off) if off.any() else len(off)))

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        none = "where nothing differs the answer is t, the number of positions"
        for scale in 2 * (1.0, 1e-3, 50.0):  # at 1 an absolute tolerance is a relative one
            t, tolerance = 12, 0.01
            begin = int(rng.choice([2, 3, 6]))  # not 5 nor 4: five positions differ, and 5 would be one more
            want = 3 + rng.normal(size=(t, 7))  # not around 0, so its spread is not its size
            best, second = np.argsort(-want[9])[:2]
            want[9, second] = want[9, best] * (1 - 1e-9)
            want[-1] *= 20  # so one row's size is not that of all
            want *= scale / np.sqrt(np.mean(want * want))
            limit = tolerance * float(np.sqrt(np.mean(want * want)))
            got = want + 0.95 * limit * np.sign(want)  # within the tolerance
            got[begin:] = want[begin:]
            got[begin, np.argmin(want[begin])] -= 2 * limit  # one logit, not the winner; rms below it
            got[8] -= 3 * limit * (want[8] < want[8].max())  # all but the winner
            got[9] = want[9]
            got[9, second] += 2 * limit  # one logit, which now wins
            got[10:] += 3 * limit  # all of them
            off = np.abs(got - want)
            seen, rows = off > limit, np.sqrt(np.mean(want * want, axis=1))
            winners = np.not_equal(got.argmax(1), want.argmax(1))
            by_row = off.max(1) > tolerance * rows
            mistakes = [
                (
                    "your tolerance is absolute; multiply it by the size of want",
                    first(off.max(1) > tolerance),
                ),
                ("you average over the vocabulary; one logit is enough", first(off.mean(1) > limit)),
                (
                    "you average over the vocabulary; one logit is enough",
                    first(np.sqrt((off * off).mean(1)) > limit),
                ),
                ("you compare winning tokens; a bug may leave them in place", first(winners)),
                (
                    "the size is the root mean square of all of want: not of a row, nor a mean, nor a spread",
                    first(by_row),
                ),
                (
                    "the size is the root mean square of all of want: not of a row, nor a mean, nor a spread",
                    first(off.max(1) > tolerance * want.std()),
                ),
                (
                    "your tolerance is too wide: the size of want is its root mean square, not its largest "
                    "value, nor its length as a vector",
                    first(off.max(1) > tolerance * np.abs(want).max()),
                ),
                ("positions count from 0; yours is one more", np.array(begin + 1.0)),
                ("that is the last such position; the first is asked for", np.array(t - 1.0)),
                ("that is how many positions differ", np.array(float(seen.any(1).sum()))),
                ("that is a place among all numbers, not a position", np.array(float(np.argmax(seen)))),
                ("you ask that all logits of a position differ; one will do", first(np.asarray(seen.all(1)))),
            ]
            yield Trial((got, want, tolerance), np.array(float(begin)), mistakes)
        t = int(rng.integers(5, 12))
        want = rng.normal(size=(t, 6))
        mistakes = [(none, np.array(number)) for number in (0.0, -1.0, t - 1.0)]
        yield Trial((want * (1 + 1e-4), want, 0.01), np.array(float(t)), mistakes)

    return judge(answer, trials)


def shortest(answer: Answer) -> Verdict:
    """answer(right, wrong, limit) -> the smallest t at which right(t) and wrong(t) differ, or 0."""

    def bisected(bad: set[int], limit: int) -> float:
        low, high = 1, limit
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if middle in bad else (middle + 1, high)
        return float(low)

    def pair(rng: np.random.Generator, bad: set[int]) -> list[Callable[[int], Array]]:
        speed, size = float(rng.uniform(0.5, 2.0)), float(rng.uniform(2e-6, 3e-6))

        def right(t: int) -> Array:
            return np.asarray(np.sin(speed * np.arange(t)))

        def wrong(t: int) -> Array:
            out = np.sin(speed * np.arange(t)) + 3e-7  # rounding, everywhere
            out[t // 2] += size * (t in bad) * (-1 if t % 3 else 1)
            return np.asarray(out)

        return [right, wrong]

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        limit, start = 21, 2 * int(rng.integers(3, 5))
        bisection = "you bisect, but a bug that shows at t need not show at t + 1; try every length"
        largest = "that is the largest such t; the smallest is asked for"
        early = "that is one too few: t counts tokens"
        wide = "you find nothing; do you try every t, or is your tolerance too wide?"
        exact = "you ask for equal numbers; up to 1e-6 they may differ by rounding", np.array(1.0)
        total = "you add the differences up; it is the largest that counts"
        few = "your search stops before limit, which belongs to it"
        for bad in ({int(rng.choice([7, 9, 13]))}, set(range(start, limit, 2))):
            want = float(min(bad))
            mistakes = [(bisection, np.array(bisected(bad, limit))), (largest, np.array(float(max(bad))))]
            mistakes += [(early, np.array(want - 1)), (wide, np.array(0.0)), exact, (total, np.array(4.0))]
            yield Trial((*pair(rng, bad), limit), np.array(want), mistakes)
        late = "you start too late: one token is a text too"
        mistakes = [(total, np.array(4.0)), (late, np.array(0.0)), (late, np.array(9.0))]
        yield Trial((*pair(rng, {1, 9}), 12), np.array(1.0), mistakes)
        end = int(rng.integers(6, 30))
        mistakes = [(few, np.array(0.0)), (early, np.array(end - 1.0))]
        yield Trial((*pair(rng, {end}), end), np.array(float(end)), mistakes)
        none = "where no length shows a difference the answer is 0"
        mistakes = [(none, np.array(number)) for number in (-1.0, float(end), end + 1.0)]
        mistakes.append(("you go on beyond limit", np.array(end + 2.0)))
        yield Trial((*pair(rng, {end + 2}), end), np.array(0.0), mistakes)

    return judge(answer, trials)


def _turned(x: Array, cos: Array, sin: Array) -> Array:
    """x (t, d) rotated, channel j with j + d/2. cos, sin (t, d/2)."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _turned_in_neighbours(x: Array, cos: Array, sin: Array) -> Array:
    """The same, channel 2j with 2j + 1."""
    a, b = x[:, 0::2], x[:, 1::2]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def rescue(answer: Answer) -> Verdict:
    """answer(cached, gain, cos, sin): gain * norm(rotate(k)) (t, d) -> rotate(gain * norm(k)) (t, d)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for t, d in ((5, 8), (7, 12)):
            raw, gain = rng.normal(size=(t, d)), rng.uniform(0.4, 2.5, size=d)
            angles = rng.uniform(0.4, 1.2, size=(t, d // 2))
            cos, sin = np.cos(angles), np.sin(angles)
            size = np.sqrt(np.mean(raw * raw, axis=-1, keepdims=True))
            want = _turned(gain * raw / size, cos, sin)
            bare = _turned(raw, cos, sin) / size  # what was in the cache, without the gain
            cached = gain * bare

            def told(k: Array, back: Array, forth: Array, gain: Array = gain, cos: Array = cos) -> Array:
                return _turned(gain * _turned(k, cos, back), cos, forth)

            neighbours = _turned_in_neighbours(gain * _turned_in_neighbours(bare, cos, -sin), cos, sin)
            pairs = "your pairs are neighbours (0, 1), but Qwen3 pairs channel j with j + d/2"
            mistakes = [
                ("your keys come back as they were in the cache", cached),
                ("the gain is gone, but not put back", bare),
                ("your keys have the right gains but are not rotated", gain * raw / size),
                ("your keys are neither rotated nor scaled; do both, in Qwen3's order", raw / size),
                ("take the old gain out first: your keys have it twice", told(cached, -sin, sin)),
                ("you turn forwards twice; the first turn must go back", told(bare, sin, sin)),
                ("you turn back at the end; the keys must be turned forwards", told(bare, -sin, -sin)),
                (pairs, neighbours),
            ]
            yield Trial((cached, gain, cos, sin), want, mistakes)

    return judge(answer, trials)


def readers(answer: Answer) -> Verdict:
    """answer(q, k, v, out) -> the KV head that each query head read, (h,); see the notebook for shapes."""

    def attended(q: Array, k: Array, v: Array) -> Array:
        scores = np.where(np.tri(q.shape[1], dtype=bool), q @ k.swapaxes(1, 2) / np.sqrt(q.shape[2]), -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ v)

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        look = "this port does something else, so look at what came out"
        for h, n in ((4, 2), (6, 3), (6, 2)):
            t, d, grouped, tiled = 7, 10, np.arange(h) // (h // n), np.arange(h) % n
            while True:  # until every answer that is known is another one
                read, quiet = rng.integers(0, n, size=h), int(rng.integers(0, n))
                q, k, v = rng.normal(size=(h, t, d)), rng.normal(size=(n, t, d)), rng.normal(size=(n, t, d))
                v[:, 1:] *= np.where(np.arange(n) == quiet, 0.1, 3.0)[:, None, None]  # near to any mixture
                out = attended(q, k[read], v[read])
                distance = np.square(out[:, None] - v[None]).sum(axis=(2, 3))  # (h, n)
                nearest, farthest = distance.argmin(axis=1), distance.argmax(axis=1)
                known = (read, grouped, tiled, nearest, farthest, n - 1 - read, 0 * read)
                if len({tuple(one) for one in known}) == len(known) and len(set(read)) == n:
                    break
            mistakes = [
                (f"that is how Qwen3 shares them; {look}", grouped.astype(float)),
                (f"that is 0, 1, 0, 1, the usual bug; {look}", tiled.astype(float)),
                ("you number the KV heads from 1; they count from 0", read + 1.0),
                ("one number for each query head is asked for, not a table", np.eye(n)[read]),
                (
                    "you take the head whose values lie nearest; an output mixes the values of many tokens, "
                    "and quiet values are near to any mixture",
                    nearest.astype(float),
                ),
                ("you take the head that fits worst", farthest.astype(float)),
                ("you count the KV heads from the last", n - 1.0 - read),
            ]
            yield Trial((q, k, v, out), read.astype(float), mistakes)

    return judge(answer, trials)
