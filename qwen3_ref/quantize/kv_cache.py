"""A KV cache in 8 or 4 bits: the methods of KVCache, a quarter to an eighth of float32's memory.

Each token's vector of each head has one scale of its own (symmetric, the largest magnitude over 127 or 7),
so that a token can be written once and never touched again. Keys are kept as they come, **after RoPE**:
reading them back is then a product and no rotation. What it costs: RoPE mixes channels in pairs, so a
scale for each *channel* (KIVI, arXiv 2402.02750, for keys of 2 bits) would have to be taken before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from qwen3_ref.arrays import require_whole
from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config

BITS = (8, 4, None)


def encode(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of vectors (..., d): int8 (..., d), or uint8 (..., d/2) of 4 bits, channel j in the
    low half of a byte and channel j + d/2 in the high one; scales (..., 1) in x's dtype."""
    most = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True) / most
    codes = (x / torch.where(scale == 0, 1, scale)).round().clamp(-most, most).to(torch.int8)
    if bits == 8:
        return codes, scale
    low, high = (codes + 8).to(torch.uint8).chunk(2, -1)
    return low | high << 4, scale


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """The vectors (..., d) that `encode` was given, to within half a scale."""
    if codes.dtype == torch.uint8:
        codes = torch.cat([codes & 15, codes >> 4], -1).to(torch.int8) - 8
    return codes.to(scale.dtype) * scale


class QuantizedKVCache(KVCache):
    """A KVCache that keeps keys and values in `key_bits` and `value_bits`: 8, 4, or None for the model's
    dtype. A new token attends to what the cache will give of itself, too."""

    def __init__(
        self,
        config: Qwen3Config,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        key_bits: int | None = 8,
        value_bits: int | None = 8,
    ) -> None:
        """Room as in KVCache; raises ValueError as it does, and for other bits."""
        for name, bits in (("key_bits", key_bits), ("value_bits", value_bits)):
            if bits not in BITS:
                raise ValueError(f"{name} is {bits!r}; it must be 8, 4, or None for the model's dtype.")
        super().__init__(config, batch, 1, dtype, device)
        self._bits = key_bits, value_bits
        with torch.inference_mode(False):
            self._keys, self._key_scale = self._room(self.keys, key_bits)
            self._values, self._value_scale = self._room(self.values, value_bits)
            # What KVCache reads of its shape and kind, without memory of its own.
            self.keys = self.keys.new_zeros(1).expand(self.keys.shape)
        del self.values
        self.reserve(length)

    @staticmethod
    def _room(like: Tensor, bits: int | None) -> tuple[Tensor, Tensor]:
        return (like, like[..., :0]) if bits is None else encode(like, bits)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(x.nbytes for x in (self._keys, self._key_scale, self._values, self._value_scale))

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new columns k, v (b, g, t, d) of one layer; returns all columns (b, g, s, d)."""
        stop = self.length + k.shape[2]
        return (
            self._append(self._keys, self._key_scale, layer, stop, k, self._bits[0]),
            self._append(self._values, self._value_scale, layer, stop, v, self._bits[1]),
        )

    def _append(
        self, codes: Tensor, scale: Tensor, layer: int, stop: int, new: Tensor, bits: int | None
    ) -> Tensor:
        columns = slice(self.length, stop)
        if bits is None:
            codes[layer, :, :, columns] = new
            return codes[layer, :, :, :stop]
        codes[layer, :, :, columns], scale[layer, :, :, columns] = encode(new, bits)
        return decode(codes[layer, :, :, :stop], scale[layer, :, :, :stop])

    @torch.inference_mode(False)
    @torch.no_grad()
    def reserve(self, length: int) -> None:
        """Make room for `length` columns in all, if there is less; what it holds stays."""
        more = require_whole("length", length, 0) - self.capacity
        if more <= 0:
            return
        try:
            parts = self._keys, self._key_scale, self._values, self._value_scale
            keys, key_scale, values, value_scale = (pad(part, (0, 0, 0, more)) for part in parts)
            ids, real = pad(self._ids, (0, more)), pad(self._real, (0, more))
        except (RuntimeError, OverflowError, TypeError):
            raise ValueError(
                f"the memory has no room for a cache of {self.batch} times {length} tokens; give a smaller "
                f"batch or length."
            ) from None
        self._keys, self._key_scale, self._values, self._value_scale = keys, key_scale, values, value_scale
        self._ids, self._real = ids, real
        shape = self.keys.shape
        self.keys = self.keys.new_zeros(1).expand(*shape[:3], shape[3] + more, shape[4])

    @torch.inference_mode(False)
    @torch.no_grad()
    def select(self, rows: Sequence[int]) -> KVCache:
        """A cache of its own with these rows, in this order, as KVCache has it."""
        rows = [require_whole("a row", row, 0) for row in rows]
        for row in rows:
            if row >= self.batch:
                raise ValueError(f"there is no row {row}; the cache has {self.batch}, counted from 0.")
        kept = copy.copy(self)
        kept._keys, kept._key_scale = self._keys[:, rows], self._key_scale[:, rows]
        kept._values, kept._value_scale = self._values[:, rows], self._value_scale[:, rows]
        kept._ids, kept._real = self._ids[rows], self._real[rows]
        kept.keys = self.keys[:1, :1].expand(self.keys.shape[0], len(rows), *self.keys.shape[2:])
        return kept

    _PARTS = ("_keys", "_key_scale", "_values", "_value_scale")

    def join(self, other: KVCache, more: int = 0) -> KVCache:
        """The rows of both, as KVCache has it; both keep keys and values in the same bits."""
        joined = super().join(other, more)
        assert isinstance(joined, QuantizedKVCache)
        layers, batch, groups, capacity, _ = joined._keys.shape
        joined.keys = self.keys[:1, :1, :1, :1].expand(layers, batch, groups, capacity, self.keys.shape[4])
        return joined
