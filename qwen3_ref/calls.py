"""Tool calls in what a model wrote: the JSON of most templates and Coder's XML, read as far as it is safe.

Models leave out marks, close nothing, and write Python for JSON. What can mean one thing only is read,
and what it lacked is told; what cannot stays text, and that is told too. Nothing is dropped in silence.
Where vLLM's parsers (hermes, qwen3_coder) read a slip, so does this: arguments that are absent or null,
a call without `</tool_call>`, Coder's calls without `<tool_call>` or `</parameter>`, Python literals.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3_ref.chat import Json
from qwen3_ref.store.errors import quoted
from qwen3_ref.store.files import no_key_twice

CALL, END_CALL = "<tool_call>", "</tool_call>"
Read = tuple[Json, int, bool, list[str]]  # a call, where it ends, whether by its mark, what it lacked
DEEPEST = 100  # levels of lists and objects in a call's arguments
NESTED = 8  # references and unions within each other in a schema


@dataclass(frozen=True)
class Calls:
    """What stands around the calls, the calls, whether each block is closed, and what was wrong."""

    content: str
    calls: list[Json]
    complete: bool
    problems: list[str]


def read_calls(text: str, marks: Mapping[int, str], schemas: Json | None) -> Calls:
    """Take the calls out of an answer, in time linear in its length.

    `marks`: where its `<tool_call>` and `</tool_call>` stand, in order (which of them count is for the
    caller to say: all in text, the control tokens alone in ids). `schemas`: of the parameters, by the
    name of their function, for Coder's XML; None for JSON.
    """
    problems: list[str] = []
    calls: list[Json] = []
    kept: list[str] = []  # the text before and between the calls that could be read
    blocks: list[tuple[int, int]] = []
    complete, stray, at, read_to = True, False, 0, 0
    ends = [place for place, mark in marks.items() if mark == END_CALL]
    openings = [(place, place + len(CALL), False) for place, mark in marks.items() if mark == CALL]
    whole = [place for place, inside, _ in openings if schemas is None or _FUNCTION.match(text, inside)]
    if schemas is not None:
        openings = sorted(openings + _bare_functions(text, openings))
    every, tail = [start for start, _, _ in openings], len(text.rstrip())
    for start, inside, bare in openings:
        if start < at:  # within a block that has been dealt with
            continue
        stray = stray or bool(blocks and text[at:start].strip())
        n, following = len(blocks) + 1, _next(every if bare else whole, inside + bare, len(text))
        try:
            if schemas is None:
                call, end, closed, notes = _json_call(text, inside, marks)
            else:
                call, end, closed, notes = _xml_call(text, inside, following, marks, schemas, bare)
        except (ValueError, RecursionError) as error:
            at = start
            if bare:
                problems.append(f"a <function=...> without <tool_call> is left in the content ({error}).")
                continue
            closing, at = _next(ends, inside, len(text)), following
            if closing < following:
                at, how = closing + len(END_CALL), f"cannot be read ({error})"
            elif following < tail:
                how = "is not closed before the next one"
            else:
                complete, how = False, "is not closed, the reply stops in it"
            problems.append(f"<tool_call> {n} {how}; it is kept in the content.")
        else:
            complete = complete and (bare or closed or end < tail)
            kept.append(text[read_to:start])
            calls.append(call)
            problems += [f"<tool_call> {n} {note}." for note in notes]
            at = read_to = end
        blocks.append((start, at))
    if blocks and (stray or text[at:].strip()):
        problems.append("there is text after a tool call; it is kept at the end of the content.")
    starts = [start for start, _ in blocks]
    for place in ends:
        if not (i := bisect_right(starts, place)) or place >= blocks[i - 1][1]:
            problems.append("there is a </tool_call> without its <tool_call>; it is kept in the content.")
            break
    return Calls(_around(kept, text[read_to:], schemas is not None), calls, complete, problems)


def _next(places: list[int], at: int, otherwise: int) -> int:
    """The first of some sorted places that is not before `at`."""
    i = bisect_left(places, at)
    return places[i] if i < len(places) else otherwise


def _around(kept: list[str], rest: str, xml: bool) -> str:
    """The content: what stood before the first call, without the line end that set it apart, and
    whatever stood between and behind the calls, if that is more than white space."""
    if not kept:
        return rest
    content = [kept[0].strip() if xml else kept[0].removesuffix("\n")]
    content += [piece.strip("\n") for piece in (*kept[1:], rest) if piece.strip()]
    return "\n".join(content if content[0] else content[1:])


# -- JSON ------------------------------------------------------------------------------------------

# A "<" outside of strings ends the JSON: so a string may hold marks, and a broken call is left early.
_EXTENT = re.compile(r'(?:[^"<]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_NAME = re.compile(r'[^"\\\x00-\x1f]+')


def _json_call(text: str, inside: int, marks: Mapping[int, str]) -> Read:
    end = _EXTENT.match(text, inside).end()  # type: ignore[union-attr]
    body, notes = text[inside:end].lstrip(), []
    try:
        call, read = _STRICT.raw_decode(body)
    except json.JSONDecodeError as error:
        if "control character" not in error.msg:
            raise
        call, read = _LOOSE.raw_decode(body)
        notes.append("has line ends or tabs in a string, where JSON wants \\n and \\t; they are kept")
    if body[read:].strip() or (end < len(text) and end not in marks):
        raise ValueError("something other than </tool_call> follows its JSON")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError("its JSON is not an object with a name")
    if not _NAME.fullmatch(call["name"]):
        raise ValueError(f"a function cannot be called {quoted(call['name'])}")
    arguments = call.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = _STRICT.decode(arguments)
        except ValueError:
            arguments = None  # refused below
        notes.append("gives its arguments in a string; the JSON in it is read")
    elif not arguments and not isinstance(arguments, int | float | list):
        arguments = {}  # absent, null or an empty string: a function without parameters
    others = [key for key in call if key not in ("name", "arguments")]
    if not isinstance(arguments, dict) or (others and "arguments" not in call):
        raise ValueError("it has no object of arguments")
    _require_depth(arguments)
    if others:
        notes.append(f"has {quoted(others)} beside its name and arguments; that is left out")
    closed = marks.get(end) == END_CALL
    if not closed:
        notes.append("is not closed; its JSON is whole, and is read")
    return {"name": call["name"], "arguments": arguments}, end + len(END_CALL) * closed, closed, notes


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{quoted(word)} is no number that JSON can hold")
    return number


# JSON as the standard has it: no NaN, no number beyond the doubles, no key twice.
_STRICT, _LOOSE = (
    json.JSONDecoder(
        strict=strict, parse_constant=_finite, parse_float=_finite, object_pairs_hook=no_key_twice
    )
    for strict in (True, False)
)


def _require_depth(value: Any) -> None:
    """Raise ValueError for what is nested so deep that it might not be written again."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")


