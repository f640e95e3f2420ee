"""Of 20_speed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mistakes import Mistake


def sizes(c: dict[str, Any]) -> tuple[int, ...]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "vocab_size")  # fmt: skip
    return tuple(int(c[name]) for name in names)


def parts(c: dict[str, Any], length: int, batch: int) -> dict[str, int]:
    """Numbers that a step reads, by kind."""
    D, F, L, h, g, d, V = sizes(c)
    return {
        "q": L * D * h * d, "o": L * D * h * d, "kv": 2 * L * D * g * d, "ffn": 3 * L * D * F, "head": V * D,
        "rows": batch * D, "cache": 2 * L * g * d * length * batch,
    }  # fmt: skip


def changed(change: Callable[[dict[str, Any], dict[str, int], int, int], dict[str, int]]) -> Any:
    """The right answer, with some of its parts as `change` has them."""

    def answer(c: dict[str, Any], length: int, batch: int, size: float) -> float:
        found = parts(c, length, batch)
        return size * sum((found | change(c, found, length, batch)).values())

    return answer


MATRICES = ("q", "o", "kv", "ffn", "head")
STEP: list[Mistake] = [
    ("the same matrix is read once",
     changed(lambda c, p, t, b: {"head": p["head"] * (2 if c["tie_word_embeddings"] else 1)})),
    ("only the rows of the tokens are read",
     changed(lambda c, p, t, b: {"head": p["head"] * (1 if c["tie_word_embeddings"] else 2)})),
    ("the same matrix is read once", changed(lambda c, p, t, b: {"head": 2 * p["head"]})),
    ("row of the embedding of its own", changed(lambda c, p, t, b: {"rows": 0})),
    ("row of the embedding of its own", changed(lambda c, p, t, b: {"rows": p["rows"] // b})),
    ("the head is a product like the others", changed(lambda c, p, t, b: {"head": 0})),
    ("the cache holds KV heads",
     changed(lambda c, p, t, b: {"cache": p["cache"] // sizes(c)[4] * sizes(c)[3]})),
    ("keys and values are both read", changed(lambda c, p, t, b: {"cache": p["cache"] // 2})),
    ("read once for the whole batch", changed(lambda c, p, t, b: {k: b * p[k] for k in MATRICES})),
    ("has a cache of its own", changed(lambda c, p, t, b: {"cache": p["cache"] // b})),
    ("SwiGLU has three matrices", changed(lambda c, p, t, b: {"ffn": p["ffn"] // 3 * 2})),
    ("have KV heads as outputs", changed(lambda c, p, t, b: {"kv": 2 * p["q"]})),
    ("attention ends in o_proj", changed(lambda c, p, t, b: {"o": 0})),
    ("not hidden_size",
     changed(lambda c, p, t, b: dict.fromkeys(("q", "o"), sizes(c)[2] * sizes(c)[0] ** 2))),
    ("one layer is not all",
     changed(lambda c, p, t, b: {k: p[k] // sizes(c)[2] for k in ("q", "o", "kv", "ffn", "cache")})),
    ("each has `size` bytes", lambda c, t, b, size: sum(parts(c, t, b).values())),
    ("should be", changed(lambda c, p, t, b: {"cache": p["cache"] // t * (t - 1)})),
]  # fmt: skip


def by_layer(c: dict[str, Any], length: int, batch: int, size: float) -> float:
    """Layer for layer."""
    total = 0.0
    D, F, L, h, g, d, V = sizes(c)
    for _ in range(L):
        for outputs, inputs in ((h * d, D), (g * d, D), (g * d, D), (D, h * d), (F, D), (F, D), (D, F)):
            total += outputs * inputs * size
        for _text in range(batch):
            total += 2 * length * g * d * size
    return total + size * D * (V + batch)


def scale(a: Any, axis: int | None = 1, steps: int = 127) -> Any:
    return np.abs(a).max(axis=axis, keepdims=True) / steps


def back(a: Any, s: Any) -> Any:
    return np.rint(a / s) * s


def sums(x: Any, w: Any) -> Any:
    return np.rint(x / scale(x)) @ np.rint(w / scale(w)).T


def short(x: Any, w: Any) -> Any:
    codes = [np.rint(a / scale(a)).astype(np.int8) for a in (x, w)]
    return (codes[0] @ codes[1].T) * scale(x) * scale(w).T


def cut(x: Any, w: Any) -> Any:
    return np.trunc(x / scale(x)) @ np.trunc(w / scale(w)).T * scale(x) * scale(w).T


def floored(x: Any, w: Any) -> Any:
    return np.floor(x / scale(x)) @ np.floor(w / scale(w)).T * scale(x) * scale(w).T


INT8: list[Mistake] = [
    ("a row depends on its neighbours", lambda x, w: back(x, scale(x, None)) @ back(w, scale(w)).T),
    ("each output channel has its own", lambda x, w: back(x, scale(x)) @ back(w, scale(w, None)).T),
    ("cannot be taken out of the sum", lambda x, w: back(x, scale(x)) @ back(w, scale(w, 0)).T),
    ("multiply by both scales", sums),
    ("the rows' scales are missing", lambda x, w: sums(x, w) * scale(w).T),
    ("the channels' scales are missing", lambda x, w: sums(x, w) * scale(x)),
    ("you cut towards zero", cut),
    ("take 127", lambda x, w: back(x, scale(x, 1, 128)) @ back(w, scale(w, 1, 128)).T),
    ("the activations are rounded too", lambda x, w: x @ back(w, scale(w)).T),
    ("the weights are rounded too", lambda x, w: back(x, scale(x)) @ w.T),
    ("nothing is rounded", lambda x, w: x @ w.T),
    ("does not fit into 8 bits", short),
    ("the rows of x come first", lambda x, w: (sums(x, w) * scale(x) * scale(w).T).T),
    ("should be", floored),
]


def one_by_one(x: Any, w: Any) -> list[list[float]]:
    """Number for number, in Python's whole numbers."""
    found = []
    for row in x:
        s = max(abs(row)) / 127
        codes = [round(float(v / s)) for v in row]
        line = []
        for channel in w:
            t = max(abs(channel)) / 127
            line.append(sum(a * round(float(v / t)) for a, v in zip(codes, channel, strict=True)) * s * t)
        found.append(line)
    return found


