"""Reading files within bounds, writing them whole or not at all, and saying in a sentence why that failed."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from qwen3_ref.store.errors import quoted

UNFINISHED = ".unfinished"
"""The folder in which a checkpoint is written, until it takes its place."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_VALUES = 1_500_000  # in one JSON text: two and a half times those of the official tokenizer.json


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, if it is one: a pipe would wait for ever and a device may never end.

    Raises OSError with its file name and the reason, as `open` does.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "Is a directory" if path.is_dir() else "it is a device or a pipe, not a file"
        raise OSError(errno.EINVAL, kind, str(path))
    return path.open("rb")


def require_path(value: object, what: str = "the directory") -> str:
    """The path as text. Raises ValueError, in one sentence, for what is none: nothing, or "", which `Path`
    would take for the current directory."""
    if value is None:
        raise ValueError(
            f"{what} is None; find_official gives None for what is not on this machine, and "
            f"`python -m qwen3_ref fetch NAME` brings it here."
        )
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        way_out = "'.' is the current directory" if text == "" else "give a path as a string or a Path"
        raise ValueError(f"{what} is {quoted(value)}, which is no path; {way_out}.")
    return text


def read_within(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes. Raises OSError as `open_regular` does, ValueError for a longer one."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_json(path: Path, most: int) -> Any:
    """The JSON of a file of at most `most` bytes. Raises OSError, and ValueError as `parse_json` does."""
    return parse_json(read_within(path, most))


def disguise(beginning: bytes) -> str | None:
    """What a download that went wrong has left in the place of a file, and the way out; None if neither."""
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, whose file `git lfs pull` brings"
    if beginning.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, so download the file itself"
    return None


def parse_json(content: bytes) -> Any:
    """JSON of bounded depth, number of values and digits, judged before it costs memory or time, with no
    key twice in one object, in UTF-8. Raises ValueError with the reason."""
    if sum(map(content.count, (b"[", b"{", b","))) > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
    if other := disguise(content[:200]):
        raise ValueError(other)
    if content.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it begins with a byte order mark, so save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
        values = json.loads(text, object_pairs_hook=no_key_twice, parse_int=_whole, parse_float=_fraction)
        if re.search(r"\\u[dD]", text):  # half a character: no other reader of JSON takes it
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        return values
    except RecursionError:
        raise ValueError("its lists are too deep") from None


def _whole(digits: str) -> int:
    if len(digits) > 30:
        raise ValueError(f"it holds a whole number of {len(digits):,} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > 400:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return float(digits)


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different; ValueError for a repeated one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it gives {quoted(twice)} twice")
    return values


def cut_off(directory: Path) -> str | None:
    """The way out where a save was killed and left no checkpoint, else None."""
    if not (directory / UNFINISHED).is_dir():
        return None
    return f"it holds {UNFINISHED}, what a save that was killed has left, so save again, which removes that"


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, text as UTF-8 with "\\n" for line ends, in folders that are made if need be.

    It is written beside its place and moved there, so that a reader never meets half of it and a
    failure leaves the old file as it was. Raises OSError, and ValueError for no path, in one sentence.
    """
    target = Path(require_path(path, "the file"))
    temporary = target.with_name(target.name + ".tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(cannot_write(target, error)) from error


def cannot_write(path: Path, error: Exception, room: str = "make room") -> str:
    """The sentence for a failed write; `room` is the way out where the disk is full."""
    inner = error.__cause__ or error  # where write_atomically has made a sentence of it already
    code = getattr(inner, "errno", None)
    if code is None and (match := re.search(r"os error (\d+)", str(inner))):  # safetensors' spelling
        code = int(match[1])
    way_out = room if code in _FULL else "check permissions"
    reason = getattr(inner, "strerror", None) or inner
    return f"{path} cannot be written ({reason}); {way_out} or choose another directory."
