"""Numbers of Python, NumPy and PyTorch: whole ones, ids that a model takes, 16-bit floats raised to 32."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from qwen3_ref.store.errors import quoted

if TYPE_CHECKING:  # NumPy's side must not load torch
    from torch import Tensor


def is_whole(value: object, least: float = -math.inf) -> TypeGuard[int]:
    """Whether it is an integer, Python's or NumPy's, and no less than `least`; true and 1.0 are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite float or an integer that fits one, Python's or NumPy's; true is neither."""
    try:
        return (is_whole(value) or isinstance(value, float | np.floating)) and math.isfinite(value)
    except OverflowError:
        return False


def require_whole(name: str, value: object, least: int, otherwise: str = "") -> int:
    """The number as Python's own; ValueError in one sentence if it is not whole, or below `least`.

    `otherwise`: what else may stand there, such as ", or None for all".
    """
    if not is_whole(value, least):
        words = f"it must be a whole number, at least {least}{otherwise}"
        raise ValueError(f"{name} is {quoted(value)}; {words}.")
    return int(value)  # NumPy's small kinds would overflow in what is computed from it


def require_list(what: str, values: Any) -> list[int]:
    """A list, an array or a tensor of ids as a list of Python's numbers, whether or not a model has them.

    Raises ValueError in one sentence for what holds no ids, or more lists than one.
    """
    if isinstance(values, Mapping):
        way = f"give {what}['input_ids']" if "input_ids" in values else "give a list of token ids"
        raise ValueError(f"{what} is a {type(values).__name__}; {way}.")
    found = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(found, str | bytes) or not hasattr(found, "__iter__"):
        raise ValueError(f"{what} is a {type(values).__name__}; give a list of token ids.")
    found = [v.item() if getattr(v, "ndim", None) == 0 else v for v in found]
    for value in found:
        if is_whole(value) and -(2**63) <= value < 2**63:
            continue
        way = "ids are whole numbers"
        if isinstance(value, str | bytes):
            way = "encode texts first"
        elif hasattr(value, "__iter__"):
            way = "give the ids of one text alone: of the lists `new` that is new[0]"
        raise ValueError(f"{what} holds {quoted(value)}, which is no token id; {way}.")
    return [int(value) for value in found]


def require_ids(input_ids: Any, attention_mask: Any, vocab_size: int) -> None:
    """Raise ValueError in one sentence when arrays or tensors are not what a model takes.

    input_ids (b, t), any integers; attention_mask None or (b, t), booleans or integers, 0 or 1.
    """
    kind, shape = str(input_ids.dtype), tuple(input_ids.shape)
    if len(shape) != 2 or 0 in shape or not re.fullmatch(r"(torch\.)?u?int\d+", kind):
        raise ValueError(
            f"input_ids must be integers of shape (batch, tokens), at least one of each; "
            f"got {kind} of shape {shape}."
        )
    wide = input_ids.long() if hasattr(input_ids, "long") else input_ids  # torch: no uint16.min()
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"token id {low if low < 0 else high} is outside the vocabulary of {vocab_size} rows; "
            f"encode the text with this model's tokenizer."
        )
    if attention_mask is None:
        return
    if tuple(attention_mask.shape) != shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} but input_ids has {shape}; pass the "
            f"mask of the new tokens only, the cache knows the rest."
        )
    kind = str(attention_mask.dtype)
    wide = attention_mask.long() if hasattr(attention_mask, "long") else attention_mask
    whole = re.fullmatch(r"(torch\.)?(bool|u?int\d+)", kind)
    low, high = (int(wide.min()), int(wide.max())) if whole else (0, 0)
    if not whole or low < 0 or high > 1:
        found = f"numbers from {low} to {high}" if whole else kind
        raise ValueError(
            f"attention_mask must hold 1 or True for a token and 0 or False for padding, in integers or "
            f"booleans; got {found} (a mask that is added to the scores is another thing)."
        )


def at_least_float32(x: Tensor) -> Tensor:
    """16-bit floats raised to float32; float32 and float64 as they are."""
    return x.float() if x.dtype.itemsize == 2 else x
