"""Checks of 04_attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, habits, judge
from qwen3_ref.numpy_ref import attention, positions_and_mask, rms_norm, rotate, softmax
from qwen3_ref.rope import cos_sin, default_frequencies


def cache_bytes(answer: Answer) -> Verdict:
    """answer(config, tokens) -> bytes of the KV cache in bfloat16; config is a dict of official fields."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            kv, group, layers = map(int, rng.choice([3, 5, 7, 11], size=3, replace=False))
            # So few that one token more or less lies beyond the tolerance.
            heads, tokens = kv * group, int(rng.integers(100, 2_000))
            hidden = heads * int(rng.choice([48, 80, 96]))  # never head_dim times heads
            config = {
                "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
                "num_key_value_heads": kv, "head_dim": 128,
            }  # fmt: skip
            want, by_hidden = 2 * layers * kv * 128 * tokens * 2, hidden // heads
            mistakes = [
                ("that is half: keys and values are both kept, and each number takes two bytes", want / 2),
                ("that counts neither keys and values nor two bytes: four times as much", want / 4),
                ("four bytes a number is float32; bfloat16 takes two", want * 2),
                ("you count query heads; only num_key_value_heads have keys and values", want * group),
                ("your head_dim is hidden_size / heads; it is a field of its own", want / 128 * by_hidden),
                ("you use hidden_size for KV heads times head_dim", want / (kv * 128) * hidden),
                ("that is one layer; every layer has keys and values of its own", want / layers),
                ("that is one token; the cache holds all of them", want / tokens),
                ("that is one token short: every one of the tokens is kept", want / tokens * (tokens - 1)),
                ("that is one token too many", want / tokens * (tokens + 1)),
                *(("bytes are wanted, not kB, MB or GB", want / unit)
                  for unit in (1e3, 1e6, 1e9, 2**10, 2**20, 2**30)),
                ("head_dim is missing: a key has that many numbers", want / 128),
                ("the number of KV heads is missing", want / kv),
                ("queries are not kept; you add their heads to the KV heads", want * (1 + group / 2)),
                ("that is the size of a group where the number of KV heads belongs", want / kv * group),
                ("those are bits; a byte has eight", want * 8),
            ]  # fmt: skip
            yield Trial((config, tokens), np.asarray(want), [(r, np.asarray(w)) for r, w in mistakes])

    return judge(answer, trials)


