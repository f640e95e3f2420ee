"""Copies of sound checkpoints, and ways to damage them: each `with_...` makes a function of the directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qwen3_ref.store.checkpoint import INDEX, SINGLE
from tests.helpers import reference

K_PROJ = "model.layers.1.self_attn.k_proj.weight"


def copy_of(case: str, tmp_path: Path) -> Path:
    """A checkpoint of the parity suite, written by transformers, to be damaged."""
    return Path(shutil.copytree(reference(case)[0], tmp_path / "checkpoint"))


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """Copies, since safetensors maps the file, which the tests then overwrite."""
    return {name: tensor.clone() for name, tensor in load_file(directory / SINGLE).items()}


def shard(directory: Path) -> dict[str, Any]:
    """Cut the single file into two shards with an index; returns the index."""
    tensors = tensors_of(directory)
    (directory / SINGLE).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}  # a wrong total is not relied on
    (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return index


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Damage the tensors and write a sound file."""

    def damage(directory: Path) -> None:
        tensors = tensors_of(directory)
        change(tensors)
        save_file(tensors, directory / SINGLE)

    return damage


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage the JSON header (in place, or by returning another value) and leave the data as it is."""

    def damage(directory: Path) -> None:
        content = (directory / SINGLE).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        other = change(header)
        text = other if isinstance(other, bytes) else json.dumps(header if other is None else other).encode()
        rest = content[8 + length :]
        (directory / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + rest)

    return damage


def with_entry(**fields: Any) -> Callable[[Path], None]:
    return with_header(lambda header: header[K_PROJ].update(fields))


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / SINGLE).write_bytes(change((directory / SINGLE).read_bytes()))

    return damage


def with_index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        index = shard(directory)
        other = change(index)
        text = other if isinstance(other, str) else json.dumps(index)
        (directory / INDEX).write_text(text, encoding="utf-8")

    return damage
