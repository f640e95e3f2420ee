"""Checks of 16_fusion_and_general_rl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge

START, END, LINE, OPEN, CLOSE = 200, 201, 202, 203, 204
USER, ASSISTANT = 1, 2
NONE = -100


def loss_mask(answer: Answer) -> Verdict:
    """answer(ids, start, end, assistant) -> (n,) booleans: the ids of the last assistant's turn that have a
    loss, behind its header of three ids and up to its `end`, which counts."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def words(least: int = 3) -> list[int]:
            return [int(i) for i in rng.integers(20, 100, size=int(rng.integers(least, 7)))]

        def make(cut: bool) -> tuple[tuple[Any, ...], Array, Wrong]:
            ids: list[int] = []
            spans: list[tuple[int, int, int]] = []  # role, its first id behind the header, its `end`
            for turn in range(2 * int(rng.integers(2, 4))):
                said = words()
                role = (USER, ASSISTANT)[turn % 2]
                said.insert(1, ASSISTANT)  # a word here, no role: it does not follow `start`
                spans.append((role, len(ids) + 3, len(ids) + 3 + len(said)))
                ids += [START, role, LINE, *said, END, LINE]
            first, last = spans[-1][1:]
            if cut:
                ids = ids[: last - 1]
            n, at = len(ids), np.arange(len(ids))

            def between(a: int, b: int) -> Array:
                return ((at >= a) & (at < b)).astype(float)

            want = between(first, last + 1)
            every = sum((between(a, b + 1) for role, a, b in spans if role == ASSISTANT), np.zeros(n))
            word = max(i for i in range(n) if ids[i] == ASSISTANT)
            if cut:
                remark = "a turn that was cut off has no `end`; the loss goes on to its last id"
                others = {remark: np.zeros(n), "the last id of a turn that was cut off counts":
                          between(first, n - 1)}  # fmt: skip
            else:
                others = {
                    "earlier turns of the assistant have no loss: they stand there without their thoughts":
                        every,
                    "the header is the prompt's: the loss begins with the third id behind `start`":
                        between(first - 3, last + 1),
                    "the role and the line end behind it are the prompt's": between(first - 2, last + 1),
                    "the line end of the header is the prompt's": between(first - 1, last + 1),
                    "`end` has a loss: without it nobody learns to stop": between(first, last),
                    "the line end behind `end` is the template's, not the assistant's":
                        between(first, last + 2),
                    "that is the user's turn": between(spans[-2][1], spans[-2][2] + 1),
                    "you mark where each logit stands; wanted is the id itself, one place later":
                        between(first - 1, last),
                    "one id too late": between(first + 1, last + 2),
                    "everything has a loss; the prompt should have none": np.ones(n),
                    "you have it the wrong way round: True is where the loss is": 1 - want,
                    "that is the first turn of the assistant": between(spans[1][1], spans[1][2] + 1),
                    "that id is a role only right behind `start`; it is a word here":
                        between(word + 2, last + 1),
                    "from the first turn of the assistant on, the user's turns between have a loss too":
                        between(spans[1][1], last + 1),
                }  # fmt: skip
            return (ids, START, END, ASSISTANT), want, list(others.items())

        for cut in (False, False, False, True, False, True):
            yield apart(lambda: make(cut))  # noqa: B023

    return judge(answer, trials)


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def masked_loss(answer: Answer) -> Verdict:
    """answer(logits, ids, learned) -> a number: the mean cross-entropy in nats over the ids (n, t) that
    `learned` (n, t) marks; logits (n, t, V), of which those at a place are about the next id."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(shift: float) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, t, v = 3, int(rng.integers(7, 10)), int(rng.integers(5, 8))
            logits, ids = rng.normal(0, 2, (n, t, v)), rng.integers(0, v, (n, t))
            first = np.array([2, 3, t - 2])[:, None]
            last = np.array([t - 1, t - 2, t])[:, None]
            learned = (np.arange(t) >= first) & (np.arange(t) < last)

            def cost(at: Array, of: Array) -> Array:
                return -np.take_along_axis(_log_softmax(at), of[..., None], -1)[..., 0]

            each, kept = cost(logits[:, :-1], ids[:, 1:]), learned[:, 1:]
            want = each[kept].mean()
            ends = (np.arange(t) == last - 1)[:, 1:]
            wrong = {
                "the logits at a place are about the next id: compare them with ids one place later":
                    cost(logits, ids)[learned].mean(),
                "you moved the ids and not the mask: it says which ids are learned":
                    each[learned[:, :-1]].mean(),
                "you compare with the id before": cost(logits[:, 1:], ids[:, :-1])[kept].mean(),
                "that is the mean of the rows' means: ids of short replies weigh more":
                    np.mean([e[k].mean() for e, k in zip(each, kept, strict=True)]),
                "ids without a loss add nothing and yet are counted in the divisor":
                    (each * kept).mean(),
                "that is the sum; divide by how many ids are learned": each[kept].sum(),
                "you divide by the number of rows": each[kept].sum() / n,
                "prompts and what is behind the replies are learned too; look at the mask": each.mean(),
                "the sign is wrong: a loss falls when the id becomes likelier": -want,
                "that is bits; nats come from the natural logarithm": want / np.log(2),
                "the last learned id of each row is missing: the end of the turn":
                    each[kept & ~ends].mean(),
                "first the logarithm of each probability, then the mean": -np.log(np.exp(-each[kept]).mean()),
                "wanted is one number, not one a row":
                    np.array([e[k].mean() for e, k in zip(each, kept, strict=True)]),
            }  # fmt: skip
            arguments = (logits + shift, ids, learned)
            return arguments, np.asarray(want), [(a, np.asarray(b)) for a, b in wrong.items()]

        for shift in (0.0, 0.0, 900.0):  # softmax does not change, and exp(900) is infinite
            yield apart(lambda: make(shift))  # noqa: B023

    with np.errstate(all="ignore"):
        return judge(answer, trials)


def batch(answer: Answer) -> Verdict:
    """answer(rows, replies, pad) -> inputs and targets, (n, longest - 1) each: rows padded on the right; a
    target is the next id, in the last replies[i] ids of row i, and -100 elsewhere. A row may end in `pad`."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(pad: int) -> tuple[tuple[Any, ...], Array, Wrong]:
            lengths = [int(i) for i in rng.permutation([6, 8, 11])]
            rows = [[*(int(i) for i in rng.integers(20, 100, size=n - 1)), END] for n in lengths]
            replies = [int(rng.integers(2, n - 2)) for n in lengths]
            longest = max(lengths)
            ids = np.array([row + [pad] * (longest - len(row)) for row in rows])
            at, n = np.arange(longest), np.array(lengths)[:, None]
            r = np.array(replies)[:, None]

            def keep(where: Array, none: int = NONE) -> Array:
                return np.stack([ids[:, :-1], np.where(where, ids, none)[:, 1:]])

            mine = (at >= n - r) & (at < n)
            want, full = keep(mine), np.where(mine, ids, NONE)
            left = [[*[pad] * (longest - len(row)), *row] for row in rows]
            on_left = np.where(at >= longest - r, np.array(left), NONE)
            short = min(lengths)
            wrong = {
                "what is padded behind the end is learned: the model learns to say pads":
                    keep(at >= n - r),
                "the prompts are learned too": keep(at < n),
                "a target stands where its id stands; it should stand one place earlier":
                    np.stack([ids[:, :-1], full[:, :-1]]),
                "one id too many: the last of the prompt": keep((at >= n - r - 1) & (at < n)),
                "the first id of each reply is missing": keep((at > n - r) & (at < n)),
                "the end of each reply is missing": keep((at >= n - r) & (at < n - 1)),
                "one pad behind each end is learned": keep((at >= n - r) & (at <= n)),
                "where there is no loss the target is -100; 0 is an id": keep(mine, 0),
                "inputs come first, then targets": want[::-1],
                "you pad on the left; here it is on the right": np.stack(
                    [np.array(left)[:, :-1], on_left[:, 1:]]),
                "you cut the rows to the shortest": want[:, :, : short - 1],
                "the last id of the longest row has no successor: wanted are longest - 1 columns":
                    np.stack([ids, full]),
                "you shift twice": np.stack([ids[:, :-1], np.concatenate(
                    [full[:, 2:], np.full((3, 1), NONE)], 1)]),
            }  # fmt: skip
            if pad == END:  # as in every script that says pad_token = eos_token
                same = "the end of a reply is the same id as a pad, and is learned: mask by place, not by id"
                wrong[same] = keep(mine & (ids != pad))
                wrong.pop("the end of each reply is missing")
            return (rows, replies, pad), want, list(wrong.items())

        for pad in (0, 0, END, END):
            yield apart(lambda: make(pad))  # noqa: B023

    return judge(answer, trials)


