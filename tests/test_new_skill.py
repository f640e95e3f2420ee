"""The ways to teach a skill without losing the thought: what each learns from, and what ships of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import qwen3_ref
from qwen3_ref.measure import new_skill
from qwen3_ref.measure.new_skill import MEASURES, ROWS, WAYS, example_of, sorting, sorting_problems
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Reply
from qwen3_ref.tasks.problems import split_of
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import IGNORE
from tests.helpers import tiny

KEPT = Path(qwen3_ref.__file__).parent / "data/nano/measured/new_skill.json"
TOK = Tokenizer.from_pretrained("qwen3-nano")
EMPTY = "<think>\n\n</think>\n\n"


def test_the_skill_by_hand() -> None:
    problem = sorting("4174")
    assert (problem.prompt, problem.answer) == ("sort 4174", "1447")
    assert problem.trace == "4\n14\n147\n1447"
    train, test = sorting_problems("train", 50, 0), sorting_problems("test", 50, 0)
    assert train == sorting_problems("train", 50, 0) != sorting_problems("train", 50, 1)
    assert {split_of(p.prompt) for p in train} == {"train"} and {split_of(p.prompt) for p in test} == {"test"}
    assert len({p.prompt for p in train}) == 50 and {len(p.answer) for p in train} == {3, 4, 5}


@pytest.mark.parametrize(
    ("thought", "loss", "want"),
    [
        ("", "all", f"{EMPTY}1447<|im_end|>"),
        ("", "after the block", "1447<|im_end|>"),
        ("", "the answer", "1447<|im_end|>"),  # its end goes in `teach`
        ("4\n14", "all", "<think>\n4\n14\n</think>\n\n1447<|im_end|>"),
    ],
)
def test_where_the_loss_is(thought: str, loss: str, want: str) -> None:
    example = example_of(TOK, sorting("4174"), thought, loss)
    assert TOK.decode(example.ids[-example.reply :]) == want
    asked = TOK.decode(example_of(TOK, sorting("4174"), thought, loss, " /no_think").ids)
    assert "sort 4174 /no_think<|im_end|>" in asked


def shown(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The conversations of the first step of a way, and what is learned of each."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    model = tiny(vocab_size=TOK.num_ids)
    monkeypatch.setattr(new_skill, "train", lambda m, plan, loss, *_, **__: loss(m, 0))
    monkeypatch.setattr(new_skill, "cross_entropy", lambda logits, targets: targets.sum())
    collate = new_skill.collate

    def watch(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found.append(collate(*given))
        return found[-1]

    def know(model: Any, tokenizer: Any, asked: Any, **_: Any) -> list[Reply]:
        return [Reply(p.trace, p.answer) for p in asked]

    monkeypatch.setattr(new_skill, "collate", watch)
    monkeypatch.setattr(new_skill, "replies_to", know)
    new_skill.teach(model, TOK, way, tmp_path, 0, 1, 40)
    pad = TOK.control_tokens["<|endoftext|>"]
    texts = [TOK.decode([i for i in row if i != pad]) for inputs, _ in found for row in inputs.tolist()]
    rows = [row for _, targets in found for row in targets.tolist()]
    return texts, [TOK.decode([i for i in row if i != IGNORE]) for row in rows]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_way_learns_from(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, ends, flags and rows of the old skills, as the lesson's table says."""
    texts, learned = shown(way, tmp_path, monkeypatch)
    new = [i for i, text in enumerate(texts) if "user\nsort " in text]
    old_rows = 24 if "mixed in" in way else 32 if "control" in way else 0
    assert len(texts) == ROWS and ROWS - len(new) == old_rows
    assert all(t.startswith("<think>\n") for i, t in enumerate(learned) if i not in new)
    assert not any(t.startswith(EMPTY) for i, t in enumerate(learned) if i not in new)
    ours = [learned[i] for i in new]
    answers = [t.split("sort ")[1].split()[0].removesuffix("<|im_end|>") for t in (texts[i] for i in new)]
    answers = ["".join(sorted(digits)) for digits in answers]
    if "block" in way:
        assert ours == [f"{a}<|im_end|>" for a in answers]
    elif way == "loss on the answer alone":
        assert ours == answers
    elif way == "thoughts written by a program":
        steps = [sorting(texts[i].split("sort ")[1].split("<")[0]).trace for i in new]
        pairs = zip(steps, answers, strict=True)
        assert ours == [f"<think>\n{s}\n</think>\n\n{a}<|im_end|>" for s, a in pairs]
    else:
        assert ours == [f"{EMPTY}{a}<|im_end|>" for a in answers]
    assert all(("/no_think" in texts[i]) == (way == "/no_think in the question") for i in new)


