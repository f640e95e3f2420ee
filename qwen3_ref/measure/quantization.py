"""What few bits do to the nano: `python -m qwen3_ref.measure.quantization --out FILE`.

qwen3-nano with weights of 16, 8, 4, 3 and 2 bits, to the nearest, by GPTQ and by AWQ: how far its
predictions are from those at 16 bits, the loss on held-out problems, the accuracy with and without
thinking, and the budget curve: accuracy, tokens of thinking, and the share of thoughts that were cut, at
each budget, all on the same problems. Each answer is kept in `FILE.answers/`, so a run that was cut off
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.measure.accuracy import Row, chat_prompt, evaluate, summarise
from qwen3_ref.measure.table import change
from qwen3_ref.model import Qwen3
from qwen3_ref.quantize.model import Method, is_rounded, round_model
from qwen3_ref.quantize.rounding import Grid, quantize
from qwen3_ref.store.checkpoint import CheckpointError
from qwen3_ref.store.files import write_atomically
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, Problem, make_problems
from qwen3_ref.tokenizer import Tokenizer

GROUP = 32
POINTS: tuple[tuple[int, Method], ...] = (
    (16, "rtn"),
    (8, "rtn"),
    (4, "rtn"),
    (4, "gptq"),
    (4, "awq"),
    (3, "rtn"),
    (3, "gptq"),
    (3, "awq"),
    (2, "rtn"),
    (2, "gptq"),
)
BUDGETS = (0, 8, 16, 24, 32, 48, 64, None)
EACH = 80
"""Problems of each family: 400 in all."""
LONGEST = 128
"""New tokens of a reply: the longest thought of the nano at 16 bits has half as many."""

Result = dict[str, Any]


def name_of(bits: int, method: str) -> str:
    """ "16", "8 rtn", "4 gptq": how a point is called in the result."""
    return "16" if bits == 16 else f"{bits} {method}"


def some_problems(each: int, split: str, seed: int) -> list[Problem]:
    """As many problems of every family, all difficulties mixed."""
    return [p for family in FAMILIES for p in make_problems(family, split, each, seed=seed)]


def worked(tokenizer: Tokenizer, problems: Sequence[Problem], length: int = 160) -> tuple[Tensor, Tensor]:
    """Whole dialogues, question, worked thought and answer, one after another, cut into rows of `length`:
    ids (b, length), and which of them are the model's to say (b, length). What calibrates, and, of other
    problems, what is measured on."""
    ids: list[int] = []
    ours: list[bool] = []
    for problem in problems:
        asked = chat_prompt(tokenizer, problem, "thinking")
        said = f"<think>\n{problem.trace}\n</think>\n\n{problem.answer}<|im_end|>"
        reply = tokenizer.encode(said, allow_control_tokens=True)
        ids += [*asked, *reply]
        ours += [False] * len(asked) + [True] * len(reply)
    size = len(ids) // length * length
    return torch.tensor(ids[:size]).view(-1, length), torch.tensor(ours[:size]).view(-1, length)


@torch.inference_mode()
def distance(model: Qwen3, exact: Qwen3, rows: Tensor, ours: Tensor) -> Result:
    """On rows (b, t), where the next token is the model's to say (`ours`): `kl`, the mean divergence of the
    model's predictions from the exact one's, in nats a token; `agree`, the share of positions with the
    same first choice; `loss`, in nats a token."""
    kl, agree, loss = [], [], []
    some = max(1, 8 * 1280 // exact.config.vocab_size)  # a float64 for each id of each place, several times
    for part, mine in zip(rows.split(some), ours.split(some), strict=True):
        p, q = (m(part)[:, :-1][mine[:, 1:]].double().log_softmax(-1) for m in (exact, model))  # (n, V)
        kl.append((p.exp() * (p - q)).sum(-1))
        agree.append((p.argmax(-1) == q.argmax(-1)).double())
        loss.append(-q.gather(-1, part[:, 1:][mine[:, 1:]][:, None])[:, 0])
    return {
        "kl": float(torch.cat(kl).mean()),
        "agree": float(torch.cat(agree).mean()),
        "loss": float(torch.cat(loss).mean()),
    }


def layer_errors(model: Qwen3, bits: Sequence[int], groups: Sequence[int | None]) -> list[Result]:
    """The relative error ||W - W'|| / ||W|| of each matrix, by bits and group size, to the nearest."""
    found = []
    for name, tensor in model.named_official_tensors():
        if not is_rounded(name):
            continue
        w = tensor.double().numpy()
        for b in bits:
            for group in groups:
                off = quantize(w, Grid(b, group)).dequantized() - w
                error = float((off**2).sum() ** 0.5 / (w**2).sum() ** 0.5)
                found.append({"name": name, "bits": b, "group": group, "error": error})
    return found


