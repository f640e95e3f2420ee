"""Sampling by hand-worked numbers, and generation against transformers' own."""

from __future__ import annotations

import inspect
from collections import UserDict
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode import generation as module
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.generation import _Asked, feed, generate, stream
from qwen3_ref.decode.sampling import Sampling, draw, probabilities
from qwen3_ref.decode.speculative import Draft
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import TOKENIZER, cached_official, hard_model, left_pad, reference, token_ids

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


# -- arguments as they come -------------------------------------------------------------------------------


class Counting:
    """Says the ids 1, 2, 3, ... after a prompt that ends in 0; a model of 40 rows."""

    def __init__(self, vocab_size: int = 40) -> None:
        self.config: Any = SimpleNamespace(
            context_length=30, vocab_size=vocab_size, num_token_ids=vocab_size,
            num_hidden_layers=1, num_key_value_heads=1, head_dim=1,
        )  # fmt: skip
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def __call__(self, ids: torch.Tensor, cache: KVCache, **_: Any) -> torch.Tensor:
        cache.begin(ids, torch.ones_like(ids, dtype=torch.bool))
        cache.append(0, ids[:, None, :, None].float(), ids[:, None, :, None].float())
        cache.commit()
        ids = (ids[:, -1:] + 1) % self.config.vocab_size
        return torch.nn.functional.one_hot(ids, self.config.vocab_size).float()


