"""Of 16_fusion_and_general_rl."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qwen3_ref.train import loop
from tests.mistakes import Mistake

# -- loss_mask -----------------------------------------------------------------------------------------


def heads(ids: Any, start: int, role: int) -> list[int]:
    """Places behind the headers of a role."""
    return [i + 3 for i in range(len(ids) - 1) if ids[i] == start and ids[i + 1] == role]


def marked(ids: Any, a: int, b: int) -> list[bool]:
    return [a <= i < b for i in range(len(ids))]


def end_of(ids: Any, first: int, end: int) -> int:
    return ids.index(end, first) if end in ids[first:] else len(ids) - 1


def shifted(before: int, after: int) -> Any:
    """The right mask with its borders moved."""

    def answer(ids: Any, start: int, end: int, assistant: int) -> Any:
        first = heads(ids, start, assistant)[-1]
        return marked(ids, first + before, end_of(ids, first, end) + 1 + after)

    return answer


def right_mask(ids: Any, start: int, end: int, assistant: int) -> Any:
    return shifted(0, 0)(ids, start, end, assistant)


def all_turns(ids: Any, start: int, end: int, assistant: int) -> Any:
    found = [marked(ids, a, end_of(ids, a, end) + 1) for a in heads(ids, start, assistant)]
    return np.any(found, axis=0)


def from_first(ids: Any, start: int, end: int, assistant: int) -> Any:
    last = heads(ids, start, assistant)[-1]
    return marked(ids, heads(ids, start, assistant)[0], end_of(ids, last, end) + 1)


def by_role_alone(ids: Any, start: int, end: int, assistant: int) -> Any:
    first = len(ids) - ids[::-1].index(assistant) + 1
    return marked(ids, first, end_of(ids, first, end) + 1)


def end_from_the_back(ids: Any, start: int, end: int, assistant: int) -> Any:
    return marked(ids, heads(ids, start, assistant)[-1], len(ids) - ids[::-1].index(end))


def no_last(ids: Any, start: int, end: int, assistant: int) -> Any:
    first = heads(ids, start, assistant)[-1]
    return marked(ids, first, ids.index(end, first) + 1 if end in ids[first:] else len(ids) - 1)


def of_turn(which: int, role: int | None = None) -> Any:
    def answer(ids: Any, start: int, end: int, assistant: int) -> Any:
        first = heads(ids, start, assistant if role is None else role)[which]
        return marked(ids, first, end_of(ids, first, end) + 1)

    return answer


LOSS_MASK: list[Mistake] = [
    ("earlier turns of the assistant", all_turns),
    ("begins with the third id behind", shifted(-3, 0)),
    ("the role and the line end", shifted(-2, 0)),
    ("the line end of the header", shifted(-1, 0)),
    ("`end` has a loss", shifted(0, -1)),
    ("the line end behind `end`", shifted(0, 1)),
    ("that is the user's turn", of_turn(-1, 1)),
    ("you mark where each logit stands", shifted(-1, -1)),
    ("one id too late", shifted(1, 1)),
    ("everything has a loss", lambda ids, *_: [True] * len(ids)),
    ("the wrong way round", lambda *given: [not i for i in right_mask(*given)]),
    ("that is the first turn", of_turn(0)),
    ("a role only right behind `start`", by_role_alone),
    ("the user's turns between", from_first),
    ("a turn that was cut off has no `end`", end_from_the_back),
    ("the last id of a turn that was cut off", no_last),
]


def by_walking(ids: Any, start: int, end: int, assistant: int) -> Any:
    """One walk from left to right, which forgets at each new turn of the assistant."""
    found, on = np.zeros(len(ids), bool), False
    for i, token in enumerate(ids):
        found[i] = on
        if token == end:
            on = False
        if i >= 2 and ids[i - 2] == start:
            on = ids[i - 1] == assistant
            if on:
                found[:] = False
    return found


# -- masked_loss ---------------------------------------------------------------------------------------


def costs(logits: Any, ids: Any) -> Any:
    return torch.nn.functional.cross_entropy(
        torch.tensor(logits).transpose(1, 2), torch.tensor(ids), reduction="none"
    ).numpy()


def shift(logits: Any, ids: Any, learned: Any) -> Any:
    return costs(logits[:, :-1], ids[:, 1:]), learned[:, 1:]


def means(logits: Any, ids: Any, learned: Any) -> Any:
    return [e[k].mean() for e, k in zip(*shift(logits, ids, learned), strict=True)]


def of(f: Any) -> Any:
    """f of each next id's cost and of the mask."""
    return lambda *given: f(*shift(*given))


