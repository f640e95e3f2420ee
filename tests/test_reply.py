"""Replies taken apart, id by id and as text, against the turns they came from."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen3_ref.chat import Template, encode_chat, render_chat
from qwen3_ref.reply import ENDS, MOST_PROBLEMS, Reply, Splitter, parse_reply
from qwen3_ref.tokenizer import Tokenizer
from tests.conversations import HELLO, NAMES, conversations, prose, values

TEMPLATES: tuple[Any, ...] = get_args(Template)
THINKERS = ("qwen3", "qwen3-thinking-2507")
TOK = Tokenizer.official()
LETTERS = {"mark": "M", "reasoning": "r", "answer": "a", "end": "E"}


def parts(text: str, *, ends: Collection[int] = (), **prompt: Any) -> tuple[str, Splitter[int]]:
    """A letter for each id of a text whose words are one id each, and the splitter afterwards."""
    splitter = Splitter(TOK.control_tokens, ends, **prompt)
    ids = TOK.encode(text, allow_control_tokens=True)
    return "".join(LETTERS[splitter.feed(i)] for i in ids), splitter


@pytest.mark.parametrize(
    ("text", "prompt", "want"),
    [
        ("<think>a b</think>c<|im_end|>", {}, "MrrMaE"),
        ("a b</think>c<|im_end|>", {"inside": True}, "rrMaE"),
        ("a b</think>c", {}, "aaaa"),
        ("a<think>b</think>c", {}, "aMrMa"),
        ("<think>a<think>b</think>c", {}, "MrrrMa"),
        ("<think>a<tool_call>b</tool_call></think>c", {}, "MrrrrMa"),
        ("<think>a</think>b</think>c<think>d</think>", {}, "MrMaaaMrM"),
        ("a<tool_call><think>b</think></tool_call>c<think>d", {}, "aaaaaaaMr"),
        ("<tool_call>a b<think>c</think>d</tool_call><think>e", {}, "aaaaaaaaMr"),
        ("<think>a<|im_end|>", {}, "MrE"),
        ("a<|endoftext|></think>b", {}, "aEEE"),
        ("<|im_start|>a", {}, "aa"),
    ],
)
def test_parts_by_hand(text: str, prompt: Any, want: str) -> None:
    assert parts(text, ends=TOK.stop_ids, **prompt)[0] == want


def test_what_is_known_of_the_thought() -> None:
    def known(text: str, **prompt: Any) -> tuple[Any, ...]:
        s = parts(text, ends=TOK.stop_ids, **prompt)[1]
        return s.inside, s.thoughts, s.closed, s.closed_again, s.over

    assert known("a") == (False, 0, False, 0, False)
    assert known("<think>a") == known("a", inside=True) == (True, 1, False, 0, False)
    assert known("<think>a<|im_end|>") == (True, 1, False, 0, True), "it ended inside the thought"
    assert known("<think>a</think>b") == (False, 1, True, 0, False)
    assert known("<think>a</think>b</think>c</think>") == (False, 1, True, 2, False)
    assert known("a</think>b") == (False, 0, False, 0, False), "there was no thought behind which to stand"
    assert known("a</think>b", closed=True) == (False, 1, True, 1, False)
    assert known("<think>a</think><tool_call></think></tool_call>") == (False, 1, True, 0, False)
    assert known("<think>a</think><think>b</think>") == (False, 2, True, 0, False)


def test_a_mark_that_is_not_given_is_not_looked_for() -> None:
    splitter = Splitter({"<think>": 1, "</think>": 2})
    assert [splitter.feed(i) for i in (3, 1, 4, 2, 2)] == ["answer", "mark", "reasoning", "mark", "answer"]
    assert [Splitter[int]({}).feed(i) for i in (0, 1)] == ["answer", "answer"]


def test_text_is_split_by_the_same_rules() -> None:
    pieces = ["<think>", "a", "</think>", "b", "<|im_end|>"]
    splitter = Splitter({mark: mark for mark in pieces[::2]}, ENDS)
    assert [splitter.feed(piece) for piece in pieces] == ["mark", "reasoning", "mark", "answer", "end"]


# -- round trips ------------------------------------------------------------------------------------


def reply_text(messages: list[dict[str, Any]], **options: Any) -> str:
    """What a model would have had to write after the prompt to give the last turn."""
    whole = render_chat(messages, add_generation_prompt=False, **options)
    prompt = render_chat(messages[:-1], **options)
    assert whole.startswith(prompt)
    return whole.removeprefix(prompt)


@settings(max_examples=250, deadline=None)
@given(conversations(prose), st.sampled_from(TEMPLATES))
def test_round_trip(conversation: tuple[list[dict[str, Any]], Any], template: Any) -> None:
    messages, tools = conversation
    last = messages[-1]
    got = parse_reply(reply_text(messages, tools=tools, template=template), template=template)
    content, reasoning = last["content"], None
    if template in ("qwen3", "qwen3-thinking-2507"):
        content, reasoning = content.lstrip("\n"), last.get("reasoning_content", "").strip("\n") or None
    calls = last.get("tool_calls", [])
    if template == "qwen3-coder" and calls:
        content = content.strip()
    assert got == Reply(reasoning, content, calls)
    if content or not last["content"]:  # else see test_a_quirk_of_the_template
        again = render_chat([*messages[:-1], got.message()], add_generation_prompt=False, template=template)
        assert again == render_chat(messages, add_generation_prompt=False, template=template)


@settings(max_examples=100, deadline=None)
@given(conversations(prose))
def test_round_trip_without_thinking(conversation: tuple[list[dict[str, Any]], Any]) -> None:
    """Row 39: with thinking off the prompt holds the block, and all of the reply is the answer."""
    messages, _ = conversation
    messages[-1].pop("reasoning_content", None)
    got = parse_reply(reply_text(messages, enable_thinking=False), enable_thinking=False)
    assert got == Reply(None, messages[-1]["content"].lstrip("\n"), messages[-1].get("tool_calls", []))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, values, max_size=4))
def test_types_of_arguments(arguments: dict[str, Any]) -> None:
    """JSON calls keep them; Coder's XML gets them back from the schemas, and has strings without."""
    turn = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}
    want = [{"name": "f", "arguments": arguments}]
    for template in ("qwen3", "qwen3-instruct-2507"):
        text = reply_text([*HELLO, turn], template=template)
        assert parse_reply(text, template=template).tool_calls == want
    kinds = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    kinds |= {str: "string", type(None): ["integer", "null"]}
    properties = {key: {"type": kinds[type(value)]} for key, value in arguments.items()}
    tools = [{"function": {"name": "f", "parameters": {"properties": properties}}}]
    text = reply_text([*HELLO, turn], template="qwen3-coder")
    got = parse_reply(text, template="qwen3-coder", tools=tools)
    assert got == Reply(None, "", want)
    assert [*map(type, got.tool_calls[0]["arguments"].values())] == [*map(type, arguments.values())]
    untyped = parse_reply(text, template="qwen3-coder").tool_calls[0]["arguments"]
    assert all(isinstance(value, str) for value in untyped.values()) and untyped.keys() == arguments.keys()


