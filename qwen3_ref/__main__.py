"""`python -m qwen3_ref`, and the command `qwen3-ref`: see `commands/`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: KeyboardInterrupt, but in the middle of an import the end of the process, with code 130.

    What an import runs may swallow an exception, or take it for one of its own.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def start() -> int:
    """Run the command line; returns the exit code. Ctrl-C is quiet from here to the end of the process."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as by nohup
    try:
        if ours:
            signal.signal(signal.SIGINT, _interrupt)
        from qwen3_ref.commands.line import main

        code = main()
    except KeyboardInterrupt:
        code = 130
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    return code


if __name__ == "__main__":
    sys.exit(start())
