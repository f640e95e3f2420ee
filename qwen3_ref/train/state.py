"""Training state in one safetensors file: weights, optimiser state, step. Never a pickle.

One file is what makes a save atomic: it is written beside the old one and takes its place when all of
it is on the disk. No state of a random generator is stored, because none lives longer than a step:
batch number n is a function of the seed and of n (see `loop.train`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwen3_ref.train.errors import TrainingError

STATE = "state.safetensors"


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of weights and optimiser state, as they are after a whole step."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().clone(memory_format=torch.contiguous_format)
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.clone(memory_format=torch.contiguous_format)
    return tensors


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the weights as float32, tensor after tensor; results that are kept name a model by it."""
    total = hashlib.sha256()
    for parameter in model.parameters():
        total.update(parameter.detach().cpu().float().numpy().tobytes())
    return total.hexdigest()


def save_state(directory: Path, tensors: dict[str, Tensor], step: int, about: Mapping[str, Any]) -> None:
    """Write the state after `step` steps, a `snapshot`, atomically. `about` (JSON values) must be equal
    on resuming.

    Raises TrainingError if it cannot be written (a full disk); the state saved before is then intact.
    """
    metadata = {"step": str(step), "about": json.dumps(about, sort_keys=True)}
    path, temporary = directory / STATE, directory / f"{STATE}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # it may not be there, nor its directory
            temporary.unlink()
        kept = f"the state of step {saved_step(directory)} is intact" if path.exists() else "none was saved"
        raise TrainingError(
            f"the training state of step {step} cannot be written to {path} ({error}); {kept}. "
            f"Free some disk space and run the same command again."
        ) from error


def load_state(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> int:
    """Bring model and optimiser to the saved state, if there is one; returns its step, else 0.

    Raises TrainingError for a state of another model or plan (naming what differs) or a broken file.
    """
    path = directory / STATE
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            step, saved = int(metadata["step"]), json.loads(metadata["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is not a training state ({type(error).__name__}: {error}); delete it to start anew."
        ) from None
    wanted = json.loads(json.dumps(about))
    differing = _differences(saved, wanted)
    if differing:
        raise TrainingError(
            f"{path} is of another run ({'; '.join(differing[:3])}); "
            f"choose another output directory, or delete it to start anew."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.pop(f"weight.{name}"))
            keys = [key for key in tensors if key.endswith(f".{name}")]
            own = {k.removesuffix(f".{name}"): tensors.pop(k).to(parameter.device) for k in keys}
            optimizer.state[parameter] = own
    return step


def saved_step(directory: Path) -> int:
    """The step of the state in a directory; 0 if there is none."""
    path = directory / STATE
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def _differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, as "name was 1 and is 2"."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys([*saved, *wanted])
        return [d for k in keys for d in _differences(saved.get(k), wanted.get(k), f"{name}.{k}".strip("."))]
    return [] if saved == wanted else [f"{name} was {saved!r} and is {wanted!r}"]
