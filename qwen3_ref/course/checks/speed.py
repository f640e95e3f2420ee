"""Checks of 20_speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, Wrong, apart, judge

Made = tuple[tuple[Any, ...], np.ndarray[Any, Any], Wrong]


def step_bytes(answer: Answer) -> Verdict:
    """answer(c, length, batch, size) -> bytes that a decode step of a dense model reads, without norms."""

    def read(
        c: dict[str, Any], length: int, batch: int, size: float, *, kv_heads: int = 0, both: int = 2,
        lookups: int = -1, head: float = 1, times: int = 1, caches: int = 0, forward: int = 3,
        narrow: int = 0, o_proj: int = 1, q_size: int = 0, layers: int = 0,
    ) -> float:  # fmt: skip
        D, d, g = c["hidden_size"], c["head_dim"], c["num_key_value_heads"]
        q, L = q_size or c["num_attention_heads"] * d, layers or c["num_hidden_layers"]
        layer = D * q * (1 + o_proj) + 2 * D * (narrow or g) * d + forward * D * c["intermediate_size"]
        matrices = L * layer + head * c["vocab_size"] * D
        cache = both * L * (kv_heads or g) * d * length * (caches or batch)
        return size * (times * matrices + (batch if lookups < 0 else lookups) * D + cache)

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(tied: bool) -> Made:
            kv_heads = int(rng.integers(2, 4))
            c = {
                "hidden_size": int(rng.integers(10, 20)),
                "intermediate_size": int(rng.integers(20, 40)),
                "num_hidden_layers": int(rng.integers(2, 4)),
                "num_attention_heads": kv_heads * int(rng.integers(2, 4)),
                "num_key_value_heads": kv_heads,
                "head_dim": int(rng.integers(4, 9)),
                "vocab_size": int(rng.integers(40, 80)),
                "tie_word_embeddings": tied,
            }
            given = (c, int(rng.integers(3, 7)), int(rng.integers(12, 20)), float(rng.choice([0.5, 2, 4])))
            heads = c["num_attention_heads"]
            twice = (
                "the tied head is the embedding: the same matrix is read once"
                if tied
                else "of an embedding that is not the head, only the rows of the tokens are read"
            )
            wrong = {
                twice: read(*given, head=2),
                "the head is a product like the others, and a large one": read(*given, head=0),
                "the cache holds KV heads; several query heads share one": read(*given, kv_heads=heads),
                "keys and values are both read": read(*given, both=1),
                "a weight is read once for the whole batch; that is what a batch is for":
                    read(*given, times=given[2]),
                "each text of the batch has a cache of its own": read(*given, caches=1),
                "SwiGLU has three matrices": read(*given, forward=2),
                "k_proj and v_proj have KV heads as outputs": read(*given, narrow=heads),
                "attention ends in o_proj": read(*given, o_proj=0),
                "queries have num_attention_heads x head_dim channels, not hidden_size":
                    read(*given, q_size=c["hidden_size"]),
                "one layer is not all of them": read(*given, layers=1),
                "those are numbers; each has `size` bytes": read(*given) / given[3],
            }  # fmt: skip
            looked_up = "each text of the batch looks up a row of the embedding of its own"
            named = [*wrong.items(), *((looked_up, read(*given, lookups=rows)) for rows in (0, 1))]
            return given, np.asarray(read(*given)), [(r, np.asarray(w)) for r, w in named]

        for tied in (True, False, True):
            yield apart(lambda tied=tied: make(tied))  # type: ignore[misc]

    return judge(answer, trials)


def int8_product(answer: Answer) -> Verdict:
    """answer(x, w) -> x (n, I) times w (O, I), both in 8 bits: (n, O)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            n, outputs, inputs = (int(v) for v in rng.integers([3, 4, 12], [6, 8, 24]))
            x = rng.normal(size=(n, inputs)) * 10 ** rng.uniform(-1, 1, size=(n, 1))
            w = rng.normal(size=(outputs, inputs)) * 10 ** rng.uniform(-1, 1, size=(outputs, 1))

            def scale(a: Any, axis: int | None = 1, steps: int = 127) -> Any:
                return np.abs(a).max(axis=axis, keepdims=True) / steps

            def back(a: Any, s: Any) -> Any:
                return np.rint(a / s) * s

            sx, sw = scale(x), scale(w)
            qx, qw = np.rint(x / sx), np.rint(w / sw)
            sums = qx @ qw.T
            want = sums * sx * sw.T
            short = (qx.astype(np.int8) @ qw.astype(np.int8).T).astype(float)
            cut = np.trunc(x / sx) @ np.trunc(w / sw).T * sx * sw.T
            wrong = [
                ("one scale for the whole batch: then a row depends on its neighbours",
                 back(x, scale(x, None)) @ back(w, sw).T),
                ("one scale for all of w; each output channel has its own",
                 back(x, sx) @ back(w, scale(w, None)).T),
                ("a scale by input channel cannot be taken out of the sum; take one for each output",
                 back(x, sx) @ back(w, scale(w, 0)).T),
                ("those are the sums of whole numbers; multiply by both scales", sums),
                ("the rows' scales are missing", sums * sw.T),
                ("the channels' scales are missing", sums * sx),
                ("you cut towards zero; take the nearest whole number", cut),
                ("with 128 steps to a side the largest has no code; take 127",
                 back(x, scale(x, steps=128)) @ back(w, scale(w, steps=128)).T),
                ("the activations are rounded too", x @ back(w, sw).T),
                ("the weights are rounded too", back(x, sx) @ w.T),
                ("nothing is rounded", x @ w.T),
                ("a sum of products does not fit into 8 bits; add up in more", short * sx * sw.T),
                ("the rows of x come first: (n, O)", want.T),
            ]  # fmt: skip
            return (x, w), want, wrong

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)


