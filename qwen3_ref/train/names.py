"""The names of the stages, so that a wrong one is refused before PyTorch is loaded."""

from __future__ import annotations

from qwen3_ref.store.errors import meant
from qwen3_ref.train.errors import TrainingError

STAGE_NAMES = (
    "s1", "s2", "s3", "cold-start", "grpo", "fusion", "general-rl",
    "student-s1", "student-s2", "student-s3", "off-policy", "on-policy",
    "moe-s1", "moe-s2", "moe-s3",
)  # fmt: skip
"""In the order of `--stage all`."""
EXTRA_NAMES = ("s3-no-abf", "on-policy-forward", "student-rl", "general-rl-length-alone")
"""Run by name only, to compare with."""
ALL, FAMILY = "all", "family"
"""What else `--stage` takes: whatever has not run yet, and the checkpoints as the package has them."""


def require_stage(name: str, *also: str) -> None:
    """Raise TrainingError, naming the nearest, for what is neither a stage nor one of the words in `also`."""
    known = [*STAGE_NAMES, *EXTRA_NAMES, *also]
    if name not in known:
        raise TrainingError(f"there is no stage {name!r}; {meant(name, known)}.")
