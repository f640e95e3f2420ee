"""What is said to `chat` itself: each command on a conversation whose replies are scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from qwen3_ref.commands import slash
from qwen3_ref.decode import dialogue as module
from qwen3_ref.decode.dialogue import Dialogue, Spent
from qwen3_ref.decode.profile import Profile
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import tiny

TOK = Tokenizer.train(["hello there, how are you? What is it?"], 320)


def talk(*turns: tuple[str, str]) -> Dialogue:
    """A conversation in which these were said and answered."""
    model = tiny(vocab_size=TOK.num_ids)
    dialogue = Dialogue(model, TOK, Profile.of(TOK), torch.Generator().manual_seed(0))
    for text, reply in turns:
        answer(dialogue, dialogue.ask, reply, text)
    return dialogue


def answer(dialogue: Dialogue, ask: Any, reply: str, *text: str) -> list[int]:
    """What comes of a question whose reply is scripted."""

    def scripted(*_: Any, **__: Any) -> Iterator[int]:
        return iter(TOK.encode(reply, allow_control_tokens=True))

    with mock.patch.object(module, "stream", scripted):
        return list(ask(*text))


def said(dialogue: Dialogue) -> list[str]:
    return [message["content"] for message in dialogue.messages]


def test_what_is_a_command_and_what_is_for_the_model() -> None:
    for line in ("/help", "/budget 64", "/thinkk", "/think", "/no_think", "/save a b"):
        assert slash.is_command(line), line
    for line in ("hello /think", "/think what is it?", "/no_think hello", "/usr/bin is a folder", "/", "1/2"):
        assert not slash.is_command(line), line


def test_modes_budget_and_system() -> None:
    dialogue = talk()
    slash.run(dialogue, "/no_think")
    assert not dialogue.enable_thinking
    slash.run(dialogue, "/think")
    assert dialogue.enable_thinking
    assert slash.run(dialogue, "/budget 64") == "Thoughts are cut after 64 tokens."
    assert dialogue.thinking_budget == 64
    slash.run(dialogue, "/budget 0")
    assert dialogue.thinking_budget == 0
    slash.run(dialogue, "/budget")
    assert dialogue.thinking_budget is None
    slash.run(dialogue, "/system Be brief.")
    slash.run(dialogue, "/system Be  kind.")
    assert dialogue.messages == [{"role": "system", "content": "Be  kind."}]
    answer(dialogue, dialogue.ask, "hello<|im_end|>", "how?")
    slash.run(dialogue, "/clear")
    assert said(dialogue) == ["Be  kind."]
    slash.run(dialogue, "/system")
    assert dialogue.messages == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/budgt 4", "'/budgt' is no command; did you mean /budget"),
        ("/quit", "'/quit' is no command"),
        ("/budget many", "the budget is 'many'; it must be a whole number"),
        ("/budget -1", "the budget is '-1'"),
        ("/help me", "/help takes nothing"),
        ("/save", "/save wants FILE"),
        ("/undo", "nothing has been said yet"),
        ("/retry", "nothing has been said yet"),
        ("/load nowhere.json", "nowhere.json cannot be read"),
    ],
)
def test_wrong_commands_get_one_sentence(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        slash.run(talk(), line)
    assert "\n" not in str(caught.value)


def test_undo_and_retry() -> None:
    dialogue = talk(("hello", "how?<|im_end|>"), ("What", "it<|im_end|>"))
    with pytest.raises(slash.Again):
        slash.run(dialogue, "/retry")
    answer(dialogue, dialogue.retry, "there<|im_end|>")
    assert said(dialogue) == ["hello", "how?", "What", "there"]

    def fails(*_: Any, **__: Any) -> Iterator[int]:
        raise ValueError("the logits hold NaN")

    with mock.patch.object(module, "stream", fails), pytest.raises(ValueError, match="NaN"):
        list(dialogue.retry())
    assert said(dialogue) == ["hello", "how?", "What", "there"], "the old reply stays where none has come"
    assert slash.run(dialogue, "/undo") == "Taken back: What"
    assert said(dialogue) == ["hello", "how?"]


def test_a_retry_is_cut_like_any_reply() -> None:
    dialogue = talk(("hello", "how are you?<|im_end|>"))
    ids = TOK.encode("What is it?")
    with mock.patch.object(module, "stream", lambda *_, **__: iter(ids)):
        reply = dialogue.retry()
        next(reply)
        reply.close()
    assert said(dialogue) == ["hello", TOK.decode(ids[:1])]


def test_a_conversation_survives_a_file(tmp_path: Path) -> None:
    dialogue = talk(("hello", "<think>\nhow\n</think>\n\nyou<|im_end|>"))
    dialogue.set_system("there")
    file = tmp_path / "talk.json"
    assert "3 messages" in slash.run(dialogue, f"/save {file}")
    assert "3 messages" in slash.run(dialogue, f"/save {file}"), "its own kind may be replaced"
    dialogue.set_system("thé")
    slash.run(dialogue, f"/save {file}")
    lines = file.read_text(encoding="utf-8").splitlines()  # made to be read by people too
    assert lines[:5] == ["{", ' "messages": [', "  {", '   "role": "system",', '   "content": "thé"']
    other = talk()
    slash.run(other, f"/load {file}")
    assert other.messages == dialogue.messages and other.prompt() == dialogue.prompt()
    stranger = tmp_path / "thesis.txt"
    stranger.write_text("years of work")
    with pytest.raises(ValueError, match="thesis.txt is there and holds no conversation"):
        slash.run(dialogue, f"/save {stranger}")
    assert stranger.read_text() == "years of work"


@pytest.mark.parametrize(
    "messages",
    [
        {}, [1], [{"role": "user"}], [{"role": "user", "content": "hello"}],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a", "code": "x"}, {"role": "assistant", "content": "b"}],
    ],
)  # fmt: skip
def test_files_that_hold_no_conversation(messages: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps({"messages": messages}))
    dialogue = talk(("hello", "how?<|im_end|>"))
    with pytest.raises(ValueError, match="is no conversation; give a file that /save wrote"):
        slash.run(dialogue, f"/load {file}")
    assert said(dialogue) == ["hello", "how?"], "and what was said stays"


def test_tokens_of_thoughts_are_counted() -> None:
    dialogue = talk(("hello", "<think>\nhow\n</think>\n\nyou<|im_end|>"))
    tokens = len(TOK.encode("<think>\nhow\n</think>\n\nyou<|im_end|>", allow_control_tokens=True))
    thought = len(TOK.encode("\nhow\n"))
    assert (dialogue.last.tokens, dialogue.last.thinking) == (tokens, thought)
    assert str(Spent(30, 20, 2.0)) == "30 tokens, 20 of them thinking, 15 a second"
    answer(dialogue, dialogue.ask, "it<|im_end|>", "What")
    assert dialogue.total.tokens == tokens + 3 and dialogue.last.thinking == 0
    words = slash.run(dialogue, "/stats")
    assert f"{dialogue.total.tokens} tokens, {thought} of them thinking" in words
    assert f"{dialogue.prompted} tokens in all" in words


def test_a_reply_of_thinking_2507_begins_inside_its_thought() -> None:
    dialogue = talk()
    dialogue.profile = replace(dialogue.profile, template="qwen3-thinking-2507")
    answer(dialogue, dialogue.ask, "how\n</think>\n\nyou<|im_end|>", "hello")
    assert dialogue.last.thinking == len(TOK.encode("how\n"))


def test_help_names_every_command() -> None:
    text = slash.run(talk(), "/help")
    assert all(f"{name} " in text for name in slash.COMMANDS)
    rows = dict(zip(slash.COMMANDS, text.splitlines(), strict=False))
    places = {row.index(slash.COMMANDS[name].does) for name, row in rows.items()}
    assert places == {2 + len("/system [TEXT]")}, "what they do is said in one column"
    with pytest.raises(slash.Leave):
        slash.run(talk(), "/exit")
