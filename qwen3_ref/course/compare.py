"""The house way to show a comparison: what, shape, largest difference, tolerance, ok.

(In the spirit of the `cmp` line of Karpathy's zero-to-hero lectures.)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch


@dataclass(frozen=True)
class Comparison:
    """One comparison: `str` gives its line, `require` raises AssertionError if it failed."""

    what: str
    shape: tuple[int, ...]
    max_difference: float
    tolerance: float
    ok: bool

    def __str__(self) -> str:
        # Tiny differences depend on the machine's arithmetic, so the line states the bound instead.
        difference = f"< {self.tolerance:.0e}" if self.ok else f"{self.max_difference:.2e}"
        if self.ok and self.tolerance == 0:
            difference = "= 0"
        shape = "x".join(map(str, self.shape)) or "scalar"
        verdict = "ok" if self.ok else "DIFFERENT"
        return f"{self.what:<46} {shape:>16}  max diff {difference:>9}  {verdict}"

    def require(self) -> Comparison:
        """Return self, or raise AssertionError with the line when the comparison failed."""
        if not self.ok:
            raise AssertionError(f"{self} (tolerance {self.tolerance:.1e})")
        return self


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of `value`: a torch tensor of any dtype and device, a list or an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
        value = value.numpy()
    return np.asarray(value)


def compare(what: str, got: Any, want: Any, *, atol: float, rtol: float = 0.0) -> Comparison:
    """Compare two arrays or tensors; a shape mismatch or a NaN on one side only is a difference.

    `atol` is the tolerance in the units of the values; `rtol` adds `rtol * abs(want)` to it.
    """
    a, b = as_array(got), as_array(want)
    if a.shape != b.shape:
        return Comparison(f"{what}: shapes {a.shape} and {b.shape}", a.shape, float("inf"), atol, False)
    if a.size == 0:
        return Comparison(what, a.shape, 0.0, atol, True)
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities subtract to NaN otherwise
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    finite = np.where(np.isfinite(b), np.abs(b), 0.0)
    ok = bool((difference <= atol + rtol * finite).all())
    return Comparison(what, a.shape, float(difference.max()), atol, ok)


def comparison_table(comparisons: Iterable[Comparison]) -> str:
    """The lines of several comparisons, and a last line that counts them."""
    rows = list(comparisons)
    good = sum(row.ok for row in rows)
    return "\n".join([*map(str, rows), f"{good} of {len(rows)} agree"])


def official_model(directory: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model of a checkpoint directory, in evaluation mode and with eager attention, so
    that it can return attention weights.

    Progress bars and start-up warnings are off, since notebooks compare what they print.
    Raises ImportError in one sentence if transformers is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns in every notebook without ipywidgets
        try:
            import transformers
        except ImportError:
            raise ImportError(
                "comparing with the official code needs transformers; `pip install 'transformers>=5,<6'`."
            ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def official_frequencies(config: Any, length: int | None = None) -> tuple[np.ndarray[Any, Any], float]:
    """transformers' own frequencies (d/2,) and attention factor for a transformers config, of a text of
    `length` tokens where that matters (dynamic). Its code asks for float32 by name; here that name means
    float64, so that what differs is the formula and not the rounding."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    make = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]]
    with mock.patch.object(torch, "float", torch.float64), mock.patch.object(torch, "float32", torch.float64):
        found, factor = make(config, "cpu", seq_len=length)
    assert found.dtype == torch.float64, "transformers has another way to say float32"
    return found.numpy(), float(factor)
