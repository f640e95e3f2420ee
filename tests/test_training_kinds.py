"""Kinds of faults that training code has had elsewhere: numbers that overflow, batches that are not
alike, conversations and ids that cannot be learned, settings that are not handed on."""

from __future__ import annotations

import csv
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.config import Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import FAMILIES, Problem, is_correct, make_problems, solve
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import rollout
from qwen3_ref.train.corpus import DOMAINS, held_out, maths_documents
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Log, Plan, train
from qwen3_ref.train.queries import Query
from qwen3_ref.train.recipes import balance, general_rl, grpo, pretrain, sft
from qwen3_ref.train.recipes.distill import Distill, divergence
from qwen3_ref.train.recipes.grpo import Grpo, advantages, k3, surrogate
from qwen3_ref.train.rollout import HeldOut, make_batch, mean_rewards, reply_logits, roll_out, token_log_probs
from qwen3_ref.train.state import load_state, save_state, snapshot
from tests.helpers import SMALL_GRPO, TOKENIZER, hard_model, letter_queries, tiny

INF = math.inf


def nano_tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(find_nano("qwen3-nano"))


# -- numbers -------------------------------------------------------------------------------------------


def test_ratios_that_overflow_are_finite_and_others_untouched() -> None:
    """exp(88.7) is the end of float32; below 40 nothing changes, by k3's own formula."""
    apart = torch.tensor([-100.0, -1e4, -39.0, 0.0, 39.0, 1e4], requires_grad=True)
    got = k3(apart, torch.zeros(6))
    assert bool(got.isfinite().all()) and float(got.detach().max()) < 1e30
    want = [math.exp(39.0) - 40.0, 0.0, math.exp(-39.0) + 39.0 - 1]
    assert got[2:5].tolist() == pytest.approx(want, rel=1e-6)
    got.sum().backward()
    assert apart.grad is not None and bool(apart.grad.isfinite().all())
    for advantage in (1.0, -1.0, 0.0):
        new = torch.tensor([[200.0, 0.1]], requires_grad=True)
        values, stopped = surrogate(new, torch.zeros(1, 2), torch.tensor([advantage]), 0.2, 0.2)
        assert bool(values.isfinite().all()) and stopped.tolist() == [[advantage != 0, False]]
        values.sum().backward()
        assert new.grad is not None and bool(new.grad.isfinite().all())


def test_rewards_equal_but_for_rounding_give_exactly_nothing() -> None:
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3 + 2e-8], [-0.7, -0.7 - 6e-8, -0.7]])
    assert advantages(rewards.double()).tolist() == [[0.0] * 3] * 3
    assert advantages(rewards).tolist() == [[0.0] * 3] * 3
    near = advantages(torch.tensor([[1.0, 1.0, 0.999]]))
    assert near.tolist()[0] == pytest.approx([2**-0.5, 2**-0.5, -(2**0.5)], rel=1e-3)
    assert bool((advantages(torch.tensor([[1e-4, 0.0]])) != 0).all()), "however small the rewards are"


def test_rewards_of_other_types() -> None:
    want = [[1.0, -1.0], [0.0, 0.0]]
    assert advantages(torch.tensor([[3, 1], [2, 2]])).tolist() == want
    assert advantages(torch.tensor([[True, False], [True, True]])).tolist() == want
    for bad in (math.nan, INF):
        with pytest.raises(ValueError, match="a reward is NaN or infinite"):
            advantages(torch.tensor([[bad, 0.0]]))
        asked = [Query((5,), lambda sample, bad=bad: (bad, {}))]  # type: ignore[misc]
        with pytest.raises(TrainingError, match=rf"the reward of a reply to .* is {bad}; a score must be"):
            roll_out(hard_model(), TOKENIZER, asked, 3, rollout.seeded(0, 0))


