"""The layouts of the official quantised checkpoints, made into plain numbers on loading, in NumPy.

`quantization_config` in config.json says which layout it is. What is made is float32:

- **fp8**: `X.weight` (O, I) in float8 e4m3 and `X.weight_scale_inv`, a number for each block of 128 x 128,
  the last ones smaller. W = fp8 * weight_scale_inv: the name says inverse, and the factor multiplies.
- **gptq**: `X.qweight` int32 (I * bits / 32, O), input 8 i + k (at 4 bits) in bits 4 k of word i;
  `X.qzeros` (G, O * bits / 32), `X.scales` (G, O), `X.g_idx` (I), the group of each input.
  W^T = (q - z) s; files of version 1 store z - 1, those of `checkpoint_format` gptq_v2 z itself.
- **awq** (gemm): `X.qweight` int32 (I, O / 8), `X.qzeros` (G, O / 8), `X.scales` (G, O). The nibbles of
  a word hold its eight columns in the order 0 2 4 6 1 3 5 7. W^T = (q - z) s.

The rounding of activations that a GPU's kernel does beside this is left out, so its last digits differ.
Every tensor of such a file is used, or the load is refused: a scale that is dropped in silence is the
bug that ports really shipped (sglang 23687: perplexity 2 million).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.store.checkpoint import Checkpoint, Stored, open_checkpoint
from qwen3_ref.store.errors import CheckpointError, quoted
from qwen3_ref.store.files import read_json
from qwen3_ref.store.shipped import directory_of

Floats = NDArray[np.float32]
METHODS = ("fp8", "gptq", "awq")
AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble in which AWQ keeps each of a word's eight columns."""
_PARTS = {
    "fp8": ("weight", "weight_scale_inv"),
    "gptq": ("qweight", "qzeros", "scales"),
    "awq": ("qweight", "qzeros", "scales"),
}
_CONFIG_BYTES = 4_000_000


def open_weights(directory: str | os.PathLike[str]) -> Checkpoint:
    """`open_checkpoint`, of a quantised checkpoint too: its tensors then read as plain numbers.

    Raises CheckpointError as that does; for a method that is not one of METHODS, or settings of one that
    are not the official ones; for a matrix whose parts are not all there, or do not fit each other.
    """
    checkpoint = open_checkpoint(directory)
    settings = _settings(directory)
    return checkpoint if settings is None else Dequantized(checkpoint, settings)


def _settings(directory: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """`quantization_config` of a directory's config.json, or None. What is wrong with the file otherwise
    is for the config to say."""
    try:
        values = read_json(directory_of(directory) / "config.json", _CONFIG_BYTES)
    except (OSError, ValueError):
        return None
    settings = values.get("quantization_config") if isinstance(values, dict) else None
    if settings is not None and not isinstance(settings, dict):
        raise CheckpointError(
            f"quantization_config in {directory} is {quoted(settings)}; it must be an object with a "
            f"quant_method, so fetch config.json again."
        )
    return settings


def _refused(settings: Mapping[str, Any]) -> str | None:
    """Why these settings cannot be read, or None."""
    method = settings.get("quant_method")
    if method not in METHODS:
        return f"quant_method is {quoted(method)}; those that can be read are {', '.join(METHODS)}"
    wanted: dict[str, tuple[object, ...]] = {"bits": (4,)}
    if method == "fp8":
        wanted = {"fmt": ("e4m3", None)}
        size = settings.get("weight_block_size")
        if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or n < 1 for n in size):
            return f"weight_block_size is {quoted(size)}; the official files have blocks of [128, 128]"
    elif method == "gptq":
        wanted = {"bits": (2, 4, 8), "checkpoint_format": ("gptq", "gptq_v2", None)}
    elif method == "awq":
        wanted = {"bits": (4,), "version": ("gemm", None), "zero_point": (True, None)}
    for name, values in wanted.items():
        if settings.get(name) not in values:
            return f"{name} is {quoted(settings.get(name))}; it must be {values[0]!r} here"
    return None


