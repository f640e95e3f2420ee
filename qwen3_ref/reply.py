"""Replies back to messages: the thoughts, the answer and the tool calls in what a model wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from qwen3_ref.chat import Json, Message, Template, _check

THINK, END_THINK, CALL, END_CALL = "<think>", "</think>", "<tool_call>", "</tool_call>"
ENDS = ("<|im_end|>", "<|endoftext|>")
Part = Literal["mark", "reasoning", "answer", "end"]
T = TypeVar("T", int, str)


class Splitter(Generic[T]):
    """Takes a reply apart as it comes: says of each id which part it belongs to.

    `marks`: the id of each mark by its name (`tokenizer.control_tokens` will do; of the four named
    above, a mark that is not there is not looked for). `ends`: the stop ids. `inside`: the prompt has
    opened the thought. `closed`: it has opened and closed it (non-thinking mode). Text is taken apart
    by the same rules, in pieces whose marks stand for themselves.

    A `<think>` opens a thought wherever it stands but in a thought or a tool call, and the next
    `</think>` closes it. What is thought of a late, a second or an unclosed one is for the user to say.
    """

    def __init__(
        self, marks: Mapping[str, T], ends: Collection[T] = (), *, inside: bool = False, closed: bool = False
    ) -> None:
        self._think: T | None = marks.get(THINK)
        self._end_think: T | None = marks.get(END_THINK)
        self._call: T | None = marks.get(CALL)
        self._end_call: T | None = marks.get(END_CALL)
        self._ends: Collection[T] = ends
        self.inside = inside
        """Whether the next id belongs to a thought. It stays true if the reply ends there."""
        self.thoughts = int(inside or closed)
        """How many were opened, by the prompt or by the reply."""
        self.closed = closed
        """Whether a thought was closed."""
        self.closed_again = 0
        """`</think>` in the answer behind a closed thought: the model thought on without saying so."""
        self.in_call = False
        self.over = False

    def feed(self, token: T) -> Part:
        """The part of the next id: "mark" if it opens or closes a thought; "reasoning"; "answer", tool
        calls with their marks and all other marks included; "end" for a stop id and all that follows."""
        if self.over or token in self._ends:
            self.over = True
            return "end"
        if self.inside:
            if token != self._end_think:
                return "reasoning"
            self.inside, self.closed = False, True
            return "mark"
        if token == self._think and not self.in_call:
            self.inside = True
            self.thoughts += 1
            return "mark"
        self.closed_again += token == self._end_think and self.closed and not self.in_call
        self.in_call = token == self._call or (self.in_call and token != self._end_call)
        return "answer"


_AS_THEMSELVES = {mark: mark for mark in (THINK, END_THINK, CALL, END_CALL)}
_SPLIT = re.compile("(" + "|".join(map(re.escape, (*_AS_THEMSELVES, *ENDS, "<|im_start|>"))) + ")")


@dataclass(frozen=True)
class Reply:
    """An assistant's turn in parts.

    `reasoning`: the thoughts, None if there are none (or an empty block). `content`: the answer; a
    tool call that cannot be read stays in it, as text. `tool_calls`: dicts with `name` and
    `arguments` (a dict). `complete`: False if the text stops inside a think block or a tool call.
    `problems`: a sentence for each thing that is wrong; empty for a well-formed reply.
    """

    reasoning: str | None
    content: str
    tool_calls: list[Json] = field(default_factory=list)
    complete: bool = True
    problems: tuple[str, ...] = ()

    def message(self) -> Message:
        """The turn as a message for the next `render_chat`."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": call} for call in self.tool_calls]
        return message


