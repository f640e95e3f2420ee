"""The checkpoints that come with the package, and what a name stands for wherever a directory is taken."""

from __future__ import annotations

import os
from pathlib import Path

from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.files import require_path

NANO = ("qwen3-nano", "qwen3-nano-base", "qwen3-nano-moe", "qwen3-nano-student")
"""The checkpoints that come with the package; `train nano` makes them."""


def find_nano(name: str) -> Path:
    """The directory of a checkpoint of the nano family, which comes with the package.

    Raises ValueError for an unknown name, CheckpointError if this installation lacks the files.
    """
    if name not in NANO:
        raise ValueError(f"there is no nano checkpoint {name!r}; there are {', '.join(NANO)}.")
    place = Path(__file__).resolve().parents[1] / "data" / "nano" / name
    if not all((place / file).is_file() for file in ("config.json", "model.safetensors")):
        raise CheckpointError(f"{place} is not there, so the package is incomplete; install it again.")
    return place


def local_directory(name: str) -> Path | None:
    """What a name stands for without a look at official snapshots: a directory, or a nano checkpoint.

    None for any other name, "" included. Raises CheckpointError as `find_nano` does.
    """
    if os.path.isdir(name):  # False, not an error, for names that no directory can have
        return Path(name)
    return find_nano(name) if name in NANO else None


def directory_of(name_or_dir: str | os.PathLike[str]) -> Path:
    """The directory that every `from_pretrained` reads: as given, or a nano checkpoint's by its name
    (a directory of that name comes first). It need not exist: whoever reads it says what is missing.
    Raises ValueError for what is no path, such as None."""
    name = require_path(name_or_dir)
    return local_directory(name) or Path(name)
