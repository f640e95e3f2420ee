"""Measuring a model on verifiable problems: accuracy by thinking budget, family and difficulty.

`evaluate` answers every problem in every setting (mode, budget) and keeps one row an answer;
`summarise` turns rows into pass@1 and pass@k with confidence intervals. Rows can be written to a CSV
file as they come, and a run that was cut off goes on from there with the same result.

pass@k: Chen et al., arXiv 2107.03374, equation 1. Interval: Wilson (1927).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import torch

from qwen3_ref.chat import encode_chat
from qwen3_ref.checkpoint import progress
from qwen3_ref.files import write_atomically
from qwen3_ref.generate import EARLY_STOP, Generated, Sampling, early_stop_for, generate
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks import FAMILIES, Problem, make_problems, verify
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.weights import NANO, local_directory

Mode = Literal["thinking", "non-thinking"]
TEST_SEED = 2025
"""Draws the test problems that published numbers rest on; the recipes were tuned on the validation split."""
BATCH = 32
"""Replies at a time for models of nano size: larger batches wait longer for their longest reply."""


@dataclass(frozen=True)
class Row:
    """One answer. `budget` None is no budget; `thinking_tokens` are the model's own, without what a
    cut forced on it."""

    problem: int
    family: str
    difficulty: int
    mode: str
    budget: int | None
    sample: int
    correct: bool
    thinking_tokens: int
    answer_tokens: int
    thinking_ended: str
    ended: str
    answer: str


@dataclass(frozen=True)
class Summary:
    """Accuracy of a group of rows, in 0 to 1, with its 95% interval, and the mean of tokens spent."""

    problems: int
    samples: int
    pass_1: float
    low: float
    high: float
    pass_k: float
    thinking_tokens: float
    cut: float  # share of answers whose thought was ended by the budget


def evaluate(
    model: Qwen3,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    budgets: Sequence[int | None] = (None,),
    modes: Sequence[Mode] = ("thinking",),
    samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 128,
    early_stop: str = EARLY_STOP,
    log: Path | None = None,
    prompt: Callable[[Problem, Mode], list[int]] | None = None,
) -> list[Row]:
    """Answer every problem `samples` times in every setting; rows in the order of settings, problems.

    Non-thinking mode ignores the budgets and is measured once. sampling: greedy if absent, and then
    one sample is all there is. Each batch has a seed made from `seed` and its place, so the result
    depends neither on what else is measured nor on where a run was cut off.
    log: a CSV file to append to and to go on from. Raises ValueError if it belongs to another run.
    prompt(problem, mode): the ids to answer; the chat template with the problem as the user's words
    and the mode's flag, if absent.
    """
    sampling = sampling or Sampling.greedy()
    if samples < 1 or (sampling.temperature == 0 and samples > 1):
        raise ValueError(f"samples is {samples}; it must be at least 1, and exactly 1 for greedy.")
    for mode in modes:
        if mode not in ("thinking", "non-thinking"):
            raise ValueError(f"mode is {mode!r}; it must be 'thinking' or 'non-thinking'.")
    write = prompt or (lambda problem, mode: chat_prompt(tokenizer, problem, mode))
    settings: list[tuple[Mode, int | None]] = [
        (mode, budget) for mode in modes for budget in (budgets if mode == "thinking" else (None,))
    ]
    run = _fingerprint(model, problems, samples, sampling, seed, max_new_tokens, batch_size, early_stop)
    done = _read_log(log, run)
    jobs = []
    for mode, budget in settings:
        ids = {i: write(problem, mode) for i, problem in enumerate(problems)}
        # Neighbours of like length waste the least padding.
        order = sorted((len(ids[i]), i, s) for i in ids for s in range(samples))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        jobs += [(mode, budget, n, [(i, s, ids[i]) for _, i, s in batch]) for n, batch in enumerate(batches)]
    rows: list[Row] = []
    for mode, budget, n, batch in progress(jobs, "Answering"):
        keys = [(i, mode, budget, s) for i, s, _ in batch]
        if all(key in done for key in keys):
            rows += [done[key] for key in keys]
            continue
        replies = generate(
            model,
            [ids for _, _, ids in batch],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=tokenizer.stop_ids,
            generator=torch.Generator().manual_seed(_seed(seed, mode, budget, n)),
            thinking_budget=budget if mode == "thinking" else None,
            tokenizer=tokenizer,
            early_stop=early_stop,
        )
        new = [
            _row(i, problems[i], mode, budget, s, reply, tokenizer)
            for (i, s, _), reply in zip(batch, replies, strict=True)
        ]
        _append_log(log, run, new)
        rows += new
    place = {setting: n for n, setting in enumerate(settings)}
    return sorted(rows, key=lambda r: (place[(r.mode, r.budget)], r.problem, r.sample))  # type: ignore[index]


def chat_prompt(tokenizer: Tokenizer, problem: Problem, mode: Mode) -> list[int]:
    """The problem as a user's message with the mode's soft switch, ready for a reply."""
    thinking = mode == "thinking"
    content = f"{problem.prompt} {'/think' if thinking else '/no_think'}"
    return encode_chat(
        tokenizer, [{"role": "user", "content": content}], enable_thinking=thinking
    )


def _row(
    i: int, problem: Problem, mode: str, budget: int | None, sample: int, reply: Generated, tok: Tokenizer
) -> Row:
    answer = tok.decode(reply.answer).strip()
    finished = reply.ended == "stop" and reply.thinking_ended in (None, "closed", "budget")
    return Row(
        problem=i,
        family=problem.family,
        difficulty=problem.difficulty,
        mode=mode,
        budget=budget,
        sample=sample,
        correct=finished and verify(problem, answer),
        thinking_tokens=reply.thinking_tokens,
        answer_tokens=len(reply.answer),
        thinking_ended=reply.thinking_ended or "",
        ended=reply.ended or "",
        answer=" ".join(answer.split()),  # one line, since resuming counts on whole lines
    )


def summarise(
    rows: Iterable[Row], by: Sequence[str] = ("mode", "budget")
) -> dict[tuple[object, ...], Summary]:
    """Accuracy of each group of rows that agree in the fields named in `by`, in order of appearance.

    pass_1 is the mean over answers. Its 95% interval is Wilson's with the number of *problems* as n:
    two samples of one problem are not two independent observations. pass_k is the unbiased estimate
    with k = all samples of a problem: the share of problems that any sample solved.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in by), []).append(row)
    return {key: _summary(group) for key, group in groups.items()}


