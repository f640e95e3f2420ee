"""Accuracy of a checkpoint by thinking budget, on test problems."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

from rich.console import Console

from qwen3_ref.commands.common import NAME_OR_DIR, checkpoint_directory, stacked
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer

NANO_BUDGETS = (0, 8, 16, 24, 32, 48, None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `evaluate`."""
    parser.add_argument("model", metavar="NAME_OR_DIR", help=NAME_OR_DIR)
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=_budget,
        default=list(NANO_BUDGETS),
        metavar="N",
        help="tokens of thinking, or none (default: 0 8 16 24 32 48 none)",
    )
    parser.add_argument(
        "--count", type=_count, default=100, help="test problems of each of the five families (default: 100)"
    )
    parser.add_argument("--out", type=Path, help="a directory for rows.csv, to go on from, and curves.json")
    parser.add_argument("--max-new-tokens", type=_count, default=128, help="of one reply (default: 128)")


def _whole(text: str, least: int, also: str = "") -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, {least} or more{also}")
    return int(text)


def _budget(text: str) -> int | None:
    return None if text == "none" else _whole(text, 0, ", or none")


def _count(text: str) -> int:
    return _whole(text, 1)


def command(args: argparse.Namespace, out: Console) -> int:
    """Measure the budget curves of one checkpoint on test problems, print them, and write them."""
    start = time.monotonic()
    directory = checkpoint_directory(args.model)
    tokenizer = Tokenizer.from_pretrained(directory)
    if not {"<think>", "</think>"} <= set(tokenizer.control_tokens):
        raise ValueError(
            f"{args.model} has no <think> and </think> tokens, so it cannot have a thinking budget."
        )
    problems = [p for family in FAMILIES for p in make_problems(family, "test", args.count, seed=TEST_SEED)]
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    import torch

    from qwen3_ref.decode.profile import Profile
    from qwen3_ref.measure.accuracy import BATCH, PROTOCOL, curve_table, curves, evaluate
    from qwen3_ref.model import Qwen3

    model = Qwen3.from_pretrained(directory)
    if model.config.hidden_size <= 256:
        torch.set_num_threads(1)  # two threads get in each other's way on layers so small
    early_stop = Profile.from_pretrained(directory, tokenizer).early_stop
    rows = evaluate(
        model,
        tokenizer,
        problems,
        budgets=list(dict.fromkeys(args.budgets)),
        modes=("thinking", "non-thinking"),
        seed=TEST_SEED,
        max_new_tokens=args.max_new_tokens,
        batch_size=BATCH,
        early_stop=early_stop,
        log=None if args.out is None else args.out / "rows.csv",
    )
    points = curves(rows)
    seconds = time.monotonic() - start
    table = curve_table(points)
    if out.is_terminal and out.width < len(table.partition("\n")[0]):
        titles, *lines = (re.split(r"\s{2,}", line.strip()) for line in table.splitlines())
        for head, *cells in lines:
            stacked(out, head, map(" ".join, zip(titles[1:], cells, strict=True)))
    else:
        print(table)
    print(
        f"% right of {args.count} test problems a family, greedy, with 95% intervals (lenient: judged by "
        f"what stands behind the last </think>, where a cut thought may have gone on); "
        f"{len(rows):,} answers after {seconds:.0f} s.\n{PROTOCOL} The intervals cover problems, not "
        f"training runs."
    )
    if args.out is not None:
        about = {
            "model": args.model, "split": "test", "seed": TEST_SEED, "count": args.count,
            "early_stop": early_stop, "seconds": round(seconds, 1), "points": points,
        }  # fmt: skip
        write_atomically(args.out / "curves.json", json.dumps(about, indent=1) + "\n")
        print(f"Written: {args.out / 'rows.csv'} and {args.out / 'curves.json'}")
    return 0
