"""What a model needs in memory and how fast memory lets it write: weights by format, KV cache, activations,
on named cards.

Counted is what the arithmetic asks for. An engine adds its own: code and libraries on the card (0.3 to
1 GB), fragments, buffers for speed. GB is 10^9 bytes, for cards too, which is on the safe side of what
they report.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from qwen3_ref.arrays import require_whole
from qwen3_ref.config import Qwen3Config
from qwen3_ref.store.errors import meant, quoted

FORMATS: Mapping[str, str] = {
    "bf16": "16 bits each",
    "fp8": "8 bits and a 32-bit scale for each block of 128 x 128; embeddings, head, routers, norms in bf16",
    "int8": "8 bits and a 16-bit scale for each output; the rest as in fp8",
    "int4-g128": "4 bits, and for 128 weights a 16-bit scale and a 4-bit zero point, as AWQ; the rest too",
    "q4_k_m": "GGUF: 4.5 bits, and 6.5625 for the head and half of v_proj and down_proj; norms in float32",
}
"""Formats of weights, in words."""
KV_FORMATS: Mapping[str, int] = {"bf16": 16, "fp8": 8, "int8": 8, "int4": 4}
"""Bits of a number in the KV cache; the integers have a 16-bit scale for each vector beside them."""
CHUNK = 2048
"""Tokens that an engine reads of a prompt at a time."""
USABLE = 0.9
"""The share of a card that engines give to a model (vLLM's default)."""
_Q4_K, _Q6_K = 4.5, 6.5625


@dataclass(frozen=True)
class Card:
    """A graphics card: memory in bytes, bandwidth in bytes a second, and who says so; FLOPs a second of dense
    products in 16 bits, and bytes a second to another card of the machine, where a page states them."""

    name: str
    memory: float
    bandwidth: float
    source: str
    status: str
    flops: float | None = None
    link: float | None = None


@functools.cache
def cards() -> dict[str, Card]:
    """The known cards by name."""
    text = files("qwen3_ref").joinpath("data", "cards.json").read_text(encoding="utf-8")
    rows = json.loads(text)["cards"]
    return {
        r["name"]: Card(
            r["name"], 1e9 * r["memory_gb"], 1e9 * r["bandwidth_gbs"], r["source"], r["status"],
            1e12 * r["tflops"] if r["tflops"] else None, 1e9 * r["link_gbs"] if r["link_gbs"] else None,
        )
        for r in rows
    }  # fmt: skip


def card(name: str) -> Card:
    """A card by its name, in any case. Raises ValueError, with what may have been meant."""
    known = {k.lower(): v for k, v in cards().items()}
    if not isinstance(name, str) or name.lower() not in known:
        hint = meant(str(name), list(known))
        raise ValueError(f"{quoted(name)} is no card that is known here; {hint}.")
    return known[name.lower()]


def _require(name: str, value: str, known: Mapping[str, object]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {quoted(value)}; {meant(str(value), list(known))}.")


def _bits(c: Qwen3Config, name: str, shape: tuple[int, ...], kind: str) -> float:
    """Bits of a weight of a tensor in a format."""
    if kind == "bf16":
        return 16
    if kind == "q4_k_m":
        return _bits_of_gguf(c, name, shape)
    if not name.endswith("_proj.weight"):
        return 16
    if kind == "fp8":
        blocks = math.prod(-(-size // 128) for size in shape)
        return 8 + 32 * blocks / math.prod(shape)
    return 8 + 16 / shape[1] if kind == "int8" else 4 + 20 / 128


def _bits_of_gguf(c: Qwen3Config, name: str, shape: tuple[int, ...]) -> float:
    """llama.cpp's choice for Q4_K_M, as its `use_more_bits` has it; a tied embedding is the head."""
    if len(shape) == 1 or name.endswith("mlp.gate.weight"):
        return 32
    if name == "lm_head.weight" or (name == "model.embed_tokens.weight" and c.tie_word_embeddings):
        return _Q6_K
    if "v_proj" in name or "down_proj" in name:
        n, layer = c.num_hidden_layers, int(name.split(".")[2])
        if layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2:
            return _Q6_K
    return _Q4_K


@functools.lru_cache(maxsize=256)
def _weight_bytes(text: str, kind: str) -> tuple[float, float]:
    c = Qwen3Config.from_dict(json.loads(text))
    total = active = 0.0
    for name, shape in c.tensor_shapes().items():
        size = math.prod(shape) * _bits(c, name, shape, kind) / 8
        total += size
        share = (c.num_experts_per_tok or 0) / (c.num_experts or 1) if ".experts." in name else 1
        if name != "model.embed_tokens.weight" or c.tie_word_embeddings:  # looked up, not multiplied
            active += size * share
    return total, active


def weight_bytes(config: Qwen3Config, kind: str = "bf16") -> int:
    """Bytes of all weights in one of FORMATS. Raises ValueError for another."""
    _require("the format", kind, FORMATS)
    return round(_weight_bytes(json.dumps(config.to_dict()), kind)[0])


def read_bytes(config: Qwen3Config, kind: str = "bf16") -> int:
    """Bytes of the weights that one token is multiplied with: no idle experts, and no embedding unless it
    is the head too. Raises ValueError for another format."""
    _require("the format", kind, FORMATS)
    return round(_weight_bytes(json.dumps(config.to_dict()), kind)[1])


def kv_bytes(config: Qwen3Config, length: int, batch: int = 1, kind: str = "bf16") -> int:
    """Bytes of the KV cache of `length` tokens in `batch` rows, in one of KV_FORMATS."""
    _require("the format of the cache", kind, KV_FORMATS)
    scale = 16 / config.head_dim if kind.startswith("int") else 0
    return round(config.kv_cache_bytes(length, batch, 1) * (KV_FORMATS[kind] + scale) / 8)


def activation_bytes(config: Qwen3Config, length: int, batch: int = 1, chunk: int = CHUNK) -> int:
    """Bytes of what is alive at once inside a pass in bf16, without gradients: an estimate.

    For each of the chunk's tokens the stream and its sum (2 D), and the wider of attention (queries,
    keys, values, output) and feed-forward (gate, up, their product; of a mixture, for each chosen expert);
    and a row of logits in float32 for each text. Attention's scores are never formed by fused kernels.
    """
    length, batch = require_whole("length", length, 0), require_whole("batch", batch, 0)
    c = config
    attention = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
    forward = 3 * c.intermediate_size
    if c.is_moe:
        assert c.num_experts_per_tok and c.moe_intermediate_size
        forward = 3 * c.num_experts_per_tok * c.moe_intermediate_size
    tokens = min(length, require_whole("chunk", chunk, 1)) * min(batch, 1)
    return 2 * tokens * (2 * c.hidden_size + max(attention, forward)) + 4 * batch * c.vocab_size


@dataclass(frozen=True)
class Need:
    """What a model needs for `batch` texts of `length` tokens, in bytes."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations


def need(config: Qwen3Config, length: int, batch: int = 1, kind: str = "bf16", cache: str = "bf16") -> Need:
    """The sum for weights in `kind` and a KV cache in `cache`. Raises ValueError as its parts do."""
    return Need(
        weight_bytes(config, kind),
        kv_bytes(config, length, batch, cache),
        activation_bytes(config, length, batch),
    )


def cards_needed(config: Qwen3Config, wanted: Need, on: Card) -> int | None:
    """The fewest cards for tensor parallelism: as many as divide the query heads, and hold the need in
    USABLE of their memory. None if not even one a head does. (KV heads are copied where there are fewer
    of them than cards; that is counted.)"""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    for n in range(1, heads + 1):
        copies = max(1, n / groups)
        if heads % n == 0 and wanted.total + (copies - 1) * wanted.cache <= n * on.memory * USABLE:
            return n
    return None


def tokens_per_second(
    config: Qwen3Config, length: int, on: Card, n: int = 1, kind: str = "bf16", cache: str = "bf16"
) -> float:
    """The most that memory allows one text: each new token reads the weights that it uses and the whole
    cache once. Real engines reach half to nine tenths of it."""
    return n * on.bandwidth / (read_bytes(config, kind) + kv_bytes(config, length, 1, cache))
