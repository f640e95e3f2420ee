"""Checks of 02_norm_and_swiglu."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import gelu

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, habits, judge
from qwen3_ref.course.compare import as_array
from qwen3_ref.model import RMSNorm
from qwen3_ref.numpy_ref import silu, swiglu


def width(answer: Answer) -> Verdict:
    """answer(hidden, multiple) -> the smallest fair SwiGLU width, at least 8/3 hidden."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for multiple, above in ((16, 1), (32, 0), (48, 2), (10, 4), (5, 2)):
            hidden = 3 * multiple * int(rng.integers(6, 30)) + above  # the last two: 2/3 and 1/3 above a fit
            if above == 0:  # an odd number of multiples fits exactly
                hidden += 3 * multiple // 8
            fair = 8 * hidden / 3
            want = math.ceil(fair / multiple) * multiple
            down = "you round down; the smallest multiple that is not below 8/3 hidden lies above it"
            mistakes = [
                ("that is the width of the plain MLP; SwiGLU has three matrices instead of two", 4 * hidden),
                ("2/3 of the *plain width*, which is 4 hidden: together 8/3 hidden", 2 * hidden / 3),
                (down, math.floor(fair / multiple) * multiple),
                ("8/3 hidden fits exactly here, yet you add a multiple", want + multiple),
                ("you do not round up to a multiple", fair),
                ("you do not round up to a multiple", math.floor(fair)),
                ("you do not round up to a multiple", math.ceil(fair)),
            ]
            yield Trial((hidden, multiple), np.array(want), [(text, np.array(v)) for text, v in mistakes])

    return judge(answer, trials)


