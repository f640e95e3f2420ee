"""Reading safetensors checkpoints: one file or shards with an index, official or packed experts.

NumPy and JSON only. The format (safetensors documentation): 8 bytes of header length, a JSON header
with dtype, shape and byte range of each tensor, then the bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

T = TypeVar("T")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# BF16 has no NumPy type; its bits travel as uint16.
_STORED: dict[str, DTypeLike] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library
_PACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")


class CheckpointError(Exception):
    """A checkpoint that cannot be used: the sentence names the file, the tensor and the way out."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies: file, dtype as safetensors names it, shape, and first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 0)

    def rows(self, start: int, stop: int, shape: tuple[int, ...]) -> Stored:
        """The part that holds values start to stop of the flattened tensor, under another shape."""
        assert stop - start == math.prod(shape)
        return replace(self, shape=shape, offset=self.offset + start * _BYTES.get(self.dtype, 0))


class Checkpoint:
    """The tensors of a directory by official name. Headers are read at once, data when asked for."""

    def __init__(self, directory: Path, tensors: dict[str, Stored]) -> None:
        self.directory = directory
        self._tensors: dict[str, Stored] = {}
        for name, stored in tensors.items():
            self._tensors.update(_unpacked(name, stored))

    def names(self) -> list[str]:
        """Official names; packed experts are presented one by one."""
        return list(self._tensors)

    def dtype(self, name: str) -> str:
        """The dtype as safetensors spells it: "BF16", "F16", "F32" or "F64"."""
        return self._stored(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, one expert's for an expert."""
        return self._stored(name).shape

    def total_bytes(self) -> int:
        """Bytes of all tensor data."""
        return sum(stored.nbytes for stored in self._tensors.values())

    def raw(self, name: str) -> NDArray[Any]:
        """The stored values, memory-mapped, BF16 as uint16. Copy and let go: the mapping ends with
        the array, which is what keeps the memory of a load at the size of the model."""
        stored = self._stored(name)
        # Mode "c" (copy on write) never writes to the file, and torch accepts it without a warning.
        return np.memmap(
            stored.file, _STORED[stored.dtype], mode="c", offset=stored.offset, shape=stored.shape
        )

    def read(self, name: str, dtype: DTypeLike = None) -> NDArray[Any]:
        """An owned copy in `dtype` (any NumPy float); BF16 is widened exactly, to float32 if None."""
        raw = self.raw(name)
        if self.dtype(name) == "BF16":  # a bfloat16 is the upper half of a float32
            wide = (raw.astype(np.uint32) << 16).view(np.float32)
            return wide if dtype is None else wide.astype(dtype, copy=False)
        return np.array(raw, dtype=dtype)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless exactly these tensors are here, in these shapes, as floats.

        A tied model may store `lm_head.weight` too (Qwen3-0.6B and -1.7B do) if it equals the
        embedding.
        """
        missing = [name for name in shapes if name not in self._tensors]
        if missing:
            raise CheckpointError(
                f"{self.directory} lacks {_some(missing)} that its config.json asks for; "
                f"fetch the checkpoint again, or fix config.json if it belongs to another model."
            )
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        unused = [name for name in self._tensors if name not in shapes and name != head]
        if head in self._tensors and head not in shapes and not self._equal(embedding, head):
            raise CheckpointError(
                f"{head} in {self._tensors[head].file} differs from {embedding} although config.json "
                f"says tie_word_embeddings; set that to false if the head was trained on its own."
            )
        if unused:
            raise CheckpointError(
                f"{self.directory} holds {_some(unused)} that this model has no place for; "
                f"fix config.json if it belongs to another model, or remove what was added."
            )
        for name, shape in shapes.items():
            stored = self._tensors[name]
            if stored.shape != tuple(shape):
                raise CheckpointError(
                    f"{name} in {stored.file} has shape {stored.shape} where config.json asks for "
                    f"{tuple(shape)}; the checkpoint and its config.json are of different models."
                )
            if stored.dtype not in _STORED:
                raise CheckpointError(
                    f"{name} in {stored.file} has dtype {stored.dtype}; only "
                    f"{', '.join(_STORED)} can be loaded, so fetch the unquantised checkpoint."
                )

    def _equal(self, a: str, b: str) -> bool:
        if self.shape(a) != self.shape(b) or self.dtype(a) != self.dtype(b):
            return False
        step = max(1, 2**24 // max(1, math.prod(self.shape(a)[1:])))
        x, y = self.raw(a), self.raw(b)
        return all(
            np.array_equal(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)
        )

    def _stored(self, name: str) -> Stored:
        if name not in self._tensors:
            raise CheckpointError(f"{self.directory} has no tensor named {name}.")
        return self._tensors[name]


def open_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
    """Read and validate the headers of every safetensors file of a directory.

    Raises CheckpointError: no weights, a missing shard, a truncated file, a corrupt header, an index
    that points outside the directory or disagrees with the files. `total_size` in the index is not
    relied on: two official indexes overstate it.
    """
    directory = Path(directory)
    index = directory / INDEX
    if (directory / SINGLE).exists() and not index.exists():
        return Checkpoint(directory, _read_header(directory / SINGLE))
    if not index.exists():
        old = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt*"))
        hint = (
            f"{old[0].name} is a pickle, which can run code and is never opened; convert it"
            if old
            else "give the directory of a checkpoint, or `python -m qwen3_ref fetch NAME`"
        )
        raise CheckpointError(f"there is neither {SINGLE} nor {INDEX} in {directory}; {hint}.")
    weight_map = _read_index(index)
    tensors: dict[str, Stored] = {}
    for file in dict.fromkeys(weight_map.values()):
        path = directory / file
        if not path.exists():
            raise CheckpointError(
                f"shard {file} named by {index} is missing; fetch the checkpoint again."
            )
        header = _read_header(path)
        for name, stored in header.items():
            if weight_map.get(name) != file:
                raise CheckpointError(
                    f"{path} holds {name}, which {index} places "
                    f"{'in ' + weight_map[name] if name in weight_map else 'nowhere'}; "
                    f"fetch the checkpoint again."
                )
            tensors[name] = stored
    for name, file in weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f"{index} places {name} in {file}, which does not hold it; fetch the checkpoint again."
            )
    return Checkpoint(directory, tensors)


def _read_index(index: Path) -> dict[str, str]:
    """The weight_map of an index, with every file name checked to stay inside the directory."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = dict(weight_map).items()
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({type(error).__name__}: {error}); fetch it again."
        ) from None
    for name, file in items:
        parts = PurePosixPath(str(file)).parts
        if not isinstance(file, str) or "\\" in file or len(parts) != 1 or parts[0] in ("..", "/"):
            raise CheckpointError(
                f"{index} places {name} at {file!r}, outside its own directory; "
                f"do not use this checkpoint, fetch it from its official source."
            )
    return dict(items)