def test_nothing_to_ask() -> None:
    with pytest.raises(ValueError, match="there is no query to reply to"):
        roll_out(hard_model(), TOKENIZER, [], 3, rollout.seeded(0, 0))
    assert mean_rewards(hard_model(), TOKENIZER, [], samples=2, seed=0) == []
    with pytest.raises(ValueError, match="samples is 0"):
        mean_rewards(hard_model(), TOKENIZER, letter_queries(), samples=0, seed=0)
    with pytest.raises(ValueError, match="there are 0 examples and a step takes 4; make more"):
        sft.reply_loss([], nano_tokenizer(), 4, 0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_divergences_with_impossible_tokens(direction: Any) -> None:
    """A token that neither model allows adds nothing; one that the second alone forbids, infinity."""
    student, teacher = torch.tensor([[[1.0, 2.0, -INF]]]), torch.tensor([[[0.5, 0.1, -INF]]])
    student.requires_grad_()
    got = divergence(student, teacher, direction)
    torch.testing.assert_close(got, divergence(student[..., :2], teacher[..., :2], direction))
    got.sum().backward()
    assert student.grad is not None and bool(student.grad.isfinite().all())
    narrow, wide = torch.tensor([[[1.0, 2.0, -INF]]]), torch.tensor([[[1.0, 2.0, 0.0]]])
    first, second = (narrow, wide) if direction == "reverse" else (wide, narrow)
    assert 0 < float(divergence(first, second, direction)) < 1, "the first is a part of the second"
    assert float(divergence(second, first, direction)) == INF
    _, entropy = token_log_probs(torch.tensor([[[0.0, 0.0, -INF]]]), torch.tensor([[0]]))
    assert float(entropy) == pytest.approx(math.log(2))


def test_an_id_that_no_sampler_draws_is_named() -> None:
    """Rows of the embedding beyond the tokens are no tokens; one that was added has to be counted."""
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, rope_theta=1e4, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3(config)
    for last in (151_668, 151_669):
        batch = make_batch([[5]], [[last]])
        if last < config.num_token_ids:
            assert bool(token_log_probs(reply_logits(model, batch), batch.replies)[0].isfinite().all())
            continue
        with pytest.raises(ValueError, match=r"a reply holds the id 151669, and the ids below 151669"):
            token_log_probs(reply_logits(model, batch), batch.replies)


# -- batches that are not alike ------------------------------------------------------------------------


def moe() -> Qwen3:
    sizes: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    return tiny(model_type="qwen3_moe", norm_topk_prob=True, **sizes).double()


def gradient(model: Qwen3) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("balancing", ["none", "global"])
def test_micro_batches_of_unequal_size_are_the_whole_batch(balancing: Any) -> None:
    """Transformers and others took a mean of means here (transformers issues 24725 and 34191)."""
    model = moe()
    rows = torch.randint(1024, (5, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for parts in ([rows], [rows[:1], rows[1:]], [rows[:3], rows[3:4], rows[4:]]):
        loss = balance.accumulate(model, parts, balance.Weights(balancing, 0.3, z_loss=0.01))
        found.append((loss, gradient(model)))
    for loss, grad in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-9)
        torch.testing.assert_close(grad, found[0][1], atol=1e-10, rtol=1e-7)
    with pytest.raises(ValueError, match="no token in the micro-batches"):
        balance.accumulate(model, [], balance.Weights("none"))


def test_balancing_statistics_leave_padding_out() -> None:
    logits = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([logits, torch.full((1, 3, 4), 7.0)], 1)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    for count in (balance.count_picks, balance.co_activation):
        assert torch.equal(count([logits], 2), count([padded], 2, mask))
    with pytest.raises(ValueError, match="counted no choice at all; count tokens that are not padding"):
        balance.imbalance(balance.count_picks([padded], 2, torch.zeros(1, 9)))
    with pytest.raises(ValueError, match="1 rows do not make 2 equal micro-batches"):
        balance.balancing_loss([padded], 2, micro_batches=2)


def test_loss_by_domain_is_a_mean_over_rows() -> None:
    """17 rows are run as 16 and 1; the single one must not weigh as much as the sixteen."""
    model = tiny()
    stream = torch.randint(1024, (17 * 8 + 1,), generator=torch.Generator().manual_seed(0))
    got = pretrain.domain_losses(model, {"x": stream}, context=8, tokens=10**6)["x"]
    with torch.no_grad():
        log_p = model(stream[:-1].view(17, 8)).log_softmax(-1)
    want = -log_p.gather(-1, stream[1:].view(17, 8)[..., None]).mean()
    assert got == pytest.approx(float(want), rel=1e-5)
    with pytest.raises(ValueError, match="7 tokens of x do not make a row of 8"):
        pretrain.domain_losses(model, {"x": stream[:7]}, context=8)
    mix = pretrain.Mix(16, 2, {"code": 1.0}, Plan(1, 1e-3))
    with pytest.raises(ValueError, match="the code text has 16 tokens and a row takes 17"):
        pretrain.make_rows(mix, TOKENIZER, {"code": stream[:16]}, 0, 0)


def test_held_out_documents_are_not_trained_on() -> None:
    tokenizer = nano_tokenizer()
    corpus = {domain: [f"{domain} {i}" for i in range(80)] for domain in DOMAINS}
    trained, kept = pretrain.make_streams(tokenizer, corpus)
    end = tokenizer.control_tokens["<|endoftext|>"]
    for domain in DOMAINS:
        both = []
        for stream in (trained[domain], kept[domain]):
            documents = tokenizer.decode(stream.tolist()).split("<|endoftext|>")[:-1]
            assert int((stream == end).sum()) == len(documents)
            both.append(set(documents))
        assert not both[0] & both[1] and both[0] | both[1] == set(corpus[domain])
        assert both[1] == {d for d in corpus[domain] if held_out(d)} != set()


# -- conversations -------------------------------------------------------------------------------------

USER, ANSWER = {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, ANSWER, ANSWER], "begins '2\\+2' cannot be learned: with the last turn the turns before it"),
        ([], "begins '' cannot be learned: there is no message; end with the assistant's"),
        ([USER], "begins '2\\+2' cannot be learned: the last message is the user's; end with"),
    ],
)
def test_conversations_that_cannot_be_learned_are_named(messages: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        sft.encode_example(nano_tokenizer(), messages)
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


def test_a_mark_that_is_a_word_of_the_answer_is_learned() -> None:
    tokenizer = nano_tokenizer()
    example = sft.encode_example(tokenizer, [USER, ANSWER | {"content": "a </think> b"}])
    assert tokenizer.decode(example.ids[-example.reply :]).endswith("</think>\n\na </think> b<|im_end|>")


def test_history_without_flags_wishes_to_think() -> None:
    """In fusion the last flag holds, and thinking where there is none, as the template has it."""
    assert sft._last([]) == sft._last(["", ""]) == " /think"
    assert sft._last([" /think", " /no_think", ""]) == " /no_think"
    (problem,) = make_problems("arithmetic", "train", 1)
    for seed in range(40):
        for thinking, plain in (([(problem, problem.trace)], []), ([], [problem])):
            (messages,) = sft.fusion_conversations(thinking, plain, seed)
            assert general_rl.asked_to_think(messages[:-1]) is bool(thinking)


def test_batches_come_in_a_random_order() -> None:
    """Sorted by length within 16 batches; the batches themselves are shuffled, each epoch anew."""
    examples = [sft.Example(list(range(2, 2 + n)), 1) for n in range(3, 163)]
    seen: list[int] = []

    class Watch:
        device = torch.device("cpu")

        def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs.shape[1])
            return torch.zeros(*inputs.shape, 200)

    loss = sft.reply_loss(examples, nano_tokenizer(), rows=10, seed=0)
    model: Any = Watch()
    for step in range(32):
        loss(model, step)
    first, second = seen[:16], seen[16:]
    assert sorted(first) == sorted(set(first)), "batches of like length"
    assert first != sorted(first) and second != first


