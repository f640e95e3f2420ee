"""Pruning by hand, the ways to heal a pruned model, and what ships of their comparison."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import qwen3_ref
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure import pruned
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.queries import problem_queries
from qwen3_ref.train.seeds import seeded
from tests.helpers import tiny

TAUGHT = set(pruned.WAYS) - {"GRPO", "GRPO, faster", "own words"}
KEPT = Path(qwen3_ref.__file__).parent / "data/nano/measured/pruned.json"


def test_importance_by_hand() -> None:
    """Mean magnitude of gate times up, times the length of the channel's column, from the layer's input."""
    model = tiny(num_hidden_layers=1)
    ids = torch.randint(0, 256, (2, 5), generator=torch.Generator().manual_seed(1))
    inputs: list[torch.Tensor] = []
    mlp: Any = model.model.layers[0].mlp
    hook = mlp.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    found = pruned.importance(model, ids)
    hook.remove()
    x = inputs[0].flatten(0, 1)
    gate, up = x @ mlp.gate_proj.weight.T, x @ mlp.up_proj.weight.T
    wanted: torch.Tensor = (gate * torch.sigmoid(gate) * up).abs().mean(0)
    wanted = wanted * mlp.down_proj.weight.pow(2).sum(0).sqrt()
    assert len(found) == 1 and torch.allclose(found[0], wanted, rtol=1e-5)
    count = len(inputs)
    model(ids)
    assert len(inputs) == count and not mlp.down_proj._forward_pre_hooks, "no hook is left behind"


def test_a_pruned_model_is_the_model_without_those_channels() -> None:
    """The same logits as the whole model whose other columns of `down_proj` are zero; the best stay."""
    model = tiny()
    whole = model.config.intermediate_size
    width = whole - 3
    scores = [torch.rand(whole, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    small = pruned.prune(model, width, scores)
    with torch.no_grad():
        layers: Any = model.model.layers
        for layer, score in zip(layers, scores, strict=True):
            layer.mlp.down_proj.weight[:, score.argsort()[:3]] = 0
        ids = torch.arange(6)[None]
        assert torch.allclose(small(ids), model(ids), atol=1e-5)
    assert small.config.intermediate_size == width and not small.training


def test_what_a_way_learns_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of the teacher or its own, one token each or the whole distribution, rates and directions."""
    tok = Tokenizer.from_pretrained("qwen3-nano")
    teacher, model = (tiny(s, vocab_size=tok.num_ids) for s in (0, 1))
    queries = problem_queries(tok, "on-policy", 4, 0)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(pruned, "train", lambda m, plan, loss, *_, **__: asked.update(plan=plan, loss=loss))
    monkeypatch.setattr(
        pruned, "train_on_teacher", lambda s, t, *rest, **more: asked.update(t=t, settings=rest[-1], **more)
    )
    monkeypatch.setattr(
        pruned, "train_on_rewards", lambda *rest, **more: asked.update(settings=rest[-1], **more)
    )
    writers: list[Qwen3] = []

    def write(
        writer: Qwen3, tokenizer: Tokenizer, prompts: list[list[int]], longest: int, rng: torch.Generator
    ) -> list[list[int]]:
        writers.append(writer)
        assert rng.initial_seed() == seeded(3, "writer").initial_seed(), "each seed has texts of its own"
        return [[5, 6]] * len(prompts)

    monkeypatch.setattr(pruned, "sample_replies", write)
    for phase, writer, tutor in (
        ("words", teacher, None), ("distributions", teacher, teacher), ("own words", model, None)
    ):  # fmt: skip
        pruned.heal(phase, model, teacher, tok, queries, tmp_path, 3, 7)
        loss = asked["loss"]
        assert writers[-1] is writer and isinstance(loss, pruned._TextLoss) and loss.teacher is tutor
        assert asked["plan"].steps == 7 and asked["plan"].learning_rate == pruned.RATE
    for phase, rate in (("rewards", 5e-5), ("rewards, faster", pruned.RATE)):
        pruned.heal(phase, model, teacher, tok, queries, tmp_path, 3, 7)
        grpo = asked["settings"]
        assert (grpo.steps, grpo.learning_rate, grpo.prompts * grpo.group) == (7, rate, pruned.ROWS)
        assert asked.pop("seed") == 3
    for phase in ("reverse", "forward"):
        pruned.heal(phase, model, teacher, tok, queries, tmp_path, 3, 7)
        distill = asked["settings"]
        assert (distill.direction, distill.prompts, distill.steps) == (phase, pruned.ROWS, 7)
        assert asked["t"] is teacher and asked.pop("seed") == 3


def test_text_losses_by_hand() -> None:
    """Of one reply of two tokens: minus the mean log-probability, and the mean forward KL."""
    teacher, model = (tiny(s) for s in (0, 1))
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        p, q = (m(ids)[0, 1:3].double().log_softmax(-1) for m in (teacher, model))
    words, _ = pruned._TextLoss([[3, 4]], [[5, 6]], None, 0)(model, 0)
    whole, _ = pruned._TextLoss([[3, 4]], [[5, 6]], teacher, 0)(model, 0)
    assert words.item() == pytest.approx(-float(q[0, 5] + q[1, 6]) / 2, rel=1e-5)
    assert whole.item() == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert words.requires_grad and whole.requires_grad


