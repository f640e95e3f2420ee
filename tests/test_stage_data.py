"""What a stage learns from and what a log belongs to; strict and lenient accuracy; results by their ids."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.commands.line import main
from qwen3_ref.decode.generation import Generated
from qwen3_ref.measure import accuracy, rows
from qwen3_ref.measure.accuracy import chat_prompt, evaluate, summarise
from qwen3_ref.measure.statistics import rises
from qwen3_ref.measure.table import ABOVE, AT_LEAST
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Reply
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import Problem, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import corpus, queries, rollout, stages
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Plan
from qwen3_ref.train.recipes import distill, general_rl, grpo, pretrain, sft
from qwen3_ref.train.recipes.pretrain import next_token_loss
from qwen3_ref.train.run import Run
from tests.helpers import TINY, TOKENIZER, hard_model, tiny

PROBLEMS = make_problems("arithmetic", "test", 4)
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "budgets": (None,)}


def plain(problem: Problem, mode: str) -> list[int]:
    return TOKENIZER.encode(problem.prompt)[:20]


# -- what a log belongs to -----------------------------------------------------------------------------


def swapped(tokenizer: Tokenizer) -> Tokenizer:
    """Two ids change places that no prompt has: it reads replies otherwise."""
    vocab = dict(tokenizer.vocab)
    vocab[b"\xfe"], vocab[b"\xff"] = vocab[b"\xff"], vocab[b"\xfe"]
    return Tokenizer(vocab, tokenizer.merges, tokenizer.control_tokens)


def reordered(model: Qwen3) -> Qwen3:
    """Two rows of a matrix change places: every tensor has the same sum."""
    with torch.no_grad():
        weight = model.model.layers[0].mlp.down_proj.weight
        weight[[0, 1]] = weight[[1, 0]]
    return model


def test_a_log_belongs_to_all_that_decides_an_answer(tmp_path: Path) -> None:
    log = tmp_path / "rows.csv"

    def ask(**changes: Any) -> list[accuracy.Row]:
        options = OPTIONS | {"model": hard_model(), "tokenizer": TOKENIZER, "prompt": plain, "log": log}
        return evaluate(**options | changes, problems=PROBLEMS)

    first = ask()
    assert ask() == first
    turned = Qwen3(replace(TINY, rope_theta=2e4))
    turned.load_state_dict(hard_model().state_dict())
    others: dict[str, dict[str, Any]] = {
        "prompt": {"prompt": lambda p, mode: plain(p, mode)[:-1]},
        "tokenizer": {"tokenizer": swapped(TOKENIZER)},
        "weights": {"model": reordered(hard_model())},
        "config": {"model": turned},
        "early stop": {"early_stop": "</think>"},
        "room": {"max_new_tokens": 4},
        "seed": {"seed": 1},
        "batches": {"batch_size": 2},
    }
    for what, change in others.items():
        try:
            ask(**change)
        except ValueError as error:
            assert "rows.csv holds answers of another model, other prompts" in str(error), what
        else:
            pytest.fail(f"answers to another {what} came back")
    more = ask(modes=("thinking", "non-thinking"))
    assert more[: len(first)] == first, "what else is measured does not matter"
    assert ask(modes=("non-thinking",)) == more[len(first) :]


def test_budget_0_is_read_back(tmp_path: Path) -> None:
    options = OPTIONS | {"budgets": (0, None), "log": tmp_path / "rows.csv", "prompt": plain}
    first = evaluate(hard_model(), TOKENIZER, PROBLEMS, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "generate", lambda *_, **__: pytest.fail("answered again"))
        assert evaluate(hard_model(), TOKENIZER, PROBLEMS, **options) == first


def test_settings_have_their_own_random_numbers() -> None:
    places = [(seed, mode, budget, n) for seed in (0, 1) for mode in ("thinking", "non-thinking")
              for budget in (None, 0, 1, 12) for n in (0, 1, 2, 23)]  # fmt: skip
    assert len({accuracy._seed(*place) for place in places}) == len(places)


def test_the_prompts_of_both_modes() -> None:
    problem, block = PROBLEMS[0], "<think>\n\n</think>\n\n"
    modes: tuple[accuracy.Mode, ...] = ("thinking", "non-thinking")
    told = {mode: TOKENIZER.decode(chat_prompt(TOKENIZER, problem, mode)) for mode in modes}
    assert told["non-thinking"].endswith(f"<|im_start|>assistant\n{block}")
    assert told["thinking"].endswith("<|im_start|>assistant\n") and block not in told["thinking"]
    for said in told.values():
        assert said.startswith(f"<|im_start|>user\n{problem.prompt}<|im_end|>\n"), "and no flag"


def test_thinking_without_a_flag_is_seen_in_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocol asks without one: a stage that never saw that would be measured on what it does not
    know. A fifth and more of what each stage learns from is a question alone, which means to think."""
    asked: dict[str, list[str]] = {}
    now = ""

    def noted(tokenizer: Tokenizer, use: str, count: int, run_seed: int, *, flag: str = "") -> list[Any]:
        asked.setdefault(now, []).extend([flag] * count)
        return []

    def wordless(model: object, tokenizer: object, problems: list[Problem], **_: Any) -> list[Reply]:
        asked.setdefault(now, []).extend(p.prompt.partition(" mod 100")[2] for p in problems)
        return [Reply(None, "")] * len(problems)

    def learned(conversations: list[Any]) -> list[str]:
        """What stands behind a single question, and in what has more turns, something else."""
        return [
            said[0]["content"].partition(" mod 100")[2] if len(said) == 2 else "several turns"
            for said in conversations
        ]

    some = make_problems("arithmetic", "train", 400)
    monkeypatch.setattr(queries, "problem_queries", noted)
    monkeypatch.setattr(rollout, "mean_rewards", lambda *_, **__: [])
    monkeypatch.setattr(grpo, "train_on_rewards", lambda *_, **__: None)
    monkeypatch.setattr(distill, "train_on_teacher", lambda *_, **__: None)
    monkeypatch.setattr(distill, "replies_to", wordless)
    monkeypatch.setattr(Run, "model", lambda *_: hard_model())
    run = Run(tmp_path)
    vars(run)["tokenizer"] = TOKENIZER
    for now in ("grpo", "student-rl", "on-policy", "on-policy-forward"):
        stage = (stages.STAGES | stages.EXTRA)[now]
        stage.loss(stage, run, hard_model())
    now = "off-policy"
    distill.teacher_conversations(hard_model(), TOKENIZER, some, run_seed=0)
    asked["cold-start"] = learned([sft.conversation(p, p.trace, p.answer) for p in some])
    both = sft.fusion_conversations([(p, p.trace) for p in some[:200]], some[200:], 0)
    asked["fusion"] = learned([said for said in both if said[-1]["reasoning_content"]])
    tasks = general_rl.make_tasks(TOKENIZER, 60, run_seed=0, switched=True)
    alone = [task.messages[0]["content"] for task in tasks if len(task.messages) == 1 and not task.tools]
    asked["general-rl"] = ["" if "/" not in said else said for said in alone]
    after = {name for name, stage in (stages.STAGES | stages.EXTRA).items() if stage.mix is None}
    assert {*asked, "general-rl-length-alone"} == after
    for name, flags in asked.items():
        assert flags.count("") / len(flags) > 0.2, name
    for name in ("cold-start", "grpo", "student-rl"):
        assert set(asked[name]) == {""}


