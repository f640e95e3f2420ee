"""Checks of 16_fusion_and_general_rl."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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

        def make(cut: str) -> tuple[tuple[Any, ...], Array, Wrong]:
            ids: list[int] = []
            spans: list[tuple[int, int, int]] = []  # role, its first id behind the header, its `end`
            for turn in range(2 * int(rng.integers(2, 4))):
                said = words()
                role = (USER, ASSISTANT)[turn % 2]
                said.insert(1, ASSISTANT)  # a word here, no role: it does not follow `start`
                said = [LINE, *said[:2], LINE, *said[2:], LINE]  # an answer may have line ends of its own
                spans.append((role, len(ids) + 3, len(ids) + 3 + len(said)))
                ids += [START, role, LINE, *said, END, LINE]
            first, last = spans[-1][1:]
            if cut == "cut":
                ids = ids[: last - 1]
            elif cut == "at its end":
                ids = ids[: last + 1]
            elif cut == "padded":
                ids += [END] * int(rng.integers(2, 5))  # where the pad is set to be the end
            n, at = len(ids), np.arange(len(ids))

            def between(a: int, b: int) -> Array:
                return ((at >= a) & (at < b)).astype(float)

            want = between(first, last + 1)
            every = sum((between(a, b + 1) for role, a, b in spans if role == ASSISTANT), np.zeros(n))
            word = max(i for i in range(n) if ids[i] == ASSISTANT)
            line = first + 3  # the first line end among the words
            other = {
                "a line end inside the answer belongs to it; the turn ends with `end`": between(first, line),
                "line ends are ids as others are: behind the header they have a loss":
                    want * (np.array(ids) != LINE),
                "the line ends that the answer begins with are its own": want * (at > first),
            }  # fmt: skip
            if cut == "cut":
                remark = "a turn that was cut off has no `end`; the loss goes on to its last id"
                others = {remark: np.zeros(n), "the last id of a turn that was cut off counts":
                          between(first, n - 1)}  # fmt: skip
            elif cut == "padded":
                others = {"what is padded behind the turn is learned: the first `end` behind the header "
                          "ends it": between(first, n)}  # fmt: skip
            elif cut == "at its end":
                others = {"an `end` may be the last id of all: it counts there too": between(first, n - 1)}
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
            return (ids, START, END, ASSISTANT), want, list((others | other).items())

        for cut in ("", "", "", "cut", "", "cut", "at its end", "padded"):
            yield apart(lambda: make(cut))  # noqa: B023

    return judge(answer, trials)


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def masked_loss(answer: Answer) -> Verdict:
    """answer(logits, ids, learned) -> a number: the mean cross-entropy in nats over the ids (n, t) that
    `learned` (n, t) marks; logits (n, t, V), of which those at a place are about the next id."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(shift: float, size: float = 0.0) -> tuple[tuple[Any, ...], Array, Wrong]:
            n, t, v = 3, int(rng.integers(7, 10)), int(rng.integers(5, 8))
            logits, ids = rng.normal(0, 2, (n, t, v)), rng.integers(0, v, (n, t))
            first = np.array([2, 3, t - 2])[:, None]
            last = np.array([t - 1, t - 2, t])[:, None]
            learned = (np.arange(t) >= first) & (np.arange(t) < last)
            learned[0, 3] = False  # a reply may have gaps
            learned[:, 0] = rng.permutation([True, True, False])  # no logits are about a first id
            row, place = rng.permutation([(0, 1), (1, 2)])[0]  # whose next id is learned
            target = int(ids[row, place + 1])
            if size:  # one logit far above or far below all others
                logits[row, place, target] = size

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
                "the first id of a row has no logits about it, and yet is counted in the divisor":
                    each[kept].sum() / learned.sum(),
                "wanted is one number, not one a row":
                    np.array([e[k].mean() for e, k in zip(each, kept, strict=True)]),
            }  # fmt: skip
            arguments = (logits + shift, ids, learned)
            return arguments, np.asarray(want), [(a, np.asarray(b)) for a, b in wrong.items()]

        lost = "a probability of exp(-900) is 0 in float64 and its logarithm lost: stay with logarithms"

        def added(arguments: tuple[Any, ...]) -> Wrong:
            """What is lost, in itself or with something small added to every probability: not always much."""
            z, ids, learned = arguments
            p = np.exp(_log_softmax(z))
            chosen = np.take_along_axis(p[:, :-1], ids[:, 1:, None], -1)[..., 0][learned[:, 1:]]
            return [(lost, np.asarray(-np.log(chosen + e).mean())) for e in (0.0, 1e-12, 1e-9, 1e-8)]

        for shift in (0.0, 0.0, 900.0, -900.0):  # softmax does not change; exp(900) is infinite, exp(-900) 0
            trial = apart(lambda: make(shift))  # noqa: B023
            yield replace(trial, mistakes=[*trial.mistakes, *added(trial.arguments)])
        remark = "one maximum for all places: beside a logit of 900 the others become exp(-900) = 0"
        arguments, want, _ = make(0.0, 900.0)
        yield Trial(arguments, want, [(remark, np.asarray(x)) for x in (-np.inf, np.nan)])
        arguments, want, _ = make(0.0, -900.0)
        yield Trial(arguments, want, added(arguments))

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
            replies[int(np.argmax(lengths))] = int(rng.integers(4, 9))  # of 11
            if rng.random() < 0.5:
                replies[int(np.argmin(lengths))] = 1  # its end alone
            longest = max(lengths)
            for row, reply in zip(rows, replies, strict=True):
                row[rng.integers(0, len(row) - reply)] = pad  # a pad's id in a prompt, and in a reply
                if reply > 3:
                    row[-int(rng.integers(3, reply))] = pad
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
            dropped = np.array([row[:-1] + [pad] * (longest - len(row)) for row in rows])
            masked = "the id of a pad may stand in a row too: mask by place, not by id"
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
                "you drop each row's last id and pad then, which trains as well; here rows are padded first, "
                "and the last column is dropped then": np.stack([dropped, want[1]]),
                masked: keep(mine & (ids != pad)),
            }  # fmt: skip
            if pad == END:  # as in every script that says pad_token = eos_token
                same = "the end of a reply is the same id as a pad, and is learned: mask by place, not by id"
                wrong[same] = wrong.pop(masked)
                wrong = {remark: x for remark, x in wrong.items() if not np.array_equal(x, want)}
            return (rows, replies, pad), want, list(wrong.items())

        for pad in (0, 0, END, END):
            trial = apart(lambda: make(pad))  # noqa: B023
            yield replace(trial, about="the first index: 0 for the inputs, 1 for the targets")

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
    if flaw == "last closing" and block:
        close = len(reply) - 1 - reply[::-1].index(CLOSE)
    thought = reply[first + 1 : close] if block else []
    rest = reply[close + 1 :] if block else reply
    said = [i for i in rest if i != END]
    spoken = [i for i in thought if i != LINE]
    bare = any(i != LINE for i in said) or flaw == "empty"
    ended = reply[-1:] == [END]
    wellformed = block and marks == [OPEN, CLOSE, END] and ended and bare
    if flaw == "no end":
        wellformed = block and marks in ([OPEN, CLOSE], [OPEN, CLOSE, END]) and bare
    elif flaw == "two":
        wellformed = block and ended and bare
    elif flaw == "anywhere":
        wellformed = marks == [OPEN, CLOSE, END] and ended and bare
    elif flaw == "behind":
        wellformed = block and marks == [OPEN, CLOSE, END] and bare
    elif flaw == "ends":
        wellformed = block and [i for i in marks if i != END] == [OPEN, CLOSE] and ended and bare
    elif flaw == "must think":
        wellformed = wellformed and bool(spoken)
    thinks = bool(thought) if flaw == "blank" else bool(spoken)
    mode = (block or flaw == "no block") and thinks == thinking
    answer = {"drops last": rest[:-1], "up to end": rest[: rest.index(END)] if END in rest else rest}.get(
        flaw, said
    )
    while answer[:1] == [LINE] and flaw != "spaces":
        answer = answer[1:]
    while answer[-1:] == [LINE] and flaw != "spaces":
        answer = answer[:-1]
    bag: dict[str, Any] = {
        "bag": sorted,
        "set": lambda ids: sorted(set(ids)),
        "lines": lambda ids: [i for i in ids if i != LINE],
    }
    compare = bag.get(flaw, list)
    correct = compare(answer) == compare(right)
    n = len(right)
    if flaw == "tail":
        correct = answer[-n:] == right
    elif flaw == "head":
        correct = answer[:n] == right
    elif flaw == "as far":
        correct = bool(answer) and answer == right[: len(answer)]
    elif flaw == "inside":
        correct = any(reply[i : i + n] == right for i in range(len(reply)))
    elif flaw == "among":
        correct = any(said[i : i + n] == right for i in range(len(said)))
    elif flaw == "needs format":
        correct = correct and wellformed
    elif flaw == "needs end":
        correct = correct and END in reply
    return [float(wellformed), float(mode), float(correct and (mode or flaw == "wrong mode"))]


