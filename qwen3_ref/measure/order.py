"""Does a causal stack know the order of its tokens without being told positions? `python -m
qwen3_ref.measure.order --out FILE`.

Very small models read random letters and name, at each place, the letter two before it. They have one
layer or two, RoPE or no positions at all (every frequency 0), and each is trained with several seeds.
Beside them stands the ceiling of whoever knows *which* letters came before but not in what order.

That causal models learn positions by themselves: arXiv 2203.16634 and 2305.19466.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from qwen3_ref.config import Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.seeds import seeded

LETTERS, LENGTH, BACK, STEPS = 8, 16, 2, 400
CELLS = [(layers, positions) for layers in (1, 2) for positions in (True, False)]


def letters(seed: int, count: int) -> Tensor:
    """(count, 1 + LENGTH) ids: a token 0 that begins the text, then letters 1 to LETTERS, each as likely."""
    ids = torch.randint(1, LETTERS + 1, (count, 1 + LENGTH), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    return ids


def small_model(layers: int, positions: bool, seed: int) -> Qwen3:
    """Untrained; without positions all frequencies are 0, so RoPE turns nothing."""
    config = Qwen3Config(
        vocab_size=LETTERS + 1, hidden_size=48, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, rope_theta=100.0,
        tie_word_embeddings=False, initializer_range=0.08,
    )  # fmt: skip
    model = Qwen3(config, generator=torch.Generator().manual_seed(seed))
    if not positions:
        model.model.inv_freq = 0 * model.model.inv_freq
    return model


def asked(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (b, n, V) of the places that have a letter so far back, and that letter (b, n)."""
    return logits[:, BACK + 1 :], ids[:, 1:-BACK]


def trained(layers: int, positions: bool, seed: int, steps: int = STEPS) -> Qwen3:
    """After `steps` batches of 32, AdamW, a rate that falls in a line from 3e-3 to a tenth."""
    model = small_model(layers, positions, seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0, betas=(0.9, 0.95))
    for step in range(steps):
        rate = 3e-3 * min(1, (step + 1) / 30) * (1 - 0.9 * step / steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        ids = letters(seeded(seed, "letters", step).initial_seed(), 32)
        found, want = asked(model(ids), ids)
        optimiser.zero_grad()
        F.cross_entropy(found.flatten(0, 1), want.flatten()).backward()
        optimiser.step()
    return model


@torch.inference_mode()
def accuracy(model: Qwen3, ids: Tensor) -> NDArray[np.float64]:
    """Share of right letters by place, (n,)."""
    found, want = asked(model(ids), ids)
    return (found.argmax(-1) == want).double().mean(0).numpy()


def ceiling(ids: Tensor) -> NDArray[np.float64]:
    """The best that can be reached by place, (n,), knowing which letters came before and which is here,
    but not the order: the commonest of those before. Any of their places is as likely to be the asked one."""
    seen = F.one_hot(ids[:, 1:], LETTERS + 1).cumsum(1)[:, BACK - 1 : -1]  # letters before each asked place
    return (seen.amax(-1) / seen.sum(-1)).double().mean(0).numpy()


def study(seeds: Sequence[int], steps: int = STEPS) -> dict[str, Any]:
    """Accuracy by place for every cell and seed, and the ceiling, on the same 2,000 texts."""
    test, cells = letters(7, 2_000), dict[str, list[list[float]]]()
    for layers, positions in CELLS:
        name = f"{layers} layer{'s'[: layers - 1]}, {'RoPE' if positions else 'no positions'}"
        cells[name] = []
        for seed in seeds:
            cells[name].append(accuracy(trained(layers, positions, seed, steps), test).round(4).tolist())
            print(f"{name}, seed {seed}: {np.mean(cells[name][-1]):.1%}", flush=True)
    settings = {"letters": LETTERS, "length": LENGTH, "back": BACK, "steps": steps, "seeds": list(seeds)}
    return {"settings": settings, "cells": cells, "ceiling": ceiling(test).round(4).tolist()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.order", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("order.json"), help="the file (./order.json)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="(0 1 2 3 4)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"({STEPS})")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        write_atomically(options.out, json.dumps(study(options.seeds, options.steps), indent=1) + "\n")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
