"""Checks of 10_long_context."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from qwen3_ref.context.chunks import Chunks
from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, judge
from qwen3_ref.rope import default_frequencies


def never_turned(answer: Answer) -> Verdict:
    """answer(inv_freq, trained) -> (d/2,): 1.0 for pairs that do not complete a turn in trained tokens."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for turned in (0.97, 1.03, 0.97):  # of a turn that one pair makes: the rule is sharp
            d, theta = int(2 * rng.integers(16, 40)), float(rng.uniform(5e4, 5e6))
            waves = 2 * np.pi / default_frequencies(d, theta)
            trained = round(turned * waves[waves > 700][0])
            inv_freq = default_frequencies(d, theta)
            turns = trained * inv_freq / (2 * np.pi)
            mistakes = [
                ("those are the pairs that do complete a turn; wanted are the others", turns >= 1),
                ("you count radians; a full turn is 2 pi of them", trained * inv_freq < 1),
                ("you ask for half a turn; a pair has seen every angle after a whole one", turns < 0.5),
                ("you return the turns; wanted is 1 where there is less than one, else 0", turns),
                ("that is all pairs whatever is given", np.ones(d // 2)),
                ("you return how many there are; wanted is one value a pair", np.array((turns < 1).sum())),
            ]
            wrong = [(remark, np.asarray(value) * 1.0) for remark, value in mistakes]
            yield Trial((inv_freq, trained), (turns < 1) * 1.0, wrong)

    return judge(answer, trials)


def new_base(answer: Answer) -> Verdict:
    """answer(head_dim, theta, factor, j) -> the rope_theta under which pair j is slowed factor times."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in map(int, 2 * rng.integers(8, 30, size=3)):
            theta, s = float(rng.uniform(5e3, 5e5)), float(rng.uniform(2, 9))
            j = int(rng.integers(3, d // 2 - 2))
            want = theta * s ** (d / (2 * j))
            mistakes = [
                ("you multiply theta by factor; the pair's exponent is 2 j / d, not 1", theta * s),
                ("your exponent is upside down: it is d / (2 j)", theta * s ** (2 * j / d)),
                ("that is the base for the last pair, whatever j is", theta * s ** (d / (d - 2))),
                ("you raise the whole product; only factor gets the exponent", (theta * s) ** (d / (2 * j))),
                ("you divide; a slower pair needs a larger theta", theta / s ** (d / (2 * j))),
                ("factor alone gets the exponent; theta is missing", s ** (d / (2 * j))),
                ("that is the base for pair j - 1", theta * s ** (d / (2 * j - 2))),
                ("that is the base for pair j + 1", theta * s ** (d / (2 * j + 2))),
                ("a pair is two channels: the exponent of theta is 2 j / d", theta * s ** (d / j)),
                ("that is the pair's new frequency; wanted is the base", want ** (-2 * j / d)),
                ("theta comes back unchanged", theta),
            ]  # fmt: skip
            wrong = [(remark, np.array(value)) for remark, value in mistakes]
            yield Trial((d, theta, s, j), np.array(want), wrong)

    return judge(answer, trials)


def _between(rng: np.random.Generator, d: int) -> tuple[float, int, float, float]:
    """theta, a trained length, and the exact ends of the ramp, neither of which rounds to the nearest as it
    should be rounded."""
    while True:
        theta, trained = float(rng.uniform(2e5, 2e6)), int(rng.integers(8_000, 40_000))
        low, high = (d * math.log(trained / (2 * math.pi * n)) / (2 * math.log(theta)) for n in (32, 1))
        if 0.55 < low % 1 < 0.95 and 0.05 < high % 1 < 0.45:
            return theta, trained, low, high


def yarn_ramp(answer: Answer) -> Verdict:
    """answer(head_dim, theta, trained, factor) -> (d/2,) YaRN's frequencies, linear in the index."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in (64, 128, 96):
            theta, trained, low, high = _between(rng, d)
            s, fast, j = (
                float(rng.uniform(2, 3)),
                default_frequencies(d, theta),
                np.arange(d // 2),
            )  # s below 2 pi
            a, b = math.floor(low), math.ceil(high)

            def blend(share: np.ndarray, fast: np.ndarray = fast, s: float = s) -> np.ndarray:
                return (1 - share) * fast + share * fast / s

            def ramp(low: float, high: float, j: np.ndarray = j) -> np.ndarray:
                return blend(np.clip((j - low) / (high - low), 0, 1))

            turns, share = trained * fast / (2 * np.pi), np.clip((j - a) / (b - a), 0, 1)
            kept = np.clip((turns - 1) / 31, 0, 1)
            radians = d / (2 * math.log(theta)) * math.log(2 * math.pi)
            longer = d / (2 * math.log(theta)) * math.log(s)
            m = 0.1 * math.log(s) + 1
            mistakes = [
                ("low is rounded down and high up; yours are not rounded", ramp(low, high)),
                ("low is rounded down and high up: the ramp gets longer at both ends", ramp(a + 1, b - 1)),
                ("low is rounded down and high up: the ramp gets longer at both ends", ramp(a + 1, b)),
                ("low is rounded down and high up: the ramp gets longer at both ends", ramp(a, b - 1)),
                ("that is the paper's ramp, linear in turns; YaRN's code is linear in the index",
                 blend(1 - kept)),
                ("your ramp runs the wrong way: fast pairs, of low index, stay", blend(1 - share)),
                ("your share leaves 0..1 outside of low..high; clip it", blend((j - a) / (b - a))),
                ("a turn is 2 pi radians; you take one for a radian",
                 ramp(math.floor(low + radians), math.ceil(high + radians))),
                ("the ramp is worked out from the length that was trained, not from the longer one",
                 ramp(math.floor(low + longer), math.ceil(high + longer))),
                ("those are indices of channels; a pair is two of them",
                 ramp(math.floor(2 * low), math.ceil(2 * high))),
                ("pairs are counted from 0", ramp(a - 1, b - 1)),
                ("you multiply by factor; longer texts turn slower", blend(share, s=1 / s)),
                ("what rises linearly is the share of the slowed frequency; you blend the exponents",
                 fast * s**-share),
                ("you switch at once; between low and high both are blended", blend((j > a) * 1.0)),
                ("you switch at once; between low and high both are blended", blend((j >= b) * 1.0)),
                ("m multiplies cos and sin, not the frequencies", m * ramp(a, b)),
                ("you slow every pair (position interpolation)", fast / s),
                ("your frequencies come back unchanged", fast),
            ]  # fmt: skip
            yield Trial((d, theta, trained, s), ramp(a, b), mistakes, 1e-10)

    return judge(answer, trials)


def factor(answer: Answer) -> Verdict:
    """answer(length, original) -> (factor, m): the smallest YaRN factor that makes room, and its m."""

    def m(s: float) -> float:
        return 0.1 * math.log(s) + 1

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for lowest, highest in ((5.2, 7.8), (0.1, 0.9), (1.2, 1.9)):  # no way of rounding gives 4
            original, long = int(rng.integers(1_000, 40_000)), lowest > 1
            length = int(original * rng.uniform(lowest, highest))
            s = max(1.0, length / original)
            up = float(math.ceil(length / original))
            whole = 2.0 ** math.ceil(math.log2(length / original)) if long else 0.5
            mistakes = [
                ("a text within the trained length needs no stretching: the factor is never below 1",
                 (length / original, m(length / original))),
                ("you round the factor up; a larger one costs more on short texts", (up, m(up))),
                ("you round the factor up; a larger one costs more on short texts", (whole, m(whole))),
                ("you return (m, factor); the factor comes first", (m(s), s)),
                ("your m uses the logarithm to base 10; it is the natural one", (s, 0.1 * math.log10(s) + 1)),
                ("your m uses the logarithm to base 2; it is the natural one", (s, 0.1 * math.log2(s) + 1)),
                ("that is m squared, what the logits get; cos and sin get m", (s, m(s) ** 2)),
                ("your m lacks the + 1", (s, 0.1 * math.log(s))),
                ("your factor is 4 whatever is given", (4.0, m(4.0))),
                ("your factor is upside down: length / original", (original / length, m(original / length))),
            ]  # fmt: skip
            yield Trial((length, original), np.array([s, m(s)]), [(r, np.array(v)) for r, v in mistakes])

    return judge(answer, trials)


def chunked(answer: Answer) -> Verdict:
    """answer(length, chunk_size, local_size) -> (length, length): the distance at which Dual Chunk Attention
    lets query i see key j, in the code's variant; -1 where j is after i."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for w in (2, int(rng.integers(3, 5))):
            s = int(rng.integers(w + 3, w + 6))
            c, n = s + w, 4 * s + int(rng.integers(2, s))
            want = Chunks(c, w).distances(n)
            i, j = np.arange(n)[:, None], np.arange(n)[None, :]
            back, key = i // s - j // s, j % s

            def table(successive: np.ndarray | int, inter: np.ndarray | int) -> np.ndarray:
                query = np.where(back == 0, i % s, np.where(back == 1, successive, inter))  # noqa: B023
                return np.where(i >= j, query - key, -1)  # noqa: B023

            near = np.minimum(s + i % s, c)
            own, other = i // c - j // c, np.minimum(c + i % c, c)
            whole = np.where(own == 0, i % c, np.where(own == 1, other, c)) - j % c
            mistakes = [
                ("that is plain attention: distances grow with the text", np.where(i >= j, i - j, -1)),
                ("you never cap the chunk before: distances stay up to chunk_size", table(s + i % s, c)),
                ("you count from the query's own chunk; distances turn negative", table(i % s, i % s)),
                ("older chunks stand at chunk_size for every query, not at s", table(near, s)),
                ("that is the paper's variant, up to chunk_size - 1; here it is chunk_size",
                 Chunks(c, w, "paper").distances(n)),
                ("a chunk has chunk_size - local_size tokens, not chunk_size", np.where(i >= j, whole, -1)),
                ("keys after the query get -1", np.where(i >= j, want, i % s - key)),
                ("all other chunks are taken for old ones: the one before is nearer", table(c, c)),
                ("older chunks are taken for the one before: they stand at chunk_size", table(near, near)),
            ]  # fmt: skip
            yield Trial((n, c, w), want * 1.0, [(r, np.asarray(v) * 1.0) for r, v in mistakes])

    return judge(answer, trials)
