"""Replies back to messages: the thoughts, the answer and the tool calls in what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from qwen3_ref.arrays import require_list
from qwen3_ref.calls import CALL, END_CALL, read_calls, schemas_of
from qwen3_ref.chat import THINKERS, Json, Message, Template, require_options
from qwen3_ref.tokenizer import Tokenizer

THINK, END_THINK = "<think>", "</think>"
ENDS = ("<|im_end|>", "<|endoftext|>")
Part = Literal["mark", "reasoning", "answer", "end"]
T = TypeVar("T", int, str)


class Splitter(Generic[T]):
    """Takes a reply apart as it comes: says of each id which part it belongs to.

    `marks`: the id of each mark by its name (`tokenizer.control_tokens` will do); one of <think>,
    </think>, <tool_call> and </tool_call> that is not there is not looked for. `ends`: the stop ids.
    `inside`: the prompt has opened the thought. `closed`: it has opened and closed it (non-thinking
    mode). Text is taken apart by the same rules, in pieces whose marks stand for themselves.

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


MOST_PROBLEMS = 20
_MARKS = (THINK, END_THINK, CALL, END_CALL, *ENDS, "<|im_start|>")
_SPLIT = re.compile("(" + "|".join(map(re.escape, _MARKS)) + ")")
_AS_THEMSELVES = {mark: mark for mark in _MARKS}
Piece = tuple[str, str]  # text; and the same again if it is a mark that counts, else ""


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
        """The turn as a message for the next `render_chat`, which says the same there.

        A content with "</think>" in it comes with its reasoning, be it empty: the official template
        takes the mark for the end of a thought otherwise, and drops what stands before it.
        """
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning is not None or END_THINK in self.content:
            message["reasoning_content"] = self.reasoning or ""
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": call} for call in self.tool_calls]
        return message


def parse_reply(
    reply: str | Sequence[int],
    *,
    template: Template = "qwen3",
    enable_thinking: bool = True,
    tools: Sequence[Json] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Reply:
    """What a model wrote after the generation prompt, taken apart: the inverse of `render_chat`.

    reply: the text, or better the ids with their `tokenizer`: of ids the control tokens alone are
    marks, where decoded text cannot tell them from the same characters typed out.

    Everything counts up to the first "<|im_end|>" or "<|endoftext|>", or to the end if there is none.
    Thoughts are what stands before the first "</think>", with or without "<think>" in front, since the
    prompt of "qwen3-thinking-2507" has opened the block already, so that there a text without
    "</think>" is all thought, cut off. A "</think>" inside a tool call closes nothing. With
    `enable_thinking=False` the prompt has closed the block, so only a block that the reply itself
    begins with counts. The Instruct and Coder templates know no thoughts. A second "</think>" behind
    the thought is a problem, since the model may have thought on; it stays in the content. (vLLM's
    parser drops it, and lets a "<tool_call>" end the thought.)

    Calls: see `qwen3_ref.calls`. The values of Coder's XML are strings. `tools` (the definitions that
    the prompt had) turns them into the types of their schemas; a value that does not fit its type is a
    problem, and stays a string. The JSON of the other templates has types of its own.

    Malformed text never raises, and takes linear time: see `Reply.problems`. Raises ValueError for an
    unknown template, a switch that is no bool, tools that are no list of dicts, or ids that have no
    tokenizer or that it does not know.
    """
    require_options(template, tools, enable_thinking=enable_thinking)
    problems: list[str] = []
    pieces = _pieces(reply, tokenizer)
    if (end := next((i for i, (_, mark) in enumerate(pieces) if mark in ENDS), None)) is not None:
        if any(mark not in ENDS and text.strip() for text, mark in pieces[end:]):
            problems.append("there is text after the end of the turn; it is left out.")
        del pieces[end:]
    if any(mark == "<|im_start|>" for _, mark in pieces):
        problems.append("a new turn starts before this one has ended.")
    reasoning, complete = None, True
    if template in THINKERS:
        reasoning, pieces, complete = _thoughts(pieces, template, enable_thinking, problems)
    marks, at = {}, 0
    for text, mark in pieces:
        if mark in (CALL, END_CALL):
            marks[at] = mark
        at += len(text)
    schemas = schemas_of(tools or ()) if template == "qwen3-coder" else None
    found = read_calls("".join(text for text, _ in pieces), marks, schemas)
    problems += found.problems
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"there are {len(problems) - MOST_PROBLEMS} more problems."]
    return Reply(reasoning, found.content, found.calls, complete and found.complete, tuple(problems))


