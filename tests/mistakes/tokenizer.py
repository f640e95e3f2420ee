"""Of 01_tokenizer."""

from __future__ import annotations

import codecs
from collections import Counter
from typing import Any

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


def pairs(words: list[list[int]], counts: list[int]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in zip(word, word[1:], strict=False):
            found[pair] += count
    return found


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
    for (a, b), new in merges.items():
        spelled[new] = [*spelled.get(a, [a]), *spelled.get(b, [b])]
    out = []
    while ids:
        best = max((t for t, s in spelled.items() if ids[: len(s)] == s), key=lambda t: len(spelled[t]))
        out.append(best)
        ids = ids[len(spelled[best]) :]
    return out


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
    ("changes the list that is its argument number 1", in_place),
    ("you lose the last id", lambda ids, pair, new: joined(ids, pair, new, last=False)),
    ("from right to left", from_the_right),
    ("as they were", lambda ids, pair, new: ids),
    ("one by one", lambda ids, pair, new: [new if i in pair else i for i in ids]),
]
MOST_FREQUENT: list[Mistake] = [
    ("multiply by its count", lambda words, counts: top(pairs(words, [1] * len(words)))),
    ("twice in a word counts twice", once_a_word),
    ("from one word into the next", across),
    ("wanted are neighbours", two_ids),
    ("not how often", lambda words, counts: [pairs(words, counts).most_common(1)[0][1]]),
    ("the shape (); wanted is (2,)", lambda words, counts: pairs(words, counts).most_common(1)[0][1]),
]
ENCODE: list[Mistake] = [
    ("you take the youngest merge", lambda ids, merges: encoded(ids, merges, max)),
    ("you take the leftmost pair", lambda ids, merges: encoded(ids, merges, leftmost)),
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
    ("your tests see no bug at all", one_text),
    ("you do not see", lambda cut: ["".join(cut(t)) != t for t in ("caf\u00e9", "12", "DON'T", ".x", ";\n")]),
    ("the shape (); wanted is (5,)", lambda cut: any(found(cut))),
    ("that calls qwen3_ref.tokenizer.pre_tokenize", lambda cut: [tokenizer.pre_tokenize("a") != cut("a")]),
]
MISTAKES = {
    "join": JOIN,
    "most_frequent": MOST_FREQUENT,
    "encode": ENCODE,
    "stream": STREAM,
    "diagnose": DIAGNOSE,
}
