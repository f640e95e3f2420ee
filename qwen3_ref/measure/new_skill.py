"""How to teach a thinking model a skill without its thought: `python -m qwen3_ref.measure.new_skill`.

`qwen3-nano` learns to put digits in order, from questions and answers, in each of the ways that users of
Qwen3 recommend to one another (WAYS), for the same number of steps and rows. Then the new skill and the
old ones are asked in both modes, the flags are tried, and, with a `<think>` written for it, whether a
thought that no longer begins is also forgotten. The control is the model before. All ways of a seed draw
from the same questions, and all are scored on the same problems of the test split. Each cell leaves
`result.json` in `DIR/<way>-<seed>`, all of them together `DIR/new_skill.json`. What has its result is not
run again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure.accuracy import BATCH, Mode, Row, chat_prompt, evaluate
from qwen3_ref.measure.study import kept, require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import parse_reply
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, Problem, is_correct, make_problems, split_of
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.loop import IGNORE, Plan, cross_entropy, train
from qwen3_ref.train.queries import MAX_REPLY
from qwen3_ref.train.recipes.sft import Example, collate, conversation, encode_example, replies_to
from qwen3_ref.train.seeds import problems, seeded
from qwen3_ref.train.state import STATE

STEPS, ROWS, RATE = 80, 32, 2e-4
"""The rate is one of three that were tried with the first way; none was tuned for another."""
OLD_ROWS = 24
"""Of ROWS, in the ways that mix: three quarters, as Unsloth advises (Qwen3's documentation, "Unsloth")."""
REHEARSED = tuple(family for family in FAMILIES if family != "retrieval")
"""Families of the old rows. Look-ups have prompts three times as long as all others, and what happens to the
one that is not rehearsed is worth knowing."""
QUESTIONS = 800
WAYS = {
    "as the template writes it": ("empty", "all", 0),
    "no loss on the empty block": ("empty", "after the block", 0),
    "loss on the answer alone": ("empty", "the answer", 0),
    "/no_think in the question": ("flag", "all", 0),
    "thinking data mixed in": ("empty", "all", OLD_ROWS),
    "thoughts written by a program": ("steps", "all", 0),
}
"""Way -> what the assistant's turns of the new skill hold, what the loss is on, and how many rows of a step
are of the old skills, with thoughts. "the answer": neither on the block nor on the end of the turn. "steps":
a program's thoughts, since rejection sampling finds none (`own_thoughts`)."""
TRIES = 2

Result = dict[str, Any]


# -- the skill, and what is learned from -------------------------------------------------------------------


def sorting(digits: str) -> Problem:
    """Put digits in order: the skill that no family has. The steps sort one more digit each."""
    steps = ["".join(sorted(digits[:i])) for i in range(1, len(digits) + 1)]
    return Problem("sorting", len(digits), f"sort {digits}", "\n".join(steps), steps[-1])


def sorting_problems(split: str, count: int, seed: int) -> list[Problem]:
    """`count` different ones of three to five digits, by the same split as all problems."""
    rng = random.Random(f"sorting {split} {seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        length = 3 + int(rng.random() * 3)
        problem = sorting("".join(str(int(rng.random() * 10)) for _ in range(length)))
        if split_of(problem.prompt) == split:
            found[problem.prompt] = problem
    return list(found.values())


def example_of(tokenizer: Tokenizer, problem: Problem, thought: str, loss: str, flag: str = "") -> Example:
    """A question and its answer in the official template. loss: on "all" of the reply, or only on what comes
    "after the block", which is ms-swift's `ignore_empty_think`; "the answer" is `teach`'s to narrow."""
    messages = conversation(problem, thought, problem.answer)
    messages[0]["content"] += flag
    example = encode_example(tokenizer, messages)
    if loss == "all":
        return example
    closing = tokenizer.control_tokens["</think>"]
    block = example.ids[-example.reply :].index(closing) + 2  # and the blank line behind it
    return Example(example.ids, example.reply - block)


def own_thoughts(model: Qwen3, tokenizer: Tokenizer, asked: Sequence[Problem], seed: int) -> list[str]:
    """What rejection sampling keeps of the model's own: of TRIES thoughts about each problem the first that
    leads to the right answer. Problems without one are left out."""
    found: dict[int, str] = {}
    for k in range(TRIES):
        how: dict[str, Any] = {"sampling": Sampling(0.6, 20, 0.95), "batch_size": BATCH}
        replies = replies_to(model, tokenizer, asked, generator=seeded(seed, "own thoughts", k), **how)
        for i, (problem, reply) in enumerate(zip(asked, replies, strict=True)):
            thought = (reply.reasoning or "").strip()
            if thought and is_correct(problem, reply.content):
                found.setdefault(i, thought)
    return [found[i] for i in sorted(found)]


def old_examples(model: Qwen3, tokenizer: Tokenizer, per_family: int, seed: int) -> list[Example]:
    """The model's own right replies with thought to problems of REHEARSED, as fusion drew its own."""
    found = []
    for family in REHEARSED:
        asked = problems("on-policy", family, per_family, seed)
        replies = replies_to(
            model, tokenizer, asked, sampling=Sampling(0.6, 20, 0.95), generator=seeded(seed, family)
        )
        for problem, reply in zip(asked, replies, strict=True):
            if is_correct(problem, reply.content) and reply.reasoning:
                found.append(example_of(tokenizer, problem, reply.reasoning, "all"))
    return found


def examples_for(
    model: Qwen3, tokenizer: Tokenizer, way: str, seed: int, questions: int
) -> tuple[list[Example], list[Example]]:
    """What `way` learns from: examples of the new skill, and those of the old ones."""
    holds, loss, old_rows = WAYS[way]
    flag = " /no_think" if holds == "flag" else ""
    asked = sorting_problems("train", questions, seed)
    new = [example_of(tokenizer, p, p.trace if holds == "steps" else "", loss, flag) for p in asked]
    old = old_examples(model, tokenizer, max(10, questions // 8), seed) if old_rows else []
    if len(old) < old_rows:
        raise TrainingError(
            f"the model was right in {len(old)} of its replies, and a step takes {old_rows}; give it more "
            f"questions by a larger --share."
        )
    return new, old


def teach(
    model: Qwen3, tokenizer: Tokenizer, way: str, folder: Path, seed: int, steps: int, questions: int
) -> None:
    """Train `model` in place by one of WAYS. Raises as `loop.train` does."""
    new, old = examples_for(model.eval(), tokenizer, way, seed, questions)
    old_rows = WAYS[way][2]
    size = 8 if old_rows else ROWS

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        some = []
        for name, examples, count in (("new", new, ROWS - old_rows), ("old", old, old_rows)):
            order = torch.randperm(len(examples), generator=seeded(seed, step, name)).tolist()
            some += [examples[i] for i in order[:count]]
        some.sort(key=lambda example: len(example.ids))  # of like length together: less padding
        total, counted = torch.zeros(()), 0
        for i in range(0, ROWS, size):
            inputs, targets = collate(some[i : i + size], tokenizer.control_tokens["<|endoftext|>"])
            if WAYS[way][1] == "the answer":
                targets[targets == tokenizer.control_tokens["<|im_end|>"]] = IGNORE
            learned = int((targets != IGNORE).sum())
            total, counted = total + learned * cross_entropy(model(inputs), targets), counted + learned
        return total / counted, {}

    plan = Plan(steps=steps, learning_rate=RATE, warmup=5, weight_decay=0.0, log_every=5)
    train(model, plan, loss, folder, about={"way": way, "seed": seed})
    model.eval()


# -- what is measured --------------------------------------------------------------------------------------


def opened(tokenizer: Tokenizer, problem: Problem, mode: Mode) -> list[int]:
    """The question with `<think>` and a line end behind it, as Qwen3-Thinking-2507's template opens it."""
    begun = tokenizer.encode("<think>\n", allow_control_tokens=True)
    return [*chat_prompt(tokenizer, problem, mode), *begun]


def thinks(model: Qwen3, tokenizer: Tokenizer, asked: Sequence[Problem], flag: str = "") -> list[int]:
    """Whether the reply to each begins a thought that is not empty, with `flag` behind the question: 0 or 1.
    Four tokens tell."""
    prompts = [encode_chat(tokenizer, [{"role": "user", "content": p.prompt + flag}]) for p in asked]
    replies = generate(
        model, prompts, max_new_tokens=4, stop_ids=tokenizer.stop_ids, batch_size=BATCH, tokenizer=tokenizer
    )
    found = [parse_reply(list(ids), tokenizer=tokenizer) for ids in replies]
    return [int(bool((reply.reasoning or "").strip())) for reply in found]


def scores(model: Qwen3, tokenizer: Tokenizer, count: int) -> Result:
    """Of problems of the test split, `count` of each family and three times as many of the new skill, all
    greedy, 0 or 1 a problem. Right answers: `new` and `old`, each "thinking", "non-thinking" and "opened"
    (a `<think>` is written for the model). Thoughts: `new thinks` and `old thinks`, with no flag; `/think`
    and `/no_think` behind the old problems."""
    model.eval()
    asked = {
        "new": sorting_problems("test", 3 * count, TEST_SEED),
        "old": [p for family in FAMILIES for p in make_problems(family, "test", count, seed=TEST_SEED)],
    }
    how: dict[str, Any] = {"seed": TEST_SEED, "max_new_tokens": MAX_REPLY}
    found: Result = {}
    for name, some in asked.items():

        def right(**more: Any) -> list[Row]:
            return evaluate(model, tokenizer, some, **how, **more)  # noqa: B023

        rows = {
            "thinking": right(),
            "non-thinking": right(modes=("non-thinking",)),
            "opened": right(prompt=lambda problem, mode: opened(tokenizer, problem, mode)),
        }
        found[name] = {mode: [int(row.correct) for row in answers] for mode, answers in rows.items()}
        found[f"{name} thinks"] = thinks(model, tokenizer, some)
    for flag in ("/think", "/no_think"):
        found[flag] = thinks(model, tokenizer, asked["old"], f" {flag}")
    return found


MEASURES: dict[str, Callable[[Result], float]] = {
    "new skill, without thinking": lambda r: statistics.mean(r["new"]["non-thinking"]),
    "new skill, asked to think": lambda r: statistics.mean(r["new"]["thinking"]),
    "old skills, asked to think": lambda r: statistics.mean(r["old"]["thinking"]),
    "old skills, thought opened": lambda r: statistics.mean(r["old"]["opened"]),
    "old skills, without thinking": lambda r: statistics.mean(r["old"]["non-thinking"]),
    "thinks about the new": lambda r: statistics.mean(r["new thinks"]),
    "thinks about the old": lambda r: statistics.mean(r["old thinks"]),
    "flags obeyed": lambda r: (statistics.mean(r["/think"]) + 1 - statistics.mean(r["/no_think"])) / 2,
}
"""What of a cell is one number, 0 to 1."""


def run_cell(folder: Path, way: str, seed: int, share: float, count: int) -> Result:
    """Teach in one way with one seed and score, or read the result that is there."""
    steps, questions = max(1, round(STEPS * share)), max(ROWS, round(QUESTIONS * share))
    path = folder / "result.json"
    settings = {"way": way, "seed": seed, "steps": steps, "questions": questions, "count": count}
    if (result := kept(path, settings)) is not None:
        return result
    model = Qwen3.from_pretrained("qwen3-nano").eval()
    tokenizer = Tokenizer.from_pretrained("qwen3-nano")
    start = time.process_time()
    teach(model, tokenizer, way, folder, seed, steps, questions)
    spent = round(time.process_time() - start, 1)
    result = {"settings": settings, "cpu_seconds": spent, **scores(model, tokenizer, count)}
    write_atomically(path, json.dumps(result) + "\n")
    (folder / STATE).unlink(missing_ok=True)
    return result


def differences(cells: dict[str, list[Result]], over: str, what: str) -> dict[str, dict[str, float]]:
    """One of MEASURES of each other way less that of `over`, paired by seed: mean and 95% interval
    (Student's) over seeds."""
    score = MEASURES[what]
    pairs = {way: zip(cells[way], cells[over], strict=True) for way in cells if way != over}
    return {way: over_seeds([score(a) - score(b) for a, b in both]) for way, both in pairs.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.new_skill", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("new_skill"), help="directory (./new_skill)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="2 to 8 (0 1 2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps and questions (1)")
    parser.add_argument("--count", type=int, default=30, help="problems a family (30)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        require_seeds(options.seeds)
        if not 0 < options.share <= 100:
            raise ValueError(f"--share is {options.share}; it must be above 0 and at most 100.")
        cells: dict[str, list[Result]] = {way: [] for way in WAYS}
        for seed in options.seeds:
            for way in WAYS:
                folder = options.out / f"{re.sub('[^a-z]+', '-', way).strip('-')}-{seed}"
                result = run_cell(folder, way, seed, options.share, options.count)
                cells[way].append(result)
                print(f"{way}, seed {seed}, {result['cpu_seconds']:.0f} s", flush=True)
                print("  " + ", ".join(f"{n} {f(result):.0%}" for n, f in MEASURES.items()), flush=True)
        model = Qwen3.from_pretrained("qwen3-nano").eval()
        tokenizer = Tokenizer.from_pretrained("qwen3-nano")
        asked = sorting_problems("train", max(ROWS, round(QUESTIONS * options.share)), options.seeds[0])
        study = {
            "seeds": options.seeds,
            "torch": version("torch"),
            "own thoughts kept": len(own_thoughts(model, tokenizer, asked, options.seeds[0])),
            "before": scores(model, tokenizer, options.count),
            "cells": cells,
        }
        write_atomically(options.out / "new_skill.json", json.dumps(study) + "\n")
        first, *_ = WAYS
        for what in MEASURES:
            print(f"{what}, less that of {first!r}")
            for way, n in differences(cells, first, what).items():
                print(f"  {way:<34}{100 * n['mean']:+6.1f} points ({100 * n['low']:+.1f} to "
                      f"{100 * n['high']:+.1f})")  # fmt: skip
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
