"""The model as a graph of fixed operations, for engines that run graphs: the cache goes in and comes out.

A graph has no Python in it: no cache that is written to, no loop over the experts that happen to be chosen.
So the cache is two inputs and two outputs, the rotations are a table that holds every position, and each
token gathers the matrices of its own experts. The weights are the model's, and so are the numbers, but for
rounding.

Shapes: L layers, t new tokens, s tokens in the cache, g KV heads, d head_dim, K chosen experts,
D hidden_size, F moe_intermediate_size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3_ref.model import Block, Qwen3, SparseMoe, eager_attention, rope_tables

INPUTS = ("input_ids", "keys", "values")
OUTPUTS = ("logits", "all_keys", "all_values")
EXAMPLE = (3, 5)
"""Tokens and columns of the pass that is traced; any other numbers will do, none and one included."""


class Handed:
    """A cache that is handed in whole, (L, 1, g, s, d), and never written to."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.before = keys, values
        self.after: list[tuple[Tensor, Tensor]] = []

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """One layer's new columns behind those that were there, as `KVCache.append` returns them."""
        keys, values = self.before
        self.after.append((torch.cat([keys[layer], k], dim=2), torch.cat([values[layer], v], dim=2)))
        return self.after[-1]


class Gathered(nn.Module):
    """`model.SparseMoe` by gathering: each token's K experts' matrices, and batched products with them. The
    choice is `moe.route`'s, but that of equals any may come first: graphs know no stable order."""

    def __init__(self, moe: SparseMoe) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x: Tensor, trace: None = None) -> Tensor:
        """(1, t, D) -> (1, t, D)."""
        weights, experts = self.moe.gate(x[0]).softmax(dim=-1).topk(self.moe.top_k)  # (t, K)
        if self.moe.normalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        matrices = self.moe.experts
        wide = x[0, :, None, :, None]  # (t, 1, D, 1)
        gate, up = (matrices.gate_up_proj[experts] @ wide).chunk(2, dim=2)  # (t, K, F, 1)
        y = (matrices.down_proj[experts] @ (F.silu(gate) * up))[..., 0]  # (t, K, D)
        return (y * weights[..., None]).sum(dim=1)[None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`model.eager_attention` without its weights, where `Attention.attend` stands."""
    assert mask is not None  # a graph has one always
    return eager_attention(q, k, v, mask)[0]


class Graph(nn.Module):
    """One forward pass of a text: (ids, cache) -> (logits of the last token, cache)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: Qwen3) -> None:
        super().__init__()
        decoder = model.model
        if decoder.chunk_length is not None or decoder.dynamic:
            raise ValueError(
                "positions of this checkpoint hang on the length of the text (Dual Chunk Attention or "
                "dynamic NTK), which a graph with a table of rotations cannot have; export it as trained."
            )
        self.model = model
        positions = torch.arange(model.config.context_length)[None]
        tables = rope_tables(positions, decoder.inv_freq, decoder.rope_factor, torch.float32)
        for name, table in zip(("cos", "sin"), tables, strict=True):
            self.register_buffer(name, table[0])
        for block in decoder.layers:
            assert isinstance(block, Block)
            block.self_attn.attend = attend
            if isinstance(block.mlp, SparseMoe):
                block.mlp = cast(SparseMoe, Gathered(block.mlp))  # it is called alike

    def forward(self, input_ids: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """input_ids (1, t); keys, values (L, 1, g, s, d) -> logits (1, V), both caches with s + t columns."""
        t, start = input_ids.shape[1], keys.shape[3]
        column = torch.arange(start + t)
        mask = (column[None, :] <= column[start:, None])[None, None]  # (1, 1, t, s + t)
        cos, sin = self.cos[start : start + t][None], self.sin[start : start + t][None]
        cache: Any = Handed(keys, values)
        x = self.model.model.embed_tokens(input_ids)
        for block in self.model.model.layers:
            x = block(x, cos, sin, mask, cache, None)
        logits = self.model.head(self.model.model.norm(x[:, -1:]))[:, 0]
        after = [torch.stack(both) for both in zip(*cache.after, strict=True)]
        return logits, after[0], after[1]


def empty_cache(model: Qwen3, columns: int = 0) -> Tensor:
    """Keys or values (L, 1, g, columns, d) for a graph."""
    c = model.config
    return torch.zeros(c.num_hidden_layers, 1, c.num_key_value_heads, columns, c.head_dim)


def write_onnx(source: str | Path, target: str | Path) -> None:
    """Write a checkpoint directory as an ONNX file in float32, any t and s. Needs onnx and onnxscript."""
    model = Qwen3.from_pretrained(source)
    t, s = EXAMPLE
    given = torch.zeros(1, t, dtype=torch.int64), empty_cache(model, s), empty_cache(model, s)
    new, old = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    with torch.inference_mode():
        program = torch.onnx.export(
            Graph(model).eval(), given, dynamo=True, verbose=False,
            input_names=list(INPUTS), output_names=list(OUTPUTS),
            dynamic_shapes={"input_ids": {1: new}, "keys": {3: old}, "values": {3: old}},
        )  # fmt: skip
    assert program is not None
    program.save(str(target), external_data=model.config.num_parameters() > 10**8)
