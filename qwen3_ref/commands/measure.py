"""The measured table of the nano family: what each training stage changed.

Each row of the table holds two stages of one run against each other, on problems of the test split
that are drawn with a seed of their own. ROW is one of:

  pretraining   loss by domain after each stage; retrieval at 1, 2 and 4 times the S1 length
  reasoning     cold start and GRPO: pass@1, pass@8, accuracy by step
  fusion        thinking kept, non-thinking obeyed, accuracy at six thinking budgets
  general       mode-following, tool calls, lengths, the price in accuracy; translation by pair
  distillation  a student taught and one rewarded, from the same beginning
  experts       routing statistics of the trained MoE, beside those of models whose routers never learned
  all           every one of them
  spread        what was measured in several runs of other seeds: the mean, the lowest and the highest
  table         what was measured, as one Markdown table
  check         what was measured against what every run of the recipe must reach
  decisions     Qwen3's decisions, each an experiment with small models: the verdicts; with --arm, arms
                measured again in ./decisions and the verdicts that follow from them

Answers go to RUN/measured/ROW/*.csv as they come, results to RUN/measured/ROW.json. A command that was
stopped goes on from its answers. Without --run, RUN is ./nano. Where there is none, `table` and `check`
take the results that come with the package, and rows are measured on the checkpoints that come with it,
laid out in ./nano-shipped: `experts` whole, of the others what needs no further stage. `spread` takes two
runs or more, and writes RUN/measured/spread.json into the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from qwen3_ref.commands.common import Misuse, at_least
from qwen3_ref.measure.names import ROW_NAMES, require_row
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.lock import only_process

SHIPPED_RESULTS = Path(__file__).resolve().parents[1] / "data" / "nano" / "measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `measure`."""
    parser.add_argument("row", metavar="ROW", help="see above")
    what = "the --out of `train nano` (default: ./nano); of `spread` several"
    parser.add_argument("--run", type=Path, nargs="+", help=what)
    arms = "of `decisions`: train and measure these arms, by name or by decision, or all"
    parser.add_argument("--arm", nargs="+", help=arms)
    parser.add_argument("--seed", type=at_least(0, 2**32), nargs="+", help="of --arm (default: 0 1 2)")
    parser.add_argument("--allow-other-text", action="store_true", help="of --arm: if the sources changed")


def command(args: argparse.Namespace, out: Console) -> int:
    """Measure, print the table or check; returns the exit code, 1 if something is missing or missed."""
    require_row(args.row, "all", "table", "check", "spread", "decisions")
    if args.row != "decisions" and (args.arm or args.seed):
        raise Misuse(f"{args.row} has no arms; --arm and --seed are of `measure decisions`.")
    if args.row == "spread":
        return _spread([Path("nano")] if args.run is None else args.run)
    if args.run is not None and len(args.run) > 1:
        raise Misuse(f"{args.row} takes one --run; only spread takes several.")
    if args.row == "decisions":
        return _decisions(args)
    out_of = Path("nano") if args.run is None else args.run[0]
    fresh = args.run is None and not out_of.is_dir()
    shipped = fresh and args.row in ("table", "check")
    if shipped:
        print("These are the results that come with the package; --run names others.", file=sys.stderr)
    elif fresh:
        out_of = Path("nano-shipped")
        print(f"There is no ./nano: this measures what comes with the package, in {out_of}.", file=sys.stderr)
        from qwen3_ref.train.export import unpack

        unpack(out_of)
    elif not out_of.is_dir():
        raise ValueError(f"there is no directory {out_of}; give the --out of `train nano` as --run.")
    folder = SHIPPED_RESULTS if shipped else out_of / "measured"
    if args.row in ("table", "check"):
        if not any(folder.glob("*.json")):
            raise ValueError(f"nothing is measured in {folder}; run `measure all` first.")
    elif not any(out_of.glob("*/model/config.json")):
        raise ValueError(f"no stage has been trained in {out_of}; give the --out of `train nano` as --run.")
    import torch

    from qwen3_ref.measure.rows import measure_row, stale
    from qwen3_ref.measure.table import render, thresholds
    from qwen3_ref.train.run import Run

    torch.set_num_threads(1)  # two threads get in each other's way on layers so small
    run = Run(out_of)
    if args.row == "table":
        text, missing = render(folder, list(ROW_NAMES))
        print(text, end="")
        missing += [] if shipped else stale(run)
    elif args.row == "check":
        found = thresholds(folder, list(ROW_NAMES))
        missing = [sentence for reached, sentence in found if not reached]
        print("".join(f"{sentence}\n" for reached, sentence in found if reached), end="")
    else:
        missing = []
        for row in ROW_NAMES if args.row == "all" else [args.row]:
            start = time.monotonic()
            missing += measure_row(run, row)
            seconds = time.monotonic() - start
            if (path := out_of / "measured" / f"{row}.json").exists():
                print(f"{row}: {path} after {seconds:.0f} s", flush=True)
    for sentence in dict.fromkeys(missing):
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if missing else 0


def _decisions(args: argparse.Namespace) -> int:
    """Verdicts of the shipped results, or of arms that are measured here."""
    import torch

    from qwen3_ref.measure import decisions as lab
    from qwen3_ref.measure.arms import Lab
    from qwen3_ref.train.run import Run

    names = lab.chosen(args.arm or [])
    if args.seed and not names:
        raise Misuse("--seed is of --arm; say which arms, or --arm all.")
    shipped, asked = SHIPPED_RESULTS / "decisions.csv", list(lab.DECISIONS)
    path = args.run[0] / "decisions.csv" if args.run and not names else shipped
    if names:
        torch.set_num_threads(1)  # two threads get in each other's way on layers so small
        out = args.run[0] if args.run else Path("decisions")
        seeds = list(dict.fromkeys(args.seed or lab.SEEDS))
        minutes = lab.minutes(names, lab.read_results(shipped)) * len(seeds)
        print(
            f"{len(names) * len(seeds)} to train, into {out}: about {minutes:.1f} minutes of a core with "
            f"AVX2, and as long again to gather text and to measure. Finished ones are kept; Ctrl-C saves "
            f"the steps of one that is not, and a killed process loses half a minute of them.",
            flush=True,
        )
        with only_process(out):
            here = Lab.of(Run(out, allow_other_text=args.allow_other_text))
            path = lab.run_all(here, names, seeds, lambda line: print(line, flush=True))
        whole = {"counting", *names}
        asked = [d for d in asked if len(seeds) > 1 and whole.issuperset(d.arms)]
    values = lab.read_results(path)
    for decision in asked:
        print(f"{decision.title} ({decision.claim}); equal: {decision.equal}")
        for verdict in lab.verdicts(decision, values):
            print(f"  {verdict.sentence()}")
    return 0


def _spread(runs: list[Path]) -> int:
    from qwen3_ref.measure.spread import spread, spread_table

    found = spread(runs)
    write_atomically(runs[0] / "measured" / "spread.json", json.dumps({"spread": found}, indent=1) + "\n")
    print(spread_table(found), end="")
    return 0
