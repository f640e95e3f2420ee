"""The model that a lesson is about: one of the nano family, or an official snapshot on this machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.profile import Profile
from qwen3_ref.model import Qwen3
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.shipped import local_directory
from qwen3_ref.tokenizer import Tokenizer

_TRIAL = 4
"""Tokens that are timed, one by one, for an estimate."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint ready to be asked. `official`: it is no nano, so what a lesson asserts of the nano
    family need not hold of it."""

    name: str
    official: bool
    model: Qwen3
    tokenizer: Tokenizer
    profile: Profile

    def estimate(self, tokens: int) -> str:
        """How long about `tokens` tokens of replies will take, one row after the other: a sentence made
        by timing a few. Of a nano, whose lessons say how long they take, nothing is timed."""
        if not self.official:
            return f"{self.name}: {tokens:,} tokens, well within a minute."
        cache = KVCache(self.model.config, 1, _TRIAL + 1, self.model.dtype, self.model.device)
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.model.device)
        with torch.inference_mode():
            self.model(token, cache=cache)  # the first pass pays for what is made once
            start = time.perf_counter()
            for _ in range(_TRIAL):
                self.model(token, cache=cache)
        minutes = tokens * (time.perf_counter() - start) / _TRIAL / 60
        return f"{self.name}: {tokens:,} tokens take about {max(1, round(minutes)):,} min, one at a time."


def subject(name: str) -> Subject:
    """Load `name`: "qwen3-nano" and its sisters come with the package; an official name, such as
    "Qwen3-0.6B", must be on this machine. In float32 on the CPU.

    An official model gets all cores, a nano one thread: layers that small run slower on two.
    Raises CheckpointError for a checkpoint that is not here, ConfigError for a name that is none; nothing
    is fetched.
    """
    folder = local_directory(name)
    official = folder is None
    if folder is None:
        folder = find_official(name)
    if folder is None:
        raise CheckpointError(
            f"{name} is not on this machine; fetch it with `python -m qwen3_ref fetch {name}`, or name one "
            f"that comes with the package, such as 'qwen3-nano'."
        )
    torch.set_num_threads((os.cpu_count() or 1) if official else 1)
    tokenizer = Tokenizer.from_pretrained(folder)
    return Subject(
        name, official, Qwen3.from_pretrained(folder), tokenizer, Profile.from_pretrained(folder, tokenizer)
    )
