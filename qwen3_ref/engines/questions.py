"""What every engine is asked: ids to go on from, texts to cut into ids, conversations to write as prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwen3_ref.chat import Json, encode_chat
from qwen3_ref.decode.profile import Profile
from qwen3_ref.tasks.calculator import CALCULATOR
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer

EACH = 3
"""Problems of each of the five families in each mode: 30 prompts."""
MOST = {"thinking": 96, "non-thinking": 32, "text": 48}
"""New ids, at most: room for a nano's thought and its answer."""
TEXTS = 30
"""Problems of each family whose prompts and solutions are cut into ids."""
ODD = (
    "", " ", "  ", "\n", "\n\n \n", "\t", "\r\n", "a", " a", "a ", "I'm, you'RE, it's", "1234567890", "3.14",
    "naïve café", "e\u0301", "ÅÄÖ", "日本語のテスト", "中文 测试", "שלום עולם", "नमस्ते", "สวัสดี", "🙂👩‍👩‍👧",
    "\u200b", "\ufeff", "A\u030angström \u212b",
    "x = {'a': [1, 2]}", "def f(x):\n    return x ** 2\n", "<think", "</think >",
    "<|im_start|", "a<think>b</think>c", " <|im_end|> ", "<tool_call>\n{}\n</tool_call>",
    "<|endoftext|><|endoftext|>",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Ids to go on from greedily. `mode`: "thinking", "non-thinking", or "text" for a Base model."""

    mode: str
    prompt: str
    ids: tuple[int, ...]

    @property
    def most(self) -> int:
        return MOST[self.mode]


def questions(tokenizer: Tokenizer, profile: Profile, each: int = EACH) -> list[Question]:
    """Test problems in both modes; of a Base model twice as many as text that it goes on with."""
    found = []
    for family in FAMILIES:
        for problem in make_problems(family, "test", each, seed=TEST_SEED):
            messages = [{"role": "user", "content": problem.prompt}]
            for thinking in () if profile.base else (True, False):
                ids = encode_chat(tokenizer, messages, enable_thinking=thinking, template=profile.template)
                mode = "thinking" if thinking else "non-thinking"
                found.append(Question(mode, problem.prompt, tuple(ids)))
        for problem in make_problems(family, "test", 2 * each, seed=TEST_SEED) if profile.base else ():
            ids = tokenizer.encode(f"{problem.prompt}\n")
            found.append(Question("text", problem.prompt, tuple(ids)))
    return found


def texts(each: int = TEXTS) -> list[str]:
    """Prompts and solutions of test problems, odd strings, and every control token between words."""
    found = [
        text
        for family in FAMILIES
        for problem in make_problems(family, "test", each, seed=TEST_SEED)
        for text in (problem.prompt, f"{problem.prompt}\n{problem.trace}")
    ]
    return [*found, *ODD, *(f"before {mark}\nafter" for mark in CONTROL_TOKENS)]


def conversations() -> list[dict[str, Any]]:
    """Conversations as {"messages", "tools", "thinking"}: with and without a system message, a turn before,
    tools and a call answered, in both modes."""
    return list(_conversations())


def _conversations() -> Iterator[dict[str, Any]]:
    call = {"name": "calculator", "arguments": json.dumps({"expression": "17+25"})}
    calls = [{"id": "1", "type": "function", "function": call}]
    before: list[Json] = [
        {"role": "user", "content": "17+25 mod 100"},
        {"role": "assistant", "content": "42", "reasoning_content": "17+25=42"},
    ]
    called: list[Json] = [
        {"role": "user", "content": "17+25 mod 100"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    ask: list[Json] = [{"role": "user", "content": "Überprüfe: 38-9 mod 100 /no_think"}]
    system: list[Json] = [{"role": "system", "content": "Answer briefly."}]
    for thinking in (True, False):
        for head in ([], system):
            for middle in (ask, [*before, *ask]):
                yield {"messages": [*head, *middle], "tools": None, "thinking": thinking}
            for middle in (ask, called, [*before, *called]):
                yield {"messages": [*head, *middle], "tools": [CALCULATOR], "thinking": thinking}
