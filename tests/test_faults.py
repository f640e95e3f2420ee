"""Every known bug, switched on, must make the ordinary suite fail. See tests/faults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.faults import EQUIVALENT, FAULTS, Fault, switched_on
from tests.faults.checks import caught_by, passes_again, weak_test_passes
from tests.faults.rows import ABSENT, LAST_ROW

TABLE = json.loads((Path(__file__).parent / "faults" / "kill_table.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_caught(fault: Fault) -> None:
    """A check fails while the fault is on, passes when it is off again, and the table says so."""
    caught = caught_by(fault)
    assert caught is not None, f"no check sees {fault.name} (rows {fault.rows}): {fault.words}"
    passes_again(caught)
    (row,) = [row for row in TABLE["faults"] if row["name"] == fault.name] or [None]
    weak = "passes" if weak_test_passes(fault) else "fails"
    found = dict(name=fault.name, rows=fault.rows, words=fault.words, module=fault.module)
    assert row == found | dict(caught_by=caught, weak_test=weak), (
        "the table is stale; run python -m tests.faults --json tests/faults/kill_table.json"
    )


@pytest.mark.parametrize("part", range(2))
def test_equivalent_mutants_are_equivalent(part: int) -> None:
    """The whole suite passes with them on; if a check fails, the reason given for one of them is wrong."""
    together = EQUIVALENT[part::2]
    assert caught_by(*together) is None, [fault.name for fault in together]


def test_every_row_is_accounted_for() -> None:
    """Rows 1 to 39 of the list of known bugs: a fault, or a reason for its absence; never both."""
    stood_for = {row for fault in FAULTS for row in re.findall(r"\d+", fault.rows)}
    assert stood_for.isdisjoint(ABSENT)
    assert stood_for | set(ABSENT) == {str(row) for row in range(1, LAST_ROW + 1)}
    names = [fault.name for fault in (*FAULTS, *EQUIVALENT)]
    assert len(names) == len(set(names))
    assert [row["name"] for row in TABLE["faults"]] == [fault.name for fault in FAULTS]
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(FAULTS)} of {len(FAULTS)} today" in readme


def test_the_switch_puts_everything_back() -> None:
    """Also when the code under the fault raises; and the wrong code runs behind every reference."""
    from qwen3_ref import config, moe
    from qwen3_ref.model import route  # imported by value

    fault = Fault(name="x", words="", module="moe", right="    if normalize:\n", wrong="    if 1 / 0:\n")
    right = moe.route.__code__
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), switched_on(fault):
            import torch

            route(torch.zeros(1, 3), 2, True)
        assert route.__code__ is right
    right_text, wrong_text = (f'"hidden_act": "{name}",\n}}' for name in ("silu", "gelu"))
    constant = Fault(name="y", words="", module="config", right=right_text, wrong=wrong_text)
    with switched_on(constant):
        assert config._FIXED["hidden_act"] == "gelu"
    assert config._FIXED["hidden_act"] == "silu"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("no such text", "", "stands 0 times"),
        ("return ", "", "times in moe, not once"),
        ("    if normalize:\n", "    if normalize:  # a comment\n", "changes nothing"),
    ],
)
def test_a_fault_that_no_longer_fits_is_loud(old: str, new: str, words: str) -> None:
    fault = Fault(name="x", words="", module="moe", right=old, wrong=new)
    with pytest.raises(LookupError, match=words), switched_on(fault):
        raise AssertionError("the fault was accepted")
