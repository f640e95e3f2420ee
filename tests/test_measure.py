"""The measured table: its numbers by hand, every row on a small family, cut off and gone on with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.commands import evaluate as evaluate_command
from qwen3_ref.commands import line as cli
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import Generated
from qwen3_ref.measure import accuracy as accuracy_module
from qwen3_ref.measure import rows as rows_module
from qwen3_ref.measure.accuracy import Row, _row, curve_table, curves
from qwen3_ref.measure.rows import Bench
from qwen3_ref.measure.statistics import rises, wilson
from qwen3_ref.measure.table import (
    ABOVE,
    AT_LEAST,
    NOTE,
    Item,
    Number,
    any_of,
    cell,
    change,
    mean_of,
    render,
    share,
    thresholds,
)
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, Problem, make_problems, split_of
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.recipes import general_rl, pretrain
from qwen3_ref.train.recipes.general_rl import Task
from qwen3_ref.train.run import Run
from qwen3_ref.train.stages import SHIPPED as SHIPPED_STAGES
from qwen3_ref.train.state import weights_hash
from tests.helpers import require_recorded, row

TOK = Tokenizer.train(["12 + 34 is 46 and so on"], 300)
CONFIG = Qwen3Config(
    vocab_size=TOK.num_ids, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=10, rope_theta=1e4, tie_word_embeddings=True, initializer_range=0.3,
    max_position_embeddings=4096,
)  # fmt: skip
SHIPPED = Path(rows_module.__file__).parents[1] / "data" / "nano" / "measured"
MOE = replace(
    CONFIG, model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
    norm_topk_prob=True,
)  # fmt: skip
STAGES = ["moe-s3", "s1", "s2", "s3", "s3-no-abf", "cold-start", "grpo", "fusion", "general-rl"]
STAGES += [*rows_module.STUDENTS, "general-rl-length-alone"]


def save(out: Path, stage: str, seed: int) -> None:
    folder = out / stage
    config = MOE if stage.startswith("moe") else CONFIG
    Qwen3(config, generator=torch.Generator().manual_seed(seed)).save_pretrained(folder / "model")
    TOK.save_pretrained(folder / "model")
    replies = {"kept": 90 + seed, "wrong answer": 7}
    summary = {"seed": 0, "queries": 100 + seed, "learnable": 50, "replies": replies}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def family(out: Path) -> Run:
    """A run directory with untrained models, and a corpus of a few words."""
    for seed, stage in enumerate(STAGES):
        save(out, stage, seed)
    for seed, step in enumerate((0, 20, 340)):
        save(out, f"grpo/steps/{step}", 20 + seed)
    run = Run(out)
    documents = [f"document {i} of some thirty words and so on" * 3 for i in range(300)]
    vars(run)["corpus"] = {domain: [f"{domain} {d}" for d in documents] for domain in DOMAINS}
    return run


def shorten(patch: pytest.MonkeyPatch) -> None:
    """As little of everything as a test needs."""
    patch.setattr(rows_module, "MAX_REPLY", 6)
    patch.setattr(rows_module, "REACH", (300, 2048))
    patch.setattr(rows_module, "LOSS_ROWS", 4)
    patch.setattr(rows_module, "CONTROLS", 2)
    patch.setattr(pretrain, "QUESTIONS", 3)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


# -- numbers -------------------------------------------------------------------------------------------


def test_numbers_by_hand() -> None:
    assert share([True, False, False, False]) == Number(0.25, *wilson(0.25, 4), 4)
    two = mean_of([1.0, 3.0], each=256)  # standard deviation sqrt(2), divided by sqrt(2)
    assert (two.value, two.n) == (2.0, 512)
    assert (two.low, two.high) == pytest.approx((2 - 1.959964, 2 + 1.959964), abs=1e-6)
    rows = [row(p, bool(bits >> s & 1), sample=s) for p, bits in enumerate((0, 1, 2, 0)) for s in (0, 1)]
    assert any_of(rows) == Number(0.5, *wilson(0.5, 4), 4), "two of four, whichever sample solves them"


def test_change_is_paired() -> None:
    """One of eight lost: mean -1/8, variance (7 (1/8)^2 + (7/8)^2) / 7 = 1/8."""
    before = [row(p, p != 0) for p in range(8)]
    after = [row(p, p > 1) for p in range(8)]
    half = 1.959964 * math.sqrt(1 / 8 / 8)
    got = change(before, after)
    assert (got.value, got.n) == (-0.125, 8)
    assert (got.low, got.high) == pytest.approx((-0.125 - half, -0.125 + half), abs=1e-6)
    with pytest.raises(ValueError, match="different problems"):
        change(before, after[::-1])
    two = [[row(p, right, sample=s) for p in (0, 1) for s in (0, 1)] for right in (False, True)]
    got = change([*two[0][:2], *two[1][2:]], two[1])
    assert (got.value, got.n) == (0.5, 2), "two problems, not four: samples of one are not independent"
    assert got.high - got.low == pytest.approx(2 * 1.959964 * math.sqrt(0.5 / 2), abs=1e-6)


def test_an_answer_that_was_cut_is_wrong() -> None:
    problem = Problem("arithmetic", 1, "40+02 mod 100", "4002=42", "42")
    for ended, thought, right in (
        ("stop", "closed", True),
        ("stop", None, True),
        ("stop", "budget", True),
        ("length", "closed", False),
        ("stop", "stop", False),
        ("length", "length", False),
    ):
        reply = Generated()
        reply.answer, reply.ended, reply.thinking_ended = TOK.encode("42\n"), ended, thought
        assert _row(0, problem, "thinking", None, 0, reply, TOK).correct is right


def test_curves_by_hand() -> None:
    rows = [row(0, True, budget=8), row(1, False, budget=8, family="counting")]
    rows += [row(0, True, mode="non-thinking"), row(1, True, mode="non-thinking", family="counting")]
    points = {(p["family"], p["mode"], p["budget"]): (p["pass_1"], p["problems"]) for p in curves(rows)}
    assert points == {
        ("arithmetic", "thinking", 8): (1.0, 1),
        ("counting", "thinking", 8): (0.0, 1),
        ("arithmetic", "non-thinking", None): (1.0, 1),
        ("counting", "non-thinking", None): (1.0, 1),
        ("all", "thinking", 8): (0.5, 2),
        ("all", "non-thinking", None): (1.0, 2),
    }
    lines = [line.split("  ") for line in curve_table(curves(rows)).splitlines()]
    assert [[c.strip() for c in line if c.strip()] for line in lines] == [
        ["budget", "arithmetic", "counting", "all", "lenient"],
        ["8", "100 (21-100)", "0 (0-79)", "50 (9-91)", "50"],
        ["non-thinking", "100 (21-100)", "100 (21-100)", "100 (34-100)", "100"],
    ]


# -- the rows ------------------------------------------------------------------------------------------


def found(items: Iterator[Item]) -> dict[str, tuple[float | None, float]]:
    return {i.what: (i.before and i.before.value, i.after.value) for i in items}


def test_kept_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two problems a family; the first `right` of the ten are right."""

    def answers(self: Bench, stage: str, what: str, problems: Sequence[Problem], **options: Any) -> list[Row]:
        old = stage == "grpo"
        right = {
            ("thinking", 0): 0 if old else 1,
            ("thinking", None): 10 if old else 7,
            ("non-thinking", None): 2 if old else 4,
        }
        return [
            row(i, i < n, family=p.family, mode=mode, budget=budget)
            for (mode, budget), n in right.items()
            for i, p in enumerate(problems)
        ]

    monkeypatch.setattr(Bench, "answers", answers)
    bench = Bench(Run(tmp_path), "fusion", 2)
    assert found(rows_module._kept(bench, "grpo", "fusion", "F", (0, None))) == {
        "F: thinking accuracy": (1.0, 7 / 10),
        "F: thinking accuracy, arithmetic": (1.0, 1.0),
        "F: thinking accuracy, counting": (1.0, 1.0),
        "F: thinking accuracy, conversion": (1.0, 1.0),
        "F: thinking accuracy, retrieval": (1.0, 0.5),
        "F: thinking accuracy, translation": (1.0, 0.0),
        "F: accuracy without thinking": (2 / 10, 4 / 10),
        "F: accuracy with a budget of 0": (0.0, 1 / 10),
        "F: lenient accuracy with a budget of 0": (0.0, 1 / 10),
        "F: accuracy with no budget": (1.0, 7 / 10),
    }
    points = [p for p in bench.extra["curves"] if p["mode"] == "thinking"]
    curve = {(p["family"], p["budget"]): p["pass_1"] for p in points}
    assert curve["arithmetic", 0] == 0.5 and curve["retrieval", None] == 0.5


