"""Of 02_norm_and_swiglu."""

from __future__ import annotations

import fractions
import math
from typing import Any

import numpy as np
import torch

from qwen3_ref import model, numpy_ref
from tests.mistakes import Mistake


def sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def two_branches(x: Any) -> Any:
    """Right: SiLU by an exponential that is never of a positive number."""
    small = np.exp(-np.abs(x))
    return x * np.where(x >= 0, 1, small) / (1 + small)


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def hidden(x: Any, both: Any) -> tuple[Any, Any]:
    gate, up = np.split(both, 2)
    return x @ gate.T, x @ up.T


def gated(f: Any) -> Any:
    """An answer to `packed` whose hidden vector is f(gate, up)."""
    return lambda x, both, down: f(*hidden(x, both)) @ down.T


def norm(x: Any, w: Any, eps: float, **how: Any) -> Any:
    """RMSNorm in 16 bits with one thing done otherwise."""
    wide = x if how.get("narrow") else x.float()
    wide = wide - wide.mean(-1, keepdim=True) if how.get("centre") else wide
    mean = wide.square().mean(-1, keepdim=True)
    n = wide / (mean.sqrt() + eps) if how.get("outside") else wide * torch.rsqrt(mean + how.get("other", eps))
    if how.get("late"):
        return (w * n).to(x.dtype)
    n = n if how.get("wide") else n.to(x.dtype)
    return n if how.get("bare") else (w + how.get("plus", 0)) * n


def summed(x: Any, w: Any, eps: float) -> Any:
    return w * (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + eps)).to(x.dtype)


def inverse_root(wide: Any, eps: float) -> Any:
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def borrowed_norm(x: Any, w: Any, eps: float) -> Any:
    layer = model.RMSNorm(len(w), eps).to(x.dtype)
    layer.weight.data.copy_(w)
    return layer(x)


def borrowed_mlp(x: Any, both: Any, down: Any) -> Any:
    gate, up = np.split(both, 2)
    return numpy_ref.swiglu(x, gate, up, down)


def derivative(x: Any, gain: Any, eps: float, dy: Any, sign: int = 1, mean: Any = np.mean) -> Any:
    r = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    g, n = gain * dy, x / r
    return (g - sign * n * mean(g * n, axis=-1, keepdims=True)) / r


def corrected(by: Any, at_the_end: Any = lambda r: r) -> Any:
    """A wrong answer to `backward`: by(x, gain, dy, r, mean) is taken off g."""

    def answer(x: Any, gain: Any, eps: float, dy: Any) -> Any:
        r = root(x, eps)
        return (gain * dy - by(x, gain, dy, r, lambda a: a.mean(-1, keepdims=True))) / at_the_end(r)

    return answer


def root(x: Any, eps: float = 0.0) -> Any:
    return np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def off_ray(g: Any, x: Any) -> Any:
    """g without its part along x: orthogonal to x, which the gradient is for eps = 0 alone."""
    return g - x * np.sum(g * x, axis=-1, keepdims=True) / np.sum(x * x, axis=-1, keepdims=True)


def by_jacobian(x: Any, gain: Any, eps: float, dy: Any) -> Any:
    """Right: the matrix of derivatives of every output by every input, token by token."""
    out = []
    for row, d in zip(x, dy, strict=True):
        r = math.sqrt(row @ row / len(row) + eps)
        matrix = np.diag(gain) / r - np.outer(gain * row, row) / (len(row) * r**3)  # y_j by x_i
        out.append(matrix.T @ d)
    return np.array(out)


def by_autograd(x: Any, gain: Any, eps: float, dy: Any) -> Any:
    given = torch.tensor(x, requires_grad=True)
    y = torch.tensor(gain) * given / (given.square().mean(-1, keepdim=True) + eps).sqrt()
    y.backward(torch.tensor(dy))
    return given.grad


def by_differences(x: Any, gain: Any, eps: float, dy: Any) -> Any:
    """Right: central differences of the loss sum(dy * y)."""
    dx = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = x.copy()
            moved[place] += step
            ends.append(np.sum(dy * gain * moved / root(moved, eps)))
        dx[place] = (ends[0] - ends[1]) / 2e-5
    return dx


def one_token(x: Any, y: Any) -> float:
    """Right: from the largest channel of one token."""
    at = int(np.argmax(np.abs(x[0])))
    return float(x[0, at] ** 2 / y[0, at] ** 2 - x[0] @ x[0] / len(x[0]))


def measured(x: Any, y: Any) -> Any:
    return (x / y) ** 2 - np.mean(x * x, axis=-1, keepdims=True)


