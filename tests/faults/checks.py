"""The checks that faults are held against: the parity suite by name, and any test by address.

A check is "logits_dense" (a name in parity.CHECKS) or an address of a test, "test_generate:test_x"
(every parametrised case in turn) or "test_generate:test_x[value]" (those cases in which an argument is
that); "fresh test_tokenizer:test_x" empties the module's caches first, for faults in how a thing is
built. Modules are imported when asked for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.config import ConfigError
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.store.checkpoint import CheckpointError
from tests.faults.switch import Fault, forget, switched_on
from tests.helpers import DENSE, MOE, official_model, scratch, token_ids
from tests.parity import CHECKS, SLOW
from tests.passed import SECONDS

FAST = [name for name in CHECKS if name not in SLOW]
# What a failing check may raise. Anything else (a NameError, say) is a fault written wrongly.
# RuntimeWarning: NumPy's overflow, which is an error under pytest.
CAUGHT = (AssertionError, CheckpointError, ConfigError, RuntimeWarning, pytest.fail.Exception)

_SOUND: dict[str, float] = {}
"""Checks that passed without a fault in this process, and how many seconds each took."""


def run(check: str) -> None:
    """Run one check; it raises if it fails."""
    if ":" not in check:
        CHECKS[check]()
        return
    address, _, value = check.removesuffix("]").partition("[")  # a value may have blanks
    fresh, _, address = address.rpartition(" ")
    name, _, test_name = address.partition(":")
    module = importlib.import_module(f"tests.{name}")
    test = getattr(module, test_name)
    cases = [case for case in _cases(test) if not value or value in map(str, case.values())]
    if not cases:
        raise LookupError(f"{test_name} has no case {value}; bring the fault up to date with its test.")
    if fresh:
        forget(module)
    try:
        for arguments in cases:
            if "tmp_path" in inspect.signature(test).parameters:
                with tempfile.TemporaryDirectory() as folder:
                    test(**arguments, tmp_path=Path(folder))
            else:
                test(**arguments)
    finally:
        if fresh:
            forget(module)


def _cases(test: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each case of a test, as pytest's parametrize marks give them."""
    sets: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names, values = mark.args
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows = [getattr(value, "values", value) if len(names) > 1 else (value,) for value in values]
        sets.append([dict(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*sets):
        yield {name: value for part in chosen for name, value in part.items()}


def _has_passed(check: str) -> bool:
    """Whether all cases of a check have passed in this process, as tests of the ordinary suite."""
    address = check.partition("[")[0].rpartition(" ")[2]
    seconds = SECONDS.get(address, [])
    name, colon, test_name = address.partition(":")
    test = getattr(sys.modules.get(f"tests.{name}"), test_name, None)
    if not seconds or colon and len(seconds) < sum(1 for _ in _cases(test)):
        return False
    _SOUND[check] = sum(seconds)
    return True


def caught_by(fault: Fault, *others: Fault) -> str | None:
    """The first check that fails with the fault on (and others): those it names, then the whole suite.

    The named ones run without the fault first (once a process, as part of the suite or here): they must
    pass, else they would "catch" everything, and what they cache must be right.
    """
    named = [check for one in (fault, *others) for check in one.by]
    for check in named:
        if check not in _SOUND and not _has_passed(check):
            start = time.monotonic()
            run(check)
            _SOUND[check] = time.monotonic() - start
    with switched_on(fault, *others):
        for check in [*named, *(name for name in FAST if name not in named)]:
            try:
                run(check)
            except CAUGHT:
                return check
    return None


NOT_IN_A_PASS = frozenset(
    "fast tokenizer chat calls reply decode official tasks parallel train measure engines course commands".split()
)
"""What no comparison of logits runs."""


def passes_again(check: str) -> None:
    """Run a check that caught a fault, now off, once more: nothing of it may be left. Those of seconds
    are spared, the ordinary suite runs them."""
    if _SOUND.get(check, 0.0) < 1.0:
        run(check)


@functools.cache
def _weak_reference(kind: str) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """(checkpoint, ids (1, 8), transformers' logits) of a model as a config makes it: gains 1, untied,
    head_dim = hidden / heads, 8 tokens."""
    settings = (DENSE if kind == "dense" else MOE) | dict(
        num_hidden_layers=2, head_dim=8, tie_word_embeddings=False
    )
    model = official_model(settings, hardened=False)
    directory = scratch() / f"weak_{kind}"
    model.save_pretrained(directory)
    ids = token_ids(DENSE["vocab_size"], (1, 8))
    with torch.no_grad():
        return directory, ids, model(ids).logits


def weak_test_passes(fault: Fault) -> bool:
    """Whether a parity test in the usual fashion lets the fault through.

    It is what a well-known teaching repository ships: a freshly initialised model of hidden size 32
    with 4 heads of 8 and 8 tokens, here dense and MoE, PyTorch and NumPy, at that test's 1e-5.
    """
    if fault.module.partition(".")[0] in NOT_IN_A_PASS:
        return True
    for kind in ("dense", "moe"):
        directory, ids, logits = _weak_reference(kind)
        with switched_on(fault):
            try:
                with torch.no_grad():
                    ours = Qwen3.from_pretrained(directory)(ids)
                told = torch.from_numpy(NumpyQwen3.from_pretrained(directory, np.float32)(ids.numpy()))
            except Exception:  # whatever it is, such a test would have failed
                return False
        for got in (ours, told):
            alike = got.shape == logits.shape and got.dtype == logits.dtype
            if not alike or not torch.allclose(got, logits, atol=1e-5, rtol=1e-5):
                return False
    return True
