"""Of 24_the_family_and_the_ledger."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests.mistakes import Mistake


def parts(c: dict[str, Any]) -> dict[str, float]:
    """Parameters that a token uses, by kind."""
    D, d, L = c["hidden_size"], c["head_dim"], c["num_hidden_layers"]
    h, g, F = c["num_attention_heads"], c["num_key_value_heads"], c["moe_intermediate_size"]
    return {
        "embeddings": c["vocab_size"] * D * (1 if c["tie_word_embeddings"] else 2),
        "q": L * D * h * d, "o": L * D * h * d, "kv": 2 * L * D * g * d, "qk": 2 * L * d,
        "norms": 2 * L * D, "router": L * D * c["num_experts"],
        "experts": 3 * L * D * F * c["num_experts_per_tok"], "last": D,
    }  # fmt: skip


def changed(change: Callable[[dict[str, Any], dict[str, float]], dict[str, float]]) -> Any:
    """The right answer with some parts as `change` has them."""

    def answer(c: dict[str, Any]) -> float:
        found = parts(c)
        return sum((found | change(c, found)).values())

    return answer


def total(c: dict[str, Any]) -> float:
    p = parts(c)
    return sum(p.values()) - p["experts"] + p["experts"] / c["num_experts_per_tok"] * c["num_experts"]


ACTIVE: list[Mistake] = [
    ("those are all parameters", total),
    ("no share of all", lambda c: total(c) * c["num_experts_per_tok"] / c["num_experts"]),
    ("the router scores all experts",
     changed(lambda c, p: {"router": p["router"] / c["num_experts"] * c["num_experts_per_tok"]})),
    ("tied: the head is the embedding",
     changed(lambda c, p: {"embeddings": p["embeddings"] * (2 if c["tie_word_embeddings"] else 1)})),
    ("a matrix of its own", changed(lambda c, p: {"embeddings": c["vocab_size"] * c["hidden_size"]})),
    ("have KV heads as outputs", changed(lambda c, p: {"kv": 2 * p["q"]})),
    ("not hidden_size",
     changed(lambda c, p: dict.fromkeys(("q", "o"), c["num_hidden_layers"] * c["hidden_size"] ** 2))),
    ("attention ends in o_proj", changed(lambda c, p: {"o": 0})),
    ("an expert has three matrices", changed(lambda c, p: {"experts": p["experts"] / 3 * 2})),
    ("QK-Norm has two weights", changed(lambda c, p: {"qk": 0})),
    ("shared by all heads",
     changed(lambda c, p: {"qk": p["qk"] / 2 * (c["num_attention_heads"] + c["num_key_value_heads"])})),
    ("each layer has two norms", changed(lambda c, p: {"norms": 0})),
    ("one layer is not all",
     changed(lambda c, p: {k: v / c["num_hidden_layers"] for k, v in p.items()
                           if k not in ("embeddings", "last")})),
    ("the vocabulary counts too", changed(lambda c, p: {"embeddings": 0})),
    ("should be", changed(lambda c, p: {"experts": p["experts"] * 2})),
]  # fmt: skip


def tensor_by_tensor(c: dict[str, Any]) -> int:
    """A list of shapes, as a checkpoint has them."""
    D, d = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    shapes = [(c["vocab_size"], D), (D,)] + ([] if c["tie_word_embeddings"] else [(c["vocab_size"], D)])
    for _ in range(c["num_hidden_layers"]):
        shapes += [(q, D), (kv, D), (kv, D), (D, q), (d,), (d,), (D,), (D,), (c["num_experts"], D)]
        for _ in range(c["num_experts_per_tok"]):
            shapes += 3 * [(c["moe_intermediate_size"], D)]
    return sum(math.prod(shape) for shape in shapes)


def held(n: int, kv: int, weights: float, cache: float) -> float:
    return weights / n + cache / min(n, kv)


def first(fits: Callable[[int], float], memory: float, candidates: Any) -> list[float]:
    n = next(n for n in candidates if fits(n) <= memory)
    return [n, fits(n)]


def divisors(heads: int) -> list[int]:
    return [n for n in range(1, heads + 1) if heads % n == 0]


def right_cards(h: int, kv: int, w: float, c: float, m: float) -> list[float]:
    return first(lambda n: held(n, kv, w, c), m, divisors(h))


def one_less(h: int, kv: int, w: float, c: float, m: float) -> list[float]:
    n = right_cards(h, kv, w, c, m)[0]
    before = divisors(h)[divisors(h).index(int(n)) - 1]
    return [before, held(before, kv, w, c)]


CARDS: list[Mistake] = [
    ("dealt out evenly", lambda h, kv, w, c, m: first(lambda n: held(n, kv, w, c), m, range(1, 1000))),
    ("what all cards hold together",
     lambda h, kv, w, c, m: [math.ceil((w + c) / m), (w + c) / math.ceil((w + c) / m)]),
    ("at least one KV head", lambda h, kv, w, c, m: first(lambda n: (w + c) / n, m, divisors(h))),
    ("are dealt out too", lambda h, kv, w, c, m: first(lambda n: w / n + c, m, [*divisors(h), 10**9])
     if w / h + c <= m else [0, 0]),
    ("the cache needs room", lambda h, kv, w, c, m: first(lambda n: w / n, m, divisors(h))),
    ("power of two", lambda h, kv, w, c, m: first(lambda n: held(n, kv, w, c), m, [2**i for i in range(12)])),
    ("fewer would do", lambda h, kv, w, c, m: [h, held(h, kv, w, c)]),
    ("does not fit", one_less),
    ("not on all", lambda h, kv, w, c, m: (lambda n, each: [n, n * each])(*right_cards(h, kv, w, c, m))),
    ("should be", lambda h, kv, w, c, m: (lambda n, each: [n, each * 1.1])(*right_cards(h, kv, w, c, m))),
]  # fmt: skip


def heads_by_card(h: int, kv: int, w: float, c: float, m: float) -> tuple[int, float]:
    """Card by card: whole heads, and the KV heads that they need."""
    cards = 1
    while True:
        if h % cards == 0:
            kv_on_each = max(1.0, kv / cards)
            need = w / cards + c / kv * kv_on_each
            if need <= m:
                return cards, need
        cards += 1


def each(rule: Callable[[str, float], str], absent: str = "cannot be known") -> Any:
    return lambda said, numbers: [
        absent if n is None else rule(s, n) for s, n in zip(said, numbers, strict=True)
    ]


def off(said: str, number: float) -> float:
    return abs(float(said) - number)


def step(said: str) -> float:
    return float(10.0 ** -len(said.partition(".")[2]))


def grade(right: bool, near: bool) -> str:
    return "true" if right else "imprecise" if near else "false"


def usual(said: str, number: float) -> str:
    return grade(off(said, number) <= step(said) / 2, off(said, number) <= number / 8)


def cut(said: str, number: float) -> str:
    same = math.floor(number / step(said)) == round(float(said) / step(said))
    return grade(same, off(said, number) <= number / 8)


VERDICTS: list[Mistake] = [
    ("rounded to the decimals that were written, is it",
     each(lambda s, n: grade(float(s) == n, off(s, n) <= n / 8))),
    ("not of the one that was said",
     each(lambda s, n: grade(off(s, n) <= step(s) / 2, off(s, n) <= float(s) / 8))),
    ("a claim with a decimal promises more", each(lambda s, n: grade(off(s, n) <= 0.5, off(s, n) <= n / 8))),
    ("you cut", each(cut)),
    ("the claim is not false", each(usual, "false")),
    ("the claim is not true", each(usual, "true")),
    ("not of 1", each(lambda s, n: grade(off(s, n) <= step(s) / 2, off(s, n) <= 0.125))),
    ("is imprecise, not false", each(lambda s, n: grade(off(s, n) <= step(s) / 2, False))),
    ("ask for right first", each(lambda s, n: "imprecise" if off(s, n) <= n / 8 else "false")),
    ("should have", each(lambda s, n: "true")),
]  # fmt: skip


def by_rounding(said: list[str], numbers: list[Any]) -> list[str]:
    """With Python's own rounding, and exact fractions for the eighth."""
    found = []
    for s, n in zip(said, numbers, strict=True):
        if n is None:
            found.append("cannot be known")
        elif f"{n:.{len(s.partition('.')[2])}f}" == s:
            found.append("true")
        else:
            near = 8 * abs(Fraction(s) - Fraction(n)) <= Fraction(n)
            found.append("imprecise" if near else "false")
    return found