# -- what is handed on, and what is logged --------------------------------------------------------------


def test_grpo_hands_its_settings_on(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def watched(rewards: torch.Tensor, by_std: bool = True) -> torch.Tensor:
        seen["by_std"] = by_std
        return advantages(rewards, by_std)

    def clipped(new: Any, old: Any, advantage: Any, low: float, high: float) -> Any:
        seen["clip"] = (low, high)
        return surrogate(new, old, advantage, low, high)

    held_out = HeldOut([], tmp_path, 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "advantages", watched)
        patch.setattr(grpo, "surrogate", clipped)
        for by_std in (True, False):
            settings = replace(SMALL_GRPO, by_std=by_std, clip_low=0.1, clip_high=0.3)
            loss = grpo._PolicyLoss(hard_model(), TOKENIZER, letter_queries(), held_out, settings, 0)
            loss(hard_model(), 0)
            assert seen == {"by_std": by_std, "clip": (0.1, 0.3)}
    plan = Grpo().plan()
    assert (plan.weight_decay, plan.floor, plan.together) == (0.0, 1.0, 2)
    assert plan.learning_rate == Grpo.learning_rate and plan.steps == 340
    want = Plan(170, 5e-4, warmup=2, floor=0.1, weight_decay=0.0, log_every=1, save_every=10)
    assert Distill().plan() == want


def test_clipped_share_by_hand() -> None:
    """Ratios 1.25 and 0.75 with a bound of 0.2 below and 0.3 above: the first is inside for a gain."""
    new = torch.tensor([[1.25, 0.75], [1.25, 0.75]]).log()
    _, stopped = surrogate(new, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), 0.2, 0.3)
    assert stopped.tolist() == [[False, False], [False, True]]


