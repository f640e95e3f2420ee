"""Checks of 24_the_family_and_the_ledger."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, Wrong, apart, judge

Made = tuple[tuple[Any, ...], np.ndarray[Any, Any], Wrong]


def active_parameters(answer: Answer) -> Verdict:
    """answer(c) -> parameters that one token uses, of a mixture whose layers all have experts."""

    def count(
        c: dict[str, Any], *, chosen: int = 0, router: int = 0, embeddings: int = 0, kv: int = 0, q: int = 0,
        o: int = 1, matrices: int = 3, qk: int = 2, norms: int = 2, last: int = 1, layers: int = 0,
    ) -> float:  # fmt: skip
        D, d, L = c["hidden_size"], c["head_dim"], layers or c["num_hidden_layers"]
        wide = q or c["num_attention_heads"] * d
        attention = D * wide * (1 + o) + 2 * D * (kv or c["num_key_value_heads"]) * d
        expert = matrices * D * c["moe_intermediate_size"]
        moe = (router or c["num_experts"]) * D + (chosen or c["num_experts_per_tok"]) * expert
        embeddings = embeddings or (1 if c["tie_word_embeddings"] else 2)
        return embeddings * c["vocab_size"] * D + L * (attention + moe + qk * d + norms * D) + last * D

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(tied: bool) -> Made:
            kv = int(rng.integers(1, 3))
            c = {
                "hidden_size": int(rng.integers(2, 7)),
                "moe_intermediate_size": int(rng.integers(1, 4)),
                "num_experts": int(rng.integers(8, 30)),
                "num_experts_per_tok": int(rng.integers(2, 6)),
                "num_hidden_layers": int(rng.integers(3, 7)),
                "num_attention_heads": kv * int(rng.integers(2, 5)),
                "num_key_value_heads": kv,
                "head_dim": 2 * int(rng.integers(2, 8)),
                "vocab_size": int(rng.integers(10, 120)),
                "tie_word_embeddings": tied,
            }
            every = count(c, chosen=c["num_experts"])
            twice = (
                "tied: the head is the embedding, one matrix"
                if tied
                else "the head has a matrix of its own when it is not tied"
            )
            wrong = [
                ("those are all parameters; a token is sent to some experts only", every),
                ("a share of the experts is no share of all: attention and embeddings work for every token",
                 every * c["num_experts_per_tok"] / c["num_experts"]),
                ("the router scores all experts, the idle ones too",
                 count(c, router=c["num_experts_per_tok"])),
                (twice, count(c, embeddings=2 if tied else 1)),
                ("k_proj and v_proj have KV heads as outputs", count(c, kv=c["num_attention_heads"])),
                ("queries have num_attention_heads x head_dim channels, not hidden_size",
                 count(c, q=c["hidden_size"])),
                ("attention ends in o_proj", count(c, o=0)),
                ("an expert has three matrices: gate, up and down", count(c, matrices=2)),
                ("QK-Norm has two weights of head_dim in each layer", count(c, qk=0)),
                ("QK-Norm's weights are shared by all heads",
                 count(c, qk=c["num_attention_heads"] + c["num_key_value_heads"])),
                ("each layer has two norms of hidden_size", count(c, norms=0)),
                ("one layer is not all of them", count(c, layers=1)),
                ("the vocabulary counts too", count(c) - (2 - tied) * c["vocab_size"] * c["hidden_size"]),
            ]  # fmt: skip
            return (c,), np.asarray(count(c)), [(r, np.asarray(float(v))) for r, v in wrong]

        for tied in (True, False, False):
            yield apart(lambda tied=tied: make(tied))  # type: ignore[misc]

    return judge(answer, trials)


def fewest_cards(answer: Answer) -> Verdict:
    """answer(heads, kv_heads, weights, cache, memory) -> [cards, bytes on each]."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            kv_heads = int(rng.choice([2, 4]))
            heads = kv_heads * int(rng.choice([5, 6, 10, 12]))
            weights, cache = float(rng.uniform(100, 600)), float(rng.uniform(20, 120))
            memory = float(rng.uniform(20, 120))
            divisors = [n for n in range(1, heads + 1) if heads % n == 0]

            def held(n: int, copies: str = "kv") -> float:
                shared = {"kv": min(n, kv_heads), "all": n, "none": 1}[copies]
                return weights / n + cache / shared

            def first(among: list[int], copies: str = "kv") -> list[float]:
                n = next((n for n in among if held(n, copies) <= memory), 0)
                return [n, held(n, copies) if n else 0.0]

            any_number = list(range(1, 4 * heads))
            n, most = first(divisors)
            if not n or n <= kv_heads or n == divisors[-1]:  # another draw: too easy, or impossible
                return (0,), np.zeros(2), [("drawn again", np.zeros(2))]
            by_sum = math.ceil((weights + cache) / memory)
            before = divisors[divisors.index(int(n)) - 1]
            wrong = [
                ("the heads have to be dealt out evenly: num_attention_heads must divide by the cards",
                 first(any_number)),
                ("what all cards hold together is not the point: each holds its part, and heads are whole",
                 [by_sum, (weights + cache) / by_sum]),
                ("a card holds at least one KV head: beyond kv_heads cards there are copies",
                 first(divisors, "all")),
                ("the KV heads are dealt out too, as far as they go", first(divisors, "none")),
                ("the cache needs room as well",
                 (lambda m: [m, weights / m])(next(m for m in any_number if heads % m == 0
                                                   and weights / m <= memory or m == 4 * heads - 1))),
                ("cards need not be a power of two", first([2**i for i in range(12)])),
                ("fewer would do", [heads, held(heads)]),
                ("that does not fit: with one divisor less each card holds more than it has",
                 [before, held(before)]),
                ("the bytes on each card are asked for, not on all", [n, n * most]),
            ]  # fmt: skip
            given = (heads, kv_heads, weights, cache, memory)
            return given, np.asarray([n, most]), [(r, np.asarray(v, dtype=float)) for r, v in wrong]

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)


