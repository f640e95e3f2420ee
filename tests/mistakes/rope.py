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


def even(d: int) -> Any:
    return range(0, d, 2)


def odd(d: int) -> Any:
    return range(1, d, 2)


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


def first_head(weight: Any, heads: int) -> Any:
    d = head_dim(weight, heads)
    return np.concatenate([by_head(weight, heads, even_first(d))[:d], weight[d:]])


def head_dim(weight: Any, heads: int) -> int:
    return int(weight.shape[0]) // heads


def by_cosine(x: Any, positions: Any, inv_freq: Any) -> Any:
    """The formula of the lesson, once more."""
    (first, second), angle = halves(x), np.outer(positions, inv_freq)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def cosine_as_a_number(x: Any, positions: Any, inv_freq: Any) -> Any:
    from numpy import cos as c
    from numpy import sin as s

    (first, second), angle = halves(x), np.outer(positions, inv_freq)
    return apart((first + 1j * second) * (c(angle) + 1j * s(angle)))


def by_shifted_sine(x: Any, angle: Any) -> Any:
    first, second = halves(x)
    return apart((first + 1j * second) * (np.sin(angle + np.pi / 2) + 1j * np.sin(angle)))


def by_powers(x: Any, positions: Any, inv_freq: Any) -> Any:
    """Turned once for every token."""
    first, second = halves(x)
    return apart((first + 1j * second) * np.exp(1j * inv_freq) ** positions[:, None])


