"""GRPO: every formula against numbers worked out by hand, masks, gradients, and runs of a tiny model."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import FAMILIES, make_problems
from qwen3_ref.train import rollout
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.queries import Query, Sample, learnable, problem_queries, problem_query, read_sample
from qwen3_ref.train.recipes import grpo
from qwen3_ref.train.recipes.grpo import _PolicyLoss, advantages, k3, one_ratio, surrogate, train_on_rewards
from qwen3_ref.train.rollout import (
    HeldOut,
    average,
    make_batch,
    mean_rewards,
    per_token,
    reply_logits,
    sample_replies,
    seeded,
    token_log_probs,
)
from qwen3_ref.train.state import saved_step, weights_hash
from tests.helpers import SMALL_GRPO as SMALL
from tests.helpers import TINY, TOKENIZER, broken, hard_model, ids_of, letter_queries

MARK = TOKENIZER.control_tokens
PROMPTS, REPLIES = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, 16, 17], [18]]


# -- log-probabilities and masks -----------------------------------------------------------------------


def test_log_probs_of_a_padded_batch_are_those_of_each_reply_alone() -> None:
    model = hard_model()
    batch = make_batch(PROMPTS, REPLIES)
    got, entropy = token_log_probs(reply_logits(model, batch), batch.replies)
    assert batch.counted.sum(-1).tolist() == [2, 5, 1]
    for i, (prompt, reply) in enumerate(zip(PROMPTS, REPLIES, strict=True)):
        for t, token in enumerate(reply):  # token by token, nothing padded
            p = probabilities_of(model, [*prompt, *reply[:t]])
            assert float(got[i, t].detach()) == pytest.approx(math.log(p[token]), abs=2e-5)
            assert float(entropy[i, t]) == pytest.approx(float(-(p * p.log()).sum()), abs=2e-5)


def probabilities_of(model: Qwen3, ids: list[int]) -> Tensor:
    """What a token at temperature 1 is drawn from, in float64."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, -1].double().softmax(-1)


def test_per_token_sorts_by_length_and_puts_everything_back() -> None:
    model = hard_model()
    batch = make_batch(PROMPTS, REPLIES)
    want = torch.where(batch.counted, token_log_probs(reply_logits(model, batch), batch.replies)[0], 0.0)
    for rows in (1, 2, 3):
        got, counted = per_token(
            model, PROMPTS, REPLIES, lambda x, b: token_log_probs(x, b.replies)[:1], rows
        )
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        assert torch.equal(counted, batch.counted)


def test_padding_rows_of_the_embedding_have_no_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the sampler: else the ratio would be of another distribution."""
    model, batch = hard_model(), make_batch(PROMPTS, REPLIES)
    monkeypatch.setattr(Qwen3Config, "num_token_ids", 40)
    logits = reply_logits(model, batch)
    assert logits.shape == (3, 5, 40)
    whole = probabilities_of(model, PROMPTS[0])
    got = token_log_probs(logits, batch.replies)[0].detach()
    assert float(got[0, 0]) == pytest.approx(float((whole[11] / whole[:40].sum()).log()), abs=2e-5)


def test_forced_ids_are_not_counted() -> None:
    batch = make_batch(PROMPTS, REPLIES, forced=[(), (1, 2), ()])
    assert batch.counted.tolist() == [
        [True, True, False, False, False],
        [True, False, False, True, True],
        [True, False, False, False, False],
    ]


@pytest.mark.parametrize("mean", ["sequence", "token", "constant"])
def test_pads_and_forced_ids_do_not_move_the_loss(mean: rollout.Mean) -> None:
    """The same loss and gradient whatever stands in the places that are not counted."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 5, 20, generator=generator)
    batch = make_batch([[1], [1], [1]], [[2, 3], [4, 5, 6, 7, 8], [9]], forced=[(), (1, 2), ()])
    old = torch.randn(3, 5, generator=generator) / 10 - 3

    def loss_and_gradient(junk: float) -> tuple[float, Tensor]:
        x = torch.where(batch.counted[..., None], logits, junk * logits).requires_grad_()
        ids = torch.where(batch.counted, batch.replies, int(junk))
        new, _ = token_log_probs(x, ids)
        values, _ = surrogate(new, old, torch.tensor([1.0, -1.0, 0.5]), 0.2, 0.2)
        loss = average(values - 0.1 * k3(new, old - 0.1), batch.counted, mean, 5)
        loss.backward()
        assert x.grad is not None
        return float(loss.detach()), x.grad[batch.counted]

    (one, slope), (other, same) = loss_and_gradient(1.0), loss_and_gradient(7.0)
    assert one == other
    assert torch.equal(slope, same)
    spoilt = average(torch.where(batch.counted, 1.0, math.nan), batch.counted, mean, 5)
    assert math.isfinite(float(spoilt))


