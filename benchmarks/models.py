"""The models that are measured: seeded weights in the official layout, and how much work a token is.

Shapes: D hidden_size, E num_experts, K num_experts_per_tok, V vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3_ref.config import Qwen3Config

BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "int8": 8.0, "int4": 4 + 32 / 32, "f16": 16.0}
"""Of a stored weight with its share of scales. int4 here has a scale and a minimum of 16 bits each for 32."""
BITS |= {"q8_0": 8 + 16 / 32, "q4_0": 4 + 16 / 32}  # llama.cpp's: a scale of 16 bits for 32 weights


def dense(quick: bool) -> Qwen3Config:
    """Qwen3-0.6B, or a toy of the same kind."""
    if not quick:
        return Qwen3Config.named("Qwen3-0.6B")
    return Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, rope_theta=1e6, tie_word_embeddings=True,
        max_position_embeddings=2048,
    )  # fmt: skip


def one_moe_layer(quick: bool) -> Qwen3Config:
    """One layer of Qwen3-30B-A3B, true in its experts; vocabulary and attention are small."""
    c = Qwen3Config.named("Qwen3-30B-A3B")
    c = replace(c, num_hidden_layers=1, vocab_size=64, num_attention_heads=1, num_key_value_heads=1)
    if quick:
        c = replace(c, hidden_size=64, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2)
    return c


def made(config: Qwen3Config, directory: Path) -> Path:
    """A checkpoint of this config with seeded weights in bfloat16, written unless it is there already.

    Raises ValueError if the directory holds another model.
    """
    if (directory / "config.json").exists():
        if Qwen3Config.from_pretrained(directory).tensor_shapes() != config.tensor_shapes():
            raise ValueError(f"{directory} holds a model of another shape; give another --model.")
        return directory
    import torch

    from qwen3_ref.model import Qwen3

    directory.mkdir(parents=True, exist_ok=True)
    Qwen3(config, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


def seeded(directory: Path) -> Any:
    """Such a checkpoint as a `Source` of exports, with a tokenizer that knows hardly more than bytes."""
    from qwen3_ref.decode.profile import Profile
    from qwen3_ref.engines.source import Source
    from qwen3_ref.store.quantized import open_weights
    from qwen3_ref.tokenizer import Tokenizer

    config = Qwen3Config.from_pretrained(directory)
    tokenizer = Tokenizer.train(["seeded"], config.vocab_size)
    weights = open_weights(directory)
    return Source("seeded", config, weights, tokenizer, Profile.of(tokenizer), {}, directory)


def matrices(config: Qwen3Config) -> int:
    """Weights that one token is multiplied with: all matrices, the head (tied or not), K of E experts."""
    share = (config.num_experts_per_tok or 0) / (config.num_experts or 1)
    total = 0.0
    for name, shape in config.tensor_shapes().items():
        looked_up = name == "model.embed_tokens.weight" and not config.tie_word_embeddings
        if len(shape) == 2 and not looked_up:
            total += math.prod(shape) * (share if ".experts." in name else 1)
    return round(total)


def bytes_of_a_step(config: Qwen3Config, precision: str, context: int, rows: int = 1) -> float:
    """What a decode step of a dense model has to read: each weight once, and the cache of each row."""
    width = 4 if precision == "float32" else 2
    return matrices(config) * BITS[precision] / 8 + rows * config.kv_cache_bytes(context) * width / 2


def flops_of_prefill(config: Qwen3Config, tokens: int) -> float:
    """Products of prefill with logits for the last token alone; scores and values see half of the square."""
    c = config
    head = c.vocab_size * c.hidden_size
    attention = 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * tokens**2
    return 2.0 * (matrices(c) - head) * tokens + 2.0 * head + attention


def read_config(directory: str) -> dict[str, object]:
    """config.json as it is."""
    found: dict[str, object] = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    return found