def test_each_step_and_each_seed_has_rows_of_its_own() -> None:
    replies = [[i] for i in range(40)]
    asked: list[list[int]] = []

    class Watched(list[list[int]]):
        def __getitem__(self, i: Any) -> Any:
            asked[-1].append(i)
            return super().__getitem__(i)

    model = tiny()
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        asked.append([])
        pruned._TextLoss([[3, 4]] * 40, Watched(replies), None, seed)(model, step)
    assert all(len(set(rows)) == pruned.ROWS for rows in asked)
    assert asked[0] == asked[3] and asked[0] != asked[1] != asked[2] != asked[0]


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy and drawn answers to the test split; both divergences and the entropy, each by its own name."""
    tok = Tokenizer.from_pretrained("qwen3-nano")
    teacher, model = (tiny(s, vocab_size=tok.num_ids) for s in (0, 1))
    for one, scale in ((teacher, 20.0), (model, 8.0)):
        one.model.embed_tokens.weight.data *= scale  # sure enough that the two directions differ
    calls: list[tuple[Any, Any]] = []

    def evaluate(model: Qwen3, tokenizer: Tokenizer, problems: Any, **how: Any) -> list[Any]:
        calls.append((problems, how.get("sampling")))
        return [SimpleNamespace(correct=len(calls) == 2) for _ in problems]

    monkeypatch.setattr(pruned, "evaluate", evaluate)
    monkeypatch.setattr(pruned, "sample_replies", lambda m, t, prompts, *_: [[9, 8, 7]] * len(prompts))
    monkeypatch.setattr(pruned, "problem_queries", lambda *_: [SimpleNamespace(prompt=[3, 4])])
    found = pruned.scores(model, teacher, tok, 2)
    assert [sampling for _, sampling in calls] == [None, Sampling()]
    wanted = [p for family in FAMILIES for p in make_problems(family, "test", 2, seed=TEST_SEED)]
    assert all(problems == wanted for problems, _ in calls)
    assert found["greedy"] == [0] * 10 and found["sampled"] == [1] * 10
    ids = torch.tensor([[3, 4, 9, 8, 7]])
    with torch.no_grad():
        p, q = (m(ids)[0, 1:4].double().log_softmax(-1) for m in (teacher, model))
    by_hand = {
        "forward": (p.exp() * (p - q)).sum(-1), "reverse": (q.exp() * (q - p)).sum(-1),
        "entropy": -(q.exp() * q).sum(-1),
    }  # fmt: skip
    assert {name: found[name] for name in by_hand} == pytest.approx(
        {name: float(value.mean()) for name, value in by_hand.items()}, rel=1e-3
    )
    assert abs(found["forward"] / found["reverse"] - 1) > 0.02


def test_where_a_pruned_model_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels are scored on validation problems and never on the test split; those drawn at random are
    other ones in each layer and for each seed."""
    tok = Tokenizer.from_pretrained("qwen3-nano")
    teacher = tiny(vocab_size=tok.num_ids)
    monkeypatch.setattr(pruned, "WIDTH", 24)
    kept: list[list[torch.Tensor]] = []
    monkeypatch.setattr(pruned, "prune", lambda model, width, scores: kept.append(list(scores)))
    for seed in (0, 1, 0):
        pruned.start_of(teacher, tok, seed)
    assert torch.equal(kept[0][0], kept[2][0])
    assert not any(torch.equal(kept[0][0], other) for other in (kept[0][1], kept[1][0]))
    splits: list[str] = []

    def asked(tokenizer: Tokenizer, use: str, *_: int) -> list[Any]:
        splits.append(use)
        return [SimpleNamespace(prompt=[3, 4]), SimpleNamespace(prompt=[5])]

    texts: list[torch.Tensor] = []
    monkeypatch.setattr(pruned, "problem_queries", asked)
    monkeypatch.setattr(pruned, "sample_replies", lambda *_: [[6, 7], [8]])
    monkeypatch.setattr(pruned, "importance", lambda model, ids: texts.append(ids) or [])
    pruned.start_of(teacher, tok)
    assert splits == ["validation"] and texts[0].tolist() == [[3, 4], [5, 8]]


