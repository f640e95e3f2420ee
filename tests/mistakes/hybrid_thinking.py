"""Of 11_hybrid_thinking."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.mistakes import Mistake

FLAG = r"(?<!\S)/(?:no_)?think(?!\S)"


def flags(texts: list[str]) -> list[bool]:
    return [flag == "/think" for flag in re.findall(FLAG, " ".join(texts))]


def last_of(texts: list[str], pattern: str = FLAG) -> bool:
    found = re.findall(pattern, " ".join(texts))
    return not found or found[-1].strip() == "/think"


def by_turns_first(said: list[str]) -> bool:
    """Goes back turn by turn, and takes the first flag of a turn."""
    for text in reversed(said):
        if found := flags([text]):
            return found[0]
    return True


def at_the_end(said: list[str]) -> bool:
    for text in reversed(said):
        if text.split()[-1] in ("/think", "/no_think"):
            return text.split()[-1] == "/think"
    return True


LAST_FLAG: list[Mistake] = [
    ("look at the earlier turns too", lambda said: last_of(said[-1:])),
    ("not the first", lambda said: (flags(said) or [True])[0]),
    ("that is the default", lambda said: bool(flags(said)) and flags(said)[-1]),
    ("takes a /no_think back", lambda said: "/no_think" not in " ".join(said)),
    ("of two flags in one turn", by_turns_first),
    ("not only at its end", at_the_end),
    ("not part of a longer one", lambda said: last_of(said, r"/(?:no_)?think")),
    ("the wrong way round", lambda said: not last_of(said)),
    ("not part of a longer one", lambda said: last_of(said, r"/(?:no_)?think\b")),
    ("look at the earlier turns too", lambda said: True),
    ("not the first", lambda said: " ".join(said).count("/think") >= " ".join(said).count("/no_think")),
]


def kept(
    query: Callable[[str, str], bool], keep: Callable[[str], bool] = lambda role: role == "assistant"
) -> Callable[[list[tuple[str, str]]], list[bool]]:
    """Keeps thoughts behind the last turn that `query` takes for one."""

    def answer(turns: list[tuple[str, str]]) -> list[bool]:
        found = [i for i, turn in enumerate(turns) if query(*turn)]
        last = found[-1] if found else len(turns) - 1
        return [keep(role) and i > last for i, (role, _) in enumerate(turns)]

    return answer


def is_query(role: str, text: str) -> bool:
    return role == "user" and not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))


RIGHT = kept(is_query)


def last_alone(turns: list[tuple[str, str]]) -> list[bool]:
    right = RIGHT(turns)
    last = max(i for i, (role, _) in enumerate(turns) if role == "assistant")
    return [w and i == last for i, w in enumerate(right)]


def first_query(turns: list[tuple[str, str]]) -> list[bool]:
    first = next(i for i, (role, _) in enumerate(turns) if role == "user")
    return [role == "assistant" and i > first for i, (role, _) in enumerate(turns)]


KEPT: list[Mistake] = [
    ("thoughts of a chain of calls are kept", lambda turns: [False] * len(turns)),
    ("all thoughts are dropped", lambda turns: [role == "assistant" for role, _ in turns]),
    ("asks nothing", kept(lambda role, text: role == "user")),
    ("a tool's result is no question", kept(lambda role, text: role in ("user", "tool"))),
    ("only begins", kept(lambda r, t: r == "user" and not t.startswith("<tool_response>"))),
    ("only ends", kept(lambda r, t: r == "user" and not t.endswith("</tool_response>"))),
    ("among its words", kept(lambda r, t: r == "user" and "<tool_response>" not in t)),
    ("white space around it", kept(lambda role, text: is_query(role, text.strip()))),
    ("a system turn is no question", kept(lambda role, text: role == "system" or is_query(role, text))),
    ("should be", lambda turns: [True] * len(turns)),
    ("the shape", lambda turns: [i for i, w in enumerate(RIGHT(turns)) if w]),
    ("not the last alone", last_alone),
    ("take the last", first_query),
    ("the wrong way round", lambda turns: [not w for w in RIGHT(turns)]),
    ("only an assistant has thoughts", kept(is_query, lambda role: True)),
]


def start(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    opened, in_call = ids[0] == opening, False
    for i, token in enumerate(ids):
        if token == closing and not in_call:
            return i + 1
        if not opened:
            in_call = token == call or (in_call and token != end_call)
    return len(ids) if opened else 0


def calls_everywhere(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    """Takes a <tool_call> in a thought for one."""
    in_call = False
    for i, token in enumerate(ids):
        if token == closing and not in_call:
            return i + 1
        in_call = token == call or (in_call and token != end_call)
    return len(ids) if ids[0] == opening else 0


def no_calls(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    if closing in ids:
        return ids.index(closing) + 1
    return len(ids) if ids[0] == opening else 0


def last_close(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    first = start(ids, opening, closing, call, end_call)
    return len(ids) - ids[::-1].index(closing) if first and closing in ids else first


def needs_opening(ids: list[int], o: int, c: int, call: int, end: int) -> int:
    return start(ids, o, c, call, end) if ids[0] == o else 0


def all_thought(ids: list[int], o: int, c: int, call: int, end: int) -> int:
    return start(ids, o, c, call, end) or len(ids)


def cut_is_answer(ids: list[int], o: int, c: int, call: int, end: int) -> int:
    found = start(ids, o, c, call, end)
    return 0 if found == len(ids) and ids[-1] != c else found


def on_the_mark(ids: list[int], o: int, c: int, call: int, end: int) -> int:
    found = start(ids, o, c, call, end)
    return found - 1 if found and ids[found - 1] == c else found


STARTS: list[Mistake] = [
    ("the first </think> ends the thought", last_close),
    ("within a tool call closes nothing", no_calls),
    ("opened by the prompt", needs_opening),
    ("without any mark all is answer", all_thought),
    ("leaves no answer", cut_is_answer),
    ("add 1", on_the_mark),
    ("a word like any other", calls_everywhere),
    ("one too far", lambda *a: start(*a) + 1),
    ("where the thought begins", lambda ids, o, *rest: int(ids[0] == o)),
    ("is not in list", lambda ids, o, c, *rest: ids.index(c) + 1),
    ("should be", lambda ids, *rest: len(ids)),
]
MISTAKES = {"last_flag": LAST_FLAG, "kept_thoughts": KEPT, "answer_starts": STARTS}


def backwards(said: list[str]) -> bool:
    for word in reversed(" ".join(said).split()):
        if word in ("/think", "/no_think"):
            return word == "/think"
    return True


def forwards(said: list[str]) -> bool:
    thinks = True
    for text in said:
        for word in text.split():
            thinks = {"/think": True, "/no_think": False}.get(word, thinks)
    return thinks


def from_behind(turns: list[tuple[str, str]]) -> list[bool]:
    found, asked = [], not any(is_query(*turn) for turn in turns)
    for role, text in reversed(turns):
        asked = asked or is_query(role, text)
        found.append(role == "assistant" and not asked)
    return found[::-1]


def without_calls(ids: list[int], opening: int, closing: int, call: int, end_call: int) -> int:
    """Where the prompt may have opened the thought, calls are passed over at once."""
    i = 0
    while i < len(ids):
        if ids[i] == closing:
            return i + 1
        if ids[i] == call and ids[0] != opening:
            while i < len(ids) and ids[i] != end_call:
                i += 1
        i += 1
    return len(ids) if ids[0] == opening else 0


ALSO_RIGHT = {
    "last_flag": [backwards, forwards],
    "kept_thoughts": [RIGHT, from_behind],
    "answer_starts": [start, without_calls],
}
