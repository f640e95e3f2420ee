"""What several test files share: reference models of transformers, small models of ours, odds and ends.

The reference weights are hardened: fresh ones have every norm gain at 1 and a nearly silent network,
which lets 9 of 29 known bugs through. Here gains are 1 + 0.5 randn, other weights five times their
initial size, head_dim is not hidden_size / heads, and inputs are 96 tokens long.
"""

from __future__ import annotations

import atexit
import copy
import functools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure.accuracy import Row
from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import loop
from qwen3_ref.train.corpus import Corpus, maths_documents, reasoning_documents, split_docstrings
from qwen3_ref.train.queries import Query, Sample
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.recipes.grpo import Grpo

# -- transformers' models --------------------------------------------------------------------------------

DENSE = dict(
    vocab_size=160,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention_bias=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)
MOE = DENSE | dict(moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True)
YARN = dict(
    rope_type="yarn", rope_theta=1e4, factor=3.0, original_max_position_embeddings=64
)  # factor is not max_position_embeddings / original (8)

CASES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "dense_tied": DENSE | dict(tie_word_embeddings=True),
    "dense_large_eps": DENSE | dict(rms_norm_eps=1e-2),
    "dense_yarn": DENSE | dict(rope_parameters=YARN),
    "dense_yarn_attention_factor": DENSE | dict(rope_parameters=YARN | dict(attention_factor=1.3)),
    "dense_one_kv_head": DENSE | dict(num_key_value_heads=1),
    "dense_mha": DENSE | dict(num_key_value_heads=4),
    "moe": MOE,
    "moe_unnormalised": MOE | dict(norm_topk_prob=False),
    "moe_tied_yarn": MOE | dict(tie_word_embeddings=True, rope_parameters=YARN),
    "moe_mixed_layers": MOE | dict(mlp_only_layers=[1]),
    "moe_every_second_layer": MOE | dict(decoder_sparse_step=2),
}