def test_the_share_of_cut_replies() -> None:
    """A reply cut at its first token, and none with room for a stop: 1 and less."""
    found = [
        roll_out(hard_model(), TOKENIZER, letter_queries(6), room, rollout.seeded(0, 0)).numbers["cut"]
        for room in (1, 40)
    ]
    replies = roll_out(hard_model(), TOKENIZER, letter_queries(6), 40, rollout.seeded(0, 0)).replies
    end = TOKENIZER.control_tokens["<|im_end|>"]
    assert found[1] == sum(end not in reply for reply in replies) / 6
    assert found[0] >= found[1]


def test_numbers_are_logged_at_the_rate_of_their_step(tmp_path: Path) -> None:
    plan = Plan(steps=4, learning_rate=1.0, warmup=4, log_every=1)

    def loss(model: Qwen3, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return 0.0 * model.model.norm.weight.sum(), {"own": float(step)}

    train(tiny(), plan, loss, tmp_path)
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = [(row["step"], float(row["rate"]), float(row["own"])) for row in csv.DictReader(file)]
    assert rows == [("1", 0.25, 0.0), ("2", 0.5, 1.0), ("3", 0.75, 2.0), ("4", 1.0, 3.0)]


def test_a_row_that_a_killed_process_left_unfinished_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss,rate\n2,0.5,1\n4,0.4,1\n6,0.", encoding="utf-8", newline="")
    log = Log(path, 4)
    log.write({"step": 6, "loss": 0.3, "rate": 1})
    assert path.read_text("utf-8").splitlines() == ["step,loss,rate", "2,0.5,1", "4,0.4,1", "6,0.3,1"]
    assert Log(path, 0).columns == [] and path.read_text("utf-8") == ""


def test_a_state_that_was_never_begun_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"step 3 cannot be written to .*none was saved\. Free some"):
        save_state(tmp_path / "taken", {"a": torch.zeros(1)}, 3, {})


