"""Rounding weights to a few bits, in NumPy: codes, scales, zero points, and how far off they can be.

A weight w is kept as a whole number q of b bits, and read as **w' = (q - z) s**. Scale s and zero point
z are shared by `group_size` neighbours along the input, or by the whole row of an output channel.

- symmetric: s = max |w| / (2^(b-1) - 1) and z = 2^(b-1), so that 0 is exact and the lowest code unused.
- asymmetric: s = (high - low) / (2^b - 1) and z = round(-low / s), where low <= 0 <= high.

**The bound.** Rounding to the nearest code moves a weight by at most half a step, |w - w'| <= s / 2. So
an output y = sum_j w_j x_j moves by at most **sum_j |x_j| s_j / 2**, and in the mean, if errors are
independent and even over a step, by sqrt(sum_j x_j^2 s_j^2 / 12). (At the ends of the range a code that
would fall outside is cut to the last one; that happens in ties alone and costs no more than s / 2.) Scales
are kept in float16, as in official files, rounded up so that the range still fits; codes are made with
the scale as it is kept.

Shapes: O outputs, I inputs, G groups (I = G * group_size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwen3_ref.arrays import require_whole

Array = NDArray[np.float64]
SMALLEST_SCALE = 2.0**-24  # float16's


@dataclass(frozen=True)
class Grid:
    """How weights are rounded: bits a code (2 to 8), weights a group (None: a row is one), symmetric or not.

    Raises ValueError, in one sentence, for what is none of these.
    """

    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = False

    def __post_init__(self) -> None:
        if require_whole("bits", self.bits, 2) > 8:
            raise ValueError(f"bits is {self.bits}; a code has 2 to 8 bits.")
        if self.group_size is not None:
            require_whole("group_size", self.group_size, 1, ", or None for one group a row")

    def groups(self, inputs: int) -> int:
        """Groups in a row of so many inputs. Raises ValueError if they do not divide it."""
        size = inputs if self.group_size is None else self.group_size
        if inputs % size:
            raise ValueError(
                f"group_size {size} does not divide the {inputs} inputs of the matrix; take a divisor, or "
                f"None for one group a row."
            )
        return inputs // size

    def bits_per_weight(self, inputs: int) -> float:
        """Bits that a weight takes in all: its code, and its share of a 16-bit scale and a zero point."""
        extra = 16 if self.symmetric else 16 + self.bits
        return self.bits + extra * self.groups(inputs) / inputs

    def parameters(self, groups: Array) -> tuple[Array, NDArray[np.int64]]:
        """Scales and zero points of weights in groups, (..., group_size) -> (...), (...)."""
        if self.symmetric:
            scale = np.abs(groups).max(-1) / (2 ** (self.bits - 1) - 1)
        else:
            scale = (groups.max(-1).clip(0) - groups.min(-1).clip(None, 0)) / (2**self.bits - 1)
        half = np.maximum(scale, SMALLEST_SCALE).astype(np.float16)
        half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)  # else ends stick out
        kept = half.astype(np.float64)
        if not np.isfinite(kept).all():
            raise ValueError("the weights hold NaN, an infinity, or values whose scale no float16 holds.")
        if self.symmetric:
            return kept, np.full(kept.shape, 2 ** (self.bits - 1))
        return kept, np.rint(-groups.min(-1).clip(None, 0) / kept).astype(np.int64)

    def round(self, w: Array, scale: Array, zero: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The nearest codes of weights; scale and zero broadcast against them."""
        lowest = 1 if self.symmetric else 0
        return np.clip(np.rint(w / scale) + zero, lowest, 2**self.bits - 1).astype(np.uint8)


@dataclass(frozen=True)
class Quantized:
    """A matrix in codes: `codes` (O, I), `scale` and `zero` (O, G), and the grid they are of."""

    grid: Grid
    codes: NDArray[np.uint8]
    scale: Array
    zero: NDArray[np.int64]

    def dequantized(self) -> Array:
        """(q - z) s, (O, I) in float64."""
        size = self.codes.shape[1] // self.scale.shape[1]
        scale, zero = self.scale.repeat(size, 1), self.zero.repeat(size, 1)
        return (self.codes.astype(np.float64) - zero) * scale

    def bound(self, x: ArrayLike) -> Array:
        """How far W'x can be from Wx for weights that were rounded to the nearest: x (..., I) -> (..., O)."""
        size = self.codes.shape[1] // self.scale.shape[1]
        out: Array = np.abs(np.asarray(x, dtype=np.float64)) @ (self.scale.repeat(size, 1).T / 2)
        return out


def quantize(w: ArrayLike, grid: Grid) -> Quantized:
    """Round a matrix (O, I) to the nearest codes. Raises ValueError for groups that do not divide I, for
    another number of axes, or for weights that are not finite."""
    w = np.asarray(w, dtype=np.float64)
    if w.ndim != 2:
        raise ValueError(f"the weights have {w.ndim} axes; give one matrix (outputs, inputs) at a time.")
    groups = w.reshape(len(w), grid.groups(w.shape[1]), -1)
    scale, zero = grid.parameters(groups)
    codes = grid.round(groups, scale[..., None], zero[..., None]).reshape(w.shape)
    return Quantized(grid, codes, scale, zero)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes (O, I) of so many bits as bytes (O, ceil(I bits / 8)): bit k of code j is bit j * bits + k of
    the row, low bits first."""
    unpacked = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(unpacked.reshape(len(codes), -1), axis=-1, bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, inputs: int) -> NDArray[np.uint8]:
    """What `pack` packed, (O, inputs)."""
    flat = np.unpackbits(packed, axis=-1, count=inputs * bits, bitorder="little")
    padded = np.zeros((len(packed), inputs, 8), np.uint8)
    padded[..., :bits] = flat.reshape(len(packed), inputs, bits)
    return np.packbits(padded, axis=-1, bitorder="little")[..., 0]
