"""The measurement of modes and tools: what is asked, that it resumes, and that the shipped file is of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref import facts
from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.profile import Profile
from qwen3_ref.measure import modes
from qwen3_ref.reply import Reply
from qwen3_ref.tasks.calculator import BARE
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, is_correct, make_problems
from tests.helpers import TOKENIZER

SHIPPED = Path(facts.__file__).parent / "data" / "nano" / "measured" / "modes.json"


class StandIn(modes.Asker):
    """Instead of a model: obeys the last flag in the user's turns, and calls no tool."""

    def __init__(self) -> None:
        self.asked = 0
        self.rooms: list[tuple[int, bool, bool]] = []
        self.tokenizer, self.profile = TOKENIZER, Profile.of(TOKENIZER)

    def replies(self, talks: Any, room: int, *, thinking: bool = True, tools: Any = None) -> list[Reply]:
        self.asked += len(talks)
        self.rooms.append((room, thinking, bool(tools)))
        found = []
        for talk in talks:
            said = " ".join(m["content"] for m in talk if m["role"] == "user").split()
            flags = [word for word in said if word in ("/think", "/no_think")]
            thinks = thinking and (not flags or flags[-1] == "/think")
            found.append(Reply("hm" if thinks else None, ""))
        return found


def test_an_obedient_model_gets_the_counts_it_should() -> None:
    groups = modes.measure(StandIn(), 5, {}, lambda _: None)
    one = {name: sum(cell) for name, cell in groups["one turn"].items()}
    assert one == {name: 0 if name == "/no_think" else 5 for name in modes.ONE_TURN}
    assert not any(sum(cell) for cell in groups["one turn, hard switch off"].values())
    assert {name: sum(cell) for name, cell in groups["several turns"].items()} == {
        "/think, then /no_think": 0,
        "/no_think, then /think": 5,
        "/think, then nothing": 5,
        "/no_think, then nothing": 0,
        "/no_think, then /think, then nothing": 5,
        "/think, then /no_think, then nothing": 0,
    }
    assert [len(cell) for cell in groups["tools"].values()] == [5] * 7


def test_how_long_a_reply_may_be_and_what_is_offered() -> None:
    """A word of a thought tells whether there is one; a call has 60 tokens, an answer to a result 24, and a
    thought that solves a sum 110, in each cell and in its control."""
    asker = StandIn()
    modes.measure(asker, 5, {}, lambda _: None)
    switched = [(4, True, False), (4, False, False)]
    assert asker.rooms[:10] == [*switched * 3, *[(4, True, False)] * 4]
    assert asker.rooms[10:16] == [(4, True, False)] * 6
    assert asker.rooms[16:] == [
        (60, True, True), (24, True, True), (60, True, False),
        (110, True, False), (110, True, True), (110, True, False),
    ]  # fmt: skip


def test_the_control_of_a_tool_is_a_prompt_as_long_that_offers_none() -> None:
    talk = [{"role": "user", "content": "1+1"}]
    found = modes.as_long(StandIn(), talk, [BARE])
    offered, prose = (
        encode_chat(TOKENIZER, said, tools=t) for said, t in ((talk, [BARE]), (found, None))
    )
    longest = max(len(TOKENIZER.encode(" " + word)) for word in modes.PROSE)
    assert len(offered) <= len(prose) < len(offered) + longest and len(prose) > 3 * len(
        encode_chat(TOKENIZER, talk)
    )
    assert found[1:] == talk and found[0]["role"] == "system" and "tool" not in found[0]["content"]


@pytest.mark.parametrize(
    ("result", "answer", "same"),
    [("82", "82", True), ("7", "07", True), ("-5", "-5", True), ("82", "28", False), ("8", "82", False),
     ("-82", "82", False), ("82.0", "82", False), ("", "0", False), ("-", "0", False),
     ("error: '1/0' divides by zero.", "0", False), ("1e2", "100", False), ("8 2", "82", False)],
)  # fmt: skip
def test_a_result_and_an_answer_are_one_number(result: str, answer: str, same: bool) -> None:
    assert modes._same(result, answer) is same


def test_what_is_there_is_not_asked_again() -> None:
    saved: list[Any] = []
    whole = modes.measure(StandIn(), 5, {}, lambda groups: saved.append(json.loads(json.dumps(groups))))
    asker = StandIn()
    again = modes.measure(asker, 5, saved[3], saved.append)
    assert again == whole
    fresh = StandIn()
    modes.measure(fresh, 5, {}, lambda _: None)
    assert asker.asked == fresh.asked - 4 * 5
    modes.measure(asker := StandIn(), 5, whole, lambda _: None)
    assert asker.asked == 0


def test_conversations() -> None:
    talks = modes.conversations(10, ("/think", "", "/no_think"))
    assert [len(talk) for talk in talks] == [5] * 10
    assert talks[0][0]["content"].endswith(" /think") and talks[0][4]["content"].endswith(" /no_think")
    assert "/" not in talks[0][2]["content"]
    prompts = [problem.prompt for problem in modes.problems_of(10)]
    assert [talk[-1]["content"].removesuffix(" /no_think") for talk in talks] == prompts
    assert all(not {m["content"].split(" /")[0] for m in talk[:-1]} & {*prompts} for talk in talks)
    assert is_correct(modes.problems_of(10)[0], modes.problems_of(10)[0].answer)
    # Easier problems, their right answers, and none twice: as many of each family as there are turns.
    easy = {p.prompt: p.answer for f in FAMILIES for p in make_problems(f, "test", 4, 1, TEST_SEED)}
    assert len(easy) == 20
    said = [(a["content"].split(" /")[0], b["content"]) for t in talks for a, b in (t[:2], t[2:4])]
    assert dict(said) == easy and len(said) == 20


def test_the_shipped_file_has_every_cell() -> None:
    about = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert about["problems"] == 200
    groups = about["groups"]
    assert list(groups["one turn"]) == list(modes.ONE_TURN)
    assert list(groups["one turn, hard switch off"]) == list(modes.HARD)
    assert [len(cells) for cells in groups.values()] == [7, 3, 6, 7]
    assert {len(cell) for cells in groups.values() for cell in cells.values()} == {200}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--problems", "7"], "--problems is 7; give a multiple of five"),
        (["--problems", "0"], "--problems is 0"),
        (["--problems", "10", "--out", str(SHIPPED)], "was measured otherwise; give another --out"),
        (["--model", "Qwen3-9000B"], "Qwen3-9000B"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "modes.json")]
    assert modes.main(arguments) == 1
    assert words in capsys.readouterr().err