def _pieces(reply: str | Sequence[int], tokenizer: Tokenizer | None) -> list[Piece]:
    """A reply cut at the marks that count."""
    if isinstance(reply, str):
        return [(text, _AS_THEMSELVES.get(text, "")) for text in _SPLIT.split(reply) if text]
    if not isinstance(tokenizer, Tokenizer) or not hasattr(reply, "__iter__"):
        raise ValueError("a reply is a string, or a list of ids with tokenizer=, which knows their text.")
    names = {tokenizer.control_tokens[mark]: mark for mark in _MARKS if mark in tokenizer.control_tokens}
    runs: list[tuple[list[int], str]] = []
    for token in require_list("a reply", reply):
        mark = names.get(token, "")
        if mark or not runs or runs[-1][1]:
            runs.append(([], mark))
        runs[-1][0].append(token)
    return [(mark or tokenizer.decode(ids), mark) for ids, mark in runs]


def _thoughts(
    pieces: list[Piece], template: str, thinking: bool, problems: list[str]
) -> tuple[str | None, list[Piece], bool]:
    """Reasoning, the rest, and whether the block is closed."""
    begins = next((mark for text, mark in pieces if text.strip()), "") == THINK
    opened = template == "qwen3-thinking-2507" or (thinking and _opened_before([m for _, m in pieces]))
    if not (begins or opened or thinking):
        return None, pieces, True
    splitter = Splitter(_AS_THEMSELVES, inside=opened and not begins)
    before: list[Piece] = []
    thought: list[Piece] = []
    after: list[Piece] = []
    for piece in pieces:
        first, part = not splitter.closed, splitter.feed(piece[1])
        if not first:  # the first thought is the thought
            after.append(piece)
        elif part != "mark":
            (thought if part == "reasoning" else before).append(piece)
    if splitter.thoughts == 0:
        return None, pieces, True
    outside = [] if begins else before
    if outside:
        problems.append("there is text before <think>; it is kept in front of the content.")
    if not splitter.closed:
        problems.append("<think> is not closed: the reply stops before its answer.")
    if splitter.thoughts > 1:
        problems.append("there is a second <think> behind the thought; it is kept in the content.")
    if splitter.closed_again:
        problems.append("there is a second </think> behind the thought; it is kept in the content.")
    reasoning = "".join(text for text, _ in thought).strip("\n") or None
    return reasoning, _unindented(outside + after), splitter.closed


def _unindented(pieces: list[Piece]) -> list[Piece]:
    """Without the line ends at the beginning, which the template leaves out too."""
    for i, (text, mark) in enumerate(pieces):
        if stripped := text.lstrip("\n"):
            return [(stripped, mark), *pieces[i + 1 :]]
    return []


def _opened_before(marks: list[str]) -> bool:
    """Whether a thought is closed that only the prompt can have opened: the first think mark is
    </think>, and it does not stand in a call, between <tool_call> and </tool_call>."""
    in_call = seen = False
    for mark in marks:
        if mark == THINK and not in_call:
            return seen
        if mark == CALL and seen:
            return True
        seen = (seen or mark == END_THINK) and mark != END_CALL
        in_call = mark == CALL or (in_call and mark != END_CALL)
        if seen and not in_call:
            return True
    return seen
