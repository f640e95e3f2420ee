"""Checks of 01_tokenizer. Tokens are small numbers here, as in a fast implementation."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import regex
from tokenizers import normalizers

from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, judge
from qwen3_ref.tokenizer import PATTERN

Pair = tuple[int, int]
Ids = list[int]
Numbers = Ids | Pair


def _join(ids: Ids, pair: Pair, new: int, *, behind: int = 2, times: int = 10**9) -> Ids:
    """`ids` with `pair` as `new`; behind: how many ids a join uses up, times: how many joins."""
    joined, i = [], 0
    while i < len(ids):
        both = times > 0 and tuple(ids[i : i + 2]) == pair
        joined.append(new if both else ids[i])
        i, times = i + (behind if both else 1), times - both
    return joined


def join(answer: Answer) -> Verdict:
    """answer(ids, pair, new) -> ids with every occurrence of the pair as the one id `new`."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        overlap = "you use an id twice: after a join, go on behind both ids"
        for alike in (True, False):
            a, b, c, new = map(int, rng.choice(90, 4, replace=False))
            pair = (a, a) if alike else (a, b)
            run = [a] * int(rng.choice([3, 5])) if alike else [a, b, a, b]
            ids = [c, *run, b, *pair, *([c] * int(rng.integers(1, 4)))]
            backwards = _join(ids[::-1], (pair[1], pair[0]), new)[::-1]
            mistakes = [
                ("you join only the first occurrence", _join(ids, pair, new, times=1)),
                (overlap, _join(ids, pair, new, behind=1)),
                (overlap, _join(ids, pair, new, behind=1)[:-1]),
                ("you lose the last id, which has no neighbour behind it", _join(ids, pair, new)[:-1]),
                ("your ids come back as they were", ids),
                ("you take the ids of the pair one by one", [new if i in pair else i for i in ids]),
                ("you join from right to left; in a run of three the first two belong together", backwards),
            ]
            yield _trial((ids, pair, new), _join(ids, pair, new), mistakes)

    return judge(answer, trials)


def _trial(arguments: tuple[object, ...], want: Numbers, mistakes: Sequence[tuple[str, Numbers]]) -> Trial:
    """Of whole numbers; a mistake that happens to be right here is none."""
    wrong = [(remark, np.array(ids)) for remark, ids in mistakes if list(ids) != list(want)]
    return Trial(arguments, np.array(want), wrong)


def _top(pairs: Iterable[Pair]) -> Pair:
    return Counter(pairs).most_common(1)[0][0]


