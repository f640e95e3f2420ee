"""The tool loop: a model calls functions, reads what they return, and goes on until it answers.

A tool is a plain Python function with a JSON schema. What goes wrong in one (an unknown name, arguments
that do not fit, an exception) goes back to the model as text that begins with "error", so that it can
try again; a call that cannot be read is no call, and stays in the answer with its problem named, as
vLLM's parsers leave it. Nothing that a tool returns or a user writes can open a turn, close a result or
make a call: `encode_chat` writes it as plain text, and calls are read from ids, where only the control
tokens that the model itself has written are marks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from qwen3_ref.arrays import require_whole
from qwen3_ref.chat import Json, Message, encode_chat
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.generation import Generated, generate
from qwen3_ref.decode.profile import Profile
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Reply, parse_reply
from qwen3_ref.store.errors import quoted
from qwen3_ref.tokenizer import Tokenizer

LONGEST_RESULT = 2000
"""Characters of a result that the model gets to read."""
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,),
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A function and how a model knows it: `schema` has `name`, `description` and `parameters`, a JSON
    schema of an object whose properties are the function's arguments; or, which is the form of OpenAI's
    interface, it is {"type": "function", "function": ...} around that. The prompt has it as it is given.

    Raises ValueError for a schema without a name, or what cannot be called.
    """

    function: Callable[..., Any]
    schema: Json

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"a tool's function is a {type(self.function).__name__}; give a function.")
        if not isinstance(self.schema, dict) or not isinstance(self.definition.get("name"), str):
            raise ValueError(
                "a tool's schema has no name; give {'type': 'function', 'function': {'name': ..., "
                "'parameters': {...}}}."
            )

    @property
    def definition(self) -> Json:
        """The schema without a wrapper: name, description and parameters."""
        inner = self.schema.get("function") if self.schema.get("type") == "function" else None
        return inner if isinstance(inner, dict) else self.schema

    @property
    def name(self) -> str:
        """By which it is called."""
        return str(self.definition["name"])


def run_call(tools: Sequence[Tool], call: Json) -> str:
    """What a call returns to the model: text as it is, anything else as JSON, errors as a sentence.

    call: `name` and `arguments`, as `parse_reply` gives them. Arguments must be those of the schema:
    none missing that is required, none that it does not know, each of its type. Never raises Exception.
    """
    tool = next((tool for tool in tools if tool.name == call.get("name")), None)
    if tool is None:
        there = ", ".join(tool.name for tool in tools) or "none"
        return f"error: there is no tool {quoted(call.get('name'))}; there is {there}."
    arguments = call.get("arguments")
    if problem := _misfit(tool, arguments):
        return f"error: {problem}"
    try:
        result = tool.function(**arguments)  # type: ignore[arg-type]  # a dict, says _misfit
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except Exception as error:
        text = f"error: {' '.join(str(error).split()) or type(error).__name__}"
    if len(text) > LONGEST_RESULT:
        text = f"{text[:LONGEST_RESULT]} (cut: the result has {len(text):,} characters)"
    return text


def _misfit(tool: Tool, arguments: Any) -> str | None:
    """What is wrong with a call's arguments, in one sentence, or None."""
    schema = tool.definition.get("parameters") or {}
    properties = schema.get("properties") or {}
    if not isinstance(arguments, dict):
        return f"{tool.name} takes an object of arguments."
    if missing := [name for name in schema.get("required") or () if name not in arguments]:
        return f"{tool.name} needs the argument {missing[0]}."
    for name, value in arguments.items():
        if name not in properties:
            return f"{tool.name} has no argument {quoted(name)}; it takes {', '.join(properties) or 'none'}."
        kind = properties[name].get("type")
        if not isinstance(kind, str) or kind not in _TYPES:
            continue
        if not isinstance(value, _TYPES[kind]) or isinstance(value, bool) and kind != "boolean":
            return f"{name} of {tool.name} is {quoted(value)}; it must be of type {kind}."
    return None


@dataclass(frozen=True)
class Round:
    """One reply and what its calls returned. `ids` are the reply's, empty if a text was given."""

    reply: Reply
    results: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()


