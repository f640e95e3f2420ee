"""RoPE's settings: what is a number, and what is not. The angles themselves are in parity.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qwen3_ref.rope import frequencies, yarn_problem

YARN: dict[str, Any] = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
NUMBERS = ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")
NUMBERS += ("mscale", "mscale_all_dim")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", [True, False, "4", 0, -1, math.inf, math.nan, [4.0]])
def test_what_is_no_number(name: str, wrong: Any) -> None:
    """True counts as 1 in Python; in a config it is a mistake."""
    assert name in (yarn_problem(YARN | {name: wrong}, 131072) or "")
    with pytest.raises(ValueError, match=f"{name} in rope_scaling is"):
        frequencies(128, 1e6, YARN | {name: wrong}, 131072)


def test_what_is_one() -> None:
    assert yarn_problem(YARN, 131072) is None
    assert yarn_problem(YARN | dict.fromkeys(NUMBERS[2:]), 131072) is None, "null is absent"
    assert yarn_problem(YARN | {"factor": 1}, 131072) is None
    assert "factor in rope_scaling is 0.9; it must be a number, at least 1" in (
        yarn_problem(YARN | {"factor": 0.9}, 131072) or ""
    )
    assert yarn_problem(YARN | {"attention_factor": 0.9}, 131072) is None, "this one may shrink"
