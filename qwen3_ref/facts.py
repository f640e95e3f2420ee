"""Published numbers about Qwen3, each with its source; `status` keeps "verified" and "unverified" apart.

Nothing in `data/` is computed by this package: it is what the package is checked against.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any


@functools.cache
def _load(name: str) -> dict[str, Any]:
    text = files("qwen3_ref").joinpath("data", name).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def official_models() -> dict[str, dict[str, Any]]:
    """Every official text checkpoint by name: `config` (None where no weights were published),
    `config_status`, `config_proof`, `generation_config`, `checkpoint` (published sizes), `repo`,
    `revision`, `released`."""
    models: dict[str, dict[str, Any]] = _load("models.json")["models"]
    return models


def about() -> dict[str, Any]:
    """What holds for the whole family: `sources`, `sampling_defaults`, `yarn`, `tokenizer`, and
    `overstated_index`, the two official indexes whose total_size is 655,360 bytes too large."""
    about_family: dict[str, Any] = _load("models.json")["about"]
    return about_family


def goldens(model: str) -> list[dict[str, Any]]:
    """Published outputs of an official checkpoint: logits and completions, with tolerance and source."""
    return [golden for golden in _load("goldens.json")["goldens"] if golden["model"] == model]


def technical_report() -> dict[str, Any]:
    """Tables and figures of the Qwen3 technical report (arXiv 2505.09388), under the report's names,
    such as `figure_2_thinking_budget` and `table_23_ruler`."""
    return _load("technical_report.json")


def published_total_size(name: str) -> int | None:
    """The bytes of tensor data that the official files of a checkpoint state, or None if not seen.

    Where the index is known to overstate, this is what the index says, overstatement included.
    """
    checkpoint = official_models()[name].get("checkpoint") or {}
    size = checkpoint.get("index_total_size", checkpoint.get("data_bytes"))
    return None if size is None else int(size)
