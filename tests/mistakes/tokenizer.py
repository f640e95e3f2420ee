"""Of 01_tokenizer."""

from __future__ import annotations

import codecs
from collections import Counter
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from qwen3_ref import tokenizer
from tests.mistakes import Mistake


def joined(ids: list[int], pair: Any, new: int, last: bool = True) -> list[int]:
    out, i = [], 0
    while i < len(ids) if last else i < len(ids) - 1:
        both = tuple(ids[i : i + 2]) == tuple(pair)
        out.append(new if both else ids[i])
        i += 2 if both else 1
    return out


def first_only(ids: list[int], pair: Any, new: int) -> list[int]:
    at = next(i for i in range(len(ids)) if tuple(ids[i : i + 2]) == pair)
    return [*ids[:at], new, *ids[at + 2 :]]


def overlapping(ids: list[int], pair: Any, new: int) -> list[int]:
    return [new if tuple(ids[i : i + 2]) == pair else ids[i] for i in range(len(ids))]


def by_pairs(ids: list[int], pair: Any, new: int) -> list[int]:
    return [new if both == pair else both[0] for both in zip(ids, ids[1:], strict=False)]


def in_place(ids: list[int], pair: Any, new: int) -> list[int]:
    ids[:] = joined(ids, pair, new)
    return ids


def from_the_right(ids: list[int], pair: Any, new: int) -> list[int]:
    return joined(ids[::-1], pair[::-1], new)[::-1]


def in_text(ids: list[int], pair: Any, new: int, blank: str = "") -> list[int]:
    """Replaced in a text of numbers."""
    text = " " + " ".join(map(str, ids)) + " "
    old = f"{blank}{pair[0]} {pair[1]}{blank}"
    return [int(word) for word in text.replace(old, f"{blank}{new}{blank}").split()]


def in_characters(ids: list[int], pair: Any, new: int) -> list[int]:
    return [ord(c) for c in "".join(map(chr, ids)).replace("".join(map(chr, pair)), chr(new))]


def by_popping(ids: list[int], pair: Any, new: int) -> list[int]:
    rest, out = list(ids), []
    while rest:
        first = rest.pop(0)
        if rest and (first, rest[0]) == pair:
            rest.pop(0)
            first = new
        out.append(first)
    return out


def as_array(ids: list[int], pair: Any, new: int) -> Any:
    out: list[int] = []
    half = False  # whether the last id of `out` may still be the first of a pair
    for i in ids:
        if half and (out[-1], i) == tuple(pair):
            out[-1], half = new, False
        else:
            out.append(i)
            half = True
    return np.array(out)


def either_way(ids: list[int], pair: Any, new: int) -> list[int]:
    return joined(joined(ids, pair, new), pair[::-1], new)


def last_id_always(ids: list[int], pair: Any, new: int) -> list[int]:
    return joined(ids, pair, new) + ids[-1:] * (tuple(ids[-2:]) == pair)