def _read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, every range checked against the file's size."""

    def corrupt(reason: str) -> CheckpointError:
        return CheckpointError(f"{path} is corrupt: {reason}; fetch it again.")

    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise corrupt(f"it has {size} bytes and not even a header length")
        length = int.from_bytes(prefix, "little")
        if length > min(size - 8, _LONGEST_HEADER):
            raise corrupt(f"its header claims {length} bytes and the file has {size}")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError):
            raise corrupt("its header is not JSON") from None
    data = 8 + length
    tensors: dict[str, Stored] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            (begin, end), dtype = entry["data_offsets"], str(entry["dtype"])
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = int(begin), int(end)
        except (KeyError, TypeError, ValueError):
            raise corrupt(f"the header's entry of {name} is malformed") from None
        if dtype in _BYTES and end - begin != math.prod(shape) * _BYTES[dtype]:
            raise corrupt(f"{name} has {end - begin} bytes where shape {shape} of {dtype} needs others")
        if not 0 <= begin <= end or any(n < 0 for n in shape):
            raise corrupt(f"{name} has the byte range {begin} to {end}")
        if data + end > size:
            raise CheckpointError(
                f"{path} is truncated: {name} ends at byte {data + end} and the file has {size}; "
                f"fetch it again (a broken download is resumed)."
            )
        ranges.append((begin, end, name))
        tensors[name] = Stored(path, dtype, shape, data + begin)
    ranges.sort()
    for (_, end, first), (begin, _, second) in zip(ranges, ranges[1:], strict=False):
        if begin < end:
            raise corrupt(f"{first} and {second} overlap")
    return tensors


def _unpacked(name: str, stored: Stored) -> dict[str, Stored]:
    """transformers 5 stacks experts: gate_up_proj (E, 2F, D), down_proj (E, D, F). One by one, by
    their official names; anything else as it is."""
    match = _PACKED.fullmatch(name)
    if match is None or len(stored.shape) != 3:
        return {name: stored}
    prefix, kind = match.groups()
    E, rows, columns = stored.shape
    if kind == "down_proj":
        size, parts = rows * columns, ["down_proj"]
    else:
        size, parts = rows // 2 * columns, ["gate_proj", "up_proj"]
    shape = (size // columns if columns else 0, columns)
    return {
        f"{prefix}.{e}.{part}.weight": stored.rows(i * size, (i + 1) * size, shape)
        for i, (e, part) in enumerate((e, part) for e in range(E) for part in parts)
    }


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


def progress(items: Iterable[T], what: str = "Loading weights", after: float = 1.0) -> Iterator[T]:
    """Iterate, with a progress bar on stderr once it has taken `after` seconds; none where stderr is
    not a terminal (a pipe, a notebook, a test)."""
    if not sys.stderr.isatty() or not isinstance(items, Sized):
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    start = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=len(items), visible=False)
        for item in items:
            yield item
            bar.update(task, advance=1, visible=time.monotonic() - start > after)
