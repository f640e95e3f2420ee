"""Tool calls as models really write them: what can be read safely is, and nothing is lost in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_ref.calls import typed
from qwen3_ref.reply import Reply, parse_reply

CODER: Any = {"template": "qwen3-coder"}


def json_call(inner: str) -> Reply:
    return parse_reply(f"<tool_call>\n{inner}\n</tool_call>")


def xml_call(*lines: str, schema: Any = None) -> Reply:
    tools = None if schema is None else [{"name": "f", "parameters": schema}]
    return parse_reply("\n".join(lines), tools=tools, **CODER)


# -- JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "arguments", "problem"),
    [
        ('{"name": "f"}', {}, ""),
        ('{"name": "f", "arguments": null}', {}, ""),
        ('{"name": "f", "arguments": ""}', {}, ""),
        ('{"name": "f", "arguments": "{\\"x\\": [1]}"}', {"x": [1]}, "gives its arguments in a string"),
        (
            '{"name": "f", "arguments": {"x": "a\nb\tc"}}',
            {"x": "a\nb\tc"},
            "has line ends or tabs in a string",
        ),
        ('{"name": "f", "arguments": {"x": "</tool_call>"}}', {"x": "</tool_call>"}, ""),
        ('{"name": "f", "arguments": {"x": "<tool_call>\\n{}"}}', {"x": "<tool_call>\n{}"}, ""),
        ('{"name": "f", "arguments": {"x": "a </think> b"}}', {"x": "a </think> b"}, ""),
        ('{"name": "f", "arguments": {}, "id": 7}', {}, "has ['id'] beside its name and arguments"),
        ('{"name": "f", "arguments": {"n": ' + "9" * 400 + "}}", {"n": int("9" * 400)}, ""),
    ],
)
def test_json_that_is_read(inner: str, arguments: Any, problem: str) -> None:
    got = json_call(inner)
    assert got.tool_calls == [{"name": "f", "arguments": arguments}] and got.content == "" and got.complete
    assert len(got.problems) == bool(problem) and problem in "".join(got.problems)


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ('{"name": "f", "arguments": "x"}', "no object of arguments"),
        ('{"name": "f", "arguments": "[1]"}', "no object of arguments"),
        ('{"name": "f", "arguments": [1]}', "no object of arguments"),
        ('{"name": "f", "arguments": []}', "no object of arguments"),
        ('{"name": "f", "arguments": false}', "no object of arguments"),
        ('{"name": "f", "arguments": 0}', "no object of arguments"),
        ('{"name": "f", "parameters": {"x": 1}}', "no object of arguments"),  # what it says would be lost
        ('{"name": "", "arguments": {}}', "a function cannot be called ''"),
        ('{"name": "a\\"b", "arguments": {}}', "a function cannot be called"),
        ('{"name": "f", "arguments": {"x": NaN}}', "'NaN' is no number"),
        ('{"name": "f", "arguments": {"x": -Infinity}}', "'-Infinity' is no number"),
        ('{"name": "f", "arguments": {"x": 1e999}}', "'1e999' is no number"),
        ('{"name": "f", "arguments": {"x": 1, "x": 2}}', "it gives 'x' twice"),
        ('{"name": "f", "arguments": {"n": ' + "9" * 5000 + "}}", "Exceeds the limit"),
        ('{"name": "f", "arguments": {"x": ' + "[" * 200 + "]" * 200 + "}}", "nested deeper than 100"),
        ("{'name': 'f', 'arguments': {}}", "Expecting property name"),
        ('{"name": "f", "arguments": {"x": "say "hi""}}', "Expecting"),
    ],
)
def test_json_that_stays_text(inner: str, problem: str) -> None:
    """Whole, to the letter, with the line ends around it."""
    text = f"I call:\n\n<tool_call>\n{inner}\n</tool_call>"
    got = parse_reply(f"{text}<|im_end|>")
    assert got == Reply(None, text, problems=got.problems) and len(got.problems) == 1
    assert problem in got.problems[0] and len(got.problems[0]) < 300


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
EMPTY = {"name": "f", "arguments": {}}
BAD = "<tool_call>\n{bad}\n</tool_call>"
OPEN = CALL.removesuffix("</tool_call>")


@pytest.mark.parametrize(
    ("text", "content", "calls", "complete", "problems"),
    [
        (OPEN, "", 1, False, ["is not closed; its JSON is whole"]),
        (f"{OPEN}{CALL}", "", 2, True, ["1 is not closed; its JSON is whole"]),
        (f"{BAD}\n{CALL}", BAD, 1, True, ["1 cannot be read"]),
        (f"a\n{BAD}\n{CALL}", f"a\n{BAD}", 1, True, ["1 cannot be read"]),
        (f"a\n{CALL}\n{BAD}", f"a\n{BAD}", 1, True, ["2 cannot be read"]),
        (f"{CALL}\n{BAD}\n{CALL}", BAD, 2, True, ["2 cannot be read"]),
        (f"<tool_call>{{bad\n{CALL}", "<tool_call>{bad", 1, True, ["1 is not closed before the next one"]),
        (f"<tool_call>{CALL}", "<tool_call>", 1, True, ["1 is not closed before the next one"]),
        (f"{CALL}\nb\n{CALL}\nc", "b\nc", 2, True, ["text after a tool call"]),
        (f"{CALL}\nb", "b", 1, True, ["text after a tool call"]),
        (f"{CALL}\n</tool_call>", "</tool_call>", 1, True, ["text after", "without its <tool_call>"]),
        ("a </tool_call>", "a </tool_call>", 0, True, ["without its <tool_call>"]),
        (f"{BAD} b", f"{BAD} b", 0, True, ["cannot be read", "text after a tool call"]),
    ],
)
def test_blocks(text: str, content: str, calls: int, complete: bool, problems: list[str]) -> None:
    got = parse_reply(text)
    assert got.tool_calls == [EMPTY] * calls
    assert (got.content, got.complete, len(got.problems)) == (content, complete, len(problems))
    assert all(part in problem for part, problem in zip(problems, got.problems, strict=True))


# -- Coder's XML ------------------------------------------------------------------------------------

BEGIN, FUNCTION, END = "<tool_call>", "<function=f>", ("</function>", "</tool_call>")
X = ("<parameter=x>", "1", "</parameter>")


@pytest.mark.parametrize(
    ("lines", "arguments", "problem"),
    [
        # b's beginning closes a; a parameter or the function is closed by what follows it
        (
            (BEGIN, FUNCTION, *X[:2], "<parameter=y>", "2", "</parameter>", *END),
            {"x": "1", "y": "2"},
            "parameter 'x'",
        ),
        ((BEGIN, FUNCTION, *X[:2], *END), {"x": "1"}, "does not close its parameter 'x'"),
        ((BEGIN, FUNCTION, *X, END[1]), {"x": "1"}, "does not close its function"),
        ((BEGIN, FUNCTION, END[1]), {}, "does not close its function"),
        ((BEGIN, FUNCTION, *X, END[0]), {"x": "1"}, "is not closed; its function is"),
        ((FUNCTION, *X, *END), {"x": "1"}, "has no <tool_call> before it"),
        ((FUNCTION, *X, END[0]), {"x": "1"}, "has no <tool_call> before it"),
        ((FUNCTION, *END), {}, "has no <tool_call> before it"),
        # what belongs to a value
        ((BEGIN, FUNCTION, X[0], "a </parameter> b", X[2], *END), {"x": "a </parameter> b"}, ""),
        ((BEGIN, FUNCTION, X[0], "a <parameter=y> b", X[2], *END), {"x": "a <parameter=y> b"}, ""),
        (
            (BEGIN, FUNCTION, X[0], "</function>", "</tool_call>", X[2], *END),
            {"x": "</function>\n</tool_call>"},
            "",
        ),
        ((BEGIN, FUNCTION, X[0], "<tool_call> b", X[2], *END), {"x": "<tool_call> b"}, ""),
        ((BEGIN, FUNCTION, X[0], X[2], *END), {"x": ""}, ""),
        ((BEGIN, FUNCTION, X[0], "", "1", "", X[2], *END), {"x": "\n1\n"}, ""),
    ],
)
def test_xml_that_is_read(lines: tuple[str, ...], arguments: Any, problem: str) -> None:
    got = xml_call("I look.", "", *lines)
    assert got.tool_calls == [{"name": "f", "arguments": arguments}] and got.content == "I look."
    assert len(got.problems) == bool(problem) and problem in "".join(got.problems)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((BEGIN, FUNCTION, *X, *X, *END), "gives 'x' twice"),
        ((BEGIN, FUNCTION, "one", *X, *END), "not closed in the form of the template"),
        ((BEGIN, FUNCTION, *X, "one", *END), "not closed in the form of the template"),
        ((BEGIN, FUNCTION, "</parameter>", *END), "not closed in the form of the template"),
        ((BEGIN, FUNCTION, *X[:2]), "the reply stops in it"),
        ((BEGIN, FUNCTION, *X), "the reply stops in it"),
        ((FUNCTION, *X[:2]), "<function=...> without <tool_call> is left in the content"),
        ((FUNCTION, *X, END[0], "and so on"), "<function=...> without <tool_call> is left in the content"),
    ],
)
def test_xml_that_stays_text(lines: tuple[str, ...], problem: str) -> None:
    got = xml_call("I look.", "", *lines)
    assert got.tool_calls == [] and got.content == "\n".join(["I look.", "", *lines])
    assert problem in got.problems[0] and len(got.problems) == 1


def test_a_function_without_its_mark_must_be_one_that_there_is() -> None:
    lines = ("<function=g>", *X, *END)
    got = xml_call(*lines, schema={})
    assert got.tool_calls == [] and got.content == "\n".join(lines) and "no function 'g'" in got.problems[0]
    assert xml_call(*lines).tool_calls == [{"name": "g", "arguments": {"x": "1"}}]
    assert xml_call("A call is written <function=f> and so on.").problems == ()


def test_an_unclosed_call_does_not_swallow_the_next() -> None:
    got = xml_call(BEGIN, FUNCTION, *X[:2], *END, BEGIN, FUNCTION, *X, *END)
    assert got.tool_calls == [{"name": "f", "arguments": {"x": "1"}}] * 2 and len(got.problems) == 1
    got = xml_call(BEGIN, FUNCTION, *X[:2], BEGIN, FUNCTION, *X, *END)
    assert got.tool_calls == [{"name": "f", "arguments": {"x": "1"}}]
    assert got.content == "\n".join([BEGIN, FUNCTION, *X[:2]]) and "before the next one" in got.problems[0]


# -- values by their schema -------------------------------------------------------------------------

INT, STR, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}


@pytest.mark.parametrize(
    ("word", "schema", "value"),
    [
        ("5", {"anyOf": [INT, NULL]}, 5),
        ("None", {"anyOf": [INT, NULL]}, None),
        ("null", {"oneOf": [STR, NULL]}, None),
        ("null", STR, "null"),
        ("5", {"anyOf": [INT, STR]}, "5"),  # a string before all else
        ("5", {"allOf": [INT]}, 5),
        ("5", {"type": ["null", "integer"]}, 5),
        ("[1, 2]", {"type": "array", "items": INT}, [1, 2]),
        ("['a', 'it\\'s', None, True]", {"type": "array"}, ["a", "it's", None, True]),
        ("{'a': [1.5]}", {"type": "object"}, {"a": [1.5]}),
        ('{"a": {"b": [null, "2"]}}', {"anyOf": [{"type": "object"}, NULL]}, {"a": {"b": [None, "2"]}}),
        ("red", {"enum": ["red", "blue"]}, "red"),
        (" red ", {"type": "string", "enum": ["red", "blue"]}, "red"),
        ("2", {"enum": [1, 2]}, 2),
        ("2", {"enum": [1, "2"]}, "2"),
        ("true", {"const": True}, True),
        ("5", {"anyOf": [{"enum": ["auto"]}, INT]}, 5),
        ("auto", {"anyOf": [{"const": "auto"}, INT]}, "auto"),
        ("9" * 100, INT, int("9" * 100)),
        ("2", {"type": "number"}, 2),
        ("1e3", {"type": "number"}, 1000.0),
        ("FALSE", {"type": "boolean"}, False),
        ("x", {}, "x"),
        ("5", {"type": "whatever"}, "5"),
        ("5", None, "5"),
        ("5", {"type": [{}]}, "5"),
        ("5", {"anyOf": 3, "type": "integer"}, 5),
    ],
)
def test_types(word: str, schema: Any, value: Any) -> None:
    found = typed(word, schema)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "schema"),
    [
        ("1.5", INT),
        ("1.0", INT),
        ("true", INT),
        ("True", {"type": "number"}),
        ("1", {"type": "boolean"}),
        ("one", INT),
        ("", INT),
        ("9" * 5000, INT),
        ("NaN", {"type": "number"}),
        ("Infinity", {"type": "number"}),
        ("1e999", {"type": "number"}),
        ("[NaN]", {"type": "array"}),
        ("{1, 2}", {"type": "array"}),
        ("(1, 2)", {"type": "array"}),
        ("{1: 2}", {"type": "object"}),
        ("[b'a']", {"type": "array"}),
        ("[1j]", {"type": "array"}),
        ("['a'", {"type": "array"}),
        ("[__import__('os')]", {"type": "array"}),
        ("[1]", {"type": "object"}),
        ("[" * 5000 + "]" * 5000, {"type": "array"}),
        ("green", {"enum": ["red", "blue"]}),
        ("3", {"enum": [1, 2]}),
        ("true", {"enum": [1]}),
        ("x", {"anyOf": [INT, NULL]}),
    ],
)
def test_values_of_no_allowed_type(word: str, schema: Any) -> None:
    """They stay strings, and that is told, in short."""
    with pytest.raises(ValueError):
        typed(word, schema)
    got = xml_call(
        BEGIN, FUNCTION, "<parameter=x>", word, "</parameter>", *END, schema={"properties": {"x": schema}}
    )
    assert got.tool_calls == [{"name": "f", "arguments": {"x": word}}]
    assert len(got.problems) == 1 and "'x' as " in got.problems[0] and len(got.problems[0]) < 300


def test_lists_as_models_write_them() -> None:
    schema = {"properties": {"x": {"type": "array"}}}
    for word in ("['a', \"b\", 1, None]", '["a", "b", 1, null]'):
        lines = (BEGIN, FUNCTION, X[0], word, X[2], *END)
        assert xml_call(*lines, schema=schema) == Reply(
            None, "", [EMPTY | {"arguments": {"x": ["a", "b", 1, None]}}]
        )


def test_references() -> None:
    root = {
        "$defs": {"N": INT, "Deep": {"$ref": "#/$defs/N"}, "Loop": {"$ref": "#/$defs/Loop"}, "a/b~c": INT},
        "properties": {"x": {"$ref": "#/$defs/Deep"}},
    }
    assert typed("5", {"$ref": "#/$defs/N"}, root) == 5
    assert typed("5", {"anyOf": [{"$ref": "#/$defs/Deep"}, NULL]}, root) == 5
    assert typed("5", {"$ref": "#/$defs/a~1b~0c"}, root) == 5
    for nowhere in ("#/$defs/Loop", "#/$defs/none", "https://example.org/schema", "#", ""):
        assert typed("5", {"$ref": nowhere}, root) == "5"
    got = xml_call(BEGIN, FUNCTION, *X, *END, schema=root)
    assert got.tool_calls == [{"name": "f", "arguments": {"x": 1}}] and not got.problems
    knot: dict[str, Any] = {"anyOf": [{"$ref": "#/a"}, {"$ref": "#/b"}]}
    assert typed("5", knot, {"a": knot, "b": knot}) == "5"


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
scalars |= st.floats(allow_nan=False, allow_infinity=False)
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(nested)
def test_lists_and_objects_as_json_and_as_python(value: Any) -> None:
    for kind in ("array", "object"):
        found = [value] if kind == "array" else {"x": value}
        for text in (json.dumps(found), repr(found)):
            assert typed(text, {"type": kind}) == found


@pytest.mark.parametrize("value", ["see\n<parameter=b> there", "see <parameter=b>\nthere"])
def test_a_tag_within_a_line_belongs_to_the_value(value: str) -> None:
    """The template gives each parameter's tag a line of its own."""
    text = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
    reply = parse_reply(text, **CODER)
    assert reply.tool_calls == [{"name": "f", "arguments": {"a": value}}] and not reply.problems


@pytest.mark.parametrize(("depth", "value"), [(8, 7), (9, "7")])
def test_unions_are_followed_eight_deep(depth: int, value: Any) -> None:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"anyOf": [schema]}
    assert typed("7", schema) == value
