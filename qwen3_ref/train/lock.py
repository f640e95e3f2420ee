"""One process at a time in a directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from qwen3_ref.store.files import cannot_write
from qwen3_ref.train.errors import TrainingError

LOCK = ".lock"


@contextlib.contextmanager
def only_process(directory: Path) -> Iterator[None]:
    """Hold `directory`, made if need be, for the length of the block. The system gives the lock back
    when its process ends, however it ends; the file is taken away, and the directory if it was made
    here and stays empty.

    Raises TrainingError if another process holds it, OSError in a sentence if it cannot be written to.
    """
    made = not directory.exists()
    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OSError(cannot_write(directory, error)) from error
    with file:
        try:
            _lock(file)
        except OSError:
            raise TrainingError(
                f"another process is training in {directory}; wait for it, or choose another directory."
            ) from None
        try:
            try:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")  # for people; and a full disk shows now, not after an hour
                file.flush()
            except OSError as error:
                raise OSError(cannot_write(directory, error)) from error
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            if made:
                with contextlib.suppress(OSError):
                    directory.rmdir()


def _lock(file: IO[str]) -> None:
    """Raises OSError if another process has it."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
        raise OSError("the file was taken away by the process that had it")
