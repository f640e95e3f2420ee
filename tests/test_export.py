"""Exports to other engines: what lies in the folder, what it says, and that transformers runs it."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from qwen3_ref.commands.line import main
from qwen3_ref.decode.generation import generate
from qwen3_ref.engines.export import export, open_source
from qwen3_ref.engines.llama import go_template
from qwen3_ref.engines.source import sampling_of
from qwen3_ref.engines.targets import ENGINES
from qwen3_ref.model import Qwen3
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.shipped import NANO
from tests.helpers import reference

INSTALLED = [to for to, engine in ENGINES.items() if engine.package in (None, "gguf")]


@pytest.mark.parametrize("to", INSTALLED)
@pytest.mark.parametrize("name", ["qwen3-nano", "qwen3-nano-moe"])
def test_a_folder_holds_settings_and_the_command(to: str, name: str, tmp_path: Path) -> None:
    """Three lines, the second a command that names files which are there; nothing is left of the writing."""
    out = export(name, to, tmp_path / "out")
    lines = (out / "README").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and lines[1].startswith("Run: ")
    assert lines[0].startswith(f"{name} for {ENGINES[to].name}, weights in bf16")
    for word in shlex.split(lines[1].removeprefix("Run: ")):
        if word.startswith(str(tmp_path)):
            assert Path(word).exists(), word
    assert not [path for path in out.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    profile = open_source(name).profile
    assert settings["stop_ids"] == sorted(profile.stop_ids)
    base = name == "qwen3-nano-moe"
    assert settings["reasoning_parser"] == (None if base else "qwen3")
    assert settings["tool_parser"] == (None if base else "hermes")
    assert settings["chat_template"] == (None if base else "qwen3")
    greedy = {"temperature": 0.0}
    thinking = {"temperature": 0.6, "top_p": 0.95, "min_p": 0.0, "top_k": 20}
    modes = {"thinking": thinking, "non_thinking": thinking | {"temperature": 0.7, "top_p": 0.8}}
    assert settings["sampling"] == ({"all": greedy} if base else modes)


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("type", ["f32", "bf16"])
def test_transformers_gives_the_same_ids(name: str, type: str, tmp_path: Path) -> None:
    """The official layout, greedily, in float32."""
    out = export(name, "hf", tmp_path, type)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ours = Qwen3.from_pretrained(name)
    auto = transformers.AutoTokenizer.from_pretrained(out)
    ids = auto("17+45-20", return_tensors="pt").input_ids
    want = theirs.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
    (found,) = generate(ours, [ids[0].tolist()], max_new_tokens=12, stop_ids=())
    assert list(found) == want.tolist()


def test_the_modelfile(tmp_path: Path) -> None:
    out = export("qwen3-nano", "ollama", tmp_path, "q8_0")
    text = (out / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith('FROM ./qwen3-nano-q8_0.gguf\nTEMPLATE """')
    for line in ("temperature 0.6", "top_p 0.95", "top_k 20", 'stop "<|im_end|>"', 'stop "<|endoftext|>"'):
        assert f"\nPARAMETER {line}\n" in text
    assert "\nPARAMETER num_ctx 1280\n" in text and text.count('"""') == 2
    base = export("qwen3-nano-base", "ollama", tmp_path / "base")
    assert 'TEMPLATE """{{ .Prompt }}"""' in (base / "Modelfile").read_text(encoding="utf-8")


def test_go_templates_differ_where_the_official_ones_do() -> None:
    texts = {name: go_template(name) for name in
             ("qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "qwen3-coder")}  # type: ignore[arg-type]  # fmt: skip
    assert ".IsThinkSet" in texts["qwen3"] and ".IsThinkSet" not in texts["qwen3-thinking-2507"]
    assert '"<think>\\n"' in texts["qwen3-thinking-2507"]
    assert ".Thinking" not in texts["qwen3-instruct-2507"] == texts["qwen3-coder"]


def test_vllm_says_where_no_kernel_is(tmp_path: Path) -> None:
    """The flags of a chat model; and a head that its CPU kernels lack."""
    out = export("qwen3-nano", "vllm", tmp_path)
    run = (out / "README").read_text(encoding="utf-8").splitlines()[1]
    assert "--reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes" in run
    assert "needs a GPU" not in run and "--dtype bfloat16" in run


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("qwen3-nano", "gguff"), ValueError, "no export to 'gguff'; there are gguf, ollama"),
        (("qwen3-nano", "hf", "q8_0"), ValueError, "type is 'q8_0'; transformers takes bf16, f16, f32"),
        (("qwen3-nano", "gguf", "q4_k_m"), ValueError, "type is 'q4_k_m'; llama.cpp takes bf16"),
        (("Qwen3-8B", "gguf"), CheckpointError, "Qwen3-8B is not on this machine; .* fetch Qwen3-8B"),
        ((None, "gguf"), ValueError, "the checkpoint is None"),
    ],
)
def test_what_cannot_be_exported(
    arguments: tuple[Any, ...], error: type[Exception], says: str, tmp_path: Path
) -> None:
    source, to, *more = arguments
    with pytest.raises(error, match=says):
        export(source, to, tmp_path / "new", *more)
    assert not (tmp_path / "new").exists()


def test_old_files_stay_and_same_names_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "README").write_text("old", encoding="utf-8")
    export("qwen3-nano", "gguf", tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert "llama.cpp" in (tmp_path / "README").read_text(encoding="utf-8")


def test_a_checkpoint_without_a_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no .*tokenizer.json"):
        export(reference("dense")[0], "gguf", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names what it has written, and says how to run it; the way back goes through it too."""
    words = ["export", "qwen3-nano-student", "--to", "gguf", "--type", "q8_0", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("Run: llama-server -m ") and "--jinja --reasoning-format deepseek" in said[-1]
    assert any(line.endswith("qwen3-nano-student-q8_0.gguf") for line in said)
    file, back = str(tmp_path / "qwen3-nano-student-q8_0.gguf"), tmp_path / "back"
    assert main(["export", file, "--to", "hf", "--out", str(back)]) == 0
    assert main(["info", str(back)]) == 0


def test_the_readme_of_transformers_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("qwen3-nano", "hf", tmp_path)
    command = (out / "README").read_text(encoding="utf-8").splitlines()[1].removeprefix("Run: ")
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    (tmp_path / "run.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "run.py"))
    assert "assistant" in capsys.readouterr().out and sys.argv


def test_sampling_in_the_common_words() -> None:
    profile = open_source("qwen3-nano").profile
    assert sampling_of(profile.thinking) == {"temperature": 0.6, "top_p": 0.95, "min_p": 0.0, "top_k": 20}
