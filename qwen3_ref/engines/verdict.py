"""Whether another engine said the same: where two texts part, and whether that was a tie.

Two programs that add the same numbers in another order round differently, and where two tokens are all
but equally likely the greedy choice hangs on that. Such a tie is named and is no difference; it is one
only if both sides see it so: a program with a fault has made up its mind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

TIE = 1e-3
"""Logits that lie closer than this are a tie. Float32 of one model in two programs differs by some 1e-5."""
T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """`kind`: "equal", "tie" or "differs". `at`: the place of the first token that differs, counted from 0.
    `ours`, `theirs`: by how much, in logits, each side prefers its own token there to the other's; None
    where it is not known, or where one text ends, and there is no token."""

    kind: Literal["equal", "tie", "differs"]
    at: int | None = None
    ours: float | None = None
    theirs: float | None = None


def parting(ours: Sequence[int], theirs: Sequence[int], ends: Collection[int]) -> int | None:
    """The place of the first token at which two greedy texts part, None if they are the same.

    A stop id at the end of ours may be missing from theirs: not every engine hands it out. Another stop id
    than ours is a difference."""
    if list(ours) == list(theirs) or (ours and ours[-1] in ends and list(ours[:-1]) == list(theirs)):
        return None
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                min(len(ours), len(theirs)))  # fmt: skip


def judge(at: int | None, ours: float | None = None, theirs: float | None = None) -> Verdict:
    """What a parting at `at` is, given both margins. It is a tie if ours is one, and theirs where known."""
    if at is None:
        return Verdict("equal")
    tie = ours is not None and abs(ours) < TIE and (theirs is None or abs(theirs) < TIE)
    return Verdict("tie" if tie else "differs", at, ours, theirs)


def alike(ours: Sequence[T], theirs: Sequence[T]) -> tuple[int, int | None]:
    """How many answers of two lists are the same, and the place of the first that is not, or None.

    Raises ValueError for lists of two lengths: an answer is missing then, which is no agreement."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(theirs)} answers came to {len(ours)} questions.")
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    return sum(same), (same.index(False) if False in same else None)
