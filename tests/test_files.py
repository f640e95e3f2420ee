"""Files are written whole or not at all; what fails says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from qwen3_ref.config import Qwen3Config
from qwen3_ref.store.errors import reason
from qwen3_ref.store.files import cannot_write, parse_json, write_atomically
from qwen3_ref.tokenizer import Tokenizer


def test_numbers_have_bounded_digits() -> None:
    assert parse_json(b"[0." + b"5" * 398 + b", " + b"9" * 30 + b"]")[1] == 10**30 - 1
    for number, words in ((b"0." + b"5" * 399, "a number of 401 digits"), (b"9" * 31, "whole number of 31")):
        with pytest.raises(ValueError, match=words):
            parse_json(b"[" + number + b"]")


def test_a_long_reason_is_cut() -> None:
    assert reason(ValueError("x" * 200)) == "x" * 200
    assert reason(ValueError("x" * 201)) == "x" * 197 + "..."


def test_text_and_bytes_arrive_in_new_folders(tmp_path: Path) -> None:
    for content, want in (("é\n", b"\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff")):
        write_atomically(tmp_path / "a" / "b", content)
        assert (tmp_path / "a" / "b").read_bytes() == want
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failure_leaves_the_old_file_alone(step: str, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old", encoding="utf-8")
    monkeypatch.setattr(Path if step == "write_bytes" else os, step, fail)
    with pytest.raises(OSError, match=r"a cannot be written \(No space left on device\); make room or"):
        write_atomically(tmp_path / "a", "new")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "check permissions"),
        (OSError(errno.EROFS, "Read-only file system"), "check permissions"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "make room"),
        (SafetensorError("I/O error: Permission denied (os error 13)"), "check permissions"),
    ],
)
def test_the_way_out_fits_the_reason(error: Exception, way_out: str) -> None:
    assert cannot_write(Path("there"), error).endswith(f"; {way_out} or choose another directory.")
    inside = OSError("a sentence")  # what write_atomically raises in somebody else's write
    inside.__cause__ = error
    assert cannot_write(Path("there"), inside) == cannot_write(Path("there"), error)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: Qwen3Config.named("Qwen3-0.6B").to_json(folder / "config.json"),
        lambda folder: Tokenizer.train(["ab"], 300).save_pretrained(folder),
    ],
    ids=["config", "tokenizer"],
)
def test_writers_say_it_in_a_sentence(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"\.json cannot be written \(.*\); check permissions or") as caught:
        write(tmp_path / "file")
    assert "Errno" not in str(caught.value)
