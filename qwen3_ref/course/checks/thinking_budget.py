"""Checks of 12_thinking_budget. Ids below 100 are words; marks lie above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge

Complete = Callable[[list[int], int], list[int]]
OPEN, CLOSE, END, HURRY = 100, 101, 102, 103


def _words(rng: np.random.Generator, n: int) -> list[int]:
    return [int(i) for i in rng.integers(0, 100, size=n)]


def inside(answer: Answer) -> Verdict:
    """answer(ids, opening, closing) -> how many ids lie inside thoughts, marks not counted."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for whole in (True, False) * 3:  # is the last thought closed? (and no answer fits by luck)
            before, first, between, second = (
                _words(rng, int(n)) for n in rng.integers((40, 3, 9, 15), (60, 7, 13, 25))
            )
            ids = [*before, OPEN, *first, CLOSE, *between, OPEN, *second]
            after = [CLOSE, *_words(rng, 80), END] if whole else []
            want, blocks = len(first) + len(second), 2
            marks = 2 * blocks if whole else 2 * blocks - 1
            mistakes = [
                ("you count the marks too; they are no thinking", want + marks),
                ("you count one mark of each thought too", want + blocks),
                ("you stop at the first </think>; there is a second thought", len(first)),
                ("you count the last thought alone", len(second)),
                (
                    "you count from the first <think> on, what lies between the thoughts too",
                    want + len(between) + blocks,
                ),
                ("that is what lies outside", len(ids) + len(after) - want),
                ("that is what lies outside, marks left out", len(ids) + len(after) - want - marks),
                ("that is all there is", len(ids) + len(after)),
            ]
            if not whole:
                mistakes.insert(0, ("a thought that was cut off, without </think>, counts too", len(first)))
            named = [(remark, np.asarray(wrong)) for remark, wrong in mistakes]
            yield Trial(([*ids, *after], OPEN, CLOSE), np.asarray(want), named)
        plain = _words(rng, int(rng.integers(5, 30)))
        none = "there is nothing inside: a thought may be missing, or empty, as under a budget of 0"
        for text in (plain, [*plain, OPEN, CLOSE, *_words(rng, 5)], [*plain, OPEN]):  # and budgets of 0
            wrong = [(none, n) for n in (len(text), len(plain), 1, 2, len(text) - len(plain))]
            named = [(remark, np.asarray(n)) for remark, n in wrong if n]
            yield Trial((text, OPEN, CLOSE), np.asarray(0), named)

    return judge(answer, trials)


def thought(answer: Answer) -> Verdict:
    """answer(drawn, budget, closing, stop_text) -> the ids that follow <think>, up to the end of the
    thought or of the early-stop text. drawn: what the model writes if nobody stops it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        stop = [HURRY, CLOSE, *_words(rng, 1)]
        some = int(rng.integers(8, 15))
        # (budget, how many ids the thought has beyond it); a budget of 0 is one too
        for budget, more in ((some, 7), (some, 1), (some, 0), (some, -1), (some, -5), (0, 6), (0, 0)):
            n = budget + more
            free = _words(rng, n)
            drawn = [*free, CLOSE, *_words(rng, 4), END]
            if more > 0:
                want = [*free[:budget], *stop]
                wrong = [
                    ("the id beyond the budget is dropped; you keep it", [*free[: budget + 1], *stop]),
                    ("you cut one id too early", [*free[: max(budget - 1, 0)], *stop]),
                    ("you count the early-stop text; it is forced, and free",
                     [*free[: max(budget - 3, 0)], *stop]),
                    ("the thought is not closed: the early-stop text is missing", free[:budget]),
                    ("you close with the mark alone; the text goes first", [*free[:budget], CLOSE]),
                    ("the stop text ends the thought already; you close it again", [*want, CLOSE]),
                    ("the whole of stop_text belongs to it", want[:-1]),
                    ("<think> is not in what follows <think>", [OPEN, *want]),
                    ("you go on into the answer; stop where the thought ends", [*want, *drawn[n + 1 :]]),
                    ("you keep the end of the thought; the model wrote its beginning",
                     [*free[n - budget :], *stop]),
                    ("you do not cut", [*free, CLOSE]),
                    ("you do not cut", drawn),
                ]  # fmt: skip
                wrong = [(remark, other) for remark, other in wrong if other != want]
                if budget == 0:
                    uncut = ([*free, CLOSE], [*free, *stop], drawn)
                    wrong = [
                        ("a budget of 0 is a budget: the early-stop text comes at once", other)
                        for other in uncut
                    ]
            else:
                closes = "it closes by itself, so nothing is forced"
                exactly = f"a thought of exactly the budget is not cut: {closes}"
                want = [*free, CLOSE]
                shorter = f"the thought is shorter than the budget: {closes}"
                cut = [*free, *stop], [*free, CLOSE, *stop], [*drawn[:budget], *stop], [*drawn, *stop]
                wrong = [(exactly if more == 0 else shorter, other) for other in cut]
                wrong += [
                    ("the </think> that the model wrote belongs to it", free),
                    ("you go on into the answer; stop where the thought ends", drawn),
                    ("you go on into the answer; stop where the thought ends", drawn[: budget + 1]),
                    ("you go on into the answer; stop where the thought ends", drawn[:budget]),
                ]
                wrong = [(remark, other) for remark, other in wrong if other != want]
            yield Trial((drawn, budget, CLOSE, stop), np.asarray(want), _arrays(wrong))

    return judge(answer, trials)


def _arrays(wrong: list[tuple[str, Any]]) -> list[tuple[str, Array]]:
    return [(remark, np.asarray(value)) for remark, value in wrong]


def still_open(answer: Answer) -> Verdict:
    """answer(prompt, opening, closing) -> whether the prompt ends inside a thought."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        line = _words(rng, 1)
        old = [OPEN, *_words(rng, 5), CLOSE, *_words(rng, 3), END]
        kinds: list[tuple[str, list[int], bool]] = [
            ("non-thinking mode: the template has closed this thought", [OPEN, *line, CLOSE], False),
            ("no thought was ever opened here", [], False),
            ("the template opened this thought; a line end after <think> is no end", [OPEN, *line], True),
            ("the template opened this thought", [OPEN], True),
            ("an earlier turn's thought was closed, and none opened since", [*old, *_words(rng, 4)], False),
            ("an earlier turn's thought was closed, but this turn's is open", [*old, OPEN, *line], True),
            ("this prompt holds the beginning of a thought, and that is open", [OPEN, *_words(rng, 9)], True),
        ]
        again = rng.integers(0, len(kinds), size=24)  # so that a list of answers does not pass
        for i in [*range(len(kinds)), *again]:
            remark, tail, want = kinds[i]
            prompt = [*_words(rng, 4), *tail]
            yield Trial((prompt, OPEN, CLOSE), np.asarray(want), _arrays([(remark, not want)]))

    return judge(answer, trials)


