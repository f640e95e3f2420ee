"""Writing files whole or not at all, and saying in a sentence why that failed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, text as UTF-8 with "\\n" for line ends, in folders that are made if need be.

    It is written beside its place and moved there, so that a reader never meets half of it and a
    failure leaves the old file as it was. Raises OSError, in one sentence.
    """
    target = Path(path)
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
