"""The command line, as its users meet it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import qwen3_ref
from qwen3_ref import KVCache, Qwen3, Qwen3Config, Sampling, Tokenizer, encode_chat, facts, generate
from qwen3_ref.commands import chat
from qwen3_ref.commands import line as cli
from qwen3_ref.decode.dialogue import Dialogue
from qwen3_ref.decode.profile import Profile
from qwen3_ref.official.verify import Finding
from qwen3_ref.tasks.problems import FAMILIES

OPEN = [name for name, model in facts.official_models().items() if model["config"]]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command, run in this process."""
    try:
        code = cli.main(arguments)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def child(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwen3_ref", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, **options)


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies on this machine, there are no official weights."""
    from huggingface_hub import constants

    monkeypatch.delenv("QWEN3_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to talk to: a trained tokenizer, random weights, the official layout."""
    directory = tmp_path_factory.mktemp("small")
    tok = Tokenizer.train(["hello there, how are you? What is it?"] * 2, 320)
    tok.save_pretrained(directory)
    config = Qwen3Config(
        vocab_size=tok.num_ids + 5,  # rows without a token, which must never be sampled
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_theta=1e6,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    Qwen3(config).save_pretrained(directory)
    return directory


# -- the package and its help ------------------------------------------------------------------


def test_public_names() -> None:
    for name in qwen3_ref.__all__:
        assert getattr(qwen3_ref, name).__name__ == name
    assert set(qwen3_ref.__all__) <= set(dir(qwen3_ref))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qwen3_ref.nothing  # noqa: B018


def test_torch_is_loaded_only_where_it_is_needed() -> None:
    """One process, in which torch is not there until something is asked for that needs it."""
    lines = [
        "from qwen3_ref import NumpyQwen3, Qwen3Config, Tokenizer, CheckpointError, render_chat",
        "from qwen3_ref.numpy_ref import rms_norm; import qwen3_ref.official.verify",
        "from qwen3_ref.commands.line import main; main(['info', 'Qwen3-8B'])",
        "from qwen3_ref import Qwen3",
        "import qwen3_ref.decode.generation; from qwen3_ref import generate; generate.__call__",
    ]
    check = "import sys\n" + "".join(f"{line}\nprint('torch?', 'torch' in sys.modules)\n" for line in lines)
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    found = [line for line in result.stdout.splitlines() if line.startswith("torch?")]
    assert found == ["torch? False"] * 3 + ["torch? True"] * 2


def test_help_is_short_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and len([line for line in out.splitlines() if line.strip()]) <= 16
    for command in ("info", "plan", "ledger", "fetch", "verify", "chat", "train", "evaluate", "measure"):
        assert re.search(rf"^  {command} .{{20,}}", out, re.MULTILINE)
        assert run(capsys, command, "--help")[0] == 0


# -- evaluate ----------------------------------------------------------------------------------


BUDGETS = ["--budgets", "0", "2", "none", "2", "--count", "1", "--max-new-tokens", "6"]


def test_evaluate_prints_and_writes_the_curves(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = shutil.copytree(small, tmp_path / "told")  # by its own directory how its thoughts are ended
    (told / "generation_config.json").write_text('{"early_stop_text": "!</think>"}', encoding="utf-8")
    code, out, err = run(capsys, "evaluate", str(told), *BUDGETS, "--out", str(tmp_path / "new"))
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["budget", *FAMILIES, "all", "lenient"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "2", "none", "non-thinking"]
    assert lines[5].startswith("% right of 1 test problems a family") and "20 answers" in lines[5]
    found = json.loads((tmp_path / "new" / "curves.json").read_text(encoding="utf-8"))
    assert (found["split"], found["count"], len(found["points"])) == ("test", 1, 4 * (len(FAMILIES) + 1))
    assert found["early_stop"] == "!</think>"


def test_evaluate_interrupted_goes_on(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from qwen3_ref.measure import accuracy as accuracy_module

    real, calls = accuracy_module.generate, [0]

    def interrupt(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(accuracy_module, "generate", interrupt)
    arguments = ["evaluate", str(small), *BUDGETS, "--out", str(tmp_path)]
    assert run(capsys, *arguments) == (130, "", "")
    log = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert log.endswith("\n") and len(log.splitlines()) == 1 + 2 * 5
    assert run(capsys, *arguments)[0] == 0 and calls[0] == 5, "two settings were left"
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8").startswith(log)
    first = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))["points"]
    assert run(capsys, *arguments[:-1], str(tmp_path / "other"))[0] == 0
    whole = json.loads((tmp_path / "other" / "curves.json").read_text(encoding="utf-8"))["points"]
    assert first == whole


def test_evaluate_needs_think_tokens(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(small, tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("think>", "thought>"), encoding="utf-8")
    code, out, err = run(capsys, "evaluate", str(tmp_path / "plain"))
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "plain has no <think> and </think> tokens, so it cannot have a thinking budget" in err


# -- info --------------------------------------------------------------------------------------


def test_the_family_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80 and "\x1b" not in out and "…" not in out
    shown = {line.split()[0]: line for line in lines}
    assert set(OPEN) <= set(shown)
    for name in OPEN:
        verified = facts.official_models()[name]["config_status"] == "verified"
        assert ("*" in shown[name]) == (not verified)
    assert shown["Qwen3-30B-A3B"].split() == ["Qwen3-30B-A3B", *"30.5B 3.35B 48 128/8 40,960 61.1 GB".split()]


@pytest.mark.parametrize("name", OPEN)
def test_info_of_a_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", name)
    assert code == 0 and "\x1b" not in out and "…" not in out
    assert max(map(len, out.splitlines())) <= 110
    model = facts.official_models()[name]
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "rope_theta"):
        assert f"{model['config'][key]:,.0f}" in out
    if "hub_api_params" in model["checkpoint"]:
        assert f"{model['checkpoint']['hub_api_params']:,}" in out
    assert f"official config of {model['repo']}, {model['config_status']}" in out


def test_the_numbers_of_8b(capsys: pytest.CaptureFixture[str]) -> None:
    """8,190,735,360 is published; 36 layers x 8 heads x 128 x 2 x 2 bytes = 147,456 a token."""
    _, out, _ = run(capsys, "info", "Qwen/Qwen3-8B")
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {
        "Parameters total 8,190,735,360",
        "Memory weights in bf16 16.4 GB (16,381,470,720 bytes)",
        "KV cache, 4K tokens 604 MB in bf16",
        "KV cache, 32K tokens 4.83 GB in bf16",
        "KV cache, 128K tokens 19.3 GB in bf16 (beyond the context)",
    } <= rows


def test_info_of_a_directory(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", str(small))
    assert code == 0 and f"as found in {small}/config.json\n" in out and "official" not in out


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "chat"])
def test_a_directory_without_a_checkpoint(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, command, str(tmp_path))
    assert code == 1 and out == "" and err.startswith("error: there is no ") and err.count("\n") == 1


def test_a_real_process_has_no_traceback(small: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    os.truncate(tmp_path / "model.safetensors", 5000)
    result = child("chat", str(tmp_path), input="hello\n")
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r"error: .*model.safetensors is truncated: .*\n", result.stderr)


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupt(name: str) -> Iterator[Finding]:
        yield Finding("one", "passed", "")
        raise KeyboardInterrupt

    monkeypatch.setattr("qwen3_ref.commands.verify.verify", interrupt)
    code, _, err = run(capsys, "verify", "Qwen3-8B")
    assert code == 130 and err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "qwen3_ref", "info"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert result.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shell")
@pytest.mark.parametrize(
    ("ending", "code", "says"),
    [
        ("info >&-", 2, "standard output is closed"),
        ("chat Qwen3-8B <&-", 2, "standard input is closed"),
        pytest.param(
            "info >/dev/full", 1, r"the output cannot be written \(.*\); make room",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
        ),
    ],
)  # fmt: skip
def test_streams_that_are_closed_or_full(ending: str, code: int, says: str) -> None:
    command = f"'{sys.executable}' -m qwen3_ref {ending}"
    result = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == code
    assert re.fullmatch(f"error: {says}.*\n", result.stderr)


def test_a_file_that_cannot_be_read(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((small / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").mkdir()
    code, _, err = run(capsys, "chat", str(tmp_path))
    assert code == 1 and err.count("\n") == 1
    assert re.match(r"error: .*tokenizer.json cannot be read \(.*\); check its kind and permissions", err)


# -- fetch and verify --------------------------------------------------------------------------


def test_fetch_prints_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    long = Path("/somewhere") / ("long " * 30) / "[bold]"
    monkeypatch.setattr("qwen3_ref.commands.fetch.fetch", lambda name: long / name)
    assert run(capsys, "fetch", "Qwen/Qwen3-8B") == (0, f"{long}/Qwen3-8B\n", "")


def test_verify_without_weights_and_of_a_directory(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", "Qwen3-0.6B-Base")
    assert code == 1 and "passed" not in out.replace("0 passed", "") and "no snapshot on disk" in out
    code, out, _ = run(capsys, "verify", str(small))
    assert code == 0 and out.endswith("4 passed, 0 failed, 6 not checked\n")


# -- chat --------------------------------------------------------------------------------------


def dialogue(small: Path, **options: Any) -> Dialogue:
    options = {"max_new_tokens": 12} | options
    sampling = options.pop("sampling", Sampling.greedy())
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    tok = Tokenizer.from_pretrained(small)
    profile = replace(Profile.of(tok), thinking=sampling, non_thinking=sampling)
    return Dialogue(Qwen3.from_pretrained(small), tok, profile, generator, **options)


def uncached(d: Dialogue, messages: list[dict[str, Any]], n: int) -> list[int]:
    """What `generate` answers, without this conversation's cache."""
    prompt = encode_chat(d.tokenizer, messages, enable_thinking=d.enable_thinking)
    return generate(
        d.model, [prompt], max_new_tokens=n, stop_ids=d.profile.stop_ids, tokenizer=d.tokenizer
    )[0]


@pytest.mark.parametrize("thinking", [True, False])
def test_turns_on_one_cache_equal_a_fresh_start(
    small: Path, thinking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = dialogue(small, enable_thinking=thinking)
    whole, computed, forward = 0, [0], d.model.forward

    def counting(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        if "cache" in options and options["cache"] is d.cache:
            computed[0] += input_ids.numel()
        return forward(input_ids, **options)

    monkeypatch.setattr(d.model, "forward", counting)
    for text in ("hello", "how are you? " * 4, "What is it?"):
        before = [*d.messages, {"role": "user", "content": text}]
        assert list(d.ask(text)) == uncached(d, before, 12)
        assert d.cache is not None
        n, fresh = d.cache.length, KVCache(d.model.config, 1, 256)
        with torch.no_grad():
            d.model(d.cache.ids, cache=fresh)
        for held, want in ((d.cache.keys, fresh.keys), (d.cache.values, fresh.values)):
            torch.testing.assert_close(held[..., :n, :], want[..., :n, :], atol=1e-4, rtol=0)
        whole += len(encode_chat(d.tokenizer, before, enable_thinking=thinking))
    # Each turn computes what is new to it, and the last reply as the template writes it; no more.
    assert d.prefilled < 0.7 * whole
    assert d.prefilled <= computed[0] <= d.prefilled + 3 * 11  # of each reply, all ids but the last
    assert [m["role"] for m in d.messages] == ["user", "assistant"] * 3


@pytest.mark.parametrize("when", [0, 3])
def test_an_interrupted_reply_is_kept_and_the_next_is_right(small: Path, when: int, monkeypatch: Any) -> None:
    d = dialogue(small)
    list(d.ask("hello"))
    calls = [0]
    layer = d.model.model.layers[1]
    forward = layer.forward

    def interrupt(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == when + 1:
            raise KeyboardInterrupt  # in the middle of a forward pass: layer 0 has written, layer 1 not
        result: torch.Tensor = forward(*arguments)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", interrupt)
        said = []
        with pytest.raises(KeyboardInterrupt):
            for token in d.ask("how are you?"):
                said.append(token)
    assert len(said) == when and d.messages[-1]["role"] == "assistant"
    assert list(d.ask("again")) == uncached(d, d.messages[:-1], 12)


def test_a_full_context_is_refused_and_forgotten(small: Path) -> None:
    d = dialogue(small)
    list(d.ask("hello"))
    held = list(d.messages)
    with pytest.raises(ValueError, match="context is 256; start another with /clear"):
        list(d.ask("long " * 300))
    assert d.messages == held
    d.max_new_tokens = 10_000
    assert 12 < len(list(d.ask("hello"))) < 256  # it ends where the context does


def test_padding_rows_are_never_said(small: Path) -> None:
    d = dialogue(small, sampling=Sampling(temperature=100.0), max_new_tokens=200)
    said = list(d.ask("hello"))
    assert max(said) < d.tokenizer.num_ids < d.model.config.vocab_size


def test_chat_from_a_pipe(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message a line, blank lines skipped, /new forgets, /exit leaves; the seed decides."""
    talk = "hello\n\n  \nhow are you?\n/new\nhello\n/exit\nnever\n"
    greedy = ["chat", str(small), "--max-new-tokens", "9", "--temperature", "0", "--no-think"]
    result = child(*greedy, input=talk)
    assert result.returncode == 0 and result.stderr.splitlines() == [
        "It has no chat template; qwen3 is taken, being the commonest.",
        "It says nothing of sampling; the official setting of qwen3 is taken.",
    ]
    d = dialogue(small, enable_thinking=False, max_new_tokens=9)
    want = ""
    for text in ("hello", "how are you?", None, "hello"):
        if text is None:
            d.messages.clear()
            continue
        said = d.tokenizer.decode(i for i in d.ask(text) if i not in d.profile.stop_ids)
        want += re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", said) + "\n"
    assert result.stdout == want
    sampled = ["chat", str(small), "--max-new-tokens", "9", "--no-think"]
    d = dialogue(small, enable_thinking=False, max_new_tokens=9, sampling=Sampling.non_thinking(), seed=7)
    said = d.tokenizer.decode(i for i in d.ask("hello") if i not in d.profile.stop_ids)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    told = run(capsys, *sampled, "--seed", "7")[1]
    assert told == re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", said) + "\n" != want[: len(told)]


def fake(tokens: list[int], tok: Tokenizer, template: Any = "qwen3") -> Any:
    def ask(text: str) -> Iterator[int]:
        yield from tokens

    return SimpleNamespace(tokenizer=tok, profile=Profile.of(tok, template), ask=ask)


def test_thoughts_are_dimmed_in_a_terminal_and_marked_in_a_pipe(small: Path) -> None:
    tok = Tokenizer.from_pretrained(small)
    ids = tok.encode("<think>\nhm é\n</think>\n\n[red]yes\x1b[31m<|im_end|>", allow_control_tokens=True)
    terminal, pipe = io.StringIO(), io.StringIO()
    chat._show(fake(ids, tok), "", Console(file=terminal, force_terminal=True, highlight=False))
    shown = terminal.getvalue()
    dimmed = "".join(re.findall(r"\x1b\[2m(.*?)\x1b\[0m", shown, re.DOTALL))
    assert "".join(dimmed.split()) == "hmé" and "think>" not in shown and "im_end" not in shown
    assert re.sub(r"\x1b\[2m.*?\x1b\[0m", "", shown, flags=re.DOTALL).strip() == "[red]yes[31m"
    chat._show(fake(ids, tok), "", Console(file=pipe))
    assert pipe.getvalue() == "<think>\nhm é\n</think>\n\n[red]yes[31m\n"
    terminal = io.StringIO()  # the prompt of this template has opened the block
    chat._show(fake(ids[1:], tok, "qwen3-thinking-2507"), "", Console(file=terminal, force_terminal=True))
    dimmed = "".join(re.findall(r"\x1b\[2m(.*?)\x1b\[0m", terminal.getvalue(), re.DOTALL))
    assert "".join(dimmed.split()) == "hmé"


def test_a_base_model_is_named_as_one(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(small, tmp_path / "Tiny-Base")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    code, _, err = run(capsys, "chat", str(base), "--max-new-tokens", "2")
    assert code == 0
    assert re.match(r"A Base model .* not trained on the marks of a chat.\nIt has no chat", err)


def test_what_a_terminal_says_is_put_together(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Lines that end in a backslash go on, three quotes enclose several, and Ctrl-C drops what is begun."""
    typed: list[Any] = [
        "one", "", "  two ", "three\\", "four", '\"\"\"', "five", "", "  six\\", '  \"\"\"  ', "seven\\",
        KeyboardInterrupt(), "eight", '\"\"\"', "nine", KeyboardInterrupt(), "ten", EOFError(),
    ]  # fmt: skip
    prompts = []

    def said(prompt: str) -> str:
        prompts.append(prompt)
        line = typed.pop(0)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    monkeypatch.setattr("builtins.input", said)
    found = list(chat._lines(True))
    assert found == ["one", "two", "three\nfour", "five\n\n  six\\", "eight", "ten"]
    assert "".join(prompts) == "> > > > . > . . . . > . > > . . > > ".replace("  ", " ")
    assert capsys.readouterr().out == "\n\n\n" and not typed
    typed.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(chat._lines(True))
    monkeypatch.setattr(sys, "stdin", io.StringIO('one\\\n\n\"\"\"\n two\n'))
    assert list(chat._lines(False)) == ["one\\", '\"\"\"', "two"], "a pipe has a message a line"


def test_a_conversation_in_a_terminal_of_this_process(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands are answered beside the conversation, errors do not end it, a retry has no new question."""
    shown: list[str | None] = []

    def show(dialogue: Dialogue, line: str | None, out: Console) -> None:
        shown.append(line)
        if line == "fail":
            raise ValueError("the logits hold NaN")
        if line == "stop":
            raise KeyboardInterrupt
        dialogue.messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]

    monkeypatch.setattr(chat, "_show", show)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    lines = ["hello", "/budget 7", "/budgt 7", "fail", "/usr/bin", "stop", "/retry", "/exit", "never"]
    monkeypatch.setattr(chat, "_lines", lambda interactive: iter(lines if interactive else []))
    code, out, err = run(capsys, "chat", str(small))
    assert code == 0 and out == ""
    assert shown == ["hello", "fail", "/usr/bin", "stop", None]
    said = err.splitlines()
    assert said[2].endswith("/help lists commands, /exit or Ctrl-D leaves.") and str(small) in said[2]
    assert said[3].startswith("0 tokens") and said[4] == "Thoughts are cut after 7 tokens."
    assert "'/budgt' is no command" in said[5] and said[6] == "the logits hold NaN"
    assert len(said) == 9
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    for line, code in (("fail", 1), ("stop", 130)):
        monkeypatch.setattr(chat, "_lines", lambda _, line=line: iter([line, "never"]))
        assert run(capsys, "chat", str(small))[0] == code
        assert shown[-1] == line
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in run(capsys, "chat", str(small))[2]


def test_chat_in_a_terminal(small: Path) -> None:
    """Ctrl-C stops a reply and the conversation goes on; Ctrl-D leaves; Ctrl-C at the prompt is 130."""
    pexpect = pytest.importorskip("pexpect")  # comes with JupyterLab, except on Windows
    long = ["-m", "qwen3_ref", "chat", str(small), "--max-new-tokens", "200", "--temperature", "0"]
    slow = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}

    def start() -> Any:
        terminal = pexpect.spawn(
            sys.executable,
            long,
            env=slow,
            timeout=60,
            dimensions=(30, 80),
            # A shell's background job ignores Ctrl-C, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        where = "cuda in bfloat16" if torch.cuda.is_available() else "cpu in float32"
        terminal.expect_exact(f"on {where}. /help lists commands, /exit or Ctrl-D leaves.")
        terminal.expect_exact("> ")
        return terminal

    terminal = start()
    terminal.sendline("hello")
    terminal.expect("hello\r\n.")  # the first of the reply
    terminal.sendintr()
    terminal.expect("\r\n> ")
    terminal.sendline("again")
    terminal.expect("again\r\n.")
    terminal.expect("\r\n> ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    assert b"Traceback" not in terminal.before
    terminal.wait()  # close() would hang up on a process that is still on its way out
    assert terminal.exitstatus == 0
    terminal = start()
    for _ in range(6):  # the prompt is seen a moment before readline listens
        terminal.sendintr()
        if terminal.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=10) == 0:
            break
    else:
        terminal.close(force=True)
        pytest.fail("Ctrl-C at the prompt did not leave")
    terminal.wait()
    assert terminal.exitstatus == 130 and b"Traceback" not in (terminal.before or b"")
