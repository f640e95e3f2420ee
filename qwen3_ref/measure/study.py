"""What studies of several seeds share: a cell that is done is read, and seeds must do for an interval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3_ref.measure.statistics import STUDENT
from qwen3_ref.train.errors import TrainingError


def kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that a cell left, None if there is none. Raises TrainingError if its "settings" differ."""
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["settings"] != settings:
        raise TrainingError(f"{path} is of other settings; choose another directory, or delete it.")
    return result


def require_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError for so few or so many seeds that there is no interval over them."""
    if len(seeds) not in STUDENT:
        raise ValueError(f"{len(seeds)} seeds make no interval here; give 2 to 8.")