def test_a_slow_fall_is_a_fall() -> None:
    """No point lies wholly below its neighbour, and the fourth lies wholly below the first."""
    values = (0.5, 0.47, 0.44, 0.41, 0.9)
    assert not rises([v - 0.02 for v in values], [v + 0.02 for v in values])
    assert rises([v - 0.06 for v in values], [v + 0.06 for v in values])


# -- strict and lenient --------------------------------------------------------------------------------


def judged(text: str, answer: str, ended: str = "stop") -> tuple[bool, bool]:
    reply = Generated()
    reply += TOKENIZER.encode(text, allow_control_tokens=True)
    reply.answer = TOKENIZER.encode(answer, allow_control_tokens=True)
    reply.ended, reply.thinking_ended = ended, "budget"
    problem = Problem("arithmetic", 1, "40+02 mod 100", "40+02=42", "42")
    found = accuracy._row(0, problem, "thinking", 0, 0, reply, TOKENIZER)
    return found.correct, found.lenient


def test_strict_and_lenient_by_hand() -> None:
    """Strictly, all that follows the first mark is the answer; leniently, what follows the last."""
    assert judged("<think>\n</think>\n\n42<|im_end|>", "42") == (True, True)
    on = "40+02=42\n</think>\n\n42"
    assert judged(f"<think>\n</think>\n\n{on}<|im_end|>", on) == (False, True)
    assert judged(f"<think>\n</think>\n\n{on}", on, "length") == (False, False), "a cut answer is none"
    wrong = "42\n</think>\n\n41"
    assert judged(f"<think>\n</think>\n\n{wrong}<|im_end|>", wrong) == (False, False)
    assert judged("42<|im_end|>", "42") == (True, True), "without a mark all of it"