def grouped(answer: Answer) -> Verdict:
    """answer(q, k, v): q (h, t, d), k and v (n, t, d) -> causal grouped-query attention, (h, t, d)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for h, n, t, d in ((6, 2, 7, 12), (8, 4, 5, 6)):  # all sizes differ, so a wrong axis shows
            q, k, v = 2 * rng.normal(size=(h, t, d)), rng.normal(size=(n, t, d)), rng.normal(size=(n, t, d))
            mask, group = np.tri(t, dtype=bool), h // n

            def mixed(q: Array = q, k: Array = k, v: Array = v, mask: Array = mask) -> Array:
                return attention(q[None], k[None], v[None], mask[None])[0][0]

            order = np.tile(np.arange(n), group)
            wide_k, wide_v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
            scores = q @ wide_k.swapaxes(1, 2) / np.sqrt(d)
            causal = np.where(mask, scores, -np.inf)
            upright = softmax(causal.swapaxes(1, 2)).swapaxes(1, 2)
            after = "you set shares to zero after the softmax; they no longer sum to one"
            zeros = "masked scores are 0 in your softmax, which is a share; use minus infinity"
            width = "you divide by the root of all heads' width; d is one head's"
            mistakes = [
                ("query head i reads KV head i // group: neighbours share (yours are tiled)",
                 mixed(k=k[order], v=v[order])),
                ("your KV heads are tiled for the keys, right for the values", mixed(k=k[order], v=wide_v)),
                ("your KV heads are tiled for the values, right for the keys", mixed(k=wide_k, v=v[order])),
                ("you do not divide the scores by the root of d", mixed(q=q * np.sqrt(d))),
                ("you divide by d; it is the root of d", mixed(q=q / np.sqrt(d))),
                (width, mixed(q=q / np.sqrt(h))),
                ("your queries see the future: mask before the softmax", mixed(mask=np.ones((t, t), bool))),
                ("a query may look at itself too", _strict(scores, mask) @ wide_v),
                (after, softmax(scores) * mask @ wide_v),
                (zeros, softmax(scores * mask) @ wide_v),
                ("your softmax runs over the queries; each query's shares sum to one", upright @ wide_v),
                ("your mask is upside down: key <= query", mixed(mask=mask.T)),
                ("a query of yours sees the next token too", mixed(mask=np.tri(t, k=1, dtype=bool))),
                ("you divide by the root of the length of the text; d is a head's width",
                 mixed(q=q * np.sqrt(d / t))),
                ("you mix the keys; what is mixed are the values", mixed(v=k)),
                ("you average the queries of a group; each asks for itself",
                 mixed(q=q.reshape(n, group, t, d).mean(1).repeat(group, 0))),
                ("every query head reads KV head 0; a group has its own", mixed(k=k[:1], v=v[:1])),
                ("you average the values of all KV heads; a group has its own",
                 mixed(v=np.broadcast_to(v.mean(0), v.shape))),
            ]  # fmt: skip
            yield Trial((q, k, v), mixed(), mistakes)

    verdict = judge(answer, trials)
    road = _copies(answer) if verdict else None
    return verdict if road is None else road


COPIES = {"repeat", "tile", "take", "kron", "stack", "concatenate", "broadcast_to", "block", "einsum_path"}
COPIES |= {"hstack", "vstack", "dstack", "column_stack", "pad", "resize"}
LOOPS = {"a loop", "map", "vectorize", "apply_along_axis", "apply_over_axes", "reduce", "fromiter"}


class _Watched(np.ndarray[Any, Any]):
    """An array that notes when it is copied row by row, `k[[0, 0, 1, 1]]`, or by arithmetic: `k + zeros`."""

    gathered = False

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        bare = [i.view(np.ndarray) if isinstance(i, _Watched) else i for i in inputs]
        made = getattr(ufunc, method)(*bare, **options)
        largest = max(i.size for i in inputs if isinstance(i, _Watched))
        _Watched.gathered |= ufunc is not np.matmul and np.size(made) > largest
        return made

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        _Watched.gathered |= any(isinstance(part, list | np.ndarray) for part in parts)
        return super().__getitem__(index)


def _copies(answer: Answer) -> Verdict | None:
    """A right answer by a forbidden road: told, and not accepted."""
    used = habits(answer)
    q, k, v = np.ones((4, 3, 2)), np.ones((2, 3, 2)).view(_Watched), np.ones((2, 3, 2)).view(_Watched)
    _Watched.gathered = False
    answer(q, k, v)
    if used & LOOPS:
        return Verdict(False, "right, but in a loop; give q a group axis and let `@` do all heads at once")
    if _Watched.gathered or used & COPIES:
        how = ", ".join(f"`{name}`" for name in sorted(used & COPIES)) or "your index or sum of larger shape"
        return Verdict(False, f"right, but {how} copies every KV head for its group; `k[:, None]` need not")
    return None


def _strict(scores: Array, mask: Array) -> Array:
    """Weights of a mask without the diagonal; the first query, which then sees nothing, gets zeros."""
    strict = mask & ~np.eye(len(mask), dtype=bool)
    shares = np.exp(np.where(strict, scores, -np.inf))
    return shares / np.maximum(shares.sum(axis=-1, keepdims=True), 1e-300)


def mask(answer: Answer) -> Verdict:
    """answer(real, start): real (s,) -> (s - start, s), True where a new query may look."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        left, cached, new = map(int, rng.integers(3, 12, size=3))
        for pads, past, t in ((0, cached, new), (left, 0, left + new), (left, cached, new)):
            s = past + t
            real = np.arange(s) >= pads
            want = positions_and_mask(real[None], past)[1][0]
            key, query = np.arange(s), np.arange(past, s)[:, None]
            square = positions_and_mask(real[None], 0)[1][0]
            from_zero = "row i is token start + i of the text; your mask counts rows from 0"
            rows = [real & (key <= query - past), (real & (key <= query - past)) | (key == query)]
            mistakes = [
                *((from_zero, row) for row in rows if past),
                ("your queries see padding", key <= query),
                ("a query of padding must see itself, or its softmax is 0 / 0", real & (key <= query)),
                ("a query may look at itself too", real & (key < query)),
                ("a query may look at itself too", (real & (key < query)) | ((key == query) & ~real)),
                ("your queries see the future", np.broadcast_to(real, (t, s)) | (key == query)),
                ("your queries see the future", np.broadcast_to(real, (t, s))),
                ("your mask is upside down: True where a query may look", ~want),
                ("wanted are booleans, True where a query may look, not numbers to add to scores",
                 np.where(want, 0, -np.inf)),
                ("a query of yours sees the next token too", (real & (key <= query + 1)) | (key == query)),
                ("True stands for tokens in `real`, not for padding",
                 (~real & (key <= query)) | (key == query)),
                ("your queries look ahead only; key <= query", (real & (key >= query)) | (key == query)),
                ("a query that is padding sees itself, not the first column",
                 (real & (key <= query)) | (~real[past:, None] & (key == 0))),
                ("you return rows for the cached tokens too; only the new ones ask", square),
                ("you leave out the columns of the cache", want[:, past:]),
                ("new queries see the cache but not one another", (real & (key < past)) | (key == query)),
                ("your queries do not see the cache; its tokens are real too",
                 (real & (key <= query) & (key >= past)) | (key == query)),
                ("a query that is padding sees itself alone; yours sees the tokens before it too",
                 (real & (key <= query)) | ((key <= query) & ~real[past:, None])),
            ]  # fmt: skip
            yield Trial((real, past), want.astype(float), [(r, w.astype(float)) for r, w in mistakes])

    return judge(answer, trials)


