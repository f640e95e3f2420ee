"""The KV cache: keys and values of the tokens that a model has seen."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from qwen3_ref.config import Qwen3Config


class KVCache:
    """Keys and values of all layers, allocated once; the caller owns it and passes it in.

    All state is here: `length`, the columns in use, and `real` (b, length), which of them are
    tokens and not padding. Two conversations need two caches; `truncate()` starts over.
    """

    def __init__(
        self,
        config: Qwen3Config,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Room for `length` tokens in each of `batch` rows: config.kv_cache_bytes(length, batch)."""
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length)
        self.keys = torch.zeros(*shape, config.head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.real = torch.zeros(batch, length, dtype=torch.bool, device=device)
        self.length = 0

    @property
    def capacity(self) -> int:
        """Columns there is room for."""
        return self.keys.shape[3]

    def truncate(self, length: int = 0) -> None:
        """Forget all columns from `length` on; the memory is kept. Raises ValueError if it is negative."""
        if length < 0:
            raise ValueError(f"length is {length}; it must be 0 or more, counted from the first token.")
        self.length = min(self.length, length)

    def select(self, rows: list[int]) -> KVCache:
        """A cache with these rows only, in this order: what a batch keeps when some have finished."""
        kept = copy.copy(self)
        kept.keys, kept.values, kept.real = self.keys[:, rows], self.values[:, rows], self.real[rows]
        return kept

    def extend(self, real: Tensor) -> Tensor:
        """Take up columns for new tokens, real (b, t); returns the whole mask (b, s) so far."""
        b, t = real.shape
        if b != self.real.shape[0]:
            raise ValueError(
                f"the cache has {self.real.shape[0]} rows and the input has {b}; "
                f"make a KVCache with batch={b}."
            )
        if self.length + t > self.capacity:
            raise ValueError(
                f"the cache holds {self.length} of {self.capacity} tokens and {t} more do not fit; "
                f"make a KVCache with length={self.length + t} or more."
            )
        self.real[:, self.length : self.length + t] = real
        self.length += t
        return self.real[:, : self.length]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new columns k, v (b, k, t, d) of one layer; returns all columns (b, k, s, d)."""
        new = slice(self.length - k.shape[2], self.length)
        self.keys[layer, :, :, new] = k
        self.values[layer, :, :, new] = v
        return self.keys[layer, :, :, : self.length], self.values[layer, :, :, : self.length]
