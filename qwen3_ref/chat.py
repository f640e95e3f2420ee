"""Conversations to prompts and replies back to messages, as the official chat templates do it.

Four templates: "qwen3" (the hybrids of April 2025), "qwen3-instruct-2507", "qwen3-thinking-2507" and
"qwen3-coder" (Coder 30B-A3B and 480B-A35B). A message is a dict with `role` ("system", "user",
"assistant", "tool") and `content` (a string); an assistant's may also have `reasoning_content` (a
string) and `tool_calls` (a list of {"name", "arguments"}, or of {"function": {...}} around that).

Sources: chat_template in the official tokenizer_config.json files (sha256 a55ee1b1..., 64f85b19...,
3802169b..., 5a38bfa0...); vLLM's qwen3_coder tool parser for the types of Coder's arguments.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer

Template = Literal["qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "qwen3-coder"]
Json = dict[str, Any]  # an object of JSON
Message = Json
Piece = tuple[str, bool]  # text, and whether it is a control token that the template itself wrote

_ROLES = ("system", "user", "assistant", "tool")
_MARKS = re.compile(f"({'|'.join(map(re.escape, CONTROL_TOKENS))})")

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call>"
)
_CODER_SYSTEM = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
_CODER_TOOLS_BEFORE = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
_CODER_TOOLS_AFTER = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:"
    "\n\n<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n"
    "</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second parameter\n"
    "that can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be "
    "nested within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function "
    "call, but NOT after\n- If there is no function call available, answer the question like normal with "
    "your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)


def render_chat(
    messages: Sequence[Message],
    *,
    tools: Sequence[Json] | None = None,
    enable_thinking: bool = True,
    add_generation_prompt: bool = True,
    template: Template = "qwen3",
) -> str:
    """The prompt of a conversation, exactly as the official template writes it.

    `enable_thinking=False` makes "qwen3" end in an empty think block, so that the reply is the answer
    alone; it changes nothing else, and the other templates have no such switch and ignore it. The
    words /think and /no_think in a user's turn are text to the template: the model obeys them.
    "qwen3" and "qwen3-thinking-2507" drop the thoughts of every assistant turn before the last user
    query (a user turn that is not wholly a <tool_response> block), and give the turns after it a
    think block; the other two write contents as they are and ignore `reasoning_content`.

    Raises ValueError, naming the message, for what the template has no place for.
    """
    pieces = _pieces(messages, tools, enable_thinking, add_generation_prompt, template)
    return "".join(text for text, _ in pieces)


def encode_chat(
    tok: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Json] | None = None,
    enable_thinking: bool = True,
    add_generation_prompt: bool = True,
    template: Template = "qwen3",
) -> list[int]:
    """The ids of that prompt, in which only the template's own marks are control tokens.

    Whatever comes from the caller (contents, reasoning, tool definitions, calls and results) is plain
    text: a user who types "<|im_end|>" ends nothing. That holds for an assistant's content too: of a
    "<think>...</think>" in it the template takes the thoughts out and writes the marks itself (control
    tokens), but a "<tool_call>" in it stays text, so put calls into `tool_calls` (`parse_reply` does).
    Without such strings the ids are those of the rendered text with control tokens allowed.

    Raises ValueError as `render_chat` does, and for a tokenizer that lacks one of the marks.
    """
    ids: list[int] = []
    pieces = _pieces(messages, tools, enable_thinking, add_generation_prompt, template)
    for is_mark, run in itertools.groupby(pieces, key=lambda piece: piece[1]):
        texts = [text for text, _ in run]
        if not is_mark:  # joined first: BPE merges across where a content begins or ends
            ids += tok.encode("".join(texts))
            continue
        for mark in texts:
            if mark not in tok.control_tokens:
                raise ValueError(
                    f"the {template} template needs the control token {mark!r}, which this tokenizer "
                    f"lacks; use one with Qwen3's own 26, such as Tokenizer.official()."
                )
            ids.append(tok.control_tokens[mark])
    return ids


# -- writing -------------------------------------------------------------------------------------


def _own(text: str) -> list[Piece]:
    """The template's own words, in which control tokens count."""
    return [(part, part in CONTROL_TOKENS) for part in _MARKS.split(text) if part]


