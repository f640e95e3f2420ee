"""What a newcomer meets in the first hour: help, wrong words, terminals, Ctrl-C, README, make."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

import qwen3_ref
from qwen3_ref import ConfigError, Qwen3Config, facts
from qwen3_ref import __main__ as entry
from qwen3_ref.commands import evaluate
from qwen3_ref.commands import line as cli
from qwen3_ref.commands.common import Misuse
from qwen3_ref.official.verify import Finding
from qwen3_ref.store.shipped import NANO, find_nano
from qwen3_ref.train.errors import Interrupted

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPEN = [name for name, model in facts.official_models().items() if model["config"]]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def run(*words: str, columns: int = 80, program: str = "__main__.py") -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command, run in this process on a machine without official weights."""
    from huggingface_hub import constants

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for redirect in (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
            stack.enter_context(redirect)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", [program])
        patch.delenv("QWEN3_WEIGHTS", raising=False)
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(constants, "HF_HUB_CACHE", "/nonexistent")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        code = cli.main(words)
    return code, out.getvalue(), err.getvalue()


def child(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, on a machine without official weights."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HUB_CACHE": "/nonexistent", "QWEN3_WEIGHTS": "", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, encoding="utf-8",
        check=False, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


# -- wrong words -------------------------------------------------------------------------------

LONG = "x" * 5_000
WRONG: list[tuple[str, int, str]] = [
    # Words, the exit code, and what the sentence says. {x} stands for what the test has made.
    ("fly", 2, "there is no command 'fly'; there are info, "),
    ("''", 2, "there is no command ''"),
    ("infos", 2, "did you mean info"),
    ("INFO Qwen3-8B", 2, "did you mean info"),
    ("fetsh Qwen3-8B", 2, "did you mean fetch"),
    ("verfy", 2, "did you mean verify"),
    ("caht qwen3-nano", 2, "did you mean chat"),
    ("trian nano", 2, "did you mean train"),
    ("eval qwen3-nano", 2, "did you mean evaluate"),
    ("mesure all", 2, "did you mean measure"),
    ("help fly", 2, "there is no command 'fly'"),
    ("--json info", 2, "options stand behind their command, as in `info --help`"),
    ("--seed 1 chat qwen3-nano", 2, "as in `chat --help`"),
    ("-x", 2, "as in `info --help`"),
    ("--", 2, "as in `info --help`"),
    ("größe", 2, "there is no command 'größe'"),
    ("{long}", 2, "xxx ... "),
    ("'a\nb'", 2, r"there is no command 'a\nb'"),
    ("info qwen3-nano more", 2, "unrecognized arguments: more"),
    ("info --jsno", 2, "unrecognized arguments: --jsno; did you mean --json"),
    ("info --json=1", 2, "--json"),
    ("info Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("info Qwen3-8B-base", 2, "did you mean Qwen3-8B-Base"),
    ("info Qwen3-32B-Base", 2, "never published"),
    ("info ''", 2, "''; known: Qwen3-0.6B, "),
    ("info ' '", 2, "' '; known: Qwen3-0.6B, "),
    ("info {long}", 2, "xxx ... "),
    ("info ./nowhere", 2, "there is no directory ./nowhere"),
    ("info file", 2, "file is a file, and a checkpoint is a directory; give the one that holds it"),
    ("info qwen3-nan", 2, "did you mean qwen3-nano"),
    ("info QWEN3-8B", 2, "there is no checkpoint 'QWEN3-8B'; did you mean Qwen3-8B."),
    ("info qwen/qwen3-8b", 2, "did you mean Qwen3-8B."),
    ("info https://huggingface.co/Qwen/Qwen3-8B/tree/main", 2, "did you mean Qwen3-8B."),
    ("info Qwen/qwen3-nano-moe", 2, "did you mean qwen3-nano-moe."),
    ("info zzz", 2, "known: Qwen3-0.6B, "),
    ("info zzz", 2, ", qwen3-nano-student."),
    ("info qwen3-nano-student", 2, "the folder qwen3-nano-student here is no checkpoint and hides"),
    ("info empty", 1, "there is no empty/config.json"),
    ("info broken", 1, "broken/config.json cannot be read as JSON"),
    ("info --json empty", 1, "there is no empty/config.json"),
    ("info 千問", 2, "'千問'; known: Qwen3-0.6B, "),
    ("info 'a\tb\x1b[31m'", 2, r"'a\tb\x1b[31m'"),
    ("plan", 2, "NAME_OR_DIR, --gpus"),
    ("plan Qwen3-8B", 2, "--gpus"),
    ("plan Qwen3-9B --gpus 8xH100", 2, "did you mean Qwen3-8B"),
    ("plan Qwen3-32B-Base --gpus 8xH100", 2, "never published"),
    ("plan Qwen3-8B --gpus 8xH10", 2, "'H10' is no card that is known here; did you mean h100"),
    ("plan Qwen3-8B --gpus eight", 2, "'eight' is no card that is known here"),
    ("plan Qwen3-8B --gpus 'a b'", 2, "'a b' names no cards; give how many of which, as in 64xH100"),
    ("plan Qwen3-8B --gpus 0xH100", 2, "0 cards cannot be planned"),
    ("plan Qwen3-8B --gpus 999999xH100", 2, "999,999 cards cannot be planned"),
    ("plan Qwen3-8B --gpus {digits}xH100", 2, "no card that is known here"),
    ("plan Qwen3-8B --gpus 8xH100 --tokens 0", 2, "0 is not 1 or more"),
    ("plan Qwen3-8B --gpus 8xH100 --tokens 1000000", 2, "--tokens is 1,000,000 and Qwen3-8B reads 40,960"),
    ("plan Qwen3-8B --gpus 8xH100 --mesh dp=2", 2, "makes 2 ranks and --gpus 8xH100 has 8"),
    ("plan Qwen3-8B --gpus 8xH100 --mesh dp=8,fdsp=1", 2, "did you mean fsdp"),
    ("plan Qwen3-8B --gpus 8xH100 --mesh dp", 2, "it must be a whole number, as in dp=2"),
    ("plan Qwen3-8B --gpus 8xH100 --mesh dp=8 --serve", 2, "--mesh is of training and --serve is not"),
    ("plan empty --gpus 8xH100", 1, "there is no empty/config.json"),
    ("plan Qwen3-8B --gpu 8xH100", 2, "--gpus"),
    ("info Qwen3-VL-9B", 2, "did you mean Qwen3-VL-"),
    ("info --variants Qwen3-8B", 2, "--variants is about all of the family"),
    ("ledger swordfish", 2, "no claim has 'swordfish'; groups are architecture, tokenizer"),
    ("ledger z-loss --compute", 2, "nothing here computes z-loss"),
    ("fetch", 2, "NAME"),
    ("fetch Qwen3-VL-8B-Instruct", 2, "cannot be run here, for want of the vision tower"),
    ("fetch Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("fetch Qwen3-8B Qwen3-4B", 2, "unrecognized arguments: Qwen3-4B"),
    ("fetch qwen3-nano", 2, "comes with the package"),
    ("fetch https://huggingface.co/Qwen/Qwen3-8B", 2, "did you mean Qwen3-8B."),
    ("fetch some/where", 2, "there is no directory some/where"),
    ("fetch empty", 2, "fetch needs an official name"),
    ("fetch ./nowhere", 2, "fetch needs an official name"),
    ("fetch ''", 2, "''; known: Qwen3-0.6B, "),
    ("fetch Qwen3-8B", 1, "HF_HUB_OFFLINE is set"),
    ("fetch Qwen3-8B --revision main", 2, "unrecognized arguments: --revision"),
    ("verify", 2, "NAME_OR_DIR"),
    ("verify Qwen3-9B", 2, "did you mean Qwen3-8B"),
    ("verify ''", 2, "''; known: Qwen3-0.6B, "),
    ("verify ./nowhere", 2, "there is no directory ./nowhere"),
    ("verify file", 2, "file is a file"),
    ("verify Qwen3-Nano", 2, "did you mean qwen3-nano."),
    ("verify qwen3-nano-student", 2, "the folder qwen3-nano-student here is no checkpoint"),
    ("verify qwen3-nano --fast", 2, "unrecognized arguments: --fast"),
    ("chat", 2, "NAME_OR_DIR"),
    ("chat Qwen3-8B", 1, "`python -m qwen3_ref fetch Qwen3-8B` downloads it (16.4 GB)"),
    ("chat ''", 2, "''; known: Qwen3-0.6B, "),
    ("chat file", 2, "file is a file"),
    ("chat qwen3-nano-student", 2, "the folder qwen3-nano-student here is no checkpoint"),
    ("chat Qwen3-nano", 2, "did you mean qwen3-nano."),
    ("chat empty", 1, "there is no empty/config.json"),
    ("chat broken", 1, "broken/config.json cannot be read as JSON"),
    ("chat qwen3-nano --seed -1", 2, "--seed: -1 is not 0 or more"),
    ("chat qwen3-nano --seed 1.5", 2, "invalid int value: '1.5'"),
    ("chat qwen3-nano --seed", 2, "--seed: expected one argument"),
    ("chat qwen3-nano --seed {digits}", 2, " ... "),
    ("chat qwen3-nano --temperature nan", 2, "nan is not 0.0 or more"),
    ("chat qwen3-nano --temperature inf", 2, "inf is not 0.0 or more"),
    ("chat qwen3-nano --temperature -0.1", 2, "-0.1 is not 0.0 or more"),
    ("chat qwen3-nano --temperature warm", 2, "invalid float value: 'warm'"),
    ("chat qwen3-nano --max-new-tokens 0", 2, "0 is not 1 or more"),
    ("chat qwen3-nano --thinking-budget -1", 2, "-1 is not 0 or more"),
    ("chat qwen3-nano --precision int3", 2, "invalid choice: 'int3'"),
    ("chat qwen3-nano --template llama", 2, "invalid choice: 'llama'"),
    ("chat qwen3-nano --tempurature 1", 2, "did you mean --temperature"),
    ("chat qwen3-nano --no-thinking", 2, "did you mean --no-think"),
    ("train", 2, "required: nano"),
    ("train mega", 2, "invalid choice: 'mega'"),
    ("train nano --seed x", 2, "invalid int value: 'x'"),
    ("train nano --precision fp8", 2, "invalid choice: 'fp8'"),
    ("train nano --scale", 2, "--scale: expected one argument"),
    ("train nano --scale much", 2, "--scale"),
    ("train nano --scale nan", 0, "scale"),
    ("train nano --scale 0", 0, "scale"),
    ("train nano --stage grop", 2, "there is no stage 'grop'; did you mean grpo"),
    ("train nano --stage ''", 2, "there are s1, s2, s3, cold-start, grpo and 16 more"),
    ("train nano --out file", 1, "file"),
    ("train nano --out", 2, "--out: expected one argument"),
    ("train nano --stages all", 2, "did you mean --stage"),
    ("evaluate", 2, "NAME_OR_DIR"),
    ("evaluate qwen3-mini", 2, "there is no checkpoint 'qwen3-mini'; did you mean "),
    ("evaluate Qwen3-8B", 1, "`python -m qwen3_ref fetch Qwen3-8B` downloads it (16.4 GB)"),
    ("evaluate ./nowhere", 2, "there is no directory ./nowhere"),
    ("evaluate file", 2, "file is a file"),
    ("evaluate ''", 2, "''"),
    ("evaluate empty", 1, "there is no empty/config.json"),
    ("evaluate broken", 1, "broken/config.json cannot be read as JSON"),
    ("evaluate qwen3-nano --budgets", 2, "--budgets: expected at least one argument"),
    ("evaluate qwen3-nano --budgets -1", 2, "-1"),
    ("evaluate qwen3-nano --budgets 1.5", 2, "1.5 is not a whole number"),
    ("evaluate qwen3-nano --count 0", 2, "--count: 0 is not"),
    ("evaluate qwen3-nano --max-new-tokens x", 2, "x is not a whole number"),
    ("evaluate qwen3-nano --budget 1", 2, "did you mean --budgets"),
    ("measure", 2, "ROW"),
    ("measure xyzzy --run empty", 0, "there is no row 'xyzzy'; there are pretraining, reasoning, fusion"),
    ("measure Fusoin", 1, "did you mean fusion"),
    ("measure all --run ./nowhere", 0, "nowhere"),
    ("measure all --run file", 0, "file"),
    ("measure all --run empty", 1, "no stage has been trained in empty; give the --out of `train nano`"),
    ("measure fusion --run empty", 1, "no stage has been trained in empty"),
    ("measure table --run empty", 1, "nothing is measured in empty/measured; run `measure all` first"),
    ("measure check --run empty", 1, "nothing is measured in empty/measured; run `measure all` first"),
    ("measure all --run", 2, "--run: expected at least one argument"),
    ("measure table --run empty file", 2, "table takes one --run; only spread takes several"),
    ("measure spread --run empty", 1, "one run has no spread; give --run two directories or more"),
    ("measure spread --run empty file", 1, "empty/s1/summary.json is not there"),
    ("measure table --rnu .", 2, "did you mean --run"),
    ("export qwen3-nano --to gguf", 2, "required: --out"),
    ("export qwen3-nano --to gguff --out new", 2, "did you mean gguf"),
    ("export qwen3-nano --to hf --type q8_0 --out new", 2, "hf takes bf16, f16, f32"),
    ("export file --to hf --out new", 1, "file is no GGUF file"),
    ("export empty --to hf --out new", 1, "there is no empty/config.json"),
    ("engines lama.cpp", 2, "did you mean llama.cpp"),
    ("engines --install", 2, "say which engines"),
    ("engines onnxruntime --type q8_0", 2, "none of these engines has weights of type q8_0"),
    ("engines llama.cpp --model Qwen3-8B", 1, "fetch Qwen3-8B"),
    ("export Qwen3-8B --to gguf --out new", 1, "`python -m qwen3_ref fetch Qwen3-8B` downloads it"),
]


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=lambda x: str(x)[:60].replace("\n", " "))
def test_wrong_words_get_one_sentence(
    words: str, code: int, says: str, tmp_path: Path
) -> None:
    """Exit code 1 or 2 (0 in the table: either), nothing on stdout, one line on stderr, nothing written."""
    for name in ("empty", "broken", "qwen3-nano-student"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "broken/config.json").write_text("{", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with contextlib.chdir(tmp_path):
        got, out, err = run(*(word.format(long=LONG, digits="9" * 5_000) for word in shlex.split(words)))
    assert got == code if code else got in (1, 2)
    assert out == "" and err.startswith("error: ") and err.endswith("\n")
    assert says in err and err[:-1].isprintable() and len(err) < 1_100
    assert sorted(tmp_path.rglob("*")) == before, "an error leaves nothing behind"


def test_the_table_of_wrong_words_is_long_and_has_every_command() -> None:
    assert len(WRONG) >= 60
    assert {words.split()[0] for words, *_ in WRONG} >= set(cli.COMMANDS)


def test_wrong_words_are_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    """All of the table, each in less than a second of work."""
    for name in ("empty", "broken", "qwen3-nano-student"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "broken/config.json").write_text("{", encoding="utf-8")
    lines = [shlex.split(words.format(long=LONG, digits="9" * 5_000)) for words, *_ in WRONG]
    code = """if True:
        import json, sys, time
        from qwen3_ref.commands.line import main
        for words in json.loads(sys.argv[1]):
            start = time.process_time()
            code = main(words)
            took, loaded = time.process_time() - start, "torch" in sys.modules
            if loaded or code not in (1, 2) or took > 1.0:
                sys.exit(f"{words}: {code} after {took} s, torch {loaded}")"""
    result = child("-c", code, json.dumps(lines), cwd=tmp_path)
    assert result.returncode == 0, result.stderr.splitlines()[-1]
    assert result.stderr.count("\n") == len(WRONG) and result.stdout == ""


@pytest.mark.parametrize(
    ("switches", "words"),
    [([], "chat qwen3-nano --seed -1"), (["-O"], "info Qwen3-9B"), (["-W", "error"], "fetch Qwen3-8B")],
)
def test_a_real_process_says_the_same(switches: list[str], words: str) -> None:
    result = child(*switches, "-m", "qwen3_ref", *words.split())
    assert result.returncode in (1, 2) and result.stdout == ""
    assert re.fullmatch(r"error: .*\n", result.stderr)


# -- help, version, json -----------------------------------------------------------------------


def test_help_in_every_spelling() -> None:
    """No words at all is the question what there is: help, and no error."""
    want = run("--help")
    assert want[0] == 0 and want[2] == ""
    assert run() == run("-h") == run("help") == run("help", "--help") == want
    for command in cli.COMMANDS:
        usage = run(command, "--help")
        assert usage[0] == 0 and usage[1].startswith(f"usage: python -m qwen3_ref {command} ")
        assert run("help", command) == run(command, "-h") == usage


def test_the_version_stands_in_one_place() -> None:
    want = (0, f"qwen3_ref {qwen3_ref.__version__}\n", "")
    assert run("--version") == run("-V") == want
    assert qwen3_ref.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_help_is_quick_and_needs_no_torch() -> None:
    """The help of every command together takes less than a second of work; no table needs torch either."""
    code = """if True:
        import sys, time
        from qwen3_ref.commands.line import COMMANDS, main
        for command in COMMANDS:
            main([command, "--help"])
        print(time.process_time(), file=sys.stderr)
        main(["info", "Qwen3-8B"]), main(["info"]), main(["verify", "Qwen3-8B"])
        print("torch" in sys.modules, file=sys.stderr)"""
    seconds, torch = child("-c", code).stderr.split()
    assert float(seconds) < 1.0 and torch == "False"


def test_the_script_speaks_its_own_name() -> None:
    """`qwen3-ref` is the same program; what it says of itself can be typed."""
    lines = ("--help", "chat --help", "info --x", "chat Qwen3-8B", "verify Qwen3-8B", "info qwen3-nano")
    for line in lines:
        code, *texts = run(*line.split())
        got, *said = run(*line.split(), program="/some/bin/qwen3-ref")
        assert got == code and "python -m" not in "".join(said)
        assert "".join(said).split() == "".join(texts).replace("python -m qwen3_ref", "qwen3-ref").split()


def test_the_script_is_the_program() -> None:
    code = "import sys; sys.argv[0] = 'qwen3-ref'; from qwen3_ref.__main__ import start; sys.exit(start())"
    result = child("-c", code, "fly")
    assert result.returncode == 2 and result.stderr.endswith("see `qwen3-ref --help`.\n")


def test_json_of_the_family_and_of_one() -> None:
    """The numbers of the table, as numbers; the same keys whatever the model, all of them documented."""
    code, out, err = run("info", "--json")
    family = json.loads(out)
    assert (code, err) == (0, "") and [one["name"] for one in family] == [*OPEN, *facts.backbones()]
    one = json.loads(run("info", "--json", "Qwen/Qwen3-8B")[1])
    nano = json.loads(run("info", "qwen3-nano", "--json")[1])
    assert one == family[OPEN.index("Qwen3-8B")]
    assert {tuple(each) for each in [*family, nano]} == {tuple(one)}
    assert one["parameters"]["total"] == 8_190_735_360 and one["repo"] == "Qwen/Qwen3-8B"
    assert one["weight_bytes"] == 16_381_470_720 and one["directory"] is None
    assert one["kv_cache_bytes"] == {str(n): 147_456 * n for n in (4_096, 32_768, 131_072)}
    assert set(one["flops_per_token"]) == {"0", "32768"}
    assert one["config_status"] == "verified" and re.fullmatch("[0-9a-f]{64}", one["config_sha256"])
    assert nano["name"] == "qwen3-nano" and nano["directory"] == str(find_nano("qwen3-nano"))
    assert nano["released"] is None and nano["config"] == json.loads(
        json.dumps(Qwen3Config.from_pretrained(find_nano("qwen3-nano")).to_dict())
    )
    # Active: 48 layers of 18,874,368 (attention), 4,352 (norms), 262,144 (router) and 8 experts of
    # 4,718,592, the last norm's 2,048 and two embeddings of 311,164,928. The other two are published.
    moe = family[OPEN.index("Qwen3-30B-A3B")]["parameters"]
    assert moe == {"total": 30_532_122_624, "active": 3_353_032_704, "non_embedding": 29_909_792_768}
    told = run("info", "--help")[1]
    assert all(re.search(rf"\b{key}\b", told) for key in one)


# -- terminals of every kind -------------------------------------------------------------------


def bare(text: str) -> str:
    """Letters and digits alone: what wrapping and columns cannot change."""
    return "".join(c for c in text if c.isalnum())


@pytest.mark.parametrize("words", [
    "info", "info Qwen3-30B-A3B", "info qwen3-nano", "verify Qwen3-8B", "plan Qwen3-8B --gpus 8xH100 --serve",
])  # fmt: skip
def test_tables_in_narrow_and_wide_terminals(words: str) -> None:
    """Nothing is cut, and nothing but a path is wider than a narrow terminal."""
    said = {columns: run(*words.split(), columns=columns)[1] for columns in (40, 80, 200)}
    assert all("…" not in text for text in said.values())
    assert said[80].split() == said[200].split()
    cells = said[200].replace("checkpoint ", "", 1).split()
    assert all(bare(cell) in bare(said[40]) for cell in cells)
    lines = said[40].splitlines()[2:]
    assert max(len(line) for line in lines if " " in line.strip()) <= 40
    assert max(map(len, said[80].splitlines())) > 40


def test_curves_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a family below each budget; as a table where there is room, or nobody looks."""
    told = {
        (terminal, columns): _curves(monkeypatch, terminal, columns)
        for terminal, columns in ((True, 40), (True, 200), (False, 40))
    }
    assert told[True, 200] == told[False, 40] != told[True, 40]
    heads = told[True, 200].splitlines()[0].split()
    assert heads[:3] == ["budget", "arithmetic", "counting"]
    lines = told[True, 40].splitlines()[: len(heads)]
    assert lines[0].strip() == "0" and [line.split()[0] for line in lines[1:]] == heads[1:]


def _curves(monkeypatch: pytest.MonkeyPatch, terminal: bool, columns: int) -> str:
    """What `evaluate` prints of one problem a family, without its last line, which has the time."""
    out = io.StringIO()
    console = Console(file=out, width=columns, force_terminal=terminal, highlight=False)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    args = parser.parse_args(["qwen3-nano", "--count", "1", "--budgets", "0", "--max-new-tokens", "8"])
    with contextlib.redirect_stdout(out):
        assert evaluate.command(args, console) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).rpartition("% right")[0]


def test_a_path_is_whole_on_a_line_of_its_own() -> None:
    lines = run("info", "qwen3-nano", columns=40)[1].splitlines()
    assert str(find_nano("qwen3-nano") / "config.json") in lines


@POSIX
@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_a_terminal_of_forty_columns(terminal: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "TERM": terminal, "PYTHONPATH": str(ROOT)}
    environment.pop("COLUMNS", None)
    out, code = pexpect.run(
        f"'{sys.executable}' -m qwen3_ref info Qwen3-8B",
        env=environment, withexitstatus=True, dimensions=(24, 40), encoding="utf-8", timeout=60,
    )  # fmt: skip
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in out.splitlines()]
    assert code == 0 and "Parameters" in lines and ("\x1b" in out) == (terminal != "dumb")
    assert max(map(len, lines[2:])) <= 40


@pytest.mark.parametrize(
    "environment",
    [
        {
            "HOME": "/nonexistent", "USERPROFILE": "/nonexistent", "TERM": "dumb", "NO_COLOR": "1",
            "QWEN3_WEIGHTS": "/dev/null/nonsense",
        },
        {"TERM": "", "COLUMNS": "many", "LINES": "-1", "PYTHONWARNINGS": "error"},
        {
            "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "QWEN3_WEIGHTS": "~nobody/here\n",
            "HF_HOME": "/dev/null", "HF_HUB_CACHE": "/dev/null/hub",
        },
    ],
    ids=["no home, dumb", "strict", "ascii, no cache"],
)  # fmt: skip
def test_odd_surroundings_change_nothing(environment: dict[str, str]) -> None:
    assert in_surroundings() == in_surroundings(**environment)


@functools.cache
def in_surroundings(**environment: str) -> tuple[str, str]:
    """What two commands and an error say with these variables set: stdout, stderr."""
    code = (
        "import sys; from qwen3_ref.commands.line import main; print(main(['info', 'Qwen3-8B']), "
        "main(['verify', 'Qwen3-8B']), main(['verify', 'qwen3-nano', '--x']))"
    )
    result = child("-c", code, env=environment)
    assert result.returncode == 0 and result.stdout.endswith("0 1 2\n")
    return result.stdout, result.stderr


@POSIX
@pytest.mark.parametrize(
    ("ending", "code"),
    [("--version 2>&-", 0), ("fly 2>&-", 2), ("fly 2>/dev/full", 2), ("fly >&- 2>&-", 2)],
)
def test_an_error_that_nobody_can_read(ending: str, code: int) -> None:
    """It is in the exit code, and never on stdout."""
    if "/dev/full" in ending and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f"'{sys.executable}' -m qwen3_ref {ending}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}  # as most people have it
    result = subprocess.run(command, shell=True, env=environment, stdout=subprocess.PIPE, check=False)
    assert result.returncode == code and bool(result.stdout) == (code == 0)


@POSIX
@pytest.mark.parametrize("words", ["chat --help", "info --json Qwen3-8B"])
def test_a_full_disk_is_named(words: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-m", "qwen3_ref", *words.split()], stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert result.returncode == 1
    assert re.fullmatch(r"error: the output cannot be written \(.*\); make room, .*\n", result.stderr)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 1, r"error: there is not enough memory \(it asked .*\); take a smaller model.*\n"),
        (MemoryError("Unable to allocate 3 TiB."), 1, r"error: .*\(Unable to allocate 3 TiB\); .*\n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, r"error: \[Errno 12\] Cannot allocate memory\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, r"error: /x/y cannot be used \(Per.*\); .*\n"),
        (ValueError("a\nb\x1b[31m."), 1, r"error: a\\nb\\x1b\[31m\.\n"),
        (Interrupted("saved."), 130, r"error: saved.\n"),
        (KeyboardInterrupt(), 130, ""),
        (Misuse("a" * 3_000 + "the way out."), 2, r"error: a{600} \.\.\. a+the way out\.\n"),
        (ConfigError("run `python -m qwen3_ref info`."), 1, r"error: run `python -m qwen3_ref info`.\n"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_command(error: BaseException, code: int, says: str) -> None:
    """One line, an exit code, and no traceback."""
    with mock.patch("qwen3_ref.commands.verify.verify", side_effect=error):
        got, out, err = run("verify", "qwen3-nano")
    assert (got, out) == (code, "") and re.fullmatch(says, err)


@pytest.mark.parametrize(
    ("found", "code"),
    [("passed", 0), ("passed,not checked", 0), ("not checked", 1), ("passed,failed", 1), ("failed", 1)],
)
def test_verify_succeeds_only_if_something_passed(found: str, code: int) -> None:
    statuses: list[Any] = found.split(",")
    findings = [Finding(f"check {i}", status, f"[why] {i}") for i, status in enumerate(statuses)]
    with mock.patch("qwen3_ref.commands.verify.verify", return_value=iter(findings)):
        got, out, _ = run("verify", "Qwen3-8B")
    assert got == code
    for finding in findings:
        assert re.search(rf"^{finding.status} +{finding.what} +\[why\]", out, re.MULTILINE)
    counted = [statuses.count(status) for status in ("passed", "failed", "not checked")]
    assert [int(n) for n in re.findall(r"\d+", out.splitlines()[-1])] == counted


# -- Ctrl-C ------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    ("place", "how"), [("rich/console.py", "time.sleep(30)"), ("qwen3_ref_slow/x.py", "A()")]
)
def test_an_interrupt_while_something_is_imported(place: str, how: str, tmp_path: Path) -> None:
    """Quiet, at once, 130: also where an exception would be swallowed, as in a __del__."""
    slow = "import time\nprint('importing', flush=True)\nclass A:\n    def __del__(self): time.sleep(30)\n"
    slow += how
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_text(slow, encoding="utf-8")
    (tmp_path / place).with_name("__init__.py").write_text("", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "qwen3_ref", "info"]
    if "slow" in place:  # in the middle of a command, as torch is
        code = (
            "import qwen3_ref.commands.info as i, qwen3_ref.__main__ as m, sys, importlib; "
            "i.command = lambda *_: importlib.import_module('qwen3_ref_slow.x'); sys.argv[1:] = ['info']; "
            "sys.exit(m.start())"
        )
        command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "") and time.monotonic() - start < 10


def test_an_interrupt_elsewhere_is_an_exception() -> None:
    """A command can clean up: a training run saves. In an import, however deep, the process ends."""

    def frame(file: str, back: Any = None) -> Any:
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=file), f_back=back)

    command = frame("qwen3_ref/commands/train.py", frame("<frozen runpy>"))
    importing = frame("torch/x.py", frame("<frozen importlib._bootstrap>", command))
    ends = []
    for where in (command, importing):
        try:
            with mock.patch("os._exit", side_effect=lambda code: sys.exit(code)):
                entry._interrupt(signal.SIGINT, where)
        except BaseException as end:
            ends.append(repr(end))
    assert ends == ["KeyboardInterrupt()", "SystemExit(130)"]


# -- README, make, the wheel -------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs_as_it_stands() -> None:
    """On a machine without official weights; what a comment behind a line promises is what comes."""
    import torch

    torch.manual_seed(0)
    (source,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), names)
    promises = re.findall(r"^([^#\n=]*\(.*\)) +# (\d+)$", source, re.MULTILINE)
    assert promises
    for expression, number in promises:
        assert eval(expression, names) == int(number)
    assert names["reply"].content.strip()


def quoted() -> list[str]:
    """Every command line that the README quotes, without its comment."""
    found = re.findall(r"python -m qwen3_ref ([^-`#\n|][^`#\n|]*)", README)
    return sorted({line.strip() for line in found})


def test_the_commands_that_the_readme_quotes_exist() -> None:
    lines = quoted()
    assert {line.split()[0] for line in lines} >= set(cli.COMMANDS)
    for line in lines:
        command, *rest = line.split()
        cli.parser_of(command).parse_args(["nano" if word == "NAME" else word for word in rest])
    for line in lines:  # those that take no time and no network
        if line.split()[0] == "info" or line == "verify qwen3-nano":
            assert run(*line.split())[0] == 0, line
    for module in re.findall(r"python -m ((?:tests|qwen3_ref)\.[\w.]+)", README):
        assert importlib.util.find_spec(module), module
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with the Makefile, and a place for false programs."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # this may run under `make test`
        monkeypatch.delenv(name, raising=False)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@POSIX
@pytest.mark.parametrize(("user", "root"), [("0", True), ("1000", False)])
def test_the_lab_opens_for_root_too(made: Path, user: str, root: bool) -> None:
    program(made / "bin" / "id", f"echo {user}")
    path = f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-n", "lab", "LAB=--ip=0.0.0.0"]
    said = subprocess.run(
        command, cwd=made, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert ("--allow-root" in said) == root and "--ip=0.0.0.0" in said


@POSIX
@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"exec '{sys.executable}' -c \"import sys; sys.version_info = (3, 9); $2\"", "is too old: 3.11"),
        (f"case \"$2\" in *ensurepip*) exit 1;; esac; exec '{sys.executable}' \"$@\"", "has no venv module"),
    ],
)
def test_make_says_what_the_interpreter_lacks(made: Path, script: str, says: str) -> None:
    program(made / "bin" / "python", script)
    command = ["make", "test", f"PYTHON={made / 'bin' / 'python'}"]
    result = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0 and first.startswith("error: ") and says in first
    assert all(line.startswith("make") for line in rest) and not (made / ".venv").exists()


def test_the_slowest_tests_are_printed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for rule in ("check: test course", "test: lint unit", "unit:.*\n\t.* --durations=10 tests"):
        assert re.search(rf"^{rule}$", makefile, re.MULTILINE), rule


def test_the_wheel_holds_what_git_holds(tmp_path: Path) -> None:
    """An installation that is no checkout has every file of the package, data included, and the script."""
    from importlib.metadata import version

    from packaging.version import Version

    if importlib.util.find_spec("setuptools") is None or Version(version("setuptools")) < Version("77"):
        pytest.skip("needs setuptools 77")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    package = [name for name in files if name.startswith("qwen3_ref/")]
    for name in [*package, "pyproject.toml", "README.md", "LICENSE"]:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    out = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path / "src", capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    with zipfile.ZipFile(tmp_path / out.split()[-1]) as wheel:
        names = set(wheel.namelist())
        scripts = next(wheel.read(name) for name in names if name.endswith("entry_points.txt")).decode()
    assert {name for name in names if name.startswith("qwen3_ref/")} == set(package)
    assert f"qwen3_ref-{qwen3_ref.__version__}-" in out
    assert "qwen3-ref = qwen3_ref.__main__:start" in scripts
    assert all(f"qwen3_ref/data/nano/{name}/model.safetensors" in names for name in NANO)
