"""The process of one contestant: a question a line comes in as JSON, and an answer goes out.

python -m benchmarks.worker KIND ARGUMENTS THREADS        (JSON; started by `race`)
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import contestant


def peak() -> int:
    """The most bytes that this process ever held, file pages included."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        return 1024 * int(found[1]) if found else 0
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def sentence(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def main() -> None:
    """Make the contestant, then answer until the input ends."""
    kind, arguments, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    start = time.perf_counter()
    try:
        if kind != "llama":
            import torch

            torch.set_num_threads(threads)
        one = contestant(kind, arguments)
    except Exception as error:
        say(error=sentence(error))
        return
    say(value=time.perf_counter() - start)
    for line in sys.stdin:
        question, given = json.loads(line)
        try:
            say(value=peak() if question == "peak" else getattr(one, question)(**given))
        except Exception as error:
            say(error=sentence(error))


if __name__ == "__main__":
    main()