def pairs(words: list[list[int]], counts: list[int]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in zip(word, word[1:], strict=False):
            found[pair] += count
    return found


def at_places(words: list[list[int]], counts: list[int], places: slice, power: int = 1) -> Any:
    """Only some of a word's pairs, or those that occur n times in it n**power times."""
    found: Counter[Any] = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair, times in Counter([*zip(word, word[1:], strict=False)][places]).items():
            found[pair] += count * times**power
    return top(found)


def last_count(words: list[list[int]], counts: list[int]) -> Any:
    found = {}
    for word, count in zip(words, counts, strict=True):
        found.update(dict.fromkeys(zip(word, word[1:], strict=False), count))
    return max(found, key=lambda pair: found[pair])


def at_any_distance(words: list[list[int]], counts: list[int]) -> Any:
    every = zip(words, counts, strict=True)
    return top(Counter(p for word, n in every for p in [*combinations(word, 2)] * n))


def top(found: Counter[Any]) -> Any:
    return found.most_common(1)[0][0]


def once_a_word(words: list[list[int]], counts: list[int]) -> Any:
    found: Counter[Any] = Counter()
    for word, count in zip(words, counts, strict=True):
        found.update(dict.fromkeys(zip(word, word[1:], strict=False), count))
    return top(found)


def across(words: list[list[int]], counts: list[int]) -> Any:
    text = [i for word in words for i in word]
    return top(Counter(zip(text, text[1:], strict=False)))


def across_repeated(words: list[list[int]], counts: list[int]) -> Any:
    text = [i for word, count in zip(words, counts, strict=True) for i in word * count]
    return top(Counter(zip(text, text[1:], strict=False)))


def with_borders(words: list[list[int]], counts: list[int], weigh: Any) -> Any:
    """Pairs within words, and the last id of each word with the first of the next, weighed by two counts."""
    found = pairs(words, counts)
    for n in range(len(words) - 1):
        found[words[n][-1], words[n + 1][0]] += weigh(counts[n], counts[n + 1])
    return top(found)


def mirrored(words: list[list[int]], counts: list[int]) -> Any:
    found: Counter[Any] = Counter()
    for (a, b), count in pairs(words, counts).items():
        found[frozenset((a, b))] += count
    return tuple(top(found))


def spread_out(words: list[list[int]], counts: list[int]) -> list[Any]:
    every = [
        p
        for word, n in zip(words, counts, strict=True)
        for p in zip(word, word[1:], strict=False)
        for _ in range(n)
    ]
    return list(max(set(every), key=every.count))


def by_sorting(words: list[list[int]], counts: list[int]) -> Any:
    found: dict[Any, int] = {}
    for n in range(len(words)):
        for k in range(len(words[n]) - 1):
            pair = words[n][k], words[n][k + 1]
            found[pair] = found.get(pair, 0) + counts[n]
    return np.array(sorted(found, key=lambda pair: -found[pair])[0])


def two_ids(words: list[list[int]], counts: list[int]) -> Any:
    single = Counter(i for word, n in zip(words, counts, strict=True) for i in word * n)
    return [i for i, _ in single.most_common(2)]


def encoded(ids: list[int], merges: Any, choose: Any, times: int = 99) -> list[int]:
    for _ in range(times):
        known = [pair for pair in zip(ids, ids[1:], strict=False) if pair in merges]
        if not known:
            break
        pair = choose(known, key=merges.get)
        ids = joined(ids, pair, merges[pair])
    return ids


def leftmost(known: Any, key: Any) -> Any:
    return known[0]


def longest(ids: list[int], merges: Any) -> list[int]:
    spelled = {i: [i] for i in ids}
    for (a, b), new in aged(merges):
        spelled[new] = [*spelled.get(a, [a]), *spelled.get(b, [b])]
    out = []
    while ids:
        best = max((t for t, s in spelled.items() if ids[: len(s)] == s), key=lambda t: len(spelled[t]))
        out.append(best)
        ids = ids[len(spelled[best]) :]
    return out


def one_at_a_time(ids: list[int], merges: Any) -> list[int]:
    """A stack: whatever is known is joined as soon as it is met, again and again from the left."""
    ids, i = list(ids), 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) in merges:
            ids[i : i + 2] = [merges[ids[i], ids[i + 1]]]
            i = 0
        else:
            i += 1
    return ids


def one_walk(ids: list[int], merges: Any) -> list[int]:
    out, i = [], 0
    while i < len(ids):
        pair = tuple(ids[i : i + 2])
        out.append(merges.get(pair, ids[i]))
        i += 2 if pair in merges else 1
    return out


def in_turn(ids: list[int], merges: Any, how: Any = joined) -> list[int]:
    for pair, new in merges:
        ids = how(ids, pair, new)
    return ids


def aged(merges: Any) -> Any:
    return sorted(merges.items(), key=lambda item: item[1])


def first_if_any(ids: list[int], pair: Any, new: int) -> list[int]:
    return first_only(ids, pair, new) if pair in zip(ids, ids[1:], strict=False) else ids