# -- replies by hand --------------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
XML = "<tool_call>\n<function=f>\n<parameter=x>\n{}\n</parameter>\n</function>\n</tool_call>"
THINKING: Any = {"template": "qwen3-thinking-2507"}
INSTRUCT: Any = {"template": "qwen3-instruct-2507"}
CODER: Any = {"template": "qwen3-coder"}
OFF: Any = {"enable_thinking": False}


def typed(kind: Any) -> Any:
    return CODER | {"tools": [{"name": "f", "parameters": {"properties": {"x": {"type": kind}}}}]}


def called(x: Any) -> list[dict[str, Any]]:
    return [{"name": "f", "arguments": {"x": x}}]


NO_X = [{"name": "f", "arguments": {}}]
SPOKEN = "write </think> to end, <think> to begin"


@pytest.mark.parametrize(
    ("text", "options", "want"),
    [
        ("<think>\na\n\nb\n</think>\n\n4<|im_end|>", {}, Reply("a\n\nb", "4")),
        ("a\n</think>\n\n4<|im_end|>\n", THINKING, Reply("a", "4")),
        ("a <think> b\n</think>\n\n4", THINKING, Reply("a <think> b", "4")),
        ("a\n</think>\n\n4", {}, Reply("a", "4")),  # whose prompt had opened the block
        ("<think>\na\n</think>\n\n4", THINKING, Reply("a", "4")),
        ("<think>\n\n</think>\n\n4", {}, Reply(None, "4")),
        ("4<|im_end|><|endoftext|><|endoftext|>", {}, Reply(None, "4")),
        (SPOKEN, OFF, Reply(None, SPOKEN)),
        ("<think>\na\n</think>\n\n4", OFF, Reply("a", "4")),
        ("", {}, Reply(None, "")),
        ("<think>x</think>", INSTRUCT, Reply(None, "<think>x</think>")),
        ("<think>x</think>", CODER, Reply(None, "<think>x</think>")),
        (f"{CALL}\n{CALL}<|im_end|>", INSTRUCT, Reply(None, "", called(1) * 2)),
        (f"<think>\na\n</think>\n\nb\n{CALL}", {}, Reply("a", "b", called(1))),
        (f"b\n\n{CALL}", {}, Reply(None, "b\n", called(1))),
        ('<tool_call>{"arguments":{},"name":"f"}</tool_call>', {}, Reply(None, "", NO_X)),
        (CALL.replace("1", '"</tool_call>"'), {}, Reply(None, "", called("</tool_call>"))),
        (CALL.replace("1", '"</think>"'), {}, Reply(None, "", called("</think>"))),
        (CALL.replace("1", '"<think>"'), {}, Reply(None, "", called("<think>"))),
        (f"say <tool_call>?\n</think>\n\n{CALL}", {}, Reply("say <tool_call>?", "", called(1))),
        (f"b\n\n{XML.format(1)}", CODER, Reply(None, "b", called("1"))),
        (f" b \n\n{XML.format(1)}", typed(["integer"]), Reply(None, "b", called(1))),
        (XML.format(1), typed("integer"), Reply(None, "", called(1))),
        (XML.format(1), typed(["integer", "string"]), Reply(None, "", called("1"))),
        (XML.format("1e3"), typed("number"), Reply(None, "", called(1000.0))),
        (XML.format("True"), typed(["boolean", "null"]), Reply(None, "", called(True))),
        (XML.format("null"), typed("object"), Reply(None, "", called(None))),
        (XML.format("null"), typed("string"), Reply(None, "", called("null"))),
        (XML.format("[1]"), typed({"odd": 1}), Reply(None, "", called("[1]"))),
        (XML.format("\na\n"), CODER, Reply(None, "", called("\na\n"))),
        ("<tool_call><function=f></function></tool_call>", CODER, Reply(None, "", NO_X)),
    ],
)
def test_replies_by_hand(text: str, options: Any, want: Reply) -> None:
    assert parse_reply(text, **options) == want


