"""Of 04_attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3_ref import numpy_ref
from tests.mistakes import Mistake


def size(c: Any, tokens: int, *, heads: str = "num_key_value_heads", per_number: int = 2) -> int:
    return int(2 * c["num_hidden_layers"] * c[heads] * c["head_dim"] * tokens * per_number)


def by_hidden(c: Any) -> int:
    return int(c["hidden_size"] // c["num_attention_heads"])


def shares(scores: Any, axis: int = -1) -> Any:
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def attend(
    q: Any, k: Any, v: Any, *, tiled: str = "", scale: float = 0.0, masked: Any = None, axis: int = -1
) -> Any:
    """Grouped-query attention with a choice of slips."""
    (h, t, d), n = q.shape, len(k)
    k, v = (
        np.tile(a, (h // n, 1, 1)) if name in tiled else np.repeat(a, h // n, axis=0)
        for name, a in (("k", k), ("v", v))
    )
    scores = q @ k.swapaxes(1, 2) * (scale or d**-0.5)
    mask = np.tri(t, dtype=bool) if masked is None else masked
    return shares(np.where(mask, scores, -np.inf), axis) @ v


def head(q: Any, k: Any, v: Any, i: int) -> Any:
    """One query head, (t, d)."""
    own = i // (len(q) // len(k))
    scores = q[i] @ k[own].T / np.sqrt(q.shape[-1])
    return shares(np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)) @ v[own]


def broadcast(q: Any, k: Any, v: Any) -> Any:
    """The right answer, with a group axis."""
    (h, t, d), n = q.shape, len(k)
    scores = q.reshape(n, h // n, t, d) @ k[:, None].swapaxes(-1, -2) / np.sqrt(d)
    weights = shares(np.where(np.tri(t, dtype=bool), scores, -np.inf))
    return (weights @ v[:, None]).reshape(h, t, d)


def again(a: Any, h: int) -> Any:
    return a.repeat(h // len(a), 0)


def one_question(q: Any, k: Any, v: Any) -> Any:
    group = len(q) // len(k)
    return attend(q.reshape(len(k), group, *q.shape[1:]).mean(1).repeat(group, 0), k, v)


def added(a: Any, q: Any) -> Any:
    """KV heads copied by a sum."""
    return (a[:, None] + np.zeros((1, len(q) // len(a), 1, 1))).reshape(q.shape)


def stacked(a: Any, q: Any) -> Any:
    return np.hstack((a[:, None],) * (len(q) // len(a))).reshape(q.shape)


def attend_with_repeat(q: Any, k: Any, v: Any) -> Any:
    from numpy import repeat as again

    return broadcast(q, again(k, len(q) // len(k), 0), again(v, len(q) // len(v), 0))


def concatenated(q: Any, k: Any, v: Any) -> Any:
    group = len(q) // len(k)
    k, v = np.concatenate([k[:, None]] * group, 1), np.concatenate([v[:, None]] * group, 1)
    return broadcast(q, k.reshape(q.shape), v.reshape(q.shape))


def gathered(q: Any, k: Any, v: Any) -> Any:
    own = np.arange(len(q)) // (len(q) // len(k))
    return broadcast(q, k[own], v[own])


def spread(q: Any, k: Any, v: Any) -> Any:
    n, t, d = k.shape
    wide = np.broadcast_to(k[:, None], (n, len(q) // n, t, d)).reshape(q.shape)
    return broadcast(q, wide, np.broadcast_to(v[:, None], (n, len(q) // n, t, d)).reshape(q.shape))


def head_by_head(q: Any, k: Any, v: Any) -> Any:
    return np.stack([head(q, k, v, i) for i in range(len(q))])


def group_by_group(q: Any, k: Any, v: Any) -> Any:
    out, group = np.empty_like(q), len(q) // len(k)
    i = 0
    while i < len(k):
        own = slice(i * group, (i + 1) * group)
        out[own] = broadcast(q[own], k[i : i + 1], v[i : i + 1])
        i += 1
    return out


def by_einsum(q: Any, k: Any, v: Any) -> Any:
    (h, t, d), n = q.shape, len(k)
    scores = np.einsum("ngtd,nsd->ngts", q.reshape(n, h // n, t, d), k) / d**0.5
    scores[..., ~np.tri(t, dtype=bool)] = -np.inf
    return np.einsum("ngts,nsd->ngtd", shares(scores), v).reshape(q.shape)


def groups_in_a_column(q: Any, k: Any, v: Any) -> Any:
    """The queries of a group stand below one another: (n, group t, d)."""
    n, t = k.shape[:2]
    scores = (q.reshape(n, -1, q.shape[-1]) @ k.swapaxes(1, 2)).reshape(n, -1, t, t) / np.sqrt(q.shape[-1])
    weights = shares(np.where(np.arange(t) <= np.arange(t)[:, None], scores, -np.inf))
    return (weights.reshape(n, -1, t) @ v).reshape(q.shape)


def only_before(q: Any, k: Any, v: Any) -> Any:
    """A mask without the diagonal; what that leaves of the first row is mopped up."""
    group, t = len(q) // len(k), q.shape[1]
    scores = q @ np.repeat(k, group, 0).swapaxes(1, 2) / np.sqrt(q.shape[-1])
    with np.errstate(invalid="ignore"):
        weights = shares(np.where(np.tri(t, k=-1) > 0, scores, -np.inf))
    return np.nan_to_num(weights) @ np.repeat(v, group, 0)


def zeroed(q: Any, k: Any, v: Any, *, before: bool) -> Any:
    group = len(q) // len(k)
    scores = q @ np.repeat(k, group, 0).swapaxes(1, 2) / np.sqrt(q.shape[-1])
    mask = np.tri(q.shape[1])
    return (shares(scores * mask) if before else shares(scores) * mask) @ np.repeat(v, group, 0)


def grid(real: Any, start: int) -> tuple[Any, Any]:
    """Keys (s,) and queries (t, 1), as columns of the text."""
    return np.arange(len(real)), np.arange(start, len(real))[:, None]


def rows_from_zero(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return real & (key <= query - start)


def padding_seen(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return key <= query


def empty_rows(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return real & (key <= query)


def right_mask(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key <= query)) | (key == query)


def strict(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key < query)) | ((key == query) & ~real)


def future(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return real | (key == query)


def new_only(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key <= query) & (key >= start)) | (key == query)


def one_ahead(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key <= query + 1)) | (key == query)


def ahead_only(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key >= query)) | (key == query)


def padding_sees_the_first(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key <= query)) | (~real[start:, None] & (key == 0))


def sociable_padding(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key <= query)) | ((key <= query) & ~real[start:, None])


def cache_and_itself(real: Any, start: int) -> Any:
    key, query = grid(real, start)
    return (real & (key < start)) | (key == query)


def norm(a: Any, gain: Any, eps: float) -> Any:
    return gain * a / np.sqrt((a * a).mean(-1, keepdims=True) + eps)


def turn(a: Any, cos: Any, sin: Any) -> Any:
    first, second = np.split(a, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def split(flat: Any, gain: Any) -> Any:
    return flat.reshape(len(flat), -1, len(gain)).swapaxes(0, 1)


def neighbours(x: Any, w: Any, gain: Any, cos: Any, sin: Any, eps: float) -> Any:
    a = norm(split(x @ w.T, gain), gain, eps)
    out = np.empty_like(a)
    out[..., ::2] = a[..., ::2] * cos - a[..., 1::2] * sin
    out[..., 1::2] = a[..., 1::2] * cos + a[..., ::2] * sin
    return out


def whole_width(x: Any, w: Any, gain: Any, cos: Any, sin: Any, eps: float) -> Any:
    return turn(split(norm(x @ w.T, np.tile(gain, len(w) // len(gain)), eps), gain), cos, sin)


def cut_by_hidden(x: Any, w: Any, gain: Any, cos: Any, sin: Any, eps: float) -> Any:
    """head_dim taken from D / h: here it does not even fit."""
    (t, width), heads = x.shape, len(w) // len(gain)
    return turn(norm((x @ w.T).reshape(t, heads, width // heads).swapaxes(0, 1), gain, eps), cos, sin)


def late_and_whole(x: Any, w: Any, gain: Any, cos: Any, sin: Any, eps: float) -> Any:
    flat = turn(split(x @ w.T, gain), cos, sin).swapaxes(0, 1).reshape(len(x), len(w))
    return split(norm(flat, np.tile(gain, len(w) // len(gain)), eps), gain)


def normed(f: Any) -> Any:
    """An answer to `queries` whose heads are normalised by f(heads, gain, eps)."""
    return lambda x, w, gain, cos, sin, eps: turn(f(split(x @ w.T, gain), gain, eps), cos, sin)


def root(a: Any) -> Any:
    return np.sqrt((a * a).mean(-1, keepdims=True))


def columns(real: Any) -> Any:
    return np.arange(real.shape[1]) + np.zeros_like(real, dtype=int)


def longest_padding(real: Any, start: int) -> Any:
    return np.maximum(columns(real) - (~real).sum(1).max(), 0)[:, start:]


def shipped_positions(real: Any, start: int) -> Any:
    if start == 0:
        return np.cumsum(np.ones_like(real, dtype=int), axis=1) - 1
    return real.sum(axis=1, keepdims=True) - 1


def last_column(real: Any, start: int) -> Any:
    return real.sum(axis=1, keepdims=True) - 1 if start else count(real, 0)


def count(real: Any, start: int) -> Any:
    return np.maximum(np.cumsum(real, axis=1) - 1, 0)[:, start:]


CACHE: list[Mistake] = [
    ("that is half: keys and values are both kept", lambda c, n: size(c, n) // 2),
    ("neither keys and values nor two bytes", lambda c, n: size(c, n) // 4),
    ("four bytes a number", lambda c, n: size(c, n, per_number=4)),
    ("you count query heads", lambda c, n: size(c, n, heads="num_attention_heads")),
    ("head_dim is hidden_size / heads", lambda c, n: size(c | {"head_dim": by_hidden(c)}, n)),
    ("you use hidden_size", lambda c, n: 4 * c["num_hidden_layers"] * c["hidden_size"] * n),
    ("that is one layer", lambda c, n: size(c | {"num_hidden_layers": 1}, n)),
    ("the cache holds all of them", lambda c, n: size(c, 1)),
    ("one token short", lambda c, tokens: size(c, tokens - 1)),
    ("one token too many", lambda c, tokens: size(c, tokens + 1)),
    *(
        ("not kB, MB or GB", lambda c, n, unit=unit: size(c, n) / unit)
        for unit in (1e3, 1e6, 1e9, 2**10, 2**20, 2**30)
    ),
    ("head_dim is missing", lambda c, n: size(c | {"head_dim": 1}, n)),
    ("the number of KV heads is missing", lambda c, n: size(c | {"num_key_value_heads": 1}, n)),
    ("queries are not kept", lambda c, n: size(c, n) + size(c, n, heads="num_attention_heads") // 2),
    (
        "the size of a group",
        lambda c, n: size(c | {"g": c["num_attention_heads"] // c["num_key_value_heads"]}, n, heads="g"),
    ),
    ("a byte has eight", lambda c, n: 8 * size(c, n)),
    ("should be", lambda c, n: 147_456 * n),  # the example of the text, typed in
]
GROUPED: list[Mistake] = [
    ("neighbours share (yours are tiled)", lambda q, k, v: attend(q, k, v, tiled="kv")),
    ("tiled for the keys", lambda q, k, v: attend(q, k, v, tiled="k")),
    ("tiled for the values", lambda q, k, v: attend(q, k, v, tiled="v")),
    ("a query may look at itself too", only_before),
    ("do not divide the scores", lambda q, k, v: attend(q, k, v, scale=1.0)),
    ("you divide by d;", lambda q, k, v: attend(q, k, v, scale=1 / q.shape[-1])),
    (
        "the root of all heads' width",
        lambda q, k, v: attend(q, k, v, scale=(len(q) * q.shape[-1]) ** -0.5),
    ),
    ("see the future", lambda q, k, v: attend(q, k, v, masked=np.ones(2 * q.shape[1:2], bool))),
    ("upside down", lambda q, k, v: attend(q, k, v, masked=np.tri(q.shape[1], dtype=bool).T)),
    ("set shares to zero after the softmax", lambda q, k, v: zeroed(q, k, v, before=False)),
    ("masked scores are 0 in your softmax", lambda q, k, v: zeroed(q, k, v, before=True)),
    ("runs over the queries", lambda q, k, v: attend(q, k, v, axis=1)),
    ("every query head reads KV head 0", lambda q, k, v: attend(q, k[:1], v[:1])),
    ("average the values", lambda q, k, v: attend(q, k, 0 * v + v.mean(0))),
    ("sees the next token too", lambda q, k, v: attend(q, k, v, masked=np.tri(q.shape[1], k=1) > 0)),
    ("the length of the text", lambda q, k, v: attend(q, k, v, scale=q.shape[1] ** -0.5)),
    ("you mix the keys", lambda q, k, v: attend(q, k, k)),
    ("each asks for itself", one_question),
    ("right, but your index or sum", lambda q, k, v: broadcast(q, added(k, q), added(v, q))),
    ("right, but `hstack` copies", lambda q, k, v: broadcast(q, stacked(k, q), stacked(v, q))),
    ("right, but `repeat` copies", attend_with_repeat),
    ("right, but `repeat` copies", lambda q, k, v: broadcast(q, again(k, len(q)), again(v, len(q)))),
    ("right, but `concatenate` copies", concatenated),
    ("right, but your index or sum", gathered),
    ("right, but `broadcast_to` copies", spread),
    ("right, but in a loop", head_by_head),
    ("right, but in a loop", group_by_group),
    ("right, but in a loop", lambda q, k, v: np.array([*map(lambda i: head(q, k, v, i), np.arange(len(q)))])),
    (
        "that calls qwen3_ref.numpy_ref.attention",
        lambda q, k, v: numpy_ref.attention(q[None], k[None], v[None], np.tri(q.shape[1])[None] > 0)[0][0],
    ),
]
def rows_from_zero_and_itself(real: Any, start: int) -> Any:
    return rows_from_zero(real, start) | np.eye(len(real), dtype=bool)[start:]


MASK: list[Mistake] = [
    ("your mask counts rows from 0", rows_from_zero),
    ("your mask counts rows from 0", rows_from_zero_and_itself),
    ("your queries see padding", padding_seen),
    ("its softmax is 0 / 0", empty_rows),
    ("a query may look at itself too", strict),
    ("see the future", future),
    ("but not one another", cache_and_itself),
    ("upside down", lambda real, start: ~right_mask(real, start)),
    ("wanted are booleans", lambda real, start: np.where(right_mask(real, start), 0.0, -np.inf)),
    ("sees the next token too", one_ahead),
    ("not for padding", lambda real, start: right_mask(~real, start)),
    ("look ahead only", ahead_only),
    ("not the first column", padding_sees_the_first),
    ("rows for the cached tokens too", lambda real, start: right_mask(real, 0)),
    ("leave out the columns of the cache", lambda real, start: right_mask(real, start)[:, start:]),
    ("do not see the cache", new_only),
    ("yours sees the tokens before it too", sociable_padding),
    (
        "that calls qwen3_ref.numpy_ref.positions_and_mask",
        lambda real, start: numpy_ref.positions_and_mask(real[None], start)[1][0],
    ),
]
QUERIES: list[Mistake] = [
    (
        "you normalise after RoPE; the gains",
        lambda x, w, g, cos, sin, eps: norm(turn(split(x @ w.T, g), cos, sin), g, eps),
    ),
    ("you normalise over all heads at once", whole_width),
    ("after RoPE, and over all heads at once", late_and_whole),
    ("raises ValueError: cannot reshape", cut_by_hidden),
    ("you normalise twice", lambda x, w, g, c, s, e: norm(turn(norm(split(x @ w.T, g), g, e), c, s), g, e)),
    ("you turn backwards", lambda x, w, g, c, s, e: turn(norm(split(x @ w.T, g), g, e), c, -s)),
    ("your pairs are neighbours", neighbours),
    ("your root is missing", normed(lambda a, g, eps: g * a / (root(a) ** 2 + eps))),
    ("over tokens", normed(lambda a, g, eps: g * a / np.sqrt((a * a).mean(1, keepdims=True) + eps))),
    ("not queries", normed(lambda a, g, eps: norm(a, g, eps) / np.sqrt(len(g)))),
    ("you normalise x", lambda x, w, g, c, s, e: turn(g * split(norm(x, 1, e) @ w.T, g), c, s)),
    ("your epsilon is outside the root", normed(lambda a, g, eps: g * a / (root(a) + eps))),
    ("your epsilon is missing", normed(lambda a, g, eps: g * a / root(a))),
    ("you take off the mean", normed(lambda a, g, eps: norm(a - a.mean(-1, keepdims=True), g, eps))),
    ("you divide by the length", normed(lambda a, g, eps: g * a / np.sqrt((a * a).sum(-1)[..., None] + eps))),
    (
        "the channels of a head are neighbours",
        lambda x, w, g, cos, sin, eps: turn(
            norm((x @ w.T).reshape(len(x), len(g), -1).transpose(2, 0, 1), g, eps), cos, sin
        ),
    ),
    (
        "the gain is missing",
        lambda x, w, g, cos, sin, eps: turn(norm(split(x @ w.T, g), 1, eps), cos, sin),
    ),
    ("the norm is missing", lambda x, w, g, cos, sin, eps: turn(split(x @ w.T, g), cos, sin)),
    ("the norm is missing", normed(lambda a, g, eps: g * a)),
    ("RoPE is missing", lambda x, w, g, cos, sin, eps: norm(split(x @ w.T, g), g, eps)),
    (
        "not 1 + w",
        lambda x, w, g, cos, sin, eps: turn(norm(split(x @ w.T, g), 1 + g, eps), cos, sin),
    ),
    (
        "view (t, h d) as (h, t, d) at once",
        lambda x, w, g, cos, sin, eps: turn(norm((x @ w.T).reshape(-1, len(x), len(g)), g, eps), cos, sin),
    ),
    (
        "wanted is (h, t, d)",
        lambda x, w, g, cos, sin, eps: turn(norm(split(x @ w.T, g), g, eps), cos, sin).swapaxes(0, 1),
    ),
]
POSITIONS: list[Mistake] = [
    ("those are columns", lambda real, start: np.arange(real.shape[1])[None].repeat(len(real), 0)[:, start:]),
    ("one row of positions for all", lambda real, start: np.arange(start, real.shape[1])),
    ("one row of positions for all", lambda real, start: np.arange(start, real.shape[1])[None]),
    ("start again with every chunk", lambda real, start: count(real[:, start:], 0)),
    ("one too many", lambda real, start: np.cumsum(real, axis=1)[:, start:]),
    ("give it 0, not -1", lambda real, start: np.cumsum(real, axis=1)[:, start:] - 1),
    ("positions of all columns", lambda real, start: count(real, 0)),
    (
        "you add the columns of the cache",
        lambda real, start: start + count(real[:, start:], 0) if start else count(real, 0),
    ),
    ("those are columns", shipped_positions),  # the lesson's own bug, as it is
    ("nothing below", lambda real, start: np.arange(start, real.shape[1]) - (~real).sum(1, keepdims=True)),
    ("the longest padding everywhere", longest_padding),
    ("the tokens behind", lambda real, start: np.cumsum(real[:, ::-1], 1)[:, ::-1][:, start:]),
    ("position 0, not 1", lambda real, start: np.maximum(np.cumsum(real, 1) - 1, 1)[:, start:]),
    ("is 0, not its column", lambda real, start: np.where(real, count(real, 0), columns(real))[:, start:]),
    ("one for each of its columns", last_column),  # right for the prompt, wrong for a chunk
    ("one number a row", lambda real, start: last_column(real, start)[:, 0] if start else count(real, 0)),
    ("one for each of its columns", lambda real, start: real.sum(1) - 1),  # bare numbers, at once
    ("the shape ()", lambda real, start: real.sum() - 1),
]
MISTAKES = {
    "cache_bytes": CACHE,
    "grouped": GROUPED,
    "mask": MASK,
    "queries": QUERIES,
    "positions": POSITIONS,
}
ALSO_RIGHT = {
    "cache_bytes": [
        lambda c, n: size(c, n),
        lambda c, n: 4.0 * n * c["head_dim"] * c["num_key_value_heads"] * c["num_hidden_layers"],
    ],
    "grouped": [broadcast, by_einsum, groups_in_a_column],
    "mask": [
        right_mask,
        lambda real, start: np.where(np.eye(len(real)) > 0, 1, np.tri(len(real)) * real)[start:],
    ],
    "queries": [
        lambda x, w, g, cos, sin, eps: turn(norm(split(x @ w.T, g), g, eps), cos, sin),
        lambda x, w, g, cos, sin, eps: turn(
            norm(np.stack(np.split(x @ w.T, len(w) // len(g), axis=1)), g, eps), cos, sin
        ),
    ],
    "positions": [
        count,
        lambda real, start: np.maximum(columns(real) - real.argmax(1)[:, None], 0)[:, start:],
        lambda real, start: ((np.cumsum(real, 1) - 1) * real)[:, start:],
    ],
}
