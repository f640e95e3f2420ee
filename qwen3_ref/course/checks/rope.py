"""Checks of 03_rope."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, judge
from qwen3_ref.course.compare import as_array
from qwen3_ref.numpy_ref import rotate
from qwen3_ref.rope import cos_sin, default_frequencies


def wavelengths(answer: Answer) -> Verdict:
    """answer(head_dim, theta) -> (head_dim / 2,) tokens for one full turn."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in map(int, 2 * rng.integers(4, 17, size=3)):
            theta = float(rng.uniform(50, 5000))  # not 10,000 or 1,000,000: those may be typed in
            if abs(np.log(theta) / np.log(1e4) - (d - 2) / d) < 0.01:
                theta /= 2  # or two of the mistakes below give nearly the same numbers
            turns, pair = default_frequencies(d, theta), np.arange(d // 2)
            want = 2 * np.pi / turns
            per_channel = "you return one value a channel; there is one a pair, so head_dim / 2 of them"
            typed_in = "your result does not depend on theta; it is {} whatever is given"
            last = "your last exponent is 1; it is (head_dim - 2) / head_dim: the step is 2 / head_dim"
            mistakes = [
                ("that is tokens a radian; a full turn is 2 pi radians", 1 / turns),
                ("that is radians a token, the frequency; wanted are tokens a turn", turns),
                ("that is turns a token; wanted are tokens a turn", 1 / want),
                ("that is frequency times 2 pi; the wavelength is 2 pi divided by it", 2 * np.pi * turns),
                ("your exponent lacks the 2: it is 2 j / head_dim", 2 * np.pi * theta ** (pair / d)),
                (per_channel, np.repeat(want, 2)),
                (per_channel, np.tile(want, 2)),
                (typed_in.format("10,000"), 2 * np.pi / default_frequencies(d, 1e4)),
                (typed_in.format("1,000,000"), 2 * np.pi / default_frequencies(d, 1e6)),
                ("your slowest pair comes first; pair 0 is the fastest", want[::-1]),
                (last, 2 * np.pi * theta ** np.linspace(0, 1, d // 2)),
            ]
            yield Trial((d, theta), want, mistakes)

    return judge(answer, trials)


def _even_first(d: int) -> Array:
    """The order of channels that turns the interleaved layout into the half-split one."""
    return np.concatenate([np.arange(0, d, 2), np.arange(1, d, 2)])


def complex(answer: Answer) -> Verdict:
    """answer(x, positions, inv_freq): x (h, t, d), positions (t,), inv_freq (d/2,) -> x rotated."""

    def turned(x: Array, angles: Array) -> Array:
        return rotate(x[None], np.cos(angles)[None], np.sin(angles)[None])[0]

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        neighbours = "your pairs are neighbours (0, 1), but Qwen3 pairs channel j with j + d/2"
        for h, t, d in ((2, 5, 8), (3, 4, 12)):  # all sizes differ, so a wrong axis shows
            x, inv_freq = rng.normal(size=(h, t, d)), rng.uniform(0.2, 1.2, size=d // 2)
            positions = np.sort(rng.choice(np.arange(5, 40), size=t, replace=False))
            angles, order = positions[:, None] * inv_freq, _even_first(d)
            back, want = np.argsort(order), turned(x, angles)
            mistakes = [
                (neighbours, turned(x[..., order], angles)[..., back]),
                ("you pair j with j + d/2 but write the results as neighbours", want[..., back]),
                ("you turn backwards: multiply by exp(+i angle)", turned(x, -angles)),
                ("you count positions from 0; use those given", turned(x, np.outer(range(t), inv_freq))),
                ("your x comes back unturned", x),
            ]
            yield Trial((x, positions, inv_freq), want, mistakes)

    return judge(answer, trials)


def reorder(answer: Answer) -> Verdict:
    """answer(weight, num_heads): rows of an interleaved projection (h d, D) in half-split order."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for h, d in ((3, 8), (2, 12)):
            weight = rng.normal(size=(h * d, h * d))  # square, so that columns can be mistaken for rows
            heads, columns, order = weight.reshape(h, d, -1), weight.reshape(h * d, h, d), _even_first(d)
            back = heads[:, np.argsort(order)].reshape(h * d, -1)
            mistakes = [
                ("that is the way back, half-split to interleaved: the even rows go first", back),
                ("you reorder all rows at once; every head has its own", weight[_even_first(h * d)]),
                ("you move columns (inputs); q's channels are rows", columns[..., order].reshape(h * d, -1)),
                ("you move columns (inputs); q's channels are rows", weight[:, _even_first(h * d)]),
                ("your weight comes back as it was", weight),
            ]
            yield Trial((weight, h), heads[:, order].reshape(h * d, -1), mistakes)

    return judge(answer, trials)


def yarn(answer: Answer) -> Verdict:
    """answer(inv_freq, low, high, factor) -> inv_freq (d/2,), blended between pairs low and high."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        at_once = "you switch at once; between low and high the share of the slow one rises in a line"
        for pairs in (16, 24):
            low, high = int(rng.integers(3, 6)), int(rng.integers(9, 13))
            factor, pair = float(rng.uniform(5, 9)), np.arange(pairs)
            fast = default_frequencies(2 * pairs, 1e4)
            slow, line = fast / factor, (pair - low) / (high - low)
            ramp = np.clip(line, 0, 1)
            mistakes = [
                ("you slow every pair (position interpolation); pairs up to low keep their speed", slow),
                ("your ramp runs the wrong way: fast pairs stay", (1 - ramp) * slow + ramp * fast),
                ("you multiply by factor; longer contexts turn slower", fast * (1 + ramp * (factor - 1))),
                ("you always divide by 4; here it is factor", (1 - ramp) * fast + ramp * fast / 4),
                ("you blend wavelengths; YaRN blends frequencies", 1 / ((1 - ramp) / fast + ramp / slow)),
                ("your ramp leaves 0..1 outside low..high; clip it", (1 - line) * fast + line * slow),
                (at_once, np.where(pair < high, fast, slow)),
                (at_once, np.where(pair > low, slow, fast)),
            ]
            yield Trial((fast, low, high, factor), (1 - ramp) * fast + ramp * slow, mistakes, 1e-9)

    return judge(answer, trials)


def tables(answer: Answer) -> Verdict:
    """answer(positions, inv_freq, dtype) -> cos, sin (t, d/2) in dtype, right at position 40,000 too."""

    def tables(angles: torch.Tensor) -> Array:
        return np.stack([as_array(angles.double().cos()), as_array(angles.double().sin())])

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        short = "right in short texts only: your {} are rounded too early"
        inv_freq = torch.tensor(default_frequencies(64, float(rng.uniform(2e5, 2e6))))
        positions = torch.tensor(np.sort(rng.integers(30_000, 40_000, size=40)))
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            p, f = positions[:, None].to(dtype), inv_freq.to(dtype)
            want = np.stack(cos_sin(positions.numpy(), inv_freq.numpy()))
            mistakes = [
                ("cos comes first, sin second", want[::-1]),
                (short.format("angles"), tables(p * f)),
                (short.format("angles"), tables((positions[:, None] * inv_freq).to(dtype))),
                (short.format("positions"), tables(p.double() * inv_freq)),
                (short.format("frequencies"), tables(positions[:, None] * f.double())),
            ]
            yield Trial((positions, inv_freq, dtype), want, mistakes, 0.01, dtype)

    return judge(answer, trials)
