"""The model that a lesson is about: one of the nano family, or an official snapshot on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.profile import Profile
from qwen3_ref.model import Qwen3
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.quantize.rounding import Grid, quantize
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.shipped import local_directory
from qwen3_ref.tokenizer import Tokenizer

_TRIAL = 4
"""Tokens that are timed, one by one, for an estimate."""
_TEXT = 256
"""Tokens of the text whose reading is timed."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint ready to be asked. `official`: it is no nano, so what a lesson asserts of the nano
    family need not hold of it."""

    name: str
    official: bool
    model: Qwen3
    tokenizer: Tokenizer
    profile: Profile

    def estimate(self, tokens: int, read: int = 0, rounded: int = 0) -> str:
        """How long it will take to write about `tokens` tokens of replies, one row after the other, to read
        `read` tokens of texts, and to round all weights `rounded` times: a sentence made by timing a little
        of each. Of a nano, whose lessons say how long they take, nothing is timed."""
        if not self.official:
            return f"{self.name}: {tokens + read:,} tokens, well within a minute."
        config = self.model.config
        cache = KVCache(config, 1, _TRIAL + 1, self.model.dtype, self.model.device)
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.model.device)
        text = token.expand(1, _TEXT)
        weight = self.model.get_parameter("model.layers.0.self_attn.q_proj.weight").detach().cpu()
        with torch.inference_mode():
            self.model(token, cache=cache)  # the first pass pays for what is made once
            seconds = (
                tokens / _TRIAL * _timed(lambda: [self.model(token, cache=cache) for _ in range(_TRIAL)])
            )
            if read:
                seconds += read / _TEXT * _timed(lambda: self.model(text, logits_to_keep=1))
        if rounded:
            times = rounded * config.num_parameters() / weight.numel()
            seconds += times * _timed(lambda: quantize(weight.double().numpy(), Grid(4, None)))
        told = [(tokens, f"{tokens:,} tokens to write"), (read, f"{read:,} to read"),
                (rounded, f"all weights to round {rounded} times")]  # fmt: skip
        what = ", ".join(text for n, text in told if n)
        return f"{self.name}: {what}: about {max(1, round(seconds / 60)):,} min, one after the other."


def _timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