def test_general_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds come in turn, and each part is judged on its own kind alone."""
    family(tmp_path)
    new = {"mode": 1.0, "format": 1.0, "tool": 1.0, "length": 1.0, "correct": 1.0}
    single = [new | {"mode": m, "format": f} for m, f in ((1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.0, 1.0))]
    turns = [new | {"mode": m} for m in (1.0, 0.0, 1.0, 0.0)]
    limit = [new | {"length": x, "correct": y} for x, y in ((1.0, 0.0), (0.7, 1.0), (0.0, 1.0), (0.99, 1.0))]
    small = [new | {"length": x} for x in (0.7, 0.99, 0.6, 0.7)]
    tools = [new | {"tool": x} for x in (0.5, 0.0, 1.0, 0.5)]
    old = [parts for four in zip(single, turns, limit, tools, strict=True) for parts in four]
    asked: list[str] = []

    def score(self: Bench, stage: str, what: str, tasks: Sequence[Task]) -> list[dict[str, float]]:
        asked.extend(task.messages[-1]["content"] for task in tasks[2::4] if what == "tasks")
        if what == "small-limits":
            for task, wide in zip(tasks, asked, strict=False):  # the same questions, with less room
                said, _, limit = task.messages[-1]["content"].rpartition("at most ")
                assert wide.startswith(said) and int(limit.split()[0]) < int(wide.split()[-2])
        before = old if what == "tasks" else small
        return before if stage == "fusion" else [new] * len(before)

    monkeypatch.setattr(Bench, "score", score)
    assert found(rows_module._general(Bench(Run(tmp_path), "general", 4))) == {
        "General RL: mode followed, ThinkFollow (several turns)": (0.5, 1.0),
        "General RL: mode followed, one turn": (0.25, 1.0),
        "General RL: format right": (0.75, 1.0),
        "General RL: tool call of valid format": (0.75, 1.0),
        "General RL: tool call right": (0.25, 1.0),
        "General RL: length limit obeyed": (0.25, 1.0),
        "General RL: right with a length limit": (0.75, 1.0),
        "General RL: obeyed with a length limit that the steps do not fit in": (0.0, 1.0),
        "General RL: right with a length limit that the steps do not fit in": (1.0, 1.0),
    }
    kinds = general_rl.make_tasks(TOK, 2, run_seed=0)
    assert ["tool" in t.rewards for t in kinds] == [False, False, False, True] * 2
    assert ["length" in t.rewards for t in kinds] == [False, False, True, False] * 2
    assert [len(t.messages) > 1 for t in kinds] == [False, True, False, False] * 2


def test_scores_go_to_their_tasks(tmp_path: Path) -> None:
    """Prompts are sorted by length for the model, and the scores are not."""
    family(tmp_path)

    def scripted(model: Qwen3, prompts: Sequence[Sequence[int]], **options: Any) -> list[Generated]:
        assert [*map(len, prompts)] == sorted(map(len, prompts))
        replies = []
        for prompt in prompts:
            thought = "so" if "yes" in TOK.decode(prompt) else ""
            reply = Generated()
            words = f"<think>\n{thought}\n</think>\n\n1<|im_end|>"
            reply += TOK.encode(words, allow_control_tokens=True)
            replies.append(reply)
        return replies

    rewards = {"mode": lambda sample: general_rl.mode_reward(sample, True)}
    said = ["yes " * 9, "no", "yes", "no " * 9]
    tasks = [Task([{"role": "user", "content": words}], rewards, {}) for words in said]
    bench = Bench(Run(tmp_path), "fusion", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "generate", scripted)
        parts = bench.score("grpo", "x", tasks)
    assert [found["mode"] for found in parts] == [1.0, 0.0, 1.0, 0.0]
    lines = (tmp_path / "measured" / "fusion" / "grpo-x.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["task,format,mode,correct,length,tool", "0,,1,,,", "1,,0,,,"]


def test_how_stages_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage as the protocol has it: no prompt of a row's own, and weights as bfloat16 has them."""
    family(tmp_path)
    (problem,), said = make_problems("arithmetic", "test", 1), list[set[str]]()

    def noted(model: Qwen3, tokenizer: Tokenizer, *_: Any, **options: Any) -> list[Row]:
        said.append(set(options))
        assert all((p == p.bfloat16().float()).all() and p.dtype == torch.float32 for p in model.parameters())
        return []

    monkeypatch.setattr(rows_module, "evaluate", noted)
    assert Bench(Run(tmp_path), "fusion").answers("grpo", "x", [problem], modes=["thinking"]) == []
    assert said == [{"modes", "seed", "max_new_tokens", "batch_size", "early_stop", "log"}]


