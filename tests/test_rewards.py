"""The study of GRPO's variants and of rewards from a coin, and what ships of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

import qwen3_ref
from qwen3_ref.measure import rewards
from qwen3_ref.model import Qwen3
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.queries import read_sample
from tests.helpers import TOKENIZER, ids_of, tiny

KEPT = Path(qwen3_ref.__file__).parent / "data/nano/measured/rewards.json"


def test_what_a_way_changes() -> None:
    """Each variant by its papers' choices; steps, replies and learning rate are the same for all."""
    ways = {way: replace(rewards.SETTINGS, **changes) for way, changes in rewards.WAYS.items()}
    choices = {w: (s.mean, s.by_std, s.ratio, s.clip_low, s.clip_high) for w, s in ways.items()}
    assert choices == {
        "GRPO": ("sequence", True, "token", 0.2, 0.2),
        "Dr. GRPO": ("constant", False, "token", 0.2, 0.2),
        "DAPO's loss": ("token", True, "token", 0.2, 0.28),
        "GSPO": ("sequence", True, "sequence", 3e-4, 4e-4),
        "random rewards": ("sequence", True, "token", 0.2, 0.2),
    }
    shared = {(s.steps, s.prompts, s.group, s.updates, s.learning_rate, s.kl) for s in ways.values()}
    assert shared == {(16, 4, 8, 2, 1e-4, 0.0)}


def test_the_problems_are_short_and_no_use_meets_another() -> None:
    found = {use: rewards.asked(use, 30, 0) for use in ("cold start", "GRPO", "test")}
    for problems in found.values():
        assert [p.family for p in problems] == ["arithmetic"] * 30 + ["counting"] * 30
        assert {p.difficulty for p in problems} == {1, 2, 3}
    prompts = [{p.prompt for p in problems} for problems in found.values()]
    assert all(not a & b for i, a in enumerate(prompts) for b in prompts[:i])