def by_euler(x: Any, positions: Any, inv_freq: Any) -> Any:
    z = np.empty((*x.shape[:2], x.shape[2] // 2), dtype=complex)
    z.real, z.imag = halves(x)
    z *= np.e ** (1j * np.outer(positions, inv_freq))
    out = np.empty_like(x)
    out[..., : z.shape[-1]], out[..., z.shape[-1] :] = z.real, z.imag
    return out


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


def speeds(d: int, theta: float) -> Any:
    return theta ** (-np.arange(0, d, 2) / d)


def blended(
    d: int,
    theta: float,
    trained: float,
    factor: float,
    *,
    rounding: Any = (np.floor, np.ceil),
    ends: Any = lambda low, high: (low, high),
    clip: bool = True,
    wave: bool = False,
) -> Any:
    """YaRN with a choice of slips. wave: the factors by which a blend of wavelengths slows."""
    low, high = (
        r(d * np.log(trained / (2 * np.pi * turns)) / (2 * np.log(theta)))
        for r, turns in zip(rounding, (32, 1), strict=True)
    )
    low, high = ends(low, high)
    share = (np.arange(d // 2) - low) / (high - low)
    share = np.clip(share, 0, 1) if clip else share
    return 1 + share * (factor - 1) if wave else speeds(d, theta) * (1 - share + share / factor)


def share_of_slow(d: int, theta: float, trained: float) -> Any:
    """The ramp of YaRN, from 0 to 1."""
    return (1 - blended(d, theta, trained, 2) / speeds(d, theta)) * 2


def twice_too_large(d: int, theta: float, trained: float, factor: float) -> Any:
    low, high = (d * np.log(trained / (2 * np.pi * turns)) / np.log(theta) for turns in (32, 1))
    share = np.clip((np.arange(d // 2) - np.floor(low)) / (np.ceil(high) - np.floor(low)), 0, 1)
    return speeds(d, theta) * (1 - share + share / factor)


def by_turns(d: int, theta: float, trained: float, factor: float) -> Any:
    kept = np.clip((trained * speeds(d, theta) / (2 * np.pi) - 1) / 31, 0, 1)
    return speeds(d, theta) * (kept + (1 - kept) / factor)


def searched(d: int, theta: float, trained: int, factor: float) -> Any:
    """low and high by looking: the last pair with 32 turns or more, the first with one or less."""
    turns = trained * speeds(d, theta) / (2 * np.pi)
    low, high = np.flatnonzero(turns >= 32)[-1], np.flatnonzero(turns <= 1)[0]
    share = np.interp(np.arange(d // 2), [low, high], [0, 1])
    return speeds(d, theta) / factor * share + speeds(d, theta) * (1 - share)


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
    ("that is for degrees", lambda d, t: 180 / np.pi * waves(d, t)),
    ("that is half a turn", lambda d, t: waves(d, t) / 2),
    ("you count pairs from 1", lambda d, t: 2 * np.pi * t ** (2 * np.arange(1, d // 2 + 1) / d)),
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
    ("lack the speeds", lambda x, p, f: apart(complex_rope(x, 0 * p + 1, 0 * f + 1))),
    ("you mirror x", lambda x, p, f: apart(complex_rope(x * np.repeat([1, -1], len(f)), p, f))),
    ("the first half is the real part", lambda x, p, f: apart(complex_rope(np.roll(x, len(f), -1), p, f))),
    ("positions from the first", lambda x, p, f: apart(complex_rope(x, p - p[0], f))),
    ("a position further on", lambda x, p, f: apart(complex_rope(x, p + 1, f))),
    ("no 2 pi", lambda x, p, f: apart(complex_rope(x, 2 * np.pi * p, f))),
    ("the speed of the first", lambda x, p, f: apart(complex_rope(x, p, 0 * f + f[0]))),
    ("yours stands before it", lambda x, p, f: np.roll(apart(complex_rope(x, p, f)), x.shape[-1] // 2, -1)),
    ("right, but by `cos` and `sin`", by_cosine),
    ("right, but by `cos` and `sin`", cosine_as_a_number),
    ("right, but by `sin`", lambda x, p, f: by_shifted_sine(x, np.outer(p, f))),
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
    ("the even rows go first", lambda w, h: by_head(w, h, [*odd(head_dim(w, h)), *even(head_dim(w, h))])),
    (
        "exchange the two halves",
        lambda w, h: by_head(w, h, np.roll(range(head_dim(w, h)), head_dim(w, h) // 2)),
    ),
    ("exchange the two of a pair", lambda w, h: by_head(w, h, np.arange(head_dim(w, h)) ^ 1)),
    ("the first head only", first_head),
    (
        "you read the rows as (d, heads, D)",
        lambda w, h: w.reshape(len(w) // h, h, -1)[even_first(len(w) // h)].reshape(w.shape),
    ),
    ("from the end", lambda w, h: by_head(w, h, even_first(len(w) // h)[::-1])),
    ("as (heads, d, D)", lambda w, h: w.reshape(h, head_dim(w, h), -1)[:, even_first(head_dim(w, h))]),
    (
        "one row of each in turn",
        lambda w, h: (
            by_head(w, h, even_first(head_dim(w, h))).reshape(h, -1, len(w)).swapaxes(0, 1).reshape(w.shape)
        ),
    ),
    ("the way back", lambda w, h: w.reshape(h, 2, -1, len(w)).swapaxes(1, 2).reshape(w.shape)),
]
YARN: list[Mistake] = [
    ("you slow every pair", lambda d, theta, n, s: speeds(d, theta) / s),
    ("runs the wrong way", lambda d, theta, n, s: blended(d, theta, n, 1 / s) / s),
    ("you multiply by factor", lambda d, theta, n, s: blended(d, theta, n, 1 / s)),
    ("always divide by 4", lambda d, theta, n, s: blended(d, theta, n, 4)),
    ("are Qwen3's, 23 and 40", lambda d, theta, n, s: blended(d, theta, n, s, ends=lambda a, b: (23, 40))),
    ("you blend wavelengths", lambda d, theta, n, s: speeds(d, theta) / blended(d, theta, n, s, wave=True)),
    ("clip it", lambda d, theta, n, s: blended(d, theta, n, s, clip=False)),
    ("you switch at once", lambda d, theta, n, s: blended(d, theta, n, s, ends=lambda a, b: (b - 1e-6, b))),
    ("you switch at once", lambda d, theta, n, s: blended(d, theta, n, s, ends=lambda a, b: (a, a + 1e-6))),
    ("you round neither", lambda d, theta, n, s: blended(d, theta, n, s, rounding=(float, float))),
    ("low is rounded down", lambda d, theta, n, s: blended(d, theta, n, s, rounding=(round, round))),
    ("you round both down", lambda d, theta, n, s: blended(d, theta, n, s, rounding=(np.floor, np.floor))),
    ("you round both up", lambda d, theta, n, s: blended(d, theta, n, s, rounding=(np.ceil, np.ceil))),
    ("the other way round", lambda d, theta, n, s: blended(d, theta, n, s, rounding=(np.ceil, np.floor))),
    ("straight in turns", by_turns),
    ("not in the longer one", lambda d, theta, n, s: blended(d, theta, int(n * s), s)),
    ("goes to cos and sin", lambda d, theta, n, s: blended(d, theta, n, s) * (0.1 * np.log(s) + 1)),
    ("NTK-aware", lambda d, theta, n, s: speeds(d, theta * s ** (d / (d - 2)))),
    ("not their powers", lambda d, theta, n, s: speeds(d, theta) * s ** -share_of_slow(d, theta, n)),
    ("twice too large", twice_too_large),
    ("that is a wavelength", lambda d, theta, n, s: 2 * np.pi / blended(d, theta, n, s)),
    ("you count radians", lambda d, theta, n, s: blended(d, theta, 2 * np.pi * n, s)),
    (
        "that calls qwen3_ref.rope.frequencies",
        lambda d, theta, n, s: rope.frequencies(
            d, theta, {"rope_type": "yarn", "factor": s, "original_max_position_embeddings": n}
        )[0],
    ),
]
TABLES: list[Mistake] = [
    ("your angles are rounded too early", lambda p, f, kind: tables(p[:, None].to(kind) * f.to(kind))),
    ("your angles are rounded too early", lambda p, f, kind: tables((p[:, None] * f).to(kind))),
    ("cos comes first", lambda p, f, kind: tables(p[:, None] * f, kind)[::-1]),
    ("your positions are rounded", lambda p, f, kind: tables(p[:, None].to(kind).double() * f, kind)),
    ("your frequencies are rounded", lambda p, f, kind: tables(p[:, None] * f.to(kind).double(), kind)),
    ("come as torch.float64; torch.bfloat16 was asked for", lambda p, f, kind: tables(p[:, None] * f)),
    ("the shape (40, 32); wanted is (2, 40, 32)", lambda p, f, kind: tables(p[:, None] * f, kind)[0]),
    ("count positions from 0", lambda p, f, kind: tables(torch.arange(len(p))[:, None] * f, kind)),
    ("yours come twice", lambda p, f, kind: tables((p[:, None] * f).tile(2), kind)),
    ("rounded to 16 bits", lambda p, f, k: [t.to(k) for t in tables(p[:, None] * f, torch.bfloat16)]),
    ("rounded to 16 bits", lambda p, f, k: [t.to(k) for t in tables(p[:, None] * f, torch.float16)]),
    ("you turn backwards", lambda p, f, kind: tables(-p[:, None] * f, kind)),
    ("twice the same", lambda p, f, kind: [(p[:, None] * f).cos().to(kind)] * 2),
    ("positions from the first", lambda p, f, kind: tables((p - p[0])[:, None] * f, kind)),
    ("they are radians", lambda p, f, kind: tables(p[:, None] * f / (2 * np.pi), kind)),
    (
        "your angles are rounded too early",
        lambda p, f, kind: tables((p[:, None] * f).to(kind).double(), kind),
    ),
]
MISTAKES = {
    "wavelengths": WAVELENGTHS,
    "complex": COMPLEX,
    "reorder": REORDER,
    "yarn": YARN,
    "tables": TABLES,
}
ALSO_RIGHT = {
    "wavelengths": [waves, lambda d, t: 2 * np.pi / np.power(t, -2 * np.arange(d // 2) / d)],
    "complex": [by_powers, by_euler, lambda x, p, f: apart(complex_rope(x, p, f))],
    "reorder": [
        lambda w, h: by_head(w, h, even_first(head_dim(w, h))),
        lambda w, h: np.concatenate([np.concatenate([a[0::2], a[1::2]]) for a in np.split(w, h)]),
    ],
    "yarn": [blended, searched],
    "tables": [
        lambda p, f, kind: tables(p[:, None] * f, kind),
        lambda p, f, kind: tables(torch.outer(p.double(), f) % (2 * np.pi), kind),
        lambda p, f, kind: tables(p[:, None].float() * f.float(), kind),  # as the official code
    ],
}
