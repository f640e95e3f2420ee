"""Checks of 03_rope."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, habits, judge
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
                ("that is for degrees; speeds here are radians a token", 360 / turns),
                ("that is half a turn: a whole one is 2 pi radians", np.pi / turns),
                ("you count pairs from 1; pair 0 has the exponent 0", want * theta ** (2 / d)),
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
            back, want, swap = np.argsort(order), turned(x, angles), half(d)
            mirror = turned(x * np.repeat([1, -1], d // 2), angles)
            mistakes = [
                (neighbours, turned(x[..., order], angles)[..., back]),
                ("you pair j with j + d/2 but write the results as neighbours", want[..., back]),
                ("you turn backwards: multiply by exp(+i angle)", turned(x, -angles)),
                ("you count positions from 0; use those given", turned(x, np.outer(range(t), inv_freq))),
                ("your x comes back unturned", x),
                ("your angles lack the speeds: positions times inv_freq", turned(x, 0 * angles + 1)),
                ("you mirror x: the second half is the imaginary part, with a plus", mirror),
                ("the first half is the real part, the second imaginary", turned(x[..., swap], angles)),
                ("you count positions from the first; use those given", turned(x, angles - angles[:1])),
                ("you are a position further on; use those given", turned(x, angles + inv_freq)),
                ("your angles are radians already: no 2 pi", turned(x, 2 * np.pi * angles)),
                ("you turn every pair at the speed of the first", turned(x, 0 * angles + angles[:, :1])),
                ("the imaginary part goes behind the real one; yours stands before it", want[..., swap]),
            ]
            yield Trial((x, positions, inv_freq), want, mistakes)

    verdict = judge(answer, trials)
    trigonometry = sorted(habits(answer) & {"cos", "sin", "tan", "cosh", "sinh", "sincos"})
    if verdict and trigonometry:
        how = " and ".join(f"`{name}`" for name in trigonometry)
        return Verdict(False, f"right, but by {how}; let one multiplication by exp(i angle) do it")
    return verdict


def half(d: int) -> Array:
    """The order of channels with its halves exchanged."""
    return np.roll(np.arange(d), d // 2)


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
                ("the even rows go first, then the odd ones", heads[:, order[half(d)]].reshape(h * d, -1)),
                ("pairs are (0, 1), (2, 3): you exchange the two halves",
                 heads[:, half(d)].reshape(h * d, -1)),
                ("you exchange the two of a pair; both halves keep the order of the pairs",
                 heads[:, np.arange(d) ^ 1].reshape(h * d, -1)),
                ("you reorder the first head only", np.concatenate([heads[0][order], weight[d:]])),
                ("row i * d + c is channel c of head i; you read the rows as (d, heads, D)",
                 weight.reshape(d, h, -1)[order].reshape(h * d, -1)),
                ("you run through the channels from the end", heads[:, order[::-1]].reshape(h * d, -1)),
                ("right, but as (heads, d, D); wanted is (heads d, D)", heads[:, order]),
                ("the heads stay where they are: yours come out one row of each in turn",
                 heads[:, order].swapaxes(0, 1).reshape(h * d, -1)),
            ]  # fmt: skip
            yield Trial((weight, h), heads[:, order].reshape(h * d, -1), mistakes)

    return judge(answer, trials)


def yarn(answer: Answer) -> Verdict:
    """answer(head_dim, theta, trained, factor) -> YaRN's frequencies (d/2,)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        at_once = "you switch at once; between low and high the share of the slow one rises in a line"
        done = 0
        while done < 3:
            pairs, theta = int(rng.integers(28, 41)), float(10 ** rng.uniform(4, 5.5))
            trained, factor = int(rng.integers(6_000, 16_000)), float(rng.uniform(9, 13))
            fast, pair = default_frequencies(2 * pairs, theta), np.arange(pairs)

            def where(
                turns: float, length: int = trained, theta: float = theta, pairs: int = pairs
            ) -> float:
                """The index, not whole, of the pair that makes so many turns in so many tokens."""
                return float(pairs * np.log(length / (2 * np.pi * turns)) / np.log(theta))

            exact = where(32), where(1)
            low, high = int(np.floor(exact[0])), int(np.ceil(exact[1]))
            if not (0.2 < exact[0] % 1 < 0.8 and 0.2 < exact[1] % 1 < 0.8 and 2 < low and high < pairs - 2):
                continue  # each rounding has to show
            if not done and exact[0] % 1 < 0.5 < exact[1] % 1:
                continue  # and rounding to the nearest in the first trial
            done += 1

            def blend(
                low: float, high: float, slow: Array = fast / factor, clip: bool = True,
                fast: Array = fast, pair: Array = pair,
            ) -> Array:  # fmt: skip
                line = (pair - low) / (high - low)
                ramp = np.clip(line, 0, 1) if clip else line
                return np.asarray((1 - ramp) * fast + ramp * slow)

            slow = fast / factor
            ramp = np.clip((pair - low) / (high - low), 0, 1)
            turns = np.clip((trained * fast / (2 * np.pi) - 1) / 31, 0, 1)
            far = int(trained * factor)
            radians = (pairs * np.log(trained / n) / np.log(theta) for n in (32, 1))
            mistakes = [
                ("you slow every pair (position interpolation); pairs up to low keep their speed", slow),
                ("your ramp runs the wrong way: fast pairs stay", (1 - ramp) * slow + ramp * fast),
                ("you multiply by factor; longer contexts turn slower", blend(low, high, fast * factor)),
                ("you always divide by 4; here it is factor", blend(low, high, fast / 4)),
                ("low and high are Qwen3's, 23 and 40; here they follow from what is given", blend(23, 40)),
                ("you blend wavelengths; YaRN blends frequencies", 1 / ((1 - ramp) / fast + ramp / slow)),
                ("your ramp leaves 0..1 outside low..high; clip it", blend(low, high, clip=False)),
                (at_once, np.where(pair < high, fast, slow)),
                (at_once, np.where(pair > low, slow, fast)),
                ("low is rounded down and high up; you round neither", blend(*exact)),
                ("low is rounded down and high up; you round both down", blend(low, high - 1)),
                ("low is rounded down and high up; you round both up", blend(low + 1, high)),
                ("low is rounded down and high up; you do it the other way round", blend(low + 1, high - 1)),
                ("your ramp is straight in turns, as in the paper; the code's is straight in the index",
                 turns * fast + (1 - turns) * slow),
                ("count turns in the trained length, not in the longer one",
                 blend(np.floor(where(32, far)), np.ceil(where(1, far)))),
                ("the attention factor goes to cos and sin, not to the frequencies",
                 blend(low, high) * (0.1 * np.log(factor) + 1)),
                ("that is NTK-aware scaling, another theta; YaRN blends two speeds",
                 default_frequencies(2 * pairs, theta * factor ** (pairs / (pairs - 1)))),
                ("blend straight: (1 - r) of one speed and r of the other, not their powers",
                 fast ** (1 - ramp) * slow**ramp),
                ("your low and high are twice too large: count pairs, not channels",
                 blend(*_outwards(2 * exact[0], 2 * exact[1]))),
                ("that is a wavelength; wanted are frequencies", 2 * np.pi / blend(low, high)),
                ("you count radians: a turn is 2 pi of them", blend(*_outwards(*radians))),
            ]  # fmt: skip
            yield Trial((2 * pairs, theta, trained, factor), blend(low, high), mistakes, 1e-9)

    return judge(answer, trials)


