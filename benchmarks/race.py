"""Contestants taking turns: one process each, one at a time, round by round; medians with their spread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import contestant
from benchmarks.worker import sentence

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Entrant:
    """Who runs: `family` is ours or a peer, `precision` how its weights are stored."""

    family: str
    precision: str
    kind: str
    arguments: dict[str, Any]
    python: str = sys.executable

    @property
    def name(self) -> str:
        return f"{self.family} {self.precision}"


@dataclass(frozen=True)
class Task:
    """A question to all of them. `amount`: how much work it is; the rate is amount over seconds. For a
    question whose answer is a rate already, None."""

    name: str
    question: str
    arguments: dict[str, Any] = field(default_factory=dict)
    amount: float | None = None


@dataclass
class Result:
    """The rates of one entrant in one task, a round each; what it was, and its peak memory in bytes."""

    entrant: str
    family: str
    precision: str
    task: str
    rates: list[float]
    how: str = ""
    peak: int = 0

    @property
    def median(self) -> float:
        return median(self.rates)


class Outside:
    """A contestant in a process of its own."""

    def __init__(self, entrant: Entrant, threads: int, directory: Path) -> None:
        command = [entrant.python, "-m", "benchmarks.worker", entrant.kind, json.dumps(entrant.arguments)]
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": path}
        self.log = open(directory / f"{entrant.name}.log".replace(" ", "_"), "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, encoding="utf-8", env=environment, cwd=ROOT,
        )  # fmt: skip
        self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with {self.process.wait()}; {self.log.name} says more")
        found = json.loads(line)
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["value"]

    def ask(self, question: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([question, arguments]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Inside:
    """A contestant in this process, for a quick try."""

    def __init__(self, entrant: Entrant) -> None:
        self.one = contestant(entrant.kind, entrant.arguments)

    def ask(self, question: str, **arguments: Any) -> Any:
        return 0 if question == "peak" else getattr(self.one, question)(**arguments)

    def close(self) -> None:
        del self.one


def race(
    entrants: Sequence[Entrant],
    tasks: Callable[[Entrant], list[Task]],
    *,
    runs: int,
    threads: int,
    directory: Path,
    inside: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Result], dict[str, str]]:
    """Every entrant's results in its tasks, and why some have none.

    The first round warms up (pages, caches, the choice among what a library offers) and does not count;
    every other round goes through the entrants backwards, so that none always follows the same one.
    """
    ready: dict[str, Any] = {}
    missing: dict[str, str] = {}
    results: dict[tuple[str, str], Result] = {}
    try:
        for e in entrants:
            say(f"loading {e.name}")
            try:
                outside = not inside or e.python != sys.executable
                ready[e.name] = Outside(e, threads, directory) if outside else Inside(e)
            except Exception as error:
                missing[e.name] = str(error) if isinstance(error, RuntimeError) else sentence(error)
        for turn in range(runs + 1):
            say(f"round {turn} of {runs}" if turn else "warming up")
            for e in entrants if turn % 2 else reversed(entrants):
                for task in tasks(e) if e.name in ready else []:
                    try:
                        found = ready[e.name].ask(task.question, **task.arguments)
                    except Exception as error:
                        missing[f"{e.name}, {task.name}"] = (
                            str(error) if isinstance(error, RuntimeError) else sentence(error)
                        )
                        continue
                    if isinstance(found, list | tuple):  # seconds, and the amount
                        rate = found[1] / found[0]
                    else:
                        rate = found if task.amount is None else task.amount / found
                    key = (e.name, task.name)
                    if key not in results:
                        results[key] = Result(e.name, e.family, e.precision, task.name, [])
                    if turn:
                        results[key].rates.append(rate)
        for e in entrants:
            if e.name in ready:
                try:
                    peak, how = ready[e.name].ask("peak"), ready[e.name].ask("about")
                except Exception:
                    continue
                for (name, _), result in results.items():
                    if name == e.name:
                        result.peak, result.how = peak, how
    finally:
        for one in ready.values():
            one.close()
    return [r for r in results.values() if len(r.rates) == runs], missing
