"""The thinking budget: how long a thought may be, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer

EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>\n\n"
)
"""What ends a thought when its budget is spent, 24 ids of the official vocabulary: the sentence of the
technical report (section 4.3) as the official documentation's budget example writes it, with a blank
line before it and, unlike the report's print, no full stop after `</think>`."""


NANO_EARLY_STOP = "\n</think>\n\n"
"""The same for the nano family, 3 ids: how its thoughts end in training, and no sentence, of which
every word would be new to it."""


def early_stop_for(model: Qwen3) -> str:
    """NANO_EARLY_STOP for a model of less than 100 million parameters, else the official EARLY_STOP."""
    return NANO_EARLY_STOP if model.config.num_parameters() < 10**8 else EARLY_STOP


@dataclass
class _Budget:
    """The ids that a thinking budget needs, and the budget itself (None: count only)."""

    opening: int
    closing: int
    stop_text: list[int]
    tokens: int | None


def _budget(tokenizer: Tokenizer | None, tokens: int | None, text: str) -> _Budget | None:
    if tokenizer is None:
        if tokens is not None:
            raise ValueError("thinking_budget needs the tokenizer, to know <think>; pass tokenizer=.")
        return None
    marks = [tokenizer.control_tokens.get(mark) for mark in ("<think>", "</think>")]
    if marks[0] is None or marks[1] is None:
        if tokens is not None:
            raise ValueError(
                "this tokenizer has no <think> and </think> tokens, so its model cannot have a "
                "thinking_budget; leave it out."
            )
        return None
    stop_text = tokenizer.encode(text, allow_control_tokens=True)
    if tokens is not None and stop_text.count(marks[1]) != 1:
        raise ValueError(f"early_stop is {text!r}; it must close the thought with one </think>.")
    return _Budget(marks[0], marks[1], stop_text, tokens)