class Elsewhere(torch.Generator):
    """A generator of a machine with a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def count(prompts: Any = ((7, 0),), n: Any = 4, **options: Any) -> list[list[int]]:
    model: Any = options.pop("model", None) or Counting()
    return [list(reply) for reply in generate(model, prompts, max_new_tokens=n, **options)]


@pytest.mark.parametrize(
    "stop_ids",
    [2, {2}, [2, 9], (2,), frozenset({2}), np.int64(2), np.array([9, 2]), torch.tensor(2), torch.tensor([2])],
    ids=str,
)
def test_stop_ids_in_every_form(stop_ids: Any) -> None:
    assert count(stop_ids=stop_ids) == [[1, 2]]
    assert list(stream(Counting(), [7, 0], max_new_tokens=4, stop_ids=stop_ids)) == [1, 2]  # type: ignore[arg-type]


def test_the_first_id_of_all_may_stop() -> None:
    assert count(stop_ids=[2, 0]) == [[1, 2]]


@pytest.mark.parametrize("stop_ids", [None, (), [], set(), torch.tensor([], dtype=torch.long)], ids=str)
def test_no_stop_ids(stop_ids: Any) -> None:
    assert count(stop_ids=stop_ids) == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    "prompts",
    [
        [[7, 0], [8, 3, 0]],
        ((7, 0), (8, 3, 0)),
        [torch.tensor([7, 0]), torch.tensor([8, 3, 0])],
        [np.array([7, 0], np.int32), [np.int64(8), 3, 0]],
        [list(torch.tensor([7, 0])), range(3, -1, -1)],
        ([7, 0], iter([8, 0])),
    ],
    ids=["lists", "tuples", "tensors", "arrays", "lists of tensors, a range", "an iterator"],
)
def test_prompts_in_every_form(prompts: Any) -> None:
    assert count(prompts) == [[1, 2, 3, 4]] * 2
    both = torch.tensor([[7, 0], [8, 0]])
    assert count(both) == count(both.numpy()) == [[1, 2, 3, 4]] * 2
    assert list(stream(Counting(), torch.tensor([7, 0]), max_new_tokens=2)) == [1, 2]  # type: ignore[arg-type]
    assert count([]) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(prompts=[1, 2]), "prompts is one flat list of ids; give a list of prompts"),
        (dict(prompts=torch.tensor([1, 2])), "prompts is one flat list of ids"),
        (dict(prompts="hello"), "prompts is a str; give a list of prompts"),
        (dict(prompts=5), "prompts is a int; give a list"),
        (dict(prompts=["hello"]), "prompt 0 is a str; give a list of token ids"),
        (dict(prompts=[[1], None]), "prompt 1 is a NoneType"),
        (dict(prompts=[[1, 2.0]]), "prompt 0 holds 2.0, which is no token id"),
        (dict(prompts=torch.ones(1, 2)), "prompt 0 holds 1.0, which is no token id"),
        (dict(prompts=[[True]]), "prompt 0 holds True, which is no token id"),
        (dict(prompts=[[10**400]]), "prompt 0 holds a whole number of more than 300 digits"),
        (dict(prompts=[[[1, 2]]]), "prompt 0 holds .1, 2., which is no token id"),
        (dict(n=True), "max_new_tokens is True; it must be a whole number, at least 1"),
        (dict(n=1.5), "max_new_tokens is 1.5"),
        (dict(n=None), "max_new_tokens is None"),
        (dict(batch_size=True), "batch_size is True; it must be a whole number, at least 1"),
        (dict(batch_size=2.0), "batch_size is 2.0"),
        (dict(batch_size="2"), "batch_size is '2'"),
        (dict(stop_ids="2"), "stop_ids is a str; give a list of token ids"),
        (dict(stop_ids=2.5), "stop_ids holds 2.5, which is no token id; ids are whole numbers"),
        (dict(stop_ids=1000.0), "stop_ids holds 1000.0.*ids are whole numbers"),
        (dict(stop_ids=[2, 40]), "stop_ids holds 40, which cannot come: the model's vocabulary has 40 rows"),
        (dict(stop_ids=-1), "stop_ids holds -1, which cannot come"),
        (dict(prompts=torch.tensor(5)), "prompts is a Tensor; give a list of prompts"),
        (dict(prompts={"input_ids": [[1]]}), r"prompts is a dict; give encoding\['input_ids'\]"),
        (dict(prompts=UserDict(input_ids=[[1]])), r"prompts is a UserDict; give encoding\['input_ids'\]"),
        (dict(prompts=[{"input_ids": [1]}]), r"prompt 0 is a dict; give prompt 0\['input_ids'\]"),
        (dict(prompts={1: 2}), "prompts is a dict; give a list of prompts"),
        (dict(model=TOKENIZER), "the model is a Tokenizer; give a Qwen3"),
        (dict(model="dir"), "the model is a str; give a Qwen3"),
        (dict(model=NumpyQwen3), "the model is a type; give a Qwen3"),
        (dict(tokenizer="dir"), "tokenizer is a str; give a Tokenizer"),
        (dict(tokenizer=TOKENIZER), "the tokenizer has ids up to 287 and the model's embedding 40 rows"),
        (dict(on_token=3), "on_token is a int; give a function"),
        (dict(stop_ids=True), "stop_ids is a bool"),
        (dict(stop_ids=[2, None]), "stop_ids holds None, which is no token id"),
        (dict(sampling=0.7), "sampling is a float; give a Sampling, or None for greedy"),
        (dict(generator=7), "generator is a int; give torch.Generator"),
        (dict(generator=Elsewhere()), "the generator is on cuda, and ids are drawn on the CPU"),
        (dict(thinking_budget="5"), "thinking_budget is '5'; it must be a whole number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arguments_of_the_wrong_kind_get_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        count(**options)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 400
    if not {"prompts", "batch_size", "model", "on_token"} & options.keys():
        options = {"max_new_tokens" if k == "n" else k: v for k, v in options.items()}
        with pytest.raises(ValueError, match=words):  # at the call, not at the first id
            stream(Counting(), [1], **{"max_new_tokens": 4} | options)  # type: ignore[arg-type]


# -- on the way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
def test_on_token_says_the_place_among_all_prompts(batch_size: int | None) -> None:
    heard: list[tuple[int, int]] = []
    prompts = [[7, n] for n in (0, 10, 20, 30, 5)]
    replies = count(prompts, on_token=lambda row, token: heard.append((row, token)), batch_size=batch_size)
    assert sorted(heard) == sorted((i, token) for i, reply in enumerate(replies) for token in reply)
    for i, reply in enumerate(replies):
        assert [token for row, token in heard if row == i] == reply
    if batch_size is None:  # as they come: a token of each row in turn
        assert heard[:5] == [(i, reply[0]) for i, reply in enumerate(replies)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_listener_that_raises_leaves_all_whole(error: type[BaseException]) -> None:
    """And it listens outside of inference mode: tensors that it makes can be trained on."""
    model = Qwen3.from_pretrained(reference("dense")[0])
    want = generate(model, [[5, 9], [7]], max_new_tokens=4)
    weight = torch.nn.Parameter(torch.ones(2))

    def listen(row: int, token: int) -> None:
        assert not torch.is_inference_mode_enabled()
        (weight * torch.ones(2)).sum().backward()
        if row == 1:
            raise error

    with pytest.raises(error):
        generate(model, [[5, 9], [7]], max_new_tokens=4, on_token=listen)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert generate(model, [[5, 9], [7]], max_new_tokens=4) == want


# -- which ids there are ----------------------------------------------------------------------------------


def with_added(tok: Tokenizer, *ids: int) -> Tokenizer:
    """The tokenizer with tokens more at these ids."""
    return Tokenizer(tok.vocab, tok.merges, tok.control_tokens | {f"<|new{i}|>": i for i in ids})


def test_added_tokens_are_drawn_and_gaps_between_them_never() -> None:
    """Of the spare rows, 300 on, added tokens have 300 and 303: those may come, 301 and 302 not."""
    tok = with_added(Tokenizer.train(["a small text"], 290), 300, 303)
    model: Any = Counting(305)
    model.config.num_token_ids = 300

    def said(first: int, **options: Any) -> list[int]:
        return count([[first]], 1, model=model, **options)[0]

    assert said(299, tokenizer=tok) == [300] and said(302, tokenizer=tok) == [303]
    for last in (300, 301, 303):  # what would follow has no text
        assert said(last, tokenizer=tok) == [0], "the lowest of the ids that are left"
        assert said(last) == [0], "without a tokenizer the spare rows are padding"
        hot = Sampling(temperature=100.0)
        seen = {said(last, tokenizer=tok, sampling=hot, generator=torch.Generator().manual_seed(s))[0]
                for s in range(200)}  # fmt: skip
        assert seen <= set(tok.ids) and len(seen) > 50


def test_a_tokenizer_of_ids_that_the_model_lacks_is_refused() -> None:
    tok = with_added(Tokenizer.train(["a small text"], 290), 300)
    text = Budget(1, "<|new300|></think>")
    with pytest.raises(ValueError, match="ids up to 300 and the model's embedding 300 rows"):
        count(model=Counting(300), tokenizer=tok, thinking_budget=text)
    opening = tok.control_tokens["<think>"]
    none = replace(text, tokens=0)
    got = count([[opening, 5]], 3, model=Counting(301), tokenizer=tok, thinking_budget=none)
    assert got[0][:2] == [300, tok.control_tokens["</think>"]], "an added token may be forced"


def test_generate_and_stream_take_the_same_options() -> None:
    """One that is new to `_Asked` is offered by both, and means the same where it is not given."""
    found = {}
    for function, own in ((generate, {"batch_size", "on_token", "cache"}), (stream, {"cache"})):
        options = inspect.signature(function).parameters.values()
        named = {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY}
        assert own <= set(named)
        found[function.__name__] = {name: value for name, value in named.items() if name not in own}
    assert found["generate"] == found["stream"]
    assert list(found["generate"]) == [field.name for field in fields(_Asked)]


def test_newcomers_have_room_for_a_whole_reply() -> None:
    """Two of four stop early; those that take their places say more than the other two have left."""
    prompts = [[7, 0], [7, 0], [7, 10], [7, 10], [7, 20], [7, 20]]
    want = [[*range(p[1] + 1, p[1] + 13)] for p in prompts]
    try:
        got = count(prompts, 12, stop_ids=3, batch_size=4)
    except ValueError as error:
        pytest.fail(f"{error}")
    assert got == [[1, 2, 3], [1, 2, 3], *want[2:]]


# -- a long prompt in pieces ------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 5, 6, 11, 12])
def test_pieces_give_the_logits_of_one_pass(piece: int) -> None:
    """Rows of 12, 5 and 9 tokens, padded on the left: a piece may be all padding to a row."""
    model = hard_model()
    vocab = model.config.vocab_size
    ids, real = left_pad([token_ids(vocab, (n,), seed=n) for n in (12, 5, 9)])
    one, many = KVCache(model.config, 3, 12), KVCache(model.config, 3, 12)
    with torch.no_grad():
        want = model(ids, attention_mask=real, cache=one, logits_to_keep=3)
        with mock.patch.object(module, "PIECE", piece):
            got = feed(model, ids, many, real, keep=3)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert torch.equal(many.ids, one.ids) and torch.equal(many.real, one.real)
    seen = one.real[None, :, None, :, None]  # what padding leaves in the cache means nothing
    torch.testing.assert_close(many.keys * seen, one.keys * seen, atol=1e-5, rtol=1e-5)


def test_a_long_prompt_is_never_computed_at_once() -> None:
    """In a batch, streamed, from a shared beginning and with a draft: the same text."""
    model = hard_model()
    vocab = model.config.vocab_size
    prompts = [token_ids(vocab, (n,), seed=n).tolist() for n in (40, 23, 7)]
    alike = [[*prompts[0], 1, 2], [*prompts[0], 3]]
    draft = Draft(tokens=3, ngram=1)

    def replies() -> list[Any]:
        cache = KVCache(model.config, 1, 8)
        return [
            generate(model, prompts, max_new_tokens=8),
            [list(stream(model, prompt, max_new_tokens=8)) for prompt in prompts],
            generate(model, alike, max_new_tokens=8, cache=cache),
            generate(model, prompts, max_new_tokens=8, draft=draft),
        ]

    want = replies()
    with mock.patch.object(model, "forward", wraps=model.forward) as run:
        with mock.patch.object(module, "PIECE", 9):
            assert replies() == want
    assert max(call.args[0].shape[1] for call in run.call_args_list) == 9
