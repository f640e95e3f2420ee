"""The names of the measured table's rows, so that a wrong one is refused before PyTorch is loaded."""

from __future__ import annotations

from qwen3_ref.store.errors import meant

ROW_NAMES = ("pretraining", "reasoning", "fusion", "general", "distillation", "experts")
"""In the order of the table."""


def require_row(row: str, *also: str) -> None:
    """Raise ValueError, naming the nearest, for what is neither a row nor one of the words in `also`."""
    known = [*ROW_NAMES, *also]
    if row not in known:
        raise ValueError(f"there is no row {row!r}; {meant(row, known)}.")
