"""What the PyTorch model says, for the tests in the browser: JSON on the output.

A script of its own, since what drives the browser lives in another environment than PyTorch.
"""

from __future__ import annotations

import json
from typing import Any

from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.budget import NANO_EARLY_STOP, Budget
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer


def replies() -> list[dict[str, Any]]:
    """55 questions, and for each the whole reply and those under two budgets."""
    model, tokenizer = Qwen3.from_pretrained("qwen3-nano"), Tokenizer.from_pretrained("qwen3-nano")
    problems = [p for family in FAMILIES for p in make_problems(family, "test", 11, seed=TEST_SEED)]
    prompts = [encode_chat(tokenizer, [{"role": "user", "content": p.prompt}]) for p in problems]
    found: list[dict[str, Any]] = [{"question": p.prompt, "replies": []} for p in problems]
    for budget in (None, 7, 0):
        for row, reply in zip(
            found,
            generate(
                model, prompts, max_new_tokens=256, stop_ids=tokenizer.stop_ids, tokenizer=tokenizer,
                thinking_budget=Budget(budget, NANO_EARLY_STOP),
            ),
            strict=True,
        ):  # fmt: skip
            answer = tokenizer.decode(reply.answer).strip()
            row["replies"].append({"budget": budget, "ids": list(reply), "answer": answer})
    return found


if __name__ == "__main__":
    print(json.dumps(replies()))
