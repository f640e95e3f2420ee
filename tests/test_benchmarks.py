"""The benchmarks run: each on a toy, in this process but where a fresh one is the point. Times are not
judged, since a test has no quiet machine."""

from __future__ import annotations

import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from benchmarks import models, report
from benchmarks.__main__ import Bench, main
from benchmarks.contestants import Machine, Ours, contestant, seeded_ids
from benchmarks.load import stored
from benchmarks.race import Entrant, Outside, Result, Task, race
from qwen3_ref.config import Qwen3Config

TRANSFORMERS = ("transformers",)


def run(out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    assert main([*arguments, "--quick", "--runs", "1", "--threads", "1", "--out", str(out)]) == 0
    (text,), (record,) = out.glob("*.md"), out.glob("*.json")
    return text.read_text(encoding="utf-8"), json.loads(record.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "task"),
    [("decode", "decode 8 x 1"), ("prefill", "prefill 16"), ("batch", "decode 8 x 4"),
     ("context", "decode 16 x 1"), ("moe", "moe 16"), ("rollouts", "rollouts")],
)  # fmt: skip
def test_a_quick_run(name: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours beside transformers, llama.cpp reported as missing where it is: a table, targets, and a record."""
    text, record = run(tmp_path, name, "--ours", "float32", "auto", "--peers", "transformers", "llama.cpp")
    assert text.strip() in capsys.readouterr().out
    found = record["benchmarks"][name]
    rates = {r["entrant"]: r["rates"] for r in found["results"] if r["task"] == task}
    wanted = {"ours float32", "transformers float32"} if name != "context" else {"ours float32"}
    assert wanted <= set(rates)
    assert all(len(r) == 1 and r[0] > 0 for r in rates.values())
    if not util.find_spec("xllamacpp"):
        assert "- llama.cpp: not installed (xllamacpp)" in text
    assert set(found["missing"]) <= {"llama.cpp"}
    assert record["targets"] and all(t["target"] in text for t in record["targets"])


def test_loading(tmp_path: Path) -> None:
    """A fresh process, and the command line."""
    text, record = run(tmp_path, "load")
    (row,) = record["benchmarks"]["load"]["rows"]
    assert row["kind"] == "float32" and row["first_token_seconds"] > row["seconds"] > 0
    assert row["model_bytes"] >= 4 * models.matrices(models.dense(True))
    assert record["benchmarks"]["load"]["info_seconds"][0] > 0 and "| `info` |" in text


def test_notebooks(tmp_path: Path) -> None:
    """A notebook of one cell under nbval."""
    text, record = run(tmp_path, "notebooks")
    assert record["benchmarks"]["notebooks"]["said"].startswith("1 passed") and "at most 12" in text


def test_a_contestant_in_its_own_process(tmp_path: Path) -> None:
    """It answers, says in a sentence what went wrong, and what it prints does not get in between."""
    directory = models.made(models.dense(True), tmp_path / "model")
    given = {"directory": str(directory), "precision": "float32"}
    one = Outside(Entrant("ours", "float32", "ours", given), 1, tmp_path)
    assert one.ask("decode", context=4, rows=1, steps=2) > 0
    assert one.ask("peak") > 50e6
    with pytest.raises(RuntimeError, match="AttributeError: .*no attribute 'sing'"):
        one.ask("sing")
    assert one.ask("prefill", tokens=4) > 0
    one.close()
    assert one.process.returncode == 0


def test_who_cannot_run_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    directory = str(models.made(models.dense(True), tmp_path / "model"))
    given = {"directory": directory}
    entrants = [Entrant("ours", p, "ours", given | {"precision": p}) for p in ("int3", "int8")]
    task = Task("prefill 4", "prefill", {"tokens": 4}, 4)
    results, missing = race(entrants, lambda e: [task], runs=2, threads=1, directory=tmp_path, inside=True)
    assert [(r.entrant, len(r.rates)) for r in results] == [("ours int8", 2)]
    assert list(missing) == ["ours int3"]
    assert missing["ours int3"].startswith("ValueError: precision is 'int3'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decod"], "error: NAME 'decod' is not known; take decode, prefill, "),
        (["decode", "--ours", "int3"], "error: --ours 'int3' is not known; take auto, float32, "),
        (["decode", "--peers", "vllm"], "error: --peers 'vllm' is not known; take transformers, "),
        (["decode", "--runs", "0"], "error: --runs is 0; give 1 or more."),
        (["decode", "--threads", "-1"], "error: --threads is -1; give 1 or more."),
        (["decode", "--figure"], "error: the figure shows decode and prefill; name both."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1


def test_another_model_in_the_directory_is_refused(tmp_path: Path) -> None:
    models.made(models.dense(True), tmp_path)
    with pytest.raises(ValueError, match="holds a model of another shape; give another --model"):
        models.made(models.one_moe_layer(True), tmp_path)


def test_the_work_of_a_token_by_hand() -> None:
    """0.6B: 596,049,920 parameters less 28 x (2 x 1024 + 2 x 128) + 1024 gains, each read once."""
    c = Qwen3Config.named("Qwen3-0.6B")
    weights = 596_049_920 - 28 * (2 * 1024 + 2 * 128) - 1024
    assert models.matrices(c) == weights
    a_token = 28 * 2 * 8 * 128  # numbers in the cache
    assert models.bytes_of_a_step(c, "float32", 32) == 4 * weights + 32 * 4 * a_token
    assert models.bytes_of_a_step(c, "int8", 32, rows=16) == weights + 16 * 32 * 2 * a_token
    assert models.bytes_of_a_step(c, "q8_0", 0) == weights * 34 / 32
    assert models.bytes_of_a_step(c, "q4_0", 0) == weights * 18 / 32
    head, squares = 151_936 * 1024, 28 * 16 * 2 * 128 * 512 * 512
    assert models.flops_of_prefill(c, 512) == 2 * 512 * (weights - head) + 2 * head + squares


def test_experts_count_by_those_that_are_chosen() -> None:
    c = models.one_moe_layer(False)
    attention = 2 * 2048 * 128 + 2 * 2048 * 128
    assert models.matrices(c) == 64 * 2048 + attention + 128 * 2048 + 8 * 3 * 2048 * 768


def result(family: str, precision: str, task: str, *rates: float, how: str = "") -> Result:
    return Result(f"{family} {precision}", family, precision, task, list(rates), how)


def test_targets_compare_rounds() -> None:
    """The median of the rounds' ratios, and not the ratio of medians; against the best of the peer."""
    task = "decode 32 x 1"
    results = [
        result("ours", "auto", task, 30, 30, 10, how="chose int8"),
        result("llama.cpp", "q8_0", task, 20, 20, 20),
        result("transformers", "float16", task, 5, 5, 5),
        result("transformers", "bfloat16", task, 10, 10, 4),
        result("transformers", "float32", task, 99, 99, 99),  # not 16 bits
    ]
    found = {"decode": {"results": results, "task": task}}
    said = {what: measured for what, measured, _, _ in report.targets(found)}
    assert said["decode: auto over llama.cpp q8_0"] == 1.5
    assert said["decode: auto over transformers' best 16-bit"] == 3
    assert said["decode: int4 over llama.cpp q4_0"] is None
    lines = report.judged(found)
    assert [line.rsplit("|", 2)[1].strip() for line in lines[2:4]] == ["yes", "yes"]
    assert "| decode: int4 over llama.cpp q4_0 | not measured | 0.8x |  |" in lines


def test_the_share_of_the_limit() -> None:
    """1 GB/s reads a toy's int8 weights so many times a second; auto counts as what it chose."""
    c, task = models.dense(True), "decode 8 x 1"
    most = 1e9 / models.bytes_of_a_step(c, "int8", 8)
    results = [
        Result("machine ", "machine", "", "read", [1e9]),
        result("ours", "auto", task, most / 2, how="chose int8; more"),
    ]
    assert report.limit(c, results, results[1]) == pytest.approx(0.5)
    assert report.limit(c, results[1:], results[1]) is None


def test_the_figure_shows_what_was_measured(tmp_path: Path) -> None:
    c = Qwen3Config.named("Qwen3-0.6B")
    decode = [
        Result("machine ", "machine", "", "read", [20e9]),
        result("ours", "int8", "decode 32 x 1", 20, 25),
        result("llama.cpp", "q8_0", "decode 32 x 1", 21, 24),
    ]
    prefill = [
        Result("machine ", "machine", "", "products int8", [400e9]),
        result("ours", "int8", "prefill 512", 200, 250),
    ]
    found = {"decode": {"results": decode, "task": "decode 32 x 1"}, "prefill": {"results": prefill}}
    figure, data = report.speed(c, found)
    figure.savefig(tmp_path / "speed.png")
    assert data["bandwidth_gb_per_second"] == 20
    assert data["decode"]["ours int8"]["tokens_per_second"] == [20, 25]
    assert data["prefill_tokens_per_second"] == {"ours int8": [200, 250]}


def test_everyone_gets_the_same_ids() -> None:
    assert seeded_ids(2, 5, 9) == seeded_ids(2, 5, 9)
    assert {len(row) for row in seeded_ids(3, 5, 9)} == {5}
    assert isinstance(contestant("machine", {"quick": True}), Machine)


def test_stored_weights_are_counted_once(tmp_path: Path) -> None:
    c = models.dense(True)
    directory = str(models.made(c, tmp_path / "model"))
    model = Ours(directory, "plain").model
    assert stored(model) == 4 * c.num_parameters()
    half = stored(Ours(directory, "bfloat16").model)
    head = 2 * c.vocab_size * c.hidden_size
    assert 2 * c.num_parameters() <= half <= 2 * c.num_parameters() + head + 20_000  # gains are float32


def test_a_missing_interpreter_is_a_missing_peer(tmp_path: Path) -> None:
    b = Bench(True, 1, 1, tmp_path, (), ("llama.cpp",), str(tmp_path / "python"))
    assert b.missing("llama.cpp") == "not installed (xllamacpp)"
    assert b.missing("transformers") is None and sys.executable