def test_every_row_and_only_test_problems(tmp_path: Path) -> None:
    """All rows on a small family: complete, on the test split, with the seed that tuning did not use."""
    run, drawn, measured = family(tmp_path), list[tuple[str, int]](), dict[str, Any]()

    def watched(make: Callable[..., list[Problem]]) -> Callable[..., list[Problem]]:
        def draw(name: str, split: str, count: int, difficulty: Any = None, seed: int = 0, **k: Any) -> Any:
            drawn.append((split, seed))
            return make(name, split, count, difficulty, seed, **k)

        return draw

    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)  # faults run this test without its fixtures
        for module in (rows_module, general_rl, pretrain, evaluate_command):
            patch.setattr(module, "make_problems", watched(make_problems))
        model = str(tmp_path / "grpo" / "model")
        assert cli.main(["evaluate", model, "--count", "1", "--budgets", "0", "--max-new-tokens", "4"]) == 0
        assert set(drawn) == {("test", rows_module.TEST_SEED)}
        for name in rows_module.ROWS:
            drawn.clear()
            assert rows_module.measure_row(run, name, 4) == []
            assert {split for split, _ in drawn} == ({"test"} if name != "experts" else set())
            assert not {seed for _, seed in drawn} & {0, 1}
            data = json.loads((tmp_path / "measured" / f"{name}.json").read_text(encoding="utf-8"))
            assert data["split"] == "test" and data["items"] and not data["missing"]
            measured[name] = {key: data[key] for key in data if key not in ("seconds", "weights")}
            for item in data["items"]:
                assert item["after"]["n"] >= 4 or name == "experts" or item["unit"] == "replies", item["what"]
                paired = item["before"] is not None and not item["id"].startswith("experts.")
                assert (item["change"] is not None) == paired, item["what"]
    require_recorded("measured rows", measured)
    asked = [p for p in Bench(run, "fusion", 4).problems(9) if p.family != "translation"]
    assert len(asked) == 36 and all(split_of(p.prompt) == "test" for p in asked)
    words, missing = render(tmp_path / "measured", list(rows_module.ROWS))
    assert missing == []
    assert "GRPO, pass@1 in % by step (5 problems, `measure reasoning`): 0: 0.0, 10: 0.0, 170: 0.0." in words
    drawn = 170 * 16 * 8 + 4 * (100 + STAGES.index("student-rl"))
    assert f"+ reinforcement learning: replies drawn to learn from (replies) |  | {drawn:,} |" in words
    taught = 90 + STAGES.index("off-policy") + 7
    assert f"off-policy distillation: replies drawn to learn from (replies) |  | {taught:,} |" in words
    assert f"forward KL: replies drawn to learn from (replies) |  | {170 * 64:,} |" in words
    student = next(line for line in words.splitlines() if line.startswith("| student-rl |"))
    assert student.endswith(f" | {drawn:,} |")
    for name in rows_module.ROWS:
        lines = [x for x in words.splitlines() if x.endswith(f"| `python -m qwen3_ref measure {name}` |")]
        assert lines and all(line.count("|") == 7 for line in lines)