def test_a_setting_that_is_new_or_gone_makes_another_run(tmp_path: Path) -> None:
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, snapshot(model, optimizer), 3, {"a": 1})
    assert load_state(tmp_path, model, optimizer, {"a": 1}) == 3
    for other, words in (
        ({"a": 1, "b": 2}, "b was None and is 2"),
        ({}, "a was 1 and is None"),
        ({"a": {"c": 1}}, "a was 1 and is {'c': 1}"),
    ):
        with pytest.raises(TrainingError, match=words):
            load_state(tmp_path, model, optimizer, other)


def test_rules_count_every_number() -> None:
    """(7+7)%100 is not 7%100: a number that is said twice counts twice."""
    call = '<think>\n\n</think>\n\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "%s"}}\n'
    tokenizer, rewards = nano_tokenizer(), []
    for expression in ("(7+7+7-7)%100", "(7+7)%100", "(14+0)%100"):
        words = call % expression + "</tool_call><|im_end|>"
        sample = rollout.read_sample(tokenizer, tokenizer.encode(words, allow_control_tokens=True))
        rewards.append(general_rl.tool_reward(sample, "(7+7)%100"))
    assert rewards == [0.5, 1.0, 0.5]


def test_training_tasks_are_switched_and_measured_ones_are_not() -> None:
    asked: list[dict[str, Any]] = []
    real = general_rl.make_tasks

    def watched(tokenizer: Tokenizer, count: int, **options: Any) -> Any:
        asked.append(options)
        return real(tokenizer, count, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(general_rl, "make_tasks", watched)
        patch.setattr(grpo, "train_on_rewards", lambda *_, **options: None)
        general_rl.train_on_tasks(
            hard_model(), TOKENIZER, Path(), Grpo(), per_kind=2, run_seed=3, limits=general_rl.LENGTH_ALONE
        )
    common = {"run_seed": 3, "limits": general_rl.LENGTH_ALONE}
    assert asked == [common | {"switched": True}, common | {"split": "validation"}]


# -- tasks ---------------------------------------------------------------------------------------------


def test_an_answer_is_right_to_the_letter() -> None:
    problem = Problem("counting", 1, "", "", "a1 b2")
    assert is_correct(problem, "a1 b2") and is_correct(problem, "\n a1 b2 ")
    for wrong in ("A1 B2", "a1b2", "a1  b2", "a1 b2.", "b2 a1", "a1 b2 c0", "", "a1 b"):
        assert not is_correct(problem, wrong), wrong


def test_no_problems_are_no_error() -> None:
    for family in FAMILIES:
        try:
            assert make_problems(family, "test", 0) == []
        except ValueError as error:
            pytest.fail(str(error))


def test_differences_and_quotients_keep_their_modulo() -> None:
    """Every line of generated maths is right modulo 100, by Python's own arithmetic."""
    kinds = set()
    for document in maths_documents(20_000):
        if document.startswith("translate "):
            continue
        for line in document.splitlines():
            if line[:1].isdigit() and "=" in line and " " not in line:
                left, _, right = line.partition("=")
                terms = [str(int(t)) if t.isdigit() else t for t in re.split(r"([-+*])", left)]
                assert eval("".join(terms)) % 100 == int(right), line
                kinds.add("".join(t for t in terms if not t.isdigit()))
    assert kinds == {"+", "-", "*+"}


def test_solving_is_a_function_of_the_prompt() -> None:
    for family in FAMILIES:
        problem = make_problems(family, "validation", 1, 3, seed=random.Random(0).randrange(9))[0]
        assert solve(family, 3, problem.prompt) == problem


def test_padding_and_forced_ids_are_not_counted() -> None:
    batch = make_batch([[1], [2, 3]], [[4, 5], [6]], forced=[[1], []])
    assert batch.ids.tolist() == [[0, 1, 4, 5], [2, 3, 6, 0]]
    assert batch.mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.counted.tolist() == [[True, False], [True, False]]
