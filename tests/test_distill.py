"""Distillation: both divergences and their gradients against numbers worked out by hand, and runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Reply
from qwen3_ref.tasks.problems import Problem, make_problems
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.recipes import distill
from qwen3_ref.train.recipes.distill import (
    Direction,
    Distill,
    _StudentLoss,
    divergence,
    teacher_conversations,
    train_on_teacher,
)
from qwen3_ref.train.recipes.sft import encode_example
from qwen3_ref.train.rollout import HeldOut, average
from qwen3_ref.train.state import weights_hash
from tests.helpers import TINY, TOKENIZER, broken, hard_model, harden, letter_queries

STUDENT, TEACHER = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.25, 0.5])
LN = math.log
FORWARD = 0.25 * LN(0.25 / 0.5) + 0.25 * LN(0.25 / 0.3) + 0.5 * LN(0.5 / 0.2)
REVERSE = 0.5 * LN(0.5 / 0.25) + 0.3 * LN(0.3 / 0.25) + 0.2 * LN(0.2 / 0.5)
SMALL = Distill(steps=3, prompts=6, max_new_tokens=6, save_every=1, held_out_every=2, learning_rate=1e-2)


def logits_of(p: Tensor, shift: float) -> Tensor:
    """(1, 1, 3); a softmax does not see the shift."""
    return (p.log() + shift)[None, None]


# -- the divergences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "want"), [("forward", FORWARD), ("reverse", REVERSE)])
def test_divergence_by_hand(direction: Direction, want: float) -> None:
    got = divergence(logits_of(STUDENT, 3.0), logits_of(TEACHER, -2.0), direction)
    assert got.shape == (1, 1)
    assert float(got) == pytest.approx(want, abs=1e-6)
    same = divergence(logits_of(TEACHER, 1.0), logits_of(TEACHER, 0.0), direction)
    assert float(same) == pytest.approx(0, abs=1e-6)
    assert abs(FORWARD - REVERSE) > 0.02, "the example can tell them apart"


@pytest.mark.parametrize(
    ("direction", "want"),
    [
        # d/dz of KL(t || softmax z) is softmax z - t
        ("forward", [0.25, 0.05, -0.3]),
        # d/dz_k of KL(s || t) is s_k (ln s_k/t_k - KL)
        (
            "reverse",
            [0.5 * (LN(2) - REVERSE), 0.3 * (LN(1.2) - REVERSE), 0.2 * (LN(0.4) - REVERSE)],
        ),
    ],
)
def test_gradient_by_hand(direction: Direction, want: list[float]) -> None:
    student = logits_of(STUDENT, 1.0).requires_grad_()
    divergence(student, logits_of(TEACHER, 0.0), direction).sum().backward()
    assert student.grad is not None
    assert student.grad[0, 0].tolist() == pytest.approx(want, abs=1e-6)
    assert sum(want) == pytest.approx(0, abs=1e-9)


def test_another_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="direction is 'both'"):
        divergence(logits_of(STUDENT, 0), logits_of(TEACHER, 0), "both")  # type: ignore[arg-type]


def test_near_certain_teachers_stay_finite() -> None:
    sure = torch.tensor([[[200.0, 0.0, 0.0]]])
    for direction in ("forward", "reverse"):
        got = divergence(logits_of(STUDENT, 0.0), sure, direction)  # type: ignore[arg-type]
        assert math.isfinite(float(got))


# -- on-policy -----------------------------------------------------------------------------------------


def other_model(seed: int = 5) -> Qwen3:
    model = Qwen3(TINY)
    harden(model, seed)
    return model


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("mean", ["sequence", "token", "constant"])
def test_loss_and_gradient_are_those_of_each_reply_alone(
    direction: Direction, mean: Any, tmp_path: Path
) -> None:
    """The padded, sampled loss against the sum over the student's own tokens, no reply padded."""
    student, teacher = hard_model(), other_model()
    settings = replace(SMALL, prompts=24, max_new_tokens=10, direction=direction, mean=mean)
    queries = letter_queries(24)
    replies: list[list[int]] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        rollout = real(*arguments, **options)
        replies.extend(rollout.replies)
        prompts.extend(rollout.prompts)
        return rollout

    real, prompts = distill.roll_out, list[Sequence[int]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "roll_out", spy)
        held_out = HeldOut([], tmp_path, 0, 1)
        loss = _StudentLoss(teacher, TOKENIZER, queries, held_out, settings, 2)(student, 0)[0]
    loss.backward()
    assert len({len(reply) for reply in replies}) > 1, "replies must be of different length"

    twin, total = hard_model(), torch.zeros(())
    weight = {"token": sum(map(len, replies)), "constant": 24 * 10}
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([[*prompt, *reply]])
        s = twin(ids)[0, len(prompt) - 1 : -1].log_softmax(-1)
        with torch.no_grad():
            t = teacher(ids)[0, len(prompt) - 1 : -1].log_softmax(-1)
        kl = (t.exp() * (t - s)).sum() if direction == "forward" else (s.exp() * (s - t)).sum()
        total = total + kl / weight.get(mean, 24 * len(reply))
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    grads = dict(student.named_parameters())
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(grads[name].grad, parameter.grad, atol=2e-5, rtol=2e-3, msg=name)
    assert all(p.grad is None for p in teacher.parameters())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_student_comes_to_the_teacher(direction: Direction, tmp_path: Path) -> None:
    student, teacher = Qwen3(TINY), other_model()
    before = weights_hash(teacher)
    settings = replace(SMALL, steps=40, prompts=16, direction=direction, held_out_every=40)
    train_on_teacher(
        student, teacher, TOKENIZER, letter_queries(16), tmp_path, settings, held_out=letter_queries(4)
    )
    log = rows(tmp_path / "log.csv")
    assert weights_hash(teacher) == before
    assert float(log[-1][direction]) < 0.6 * float(log[0][direction])
    assert float(log[0]["loss"]) == pytest.approx(float(log[0][direction]), rel=1e-4)
    assert set(log[0]) >= {"forward", "reverse", "entropy", "reward", "tokens", "cut", "seconds"}
    assert [row["step"] for row in rows(tmp_path / "held_out.csv")] == ["0", "40"]


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    teacher, others = other_model(), letter_queries(2)
    whole, parts = hard_model(), hard_model()
    settings = replace(SMALL, steps=4)
    train_on_teacher(
        whole, teacher, TOKENIZER, letter_queries(), tmp_path / "whole", settings, held_out=others
    )
    train_on_teacher(
        parts, teacher, TOKENIZER, letter_queries(), tmp_path / "parts", settings, stop_at=3, held_out=others
    )
    assert weights_hash(parts) != weights_hash(whole)
    parts = hard_model()
    train_on_teacher(
        parts, teacher, TOKENIZER, letter_queries(), tmp_path / "parts", settings, held_out=others
    )
    assert weights_hash(parts) == weights_hash(whole)
    for name in ("held_out.csv", "log.csv"):
        a, b = ([r | {"seconds": ""} for r in rows(tmp_path / d / name)] for d in ("whole", "parts"))
        assert a == b
    with pytest.raises(TrainingError, match="teacher was"):
        train_on_teacher(parts, other_model(6), TOKENIZER, letter_queries(), tmp_path / "parts", settings)