@pytest.mark.parametrize(
    ("mean", "want"),
    [("sequence", (2.0 + 3.0) / 2), ("token", 16 / 6), ("constant", 16 / (2 * 8))],
)
def test_three_means_over_two_replies_of_different_length(mean: rollout.Mean, want: float) -> None:
    values = torch.tensor([[1.0, 3.0, 99.0, 99.0], [2.0, 2.0, 2.0, 6.0]])
    counted = torch.tensor([[True, True, False, False], [True] * 4])
    assert float(average(values, counted, mean, longest=8)) == pytest.approx(want)


@pytest.mark.parametrize(
    ("mean", "want"),
    [
        ("sequence", (0.25, -0.125)),  # 1 / 2 replies / 2 tokens; 1 / 2 / 4
        ("token", (1 / 6, -1 / 6)),
        ("constant", (1 / 16, -1 / 16)),
    ],
)
def test_what_a_token_weighs_under_each_mean(mean: rollout.Mean, want: tuple[float, float]) -> None:
    """A right reply of two tokens and a wrong one of four: the gradient by hand."""
    new = torch.full((2, 4), -1.0, requires_grad=True)
    counted = torch.tensor([[True, True, False, False], [True] * 4])
    advantage = advantages(torch.tensor([[1.0, 0.0]]))[0]  # +1, -1
    values, _ = surrogate(new, new.detach(), advantage, 0.2, 0.2)
    average(values, counted, mean, longest=8).backward()
    assert new.grad is not None
    right, wrong = want
    assert new.grad.tolist() == [pytest.approx([right, right, 0, 0]), pytest.approx([wrong] * 4)]


def test_nothing_counted_is_refused() -> None:
    with pytest.raises(TrainingError, match="no token of the batch is counted"):
        average(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), "token")
    with pytest.raises(ValueError, match="mean is 'reply'"):
        average(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), "reply")  # type: ignore[arg-type]


# -- the objective -------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    root = 3**0.5
    want = [[root, -1 / root, -1 / root, -1 / root], [1.0, 1.0, -1.0, -1.0], [0.0] * 4]
    torch.testing.assert_close(advantages(rewards), torch.tensor(want))
    want = [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5], [0.0] * 4]
    torch.testing.assert_close(advantages(rewards, by_std=False), torch.tensor(want))


def test_equal_rewards_give_no_advantage_even_when_their_mean_is_rounded() -> None:
    rewards = torch.full((1, 7), 0.1)
    assert float((rewards - rewards.mean()).abs().max()) > 0, "the mean of this group is rounded"
    assert advantages(rewards).tolist() == [[0.0] * 7]


def test_on_the_bound_nothing_is_stopped() -> None:
    _, stopped = surrogate(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([1.0, -1.0]), 0.0, 0.0)
    assert not stopped.any()


def test_surrogate_by_hand() -> None:
    ratio = torch.tensor([[1.0, 1.5, 0.5, 1.1], [1.0, 1.5, 0.5, 0.9]])
    new = ratio.log().requires_grad_()
    values, stopped = surrogate(new, torch.zeros(2, 4), torch.tensor([2.0, -2.0]), 0.2, 0.4)
    want = torch.tensor([[2.0, 2.8, 1.0, 2.2], [-2.0, -3.0, -1.6, -1.8]])
    torch.testing.assert_close(values.detach(), want)
    values.sum().backward()
    assert stopped.tolist() == [[False, True, False, False], [False, False, True, False]]
    torch.testing.assert_close(new.grad, want.masked_fill(stopped, 0.0))  # d ratio / d ln ratio = ratio


def test_k3_by_hand_and_on_average() -> None:
    new, other = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.25, 0.5])
    got = k3(new.log(), other.log())
    assert float(got[0]) == pytest.approx(0.5 + math.log(2) - 1, abs=1e-6)
    exact = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    assert float((new * got).sum()) == pytest.approx(exact, abs=1e-6), "new draws: KL(new || other)"
    assert bool((got > 0).all())


