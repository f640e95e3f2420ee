"""`train nano`: every stage in miniature, from nothing to the checkpoints that the package has."""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure import card
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import NANO
from qwen3_ref.tasks.problems import make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import rollout, stages
from qwen3_ref.train import run as run_module
from qwen3_ref.train.corpus import VOCAB_SIZE, Corpus, train_tokenizer
from qwen3_ref.train.loop import cross_entropy
from qwen3_ref.train.recipes import distill, general_rl, pretrain, sft
from qwen3_ref.train.recipes.distill import Distill
from qwen3_ref.train.recipes.grpo import Grpo
from tests.helpers import small_corpus, tiny


def little(stage: stages.Stage) -> stages.Stage:
    """The same stage with a small model, short steps and few replies."""
    plan: Any = stage.plan
    changes: dict[str, Any] = {"plan": replace(plan, steps=500, learning_rate=1e-3, save_every=1)}
    if isinstance(plan, Grpo):
        changes["plan"] = replace(plan, prompts=4, group=2, max_new_tokens=6)
    elif isinstance(plan, Distill):
        changes["plan"] = replace(plan, prompts=4, max_new_tokens=6)
    if stage.mix is not None:
        short = {} if stage.mix.long_share else {"context": 64}
        changes["mix"] = replace(stage.mix, rows=2, **short)
    if stage.config is not None:
        sizes = tiny().config.to_dict()
        sizes = {k: sizes[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")}
        if stage.name.startswith("moe"):
            sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        if stage.name.startswith("student"):
            sizes["num_hidden_layers"] = 1
        whole = stage.config
        changes["config"] = lambda: replace(whole(), **sizes)
    return replace(stage, **changes)


@functools.cache
def learned() -> Tokenizer:
    """The tokenizer of what the stages here learn from, made once: test_train makes it anew."""
    return train_tokenizer({domain: documents[:150] for domain, documents in small_corpus().items()})


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> list[str]:
    """Small models, few and short steps; what is left of the arguments of the command."""
    documents = {domain: documents[:150] for domain, documents in corpus.items()}
    monkeypatch.setattr(run_module, "gather", lambda allow_other_text: documents)
    monkeypatch.setattr(run_module, "train_tokenizer", lambda _: learned())
    losses = functools.partial(pretrain.domain_losses, context=64, tokens=256)
    monkeypatch.setattr(pretrain, "domain_losses", losses)
    monkeypatch.setattr(pretrain, "retrieval_accuracy", lambda *_: 0.0)
    for table in ("STAGES", "EXTRA"):
        small = {name: little(stage) for name, stage in getattr(stages, table).items()}
        monkeypatch.setattr(stages, table, small)
    monkeypatch.setattr(sft, "ROWS", 8)
    monkeypatch.setattr(sft, "MAX_REPLY", 6)
    monkeypatch.setattr(card, "MAX_REPLY", 6)
    # An untrained model solves nothing and is of no mode, and then there is nothing to train on.
    monkeypatch.setattr(rollout, "mean_rewards", lambda model, tok, asked, **_: [0.5] * len(asked))
    monkeypatch.setattr(sft, "reason_to_drop", lambda *_: None)
    monkeypatch.setattr(distill, "teacher_conversations", all_solved)
    return ["nano", "--out", str(tmp_path), "--scale", "0.004"]


def all_solved(
    teacher: Qwen3, tokenizer: Tokenizer, problems: list[Any], *, run_seed: int
) -> tuple[list[Any], dict[str, int]]:
    return [sft.conversation(p, p.trace, p.answer) for p in problems], {"kept": len(problems)}


def interrupted(at: int) -> Callable[..., Tensor]:
    """The loss, and Ctrl-C in step `at`."""
    steps = itertools.count(1)

    def loss(*given: Tensor) -> Tensor:
        if next(steps) == at:
            raise KeyboardInterrupt
        return cross_entropy(*given)

    return loss


def test_one_stage_after_the_other(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *common, "--stage", "s2"]) == 1
    assert "s1/model is not there; run --stage s1 first" in capsys.readouterr().err
    assert main(["train", *common, "--stage", "polish"]) == 2
    assert "no stage 'polish'; there are s1, s2" in capsys.readouterr().err
    assert main(["train", *common, "--stage", "colt-start"]) == 2
    assert "no stage 'colt-start'; did you mean cold-start." in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "domain_losses", lambda *_: {})
        for at, kept in ((1, "1 of 2; no state was saved yet"), (2, "2 of 2; the state of step 1 in")):
            patch.setattr(pretrain, "cross_entropy", interrupted(at))
            assert main(["train", *common, "--stage", "s1"]) == 130
            assert f"stopped in step {kept}" in capsys.readouterr().err
    before = json.loads((tmp_path / "s1/seconds.json").read_text("utf-8"))
    assert before[0] > 0 and before[1] > 0
    (tmp_path / "s1/seconds.json").write_text("[5000, 70000]", encoding="utf-8")
    assert main(["train", *common, "--stage", "s1"]) == 0
    summary = json.loads((tmp_path / "s1/summary.json").read_text("utf-8"))
    assert 5000 < summary["seconds"] < 10_000 and summary["cpu_seconds"] > 70_000
    assert main(["train", *common, "--stage", "s2"]) == 0
    for name in ("s1", "s2"):
        assert {p.name for p in (tmp_path / name).iterdir()} == {"log.csv", "model", "summary.json"}
    model = Qwen3.from_pretrained(tmp_path / "s2/model")
    assert model.config.rope_theta == 10_000 and model.config.vocab_size == VOCAB_SIZE
    assert Tokenizer.from_pretrained(tmp_path / "s2/model").num_ids == VOCAB_SIZE
    with (tmp_path / "s2/log.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]
    assert main(["train", *common, "--stage", "family"]) == 1
    assert "general-rl/model is not there; run --stage general-rl first" in capsys.readouterr().err
    assert not (tmp_path / "family").exists(), "no half of a family is left behind"


def test_the_whole_family(tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--stage all` and the stages beside it; each begins from the weights it should begin from."""
    common = [*common, "--scale", "0.002"]  # a step each
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured/x.json").write_text("{}", encoding="utf-8")
    assert main(["train", *common]) == 0, capsys.readouterr().err
    for name in stages.EXTRA:
        assert main(["train", *common, "--stage", name]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["train", *common]) == 0
    said, family = capsys.readouterr().out, tmp_path / "family"
    assert said.count("done before") == len(stages.STAGES)
    assert f"{', '.join(stages.SHIPPED)}: {family}\n" in said
    assert (family / "measured/x.json").read_text("utf-8") == "{}"
    assert sorted(p.name for p in family.iterdir()) == ["logs", "measured", *NANO]
    assert sorted(p.name for p in (family / "logs").iterdir()) == sorted(stages.STAGES | stages.EXTRA)
    for name in NANO:
        config = Qwen3Config.from_pretrained(family / name)
        assert config.rope_theta == 1e6 and config.is_moe == name.endswith("moe")
        trained = load_file(tmp_path / stages.SHIPPED[name] / "model/model.safetensors")
        shipped = load_file(family / name / "model.safetensors")
        assert trained.keys() == shipped.keys()
        assert all(torch.equal(tensor, trained[key].bfloat16()) for key, tensor in shipped.items())
    summary = json.loads((family / "logs/general-rl/summary.json").read_text("utf-8"))
    assert summary["seed"] == 0 and summary["seconds"] > 0 and "torch" in summary["packages"]
    assert Qwen3Config.from_pretrained(tmp_path / "s3-no-abf/model").rope_theta == 10_000


def test_tool_calls_are_learned_whole() -> None:
    """The example of a tool call has its definition in the prompt, and the loss is on the call."""
    tokenizer = Tokenizer.from_pretrained("qwen3-nano")
    (problem,) = make_problems("arithmetic", "train", 1)
    task = general_rl.tool_call(problem)
    example = sft.encode_example(tokenizer, [*task.messages, task.ideal], task.tools)
    prompt, reply = example.ids[: -example.reply], example.ids[-example.reply :]
    assert tuple(prompt) == task.query(tokenizer).prompt and '"calculator"' in tokenizer.decode(prompt)
    assert tokenizer.decode(reply).startswith("<think>\n\n</think>\n\n<tool_call>\n{")
    assert tokenizer.decode(reply).endswith("</tool_call><|im_end|>")
