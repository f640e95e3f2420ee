"""Retrieval by depth and length: where the lines stand, what is asked, and what the results say."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_ref.context.stretch import for_length, stretched
from qwen3_ref.course.checks import long_context as checks
from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.measure import long_context
from qwen3_ref.measure.accuracy import BATCH
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.recipes.pretrain import with_config
from tests.helpers import row, tiny

RESULT = Path(long_context.__file__).parents[1] / "data" / "nano" / "measured" / "long_context.json"


@functools.cache
def nano_tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(find_nano("qwen3-nano-base"))


@pytest.mark.parametrize("length", [512, 4096])
def test_lines_stand_at_their_depths(length: int) -> None:
    tokenizer = nano_tokenizer()
    for one in long_context.lists(tokenizer, length, 3):
        times = Counter(line[:2] for line in one.lines)
        for number, ((key, value), depth) in enumerate(zip(one.asked, one.depths, strict=True)):
            assert times[key] == 1, "asked once, there once"
            place = one.lines.index(f"{key}={value}")
            assert place / (len(one.lines) - 1) == pytest.approx(depth, abs=3.5 / len(one.lines))
            assert depth == long_context.DEPTHS[number // long_context.QUESTIONS]
        assert not {key for key, _ in one.absent} & set(times)
        text = len(tokenizer.encode("\n".join(one.lines)))
        assert length - 60 < text <= length


def test_every_cell_is_there_and_follows_from_the_shipped_weights() -> None:
    """One list of one cell, asked again; and each cell has all its questions."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    count = result["settings"]["lists"]
    a_list = len(long_context.DEPTHS) * long_context.QUESTIONS
    for cell in long_context.CELLS:
        assert len(result["price"][cell]) == len(result["price"]["plain"])
        for length in long_context.LENGTHS:
            marks = result["cells"][f"{cell}, {length}"]
            assert [len(m) for m in marks["right"]] == [a_list] * count
            assert [len(m) for m in marks["absent"]] == [long_context.ABSENT] * count
    place = find_nano(long_context.BASE)
    tokenizer, base = Tokenizer.from_pretrained(place), Qwen3.from_pretrained(place)
    found = long_context.lists(tokenizer, 1024, count)[:1]
    for cell in ("linear", "yarn", "dual-chunk, m"):
        model = with_config(base, long_context.changed(base.config, cell, 1024))
        again = long_context.asked(model, tokenizer, found)
        kept = result["cells"][f"{cell}, 1024"]
        # Another machine rounds otherwise: a tie may fall to the other side.
        different = sum(a != b for a, b in zip(again["right"][0], kept["right"][0], strict=True))
        assert different <= 1, cell


def test_results_of_other_settings_are_not_added_to(tmp_path: Path) -> None:
    out = tmp_path / "long.json"
    out.write_text(json.dumps({"settings": {"lists": 1}}), encoding="utf-8")
    with pytest.raises(ValueError, match="is of other settings; choose another file"):
        long_context.measure(out, 2)


def test_the_factor_follows_the_length() -> None:
    """YaRN with as much as the length needs; nothing where the trained length is enough."""
    config = tiny().config
    for length in (1, 600, 1000):
        plain = for_length(config, length, 1000)
        assert plain.rope_scaling is None and plain.max_position_embeddings == 1000
        assert plain.rope_theta == config.rope_theta
    longer = for_length(config, 2500, 1000)
    want = {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 1000}
    assert longer.rope_scaling == want and longer.max_position_embeddings == 1000
    for words, given in (("length", (0, 1000)), ("original", (5, 0))):
        with pytest.raises(ValueError, match=f"{words} is 0"):
            for_length(config, *given)
    with pytest.raises(ValueError, match="method is 'nkt'; it must be one of plain, linear, ntk"):
        stretched(config, "nkt", 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("turned", [0.9, 1.1])
def test_a_turn_is_a_whole_one_in_the_first_exercise(turned: float) -> None:
    for _ in range(20):
        assert not checks.never_turned(lambda inv_freq, trained: trained * inv_freq < turned * 2 * np.pi)


def test_thinking_is_asked_in_both_modes_of_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def evaluate(*given: Any, **options: Any) -> list[Any]:
        asked.append((given, options))
        modes = ("thinking", "non-thinking", "thinking", "non-thinking")
        return [row(i // 2, i in (0, 3), mode=mode) for i, mode in enumerate(modes)]

    monkeypatch.setattr(long_context, "evaluate", evaluate)
    found = long_context.thinking(tiny(), "tokenizer", 512, 7)  # type: ignore[arg-type]
    assert found == {"thinking": "10", "non-thinking": "01"}
    (((_, tokenizer, problems), options),) = asked
    lines = pretrain.lines_in(512) - 10
    assert problems == make_problems("retrieval", "test", 7, 1, TEST_SEED, lines=lines)
    assert tokenizer == "tokenizer" and options == {
        "budgets": [None], "modes": ("thinking", "non-thinking"), "seed": TEST_SEED, "max_new_tokens": 64,
        "batch_size": BATCH, "early_stop": NANO_EARLY_STOP,
    }  # fmt: skip