def test_one_ratio_a_reply_by_hand() -> None:
    """Ratios 1.5, 0.8 and 1.0 have the geometric mean 1.0627; what is not counted has no say, and of the
    second reply only 4.0 is."""
    ratio = torch.tensor([[1.5, 0.8, 1.0, 9.0], [4.0, 0.1, 0.1, math.inf]])
    counted = torch.tensor([[True] * 3 + [False], [True] + [False] * 3])
    old = torch.full((2, 4), -2.0)
    got = (one_ratio(ratio.log() + old, old, counted) - old).exp()
    torch.testing.assert_close(got, torch.tensor([[1.2 ** (1 / 3)] * 4, [4.0] * 4]))
    assert float(got[0, 0]) == pytest.approx(1.0627, abs=5e-5)
    assert torch.equal(one_ratio(old, old, counted), old), "before the first update every ratio is exactly 1"
    assert one_ratio(old, old, torch.zeros_like(counted)).isfinite().all()


def test_the_gradient_of_gspo_by_hand() -> None:
    """Mean over replies of min(s A, clip(s) A): with A = 2 and -1, the gradient of each counted token is s A
    over the length, over the 2 replies; where s is beyond the bound, nothing. Against differences too."""
    counted = torch.tensor([[True, True, True, False], [True, True, False, False]])
    old = torch.full((2, 4), -1.0, dtype=torch.float64)
    ratio = torch.tensor([[1.5, 0.8, 1.0, 7.0], [1.1, 0.9, 7.0, 7.0]], dtype=torch.float64)
    advantage = torch.tensor([2.0, -1.0], dtype=torch.float64)

    def objective(new: Tensor, high: float = 0.2) -> Tensor:
        values, _ = surrogate(one_ratio(new, old, counted), old, advantage, 0.2, high)
        return average(values, counted, "sequence")

    new = (old + ratio.log()).requires_grad_()
    value = objective(new)
    value.backward()
    s = (1.2 ** (1 / 3), 0.99**0.5)
    assert float(value.detach()) == pytest.approx((2 * s[0] - s[1]) / 2)
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([2 * s[0] / 3 / 2] * 3 + [0.0])
    assert new.grad[1].tolist() == pytest.approx([-s[1] / 2 / 2] * 2 + [0.0] * 2)
    assert torch.autograd.gradcheck(objective, (new,))
    values, stopped = surrogate(one_ratio(new, old, counted), old, advantage, 0.2, 0.05)
    assert stopped[:, 0].tolist() == [True, False] and float(values[0, 0].detach()) == pytest.approx(2.1)


def test_gspo_in_a_run(tmp_path: Path) -> None:
    """At ratio 1 the gradient is GRPO's, with the mean over each reply; from the second update on it is
    not. A state of before the setting was there is refused in a sentence that names it."""
    gradients: dict[tuple[str, int], Tensor] = {}
    for ratio in ("token", "sequence"):
        model = hard_model()
        settings = replace(SMALL, ratio=ratio, learning_rate=1e-2, minibatches=2)  # type: ignore[arg-type]
        loss = _PolicyLoss(model, TOKENIZER, letter_queries(), HeldOut([], tmp_path, 1, 1), settings, seed=1)
        for update in (0, 1):
            loss(model, update)[0].backward()
            gradients[ratio, update] = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.5 * p.grad  # type: ignore[operator]
            model.zero_grad()
    torch.testing.assert_close(gradients["token", 0], gradients["sequence", 0], atol=1e-6, rtol=1e-3)
    assert (gradients["token", 1] - gradients["sequence", 1]).norm() > 0.01 * gradients["token", 1].norm()

    train_on_rewards(hard_model(), TOKENIZER, letter_queries(), tmp_path / "run", SMALL, stop_at=1)
    changed = replace(SMALL, ratio="sequence")
    with pytest.raises(TrainingError, match=r"settings.ratio was 'token' and is 'sequence'"):
        train_on_rewards(hard_model(), TOKENIZER, letter_queries(), tmp_path / "run", changed)
    old_settings = {k: v for k, v in asdict(SMALL).items() if k != "ratio"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "asdict", lambda settings: old_settings)
        train_on_rewards(hard_model(), TOKENIZER, letter_queries(), tmp_path / "old", SMALL, stop_at=1)
    with pytest.raises(TrainingError, match=r"another run \(settings.ratio was None and is 'token'\)"):
        train_on_rewards(hard_model(), TOKENIZER, letter_queries(), tmp_path / "old", SMALL)


