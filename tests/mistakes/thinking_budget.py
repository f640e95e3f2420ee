"""Of 12_thinking_budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.mistakes import Mistake


def spans(ids: list[int], opening: int, closing: int) -> list[list[int]]:
    """The thoughts, without marks; the last may be open."""
    found: list[list[int]] = []
    open_now = False
    for i in ids:
        if i == opening:
            open_now = True
            found.append([])
        elif i == closing:
            open_now = False
        elif open_now:
            found[-1].append(i)
    return found


def until_first_close(ids: list[int], opening: int, closing: int) -> int:
    return ids.index(closing) - ids.index(opening) - 1


def from_first_open(ids: list[int], opening: int, closing: int) -> int:
    if not sum(map(len, spans(ids, opening, closing))):
        return 0
    end = len(ids) - 1 - ids[::-1].index(closing) if ids.count(closing) == 2 else len(ids)
    return len([i for i in ids[ids.index(opening) + 1 : end]])


def with_marks(ids: list[int], opening: int, closing: int) -> int:
    return sum(map(len, spans(ids, opening, closing))) + ids.count(opening) + ids.count(closing)


def closed_only(ids: list[int], opening: int, closing: int) -> int:
    found = spans(ids, opening, closing)
    return sum(map(len, found[: ids.count(closing)]))


def with_openings(ids: list[int], opening: int, closing: int) -> int:
    """The opening mark switches counting on before it is looked at itself."""
    count, open_now = 0, False
    for i in ids:
        open_now = i == opening or (open_now and i != closing)
        count += open_now
    return count


INSIDE: list[Mistake] = [
    ("you count the marks too", with_marks),
    ("you count one mark of each thought", with_openings),
    ("there is a second thought", lambda ids, o, c: sum(map(len, spans(ids, o, c)[:1]))),
    ("a thought that was cut off", closed_only),
    ("the last thought alone", lambda ids, o, c: sum(map(len, spans(ids, o, c)[-1:]))),
    ("what lies between the thoughts too", from_first_open),
    ("that is all there is", lambda ids, o, c: len(ids)),
    ("that is what lies outside", lambda ids, o, c: len(ids) - sum(map(len, spans(ids, o, c)))),
    ("marks left out", lambda ids, o, c: len(ids) - with_marks(ids, o, c)),
    ("a thought may be missing, or empty", lambda ids, o, c: max(1, sum(map(len, spans(ids, o, c))))),
    ("a thought may be missing, or empty", lambda ids, o, c: sum(map(len, spans(ids, o, c))) or len(ids)),
    ("there is a second thought", until_first_close),
]


def free_of(drawn: list[int], closing: int) -> list[int]:
    return drawn[: drawn.index(closing)]


def always_cut(drawn: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    return [*drawn[:budget], *stop]


def cut_from(at: int, keep: int = 0, text: bool = True) -> Any:
    """Cuts thoughts longer than the budget + at, and keeps budget + keep ids of them."""

    def answer(drawn: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
        free = free_of(drawn, closing)
        if len(free) <= budget + at:
            return [*free, closing]
        return [*free[: budget + keep], *(stop if text else [closing])]

    return answer


def one_place(drawn: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    """Looks for the end of the thought at the budget only."""
    return drawn[: budget + 1] if drawn[budget] == closing else [*drawn[:budget], *stop]


def but(where: Any, other: Any) -> Any:
    """Right, but for thoughts of n ids and budgets of which `where(n, budget)` is true."""

    def answer(drawn: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
        free = free_of(drawn, closing)
        if where(len(free), budget):
            found: list[int] = other(drawn, free, budget, closing, stop)
            return found
        right: list[int] = cut_from(0)(drawn, budget, closing, stop)
        return right

    return answer


THOUGHT: list[Mistake] = [
    ("a thought of exactly the budget is not cut", cut_from(-1)),
    ("you keep it", cut_from(0, keep=1)),
    ("you do not cut", cut_from(1)),
    ("one id too early", cut_from(0, keep=-1)),
    ("it is forced, and free", cut_from(0, keep=-3)),
    ("the text goes first", cut_from(0, text=False)),
    ("a thought of exactly the budget is not cut", always_cut),
    ("the thought is shorter than the budget", one_place),
    ("is missing", lambda d, b, c, s: d[:b] if len(free_of(d, c)) > b else [*free_of(d, c), c]),
    (
        "</think> that the model wrote belongs",
        lambda d, b, c, s: [*d[:b], *s] if len(free_of(d, c)) > b else free_of(d, c),
    ),
    ("you go on into the answer", lambda d, b, c, s: [*d[:b], *s] if len(free_of(d, c)) > b else d),
    ("you do not cut", lambda d, b, c, s: d),
    ("of exactly the budget", but(lambda n, b: n == b, lambda d, free, b, c, s: [*free, c, *s])),
    ("of exactly the budget", but(lambda n, b: n == b, lambda d, free, b, c, s: [*d, *s])),
    ("shorter than the budget", but(lambda n, b: n < b, lambda d, free, b, c, s: [*free, *s])),
    ("shorter than the budget", but(lambda n, b: n < b, lambda d, free, b, c, s: [*d, *s])),
    ("you go on into the answer", but(lambda n, b: n < b, lambda d, free, b, c, s: d[:b])),
    ("a budget of 0 is a budget", but(lambda n, b: n > b == 0, lambda d, free, b, c, s: [*free, *s])),
    ("a budget of 0 is a budget", lambda d, b, c, s: cut_from(0)(d, b, c, s) if b else [*free_of(d, c), c]),
    ("a budget of 0 is a budget", lambda d, b, c, s: cut_from(0)(d, b or 10**6, c, s)),
    ("a budget of 0 is a budget", lambda d, b, c, s: cut_from(0)(d, b, c, s) if b else d),
]
for _remark, _change in (
    ("you close it again", lambda cut, d, c: [*cut, c]),
    ("the whole of stop_text belongs", lambda cut, d, c: cut[:-1]),
    ("is not in what follows", lambda cut, d, c: [100, *cut]),
    ("you go on into the answer", lambda cut, d, c: [*cut, *d[d.index(c) + 1 :]]),
    ("its beginning", lambda cut, d, c: [*d[d.index(c) - len(cut) + 3 : d.index(c)], *cut[-3:]]),
):

    def changed(
        d: list[int], b: int, c: int, s: list[int], change: Any = _change
    ) -> list[int]:  # only where the thought is cut
        right: list[int] = cut_from(0)(d, b, c, s)
        return change(right, d, c) if len(free_of(d, c)) > b else right

    THOUGHT.append((_remark, changed))
STILL_OPEN: list[Mistake] = [
    ("non-thinking mode", lambda prompt, o, c: o in prompt),
    ("no thought was ever opened", lambda prompt, o, c: c not in prompt),
    ("a line end after <think>", lambda prompt, o, c: prompt[-1] == o),
    ("the template opened this thought", lambda prompt, o, c: prompt[-2] == o),
    ("earlier turn's thought was closed, and", lambda prompt, o, c: o in prompt and prompt[-1] != c),
    ("this turn's is open", lambda prompt, o, c: o in prompt and c not in prompt),
    ("earlier turn's thought was closed, and", lambda prompt, o, c: prompt.count(o) and prompt[-1] != c),
    ("non-thinking mode", lambda prompt, o, c: True),
    ("the template opened this thought", lambda prompt, o, c: False),
    ("holds the beginning", lambda prompt, o, c: o in prompt[-2:]),
    ("holds the beginning", lambda prompt, o, c: o in prompt[-4:] and c not in prompt[-4:]),
]


def two(room: int, keep: int, *, look: bool = True, remember: bool = True, finish: bool = True) -> Any:
    """Two calls: `room` ids beyond the budget asked for first, `keep` of them kept when cut."""

    def answer(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
        first = complete(prompt, budget + room)
        if not look or closing not in first:
            first = [*first[: budget + keep], *stop]
        more = complete([*prompt, *(first if remember else stop)], 99) if finish else []
        return [*first, *more]

    return answer


def last_place(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    """Looks for the end of the thought only where the first call stopped."""
    first = complete(prompt, budget + 2)
    if first[-1] != closing:
        first = [*first[: budget + 1], *stop]
    return [*first, *complete([*prompt, *first], 99)]


def never_cuts(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    first = complete(prompt, budget + 2)
    return [*first, *complete([*prompt, *first], 99)]


def three_calls(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    """Asks for the opening mark by itself."""
    first = complete(prompt, 1)
    first += complete([*prompt, *first], budget + 1)
    if closing not in first:
        first = [*first[: budget + 1], *stop]
    return [*first, *complete([*prompt, *first], 99)]


def not_zero(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    answer: list[int] = (two(2, 1) if budget else never_cuts)(complete, prompt, budget, closing, stop)
    return answer


TWO_CALLS: list[Mistake] = [
    ("you count <think> as thinking", two(0, 0)),
    ("one beyond the budget; drop it", two(2, 2)),
    ("a thought of exactly the budget is cut", two(1, 1)),
    ("a thought of exactly the budget is cut", two(2, 1, look=False)),
    ("closed within the budget", last_place),
    ("forgets the thought", two(2, 1, remember=False)),
    ("the second call has to finish it", two(2, 1, finish=False)),
    ("trimmed afterwards saves nothing", lambda complete, prompt, *_: complete(prompt, 999)),
    ("trimmed afterwards saves nothing", two(3, 1)),
    ("trimmed afterwards saves nothing", two(90, 1)),
    ("you never cut", never_cuts),
    ("this is the third call", three_calls),
    ("a budget of 0 is a budget", not_zero),
    ("the end alone", lambda f, prompt, budget, c, stop: two(2, 1)(f, prompt, budget, c, stop)[budget + 3 :]),
]
MISTAKES = {
    "inside": INSIDE,
    "thought": THOUGHT,
    "still_open": STILL_OPEN,
    "two_calls": TWO_CALLS,
}


def by_replacing(ids: list[int], opening: int, closing: int) -> int:
    """Cut at every opening mark; of each piece what stands before the closing one."""
    text = "  ".join(map(str, [*ids, opening]))  # two, or marks side by side share one
    pieces = [f" {piece} " for piece in f" {text} ".split(f" {opening} ")[1:]]
    return sum(len(piece.split(f" {closing} ")[0].split()) for piece in pieces)


def step_by_step(drawn: list[int], budget: int, closing: int, stop: list[int]) -> list[int]:
    said: list[int] = []
    for i in drawn:
        if i == closing:
            return [*said, i]
        if len(said) == budget:
            break
        said.append(i)
    return said + stop


def backwards(prompt: list[int], opening: int, closing: int) -> bool:
    return next((i == opening for i in reversed(prompt) if i in (opening, closing)), False)


def in_arrays(complete: Any, prompt: list[int], budget: int, closing: int, stop: list[int]) -> Any:
    first = np.array(complete(list(prompt), budget + 2))
    if not (first == closing).any():
        first = np.concatenate([first[: budget + 1], stop])
    return np.concatenate([first, complete([*prompt, *first.tolist()], 50)]).astype(int)


ALSO_RIGHT = {
    "inside": [by_replacing, lambda ids, o, c: np.int64(sum(map(len, spans(ids, o, c))))],
    "thought": [step_by_step, lambda d, b, c, s: tuple(cut_from(0)(d, b, c, s))],
    "still_open": [backwards, lambda prompt, o, c: prompt.count(o) > prompt.count(c)],
    "two_calls": [in_arrays, two(2, 1)],
}