WIDTH: list[Mistake] = [
    ("the width of the plain MLP", lambda h, m: 4 * h),
    ("2/3 of the *plain width*", lambda h, m: 2 * h / 3),
    ("you round down", lambda h, m: 8 * h // 3 // m * m),
    ("you round down", lambda h, m: round(8 * h / 3 / m) * m),
    ("you round down", lambda h, m: (8 * h // 3 + m - 1) // m * m),
    ("you round down", lambda h, m: (round(8 * h / 3) + m - 1) // m * m),
    ("you round down", lambda h, m: math.ceil(8 * h // 3 / m) * m),
    ("fits exactly here", lambda h, m: math.ceil(2.67 * h / m) * m),
    ("fits exactly here", lambda h, m: round(8 * h / 3 / m + 0.5) * m),
    ("of numbers is wanted, not str", lambda h, m: str(-(-8 * h // (3 * m)) * m)),
    ("fits exactly here", lambda h, m: (8 * h // 3 // m + 1) * m),
    ("you do not round up", lambda h, m: 8 * h / 3),
    ("you do not round up", lambda h, m: 8 * h // 3),
]
PACKED: list[Mistake] = [
    ("gate and up are swapped", gated(lambda g, u: g * silu(u))),
    ("that is GELU", gated(lambda g, u: gelu(g) * u)),
    ("that is ReLU", gated(lambda g, u: np.maximum(g, 0) * u)),
    ("that is the sigmoid alone", gated(lambda g, u: sigmoid(g) * u)),
    ("not on up as well", gated(lambda g, u: silu(g) * silu(u))),
    ("before the product with up", gated(lambda g, u: silu(g * u))),
    ("there is no SiLU in it", gated(lambda g, u: g * u)),
    (
        "do not alternate",
        lambda x, both, down: (silu(x @ both[0::2].T) * (x @ both[1::2].T)) @ down.T,
    ),
    ("takes it back to (t, D)", lambda x, both, down: silu(hidden(x, both)[0]) * hidden(x, both)[1]),
    ("you add the two", gated(lambda g, u: silu(g) + u)),
    ("that adds x", lambda x, both, down: x + gated(lambda g, u: silu(g) * u)(x, both, down)),
    ("that is tanh", gated(lambda g, u: np.tanh(g) * u)),
    ("NumPy alone", lambda x, both, down: torch.from_numpy(gated(lambda g, u: silu(g) * u)(x, both, down))),
    ("your exponential overflows", gated(lambda g, u: g / (1 + np.exp(-g)) * u)),
    ("your exponential overflows", gated(lambda g, u: g * np.exp(g) / (1 + np.exp(g)) * u)),
    (  # both branches are computed, whichever is taken
        "your exponential overflows",
        gated(lambda g, u: np.where(g > 0, g / (1 + np.exp(-g)), g * np.exp(g) / (1 + np.exp(g))) * u),
    ),
    ("that calls qwen3_ref.numpy_ref.swiglu", borrowed_mlp),
]
SIXTEEN: list[Mistake] = [
    ("your squares overflow", lambda x, w, e: norm(x, w, e, narrow=True)),
    ("you square in 16 bits", lambda x, w, e: norm(x, w, e, narrow=x.dtype == torch.bfloat16)),
    ("the official order is cast, then weight", lambda x, w, e: norm(x, w, e, late=True)),
    ("never cast back", lambda x, w, e: norm(x, w, e, wide=True)),
    ("you cast the root back by itself", lambda x, w, e: w * (x * inverse_root(x.float(), e).to(x.dtype))),
    ("your last product is in float32", lambda x, w, e: norm(x, w.float(), e)),
    ("your eps is outside the root", lambda x, w, e: norm(x, w, e, outside=True)),
    ("you sum where", lambda x, w, e: summed(x, w, e)),
    ("weight before you cast", lambda x, w, e: torch.nn.functional.rms_norm(x, (len(w),), w, e)),
    ("your eps is missing", lambda x, w, e: norm(x, w, e, other=0.0)),
    ("not the one that was given", lambda x, w, e: norm(x, w, e, other=1e-6)),
    ("1 + weight, as Gemma does", lambda x, w, e: norm(x, w, e, plus=1)),
    ("the weight is missing", lambda x, w, e: norm(x, w, e, bare=True)),
    ("that is LayerNorm", lambda x, w, e: norm(x, w, e, centre=True)),
    ("that calls qwen3_ref.model", borrowed_norm),
]
BACKWARD: list[Mistake] = [
    ("you treat the root as a constant", lambda x, g, e, dy: g * dy / root(x, e)),
    ("only into its own", lambda x, g, e, dy: derivative(x, g, e, dy, mean=lambda a, **_: a / a.shape[-1])),
    ("only into its own", corrected(lambda x, g, dy, r, mean: g * dy * (x / r) ** 2)),
    ("you take y where n is", corrected(lambda x, g, dy, r, mean: g * x / r * mean(g * dy * g * x / r))),
    ("there stands g, not dy", corrected(lambda x, g, dy, r, mean: x / r * mean(dy * x / r))),
    ("you correct by x where", corrected(lambda x, g, dy, r, mean: x * mean(g * dy * x))),
    ("three times in all", corrected(lambda x, g, dy, r, mean: x / r * mean(g * dy * x))),
    ("not over tokens", corrected(lambda x, g, dy, r, mean: x / r * (g * dy * x / r).mean())),
    ("not over tokens", corrected(lambda x, g, dy, r, mean: x / r * (g * dy * x / r).mean(0))),
    ("the root twice", corrected(lambda x, g, dy, r, mean: x / r * mean(g * dy * x / r), np.square)),
    ("your gain is missing", lambda x, g, e, dy: derivative(x, np.ones_like(g), e, dy)),
    ("your gain comes last", lambda x, g, e, dy: g * derivative(x, np.ones_like(g), e, dy)),
    ("wrong sign", lambda x, g, e, dy: derivative(x, g, e, dy, sign=-1)),
    ("all that points along x", lambda x, g, e, dy: off_ray(g * dy, x) / root(x, e)),
    ("all that points along x", lambda x, g, e, dy: off_ray(derivative(x, g, e, dy), x)),
    ("you sum where", lambda x, g, e, dy: derivative(x, g, e, dy, mean=np.sum)),
    ("your eps is missing from the root", lambda x, g, e, dy: derivative(x, g, 0.0, dy)),
    ("not divided by the root at the end", lambda x, g, e, dy: derivative(x, g, e, dy) * root(x, e)),
    ("the output times dy", lambda x, g, e, dy: g * dy * x / root(x, e)),
]
EPSILON: list[Mistake] = [
    ("take the mean square off", lambda x, y: float(((x / y) ** 2).mean())),
    ("outside the root", lambda x, y: float((x / y - root(x)).mean())),
    ("x / y is a root", lambda x, y: float((x / y - root(x) ** 2).mean())),
    ("the wrong way round", lambda x, y: float(((y / x) ** 2 - root(x) ** 2).mean())),
    ("not their sum", lambda x, y: float(((x / y) ** 2 - (x * x).sum(-1, keepdims=True)).mean())),
    ("not the variance", lambda x, y: float(((x / y) ** 2 - x.var(-1, keepdims=True)).mean())),
    ("the root of eps", lambda x, y: float(np.sqrt(measured(x, y).mean()))),
    ("your sign is wrong", lambda x, y: float(-measured(x, y).mean())),
    ("one number is wanted", lambda x, y: measured(x, y)),
    ("one number is wanted", lambda x, y: measured(x, y).mean(-1)),
    ("one number is wanted", lambda x, y: measured(x, y).mean(-1, keepdims=True)),
    ("you return 1e-5", lambda x, y: 1e-5),
    ("you return 1e-6", lambda x, y: 1e-6),
]
ALSO_RIGHT: dict[str, list[Any]] = {
    "width": [
        lambda h, m: (8 * h + 3 * m - 1) // (3 * m) * m,
        lambda h, m: next(w for w in range(m, 4 * h + m, m) if 3 * w >= 8 * h),
        lambda h, m: float(math.ceil(fractions.Fraction(8 * h, 3 * m)) * m),
    ],
    "packed": [
        gated(lambda g, u: silu(g) * u),
        gated(lambda g, u: u * two_branches(g)),
        gated(lambda g, u: g / (1 + np.exp(np.minimum(-g, 700))) * u),
        lambda x, both, down: (
            (down @ (silu(both @ x.T)[: len(both) // 2] * (both @ x.T)[len(both) // 2 :])).T
        ),
    ],
    "sixteen": [
        norm,
        lambda x, w, e: (x.float() / (x.float().pow(2).mean(-1, keepdim=True) + e).sqrt()).to(x.dtype) * w,
        lambda x, w, e: (x.double() * inverse_root(x.double(), e)).to(x.dtype).mul(w),
    ],
    "backward": [derivative, by_jacobian, by_autograd, by_differences],
    "epsilon": [
        lambda x, y: measured(x, y).mean(),
        lambda x, y: np.median(measured(x, y)),
        one_token,
        lambda x, y: np.mean(np.mean(x * x, -1) * (1 / np.mean(y * y, -1) - 1)),
    ],
}
MISTAKES = {
    "width": WIDTH,
    "packed": PACKED,
    "sixteen": SIXTEEN,
    "backward": BACKWARD,
    "epsilon": EPSILON,
}
