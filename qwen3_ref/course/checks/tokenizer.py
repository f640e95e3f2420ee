"""Checks of 01_tokenizer. Tokens are small numbers here, as in a fast implementation."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from operator import itemgetter

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


def _as_text(ids: Ids, pair: Pair, new: int, blanks: str) -> Ids:
    """`ids` with the pair replaced in a text of numbers; blanks: what stands around what is sought."""
    text = f" {' '.join(map(str, ids))} "
    sought, put = (f"{blanks}{numbers}{blanks}" for numbers in (f"{pair[0]} {pair[1]}", str(new)))
    return [int(number) for number in text.replace(sought, put).split()]


def join(answer: Answer) -> Verdict:
    """answer(ids, pair, new) -> ids with every occurrence of the pair as the one id `new`."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        overlap = "you use an id twice: after a join, go on behind both ids"
        for alike in (False, True):
            a, b, c = map(int, rng.choice(np.arange(1, 10), 3, replace=False))
            new, like_a = int(rng.integers(1000, 2000)), 10 * int(rng.integers(30, 90)) + a
            pair = (a, a) if alike else (a, b)
            run = [a] * int(rng.choice([3, 5])) if alike else [a, b, a, b]
            ends = [c] * int(rng.integers(1, 4))
            ids = [c, *run, c, *pair[::-1], c, like_a, pair[1], c, *pair, *ends]
            if alike:  # the pair at both ends
                ids = [*pair, *ids, *pair]
            backwards = _join(ids[::-1], (pair[1], pair[0]), new)[::-1]
            gone = [i for i in _join(ids, pair, new) if i != new]
            mirrored = _join(_join(ids, pair, new), pair[::-1], new)
            again = _join(ids, pair, new) + [ids[-1]] * (tuple(ids[-2:]) == pair)
            mistakes = [
                ("you join only the first occurrence", _join(ids, pair, new, times=1)),
                (overlap, _join(ids, pair, new, behind=1)),
                (overlap, _join(ids, pair, new, behind=1)[:-1]),
                ("you join the pair the other way round too", mirrored),
                ("your last id comes twice where the pair stands at the end", again),
                ("you lose the last id, which has no neighbour behind it", _join(ids, pair, new)[:-1]),
                ("your ids come back as they were", ids),
                ("the pair is gone, but its new id is not there", gone),
                ("you take the ids of the pair one by one", [new if i in pair else i for i in ids]),
                ("you join from right to left; in a run of three the first two belong together", backwards),
                ("you replace digits: 311 ends like 11 and like 1, but ids are whole numbers",
                 _as_text(ids, pair, new, "")),
                ("you replace in a text, where two pairs in a row share a blank: one is missed",
                 _as_text(ids, pair, new, " ")),
            ]  # fmt: skip
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
        yield _here_and_there(rng)
        for _ in range(3):
            label = rng.permutation(np.arange(1, 89)).tolist()
            a, b, d, e, f, g, h, i, p, q, u = label[:11]  # (a, b) will be right
            z, spare = 89, iter(label[11:])  # the largest pair begins with z
            often = int(rng.integers(20, 40))
            few = often // 4 + 1
            more = int(rng.integers(6 * few + 1, 2 * often))  # more than often, fewer than twice
            table = [
                ([u], 5 * often),  # a word that is one token already
                ([a, b, next(spare), a, b], often),
                ([f, g], more),
                ([p, q], often + 1),
                ([q, p], often + 1),
                ([z, next(spare), z, next(spare), z, next(spare), z], often),
                ([a, next(spare)], 1),
            ]
            for middle in ([d, e],) * 6 + ([],) * 4:  # d before e six times, and h before the next i
                table.append(([i, next(spare), *middle, next(spare), h], few))
            words, counts = [word for word, _ in table], [count for _, count in table]
            yield _trial((words, counts), (a, b), _miscounts(table, (a, b), 2 * often))

    return judge(answer, trials)


