"""Speculative decoding: something cheap drafts a few tokens, the model judges them all in one pass.

Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding" (arXiv
2211.17192). The rule below is written once, for NumPy arrays (float64, as a specification) and for the
tensors that `sampling.probabilities` gives; `generation` has the loop.

Shapes: V vocabulary; p (V,) the model's distribution, q (V,) the one the draft was drawn from, both after
all penalties and filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_ref.arrays import require_whole
from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.sampling import draw
from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer

Distribution = TypeVar("Distribution", NDArray[np.float64], Tensor)


def accepts(p: Distribution, q: Distribution, token: int, u: float) -> bool:
    """Whether a token that was drawn from q stays: with probability min(1, p / q), u being uniform in
    [0, 1). Section 2.3 of the paper. A token that the model cannot say is never kept."""
    return bool(u * q[token] < p[token])


def residual(p: Distribution, q: Distribution) -> Distribution:
    """What is drawn from in place of a refused token: p where it exceeds q, by how much, made to sum to 1.

    The kept draws make up min(p, q), and a refusal has the probability 1 - sum of that, which is the sum
    of p - min(p, q) too; so both together give p, exactly.
    """
    missing = (p - q).clip(0)
    total = missing.sum()
    return missing / total if total > 0 else p  # nothing is ever refused then, but for rounding


def expected_tokens(acceptance: float, tokens: int) -> float:
    """Tokens that a pass yields on average, if each of `tokens` drafted ones is kept with the same
    probability whatever the others do: 1 + a + ... + a^tokens. Equation 1 of the paper."""
    return float(sum(acceptance**i for i in range(tokens + 1)))


class Cycle(NamedTuple):
    """One pass of the model in a speculative reply: what was drafted for it, and what became of that.

    `at`: the place in the reply where the drafted ids begin. `accepted`: how many of them were kept.
    `refused`: whether the one behind these was judged and refused; if not, all were kept, or the reply
    or its thought ended first.
    """

    at: int
    drafted: tuple[int, ...]
    accepted: int
    refused: bool


@dataclass(frozen=True)
class Draft:
    """What drafts: a small model with the same vocabulary, or, without one, the text so far.

    `tokens`: how many are drafted for each pass of the model, at most. `tokenizer`: the small model's,
    compared with the large one's where both are known.
    Without a model, the ids that followed the last `ngram` ones when they stood in the text before
    ("prompt look-up": good where a reply repeats its prompt, and it costs nothing).

    Raises ValueError for a number that is no whole number from 1 on, and for what is no model.
    """

    model: Qwen3 | None = None
    tokens: int = 4
    ngram: int = 2
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        require_whole("tokens", self.tokens, 1, " (drafted for each pass)")
        require_whole("ngram", self.ngram, 1)
        if self.model is not None and not hasattr(self.model, "config"):
            kind = type(self.model).__name__
            raise ValueError(f"the draft's model is a {kind}; give a Qwen3, or None to look up the prompt.")

    def require_fit(self, config: Qwen3Config, tokenizer: Tokenizer | None) -> None:
        """Raise ValueError unless the ids mean the same to the draft as to the model it drafts for."""
        if self.model is None:
            return
        own = self.model.config.num_token_ids
        if own != config.num_token_ids:
            raise ValueError(
                f"the draft model knows {own:,} token ids and the model {config.num_token_ids:,}; draft "
                f"with a model of the same family, whose vocabulary is the same."
            )
        if tokenizer and self.tokenizer and tokenizer.fingerprint() != self.tokenizer.fingerprint():
            raise ValueError(
                "the draft model's tokenizer has other tokens than the model's, so its ids mean other "
                "texts; draft with a model of the same family."
            )

    def begin(self, length: int) -> Drafter:
        """The drafter of one reply, prompt and reply being at most `length` ids long."""
        return Drafter(self, length)


class Drafter:
    """Drafts for one reply; a small model's KV cache is here, and how far it is true."""

    def __init__(self, draft: Draft, length: int) -> None:
        self.draft = draft
        self.cache: KVCache | None = None
        if (model := draft.model) is not None:
            self.room = min(length, model.config.context_length)
            self.cache = KVCache(model.config, 1, self.room, model.dtype, model.device)

    def propose(
        self,
        ids: Sequence[int],
        count: int,
        distribution: Callable[[Tensor, Sequence[int]], Tensor],
        generator: torch.Generator,
    ) -> tuple[list[int], list[Tensor]]:
        """At most `count` ids that may follow, and the distribution (V,) that each was drawn from.

        distribution(logits (1, V), drafted): what is drawn from after these drafted ones.
        """
        model, cache = self.draft.model, self.cache
        if model is None or cache is None:
            return self.look_up(ids, count), []
        count = min(count, self.room - len(ids) + 1)  # beyond its own context it has nothing to say
        drafted: list[int] = []
        rows: list[Tensor] = []
        while len(drafted) < count:
            new = [*ids, *drafted][cache.length :]
            logits = model(torch.tensor([new], device=model.device), cache=cache, logits_to_keep=1)
            q = distribution(logits[:, -1], drafted)
            drafted += draw(q, [generator])
            rows.append(q[0])
        return drafted, rows

    def look_up(self, ids: Sequence[int], count: int) -> list[int]:
        """What followed when the last ids stood in the text before; the latest place that there is."""
        n = self.draft.ngram
        for start in range(len(ids) - n - 1, -1, -1):
            if list(ids[start : start + n]) == list(ids[len(ids) - n :]):
                return list(ids[start + n : start + n + count])
        return []

    def truncate(self, length: int) -> None:
        """Forget what was drafted in vain: all from `length` on."""
        if self.cache is not None:
            self.cache.truncate(length)