def _given(text: str) -> list[Piece]:
    """The caller's words, in which they do not."""
    return [(text, False)]


def _pieces(
    messages: Sequence[Message],
    tools: Sequence[Json] | None,
    enable_thinking: bool,
    add_generation_prompt: bool,
    template: str,
) -> list[Piece]:
    """The whole prompt, in order."""
    coder = template == "qwen3-coder"
    _check(messages, tools, template)
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    out: list[Piece] = []
    if system is not None or tools:
        out += _own("<|im_start|>system\n")
        if not tools:
            out += _given(system or "")
        elif coder:
            out += _own(_CODER_SYSTEM) if system is None else _given(system)
            out += _own(_CODER_TOOLS_BEFORE)
            out += _given("".join(_coder_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)))
            out += _own(_CODER_TOOLS_AFTER)
        else:
            out += [] if system is None else _given(system + "\n\n")
            out += _own(_TOOLS_BEFORE)
            out += _given("".join("\n" + _json(tool, f"tools[{i}]") for i, tool in enumerate(tools)))
            out += _own(_TOOLS_AFTER)
        out += _own("<|im_end|>\n")
    last_query = _last_query(messages)
    before = None
    for i, message in enumerate(messages):
        if i == 0 and system is not None:
            continue
        role, where = message["role"], f"messages[{i}]"
        after = messages[i + 1]["role"] if i + 1 < len(messages) else None
        if role == "tool":  # results in a row share one user turn (Coder's opens none if one comes first)
            open_turn = before != role and not (coder and before is None)
            out += _tool_result(message["content"], open_turn, after != role, coder)
        elif role != "assistant":
            out += _own(f"<|im_start|>{role}\n") + _given(message["content"]) + _own("<|im_end|>\n")
        elif coder:
            out += _coder_turn(message, where)
        else:
            thinks = template != "qwen3-instruct-2507"
            out += _turn(message, where, thinks, i > last_query, after is None)
        before = role
    if add_generation_prompt:
        out += _own("<|im_start|>assistant\n")
        if template == "qwen3-thinking-2507":
            out += _own("<think>\n")
        elif template == "qwen3" and enable_thinking is False:
            out += _own("<think>\n\n</think>\n\n")
    return out


def _last_query(messages: Sequence[Message]) -> int:
    """Where the user last asked something; the end if nowhere. Wrapped tool results do not count."""
    users = [(i, message["content"]) for i, message in enumerate(messages) if message["role"] == "user"]
    wrap = "<tool_response>", "</tool_response>"
    asked = [i for i, text in users if not (text.startswith(wrap[0]) and text.endswith(wrap[1]))]
    return asked[-1] if asked else len(messages) - 1


def _tool_result(content: str, open_turn: bool, close_turn: bool, coder: bool) -> list[Piece]:
    before, after = ("", "\n") if coder else ("\n", "")  # on which side of a block the line ends
    out = _own(f"<|im_start|>user{after}") if open_turn else []
    out += _own(f"{before}<tool_response>\n") + _given(content) + _own(f"\n</tool_response>{after}")
    return out + (_own("<|im_end|>\n") if close_turn else [])


def _turn(message: Message, where: str, thinks: bool, after_query: bool, is_last: bool) -> list[Piece]:
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content")
    if thinks and reasoning is None and "</think>" in content:
        reasoning = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        content = content.split("</think>")[-1].lstrip("\n")
    out, answer = _own("<|im_start|>assistant\n"), content
    if thinks and after_query and (is_last or reasoning):
        out += _own("<think>\n") + _given((reasoning or "").strip("\n")) + _own("\n</think>\n\n")
        answer = content.lstrip("\n")
    out += _given(answer)
    for i, (name, arguments) in enumerate(_calls(message, where)):
        if content or i:
            out += _own("\n")
        written = arguments if isinstance(arguments, str) else _json(arguments, where)
        out += _own('<tool_call>\n{"name": "') + _given(name)
        out += _own('", "arguments": ') + _given(written) + _own("}\n</tool_call>")
    return out + _own("<|im_end|>\n")