@pytest.mark.parametrize("mean", ["sequence", "token", "constant"])
def test_first_update_is_reinforce_with_the_group_baseline(mean: rollout.Mean, tmp_path: Path) -> None:
    """At ratio 1 the gradient of the whole loss, padded, sampled and scored, equals the sum over tokens of
    advantage times the gradient of ln p, each reply run alone."""
    model = hard_model()
    settings = replace(SMALL, mean=mean, minibatches=1, prompts=6, group=8, max_new_tokens=12)
    held_out = HeldOut([], tmp_path, 1, 1)
    loss = _PolicyLoss(model, TOKENIZER, letter_queries(), held_out, settings, seed=1)
    loss(model, 0)[0].backward()
    got = {name: p.grad for name, p in model.named_parameters()}

    twin = hard_model()
    replies, prompts = loss.rollout.replies, loss.rollout.prompts
    assert len({len(reply) for reply in replies}) > 2, "replies must be of different length"
    group = settings.group
    assert all(prompt == prompts[i // group * group] for i, prompt in enumerate(prompts)), "one query a group"
    assert len(set(prompts)) == settings.prompts
    rewards = [letter_queries()[0].score(read_sample(TOKENIZER, r))[0] for r in replies]
    weight = {"token": sum(map(len, replies)), "constant": len(replies) * settings.max_new_tokens}
    total = torch.zeros(())
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        own = rewards[i // group * group : i // group * group + group]
        mean_reward = sum(own) / group
        std = (sum((r - mean_reward) ** 2 for r in own) / group) ** 0.5
        log_p = twin(torch.tensor([[*prompt, *reply]]))[0].log_softmax(-1)
        along = sum(log_p[len(prompt) - 1 + t, token] for t, token in enumerate(reply))
        total = total - (rewards[i] - mean_reward) / std * along / weight.get(mean, len(replies) * len(reply))
    total.backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=2e-5, rtol=2e-3, msg=name)


# -- samples and rewards -------------------------------------------------------------------------------


def test_only_control_ids_make_a_think_block() -> None:
    text = "<think>\n1\n</think>\n\n2"
    typed = [*TOKENIZER.encode(text), MARK["<|im_end|>"]]
    assert read_sample(TOKENIZER, typed) == Sample(("<|im_end|>",), None, text, 0, len(typed))
    real = read_sample(TOKENIZER, ids_of("<think>\n1\n</think>\n\n2<|im_end|>"))
    assert (real.thought, real.answer, real.well_formed) == ("\n1\n", "\n\n2", True)
    assert real.thought_tokens == len(TOKENIZER.encode("\n1\n"))
    more = read_sample(TOKENIZER, ids_of("<think>1</think>2<|im_end|>3<|im_end|>"))
    assert (more.answer, more.well_formed) == ("2", False), "a reply ends at its first end"
    assert read_sample(TOKENIZER, ids_of("<think>1<|im_end|></think>2")).answer == "<think>1"


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>\n{trace}\n</think>\n\n{answer}<|im_end|>", 1.0),
        ("<think>\n\n</think>\n\n{answer}<|im_end|>", 1.0),
        ("<think>\n{trace}\n</think>\n\n00{answer}<|im_end|>", 0.0),
        ("<think>\n{trace}\n</think>\n\n{answer}", 0.0),  # cut off
        ("<think>\n{trace}\n</think>\n\n{answer}<|endoftext|>", 0.0),
        ("{answer}<|im_end|>", 0.0),
        ("<think>{answer}<|im_end|>", 0.0),
        ("<think>1</think><think>2</think>{answer}<|im_end|>", 0.0),
        ("<think>1<think>2</think>{answer}<|im_end|>", 0.0),
        ("<think>1</think>{answer}<|im_start|><|im_end|>", 0.0),
        ("so <think>\n{trace}\n</think>\n\n{answer}<|im_end|>", 0.0),
        ("<|im_end|>", 0.0),
        ("</think><think>{answer}<|im_end|>", 0.0),
    ],
)
def test_reward_is_the_verifiers_word_on_a_well_formed_reply(text: str, reward: float) -> None:
    problem = make_problems("arithmetic", "train", 1, 2)[0]
    query = problem_query(TOKENIZER, problem)
    reply = ids_of(text.format(trace=problem.trace, answer=problem.answer))
    assert query.score(read_sample(TOKENIZER, reply)) == (reward, {})