def test_interrupted_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in the second batch; the same command answers only what is left, with the same result."""
    asked, real = [0], accuracy_module.generate

    def counted(*arguments: Any, **options: Any) -> Any:
        asked[0] += 1
        if asked[0] == stop:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    results, calls = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "MAX_REPLY", 6)
        patch.setattr(rows_module, "COUNT", 4)
        patch.setattr(rows_module.measure_row, "__defaults__", (4,))
        patch.setattr(accuracy_module, "generate", counted)
        for name, stop in (("whole", 0), ("broken", 2)):
            family(tmp_path / name)
            asked[0] = 0
            arguments = ["measure", "reasoning", "--run", str(tmp_path / name)]
            if stop:
                assert cli.main(arguments) == 130
                assert not (tmp_path / name / "measured" / "reasoning.json").exists()
                stop = 0
            assert cli.main(arguments) == 0
            calls.append(asked[0])
            data = json.loads((tmp_path / name / "measured" / "reasoning.json").read_text(encoding="utf-8"))
            results.append(data["items"])
    assert results[0] == results[1]
    assert calls == [10, 11], "two batches a stage, and the one that was broken off"
    assert capsys.readouterr().err == ""


def test_a_missing_stage_is_named_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family(tmp_path)
    (tmp_path / "student-rl" / "model" / "config.json").unlink()
    (tmp_path / "on-policy" / "summary.json").unlink()
    monkeypatch.setattr(rows_module.measure_row, "__defaults__", (4,))
    assert cli.main(["measure", "distillation", "--run", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path}/student-rl/model is not there; run --stage student-rl first, or --stage all.",
        f"error: {tmp_path}/on-policy/summary.json is not there; run --stage on-policy to its end.",
    ]
    data = json.loads((tmp_path / "measured" / "distillation.json").read_text(encoding="utf-8"))
    assert set(data["table_21"]) == {"off-policy", "on-policy-forward"}


def test_answers_of_another_model_are_refused(tmp_path: Path) -> None:
    run = family(tmp_path)
    rows_module.measure_row(run, "reasoning", 4)
    assert rows_module.stale(run) == []
    save(tmp_path, "grpo", 99)
    assert rows_module.stale(run) == [
        f"{tmp_path}/grpo/model is not what `measure reasoning` measured; delete "
        f"{tmp_path}/measured/reasoning and run it again."
    ]
    with pytest.raises(ValueError, match=r"grpo-sampled.csv holds answers of another model"):
        rows_module.measure_row(run, "reasoning", 4)


def test_the_table_by_hand(tmp_path: Path) -> None:
    number = {"value": 0.5, "low": 0.456, "high": 0.544, "n": 500}
    gain = {"value": 0.25, "low": -0.03, "high": 0.544, "n": 500}
    items: list[dict[str, Any]] = [
        {"what": "GRPO: pass@1", "before": number, "after": number | {"value": 0.75}, "unit": "%"},
        {"what": "loss", "before": number, "after": number, "unit": "nats", "change": gain},
    ]
    items[0]["change"] = gain
    data = {"items": items, "missing": ["x is not there."]}
    (tmp_path / "reasoning.json").write_text(json.dumps(data), encoding="utf-8")
    assert render(tmp_path, ["reasoning", "fusion"]) == (
        "| what | before | after | change | n | measured by |\n|---|---|---|---|---|---|\n"
        "| GRPO: pass@1 | 50.0% (45.6 to 54.4) | 75.0% (45.6 to 54.4) | +25.0 (-3.0 to +54.4) | 500 "
        "| `python -m qwen3_ref measure reasoning` |\n"
        "| loss (nats) | 0.50 (0.46 to 0.54) | 0.50 (0.46 to 0.54) | +0.25 (-0.03 to +0.54) | 500 "
        f"| `python -m qwen3_ref measure reasoning` |\n\n{NOTE}\n",
        ["x is not there.", f"{tmp_path}/fusion.json is not there; run `measure fusion` first."],
    )
    assert cell({"value": 7.139, "low": 7.1, "high": 7.2, "n": 1}, "nats a token") == "7.14 (7.10 to 7.20)"
    with pytest.raises(ValueError, match="nothing is measured in .*; run `measure all` first"):
        render(tmp_path, ["fusion"])


def test_families_of_the_bench() -> None:
    problems = Bench(Run(Path()), "fusion").problems(6)
    assert [p.family for p in problems[::6]] == list(FAMILIES)
    kept = {p.prompt for f in FAMILIES for p in make_problems(f, "validation", 200, seed=TEST_SEED)}
    assert not kept & {p.prompt for p in problems}


# -- what a run must reach -----------------------------------------------------------------------------


def point(value: float, half: float = 0.02) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 500}


def test_rising_by_hand() -> None:
    half = 0.02
    for values, wanted in {
        (0.1, 0.1, 0.3, 0.5): True,
        (0.1, 0.07, 0.3, 0.5): True,  # a fall within error
        (0.1, 0.05, 0.3, 0.5): False,  # beyond it
        (0.1, 0.12, 0.11, 0.13): False,  # flat within error
    }.items():
        assert rises([v - half for v in values], [v + half for v in values]) is wanted


LABELS = {
    item["id"]: item["what"]
    for name in rows_module.ROWS
    if (SHIPPED / f"{name}.json").exists()
    for item in json.loads((SHIPPED / f"{name}.json").read_text("utf-8"))["items"]
}


def reached(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """A measured folder in which every threshold is just reached, after `change`."""
    items: dict[str, Any] = {}
    for what, least in AT_LEAST.items():
        new = {"before": None, "after": point(1), "unit": "%"}
        item = items.setdefault(what.removesuffix(".change"), new)
        item["change" if what.endswith(".change") else "after"] = point(least)
    for high, low in ABOVE:
        items.setdefault(high, {"before": None, "after": point(0.5), "unit": "%"})
        items.setdefault(low, {"before": None, "after": point(0.1), "unit": "%"})
    curves = [
        {"stage": "fusion", "family": f, "mode": "thinking", **point(0.1 + 0.1 * b * (f != "counting"))}
        for f in FAMILIES
        for b in range(6)
    ]
    data = {"items": items, "curves": curves}
    change(data)
    data["items"] = [{"id": name, "what": LABELS[name], **item} for name, item in data["items"].items()]
    (folder / "fusion.json").write_text(json.dumps(data), encoding="utf-8")
    return data


BREAKS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    *(
        (
            LABELS[w.removesuffix(".change")] + (", its change" if w.endswith(".change") else ""),
            lambda d, w=w: d["items"][w.removesuffix(".change")][
                "change" if w.endswith(".change") else "after"
            ].update(point(AT_LEAST[w] - 1e-3)),
        )
        for w in AT_LEAST
    ),
    (
        "fusion.thinking.accuracy.change: not measured",
        lambda d: d["items"]["fusion.thinking.accuracy"].pop("change"),
    ),
    *((LABELS[high], lambda d, w=high: d["items"][w]["after"].update(low=0.11)) for high, _ in ABOVE),
    ("fusion.obeyed.think: not measured", lambda d: d["items"].pop("fusion.obeyed.think")),
    ("fusion.budget-0.accuracy: not measured", lambda d: d["items"].pop("fusion.budget-0.accuracy")),
    (
        "accuracy rises with the budget: arithmetic, retrieval",
        lambda d: [d["curves"][i].update(point(0.1)) for i in (17, 29)] and None,
    ),
]


@pytest.mark.parametrize(("what", "change"), BREAKS, ids=[str(i) for i in range(len(BREAKS))])
def test_a_threshold_that_is_missed_is_named(
    tmp_path: Path, what: str, change: Callable[[dict[str, Any]], None]
) -> None:
    reached(tmp_path)
    assert all(good for good, _ in thresholds(tmp_path, ["fusion"]))
    reached(tmp_path, change)
    assert [told for good, told in thresholds(tmp_path, ["fusion"]) if not good and told.startswith(what)]


def test_the_command_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    for name in rows_module.ROWS:
        (folder / f"{name}.json").write_text('{"items": []}', encoding="utf-8")
    reached(folder)
    arguments = ["measure", "check", "--run", str(tmp_path)]
    (folder / "general.json").rename(tmp_path / "kept")
    assert cli.main(arguments) == 1
    absent = f"error: {folder}/general.json is not there; run `measure general` first.\n"
    assert capsys.readouterr().err == absent
    (tmp_path / "kept").rename(folder / "general.json")
    assert cli.main(arguments) == 0
    told = "General RL: tool call of valid format: 95.0% (93.0 to 97.0), at least 95.0%"
    assert told in capsys.readouterr().out.splitlines()
    reached(folder, BREAKS[0][1])
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == (
        "error: S3 with ABF: retrieval in 1,024 tokens: 74.9% (72.9 to 76.9), at least 75.0%\n"
    )


def test_a_fresh_clone_measures_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a run the shipped checkpoints stand where their stages left them: `experts` finds all that
    it needs, `fusion` says what it lacks; a run that is there is never passed over."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["measure", "fusion"]) == 1
    said = capsys.readouterr().err.splitlines()
    lacks = "error: nano-shipped/grpo/model is not there; run --stage grpo first, or --stage all."
    assert said[1:] == [lacks]
    laid_out = Run(Path("nano-shipped"))
    for name, stage in SHIPPED_STAGES.items():
        assert weights_hash(laid_out.model(stage)) == weights_hash(Qwen3.from_pretrained(name))
    assert laid_out.tokenizer.fingerprint() == Tokenizer.from_pretrained("qwen3-nano").fingerprint()
    assert sorted(path.parent.name for path in laid_out.out.glob("*/summary.json")) == sorted(
        SHIPPED_STAGES.values()
    ), "no stage counts as done whose model is not there"
    mine = Path("nano-shipped/general-rl/model/model.safetensors")
    mine.write_bytes(b"trained here")
    measured: list[tuple[Path, str]] = []

    def note(run: Run, row: str) -> list[str]:
        measured.append((run.out, row))
        return []

    monkeypatch.setattr(rows_module, "measure_row", note)
    assert cli.main(["measure", "experts"]) == 0
    assert mine.read_bytes() == b"trained here"
    Path("nano/s1/model").mkdir(parents=True)
    Path("nano/s1/model/config.json").write_text("{}", encoding="utf-8")
    assert cli.main(["measure", "experts"]) == 0
    assert measured == [(Path("nano-shipped"), "experts"), (Path("nano"), "experts")]


def test_the_shipped_family_reaches_every_threshold() -> None:
    missed = [told for good, told in thresholds(SHIPPED, list(rows_module.ROWS)) if not good]
    assert missed == []