def _summary(rows: list[Row]) -> Summary:
    by_problem: dict[int, list[bool]] = {}
    for row in rows:
        by_problem.setdefault(row.problem, []).append(row.correct)
    pass_1 = sum(row.correct for row in rows) / len(rows)
    low, high = wilson(pass_1, len(by_problem))
    k = min(map(len, by_problem.values()))
    return Summary(
        problems=len(by_problem),
        samples=k,
        pass_1=pass_1,
        low=low,
        high=high,
        pass_k=sum(pass_at_k(len(c), sum(c), k) for c in by_problem.values()) / len(by_problem),
        thinking_tokens=sum(row.thinking_tokens for row in rows) / len(rows),
        cut=sum(row.thinking_ended == "budget" for row in rows) / len(rows),
    )


def wilson(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson interval of a share seen in n trials; unlike the normal one it is right at 0 and 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def rises(low: Sequence[float], high: Sequence[float]) -> bool:
    """Whether a curve rises as far as its intervals tell: the last one lies wholly above the first, and
    none lies wholly below one before it."""
    falls = any(high[j] < low[i] for j in range(len(low)) for i in range(j))
    return low[-1] > high[0] and not falls


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples, drawn from n of which some are correct, is."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n and 0 <= correct <= n, not n {n}, correct {correct}.")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


# -- the log ----------------------------------------------------------------------------------------


def _fingerprint(model: Qwen3, problems: Sequence[Problem], *settings: object) -> str:
    """A hash of everything that decides a row: the weights, the problems and the settings."""
    digest = hashlib.sha256(json.dumps([asdict(p) for p in problems]).encode())
    digest.update(repr(settings).encode())
    for name, tensor in model.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().float().sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _seed(seed: int, mode: str, budget: int | None, batch: int) -> int:
    text = f"{seed} {mode} {budget} {batch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _read_log(log: Path | None, run: str) -> dict[tuple[int, str, int | None, int], Row]:
    """Rows of an earlier, unfinished run with the same fingerprint; a last line cut short is dropped."""
    if log is None or not log.exists():
        return {}
    with log.open(encoding="utf-8", newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.DictReader(whole.splitlines(keepends=True)))
    if any(line["run"] != run for line in lines):
        raise ValueError(
            f"{log} holds answers of another model, other problems or other settings; "
            f"give another log file, or delete this one to start over."
        )
    if whole != text:
        log.write_text(whole, encoding="utf-8", newline="\n")
    rows = [
        Row(
            problem=int(line["problem"]),
            family=line["family"],
            difficulty=int(line["difficulty"]),
            mode=line["mode"],
            budget=int(line["budget"]) if line["budget"] else None,
            sample=int(line["sample"]),
            correct=line["correct"] == "True",
            thinking_tokens=int(line["thinking_tokens"]),
            answer_tokens=int(line["answer_tokens"]),
            thinking_ended=line["thinking_ended"],
            ended=line["ended"],
            answer=line["answer"],
        )
        for line in lines
    ]
    return {(r.problem, r.mode, r.budget, r.sample): r for r in rows}