def test_queries_leave_out_what_the_cold_start_used_and_what_teaches_nothing() -> None:
    every = problem_queries(TOKENIZER, "GRPO", 3, 1)
    used = {q.prompt for q in problem_queries(TOKENIZER, "cold start", 3, 1)}
    assert len(every) == len(used) == 3 * len(FAMILIES) and not used & {q.prompt for q in every}
    every = every[:6]
    rates = [0.0, 0.5, 1.0, 0.125, 0.875, 0.0]
    assert learnable(every, rates, 2) == [every[3], every[1]]
    assert learnable(every, rates, 9) == [every[3], every[1], every[4]]


def test_mean_rewards_are_per_query() -> None:
    first = Query((5,), lambda s: (1.0, {}))
    second = Query((6, 7), lambda s: (float(s.tokens), {}))
    options = {"samples": 3, "seed": 0, "max_new_tokens": 4}
    got = mean_rewards(hard_model(), TOKENIZER, [first, second], **options)  # type: ignore[arg-type]
    replies = sample_replies(hard_model(), TOKENIZER, [(5,)] * 3 + [(6, 7)] * 3, 4, seeded(0))
    assert got == [1.0, sum(map(len, replies[3:])) / 3]


def test_every_step_and_seed_has_its_own_random_numbers() -> None:
    def drawn(seed: int, number: int) -> list[int]:
        return torch.randperm(20, generator=seeded(seed, number)).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_each_prompt_gets_its_own_reply_whatever_the_order() -> None:
    prompts = [[5, 6, 7], [8], [9, 10]]
    one = sample_replies(hard_model(), TOKENIZER, prompts, 9, seeded(0, 0))
    other = sample_replies(hard_model(), TOKENIZER, prompts[::-1], 9, seeded(0, 0))
    assert one == other[::-1]
    assert len({tuple(reply) for reply in one}) == 3


@pytest.mark.parametrize("sampling", [Sampling(top_p=0.9), Sampling(temperature=0.6), Sampling.greedy()])
def test_other_sampling_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ValueError, match="importance ratio would be wrong"):
        sample_replies(hard_model(), TOKENIZER, [[1]], 2, seeded(0, 0), sampling=sampling)


# -- runs ----------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_reward_rises(tmp_path: Path) -> None:
    model = Qwen3(TINY)
    settings = replace(SMALL, steps=25, group=8, learning_rate=1e-2, held_out_every=25)
    start = weights_hash(model)
    train_on_rewards(
        model, TOKENIZER, letter_queries(), tmp_path, settings, held_out=letter_queries(8), keep=True
    )
    log, held_out = rows(tmp_path / "log.csv"), rows(tmp_path / "held_out.csv")
    assert len(log) == 25
    kept = [weights_hash(Qwen3.from_pretrained(tmp_path / "steps" / n / "model")) for n in ("0", "50")]
    assert kept == [start, weights_hash(model)] and kept[0] != kept[1]
    assert [row["step"] for row in held_out] == ["0", "50"]
    assert float(held_out[1]["reward"]) > float(held_out[0]["reward"]) + 0.3
    assert float(log[-1]["entropy"]) < float(log[0]["entropy"])
    first = log[0]
    assert float(first["letters"]) == float(first["reward"])
    assert float(first["entropy"]) == pytest.approx(math.log(TINY.vocab_size), abs=0.05)
    assert set(first) >= {"mixed", "tokens", "cut", "clipped", "kl_from_sampler", "seconds"}


def test_later_updates_are_off_policy_and_one_update_is_not(tmp_path: Path) -> None:
    fast = replace(SMALL, learning_rate=1e-2)
    for name, settings in {"one": replace(fast, minibatches=1), "many": replace(fast, epochs=2)}.items():
        train_on_rewards(hard_model(), TOKENIZER, letter_queries(), tmp_path / name, settings)
    one, many = rows(tmp_path / "one" / "log.csv"), rows(tmp_path / "many" / "log.csv")
    assert [row["step"] for row in many] == ["4", "8", "12"]
    assert all(abs(float(row["kl_from_sampler"])) < 1e-6 and float(row["clipped"]) == 0 for row in one)
    assert all(float(row["kl_from_sampler"]) > 1e-4 for row in many)
    assert float(many[-1]["clipped"]) > 0