def verdicts(answer: Answer) -> Verdict:
    """answer(said, numbers) -> a verdict for each: said as texts, numbers (None where nobody knows)."""

    def rule(
        said: str, number: float | None, *, exact: bool = False, of: str = "number", whole: bool = False,
        cut: bool = False, absent: str = "cannot be known", near: float = 1 / 8, absolute: bool = False,
        flip: bool = False,
    ) -> str:  # fmt: skip
        if number is None:
            return absent
        value, decimals = float(said), 0 if whole else len(said.partition(".")[2])
        off = abs(value - number)
        right = off <= 0.5 * 10.0**-decimals
        if exact:
            right = off == 0
        if cut:
            right = math.floor(number * 10**decimals) == round(value * 10**decimals)
        bound = near * (1 if absolute else value if of == "said" else number)
        close = off <= bound
        if flip:
            return "imprecise" if close else "true" if right else "false"
        return "true" if right else "imprecise" if close else "false"

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(4):
            pairs: list[tuple[str, float | None]] = []
            for _ in range(2):
                big = float(rng.integers(30, 90))
                pairs += [
                    (f"{big:.0f}", big + rng.uniform(0.1, 0.4)),  # true, rounded
                    (f"{big:.0f}", big - rng.uniform(0.1, 0.4)),  # true, though a cut says no
                    (f"{big:.1f}", big + rng.uniform(0.2, 0.4)),  # its decimal makes it imprecise
                    (f"{big:.1f}", big + rng.uniform(0.07, 0.12)),  # and so, off by less than 1/8
                    (f"{big:.0f}", big * rng.uniform(0.89, 0.94)),  # imprecise
                    (f"{big:.0f}", big / rng.uniform(0.877, 0.887)),  # imprecise by the right number alone
                    (f"{big:.0f}", big * rng.uniform(0.876, 0.886)),  # false by the right number alone
                    (f"{big:.0f}", big * rng.uniform(1.5, 3)),
                    (f"{big:.0f}", None),
                    (f"{big / 10:.2f}", round(big / 10, 2)),  # exactly
                ]
            order = rng.permutation(len(pairs))
            said, numbers = [pairs[i][0] for i in order], [pairs[i][1] for i in order]

            def all_by(
                said: list[str] = said, numbers: list[float | None] = numbers, **how: Any
            ) -> np.ndarray[Any, Any]:
                return np.array([rule(s, n, **how) for s, n in zip(said, numbers, strict=True)])

            wrong = [
                ("a number is right if the true one, rounded to the decimals that were written, is it",
                 all_by(exact=True)),
                ("an eighth of the right number, not of the one that was said", all_by(of="said")),
                ("a claim with a decimal promises more: round to the decimals that were written",
                 all_by(whole=True)),
                ("round to the nearest; you cut", all_by(cut=True)),
                ("where nobody knows the number the claim is not false", all_by(absent="false")),
                ("where nobody knows the number the claim is not true", all_by(absent="true")),
                ("an eighth of the right number, not of 1", all_by(absolute=True)),
                ("what is near is imprecise, not false", all_by(near=0.0)),
                ("what is right is near as well: ask for right first", all_by(flip=True)),
            ]  # fmt: skip
            yield Trial((said, numbers), all_by(), wrong)

    return judge(answer, trials)


def score_card(answer: Answer) -> Verdict:
    """answer(rows, model, other) -> [benchmarks in which model is ahead, benchmarks that both have]."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            names = [f"benchmark {i}" for i in range(int(rng.integers(14, 24)))]
            table = np.round(rng.uniform(20, 90, size=(len(names), 3)), 1)
            kinds = rng.permutation(len(names))
            ties, mine, theirs = kinds[:3], kinds[3:5], kinds[5:9]
            table[ties, 1] = table[ties, 0]
            rows: dict[str, list[float | None]] = dict(zip(names, table.tolist(), strict=True))
            for i in mine:
                rows[names[i]][0] = None
            for i in theirs:
                rows[names[i]][1] = None
            model, other = (0, 1) if rng.random() < 0.5 else (1, 0)

            def count(better: Any, missing: str = "skip", n: int | None = None) -> list[float]:
                pairs = [(row[model], row[other]) for row in rows.values()]
                if missing == "skip":
                    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
                filled = [(a or 0.0, b or 0.0) for a, b in pairs]
                return [sum(better(a, b) for a, b in filled), len(filled) if n is None else n]

            right = count(lambda a, b: a > b)
            wrong = [
                ("an equal score is not ahead", count(lambda a, b: a >= b)),
                ("a missing score is no score of 0: leave the benchmark out",
                 count(lambda a, b: a > b, "zero")),
                ("count only what both have", count(lambda a, b: a > b, n=len(rows))),
                ("that is how often it is behind", count(lambda a, b: a < b)),
                ("behind or equal is not ahead", count(lambda a, b: a <= b)),
                ("two numbers are asked for, not their ratio", [right[0] / right[1], right[1]]),
                ("the second number counts those that both have, not those it loses",
                 [right[0], right[1] - right[0]]),
                ("numbers that a model has more of are not points ahead",
                 count(lambda a, b: max(a - b, 0.0) if a and b else 0.0)),
            ]  # fmt: skip
            return (rows, model, other), np.asarray(right, float), [
                (r, np.asarray(v, dtype=float)) for r, v in wrong
            ]  # fmt: skip

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)