def _append_log(log: Path | None, run: str, rows: list[Row]) -> None:
    if log is None:
        return
    new = not log.exists() or log.stat().st_size == 0
    with log.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)] + ["run"], lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row) | {"run": run})


# -- the command ------------------------------------------------------------------------------------

NANO_BUDGETS = (0, 8, 16, 24, 32, 48, None)
ALL = "all"


def curves(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Accuracy by family and by all together, mode and budget, as JSON values: the budget curves."""
    found = [*summarise(rows, by=("family", "mode", "budget")).items()]
    found += [((ALL, *key), value) for key, value in summarise(rows).items()]
    return [
        {**dict(zip(("family", "mode", "budget"), key, strict=True)), **asdict(value)} for key, value in found
    ]


def curve_table(points: Sequence[dict[str, object]]) -> str:
    """The curves as text: a line a setting, a column a family, accuracy in % with its 95% interval."""
    families = list(dict.fromkeys(str(point["family"]) for point in points))
    table = {(p["mode"], p["budget"], p["family"]): p for p in points}
    lines = [f"{'budget':<13}" + "".join(f"{family:>14}" for family in families)]
    for mode, budget in dict.fromkeys((p["mode"], p["budget"]) for p in points):
        name = str(mode) if mode == "non-thinking" else "none" if budget is None else str(budget)
        cells = []
        for family in families:
            point = table[mode, budget, family]
            value, low, high = (100 * float(str(point[name])) for name in ("pass_1", "low", "high"))
            cells.append(f"{f'{value:.0f} ({low:.0f}-{high:.0f})':>14}")
        lines.append(f"{name:<13}" + "".join(cells))
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command `evaluate`."""
    parser.add_argument(
        "model", metavar="MODEL", type=_model, help=f"{', '.join(NANO)}, or the directory of a checkpoint"
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=_budget,
        default=list(NANO_BUDGETS),
        metavar="N",
        help="tokens of thinking, or none (default: 0 8 16 24 32 48 none)",
    )
    parser.add_argument(
        "--count", type=_count, default=100, help="test problems of each of the four families (default: 100)"
    )
    parser.add_argument("--out", type=Path, help="a directory for rows.csv, to go on from, and curves.json")
    parser.add_argument("--max-new-tokens", type=_count, default=128, help="of one reply (default: 128)")


def _model(text: str) -> str:
    if local_directory(text) is None:
        raise argparse.ArgumentTypeError(
            f"there is no checkpoint {text!r} here; give a directory or one of {', '.join(NANO)}"
        )
    return text


def _whole(text: str, least: int, also: str = "") -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, {least} or more{also}")
    return int(text)


def _budget(text: str) -> int | None:
    return None if text == "none" else _whole(text, 0, ", or none")


def _count(text: str) -> int:
    return _whole(text, 1)


def command(args: argparse.Namespace) -> int:
    """Measure the budget curves of one checkpoint on test problems, print them, and write them."""
    directory = local_directory(args.model)
    assert directory is not None  # `_model` has looked
    start = time.monotonic()
    tokenizer = Tokenizer.from_pretrained(directory)
    if not {"<think>", "</think>"} <= set(tokenizer.control_tokens):
        raise ValueError(
            f"{args.model} has no <think> and </think> tokens, so it cannot have a thinking budget."
        )
    model = Qwen3.from_pretrained(directory)
    small = model.config.num_parameters() < 10**8
    if small:
        torch.set_num_threads(1)  # two threads get in each other's way on layers so small
    early_stop = early_stop_for(model)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    rows = evaluate(
        model,
        tokenizer,
        [p for family in FAMILIES for p in make_problems(family, "test", args.count, seed=TEST_SEED)],
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
    print(curve_table(points))
    print(
        f"% right of {args.count} test problems a family, greedy, with 95% intervals; "
        f"{len(rows):,} answers after {seconds:.0f} s."
    )
    if args.out is not None:
        about = {
            "model": args.model, "split": "test", "seed": TEST_SEED, "count": args.count,
            "early_stop": early_stop, "seconds": round(seconds, 1), "points": points,
        }  # fmt: skip
        write_atomically(args.out / "curves.json", json.dumps(about, indent=1) + "\n")
        print(f"Written: {args.out / 'rows.csv'} and {args.out / 'curves.json'}")
    return 0
