"""Of 19_quantization_and_memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3_ref.course.checks.quantization_and_memory import PLACES
from tests.mistakes import Mistake


def steps(row: Any, most: float) -> Any:
    scale = np.abs(row).max() / most
    return np.rint(row / scale) * scale


def half(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def by_largest_value(row: Any, bits: int) -> Any:
    scale = row.max() / half(bits)
    return np.clip(np.rint(row / scale), -half(bits), half(bits)) * scale


def asymmetric(row: Any, bits: int) -> Any:
    step = (row.max() - row.min()) / (2**bits - 1)
    return np.rint((row - row.min()) / step) * step + row.min()


def scale_of(row: Any, bits: int) -> Any:
    return np.abs(row).max() / half(bits)


def with_cut(row: Any, bits: int, cut: Any) -> Any:
    return cut(row / scale_of(row, bits)) * scale_of(row, bits)


ROUNDED: list[Mistake] = [
    ("these are the codes", lambda r, b: np.rint(r / scale_of(r, b))),
    ("you cut towards zero", lambda r, b: with_cut(r, b, np.trunc)),
    ("you round down", lambda r, b: with_cut(r, b, np.floor)),
    ("without a code of its own", lambda r, b: steps(r, half(b) + 1)),
    ("2^bits - 1 steps are for the whole range", lambda r, b: steps(r, 2**b - 1)),
    ("2^bits is the number of codes", lambda r, b: steps(r, 2**b)),
    ("you take the largest value", by_largest_value),
    ("that is asymmetric rounding", asymmetric),
    ("without a scale", lambda r, b: np.rint(r)),
    ("nothing is rounded", lambda r, b: r.copy()),
]


def nibbles(word: int) -> list[int]:
    return [word >> 4 * k & 15 for k in range(8)]


def placed(word: int, mask: int = 15) -> list[int]:
    codes = [0] * 8
    for k, column in enumerate(PLACES):
        codes[column] = word >> 4 * k & mask
    return codes


def unmasked_last(word: int) -> list[int]:
    codes = placed(word)
    codes[7] = word >> 28
    return codes


COLUMNS: list[Mistake] = [
    ("in the order of the bits", nibbles),
    ("you read the high bits first", lambda w: nibbles(w)[::-1]),
    ("you shuffle the wrong way round", lambda w: [nibbles(w)[k] for k in PLACES]),
    ("the columns are backwards", lambda w: placed(w)[::-1]),
    ("you subtract 8", lambda w: [c - 8 for c in placed(w)]),
    ("those are bytes", lambda w: [w >> 8 * k & 255 for k in range(4)]),
    ("you take three bits of four", lambda w: placed(w, 7)),
    ("a word may be negative", unmasked_last),
    ("should be", lambda w: placed(abs(w))),
    ("you read the high bits first", lambda w: [int(digit, 16) for digit in f"{w & 0xFFFFFFFF:08x}"]),
]


def near(x: float, step: float) -> float:
    return float(np.rint(x / step) * step)


def moved(w: Any, step: float, by: float) -> list[float]:
    """The second weight moved by so much for each unit that the first lost."""
    first = near(w[0], step)
    return [first, w[1] + (w[0] - first) * by]


def floored(w: Any, step: float) -> float:
    return float(np.floor(w[0] / step) * step)


def right(w: Any, h: Any, step: float) -> list[float]:
    return moved(w, step, h[0, 1] / h[1, 1])


def factor(h: Any) -> float:
    lower = np.linalg.cholesky(h)
    return float(lower[1, 0] / lower[0, 0] ** 2)


PAIR: list[Mistake] = [
    ("let it make up for the first", lambda w, h, s: moved(w, s, 0)),
    ("the second moves the wrong way", lambda w, h, s: moved(w, s, -h[0, 1] / h[1, 1])),
    ("the curvature of the weight that moves", lambda w, h, s: moved(w, s, h[0, 1] / h[0, 0])),
    ("the whole error is passed on", lambda w, h, s: moved(w, s, 1)),
    ("divided by the second weight's own curvature", lambda w, h, s: moved(w, s, h[0, 1])),
    ("that is a factor of h itself", lambda w, h, s: moved(w, s, factor(h))),
    ("before it is rounded", lambda w, h, s: [near(x, s) for x in right(w, h, s)]),
    ("the first weight must be", lambda w, h, s: [w[0], right(w, h, s)[1]]),
    ("and you take q", lambda w, h, s: [near(w[0], s), w[1] + near(w[0], s) * h[0, 1] / h[1, 1]]),
    ("nothing is changed", lambda w, h, s: w.copy()),
    ("should be", lambda w, h, s: [floored(w, s), w[1] + (w[0] - floored(w, s)) * h[0, 1] / h[1, 1]]),
]


def size(n: int, kv: int, d: int, t: int, bits: int, scale: float = 16, both: int = 2) -> float:
    return both * n * kv * t * (d * bits + scale) / 8


CACHE: list[Mistake] = [
    ("the scales take room too", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, 0)),
    ("keys and values are both kept", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, both=1)),
    ("several query heads read each", lambda n, h, kv, d, t, b: size(n, h, d, t, b)),
    ("eight of them are a byte", lambda n, h, kv, d, t, b: 8 * size(n, kv, d, t, b)),
    ("not 16 bytes", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, 128)),
    ("not as many as a code", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, b)),
    ("not each channel one", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, 16 * d)),
    ("scales of their own", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, 8)),
    ("one layer is not all", lambda n, h, kv, d, t, b: size(1, kv, d, t, b)),
    ("a cache of 16 bits", lambda n, h, kv, d, t, b: size(n, kv, d, t, 16, 0)),
    ("should be", lambda n, h, kv, d, t, b: size(n, kv, d, t - 1, b)),
    ("should be", lambda n, h, kv, d, t, b: size(n, kv, d, t, b, 32)),
]
MISTAKES: dict[str, list[Mistake]] = {
    "rounded_row": ROUNDED,
    "columns": COLUMNS,
    "pair": PAIR,
    "cache_bytes": CACHE,
}


def by_codes(row: Any, bits: int) -> Any:
    """Each weight looked up among all that the codes can say."""
    table = np.arange(-half(bits), half(bits) + 1) * scale_of(row, bits)
    return table[np.abs(row[:, None] - table).argmin(1)]


def by_text(word: int) -> list[int]:
    digits = f"{word % 2**32:08x}"[::-1]
    return [int(digits[PLACES.index(column)], 16) for column in range(8)]


def by_solving(w: Any, h: Any, step: float) -> Any:
    """The second weight for which the product's error has no slope."""
    lost = w - np.array([near(w[0], step), 0.0])
    return np.array([near(w[0], step), w[1] + h[1, 0] * lost[0] / h[1, 1]])


def by_inverse(w: Any, h: Any, step: float) -> Any:
    """As GPTQ has it, by the inverse of h."""
    inverse, first = np.linalg.inv(h), near(w[0], step)
    return [first, w[1] - (w[0] - first) / inverse[0, 0] * inverse[0, 1]]


ALSO_RIGHT = {
    "rounded_row": [by_codes, lambda r, b: [round(x / scale_of(r, b)) * scale_of(r, b) for x in r]],
    "columns": [by_text, lambda w: np.array(placed(w % 2**32))],
    "pair": [by_solving, by_inverse],
    "cache_bytes": [
        lambda n, h, kv, d, t, b: sum(kv * t * (d * b / 8 + 2) for _ in range(2 * n)),
        lambda n, h, kv, d, t, b: 2 * n * kv * t * d * b / 8 + 2 * n * kv * t * 16 / 8,
    ],
}
