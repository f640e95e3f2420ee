"""Checks of 11_hybrid_thinking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge

OPEN, CLOSE, CALL, END_CALL = 200, 201, 202, 203
START, END = "<tool_response>", "</tool_response>"
_FLAG = re.compile(r"(?<!\S)/(?:no_)?think(?!\S)")


def _wrong(want: Any, others: list[tuple[str, Any]]) -> list[tuple[str, Array]]:
    """The mistakes that show on this input."""
    return [(remark, np.asarray(other)) for remark, other in others if other != want]


def last_flag(answer: Answer) -> Verdict:
    """answer(said): the user's turns as strings -> True if the model is to think, by the last flag."""

    def flags(text: str) -> list[bool]:
        return [flag == "/think" for flag in _FLAG.findall(text)]

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        words = ["add", "seven", "count", "the", "letters", "again", "please"]

        def turn(*flags: str) -> str:
            return " ".join([*rng.choice(words, size=int(rng.integers(1, 4))), *flags])

        # The first kinds tell the mistakes apart: each of them is wrong in one where no earlier one is.
        kinds: list[list[str]] = [
            [turn("/think")],
            [turn()],
            [turn("/no_think"), turn()],
            [turn("/think"), turn("/no_think")],
            [turn("/think"), turn("/no_think"), turn("/think")],
            [turn("/no_think"), turn("/think", "/no_think")],
            [turn("/no_think", "now")],
            [turn("/no_think", "src/think")],
            [turn("/no_think")],
            [turn("/no_think"), turn("/think"), turn()],
            [turn("/think"), turn("/no_think"), turn(), turn()],
            [turn("/no_think"), turn("/think")],
            [turn("/think", "/no_think")],
            [turn("/no_think", "/think")],
            [turn("/thinking", "aloud"), turn("/no_thinking")],
        ]
        again = rng.integers(0, len(kinds), size=16)  # so that a list of answers does not pass
        for i in [*range(len(kinds)), *again]:
            said = kinds[i]
            whole = " ".join(said)
            all_flags, last = flags(whole), flags(said[-1])
            want = all_flags[-1] if all_flags else True
            plain = "/no_think" not in whole
            raw = max(whole.rfind("/think"), -1) >= max(whole.rfind("/no_think"), -1)
            alone = last[-1] if last else True
            ended = [t.split()[-1] for t in said if t.split()[-1] in ("/think", "/no_think")]
            at_end = ended[-1] == "/think" if ended else True
            others = [
                ("a flag holds until another comes: look at the earlier turns too", alone),
                ("the last flag counts, not the first", all_flags[0] if all_flags else True),
                ("without a flag the model thinks: that is the default", bool(all_flags) and want),
                ("a /think that comes later takes a /no_think back", plain),
                ("of two flags in one turn the last one counts", _first_of_turns(said)),
                ("a flag is a word of its own; it is not part of a longer one", raw),
                ("a flag may stand anywhere in a turn, not only at its end", at_end),
                ("you have it the wrong way round: True is for thinking", not want),
            ]
            yield Trial((said,), np.asarray(want), _wrong(want, others))

    return judge(answer, trials)


def _first_of_turns(said: list[str]) -> bool:
    for text in reversed(said):
        if found := _FLAG.findall(text):
            return str(found[0]) == "/think"
    return True


