"""Of 03_rope."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qwen3_ref import model, numpy_ref, rope
from tests.mistakes import Mistake


def halves(x: Any) -> tuple[Any, Any]:
    return np.split(x, 2, axis=-1)[0], np.split(x, 2, axis=-1)[1]


def even_first(d: int) -> list[int]:
    return [*range(0, d, 2), *range(1, d, 2)]


def waves(d: int, theta: float) -> Any:
    return 2 * np.pi * theta ** (np.arange(0, d, 2) / d)


def complex_rope(x: Any, positions: Any, inv_freq: Any, sign: int = 1) -> Any:
    first, second = halves(x)
    return (first + 1j * second) * np.exp(sign * 1j * positions[:, None] * inv_freq)


def apart(z: Any) -> Any:
    return np.concatenate([z.real, z.imag], axis=-1)


def view_as_complex(x: Any, positions: Any, inv_freq: Any) -> Any:
    z = np.ascontiguousarray(x).view(np.complex128) * np.exp(1j * positions[:, None] * inv_freq)
    return np.ascontiguousarray(z).view(np.float64)


def by_head(weight: Any, heads: int, order: Any) -> Any:
    return weight.reshape(heads, -1, weight.shape[1])[:, order].reshape(weight.shape)


def head_dim(weight: Any, heads: int) -> int:
    return int(weight.shape[0]) // heads


def overwrite(x: Any, positions: Any, inv_freq: Any) -> Any:
    x[:] = apart(complex_rope(x, positions, inv_freq))
    return x


def borrowed(rotate: Any, x: Any, angles: Any) -> Any:
    cos, sin = (np.cos, np.sin) if isinstance(x, np.ndarray) else (torch.cos, torch.sin)
    return rotate(x[None], cos(angles)[None], sin(angles)[None])[0]


def ramp(f: Any, low: int, high: int) -> Any:
    return (np.arange(len(f)) - low) / (high - low)


def tables(angles: Any, dtype: torch.dtype | None = None) -> Any:
    return angles.cos().to(dtype or angles.dtype), angles.sin().to(dtype or angles.dtype)


WAVELENGTHS: list[Mistake] = [
    ("a full turn is 2 pi radians", lambda d, t: waves(d, t) / (2 * np.pi)),
    ("lacks the 2", lambda d, t: 2 * np.pi * t ** (np.arange(d // 2) / d)),
    ("radians a token, the frequency", lambda d, t: t ** (-np.arange(0, d, 2) / d)),
    ("that is turns a token", lambda d, t: 1 / waves(d, t)),
    ("that is frequency times 2 pi", lambda d, t: 2 * np.pi * t ** (-np.arange(0, d, 2) / d)),
    ("one value a channel", lambda d, t: np.repeat(waves(d, t), 2)),
    ("one value a channel", lambda d, t: np.tile(waves(d, t), 2)),
    ("it is 10,000 whatever", lambda d, t: waves(d, 1e4)),
    ("it is 1,000,000 whatever", lambda d, t: waves(d, 1e6)),
    ("slowest pair comes first", lambda d, t: waves(d, t)[::-1]),
    ("your last exponent is 1", lambda d, t: 2 * np.pi * t ** np.linspace(0, 1, d // 2)),
    ("at [0] your result is 7.2832 and should be 6.2832", lambda d, t: waves(d, t) + 1),
    ("that calls qwen3_ref.rope.frequencies", lambda d, t: 2 * np.pi / rope.frequencies(d, t)[0]),
]
COMPLEX: list[Mistake] = [
    ("your pairs are neighbours (0, 1), but Qwen3 pairs channel j with j + d/2", view_as_complex),
    (
        "write the results as neighbours",
        lambda x, p, f: np.ascontiguousarray(complex_rope(x, p, f)).view(np.float64),
    ),
    ("you turn backwards", lambda x, p, f: apart(complex_rope(x, p, f, -1))),
    ("you count positions from 0", lambda x, p, f: apart(complex_rope(x, np.arange(len(p)), f))),
    ("your result is complex", complex_rope),
    ("unturned", lambda x, p, f: x),
    ("overwrites its argument number 1", overwrite),
    ("raises ValueError", lambda x, p, f: apart(complex_rope(x, p, f[:-1]))),
    ("the shape (2, 5, 4); wanted is (2, 5, 8)", lambda x, p, f: complex_rope(x, p, f).real),
    ("that calls qwen3_ref.numpy_ref.rotate", lambda x, p, f: borrowed(numpy_ref.rotate, x, np.outer(p, f))),
    (
        "that calls qwen3_ref.model.rotate",
        lambda x, p, f: borrowed(model.rotate, torch.tensor(x), torch.tensor(np.outer(p, f))),
    ),
]
REORDER: list[Mistake] = [
    ("the way back", lambda w, h: by_head(w, h, np.argsort(even_first(head_dim(w, h))))),
    ("every head has its own", lambda w, h: w[even_first(len(w))]),
    ("you move columns", lambda w, h: by_head(w.T, h, even_first(head_dim(w, h))).T),
    ("you move columns", lambda w, h: w[:, even_first(len(w))]),
    ("as it was", lambda w, h: w),
]
YARN: list[Mistake] = [
    ("you slow every pair", lambda f, low, high, s: f / s),
    ("runs the wrong way", lambda f, low, high, s: f / s + np.clip(ramp(f, low, high), 0, 1) * (f - f / s)),
    ("you multiply by factor", lambda f, low, high, s: f + np.clip(ramp(f, low, high), 0, 1) * (f * s - f)),
    (
        "you blend wavelengths",
        lambda f, low, high, s: f / (1 + np.clip(ramp(f, low, high), 0, 1) * (s - 1)),
    ),
    ("always divide by 4", lambda f, low, high, s: f - np.clip(ramp(f, low, high), 0, 1) * f * 3 / 4),
    ("clip it", lambda f, low, high, s: f + ramp(f, low, high) * (f / s - f)),
    ("you switch at once", lambda f, low, high, s: np.where(np.arange(len(f)) < high, f, f / s)),
    ("you switch at once", lambda f, low, high, s: np.where(np.arange(len(f)) <= low, f, f / s)),
]
TABLES: list[Mistake] = [
    ("your angles are rounded too early", lambda p, f, kind: tables(p[:, None].to(kind) * f.to(kind))),
    ("your angles are rounded too early", lambda p, f, kind: tables((p[:, None] * f).to(kind))),
    ("cos comes first", lambda p, f, kind: tables(p[:, None] * f, kind)[::-1]),
    ("your positions are rounded", lambda p, f, kind: tables(p[:, None].to(kind).double() * f, kind)),
    ("your frequencies are rounded", lambda p, f, kind: tables(p[:, None] * f.to(kind).double(), kind)),
    ("come as torch.float64; torch.bfloat16 was asked for", lambda p, f, kind: tables(p[:, None] * f)),
    ("the shape (40, 32); wanted is (2, 40, 32)", lambda p, f, kind: tables(p[:, None] * f, kind)[0]),
]
MISTAKES = {
    "wavelengths": WAVELENGTHS,
    "complex": COMPLEX,
    "reorder": REORDER,
    "yarn": YARN,
    "tables": TABLES,
}