def no_end(each: Any, kept: Any) -> Any:
    last = kept.shape[1] - 1 - kept[:, ::-1].argmax(1)
    kept = kept.copy()
    kept[np.arange(len(kept)), last] = False
    return each[kept].mean()


def naive(logits: Any, ids: Any, learned: Any) -> Any:
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        each = -np.log(np.take_along_axis(p[:, :-1], ids[:, 1:, None], -1)[..., 0])
    return each[learned[:, 1:]].mean()


MASKED_LOSS: list[Mistake] = [
    ("are about the next id", lambda x, i, m: costs(x, i)[m].mean()),
    ("and not the mask", lambda x, i, m: costs(x[:, :-1], i[:, 1:])[m[:, :-1]].mean()),
    ("the id before", lambda x, i, m: costs(x[:, 1:], i[:, :-1])[m[:, 1:]].mean()),
    ("the mean of the rows' means", lambda *given: np.mean(means(*given))),
    ("counted in the divisor", of(lambda e, k: (e * k).mean())),
    ("that is the sum", of(lambda e, k: e[k].sum())),
    ("the number of rows", of(lambda e, k: e[k].sum() / len(e))),
    ("are learned too; look at the mask", of(lambda e, k: e.mean())),
    ("the sign is wrong", of(lambda e, k: -e[k].mean())),
    ("that is bits", of(lambda e, k: e[k].mean() / np.log(2))),
    ("the last learned id", of(no_end)),
    ("first the logarithm", of(lambda e, k: -np.log(np.exp(-e[k]).mean()))),
    ("not one a row", means),
    ("your result is nan", naive),
    (
        "that calls qwen3_ref",
        lambda x, i, m: loop.cross_entropy(
            torch.tensor(x[:, :-1]), torch.tensor(np.where(m, i, -100)[:, 1:])
        ),
    ),
]


# -- batch ---------------------------------------------------------------------------------------------


def made(
    before: int = 0, after: int = 0, none: int = -100, drop_pads: bool = False, all_pads: bool = False
) -> Any:
    """Right, but for what is asked."""

    def answer(rows: Any, replies: Any, pad: int) -> Any:
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), pad)
        targets = np.full((len(rows), longest), none)
        for i, (row, reply) in enumerate(zip(rows, replies, strict=True)):
            ids[i, : len(row)] = row
            a, b = max(0, len(row) - reply + before), longest if all_pads else len(row) + after
            targets[i, a:b] = ids[i, a:b]
        if drop_pads:
            targets[ids == pad] = none
        return ids[:, :-1], targets[:, 1:]

    return answer


def whole(rows: Any, replies: Any, pad: int) -> Any:
    """Inputs and targets with all columns, neither moved."""
    inputs, targets = made()([row + [0] for row in rows], replies, pad)
    longest = max(map(len, rows))
    ids, marks = np.full((len(rows), longest), pad), np.full((len(rows), longest), -100)
    for i, (row, reply) in enumerate(zip(rows, replies, strict=True)):
        ids[i, : len(row)] = row
        marks[i, len(row) - reply : len(row)] = row[len(row) - reply :]
    assert inputs.shape == targets.shape
    return ids, marks


def on_the_left(rows: Any, replies: Any, pad: int) -> Any:
    longest = max(map(len, rows))
    ids = np.array([[pad] * (longest - len(row)) + row for row in rows])
    targets = np.where(np.arange(longest) >= longest - np.array(replies)[:, None], ids, -100)
    return ids[:, :-1], targets[:, 1:]


def twice(rows: Any, replies: Any, pad: int) -> Any:
    ids, marks = whole(rows, replies, pad)
    return ids[:, :-1], np.concatenate([marks[:, 2:], np.full((len(rows), 1), -100)], 1)


def shortest(rows: Any, replies: Any, pad: int) -> Any:
    n = min(map(len, rows)) - 1
    return [part[:, :n] for part in made()(rows, replies, pad)]


BATCH: list[Mistake] = [
    ("is learned: the model learns to say pads", made(all_pads=True)),
    ("the prompts are learned too", made(before=-99)),
    ("it should stand one place earlier", lambda *g: [part[:, :-1] for part in whole(*g)]),
    ("the last of the prompt", made(before=-1)),
    ("the first id of each reply", made(before=1)),
    ("the end of each reply is missing", made(after=-1)),
    ("one pad behind each end", made(after=1)),
    ("0 is an id", made(none=0)),
    ("inputs come first", lambda *g: made()(*g)[::-1]),
    ("you pad on the left", on_the_left),
    ("cut the rows to the shortest", shortest),
    ("has no successor", whole),
    ("you shift twice", twice),
    ("mask by place, not by id", made(drop_pads=True)),
]