def _here_and_there(rng: np.random.Generator) -> Trial:
    """A pair that wins only if all its places in all words count, and one that is twice in a word."""
    a, b, f, g, h, i, k, p, q, u, *spare = rng.permutation(np.arange(1, 89)).tolist()
    half = int(rng.integers(20, 40))  # (a, b) occurs twice as often
    more = 3 * half // 2
    often = [f, g, spare[0], k, spare[1]]
    table = [
        ([u], 5 * half),
        ([spare[2], a, b], half),
        (often, more),
        ([p, q], more - 2),
        ([q, p], more - 2),
        ([h, i, spare[3], h, i], 3 * half // 5),
        ([a, b, spare[4]], half),
        ([89, spare[5]], 1),
    ]
    missed = "add up a pair's places in all words, each place as often as its word occurs"
    twice = ("a pair that is twice in a word counts twice, no more", (h, i))
    missing = [(missed, often[:2]), (missed, often[-2:])]
    mistakes = [*_miscounts(table, (a, b), 2 * half), twice, *missing]
    return _trial(([word for word, _ in table], [count for _, count in table]), (a, b), mistakes)


def _miscounts(table: list[tuple[Ids, int]], right: Pair, times: int) -> list[tuple[str, Numbers]]:
    """What goes wrong when pairs of (word, count) are counted; right: the right pair, times: how often."""
    inside = [(list(pairwise(word)), count) for word, count in table]
    weighed = [pair for pairs, count in inside for pair in pairs * count]
    text, all_text = sum((word for word, _ in table), []), sum((word * count for word, count in table), [])
    apart = [pair for word, count in table for pair in [*combinations(word, 2)] * count]
    borders = [((one[-1], two[0]), n, m) for (one, n), (two, m) in pairwise(table)]
    single = Counter(all_text)
    across = "your pairs reach from one word into the next"
    return [
        ("you count each word once; multiply by its count",
         _top(pair for pairs, _ in inside for pair in pairs)),
        ("a pair that is twice in a word counts twice",
         _top(pair for pairs, count in inside for pair in [*dict.fromkeys(pairs)] * count)),
        (across, _top(pairwise(text))),
        (across, _top(pairwise(all_text))),
        (across, _top(weighed + [pair for pair, n, _ in borders for pair in [pair] * n])),
        (across, _top(weighed + [pair for pair, _, m in borders for pair in [pair] * m])),
        (across, _top(weighed + [pair for pair, n, m in borders for pair in [pair] * min(n, m)])),
        ("you return the two most frequent ids; wanted are neighbours", [*dict(single.most_common(2))]),
        ("your two ids need not be neighbours; wanted is one right behind the other", _top(apart)),
        ("wanted is the pair, not how often it occurs", [times]),
        ("your pair is the wrong way round", right[::-1]),
        ("you count a pair and its mirror image as one", mirrored := _top((min(p), max(p)) for p in weighed)),
        ("you count a pair and its mirror image as one", mirrored[::-1]),
        ("that is the largest pair; wanted is the one that occurs most often", max(weighed)),
    ]  # fmt: skip


Choice = Callable[[list[Pair], dict[Pair, int]], Pair]


def _encode(ids: Ids, merges: dict[Pair, int], choose: Choice, times: int = 10**9) -> Ids:
    """BPE with a rule for which of the known pairs to join next; times: how many joins."""
    while times and (known := [pair for pair in pairwise(ids) if pair in merges]):
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


def _one_at_a_time(ids: Ids, merges: dict[Pair, int]) -> Ids:
    """The leftmost known pair, at this one place, until none is left."""
    while at := [i for i, pair in enumerate(pairwise(ids)) if pair in merges]:
        ids = [*ids[: at[0]], merges[ids[at[0]], ids[at[0] + 1]], *ids[at[0] + 2 :]]
    return ids


def _one_walk(ids: Ids, merges: dict[Pair, int]) -> Ids:
    """Every known pair, in one walk from left to right."""
    found, i = [], 0
    while i < len(ids):
        new = merges.get((ids[i], ids[i + 1])) if i + 1 < len(ids) else None
        found.append(ids[i] if new is None else new)
        i += 1 if new is None else 2
    return found


def _in_turn(ids: Ids, merges: Iterable[tuple[Pair, int]], times: int = 10**9) -> Ids:
    """Each merge once, in the order given; times: how many of its occurrences."""
    for pair, new in merges:
        ids = _join(ids, pair, new, times=times)
    return ids


def _from_the_right(ids: Ids, merges: dict[Pair, int]) -> Ids:
    for (a, b), new in sorted(merges.items(), key=itemgetter(1)):
        ids = _join(ids[::-1], (b, a), new)[::-1]
    return ids


# Little pieces, each cut wrongly by other mistakes, and their merges by age, the oldest first. In the
# first the older merge stands on the right, in the second on the left; then come a token of three that
# the leftmost pair spoils, a run, a pair that is there twice, a merge of what a merge has made, and an
# older pair beside one that is there more often.
CUTS = [
    *[("xyz", [("y", "z"), ("x", "y")])] * 3,
    *[("xyz", [("x", "y"), ("y", "z")])] * 3,
    ("xyz", [("y", "z"), ("x", "yz"), ("x", "y")]),
    ("xxx", [("x", "x")]),
    ("xyzxy", [("x", "y")]),
    ("xyz", [("x", "y"), ("xy", "z")]),
    ("zxyxy", [("z", "x"), ("x", "y")]),
]


def _piece(rng: np.random.Generator) -> tuple[Ids, dict[Pair, int]]:
    """All of CUTS, in any order and with ids of their own, as one piece; its merges in no order."""
    label = iter(rng.permutation(np.arange(1, 90)).tolist())
    ids: Ids = []
    waiting, known = [], []
    for n in rng.permutation(len(CUTS)):
        text, merges = CUTS[n]
        names = {letter: next(label) for letter in "xyz"}
        ids += [*(names[letter] for letter in text), next(label)]
        waiting.append(list(merges))
        known.append(names)
    made: dict[Pair, int] = {}
    for new in sorted(rng.choice(np.arange(256, 999), sum(map(len, waiting)), replace=False).tolist()):
        n = int(rng.choice([n for n, merges in enumerate(waiting) if merges]))
        left, right = waiting[n].pop(0)
        made[known[n][left], known[n][right]] = known[n][left + right] = new
    pairs = list(made)
    return ids, {pairs[i]: made[pairs[i]] for i in rng.permutation(len(pairs))}  # a dict has no age


def encode(answer: Answer) -> Verdict:
    """answer(ids, merges) -> the tokens of one piece; merges: pair -> new id, older are smaller."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(2):
            while True:  # until every mistake gives another cut
                ids, merges = _piece(rng)
                want = _encode(ids, merges, _oldest)
                mistakes = _miscuts(ids, merges)
                told: dict[tuple[int, ...], set[str]] = {tuple(want): {"right"}}
                for remark, wrong in mistakes:
                    told.setdefault(tuple(wrong), set()).add(remark)
                if all(len(remarks) == 1 for remarks in told.values()):
                    break
            yield _trial((ids, merges), want, mistakes)

    return judge(answer, trials)


def _miscuts(ids: Ids, merges: dict[Pair, int]) -> list[tuple[str, Numbers]]:
    """What goes wrong when a piece is cut by its merges, and a remark that belongs to each."""
    by_age = sorted(merges.items(), key=itemgetter(1))
    leftmost = "you take the leftmost pair; the oldest goes first"
    order = "you trust the order of the dict; how old a merge is, its new id says"
    return [
        ("you stop after one merge; go on", _encode(ids, merges, _oldest, 1)),
        ("you take the youngest merge; the oldest goes first",
         _encode(ids, merges, lambda known, merges: max(known, key=lambda pair: merges[pair]))),
        (leftmost, _encode(ids, merges, lambda known, merges: known[0])),
        (leftmost, _one_at_a_time(ids, merges)),
        ("you take the pair that is most frequent in the piece; that counts in learning, age in encoding",
         _encode(ids, merges, lambda known, merges: _top(known))),
        ("you walk through once and join what you meet; the oldest goes first, then look again",
         _one_walk(ids, merges)),
        ("you take the longest token that fits; BPE replays its merges", _longest(ids, dict(by_age))),
        (order, _encode(ids, merges, lambda known, merges: next(pair for pair in merges if pair in known))),
        (order, _in_turn(ids, merges.items())),
        ("you compare the pairs themselves; how old a merge is, its new id says",
         _encode(ids, merges, lambda known, merges: min(known))),
        ("you join only the first occurrence of a merge", _in_turn(ids, by_age, times=1)),
        ("you join from right to left; in a run of three the first two belong together",
         _from_the_right(ids, merges)),
        ("your ids come back as they were", ids),
    ]  # fmt: skip


def stream(answer: Answer) -> Verdict:
    """answer(tokens) -> for each token, as bytes, the text that it completes."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            letters = rng.permutation(list("aehkot ZQ") + list("éñжλ") + list("한水ก") + list("🎉😀"))
            text = "x" + "".join(letters) + "né🎉!"
            data = text.encode()
            middles = [i for i in range(1, len(data)) if data[i] & 0xC0 == 0x80]  # inside a character
            half = len(data) - 3  # within the last emoji, so that a token has an é and half of an emoji
            blank = data.index(b" ")
            some = {*rng.choice(middles, 6, replace=False), *rng.choice(len(data), 5)}
            cuts = sorted({*some, 1, blank, blank + 1, half})
            ends = [0, *(int(cut) for cut in cuts if cut), len(data)]
            tokens = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
            decoder = codecs.getincrementaldecoder("utf-8")()
            want = [decoder.decode(token) for token in tokens]
            begun = [len(data[:end].decode(errors="replace")) for end in ends]  # characters begun, once each
            hasty = [text[a:b] for a, b in pairwise(begun)]
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
                    ("you show a character before its last byte is there", hasty),
                    ("a string for each token is wanted, an empty one too", [t for t in want if t]),
                    ("you take blanks away; they belong to the text", [t.strip() for t in want]),
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
        ports = rng.permutation([[n >> k & 1 for k in range(5)] for n in range(32)])  # all there are
        for bugs in sorted(ports, key=lambda bugs: (bugs.sum() != 1, bugs.sum() != 5)):  # one alone first
            mistakes = [(none, 0 * bugs)] if bugs.sum() > 1 else []
            for k, name in enumerate(BUGS):
                flipped = bugs.copy()
                flipped[k] = 1 - bugs[k]
                remark = f"you do not see {name}" if bugs[k] else f"you see {name} in a port without it"
                if bugs.sum() > 1:
                    remark = f"beside other bugs you miss {name}, or see it where it is not"
                mistakes.append((remark, flipped))
            yield Trial((_port(bugs.astype(bool).tolist()),), bugs, mistakes)

    return judge(answer, trials)