def largest_batch(answer: Answer) -> Verdict:
    """answer(weights, size, cache, bandwidth, peak) -> the largest batch at which arithmetic takes no longer
    than memory."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            size = float(rng.choice([4, 0.5]))
            found = float(rng.integers(5, 24)) + rng.uniform(0.55, 0.75)
            share = rng.uniform(0.12, 0.3)  # of a row's arithmetic that its own cache hides
            ridge = found * 2 * (1 - share) / size
            weights, bandwidth = int(rng.integers(10**8, 10**9)), float(rng.integers(10, 100)) * 1e9
            cache = round(share * 2 / ridge * weights)
            peak = ridge * bandwidth

            def most(flops: float = 2, of_size: float = size, own: float = -cache, once: float = 0) -> float:
                return (weights * of_size + once) / bandwidth / (flops * weights / peak + own / bandwidth)

            wrong = [
                ("a weight costs two FLOPs a row, a multiplication and an addition", np.floor(most(flops=1))),
                ("each row of the batch reads a cache of its own", np.floor(most(own=0))),
                ("each row of the batch reads a cache of its own", np.floor(most(own=0, once=cache))),
                ("the cache is bytes, not work: it leaves room for more rows", np.floor(most(own=cache))),
                ("that is the ridge, in FLOPs for a byte, and not yet a batch", np.floor(ridge)),
                ("a weight has `size` bytes", np.floor(most(of_size=1))),
                ("with one row more, arithmetic takes longer: round down", np.ceil(most())),
                ("one row more still fits: arithmetic may take as long as memory", np.floor(most()) - 1),
                ("rows come whole: round down", most()),
                ("FLOPs for each byte are peak / bandwidth, and you have it the other way round",
                 np.floor(size / 2 / ridge)),
            ]  # fmt: skip
            given = (weights, size, cache, bandwidth, peak)
            return given, np.asarray(np.floor(most())), [(r, np.asarray(v)) for r, v in wrong]

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)


def distinct_experts(answer: Answer) -> Verdict:
    """answer(shares, n) -> the expected number of experts that n tokens of n texts choose between them."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            experts, chosen, n = int(rng.integers(8, 17)), int(rng.integers(2, 4)), int(rng.integers(3, 9))
            raw = rng.gamma(1.0, size=experts) + 0.05
            shares = raw / raw.sum() * chosen
            twice = "some tokens choose the same expert"
            wrong = [
                ("the experts are not chosen alike; `shares` says how often",
                 experts * (1 - (1 - chosen / experts) ** n)),
                (twice, chosen * n),
                (twice, min(experts, chosen * n)),
                ("those are the experts that nobody chooses", ((1 - shares) ** n).sum()),
                ("shares add up to the experts a token chooses; each is a chance as it stands",
                 (1 - (1 - shares / chosen) ** n).sum()),
                ("add up over the experts", (1 - (1 - shares) ** n).mean()),
                ("p^n is the chance that all n choose an expert", (shares**n).sum()),
                ("1 - p^n is the chance that not all choose an expert", (1 - shares**n).sum()),
                ("chances add up only where one excludes the other", np.minimum(1, n * shares).sum()),
            ]  # fmt: skip
            usable = shares.max() < 0.95 and chosen * n != experts
            want = np.asarray((1 - (1 - shares) ** n).sum())
            named = [(r, np.asarray(float(v))) for r, v in wrong]
            return (shares, n), want, named if usable else [("drawn again", want)]

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)
