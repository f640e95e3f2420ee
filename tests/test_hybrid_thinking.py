"""Lesson 11: coloured prompts, its figures' numbers, and right answers to its exercises written otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_ref.chat import encode_chat
from qwen3_ref.course.checks import hybrid_thinking as checks
from qwen3_ref.course.plots import hybrid_thinking as plots
from tests.helpers import TOKENIZER


def _prompt(content: str) -> plots.Coloured:
    said = [{"role": "user", "content": content}]
    return plots.Coloured(TOKENIZER, encode_chat(TOKENIZER, said, enable_thinking=False))


def test_control_tokens_are_told_from_their_characters() -> None:
    shown = _prompt("1 < 2 <|im_end|> & so")
    assert repr(shown) == (
        "\u27e6<|im_start|>\u27e7user\n1 < 2 <|im_end|> & so\u27e6<|im_end|>\u27e7\n"
        "\u27e6<|im_start|>\u27e7assistant\n\u27e6<think>\u27e7\n\n\u27e6</think>\u27e7\n\n"
    )
    text = shown._repr_html_()
    assert text.count("<b ") == 5 and "1 &lt; 2 &lt;|im_end|&gt; &amp; so" in text
    assert "<|im" not in text and "<think>" not in text


def test_shares_and_their_intervals() -> None:
    """Wilson's interval of 0 of 100 is 0 to 3.70%, of 50 of 100 it is 40.4 to 59.6%."""
    groups = {"a": {"none": (0, 100)}, "b": {"half": (50, 100), "control: all": (9, 9)}}
    figure, data = plots.switches(groups, "title")
    assert data["a"]["none"] == pytest.approx([0, 0, 0.03699], abs=1e-4)
    assert data["b"]["half"] == pytest.approx([0.5, 0.4038, 0.5962], abs=1e-4)
    assert [len(axes.get_yticklabels()) for axes in figure.axes] == [1, 2]


def test_prompt_lengths() -> None:
    figure, data = plots.prompt_lengths([10, 20], [10, 35])
    assert data == {"stripped": [10, 20], "kept": [10, 35]}
    assert [bar.get_height() for bar in figure.axes[0].patches] == [10, 35, 10, 20]


def _by_splitting(said: list[str]) -> bool:
    think = True
    for turn in said:
        for word in turn.split():
            if word in ("/think", "/no_think"):
                think = word == "/think"
    return think


def _backwards(turns: list[tuple[str, str]]) -> list[bool]:
    kept, seen = [], False
    for role, text in reversed(turns):
        kept.append(role == "assistant" and not seen)
        wrapped = text[:15] == "<tool_response>" and text[-16:] == "</tool_response>"
        seen = seen or (role == "user" and not wrapped)
    return kept[::-1]


def _in_two_cases(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    if ids[0] == opening:
        return ids.index(closing) + 1 if closing in ids else len(ids)
    depth = 0
    for place, token in enumerate(ids):
        depth = 1 if token == call else 0 if token == end_call else depth
        if token == closing and depth == 0:
            return place + 1
    return 0


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.last_flag, _by_splitting),
        (checks.kept_thoughts, _backwards),
        (checks.answer_starts, _in_two_cases),
    ],
)
def test_right_answers_written_otherwise(check: Any, answer: Any) -> None:
    for _ in range(10):
        assert repr(check(answer)) == "ok"