_FLAWS: dict[str, str] = {
    "sum": "that is the sum of the three; wanted is their mean",
    "product": "that is their product: a reply that has some of it earns nothing, and nothing can be learned",
    "format first": "without the format nothing is paid: the three parts count each for itself",
    "mode first": "in the wrong mode nothing is paid: the format counts for itself",
    "right first": "a wrong answer is paid nothing: format and mode count for themselves",
    "blank": "a thought of line ends alone is no thought",
    "wrong mode": "a right answer in the wrong mode earns nothing for being right",
    "no end": "a reply without its end was cut off: its format is not right",
    "no block": "without a block nobody can tell the mode, so it is not obeyed",
    "two": "a second block, or a mark that stands twice, spoils the format",
    "anywhere": "the block comes first; one that comes later does not count as one",
    "empty": "an answer of line ends alone is none, so the format is not right",
    "must think": "an empty thought has the format; whether it should be empty is what the mode asks",
    "behind": "nothing may stand behind `end`: it is the last id of all, or the format is not right",
    "ends": "a second `end`, behind the reply or within it, spoils the format",
    "last closing": "the block ends with the first `closing`; a later one stands in the answer",
    "needs format": "to be right takes the right mode, not the format: an answer without `end` may be right",
    "needs end": "to be right takes no `end`: an answer without it may still be the right one",
    "drops last": "you drop the last id, which need not be `end`: take `end` out where it stands",
    "up to end": "what stands behind `end` is part of the answer: only the `end` itself is taken out",
    "spaces": "line ends around the answer do not make it wrong",
    "lines": "line ends within the answer belong to it; they go from its two ends only",
    "bag": "the ids of the answer have an order: to have the same ones is not enough",
    "set": "the ids of the answer have an order and a number: to have the same kinds is not enough",
    "tail": "the answer has to be the right one, not to end with it",
    "head": "the answer has to be the right one, not to begin with it",
    "as far": "the answer has to be the whole of the right one, not as far as it goes",
    "among": "the answer has to be the right one, not to contain it",
    "inside": "right is what the answer says; the thought does not count",
}


