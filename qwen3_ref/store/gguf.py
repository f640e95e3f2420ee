"""GGUF, the file of llama.cpp and what is built on it: read within bounds, written tensor by tensor.

A file (ggml's docs/gguf.md): the letters GGUF, a version, two counts; then typed keys and values; then for
each tensor its name, shape (fastest axis first, so NumPy's backwards), type and place; then, aligned, the
data. A quantised type stores rows in blocks, such as Q8_0: 32 values in 34 bytes, a float16 scale and 32
signed bytes. How a block becomes numbers is the package `gguf`'s to say, which writes the files, too; the
header is read here, since that package's own reader believes what a file claims.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.store.checkpoint import Checkpoint, Stored
from qwen3_ref.store.errors import CheckpointError, quoted
from qwen3_ref.store.files import cannot_write, disguise, open_regular, require_path
from qwen3_ref.store.progress import progress

MAGIC = b"GGUF"
PLAIN = ("F32", "F16", "BF16")
"""Types that hold each value on its own."""
# Bounds of what is read: the largest Qwen3 has 1,600 tensors and 12 MB of header, nearly all vocabulary.
_LONGEST_HEADER, _MOST_TENSORS, _MOST_KEYS = 200_000_000, 100_000, 10_000
_LONGEST_NAME, _LONGEST_TEXT, _MOST_VALUES = 1_000, 4_000_000, 2_000_000
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
            11: "<i8", 12: "<f8"}  # fmt: skip
_BOOL, _TEXT, _ARRAY = 7, 8, 9
_LARGEST_HALF = 65_504.0


def library() -> Any:
    """The package `gguf`. Raises CheckpointError, naming it, where it is not installed."""
    try:
        return import_module("gguf")
    except ImportError:
        raise CheckpointError(
            "GGUF files need the package gguf, which is not installed; `pip install gguf` brings it."
        ) from None


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its type by name, its shape as NumPy has it, its first byte, its bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GGUF:
    """A file whose header has been read and judged; data are read when asked for.

    `metadata`: values by key, as Python's own; a float32 is the shortest decimal that rounds to it, so
    1e-06 reads as 1e-06. `tensors`: by their names, in the file's order. `data`: where their data begin.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    data: int

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, (..., bytes of a row), memory-mapped."""
        tensor = self.tensors[name]
        rows = tensor.shape[:-1]
        flat = np.memmap(self.path, np.uint8, "r", tensor.offset, (tensor.nbytes,))
        return flat.reshape(*rows, tensor.nbytes // math.prod(rows))

    def read(self, name: str, part: int | None = None) -> NDArray[np.float32]:
        """The values of a tensor in float32, or of one entry of its slowest axis.

        Raises CheckpointError for a type that cannot be made into numbers.
        """
        tensor, raw = self.tensors[name], self.raw(name)
        raw = np.array(raw if part is None else raw[part])
        gguf = library()
        try:
            values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.kind])
        except NotImplementedError:
            raise CheckpointError(
                f"{name} in {self.path} has type {tensor.kind}, which is not made into numbers here; fetch "
                f"the file in another type, such as F16 or Q8_0."
            ) from None
        return np.asarray(values, np.float32).reshape(tensor.shape[0 if part is None else 1 :])


# -- reading -------------------------------------------------------------------------------------------


class _Header:
    """The header of a file, a piece at a time; nothing is taken that is not there, or is too much."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file, self.at = path, file, 0
        self.size = os.fstat(file.fileno()).st_size

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        if self.at + count > self.size:
            raise CheckpointError(
                f"{self.path} is truncated: it ends in {what}, after {self.size} bytes; fetch it again."
            )
        if self.at + count > _LONGEST_HEADER:
            raise corrupt(self.path, f"its header goes on for more than {_LONGEST_HEADER:,} bytes")
        self.at += count
        content: bytes = self.file.read(count)
        return content

    def number(self, format_: str, what: str) -> Any:
        """One number, in the spelling of `struct`."""
        return struct.unpack(f"<{format_}", self.take(struct.calcsize(f"<{format_}"), what))[0]

    def text(self, what: str, longest: int = _LONGEST_TEXT) -> str:
        """One string."""
        length = self.number("Q", what)
        if length > longest:
            raise corrupt(self.path, f"{what} claims {length:,} bytes, and {longest:,} are read at most")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise corrupt(self.path, f"{what} is no UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        """One value of a type, by its number; an array's entries are numbers or texts."""
        if kind == _TEXT:
            return self.text(what)
        if kind in _NUMBERS:
            return self._numbers(kind, 1, what)[0]
        if kind != _ARRAY:
            raise corrupt(self.path, f"{what} is of type {kind}, which GGUF does not have")
        inner, count = self.number("I", what), self.number("Q", what)
        if count > _MOST_VALUES:
            raise corrupt(self.path, f"{what} claims {count:,} values, and {_MOST_VALUES:,} are read at most")
        if inner == _TEXT:
            return [self.text(what) for _ in range(count)]
        if inner not in _NUMBERS:
            raise corrupt(self.path, f"{what} is a list of type {inner}, and numbers or texts are read")
        return self._numbers(inner, count, what)

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        dtype = np.dtype(_NUMBERS[kind])
        values = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        if kind == _BOOL:
            return values.astype(bool).tolist()
        if dtype == np.float32:
            return [float(str(value)) for value in values]
        return values.tolist()


def corrupt(path: Path, reason: str) -> CheckpointError:
    """The error for a file that cannot be what it says."""
    return CheckpointError(f"{path} is corrupt: {reason}; fetch it again.")


def open_gguf(path: str | os.PathLike[str]) -> GGUF:
    """Read and judge the header of a GGUF file of version 2 or 3, little-endian.

    Raises CheckpointError: no GGUF file, a truncated or corrupt one, one split into several, a tensor
    whose type is unknown, whose rows do not fit its blocks, or whose data overlap another's or lie
    outside the file; a file that cannot be read; no package `gguf`.
    """
    place = Path(require_path(path, "the file"))
    gguf = library()
    try:
        with open_regular(place) as file:
            return _read(place, _Header(place, file), gguf)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or place} cannot be read ({error.strerror}); check its kind and permissions."
        ) from None