def test_what_is_paid_and_what_is_logged() -> None:
    """A coin pays half of all replies, whatever they are; whether they are right is logged all the same."""
    problem = rewards.asked("GRPO", 1, 0)[0]
    right, wrong = (
        read_sample(TOKENIZER, ids_of(f"<think>\n{problem.trace}\n</think>\n\n{answer}<|im_end|>"))
        for answer in (problem.answer, "no")
    )
    true = rewards.query(TOKENIZER, problem, lambda value: value)
    reward, logged = true.score(right)
    assert reward == logged["right"] == 1 and logged["tokens right"] == right.tokens
    assert math.isnan(logged["tokens wrong"])
    reward, logged = true.score(wrong)
    assert reward == logged["right"] == 0 and logged["tokens wrong"] == wrong.tokens
    thrown = rewards.query(TOKENIZER, problem, rewards.coin(0))
    paid = {sample is right: [thrown.score(sample)[0] for _ in range(400)] for sample in (right, wrong)}
    assert all(abs(fmean(values) - 0.5) < 0.1 and {*values} == {0, 1} for values in paid.values())
    assert thrown.score(right)[1]["right"] == 1 and thrown.score(wrong)[1]["right"] == 0
    again, other = rewards.coin(0), rewards.coin(1)
    assert [again(1.0) for _ in range(400)] == paid[True] != [other(1.0) for _ in range(400)]


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two problems, of eight replies to the first two are right and of those to the second none."""
    first, second = rewards.asked("test", 1, 0)
    texts = [f"<think>\n{first.trace}\n</think>\n\n{first.answer}<|im_end|>"] * 2 + ["7<|im_end|>"] * 6
    texts += [f"<think>\n{first.trace}\n</think>\n\n{second.answer}"] * 8  # cut off
    replies = [ids_of(text) for text in texts]
    monkeypatch.setattr(rewards, "sample_replies", lambda model, tok, prompts, *_: replies)
    found = rewards.scores(tiny(vocab_size=TOKENIZER.num_ids), TOKENIZER, 1)
    assert found["right"] == [2, 0]
    assert found["tokens right"] == len(replies[0])
    assert found["tokens wrong"] == pytest.approx((6 * len(replies[2]) + 8 * len(replies[8])) / 14)
    assert 0 < found["entropy"] < math.log(TOKENIZER.num_ids)
    assert rewards.numbers(found)["pass@1"] == 2 / 16 and rewards.numbers(found)["pass@8"] == 0.5


def test_gains_by_hand() -> None:
    def cell(*right: int) -> dict[str, Any]:
        return {"right": right, "entropy": 0.1, "tokens right": 20.0, "tokens wrong": None}

    cells = {"start": [cell(4, 0), cell(0, 0)], "GRPO": [cell(8, 4), cell(4, 0)]}
    found = rewards.gains(cells, "start")
    half = 12.706 * math.sqrt(0.03125) / math.sqrt(2)  # .75 - .25 and .25 - 0
    want = {"mean": 0.375, "low": 0.375 - half, "high": 0.375 + half}
    assert list(found) == ["GRPO"] and found["GRPO"]["pass@1"] == pytest.approx(want)
    assert found["GRPO"]["pass@8"]["mean"] == 0.5 and "tokens wrong" not in found["GRPO"]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every way of a seed begins with the same weights; a result is read and not made again, and an
    unfinished cell begins anew."""
    load, begun = Qwen3.from_pretrained, []
    nano = rewards.Tokenizer.from_pretrained("qwen3-nano-base")
    base = tiny(vocab_size=nano.num_ids, max_position_embeddings=256)

    def from_pretrained(name: Any) -> Qwen3:
        begun.append(str(name))
        return base if name == "qwen3-nano-base" else load(name)

    monkeypatch.setattr(Qwen3, "from_pretrained", from_pretrained)
    monkeypatch.setattr(rewards, "LONGEST", 6)
    settings = replace(rewards.SETTINGS, prompts=2, group=2, minibatches=2, max_new_tokens=6)
    monkeypatch.setattr(rewards, "SETTINGS", settings)
    monkeypatch.setattr(rewards, "WAYS", {way: rewards.WAYS[way] for way in ("GRPO", "GSPO", rewards.COIN)})
    monkeypatch.setattr(rewards, "ROWS", 2)
    arguments = ["--out", str(tmp_path), "--seeds", "0", "1", "--share", "0.05", "--count", "1"]
    (tmp_path / "GRPO-0/run").mkdir(parents=True)
    (tmp_path / "GRPO-0/run/state.safetensors").write_text("half a state")
    assert rewards.main(arguments) == 0
    start = [str(tmp_path / f"start-{seed}/model") for seed in (0, 1)]
    assert begun == ["qwen3-nano-base", *start[:1] * 3, "qwen3-nano-base", *start[1:] * 3]
    study = json.loads((tmp_path / "rewards.json").read_text(encoding="utf-8"))
    assert list(study["cells"]) == ["start", "GRPO", "GSPO", "random rewards"] and study["seeds"] == [0, 1]
    for way, cells in study["cells"].items():
        assert [cell["settings"]["grpo"]["steps"] for cell in cells] == [1, 1]
        assert [len(cell["right"]) for cell in cells] == [2, 2]
        assert all(len(v) == 1 for c in cells for v in c["log"].values()) and bool(cells[0]["log"]) == (
            way != "start"
        )
    assert study["cells"]["random rewards"][0]["log"]["right"] == [0.0], "nothing is right, whatever is paid"
    assert study["cells"]["GRPO"][0]["log"]["tokens right"] == [None]
    monkeypatch.setattr(rewards, "train_on_rewards", None)  # not called again
    assert rewards.main(arguments) == 0
    assert "GSPO, seed 1: pass@1 0.0%" in capsys.readouterr().out
    assert rewards.main([*arguments[:-1], "2"]) == 1
    assert "is of other settings; choose another directory" in capsys.readouterr().err
    for wrong, words in (
        (["--seeds", "0"], "1 seeds make no interval here; give 2 to 8."),
        (["--share", "nan"], "--share is nan; it must be above 0"),
        (["--count", "0"], "--count is 0; it must be at least 1."),
    ):
        assert rewards.main([*arguments, *wrong]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(TrainingError):
        rewards.run_cell(tmp_path / "GRPO-0", "GRPO", 0, 1.0, 1, tmp_path / "start-0")


def test_the_shipped_study_is_whole() -> None:
    """Every cell is there, with the settings of today, and every gain follows from the cells."""
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    assert list(study["cells"]) == ["start", *rewards.WAYS] and study["seeds"] == [0, 1, 2, 3]
    for way, cells in study["cells"].items():
        assert len(cells) == 4
        settings = asdict(replace(rewards.SETTINGS, **rewards.WAYS.get(way, {})))
        for seed, cell in enumerate(cells):
            about = {"way": way, "seed": seed, "count": 40, "grpo": settings, "start": asdict(rewards.START)}
            assert cell["settings"] == json.loads(json.dumps(about))
            assert len(cell["right"]) == 80 and all(0 <= n <= rewards.SAMPLES for n in cell["right"])
            assert way == "start" or all(len(cell["log"][name]) == 16 for name in rewards.LOGGED)
    for over, found in study["gains"].items():
        again = rewards.gains(study["cells"], over)
        assert found.keys() == again.keys()
        for way, n in again.items():
            assert {k: pytest.approx(v) for k, v in n.items()} == found[way]


def test_the_lessons_claims_and_their_controls() -> None:
    """In each seed every variant ends above its start and a coin below it, GRPO and the coin apart over
    problems; over seeds a coin is apart from both, and no number of a variant from GRPO's."""
    cells = json.loads(KEPT.read_text(encoding="utf-8"))["cells"]
    true = [way for way in rewards.WAYS if way != rewards.COIN]
    for i in range(len(cells["start"])):
        reached = {way: fmean(cells[way][i]["right"]) for way in cells}
        assert min(reached[way] for way in true) > reached["start"] > reached[rewards.COIN]
        both = zip(cells["GRPO"][i]["right"], cells[rewards.COIN][i]["right"], strict=True)
        less = [a - b for a, b in both]
        assert fmean(less) > 1.96 * stdev(less) / len(less) ** 0.5
    over_start, over_grpo = (rewards.gains(cells, over) for over in ("start", "GRPO"))
    assert all(over_start[way]["pass@1"]["low"] > 0 for way in ("GRPO", "Dr. GRPO"))
    assert all(over[rewards.COIN]["pass@1"]["high"] < 0 for over in (over_start, over_grpo))
    assert all(n["low"] < 0 < n["high"] for way in true[1:] for n in over_grpo[way].values())
    clipped = {way: fmean(fmean(c["log"]["clipped"]) for c in cells[way]) for way in rewards.WAYS}
    assert clipped["GSPO"] > 0.01 and all(clipped[way] < 1e-3 for way in clipped if way != "GSPO")
    mixed = {way: fmean(fmean(c["log"]["mixed"]) for c in cells[way]) for way in rewards.WAYS}
    assert mixed[rewards.COIN] > 0.95 and all(mixed[way] < 0.8 for way in true)