def oldest_place_by_place(ids: list[int], merges: Any) -> list[int]:
    """Right: the oldest merge at its leftmost place, then look again."""
    ids = list(ids)
    while places := [
        (merges[pair], i) for i, pair in enumerate(zip(ids, ids[1:], strict=False)) if pair in merges
    ]:
        new, i = min(places)
        ids[i : i + 2] = [new]
    return ids


def recursive(ids: list[int], merges: Any) -> Any:
    known = {merges[pair]: pair for pair in zip(ids, ids[1:], strict=False) if pair in merges}
    return recursive(joined(ids, known[min(known)], min(known)), merges) if known else np.array(ids)


def hold_everything(tokens: list[bytes]) -> list[str]:
    held, shown = b"", []
    for token in tokens:
        held += token
        try:
            text, held = held.decode(), b""
        except UnicodeDecodeError:
            text = ""
        shown.append(text)
    return shown


def whole_again(tokens: list[bytes], new: bool) -> list[str]:
    """Decode everything again at every token, and return all of it or what is longer than before."""
    out, before = [], ""
    for n in range(1, len(tokens) + 1):
        text = b"".join(tokens[:n]).decode(errors="replace" if new else "ignore")
        out.append(text[len(before) :] if new else text)
        before = text
    return out


def by_hand(tokens: list[bytes]) -> list[str]:
    """Right: cut off up to three bytes of an unfinished character."""
    held, out = b"", []
    for token in tokens:
        held += token
        for tail in range(4):
            try:
                out.append(held[: len(held) - tail].decode())
            except UnicodeDecodeError:
                continue
            held = held[len(held) - tail :]
            break
    return out


def prefixes(tokens: list[bytes]) -> tuple[str, ...]:
    """Right: all text so far, without the unfinished character, less what was shown before."""
    shown = [b"".join(tokens[:n]).decode(errors="ignore") for n in range(len(tokens) + 1)]
    return tuple(b[len(a) :] for a, b in zip(shown, shown[1:], strict=False))


def too_early(tokens: list[bytes]) -> list[str]:
    """Looks ahead: a character is shown with its first byte."""
    text = b"".join(tokens).decode()
    starts = [len(text[:n].encode()) for n in range(len(text))]
    out, end = [], 0
    for token in tokens:
        here = range(end, end + len(token))
        out.append("".join(c for c, start in zip(text, starts, strict=True) if start in here))
        end += len(token)
    return out


def stray(tokens: list[bytes]) -> list[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(token).upper() for token in tokens]


GOOD_TESTS = {
    "accent": ("e\u0301", ["\u00e9"]),
    "digits": ("12", ["1", "2"]),
    "capitals": ("O'Donnell", ["O", "'D", "onnell"]),
    "sign": (".x", [".x"]),
    "line": (";\n", [";\n"]),
}


def found(cut: Any, **others: Any) -> list[bool]:
    """What tests make of a port: a text and how Qwen3 cuts it, the good tests or others."""
    return [cut(text) != want for text, want in (GOOD_TESTS | others).values()]


def alone(number: int, cut: Any) -> list[bool]:
    """Sees one of the bugs only where it comes alone."""
    seen = found(cut)
    seen[number] = seen[number] and sum(seen) == 1
    return seen


def longer_tests(cut: Any) -> list[int]:
    """Right: other texts, and a look at one thing in what comes back."""
    return [
        int("\u00fc" not in cut("u\u0308")),
        int("47" in cut("47")),
        int("'Re" not in cut("Mac'Reilly")),
        int(cut("(a") != ["(a"]),
        int("):" in cut("):\n")),
    ]


ONE_TEXT = "e\u030112O'Dy.x;\n"
WITH_ONE_BUG = [
    "e|\u0301|1|2|O|'D|y|.x|;\n",
    "\u00e9|12|O|'D|y|.x|;\n",
    "\u00e9|1|2|O|'Dy|.x|;\n",
    "\u00e9|1|2|O|'D|y|.|x|;\n",
    "\u00e9|1|2|O|'D|y|.x|;|\n",
]


def one_text(cut: Any) -> list[bool]:
    """Compares with what each bug makes of a text, as if it came alone."""
    return ["|".join(cut(ONE_TEXT)) == alone for alone in WITH_ONE_BUG]


