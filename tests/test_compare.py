"""How the course shows a comparison, and tests of counts, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers

from qwen3_ref.course.compare import as_array, compare, comparison_table, official_model
from qwen3_ref.measure.statistics import chi_square
from tests.helpers import reference


def test_a_line_says_what_and_how_near() -> None:
    one = compare("logits", torch.ones(2, 3), np.full((2, 3), 1 + 5e-6), atol=1e-5)
    assert str(one) == f"{'logits':<46} {'2x3':>16}  max diff {'< 1e-05':>9}  ok"
    assert one.ok and one.shape == (2, 3) and one.max_difference == pytest.approx(5e-6)
    assert one.require() is one
    exact = compare("a number", 2.0, 2.0, atol=0)
    assert str(exact) == f"{'a number':<46} {'scalar':>16}  max diff {'= 0':>9}  ok"
    off = compare("ids", [1, 2], [1, 4], atol=0)
    assert str(off) == f"{'ids':<46} {'2':>16}  max diff {'2.00e+00':>9}  DIFFERENT"
    with pytest.raises(AssertionError, match=r"DIFFERENT \(tolerance 0.0e\+00\)$"):
        off.require()
    assert comparison_table([one, off, exact]) == f"{one}\n{off}\n{exact}\n2 of 3 agree"


def test_shapes_nan_and_infinities() -> None:
    wide = compare("x", np.ones((1, 2)), np.ones(2), atol=1.0)
    assert not wide.ok and wide.what == "x: shapes (1, 2) and (2,)" and wide.max_difference == math.inf
    empty = compare("x", [], [], atol=0.5)
    assert empty.ok and (empty.shape, empty.max_difference, empty.tolerance) == ((0,), 0.0, 0.5)
    nan, inf = math.nan, math.inf
    for got, want, ok in (
        ([nan, 1], [nan, 1], True), ([nan], [1], False), ([1], [nan], False), ([inf], [inf], True),
        ([inf], [-inf], False), ([inf], [1], False), ([-inf, 2], [-inf, 2], True),
    ):  # fmt: skip
        assert compare("x", got, want, atol=0.1).ok is ok, (got, want)
    assert compare("x", [1 + 1e-12], [1 + 1e-12], atol=0).ok and not compare("x", [1 + 1e-12], [1], atol=0).ok
    assert compare("x", [110.0], [100.0], atol=0, rtol=0.1).ok
    assert not compare("x", [100.0], [-1.0], atol=0, rtol=0.1).ok
    assert not compare("x", [0.0, inf], [1.0, inf], atol=0.5, rtol=0.1).ok
    assert as_array(torch.tensor([True, False])).dtype == bool
    assert as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float64
    assert as_array(torch.ones(2, dtype=torch.int32)).dtype == np.int32


def test_chi_square_by_hand() -> None:
    """A coin that fell 60 times of 100 on one side: 4.00 and, from tables, 0.0455."""
    found = chi_square([60, 40], [0.5, 0.5])
    assert found.statistic == pytest.approx(4) and found.freedom == 1
    assert found.p_value == pytest.approx(0.0455, abs=5e-5)
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-12)
    # Cells of which 2, 2 and 3 are expected are one, which then holds 7; 43 and 50 stand by themselves.
    cells = chi_square([1, 4, 2, 43, 50], [0.02, 0.02, 0.03, 0.43, 0.5])
    assert cells.freedom == 2 and cells.statistic == pytest.approx(0)
    assert cells.p_value == pytest.approx(1)
    assert chi_square([95, 5], [0.95, 0.05]).freedom == 1, "five expected are enough"
    assert chi_square([5, 1], [1.0, 0.0]) == (math.inf, 0, 0.0)
    assert chi_square([3], [1.0]) == (0.0, 0, 1.0)
    assert chi_square([5, 0], [1.0, 0.0]).p_value == 1
    for counts, shares in (([1], [0.5, 0.5]), ([0, 0], [0.5, 0.5]), ([1, 1], [0.5, 0.4])):
        with pytest.raises(ValueError, match="as many probabilities as counts, a sum of 1, and counts"):
            chi_square(counts, shares)


def test_transformers_is_quiet_in_a_notebook(capfd: pytest.CaptureFixture[str]) -> None:
    """And its attention is the one that can be looked at."""
    directory, words = reference("dense")[0], transformers.utils.logging
    capfd.readouterr()
    words.set_verbosity_info()
    words.enable_progress_bar()
    try:
        model = official_model(directory)
        assert words.get_verbosity() == words.ERROR and not words.is_progress_bar_enabled()
    finally:
        words.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
    assert not model.training and model.dtype == torch.float32
    assert model.config._attn_implementation == "eager"
    assert official_model(directory, torch.bfloat16).dtype == torch.bfloat16