def packed(answer: Answer) -> Verdict:
    """answer(x, gate_up, down): x (t, D), gate_up (2F, D) gate rows first, down (D, F) -> (t, D)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for t, D, F, size in ((5, 6, 4, 1.0), (3, 8, 10, 1.0), (3, 8, 4, 3000.0)):
            x, both, down = (rng.normal(size=shape) for shape in ((t, D), (2 * F, D), (D, F)))
            x *= size
            (gate, up), pairs = np.split(both, 2), both.reshape(F, 2, D)
            g, u = x @ gate.T, x @ up.T
            soft = {kind: as_array(gelu(torch.tensor(g), approximate=kind)) for kind in ("none", "tanh")}
            rows = "gate and up do not alternate: the first F rows are the gate, the last F are up"
            alternate = swiglu(x, pairs[:, 0], pairs[:, 1], down)
            mistakes: list[tuple[str, Array]] = [
                ("gate and up are swapped: SiLU belongs to the first F rows", (g * silu(u)) @ down.T),
                ("that is GELU; Qwen3's hidden_act is SiLU, g * sigmoid(g)", (soft["none"] * u) @ down.T),
                ("that is GELU; Qwen3's hidden_act is SiLU, g * sigmoid(g)", (soft["tanh"] * u) @ down.T),
                ("that is ReLU; wanted is SiLU, g * sigmoid(g)", (np.maximum(g, 0) * u) @ down.T),
                (
                    "that is the sigmoid alone; SiLU is g * sigmoid(g)",
                    (0.5 * (1 + np.tanh(0.5 * g)) * u) @ down.T,
                ),
                ("SiLU works on the gate alone, not on up as well", (silu(g) * silu(u)) @ down.T),
                ("SiLU works on the gate, before the product with up", silu(g * u) @ down.T),
                ("there is no SiLU in it: without one the gate is no switch", (g * u) @ down.T),
                (rows, alternate),
                ("the gate multiplies what up says; you add the two", (silu(g) + u) @ down.T),
                ("that adds x; wanted is what the network makes of it", x + swiglu(x, gate, up, down)),
                ("that is tanh; wanted is SiLU, g * sigmoid(g)", (np.tanh(g) * u) @ down.T),
                ("the hidden vector is (t, F); down_proj takes it back to (t, D)", silu(g) * u),
            ]
            yield Trial((x, both, down), swiglu(x, gate, up, down), mistakes, 1e-6 * size)

    if "torch" in habits(answer):
        return Verdict(False, "you use torch; NumPy alone is asked for")
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        verdict = judge(answer, trials)
    if "FloatingPointError" in repr(verdict):
        return Verdict(
            False, "your exponential overflows where a gate is far from 0; (1 + tanh(x / 2)) / 2 cannot"
        )
    return verdict


def sixteen(answer: Answer) -> Verdict:
    """answer(x, weight, eps): x (t, n), weight (n,) in float16 or bfloat16 -> RMSNorm, bit for bit."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        half, brain = torch.float16, torch.bfloat16
        for dtype, scale, eps in ((half, 900.0, 1e-6), (half, 0.03, 0.002), (brain, 3.0, 1e-6)):
            eps *= float(rng.uniform(0.5, 1.5))
            weight = torch.tensor(1 + 0.5 * rng.normal(size=16)).to(dtype)
            x = _clear_of_ties(torch.tensor(scale * rng.normal(size=(60, 16))).to(dtype), eps)
            wide = x.float()
            mean = wide.square().mean(-1, keepdim=True)
            n = wide * torch.rsqrt(mean + eps)
            lost = "your squares overflow: float16 ends at 65,504; cast to float32 before you square"
            early = "you square in 16 bits; cast to float32 first"
            order = "you multiply by the weight before you cast back; the official order is cast, then weight"
            back = "that was never cast back: cast to x.dtype, then multiply by the weight"
            early_back = "you cast the root back by itself; cast x times the inverse root, once"
            product = "your last product is in float32; cast back and multiply in 16 bits"
            centred = wide - wide.mean(-1, keepdim=True)
            centred_n = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
            fixed = wide * torch.rsqrt(mean + 1e-6)
            gemma = "you scale by 1 + weight, as Gemma does; Qwen3's gain is the weight"
            narrow = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
            gone = bool(torch.isinf(x.square()).any())
            mistakes = [
                (lost if gone else early, weight * narrow),
                (order, (weight * n).to(dtype)),
                (back, weight * n),
                (early_back, weight * (x * torch.rsqrt(mean + eps).to(dtype))),
                (product, weight.float() * n.to(dtype)),
                ("your eps is outside the root", weight * (wide / (mean.sqrt() + eps)).to(dtype)),
                ("you sum where the mean square divides by n",
                 weight * (wide * torch.rsqrt(16 * mean + eps)).to(dtype)),
                ("your eps is missing", weight * (wide * torch.rsqrt(mean)).to(dtype)),
                ("your eps is not the one that was given", weight * fixed.to(dtype)),
                (gemma, (1 + weight) * n.to(dtype)),
                ("the weight is missing", n.to(dtype)),
                ("you subtract the mean: that is LayerNorm", weight * centred_n.to(dtype)),
            ]  # fmt: skip
            norm = RMSNorm(16, eps).to(dtype)
            norm.weight.data.copy_(weight)
            known = [(text, as_array(value)) for text, value in mistakes]
            yield Trial((x, weight, eps), as_array(norm(x)), known, 1e-7, dtype)

    return judge(answer, trials)