def parse_reply(
    text: str,
    *,
    template: Template = "qwen3",
    enable_thinking: bool = True,
    tools: Sequence[Json] | None = None,
) -> Reply:
    """What a model wrote after the generation prompt, taken apart: the inverse of `render_chat`.

    Everything counts up to the first "<|im_end|>" or "<|endoftext|>", or to the end if there is none
    (decoded text cannot tell a control token from the same characters typed out). Thoughts are what
    stands before the first "</think>", with or without "<think>" in front, since the prompt of
    "qwen3-thinking-2507" has opened the block already, so that there a text without "</think>" is all
    thought, cut off. With `enable_thinking=False` the prompt has closed the block, so only a block
    that the reply itself begins with counts. The Instruct and Coder templates know no thoughts.

    The values of Coder's XML calls are strings. `tools` (the definitions that the prompt had) turns
    them into the types of their schemas; a value that does not fit its type is a problem, and stays a
    string. The JSON of the other templates has types of its own.

    Malformed text never raises: see `Reply.problems`. Raises ValueError for an unknown template, or
    tools that are no list of dicts.
    """
    _check([{"role": "assistant", "content": text}], tools, template)
    problems: list[str] = []
    pieces = [piece for piece in _SPLIT.split(text) if piece]
    if (end := next((i for i, piece in enumerate(pieces) if piece in ENDS), None)) is not None:
        if any(piece not in ENDS and piece.strip() for piece in pieces[end:]):
            problems.append("there is text after the end of the turn; it is left out.")
        del pieces[end:]
    if "<|im_start|>" in pieces:
        problems.append("a new turn starts before this one has ended.")
    reasoning, content, complete = None, "".join(pieces), True
    if template in ("qwen3", "qwen3-thinking-2507"):
        reasoning, content, complete = _thoughts(pieces, template, enable_thinking, problems)
    types = _schemas(tools or ()) if template == "qwen3-coder" else None
    content, calls, whole = _tool_calls(content, types, problems)
    return Reply(reasoning, content, calls, complete and whole, tuple(problems))


def _thoughts(
    pieces: list[str], template: str, thinking: bool, problems: list[str]
) -> tuple[str | None, str, bool]:
    """Reasoning, the rest, and whether the block is closed."""
    begins = next((piece for piece in pieces if piece.strip()), "") == THINK
    inside = not begins and (template == "qwen3-thinking-2507" or (thinking and _opened_before(pieces)))
    if not begins and not inside and not thinking:
        return None, "".join(pieces), True
    splitter = Splitter(_AS_THEMSELVES, inside=inside)
    before: list[str] = []
    thought: list[str] = []
    after: list[str] = []
    for piece in pieces:
        first, part = not splitter.closed, splitter.feed(piece)
        if not first:  # the first thought is the thought
            after.append(piece)
        elif part != "mark":
            (thought if part == "reasoning" else before).append(piece)
    if splitter.thoughts == 0:
        return None, "".join(before), True
    outside = "" if begins else "".join(before)
    if outside:
        problems.append("there is text before <think>; it is kept in front of the content.")
    if not splitter.closed:
        problems.append("<think> is not closed: the reply stops before its answer.")
    if splitter.thoughts > 1:
        problems.append("there is a second <think> behind the thought; it is kept in the content.")
    if splitter.closed_again:
        problems.append("there is a second </think> behind the thought; it is kept in the content.")
    content = (outside + "".join(after)).lstrip("\n")
    return "".join(thought).strip("\n") or None, content, splitter.closed


def _opened_before(pieces: list[str]) -> bool:
    """Whether a thought is closed that only the prompt can have opened: the first think mark is
    </think>, and it does not stand in a call, between <tool_call> and </tool_call>."""
    in_call = seen = False
    for piece in pieces:
        if piece == THINK and not in_call:
            return seen
        if piece == CALL and seen:
            return True
        seen = (seen or piece == END_THINK) and piece != END_CALL
        in_call = piece == CALL or (in_call and piece != END_CALL)
        if seen and not in_call:
            return True
    return seen


