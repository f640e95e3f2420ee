"""Checks for the exercises of the course: one file a notebook, one function an exercise.

A check calls the student's function with inputs drawn afresh each time and answers with one line: "ok",
or what is wrong and why. It raises nothing. Known mistakes are computed from the same inputs, so that
an answer that equals one of them can be told which it is; the inputs are chosen so that they differ
plainly. Calling the package's own function instead of writing one is noticed.
"""

from __future__ import annotations

import copy
import dis
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from types import CodeType, FrameType, FunctionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_ref.course.compare import as_array

Answer = Callable[..., Any]
Array = NDArray[Any]
Wrong = list[tuple[str, Array]]
"""Known mistakes: the remark, and what the mistake gives."""


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

    want: numbers, or an array of strings where a list of texts is asked for. mistakes: (remark, the
    array that this mistake gives). tolerance: absolute, in units of `want`, beside a relative one of
    1e-4. dtype: of the returned tensors, where the exercise asks for one. about: what helps to read a
    remark that names no mistake.
    """

    arguments: tuple[Any, ...]
    want: Array
    mistakes: Wrong
    tolerance: float = 1e-6
    dtype: torch.dtype | None = None
    about: str = ""

    def same(self, got: Array, other: Array) -> bool:
        return got.shape == other.shape and np.allclose(got, other, 1e-4, self.tolerance, equal_nan=True)


def apart(make: Callable[[], tuple[tuple[Any, ...], Array, Wrong]], tolerance: float = 1e-6) -> Trial:
    """A trial whose right answer and mistakes all differ plainly, drawn until they do; of mistakes with
    one remark it is enough that they differ from the rest."""
    for _ in range(20_000):
        trial = Trial(*make(), tolerance)
        values = [("", trial.want), *trial.mistakes]
        if not any(a != b and _close(x, y) for (a, x), (b, y) in combinations(values, 2)):
            return trial
    raise AssertionError("no inputs tell these mistakes apart")


def _close(x: Array, y: Array) -> bool:
    return x.shape == y.shape and np.allclose(x, y, rtol=1e-2, atol=1e-3)


def judge(
    answer: Answer, trials: Callable[[np.random.Generator], Iterator[Trial]], whole: bool = False
) -> Verdict:
    """ok, or what is wrong. The generator is seeded by the system.

    All trials are drawn three times, since by chance a wrong answer may give what is wanted, or what another
    mistake gives: only an answer that is right in every draw is ok, and a mistake is named if most of the
    draws in which the answer is wrong name it.

    whole: where results are few, one of them is what many mistakes give. A mistake is named only if it gives
    the answer's result in every trial.
    """
    remarks, names = [], Counter[str]()
    for _ in range(3):
        remark, kind = _first(answer, trials, whole)
        if kind == "unfit":
            return Verdict(False, remark)
        if remark:
            remarks.append(remark)
            names[remark if kind == "known" else ""] += 1
        if 2 in names.values():
            break
    if not remarks:
        return Verdict(True, "ok")
    most = max(names, key=lambda name: (names[name], bool(name)))
    return Verdict(False, most or next(remark for remark in remarks if remark not in names))


def _first(
    answer: Answer, trials: Callable[[np.random.Generator], Iterator[Trial]], whole: bool
) -> tuple[str, str]:
    """The first remark of one draw, and its kind: "known" if it names a mistake for what it gives, "unfit" if
    the function cannot be judged by what it returns."""
    drawn = trials(np.random.default_rng())
    some = list(drawn) if whole else drawn
    for trial in some:
        remark, kind = _remark(answer, trial)
        if kind == "known" and whole:
            names = (name for name, _ in trial.mistakes if all(_gives(answer, t, name) for t in some))
            name = next(names, "")
            return (name, kind) if name else _remark(answer, replace(trial, mistakes=[]))
        if remark:
            return remark, kind
    return "", ""


def _gives(answer: Answer, trial: Trial, name: str) -> bool:
    """Whether the mistake of this name gives the answer's result; where it is not among the trial's mistakes
    it gives what is wanted."""
    known = [array for remark, array in trial.mistakes if remark == name] or [trial.want]
    return any(not _remark(answer, replace(trial, want=array, mistakes=[]))[0] for array in known)


def _remark(answer: Answer, trial: Trial) -> tuple[str, str]:
    """What is wrong with the answer to one trial, or "", and the kind of the remark: see `_first`."""
    if not callable(answer):
        return "pass the function itself, not what it returns: check(f), not check(f(x))", "unfit"
    given = copy.deepcopy(trial.arguments)
    borrowed: list[str] = []
    lent = [getattr(argument, "__code__", None) for argument in given]  # functions to work with

    def watch(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        ours = module.partition(".")[0] in ("qwen3_ref", "transformers") and frame.f_code not in lent
        if event == "call" and ours:
            borrowed.append(f"{module}.{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        value = answer(*given)
    except NotImplementedError:
        return "not written yet", "unfit"
    except Exception as error:  # whatever a student's code raises is told, not raised
        return f"your function raises {type(error).__name__}: {error}", ""
    finally:
        sys.setprofile(before)
    if borrowed:
        return f"that calls {borrowed[0]}; write it yourself, then compare with it", "unfit"
    if value is None or value is ...:
        return "not written yet: it returns nothing", "unfit"
    if changed := _changed(given, trial.arguments):
        return changed, "unfit"
    remark = _judged(value, trial)
    return remark, "known" if any(remark == name for name, _ in trial.mistakes) else ""


def habits(answer: Answer) -> set[str]:
    """Names of all that the code of an answer reaches for, and "a loop" if it goes round anywhere.

    For exercises that forbid a road, not a result. Functions of the student's own are followed; names
    under which something was imported count under its own name too.
    """
    found: set[str] = set()
    left = [(getattr(answer, "__code__", None), getattr(answer, "__globals__", {}))]
    done: set[CodeType] = set()
    while left:
        code, scope = left.pop()
        if code is None or code in done:
            continue
        done.add(code)
        found.update(code.co_names)
        jumps = (i for i in dis.get_instructions(code) if i.opcode in (*dis.hasjrel, *dis.hasjabs))
        if any(isinstance(jump.argval, int) and jump.argval <= jump.offset for jump in jumps):
            found.add("a loop")
        left += [(inner, scope) for inner in code.co_consts if isinstance(inner, CodeType)]
        for known in (scope.get(name) for name in code.co_names):
            found.add(getattr(known, "__name__", ""))
            if isinstance(known, FunctionType) and known.__module__ == getattr(answer, "__module__", ""):
                left.append((known.__code__, known.__globals__))
    return found


def _changed(now: tuple[Any, ...], before: tuple[Any, ...]) -> str:
    for i, (a, b) in enumerate(zip(now, before, strict=True)):
        arrays = isinstance(b, (np.ndarray, torch.Tensor))
        if arrays and not np.array_equal(as_array(a), as_array(b), equal_nan=True):
            return f"your function overwrites its argument number {i + 1}; work on a copy"
        if isinstance(b, dict) and list(a) != list(b):
            return f"your function changes the dictionary that is its argument number {i + 1}; work on a copy"
        if isinstance(b, list) and all(isinstance(item, int) for item in b) and a != b:
            return f"your function changes the list that is its argument number {i + 1}; make a new one"
    return ""


def _judged(value: Any, trial: Trial) -> str:
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    if trial.want.dtype.kind == "U":
        return _judged_texts(parts, trial)
    try:
        got = np.stack([as_array(v) for v in parts]) if value is not parts[0] else as_array(value)
        if got.dtype.kind in "US":
            return f"an array of numbers is wanted, not {type(parts[0]).__name__}"
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
        where = f"at [{', '.join(map(str, first))}] " if first else ""
        about = f" ({trial.about})" if trial.about else ""
        return f"{where}your result is {got[first]:.5g} and should be {trial.want[first]:.5g}{about}"
    kinds = [v.dtype for v in parts if isinstance(v, torch.Tensor)]
    if trial.dtype is not None and any(kind != trial.dtype for kind in kinds):
        return f"the numbers are right but come as {kinds[0]}; {trial.dtype} was asked for"
    return ""


def _judged_texts(parts: list[Any], trial: Trial) -> str:
    """`_judged` for a list of strings."""
    strangers = [part for part in parts if not isinstance(part, str)]
    if strangers:
        return f"a list of strings is wanted; yours holds {type(strangers[0]).__name__}"
    want = trial.want.tolist()
    if parts == want:
        return ""
    for remark, wrong in trial.mistakes:
        if parts == wrong.tolist():
            return remark
    pairs = zip([*parts, "nothing"], [*want, "nothing"], strict=False)
    first, (got, wanted) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"at [{first}] your list has {got!r} and should have {wanted!r}"
