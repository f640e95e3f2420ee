"""The checkpoints that come with the package, and what a name on the command line stands for."""

from __future__ import annotations

from pathlib import Path

from qwen3_ref.store.checkpoint import CheckpointError, is_complete

NANO = ("qwen3-nano", "qwen3-nano-base", "qwen3-nano-moe", "qwen3-nano-student")
"""The checkpoints that come with the package; `train nano` makes them."""


def find_nano(name: str) -> Path:
    """The directory of a checkpoint of the nano family, which comes with the package.

    Raises ValueError for an unknown name, CheckpointError if this installation lacks the file.
    """
    if name not in NANO:
        raise ValueError(f"there is no nano checkpoint {name!r}; there are {', '.join(NANO)}.")
    place = Path(__file__).resolve().parents[1] / "data" / "nano" / name
    if not is_complete(place):
        raise CheckpointError(f"{place} is not there, so the package is incomplete; install it again.")
    return place


def local_directory(name: str) -> Path | None:
    """What a name stands for without a look at official snapshots: a directory, or a nano checkpoint.

    None for any other name, "" included. Raises CheckpointError as `find_nano` does.
    """
    if name and Path(name).is_dir():
        return Path(name)
    return find_nano(name) if name in NANO else None