def _tool_calls(text: str, types: Json | None, problems: list[str]) -> tuple[str, list[Json], bool]:
    """Content, calls, and whether every block is closed. `types` is None for JSON calls."""
    if "<tool_call>" not in text:
        return text, [], True
    at, n, rest = text.index("<tool_call>"), 0, ""
    content = text[:at].removesuffix("\n") if types is None else text[:at].strip()
    calls: list[Json] = []
    complete = True  # no block is cut off
    while (start := text.find("<tool_call>", at)) >= 0:
        n, rest, inside = n + 1, rest + text[at:start], start + len("<tool_call>")
        try:
            call, at, wrong = _json_call(text, inside) if types is None else _xml_call(text, inside, types)
            calls.append(call)
            problems += [f"<tool_call> {n} {what}; it is left a string." for what in wrong]
        except (ValueError, RecursionError) as error:
            closing = text.find("</tool_call>", inside)
            complete = closing >= 0
            at = closing + len("</tool_call>") if complete else len(text)
            content += text[start:at]
            wrong_how = f"cannot be read ({error})" if complete else "is not closed, the reply stops in it"
            problems.append(f"<tool_call> {n} {wrong_how}; it is kept in the content.")
    rest += text[at:]
    if rest.strip():
        problems.append("there is text after a tool call; it is kept at the end of the content.")
        content += rest
    return content, calls, complete


_CLOSE = re.compile(r"\s*</tool_call>")
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|</function>\s*</tool_call>)", re.DOTALL
)
_END = re.compile(r"\s*</function>\s*</tool_call>")
Read = tuple[Json, int, list[str]]  # a call, where it ends, values of another type


def _json_call(text: str, start: int) -> Read:
    """The JSON says itself where it ends: it may hold "</tool_call>"."""
    start += len(text[start:]) - len(text[start:].lstrip())
    call, at = json.JSONDecoder().raw_decode(text, start)
    if not (end := _CLOSE.match(text, at)):
        raise ValueError("something other than </tool_call> follows its JSON")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError("its JSON is not an object with a name")
    if not isinstance(call.get("arguments"), dict):
        raise ValueError("it has no object of arguments")
    return {"name": call["name"], "arguments": call["arguments"]}, end.end(), []


def _xml_call(text: str, start: int, types: Json) -> Read:
    if not (function := _FUNCTION.match(text, start)):
        raise ValueError("it does not begin with <function=NAME>")
    at, wrong = function.end(), []
    arguments: Json = {}
    schemas = types.get(function[1])
    while parameter := _PARAMETER.match(text, at):
        key, value = parameter.groups()
        schema = schemas.get(key) if isinstance(schemas, dict) else None
        kind = schema.get("type") if isinstance(schema, dict) else None
        try:
            arguments[key] = _typed(value, kind)
        except (ValueError, RecursionError):
            arguments[key] = value
            wrong.append(f"gives {key!r} as {value!r}, which is not of type {kind!r}")
        at = parameter.end()
    if not (end := _END.match(text, at)):
        raise ValueError("a parameter or the function is not closed in the form of the template")
    return {"name": function[1], "arguments": arguments}, end.end(), wrong


def _schemas(tools: Sequence[Json]) -> Json:
    """The schemas of the parameters, by the name of their function."""
    found = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, dict) and isinstance(function.get("parameters"), dict):
            found[str(function.get("name"))] = function["parameters"].get("properties")
    return found


def _typed(value: str, kind: Any) -> Any:
    """A value of Coder's XML as its schema's type or types. Raises ValueError if it is of none."""
    fits = {"object": dict, "array": list, "integer": int, "number": int | float, "null": type(None)}
    kinds = {str(k) for k in (kind if isinstance(kind, list) else [kind])}
    if "string" in kinds or not kinds & {"boolean", *fits}:
        return value
    word = value.strip()
    if word in ("null", "None"):  # as JSON and as the template write it, whatever the type
        return None
    if "boolean" in kinds and word.lower() in ("true", "false"):
        return word.lower() == "true"
    found = json.loads(word)
    if isinstance(found, bool) or not any(isinstance(found, fits[k]) for k in kinds & fits.keys()):
        raise ValueError
    return found
