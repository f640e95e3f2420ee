"""How every sentence about a bad file ends up: one line, of a length that a terminal shows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

_LONGEST = 1000


def one_line(message: str) -> str:
    """The message on one line, whatever control characters a hostile file puts into its names; one that
    quotes too much keeps its beginning and its end, where the way out stands."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)[: 2 * _LONGEST]


def quoted(value: Any, longest: int = 80) -> str:
    """repr, cut after `longest` characters; of whole numbers too large to be written out too."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"{'-' if value < 0 else ''}a whole number of more than 300 digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # such a number inside, or lists a thousand deep
        return f"a {type(value).__name__} that cannot be written out"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def meant(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is none of `known`: the nearest three, or else what there is,
    of a long list its beginning."""
    if near := difflib.get_close_matches(name[:100].lower(), known, n=3):
        return f"did you mean {' or '.join(near)}"
    if len(known) <= 8:
        return f"there are {', '.join(known)}"
    return f"there are {', '.join(known[:5])} and {len(known) - 5} more"


def reason(error: Exception) -> str:
    """What was wrong in a file, in words instead of Python's: for sentences that quote an error."""
    if isinstance(error, KeyError):
        return f"{quoted(error.args[0])} is missing"
    if isinstance(error, (TypeError, AttributeError)):
        return "a value is of another kind than it should be"
    text = f"{error}"
    return text if len(text) <= 200 else f"{text[:197]}..."


class CheckpointError(Exception):
    """A checkpoint that cannot be used: the sentence names the file, the tensor and the way out."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
