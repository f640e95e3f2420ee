"""The thinking budget: how long a thought may be, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwen3_ref.arrays import require_whole
from qwen3_ref.reply import END_THINK, THINK
from qwen3_ref.store.errors import quoted
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
every word would be new to it. Its `generation_config.json` says so, as `early_stop_text`."""


@dataclass(frozen=True)
class Budget:
    """How many ids a model may spend on thinking, and the text that is fed when they are spent.

    `tokens`: None counts and never cuts; 0 cuts the thought as it opens. `early_stop` closes the
    thought with one closing mark. `opening` and `closing`: the marks of a thought, as the tokenizer
    has them. A plain number stands for `Budget(number)` wherever a budget is taken.

    Raises ValueError for a number of tokens that is no whole number, or a text that is no string.
    """

    tokens: int | None = None
    early_stop: str = EARLY_STOP
    opening: str = THINK
    closing: str = END_THINK

    def __post_init__(self) -> None:
        if self.tokens is not None:
            require_whole("thinking_budget", self.tokens, 0, " (tokens), or None for no limit")
        for name in ("early_stop", "opening", "closing"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} is of type {type(value).__name__}; give a string.")

    @classmethod
    def of(cls, value: int | Budget | None) -> Budget:
        """The budget that a number, None or a budget stands for."""
        return value if isinstance(value, Budget) else cls(value)

    def on(self, tokenizer: Tokenizer | None) -> BudgetIds | None:
        """The same in the ids of a tokenizer; None if it, or the want of one, knows no thoughts.

        Raises ValueError if there is something to cut and no way to: no tokenizer, no such marks, or
        an early stop that does not close the thought once.
        """
        if tokenizer is None:
            if self.tokens is None:
                return None
            raise ValueError("thinking_budget needs the tokenizer, to know <think>; pass tokenizer=.")
        control = tokenizer.control_tokens
        if self.opening not in control or self.closing not in control:
            if self.tokens is None:
                return None
            raise ValueError(
                f"this tokenizer has no {self.opening} and {self.closing} tokens, so its model cannot have "
                f"a thinking_budget; leave it out."
            )
        text = tokenizer.encode(self.early_stop, allow_control_tokens=True)
        opening, closing = control[self.opening], control[self.closing]
        if self.tokens is not None and (text.count(closing) != 1 or opening in text):
            raise ValueError(
                f"early_stop is {quoted(self.early_stop, 200)}; it must close the thought with one "
                f"{self.closing}, and open no other."
            )
        marks = {**control, THINK: opening, END_THINK: closing}
        return BudgetIds(self.tokens, opening, closing, tuple(text), marks, control.get("<|im_start|>"))


@dataclass(frozen=True)
class BudgetIds:
    """A budget on a tokenizer: ids in place of texts.

    `marks`: those that `reply.Splitter` needs, by its names. `turn`: the id that begins a turn.
    """

    tokens: int | None
    opening: int
    closing: int
    stop_text: tuple[int, ...]
    marks: Mapping[str, int]
    turn: int | None
