"""An engine in a process of its own: questions go in as JSON, a line each, and answers come out."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

SECONDS = 600
"""For one answer; the first, in which the engine loads and may convert the checkpoint, too."""
_WORKER = Path(__file__).with_name("worker.py")


class PeerError(Exception):
    """An engine that did not answer: the sentence has its own last words."""


class Peer:
    """`Peer(python, runner, **given)` starts `runners/RUNNER.py` there and makes its `Engine(**given)`."""

    def __init__(self, python: Path, runner: str, *, threads: int = 1, **given: Any) -> None:
        # It sees its own packages and nothing of the caller's, asks no hub, and stays on the processor.
        left_out = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
        count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            [str(python), "-P", str(_WORKER), runner], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, encoding="utf-8",
            env={k: v for k, v in os.environ.items() if k not in left_out} | count | {
                "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONNOUSERSITE": "1",
                "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8",
            },
        )  # fmt: skip
        try:
            self.about: dict[str, str] = self.ask("about", threads=threads, **given)
        except BaseException:
            self.close()
            raise

    def ask(self, question: str, **given: Any) -> Any:
        """The answer. Raises PeerError if there is none: an error, a process that ended, no time left."""
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(SECONDS, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps([question, given]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:  # it has gone
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            code = self.process.wait()
            why = f"took more than {SECONDS} seconds" if late else f"ended with {code} ({self._last()})"
            raise PeerError(f"its process {why}, asked for {question}")
        found = json.loads(line)
        if "error" in found:
            raise PeerError(found["error"])
        return found["value"]

    def _last(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return lines[-1][:200] if lines else "it says nothing"

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
