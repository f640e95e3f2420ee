"""What commands show, letter by letter: in a terminal, in a narrow one, and in a file."""

from __future__ import annotations

import argparse
import io
from typing import Any

import pytest
from rich.console import Console

from qwen3_ref.commands import verify
from qwen3_ref.commands.common import narrow
from qwen3_ref.official.verify import Finding

FOUND = [
    Finding("weights", "passed", "2 tensors"),
    Finding(
        "tokenizer", "failed", "its vocabulary is of another model, and the words go on and on to the end"
    ),
    Finding("logits", "not checked", "no golden"),
]


def shown(found: list[Finding], monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, list[str]]:
    """Exit code and lines of `verify`, without colours and spaces at the end."""
    monkeypatch.setattr(verify, "verify", lambda _: found)
    text = io.StringIO()
    code = verify.command(
        argparse.Namespace(model="qwen3-nano"),
        Console(file=text, color_system=None, highlight=False, **options),
    )
    return code, [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_terminal_has_columns_and_wraps_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(FOUND, monkeypatch, width=100, force_terminal=True) == (1, [
        "passed       weights                          2 tensors",
        "failed       tokenizer                        its vocabulary is of another model, and the words go",
        "                                              on and on to the end",
        "not checked  logits                           no golden",
        "1 passed, 1 failed, 1 not checked",
    ])  # fmt: skip


def test_a_narrow_one_has_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(FOUND, monkeypatch, width=50, force_terminal=True) == (1, [
        "passed: weights",
        "  2 tensors",
        "failed: tokenizer",
        "  its vocabulary is of another model, and the",
        "  words go on and on to the end",
        "not checked: logits",
        "  no golden",
        "1 passed, 1 failed, 1 not checked",
    ])  # fmt: skip
    widths = {width: narrow(Console(width=width)) for width in (79, 80)}
    assert widths == {79: True, 80: False}


def test_a_file_has_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    detail = FOUND[1].detail
    assert shown(FOUND, monkeypatch, width=100, force_terminal=False) == (1, [
        "passed      weights                                    2 tensors",
        f"failed      tokenizer                                  {detail}",
        "not checked logits                                     no golden",
        "1 passed, 1 failed, 1 not checked",
    ])  # fmt: skip


def test_something_must_have_been_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [shown(found, monkeypatch)[0] for found in (FOUND[:1], FOUND[::2], FOUND[2:], [])]
    assert codes == [0, 0, 1, 1]