class Dequantized(Checkpoint):
    """A quantised checkpoint that reads like a plain one of float32, a matrix at a time."""

    def __init__(self, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
        """Pair the parts of each matrix by their names; their values are read later."""
        if problem := _refused(settings):
            raise CheckpointError(
                f"{problem} (quantization_config in {checkpoint.directory}); fetch the unquantised "
                f"checkpoint, or run this one with transformers."
            )
        self.directory, self._settings = checkpoint.directory, settings
        self._method: str = settings["quant_method"]
        self._tensors = dict(checkpoint._tensors)
        self._parts: dict[str, dict[str, Stored]] = {}
        last = _PARTS[self._method][-1]
        for scale in [name for name in self._tensors if name.rpartition(".")[2] == last]:
            stem = scale.rpartition(".")[0]
            self._parts[f"{stem}.weight"] = parts = {}
            for part in (*_PARTS[self._method], *(["g_idx"] if self._method == "gptq" else [])):
                if f"{stem}.{part}" in self._tensors:
                    parts[part] = self._tensors.pop(f"{stem}.{part}")
                elif part != "g_idx":
                    raise CheckpointError(
                        f"{self.directory} holds {scale} and no {stem}.{part}; fetch the checkpoint again."
                    )
            shape = self._judged(stem, parts)
            self._tensors[f"{stem}.weight"] = Stored(parts[last].file, "F32", shape, 0)
        if lost := [n for n, s in self._tensors.items() if s.dtype in ("F8_E4M3", "I32")]:
            raise CheckpointError(
                f"{lost[0]} in {self._tensors[lost[0]].file} has no {last} beside it, and means nothing "
                f"without; fetch the checkpoint again."
            )

    def _judged(self, stem: str, parts: Mapping[str, Stored]) -> tuple[int, ...]:
        """The shape (O, I) of a matrix, its parts' shapes and dtypes checked against each other."""
        shapes = {name: part.shape for name, part in parts.items()}
        first = shapes["weight" if self._method == "fp8" else "qweight"]
        scales = shapes[_PARTS[self._method][-1]]
        shape: tuple[int, ...] = ()
        if all(len(s) == 2 for name, s in shapes.items() if name != "g_idx"):
            if self._method == "fp8":
                rows, columns = self._settings["weight_block_size"]
                shape = first
                wanted = {"weight_scale_inv": (-(-first[0] // rows), -(-first[1] // columns))}
            else:
                a_word = 32 // self._settings["bits"]
                gptq = self._method == "gptq"
                shape = (first[1], first[0] * a_word) if gptq else (first[1] * a_word, first[0])
                size = self._settings.get("group_size") or -1
                groups = 1 if size == -1 else -(-shape[1] // size)
                wanted = {"scales": (groups, shape[0]), "qzeros": (groups, shape[0] // a_word)}
                wanted |= {"g_idx": (shape[1],)} if "g_idx" in shapes else {}  # type: ignore[dict-item]
                if size != -1 and shape[1] % size and "g_idx" not in shapes:
                    wanted["scales"] = (0, 0)  # a short last group, and nothing says which inputs it has
            if all(shapes[name] == want for name, want in wanted.items()):
                kinds = {"weight": "F8_E4M3", "qweight": "I32", "qzeros": "I32", "g_idx": "I32"}
                if all(part.dtype == kinds.get(name, part.dtype) for name, part in parts.items()):
                    return shape
        found = ", ".join(f"{name} {quoted(part.dtype)} {part.shape}" for name, part in parts.items())
        raise CheckpointError(
            f"the parts of {stem} in {parts[_PARTS[self._method][-1]].file} do not fit each other or "
            f"quantization_config ({found}; scales {scales}); fetch the checkpoint again."
        )

    def total_bytes(self) -> int:
        """Bytes of all tensor data, as stored."""
        plain = sum(s.nbytes for name, s in self._tensors.items() if name not in self._parts)
        return plain + sum(part.nbytes for parts in self._parts.values() for part in parts.values())

    def blocks(self, name: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """As in Checkpoint; a quantised matrix comes whole, in float32."""
        if name not in self._parts:
            yield from super().blocks(name)
            return
        raw = Checkpoint(self.directory, {})
        raw._tensors = self._parts[name]
        parts = {part: raw.read(part) for part in raw.names()}
        if self._method == "fp8":
            w = from_fp8(parts["weight"], parts["weight_scale_inv"], self._settings["weight_block_size"])
        elif self._method == "awq":
            w = from_awq(parts["qweight"], parts["qzeros"], parts["scales"])
        else:
            version_2 = self._settings.get("checkpoint_format") == "gptq_v2"
            w = from_gptq(**parts, bits=self._settings["bits"], stored_less_one=not version_2)
        yield slice(0, w.size), w.reshape(-1)


# -- the arithmetic ------------------------------------------------------------------------------------


@functools.cache
def e4m3() -> Floats:
    """What each byte is as float8 e4m3 (1 sign, 4 exponent, 3 fraction bits; no infinities): (256,)."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, (byte & 7) / 8
    value = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    value[byte & 127 == 127] = np.nan
    return np.where(byte < 128, value, -value).astype(np.float32)


def from_fp8(weight: NDArray[np.uint8], scale: NDArray[Any], block: tuple[int, int]) -> Floats:
    """Bytes (O, I) and a scale for each block -> (O, I); the last blocks may be cut off."""
    factor = scale.astype(np.float32).repeat(block[0], 0).repeat(block[1], 1)
    out: Floats = e4m3()[weight] * factor[: weight.shape[0], : weight.shape[1]]
    return out


def _nibbles(words: NDArray[np.int32], bits: int) -> NDArray[np.int64]:
    """The codes in int32 words, low bits first, (..., n) -> (..., n, 32 / bits)."""
    shifts = np.arange(0, 32, bits)
    return (words.astype(np.int64)[..., None] >> shifts) & (2**bits - 1)


def from_gptq(
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32],
    scales: NDArray[Any],
    g_idx: NDArray[np.int32] | None = None,
    *,
    bits: int,
    stored_less_one: bool,
) -> Floats:
    """The layout above -> (O, I). Without g_idx, groups are neighbours. stored_less_one: version 1."""
    codes = _nibbles(qweight.T, bits).reshape(qweight.shape[1], -1)  # (O, I)
    zeros = _nibbles(qzeros, bits).reshape(scales.shape).T  # (O, G)
    if stored_less_one:
        zeros = (zeros + 1) & (2**bits - 1)  # a zero point of 0 was stored as -1, all bits set
    group = np.arange(codes.shape[1]) * len(scales) // codes.shape[1] if g_idx is None else g_idx
    if group.min() < 0 or group.max() >= len(scales):
        raise CheckpointError(
            f"g_idx names group {int(group.max())} of {len(scales)}; fetch the checkpoint again."
        )
    out: Floats = (codes - zeros[:, group]).astype(np.float32) * scales.T.astype(np.float32)[:, group]
    return out


def from_awq(qweight: NDArray[np.int32], qzeros: NDArray[np.int32], scales: NDArray[Any]) -> Floats:
    """The layout above -> (O, I)."""
    order = list(AWQ_NIBBLE)
    codes = _nibbles(qweight, 4)[..., order].reshape(len(qweight), -1)  # (I, O)
    zeros = _nibbles(qzeros, 4)[..., order].reshape(scales.shape)  # (G, O)
    size = -(-len(codes) // len(scales))
    zeros, factor = zeros.repeat(size, 0), scales.astype(np.float32).repeat(size, 0)
    out: Floats = (codes - zeros[: len(codes)]).astype(np.float32) * factor[: len(codes)]
    return np.ascontiguousarray(out.T)
