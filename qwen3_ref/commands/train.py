"""Train the nano family, stage by stage.

Every stage reads the model that the stage before it left in OUT/STAGE/model, and leaves its own there in
the official layout, with log.csv (the run) and summary.json (seed, versions, time, what was measured)
beside it. A stage that was stopped goes on from its last saved state: Ctrl-C saves what is done, a killed
process loses half a minute. `all` runs what has not run yet and then writes OUT/family, the checkpoints
as the package has them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from qwen3_ref.commands.common import Misuse, at_least
from qwen3_ref.train.errors import Interrupted, TrainingError

ALL, FAMILY = "all", "family"
LOGS = Path(__file__).resolve().parents[1] / "data" / "nano" / "logs"
"""Of the run that made the shipped weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    parser.add_argument("family", choices=["nano"], metavar="nano", help="the only family there is")
    parser.add_argument("--stage", default=ALL, help="one stage, all (the default), or family")
    parser.add_argument("--out", type=Path, default=Path("nano"), help="directory (./nano)")
    parser.add_argument("--seed", type=at_least(0, 2**32), default=0, help="(default: 0)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="all step counts times this (1)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")


def _scale(text: str) -> float:
    if not 0 < float(text) <= 10:  # NaN is neither
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 10")
    return float(text)


_scale.__name__ = "float"  # which argparse puts into its message


def command(args: argparse.Namespace, out: Console) -> int:
    """Run one stage or all of them, each with a line when it begins and when it is done."""
    print(f"train nano: stage {args.stage}, into {args.out}; PyTorch is being loaded.", flush=True)
    import torch

    from qwen3_ref.measure.card import write_cards
    from qwen3_ref.train.export import export
    from qwen3_ref.train.lock import only_process
    from qwen3_ref.train.run import Run
    from qwen3_ref.train.stages import SHIPPED, STAGES, find_stage, run_stage

    torch.set_num_threads(1)  # layers so small gain nothing from more, and the bits would depend on it
    run = Run(args.out, args.seed, args.scale, args.precision, args.allow_other_text)
    names = list(STAGES) if args.stage == ALL else [args.stage] if args.stage != FAMILY else []
    try:
        stages = [find_stage(name) for name in names]
    except TrainingError as error:
        raise Misuse(str(error)) from None
    done = [s.name for s in stages if args.stage == ALL and (run.out / s.name / "summary.json").exists()]
    with only_process(run.out):
        if len(stages) > 1:
            left = [stage.name for stage in stages if stage.name not in done]
            print(f"{len(left)} stages to run, {_time(left, run.scale)}", flush=True)
        for stage in stages:
            if stage.name in done:
                print(f"{stage.name}: done before")
                continue
            base = f"from {stage.base}" if stage.base else "from new weights"
            told = f"{stage.steps(run)} steps {base}, {_time([stage.name], run.scale)}"
            print(f"{stage.name}: {told}", flush=True)
            try:
                run_stage(run, stage.name)
            except KeyboardInterrupt:  # outside the loop that saves
                raise Interrupted(
                    f"stopped while {stage.name} was made ready or measured; finished steps are kept, and "
                    f"the same command goes on."
                ) from None
            seconds = json.loads((run.out / stage.name / "summary.json").read_text("utf-8"))["seconds"]
            print(f"{stage.name}: {run.out / stage.name / 'model'} after {seconds:.0f} s", flush=True)
        if args.stage in (ALL, FAMILY):
            export(run)
            write_cards(run.out / FAMILY)
            print(f"{', '.join(SHIPPED)}: {run.out / FAMILY}")
    return 0


def _time(names: list[str], scale: float) -> str:
    """How long stages take, by the logs of the shipped run and half a minute to get ready."""
    spent = [json.loads((LOGS / name / "summary.json").read_text("utf-8"))["seconds"] for name in names]
    minutes = (30 + scale * sum(spent)) / 60
    return f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"
