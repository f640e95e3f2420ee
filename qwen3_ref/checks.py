"""Checks for the exercises of the course: one function an exercise, named <notebook>_<exercise>.

A check calls the student's function with inputs drawn afresh each time and answers with one line: "ok",
or what is wrong and why. It raises nothing. Known mistakes are computed from the same inputs, so that
an answer that equals one of them can be told which it is; the inputs are chosen so that they differ
plainly. Calling the package's own function instead of writing one is noticed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_ref.compare import as_array
from qwen3_ref.numpy_ref import rotate
from qwen3_ref.rope import cos_sin, default_frequencies

Answer = Callable[..., Any]
Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a check found: `ok`, and the `line` that a notebook shows. True when ok."""

    ok: bool
    line: str

    def __repr__(self) -> str:
        return self.line

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Trial:
    """One call of the answer: its arguments, what it should return, and what known mistakes return.

    mistakes: (remark, the array that this mistake gives). tolerance: absolute, in units of `want`,
    beside a relative one of 1e-4. dtype: of the returned tensors, where the exercise asks for one.
    """

    arguments: tuple[Any, ...]
    want: Array
    mistakes: list[tuple[str, Array]]
    tolerance: float = 1e-6
    dtype: torch.dtype | None = None

    def same(self, got: Array, other: Array) -> bool:
        return got.shape == other.shape and np.allclose(got, other, rtol=1e-4, atol=self.tolerance)


def judge(answer: Answer, trials: Callable[[np.random.Generator], Iterator[Trial]]) -> Verdict:
    """The first remark that a trial gives rise to, or ok. The generator is seeded by the system."""
    for trial in trials(np.random.default_rng()):
        remark = _remark(answer, trial)
        if remark:
            return Verdict(False, remark)
    return Verdict(True, "ok")


def _remark(answer: Answer, trial: Trial) -> str:
    """What is wrong with the answer to one trial, or ""."""
    if not callable(answer):
        return "pass the function itself, not what it returns: check(f), not check(f(x))"
    given = copy.deepcopy(trial.arguments)
    borrowed: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.partition(".")[0] in ("qwen3_ref", "transformers"):
            borrowed.append(f"{module}.{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        value = answer(*given)
    except NotImplementedError:
        return "not written yet"
    except Exception as error:  # whatever a student's code raises is told, not raised
        return f"your function raises {type(error).__name__}: {error}"
    finally:
        sys.setprofile(before)
    if borrowed:
        return f"that calls {borrowed[0]}; write it yourself, then compare with it"
    if value is None or value is ...:
        return "not written yet: it returns nothing"
    return _changed(given, trial.arguments) or _judged(value, trial)


def _changed(now: tuple[Any, ...], before: tuple[Any, ...]) -> str:
    for i, (a, b) in enumerate(zip(now, before, strict=True)):
        if isinstance(b, (np.ndarray, torch.Tensor)) and not np.array_equal(as_array(a), as_array(b)):
            return f"your function overwrites its argument number {i + 1}; work on a copy"
    return ""


def _judged(value: Any, trial: Trial) -> str:
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    try:
        got = np.stack([as_array(v) for v in parts]) if value is not parts[0] else as_array(value)
        got = got if np.iscomplexobj(got) else got.astype(np.float64)
    except (TypeError, ValueError):
        return f"an array of numbers is wanted, not {type(value).__name__}"
    if np.iscomplexobj(got):
        return "your result is complex; wanted are real numbers, its real and its imaginary parts"
    if not trial.same(got, trial.want):
        for remark, wrong in trial.mistakes:
            if trial.same(got, wrong):
                return remark
        if got.shape != trial.want.shape:
            return f"your result has the shape {got.shape}; wanted is {trial.want.shape}"
        close = np.isclose(got, trial.want, rtol=1e-4, atol=trial.tolerance)
        first = np.unravel_index(np.argmin(close), got.shape)
        where = ", ".join(map(str, first))
        return f"at [{where}] your result is {got[first]:.5g} and should be {trial.want[first]:.5g}"
    kinds = [v.dtype for v in parts if isinstance(v, torch.Tensor)]
    if trial.dtype is not None and any(kind != trial.dtype for kind in kinds):
        return f"the numbers are right but come as {kinds[0]}; {trial.dtype} was asked for"
    return ""


# -- 03: RoPE -------------------------------------------------------------------------------------


def rope_wavelengths(answer: Answer) -> Verdict:
    """answer(head_dim, theta) -> (head_dim / 2,) tokens for one full turn."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for d in map(int, 2 * rng.integers(4, 17, size=3)):
            theta = float(rng.uniform(50, 5000))  # not 10,000 or 1,000,000: those may be typed in
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


def rope_complex(answer: Answer) -> Verdict:
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


def rope_reorder(answer: Answer) -> Verdict:
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
                ("your weight comes back as it was", weight),
            ]
            yield Trial((weight, h), heads[:, order].reshape(h * d, -1), mistakes)

    return judge(answer, trials)


def rope_yarn(answer: Answer) -> Verdict:
    """answer(inv_freq, low, high, factor) -> inv_freq (d/2,), blended between pairs low and high."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        at_once = "you switch at once; between low and high the share of the slow one rises in a line"
        for pairs in (16, 24):
            low, high = int(rng.integers(3, 6)), int(rng.integers(9, 13))
            factor, pair = float(rng.uniform(3, 9)), np.arange(pairs)
            fast = default_frequencies(2 * pairs, 1e4)
            slow, line = fast / factor, (pair - low) / (high - low)
            ramp = np.clip(line, 0, 1)
            mistakes = [
                ("you slow every pair (position interpolation); pairs up to low keep their speed", slow),
                ("your ramp runs the wrong way: fast pairs stay", (1 - ramp) * slow + ramp * fast),
                ("you multiply by factor; longer contexts turn slower", fast * (1 + ramp * (factor - 1))),
                ("you blend wavelengths; YaRN blends frequencies", 1 / ((1 - ramp) / fast + ramp / slow)),
                ("your ramp leaves 0..1 outside low..high; clip it", (1 - line) * fast + line * slow),
                (at_once, np.where(pair < high, fast, slow)),
                (at_once, np.where(pair > low, slow, fast)),
            ]
            yield Trial((fast, low, high, factor), (1 - ramp) * fast + ramp * slow, mistakes, 1e-9)

    return judge(answer, trials)


def rope_tables(answer: Answer) -> Verdict:
    """answer(positions, inv_freq, dtype) -> cos, sin (t, d/2) in dtype, right at position 40,000 too."""

    def tables(angles: torch.Tensor) -> Array:
        return np.stack([as_array(angles.double().cos()), as_array(angles.double().sin())])

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        short = "right in short texts only: your {} are rounded too early"
        inv_freq = torch.tensor(default_frequencies(64, float(rng.uniform(2e5, 2e6))))
        positions = torch.tensor(np.sort(rng.integers(30_000, 40_000, size=40)))
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            p, f = positions[:, None].to(dtype), inv_freq.to(dtype)
            mistakes = [
                (short.format("angles"), tables(p * f)),
                (short.format("positions"), tables(p.double() * inv_freq)),
                (short.format("frequencies"), tables(positions[:, None] * f.double())),
            ]
            want = np.stack(cos_sin(positions.numpy(), inv_freq.numpy()))
            yield Trial((positions, inv_freq, dtype), want, mistakes, 0.01, dtype)

    return judge(answer, trials)