@pytest.mark.parametrize(
    ("text", "options", "parts", "problem"),
    [
        ("<think>\na", {}, ("a", "", 0, False), "<think> is not closed"),
        ("a, cut", THINKING, ("a, cut", "", 0, False), "<think> is not closed"),
        ("", THINKING, (None, "", 0, False), "<think> is not closed"),
        ("b <think>\na", {}, ("a", "b ", 0, False), "text before <think>"),
        ("b <think>a</think>c", {}, ("a", "b c", 0, True), "text before <think>"),
        ("<think>a</think>b</think> c", {}, ("a", "b</think> c", 0, True), "a second </think> behind"),
        ("a</think>b</think> c", THINKING, ("a", "b</think> c", 0, True), "a second </think> behind"),
        ("<think>a</think>b<think>c</think>", {}, ("a", "b<think>c</think>", 0, True), "second <think>"),
        (f"<think>\na\n{CALL}", {}, (f"a\n{CALL}", "", 0, False), "<think> is not closed"),
        (f"{CALL}\n<tool_call>", {}, (None, "<tool_call>", 1, False), "<tool_call> 2 is not closed"),
        (f"a\n{CALL}\nb", {}, (None, "a\nb", 1, True), "text after a tool call"),
        ("4<|im_end|>\n<|im_start|>user\n5", {}, (None, "4", 0, True), "text after the end of the turn"),
        (XML.format("one"), typed("integer"), (None, "", 1, True), "'x' as 'one', which is not of type"),
        (XML.format("true"), typed("number"), (None, "", 1, True), "not of type 'number'"),
        (XML.format("[1"), typed("array"), (None, "", 1, True), "not of type 'array'"),
        # from here on all of the text stays in the content
        ("4\n<|im_start|>user\n5", {}, (None, ..., 0, True), "a new turn starts"),
        ('<tool_call>\n{"name": "f", "argu', {}, (None, ..., 0, False), "is not closed"),
        ("<tool_call>\nf(x)\n</tool_call>", {}, (None, ..., 0, True), "cannot be read"),
        ("<tool_call>[1]</tool_call>", {}, (None, ..., 0, True), "not an object with a name"),
        (CALL.replace('{"x": 1}', "3"), {}, (None, ..., 0, True), "no object of arguments"),
        (CALL.replace("}}", "}} 7"), {}, (None, ..., 0, True), "follows its JSON"),
        (f"<tool_call>{'[' * 10**5}</tool_call>", {}, (None, ..., 0, True), "1 cannot be read"),
        (CALL, CODER, (None, ..., 0, True), "does not begin with <function=NAME>"),
        (XML.replace("</function>\n", "7\n"), CODER, (None, ..., 0, True), "the function is not closed"),
        (XML[:40], CODER, (None, ..., 0, False), "the reply stops in it"),
    ],
)
def test_malformed_replies(text: str, options: Any, parts: tuple[Any, ...], problem: str) -> None:
    got = parse_reply(text, **options)
    reasoning, content, calls, complete = parts
    assert (got.reasoning, len(got.tool_calls), got.complete) == (reasoning, calls, complete)
    assert got.content == (text if content is ... else content)
    assert any(problem in p for p in got.problems) and all(p.endswith(".") for p in got.problems)


