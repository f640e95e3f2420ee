"""Train the nano family, stage by stage.

Every stage reads the model that the stage before it left in OUT/STAGE/model, and leaves its own there in
the official layout, with log.csv (the run) and summary.json (seed, versions, time, what was measured)
beside it. A stage that was stopped goes on from its last saved state: Ctrl-C saves what is done, a killed
process loses half a minute. `all` runs what has not run yet and then writes OUT/family, the checkpoints
as the package has them. A bar shows how far a stage is, or where stderr is no terminal, lines do.
All of it took 24 minutes on an H100 (`--device cuda`); one thread of a server CPU needs hours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from qwen3_ref.commands.common import Misuse, at_least
from qwen3_ref.store.progress import on_terminal
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.lock import only_process
from qwen3_ref.train.names import ALL, EXTRA_NAMES, FAMILY, STAGE_NAMES, require_stage

if TYPE_CHECKING:
    from qwen3_ref.parallel.plan import Ranks

LOGS = Path(__file__).resolve().parents[1] / "data" / "nano" / "logs"
"""Of the run that made the shipped weights."""
LOOP = "qwen3_ref.train.loop"
"""The logger of the loop, by its name: the loop itself needs PyTorch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    parser.add_argument("family", choices=["nano"], metavar="nano", help="the only family there is")
    stages = ", ".join([*STAGE_NAMES, *EXTRA_NAMES])
    parser.add_argument("--stage", default=ALL, help=f"all (the default), family, or one of {stages}")
    parser.add_argument("--out", type=Path, default=Path("nano"), help="directory (./nano)")
    parser.add_argument("--seed", type=at_least(0, 2**32), default=0, help="(default: 0)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="all step counts times this (1)")
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="of pre-training and fine-tuning (auto: bf16 where the device multiplies in it, else fp32)",
    )
    parser.add_argument("--device", default="cpu", help="where PyTorch computes: cpu (the default), or cuda")
    parser.add_argument(
        "--parallel",
        metavar="MESH",
        help="train on several ranks, as in dp=2,tp=2 (dp, fsdp, ep and tp, whose product is how many): "
        "torchrun --nproc-per-node 4 -m qwen3_ref train nano --stage s1 --parallel dp=2,tp=2",
    )
    parser.add_argument(
        "--official",
        type=Path,
        metavar="DIRECTORY",
        help="train nothing: write the weights of the --stage's state, saved on several ranks, to DIRECTORY "
        "in the official layout",
    )
    parser.add_argument("--allow-other-text", action="store_true", help="if the sources changed")


def _scale(text: str) -> float:
    if not 0 < float(text) <= 10:  # NaN is neither
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 10")
    return float(text)


_scale.__name__ = "float"  # which argparse puts into its message


def command(args: argparse.Namespace, out: Console) -> int:
    """Run one stage or all of them, each with a line when it begins and when it is done."""
    try:
        require_stage(args.stage, ALL, FAMILY)
    except TrainingError as error:
        raise Misuse(str(error)) from None
    if args.official is not None:
        from qwen3_ref.train.parallel import saved_weights

        saved_weights(args.out / args.stage).save_pretrained(args.official)
        print(f"{args.stage}: {args.official}")
        return 0
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if args.parallel is not None:
        return _on_ranks(args, world)
    if world > 1:
        way = f"say how they share the work, such as --parallel dp={world}"
        raise Misuse(f"torchrun has started {world} processes; {way}.")
    with only_process(args.out), _progress_in_lines():
        print(
            f"train nano: stage {args.stage}, into {args.out}. Ctrl-C saves every finished step, and a "
            f"killed process loses half a minute. PyTorch is being loaded.",
            flush=True,
        )
        _train(args)
    return 0


