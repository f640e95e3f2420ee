"""Where queries and keys stand under Dual Chunk Attention: the tables of positions and the logit scale.

Symbols, and the config's words for them: c = `chunk_size`, the farthest place of a query; w =
`local_size`, how far distances stay true across a border; s = c - w, the tokens of a chunk (the paper
calls s the chunk size, the config c). Key j stands at j mod s, always. Query i, with k = i mod s, stands

- at k for keys of its own chunk (intra),
- at min(s + k, c) for those of the chunk before (successive),
- at min(2 s - 1, c) for all older ones (inter).

That is the code that Qwen ran, whose largest distance is c. In the paper it is c - 1, the largest that
training saw: min(s + k, c - 1) and c - 1. `variant="paper"` gives that one.

Sources: An et al., arXiv 2402.17463 sections 3.1 to 3.4; HKUNLP/ChunkLlama `chunkqwen_attn_replace.py`;
vLLM up to 0.10 `attention/backends/dual_chunk_flash_attn.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.store.errors import quoted

Positions = NDArray[np.int64]
Variant = Literal["code", "paper"]

SIZES = ("chunk_size", "local_size", "original_max_position_embeddings", "scale_length")
SPARSE = (
    "sparse_attention_enabled",
    "sparse_attention_config",
    "sparse_attention_threshold",
    "sparse_attention_last_q",
)
"""Keys of the official 1M configs that choose which keys a long prompt skips (MInference). They are read
and left out: attention is dense here, which is what they approximate."""


def chunk_problem(settings: Any) -> str | None:
    """Why a `dual_chunk_attention_config` cannot be, in one sentence, or None. Null is absent."""
    name = "dual_chunk_attention_config"
    if not isinstance(settings, Mapping):
        return f"{name} is {quoted(settings)}; it must be an object with chunk_size and local_size, or null."
    for key in settings:
        if key not in (*SIZES, *SPARSE):
            near = difflib.get_close_matches(str(key)[:60], SIZES, n=1)
            hint = f"did you mean {near[0]}" if near else f"known: {', '.join((*SIZES, *SPARSE))}"
            return f"{quoted(key)} in {name} is no setting of it; {hint}."
    for key in SIZES:
        value, least = settings.get(key), 0 if key == "original_max_position_embeddings" else 1
        if value is None and key in SIZES[:2]:
            return f"{key} is missing in {name}; there is no safe default, so take it from the 1M config."
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31
        ):
            return f"{key} in {name} is {quoted(value)}; it must be a whole number from {least}, below 2^31."
    if settings["local_size"] >= settings["chunk_size"]:
        return (
            f"local_size {settings['local_size']:,} in {name} leaves nothing of chunk_size "
            f"{settings['chunk_size']:,}; a chunk has chunk_size - local_size tokens, so give a smaller one."
        )
    if settings.get("scale_length") and not settings.get("original_max_position_embeddings"):
        return f"scale_length in {name} does nothing without original_max_position_embeddings; give both."
    return None


@dataclass(frozen=True)
class Chunks:
    """c, w and the variant, and where they put queries and keys. All positions are int64."""

    chunk_size: int
    local_size: int
    variant: Variant = "code"

    def __post_init__(self) -> None:
        sizes = {"chunk_size": self.chunk_size, "local_size": self.local_size}
        if problem := chunk_problem(sizes):
            raise ValueError(problem)
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant is {quoted(self.variant)}; it must be 'code' or 'paper'.")

    @property
    def length(self) -> int:
        """s: tokens of a chunk, and the period of the keys' positions."""
        return self.chunk_size - self.local_size

    @property
    def farthest(self) -> int:
        """The largest place of a query, and so the largest distance."""
        return self.chunk_size if self.variant == "code" else self.chunk_size - 1

    def keys(self, length: int) -> Positions:
        """Where the keys of `length` tokens stand: j mod s. A key is rotated once and stays in the cache."""
        return np.arange(length) % self.length

    def intra(self, length: int) -> Positions:
        """Where queries stand for keys of their own chunk: where their own keys do."""
        return np.arange(length) % self.length

    def successive(self, length: int) -> Positions:
        """Where queries stand for keys of the chunk before: one chunk on, and no farther than allowed."""
        return np.minimum(self.length + self.intra(length), self.farthest)

    @property
    def inter(self) -> int:
        """Where every query stands for keys two chunks back or more: they are all equally far."""
        return min(2 * self.length - 1, self.farthest) if self.variant == "code" else self.farthest

    def distances(self, length: int) -> Positions:
        """The distance at which query i sees key j: (length, length); -1 for keys after the query."""
        place = np.arange(length)
        back = place[:, None] // self.length - place[None, :] // self.length
        query = np.where(back == 1, self.successive(length)[:, None], self.inter)
        query = np.where(back == 0, self.intra(length)[:, None], query)
        return np.where(place[:, None] >= place[None, :], query - self.keys(length)[None, :], -1)


def logit_scale(length: int | None, original_length: int | None) -> float:
    """What logits are multiplied by for a text of `length` tokens: m squared, m = 0.1 ln(n / L0) + 1.

    1 up to `original_length`, or if either is None or 0. The official code multiplies the softmax scale
    by m and the cached keys as well, so m enters twice, as YaRN's attention factor does. There n is the
    prompt's length in prefill and the current one at each step of decoding, while a cached key keeps the
    m of its own time; so past L0 logits drift as a reply grows, and differ from those of a pass without
    a cache. Here n is stated once, and cached and uncached are the same.
    """
    if not length or not original_length or length <= original_length:
        return 1.0
    return (0.1 * math.log(length / original_length) + 1.0) ** 2
