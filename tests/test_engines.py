"""The comparison with other engines, without any engine but those of the test environment."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.commands.line import main
from qwen3_ref.decode.profile import Profile
from qwen3_ref.engines import client, environments, report
from qwen3_ref.engines.budgets import Cut, measured, our_way, plain, problems, taken_apart, two_calls
from qwen3_ref.engines.catalog import CATALOG, LIGHT, Engine, engine_of
from qwen3_ref.engines.graph import Graph, empty_cache
from qwen3_ref.engines.peer import Peer, PeerError
from qwen3_ref.engines.questions import conversations, questions, texts
from qwen3_ref.engines.survey import NO_EXPERTS, Ours, compared, failed, row
from qwen3_ref.engines.verdict import TIE, Verdict, alike, judge, parting
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import NANO, find_nano
from qwen3_ref.tasks.calculator import CALCULATOR
from qwen3_ref.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
END, OTHER_END = 9, 8


@pytest.mark.parametrize(
    ("ours", "theirs", "at"),
    [
        ([1, 2, END], [1, 2, END], None),
        ([1, 2, END], [1, 2], None),  # an engine that keeps the end to itself
        ([1, 2, 3], [1, 2, 3], None),  # both cut at the limit
        ([1, 2, END], [1, 5, END], 1),
        ([1, 2, END], [1, 2, OTHER_END], 2),  # ended, but by another token
        ([1, 2, END], [1, 2, END, 4], 3),  # went on behind the end
        ([1, 2, END], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),  # ended where ours goes on
        ([1, 2, END], [1], 1),
        ([END], [], None),
        ([1], [], 0),
        ([], [1], 0),
    ],
)
def test_where_two_texts_part(ours: list[int], theirs: list[int], at: int | None) -> None:
    assert parting(ours, theirs, {END, OTHER_END}) == at


@pytest.mark.parametrize(
    ("at", "ours", "theirs", "kind"),
    [
        (None, None, None, "equal"),
        (3, TIE / 2, TIE / 2, "tie"),
        (3, TIE / 2, None, "tie"),  # an engine that shows no numbers
        (3, TIE / 2, 2 * TIE, "differs"),  # it had made up its mind
        (3, 2 * TIE, TIE / 2, "differs"),
        (3, 2 * TIE, None, "differs"),
        (3, TIE / 2, -2 * TIE, "differs"),  # asked alone it says what we say: its cache is at fault
        (3, TIE, TIE, "differs"),
        (3, None, None, "differs"),  # one has ended
        (3, None, TIE / 2, "differs"),
        (0, 0.0, 0.0, "tie"),
    ],
)
def test_a_tie_is_one_for_both(at: int | None, ours: float | None, theirs: float | None, kind: str) -> None:
    assert judge(at, ours, theirs) == (
        Verdict("equal") if kind == "equal" else Verdict(kind, at, ours, theirs)  # type: ignore[arg-type]
    )


def test_missing_answers_are_no_agreement() -> None:
    assert alike(["a", "b", "c"], ["a", "x", "y"]) == (1, 1)
    assert alike(["a"], ["a"]) == (1, None)
    with pytest.raises(ValueError, match="^2 answers came to 3 questions.$"):
        alike(["a", "b", "c"], ["a", "b"])


# -- one checkpoint, and an engine that is made up ---------------------------------------------------------


@functools.cache
def student() -> Ours:
    return Ours.of("qwen3-nano-student", find_nano("qwen3-nano-student"), each=1)


def others(ours: Ours) -> tuple[list[list[int]], dict[str, int]]:
    """Answers in which the third takes another token at place 4, the fifth ends early, the fourth keeps its
    end to itself, and the sixth has another end."""
    theirs = [list(answer) for answer in ours.answers]
    assert [q.mode for q in ours.asked[2:6]] == ["thinking", "non-thinking"] * 2
    token = (theirs[2][4] + 1) % 1000
    theirs[2][4] = token
    theirs[4] = theirs[4][:3]
    del theirs[3][-1]
    theirs[5][-1] = next(end for end in ours.ends if end != theirs[5][-1])
    return theirs, {"token": token}


def test_answers_are_compared_one_by_one() -> None:
    """Margins come from both sides, behind the ids that both said, and only where both have a token."""
    ours = student()
    theirs, made = others(ours)
    asked: list[dict[str, Any]] = []
    peer: Any = SimpleNamespace(ask=lambda question, **given: asked.append(given) or 7.0)
    verdicts = compared(ours, theirs, peer)
    kinds = [verdict.kind for verdict in verdicts]
    assert kinds == ["equal"] * 2 + ["differs", "equal", "differs", "differs"] + ["equal"] * 4
    question, mine = ours.asked[2], ours.answers[2]
    ids = [*question.ids, *mine[:4]]
    assert asked[0] == {"ids": ids, "ours": mine[4], "theirs": made["token"]} and len(asked) == 2
    with torch.inference_mode():
        logits = ours.model(torch.tensor([ids]))[0, -1]
    assert verdicts[2].ours == pytest.approx(float(logits[mine[4]] - logits[made["token"]]), abs=1e-4)
    assert verdicts[2].ours > 1 and verdicts[2].theirs == 7.0 and verdicts[2].at == 4
    assert verdicts[4] == Verdict("differs", 3) and verdicts[5].at == len(ours.answers[5]) - 1


def test_a_wrong_number_of_answers_is_an_error() -> None:
    ours = student()
    with pytest.raises(ValueError):
        compared(ours, ours.answers[:-1], mock.Mock())


GOOD = {"engine": "llama.cpp", "model": "qwen3-nano", "type": "f32", "prompts": 30, "equal": 29, "ties": 1}


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({}, False),
        ({"ties": 0}, True),
        ({"ties": 0, "type": "q8_0"}, False),  # fewer bits may say other things
        ({"missing": "not installed", "equal": 0}, False),  # and nothing was checked
        ({"tokenization": {"same": 9, "of": 9}, "template": {"same": 9, "of": 9}}, False),
        ({"tokenization": {"same": 8, "of": 9}}, True),
        ({"template": {"same": 8, "of": 9}}, True),
    ],
)
def test_what_fails(change: dict[str, Any], bad: bool) -> None:
    assert failed(GOOD | change) is bad


def test_thirty_questions_in_both_modes() -> None:
    """And of a Base model thirty texts; every question is one of its own, and tools are wrapped."""
    both = {"qwen3-nano": {"thinking": 15, "non-thinking": 15}, "qwen3-nano-base": {"text": 30}}
    for name, modes in both.items():
        source = find_nano(name)
        tokenizer = Tokenizer.from_pretrained(source)
        asked = questions(tokenizer, Profile.from_pretrained(source, tokenizer))
        assert len({q.ids for q in asked}) == 30
        assert {mode: sum(q.mode == mode for q in asked) for mode in modes} == modes
    assert len(texts()) > 300 and len(conversations()) == 20
    (tool,) = next(one["tools"] for one in conversations() if one["tools"])
    assert tool.get("type") == "function" and tool["function"]["name"] == "calculator"
    assert {one["thinking"] for one in conversations()} == {True, False}


# -- processes and environments ----------------------------------------------------------------------------


def test_transformers_in_a_process_of_its_own() -> None:
    """The whole way, with an engine that the tests have: a row, all of it equal."""
    found = row(engine_of("transformers"), student(), "f32")
    assert "missing" not in found, found
    assert (found["equal"], found["ties"], found["parted"]) == (10, 0, []) and not failed(found)
    assert found["tokenization"]["same"] == found["tokenization"]["of"] == len(texts())
    assert found["template"]["same"] == found["template"]["of"] == 20
    assert found["versions"]["transformers"]


def test_an_engine_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="No module named 'qwen3_ref.engines.runners.nobody'"):
        Peer(Path(sys.executable), "nobody")
    dead = tmp_path / "dead"
    dead.write_text("#!/bin/sh\necho the library is missing >&2\nexit 3\n", encoding="utf-8")
    dead.chmod(0o755)
    with pytest.raises(PeerError, match=r"ended with 3 \(the library is missing\), asked for about$"):
        Peer(dead, "hf")


def test_the_worker_sees_the_package_and_nothing_beside_it() -> None:
    """Else the packages of the interpreter that asks would come before the engine's own."""
    worker = ROOT / "qwen3_ref" / "engines" / "worker.py"
    code = (
        f"import runpy, sys; m = runpy.run_path({str(worker)!r}); before = list(sys.path);"
        "m['find_package'](); import qwen3_ref.engines.catalog; print(sys.path == before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "True"


FAKE = Engine("fake", ("fake>=1",), "no_such_module", "fake", 1)


def made(folder: Path, code: int, engine: Engine = FAKE) -> Path | str:
    """`install` with a pip that says what it is told to."""
    done = subprocess.CompletedProcess(
        [], code, "", "[notice] pip\nERROR: no room on this disk\n[notice] x\n"
    )
    with (
        mock.patch.dict(os.environ, {"QWEN3_ENGINES": str(folder)}),
        mock.patch.object(environments.subprocess, "run", return_value=done),
    ):
        try:
            return environments.install(engine)
        except environments.NotInstalled as error:
            return str(error)


def found(folder: Path, engine: Engine = FAKE) -> Path | None:
    with mock.patch.dict(os.environ, {"QWEN3_ENGINES": str(folder)}):
        return environments.interpreter(engine)


def test_an_environment_is_whole_or_not_there(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    assert made(tmp_path, 1) == "pip could not install fake>=1: no room on this disk"
    assert not list(tmp_path.iterdir()) and found(tmp_path) is None
    python = made(tmp_path, 0)
    assert isinstance(python, Path) and python.exists() and found(tmp_path) == python
    (above,) = tmp_path.glob(f"fake/**/{environments.ABOVE}")
    assert any(Path(line, "torch").is_dir() for line in above.read_text(encoding="utf-8").splitlines())
    newer = Engine("fake", ("fake>=2",), "no_such_module", "fake", 1)
    assert found(tmp_path, newer) is None  # of another version
    (tmp_path / "fake" / environments.READY).unlink()
    assert found(tmp_path) is None  # stopped half-way
    with mock.patch.dict(os.environ, {"QWEN3_ENGINES": str(tmp_path)}):
        assert environments.remove(FAKE) and not environments.remove(FAKE)


def test_an_engine_that_stands_alone_sees_nothing_of_ours(tmp_path: Path) -> None:
    alone = Engine("alone", ("alone",), "transformers", "hf", 1, above=False)
    assert found(tmp_path, alone) is None  # though this interpreter has its module
    assert isinstance(made(tmp_path, 0, alone), Path)
    assert not list(tmp_path.glob(f"alone/**/{environments.ABOVE}"))


def test_every_engine_has_its_runner() -> None:
    for engine in CATALOG:
        runner = import_module(f"qwen3_ref.engines.runners.{engine.runner}").Engine
        assert all(callable(getattr(runner, name)) for name in ("generate", "margin")), engine.name
        assert engine.types[0] == "f32"
    assert LIGHT == ("transformers", "llama.cpp", "onnxruntime", "ctranslate2")


# -- the graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3-nano-student", "qwen3-nano-moe"])
def test_the_graph_is_the_model(name: str) -> None:
    """Logits and cache, for a prompt, a token behind it, and several tokens behind a cache."""
    source = find_nano(name)
    model, graph = Qwen3.from_pretrained(source), Graph(Qwen3.from_pretrained(source))
    ids = torch.randint(0, 1200, (1, 40), generator=torch.Generator().manual_seed(3))
    cache, keys, values = KVCache(model.config, 1, 40), empty_cache(model), empty_cache(model)
    with torch.inference_mode():
        for start, stop in ((0, 30), (30, 31), (31, 40)):
            new = ids[:, start:stop]
            logits, keys, values = graph(new, keys, values)
            torch.testing.assert_close(logits, model(new, cache=cache)[:, -1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(keys[:, :, :, :40], cache.keys[:, :, :, :40], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values, cache.values, atol=1e-4, rtol=1e-4)


# -- budgets -----------------------------------------------------------------------------------------------

OPEN, CLOSE = 100, 101


@pytest.mark.parametrize(
    ("reply", "cut"),
    [
        ([OPEN, 1, 2, 3, CLOSE, 7, END], Cut((1, 2, 3, CLOSE), 4, (7, END), 0)),  # free
        ([OPEN, 1, 2, CLOSE, 8, END], Cut((1, 2, CLOSE), 2, (8, END), 0)),
        ([OPEN, 1, 2, 50, CLOSE, 8], Cut((1, 2, 50, CLOSE), 2, (8,), 0)),  # with a text before the mark
        ([OPEN, CLOSE, 1, 2, 3, CLOSE, 7, END], Cut((CLOSE,), 0, (7, END), 1)),  # thought on behind it
        ([OPEN, 1, 2], None),
        ([7, END], None),
        ([], None),
    ],
)
def test_a_cut_thought_is_taken_apart(reply: list[int], cut: Cut | None) -> None:
    found = taken_apart(reply, [OPEN, 1, 2, 3, CLOSE, 7, END], OPEN, CLOSE)
    assert found == cut
    if cut:
        assert cut.forced == cut.thought[cut.same :]


def test_budgets_by_hand() -> None:
    """A way that counts the opening mark, forces an id and the mark, and refuses 0: its numbers are found,
    also where the model would have said the forced id itself."""
    ours = student()
    marks = [ours.tokenizer.control_tokens[name] for name in ("<think>", "</think>")]
    (end,) = ours.tokenizer.encode("\n")
    asked = problems(1)
    free = [
        [marks[0], 20, 21, 23, end, 24, 25, 26, marks[1], 30 + i, ours.ends[0]] for i in range(len(asked))
    ]

    def way(question: str, budget: int | None) -> list[int] | None:
        whole = free[[p.prompt for p in asked].index(question)]
        if budget is None or budget > 8:
            return whole
        return None if budget == 0 else [*whole[:budget], end, marks[1], whole[-2], marks[1], ours.ends[0]]

    rows = {row["budget"]: row for row in measured("made up", way, ours, asked)}
    assert rows[0] == {"way": "made up", "budget": 0, "problems": 5, "refused": True}
    assert (rows[4]["cut"], rows[4]["own"], rows[4]["thought_on"]) == (5, [3, 3], 5)
    assert (rows[8]["cut"], rows[8]["own"]) == (5, [7, 7])
    assert (rows[16]["cut"], rows[16]["own"], rows[16]["right"]) == (0, None, 0)
    assert {rows[b]["forced"] for b in (4, 8, 16, 32, None)} == {"\n</think>"}
    assert "refused" in plain(list(rows.values())) and "none" in plain(list(rows.values()))


def test_our_budget_counts_what_the_model_chose() -> None:
    """Ours: the ids inside the marks; two calls: one fewer, since `<think>` counts, and no budget of 0."""
    ours = student()
    asked = problems(1)[:2]
    rows = {row["budget"]: row for row in measured("ours", our_way(ours), ours, asked)}
    twice = {row["budget"]: row for row in measured("two", two_calls(ours), ours, asked)}
    assert rows[4]["own"] == [4, 4] and twice[4]["own"] == [3, 3] and twice[0]["refused"]
    assert rows[0]["own"] == [0, 0] and rows[4]["forced"] == twice[4]["forced"] == "\n</think>"
    assert rows[None]["right"] == twice[None]["right"]


# -- the client --------------------------------------------------------------------------------------------


def delta(**parts: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": parts, "finish_reason": None}]}


def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments} | more.pop("function", {})} | more


CALLING = [
    delta(role="assistant", content=None),
    delta(reasoning="use the "),  # vLLM's word
    delta(reasoning_content="tool\n"),  # llama.cpp's
    delta(tool_calls=[piece(0, "", id="a", function={"name": "calculator"})]),
    delta(tool_calls=[piece(0, '{"expres')]),
    delta(tool_calls=[piece(0, 'sion": "17+'), piece(1, "{}", id="b", function={"name": "clock"})]),
    delta(tool_calls=[piece(0, '25"}')]),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": {"completion_tokens": 9}},
]
ANSWERING = [delta(content="4"), delta(content="2")]


def stream_of(found: list[dict[str, Any]]) -> bytes:
    lines = [f"data: {json.dumps(one)}\n\n" for one in found]
    return (": still here\n\n" + "".join(lines) + "data: [DONE]\n\ndata: nonsense\n\n").encode()


class Server(http.server.BaseHTTPRequestHandler):
    """Says CALLING to a question, ANSWERING to a tool's result, and 400 to a budget below -1."""

    heard: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.heard.append(body)
        bad = body.get("thinking_token_budget", 0) < -1
        said = ANSWERING if body["messages"][-1]["role"] == "tool" else CALLING
        content = b'{"error": "no such budget"}' if bad else stream_of(said)
        self.send_response(400 if bad else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def serving() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_client_streams_and_runs_the_tool() -> None:
    """Thoughts under both names, calls put together from pieces, results sent back under their ids."""
    Server.heard.clear()
    messages = [{"role": "user", "content": "17+25"}]
    with serving() as address:
        how: Any = {"server": "vllm", "budget": 8, "tools": [CALCULATOR], "thinking": False}
        said = list(client.converse(address, messages, **how))
    assert said == [
        ("reasoning", "use the "), ("reasoning", "tool\n"),
        ("call", 'calculator({"expression": "17+25"})'), ("result", "42"),
        ("call", "clock({})"), ("result", "error: there is no tool 'clock'; there is calculator."),
        ("content", "4"), ("content", "2"),
    ]  # fmt: skip
    first, second = Server.heard
    assert first["thinking_token_budget"] == 8 and first["tools"][0]["type"] == "function"
    assert first["chat_template_kwargs"] == {"enable_thinking": False} and first["stream"] is True
    assert [one.get("tool_call_id") for one in second["messages"]] == [None, None, "a", "b"]
    assert second["messages"][1]["reasoning_content"] == "use the tool\n"
    assert messages[-1] == {"role": "assistant", "content": "42"}


@pytest.mark.parametrize(("server", "field"), sorted(client.SERVERS.items()))
def test_a_budget_has_another_name_on_each_server(server: str, field: str) -> None:
    assert client.request([], server=server, budget=0)[field] == 0
    assert field not in client.request([], server=server)
    assert "tools" not in client.request([], server=server)


def test_what_a_server_refuses_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as address:
        assert client.main([address, "hi", "--server", "vllm", "--budget", "-2"]) == 1
    assert 'answers 400: {"error": "no such budget"}' in capsys.readouterr().err
    with pytest.raises(ValueError, match="out of room"):
        list(client.events(iter([b'data: {"error": "out of room"}\n'])))


# -- what is said ------------------------------------------------------------------------------------------

ROWS = [
    GOOD | {"equal": 30, "ties": 0, "parted": [], "versions": {"xllamacpp": "2026.10"}, "date": "2026-11-28",
            "tokenization": {"same": 9, "of": 9}},
    GOOD | {"model": "qwen3-nano-moe", "equal": 28, "parted": [
        {"verdict": "tie", "at": 2, "ours": 1e-4, "theirs": None},
        {"verdict": "differs", "at": 7, "ours": 0.25, "theirs": None}]},
    {"engine": "ctranslate2", "model": "qwen3-nano-moe", "type": "f32", "installed": True, "missing": "why"},
]  # fmt: skip


def test_the_table_says_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    report.keep(file, ROWS)
    report.keep(file, [ROWS[0] | {"equal": 29, "ties": 1, "parted": []}])  # in the place of the older one
    kept = report.load(file)
    assert len(kept["rows"]) == 3 and kept["machine"]
    assert report.markdown(kept).splitlines()[2:] == [
        "| llama.cpp | 2026.10 | 2026-11-28 | equal 29 of 30; tie 1 | equal 28 of 30; tie 1; differs 1, "
        "first at token 7 (margins 0.25, unknown) | 9 of 9 | - |",
        "| ctranslate2 | - | - | - | not checked: why | - | - |",
    ]


def test_the_readme_has_the_table_of_engines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.markdown(report.load()) in text, "python -m qwen3_ref engines --table"


def test_what_was_recorded_is_equal() -> None:
    """Every row in float32, with versions, a date and at least 25 prompts; four light engines at least."""
    rows = report.load()["rows"]
    assert {(one["engine"], one["model"]) for one in rows} >= {(a, b) for a in LIGHT for b in NANO}
    for one in rows:
        assert not failed(one), one
        if one["engine"] == "ctranslate2" and one["model"] == "qwen3-nano-moe":
            assert one["missing"] == NO_EXPERTS
            continue
        assert one["prompts"] >= 25 and one["versions"] and re.fullmatch(r"20\d\d-\d\d-\d\d", one["date"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.dict(os.environ, {"QWEN3_ENGINES": str(tmp_path)}):
        assert main(["engines", "lama.cpp"]) == 2
        assert "did you mean llama.cpp" in capsys.readouterr().err
        assert main(["engines", "--install"]) == 2
        assert main(["engines", "--remove", "llama.cpp"]) == 0
        assert "there was no environment" in capsys.readouterr().out
        assert main(["engines", "--table"]) == 0
        assert capsys.readouterr().out == report.markdown(report.load())
        assert main(["engines", "onnxruntime", "--type", "q8_0"]) == 2
        capsys.readouterr()
        if environments.interpreter(engine_of("ctranslate2")) is None:
            out = tmp_path / "rows.json"
            assert main(["engines", "ctranslate2", "--model", "qwen3-nano-student", "--out", str(out)]) == 0
            assert "engines --install ctranslate2" in capsys.readouterr().out and not out.exists()
