"""Sampling by hand-worked numbers, and generation against transformers' own."""

from __future__ import annotations

import pytest
import torch

from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import generate, stream
from qwen3_ref.decode.sampling import Sampling, draw, probabilities
from qwen3_ref.model import Qwen3
from tests.helpers import cached_official, reference, token_ids

LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("sampling", "want"),
    [
        (Sampling(), [0.4, 0.3, 0.2, 0.1]),
        (Sampling.greedy(), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_k=99), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(top_p=0.5), [4 / 7, 3 / 7, 0, 0]),  # 0.4 is not yet 0.5, so the second stays
        (Sampling(top_p=0.01), [1, 0, 0, 0]),
        (Sampling(min_p=0.6), [4 / 7, 3 / 7, 0, 0]),  # 0.6 * 0.4 = 0.24
        (Sampling(top_k=3, top_p=0.7), [4 / 7, 3 / 7, 0, 0]),  # top_p of what top_k left: 7/9
    ],
)
def test_filters_by_hand(sampling: Sampling, want: list[float]) -> None:
    both = torch.stack([LOGITS, LOGITS.flip(0)])  # two rows: nothing may leak between them
    wanted = torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(probabilities(both, sampling), torch.stack([wanted, wanted.flip(0)]))


def test_penalties_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]] * 2)
    got = probabilities(logits, Sampling(presence_penalty=1.5), [[0, 0, 2], []], [[1], [1]])
    want = torch.tensor([[0.5, 1.0, -2.5, 0.5], [2.0, 1.0, -1.0, 0.5]])
    torch.testing.assert_close(got, want.double().softmax(-1))
    got = probabilities(logits, Sampling(repetition_penalty=2.0), [[0, 2], []], [[1], []])
    want = torch.tensor([[1.0, 0.5, -2.0, 0.5], [2.0, 1.0, -1.0, 0.5]])
    torch.testing.assert_close(got, want.double().softmax(-1))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_numbers_that_are_no_temperature(value: float) -> None:
    with pytest.raises(ValueError, match="temperature is .*; it must be 0 .greedy. or more, and finite"):
        Sampling(temperature=value)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_a_row(size: int) -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    with pytest.raises(ValueError, match=f"batch_size is {size}; it must be a whole number, at least 1"):
        generate(model, [[1, 2]], max_new_tokens=1, batch_size=size)


