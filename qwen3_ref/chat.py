"""Conversations to prompts and replies back to messages, as the official chat templates do it.

Four templates: "qwen3" (the hybrids of April 2025), "qwen3-instruct-2507", "qwen3-thinking-2507" and
"qwen3-coder" (Coder 30B-A3B and 480B-A35B). A message is a dict with `role` ("system", "user",
"assistant", "tool") and `content` (a string, or a list of {"type": "text", "text": ...}, which is
the string of all its texts); an assistant's may also have `reasoning_content` (a string) and
`tool_calls` (a list of {"name", "arguments"}, or of {"function": {...}} around that; arguments are a
dict, the JSON of one in a string, or absent, empty or null for none).

Sources: chat_template in the official tokenizer_config.json files (sha256 a55ee1b1..., 64f85b19...,
3802169b..., 5a38bfa0...); vLLM's qwen3_coder tool parser for the types of Coder's arguments.
"""

from __future__ import annotations

import itertools
import json
import numbers
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from qwen3_ref.store.errors import quoted
from qwen3_ref.store.files import no_key_twice
from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer

Template = Literal["qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "qwen3-coder"]
Json = dict[str, Any]  # an object of JSON
Message = Json
Piece = tuple[str, bool]  # text, and whether it is a control token that the template itself wrote

THINKERS = ("qwen3", "qwen3-thinking-2507")
"""The templates that write and read thoughts."""
_ROLES = ("system", "user", "assistant", "tool")
_OTHER_WORDS = {  # of neighbouring dialects: what they say would be left out without a word
    "reasoning_content": ("reasoning", "thinking", "thoughts"),
    "tool_calls": ("tool_call", "function_call", "function_calls", "toolCalls"),
    "arguments": ("parameters", "params", "input", "args", "kwargs"),
}
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
    think block; the other two write contents as they are and ignore `reasoning_content`. Where there
    is none, a "</think>" in an assistant's content is taken for the end of its thoughts, wherever it
    stands, and what is before it is lost with them: `encode_chat` does not do that.

    Raises ValueError, naming the message, for what the template has no place for, and for a switch
    that is not True or False.
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
    "<think>...</think>" that it begins with the template takes the thoughts out and writes the marks
    itself (control tokens), but a "<tool_call>" in it stays text, so put calls into `tool_calls`
    (`parse_reply` does). So does any other "</think>", at which `render_chat` would cut: no word of an
    answer is lost. Without such strings the ids are those of the rendered text with control tokens
    allowed.

    Raises ValueError as `render_chat` does, and for a tokenizer that lacks one of the marks.
    """
    if not isinstance(tok, Tokenizer):
        raise ValueError(f"tok is a {type(tok).__name__}; give a Tokenizer, such as Tokenizer.official().")
    ids: list[int] = []
    messages = [_thought_apart(message, template) for message in _checked(messages)]
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


def _thought_apart(message: Message, template: str) -> Message:
    """An assistant's message whose thoughts, if its content begins with them, are in a field of their
    own, and whose content is an answer and nothing else."""
    content = message["content"] or ""
    if message["role"] != "assistant" or template not in THINKERS or "</think>" not in content:
        return message
    if message.get("reasoning_content") is not None:
        return message
    thoughts, _, answer = content.partition("</think>")
    begins = thoughts.lstrip().startswith("<think>")
    if not begins and template != "qwen3-thinking-2507":  # whose prompt has opened the block
        return message | {"reasoning_content": ""}
    thoughts = thoughts.lstrip().removeprefix("<think>") if begins else thoughts
    return message | {"reasoning_content": thoughts.strip("\n"), "content": answer.lstrip("\n")}


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
    require_options(
        template, tools, enable_thinking=enable_thinking, add_generation_prompt=add_generation_prompt
    )
    messages = _checked(messages)
    coder = template == "qwen3-coder"
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
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_number)
        json.loads(text, object_pairs_hook=no_key_twice)  # 1 and "1" are two keys in Python only
    except (TypeError, ValueError, RecursionError) as error:
        why = str(error).partition(":")[0]  # some name the value behind it
        raise ValueError(f"{where} holds what JSON cannot write ({why}); use plain values.") from None
    # Half of a surrogate pair, which a model can write as an escape, is no text that could be encoded.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def _number(value: Any) -> int | float:
    """A number of another library (NumPy's, say) as Python's own."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _calls(message: Message, where: str, coder: bool = False) -> list[tuple[str, Any]]:
    """The tool calls of an assistant turn: names, and arguments as a dict or as a string of JSON.

    Coder's template needs dicts, so a string is parsed for it. A call without parameters has {}
    whether its arguments are absent, null or an empty string.
    """
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise ValueError(f"{where} has tool_calls of type {type(calls).__name__}; give a list of dicts.")
    out = []
    for call in calls:
        inner = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise ValueError(f"{where} has a tool call without a name; give {{'name', 'arguments'}}.")
        _require_own_words(inner, ("arguments",), f"{where} calls {quoted(inner['name'])} and")
        if inner is not call:  # only what is inside is written
            _require_own_words(call, ("arguments",), f"{where} calls {quoted(inner['name'])} and")
            if call.get("arguments") and call["arguments"] != inner.get("arguments"):
                raise ValueError(f"{where} has arguments beside 'function'; put them into it.")
        arguments = inner.get("arguments")
        if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
            arguments = {}
        read = arguments
        if isinstance(arguments, str):
            try:
                read = json.loads(arguments, object_pairs_hook=no_key_twice if coder else None)
            except (ValueError, RecursionError):
                read = None
        if not isinstance(read, dict):
            raise ValueError(
                f"{where} calls {quoted(inner['name'])} with arguments that are neither a dict nor the JSON "
                f"of one in a string; give {{}} if there are none."
            )
        if coder and len(set(map(str, read))) < len(read):
            raise ValueError(f"{where} calls {quoted(inner['name'])} with two arguments of one name.")
        out.append((inner["name"], read if coder else arguments))
    return out


def require_options(template: object, tools: object, **switches: object) -> None:
    """Raise ValueError, in a sentence, for an unknown template, bad tools, or a switch that is no bool."""
    if template not in get_args(Template):
        raise ValueError(f"there is no template {quoted(template)}; the templates are {get_args(Template)}.")
    if not isinstance(tools, list | tuple | None) or not all(isinstance(t, dict) for t in tools or ()):
        raise ValueError("tools must be a list of dicts, each the JSON schema of a function.")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {quoted(value)}; give True or False.")


def _checked(messages: Any) -> list[Message]:
    """The messages, their contents as strings."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("messages must be a list of messages, such as [{'role': 'user', 'content': 'Hi'}].")
    out = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise ValueError(f"{where} is a {type(message).__name__}; give a dict with role and content.")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise ValueError(f"{where} has the role {quoted(role)}; the roles are {', '.join(_ROLES)}.")
        if isinstance(content, list | tuple) and content:
            content = "".join(_text_part(part, where) for part in content)
        bare_call = role == "assistant" and content is None and message.get("tool_calls")
        if not isinstance(content, str) and not bare_call:
            kind = "no content" if content is None else f"content of type {type(content).__name__}"
            raise ValueError(f"{where} ({role}) has {kind}; give a string, if need be an empty one.")
        if not isinstance(message.get("reasoning_content"), str | None):
            raise ValueError(f"{where} has reasoning_content that is no string; give one, or leave it out.")
        _require_own_words(message, ("reasoning_content", "tool_calls"), where)
        out.append(message | {"content": content})
    return out


def _require_own_words(given: Json, names: Sequence[str], where: str) -> None:
    """Raise ValueError for another dialect's word, unless it says nothing or says the same again."""
    for name in names:
        for other in _OTHER_WORDS[name]:
            if given.get(other) and given[other] != given.get(name):
                raise ValueError(f"{where} has {quoted(other)}, which would be left out; call it {name}.")


def _text_part(part: Any, where: str) -> str:
    """The text of one part of a content that comes in parts."""
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = quoted(part.get("type")) if isinstance(part, dict) else type(part).__name__
        raise ValueError(
            f"{where} has content with a part of type {kind}, and these models read text alone; give a "
            f"string, or parts such as {{'type': 'text', 'text': 'Hi'}}."
        )
    return part["text"]
