"""evaluate and its statistics: by hand, and cut off in the middle."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.commands.evaluate import NANO_BUDGETS
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure import accuracy
from qwen3_ref.measure.accuracy import evaluate, evaluate_cuts, summarise
from qwen3_ref.measure.statistics import pass_at_k, rises, sign_test, wilson
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import make_problems
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import row

TOK = Tokenizer.train(["12 + 34 is 46 and so on"], 300)
PROBLEMS = make_problems("arithmetic", "test", 5) + make_problems("counting", "test", 4)


@pytest.fixture(scope="module")
def model() -> Qwen3:
    config = Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=10, rope_theta=1e4, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    return Qwen3(config, generator=torch.Generator().manual_seed(1))


def test_wilson_against_published_values() -> None:
    """Newcombe (1998), table I: 81 of 263, 0 of 20, 1 of 29."""
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        got = wilson(successes / n, n)
        assert got == pytest.approx((low, high), abs=6e-5)


def test_what_is_asked_for_is_handed_on(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each batch: a seed of its own, its budget (of thinking alone), and what all have in common."""
    asked: list[dict[str, Any]] = []
    real = accuracy.generate

    def watched(*given: Any, **options: Any) -> Any:
        asked.append(options | {"prompts": len(given[1])})
        return real(*given, **options)

    monkeypatch.setattr(accuracy, "generate", watched)
    sampling = Sampling(temperature=1.0)
    stop = "12</think>"
    evaluate(
        model, TOK, PROBLEMS, budgets=[2, None], modes=("thinking", "non-thinking"), seed=9,
        sampling=sampling, max_new_tokens=5, batch_size=6, early_stop=stop,
    )  # fmt: skip
    found = [(one["thinking_budget"].tokens, one["prompts"]) for one in asked]
    assert found == [(2, 6), (2, 3), (None, 6), (None, 3), (None, 6), (None, 3)]
    seeds = [one["generator"].initial_seed() for one in asked]
    cells = (("thinking", 2), ("thinking", None), ("non-thinking", None))
    texts = [f"9 {mode} {budget} {batch}" for mode, budget in cells for batch in range(2)]
    assert seeds == [int(hashlib.sha256(text.encode()).hexdigest()[:14], 16) for text in texts]
    for one in asked:
        assert (one["max_new_tokens"], one["sampling"], one["tokenizer"]) == (5, sampling, TOK)
        assert one["stop_ids"] == TOK.stop_ids and one["thinking_budget"].early_stop == stop


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 3 of 6 pairs hold the right one
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert (pass_at_k(4, 0, 4), pass_at_k(4, 1, 4)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


def test_summary_by_hand() -> None:
    rows = [row(0, True), row(0, False, sample=1), row(1, False), row(1, False, sample=1)]
    rows += [row(2, True, budget=5, thinking_ended="budget", thinking_tokens=5)]
    table = summarise(rows)
    assert list(table) == [("thinking", None), ("thinking", 5)]
    free = table["thinking", None]
    assert (free.problems, free.samples, free.pass_1, free.pass_k) == (2, 2, 0.25, 0.5)
    assert (free.low, free.high) == wilson(0.25, 2), "two problems, not four independent answers"
    assert table["thinking", 5].cut == 1.0 and table["thinking", 5].thinking_tokens == 5


def test_rows_and_settings(model: Qwen3) -> None:
    rows = evaluate(
        model, TOK, PROBLEMS, budgets=(0, 3, None), modes=("thinking", "non-thinking"), max_new_tokens=12
    )
    assert len(rows) == 4 * len(PROBLEMS)
    assert [(r.mode, r.budget) for r in rows[:: len(PROBLEMS)]] == [
        ("thinking", 0), ("thinking", 3), ("thinking", None), ("non-thinking", None),
    ]  # fmt: skip
    assert [r.problem for r in rows] == list(range(len(PROBLEMS))) * 4
    assert all(r.thinking_tokens <= 3 for r in rows if r.budget in (0, 3))
    assert not any(r.correct for r in rows if r.ended == "length"), "a cut answer is no answer"


def test_cut_off_and_resumed_is_the_same(model: Qwen3, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(
        budgets=(2, None), samples=2, sampling=Sampling(), max_new_tokens=8, batch_size=4, seed=3
    )
    whole = evaluate(model, TOK, PROBLEMS, **options)
    assert evaluate(model, TOK, PROBLEMS, **options | {"seed": 4}) != whole
    log = tmp_path / "rows.csv"
    assert evaluate(model, TOK, PROBLEMS, **options, log=log) == whole
    written = log.read_text(encoding="utf-8")
    log.write_text(written[: len(written) // 2], encoding="utf-8")  # killed within a line
    assert evaluate(model, TOK, PROBLEMS, **options, log=log) == whole
    assert evaluate(model, TOK, PROBLEMS, **options, log=log) == whole
    assert sorted(set(log.read_text(encoding="utf-8").splitlines())) == sorted(set(written.splitlines()))
    with pytest.raises(ValueError, match=r"rows.csv holds answers of another model"):
        evaluate(model, TOK, PROBLEMS, **options | {"seed": 4}, log=log)


def test_what_is_asked() -> None:
    """The problem in its own words, without a flag, and without thinking the template's empty block."""
    tok = Tokenizer.train(["<think> </think> 12 + 34"], 300)
    for mode, end in (
        ("thinking", "<|im_start|>assistant\n"),
        ("non-thinking", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ):
        text = tok.decode(accuracy.chat_prompt(tok, PROBLEMS[0], mode))  # type: ignore[arg-type]
        assert text == f"<|im_start|>user\n{PROBLEMS[0].prompt}<|im_end|>\n{end}"


def test_the_command_and_the_table_ask_for_the_same_budgets() -> None:
    """The command cannot import them: its options are shown before PyTorch is loaded."""
    assert NANO_BUDGETS == accuracy.BUDGETS


def test_every_batch_has_random_numbers_of_its_own() -> None:
    """Settings that share them would fail and succeed together."""
    places = itertools.product((0, 1), ("thinking", "non-thinking"), (None, 0, 2), (0, 1))
    seeds = [accuracy._seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds) == 24


def test_a_finished_log_is_read_back_whole(
    model: Qwen3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Budget 0 and no budget are two things; a row says the same before and after."""
    options: dict[str, Any] = dict(budgets=(0, None), modes=("thinking", "non-thinking"), max_new_tokens=6)
    rows = evaluate(model, TOK, PROBLEMS, **options, log=tmp_path / "rows.csv")
    assert {r.budget for r in rows} == {0, None} and len(rows) == 3 * len(PROBLEMS)
    monkeypatch.setattr(accuracy, "generate", lambda *_, **__: pytest.fail("it was answered before"))
    assert evaluate(model, TOK, PROBLEMS, **options, log=tmp_path / "rows.csv") == rows


def test_a_curve_may_not_fall_from_any_earlier_point() -> None:
    """Each interval touches its neighbours, but the third lies below the first of the hill."""
    low, high = [0.0, 5.0, 4.5, 3.9, 6.0], [1.0, 6.0, 5.5, 4.7, 7.0]
    assert not rises(low, high)
    assert rises([0.0, 5.0, 4.5, 6.0], [1.0, 6.0, 5.5, 7.0])
    assert not rises([0.0, 0.5], [1.0, 1.5]), "the ends overlap"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(samples=0), "samples is 0"),
        (dict(samples=2), "exactly 1 for greedy"),
        (dict(modes=("fast",)), "mode is 'fast'"),
        (dict(budgets=(-1,)), "thinking_budget is -1"),
    ],
)
def test_bad_requests(model: Qwen3, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(model, TOK, PROBLEMS, **options)


def test_fingerprint_sees_the_weights(model: Qwen3, tmp_path: Path) -> None:
    log = tmp_path / "rows.csv"
    evaluate(model, TOK, PROBLEMS[:1], max_new_tokens=2, log=log)
    names, first = (line.split(",") for line in log.read_text("utf-8").splitlines()[:2])
    assert len(first[names.index("run")]) == 16, "as in the logs that ship"
    other = Qwen3(model.config, generator=torch.Generator().manual_seed(2))
    with pytest.raises(ValueError, match="another model"):
        evaluate(other, TOK, PROBLEMS[:1], max_new_tokens=2, log=log)


def test_one_thought_cut_everywhere_is_every_budget() -> None:
    """Rows equal those of thinking anew, second thoughts and unfinished replies included."""
    place = find_nano("qwen3-nano")
    nano, tok = Qwen3.from_pretrained(place, dtype=torch.float64), Tokenizer.from_pretrained(place)
    problems = [p for family in ("arithmetic", "retrieval") for p in make_problems(family, "test", 5, seed=3)]
    budgets, how = (0, 4, 9, 24, None), {"max_new_tokens": 40, "early_stop": NANO_EARLY_STOP}
    anew = evaluate(nano, tok, problems, budgets=budgets, **how)  # type: ignore[arg-type]
    assert evaluate_cuts(nano, tok, problems, budgets, **how) == anew  # type: ignore[arg-type]
    assert {r.ended for r in anew} == {"stop", "length"}


def test_sign_test_by_hand() -> None:
    assert sign_test(6, 0) == sign_test(0, 6) == pytest.approx(2 / 64)
    assert sign_test(4, 1) == pytest.approx(2 * (1 + 5) / 32) and sign_test(3, 3) == sign_test(0, 0) == 1