# -- a reward ------------------------------------------------------------------------------------------


def _parts(reply: list[int], thinking: bool, right: list[int], flaw: str = "") -> list[float]:
    """Format, mode and correctness, with one mistake or none."""
    marks = [i for i in reply if i in (OPEN, CLOSE, END)]
    block = reply[:1] == [OPEN] and CLOSE in reply
    if flaw == "anywhere":
        block = OPEN in reply and CLOSE in reply
    first = reply.index(OPEN) if block else 0
    close = reply.index(CLOSE) if block else 0
    thought = reply[first + 1 : close] if block else []
    said = [i for i in (reply[close + 1 :] if block else reply) if i != END]
    bare = [i for i in said if i != LINE]
    spoken = [i for i in thought if i != LINE]
    wellformed = block and marks == [OPEN, CLOSE, END] and reply[-1:] == [END] and bool(bare)
    if flaw == "no end":
        wellformed = block and marks[:2] == [OPEN, CLOSE] and OPEN not in marks[2:] and bool(bare)
    elif flaw == "two":
        wellformed = block and reply[-1:] == [END] and bool(bare)
    elif flaw == "anywhere":
        wellformed = marks == [OPEN, CLOSE, END] and bool(bare)
    elif flaw == "empty":
        wellformed = block and marks == [OPEN, CLOSE, END]
    thinks = bool(thought) if flaw == "blank" else bool(spoken)
    mode = float((block or flaw == "no block") and thinks == thinking)
    stripped = said
    while stripped[:1] == [LINE]:
        stripped = stripped[1:]
    while stripped[-1:] == [LINE]:
        stripped = stripped[:-1]
    correct = float(stripped == right)
    if flaw == "spaces":
        correct = float(said == right)
    elif flaw == "inside":
        correct = float(any(reply[i : i + len(right)] == right for i in range(len(reply))))
    elif flaw == "among":
        correct = float(any(said[i : i + len(right)] == right for i in range(len(said))))
    return [float(wellformed), mode, correct if flaw == "wrong mode" else mode * correct]