def _coder_turn(message: Message, where: str) -> list[Piece]:
    content, calls = message.get("content") or "", _calls(message, where, coder=True)
    if not calls:
        return _own("<|im_start|>assistant\n") + _given(content) + _own("<|im_end|>\n")
    out = _own("<|im_start|>assistant")
    if content.strip():
        out += _given(f"\n{content.strip()}\n")
    for name, arguments in calls:
        out += _own("\n<tool_call>\n") + _given(f"<function={name}>\n")
        for key, value in arguments.items():
            out += _given(f"<parameter={key}>\n{_coder_value(value, where)}\n</parameter>\n")
        out += _own("</function>\n</tool_call>")
    return out + _own("<|im_end|>\n")


def _coder_tool(tool: Json, where: str) -> str:
    """One tool definition in Coder's XML. Keys that have no place of their own come last, by name."""
    tool = tool.get("function", tool)
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise ValueError(f"{where} has no name; give {{'name': ..., 'parameters': {{...}}}}.")

    def block(fields: Json, *keys: str) -> str:
        texts = {k: str(v).strip() if k == "description" else v for k, v in fields.items()}
        return "".join(f"\n<{k}>{texts[k]}</{k}>" for k in keys if k in texts)

    def others(fields: Any, *keys: str) -> str:
        rest = fields.items() if isinstance(fields, dict) else ()
        return "".join(f"\n<{k}>{_coder_value(v, where)}</{k}>" for k, v in rest if k not in keys)

    parameters = tool.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    text = f"\n<function>{block(tool, 'name', 'description')}\n<parameters>"
    for name, schema in properties.items() if isinstance(properties, dict) else ():
        text += f"\n<parameter>\n<name>{name}</name>"
        text += block(schema, "type", "description") if isinstance(schema, dict) else ""
        text += others(schema, "name", "type", "description") + "\n</parameter>"
    text += others(parameters, "type", "properties") + "\n</parameters>"
    return text + others(tool, "type", "name", "description", "parameters") + "\n</function>"


def _coder_value(value: Any, where: str) -> str:
    return _json(value, where) if isinstance(value, dict | list | tuple) else str(value)


# -- checking what comes in ------------------------------------------------------------------------


def _json(value: Any, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds what JSON cannot write ({error}); use plain values.") from None


def _calls(message: Message, where: str, coder: bool = False) -> list[tuple[str, Any]]:
    """The tool calls of an assistant turn: names, and arguments as a dict or as a string of JSON.

    Coder's template needs dicts, so a string is parsed for it, and it takes a call without arguments.
    """
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise ValueError(f"{where} has tool_calls of type {type(calls).__name__}; give a list of dicts.")
    out = []
    for call in calls:
        inner = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise ValueError(f"{where} has a tool call without a name; give {{'name', 'arguments'}}.")
        arguments = inner.get("arguments", {} if coder else None)
        if coder and isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = None
        if not isinstance(arguments, dict | str):
            raise ValueError(
                f"{where} calls {inner['name']!r} with arguments that are neither a dict nor the JSON of "
                f"one in a string; give {{}} if there are none."
            )
        out.append((inner["name"], arguments))
    return out


def _check(messages: Sequence[Message], tools: Sequence[Json] | None, template: str) -> None:
    if template not in get_args(Template):
        raise ValueError(f"there is no template {template!r}; the templates are {get_args(Template)}.")
    if not isinstance(tools, list | tuple | None) or not all(isinstance(t, dict) for t in tools or ()):
        raise ValueError("tools must be a list of dicts, each the JSON schema of a function.")
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("messages must be a list of messages, such as [{'role': 'user', 'content': 'Hi'}].")
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise ValueError(f"{where} is a {type(message).__name__}; give a dict with role and content.")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise ValueError(f"{where} has the role {role!r}; the roles are {', '.join(_ROLES)}.")
        bare_call = role == "assistant" and content is None and message.get("tool_calls")
        if not isinstance(content, str) and not bare_call:
            kind = "no content" if content is None else f"content of type {type(content).__name__}"
            raise ValueError(f"{where} ({role}) has {kind}; give a string, if need be an empty one.")
        if not isinstance(message.get("reasoning_content"), str | None):
            raise ValueError(f"{where} has reasoning_content that is no string; give one, or leave it out.")
