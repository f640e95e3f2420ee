"""`README.md` beside each checkpoint of the nano family: what it knows, how it was made, what it scores.

Everything in it is read from the family's own directory or asked of the model; nothing is typed in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import generate
from qwen3_ref.measure.accuracy import PROTOCOL, chat_prompt
from qwen3_ref.measure.table import cell
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.queries import MAX_REPLY
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.stages import BASES, EXTRA, SHIPPED, STAGES

ABOUT = {
    "qwen3-nano": "a hybrid thinking model: it solves small puzzles step by step inside `<think>`, answers "
    "without thinking where asked to, obeys a thinking budget, and calls a calculator",
    "qwen3-nano-base": "a language model of Python code, English and generated mathematics, before any "
    "conversation; it looks up a line in a list of 1,024 tokens, and with YaRN beyond",
    "qwen3-nano-moe": "a language model of the same text whose feed-forward layers are mixtures of experts, "
    "pre-trained with global-batch balancing, to look at what routers do",
    "qwen3-nano-student": "a smaller model that learned both modes from `qwen3-nano`, by distillation",
}
SCORES = {
    "qwen3-nano": ("general.", "fusion.obeyed."),
    "qwen3-nano-base": ("pretraining.s3.", "pretraining.retrieval-1024.abf", "pretraining.reach-"),
    "qwen3-nano-moe": ("experts.loss.", "experts.specialisation-trained."),
    "qwen3-nano-student": ("distillation.on-policy.",),
}
"""Beginnings of the ids of what is told of each: its own, or those of the stage before it that it keeps."""
OTHERS = ("general.length-alone.",)
"""Of those, what other checkpoints score."""
LEVEL = 2
"""The difficulty of the example problems."""


def write_cards(family: Path) -> None:
    """Write the card of each checkpoint in a family's directory, with `measured` and `logs` beside them.

    Raises OSError in one sentence.
    """
    for name in SHIPPED:
        write_atomically(family / name / "README.md", card(family / name))


def card(directory: Path) -> str:
    """The card of one checkpoint of the family, by its directory."""
    name, family = directory.name, directory.parent
    config = Qwen3Config.from_pretrained(directory)
    size = f"{config.num_parameters() / 1e6:.2f} million parameters"
    if config.is_moe:
        size += f", of which {config.num_active_parameters() / 1e6:.2f} million work on a token"
    parts = [
        "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# {name}",
        f"{ABOUT[name][0].upper()}{ABOUT[name][1:]}. {size[0].upper()}{size[1:]}.",
        "## Shape",
        "\n".join(f"- {line}" for line in _shape(config)),
        "## What it knows, by one example of each family",
        *_examples(directory),
        "## How it was made",
        _history(name, family / "logs"),
        "## What it scores",
        _scores(name, family / "measured"),
    ]
    if name == "qwen3-nano-base":
        length = pretrain.MIXES["s3"].context
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": length}
        parts += [
            f"## Beyond {length:,} tokens",
            f"In config.json, for up to {4 * length:,} tokens (what it costs short texts stands above):",
            f'```json\n"rope_scaling": {json.dumps(scaling)}\n```',
        ]
    return "\n\n".join(parts) + "\n"


def _shape(config: Qwen3Config) -> list[str]:
    lines = [
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}",
        f"{config.num_attention_heads} query heads and {config.num_key_value_heads} KV heads of "
        f"{config.head_dim} channels",
        f"a vocabulary of {config.vocab_size:,}, tied embeddings",
        f"a context of {config.max_position_embeddings:,} tokens, rope_theta {config.rope_theta:,.0f}",
    ]
    if config.is_moe:
        lines.insert(2, f"{config.num_experts} experts of {config.moe_intermediate_size} channels, "
                        f"{config.num_experts_per_tok} a token")  # fmt: skip
    else:
        lines.insert(2, f"feed-forward layers of {config.intermediate_size} channels")
    return lines


def _examples(directory: Path) -> list[str]:
    """A problem of each family with the reply that the model gives, greedily."""
    model, tokenizer = Qwen3.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    base = directory.name in BASES
    problems = [make_problems(f, "test", 1, LEVEL, seed=TEST_SEED)[0] for f in FAMILIES]
    if base:
        prompts = [tokenizer.encode(f"{p.prompt}\n") for p in problems]
    else:
        prompts = [chat_prompt(tokenizer, p, "thinking") for p in problems]
    ends = {tokenizer.control_tokens["<|endoftext|>"]} | (set() if base else set(tokenizer.stop_ids))
    with torch.inference_mode():
        replies = [generate(model, [ids], max_new_tokens=MAX_REPLY, stop_ids=ends)[0] for ids in prompts]
    found = []
    for problem, reply in zip(problems, replies, strict=True):
        text = tokenizer.decode([i for i in reply if i not in ends]).strip("\n")
        if base and (start := text.find("answer ")) >= 0:  # and on it goes with another document
            text = text[: start + len("answer ") + len(problem.answer)]
        found += [f"**{problem.family}** (right: {problem.answer})", f"```\n{problem.prompt}\n```",
                  f"```\n{text}\n```"]  # fmt: skip
    how = "Continued" if base else "Answered"
    return [f"{how} greedily; test problems of difficulty {LEVEL} that no stage has seen.", *found]


def _history(name: str, logs: Path) -> str:
    """The stages behind a checkpoint, first to last, as their summaries tell them."""
    chain, stage = list[str](), SHIPPED[name]
    while stage:
        chain.insert(0, stage)
        stage = (STAGES | EXTRA)[stage].base or ""
    lines, seconds, seeds, devices = [], 0.0, set[str](), set[str]()
    for stage in chain:
        found = _json(logs / stage / "summary.json")
        seconds += found.get("seconds", 0)
        if "seed" in found:
            seeds.add(str(found["seed"]))
            devices.add(str(found.get("device", "a device that was not logged")))
        teacher = (STAGES | EXTRA)[stage].teacher
        took = f", {found['seconds'] / 60:.1f} minutes" if found else ""
        lines.append(
            f"- `{stage}`: {_steps(stage)} steps{f', taught by `{teacher}`' if teacher else ''}{took}"
        )
    where, seed = (", ".join(sorted(some)) or "unknown" for some in (devices, seeds))
    told = f"`python -m qwen3_ref train nano` on {where}, seed {seed}"
    return "\n".join([f"{told}; {seconds / 60:.0f} minutes in all:", "", *lines])


def _steps(stage: str) -> str:
    return f"{(STAGES | EXTRA)[stage].plan.steps:,}"


def _scores(name: str, measured: Path) -> str:
    lines = ["| what | score | n |", "|---|---|---|"]
    for path in sorted(measured.glob("*.json")):
        for item in _json(path).get("items", []):
            if item.get("id", "").startswith(SCORES[name]) and not item["id"].startswith(OTHERS):
                n = "" if item["after"]["low"] is None else f"{item['after']['n']:,}"
                unit = "" if item["unit"] in ("%", "points") else f" ({item['unit']})"
                lines.append(f"| {item['what']}{unit} | {cell(item['after'], item['unit'])} | {n} |")
    if len(lines) == 2:
        return "Nothing was measured yet: `python -m qwen3_ref measure all`."
    return "\n".join([*lines, "", f"{PROTOCOL} Intervals are of 95% and cover problems, not training runs."])


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