# -- Coder's XML -----------------------------------------------------------------------------------

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>")
_BARE = re.compile(r"^[ \t]*(?=<function=[^>\n]+>\s*<(?:parameter=|/function>))", re.MULTILINE)
_TAG = re.compile(r"<parameter=([^>\n]+)>|</parameter>|</function>")
_BLANK = re.compile(r"\s*")


def _bare_functions(text: str, openings: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """Where a line begins with a function that has no <tool_call> before it."""
    opened = {_skip(text, inside) for _, inside, _ in openings}
    found = ((match.start(), match.end()) for match in _BARE.finditer(text))
    return [(start, inside, True) for start, inside in found if inside not in opened]


def _skip(text: str, at: int, stop: int | None = None) -> int:
    """The next place that is no white space."""
    return _BLANK.match(text, at, len(text) if stop is None else stop).end()  # type: ignore[union-attr]


class _Tags:
    """The tags of one call, between `at` and `stop`, and which of them close what."""

    def __init__(self, text: str, at: int, stop: int, marks: Mapping[int, str]) -> None:
        self.text, self.stop, self.marks = text, stop, marks
        self.tags = list(_TAG.finditer(text, at, stop))
        closing = [i for i, tag in enumerate(self.tags) if tag[0] == "</parameter>" and self._closes(i)]
        self.closing = set(closing)
        self.last_closing = closing[-1] if closing else -1

    def _closes(self, i: int) -> bool:
        """Whether a </parameter> is followed by what follows a parameter: else it belongs to a value."""
        after = _skip(self.text, self.tags[i].end(), self.stop)
        if i + 1 < len(self.tags) and self.tags[i + 1].start() == after:
            return bool(self.tags[i + 1][1]) or self.end_behind(i + 1) is not None
        return self.marks.get(after) == END_CALL

    def end_behind(self, i: int) -> tuple[int, bool] | None:
        """Where the call ends if tag i, a </function>, ends it, and whether by its mark."""
        if self.tags[i][0] != "</function>":
            return None
        after = _skip(self.text, self.tags[i].end(), self.stop)
        if self.marks.get(after) == END_CALL:
            return after + len(END_CALL), True
        return (self.tags[i].end(), False) if after == self.stop else None

    def own_line(self, i: int) -> bool:
        """Whether a tag has a line of its own, as the template writes it."""
        tag, text = self.tags[i], self.text
        return text[tag.start() - 1] == "\n" and text[tag.end() : tag.end() + 1] == "\n"


def _xml_call(text: str, inside: int, stop: int, marks: Mapping[int, str], schemas: Json, bare: bool) -> Read:
    if not (function := _FUNCTION.match(text, inside, stop)):
        raise ValueError("it does not begin with <function=NAME>")
    name, at = function[1], _skip(text, function.end(), stop)
    if bare and schemas and name not in schemas:
        raise ValueError(f"there is no function {quoted(name)}")
    found = _Tags(text, at, stop, marks)
    values: list[tuple[str, str]] = []
    notes: list[str] = []
    key: str | None = None
    begin, end = at, None
    for i, tag in enumerate(found.tags):
        ending = found.end_behind(i)
        if key is None:
            if tag.start() != at:
                break
            end = ending
            if not tag[1]:
                break
        elif i in found.closing or (tag[1] and found.own_line(i)) or (ending and i > found.last_closing):
            value = text[begin : tag.start()].removesuffix("\n")
            if i not in found.closing:
                if "</parameter>" in value:  # something follows it that should not
                    break
                notes.append(f"does not close its parameter {quoted(key)}")
            values.append((key, value))
            key, at, end = None, _skip(text, tag.end(), stop), ending
        if tag[1] and key is None:
            key, begin = tag[1], tag.end() + (text[tag.end() : tag.end() + 1] == "\n")
        if end:
            break
    if end is None and key is None and marks.get(at) == END_CALL:
        end = at + len(END_CALL), True
        notes.append("does not close its function")
    if end is None:
        raise ValueError("a parameter or the function is not closed in the form of the template")
    if bare:
        notes.append("has no <tool_call> before it; it is read all the same")
    elif not end[1]:
        notes.append("is not closed; its function is, and is read")
    arguments = _typed_arguments(values, schemas.get(name), notes)
    return {"name": name, "arguments": arguments}, *end, notes


def _typed_arguments(values: Sequence[tuple[str, str]], schema: Any, notes: list[str]) -> Json:
    """The texts of the parameters as values of their types; a note for each that is of none."""
    arguments: Json = {}
    for given, value in values:
        if given in arguments:
            raise ValueError(f"it gives {quoted(given)} twice")
        own = _of(_of(schema, "properties"), given)
        try:
            arguments[given] = typed(value, own, schema)
        except (ValueError, RecursionError):
            arguments[given] = value
            kinds = " or ".join(dict.fromkeys(repr(kind) for kind, _ in _kinds(own, schema)))
            which = f"gives {quoted(given)} as {quoted(value)}, which is not of type {kinds}"
            notes.append(f"{which}; it is left a string")
    return arguments


def schemas_of(tools: Sequence[Json]) -> Json:
    """The schemas of the parameters, by the name of their function."""
    found = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, dict):
            found[str(function.get("name"))] = function.get("parameters")
    return found


