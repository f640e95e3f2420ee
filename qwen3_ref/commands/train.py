"""Train the nano family, stage by stage.

Every stage reads the model that the stage before it left in OUT/STAGE/model, and leaves its own there in
the official layout, with log.csv (the run) and summary.json (seed, versions, time, what was measured)
beside it. A stage that was stopped goes on from its last saved state. `all` runs what has not run yet
and then writes OUT/family, the checkpoints as the package has them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    parser.add_argument("family", choices=["nano"])
    parser.add_argument("--stage", default="all", help="one stage, all (the default), or family")
    parser.add_argument("--out", type=Path, default=Path("nano"), help="directory (./nano)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="all step counts times this")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")


def command(args: argparse.Namespace, out: Console) -> int:
    """Run one stage or all of them, each with a line when it is done."""
    import torch

    from qwen3_ref.train.export import export
    from qwen3_ref.train.run import Run
    from qwen3_ref.train.stages import ALL, FAMILY, SHIPPED, STAGES, run_stage

    torch.set_num_threads(1)  # layers so small gain nothing from more, and the bits would depend on it
    run = Run(args.out, args.seed, args.scale, args.precision, args.allow_other_text)
    for name in list(STAGES) if args.stage == ALL else [args.stage] if args.stage != FAMILY else []:
        if args.stage == ALL and (run.out / name / "summary.json").exists():
            print(f"{name}: done before")
            continue
        run_stage(run, name)
        seconds = json.loads((run.out / name / "summary.json").read_text("utf-8"))["seconds"]
        print(f"{name}: {run.out / name / 'model'} after {seconds:.0f} s")
    if args.stage in (ALL, FAMILY):
        export(run)
        print(f"{', '.join(SHIPPED)}: {run.out / FAMILY}")
    return 0
