"""Reading beyond the trained length, method by method: `python -m qwen3_ref.measure.long_context --out FILE`.

qwen3-nano-base, trained on texts of up to 1,024 tokens, looks up two digits in lists of key=value lines
that fill 512 to 4,096 tokens, with each method of `context.stretch` at factor 4. A list is read once and
asked QUESTIONS lines at each of six depths, the same lists by every method; the control asks for keys that
are not in the list. Beside that, the price on short texts: the loss on solved problems; and, of
qwen3-nano, whether thinking helps or hurts a look-up within the trained length. Each cell is written when
it is done, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from qwen3_ref.config import Qwen3Config
from qwen3_ref.context.stretch import Method, stretched
from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.measure.accuracy import BATCH, evaluate
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.recipes.pretrain import Haystack

BASE, THINKER = "qwen3-nano-base", "qwen3-nano"
FACTOR = 4
LENGTHS = (512, 1024, 2048, 4096)
DEPTHS = (0.02, 0.2, 0.4, 0.6, 0.8, 0.98)
LISTS = 67
QUESTIONS = 3
"""At each depth of a list, on lines next to each other."""
ABSENT = 3
SPLIT = "test"
PRICE = 60
"""Solved problems of each family, whose loss is the price on short texts."""
CELLS: dict[str, tuple[Method, bool]] = {
    "plain": ("plain", True),
    "linear": ("linear", True),
    "ntk": ("ntk", True),
    "dynamic": ("dynamic", True),
    "by-parts": ("by-parts", True),
    "yarn": ("yarn", True),
    "yarn, m = 1": ("yarn", False),
    "dual-chunk": ("dual-chunk", False),
    "dual-chunk, m": ("dual-chunk", True),
}
"""What is measured: (method, whether its logits are scaled)."""


def changed(config: Qwen3Config, cell: str, length: int) -> Qwen3Config:
    """The config under which texts of `length` tokens are read.

    Dynamic NTK with the slope 1, where the stretch is length / original: fixed for the length, so that the
    KV cache serves."""
    method, scaled = CELLS[cell]
    original = config.max_position_embeddings
    if method == "dynamic":
        return stretched(config, "ntk", max(1, length / original), original)
    return stretched(config, method, FACTOR, original, scaled=scaled)


def plant(one: Haystack) -> Haystack:
    """The list with its questions moved to DEPTHS, QUESTIONS to each, side by side."""
    asked = one.asked[: len(DEPTHS) * QUESTIONS]
    lines = [line for line in one.lines if (line[:2], line[3:]) not in asked]
    depths, last = [], len(one.lines) - 1
    for number, (key, value) in enumerate(asked):
        depth = DEPTHS[number // QUESTIONS]
        place = round(depth * last) + number % QUESTIONS
        lines.insert(place, f"{key}={value}")
        depths.append(depth)
    return replace(
        one, lines=tuple(lines), asked=asked, depths=tuple(depths), absent=one.absent[:ABSENT]
    )


def lists(tokenizer: Tokenizer, length: int, count: int = LISTS) -> list[Haystack]:
    """The lists that are asked about, of `length` tokens each."""
    return [plant(one) for one in pretrain.haystacks(tokenizer, length, count, SPLIT, TEST_SEED)]


def asked(model: Qwen3, tokenizer: Tokenizer, found: Sequence[Haystack]) -> dict[str, list[str]]:
    """For each list a string of 0 and 1, one a question: `right` of those at DEPTHS, in that order, and
    `absent` of the control."""

    def marks(hits: Sequence[bool]) -> str:
        return "".join(str(int(hit)) for hit in hits)

    both: dict[str, list[str]] = {"right": [], "absent": []}
    for one in found:
        hits = pretrain.look_up(model, tokenizer, one, one.asked + one.absent)
        both["right"].append(marks(hits[: len(one.asked)]))
        both["absent"].append(marks(hits[len(one.asked) :]))
    return both


@torch.inference_mode()
def price(model: Qwen3, tokenizer: Tokenizer, count: int = PRICE) -> list[float]:
    """Nats a token of solved problems of the test split, `count` a family: texts of some dozens of tokens."""
    losses = []
    for family in FAMILIES:
        for problem in make_problems(family, SPLIT, count, seed=TEST_SEED):
            ids = torch.tensor([tokenizer.encode(f"{problem.prompt}\n{problem.trace}")])
            losses.append(round(float(cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])), 6))
    return losses


def thinking(model: Qwen3, tokenizer: Tokenizer, length: int, count: int) -> dict[str, str]:
    """Look-ups of one step in lists of `length` tokens, with and without thinking: 0 and 1, one a problem."""
    lines = pretrain.lines_in(length) - 10  # the marks of a conversation, and the reply
    problems = make_problems("retrieval", SPLIT, count, 1, TEST_SEED, lines=lines)
    rows = evaluate(
        model, tokenizer, problems, budgets=[None], modes=("thinking", "non-thinking"), seed=TEST_SEED,
        max_new_tokens=64, batch_size=BATCH, early_stop=NANO_EARLY_STOP,
    )  # fmt: skip
    return {
        mode: "".join(str(int(row.correct)) for row in rows if row.mode == mode)
        for mode in ("thinking", "non-thinking")
    }


def measure(
    out: Path, count: int, lengths: Sequence[int] = LENGTHS, cells: Sequence[str] = tuple(CELLS)
) -> dict[str, Any]:
    """Every cell of these that is not in the file yet."""
    places = {name: find_nano(name) for name in (BASE, THINKER)}
    tokenizer = Tokenizer.from_pretrained(places[BASE])
    base = Qwen3.from_pretrained(places[BASE])
    settings = {
        "lists": count, "questions": QUESTIONS, "depths": list(DEPTHS), "factor": FACTOR, "seed": TEST_SEED,
        "split": SPLIT, "weights": {
            name: fingerprint((place / "model.safetensors").read_bytes()) for name, place in places.items()
        },
    }  # fmt: skip
    result: dict[str, Any] = {"settings": settings, "cells": {}, "price": {}, "thinking": {}}
    if out.exists():
        kept = json.loads(out.read_text(encoding="utf-8"))
        if kept["settings"] != json.loads(json.dumps(settings)):
            raise ValueError(f"{out} is of other settings; choose another file, or delete it.")
        result = kept

    def keep(part: str, name: str, value: Any, start: float) -> None:
        result[part][name] = value
        write_atomically(out, json.dumps(result, indent=1) + "\n")
        print(f"{part}, {name}: {time.monotonic() - start:.0f} s", flush=True)

    for cell in cells:
        if cell not in result["price"]:
            start = time.monotonic()
            config = changed(base.config, cell, base.config.max_position_embeddings)
            model = pretrain.with_config(base, config)
            keep("price", cell, price(model, tokenizer), start)
    for length in sorted({*lengths} & {*LENGTHS[:2]}):
        if str(length) not in result["thinking"]:
            start = time.monotonic()
            thinker = Qwen3.from_pretrained(places[THINKER])
            keep("thinking", str(length), thinking(thinker, tokenizer, length, 3 * count), start)
    for length in lengths:
        found = lists(tokenizer, length, count)
        seen: dict[str, Any] = {}
        for cell in cells:
            name, start = f"{cell}, {length}", time.monotonic()
            config = changed(base.config, cell, length)
            same = json.dumps([config.rope_theta, config.rope_scaling, config.dual_chunk_attention_config])
            if name not in result["cells"]:
                model = pretrain.with_config(base, config)
                keep("cells", name, seen.get(same) or asked(model, tokenizer, found), start)
            seen[same] = result["cells"][name]
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.long_context", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("long_context.json"), help="(./long_context.json)")
    parser.add_argument("--lists", type=int, default=LISTS, help=f"of each length ({LISTS})")
    parser.add_argument("--lengths", type=int, nargs="+", choices=LENGTHS, default=LENGTHS, metavar="TOKENS")
    parser.add_argument("--methods", nargs="+", choices=CELLS, default=tuple(CELLS), metavar="METHOD")
    options = parser.parse_args(argv)
    try:
        torch.set_num_threads(1)
        measure(options.out, options.lists, options.lengths, options.methods)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
