"""The card of each checkpoint: what the code writes is what the package has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen3_ref.decode.generation import generate
from qwen3_ref.measure import card as cards
from qwen3_ref.measure.accuracy import PROTOCOL, chat_prompt
from qwen3_ref.model import Qwen3
from qwen3_ref.store import shipped
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.stages import SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_cards_are_what_the_code_writes(name: str) -> None:
    directory = shipped.find_nano(name)
    text = cards.card(directory)
    assert (directory / "README.md").read_text(encoding="utf-8") == text
    for family in FAMILIES:
        assert f"**{family}** (right: " in text
    assert PROTOCOL in text and "cover problems, not training runs" in text and "minutes in all" in text
    for stage, of in (("moe-s3", "qwen3-nano-moe"), ("general-rl", "qwen3-nano")):
        assert (f"- `{stage}`: " in text) == (name == of)


def test_the_replies_are_the_models_own() -> None:
    directory = shipped.find_nano("qwen3-nano")
    model, tokenizer = Qwen3.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    (problem,) = make_problems("counting", "test", 1, cards.LEVEL, seed=TEST_SEED)
    ids = chat_prompt(tokenizer, problem, "thinking")
    (reply,) = generate(model, [ids], max_new_tokens=100, stop_ids=tokenizer.stop_ids)
    text = tokenizer.decode([i for i in reply if i not in tokenizer.stop_ids])
    assert f"```\n{problem.prompt}\n```\n\n```\n{text}\n```" in cards.card(directory)


def test_without_results(tmp_path: Path) -> None:
    """Before anything was measured, and with one result; other checkpoints' scores are not told."""
    assert cards._scores("qwen3-nano", tmp_path).startswith("Nothing was measured yet: `python -m")
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 1200}
    items = [
        {"id": "general.x", "what": "G", "before": None, "after": number, "unit": "%"},
        {"id": "experts.loss.x", "what": "E", "before": None, "after": number, "unit": "nats a token"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"items": items}), encoding="utf-8")
    assert "| G | 50.0% (40.0 to 60.0) | 1,200 |" in cards._scores("qwen3-nano", tmp_path)
    assert "| E" not in cards._scores("qwen3-nano", tmp_path)
    assert "| E (nats a token) | 0.50 (0.40 to 0.60) | 1,200 |" in cards._scores("qwen3-nano-moe", tmp_path)
    assert cards._history("qwen3-nano", tmp_path).startswith("`python -m qwen3_ref train nano`")
