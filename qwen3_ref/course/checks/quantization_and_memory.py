"""Checks of 19_quantization_and_memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, judge

PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Of each nibble of an AWQ word, low bits first, the column that it holds."""


def rounded_row(answer: Answer) -> Verdict:
    """answer(row, bits) -> the row after symmetric rounding and back, one scale for all of it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for bits in (4, 3, 2, 8, 4):
            row = rng.normal(size=12)
            if bits == 3:  # the largest magnitude stands below zero
                row *= -np.sign(row[np.abs(row).argmax()])
            most = 2 ** (bits - 1) - 1
            scale = np.abs(row).max() / most
            codes = np.rint(row / scale)

            def again(steps: int, row: np.ndarray = row, largest: float = np.abs(row).max()) -> np.ndarray:
                step = largest / steps
                return np.rint(row / step) * step

            low, step = row.min(), (row.max() - row.min()) / (2**bits - 1)
            mistakes = [
                ("these are the codes; multiply them by the scale again", codes),
                ("you cut towards zero; take the nearest code", np.trunc(row / scale) * scale),
                ("you round down; take the nearest code", np.floor(row / scale) * scale),
                ("2^(bits-1) steps leave the largest weight without a code of its own", again(most + 1)),
                ("2^bits - 1 steps are for the whole range; to one side there are half of them",
                 again(2**bits - 1)),
                ("2^bits is the number of codes on both sides of zero together", again(2**bits)),
                ("the scale is of the largest magnitude, and you take the largest value",
                 np.clip(np.rint(row / (row.max() / most)), -most, most) * (row.max() / most)),
                ("that is asymmetric rounding, from the lowest to the highest",
                 np.rint((row - low) / step) * step + low),
                ("you round the weights themselves, without a scale", np.rint(row)),
                ("nothing is rounded", row),
            ]  # fmt: skip
            want = codes * scale
            yield Trial((row, bits), want, [(r, m) for r, m in mistakes if not np.allclose(m, want)])

    return judge(answer, trials)


def columns(answer: Answer) -> Verdict:
    """answer(word) -> the eight columns that AWQ keeps in a signed 32-bit word."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for negative in (False, True) * 4:
            codes = [int(c) for c in rng.permutation(16)[:8]]
            if (codes[7] >= 8) != negative:
                codes[7] = (codes[7] + 8) % 16
            word = sum(codes[PLACES[k]] << 4 * k for k in range(8))
            word = word - 2**32 if word >= 2**31 else word
            nibbles = [word >> 4 * k & 15 for k in range(8)]
            want = np.asarray(codes)
            mistakes = [
                ("you read the nibbles in the order of the bits; the columns are shuffled", nibbles),
                ("you read the high bits first", nibbles[::-1]),
                ("you shuffle the wrong way round: nibble k *holds* column 0 2 4 6 1 3 5 7 [k]",
                 [nibbles[k] for k in PLACES]),
                ("the columns are backwards", codes[::-1]),
                ("you subtract 8; a word holds codes, and the zero point is stored apart",
                 [c - 8 for c in codes]),
                ("those are bytes, not nibbles", [word >> 8 * k & 255 for k in range(4)]),
                ("you take three bits of four", [c & 7 for c in codes]),
            ]  # fmt: skip
            if negative:
                signed = list(codes)
                signed[7] -= 16
                mistakes.insert(0, ("a word may be negative: keep four bits of each shift with & 15", signed))
            named = [(remark, np.asarray(wrong)) for remark, wrong in mistakes]
            named = [(r, w) for r, w in named if w.shape != want.shape or (w != want).any()]
            yield Trial((word,), want, named)

    return judge(answer, trials)


def pair(answer: Answer) -> Verdict:
    """answer(w, h, step) -> the first weight rounded to a multiple of step, and what the second becomes
    before it is rounded."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        kinds = [(1, 1), (-1, -1), (1, -1), (-1, 1)]  # h's sign, and whether the first is too small
        while kinds:
            sign, side = kinds[0]
            step = float(rng.uniform(0.3, 0.6))
            first = step * float(rng.integers(1, 5) * rng.choice([-1, 1]))
            error = side * step * float(rng.uniform(0.15, 0.4))
            w = np.array([first + error, rng.normal() * 2])
            a, b = float(rng.uniform(1.2, 2)), float(rng.uniform(2.5, 4))
            c = sign * float(rng.uniform(0.5, 0.9)) * (a * b) ** 0.5
            lower = np.linalg.cholesky(h := np.array([[a, c], [c, b]]))
            moves = {
                "the second weight stays as it was; let it make up for the first": 0.0,
                "the second moves the wrong way: think what the product still lacks": -c / b,
                "divide by the curvature of the weight that moves, the second": c / a,
                "the whole error is passed on; only as much as the inputs have in common helps": 1.0,
                "the error is not divided by the second weight's own curvature": c,
                "that is a factor of h itself; GPTQ's is of its inverse": lower[1, 0] / lower[0, 0] ** 2,
            }
            second = w[1] + error * c / b
            mistakes = [(remark, np.array([first, w[1] + error * by])) for remark, by in moves.items()]
            mistakes += [
                ("the second is asked for before it is rounded",
                 np.array([first, np.rint(second / step) * step])),
                ("the first weight must be a multiple of step", np.array([w[0], second])),
                ("what the first has lost is w - q, and you take q", np.array([first, w[1] + first * c / b])),
                ("nothing is changed", w),
            ]  # fmt: skip
            every = np.array([[first, second], *(wrong for _, wrong in mistakes)])
            apart = np.abs(every[:, None] - every).max(-1) + np.eye(len(every))
            if apart.min() > 0.01:  # else two of them could not be told apart: other numbers
                kinds.pop(0)
                yield Trial((w, h, step), every[0], mistakes)

    return judge(answer, trials)


def cache_bytes(answer: Answer) -> Verdict:
    """answer(layers, heads, kv_heads, head_dim, length, bits) -> bytes of a KV cache whose vectors have a
    16-bit scale each."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for bits in (6, 4, 5):  # 8 and 16 have other meanings here
            layers, kv_heads = int(rng.integers(20, 60)), int(rng.integers(2, 9))
            heads, head_dim = 4 * kv_heads, int(rng.choice([64, 128, 96]))
            length = int(rng.integers(100, 1000))  # so few that one token more or less shows

            def size(
                heads: int = kv_heads, both: float = 2, scale: float = 16, bits: float = bits,
                byte: float = 8, layers: int = layers, width: int = head_dim, length: int = length,
            ) -> float:  # fmt: skip
                return both * layers * heads * length * (width * bits + scale) / byte

            mistakes = [
                ("the scales take room too", size(scale=0)),
                ("keys and values are both kept", size(both=1)),
                ("the cache holds KV heads; several query heads read each", size(heads=heads)),
                ("those are bits; eight of them are a byte", size(byte=1)),
                ("a scale has 16 bits, not 16 bytes", size(scale=128)),
                ("a scale has 16 bits, not as many as a code", size(scale=bits)),
                ("a vector has one scale, not each channel one", size(scale=16 * head_dim)),
                ("keys and values have scales of their own", size(scale=8)),
                ("one layer is not all of them", size(layers=1)),
                ("that is a cache of 16 bits", size(bits=16, scale=0)),
            ]
            arguments = (layers, heads, kv_heads, head_dim, length, bits)
            named = [(remark, np.asarray(wrong)) for remark, wrong in mistakes if wrong != size()]
            yield Trial(arguments, np.asarray(size()), named)

    return judge(answer, trials)