# -- values by their schema ------------------------------------------------------------------------

_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _kinds(schema: Any, root: Any, seen: tuple[str, ...] = ()) -> list[tuple[str, list[Any] | None]]:
    """What a value may be: names of types of JSON, each with the values that are allowed (None: all).
    A schema that says nothing of the type allows a string. `root` is where "#/..." points into."""
    if not isinstance(schema, dict) or len(seen) > NESTED:
        return [("string", None)]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(branches := schema.get(word), list) and branches:
            kinds = [kind for branch in branches for kind in _kinds(branch, root, (*seen, word))]
            return list({repr(kind): kind for kind in kinds}.values())
    if isinstance(reference := schema.get("$ref"), str):
        target = root if reference.startswith("#/") and reference not in seen else None
        for step in reference[2:].split("/"):
            target = _of(target, step.replace("~1", "/").replace("~0", "~"))
        return _kinds(target, root, (*seen, reference))
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    allowed = allowed if isinstance(allowed, list) else None
    kind = schema.get("type")
    if kind is None and allowed is not None:
        of = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
        return [(name, allowed) for name in dict.fromkeys(of.get(type(value), "null") for value in allowed)]
    known = [k for k in (kind if isinstance(kind, list) else [kind]) if k in (*_TYPES, "string", "null")]
    if isinstance(kind, list | str) and known:
        return [(name, allowed) for name in known]
    return [("string", allowed)]


def typed(value: str, schema: Any, root: Any = None) -> Any:
    """A value of Coder's XML as what its schema says, a string before all else if it may be one.

    Understood are type (one or several), anyOf, oneOf, allOf, enum, const, and $ref into `root`, the
    schema of all parameters. Raises ValueError if the value is none of it.
    """
    kinds, word = _kinds(schema, root), value.strip()
    names, null = [name for name, _ in kinds], word in ("null", "None")
    if null and ("null" in names or "string" not in names):  # as JSON and as the template write it
        return None
    for name, allowed in sorted(kinds, key=lambda kind: kind[0] != "string"):
        if name == "string":
            candidates: list[Any] = [value, word] if allowed is not None else [value]
        else:
            candidates = [_plain(word, name)] if name != "null" else []
        for found in candidates:
            fits = name == "string" or isinstance(found, _TYPES[name])
            if isinstance(found, bool) and name != "boolean":
                fits = False
            if fits and (allowed is None or any(type(a) is type(found) and a == found for a in allowed)):
                return found
    raise ValueError


def _plain(word: str, name: str) -> Any:
    """A word as JSON, or as the Python that models write for it; None if it is neither."""
    if name == "boolean":
        return {"true": True, "false": False}.get(word.lower())
    try:
        found = _LOOSE.decode(word)
    except (ValueError, RecursionError):
        if name not in ("array", "object") or len(word) > 10_000:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unknown escapes
                found = ast.literal_eval(word)
            found = _STRICT.decode(json.dumps(found, allow_nan=False)) if _is_json(found) else None
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    try:
        _require_depth(found)
    except ValueError:
        return None
    return found


def _is_json(value: Any) -> bool:
    """Whether a Python value is made of what JSON has, and its keys are strings."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float)
