"""Conversations for tests: what the official templates rendered, and generated ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from qwen3_ref.tokenizer import CONTROL_TOKENS

GOLDENS = json.loads((Path(__file__).parent / "data" / "chat_goldens.json").read_text(encoding="utf-8"))
HELLO = [{"role": "user", "content": "Hello"}]
NAMES = st.from_regex(r"[a-z_][a-z0-9_.-]{0,9}", fullmatch=True)


def arguments_of(case: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key not in ("messages", "rendered")}


LETTERS = ["a", " ", "\n", "\n\n", "é", "e\u0301", "\u0301", "\u0338", "12", "'s", "\t", "<", ">", "|", "的"]
words = st.lists(st.sampled_from(LETTERS), max_size=5).map("".join)
FORBIDDEN = [*CONTROL_TOKENS, "</parameter>", "</function>"]
ODD = st.sampled_from(["a", "\n", " ", "{", "}", '"', "\\", "<", ">", "/", "\x1c", "é\u0301"])
prose = st.one_of(st.text(max_size=20), st.lists(ODD).map("".join)).filter(
    lambda text: not any(mark in text for mark in FORBIDDEN)
)
scalars = st.one_of(prose, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
values = st.recursive(
    st.one_of(scalars, st.none()),
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(NAMES, v, max_size=3)),
    max_leaves=5,
)


@st.composite
def conversations(draw: st.DrawFn, text: st.SearchStrategy[str]) -> tuple[list[dict[str, Any]], Any]:
    """A conversation that ends in an assistant's turn after a user's or a tool's; and tools or None."""

    def assistant() -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": draw(text)}
        if draw(st.booleans()):
            message["reasoning_content"] = draw(text)
        if draw(st.booleans()):
            pairs = draw(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, text, max_size=2)), max_size=2))
            message["tool_calls"] = [{"name": n, "arguments": a} for n, a in pairs]
        return message

    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    messages.append({"role": "user", "content": draw(text)})  # without a query no thoughts are written
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "tool"]), max_size=4)):
        messages.append(assistant() if role == "assistant" else {"role": role, "content": draw(text)})
    messages.append({"role": draw(st.sampled_from(["user", "tool"])), "content": draw(text)})
    properties = draw(st.dictionaries(NAMES, st.fixed_dictionaries({"description": text}), max_size=2))
    tool = {"name": draw(NAMES), "description": draw(text), "parameters": {"properties": properties}}
    return [*messages, assistant()], draw(st.sampled_from([None, [{"type": "function", "function": tool}]]))