def test_both_accuracies_are_reported() -> None:
    def row(correct: bool, lenient: bool, problem: int) -> accuracy.Row:
        return accuracy.Row(
            problem=problem, family="arithmetic", difficulty=1, mode="thinking", budget=0, sample=0,
            correct=correct, lenient=lenient, thinking_tokens=0, answer_tokens=9, thinking_ended="budget",
            ended="stop", answer="",
        )  # fmt: skip

    some = [row(False, True, 0), row(False, True, 1), row(True, True, 2), row(False, False, 3)]
    (found,) = summarise(some).values()
    assert (found.pass_1, found.lenient) == (0.25, 0.75)
    (head, line) = accuracy.curve_table(accuracy.curves(some)).splitlines()
    assert head.split() == ["budget", "arithmetic", "all", "lenient"] and line.split()[-1] == "75"


# -- what stages learn from ----------------------------------------------------------------------------


def nano_run(folder: Path) -> Run:
    run = Run(folder, scale=0.001)
    vars(run)["tokenizer"] = Tokenizer.from_pretrained(find_nano("qwen3-nano"))
    return run


def test_fusion_learns_tool_calls(tmp_path: Path) -> None:
    learned: list[sft.Example] = []
    run = nano_run(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "fusion_examples", lambda *_: ([], Counter({"kept": 0})))
        patch.setattr(stages, "_learn", lambda stage, run, model, examples: learned.extend(examples))
        found = stages._both_modes(stages.STAGES["fusion"], run, hard_model())
    assert found == {"filters": {"kept": 0}, "tool_calls": 160}
    said = {run.tokenizer.decode(e.ids[-e.reply :]) for e in learned}
    assert len(said) == 160 and all("<tool_call>" in words for words in said)


def test_a_stage_resumed_on_other_data_is_refused(tmp_path: Path) -> None:
    """Other text, other examples or other weights to begin with make another run."""
    mix = stages.pretrain.Mix(8, 2, {"code": 1.0}, Plan(4, 1e-3, warmup=1, save_every=1))
    stream = torch.randint(1024, (200,), generator=torch.Generator().manual_seed(0))
    run = nano_run(tmp_path)

    def go(stream: torch.Tensor, stop: bool = False, seed: int = 0) -> None:
        real = next_token_loss(mix, run.tokenizer, {"code": stream}, 0)

        def loss(model: Qwen3, step: int) -> Any:
            if stop and step == 2:
                raise KeyboardInterrupt
            return real(model, step)

        run.train("s1", tiny(seed), mix.plan, loss, [mix, {"code": stream}])

    with pytest.raises(TrainingError, match="stopped in step 3 of 4"):
        go(stream, stop=True)
    with pytest.raises(TrainingError, match="data was"):
        go(stream.flip(0))
    with pytest.raises(TrainingError, match="start was"):
        go(stream, seed=1)
    go(stream)


def test_replies_drawn() -> None:
    """What RL and distillation cost: the replies of all steps, and those that pass rates were taken from,
    which general RL takes none of."""
    run = Run(Path())
    drawn = {
        name: (stages.STAGES | stages.EXTRA)[name].drawn(run, summary)
        for name, summary in (
            ("off-policy", {"replies": {"kept": 90, "not whole": 7}}),
            ("on-policy", {"queries": 1200}),
            ("grpo", {"queries": 2500, "learnable": 975}),
            ("general-rl", {"queries": 2000}),
        )
    }
    assert drawn == {"off-policy": 97, "on-policy": 10_880, "grpo": 31_760, "general-rl": 7680}


# -- results by their ids ------------------------------------------------------------------------------

SHIPPED = Path(rows.__file__).parents[1] / "data" / "nano" / "measured"