def test_bad_input(tmp_path: Path) -> None:
    wide = Qwen3(replace(TINY, vocab_size=TINY.vocab_size + 1))
    with pytest.raises(ValueError, match="288 token ids and the teacher 289"):
        train_on_teacher(hard_model(), wide, TOKENIZER, letter_queries(), tmp_path, SMALL)
    with pytest.raises(ValueError, match="there are 3 queries and a step takes 6"):
        train_on_teacher(hard_model(), other_model(), TOKENIZER, letter_queries(3), tmp_path, SMALL)
    teacher = other_model()
    broken(teacher)
    with pytest.raises(TrainingError, match="the loss is nan in step 1 of 3"):
        train_on_teacher(hard_model(), teacher, TOKENIZER, letter_queries(), tmp_path, SMALL)
    with pytest.raises(TrainingError, match="no token of the batch"):
        average(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.bool), "token")


# -- off-policy ----------------------------------------------------------------------------------------


def test_teacher_replies_become_examples_in_both_modes() -> None:
    """A scripted teacher: what is dropped, and why."""
    problems = make_problems("arithmetic", "train", 48)
    asked: list[tuple[str, float]] = []

    def scripted(model: Qwen3, tokenizer: Any, some: Sequence[Problem], **options: Any) -> list[Reply]:
        asked.extend((problem.prompt, options["sampling"].temperature) for problem in some)
        replies = []
        for i, p in enumerate(some):
            thinking = not p.prompt.endswith(" /no_think")
            good = Reply(p.trace if thinking else None, p.answer)
            other = Reply(None if thinking else p.trace, p.answer)
            wrong = Reply(good.reasoning, "no")
            cut = replace(good, complete=False)
            broken_reply = replace(good, problems=("a problem.",))
            replies.append([good, other, wrong, cut, broken_reply, replace(good, content=" ")][i % 6])
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "replies_to", scripted)
        kept, fates = teacher_conversations(hard_model(), TOKENIZER, problems, run_seed=0)
        again = asked[:]
        options: dict[str, Any] = {"run_seed": 0, "only_right": False}
        more, others = teacher_conversations(hard_model(), TOKENIZER, problems, **options)
    asked[:] = again
    assert len(asked) == 48 == len({prompt.split(" /")[0] for prompt, _ in asked})
    for flag, thinking in ((" /think", True), ("", True), (" /no_think", False)):
        word = flag.strip() or "no flag"
        some = [(prompt, t) for prompt, t in asked if prompt == f"{prompt.split(' /')[0]}{flag}"]
        assert len(some) > 5 and {t for _, t in some} == {0.6 if thinking else 0.7}
        levels = {p.difficulty for p in problems if any(p.prompt == q.split(" /")[0] for q, _ in some)}
        assert len(levels) > 3, "a flag is asked with problems of every difficulty"
        counts = [len([0 for i in range(len(some)) if i % 6 == k]) for k in range(6)]
        want = {
            "kept": counts[0] + (0 if thinking else counts[2]),
            "other mode": counts[1],
            "wrong answer": counts[2] if thinking else 0,
            "not whole": sum(counts[3:]),
        }
        assert {fate: fates[f"{word}: {fate}"] for fate in want} == want
    solved = {p.prompt: p for p in problems}
    for said, reply in kept:
        problem = solved[said["content"].split(" /")[0]]
        thinking = not said["content"].endswith(" /no_think")
        assert reply["reasoning_content"] == (problem.trace if thinking else "")
    assert any(reply["content"] == "no" for _, reply in kept), "without thinking it is copied, right or wrong"
    assert len(more) > len(kept) and not others["/think: wrong answer"]
    plain = next(c for c in kept if c[0]["content"].endswith("/no_think") and c[1]["content"] != "no")
    learned = encode_example(TOKENIZER, plain)
    tail = TOKENIZER.decode(learned.ids[-learned.reply :])
    assert tail == f"<think>\n\n</think>\n\n{plain[1]['content']}<|im_end|>"


def test_a_real_teacher_is_asked_through_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unscripted: a random model's replies are all dropped, none raises."""
    teacher = Qwen3(replace(TINY, max_position_embeddings=256))
    kept, fates = teacher_conversations(
        teacher, TOKENIZER, make_problems("arithmetic", "train", 4, 1), run_seed=1
    )
    assert fates.total() == 4
    assert len(kept) == sum(n for fate, n in fates.items() if fate.endswith("kept"))