BITS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|im_start|>", "\n", "ß"]
BITS += ['{"name": "f", "arguments": {', "}}", "<function=f>", "<parameter=x>", "</parameter>", "</function>"]


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(BITS), max_size=14).map("".join), st.sampled_from(TEMPLATES), st.booleans())
@example("<tool_call><function=f><parameter=x>", "qwen3-coder", True)
def test_any_text_is_taken_apart(text: str, template: Any, thinking: bool) -> None:
    """Never an exception; what is incomplete says why; and no letter of the answer is lost."""
    got = parse_reply(text, template=template, enable_thinking=thinking)
    assert got.problems or got.complete
    if template != "qwen3-coder":  # where a second parameter of a name replaces the first
        kept = f"{got.reasoning}{got.content}{got.tool_calls}"
        assert kept.count("ß") == text.partition("<|im_end|>")[0].count("ß")
    render_chat([*HELLO, got.message()], template=template)


# -- replies of ids ---------------------------------------------------------------------------------


def ids_of(*pieces: str) -> list[int]:
    """Ids of a reply in which pieces at odd places are control tokens, and the others typed out."""
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        ids += [TOK.control_tokens[piece]] if i % 2 else TOK.encode(piece)
    return ids


def of_ids(*pieces: str, **options: Any) -> Reply:
    return parse_reply(ids_of(*pieces), tokenizer=TOK, **options)


def test_of_ids_only_control_tokens_are_marks() -> None:
    think, end, stop = "<think>", "</think>", "<|im_end|>"
    typed = "say <think> or </think>, <tool_call>x</tool_call>, <|im_end|>."
    assert of_ids(typed, stop) == Reply(None, typed)
    assert of_ids("", think, f"\n{typed}\n", end, f"\n\n{typed}", stop, "") == Reply(typed, typed)
    assert of_ids(f"{typed}\n", end, typed, **THINKING) == Reply(typed, typed)
    call = '\n{"name": "f", "arguments": {"x": "</tool_call> <think>"}}\n'
    real = of_ids(f"{typed}\n", "<tool_call>", call, "</tool_call>", "", stop)
    assert real == Reply(None, typed, called("</tool_call> <think>"))
    spelled = of_ids(f"<tool_call>{call}</tool_call>", stop)
    assert spelled == Reply(None, f"<tool_call>{call}</tool_call>"), "not one control token, so no call"
    xml = (
        "\n<function=f>\n<parameter=x>\n<tool_call>\n<function=g>\n</tool_call>\n</parameter>\n</function>\n"
    )
    got = of_ids("", "<tool_call>", xml, "</tool_call>", **CODER)
    assert got == Reply(None, "", called("<tool_call>\n<function=g>\n</tool_call>"))


def test_of_ids_as_of_text() -> None:
    """Where nothing is typed out, both say the same; other control tokens are text."""
    for text in (
        f"<think>\na\n</think>\n\nb\n{CALL}<|im_end|>",
        "<think>a</think>b</think>c",
        "a<|vision_pad|>é",
    ):
        ids = TOK.encode(text, allow_control_tokens=True)
        assert parse_reply(ids, tokenizer=TOK) == parse_reply(text)
    assert parse_reply([], tokenizer=TOK) == Reply(None, "")
    assert parse_reply(tuple(TOK.encode("ab")), tokenizer=TOK) == Reply(None, "ab")


