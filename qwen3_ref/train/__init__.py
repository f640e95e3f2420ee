"""The nano family's training: `python -m qwen3_ref train nano --stage NAME`.

Every stage reads the model that the stage before it left in `OUT/<stage>/model`, and leaves its own
there in the official layout, with `log.csv` (the run) and `summary.json` (seed, versions, time, what
was measured) beside it. A stage that was stopped goes on from its last saved state. `all` runs what
has not run yet and then writes `OUT/family`, the checkpoints as the package has them.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from qwen3_ref.checkpoint import CheckpointError
from qwen3_ref.files import write_atomically
from qwen3_ref.train import text
from qwen3_ref.train.checkpoint import STATE, Interrupted, TrainingError
from qwen3_ref.train.run import Run
from qwen3_ref.train.stages import EXTRA, SHIPPED, STAGES
from qwen3_ref.weights import finish_nano

ALL, FAMILY = "all", "family"
NAMES = f"{', '.join([*STAGES, *EXTRA])}; {ALL}; {FAMILY}"


def run_stage(run: Run, name: str) -> None:
    """Run one stage, or go on with it, and write its model, log and summary.

    Raises TrainingError, in a sentence, for an unknown stage or one whose forerunner has not run.
    """
    stage = (STAGES | EXTRA).get(name)
    if stage is None:
        raise TrainingError(f"there is no stage {name!r}; there are {NAMES}.")
    folder = run.out / name
    spent = folder / "seconds.json"  # of the calls before this one, if the stage was stopped
    before = json.loads(spent.read_text("utf-8")) if spent.exists() else [0.0, 0.0]
    wall, cpu = time.monotonic() - before[0], time.process_time() - before[1]
    try:
        model, measured = stage(run, name)
    except BaseException:
        if folder.is_dir():
            write_atomically(spent, json.dumps([time.monotonic() - wall, time.process_time() - cpu]))
        raise
    model.save_pretrained(folder / "model")
    run.tokenizer.save_pretrained(folder / "model")
    summary = {
        "stage": name,
        "seed": run.seed,
        "scale": run.scale,
        "precision": run.precision,
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("torch", "numpy", "tokenizers", *text.PACKAGES)},
        **measured,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    for left in (spent, folder / STATE):
        left.unlink(missing_ok=True)


def export(run: Run) -> None:
    """Write `OUT/family`, as the package has it: the checkpoints in bfloat16 with tokenizer, chat
    template and generation settings, the logs of every stage that has run, and what was measured."""
    family = run.out / FAMILY
    models = {name: run.model(stage) for name, stage in SHIPPED.items()}  # all there, or nothing is written
    for name, model in models.items():
        model.bfloat16().save_pretrained(family / name)
        run.tokenizer.save_pretrained(family / name)
        finish_nano(family / name)
    for path in (run.out / "measured").glob("*.json"):
        (family / "measured").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, family / "measured" / path.name)
    for stage in STAGES | EXTRA:
        for file in ("log.csv", "held_out.csv", "summary.json"):
            if (run.out / stage / file).exists():
                (family / "logs" / stage).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.out / stage / file, family / "logs" / stage / file)


def main(argv: Sequence[str]) -> int:
    """The command `train`; returns the exit code: 0 done, 1 failed, 130 interrupted (and ready to go
    on). Errors are one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="qwen3_ref train", description=__doc__)
    parser.add_argument("family", choices=["nano"])
    parser.add_argument("--stage", default=ALL, help=NAMES)
    parser.add_argument("--out", type=Path, default=Path("nano"), help="directory (./nano)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="all step counts times this")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")
    options = vars(parser.parse_args(argv))
    stage, _ = options.pop("stage"), options.pop("family")
    torch.set_num_threads(1)  # layers so small gain nothing from more, and the bits would depend on it
    try:
        run = Run(**options)
        for name in list(STAGES) if stage == ALL else [stage] if stage != FAMILY else []:
            if stage == ALL and (run.out / name / "summary.json").exists():
                print(f"{name}: done before")
                continue
            run_stage(run, name)
            seconds = json.loads((run.out / name / "summary.json").read_text("utf-8"))["seconds"]
            print(f"{name}: {run.out / name / 'model'} after {seconds:.0f} s")
        if stage in (ALL, FAMILY):
            export(run)
            print(f"{', '.join(SHIPPED)}: {run.out / FAMILY}")
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0
