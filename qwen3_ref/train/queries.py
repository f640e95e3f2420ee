"""What is asked in reinforcement learning, and what a reply is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qwen3_ref.chat import encode_chat
from qwen3_ref.reply import Splitter
from qwen3_ref.tasks.problems import FAMILIES, Problem, is_correct
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.seeds import problems

END = "<|im_end|>"
MAX_REPLY = 100
"""Room for the longest reply of the solver: 83 tokens of 10,000 translations, 74 in the other families."""


@dataclass(frozen=True)
class Sample:
    """A reply as rewards see it.

    `marks`: its control tokens in order. Only ids count: "<think>" spelled out in letters is text.
    `thought`: the text between a `<think>` that begins the reply and the next `</think>`, else None.
    `answer`: what follows, or else all of it, without the end of the turn.
    """

    marks: tuple[str, ...]
    thought: str | None
    answer: str
    thought_tokens: int
    tokens: int

    @property
    def well_formed(self) -> bool:
        """One think block (it may be empty) before everything else, and an end: nothing was cut off."""
        return self.thought is not None and self.marks == ("<think>", "</think>", END)


def read_sample(tokenizer: Tokenizer, ids: Sequence[int]) -> Sample:
    """Take new ids apart, a stop id included."""
    names = {i: name for name, i in tokenizer.control_tokens.items()}
    marks = tuple(names[i] for i in ids if i in names)
    splitter = Splitter(tokenizer.control_tokens, {i for i, name in names.items() if name == END})
    parts = [splitter.feed(i) for i in ids]
    body = [i for i, part in zip(ids, parts, strict=True) if part != "end"]
    thought, spent = None, 0
    if parts[:1] == ["mark"] and "mark" in parts[1:]:
        at = parts.index("mark", 1)
        thought, spent, body = tokenizer.decode(body[1:at]), at - 1, body[at + 1 :]
    return Sample(marks, thought, tokenizer.decode(body), spent, len(ids))


@dataclass(frozen=True)
class Query:
    """A prompt, and what a reply to it is worth: the reward, and numbers to log, by name."""

    prompt: tuple[int, ...]
    score: Callable[[Sample], tuple[float, Mapping[str, float]]]


def problem_query(tokenizer: Tokenizer, problem: Problem, flag: str = "") -> Query:
    """Reward 1 for a well-formed reply with the right answer, else 0: the verifier's word alone.
    flag: what the user adds, such as " /no_think"."""

    def score(sample: Sample) -> tuple[float, Mapping[str, float]]:
        return float(sample.well_formed and is_correct(problem, sample.answer)), {}

    messages = [{"role": "user", "content": problem.prompt + flag}]
    return Query(tuple(encode_chat(tokenizer, messages)), score)


def problem_queries(
    tokenizer: Tokenizer, use: str, per_family: int, run_seed: int, *, flag: str = ""
) -> list[Query]:
    """Problems of all families and difficulties, of the share of one use (`seeds.SHARES`) or, for
    "validation", of that split."""
    drawn = [p for family in FAMILIES for p in problems(use, family, per_family, run_seed)]
    return [problem_query(tokenizer, p, flag) for p in drawn]


def learnable(queries: Sequence[Query], rates: Sequence[float], count: int) -> list[Query]:
    """The report's choice, learnable for the model and as hard as possible: of the queries with a pass
    rate strictly between 0 and 1 (in the others no reply is better than the next), the `count` hardest;
    all of them, the hardest first, if there are no more."""
    between = [i for i, rate in enumerate(rates) if 0 < rate < 1]
    return [queries[i] for i in sorted(between, key=lambda i: rates[i])[:count]]