def test_kl_term_holds_the_policy_back(tmp_path: Path) -> None:
    moved = {}
    for kl in (1e-6, 10.0):
        settings = replace(SMALL, steps=16, learning_rate=1e-2, kl=kl)
        train_on_rewards(Qwen3(TINY), TOKENIZER, letter_queries(), tmp_path / str(kl), settings)
        log = rows(tmp_path / str(kl) / "log.csv")
        assert float(log[0]["kl_to_start"]) < float(log[-1]["kl_to_start"])
        moved[kl] = float(log[-1]["kl_to_start"])
    assert moved[10.0] < moved[1e-6] / 2


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_resumed_run_ends_in_the_same_bits(kl: float, tmp_path: Path) -> None:
    settings, others = replace(SMALL, steps=4, kl=kl, save_every=2), letter_queries(3)
    whole, parts = hard_model(), hard_model()
    train_on_rewards(whole, TOKENIZER, letter_queries(), tmp_path / "whole", settings, held_out=others)
    train_on_rewards(
        parts, TOKENIZER, letter_queries(), tmp_path / "parts", settings, held_out=others, stop_at=3
    )
    assert weights_hash(parts) != weights_hash(whole)
    parts = hard_model()  # as a new process would
    train_on_rewards(parts, TOKENIZER, letter_queries(), tmp_path / "parts", settings, held_out=others)
    assert weights_hash(parts) == weights_hash(whole)
    for name in ("held_out.csv", "log.csv"):
        a, b = ([r | {"seconds": ""} for r in rows(tmp_path / d / name)] for d in ("whole", "parts"))
        assert a == b
    with pytest.raises(TrainingError, match="start was"):
        train_on_rewards(Qwen3(TINY), TOKENIZER, letter_queries(), tmp_path / "parts", settings)


@pytest.mark.parametrize(
    ("accident", "words", "kept"),
    [
        ("interrupt", "stopped in step 5 of 6; the state of step 4", 4),
        ("interrupt between updates", "stopped in step 4 of 6; the state of step 2", 2),
        ("nan", "the loss is nan in step 3 of 6; the state of step 2", 2),
    ],
)
def test_accidents_leave_the_last_state_intact(
    accident: str, words: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the replies of step 3 are scored, or in the second update of step 2; a weight that
    turns to NaN after the replies of step 2."""
    scored: list[Sample] = []
    updates: list[int] = []
    inner, model = letter_queries()[0].score, hard_model()

    def score(sample: Sample) -> tuple[float, Mapping[str, float]]:
        scored.append(sample)
        if accident == "nan" and len(scored) == 2 * 16:
            broken(model)
        if accident == "interrupt" and len(scored) == 2 * 16 + 5:
            raise KeyboardInterrupt
        return inner(sample)

    def stopped(*arguments: Any) -> Any:
        updates.append(1)
        if accident == "interrupt between updates" and len(updates) == 4:
            raise KeyboardInterrupt
        return surrogate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=words):
        patch.setattr(grpo, "surrogate", stopped)
        queries = [replace(q, score=score) for q in letter_queries()]
        train_on_rewards(model, TOKENIZER, queries, tmp_path, SMALL, held_out=letter_queries(3))
    assert saved_step(tmp_path) == kept
    again, whole = hard_model(), hard_model()
    train_on_rewards(again, TOKENIZER, letter_queries(), tmp_path, SMALL, held_out=letter_queries(3))
    train_on_rewards(
        whole, TOKENIZER, letter_queries(), tmp_path / "whole", SMALL, held_out=letter_queries(3)
    )
    assert weights_hash(again) == weights_hash(whole)
    assert rows(tmp_path / "held_out.csv") == rows(tmp_path / "whole" / "held_out.csv")


def test_nan_weights_cannot_sample(tmp_path: Path) -> None:
    model = hard_model()
    broken(model)
    with pytest.raises(TrainingError, match="no reply can be sampled: the logits hold NaN"):
        train_on_rewards(model, TOKENIZER, letter_queries(), tmp_path, SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group": 1}, "group is 1; it must be at least 2"),
        ({"minibatches": 9}, "minibatches is 9"),
        ({"ratio": "reply"}, "ratio is reply; it must be 'token' or 'sequence'"),
        ({"clip_low": 1.0}, "clip_low is 1.0"),
        ({"kl": -1.0}, "kl is -1.0"),
    ],
)
def test_bad_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_bad_queries(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 3 queries and a step takes 4"):
        train_on_rewards(hard_model(), TOKENIZER, letter_queries(3), tmp_path, SMALL)
    long = [*letter_queries(), Query(tuple([1] * 64), lambda s: (0.0, {}))]
    with pytest.raises(ValueError, match="64 tokens and the model's context is 64"):
        train_on_rewards(hard_model(), TOKENIZER, long, tmp_path, SMALL)
