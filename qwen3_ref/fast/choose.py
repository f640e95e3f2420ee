"""Which precision is fastest on this processor and still says what float32 says.

Two things are tried on the spot. Speed: products of one token with matrices of the model's own shape, more
of them than a cache near the cores holds. Truth: the shipped nano, loaded in that precision, has to give
float32's greedy ids on the parity set (`data/parity_set.json`): a kernel that computes something else, or
a precision that is too coarse for a small model, is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, get_args

import torch
from torch import Tensor

from qwen3_ref.config import Qwen3Config
from qwen3_ref.fast.products import Precision, dtype_of, product_of, unavailable
from qwen3_ref.store.errors import quoted

_BYTES = 64_000_000  # of float32 weights that one round reads, at most: beyond the caches of a core
_SECONDS = 0.08  # for each precision


@dataclass(frozen=True)
class Choice:
    """A precision, and why it was chosen, in one line.

    Where it was tried: `speed`, one token's products in float32's time by theirs, by precision; `agrees`, how
    many greedy ids of the parity set are float32's, of the precisions that were tried, fastest first.
    """

    precision: Precision
    why: str
    speed: dict[Precision, float] = field(default_factory=dict)
    agrees: dict[Precision, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.precision}: {self.why}"


def choose(
    precision: Any, config: Qwen3Config, device: torch.device, load: Callable[[Precision], Any]
) -> Choice:
    """The precision that is asked for, if this device can serve it, or for "auto" the fastest that is true.

    load: from a precision to the shipped nano in it. Raises ValueError in one sentence for what is no
    precision, or none for this device, processor or model.
    """
    every: tuple[Precision, ...] = get_args(Precision)
    if precision != "auto" and precision not in every:
        raise ValueError(f"precision is {quoted(precision)}; it must be auto, {', '.join(every)} or None.")
    inputs = _inputs(config)
    if device.type != "cpu":
        if precision in ("int8", "int4"):
            raise ValueError(
                f"precision {precision!r} has kernels for the CPU alone and the device is {device}; take "
                f"float32, float16 or bfloat16 there."
            )
        half: Precision = "float16"
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            half = "bfloat16"
        return Choice(half, f"16 bits on {device}") if precision == "auto" else Choice(precision, "asked for")
    if precision != "auto":
        if reason := unavailable(precision, inputs):
            there = [p for p in every if unavailable(p, inputs) is None]
            raise ValueError(f"{reason}; take {' or '.join(there)}.")
        return Choice(precision, "asked for")
    width = (config.moe_intermediate_size if config.is_moe else None) or config.intermediate_size
    seconds = {p: _seconds(p, (width, config.hidden_size)) for p in every if not unavailable(p, inputs)}
    speed = {p: seconds["float32"] / s for p, s in seconds.items()}
    prompts, replies = parity_set()
    total = sum(map(len, replies))
    agrees: dict[Precision, int] = {}
    for fastest in sorted(speed, key=lambda p: -speed[p]):
        agrees[fastest] = agreeing(load(fastest), prompts, replies)
        if agrees[fastest] == total:
            break
    else:
        raise ValueError(
            f"no precision gives the {total} ids of the parity set here, float32 neither; name one."
        )
    why = f"one token's products take {1 / speed[fastest]:.2f} of float32's time"
    if others := [f"{p} {1 / s:.2f}" for p, s in speed.items() if p not in (fastest, "float32")]:
        why += f" ({', '.join(others)})"
    why += f", and all {total} greedy ids of the parity set are float32's"
    refused = [f"{p} has {n} of them" for p, n in agrees.items() if n < total]
    return Choice(fastest, "; ".join([why, *refused]), speed, agrees)


def _inputs(config: Qwen3Config) -> set[int]:
    """The numbers of inputs of a model's matrices."""
    return {
        shape[1]
        for name, shape in config.tensor_shapes().items()
        if len(shape) == 2 and not name.endswith("mlp.gate.weight")
    }


def parity_set() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of the nano, and its greedy replies in float32, as ids."""
    text = resources.files("qwen3_ref").joinpath("data/parity_set.json").read_text(encoding="utf-8")
    rows = json.loads(text)["rows"]
    return [row["prompt"] for row in rows], [row["reply"] for row in rows]


@torch.inference_mode()
def agreeing(model: Any, prompts: list[list[int]], replies: list[list[int]]) -> int:
    """How many ids of the replies are what the model finds likeliest there; all of them: its greedy ids."""
    found = 0
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([prompt + reply[:-1]])
        likeliest: Tensor = model(ids, logits_to_keep=len(reply))[0].argmax(dim=-1)
        found += int((likeliest == torch.tensor(reply)).sum())
    return found


@torch.inference_mode()
def _seconds(precision: Precision, shape: tuple[int, int]) -> float:
    """Of one row's product with one matrix: the best of several rounds over more matrices than one."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(dtype_of(precision))
    x = torch.randn(1, shape[1], generator=generator)
    count = max(1, min(16, _BYTES // (4 * weight.numel())))
    matrices = [product_of(precision)(weight.clone()) for _ in range(count)]
    for matrix in matrices:  # the first call makes more than the product
        matrix(x)
    rounds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(rounds) < 3 or time.perf_counter() < end:  # on a busy machine one round may take them all
        start = time.perf_counter()
        for matrix in matrices:
            matrix(x)
        rounds.append((time.perf_counter() - start) / count)
    return min(rounds)