def _script(prompt: list[int], free: list[int], first: int | None = None) -> Complete:
    """A model that thinks `free`, and answers with the last word of the thought that it finds.

    It calls nothing, since a check notices calls into the package. first: how much its first call may
    ask for, and then it has two; as much and as often as anyone likes, if absent.
    """
    calls: list[int] = []

    def complete(ids: list[int], room: int) -> list[int]:
        calls.append(room)
        if first is not None and room > first and len(calls) == 1:
            raise ValueError(
                f"the first call asks for {room} ids, {room - first} more than it takes to see whether the "
                f"thought ends within the budget; what is computed and trimmed afterwards saves nothing"
            )
        if first is not None and len(calls) > 2:
            raise ValueError("this is the third call; make the budget with two")
        said, new = list(ids)[len(prompt) :], list[int]()
        while len(new) < room and END not in said:
            if OPEN not in said:
                token = OPEN
            elif CLOSE not in said:
                n = len(said) - said.index(OPEN) - 1
                token = free[n] if n < len(free) else CLOSE
            elif said[-1] == CLOSE:
                last = len(said) - 1
                while last > 0 and said[last] >= HURRY - 3:  # marks and the early-stop word
                    last -= 1
                token = said[last]
            else:
                token = END
            said.append(token)
            new.append(token)
        return new

    return complete


def two_calls(answer: Answer) -> Verdict:
    """answer(complete, prompt, budget, closing, stop_text) -> the whole reply, with two calls of
    complete(ids, room), which continues ids by at most `room` new ids and ends with its reply."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        stop = [HURRY, CLOSE]
        for more in (7, 1, 0, -1, -5, 6):
            budget = 0 if more == 6 else int(rng.integers(8, 15))
            prompt, free = _words(rng, 6), [int(i) for i in rng.permutation(100)[: budget + more]]
            complete = _script(prompt, free)

            def after(start: list[int], go_on: Complete = complete, prompt: list[int] = prompt) -> list[int]:
                return [*start, *go_on([*prompt, *start], 99)]

            cut = after([OPEN, *free[:budget], *stop])
            whole = after([])
            late = after([OPEN, *free[: budget + 1], *stop])
            bare = [OPEN, *free[:budget], *stop, *complete([*prompt, *stop], 99)]
            want = cut if more > 0 else whole
            wrong = [
                ("the last id of your first call is one beyond the budget; drop it", late),
                ("your second call forgets the thought; give it prompt, thought and text", bare),
                ("you return the end alone; the reply begins with <think>", want[budget + 3 :]),
                ("you never cut: the second call goes on with the thought", whole),
                ("the reply is cut off: the second call has to finish it", want[: budget + 2]),
                ("the reply is cut off: the second call has to finish it", want[: budget + 1]),
                ("the reply is cut off: the second call has to finish it", [OPEN, *free[:budget], *stop]),
            ]
            if more > 0:
                early = after([OPEN, *free[: max(budget - 1, 0)], *stop] if budget else stop)
                wrong.insert(0, ("you count <think> as thinking: ask for one id more", early))
            else:
                exactly = "a thought of exactly the budget is cut: ask for one id more, and look at it"
                closed = exactly if more == 0 else "this thought closed within the budget; nothing is cut"
                wrong.insert(0, (closed, cut))
                wrong.insert(0, (closed, after([OPEN, *free, CLOSE, *stop])))
            if budget == 0:
                wrong = [("a budget of 0 is a budget: the early-stop text follows <think> at once", whole)]
            wrong = [(remark, other) for remark, other in wrong if other and other != want]
            handed = _script(prompt, free, first=budget + 2)
            yield Trial((handed, prompt, budget, CLOSE, stop), np.asarray(want), _arrays(wrong))

    return judge(answer, trials)