@dataclass
class Outcome:
    """A question's way through the tools.

    `ended`: "answer" (a reply without a call), "rounds" (the limit; the last calls were not run),
    "length" (a reply was cut off, and nothing in it is run) or "context" (no room for another reply).
    `messages`: the conversation with all that was added, ready to go on.
    """

    messages: list[Message]
    rounds: list[Round] = field(default_factory=list)
    ended: Literal["answer", "rounds", "length", "context"] = "answer"

    @property
    def answer(self) -> str | None:
        """The last reply's content, None if the loop did not end in an answer."""
        return self.rounds[-1].reply.content if self.ended == "answer" else None


Speaker = Callable[[list[Message], list[Json]], Round | None]
"""Given the conversation and the tools' schemas, the next reply; None where there is no room for one."""


def model_speaker(
    model: Qwen3,
    tokenizer: Tokenizer,
    profile: Profile,
    generator: torch.Generator,
    *,
    enable_thinking: bool = True,
    max_new_tokens: int = 1024,
    thinking_budget: int | Budget | None = None,
    greedy: bool = False,
) -> Speaker:
    """A checkpoint as the one who replies, with its own template, sampling (or greedy) and stop ids."""

    def speak(messages: list[Message], schemas: list[Json]) -> Round | None:
        options: Json = {"tools": schemas, "template": profile.template}
        prompt = encode_chat(tokenizer, messages, enable_thinking=enable_thinking, **options)
        if len(prompt) >= model.config.context_length:
            return None
        (ids,) = generate(
            model,
            [prompt],
            max_new_tokens=max_new_tokens,
            sampling=None if greedy else profile.sampling(enable_thinking),
            stop_ids=profile.stop_ids,
            generator=generator,
            thinking_budget=profile.budget(thinking_budget),
            tokenizer=tokenizer,
        )
        return _read(ids, tokenizer, enable_thinking, options)

    return speak


def _read(ids: Generated, tokenizer: Tokenizer, enable_thinking: bool, options: Json) -> Round:
    reply = parse_reply(list(ids), tokenizer=tokenizer, enable_thinking=enable_thinking, **options)
    if ids.ended != "stop" and not reply.tool_calls:
        reply = Reply(reply.reasoning, reply.content, [], False, reply.problems)
    return Round(reply, ids=tuple(ids))


def scripted_speaker(*texts: str, template: str = "qwen3") -> Speaker:
    """A stand-in for a model, which says these texts in turn: for trying the loop, not for measuring."""
    left = list(texts)

    def speak(messages: list[Message], schemas: list[Json]) -> Round | None:
        if not left:
            raise ValueError(f"the script has only {len(texts)} replies; give one for each round.")
        return Round(parse_reply(left.pop(0), template=template, tools=schemas))  # type: ignore[arg-type]

    return speak


def ask_with_tools(
    speaker: Speaker, messages: Sequence[Message], tools: Sequence[Tool], *, max_rounds: int = 5
) -> Outcome:
    """Let the model reply, run what it calls, and feed the results back, until it answers.

    messages: the conversation, ending in what is asked; it is not changed. max_rounds: replies at most.
    Several calls of one reply are run in order, and their results come back together. Thoughts stay in
    the messages, since the template keeps those of a chain of calls and drops them with the next
    question. Raises ValueError for two tools of one name, or a limit that is no whole number from 1.
    """
    require_whole("max_rounds", max_rounds, 1)
    names = [tool.name for tool in tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two tools are called {quoted(twice[0])}; give each a name of its own.")
    outcome = Outcome(list(messages))
    for n in range(max_rounds):
        said = speaker(outcome.messages, [tool.schema for tool in tools])
        if said is None:
            outcome.ended = "context"
            return outcome
        outcome.messages.append(said.reply.message())
        calls = said.reply.tool_calls if said.reply.complete and n + 1 < max_rounds else []
        results = tuple(run_call(tools, call) for call in calls)
        outcome.rounds.append(Round(said.reply, results, said.ids))
        outcome.messages += [{"role": "tool", "content": result} for result in results]
        if not results:
            outcome.ended = "rounds" if said.reply.tool_calls else "answer"
            outcome.ended = outcome.ended if said.reply.complete else "length"
            return outcome
    raise AssertionError("the last round has returned")