def test_each_seed_has_queries_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all ways of a seed have the same, none of them of the validation or the test split."""
    monkeypatch.setattr(Qwen3, "from_pretrained", lambda name: tiny())
    monkeypatch.setattr(pruned, "start_of", lambda *_: tiny())
    monkeypatch.setattr(pruned, "scores", lambda *_: {})
    given: list[tuple[Any, int]] = []
    monkeypatch.setattr(pruned, "heal", lambda *rest: given.append((rest[4], rest[6])))
    for way, seed in (("own words", 0), ("GRPO", 0), ("GRPO", 1)):
        pruned.run_cell(tmp_path / f"{way}-{seed}", way, seed, 0.1, 1)
    tok = Tokenizer.from_pretrained("qwen3-nano")
    assert [seed for _, seed in given] == [0, 0, 1]
    for queries, seed in given:
        want = problem_queries(tok, "on-policy", 4, seed)
        assert [q.prompt for q in queries] == [q.prompt for q in want]
    assert [q.prompt for q in given[0][0]] != [q.prompt for q in given[2][0]]


def test_gains_by_hand() -> None:
    cells = {
        "a": [{"greedy": [1, 0]}, {"greedy": [0, 0]}],
        "b": [{"greedy": [1, 1]}, {"greedy": [1, 1]}],
    }
    half = 12.706 * math.sqrt(0.125) / math.sqrt(2)  # gains of .5 and 1
    found = pruned.gains(cells, "a", "greedy")
    assert found == {"b": pytest.approx({"mean": 0.75, "low": 0.75 - half, "high": 0.75 + half})}


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each way of two phases leaves its result, which is read and not made again."""
    ways = {"teacher's words": [("words", 50), ("reverse", 50)], "GRPO": [("rewards", 50)]}
    monkeypatch.setattr(pruned, "WAYS", ways)
    monkeypatch.setattr(pruned, "WIDTH", 24)
    monkeypatch.setattr(pruned, "MAX_REPLY", 8)
    monkeypatch.setattr(Qwen3, "from_pretrained", lambda name: tiny())
    arguments = ["--out", str(tmp_path), "--seeds", "0", "1", "--share", "0.02", "--count", "1"]
    assert pruned.main(arguments) == 0
    study = json.loads((tmp_path / "pruned.json").read_text(encoding="utf-8"))
    assert {way: [c["settings"]["steps"] for c in cells] for way, cells in study["cells"].items()} == {
        "teacher's words": [[1, 1], [1, 1]], "GRPO": [[1], [1]]
    }  # fmt: skip
    some = study["cells"]["GRPO"][1]
    assert len(some["greedy"]) == len(some["sampled"]) == 5 and some["reverse"] > 0 < some["entropy"]
    assert study["without training"]["teacher"][0]["reverse"] == 0, "a teacher is not away from itself"
    assert len(study["without training"]["pruned at random"]) == 2
    monkeypatch.setattr(pruned, "heal", None)  # not called again
    assert pruned.main(arguments) == 0
    assert "GRPO, seed 1" in capsys.readouterr().out
    assert pruned.main([*arguments[:-1], "2"]) == 1
    assert "is of other settings; choose another directory" in capsys.readouterr().err
    assert pruned.main([*arguments, "--seeds", "0"]) == 1
    assert "1 seeds make no interval here; give 2 to 8." in capsys.readouterr().err
    assert pruned.main([*arguments, "--share", "nan"]) == 1
    assert "--share is nan; it must be above 0" in capsys.readouterr().err
    with pytest.raises(TrainingError):
        pruned.run_cell(tmp_path / "GRPO-0", "GRPO", 0, 1.0, 1)


def test_the_shipped_study_is_whole() -> None:
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    assert list(study["cells"]) == list(pruned.WAYS) and study["seeds"] == [0, 1, 2]
    for way, cells in study["cells"].items():
        assert [c["settings"]["steps"] for c in cells] == [[n for _, n in pruned.WAYS[way]]] * 3
        assert all(len(c["greedy"]) == len(c["sampled"]) == 300 for c in cells)
    for what in ("greedy", "sampled"):
        gains = pruned.gains(study["cells"], "teacher's words", what)
        assert list(study["gains"][what]) == list(gains)
        assert all(study["gains"][what][way] == pytest.approx(found) for way, found in gains.items())
        lowest = min(mean(c[what]) for way in TAUGHT for c in study["cells"][way])
        assert all(mean(c[what]) < lowest for way in set(pruned.WAYS) - TAUGHT for c in study["cells"][way])
        before = mean(study["without training"]["pruned"][0][what])
        assert all(mean(c[what]) < before for c in study["without training"]["pruned at random"])
        own, grpo = ([mean(c[what]) - before for c in study["cells"][way]] for way in ("own words", "GRPO"))
        assert over_seeds(own)["low"] < 0 < over_seeds(own)["high"] and over_seeds(grpo)["low"] > 0
    reverse, forward, both = (
        study["cells"][way]
        for way in ("on-policy, reverse KL", "on-policy, forward KL", "words, then reverse KL")
    )
    for r, f, b in zip(reverse, forward, both, strict=True):
        assert mean(r["greedy"]) < mean(f["greedy"]) and r["entropy"] < f["entropy"]
        assert all(mean(b[what]) > mean(r[what]) for what in ("greedy", "sampled"))
    drawn = [mean(r["sampled"]) - mean(f["sampled"]) for r, f in zip(reverse, forward, strict=True)]
    assert over_seeds(drawn)["low"] < 0, "the lesson calls this within error"