def by_lists(rows: Any, replies: Any, pad: int) -> Any:
    longest = max(map(len, rows))
    inputs = [(row + [pad] * longest)[: longest - 1] for row in rows]
    targets = [
        ([-100] * (len(row) - reply - 1) + row[-reply:] + [-100] * longest)[: longest - 1]
        for row, reply in zip(rows, replies, strict=True)
    ]
    return inputs, targets


def by_torch(rows: Any, replies: Any, pad: int) -> Any:
    pairs = zip(rows, replies, strict=True)
    marks = [torch.tensor([-100] * (len(row) - k) + row[len(row) - k :]) for row, k in pairs]
    pad_all = torch.nn.utils.rnn.pad_sequence
    ids = pad_all([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    return ids[:, :-1], pad_all(marks, batch_first=True, padding_value=-100)[:, 1:]


# -- reward --------------------------------------------------------------------------------------------


def scored(
    *, ended: bool = True, one_block: bool = True, first: bool = True, spoken: bool = True,
    answered: bool = True, mode_first: bool = True, without: bool = False, clean: bool = True,
    where: str = "answer", join: Any = lambda parts: sum(parts) / 3,
) -> Any:  # fmt: skip
    """Right, but for what is asked."""

    def answer(
        reply: Any, thinking: bool, right: Any, opening: int, closing: int, end: int, line: int
    ) -> float:
        text = " ".join(map(str, reply))
        o, c, e = map(str, (opening, closing, end))
        block = (text.split()[:1] == [o] or (not first and o in text.split())) and c in text.split()
        if block:
            before, _, after = text.partition(c)
            thought = before.partition(o)[2].split()
        else:
            thought, after = [], text
        said = [word for word in after.split() if word != e]
        bare = said if not clean else " ".join(said).split()
        while clean and bare[:1] == [str(line)]:
            bare = bare[1:]
        while clean and bare[-1:] == [str(line)]:
            bare = bare[:-1]
        good = block and (not answered or any(w != str(line) for w in said))
        good = good and (not ended or text.split()[-1] == e)
        good = good and (not one_block or (text.split().count(o), text.split().count(c)) == (1, 1))
        thinks = any(word != str(line) for word in thought) if spoken else bool(thought)
        mode = (block or without) and thinks == thinking
        wanted = " ".join(map(str, right))
        places = {"answer": " ".join(bare) == wanted, "among": wanted in after, "inside": wanted in text}
        correct = places[where] and (mode or not mode_first)
        return float(join([float(good), float(mode), float(correct)]))

    return answer


REWARD: list[Mistake] = [
    ("that is the sum", scored(join=sum)),
    ("that is their product", scored(join=np.prod)),
    ("of line ends alone is no thought", scored(spoken=False)),
    ("in the wrong mode earns nothing", scored(mode_first=False)),
    ("without its end was cut off", scored(ended=False)),
    ("nobody can tell the mode", scored(without=True)),
    ("a second block", scored(one_block=False)),
    ("the block comes first", scored(first=False)),
    ("an answer of line ends alone", scored(answered=False)),
    ("do not make it wrong", scored(clean=False)),
    ("the thought does not count", scored(where="inside")),
    ("not to contain it", scored(where="among")),
]


def step_by_step(
    reply: Any, thinking: bool, right: Any, opening: int, closing: int, end: int, line: int
) -> float:
    """Taken apart from both ends."""
    ids = list(reply)
    ended = bool(ids) and ids[-1] == end
    ids = ids[:-1] if ended else ids
    if not ids or ids[0] != opening or closing not in ids:
        return 0.0
    at = ids.index(closing)
    thought, said = set(ids[1:at]) - {line}, [*ids[at + 1 :]]
    good = ended and set(said) - {line} and not {opening, closing, end} & {*ids[1:at], *said}
    mode = bool(thought) is bool(thinking)
    while said and said[0] == line:
        del said[0]
    while said and said[-1] == line:
        del said[-1]
    return (bool(good) + mode + (mode and said == list(right))) / 3


MISTAKES = {"loss_mask": LOSS_MASK, "masked_loss": MASKED_LOSS, "batch": BATCH, "reward": REWARD}
ALSO_RIGHT = {
    "loss_mask": [by_walking, lambda *g: np.array(right_mask(*g), dtype=int)],
    "masked_loss": [of(lambda e, k: (e * k).sum() / k.sum()), of(lambda e, k: np.average(e, weights=k))],
    "batch": [by_lists, by_torch],
    "reward": [step_by_step, scored()],
}
