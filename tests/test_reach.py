"""Reading beyond the trained length: the lists, the questions, and the model that is asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from qwen3_ref.config import ConfigError
from qwen3_ref.measure.statistics import effective, wilson
from qwen3_ref.measure.table import share_of
from qwen3_ref.rope import default_frequencies, frequencies
from qwen3_ref.tasks.problems import split_of
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.recipes import pretrain
from tests.helpers import tiny

TOK = Tokenizer.train(["find a1 b2=34"], 282)
LONG = 1200


def make_lists() -> list[pretrain.Haystack]:
    return pretrain.haystacks(TOK, LONG * 2, 3, "test", 7)


def test_every_asked_key_occurs_once_and_others_fill_the_list() -> None:
    lists = make_lists()
    for one in lists:
        times = Counter(line[:2] for line in one.lines)
        assert len(one.asked) == len({key for key, _ in one.asked}) == pretrain.QUESTIONS
        for (key, value), depth in zip(one.asked, one.depths, strict=True):
            assert times[key] == 1 and one.lines[round(depth * (len(one.lines) - 1))] == f"{key}={value}"
        assert max(times.values()) > 1, "the list is longer than there are keys"
        assert len({line[:2] for line in one.lines}) == len(set(one.lines)), "a key never has two values"
        assert len(one.absent) == pretrain.QUESTIONS and not {key for key, _ in one.absent} & set(times)
        key, value = one.asked[0]
        whole = "\n".join(one.lines) + f"\nfind {key}\n{key}={value}"
        assert 2 * LONG - 24 <= len(TOK.encode(whole)) <= 2 * LONG
    depths = [depth for one in lists for depth in one.depths]
    assert min(depths) < 0.1 and max(depths) > 0.9 and 0.4 < fmean(depths) < 0.6


def test_lists_come_from_the_split_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, make = [], pretrain.make_problems

    def watched(*arguments: object, **named: object) -> object:
        seen.append((arguments[1], arguments[4]))
        found = make(*arguments, **named)  # type: ignore[arg-type]
        assert all(split_of(p.prompt) == "test" for p in found)
        return found

    monkeypatch.setattr(pretrain, "make_problems", watched)
    first, again = (pretrain.haystacks(TOK, 600, 2, "test", 7) for _ in range(2))
    assert first == again != pretrain.haystacks(TOK, 600, 2, "test", 8)
    assert seen == [("test", 7), ("test", 7), ("test", 8)]


def test_the_cache_changes_no_answer() -> None:
    """Each question as one text, without a cache, against all of them behind one reading of the list. The
    model is made to say digits, by what stands before them; every second value asked for is
    another."""
    model = pretrain.stretched(tiny(vocab_size=282, num_hidden_layers=1), "yarn", 4, LONG)
    digits = TOK.encode("0123456789")
    silent = torch.ones(282, dtype=torch.bool)
    silent[digits] = False
    model.model.embed_tokens.weight.data[silent] *= 1e-3
    attention = model.model.layers[0].self_attn
    attention.q_norm.weight.data *= 20  # sharp enough that a few tokens more change the answer
    attention.o_proj.weight.data *= 50
    whole = make_lists()[0]
    one = replace(whole, lines=whole.lines[:200])
    questions = []
    for n, (key, _) in enumerate(one.asked):
        ids = TOK.encode("\n".join(one.lines) + f"\nfind {key}\n{key}=")
        with torch.inference_mode():
            for _ in range(2):
                ids.append(int(model(torch.tensor([ids]), logits_to_keep=1).argmax()))
        value = TOK.decode(ids[-2:])
        assert value.isdigit()
        questions.append((key, f"{(int(value) + n % 2) % 100:02}"))
    got = pretrain.look_up(model, TOK, one, questions)
    assert got == [True, False] * (len(questions) // 2)
    assert pretrain.look_up(model, TOK, one, questions[::-1]) == got[::-1], "no question sees another"


def test_stretched() -> None:
    """Angles, room and weights of each method."""
    model = tiny()
    theta, d = model.config.rope_theta, model.config.head_dim
    plain = default_frequencies(d, theta)
    for method, want in {
        "plain": plain,
        "linear": plain / 4,
        "ntk": default_frequencies(d, theta * 4 ** (d / (d - 2))),
        "yarn": frequencies(
            d, theta, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
        )[0],
    }.items():
        got = pretrain.stretched(model, method, 4, 100)  # type: ignore[arg-type]
        assert got.config.context_length == 400, method
        assert got.model.inv_freq == pytest.approx(want, rel=1e-12), method
        pairs = zip(got.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), method
        assert (got.model.rope_factor > 1) == (method == "yarn")
    assert pretrain.stretched(model, "plain", 1).config.context_length == pretrain.MIXES["s3"].context
    with pytest.raises(ConfigError, match="factor in rope_scaling is 0.5"):
        pretrain.stretched(model, "yarn", 0.5)


def test_questions_about_one_list_are_not_independent() -> None:
    """Two lists, all right and all wrong: two trials, not eight. Shares as chance has them: all count."""
    assert effective([[True] * 4, [False] * 4]) == pytest.approx(1.0)  # variance .5 against .0625
    even = [[True, False], [True, False], [True, True], [False, False]]
    assert effective(even) == pytest.approx(8 / ((1 / 6) * 2 / 0.25))
    assert effective([[True, False], [True, False]]) == 4, "no more than there are"
    assert effective([[True, True]]) == 2 and effective([[True], [True]]) == 2
    got = share_of([[True] * 4, [False] * 4])
    assert (got.value, got.n) == (0.5, 8)
    assert (got.low, got.high) == pytest.approx(wilson(0.5, 1))