def harden(model: torch.nn.Module, seed: int = 1) -> None:
    """Random gains, and other weights five times as large, so that every part of the model speaks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.5 * noise)
            else:
                parameter.copy_(0.1 * noise)


def official_model(settings: dict[str, Any], seed: int = 1, *, hardened: bool = True) -> torch.nn.Module:
    """A transformers model, float32, eager attention; hardened, or freshly initialised with the seed."""
    moe = "num_experts" in settings
    config_type = transformers.Qwen3MoeConfig if moe else transformers.Qwen3Config
    config = config_type(**copy.deepcopy(settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        )
    model = model.float().eval()
    if hardened:
        harden(model, seed)
    model.tie_weights()
    return model


@functools.cache
def scratch() -> Path:
    """A temporary folder for this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="qwen3-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def token_ids(vocab_size: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Random ids."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def reference(case: str) -> tuple[Path, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(checkpoint directory, ids (2, 96), transformers' logits in float32, and in float64)."""
    settings = CASES[case]
    model = official_model(settings)
    directory = scratch() / case
    model.save_pretrained(directory)
    ids = token_ids(settings["vocab_size"], (2, 96))
    with torch.no_grad():
        logits = model(ids).logits
        wide = model.double()(ids).logits
    return directory, ids, logits, wide


@functools.cache
def cached_official(case: str) -> torch.nn.Module:
    return official_model(CASES[case])


def official_alone(case: str, row: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return cached_official(case)(row[None]).logits[0]


def left_pad(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, longest), padded on the left with id 7 (a real id: pads must not leak)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
    return ids, mask


# -- small models of ours --------------------------------------------------------------------------------

TOKENIZER = Tokenizer.train(["<think> 12+34=46 mod 100 </think>"], 256 + 26 + 6)
TINY = Qwen3Config(
    vocab_size=TOKENIZER.num_ids,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rope_theta=1e4,
    tie_word_embeddings=True,
    max_position_embeddings=64,
)
SMALL_GRPO = Grpo(steps=3, prompts=4, group=4, max_new_tokens=6, save_every=1, held_out_every=2)


def hard_model() -> Qwen3:
    model = Qwen3(TINY)
    harden(model)
    return model


def letter_queries(count: int = 6) -> list[Query]:
    """Rewarded is the share of letters among the ids of a reply: half of them are by chance."""

    def score(sample: Sample) -> tuple[float, dict[str, float]]:
        share = sum(c.isalpha() for c in sample.answer) / sample.tokens
        return share, {"letters": share}

    return [Query((i, i + 1, i + 2), score) for i in range(count)]


def broken(model: Qwen3) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, allow_control_tokens=True)


def tiny(seed: int = 0, **changes: Any) -> Qwen3:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 12}
    config = pretrain.nano_config(**(sizes | changes))
    return Qwen3(config, generator=torch.Generator().manual_seed(seed))


@functools.cache
def small_corpus() -> Corpus:
    """A corpus that is made in a moment: this package's own source, and little of the generated."""
    sources = [path.read_text("utf-8") for path in sorted(Path(loop.__file__).parent.rglob("*.py"))]
    code, prose = zip(*map(split_docstrings, sources), strict=True)
    return {
        "code": [f"{source}\n# {i}" for i in range(20) for source in code],
        "language": ["\n\n".join([*docstrings, str(i)]) for i in range(40) for docstrings in prose],
        "maths": maths_documents(60_000),
        "reasoning": reasoning_documents(80),
    }


def row(problem: int, correct: bool, **changes: Any) -> Row:
    values: dict[str, Any] = dict(
        problem=problem, family="arithmetic", difficulty=1, mode="thinking", budget=None, sample=0,
        correct=correct, lenient=correct, thinking_tokens=10, answer_tokens=3, thinking_ended="closed",
        ended="stop", answer="1",
    )  # fmt: skip
    return Row(**values | changes)


# -- what was recorded -----------------------------------------------------------------------------------

RECORD = Path(__file__).parent / "recorded.json"


def shown(value: Any) -> str:
    """A value as text that is the same in every process: no addresses, sets in order."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{f.name}={shown(getattr(value, f.name))}" for f in fields(value) if f.init)
        return f"{type(value).__name__}({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(map(shown, value))) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(shown, value)) + ")"
    if isinstance(value, re.Pattern):
        return f"re {value.pattern!r} {value.flags}"
    if isinstance(value, functools.partial):
        return f"partial({shown(value.func)}, {shown(value.args)}, {shown(value.keywords)})"
    if isinstance(value, Path):
        return value.name
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    if value is None or isinstance(value, bool | int | float | str | bytes | range | torch.dtype):
        return repr(value)
    return type(value).__name__


def number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def differences(got: Any, want: Any, where: str = "") -> list[str]:
    """Places where two JSON values differ by more than rounding."""
    if isinstance(want, dict) and isinstance(got, dict):
        if list(got) != list(want):
            return [f"{where}: {list(got)} instead of {list(want)}"]
        return [d for key in want for d in differences(got[key], want[key], f"{where}/{key}")]
    if isinstance(want, list) and isinstance(got, list):
        if len(got) != len(want):
            return [f"{where}: {len(got)} instead of {len(want)}"]
        return [
            d
            for i, pair in enumerate(zip(got, want, strict=True))
            for d in differences(*pair, f"{where}/{i}")
        ]
    one, other = number(got), number(want)
    if one is not None and other is not None and math.isclose(one, other, rel_tol=2e-3, abs_tol=2e-5):
        return []
    return [] if got == want else [f"{where}: {got!r} instead of {want!r}"]


def require_recorded(name: str, found: Any) -> None:
    """Compare with what recorded.json has under this name: numbers may differ by rounding (0.2%).

    With RECORD_ANEW=1 in the environment it is written there instead; the diff shows what has changed.
    """
    got, record = json.loads(json.dumps(found)), json.loads(RECORD.read_text("utf-8"))
    if os.environ.get("RECORD_ANEW"):
        record[name] = got
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    unlike = differences(got, record[name])
    assert not unlike, f"not as recorded (see require_recorded), {name}:\n" + "\n".join(unlike[:10])
