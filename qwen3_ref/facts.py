"""Published numbers about Qwen3, each with its source; `status` keeps "verified" and "unverified" apart.

Nothing in `data/` is computed by this package: it is what the package is checked against.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from importlib.resources import files
from typing import Any

from qwen3_ref.store.shipped import NANO


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


def backbones() -> dict[str, dict[str, Any]]:
    """Text backbones of checkpoints that also see or hear, by name: `config` (the text part of
    config.json), `config_status`, `keys_not_seen`, `not_here` (what of the checkpoint this package cannot
    run), `repo`, `kind`, `released`."""
    found: dict[str, dict[str, Any]] = _load("models.json")["backbones"]
    return found


def known_names() -> list[str]:
    """Every name that stands for a checkpoint: the official ones whose weights were published, and the
    nano family's."""
    return [name for name, model in official_models().items() if model.get("config")] + list(NANO)


def suggestion(name: str) -> str:
    """What a name that stands for nothing may have meant: "did you mean Qwen3-8B", or all that is known.

    `name` may be a hub name ("qwen/qwen3-8b"), somebody's copy, a path or a web address, in any case.
    """
    small = {known.lower(): known for known in [*known_names(), *backbones()]}
    parts = [part for part in re.split(r"[/\\?#\s]+", name[:1000].lower()) if part]
    wanted = "-".join(parts) if len(parts) == 2 and parts[0].startswith("qwen3") else ""  # "Qwen3 8B"
    for part in [wanted, *parts, *(f"qwen3-{part}" for part in parts)]:
        if part in small:
            return f"did you mean {small[part]}"
    for part in parts:  # by its letters "qwen3-vl" is nearer to names of text models
        kinds = {"vl", "omni"} & set(part.split("-"))
        seeing = [name for name in small if kinds & set(name.split("-"))]
        if seeing:
            near = difflib.get_close_matches(part[:100], seeing, n=3, cutoff=0)
            return f"did you mean {', '.join(small[match] for match in near)}"
    for part in reversed(parts):  # of an owner and a name, the name
        if near := difflib.get_close_matches(part[:100], small, n=3, cutoff=0.5):
            return f"did you mean {', '.join(small[match] for match in near)}"
    return f"known: {', '.join(known_names())}"


def way_out(name_or_dir: str | os.PathLike[str], otherwise: str) -> str:
    """The end of a sentence about a directory that lacks what was to be read: what its name may have
    meant, if it is no directory but looks like a name, else `otherwise`."""
    name = os.fspath(name_or_dir)
    if not name or os.path.isdir(name) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return otherwise
    hint = suggestion(name)
    official = name.removeprefix("Qwen/")
    if hint == f"did you mean {official}" and official in official_models():
        return f'`official.snapshots.find_official("{official}")` gives the directory of its snapshot'
    return hint if hint.startswith("did you mean ") else otherwise


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


def ledger() -> list[dict[str, Any]]:
    """What is said about Qwen3, claim by claim, as `official.ledger.Claim` has it; `python -m qwen3_ref
    ledger` shows it, and runs what computes it."""
    claims: list[dict[str, Any]] = _load("ledger.json")["claims"]
    return claims


def ledger_sources() -> dict[str, str]:
    """The keys of a claim's sources, in words."""
    sources: dict[str, str] = _load("ledger.json")["sources"]
    return sources


def nano_hashes(name: str) -> dict[str, str]:
    """The SHA-256 of the files of a shipped nano checkpoint, by file name."""
    hashes: dict[str, str] = _load("nano_sha256.json")[name]
    return hashes


def published_total_size(name: str) -> int | None:
    """The bytes of tensor data that the official files of a checkpoint state, or None if not seen.

    Where the index is known to overstate, this is what the index says, overstatement included.
    """
    checkpoint = official_models()[name].get("checkpoint") or {}
    size = checkpoint.get("index_total_size", checkpoint.get("data_bytes"))
    return None if size is None else int(size)
