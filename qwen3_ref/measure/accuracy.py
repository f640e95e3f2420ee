"""Measuring a model on verifiable problems: accuracy by thinking budget, family and difficulty.

`evaluate` answers every problem in every setting (mode, budget) and keeps one row an answer;
`summarise` turns rows into pass@1 and pass@k with confidence intervals. Rows can be written to a CSV
file as they come, and a run that was cut off goes on from there with the same result.

pass@k: Chen et al., arXiv 2107.03374, equation 1. Interval: Wilson (1927).
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.budget import EARLY_STOP, Budget
from qwen3_ref.decode.generation import Generated, generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure.statistics import pass_at_k, wilson
from qwen3_ref.model import Qwen3
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.store.progress import progress
from qwen3_ref.tasks.problems import Problem, is_correct
from qwen3_ref.tokenizer import Tokenizer

Mode = Literal["thinking", "non-thinking"]
PROTOCOL = (
    "Problems are asked in the user's words alone, without /think or /no_think: thinking is the template's "
    "default, and without thinking the template writes the empty think block. Weights are those of bfloat16, "
    "computed with in float32; replies are greedy where not said otherwise."
)
"""How README, `measure`, `evaluate` and the lessons ask."""
BUDGETS = (0, 8, 16, 24, 32, 48, None)
"""Of a nano model's thoughts, in tokens; None is no budget."""
BATCH = 32
"""Replies at a time for models of nano size: larger batches wait longer for their longest reply."""


@dataclass(frozen=True)
class Row:
    """One answer. `budget` None is no budget; `thinking_tokens` are the model's own, without what a
    cut forced on it.

    `correct` is strict: all that follows the thought must be the answer. A thought that was cut may go
    on behind its `</think>` and close a second time; `lenient` judges what stands behind the last one.
    """

    problem: int
    family: str
    difficulty: int
    mode: str
    budget: int | None
    sample: int
    correct: bool
    lenient: bool
    thinking_tokens: int
    answer_tokens: int
    thinking_ended: str
    ended: str
    answer: str


@dataclass(frozen=True)
class Summary:
    """Accuracy of a group of rows, in 0 to 1, with its 95% interval, and the mean of tokens spent;
    `lenient`: the same share by the rows' `lenient`."""

    problems: int
    samples: int
    pass_1: float
    low: float
    high: float
    pass_k: float
    lenient: float
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
    log: a CSV file to append to and to go on from. Raises ValueError if it belongs to another run: if
    anything that decides an answer (weights, tokenizer, prompts, problems, settings) has changed.
    prompt(problem, mode): the ids to answer; the chat template with the problem as the user's words
    in the mode, if absent (PROTOCOL).
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
    deciding = (model.config.to_dict(), dict(model.state_dict()), tokenizer.fingerprint(), list(problems))
    how = (samples, sampling, seed, max_new_tokens, batch_size, early_stop)
    rest = "" if log is None else fingerprint(*deciding, *how)  # once: the weights take the longest

    @functools.cache
    def asked(mode: Mode) -> list[list[int]]:
        return [list(write(problem, mode)) for problem in problems]

    @functools.cache
    def run(mode: Mode) -> str:
        return fingerprint(rest, asked(mode))[:16]

    done = _read_log(log, run)
    jobs = []
    for mode, budget in settings:
        ids = asked(mode)
        # Neighbours of like length waste the least padding.
        order = sorted((len(ids[i]), i, s) for i in range(len(ids)) for s in range(samples))
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
            thinking_budget=Budget(budget if mode == "thinking" else None, early_stop),
            tokenizer=tokenizer,
        )
        new = [
            _row(i, problems[i], mode, budget, s, reply, tokenizer)
            for (i, s, _), reply in zip(batch, replies, strict=True)
        ]
        _append_log(log, run(mode) if log is not None else "", new)
        rows += new
    place = {setting: n for n, setting in enumerate(settings)}
    return sorted(rows, key=lambda r: (place[(r.mode, r.budget)], r.problem, r.sample))  # type: ignore[index]