def most_frequent(answer: Answer) -> Verdict:
    """answer(words, counts) -> the pair of neighbours that the text has most often."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            label = rng.permutation(np.arange(1, 90)).tolist()
            a, b, c, d, e, f, g, h, i, z = label[:10]  # (a, b) will be right
            spare = iter(label[10:])
            often = int(rng.integers(20, 40))
            more = often + int(rng.integers(5, often - 5))
            words, counts = (
                [[a, b, c, a, b], [f, g], [z, next(spare), z, next(spare), z]],
                [often, more, often],
            )
            words, counts = [*words, [a, next(spare)]], [*counts, 1]
            for middle in ([d, e],) * 6 + ([],) * 4:  # many rare words: d before e, and h before the next i
                words.append([i, next(spare), *middle, next(spare), h])
                counts.append(1)
            inside = [list(zip(word, word[1:], strict=False)) for word in words]
            text = sum(words, [])
            single = Counter(i for word, n in zip(words, counts, strict=True) for i in word * n)
            repeated = [pair for pairs, n in zip(inside, counts, strict=True) for pair in pairs * n]
            once = [
                pair for pairs, n in zip(inside, counts, strict=True) for pair in [*dict.fromkeys(pairs)] * n
            ]
            mistakes: list[tuple[str, Numbers]] = [
                ("you count each word once; multiply by its count", _top(sum(inside, []))),
                ("a pair that is twice in a word counts twice", _top(once)),
                ("your pairs reach from one word into the next", _top(zip(text, text[1:], strict=False))),
                (
                    "you return the two most frequent ids; wanted are neighbours",
                    [*dict(single.most_common(2))],
                ),
                ("wanted is the pair, not how often it occurs", [2 * often]),
            ]
            yield _trial((words, counts), _top(repeated), mistakes)

    return judge(answer, trials)


Choice = Callable[[list[Pair], dict[Pair, int]], Pair]


def _encode(ids: Ids, merges: dict[Pair, int], choose: Choice, times: int = 10**9) -> Ids:
    """BPE with a rule for which of the known pairs to join next; times: how many joins."""
    while times and (known := [pair for pair in zip(ids, ids[1:], strict=False) if pair in merges]):
        pair = choose(known, merges)
        ids, times = _join(ids, pair, merges[pair]), times - 1
    return ids


def _oldest(known: list[Pair], merges: dict[Pair, int]) -> Pair:
    return min(known, key=lambda pair: merges[pair])


def _longest(ids: Ids, merges: dict[Pair, int]) -> Ids:
    """The longest token that fits, from left to right."""
    spelled: dict[int, tuple[int, ...]] = {}
    for (a, b), new in merges.items():  # in the order of age
        spelled[new] = (*spelled.get(a, (a,)), *spelled.get(b, (b,)))
    found, at = [], 0
    while at < len(ids):
        fits = [new for new, s in spelled.items() if tuple(ids[at : at + len(s)]) == s]
        best = max(fits, key=lambda new: len(spelled[new]), default=ids[at])
        found.append(best)
        at += len(spelled.get(best, (best,)))
    return found


def encode(answer: Answer) -> Verdict:
    """answer(ids, merges) -> the tokens of one piece; merges: pair -> new id, older are smaller."""

    def youngest(known: list[Pair], merges: dict[Pair, int]) -> Pair:
        return max(known, key=lambda pair: merges[pair])

    def leftmost(known: list[Pair], merges: dict[Pair, int]) -> Pair:
        return known[0]

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(2):
            while True:  # until every mistake gives another cut
                merges: dict[Pair, int] = {}
                for new in range(256, 264):
                    pair = tuple(rng.choice([1, 2, 3, *merges.values()], size=2).tolist())
                    merges.setdefault((pair[0], pair[1]), new)
                ids = rng.integers(1, 4, size=14).tolist()
                want = _encode(ids, merges, _oldest)
                mistakes: list[tuple[str, Numbers]] = [
                    ("you stop after one merge; go on", _encode(ids, merges, _oldest, 1)),
                    ("you take the youngest merge; the oldest goes first", _encode(ids, merges, youngest)),
                    ("you take the leftmost pair; the oldest goes first", _encode(ids, merges, leftmost)),
                    ("you take the longest token that fits; BPE replays its merges", _longest(ids, merges)),
                    ("your ids come back as they were", ids),
                ]
                if len({tuple(wrong) for _, wrong in mistakes} | {tuple(want)}) > len(mistakes):
                    break
            yield _trial((ids, merges), want, mistakes)

    return judge(answer, trials)


def stream(answer: Answer) -> Verdict:
    """answer(tokens) -> for each token, as bytes, the text that it completes."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            letters = rng.permutation(list("aehkot ZQ") + list("éñжλ") + list("한水ก") + list("🎉😀"))
            text = "x" + "".join(letters) + "né🎉!"
            data = text.encode()
            middles = [i for i in range(1, len(data)) if data[i] & 0xC0 == 0x80]  # inside a character
            half = len(data) - 3  # within the last emoji, so that a token has an é and half of an emoji
            cuts = sorted({*rng.choice(middles, 6, replace=False), *rng.choice(len(data), 5), 1, half})
            ends = [0, *(int(cut) for cut in cuts if cut), len(data)]
            tokens = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
            decoder = codecs.getincrementaldecoder("utf-8")()
            want = [decoder.decode(token) for token in tokens]
            sofar = [data[:end].decode(errors="ignore") for end in ends[1:]]
            hopeful = [data[:end].decode(errors="replace") for end in ends]
            fresh = [b[len(a) :] for a, b in zip(hopeful, hopeful[1:], strict=False)]
            yield _texts(
                (tokens,),
                want,
                [
                    ("you decode each token by itself, and split characters become \ufffd",
                     [t.decode(errors="replace") for t in tokens]),
                    ("split characters are lost: keep their bytes for the next token",
                     [t.decode(errors="ignore") for t in tokens]),
                    ("you hold back whole characters too; only unfinished bytes wait", _late(tokens)),
                    ("you return all text so far; wanted is what is new", sofar),
                    ("you show \ufffd while a character is unfinished, and it stays", fresh),
                    ("a byte is no character; the bytes are UTF-8", [t.decode("latin-1") for t in tokens]),
                    ("all text comes at the end; show a character when it is whole",
                     [""] * (len(tokens) - 1) + [text]),
                ],
            )  # fmt: skip

    return judge(answer, trials)


def _late(tokens: list[bytes]) -> list[str]:
    """A decoder that waits until everything it holds is whole."""
    held, shown = b"", []
    for token in tokens:
        held += token
        try:
            shown.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown


def _texts(arguments: tuple[object, ...], want: list[str], mistakes: list[tuple[str, list[str]]]) -> Trial:
    wrong = [(remark, np.array(texts)) for remark, texts in mistakes if texts != want]
    return Trial(arguments, np.array(want), wrong)


BUGS = {
    "the missing NFC": ("", ""),
    "the digits left together": (r"|\p{N}|", r"|\p{N}{1,3}|"),
    "the contractions in lower case only": ("(?i:", "(?:"),
    "that signs do not join a word": (r"[^\r\n\p{L}\p{N}]?\p{L}", r" ?\p{L}"),
    "that signs leave their line ends behind": (r"[\r\n]*", ""),
}


def _port(bugs: Sequence[bool]) -> Callable[[str], list[str]]:
    """A pre-tokenizer with some of the BUGS."""
    pattern = PATTERN
    for bug, (old, new) in zip(bugs, BUGS.values(), strict=True):
        pattern = pattern.replace(old, new) if bug and old else pattern
    normal = str if bugs[0] else normalizers.NFC().normalize_str

    def cut(text: str) -> list[str]:
        found: list[str] = regex.findall(pattern, normal(text))
        return found

    return cut


def diagnose(answer: Answer) -> Verdict:
    """answer(cut) -> for each of the BUGS whether the port's function `cut` has it."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        none = "your tests see no bug at all, and this port has several"
        single = rng.permutation(np.eye(5, dtype=int))
        all_five, none_at_all = np.ones(5, dtype=int), np.zeros(5, dtype=int)
        for bugs in (*single, all_five, *rng.integers(0, 2, size=(6, 5)), none_at_all):
            mistakes = [(none, 0 * bugs)] if bugs.sum() > 1 else []
            for k, name in enumerate(BUGS):
                flipped = bugs.copy()
                flipped[k] = 1 - bugs[k]
                remark = f"you do not see {name}" if bugs[k] else f"you see {name} in a port without it"
                mistakes.append((remark, flipped))
            yield Trial((_port(bugs.astype(bool).tolist()),), bugs, mistakes)

    return judge(answer, trials)