def _value(flaw: str, reply: list[int], thinking: bool, right: list[int]) -> float:
    form, mode, correct = parts = _parts(reply, thinking, right, flaw)
    if flaw == "sum":
        return sum(parts)
    factor = {
        "product": form * mode * correct,
        "format first": form,
        "mode first": mode,
        "right first": correct,
    }
    return factor.get(flaw, 1.0) * sum(parts) / 3


def _shown(reply: list[int]) -> str:
    names = {OPEN: "opening", CLOSE: "closing", END: "end", LINE: "line"}
    return " ".join(names.get(i, str(i)) for i in reply)


def reward(answer: Answer) -> Verdict:
    """answer(reply, thinking, right, opening, closing, end, line) -> the mean of three parts, each 0 or 1:
    format, mode, and the right answer in the right mode."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def cases() -> list[tuple[list[int], bool, list[int]]]:
            ids = [int(i) for i in 20 + rng.permutation(80)]  # all different
            t, (a, b, c), w = ids[:3], ids[3:6], ids[6:8]
            r = [a, b]
            empty = [OPEN, LINE, CLOSE, LINE]
            full = [OPEN, LINE, *t, LINE, CLOSE, LINE]
            usual = [
                ([*full, *r, END], True),
                ([*full, *w, END], True),
                ([*empty, *w, END], True),
                ([*full, *r, END], False),
                ([*full, *w], True),
                ([*full, *r], True),
                ([*full, *r], False),
                ([OPEN, CLOSE, *r], False),
                ([*r, END], False),
                ([*w, END], False),
                ([*r, END], True),
                ([END], False),
                ([*full, *w, *empty, *w, END], True),
                ([*full, *r, *empty, *r, END], True),
                ([*w, *full, *w, END], True),
                ([*w, *full, *r, END], True),
                ([LINE, *full, *r, END], True),
                ([*full, LINE, END], True),
                ([*full, END], True),
                ([OPEN, *t, CLOSE, LINE, LINE, *r, LINE, LINE, END], True),
                ([OPEN, *t, CLOSE, LINE, *r, LINE], True),
                ([OPEN, *r, *t, CLOSE, *w, END], True),
                ([OPEN, *t, *r, CLOSE, LINE, END], True),
                ([OPEN, *t, CLOSE, *r, *w, END], True),
                ([OPEN, *t, CLOSE, *w, *r, END], True),
                ([OPEN, *t, CLOSE, *w, *r, *w, END], True),
                ([OPEN, *t, CLOSE, a, END], True),
                ([OPEN, *t, CLOSE, b, END], True),
                ([OPEN, *t, CLOSE, b, a, END], True),
                ([OPEN, *t, CLOSE, a, LINE, b, END], True),
                ([*empty, *r, END], False),
                ([*empty, *r, END], True),
                ([OPEN, LINE, LINE, CLOSE, *r, END], True),
                ([OPEN, CLOSE, *r, END], False),
                ([OPEN, *t, *r, END], True),
                ([OPEN, *t], True),
                ([*full, *r, END, *w], True),
                ([*full, *r, END, LINE], True),
                ([*full, *r, END, END], True),
                ([OPEN, *t, END, CLOSE, *r, END], True),
                ([OPEN, *t, OPEN, CLOSE, *r, END], True),
                ([OPEN, *t, CLOSE, *w, CLOSE, *r, END], True),
                ([OPEN, LINE, CLOSE, *t, CLOSE, *r, END], False),
            ]  # fmt: skip
            long = [a, a, b, LINE, c, b]  # with ids that come twice, and a line end of its own
            other = [
                ([*full, *long, END], True),
                ([*full, *long], True),
                ([*full, *long, END, END], True),
                ([*full, a, b, LINE, c, b, END], True),
                ([*full, a, a, b, c, b, END], True),
                ([*full, a, a, b, LINE, b, c, END], True),
                ([*full, a, b, b, LINE, c, b, END], True),
                ([*full, a, c, a, LINE, b, b, END], True),
                ([*full, a, a, b, END], True),
                ([*empty, LINE, *long, LINE, END], False),
            ]  # fmt: skip
            single = [([*full, c, END], True), ([*full, c, c, END], True), ([*empty, c], False)]
            named = [(reply, thinking, r) for reply, thinking in usual]
            named += [(reply, thinking, long) for reply, thinking in other]
            return named + [(reply, thinking, [c]) for reply, thinking in single]

        drawn = cases()
        for i in rng.permutation(len(drawn)):
            reply, thinking, right = drawn[i]
            parts = _parts(reply, thinking, right)
            want = _value("", reply, thinking, right)
            found = {flaw: _value(flaw, reply, thinking, right) for flaw in _FLAWS}
            wrong = [(_FLAWS[f], np.asarray(v)) for f, v in found.items() if abs(v - want) > 1e-9]
            three = ", ".join(
                f"{k} {v:.0f}" for k, v in zip(("format", "mode", "correct"), parts, strict=True)
            )
            about = f"{three} in `{_shown(reply)}`, {'asked' if thinking else 'asked not'} to think, where "
            about += f"`{_shown(right)}` is right"
            arguments = (reply, thinking, right, OPEN, CLOSE, END, LINE)
            yield Trial(arguments, np.asarray(want), wrong, about=about)

    return judge(answer, trials, whole=True)