def kept_thoughts(answer: Answer) -> Verdict:
    """answer(turns): (role, content) pairs before the next reply -> the places of the assistant turns
    whose thoughts the template writes, as a list of booleans, one a turn."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        word = lambda: str(rng.choice(["sun", "rain", "snow", "fog", "wind"]))  # noqa: E731
        user, said, tool = "user", "assistant", "tool"
        result = f"<tool_response>\n{word()}\n</tool_response>"
        before = [(user, word()), (said, word()), (user, word()), (said, "call")]
        # The first patterns tell the mistakes apart: each of them is wrong in one where no earlier one is.
        patterns: list[list[tuple[str, str]]] = [
            [(user, word()), (said, word())],
            [(said, word()), (user, word()), (said, word()), (user, word())],
            [(user, word()), (said, "call"), (tool, word())],
            [(user, word()), (said, "call"), (tool, word()), (said, "call"), (tool, word())],
            [*before, (user, f"see {result} there")],
            [*before, (user, f"{result} what is that?")],
            [*before, (user, f"look: {result}")],
            [*before, (user, result)],
            [*before, (tool, word())],
            [(user, word()), (said, "call"), (user, result)],
            [("system", word()), (user, word()), (said, "call"), (tool, word()), (tool, word())],
            [*before, (user, f" {result}\n")],
            [(user, word()), (said, "call"), ("system", word()), (said, "call"), (said, word())],
        ]
        for i in [*range(len(patterns)), *rng.integers(0, len(patterns), size=8)]:
            turns = patterns[i]
            n = len(turns)
            users = [j for j, (role, _) in enumerate(turns) if role == user]

            def asked(rule: Any, users: list[int] = users, turns: list[tuple[str, str]] = turns) -> int:
                found = [j for j in users if not rule(turns[j][1])]
                return found[-1] if found else len(turns) - 1

            def after(place: int, turns: list[tuple[str, str]] = turns) -> list[bool]:
                return [role == said and j > place for j, (role, _) in enumerate(turns)]

            want = after(asked(lambda t: t.startswith(START) and t.endswith(END)))
            begins, ends = asked(lambda t: t.startswith(START)), asked(lambda t: t.endswith(END))
            last_said = max(j for j, (role, _) in enumerate(turns) if role == said)
            any_role = max(j for j, (role, _) in enumerate(turns) if role in (user, tool))
            bare = asked(lambda t: t.strip().startswith(START) and t.strip().endswith(END))
            systems = [j for j, (role, _) in enumerate(turns) if role == "system"]
            others = [
                ("before the last question all thoughts are dropped", after(-1)),
                ("a user's turn that is wholly a tool response asks nothing", after(users[-1])),
                ("a tool's result is no question", after(any_role)),
                ("thoughts of a chain of calls are kept, until the user asks again", [False] * n),
                ("one that only begins as a tool response is a question", after(begins)),
                ("one that only ends as a tool response is a question", after(ends)),
                ("a tool response with white space around it is a question", after(bare)),
                ("one that holds a tool response among its words is a question",
                 after(asked(lambda t: START in t))),
                ("a system turn is no question",
                 after(max(systems[-1:] + [asked(lambda t: t.startswith(START) and t.endswith(END))]))),
                ("every turn after the question keeps its thoughts, not the last alone",
                 [w and j == last_said for j, w in enumerate(want)]),
                ("it is the first question that you look from; take the last", after(users[0])),
                ("you have it the wrong way round: True is for kept", [not w for w in want]),
                ("only an assistant has thoughts; other turns are False", [j > max(
                    k for k in users if not (turns[k][1].startswith(START) and turns[k][1].endswith(END)))
                    for j in range(n)]),
            ]  # fmt: skip
            yield Trial((turns,), np.asarray(want), _wrong(want, others))

    return judge(answer, trials)


def answer_starts(answer: Answer) -> Verdict:
    """answer(ids, opening, closing, call, end_call) -> where the answer begins in a reply's ids."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def words(n: int) -> list[int]:
            return [int(i) for i in rng.integers(0, 100, size=n)]

        def call(inner: list[int]) -> list[int]:
            return [CALL, *words(2), *inner, *words(2), END_CALL]

        for _ in range(3):
            a, b = words(int(rng.integers(3, 6))), words(int(rng.integers(3, 6)))
            for ids in (
                [OPEN, *a, CLOSE, *b],
                [*a, CLOSE, *b],
                b,
                [OPEN, *a],
                [OPEN, CLOSE, *b],
                [OPEN, *a, CLOSE, *b, CLOSE, *words(2)],
                [*a, *call([CLOSE]), *b],
                [OPEN, *a, CLOSE, *call([CLOSE]), *b],
                [OPEN, *a, CALL, *b, CLOSE, *words(3)],
            ):
                n, closes = len(ids), [i for i, token in enumerate(ids) if token == CLOSE]
                outside = _outside(ids)
                want = outside + 1 if outside is not None else n if ids[0] == OPEN else 0
                first, last = (closes[0] + 1, closes[-1] + 1) if closes else (None, None)
                bare = 0 if ids[0] != OPEN else want
                skipped = next((i + 1 for i, t in enumerate(ids) if t == CLOSE and CALL not in ids[:i]), None)
                others = [
                    ("the first </think> ends the thought; a later one is part of the answer",
                     want if last is None or outside is None else last),
                    ("a </think> within a tool call closes nothing",
                     want if first is None or outside is not None else first),
                    ("the thought may have been opened by the prompt: then there is no <think> here", bare),
                    ("without any mark all is answer", want if want or OPEN in ids else n),
                    ("a thought that is cut off leaves no answer: return len(ids)",
                     want if outside is not None or ids[0] != OPEN else 0),
                    ("the mark itself is no part of the answer: add 1", want if outside is None else outside),
                    ("within a thought <tool_call> is a word like any other",
                     want if skipped is not None or outside is None else n),
                    ("that is one too far", want + 1),
                    ("that is where the thought begins", int(ids[0] == OPEN)),
                ]  # fmt: skip
                yield Trial((ids, OPEN, CLOSE, CALL, END_CALL), np.asarray(want), _wrong(want, others))

    return judge(answer, trials)


def _outside(ids: list[int]) -> int | None:
    """The first closing mark that is not in a call; in a thought nothing is one."""
    in_call, inside = False, ids[0] == OPEN
    for i, token in enumerate(ids):
        if token == CLOSE and not in_call:
            return i
        in_call = not inside and (token == CALL or (in_call and token != END_CALL))
    return None
