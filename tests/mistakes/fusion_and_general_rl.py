"""Of 16_fusion_and_general_rl."""

from __future__ import annotations

import re
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


LINE = 202


def up_to(last: Any) -> Any:
    """The last turn up to the place last(ids, first, end)."""

    def answer(ids: Any, start: int, end: int, assistant: int) -> Any:
        first = heads(ids, start, assistant)[-1]
        return marked(ids, first, last(ids, first, end) + 1)

    return answer


def no_lines(*given: Any) -> Any:
    return [on and i != LINE for on, i in zip(right_mask(*given), given[0], strict=True)]


def no_first(*given: Any) -> Any:
    """Without the line end that the answer begins with."""
    mask = right_mask(*given)
    first = heads(given[0], given[1], given[3])[-1]
    return [on and i != first for i, on in enumerate(mask)]


LOSS_MASK: list[Mistake] = [
    ("the turn ends with `end`", up_to(lambda ids, first, end: ids.index(LINE, first + 1) - 1)),
    ("behind the header they have a loss", no_lines),
    ("that the answer begins with", no_first),
    ("ends it", up_to(lambda ids, first, end: len(ids) - 1 - (ids[-1] == LINE))),
    ("ends it", up_to(lambda ids, first, end: len(ids) - 2 if ids[-2:] == [end, LINE] else len(ids) - 1)),
    (
        "may be the last id",
        up_to(lambda ids, first, end: len(ids) - 2 if end in ids[first:] else len(ids) - 1),
    ),
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


def by_logits(f: Any, keep: Any = lambda m: m) -> Any:
    """The mean of f(logits, next ids), shapes as in `costs`, over the marked ids."""

    def answer(logits: Any, ids: Any, learned: Any) -> Any:
        return f(logits[:, :-1], ids[:, 1:])[keep(learned)[:, 1:]].mean()

    return answer


def less(shift: Any) -> Any:
    """Cross-entropy after `shift` of the logits has been taken off them."""

    def cost(z: Any, ids: Any) -> Any:
        x = z - shift(z)
        with np.errstate(all="ignore"):
            return np.log(np.exp(x).sum(-1)) - chosen(x, ids)

    return cost


def chosen(x: Any, ids: Any) -> Any:
    return np.take_along_axis(x, ids[..., None], -1)[..., 0]


def log_of(eps: float, top: Any = lambda z: z.max(-1, keepdims=True)) -> Any:
    """The logarithm of a probability, and of a little more."""

    def cost(z: Any, ids: Any) -> Any:
        e = np.exp(z - top(z))
        with np.errstate(all="ignore"):
            return -np.log(chosen(e / e.sum(-1, keepdims=True), ids) + eps)

    return cost


def filled(mask: Any) -> Any:
    """From the first mark of a row, its first place apart, to the last one."""
    on = mask.copy()
    on[:, 0] = False
    return (np.cumsum(on, 1) > 0) & (np.cumsum(on[:, ::-1], 1)[:, ::-1] > 0)


MASKED_LOSS: list[Mistake] = [
    ("one maximum for all places", by_logits(less(lambda z: z.max()))),
    ("its logarithm lost", by_logits(log_of(0.0))),
    ("its logarithm lost", by_logits(log_of(1e-12))),
    ("its logarithm lost", by_logits(log_of(1e-9))),
    ("its logarithm lost", by_logits(log_of(1e-8))),
    ("your result is", by_logits(less(lambda z: np.maximum(z.max(-1, keepdims=True), 0)))),
    ("your result is", by_logits(less(lambda z: z.mean(-1, keepdims=True)))),
    ("your result is", by_logits(less(lambda z: 900 * (z.max() > 500)))),
    ("one maximum for all places", by_logits(log_of(0.0, lambda z: z.max()))),
    ("your result is", by_logits(less(lambda z: z.max(-1, keepdims=True)), filled)),
    ("has no logits about it", lambda *g: of(lambda e, k: e[k].sum())(*g) / g[2].sum()),
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


def dropped(rows: Any, replies: Any, pad: int) -> Any:
    """The last id of each row dropped first, and padding then."""
    width = max(map(len, rows)) - 1
    return np.array([(row[:-1] + [pad] * width)[:width] for row in rows]), made()(rows, replies, pad)[1]


def measured_by(length: Any) -> Any:
    """Targets at places that follow from length(padded row, pad), not from the row's own length."""

    def answer(rows: Any, replies: Any, pad: int) -> Any:
        inputs, targets = whole(rows, replies, pad)
        targets[:] = -100
        for row, target, k in zip(inputs, targets, replies, strict=True):
            n = length(list(row), pad)
            target[max(n - k, 0) : n] = row[max(n - k, 0) : n]
        return inputs[:, :-1], targets[:, 1:]

    return answer


def no_pads_at_all(rows: Any, replies: Any, pad: int) -> Any:
    width = max(map(len, rows)) - 1
    clean = [([i for i in row[:-1] if i != pad] + row[-1:] + [pad] * width)[:width] for row in rows]
    return np.array(clean), made()(rows, replies, pad)[1]


BATCH: list[Mistake] = [
    ("rows are padded first", dropped),
    ("a pad may stand in a row too", made(drop_pads=True)),
    ("at [", measured_by(lambda row, pad: row.index(pad) if pad in row else len(row))),
    ("0 for the inputs, 1 for the targets", no_pads_at_all),
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
    ("your result is", lambda *g: [made()(*g)[0], np.where(made()(*g)[0] == g[2], -100, made()(*g)[1])]),
    ("has no successor", whole),
    ("you shift twice", twice),
    ("and is learned: mask by place", lambda *g: made(drop_pads=g[2] > 100)(*g)),
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


def strings(ids: Any) -> str:
    """Ids as a text in which each stands between blanks."""
    return "".join(f" {i} " for i in ids)


def scored(
    *, form: Any = None, mode: Any = None, equal: Any = None, answer: Any = None, close: Any = None,
    thought: Any = None, block: Any = None, bare: Any = None, strip: bool = True,
    join: Any = lambda f, m, c: (f + m + c) / 3, final: Any = lambda f, m, c, e: c and m,
) -> Any:  # fmt: skip
    """Right, but for what is asked; of texts in which each id is a word, by their halves."""

    def score(
        reply: Any, thinking: bool, right: Any, opening: int, closing: int, end: int, line: int
    ) -> float:
        text, (o, c, e, n) = strings(reply), map(strings, ([opening], [closing], [end], [line]))
        has = (block or (lambda x, o, c: x.startswith(o) and c in x))(text, o, c)
        before, _, after = (close or str.partition)(text, c) if has else ("", "", text)
        inner = before.partition(o)[2]
        said = (answer or (lambda x, e: x.replace(e, "")))(after, e)
        spoken = bool(inner if thought else inner.replace(n, ""))
        words = bare or bool(after.replace(e, "").replace(n, ""))
        marks = tuple(text.count(mark) for mark in (o, c, e))
        fits = (form or (lambda x, m, e: m == (1, 1, 1) and x.endswith(e)))(text, marks, e)
        good = bool(has and words and fits)
        obeyed = bool((has or mode == "no block") and spoken == thinking)
        if strip:
            while said.startswith(n):
                said = said.removeprefix(n)
            while said.endswith(n):
                said = said.removesuffix(n)
        if form == "thinks":
            good = good and spoken
        if mode == "form":
            obeyed = obeyed and good
        same = (equal or (lambda a, b, *_: a == b))(said, strings(right), text, after.replace(e, ""))
        return float(join(good, obeyed, bool(final(good, obeyed, same, e in text))))

    return score


def as_lists(f: Any) -> Any:
    """Two texts compared by f of their words."""
    return lambda a, b, *_: f(a.split()) == f(b.split())


def must_think(*given: Any) -> Any:
    """Of an empty thought the format is wrong."""
    reply, line, closing = given[0], given[6], given[4]
    thinks = closing in reply and any(i != line for i in reply[1 : reply.index(closing)])
    return scored(join=lambda f, m, c: (bool(f and thinks) + m + c) / 3)(*given)


REWARD: list[Mistake] = [
    ("that is the sum", scored(join=lambda f, m, c: f + m + c)),
    ("that is their product", scored(join=lambda f, m, c: f * m * c)),
    ("without the format nothing", scored(join=lambda f, m, c: f * (f + m + c) / 3)),
    ("in the wrong mode nothing is paid", scored(join=lambda f, m, c: m * (f + m + c) / 3)),
    ("a wrong answer is paid nothing", scored(join=lambda f, m, c: c * (f + m + c) / 3)),
    ("of line ends alone is no thought", scored(thought="any")),
    ("in the wrong mode earns nothing", scored(final=lambda f, m, c, e: c)),
    ("without its end was cut off",
     scored(form=lambda x, m, e: m[:2] == (1, 1) and m[2] < 2 and x.find(e) % 999 > x.find(" 204 "))),
    ("nobody can tell the mode", scored(mode="no block")),
    ("a second block", scored(form=lambda x, m, e: x.endswith(e))),
    ("the block comes first", scored(block=lambda x, o, c: o in x and c in x)),
    ("an answer of line ends alone", scored(bare=True)),
    ("an empty thought has the format", must_think),
    ("nothing may stand behind `end`",
     scored(form=lambda x, m, e: m == (1, 1, 1) and x.index(e) > x.index(" 204 "))),
    ("a second `end`", scored(form=lambda x, m, e: m[:2] == (1, 1) and x.endswith(e))),
    ("the first `closing`", scored(close=str.rpartition)),
    ("without the format nothing", scored(mode="form")),
    ("an answer without `end` may be right", scored(final=lambda f, m, c, e: f and m and c)),
    ("to be right takes no `end`", scored(final=lambda f, m, c, e: e and m and c)),
    ("you drop the last id", scored(answer=lambda x, e: strings(x.split()[:-1]))),
    ("what stands behind `end` is part", scored(answer=lambda x, e: x.partition(e)[0])),
    ("do not make it wrong", scored(strip=False)),
    ("from its two ends only", scored(equal=as_lists(lambda a: [i for i in a if i != "202"]))),
    ("to have the same ones", scored(equal=as_lists(sorted))),
    ("to have the same kinds", scored(equal=as_lists(set))),
    ("not to end with it", scored(equal=lambda a, b, *_: a.endswith(b))),
    ("not to begin with it", scored(equal=lambda a, b, *_: a.startswith(b))),
    ("not as far as it goes", scored(equal=lambda a, b, *_: a != "" and b.startswith(a))),
    ("the thought does not count", scored(equal=lambda a, b, text, _: b in text)),
    ("not to contain it", scored(equal=lambda a, b, _, after: b in after)),
    ("your result is", scored(equal=as_lists(len))),
    ("your result is", scored(equal=as_lists(lambda a: a[:1] + a[-1:]))),
    ("your result is", scored(form=lambda x, m, e: m[1:] == (1, 1) and x.endswith(e))),
    ("your result is", scored(join=lambda f, m, c: 0.2 * f + 0.2 * m + 0.6 * c)),
    ("your result is 0", lambda *_: 0.0),
]  # fmt: skip


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
    said = [i for i in said if i != end]
    while said and said[0] == line:
        del said[0]
    while said and said[-1] == line:
        del said[-1]
    return (bool(good) + mode + (mode and said == list(right))) / 3


def by_pattern(
    reply: Any, thinking: bool, right: Any, opening: int, closing: int, end: int, line: int
) -> float:
    """By regular expressions over letters for the marks."""
    letters = {opening: "o", closing: "c", end: "e", line: "l"}
    kinds = "".join(letters.get(i, "x") for i in reply)
    block = re.match("o([^c]*)c", kinds)
    if not block:
        return 0.0
    form = re.fullmatch("o[lx]*cl*x[lx]*e", kinds) is not None
    mode = bool(set(block[1]) - {"l"}) == thinking
    said = [(i, kind) for i, kind in zip(reply, kinds, strict=True)][block.end() :]
    said = [pair for pair in said if pair[1] != "e"]
    inner = re.fullmatch("l*(.*?)l*", "".join(kind for _, kind in said))
    assert inner is not None
    return (form + mode + (mode and [i for i, _ in said[slice(*inner.span(1))]] == list(right))) / 3


MISTAKES = {"loss_mask": LOSS_MASK, "masked_loss": MASKED_LOSS, "batch": BATCH, "reward": REWARD}
ALSO_RIGHT = {
    "loss_mask": [by_walking, lambda *g: np.array(right_mask(*g), dtype=int)],
    "masked_loss": [
        of(lambda e, k: (e * k).sum() / k.sum()),
        of(lambda e, k: np.average(e, weights=k)),
        by_logits(less(lambda z: z.max(-1, keepdims=True))),
    ],
    "batch": [by_lists, by_torch],
    "reward": [step_by_step, scored(), by_pattern],
}