def _read(path: Path, head: _Header, gguf: Any) -> GGUF:
    beginning = head.take(min(4, head.size), "its first letters")
    if beginning != MAGIC:
        head.file.seek(0)
        other = disguise(head.file.read(200)) or "its first letters are not GGUF"
        raise CheckpointError(f"{path} is no GGUF file: {other}.")
    version = head.number("I", "its version")
    if version not in (2, 3):
        kind = "is big-endian" if version & 0xFFFF == 0 and version else f"has version {version}"
        raise CheckpointError(f"{path} {kind}, and versions 2 and 3, little-endian, are read; fetch another.")
    tensor_count, key_count = head.number("Q", "its counts"), head.number("Q", "its counts")
    for what, count, most in (("tensors", tensor_count, _MOST_TENSORS), ("keys", key_count, _MOST_KEYS)):
        if count > most:
            raise corrupt(path, f"it claims {count:,} {what}, and more than {most:,} are not read")
    metadata: dict[str, Any] = {}
    for number in range(key_count):
        key = head.text(f"the name of key {number}", _LONGEST_NAME)
        if key in metadata:
            raise corrupt(path, f"it gives {quoted(key)} twice")
        metadata[key] = head.value(head.number("I", quoted(key)), quoted(key))
    if metadata.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            f"{path} is one of {quoted(metadata['split.count'])} files of a model, and only a whole one is "
            f"read; join them with `llama-gguf-split --merge`."
        )
    found = [_entry(path, head, number, gguf) for number in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise corrupt(path, f"general.alignment is {quoted(alignment)}, and it must be a power of two")
    data = -(-head.at // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for tensor in found:
        if tensor.name in tensors:
            raise corrupt(path, f"it gives the tensor {quoted(tensor.name)} twice")
        if tensor.offset % alignment:
            raise corrupt(path, f"{tensor.name} starts at {tensor.offset}, off the alignment of {alignment}")
        if data + tensor.offset + tensor.nbytes > head.size:
            raise CheckpointError(
                f"{path} is truncated: {tensor.name} ends at byte {data + tensor.offset + tensor.nbytes} and "
                f"the file has {head.size}; fetch it again."
            )
        tensors[tensor.name] = Tensor(
            tensor.name, tensor.kind, tensor.shape, data + tensor.offset, tensor.nbytes
        )
    end, last = data, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise corrupt(path, f"{tensor.name} starts within {last}")
        end, last = tensor.offset + tensor.nbytes, tensor.name
    return GGUF(path, version, metadata, tensors, data)


def _entry(path: Path, head: _Header, number: int, gguf: Any) -> Tensor:
    """What the header says of one tensor; its offset counts from where the data begin."""
    name = head.text(f"the name of tensor {number}", _LONGEST_NAME)
    what = quoted(name)
    dimensions = head.number("I", what)
    if not 1 <= dimensions <= 4:
        raise corrupt(path, f"{what} has {dimensions} dimensions, and 1 to 4 are possible")
    shape = tuple(head.number("Q", what) for _ in range(dimensions))[::-1]
    if 0 in shape or math.prod(shape) >= 2**62:
        raise corrupt(path, f"{what} has shape {quoted(shape)}")
    kind, offset = head.number("I", what), head.number("Q", what)
    try:
        type_ = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[type_]
    except (ValueError, KeyError):
        raise CheckpointError(
            f"{what} in {path} is of type {kind}, which the package gguf does not know; fetch the file in "
            f"another type, such as F16 or Q8_0."
        ) from None
    if shape[-1] % block:
        raise corrupt(path, f"{what} has rows of {shape[-1]} values, and {type_.name} has blocks of {block}")
    return Tensor(name, type_.name, shape, offset, math.prod(shape) // block * size)


class GGUFCheckpoint(Checkpoint):
    """The tensors of a GGUF file under other names, with experts one by one; it reads like a plain
    checkpoint: of what it holds in blocks, as float32, a matrix at a time."""

    def __init__(self, file: GGUF, places: Mapping[str, tuple[str, int | None]]) -> None:
        """places: for each name the tensor that holds it, and which entry of its slowest axis, if one."""
        self.directory, self._file, self._coded = file.path, file, dict[str, tuple[str, int | None]]()
        self._tensors = {}
        for name, (place, part) in places.items():
            tensor = file.tensors[place]
            plain = tensor.kind in PLAIN
            whole = Stored(file.path, tensor.kind if plain else "F32", tensor.shape, tensor.offset)
            size = math.prod(tensor.shape[1:])
            self._tensors[name] = (
                whole if part is None else whole.rows(part * size, (part + 1) * size, tensor.shape[1:])
            )
            if not plain:
                self._coded[name] = place, part

    def blocks(self, name: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """As in Checkpoint; a quantised matrix comes whole, in float32."""
        if name not in self._coded:
            yield from super().blocks(name)
            return
        values = self._file.read(*self._coded[name]).reshape(-1)
        yield slice(0, values.size), values


# -- writing -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A tensor that is to be written: its name, type and shape, and what gives its values when their turn
    comes. Two tensors are never in memory at a time."""

    name: str
    kind: str
    shape: tuple[int, ...]
    values: Callable[[], NDArray[Any]]


def write_gguf(path: Path, arch: str, plans: Sequence[Plan], describe: Callable[[Any], None]) -> None:
    """Write a GGUF file, whole or not at all: `describe` adds the keys to the `gguf.GGUFWriter`.

    Raises CheckpointError: a full disk or no permission, rows that do not fit a type's blocks, a value
    that float16 cannot hold, no package `gguf`.
    """
    gguf = library()
    for plan in plans:
        block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[plan.kind]]
        if plan.shape[-1] % block:
            raise CheckpointError(
                f"{plan.name} has rows of {plan.shape[-1]} values, and {plan.kind} stores blocks of {block}; "
                f"export in F16 or BF16."
            )
    temporary = path.with_name(f"{path.name}.tmp")
    writer = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(temporary, arch)
        for plan in plans:
            type_ = gguf.GGMLQuantizationType[plan.kind]
            shape = gguf.quant_shape_to_byte_shape(plan.shape, type_)
            writer.add_tensor_info(plan.name, shape, np.dtype("u1"), math.prod(shape), raw_dtype=type_)
        describe(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # The library's own loop ends in ndarray.tofile, whose error for a full disk does not say so.
        out = writer.fout[0]
        for plan in progress(plans, "Writing weights"):
            writer.write_padding(out, out.tell())
            out.write(_encoded(plan, gguf).data)
        writer.write_padding(out, out.tell())
        out.flush()
        os.fsync(out.fileno())
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        size = sum(math.prod(plan.shape) for plan in plans) * 4
        raise CheckpointError(cannot_write(path, error, f"free up to {size / 1e9:.1f} GB there")) from error
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
        temporary.unlink(missing_ok=True)


def _encoded(plan: Plan, gguf: Any) -> NDArray[np.uint8]:
    """The values of a tensor as the bytes of its type."""
    values = np.ascontiguousarray(plan.values(), dtype=np.float32)
    assert values.shape == plan.shape
    if plan.kind == "F16" and not (np.abs(values) <= _LARGEST_HALF).all():
        raise CheckpointError(
            f"{plan.name} holds {float(np.abs(values).max())}, and F16 ends at {_LARGEST_HALF:,.0f}; export "
            f"in BF16 or F32."
        )
    coded = gguf.quants.quantize(values, gguf.GGMLQuantizationType[plan.kind])
    return np.ascontiguousarray(coded).view(np.uint8)