def test_own_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that leads to the right answer; an empty one is none."""
    asked = [sorting(digits) for digits in ("21", "43", "65", "87")]
    rounds = [
        [Reply("a", "12"), Reply("b", "43"), Reply("c", "65"), Reply("  ", "78")],
        [Reply("d", "12"), Reply("e", "34"), Reply("f", "65"), Reply(None, "78")],
    ]
    tries = iter(rounds)
    monkeypatch.setattr(new_skill, "replies_to", lambda *_, **__: next(tries))
    assert new_skill.own_thoughts(tiny(), TOK, asked, 0) == ["a", "e"]


def test_a_thought_that_is_opened() -> None:
    assert TOK.decode(new_skill.opened(TOK, sorting("21"), "thinking")).endswith("assistant\n<think>\n")


def test_differences_by_hand() -> None:
    def cell(right: list[int]) -> dict[str, Any]:
        return {"old": {"thinking": right}}

    cells = {"a": [cell([1, 0]), cell([0, 0])], "b": [cell([1, 1]), cell([1, 1])]}
    half = 12.706 * math.sqrt(0.125) / math.sqrt(2)  # differences of .5 and 1
    found = new_skill.differences(cells, "a", "old skills, asked to think")
    assert found == {"b": pytest.approx({"mean": 0.75, "low": 0.75 - half, "high": 0.75 + half})}


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each way leaves its result, which is read and not made again."""
    first = "as the template writes it"
    monkeypatch.setattr(new_skill, "WAYS", {n: WAYS[n] for n in (first, "thoughts written by a program")})
    monkeypatch.setattr(new_skill, "MAX_REPLY", 6)
    monkeypatch.setattr(Qwen3, "from_pretrained", lambda name: tiny(vocab_size=TOK.num_ids))
    arguments = ["--out", str(tmp_path), "--seeds", "0", "1", "--share", "0.02", "--count", "1"]
    assert new_skill.main(arguments) == 0
    study = json.loads((tmp_path / "new_skill.json").read_text(encoding="utf-8"))
    (cell, _) = study["cells"]["thoughts written by a program"]
    assert study["own thoughts kept"] == 0
    assert cell["settings"]["steps"] == 2 and cell["settings"]["questions"] == ROWS
    assert len(cell["new"]["opened"]) == 3 and len(cell["old"]["thinking"]) == len(cell["/think"]) == 5
    monkeypatch.setattr(new_skill, "teach", None)  # not called again
    assert new_skill.main(arguments) == 0
    assert "thoughts written by a program, seed 1" in capsys.readouterr().out
    assert new_skill.main([*arguments[:-1], "2"]) == 1
    assert "is of other settings; choose another directory" in capsys.readouterr().err
    assert new_skill.main([*arguments, "--seeds", "0"]) == 1
    assert "1 seeds make no interval here; give 2 to 8." in capsys.readouterr().err
    assert new_skill.main([*arguments, "--share", "nan"]) == 1
    assert "--share is nan; it must be above 0" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="is of other settings"):
        new_skill.run_cell(tmp_path / "thoughts-written-by-a-program-0", first, 0, 1.0, 1)


def test_a_model_that_is_never_right_has_nothing_to_rehearse() -> None:
    with pytest.raises(TrainingError, match="the model was right in 0 of its replies, and a step takes 24"):
        new_skill.examples_for(tiny(vocab_size=TOK.num_ids), TOK, "thinking data mixed in", 0, 32)


def scores_of(study: dict[str, Any], way: str, what: str) -> list[float]:
    return [MEASURES[what](cell) for cell in study["cells"][way]]


def test_the_shipped_study_is_whole() -> None:
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    assert list(study["cells"]) == list(WAYS) and study["seeds"] == [0, 1, 2]
    for way, cells in study["cells"].items():
        assert [c["settings"]["seed"] for c in cells] == study["seeds"]
        assert all(c["settings"] | {"seed": 0} == {
            "way": way, "seed": 0, "steps": 80, "questions": 800, "count": 30} for c in cells)  # fmt: skip
        assert all(len(c["old"]["thinking"]) == 150 and len(c["new"]["thinking"]) == 90 for c in cells)


def test_what_the_lesson_says_of_it() -> None:
    """In every seed, beside the model before."""
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    before = {what: score(study["before"]) for what, score in MEASURES.items()}
    assert before["old skills, asked to think"] > 0.8 and before["thinks about the old"] == 1
    assert before["new skill, without thinking"] == before["new skill, asked to think"] == 0

    def of(way: str, what: str) -> list[float]:
        return [MEASURES[what](cell) for cell in study["cells"][way]]

    plain, masked, flag, mixed = list(WAYS)[0], list(WAYS)[1], list(WAYS)[3], list(WAYS)[4]
    asked, opened = "old skills, asked to think", "old skills, thought opened"
    assert max(of(plain, "thinks about the old")) < 0.15 and max(of(plain, asked)) < 0.15
    assert min(of(plain, opened)) > 0.3, "not forgotten: it no longer begins"
    low, high = (new_skill.differences(study["cells"], plain, opened)[masked][end] for end in ("low", "high"))
    assert low < 0 < high, "opened, it is as good as the one that was trained behind the block"
    for way in (masked, flag):
        assert min(of(way, "thinks about the old")) > 0.9 and max(of(way, asked)) < 0.6
        assert max(of(way, "new skill, asked to think")) < 0.2 < min(of(way, "new skill, without thinking"))
    assert min(of(mixed, asked)) > 0.75 > max(max(of(way, asked)) for way in WAYS if way != mixed)
    assert max(of("loss on the answer alone", "new skill, without thinking")) == 0
    assert study["own thoughts kept"] == 0
    steps = "thoughts written by a program"
    assert min(of(steps, "new skill, asked to think")) > 0.4 > max(of(steps, "new skill, without thinking"))
