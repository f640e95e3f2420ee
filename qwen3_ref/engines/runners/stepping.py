"""What engines share that only give logits: the greedy loop, the margin of a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Stepping:
    """A subclass starts a text with `begin` and feeds ids to `step`, which returns the logits (V,) behind
    them."""

    def begin(self) -> None:
        """An empty cache."""
        raise NotImplementedError

    def step(self, ids: Sequence[int]) -> Any:
        """Logits (V,) of the token after these ids, which join the cache."""
        raise NotImplementedError

    def generate(self, ids: list[int], most: int, ends: list[int]) -> list[int]:
        """The likeliest ids, one after the other, up to `most` or one of `ends`, which is included."""
        self.begin()
        found: list[int] = []
        new = ids
        while len(found) < most and not (found and found[-1] in ends):
            new = [int(np.argmax(self.step(new)))]
            found += new
        return found

    def margin(self, ids: list[int], ours: int, theirs: int) -> float:
        """By how much, in logits, `theirs` is preferred to `ours` behind these ids."""
        self.begin()
        logits = self.step(ids)
        return float(logits[theirs]) - float(logits[ours])