def _on_ranks(args: argparse.Namespace, world: int) -> int:
    """One rank's part of it. The first one speaks, writes and holds the directory."""
    from qwen3_ref.cluster import Mesh

    try:
        mesh = Mesh.of(args.parallel)
    except ValueError as error:
        raise Misuse(str(error)) from None
    if args.stage in (ALL, FAMILY):
        raise Misuse("--parallel trains one stage at a time; name it with --stage, such as s1.")
    if mesh.ranks != world:
        start = f"torchrun --nproc-per-node {mesh.ranks} -m qwen3_ref train nano --parallel {mesh}"
        raise Misuse(f"the mesh {mesh} has {mesh.ranks} ranks and there are {world}; start it with {start}.")
    import torch.distributed as dist

    from qwen3_ref.parallel.plan import Ranks

    rank = int(os.environ["RANK"]) if world > 1 else 0
    if world == 1:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    kind = "cuda" if args.device.startswith("cuda") else "cpu"
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    with contextlib.ExitStack() as stack:
        if rank:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        else:
            stack.enter_context(only_process(args.out))
            stack.enter_context(_progress_in_lines())
            print(f"train nano: stage {args.stage} on {world} ranks, {mesh}, into {args.out}.", flush=True)
        _train(args, Ranks(mesh, kind))
    dist.destroy_process_group()
    return 0


def _train(args: argparse.Namespace, ranks: Ranks | None = None) -> None:
    import torch

    from qwen3_ref.cache import require_device
    from qwen3_ref.measure.card import write_cards
    from qwen3_ref.train.export import export
    from qwen3_ref.train.run import Run, precision_here
    from qwen3_ref.train.stages import SHIPPED, find_stage, run_stage

    torch.set_num_threads(1)  # layers so small gain nothing from more, and the bits would depend on it
    device = str(require_device(args.device))
    asked = args.precision, "as asked for"
    precision, why = precision_here(device) if args.precision == "auto" else asked
    print(f"precision {precision}: {why}", flush=True)
    run = Run(args.out, args.seed, args.scale, precision, args.allow_other_text, device, ranks)
    if ranks is not None:
        if ranks.rank == 0:
            _ = run.tokenizer  # learned once, where nobody has it yet
        ranks.wait()
    names = STAGE_NAMES if args.stage == ALL else [args.stage] if args.stage != FAMILY else []
    done = [name for name in names if args.stage == ALL and (run.out / name / "summary.json").exists()]
    if len(names) > 1:
        left = [name for name in names if name not in done]
        print(f"{len(left)} stages to run, {_time(left, run.scale)}", flush=True)
    for stage in map(find_stage, names):
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
        if ranks is not None:
            ranks.wait()
        seconds = json.loads((run.out / stage.name / "summary.json").read_text("utf-8"))["seconds"]
        print(f"{stage.name}: {run.out / stage.name / 'model'} after {seconds:.0f} s", flush=True)
    if args.stage in (ALL, FAMILY):
        export(run)
        write_cards(run.out / FAMILY)
        print(f"{', '.join(SHIPPED)}: {run.out / FAMILY}")


class _Lines(logging.Handler):
    """A line on stdout for each record; unlike logging's own, it lets a full disk be an error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


@contextlib.contextmanager
def _progress_in_lines() -> Iterator[None]:
    """What the loop says of its steps goes to stdout, where its bar does not show."""
    log, lines = logging.getLogger(LOOP), _Lines()
    if not on_terminal():
        log.addHandler(lines)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(logging.NOTSET)


def _time(names: list[str], scale: float) -> str:
    """How long stages take, by the logs of the shipped run and half a minute to get ready, and where."""
    logs = [LOGS / name / "summary.json" for name in names]
    if not all(log.exists() for log in logs):
        return "for a time that no run has measured"
    found = [json.loads(log.read_text("utf-8")) for log in logs]
    minutes = (30 + scale * sum(summary["seconds"] for summary in found)) / 60
    time = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"
    return f"{time} on {' and '.join(sorted({summary['device'] for summary in found}))}"
