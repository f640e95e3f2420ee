"""Replies taken apart, id by id and as text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from qwen3_ref.reply import ENDS, Splitter
from qwen3_ref.tokenizer import Tokenizer

TOK = Tokenizer.official()
LETTERS = {"mark": "M", "reasoning": "r", "answer": "a", "end": "E"}


def parts(text: str, *, ends: Collection[int] = (), **prompt: Any) -> tuple[str, Splitter[int]]:
    """A letter for each id of a text whose words are one id each, and the splitter afterwards."""
    splitter = Splitter(TOK.control_tokens, ends, **prompt)
    ids = TOK.encode(text, allow_control_tokens=True)
    return "".join(LETTERS[splitter.feed(i)] for i in ids), splitter


@pytest.mark.parametrize(
    ("text", "prompt", "want"),
    [
        ("<think>a b</think>c<|im_end|>", {}, "MrrMaE"),
        ("a b</think>c<|im_end|>", {"inside": True}, "rrMaE"),
        ("a b</think>c", {}, "aaaa"),
        ("a<think>b</think>c", {}, "aMrMa"),
        ("<think>a<think>b</think>c", {}, "MrrrMa"),
        ("<think>a<tool_call>b</tool_call></think>c", {}, "MrrrrMa"),
        ("<think>a</think>b</think>c<think>d</think>", {}, "MrMaaaMrM"),
        ("a<tool_call><think>b</think></tool_call>c<think>d", {}, "aaaaaaaMr"),
        ("<think>a<|im_end|>", {}, "MrE"),
        ("a<|endoftext|></think>b", {}, "aEEE"),
        ("<|im_start|>a", {}, "aa"),
    ],
)
def test_parts_by_hand(text: str, prompt: Any, want: str) -> None:
    assert parts(text, ends=TOK.stop_ids, **prompt)[0] == want


def test_what_is_known_of_the_thought() -> None:
    def known(text: str, **prompt: Any) -> tuple[Any, ...]:
        s = parts(text, ends=TOK.stop_ids, **prompt)[1]
        return s.inside, s.thoughts, s.closed, s.closed_again, s.over

    assert known("a") == (False, 0, False, 0, False)
    assert known("<think>a") == known("a", inside=True) == (True, 1, False, 0, False)
    assert known("<think>a<|im_end|>") == (True, 1, False, 0, True), "it ended inside the thought"
    assert known("<think>a</think>b") == (False, 1, True, 0, False)
    assert known("<think>a</think>b</think>c</think>") == (False, 1, True, 2, False)
    assert known("a</think>b") == (False, 0, False, 0, False), "there was no thought behind which to stand"
    assert known("a</think>b", closed=True) == (False, 1, True, 1, False)
    assert known("<think>a</think><tool_call></think></tool_call>") == (False, 1, True, 0, False)
    assert known("<think>a</think><think>b</think>") == (False, 2, True, 0, False)


def test_a_mark_that_is_not_given_is_not_looked_for() -> None:
    splitter = Splitter({"<think>": 1, "</think>": 2})
    assert [splitter.feed(i) for i in (3, 1, 4, 2, 2)] == ["answer", "mark", "reasoning", "mark", "answer"]
    assert [Splitter[int]({}).feed(i) for i in (0, 1)] == ["answer", "answer"]


def test_text_is_split_by_the_same_rules() -> None:
    pieces = ["<think>", "a", "</think>", "b", "<|im_end|>"]
    splitter = Splitter({mark: mark for mark in pieces[::2]}, ENDS)
    assert [splitter.feed(piece) for piece in pieces] == ["mark", "reasoning", "mark", "answer", "end"]
