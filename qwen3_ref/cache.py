"""The KV cache: keys and values of the tokens that a model has seen, and which tokens these were.

Shapes: L layers, b batch, t new tokens, s all tokens so far, g KV heads (each serves a group of query
heads), d head_dim.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from qwen3_ref.arrays import require_whole
from qwen3_ref.config import Qwen3Config
from qwen3_ref.store.errors import quoted

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def require_dtype(dtype: object) -> None:
    """Raise ValueError in one sentence for what is no dtype of weights."""
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {quoted(dtype)}; it must be one of {', '.join(map(str, _DTYPES))}.")


def require_device(device: object) -> torch.device:
    """The device, if PyTorch has it here: what it says itself is AssertionError, RuntimeError and others."""
    try:
        found = torch.device(device)  # type: ignore[call-overload]
        if found.type not in ("cpu", "meta"):
            torch.empty(1, device=found)
    except Exception as error:
        reason = f"{error}".splitlines()[0][:200].rstrip(". ") if f"{error}" else type(error).__name__
        here = ["cpu", *(name for name in ("cuda", "mps") if getattr(torch, name).is_available())]
        raise ValueError(
            f"device is {quoted(device)}, which cannot be used here ({reason}); use {' or '.join(here)}."
        ) from None
    assert isinstance(found, torch.device)
    return found


def _kind(part: Tensor) -> tuple[object, ...]:
    """What two parts (L, b, g, capacity, d) that are to lie in one have in common."""
    layers, _, groups, _, size = part.shape
    return layers, groups, size, part.dtype, part.device


class KVCache:
    """Keys and values of all layers; the caller owns it and passes it in.

    A forward pass announces its tokens (`begin`), each layer adds its columns (`append`), and after
    the last layer they count (`commit`). So a pass that fails or is interrupted leaves the cache as it
    was, and the next one may go on from there.

    All state is here: `keys` and `values` (L, b, g, capacity, d), `length`, the columns in use, of these
    `ids` and `real`, and `placed`: whether some stand where the caller said, and not where they count. Two
    conversations need two caches; `truncate()` starts over. Anything with these methods can take its place.
    """

    def __init__(
        self,
        config: Qwen3Config,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Room for `length` tokens in each of `batch` rows: config.kv_cache_bytes(length, batch).

        Raises ValueError for a batch or length that is no whole number, below 1, or beyond the memory;
        for a dtype that is no float, and for a device that is not here.
        """
        require_dtype(dtype)
        device = require_device(device)
        batch, length = require_whole("batch", batch, 1), require_whole("length", length, 1)
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length)
        try:
            with torch.inference_mode(False):  # made inside inference mode, it would be of no use outside
                self.keys = torch.zeros(*shape, config.head_dim, dtype=dtype, device=device)
                self.values = torch.zeros_like(self.keys)
                self._ids = torch.zeros(batch, length, dtype=torch.int64, device=device)
                self._real = torch.zeros(batch, length, dtype=torch.bool, device=device)
        except (RuntimeError, OverflowError, TypeError):  # of a number that no tensor's size can be, too
            raise ValueError(
                f"the memory has no room for a cache of {quoted(batch)} times {quoted(length)} tokens; give "
                f"a smaller batch or length."
            ) from None
        self.length = 0
        self.placed = False
        self._coming, self._placing = 0, False  # columns of the pass under way; whether it gave positions
        self._model: Callable[[], Tensor | None] = lambda: None  # whose columns: its embedding

    @property
    def batch(self) -> int:
        """Rows."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Columns there is room for."""
        return self.keys.shape[3]

    @property
    def ids(self) -> Tensor:
        """The ids it holds, (b, length)."""
        return self._ids[:, : self.length]

    @property
    def real(self) -> Tensor:
        """Which of them are tokens and not padding, (b, length)."""
        return self._real[:, : self.length]

    # -- one forward pass ----------------------------------------------------------------------

    def require_fit(self, config: Qwen3Config, embedding: Tensor) -> None:
        """Raise ValueError in one sentence when this cache is not one of such a model, or holds what
        another one has seen; a model is known by its embedding (V, D)."""
        dtype, device = embedding.dtype, embedding.device
        layers, _, groups, _, head_dim = self.keys.shape
        wanted = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        if (layers, groups, head_dim) != wanted:
            raise ValueError(
                f"the cache is made for {layers} layers with {groups} KV heads of {head_dim} channels and "
                f"the model has {wanted[0]} with {wanted[1]} of {wanted[2]}; make a KVCache with the "
                f"model's own config."
            )
        if self.keys.dtype != dtype:
            raise ValueError(
                f"the cache is {self.keys.dtype} and the model {dtype}; make a KVCache with dtype={dtype}."
            )
        if self.keys.device != device:
            raise ValueError(
                f"the cache is on {self.keys.device} and the model on {device}; make a KVCache with "
                f"device={str(device)!r}."
            )
        if self.length == 0:
            self._model = weakref.ref(embedding)
        elif self._model() is not embedding:
            raise ValueError(
                f"the cache holds {self.length} tokens as another model has seen them; pass a new KVCache, "
                f"or call its truncate() to start over."
            )

    def begin(self, ids: Tensor, real: Tensor, placed: bool = False) -> Tensor:
        """Take up columns for new tokens, ids and real (b, t); returns `real` of all (b, s).

        placed: the caller says where they stand, and has to go on saying it, since where the next one
        stands no longer follows from how many there are. They count after `commit()`.
        Raises ValueError for another batch, where there is no room, or for positions that are missing.
        """
        b, t = ids.shape
        if b != self.batch:
            raise ValueError(
                f"the cache has {self.batch} rows and the input has {b}; make a KVCache with batch={b}."
            )
        stop = self.length + t
        if stop > self.capacity:
            raise ValueError(
                f"the cache holds {self.length} of {self.capacity} tokens and {t} more do not fit; "
                f"make a KVCache with length={stop} or more, or call reserve({stop})."
            )
        self.placed = self.placed and self.length > 0
        if self.placed and not placed:
            raise ValueError(
                "the cache holds tokens whose position_ids were given, and where the next ones stand does "
                "not follow from their number; give position_ids again (mrope.Layout.following has them)."
            )
        self._ids[:, self.length : stop] = ids
        self._real[:, self.length : stop] = real
        self._coming = t
        self._placing = placed
        return self._real[:, :stop]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new columns k, v (b, g, t, d) of one layer; returns all columns (b, g, s, d)."""
        stop = self.length + k.shape[2]
        new = slice(self.length, stop)
        self.keys[layer, :, :, new] = k
        self.values[layer, :, :, new] = v
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    def commit(self) -> None:
        """The pass is through: from now on its columns count."""
        self.length, self._coming = self.length + self._coming, 0
        self.placed = self.placed or self._placing

    # -- between passes ------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def reserve(self, length: int) -> None:
        """Make room for `length` columns in all, if there is less; what it holds stays."""
        more = require_whole("length", length, 0) - self.capacity
        if more > 0:
            keys, values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))
            ids, real = pad(self._ids, (0, more)), pad(self._real, (0, more))
            self.keys, self.values, self._ids, self._real = keys, values, ids, real

    def truncate(self, length: int = 0) -> None:
        """Forget all columns from `length` on; the memory is kept. It never gets longer.

        Raises ValueError for a length that is no whole number, or negative.
        """
        length = require_whole("length", length, 0)
        self.length, self._coming = min(self.length, length), 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def select(self, rows: Sequence[int]) -> KVCache:
        """A cache of its own with these rows, in this order: what a batch keeps when some have
        finished, or one row several times. Raises ValueError for a row that there is not."""
        rows = [require_whole("a row", row, 0) for row in rows]
        for row in rows:
            if row >= self.batch:
                raise ValueError(f"there is no row {row}; the cache has {self.batch}, counted from 0.")
        kept = copy.copy(self)
        kept.keys, kept.values = self.keys[:, rows], self.values[:, rows]
        kept._ids, kept._real = self._ids[rows], self._real[rows]
        return kept

    @torch.inference_mode(False)
    @torch.no_grad()
    def join(self, other: KVCache, more: int = 0) -> KVCache:
        """A cache of its own with the rows of both, these first, and room for `more` columns: how new rows
        come into a batch that runs. Both end in the same column: columns that are padding in every row of
        one are dropped from its beginning, and the shorter one gets padding there, which shifts no position.

        Raises ValueError for a number of columns that is none, or a cache of another kind or model.
        """
        more = require_whole("more", more, 0, " (columns)")
        kinds = [(type(one), id(one._model()), *map(_kind, one._parts())) for one in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "the caches differ in kind, or are of two models; join those that one model has filled."
            )
        firsts = [one._first() for one in (self, other)]
        width = max(one.length - first for one, first in zip((self, other), firsts, strict=True))
        joined = copy.copy(self)
        joined.length, joined.placed = width, self.placed or other.placed
        for name in (*self._PARTS, "_ids", "_real"):
            axis = 1 if name in ("_ids", "_real") else 3
            pieces = []
            for one, first in zip((self, other), firsts, strict=True):
                part = getattr(one, name).narrow(axis, first, one.length - first)
                sides = (width - part.shape[axis], more)
                pieces.append(pad(part, sides if axis == 1 else (0, 0, *sides)))
            setattr(joined, name, torch.cat(pieces, dim=0 if axis == 1 else 1))
        return joined

    _PARTS: tuple[str, ...] = ("keys", "values")  # (L, b, g, capacity, ...): what it holds of the layers

    def _parts(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._PARTS]

    def _first(self) -> int:
        """The first column that is a token in some row."""
        columns = self.real.any(dim=0).nonzero()
        return int(columns[0]) if len(columns) else self.length

    def keep(self, prompt: Sequence[int], *, strict: bool = False) -> int:
        """Keep what serves this prompt, and say how many of its tokens need not be computed again.

        All columns from the first id that differs from the prompt are forgotten; and so that there are
        logits to go on from, at least the prompt's last token is left to compute. The same prompt again
        ("regenerate") therefore costs one token. Feed `prompt[keep(prompt):]` next.

        strict: a cache whose ids and the prompt part ways before one of them ends holds another text,
        and that is refused; without it, such a cache goes back to where they part.
        Raises ValueError for that, for an empty prompt, or for more than one row.
        """
        if self.batch != 1 or len(prompt) == 0:
            raise ValueError(
                f"keep() needs a cache of one row and a prompt of at least one token; here are "
                f"{self.batch} rows and {len(prompt)} tokens."
            )
        n = min(self.length, len(prompt))
        same = self.ids[0, :n] == torch.as_tensor(prompt[:n], device=self.ids.device)
        shared = int((same & self.real[0, :n]).cumprod(0).sum())
        if strict and shared < n:
            raise ValueError(
                f"the cache holds another text than this prompt: they differ from token {shared} on; pass "
                f"a new KVCache, or call its keep(prompt) to go back to where they part."
            )
        self.truncate(min(shared, len(prompt) - 1))
        return self.length