def curve(rows: Sequence[Row]) -> list[Result]:
    """A point for each budget, and one for non-thinking mode: accuracy with its interval, the mean tokens of
    thinking and of all, the share of thoughts that hit the budget, and of replies that never ended."""
    found = []
    for (mode, budget), point in summarise(rows).items():
        some = [r for r in rows if (r.mode, r.budget) == (mode, budget)]
        found.append(
            {
                "mode": mode,
                "budget": budget,
                "problems": point.problems,
                "accuracy": point.pass_1,
                "low": point.low,
                "high": point.high,
                "thinking_tokens": point.thinking_tokens,
                "tokens": statistics.mean(r.thinking_tokens + r.answer_tokens for r in some),
                "cut": point.cut,
                "endless": statistics.mean(r.ended == "length" for r in some),
            }
        )
    return found


def at_tokens(points: Sequence[Result], tokens: float) -> float | None:
    """The accuracy of a budget curve where it has spent so many tokens a reply in the mean, between its
    points on a straight line; None where it never spends so many, or so few."""
    known = sorted((p["tokens"], p["accuracy"]) for p in points if p["mode"] == "thinking")
    for (x0, y0), (x1, y1) in zip(known, known[1:], strict=False):
        if x0 <= tokens <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)
    return None


def against(exact: Sequence[Row], rows: Sequence[Row]) -> Result:
    """Free thinking against 16 bits on the same problems, as paired differences with 95% intervals: of
    accuracy, and of tokens of thinking where both thoughts closed by themselves."""
    free = [[r for r in some if r.mode == "thinking" and r.budget is None] for some in (exact, rows)]
    gained = change(free[0], free[1])
    both = [
        (a.thinking_tokens, b.thinking_tokens)
        for a, b in zip(*free, strict=True)
        if a.thinking_ended == b.thinking_ended == "closed"
    ]
    found: Result = {"accuracy": {"mean": gained.value, "low": gained.low, "high": gained.high}}
    if len(both) > 1:
        more = [b - a for a, b in both]
        mean, half = statistics.mean(more), 1.96 * statistics.stdev(more) / len(more) ** 0.5
        found["closed_thoughts"] = {
            "mean": mean,
            "low": mean - half,
            "high": mean + half,
            "n": len(both),
            "of_16_bits": statistics.mean(a for a, _ in both),
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.quantization", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("quantization.json"), help="(./quantization.json)")
    parser.add_argument("--problems", type=int, default=EACH, help=f"of each family ({EACH})")
    options = parser.parse_args(argv)
    try:
        folder = find_nano("qwen3-nano")
        exact, tokenizer = Qwen3.from_pretrained(folder), Tokenizer.from_pretrained(folder)
        answers = options.out.with_name(options.out.name + ".answers")
        answers.mkdir(parents=True, exist_ok=True)
        problems = some_problems(options.problems, "test", TEST_SEED)
        calibration, _ = worked(tokenizer, some_problems(40, "train", 1))
        text, ours = worked(tokenizer, some_problems(40, "test", TEST_SEED + 1))
        result: Result = {
            "model": "qwen3-nano",
            "group": GROUP,
            "problems": len(problems),
            "calibration_tokens": calibration.numel(),
            "loss_tokens": int(ours.sum()),
            "threads": torch.get_num_threads(),
            "torch": version("torch"),
            "errors": layer_errors(exact, (8, 4, 3, 2), (16, 32, 64, None)),
            "points": {},
        }
        first: list[Row] = []
        for bits, method in POINTS:
            name = name_of(bits, method)
            model = exact if bits == 16 else round_model(exact, Grid(bits, GROUP), method, calibration)[0]
            rows = evaluate(
                model,
                tokenizer,
                problems,
                budgets=BUDGETS,
                modes=("thinking", "non-thinking"),
                max_new_tokens=LONGEST,
                batch_size=100,
                early_stop=NANO_EARLY_STOP,
                log=answers / f"{name.replace(' ', '-')}.csv",
            )
            first = first or rows
            point = {"bits": bits, "method": method, **distance(model, exact, text, ours)}
            point["curve"] = curve(rows)
            result["points"][name] = point | {"against_16": against(first, rows)}
            free = point["curve"][len(BUDGETS) - 1]
            print(f"{name:<7} kl {point['kl']:.4f}  loss {point['loss']:.3f}  right {free['accuracy']:.3f}  "
                  f"thinking {free['thinking_tokens']:.1f}", flush=True)  # fmt: skip
        write_atomically(options.out, json.dumps(result) + "\n")
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