def evaluate_cuts(
    model: Qwen3,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    budgets: Sequence[int | None],
    *,
    max_new_tokens: int = 256,
    batch_size: int = BATCH,
    early_stop: str = EARLY_STOP,
) -> list[Row]:
    """The rows of a greedy `evaluate` in thinking mode, from one thought a problem.

    Under a budget a greedy thought is the beginning of the one without; so each problem is thought about
    once, cut at every budget that is shorter, and only the answers are written anew.
    """
    stop = tokenizer.encode(early_stop, allow_control_tokens=True)
    opening, closing = (tokenizer.control_tokens[mark] for mark in ("<think>", "</think>"))
    prompts = [chat_prompt(tokenizer, problem, "thinking") for problem in problems]
    how: dict[str, Any] = {"stop_ids": tokenizer.stop_ids, "batch_size": batch_size, "tokenizer": tokenizer}
    free = generate(model, prompts, max_new_tokens=max_new_tokens, **how)
    rows = []
    for budget in budgets:
        replies = dict(enumerate(free))
        cuts = [i for i in replies if budget is not None and free[i].thinking_tokens > budget]
        begun = [free[i][: (opening in free[i]) + (budget or 0)] + stop for i in cuts]
        asked = [[*prompts[i], *start] for i, start in zip(cuts, begun, strict=True)]
        room = max_new_tokens - (len(begun[0]) if cuts else 0)
        spent = Budget(0, early_stop)  # a thought that is opened again has nothing left
        more = generate(model, asked, max_new_tokens=room, thinking_budget=spent, **how) if cuts else []
        for i, start, reply in zip(cuts, begun, more, strict=True):
            reply.answer[:0] = stop[stop.index(closing) + 1 :]
            reply[:0] = start
            reply.thinking_ended, reply.thinking_tokens = "budget", budget or 0
            replies[i] = reply
        for i, problem in enumerate(problems):
            rows.append(_row(i, problem, "thinking", budget, 0, replies[i], tokenizer))
    return rows


def chat_prompt(tokenizer: Tokenizer, problem: Problem, mode: Mode) -> list[int]:
    """The problem as a user's message, asked by PROTOCOL, ready for a reply."""
    messages = [{"role": "user", "content": problem.prompt}]
    return encode_chat(tokenizer, messages, enable_thinking=mode == "thinking")


def _row(
    i: int, problem: Problem, mode: str, budget: int | None, sample: int, reply: Generated, tok: Tokenizer
) -> Row:
    answer = tok.decode(reply.answer).strip()
    ids, closing = list(reply), tok.control_tokens.get("</think>")
    if closing in ids:
        ids = ids[len(ids) - ids[::-1].index(closing) :]
    last = tok.decode([i for i in ids if i not in tok.stop_ids])
    finished = reply.ended == "stop" and reply.thinking_ended in (None, "closed", "budget")
    return Row(
        problem=i,
        family=problem.family,
        difficulty=problem.difficulty,
        mode=mode,
        budget=budget,
        sample=sample,
        correct=finished and is_correct(problem, answer),
        lenient=finished and is_correct(problem, last),
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
        lenient=sum(row.lenient for row in rows) / len(rows),
        pass_k=sum(pass_at_k(len(c), sum(c), k) for c in by_problem.values()) / len(by_problem),
        thinking_tokens=sum(row.thinking_tokens for row in rows) / len(rows),
        cut=sum(row.thinking_ended == "budget" for row in rows) / len(rows),
    )


# -- the log ----------------------------------------------------------------------------------------


def _seed(seed: int, mode: str, budget: int | None, batch: int) -> int:
    text = f"{seed} {mode} {budget} {batch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _read_log(log: Path | None, run: Callable[[Mode], str]) -> dict[tuple[int, str, int | None, int], Row]:
    """Rows of an earlier, unfinished run with the same fingerprint; a last line cut short is dropped."""
    if log is None or not log.exists():
        return {}
    with log.open(encoding="utf-8", newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.DictReader(whole.splitlines(keepends=True)))
    if any(line.get("run") != run(line["mode"]) for line in lines):  # type: ignore[arg-type]
        raise ValueError(
            f"{log} holds answers of another model, other prompts or problems, or other settings; "
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
            lenient=line["lenient"] == "True",
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


# -- the curves -------------------------------------------------------------------------------------


ALL = "all"


def curves(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Accuracy by family and by all together, mode and budget, as JSON values: the budget curves."""
    found = [*summarise(rows, by=("family", "mode", "budget")).items()]
    found += [((ALL, *key), value) for key, value in summarise(rows).items()]
    return [
        {**dict(zip(("family", "mode", "budget"), key, strict=True)), **asdict(value)} for key, value in found
    ]


def curve_table(points: Sequence[dict[str, object]]) -> str:
    """The curves as text: a line a setting, a column a family, accuracy in % with its 95% interval, and
    last the lenient accuracy of all, which judges what stands behind the last `</think>`."""
    families = list(dict.fromkeys(str(point["family"]) for point in points))
    table = {(p["mode"], p["budget"], p["family"]): p for p in points}
    lines = [f"{'budget':<13}" + "".join(f"{family:>14}" for family in [*families, "lenient"])]
    for mode, budget in dict.fromkeys((p["mode"], p["budget"]) for p in points):
        name = str(mode) if mode == "non-thinking" else "none" if budget is None else str(budget)
        cells = []
        for family in families:
            point = table[mode, budget, family]
            value, low, high = (100 * float(str(point[name])) for name in ("pass_1", "low", "high"))
            cells.append(f"{f'{value:.0f} ({low:.0f}-{high:.0f})':>14}")
        cells.append(f"{100 * float(str(table[mode, budget, ALL]['lenient'])):>14.0f}")
        lines.append(f"{name:<13}" + "".join(cells))
    return "\n".join(lines)