def most(
    weights: float, size: float, cache: float, bandwidth: float, peak: float, flops: float = 2,
    own: float = -1, once: float = 0,
) -> float:  # fmt: skip
    read = (weights * size + once * cache) / bandwidth
    return read / (flops * weights / peak + own * cache / bandwidth)


LARGEST: list[Mistake] = [
    ("a weight costs two FLOPs", lambda *a: math.floor(most(*a, flops=1))),
    ("reads a cache of its own", lambda *a: math.floor(most(*a, own=0))),
    ("reads a cache of its own", lambda *a: math.floor(most(*a, own=0, once=1))),
    ("it leaves room for more rows", lambda *a: math.floor(most(*a, own=1))),
    ("that is the ridge", lambda n, s, c, b, p: int(p / b)),
    ("a weight has `size` bytes", lambda n, s, c, b, p: math.floor(most(n, 1, c, b, p))),
    ("round down", lambda *a: math.ceil(most(*a))),
    ("with one row more", lambda *a: round(most(*a))),
    ("rows come whole", lambda *a: most(*a)),
    ("the other way round", lambda n, s, c, b, p: int(s / 2 * b / p)),
    ("one row more still fits", lambda *a: math.floor(most(*a)) - 1),
]


def counted_up(weights: float, size: float, cache: float, bandwidth: float, peak: float) -> int:
    """Row after row, as long as memory takes longer."""
    rows = 0
    while 2 * weights * (rows + 1) / peak <= (weights * size + (rows + 1) * cache) / bandwidth:
        rows += 1
    return rows


def uniform(p: Any, n: int) -> float:
    return float(len(p) * (1 - (1 - p.sum() / len(p)) ** n))


DISTINCT: list[Mistake] = [
    ("the experts are not chosen alike", uniform),
    ("some tokens choose the same expert", lambda p, n: p.sum() * n),
    ("some tokens choose the same expert", lambda p, n: min(len(p), p.sum() * n)),
    ("that nobody chooses", lambda p, n: ((1 - p) ** n).sum()),
    ("each is a chance as it stands", lambda p, n: (1 - (1 - p / p.sum()) ** n).sum()),
    ("add up over the experts", lambda p, n: (1 - (1 - p) ** n).mean()),
    ("that all n choose an expert", lambda p, n: (p**n).sum()),
    ("that not all choose an expert", lambda p, n: (1 - p**n).sum()),
    ("only where one excludes the other", lambda p, n: np.minimum(1, n * p).sum()),
    ("should be", lambda p, n: (1 - (1 - p) ** (n - 1)).sum()),
]


def token_by_token(shares: Any, n: int) -> float:
    """The chance of each expert to be still idle, token after token."""
    idle = np.ones(len(shares))
    for _ in range(n):
        idle = idle * (1 - shares)
    return float(len(shares) - idle.sum())


MISTAKES: dict[str, list[Mistake]] = {
    "step_bytes": STEP,
    "int8_product": INT8,
    "largest_batch": LARGEST,
    "distinct_experts": DISTINCT,
}
ALSO_RIGHT: dict[str, list[Callable[..., Any]]] = {
    "step_bytes": [changed(lambda c, p, t, b: {}), by_layer],
    "int8_product": [lambda x, w: back(x, scale(x)) @ back(w, scale(w)).T, one_by_one],
    "largest_batch": [lambda *a: int(most(*a)), counted_up],
    "distinct_experts": [token_by_token, lambda p, n: -np.expm1(n * np.log1p(-p)).sum()],
}