def test_bad_input_of_the_parser() -> None:
    for options, message in (
        ({"template": "x"}, "no template 'x'"),
        ({"tools": [print]}, "tools must be"),
        ({"enable_thinking": 0}, "enable_thinking is 0; give True or False"),
        ({"enable_thinking": None}, "enable_thinking is None; give True or False"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_reply("4", **options)
    for reply, tokenizer in (([1, 2], None), (None, None), (None, TOK), (7, TOK)):
        with pytest.raises(ValueError, match="a reply is a string, or a list of ids with tokenizer="):
            parse_reply(reply, tokenizer=tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="999999"):
        parse_reply([999_999], tokenizer=TOK)


# -- a reply that is put back says the same -----------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(BITS), max_size=14).map("".join), st.sampled_from(TEMPLATES), st.booleans())
@example("Write </think> to close.", "qwen3", False)
@example("<think>a</think>b</think>c", "qwen3", True)
@example("a\n<tool_call>\n{bad}\n</tool_call>", "qwen3", True)
def test_a_reply_that_is_put_back_says_the_same(text: str, template: Any, thinking: bool) -> None:
    """Any reply, taken apart, put into a conversation and taken apart again, by its ids."""
    first = parse_reply(text, template=template, enable_thinking=thinking)
    options: Any = {"template": template}
    ids = encode_chat(TOK, [*HELLO, first.message()], add_generation_prompt=False, **options)
    start = max(i for i, token in enumerate(ids) if token == TOK.control_tokens["<|im_start|>"])
    line_end = TOK.decode(ids[start + 2 : start + 3])  # behind "assistant"; it may be one with the text
    ids = TOK.encode(line_end.removeprefix("\n")) + ids[start + 3 :]
    again = parse_reply(ids, tokenizer=TOK, **options)
    content = first.content.lstrip("\n") if template in THINKERS else first.content
    if template == "qwen3-coder" and first.tool_calls:
        content = content.strip()
    assert (again.reasoning, again.tool_calls) == (first.reasoning, first.tool_calls)
    assert again.content.strip("\n") == content.strip("\n") and again.complete
    # As history it has no thoughts, and all of its answer; so has the rendered text.
    told = [*HELLO, first.message(), *HELLO]
    text = render_chat(told, **options)
    assert TOK.decode(encode_chat(TOK, told, **options)) == text and first.content.strip() in text


@pytest.mark.parametrize("text", ["Write </think> to close.", "a </think> b </think> c", "</think>"])
def test_a_message_says_the_same(text: str) -> None:
    """An answer without thoughts that names the mark (thinking was off), in the next prompt."""
    turn = parse_reply(f"{text}<|im_end|>", enable_thinking=False).message()
    for later in ([*HELLO, turn], [*HELLO, turn, *HELLO]):
        assert f"{text}<|im_end|>" in render_chat(later)
        assert f"{text}<|im_end|>" in TOK.decode(encode_chat(TOK, later))
    assert "reasoning_content" not in parse_reply("4").message()
    assert parse_reply("<think>\na\n</think>\n\n4").message()["reasoning_content"] == "a"


def test_half_a_surrogate_pair_is_put_back_as_it_came() -> None:
    text = CALL.replace("1", '"\\ud800 \\u00e9"')
    turn = parse_reply(text).message()
    ids = encode_chat(TOK, [*HELLO, turn], add_generation_prompt=False)
    assert '{"x": "\\ud800 é"}' in TOK.decode(ids)


# -- in linear time -----------------------------------------------------------------------------------

SHAPES = {
    "unclosed parameters": ("<tool_call>\n<function=f>\n<parameter=x>\n", "qwen3-coder"),
    "unclosed functions": ("<tool_call><function=f><parameter=x>1</function></tool_call>", "qwen3-coder"),
    "no marks": ("<function=f>\n<parameter=x>\n", "qwen3-coder"),
    "no end": ("<function=f>\n</function>\nx\n", "qwen3-coder"),
    "good Coder calls": (XML + "\n", "qwen3-coder"),
    "bad JSON": ('<tool_call>{"name": "f", "arguments": {</tool_call>\n', "qwen3"),
    "open strings": ('<tool_call>{"name', "qwen3"),
    "open lists": ("<tool_call>[", "qwen3"),
    "good JSON": (CALL + "\n", "qwen3"),
    "JSON without an end": (CALL.removesuffix("</tool_call>"), "qwen3"),
    "thoughts": ("<think>", "qwen3"),
    "closed thoughts": ("<think></think>", "qwen3"),
    "closings": ("a</think>", "qwen3"),
    "closings in calls": ("<tool_call></think>", "qwen3"),
    "ends of calls": ("</tool_call>", "qwen3-coder"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_time_and_few_problems(shape: str) -> None:
    """Eight times the text must not take anything like 64 times as long (4,000 malformed Coder calls once
    took 12 s), and what is said of it stays short."""
    bit, template = SHAPES[shape]

    def seconds(size: int) -> float:
        text, begin = bit * (size // len(bit)), time.process_time()
        got = parse_reply(text, template=template)  # type: ignore[arg-type]
        assert len(got.problems) <= MOST_PROBLEMS + 1 and len("".join(got.problems)) < 6_000
        return time.process_time() - begin

    small = min(seconds(16_000) for _ in range(2))
    assert min(seconds(128_000) for _ in range(3)) < 40 * small + 0.25
