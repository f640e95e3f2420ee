"""GPTQ and AWQ, a function each: rounding that looks at what the weights are multiplied with. In NumPy.

Both ask for little error in W x, not in W. x (n, I) are inputs that a matrix (O, I) really had.

Sources: GPTQ, arXiv 2210.17323; AWQ, arXiv 2306.00978.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qwen3_ref.quantize.rounding import Array, Grid, Quantized, quantize

POINTS = 20
"""Exponents that AWQ tries, from 0 up to but not at 1."""


def hessian(x: ArrayLike) -> Array:
    """The second derivative of the squared error of an output by its weights: 2/n X^T X, (I, I)."""
    x = np.asarray(x, dtype=np.float64)
    out: Array = 2 / len(x) * (x.T @ x)
    return out


def gptq(w: ArrayLike, curvature: ArrayLike, grid: Grid, damping: float = 0.01) -> Quantized:
    """Round column by column, and let the columns to come make up for the error: w (O, I), curvature
    (I, I) as `hessian` has it.

    With U the upper Cholesky factor of the inverse, column j's error divided by U_jj goes, times row j
    of U, to the columns after it. A group's scale is taken when its first column is reached, from the
    weights as they then are. Inputs that were always zero get weights of zero. With a diagonal
    curvature nothing is passed on, and the result is plain rounding.
    """
    w = np.array(w, dtype=np.float64)
    curvature = np.array(curvature, dtype=np.float64)
    inputs = w.shape[1]
    size = inputs // grid.groups(inputs)
    dead = np.diag(curvature) == 0
    curvature[dead, dead] = 1
    w[:, dead] = 0
    curvature += damping * np.diag(curvature).mean() * np.eye(inputs)
    upper = np.linalg.cholesky(np.linalg.inv(curvature)).T
    codes, scales, zeros = np.empty(w.shape, np.uint8), [], []
    for j in range(inputs):
        if j % size == 0:
            scale, zero = grid.parameters(w[:, j : j + size])
            scales.append(scale)
            zeros.append(zero)
        codes[:, j] = grid.round(w[:, j], scale, zero)
        error = (w[:, j] - (codes[:, j].astype(np.float64) - zero) * scale) / upper[j, j]
        w[:, j + 1 :] -= np.outer(error, upper[j, j + 1 :])
    return Quantized(grid, codes, np.stack(scales, 1), np.stack(zeros, 1))


def awq(ws: list[Array], x: ArrayLike, grid: Grid) -> Array:
    """The scale s (I,) of each input by which all of `ws`, matrices (O, I) with the inputs x (n, I) in
    common, lose least when W s is rounded and x is divided by s.

    s = mean |x| to the power r, brought to 1 in the (geometric) middle of its range, and r is the best
    of POINTS by the squared error of the outputs. Before rounding W s times x / s is W x exactly.
    """
    x = np.asarray(x, dtype=np.float64)
    size = np.maximum(np.abs(x).mean(0), 1e-4)
    square = x.T @ x
    best, least = np.ones(x.shape[1]), np.inf
    for r in np.arange(POINTS) / POINTS:
        s = size**r
        s = s / np.sqrt(s.max() * s.min())
        lost = 0.0
        for w in ws:
            off = quantize(w * s, grid).dequantized() / s - w
            lost += float(np.einsum("oi,ij,oj->", off, square, off, optimize=True))
        if lost < least:
            best, least = s, lost
    return best
