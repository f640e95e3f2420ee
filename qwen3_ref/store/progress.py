"""One progress bar, for whatever takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")


def on_terminal() -> bool:
    """Whether a bar on stderr is seen by anybody."""
    return sys.stderr is not None and sys.stderr.isatty()


def progress(items: Iterable[T], what: str = "Loading weights", after: float = 1.0) -> Iterator[T]:
    """Iterate, with a progress bar on stderr once it has taken `after` seconds; none where stderr is
    not a terminal (a pipe, a notebook, a test)."""
    if not on_terminal() or not isinstance(items, Sized):
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    start, bar = time.monotonic(), None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > after:
                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task(what, total=len(items))
                bar.start()
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()