_FLAWS: dict[str, str] = {
    "sum": "that is the sum of the three; wanted is their mean",
    "product": "that is their product: a reply that has some of it earns nothing, and nothing can be learned",
    "blank": "a thought of line ends alone is no thought",
    "wrong mode": "a right answer in the wrong mode earns nothing for being right",
    "no end": "a reply without its end was cut off: its format is not right",
    "no block": "without a block nobody can tell the mode, so it is not obeyed",
    "two": "a second block spoils the format",
    "anywhere": "the block comes first; one that comes later does not count as one",
    "empty": "an answer of line ends alone is none, so the format is not right",
    "spaces": "line ends around the answer do not make it wrong",
    "among": "the answer has to be the right one, not to contain it",
    "inside": "right is what the answer says; the thought does not count",
}


def _value(flaw: str, reply: list[int], thinking: bool, right: list[int]) -> float:
    parts = _parts(reply, thinking, right, flaw)
    return sum(parts) if flaw == "sum" else float(np.prod(parts)) if flaw == "product" else sum(parts) / 3


def reward(answer: Answer) -> Verdict:
    """answer(reply, thinking, right, opening, closing, end, line) -> the mean of three parts, each 0 or 1:
    format, mode, and the right answer in the right mode."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def words(n: int) -> list[int]:
            return [int(i) for i in rng.integers(20, 100, size=n)]

        def kinds() -> list[Callable[[list[int]], tuple[list[int], bool]]]:
            t, w = words(3), words(2)
            empty = [OPEN, LINE, CLOSE, LINE]
            whole = [OPEN, LINE, *t, LINE, CLOSE, LINE]
            # The first kinds tell the mistakes apart: each is wrong in one where no earlier one is.
            return [
                lambda r: ([*whole, *r, END], True),
                lambda r: ([*whole, *w, END], True),
                lambda r: ([*empty, *w, END], True),
                lambda r: ([*whole, *r, END], False),
                lambda r: ([*whole, *w], True),
                lambda r: ([*w, END], False),
                lambda r: ([*whole, *w, *empty, *w, END], True),
                lambda r: ([*w, *whole, *w, END], True),
                lambda r: ([*whole, LINE, END], True),
                lambda r: ([OPEN, *t, CLOSE, LINE, *r, LINE, END], True),
                lambda r: ([OPEN, *r, *t, CLOSE, *w, END], True),
                lambda r: ([OPEN, *t, CLOSE, *r, *w, END], True),
                lambda r: ([*empty, *r, END], False),
                lambda r: ([*empty, *r, END], True),
                lambda r: ([OPEN, CLOSE, *r, END], False),
                lambda r: ([OPEN, *t, *r, END], True),
            ]

        count = len(kinds())
        for i in [*range(count), *rng.integers(0, count, size=16)]:
            right = words(2)
            reply, thinking = kinds()[int(i)](right)
            want = _value("", reply, thinking, right)
            found = {flaw: _value(flaw, reply, thinking, right) for flaw in _FLAWS}
            wrong = [(_FLAWS[f], np.asarray(v)) for f, v in found.items() if abs(v - want) > 1e-9]
            yield Trial((reply, thinking, right, OPEN, CLOSE, END, LINE), np.asarray(want), wrong)

    return judge(answer, trials)