def queries(answer: Answer) -> Verdict:
    """answer(x, weight, gain, cos, sin, eps): x (t, D), weight (h d, D), gain (d,) -> (h, t, d)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for h, t, d, width in ((3, 5, 8, 18), (2, 4, 12, 10)):  # width / h is not d
            x, eps = rng.normal(size=(t, width)), 0.5  # a large eps, so that its place shows
            weight, gain = rng.normal(size=(h * d, width)), rng.uniform(0.3, 2.5, size=d)
            tables = cos_sin(np.arange(3, 3 + t)[None], default_frequencies(d, 50.0))
            flat = x @ weight.T
            heads = flat.reshape(t, h, d).swapaxes(0, 1)

            def turned(a: Array, tables: tuple[Array, Array] = tables) -> Array:
                return rotate(a[None], *tables)[0]

            def split(a: Array, h: int = h, d: int = d) -> Array:
                return a.reshape(len(a), h, d).swapaxes(0, 1)

            ones, gains = np.ones_like(gain), np.tile(gain, h)
            pairs = [*range(0, d, 2), *range(1, d, 2)]
            square = np.mean(heads**2, axis=-1, keepdims=True)
            centred = heads - heads.mean(axis=-1, keepdims=True)
            turned_flat = turned(heads).swapaxes(0, 1).reshape(t, -1)
            want = turned(rms_norm(heads, gain, eps))
            late = "you normalise after RoPE"
            view = "you view (t, h d) as (h, t, d) at once; split it to (t, h, d), then swap the axes"
            channels = "the channels of a head are neighbours: split to (t, h, d), not (t, d, h)"
            mean = "you divide by the length; RMSNorm divides by the root of the *mean* square"
            mistakes = [
                (f"{late}; the gains then scale turned channels", rms_norm(turned(heads), gain, eps)),
                ("you normalise over all heads at once; each head is normalised by itself",
                 turned(split(rms_norm(flat, gains, eps)))),
                (f"{late}, and over all heads at once", split(rms_norm(turned_flat, gains, eps))),
                ("the gain is missing", turned(rms_norm(heads, ones, eps))),
                ("the norm is missing", turned(heads)),
                ("you normalise twice, before RoPE and after it",
                 rms_norm(turned(rms_norm(heads, gain, eps)), gain, eps)),
                ("you turn backwards", turned(rms_norm(heads, gain, eps), (tables[0], -tables[1]))),
                ("your pairs are neighbours; Qwen3 turns channel j with j + d/2",
                 turned(rms_norm(heads, gain, eps)[..., pairs])[..., np.argsort(pairs)]),
                ("your root is missing: RMSNorm divides by the root of the mean square",
                 turned(gain * heads / (square + eps))),
                ("you normalise over tokens; the mean runs over the channels of a head",
                 turned(gain * heads / np.sqrt(np.mean(heads**2, axis=1, keepdims=True) + eps))),
                ("scores are divided by the root of d, not queries", want / np.sqrt(d)),
                ("you normalise x; what is normalised are the heads",
                 turned(gain * split(rms_norm(x, np.ones(width), eps) @ weight.T))),
                ("the norm is missing", turned(gain * heads)),
                ("RoPE is missing", rms_norm(heads, gain, eps)),
                ("your epsilon is outside the root", turned(gain * heads / (np.sqrt(square) + eps))),
                ("your epsilon is missing", turned(gain * heads / np.sqrt(square))),
                ("you take off the mean, as LayerNorm does; RMSNorm does not",
                 turned(rms_norm(centred, gain, eps))),
                (mean, turned(gain * heads / np.sqrt(d * square + eps))),
                ("the gain of RMSNorm here is w, not 1 + w", turned(rms_norm(heads, 1 + gain, eps))),
                (view, turned(rms_norm(flat.reshape(h, t, d), gain, eps))),
                (channels, turned(rms_norm(flat.reshape(t, d, h).transpose(2, 0, 1), gain, eps))),
                ("right, but as (t, h, d); wanted is (h, t, d)", want.swapaxes(0, 1)),
            ]  # fmt: skip
            yield Trial((x, weight, gain, *(table[0] for table in tables), eps), want, mistakes)

    return judge(answer, trials)


def positions(answer: Answer) -> Verdict:
    """answer(real, start): real (b, s) -> positions (b, s - start) of the new columns."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        before, chunk = map(int, rng.integers(4, 20, size=2))
        for past, t in ((0, before), (before, 1), (before, chunk)):  # prompt, one token, a chunk
            s = past + t
            pads = np.array([0, *rng.choice(np.arange(1, before), size=2, replace=False)])
            real = np.arange(s) >= pads[:, None]
            want = positions_and_mask(real, past)[0]
            new, count = real[:, past:], np.cumsum(real, axis=1)
            columns = np.broadcast_to(np.arange(past, s), new.shape)
            mistakes = [
                ("you add the columns of the cache, padding included; count its tokens",
                 past + np.maximum(np.cumsum(new, axis=1) - 1, 0)),
                ("those are columns; a position is the number of tokens before, without padding", columns),
                ("one row of positions for all; every row has its own padding", columns[:1]),
                ("one row of positions for all; every row has its own padding", columns[0]),
                ("your positions start again with every chunk; count the cached tokens too",
                 np.maximum(np.cumsum(new, axis=1) - 1, 0)),
                ("your positions start again with every chunk; count the cached tokens too",
                 np.broadcast_to(np.arange(t), new.shape)),
                ("one too many: the first token stands at position 0", count[:, past:]),
                ("padding has no position; give it 0, not -1", count[:, past:] - 1),
                ("padding has no position; give it 0, nothing below", columns - pads[:, None]),
                ("you take off the longest padding everywhere, whatever a row has",
                 np.maximum(columns - pads.max(), 0)),
                ("you count the tokens behind, not those before",
                 np.cumsum(real[:, ::-1], 1)[:, ::-1][:, past:]),
                ("the first token stands at position 0, not 1", np.maximum(count[:, past:] - 1, 1)),
                ("the position of padding is 0, not its column", np.where(new, count[:, past:] - 1, columns)),
                ("one number a row, without the axis of the columns: (b, t) is wanted, here t = 1",
                 count[:, past] - 1 if t == 1 else np.zeros(0)),
                ("that is the position of the last column; a chunk has one for each of its columns",
                 count[:, -1:] - 1),
                ("that is the position of the last column; a chunk has one for each of its columns",
                 count[:, -1] - 1),
                ("those are positions of all columns; wanted are the new ones, from start on",
                 np.maximum(count - 1, 0)),
            ]  # fmt: skip
            yield Trial((real, past), want.astype(float), [(r, w.astype(float)) for r, w in mistakes])

    return judge(answer, trials)