JOIN: list[Mistake] = [
    ("only the first occurrence", first_only),
    ("you use an id twice", overlapping),
    ("you use an id twice", by_pairs),
    ("the other way round too", either_way),
    ("your last id comes twice", last_id_always),
    ("of numbers is wanted, not str", lambda ids, pair, new: [*map(str, joined(ids, pair, new))]),
    ("changes the list that is its argument number 1", in_place),
    ("you lose the last id", lambda ids, pair, new: joined(ids, pair, new, last=False)),
    ("from right to left", from_the_right),
    ("as they were", lambda ids, pair, new: ids),
    ("one by one", lambda ids, pair, new: [new if i in pair else i for i in ids]),
    ("its new id is not there", lambda ids, pair, new: [i for i in joined(ids, pair, new) if i != new]),
    ("you replace digits", in_text),
    ("share a blank", lambda ids, pair, new: in_text(ids, pair, new, " ")),
    ("ValueError", lambda ids, pair, new: list(bytes(ids).replace(bytes(pair), bytes([new])))),
]
MOST_FREQUENT: list[Mistake] = [
    ("multiply by its count", lambda words, counts: top(pairs(words, [1] * len(words)))),
    ("twice in a word counts twice", once_a_word),
    ("counts twice, no more", lambda words, counts: at_places(words, counts, slice(None), power=2)),
    ("add up a pair's places", lambda words, counts: at_places(words, counts, slice(1))),
    ("add up a pair's places", lambda words, counts: at_places(words, counts, slice(-1))),
    ("add up a pair's places", lambda words, counts: at_places(words, counts, slice(-1, None))),
    ("add up a pair's places", lambda words, counts: at_places(words, counts, slice(None, None, 2))),
    ("add up a pair's places", last_count),
    ("need not be neighbours", at_any_distance),
    ("from one word into the next", across),
    ("from one word into the next", across_repeated),
    ("from one word into the next", lambda words, counts: with_borders(words, counts, min)),
    ("from one word into the next", lambda words, counts: with_borders(words, counts, lambda n, m: n)),
    ("from one word into the next", lambda words, counts: with_borders(words, counts, lambda n, m: m)),
    ("wanted are neighbours", two_ids),
    ("mirror image", mirrored),
    ("wrong way round", lambda words, counts: top(pairs(words, counts))[::-1]),
    ("the largest pair", lambda words, counts: max(pairs(words, counts))),
    ("not how often", lambda words, counts: [pairs(words, counts).most_common(1)[0][1]]),
    ("the shape (); wanted is (2,)", lambda words, counts: pairs(words, counts).most_common(1)[0][1]),
]
ENCODE: list[Mistake] = [
    ("you take the youngest merge", lambda ids, merges: encoded(ids, merges, max)),
    ("you take the leftmost pair", lambda ids, merges: encoded(ids, merges, leftmost)),
    ("you take the leftmost pair", one_at_a_time),
    ("you walk through once", one_walk),
    ("most frequent in the piece", lambda ids, merges: encoded(ids, merges, lambda p, key: top(Counter(p)))),
    ("the order of the dict", lambda ids, merges: in_turn(ids, merges.items())),
    (
        "the order of the dict",
        lambda ids, merges: encoded(ids, merges, lambda known, key: next(p for p in merges if p in known)),
    ),
    ("the pairs themselves", lambda ids, merges: encoded(ids, merges, lambda known, key: min(known))),
    ("only the first occurrence", lambda ids, merges: in_turn(ids, aged(merges), first_if_any)),
    ("from right to left", lambda ids, merges: in_turn(ids, aged(merges), from_the_right)),
    ("longest token that fits", longest),
    ("you stop after one merge", lambda ids, merges: encoded(ids, merges, min, 1)),
    ("as they were", lambda ids, merges: ids),
    (
        "that calls qwen3_ref.tokenizer.merge_word",
        lambda ids, merges: [len(part) for part in tokenizer.merge_word(bytes(ids), {})],
    ),
]
STREAM: list[Mistake] = [
    ("each token by itself", lambda tokens: [t.decode(errors="replace") for t in tokens]),
    ("characters are lost", lambda tokens: [t.decode(errors="ignore") for t in tokens]),
    ("you hold back whole characters too", hold_everything),
    ("all text so far", lambda tokens: whole_again(tokens, new=False)),
    ("and it stays", lambda tokens: whole_again(tokens, new=True)),
    ("a byte is no character", lambda tokens: [t.decode("latin-1") for t in tokens]),
    ("at the end", lambda tokens: [""] * (len(tokens) - 1) + [b"".join(tokens).decode()]),
    ("before its last byte is there", too_early),
    ("an empty one too", lambda tokens: [text for text in by_hand(tokens) if text]),
    ("you take blanks away", lambda tokens: [text.strip() for text in by_hand(tokens)]),
    ("yours holds bytes", lambda tokens: tokens),
    ("yours holds int", lambda tokens: 3),
    ("should have", stray),
]
DIAGNOSE: list[Mistake] = [
    ("you do not see the missing NFC", lambda cut: [False, *found(cut)[1:]]),
    ("you do not see the missing NFC", lambda cut: found(cut, accent=("\u00e9", ["\u00e9"]))),
    ("you do not see the digits", lambda cut: found(cut, digits=("7 8", ["7", " ", "8"]))),
    ("you do not see the contractions", lambda cut: found(cut, capitals=("don't", ["don", "'t"]))),
    ("you do not see the contractions", lambda cut: found(cut, capitals=("DON'T", ["DON", "'T"]))),
    ("you do not see that signs do not join", lambda cut: found(cut, sign=(" total", [" total"]))),
    ("you do not see that signs leave", lambda cut: found(cut, line=("x\n", ["x", "\n"]))),
    ("you see the missing NFC in a port", lambda cut: found(cut, accent=("e\u0301", ["e\u0301"]))),
    ("you see the digits", lambda cut: found(cut, digits=("e\u0301 12", ["\u00e9", " ", "1", "2"]))),
    ("you see the contractions", lambda cut: found(cut, capitals=("O'Donnell", ["O'Donnell"]))),
    ("you see that signs do not join", lambda cut: found(cut, sign=(" .x", [" .x"]))),
    ("you see that signs leave", lambda cut: found(cut, line=("; \n", ["; \n"]))),
    (  # right on every bug alone, and on half of all ports: signs that do not join hide it
        "beside other bugs you miss the contractions",
        lambda cut: [*found(cut)[:2], "'Donnell" in cut("O'Donnell"), *found(cut)[3:]],
    ),
    ("beside other bugs you miss the missing NFC", partial(alone, 0)),
    ("beside other bugs you miss the digits", partial(alone, 1)),
    ("beside other bugs you miss the contractions", partial(alone, 2)),
    ("beside other bugs you miss that signs do not join", partial(alone, 3)),
    ("beside other bugs you miss that signs leave", partial(alone, 4)),
    ("your tests see no bug at all", one_text),
    ("you do not see", lambda cut: ["".join(cut(t)) != t for t in ("caf\u00e9", "12", "DON'T", ".x", ";\n")]),
    ("the shape (); wanted is (5,)", lambda cut: any(found(cut))),
    ("that calls qwen3_ref.tokenizer.pre_tokenize", lambda cut: [tokenizer.pre_tokenize("a") != cut("a")]),
]
ALSO_RIGHT: dict[str, list[Any]] = {
    "join": [in_characters, by_popping, as_array],
    "most_frequent": [
        lambda words, counts: top(pairs(words, counts)),
        spread_out,
        by_sorting,
    ],
    "encode": [oldest_place_by_place, recursive, lambda ids, merges: in_turn(ids, aged(merges))],
    "stream": [by_hand, prefixes],
    "diagnose": [found, lambda cut: np.array(found(cut)), longer_tests],
}
MISTAKES = {
    "join": JOIN,
    "most_frequent": MOST_FREQUENT,
    "encode": ENCODE,
    "stream": STREAM,
    "diagnose": DIAGNOSE,
}
