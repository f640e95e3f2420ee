"""One SHA-256 over whatever decides a result: weights, a tokenizer, prompts, settings."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | NDArray[Any]


def fingerprint(*parts: Any) -> str:
    """The SHA-256, in hex, of some parts in their order.

    A part is an array or tensor (its dtype, shape and bytes count), a string, bytes, a number, a truth
    value, None, a dataclass (its name and fields), or a list, tuple or mapping of such: a state dict, a
    list of prompts, settings. A mapping's order does not count, a list's does. Every value goes in with
    its kind and length, so two different things never give the same bytes: "1" is not 1, nor 1 True,
    nor ["ab", "c"] ["a", "bc"]. Raises TypeError for anything else.
    """
    digest = hashlib.sha256()
    for piece in _pieces(list(parts)):
        digest.update(piece if isinstance(piece, bytes) else piece.data)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[Buffer]:
    """The value as bytes, each kind with its letter and each content with its length."""
    if hasattr(value, "detach"):  # a tensor: NumPy has no bfloat16, so it goes as bytes
        import torch

        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield from _array(str(value.dtype).removeprefix("torch."), tuple(value.shape), flat)
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        ordered = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(-1)
        yield from _array(value.dtype.name, np.shape(value), ordered.view(np.uint8))
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        kind = next(kind for kind in _SCALARS if isinstance(value, kind))
        text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        yield b"%s %d:" % (_SCALARS[kind], len(text))
        yield text
    elif isinstance(value, (list, tuple)):
        yield b"list %d:" % len(value)
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, Mapping):
        yield b"mapping %d:" % len(value)
        keyed = {b"".join(map(bytes, _pieces(key))): item for key, item in value.items()}
        for key, item in sorted(keyed.items(), key=operator.itemgetter(0)):
            yield key
            yield from _pieces(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield b"dataclass:"
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        yield from _pieces([type(value).__name__, fields])
    else:
        raise TypeError(
            f"a {type(value).__name__} has no fingerprint; give arrays, tensors, numbers, text, or lists, "
            f"mappings and dataclasses of them."
        )


_SCALARS: dict[type, bytes] = {
    type(None): b"none",
    bool: b"truth",
    int: b"whole",
    float: b"float",
    str: b"text",
    bytes: b"bytes",
}


def _array(dtype: str, shape: tuple[int, ...], flat: NDArray[Any]) -> Iterator[Buffer]:
    yield b"array %s %s %d:" % (dtype.encode(), ",".join(map(str, shape)).encode(), flat.nbytes)
    yield flat