def test_filters_match_transformers() -> None:
    """The same distribution as transformers' warpers, over random logits and settings."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([[3, 5, 7]])
    for _ in range(20):
        logits = torch.randn(200, generator=generator) * 3
        chain = LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(1.05),
                TemperatureLogitsWarper(0.6),
                TopKLogitsWarper(20),
                TopPLogitsWarper(0.95),
                MinPLogitsWarper(0.02),
            ]
        )
        want = chain(seen, logits[None].clone())[0].double().softmax(-1)
        setting = Sampling(0.6, 20, 0.95, 0.02, repetition_penalty=1.05)
        got = probabilities(logits[None], setting, [[]], seen.tolist())
        torch.testing.assert_close(got[0], want, atol=1e-6, rtol=1e-5)


def test_padding_rows_never_win() -> None:
    """Ids 151,669 and up are rows of the embedding without a token; no sampler may emit them."""
    logits = torch.zeros(151_936)
    logits[151_700] = 50.0
    for sampling in (Sampling.greedy(), Sampling.thinking(), Sampling(presence_penalty=1.0)):
        p = probabilities(logits[None], sampling, [[1]], [[]], torch.arange(151_669, 151_936))[0]
        assert p[151_669:].sum() == 0 and abs(p.sum() - 1) < 1e-9


def test_padding_rows_are_never_generated() -> None:
    """A model of the official vocabulary whose head prefers padding rows still emits tokens only."""
    config = Qwen3Config.from_dict(
        Qwen3Config.named("Qwen3-0.6B").to_dict()
        | dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
        | dict(num_key_value_heads=1, head_dim=2, tie_word_embeddings=False)
    )
    model = Qwen3(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight[151_669:] *= 1000
        assert model(torch.tensor([[5, 9]])).argmax() % 151_936 >= 151_669, "padding must want to win"
    for sampling in (Sampling.greedy(), Sampling.thinking()):
        for row in generate(model, [[5, 9], [7]], max_new_tokens=6, sampling=sampling):
            assert len(row) == 6 and max(row) < 151_669


def test_draw_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0], dtype=torch.float64)
    counts = torch.zeros(6)
    for _ in range(4000):
        counts[draw(p[None], [generator])[0]] += 1
    assert counts[[0, 2, 5]].sum() == 0
    assert (counts / 4000 - p).abs().max() < 0.03


def test_greedy_equals_transformers() -> None:
    """Token for token with transformers' own generate, dense and MoE, and a batch of uneven prompts."""
    for case in ("dense", "moe"):
        directory, ids, _, _ = reference(case)
        model = Qwen3.from_pretrained(directory)
        prompts = [ids[0, :9].tolist(), ids[1, :4].tolist(), ids[0, 20:40].tolist()]
        alone = [
            cached_official(case)
            .generate(torch.tensor([p]), max_new_tokens=24, do_sample=False)[0, len(p) :]
            .tolist()
            for p in prompts
        ]
        assert generate(model, prompts, max_new_tokens=24) == alone
        assert generate(model, prompts, max_new_tokens=24, batch_size=2) == alone
        assert [list(stream(model, p, max_new_tokens=24)) for p in prompts] == alone
        stop = {alone[0][5], alone[1][3]}
        stopped = generate(model, prompts, max_new_tokens=24, stop_ids=stop)
        for row, full in zip(stopped, alone, strict=True):
            ends = [i for i, token in enumerate(full) if token in stop]
            assert row == full[: ends[0] + 1 if ends else None]


def test_same_seed_same_text_at_any_batch_size() -> None:
    directory, ids, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    prompts = [ids[i % 2, i : 2 * i + 3].tolist() for i in range(5)]

    def run(**options: object) -> list[list[int]]:
        seeded = torch.Generator().manual_seed(7)
        return generate(
            model,
            prompts,
            max_new_tokens=16,
            sampling=Sampling.thinking(),
            generator=seeded,
            **options,  # type: ignore[arg-type]
        )

    together = run()
    assert run(batch_size=1) == run(batch_size=2) == together
    heard: list[list[int]] = [[] for _ in prompts]
    assert run(on_token=lambda row, token: heard[row].append(token)) == heard == together
    other = generate(
        model,
        prompts,
        max_new_tokens=16,
        sampling=Sampling.thinking(),
        generator=torch.Generator().manual_seed(8),
    )
    assert other != together
    seeded = torch.Generator().manual_seed(7)
    one = [
        list(stream(model, p, max_new_tokens=16, sampling=Sampling.thinking(), generator=seeded))
        for p in prompts
    ]
    assert one == together, "a generator passed from call to call gives what one call gives"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (dict(prompts=[[1], []]), "prompt 1 is empty"),
        (dict(prompts=[[1] * 512]), "512 tokens and the model's context is 512"),
        (dict(prompts=[[1]], max_new_tokens=0), "max_new_tokens is 0"),
        (dict(prompts=[[9999]]), "token id 9999 is outside the vocabulary of 160"),
    ],
)
def test_bad_requests(call: dict, words: str) -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    with pytest.raises(ValueError, match=words):
        generate(model, **({"max_new_tokens": 4} | call))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (dict(temperature=-1), "temperature is -1"),
        (dict(top_k=0), "top_k is 0"),
        (dict(top_p=0), "top_p is 0"),
        (dict(min_p=2), "min_p is 2"),
        (dict(repetition_penalty=0), "repetition_penalty is 0"),
    ],
)
def test_bad_sampling(setting: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**setting)


def test_nan_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        probabilities(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), Sampling.greedy())


def test_reply_ends_at_the_context() -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    prompt = token_ids(160, (1, 508))[0].tolist()
    assert len(generate(model, [prompt], max_new_tokens=50)[0]) == 4