def test_thresholds_name_items_that_exist_and_ids_are_unique() -> None:
    results = {name: json.loads((SHIPPED / f"{name}.json").read_text("utf-8")) for name in rows.ROWS}
    ids = [item["id"] for result in results.values() for item in result["items"]]
    assert len(set(ids)) == len(ids)
    changed = {item["id"] for result in results.values() for item in result["items"] if item["change"]}
    assert {name.removesuffix(".change") for name in AT_LEAST if name.endswith(".change")} <= changed
    wanted = {*AT_LEAST, *(name for pair in ABOVE for name in pair)}
    assert {name.removesuffix(".change") for name in wanted} <= set(ids)
    for name, result in results.items():
        assert all(item["id"].startswith(f"{name}.") for item in result["items"])


def test_the_shipped_results_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a fresh clone the README quotes the table, and every threshold is reached."""
    monkeypatch.chdir(tmp_path)
    for row in ("table", "check"):
        assert main(["measure", row]) == 0
        said = capsys.readouterr()
        assert said.err == "These are the results that come with the package; --run names others.\n"
        readme = (Path(rows.__file__).parents[2] / "README.md").read_text("utf-8")
        if row == "table":
            lines = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| ")]
            cells = {line[0].removeprefix("| "): line[1:] for line in lines if len(line) > 5}
            quoted = {
                "S3 with ABF: retrieval in 1,024 tokens": 1, "S3 without ABF: retrieval in 1,024 tokens": 1,
                "S3: retrieval in 4,096 tokens, as trained": 1,
                "S3: retrieval in 4,096 tokens, YaRN, factor 4": 1,
                "General RL: mode followed, ThinkFollow (several turns)": 1,
                "Translation, thinking: languages that training paired": 1,
                "Translation, thinking: languages that it never paired": 1,
                "Student, off-policy distillation: accuracy, thinking": 1,
                "Student, + on-policy distillation, reverse KL: pass@8": 1,
            }  # fmt: skip
            assert {name for name, at in quoted.items() if cells[name][at] not in readme} == set()
    assert main(["measure", "fusion"]) == 1
    assert "There is no ./nano: this measures what comes with the package" in capsys.readouterr().err
    assert main(["measure", "fusion", "--run", "elsewhere"]) == 1
    assert "there is no directory elsewhere; give the --out of" in capsys.readouterr().err
    (tmp_path / "nano").mkdir()
    for row in ("table", "check"):
        for options in ([], ["--run", "nano"]):
            assert main(["measure", row, *options]) == 1, "a run without results is an error"
            said = capsys.readouterr()
            assert said.out == "" and said.err.startswith("error: ")
    for options in (["--run", "nano"], ["--run", "elsewhere"]):  # what is wrong of itself is said first
        assert main(["measure", "fuson", *options]) == 1
        assert capsys.readouterr().err == "error: there is no row 'fuson'; did you mean fusion.\n"
    assert main(["measure", "tabel"]) == 1
    assert "did you mean table" in capsys.readouterr().err


def test_what_takes_long_before_the_first_step_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []

    def progress(items: Any, what: str) -> Any:
        shown.append((what, len(items)))
        return items[:3]

    monkeypatch.setattr(corpus, "progress", progress)
    monkeypatch.setattr(pretrain, "progress", progress)
    assert len(corpus._installed()["code"]) == 3
    assert pretrain.pack(TOKENIZER, ["1", "2", "3", "4"]).numel() == 2 * 3
    assert [what for what, _ in shown] == ["Gathering text", "Encoding text"]
    assert shown[0][1] > 1000 and shown[1][1] == 4, "of all files, and of all documents"


def test_nothing_measured_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "measured" / "reasoning.json"
    trained = tmp_path / "s1" / "model"  # a stage that this row does not need
    trained.mkdir(parents=True)
    (trained / "config.json").touch()
    for before in (None, '{"items": ["older"]}'):
        if before:
            result.parent.mkdir()
            result.write_text(before, encoding="utf-8")
        assert main(["measure", "reasoning", "--run", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert "cold-start/model is not there; run --stage cold-start first" in said.err
        assert (result.read_text("utf-8") if result.exists() else None) == before


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\N{REPLACEMENT CHARACTER}"])
def test_a_file_that_is_no_result_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "measured").mkdir()
    for row in rows.ROWS:
        (tmp_path / "measured" / f"{row}.json").write_text(content, encoding="utf-8")
    for what in ("table", "check"):
        assert main(["measure", what, "--run", str(tmp_path)]) == 1
        path = tmp_path / "measured" / "pretraining.json"
        wanted = f"error: {path} is not a result of `measure pretraining`; delete it and measure again.\n"
        assert capsys.readouterr().err == wanted
