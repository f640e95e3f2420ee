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
        for d in map(int, 2 * rng.integers(16, 40, size=3)):
            theta, trained = float(rng.uniform(5e4, 5e6)), int(rng.integers(600, 5000))
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


def ntk(answer: Answer) -> Verdict:
    """answer(head_dim, theta, factor) -> the rope_theta under which the last pair is slowed factor times."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in map(int, 2 * rng.integers(4, 30, size=3)):
            theta, s = float(rng.uniform(5e3, 5e5)), float(rng.uniform(2, 9))
            mistakes = [
                ("you multiply theta by factor; the last exponent is (d - 2) / d, not 1", theta * s),
                ("your exponent is upside down: it is d / (d - 2)", theta * s ** ((d - 2) / d)),
                ("you raise the whole product; only factor gets the exponent", (theta * s) ** (d / (d - 2))),
                ("you divide; a slower pair needs a larger theta", theta / s ** (d / (d - 2))),
                ("factor alone gets the exponent; theta is missing", s ** (d / (d - 2))),
                ("your exponent is d / (d - 1); the last pair is d / 2 - 1", theta * s ** (d / (d - 1))),
                ("theta comes back unchanged", theta),
            ]
            wrong = [(remark, np.array(value)) for remark, value in mistakes]
            yield Trial((d, theta, s), np.array(theta * s ** (d / (d - 2))), wrong)

    return judge(answer, trials)


def by_parts(answer: Answer) -> Verdict:
    """answer(inv_freq, trained, factor) -> (d/2,) frequencies, blended linearly in the turns from 1 to 32."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in (64, 96):
            inv_freq = default_frequencies(d, float(rng.uniform(2e5, 2e6)))
            trained, s = int(rng.integers(8_000, 40_000)), float(rng.uniform(3, 9))
            turns = trained * inv_freq / (2 * np.pi)
            line = (turns - 1) / 31
            kept, radians = np.clip(line, 0, 1), (turns * 2 * np.pi - 1) / 31

            def blend(kept: np.ndarray, fast: np.ndarray = inv_freq, s: float = s) -> np.ndarray:
                return kept * fast + (1 - kept) * fast / s

            index = np.clip(np.log(np.maximum(turns, 1e-9)) / np.log(32), 0, 1)
            mistakes = [
                ("that ramp is linear in the pair's index, as Qwen3's is; here it is in turns", blend(index)),
                ("your ramp runs the wrong way: pairs of 32 turns and more stay", blend(1 - kept)),
                ("your ramp leaves 0..1 outside of 1 to 32 turns; clip it", blend(line)),
                ("you slow every pair (position interpolation)", inv_freq / s),
                ("you count radians; divide by 2 pi to have turns", blend(np.clip(radians, 0, 1))),
                ("your ramp ends at 0 turns; it goes from 1 to 32", blend(np.clip(turns / 32, 0, 1))),
                ("you multiply by factor; longer texts turn slower", blend(kept, s=1 / s)),
                ("you switch at once; between 1 and 32 turns both are blended", blend((turns > 1) * 1.0)),
                ("you switch at once; between 1 and 32 turns both are blended", blend((turns >= 32) * 1.0)),
                ("your frequencies come back unchanged", inv_freq),
            ]  # fmt: skip
            yield Trial((inv_freq, trained, s), blend(kept), mistakes, 1e-9)

    return judge(answer, trials)


def factor(answer: Answer) -> Verdict:
    """answer(length, original) -> (factor, m): the smallest YaRN factor that makes room, and its m."""

    def m(s: float) -> float:
        return 0.1 * math.log(s) + 1

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for long in (True, False, True):
            original = int(rng.integers(1_000, 40_000))
            some, many = rng.uniform(1.2, 1.9), rng.uniform(4.2, 7.8)  # never rounded up to 4
            length = int(original * (rng.choice([some, many]) if long else rng.uniform(0.1, 0.9)))
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