def _clear_of_ties(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Rows of x whose normalised numbers round alike whichever way the last float32 digit falls, so
    that dividing by the root is as right as multiplying by its inverse."""
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()
    clear = (exact * (1 - 1e-6)).to(x.dtype) == (exact * (1 + 1e-6)).to(x.dtype)
    return x[clear.all(-1)]


def backward(answer: Answer) -> Verdict:
    """answer(x, gain, eps, dy): x, dy (t, n), gain (n,) -> dx (t, n), the gradient at the input."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for t, n in ((4, 6), (3, 9)):
            x, dy, gain = rng.normal(size=(t, n)), rng.normal(size=(t, n)), 1 + 0.5 * rng.normal(size=n)
            eps = float(rng.uniform(0.2, 0.6))  # large, so that it shows
            square = np.mean(x * x, axis=-1, keepdims=True)
            r, bare = np.sqrt(square + eps), np.sqrt(square)

            def through(g: Array, r: Array = r, x: Array = x, share: float = 1.0) -> Array:
                return (g - share * (x / r) * np.mean(g * (x / r), axis=-1, keepdims=True)) / r

            g, n_hat = gain * dy, x / r
            every = "the mean runs over the channels of one token, not over tokens"
            mistakes = [
                ("you treat the root as a constant; it depends on every channel of x", g / r),
                ("you follow each x_i only into its own channel; through r it moves all of them",
                 (g - (x / r) ** 2 * g / n) / r),
                ("you follow each x_i only into its own channel; through r it moves all of them",
                 g * (1 - n_hat**2) / r),
                ("you take y where n is meant: in the correction stands x / r, without the gain",
                 (g - gain * n_hat * np.mean(g * gain * n_hat, axis=-1, keepdims=True)) / r),
                ("inside the mean your gain is missing: there stands g, not dy",
                 (g - n_hat * np.mean(dy * n_hat, axis=-1, keepdims=True)) / r),
                ("you correct by x where x / r belongs, twice",
                 (g - x * np.mean(g * x, axis=-1, keepdims=True)) / r),
                ("the correction is divided by r three times in all: twice in x / r, once at the end",
                 g / r - x * np.mean(g * x, axis=-1, keepdims=True) / r**2),
                (every, (g - n_hat * np.mean(g * n_hat)) / r),
                (every, (g - n_hat * np.mean(g * n_hat, axis=0)) / r),
                ("you divide by the root twice at the end", through(g) / r),
                ("your gain is missing: dy meets the gain first", through(dy)),
                ("your gain comes last; it belongs to dy, inside the mean", gain * through(dy)),
                ("your correction has the wrong sign: it is taken off", through(g, share=-1)),
                ("you take out all that points along x; with eps a little stays, for the unit is x / r",
                 (g - x * np.mean(g * x, axis=-1, keepdims=True) / square) / r),
                ("you sum where the mean square divides by n", through(g, share=n)),
                ("your eps is missing from the root", through(g, r=bare)),
                ("you have not divided by the root at the end", through(g) * r),
                ("that is the output times dy, not its derivative", g * x / r),
            ]  # fmt: skip
            yield Trial((x, gain, eps, dy), through(g), mistakes)

    return judge(answer, trials)


def epsilon(answer: Answer) -> Verdict:
    """answer(x, y): x (t, n) and y = x / sqrt(mean square + eps) (t, n) -> eps, one number."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for _ in range(3):
            eps, size = 10 ** rng.uniform(-7, -4), 10 ** rng.uniform(-3, -2)
            n = 16
            x = size * rng.normal(size=(6, n))
            square = np.mean(x * x, axis=-1, keepdims=True)
            y = x / np.sqrt(square + eps)
            root = float(np.mean(np.sqrt(square + eps) - np.sqrt(square)))
            mistakes = [
                ("(x / y) squared is mean square + eps; take the mean square off", np.mean(square + eps)),
                ("you took eps to be outside the root; square x / y first", root),
                ("x / y is a root: square it before you take anything off", np.mean(x / y - square)),
                ("you divide the wrong way round: x / y is the root", np.mean((y / x) ** 2 - square)),
                ("what goes off is the mean of the squares, not their sum",
                 np.mean((x / y) ** 2 - n * square)),
                ("what goes off is the mean of the squares, not the variance",
                 np.mean((x / y) ** 2 - x.var(axis=-1, keepdims=True))),
                ("that is the root of eps", math.sqrt(eps)),
                ("your sign is wrong: eps is what x / y has more than the mean square", -eps),
                ("one number is wanted: all of these are the same", np.full((6, 16), eps)),
                ("one number is wanted: all of these are the same", np.full((6, 1), eps)),
                ("one number is wanted: all of these are the same", np.full(6, eps)),
                ("you return 1e-5, whatever the port did: measure it", 1e-5),
                ("you return 1e-6, whatever the port did: measure it", 1e-6),
            ]  # fmt: skip
            known = [(text, np.asarray(value)) for text, value in mistakes]
            yield Trial((x, y), np.array(eps), known, 1e-12)

    return judge(answer, trials)
