"""Drafted replies are the model's own: exactly by enumeration, by chi-square, and in greedy to the letter."""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.generation import Generated, generate, stream
from qwen3_ref.decode.profile import Profile
from qwen3_ref.decode.sampling import Sampling, probabilities
from qwen3_ref.decode.speculative import Draft, accepts, expected_tokens, residual
from qwen3_ref.measure.accuracy import chat_prompt
from qwen3_ref.measure.statistics import chi_square
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import TINY, TOKENIZER, hard_model, tiny

# -- the rule, on two distributions --------------------------------------------------------------------

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])


def emitted(p: Any, q: Any) -> Any:
    """The exact distribution of what comes out: u is integrated over a fine grid of midpoints."""
    us = (np.arange(10_000) + 0.5) / 10_000
    kept = np.array([np.mean([accepts(p, q, x, u) for u in us]) if q[x] else 0.0 for x in range(len(p))])
    return q * kept + (q * (1 - kept)).sum() * residual(p, q)


def test_the_rule_by_hand() -> None:
    """Kept: .2 of .2, .3 of .5, .2 of .3, so .7 = 1 - TV; all that is missing is .3 of the first."""
    assert [accepts(P, Q, 1, u) for u in (0.0, 0.59, 0.61)] == [True, True, False]
    assert accepts(P, Q, 0, 1 - 2**-53), "what the model likes better than the draft always stays"
    np.testing.assert_allclose(residual(P, Q), [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(residual(Q, P), [0, 2 / 3, 1 / 3], atol=1e-15)
    np.testing.assert_allclose(emitted(P, Q), P, atol=1e-4)
    assert np.minimum(P, Q).sum() == pytest.approx(0.7)


def test_random_distributions_come_out_as_the_models() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        p, q = rng.dirichlet([0.5] * 6), rng.dirichlet([0.5] * 6)
        p[rng.integers(6)] = 0  # a filter took it
        p /= p.sum()
        np.testing.assert_allclose(emitted(p, q), p, atol=2e-4)
        np.testing.assert_allclose(residual(torch.tensor(p), torch.tensor(q)), residual(p, q), atol=1e-15)
    np.testing.assert_array_equal(residual(P, P), P)
    apart = np.array([0, 1.0, 0]), np.array([1.0, 0, 0])
    assert not accepts(*apart, 0, 0.0) and residual(*apart)[1] == 1, "even where u is 0"


@pytest.mark.parametrize(
    ("a", "g", "want"), [(0.7, 2, 2.19), (0.7, 4, 2.77), (0.9, 4, 4.10), (0.9, 6, 5.22), (1, 4, 5)]
)
def test_expected_tokens(a: float, g: int, want: float) -> None:
    assert expected_tokens(a, g) == pytest.approx(want, abs=0.005)
    if a < 1:
        assert expected_tokens(a, g) == pytest.approx((1 - a ** (g + 1)) / (1 - a))


# -- on a model of five words whose every probability is known -----------------------------------------


class Table:
    """The next word depends on the last one: logits (5, 5), one row for each last word."""

    def __init__(self, seed: int, scale: float = 1.5, context: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.logits = torch.tensor(rng.normal(size=(5, 5)) * scale)
        self.config: Any = SimpleNamespace(
            context_length=context, vocab_size=5, num_token_ids=5,
            num_hidden_layers=1, num_key_value_heads=1, head_dim=1,
        )  # fmt: skip
        self.dtype, self.device, self.passes = torch.float32, torch.device("cpu"), 0

    def __call__(self, ids: torch.Tensor, cache: KVCache, logits_to_keep: int, **_: Any) -> torch.Tensor:
        self.passes += 1
        cache.begin(ids, torch.ones_like(ids, dtype=torch.bool))
        cache.commit()
        return self.logits[ids][:, -logits_to_keep:]

    def probability(self, text: tuple[int, ...], sampling: Sampling) -> float:
        """Of a text after [0], by the chain rule."""
        p, said = 1.0, [0]
        for token in text:
            rows = probabilities(self.logits[said[-1:]], sampling, [said[1:]], [[0]])
            p *= float(rows[0, token])
            said.append(token)
        return p


def drawn(n: int, length: int, draft: Draft, sampling: Sampling, target: Any) -> list[Generated]:
    return generate(
        target, [[0]] * n, max_new_tokens=length, sampling=sampling, draft=draft,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("length", "sampling"),
    [
        (1, Sampling()),
        (3, Sampling()),
        (2, Sampling(temperature=0.7, top_k=3, top_p=0.8)),
        (2, Sampling(min_p=0.02, presence_penalty=2.0, repetition_penalty=3.0)),
    ],
    ids=str,
)
def test_texts_of_five_words_have_the_models_distribution(length: int, sampling: Sampling) -> None:
    """Three words on a draft of two cover a kept one, a refused one and the bonus."""
    target: Any = Table(0)
    n = 500
    replies = drawn(n, length, Draft(Table(1), tokens=2), sampling, target)  # type: ignore[arg-type]
    texts = list(itertools.product(range(5), repeat=length))
    want = [target.probability(text, sampling) for text in texts]
    found = [0] * len(texts)
    for reply in replies:
        found[texts.index(tuple(reply))] += 1
    assert sum(want) == pytest.approx(1)
    assert not any(f for f, w in zip(found, want, strict=True) if w == 0), "what the filters forbid"
    assert chi_square(found, want).p_value > 0.001


def test_a_draft_is_kept_as_often_as_the_two_overlap() -> None:
    """a = 1 - TV within 4 standard errors; a perfect draft always, one of other words never."""
    target: Any = Table(0)
    p, q = (t.logits[0].softmax(-1) for t in (target, Table(1)))
    want, n = float(torch.minimum(p, q).sum()), 400
    cycles = [r.cycles[0] for r in drawn(n, 2, Draft(Table(1), tokens=1), Sampling(), target)]  # type: ignore[arg-type]
    assert sum(c.accepted for c in cycles) / n == pytest.approx(want, abs=4 * (want * (1 - want) / n) ** 0.5)
    (reply,) = drawn(1, 21, Draft(target, tokens=4), Sampling(), target)
    found = [(len(c.drafted), c.accepted, c.refused) for c in reply.cycles]
    assert found == [(4, 4, False)] * 4 + [(0, 0, False)]
    one, other = Table(0), Table(1)
    one.logits[:, 2:], other.logits[:, :2] = -torch.inf, -torch.inf
    replies = drawn(400, 2, Draft(other, tokens=2), Sampling(), one)  # type: ignore[arg-type]
    assert all(c.accepted == 0 for r in replies for c in r.cycles)
    texts = list(itertools.product(range(2), repeat=2))
    found = [sum(tuple(r) == text for r in replies) for text in texts]
    assert chi_square(found, [one.probability(text, Sampling()) for text in texts]).p_value > 0.001


def test_a_perfect_draft_is_kept_under_penalties_too() -> None:
    """They see what was drafted before, on both sides."""
    target: Any = Table(0)
    sampling = Sampling(presence_penalty=2.0, repetition_penalty=2.0)
    (reply,) = drawn(1, 21, Draft(target, tokens=4), sampling, target)
    assert not any(c.refused for c in reply.cycles)


def test_the_model_runs_once_a_cycle_and_the_draft_once_a_word() -> None:
    target, small = Table(0), Table(1)
    (reply,) = drawn(1, 30, Draft(small, tokens=3), Sampling(), target)  # type: ignore[arg-type]
    assert target.passes == len(reply.cycles) < 30
    assert small.passes == sum(len(c.drafted) for c in reply.cycles)
    assert len(reply) == 30 == sum(c.accepted for c in reply.cycles) + len(reply.cycles)
    for cycle, after in itertools.pairwise(reply.cycles):
        assert tuple(reply[cycle.at : cycle.at + cycle.accepted]) == cycle.drafted[: cycle.accepted]
        assert after.at == cycle.at + cycle.accepted + 1
        assert cycle.refused == (cycle.accepted < len(cycle.drafted))


def test_a_draft_with_less_context_stops_drafting_and_no_more() -> None:
    target: Any = Table(0)
    (reply,) = drawn(1, 30, Draft(Table(0, context=10), tokens=3), Sampling(), target)  # type: ignore[arg-type]
    assert len(reply) == 30 and [len(c.drafted) for c in reply.cycles if c.at > 10] == [0] * 19
    assert reply.cycles[0].accepted == 3
    assert [len(c.drafted) for c in reply.cycles][:4] == [3, 3, 2, 0], "up to its last place"


def test_looking_up_the_prompt() -> None:
    """The latest place where the last two ids stood; what followed there, no more than asked for."""
    drafter = Draft(ngram=2).begin(99)
    none: Any = None
    assert drafter.propose([1, 2, 3, 1, 2, 4, 5, 1, 2], 2, none, none) == ([4, 5], [])
    assert drafter.propose([1, 2, 3, 1, 2, 4, 5, 1, 2], 9, none, none) == ([4, 5, 1, 2], [])
    assert drafter.propose([1, 2, 3], 4, none, none)[0] == [] == drafter.propose([7], 4, none, none)[0]
    assert drafter.propose([1, 2, 3, 1, 2], 1, none, none)[0] == [3], "at the very beginning, too"
    target: Any = Table(0)
    replies = drawn(400, 3, Draft(tokens=2, ngram=1), Sampling(), target)
    texts = list(itertools.product(range(5), repeat=3))
    found = [sum(tuple(r) == text for r in replies) for text in texts]
    assert chi_square(found, [target.probability(text, Sampling()) for text in texts]).p_value > 0.001


# -- on the nano ------------------------------------------------------------------------------------------


@functools.cache
def nano() -> tuple[Qwen3, Qwen3, Tokenizer, Profile, list[list[int]]]:
    tok = Tokenizer.from_pretrained("qwen3-nano")
    problems = [p for family in FAMILIES for p in make_problems(family, "test", 1, 3, TEST_SEED)]
    prompts = [chat_prompt(tok, problem, "thinking") for problem in problems]
    large, small = Qwen3.from_pretrained("qwen3-nano"), Qwen3.from_pretrained("qwen3-nano-student")
    return large, small, tok, Profile.from_pretrained("qwen3-nano", tok), prompts


@pytest.mark.parametrize("budget", [None, 0, 7])
def test_greedy_is_greedy_to_the_letter(budget: int | None) -> None:
    """Also where a thought is cut in the middle of a block, and where the reply ends in one."""
    large, small, tok, profile, prompts = nano()
    options: dict[str, Any] = dict(
        max_new_tokens=60, stop_ids=profile.stop_ids, tokenizer=tok, thinking_budget=profile.budget(budget)
    )
    want = generate(large, prompts, **options)
    for draft in (Draft(small, 4, tokenizer=tok), Draft(large, 5), Draft(tokens=3)):
        got = generate(large, prompts, draft=draft, **options)
        for one, other in zip(got, want, strict=True):
            assert one == other
            assert {k: v for k, v in vars(one).items() if k != "cycles"} | {"cycles": []} == vars(other)
        kept = sum(c.accepted for r in got for c in r.cycles)
        assert draft.model is not large or not any(c.refused for r in got for c in r.cycles)
        forced = sum(r.forced_tokens for r in got)
        assert sum(map(len, got)) <= sum(len(r.cycles) for r in got) + kept + forced


def test_the_nanos_first_word_has_its_distribution() -> None:
    large, small, tok, _, _ = nano()
    setting = Sampling(temperature=1.5, top_k=20, top_p=0.95)
    prompt = tok.encode("The number ")
    with torch.no_grad():
        logits = large(torch.tensor([prompt]), logits_to_keep=1)[:, -1]
    want = probabilities(logits, setting)[0]
    replies = generate(
        large, [prompt] * 200, max_new_tokens=2, sampling=setting, draft=Draft(small, 1),
        cache=KVCache(large.config, 1, 200),
    )  # fmt: skip
    found = torch.bincount(torch.tensor([r[0] for r in replies]), minlength=len(want))
    assert (want > 0).sum() > 3
    assert chi_square(found.tolist(), want.tolist()).p_value > 0.001


def test_a_rows_text_is_its_own_seeds_and_the_stream_is_the_same() -> None:
    large, small, tok, _, prompts = nano()
    options: dict[str, Any] = dict(
        max_new_tokens=20, sampling=Sampling.thinking(), tokenizer=tok, draft=Draft(small)
    )
    seed = torch.Generator().manual_seed
    all_of_them = generate(large, prompts, generator=seed(3), **options)
    assert generate(large, prompts[:2], generator=seed(3), **options) == all_of_them[:2]
    heard: list[tuple[int, int]] = []
    options["on_token"] = lambda *token: heard.append(token)
    assert generate(large, prompts, generator=seed(3), **options) == all_of_them
    del options["on_token"]
    assert heard == [(i, token) for i, reply in enumerate(all_of_them) for token in reply]
    cache = KVCache(large.config, 1, 8)
    assert list(stream(large, prompts[0], generator=seed(3), cache=cache, **options)) == all_of_them[0]
    assert cache.ids[0].tolist() == [*prompts[0], *all_of_them[0][:-1]]


def test_both_caches_hold_what_was_said_and_nothing_else() -> None:
    """As computed afresh; and a stream that is left in the middle of a block has said no more."""
    large, small, tok, _, prompts = nano()
    whole = generate(large, [prompts[2]], max_new_tokens=30, tokenizer=tok)[0]
    cache = KVCache(large.config, 1, 8)
    going = stream(large, prompts[2], max_new_tokens=30, tokenizer=tok, draft=Draft(small, 4), cache=cache)
    for n in range(1, 9):
        assert next(going) == whole[n - 1]
    going.close()  # type: ignore[attr-defined]
    assert cache.ids[0].tolist() == [*prompts[2], *whole[: cache.length - len(prompts[2])]]
    assert len(prompts[2]) + 3 < cache.length <= len(prompts[2]) + 7
    fresh = KVCache(large.config, 1, cache.length)
    with torch.no_grad():
        large(cache.ids, cache=fresh)
    torch.testing.assert_close(cache.keys[..., : cache.length, :], fresh.keys, atol=1e-4, rtol=0)
    longer, draft = [*prompts[2], *whole[:8]], Draft(small, 4)
    rest = stream(large, longer, max_new_tokens=22, tokenizer=tok, draft=draft, cache=cache)
    assert list(rest) == whole[8:]


def test_the_drafts_cache_forgets_what_was_refused() -> None:
    """Replies stay the model's own without it; what suffers is how often a draft is kept."""

    def likeliest(logits: torch.Tensor, drafted: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()

    draft, ids, seed = Draft(hard_model(), 3), [5, 9, 2, 7], torch.Generator()
    drafter = draft.begin(20)
    assert drafter.cache is not None
    drafted, _ = drafter.propose(ids, 3, likeliest, seed)
    assert drafter.cache.ids[0].tolist() == [*ids, *drafted[:2]]
    longer = [*ids, (drafted[0] + 1) % 200]  # the first was refused, and another id took its place
    drafter.truncate(len(ids))
    assert drafter.cache.ids[0].tolist() == ids
    again, rows = drafter.propose(longer, 3, likeliest, seed)
    fresh, want = draft.begin(20).propose(longer, 3, likeliest, seed)
    assert again == fresh != drafted and all(torch.equal(a, b) for a, b in zip(rows, want, strict=True))


def test_stop_ids_and_the_limit_inside_a_block() -> None:
    large, _, tok, _, prompts = nano()
    whole = generate(large, [prompts[1]], max_new_tokens=20, tokenizer=tok)[0]
    for n in range(1, 12):
        draft = Draft(large, 4)
        options: dict[str, Any] = dict(tokenizer=tok, draft=draft)
        (short,) = generate(large, [prompts[1]], max_new_tokens=n, **options)
        assert short == whole[:n] and short.ended == "length"
        (stopped,) = generate(large, [prompts[1]], max_new_tokens=20, stop_ids=whole[n], **options)
        first = whole.index(whole[n])
        assert stopped == whole[: first + 1] and stopped.ended == "stop"


def test_drafts_that_are_refused() -> None:
    small = hard_model()
    other = tiny()  # of the nano's vocabulary
    for call, words in (
        (lambda: Draft(tokens=0), "tokens is 0; it must be a whole number, at least 1"),
        (lambda: Draft(small, True), "tokens is True"),
        (lambda: Draft(ngram=0), "ngram is 0"),
        (lambda: Draft("nano"), "the draft's model is a str; give a Qwen3, or None"),  # type: ignore[arg-type]
        (
            lambda: generate(small, [[1]], max_new_tokens=1, draft=other),  # type: ignore[arg-type]
            "draft is a Qwen3; give a Draft, such as",
        ),
        (
            lambda: generate(small, [[1]], max_new_tokens=1, draft=Draft(other)),
            r"the draft model knows 1,280 token ids and the model \d+; draft with a model of the same family",
        ),
        (
            lambda: generate(
                small, [[1]], max_new_tokens=1, tokenizer=TOKENIZER,
                draft=Draft(small, tokenizer=Tokenizer.train(["other words, other words"], 288)),
            ),
            "the draft model's tokenizer has other tokens than the model's, so its ids mean other texts",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()
    assert TINY.vocab_size == TOKENIZER.num_ids


# -- a beginning in common ---------------------------------------------------------------------------------


def counted(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions each forward pass computes."""
    passes: list[int] = []
    forward = model.forward

    def counting(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        passes.append(input_ids.numel())
        return forward(input_ids, **options)

    monkeypatch.setattr(model, "forward", counting)
    return passes


@pytest.mark.parametrize("drafted", [False, True])
def test_n_replies_from_one_prompt_compute_it_once(drafted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small, tok, profile, prompts = nano()
    options: dict[str, Any] = dict(
        max_new_tokens=12, sampling=Sampling(temperature=3.0), tokenizer=tok,
        thinking_budget=profile.budget(5), draft=Draft(small, 3) if drafted else None,
    )  # fmt: skip
    prompt, n = prompts[0], 6
    want = generate(large, [prompt] * n, **options)
    assert len({tuple(reply) for reply in want}) > 1
    passes = counted(large, monkeypatch)
    cache = KVCache(large.config, 1, 4)
    assert generate(large, [prompt] * n, cache=cache, batch_size=4, **options) == want
    assert passes[0] == len(prompt) - 1 == cache.length
    if not drafted:
        assert passes[1] == 4, "of each row its last token"
    passes.clear()
    assert generate(large, [prompt] * n, cache=cache, **options) == want
    assert passes[0] < len(prompt) / 2, "the next request finds it there"


def test_requests_that_begin_alike_share_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uneven ones too: each as when it is alone."""
    large, _, tok, _, prompts = nano()
    start = prompts[0]
    asked = [[*start, *range(40, 40 + n)] for n in (1, 9, 4)]
    alone = [generate(large, [p], max_new_tokens=8, tokenizer=tok)[0] for p in asked]
    passes = counted(large, monkeypatch)
    cache = KVCache(large.config, 1, 100)
    assert generate(large, asked, max_new_tokens=8, tokenizer=tok, cache=cache) == alone
    assert passes[:2] == [len(start), 3 * 9] and cache.ids[0].tolist() == start
    passes.clear()
    other = [[*start[:-3], 50, 51]]
    assert generate(large, other, max_new_tokens=3, cache=cache) == generate(large, other, max_new_tokens=3)
    assert passes[0] == 1 and cache.ids[0].tolist() == other[0][:-1], "back to where they part"
    apart = [[1, 2], [2, 2]]
    assert generate(large, apart, max_new_tokens=3, cache=cache) == generate(large, apart, max_new_tokens=3)
    assert cache.length == 0 and generate(large, [], max_new_tokens=3, cache=cache) == []
    with pytest.raises(ValueError, match="the cache is a dict; give a KVCache"):
        generate(large, apart, max_new_tokens=3, cache={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"keep\(\) needs a cache of one row"):
        generate(large, apart, max_new_tokens=3, cache=KVCache(large.config, 2, 9))


def test_a_budget_needs_the_tokenizer_with_a_draft_too() -> None:
    large, small, _, _, prompts = nano()
    with pytest.raises(ValueError, match="thinking_budget needs the tokenizer"):
        generate(large, prompts, max_new_tokens=1, draft=Draft(small), thinking_budget=Budget(3))
