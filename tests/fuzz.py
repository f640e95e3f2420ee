"""Mutated files and replies, seeded: whatever they hold, the documented error or none, soon and in bounds.

`python -m tests.fuzz --count 20000 --seed 1` prints every mutation that does worse: another error, more than
2 seconds, more than 300 MB, a header that safetensors' own reader refuses and ours takes.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.reply import parse_reply
from qwen3_ref.rope import frequencies
from qwen3_ref.store.checkpoint import INDEX, SINGLE, open_checkpoint
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.tokenizer import Tokenizer

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 10**29, 10**300, 10**1000, -(10**4000), 0.5, -0.0,
    5e-324, 1e308, float("inf"), float("nan"), "", "1", "x" * 3000, "\ud800",
    "\n\x1b[31m", [], [[]], [0], [1, 2], {},
    {"a": 1}, [9] * 3000, 10**6, "yarn", "full_attention", "model.norm.weight", "../a",
]  # fmt: skip
TOKENS = [*(bytes([b]) for b in b'{}[],:"\\9-\0\xff'), b"e9", b"null", b"NaN"]
MARKS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>",
    "</parameter>", "<|im_end|>", "<|im_start|>", '{"name": "f", "arguments": {}}', *"\n{}[\"x",
]  # fmt: skip
SIZES = dict(
    model_type="qwen3_moe", vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=4, rope_theta=1e6, rms_norm_eps=1e-6,
    tie_word_embeddings=True, max_position_embeddings=64, num_experts=4, num_experts_per_tok=2,
    moe_intermediate_size=4, norm_topk_prob=True, mlp_only_layers=[], layer_types=["full_attention"] * 2,
    rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
)  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy of some JSON with one place in it changed: exchanged, renamed, left out, or deeper."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return value | {key + rng.choice(["", "s", " ", "\x00"]) * 2: value[key]}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def bytes_of(value: Any, rng: random.Random) -> bytes:
    """Some JSON with up to two mutations as values and, now and then, some as bytes."""
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        value = mutated(value, rng)
    text = bytearray(json.dumps(value).encode())
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.choice((0, 0, 1, 5))] = rng.choice(TOKENS) * rng.choice((1, 1, 1, 2000))
    return bytes(text)


class Fuzz:
    """A folder of small sound files, and one mutation of them for each number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = Qwen3Config.from_dict(SIZES)
        rng = np.random.default_rng(0)
        shapes = self.config.tensor_shapes()
        save_file({n: rng.normal(size=s).astype("f4") for n, s in shapes.items()}, folder / SINGLE)
        content = (folder / SINGLE).read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.header, self.data = json.loads(content[8 : 8 + length]), content[8 + length :]
        (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors")
        Tokenizer.train(["ab abc abcd"], 300).save_pretrained(folder)
        self.tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.kinds: dict[str, tuple[Callable[[random.Random], None], tuple[type[Exception], ...]]] = {
            "config": (self.a_config, (ConfigError,)),
            "checkpoint": (self.a_checkpoint, (CheckpointError,)),
            "index": (self.an_index, (CheckpointError,)),
            "tokenizer": (self.a_tokenizer, (ValueError,)),
            "reply": (self.a_reply, ()),
        }

    def a_config(self, rng: random.Random) -> None:
        (self.folder / "config.json").write_bytes(bytes_of(SIZES, rng))
        c = Qwen3Config.from_pretrained(self.folder)
        c.tensor_shapes()
        d = min(c.head_dim, 512)
        angles, scale = frequencies(d, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
        if not np.isfinite(angles).all() or not np.isfinite(scale):
            raise AssertionError("angles that are no numbers")

    def a_checkpoint(self, rng: random.Random) -> None:
        header = bytes_of(self.header, rng)
        length = len(header) if rng.random() < 0.95 else rng.choice([0, 2**63, len(header) - 1, 10**8])
        path = self.folder / SINGLE
        path.write_bytes(length.to_bytes(8, "little") + header + self.data)
        try:
            found = open_checkpoint(self.folder)
            try:
                with safe_open(path, "np"):
                    pass
            except SafetensorError as error:
                if "dtype" not in str(error) and "unknown variant" not in str(error):
                    raise AssertionError(f"safetensors refuses it: {error}") from None
            found.require(self.config.tensor_shapes())
        finally:
            path.unlink()

    def an_index(self, rng: random.Random) -> None:
        file = "model-00001-of-00001.safetensors"
        names = [name for name in self.header if name != "__metadata__"]
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, file)}
        (self.folder / INDEX).write_bytes(bytes_of(index, rng))
        open_checkpoint(self.folder).require(self.config.tensor_shapes())

    def a_tokenizer(self, rng: random.Random) -> None:
        (self.folder / "tokenizer.json").write_bytes(bytes_of(self.tokenizer, rng))
        Tokenizer.from_pretrained(self.folder).encode("abcd <think> é", allow_control_tokens=True)

    def a_reply(self, rng: random.Random) -> None:
        pieces = rng.choices(MARKS, k=rng.choice((1, 5, 20, 60)))
        text = "".join(pieces) * rng.choice((1, 1, 1, 1, 50))
        tools = [{"name": "f", "parameters": {"properties": {"a": {"type": "array"}}}}]
        for template in ("qwen3", "qwen3-coder", "qwen3-thinking-2507", "qwen3-instruct-2507"):
            parse_reply(text, template=template, tools=tools, enable_thinking=rng.random() < 0.5)  # type: ignore[arg-type]

    def problem(self, number: int, seed: int) -> str | None:
        """What is wrong with how one mutation is met, or None."""
        rng = random.Random(f"{seed} {number}")
        name = list(self.kinds)[number % len(self.kinds)]
        check, allowed = self.kinds[name]
        before = peak()
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            check(rng)
        except TimeoutError:
            return f"{name} {number}: more than 2 seconds"
        except allowed as error:
            text = str(error)
            if len(text) > 2000 or "\n" in text and name != "tokenizer":
                return f"{name} {number}: a sentence of {len(text)} characters: {text[:200]!r}"
        except Exception as error:  # whatever else it is
            return f"{name} {number}: {type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        more = peak() - before
        return f"{name} {number}: {more} MB" if more > 300 else None


def peak() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 1024)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def problems(count: int, seed: int) -> list[str]:
    """What is wrong with how `count` mutations are met."""
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        return list(filter(None, map(functools.partial(fuzz.problem, seed=seed), range(count))))


def main() -> int:
    """Print the problems; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = problems(args.count, args.seed)
    print(*found, sep="\n")
    print(f"{args.count} mutations with seed {args.seed}, {len(found)} of them met badly")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
