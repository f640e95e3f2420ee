"""Every random draw of the family by name, and which problems each stage may draw.

A seed follows from the run's seed and a name in `SEEDS`, by a hash, so no two uses have the same one by
accident. That alone would not keep two draws apart: they would meet by chance. So the problems of the
train split are dealt out among the stages by the hash of their prompts (`SHARES`), and no seed can make
two stages meet. One draw is shared because the report has it so (section 4.3): fusion asks the model
of GRPO the queries of the cold start.
"""

from __future__ import annotations

import hashlib

import torch

from qwen3_ref.tasks.problems import Problem, make_problems

SEEDS = {
    "weights": "the weights before the first step",
    "rows": "which text a pre-training step takes; the same for every model, to be compared on it",
    "pre-training: problems": "the solved problems among the documents; the same in every run",
    "cold start: problems": "what is asked and drafted, and what fusion asks again",
    "cold start: drafts": "which drafts have a flaw, and which one",
    "cold start: order": "the order of examples",
    "GRPO: problems": "what the pool is chosen from",
    "GRPO: pass rates": "the replies that the pool is chosen by",
    "GRPO: replies": "queries, replies and batches of each step",
    "fusion: problems": "what is answered without thinking",
    "fusion: replies": "the thoughts of the model of GRPO",
    "fusion: conversations": "earlier turns and flags",
    "fusion: order": "the order of examples",
    "tool calls: problems": "the sums that fusion shows a call for",
    "general RL: problems": "what is asked, alone, in conversations, with a limit or a tool",
    "general RL: tasks": "flags, earlier turns and limits",
    "general RL: replies": "queries, replies and batches of each step",
    "off-policy: problems": "what the teacher is asked",
    "off-policy: flags": "in which mode",
    "off-policy: replies": "what it replies",
    "off-policy: order": "the order of examples",
    "on-policy: problems": "what the student is asked",
    "on-policy: replies": "queries and replies of each step",
    "validation: problems": "of every look at the validation split on the way; no stage learns from it",
}
"""The name of each seed, and what it draws."""

_OF_256 = {
    "pre-training": 88,
    "cold start": 72,
    "GRPO": 20,
    "fusion": 18,
    "tool calls": 14,
    "general RL": 18,
    "off-policy": 16,
    "on-policy": 10,
}


def _deal(sizes: dict[str, int]) -> dict[str, range]:
    shares, first = {}, 0
    for use, size in sizes.items():
        shares[use] = range(first, first + size)
        first += size
    return shares


SHARES = _deal(_OF_256)
"""Use -> the places (`tasks.problems.place`) of its problems. The sizes follow what the recipe draws
of the smallest kind, conversions of difficulty 1, of which the train split has 4,900."""


def seed(run_seed: int, name: str) -> int:
    """The seed of one use in a run: the first four bytes of the SHA-256 of "NAME RUN_SEED".

    Raises ValueError for a name that is not in SEEDS.
    """
    if name not in SEEDS:
        raise ValueError(f"there is no seed named {name!r}; there are {', '.join(SEEDS)}.")
    return int.from_bytes(hashlib.sha256(f"{name} {run_seed}".encode()).digest()[:4], "big")


def seeded(number: int, *place: object) -> torch.Generator:
    """A CPU generator for one place of a draw, such as a step: the same after a resume."""
    text = " ".join(map(str, (number, *place)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def problems(use: str, family: str, count: int, run_seed: int, *, lines: int | None = None) -> list[Problem]:
    """`count` problems for one use, of the train split's share or, for "validation", of that split.

    Raises ValueError for an unknown use, and as `make_problems` does.
    """
    number = seed(run_seed, f"{use}: problems")
    if use == "validation":
        return make_problems(family, "validation", count, seed=number, lines=lines)
    return make_problems(family, "train", count, seed=number, lines=lines, share=SHARES[use])
