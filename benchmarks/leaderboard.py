"""The class' leaderboard: run an entry and verify it, `python -m benchmarks.leaderboard ENTRY`.

ENTRY is the folder of a run, with a summary.json of every stage that was trained, as `train nano` writes
them, and entry.json, {"name": ..., "model": the folder of the checkpoint in it}. The rules are in
leaderboard.md. Prints the entry's row, or the reason why it has none.
"""

from __future__ import annotations

import argparse
import math
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3_ref.measure.statistics import wilson
from qwen3_ref.store.files import read_json

MOST_PARAMETERS = 2_500_000
LEAST_RIGHT = 50.0
"""Percent right from which an entry is ranked: a model that learned nothing is infinitely quick."""
HEADER = (
    "| entry | parameters | % right, thinking | seed | CPU-minutes | % right a CPU-minute |\n"
    "|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Score:
    """An entry that was run: `minutes` is None where a stage was not trained on a CPU."""

    name: str
    parameters: int
    right: int
    problems: int
    seed: int
    minutes: float | None

    @property
    def percent(self) -> float:
        """Of all problems."""
        return 100 * self.right / self.problems

    @property
    def ratio(self) -> float | None:
        """What the list is sorted by; None for what is not ranked."""
        ranked = self.minutes and self.percent >= LEAST_RIGHT
        return self.percent / self.minutes if ranked and self.minutes else None

    def row(self) -> str:
        """The line of the table."""
        low, high = (100 * share for share in wilson(self.right / self.problems, self.problems))
        minutes = "not on a CPU" if self.minutes is None else f"{self.minutes:.1f}"
        ratio = "not ranked" if self.ratio is None else f"{self.ratio:.2f}"
        right = f"{self.percent:.1f} ({low:.1f} to {high:.1f})"
        return f"| {self.name} | {self.parameters:,} | {right} | {self.seed} | {minutes} | {ratio} |"


def minutes_of(entry: Path) -> float | None:
    """CPU-minutes of all stages, from the summaries that their runs left; None if one ran elsewhere.

    Raises ValueError if there are none, or if one does not say.
    """
    files = sorted(entry.rglob("summary.json"))
    if not files:
        raise ValueError(f"{entry} has no summary.json: training minutes are those that `train nano` noted.")
    total, elsewhere = 0.0, False
    for file in files:
        stage = read_json(file, 1_000_000)
        seconds = stage.get("cpu_seconds") if isinstance(stage, dict) else None
        if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"{file} states no cpu_seconds above 0.")
        total += seconds / 60
        elsewhere = elsewhere or stage.get("device") != "cpu"
    return None if elsewhere else total


def checkpoint_of(entry: Path) -> tuple[str, Path]:
    """The name of an entry and where its checkpoint lies, as entry.json has them.

    Raises ValueError for an entry.json that does not say, or points elsewhere.
    """
    about = read_json(entry / "entry.json", 100_000)
    name, model = (about.get("name"), about.get("model")) if isinstance(about, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(model, str):
        raise ValueError(
            f"{entry / 'entry.json'} has to hold a name and a model, the folder of the checkpoint."
        )
    place = (entry / model).resolve()
    if not place.is_relative_to(entry.resolve()) or not place.is_dir():
        raise ValueError(f"{model!r} is no folder in {entry}.")
    return " ".join(name.replace("|", "/").split()), place


def run(entry: Path, seed: int, count: int) -> Score:
    """Measure an entry on `count` fresh problems of each family.

    Raises ValueError in one sentence for an entry that breaks a rule.
    """
    import torch

    from qwen3_ref.measure.accuracy import BATCH, evaluate
    from qwen3_ref.model import Qwen3
    from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
    from qwen3_ref.tokenizer import Tokenizer

    if seed == TEST_SEED:
        raise ValueError(f"seed {seed} draws the problems of the published numbers; take another one.")
    name, directory = checkpoint_of(entry)
    minutes = minutes_of(entry)
    model, tokenizer = Qwen3.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    parameters = model.config.num_parameters()
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters are more than {MOST_PARAMETERS:,}.")
    torch.set_num_threads(1)
    problems = [p for family in FAMILIES for p in make_problems(family, "test", count, seed=seed)]
    rows = evaluate(model, tokenizer, problems, max_new_tokens=128, batch_size=BATCH)
    right = sum(row.correct for row in rows)
    return Score(name, parameters, right, len(rows), seed, minutes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the row; 2 and a sentence for an entry that breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("entry", type=Path, metavar="ENTRY")
    parser.add_argument(
        "--seed", type=int, help="of the problems (default: drawn now, so that nobody knows it)"
    )
    parser.add_argument("--count", type=int, default=100, help="problems of each family (default: 100)")
    asked = parser.parse_args(arguments)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    try:
        if asked.count < 1:
            raise ValueError(f"--count is {asked.count}; give 1 or more.")
        score = run(asked.entry, seed, asked.count)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{HEADER}\n{score.row()}")
    if score.minutes is not None and score.percent < LEAST_RIGHT:
        print(f"Not ranked: below {LEAST_RIGHT:.0f}% right.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