Rows = dict[str, list[Any]]


def both(rows: Rows, a: int, b: int) -> list[tuple[float, float]]:
    return [(r[a], r[b]) for r in rows.values() if r[a] is not None and r[b] is not None]


def ahead(rows: Rows, a: int, b: int) -> list[float]:
    return [sum(x > y for x, y in both(rows, a, b)), len(both(rows, a, b))]


SCORES: list[Mistake] = [
    ("an equal score is not ahead",
     lambda r, a, b: [sum(x >= y for x, y in both(r, a, b)), len(both(r, a, b))]),
    ("no score of 0", lambda r, a, b: [sum((v[a] or 0) > (v[b] or 0) for v in r.values()), len(r)]),
    ("only what both have", lambda r, a, b: [ahead(r, a, b)[0], len(r)]),
    ("how often it is behind", lambda r, a, b: ahead(r, b, a)),
    ("behind or equal", lambda r, a, b: [sum(x <= y for x, y in both(r, a, b)), len(both(r, a, b))]),
    ("not their ratio", lambda r, a, b: [ahead(r, a, b)[0] / ahead(r, a, b)[1], ahead(r, a, b)[1]]),
    ("not those it loses", lambda r, a, b: [ahead(r, a, b)[0], ahead(r, a, b)[1] - ahead(r, a, b)[0]]),
    ("not points ahead",
     lambda r, a, b: [sum(max(x - y, 0.0) for x, y in both(r, a, b)), len(both(r, a, b))]),
    ("should be", lambda r, a, b: [ahead(r, a, b)[0] + 0.5, ahead(r, a, b)[1]]),
]  # fmt: skip


def row_by_row(rows: Rows, model: int, other: int) -> tuple[int, int]:
    """With a counter for each."""
    won = counted = 0
    for row in rows.values():
        if None in (row[model], row[other]):
            continue
        counted += 1
        if row[model] > row[other]:
            won += 1
    return won, counted


MISTAKES: dict[str, list[Mistake]] = {
    "active_parameters": ACTIVE,
    "fewest_cards": CARDS,
    "verdicts": VERDICTS,
    "score_card": SCORES,
}
ALSO_RIGHT: dict[str, list[Callable[..., Any]]] = {
    "active_parameters": [changed(lambda c, p: {}), tensor_by_tensor],
    "fewest_cards": [right_cards, heads_by_card],
    "verdicts": [each(usual), by_rounding],
    "score_card": [ahead, row_by_row],
}
