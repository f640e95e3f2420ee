"""Of 05_the_model."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3_ref import numpy_ref
from tests.mistakes import Mistake


def count(V: int, D: int, F: int, L: int, h: int, k: int, d: int, tied: bool, **but: Any) -> int:
    """Parameters; `but` replaces single terms."""
    q = but.get("q", h * d)
    kv = but.get("kv", k * d)
    block = but.get("matrices", 2 * D * q + 2 * D * kv + 3 * D * F) + but.get("gains", 2 * D + 2 * d)
    return int(but.get("embeddings", 1 if tied else 2) * V * D + L * block + but.get("final", D))


def norm(x: Any, gain: Any, eps: float) -> Any:
    return gain * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def add_in_place(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    x += a(norm(x, g, eps))
    x += f(norm(x, h, eps))
    return x


def after_the_norm(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    for branch, gain in ((a, g), (f, h)):
        x = norm(x, gain, eps)
        x = x + branch(x)
    return x


def second_after_the_norm(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = norm(x + a(norm(x, g, eps)), h, eps)
    return y + f(y)


def post_norm(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    x = norm(x + a(x), g, eps)
    return norm(x + f(x), h, eps)


def norms_last(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    x = x + norm(a(x), g, eps)
    return x + norm(f(x), h, eps)


def parallel(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    return x + a(norm(x, g, eps)) + f(norm(x, h, eps))


def no_second_residual(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    return f(norm(x + a(norm(x, g, eps)), h, eps))


def forgets_attention(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + a(norm(x, g, eps))
    return x + f(norm(y, h, eps))


def forgets_itself(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = a(norm(x, g, eps))
    return y + f(norm(y, h, eps))


def bare_feed_forward(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + a(norm(x, g, eps))
    return y + f(y)


def bare_attention(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + a(x)
    return y + f(norm(y, h, eps))


def feed_forward_first(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + f(norm(x, g, eps))
    return y + a(norm(y, h, eps))


def pre_norm(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + a(norm(x, g, eps))
    return y + f(norm(y, h, eps))


def borrowed(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    y = x + a(numpy_ref.rms_norm(x, g, eps))
    return y + f(numpy_ref.rms_norm(y, h, eps))


def cost(V: int, D: int, F: int, L: int, h: int, k: int, d: int, seen: int) -> tuple[int, int]:
    """(two for each weight of a product, attention over the seen tokens)."""
    weights = L * (2 * D * h * d + 2 * D * k * d + 3 * D * F) + V * D
    return 2 * weights, 4 * L * h * d * seen


def ranks(hidden: Any, gain: Any, head: Any, following: Any) -> Any:
    logits = (hidden * gain) @ head.T
    return (logits > logits[:, np.arange(len(following)), following][..., None]).sum(-1) + 1


E, N, H = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

PARAMETERS: list[Mistake] = [
    ("although it is tied", lambda *s: count(*s, embeddings=2)),
    ("they are not tied", lambda *s: count(*s, embeddings=1)),
    ("it is h * d", lambda V, D, F, L, h, k, d, tied: count(V, D, F, L, h, k, d, tied, q=D)),
    (
        "there are only g of them",
        lambda V, D, F, L, h, k, d, tied: count(V, D, F, L, h, k, d, tied, kv=h * d),
    ),
    ("gains of the norms are missing", lambda *s: count(*s, gains=0, final=0)),
    ("d for queries, d for keys in each block", lambda V, D, *s: count(V, D, *s, gains=2 * D)),
    ("gains of the final norm are missing", lambda *s: count(*s, final=0)),
    (
        "gate, up and down",
        lambda V, D, F, L, h, k, d, tied: count(
            V, D, F, L, h, k, d, tied, matrices=2 * D * h * d + 2 * D * k * d + 2 * D * F
        ),
    ),
    (
        "share one gain vector of QK-Norm",
        lambda V, D, F, L, h, k, d, tied: count(V, D, F, L, h, k, d, tied, gains=2 * D + (h + k) * d),
    ),
    (
        "o_proj is missing",
        lambda V, D, F, L, h, k, d, tied: count(
            V, D, F, L, h, k, d, tied, matrices=D * h * d + 2 * D * k * d + 3 * D * F
        ),
    ),
    (
        "you count biases",
        lambda V, D, F, L, h, k, d, tied: count(
            V, D, F, L, h, k, d, tied, gains=2 * D + 2 * d + h * d + 2 * k * d
        ),
    ),
]
def eps_outside(x: Any, a: Any, f: Any, g: Any, h: Any, eps: float) -> Any:
    def far(x: Any, gain: Any) -> Any:
        return gain * x / (np.sqrt((x * x).mean(-1, keepdims=True)) + eps)

    y = x + a(far(x, g))
    return y + f(far(y, h))


BLOCK: list[Mistake] = [
    ("overwrites its argument number 1", add_in_place),
    ("your residual is taken after the norm", after_the_norm),
    ("your residual is taken after the norm", second_after_the_norm),
    ("that is post-norm", post_norm),
    ("it reads what attention left", parallel),
    ("add it to the stream", no_second_residual),
    ("lose what attention wrote", forgets_attention),
    ("attention's own x is lost", forgets_itself),
    ("your feed-forward reads without a norm", bare_feed_forward),
    ("your attention reads without a norm", bare_attention),
    ("attention comes first", feed_forward_first),
    ("the two gains are swapped", lambda x, a, f, g, h, eps: pre_norm(x, a, f, h, g, eps)),
    ("eps is missing", lambda x, a, f, g, h, eps: pre_norm(x, a, f, g, h, 0.0)),
    ("eps is missing, or stands outside", eps_outside),
    ("normalise what it reads", norms_last),
    ("the feed-forward is missing", lambda x, a, f, g, h, eps: x + a(norm(x, g, eps))),
    ("that calls qwen3_ref.numpy_ref.rms_norm", borrowed),
]
FLOPS: list[Mistake] = [
    ("a multiplication and an addition", lambda *s: cost(*s)[0] // 2 + cost(*s)[1]),
    ("that is the 2N rule", lambda *s: cost(*s)[0]),
    ("the look-up of the embedding is no product", lambda V, D, *s: sum(cost(V, D, *s)) + 2 * V * D),
    ("the head is missing", lambda V, D, *s: sum(cost(V, D, *s)) - 2 * V * D),
    ("matrix products only", lambda *s: 2 * count(*s[:-1], tied=True) + cost(*s)[1]),
    ("matrix products only", lambda V, D, F, L, *s: sum(cost(V, D, F, L, *s)) + 4 * L * D),
    ("two for the score, two for the mix", lambda *s: cost(*s)[0] + cost(*s)[1] // 2),
    ("h of them, not g", lambda V, D, F, L, h, k, d, n: cost(V, D, F, L, h, k, d, n)[0] + 4 * L * k * d * n),
    ("h * d, not D", lambda V, D, F, L, h, k, d, n: cost(V, D, F, L, h, k, d, n)[0] + 4 * L * D * n),
    (
        "four matrices: q, k, v and o",
        lambda V, D, F, L, h, k, d, n: sum(cost(V, D, F, L, h, k, d, n)) - 2 * L * D * h * d,
    ),
    ("gate, up and down", lambda V, D, F, L, *s: sum(cost(V, D, F, L, *s)) - 2 * L * D * F),
    ("every block attends", lambda V, D, F, L, *s: cost(V, D, F, L, *s)[0] + cost(V, D, F, 1, *s)[1]),
]
LENS: list[Mistake] = [
    ("ranks begin at 1", lambda *s: ranks(*s) - 1),
    ("the wrong way", lambda hidden, gain, head, f: len(head) + 1 - ranks(hidden, gain, head, f)),
    ("the wrong way", lambda hidden, gain, head, f: len(head) - ranks(hidden, gain, head, f)),
    (
        "argsort lists the ids by rank",
        lambda hidden, gain, head, f: np.argsort(-(hidden * gain) @ head.T)[:, np.arange(len(f)), f],
    ),
    ("moves no rank", lambda hidden, gain, head, f: ranks(hidden, np.ones_like(gain), head, f)),
    (
        "argsort lists the ids by rank",
        lambda hidden, gain, head, f: np.argsort(-(hidden * gain) @ head.T)[:, np.arange(len(f)), f] + 1,
    ),
    ("at the last depth only", lambda *s: ranks(*s)[-1]),
    ("a row is a depth", lambda *s: ranks(*s).T),
    ("you use the first for all", lambda hidden, gain, head, f: ranks(hidden, gain, head, 0 * f + f[0])),
    ("yours all have the last one's rank", lambda *s: ranks(*s)[-1:].repeat(len(s[0]), 0)),
    ("the norm multiplies with it", lambda hidden, gain, head, f: ranks(hidden, 1 / gain, head, f)),
    ("should be", lambda *s: 0 * ranks(*s) + 1),  # the right token always leads
]
HEAD: list[Mistake] = [
    ("so the embedding is the head", lambda x, w, tied, eps: norm(x, w[N], eps) @ w.get(H, w[E]).T),
    ("you use the embedding as the head", lambda x, w, tied, eps: norm(x, w[N], eps) @ w[E].T),
    ("you use the embedding as the head", lambda x, w, tied, eps: norm(x, w[N], eps) @ w[H if tied else E].T),
    ("raises KeyError", lambda x, w, tied, eps: norm(x, w[N], eps) @ w[H].T),
    ("the final norm is missing", lambda x, w, tied, eps: x @ w[E if tied else H].T),
    ("and the wrong matrix is the head", lambda x, w, tied, eps: x @ w[E].T),
    ("has a gain", lambda x, w, tied, eps: norm(x, 1.0, eps) @ w[E if tied else H].T),
    ("eps is not the one given", lambda x, w, tied, eps: norm(x, w[N], 1e-6) @ w[E if tied else H].T),
    (
        "the root of hidden_size",
        lambda x, w, tied, eps: norm(x, w[N], eps) @ w[E if tied else H].T / np.sqrt(x.shape[-1]),
    ),
    (
        "the root of hidden_size",
        lambda x, w, tied, eps: np.sqrt(x.shape[-1]) * norm(x, w[N], eps) @ w[E if tied else H].T,
    ),
]
MISTAKES = {"parameters": PARAMETERS, "block": BLOCK, "flops": FLOPS, "lens": LENS, "head": HEAD}
ALSO_RIGHT = {
    "parameters": [
        count,
        lambda V, D, F, L, h, g, d, tied: (
            V * D * (2 - tied) + L * (2 * D * d * (h + g) + 3 * D * F + 2 * (D + d)) + D
        ),
    ],
    "block": [
        pre_norm,
        lambda x, a, f, g, h, eps: (lambda y: y + f(norm(y, h, eps)))(x + a(norm(x, g, eps))),
    ],
    "flops": [
        lambda *s: sum(cost(*s)),
        lambda V, D, F, L, h, g, d, n: 2.0 * (L * (2 * D * d * (h + g) + 3 * D * F + 2 * h * d * n) + V * D),
    ],
    "lens": [
        ranks,
        lambda hidden, gain, head, f: (
            np.argsort(np.argsort(-(hidden * gain) @ head.T))[:, np.arange(len(f)), f] + 1
        ),
        lambda hidden, gain, head, f: ranks(norm(hidden, 1, 1e-9), gain, head, f),
    ],
    "head": [
        lambda x, w, tied, eps: norm(x, w[N], eps) @ w[E if tied else H].T,
        lambda x, w, tied, eps: np.einsum("td,vd->tv", norm(x, w[N], eps), w[[H, E][int(tied)]]),
    ],
}
