"""What an export starts from: config, weights by official name, tokenizer, template and settings of one
checkpoint, whatever files they lie in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.profile import Profile
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.store.checkpoint import Checkpoint
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.files import parse_json, read_within
from qwen3_ref.store.quantized import open_weights
from qwen3_ref.store.shipped import directory_of
from qwen3_ref.tokenizer import Tokenizer

SETTINGS = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
"""The files beside config.json and the weights that other programs look for."""
TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""Types of plain weights: how safetensors and GGUF spell them, and how `--type` does."""
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_LARGEST_FILE = 100_000_000


@dataclass(frozen=True)
class Source:
    """A checkpoint, opened: headers are read, weights are not.

    `name` names what is written. `files`: those of SETTINGS that there are, as they are. `place`: the
    directory or the file that it came from.
    """

    name: str
    config: Qwen3Config
    weights: Checkpoint
    tokenizer: Tokenizer
    profile: Profile
    files: Mapping[str, bytes]
    place: Path

    @property
    def type(self) -> str:
        """How the embedding is stored, which is what an export keeps unless it is told otherwise; "f32" of
        one that is stored in blocks."""
        return TYPES.get(self.weights.dtype("model.embed_tokens.weight"), "f32")

    @property
    def template(self) -> str | None:
        """The chat template, in Jinja; None of a checkpoint without one."""
        if (text := self.files.get("chat_template.jinja")) is not None:
            return text.decode("utf-8")
        found = self.json("tokenizer_config.json").get("chat_template")
        if isinstance(found, list):
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}.get("default")
        return found if isinstance(found, str) else None

    def json(self, file: str) -> dict[str, Any]:
        """The object that one of `files` holds; an empty one if it is not there. Raises CheckpointError."""
        try:
            value = parse_json(self.files.get(file, b"{}"))
        except ValueError as error:
            raise CheckpointError(f"{file} beside {self.place} cannot be read as JSON ({error}).") from None
        return value if isinstance(value, dict) else {}

    def matrix(self, name: str) -> NDArray[np.float32]:
        """The values of one tensor, by its official name, in float32."""
        return self.weights.read(name, np.float32)

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The same as a tensor of a dtype."""
        return torch.from_numpy(self.matrix(name)).to(dtype)

    def model(self, dtype: torch.dtype = torch.float32) -> Qwen3:
        """The model itself."""
        model = Qwen3(self.config, device="meta", dtype=dtype).to_empty(device="cpu")
        with torch.no_grad():
            for name, target in model.named_official_tensors():
                target.copy_(torch.from_numpy(self.matrix(name)))
        return model

    def settings(self, type: str) -> dict[str, Any]:
        """What whoever runs it has to know, in one object: the contents of `settings.json`."""
        profile, tokenizer = self.profile, self.tokenizer
        stops = sorted(profile.stop_ids)
        coder = profile.template == "qwen3-coder"
        chat = not profile.base
        modes = {"thinking": profile.thinking, "non_thinking": profile.non_thinking}
        if profile.template != "qwen3" or profile.base:
            modes = {"all": profile.sampling()}
        return {
            "name": self.name,
            "type": type,
            "context_length": self.config.context_length,
            "sampling": {mode: sampling_of(sampling) for mode, sampling in modes.items()},
            "stop_ids": stops,
            "stop": [tokenizer.decode([i]) for i in stops],
            "chat_template": profile.template if chat else None,
            "reasoning_parser": "qwen3" if chat and profile.thinks() else None,
            "tool_parser": None if not chat else "qwen3_coder" if coder else "hermes",
        }


def sampling_of(sampling: Sampling) -> dict[str, float]:
    """A setting in the words of generation_config.json, which most engines share; greedy is temperature 0."""
    values: dict[str, float] = {"temperature": sampling.temperature}
    if sampling.temperature:
        values |= {"top_p": sampling.top_p, "min_p": sampling.min_p}
        values |= {} if sampling.top_k is None else {"top_k": sampling.top_k}
    if sampling.repetition_penalty != 1:
        values["repetition_penalty"] = sampling.repetition_penalty
    return values


def from_directory(directory: str | os.PathLike[str]) -> Source:
    """Open a checkpoint directory, plain or in one of the official quantised layouts, or a nano's by name.

    Raises ConfigError, CheckpointError and ValueError as the readers of its files do.
    """
    place = directory_of(directory)
    config = Qwen3Config.from_pretrained(place)
    weights = open_weights(place)
    weights.require(config.tensor_shapes())
    tokenizer = Tokenizer.from_pretrained(place)
    files = {}
    for file in SETTINGS:
        if (place / file).exists():
            files[file] = _content(place / file)
    path = place.absolute()
    name = path.name
    if path.parent.name == "snapshots":  # of the hub cache: models--Qwen--Qwen3-0.6B/snapshots/REVISION
        name = path.parents[1].name.rpartition("--")[2]
    profile = Profile.from_pretrained(place, tokenizer)
    return Source(name, config, weights, tokenizer, profile, files, place)


def _content(path: Path) -> bytes:
    try:
        return read_within(path, _LARGEST_FILE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read ({why}); fetch it again.") from None


def as_stored(config: Qwen3Config, type: str) -> Qwen3Config:
    """The config of a checkpoint that is stored in another type."""
    return replace(config, torch_dtype=str(DTYPES[type]).removeprefix("torch."))


def dump(values: Mapping[str, Any]) -> str:
    """JSON as every file here has it."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