def _outwards(low: float, high: float) -> tuple[float, float]:
    return float(np.floor(low)), float(np.ceil(high))


def tables(answer: Answer) -> Verdict:
    """answer(positions, inv_freq, dtype) -> cos, sin (t, d/2) in dtype, right at position 40,000 too."""

    def tables(angles: torch.Tensor) -> Array:
        return np.stack([as_array(angles.double().cos()), as_array(angles.double().sin())])

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        short = "right in short texts only: your {} are rounded too early"
        inv_freq = torch.tensor(default_frequencies(64, float(rng.uniform(2e5, 2e6))))
        positions = torch.tensor(np.sort(rng.integers(30_000, 40_000, size=40)))
        near = torch.arange(0, 480, 12)
        for dtype in (torch.bfloat16, torch.float16, torch.float32, None):
            # The last: nearby, where float32 angles will do, and cosines must not be rounded to 16 bits.
            dtype, positions, tolerance = (dtype, positions, 0.01) if dtype else (torch.float32, near, 1e-4)
            p, f = positions[:, None].to(dtype), inv_freq.to(dtype)
            want = np.stack(cos_sin(positions.numpy(), inv_freq.numpy()))
            mistakes = [
                ("cos comes first, sin second", want[::-1]),
                (short.format("angles"), tables(p * f)),
                (short.format("angles"), tables((positions[:, None] * inv_freq).to(dtype))),
                (short.format("positions"), tables(p.double() * inv_freq)),
                (short.format("frequencies"), tables(positions[:, None] * f.double())),
                ("float32 is asked for, and your tables were rounded to 16 bits on the way",
                 as_array(torch.tensor(want).bfloat16())),
                ("float32 is asked for, and your tables were rounded to 16 bits on the way",
                 as_array(torch.tensor(want).half())),
                ("you turn backwards: the sine has the wrong sign", want * [[[1]], [[-1]]]),
                ("cos comes first, sin second: yours are twice the same", want[[0, 0]]),
                ("you count positions from the first; use those given",
                 tables((positions - positions[0])[:, None] * inv_freq)),
                ("you count positions from 0; use those given",
                 tables(torch.arange(40).double()[:, None] * inv_freq)),
                ("one value a pair is wanted, (t, d/2); yours come twice",
                 np.tile(np.stack(cos_sin(positions.numpy(), inv_freq.numpy())), 2)),
                ("your angles are turns; they are radians",
                 tables(positions[:, None] * inv_freq / (2 * np.pi))),
            ]  # fmt: skip
            yield Trial((positions, inv_freq, dtype), want, mistakes, tolerance, dtype)

    return judge(answer, trials)
