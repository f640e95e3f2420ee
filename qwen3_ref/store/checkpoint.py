"""Safetensors checkpoints, in and out: one file or shards with an index, official or packed experts.

No torch: the writer is handed a function that writes one shard. The format (safetensors
documentation): 8 bytes of header length, a JSON header with dtype, shape and byte range of each
tensor, then the bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError

from qwen3_ref.store.errors import CheckpointError, quoted, reason
from qwen3_ref.store.files import (
    UNFINISHED,
    cannot_write,
    cut_off,
    disguise,
    open_regular,
    parse_json,
    read_json,
    require_path,
    write_atomically,
)
from qwen3_ref.store.progress import progress
from qwen3_ref.store.shipped import directory_of

T = TypeVar("T")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# BF16 has no NumPy type; its bits travel as uint16.
_STORED: dict[str, DTypeLike] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# What quantised checkpoints hold beside these (quantized.py makes floats of it); float8 travels as bytes.
_CODES: dict[str, DTypeLike] = {"F8_E4M3": "u1", "I32": "<i4"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I32": 4}
# Bounds of what is read before it is parsed. The largest Qwen3 has 36,000 tensors: 5 MB of header.
_LONGEST_HEADER, _LONGEST_INDEX = 25_000_000, 25_000_000
_MOST_EXPERTS = 10_000  # in one packed tensor
_PACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")
_SHARD = re.compile(r"[^/\\:\x00-\x1f]+\.safetensors")  # a bare file name, on any system
_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_BLOCK = 2**22  # values mapped at a time: what a load needs beyond the model itself


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
        official = _official_names(tensors)
        for stored_name, stored in tensors.items():
            packed = official[stored_name]
            for name, part in _unpacked(packed, stored).items():
                if name in self._tensors:
                    raise CheckpointError(
                        f"{name} is stored twice in {directory}, alone and packed with other experts "
                        f"in {stored.file}; remove one of the two."
                    )
                self._tensors[name] = part

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

    def blocks(self, name: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The stored values in order, flattened, a few million at a time: (which ones, values).

        The values are memory-mapped, BF16 as uint16. Copy a block and let it go: its mapping ends with
        it, which keeps the memory of a load at the size of the model.
        """
        stored = self._stored(name)
        dtype, width = (_STORED | _CODES)[stored.dtype], _BYTES[stored.dtype]
        for start in range(0, math.prod(stored.shape), _BLOCK):
            part = slice(start, min(start + _BLOCK, math.prod(stored.shape)))
            try:
                # Mode "c" (copy on write) never writes to the file; torch takes it without a warning.
                values = np.memmap(
                    stored.file, dtype, "c", stored.offset + start * width, (part.stop - start,)
                )
            except (OSError, ValueError) as error:  # ValueError: the file is shorter than it was
                raise CheckpointError(
                    f"{name} cannot be read from {stored.file} ({error}), though its header could a "
                    f"moment ago; load again when nothing else changes the file."
                ) from None
            yield part, values

    def read(self, name: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """An owned copy in `dtype` (any NumPy float); BF16 is widened exactly, to float32 if None."""
        kind = self.dtype(name)
        own = np.float32 if kind == "BF16" else (_STORED | _CODES)[kind]
        out = np.empty(self.shape(name), dtype=own if dtype is None else dtype)
        flat = out.reshape(-1)
        for part, values in self.blocks(name):
            with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN, quietly
                flat[part] = _widened(values, kind)
        return out

    def not_finite(self) -> str | None:
        """The first tensor that holds NaN or an infinity, or None. Reads every value."""
        for name in self._tensors:
            for _, values in self.blocks(name):
                if self.dtype(name) == "BF16":  # all ones in the exponent
                    bad = bool(((values & 0x7F80) == 0x7F80).any())
                else:
                    bad = not np.isfinite(values).all()
                if bad:
                    return name
        return None

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless exactly these tensors are here, in these shapes, as floats.

        A tied model may store `lm_head.weight` too (Qwen3-0.6B and -1.7B do) if it equals the
        embedding, in whatever dtype.
        """
        for name, stored in self._tensors.items():
            if stored.dtype not in _STORED:
                raise CheckpointError(
                    f"{name} in {stored.file} has dtype {stored.dtype}; only "
                    f"{', '.join(_STORED)} can be loaded, so fetch the unquantised checkpoint."
                )
        missing = [name for name in shapes if name not in self._tensors]
        if missing == [head := "lm_head.weight"]:
            raise CheckpointError(
                f"{self.directory} lacks {head}, which config.json asks for by tie_word_embeddings false; "
                f"set that to true if the embedding is the head too, or fetch the checkpoint again."
            )
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
            if name in (embedding, head) and stored.shape[1:] == shape[1:] and stored.shape != shape:
                raise CheckpointError(
                    f"{name} in {stored.file} has {stored.shape[0]:,} rows where vocab_size in config.json "
                    f"is {shape[0]:,}; set that to {stored.shape[0]} if the embedding was resized, or fetch "
                    f"both from one place."
                )
            if stored.shape != tuple(shape):
                raise CheckpointError(
                    f"{name} in {stored.file} has shape {stored.shape} where config.json asks for "
                    f"{tuple(shape)}; the checkpoint and its config.json are of different models, so "
                    f"fetch both from one place."
                )

    def _equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same values; a NaN equals itself."""
        if self.shape(a) != self.shape(b):
            return False
        pairs = zip(self.blocks(a), self.blocks(b), strict=True)
        if self.dtype(a) == self.dtype(b):
            bits = f"u{_BYTES[self.dtype(a)]}"
            return all(np.array_equal(x.view(bits), y.view(bits)) for (_, x), (_, y) in pairs)
        one, other = self.dtype(a), self.dtype(b)
        wide = ((_widened(x, one), _widened(y, other)) for (_, x), (_, y) in pairs)
        return all(np.array_equal(x, y, equal_nan=True) for x, y in wide)

    def _stored(self, name: str) -> Stored:
        if name not in self._tensors:
            raise CheckpointError(f"{self.directory} has no tensor named {name}.")
        return self._tensors[name]


def _widened(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """What a block of `blocks` holds, as floats: a bfloat16 is the upper half of a float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values


def _official_names(names: Iterable[str]) -> dict[str, str]:
    """Official names by those that a file gives: Qwen3-Embedding leaves "model." out, and wrappers put
    something before it ("_orig_mod.model.", "module.model."). The embedding shows which."""
    last = "embed_tokens.weight"
    found = [name for name in names if name == last or name.endswith(f".{last}")]
    prefix = found[0].removesuffix(last) if len(found) == 1 else "model."
    head = prefix.removesuffix("model.") + "lm_head.weight"

    def official(name: str) -> str:
        if name == head:
            return "lm_head.weight"
        return f"model.{name.removeprefix(prefix)}" if name.startswith(prefix) else name

    return {name: official(name) for name in names}


def open_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
    """Read and validate the headers of every safetensors file of a directory.

    Raises CheckpointError: no weights, a missing shard, a truncated file, a corrupt header, an index
    that points outside the directory or disagrees with the files, a file that cannot be read.
    `total_size` in the index is not relied on: two official indexes overstate it. Where both a single
    file and an index are there, the single file counts, as in transformers.
    """
    try:
        return _open(directory_of(directory))
    except OSError as error:
        raise CheckpointError(
            f"{error.filename} cannot be read ({error.strerror}); check its kind and permissions."
        ) from None


def _open(directory: Path) -> Checkpoint:
    index = directory / INDEX
    if (directory / SINGLE).exists():
        return Checkpoint(directory, _read_header(directory / SINGLE))
    if not index.exists():
        old = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt*"))
        hint = (
            f"{old[0].name} is a pickle, which can run code and is never opened, so convert it with "
            f"transformers' save_pretrained"
            if old
            else "give the directory of a checkpoint, or `python -m qwen3_ref fetch NAME`"
        )
        if parts := sorted(path.name for path in directory.glob("*.safetensors")):
            hint = f"it holds {_some(parts)}, " + (
                f"so rename that to {SINGLE} if it is the whole model"
                if len(parts) == 1
                else f"shards that need their {INDEX}, so fetch that too"
            )
        hint = cut_off(directory) or hint
        raise CheckpointError(f"there is neither {SINGLE} nor {INDEX} in {directory}; {hint}.")
    weight_map = read_index(index)
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


def read_index(index: Path) -> dict[str, str]:
    """The weight_map of an index, with every file name checked to stay inside the directory."""
    try:
        weight_map = read_json(index, _LONGEST_INDEX)["weight_map"]
        if not isinstance(weight_map, dict):
            raise ValueError(f"weight_map is a {type(weight_map).__name__}")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({reason(error)}); fetch it again."
        ) from None
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise CheckpointError(
                f"{index} places {name} at {quoted(file)}, which is no safetensors file in its own "
                f"directory; do not use this checkpoint, fetch it from its official source."
            )
    return dict(weight_map)


def _corrupt(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is corrupt: {reason}; fetch it again.")


def _entries(path: Path) -> tuple[dict[str, Any], int, int]:
    """The entries of a safetensors header, nothing about them judged yet; where the data begin, and the
    size of the file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _corrupt(path, f"it has {size} bytes and not even a header length")
        length = int.from_bytes(prefix, "little")
        if other := disguise(prefix + file.read(192)):
            raise CheckpointError(f"{path} holds no weights: {other}.")
        file.seek(8)
        claim = f"its header claims {length} bytes"
        if length > size - 8:
            raise _corrupt(path, f"{claim} and the file has {size}")
        if length > _LONGEST_HEADER:
            raise _corrupt(path, f"{claim}, and more than {_LONGEST_HEADER} are not read")
        text = file.read(length)
        try:
            header = parse_json(text)
        except ValueError as error:
            raise _corrupt(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _corrupt(path, f"its header is a {type(header).__name__}")
    if not text.startswith(b"{"):
        raise _corrupt(path, "its header does not begin with {")
    words = header.pop("__metadata__", None)
    words = {} if words is None else words
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise _corrupt(path, "its __metadata__ is no object of strings")
    return header, 8 + length, size


def _read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, every range checked against the file's size."""
    header, data, size = _entries(path)
    tensors: dict[str, Stored] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            (begin, end), dtype, shape = entry["data_offsets"], entry["dtype"], entry["shape"]
        except (KeyError, TypeError, ValueError):
            raise _corrupt(path, f"the header's entry of {name} is malformed") from None
        numbers = [begin, end, *shape] if isinstance(shape, list) and len(shape) <= 16 else [None]
        if not isinstance(dtype, str) or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
            raise _corrupt(path, f"the header's entry of {name} is malformed")
        if dtype in _BYTES and end - begin != math.prod(shape) * _BYTES[dtype] or end < begin:
            raise _corrupt(
                path,
                f"{name} has {end - begin} bytes where shape {quoted(shape)} of {quoted(dtype)} needs others",
            )
        if data + end > size:
            raise CheckpointError(
                f"{path} is truncated: {name} ends at byte {data + end} and the file has {size}; "
                f"fetch it again (a broken download is resumed)."
            )
        ranges.append((begin, end, name))
        tensors[name] = Stored(path, dtype, tuple(shape), data + begin)
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise _corrupt(path, f"{name} starts at {begin} where the data before it ends at {position}")
        position = end
    if data + position != size:
        raise _corrupt(path, f"it goes on for {size - data - position} bytes after the last tensor")
    return tensors


def _unpacked(name: str, stored: Stored) -> dict[str, Stored]:
    """transformers 5 stacks experts: gate_up_proj (E, 2F, D), down_proj (E, D, F). One by one, by
    their official names; anything else as it is."""
    match = _PACKED.fullmatch(name)
    if match is None or len(stored.shape) != 3 or 0 in stored.shape:
        return {name: stored}
    prefix, kind = match.groups()
    E, rows, columns = stored.shape
    if E > _MOST_EXPERTS:
        return {name: stored}
    if kind == "down_proj":
        size, parts = rows * columns, ["down_proj"]
    elif rows % 2:
        return {name: stored}
    else:
        size, parts = rows // 2 * columns, ["gate_proj", "up_proj"]
    shape = (size // columns, columns)
    return {
        f"{prefix}.{e}.{part}.weight": stored.rows(i * size, (i + 1) * size, shape)
        for i, (e, part) in enumerate((e, part) for e in range(E) for part in parts)
    }


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(name if len(name) <= 120 else f"{name[:117]}..." for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


def write_checkpoint(
    directory: str | os.PathLike[str],
    sizes: Mapping[str, int],
    write_config: Callable[[Path], None],
    write_shard: Callable[[list[str], Path], None],
    max_shard_bytes: int,
) -> None:
    """Write config.json and model.safetensors, or shards with an index, in the official layout.

    sizes: bytes of each tensor by official name, in order. write_config(file) and
    write_shard(names, file) write one file each. All of them are written beside the old files, in
    UNFINISHED, and take their places at the end, when all bytes are on the disk: a write that
    fails or is killed leaves the old checkpoint as it was. What a killed one left behind, the next
    removes. Other files of the directory are not touched.
    Raises CheckpointError (a full disk, no permission) and ValueError (a bad max_shard_bytes or path).
    """
    target = Path(require_path(directory))
    whole = isinstance(max_shard_bytes, int | np.integer) and not isinstance(max_shard_bytes, bool)
    if not whole or max_shard_bytes < 1:
        found = quoted(max_shard_bytes)
        raise ValueError(f"max_shard_bytes is {found}; it must be a whole number of bytes, at least 1.")
    max_shard_bytes = int(max_shard_bytes)
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    count = len(shards)
    files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    files = files if count > 1 else [SINGLE]
    unfinished = target / UNFINISHED
    new_folder, moving = not target.exists(), False
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        write_config(unfinished / "config.json")
        for file, names in zip(files, progress(shards, "Writing weights"), strict=True):
            write_shard(names, unfinished / file)
        if count > 1:
            weight_map = {name: f for f, names in zip(files, shards, strict=True) for name in names}
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            write_atomically(unfinished / INDEX, text)
        mode = (unfinished / "config.json").stat().st_mode & 0o777  # as the umask has it
        for path in unfinished.iterdir():
            path.chmod(mode)  # safetensors makes files that only their owner can read
            with path.open("rb") as written:
                os.fsync(written.fileno())
        moving = (target / "config.json").exists()
        _exchange(target, unfinished, files, sharded=count > 1)
    except (OSError, SafetensorError) as error:  # the latter from the shard writer, for a full disk
        sentence = cannot_write(target, error, f"free {sum(sizes.values()) / 1e9:.1f} GB there")
        left = "The checkpoint that was there is gone" if moving else "What was in it is as before"
        raise CheckpointError(f"{sentence} {left}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if new_folder and target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def _exchange(target: Path, unfinished: Path, files: list[str], *, sharded: bool) -> None:
    """Move the finished files into place. At every moment a reader finds the old checkpoint, the new
    one, or none; never a mixture. So a config.json that changes goes first and comes last, shards whose
    names stay the same go without an index, and an index comes after its shards."""
    config = target / "config.json"
    if not config.exists() or config.read_bytes() != (unfinished / "config.json").read_bytes():
        config.unlink(missing_ok=True)
    if any((target / file).exists() for file in files) and sharded:
        (target / INDEX).unlink(missing_ok=True)
    for file in [*files, *([INDEX] if sharded else [])]:
        os.replace(unfinished / file, target / file)
    keep = {*files, INDEX} if sharded else {SINGLE}
    for path in sorted(target.iterdir()):
        if _OURS.fullmatch(path.name) and path.name not in keep:
            path.unlink()
    os.replace(unfinished / "config.json", config)


def is_complete(directory: Path) -> bool:
    """Whether config.json and every file of the weights are there; what is in them is not looked at."""
    if not (directory / "config.json").is_file():
        return False
    if (directory / SINGLE).is_file():
        return True
    try:
        return all((directory / file).is_file() for file in set(read_index(directory / INDEX).values()))
    except (CheckpointError, OSError):
        return False
