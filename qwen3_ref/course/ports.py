"""A layer of attention as faulty ports have it: one wrong line each, for lesson 04's table of tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.numpy_ref import attention, positions_and_mask, rms_norm, rotate
from qwen3_ref.rope import cos_sin, frequencies

Array = NDArray[Any]
HEADS = ("KV heads tiled", "scale from D / h", "QK-Norm after RoPE", "QK-Norm over all heads")
BOOKKEEPING = ("mask not shifted", "positions not advanced", "padding attended", "columns, later counts")
FAULTS = (*HEADS, *BOOKKEEPING, "columns as positions")
"""The last is harmless: scores depend on distances alone."""


def attention_with(scale: float = 1.0, tiled: bool = False) -> Callable[..., tuple[Array, Array]]:
    """numpy_ref.attention with scores `scale` times as large, or with KV heads in the wrong order."""

    def wrong(q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array]:
        if tiled:
            k, v = (np.tile(a, (1, q.shape[1] // k.shape[1], 1, 1)) for a in (k, v))
        return attention(q * q.dtype.type(scale), k, v, allowed)

    return wrong


def late_norm(gains: Sequence[Array]) -> Callable[[Array, Array, Array], Array]:
    """numpy_ref.rotate as it acts when QK-Norm comes after it. It is given vectors that have their gain
    already: the gain is divided out, and put back when they are turned. gains: of q, k, q, k ... by layer."""
    order = itertools.cycle(gains)

    def wrong(x: Array, cos: Array, sin: Array) -> Array:
        gain = next(order)
        turned: Array = gain * rotate(x / gain, cos, sin)
        return turned

    return wrong


def layer(fault: str, w: Mapping[str, Array], x: Array, sizes: Sequence[int], pads: int = 0) -> Array:
    """What the heads of a layer say of x (t, D), before o_proj, in chunks of `sizes` with a cache and behind
    `pads` columns of padding -> (pads + t, h d). fault: one of FAULTS, or "" for none.

    w: q_proj, k_proj, v_proj, q_norm, k_norm. `sizes` sum to pads + t."""
    x, out, past = np.concatenate([np.ones((pads, x.shape[1])), x]), [], None
    for start, t in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        stop, columns = start + t, np.arange(start, start + t)[None]
        where, allowed = positions_and_mask(np.arange(stop)[None] >= pads, start)
        if fault == "mask not shifted" and t > 1:  # one query alone gets no mask, as usual
            allowed = np.tri(t, stop, dtype=bool)[None]
        if fault == "positions not advanced":
            where = columns - start
        if fault == "padding attended":
            allowed = np.arange(stop)[None, None, :] <= columns[:, :, None]
        if fault == "columns as positions" or (fault == "columns, later counts" and start == 0):
            where = columns
        said, past = _heads(fault, x[start:stop], w, where, allowed, past)
        out.append(said)
    return np.concatenate(out)


def _heads(
    fault: str, x: Array, w: Mapping[str, Array], positions: Array, allowed: Array,
    past: tuple[Array, Array] | None,
) -> tuple[Array, tuple[Array, Array]]:
    """One chunk: x (t, D), positions (1, t), allowed (1, t, s) -> (t, h d), keys and values (1, n, s, d)."""
    d, h = len(w["q_norm"]), len(w["q_proj"]) // len(w["q_norm"])
    tables = cos_sin(positions, frequencies(d, 1e6)[0])

    def split(name: str) -> Array:  # (1, heads, t, d)
        return (x @ w[name].T).reshape(1, len(x), -1, d).swapaxes(1, 2)

    def ready(name: str, gain: Array) -> Array:
        a = split(name)
        if fault == "QK-Norm after RoPE":
            return rms_norm(rotate(a, *tables), gain, 1e-6)
        if fault == "QK-Norm over all heads":
            return rotate(gain * a / np.sqrt((a * a).mean(axis=(1, 3), keepdims=True)), *tables)
        return rotate(rms_norm(a, gain, 1e-6), *tables)

    q, k, v = ready("q_proj", w["q_norm"]), ready("k_proj", w["k_norm"]), split("v_proj")
    if fault == "scale from D / h":
        q = q * np.sqrt(d * h / x.shape[1])
    if past is not None:
        k, v = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    n = k.shape[1]
    order = np.arange(h) % n if fault == "KV heads tiled" else np.arange(h) // (h // n)
    said = attention(q, k[:, order], v[:, order], allowed)[0]
    return said.swapaxes(1, 2).reshape(len(x), -1), (k, v)
