"""The training loop on several ranks: the same stages, the same losses, started by `torchrun`.

Every rank draws the same global batch (a function of the seed and the step) and learns from its own rows of
it. Losses, counts of experts and the norm that gradients are clipped by are those of the global batch.

The state is PyTorch's distributed checkpoint, `state/STEP` in the stage's directory, which any number of
ranks reads; `state.json` says which step is whole, and is written after all ranks have written theirs. (Its
index is PyTorch's own pickle, so take states from your own runs alone.)
"""

from __future__ import annotations

import copy
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from qwen3_ref.arrays import at_least_float32
from qwen3_ref.config import Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.parallel.plan import Ranks, parallelize, ranks_of
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.errors import Interrupted, NotFinite, TrainingError
from qwen3_ref.train.loop import IGNORE, SAVE_SECONDS, Log, Plan, StepLoss

POINTER = "state.json"
"""Which of the states is whole, and of what run it is."""
FOLDER = "state"
_LOST = re.compile(r"connection|timed? ?out|gloo|nccl|peer|socket|store", re.IGNORECASE)
"""What a collective says when another rank is gone."""

_LOG = logging.getLogger("qwen3_ref.train.loop")


def token_loss(model: Qwen3, inputs: Tensor, targets: Tensor) -> Tensor:
    """This rank's share of the mean loss over all targets of the global batch, inputs and targets (b, t):
    the sum over its own rows, divided by the number of all. The shares add up to `cross_entropy`."""
    ranks = ranks_of(model)
    assert ranks is not None
    count = int((targets != IGNORE).sum())
    if not count:
        raise TrainingError("every target of the batch is masked, so there is nothing to learn from it.")
    mine = ranks.share(len(inputs))
    logits = at_least_float32(model(inputs[mine])).flatten(0, -2)
    loss = F.cross_entropy(logits, targets[mine].flatten(), ignore_index=IGNORE, reduction="sum") / count
    return loss.full_tensor() if isinstance(loss, DTensor) else loss


def train_on_ranks(
    model: Qwen3,
    plan: Plan,
    step_loss: StepLoss,
    directory: Path,
    ranks: Ranks,
    *,
    about: Mapping[str, object] | None = None,
    stop_at: int | None = None,
) -> None:
    """`loop.train` on `ranks`: every rank calls it with the same whole model, and has the trained one whole
    at the end. step_loss gives each rank's share of the loss, as `token_loss` does.

    It goes on from the state in `directory`, saved on these ranks or on any other number. Errors as
    `loop.train`; and TrainingError on every rank that is left when another has died.
    """
    identity = {"config": model.config.to_dict(), "plan": asdict(plan), **(about or {})}
    identity = json.loads(json.dumps(identity))
    split = parallelize(copy.deepcopy(model), ranks, precision=plan.precision)
    optimizer = make_optimizer(split, plan)
    try:
        step = load_state(directory, split, optimizer, identity)
        log = Log(directory / "log.csv", step) if ranks.rank == 0 else None
        last = plan.steps if stop_at is None else min(stop_at, plan.steps)
        split.train()
        first, start = step, time.monotonic()
        saved_at = start
        while step < last:
            late = time.monotonic() - saved_at > SAVE_SECONDS
            loss, numbers, late = _gradient(split, optimizer, plan, step_loss, step, ranks, late)
            optimizer.step()
            step += 1
            rate = (step - first) / (time.monotonic() - start)
            if log is not None and (step % plan.log_every == 0 or step == last):
                log.write({"step": step, "loss": loss, "rate": plan.rate(step - 1), **numbers})
            if step % plan.save_every == 0 or step == last or late:
                save_state(directory, split, optimizer, step, identity, ranks)
                saved_at = time.monotonic()
            if ranks.rank == 0 and (
                step == first + 1 or 10 * step // plan.steps > 10 * (step - 1) // plan.steps
            ):
                told = f"step {step} of {plan.steps}, loss {loss:.3f}, {rate:.1f} steps/s"
                _LOG.info("%s on %s: %s", directory.name, ranks.mesh, told)
        fill(model, split)
    except KeyboardInterrupt:
        raise Interrupted(f"rank {ranks.rank} was stopped; {_resume(directory)}.") from None
    except FloatingPointError as error:
        raise NotFinite(
            f"{error} in step {step + 1} of {plan.steps}; {_resume(directory)}, or start anew with a "
            f"lower learning rate."
        ) from None
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise TrainingError(
            f"rank {ranks.rank} has lost another rank ({str(error).splitlines()[0][:120]}); "
            f"{_resume(directory)}."
        ) from error


def make_optimizer(model: Qwen3, plan: Plan) -> torch.optim.AdamW:
    """AdamW as `loop.make_optimizer` has it, with a group for each mesh: one update takes one mesh."""
    groups: dict[Any, dict[str, Any]] = {}
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor)
        decays = parameter.dim() > 1
        key = decays, parameter.device_mesh
        decay = plan.weight_decay if decays else 0.0
        groups.setdefault(key, {"params": [], "weight_decay": decay})["params"].append(parameter)
    return torch.optim.AdamW([*groups.values()], lr=plan.learning_rate, betas=plan.betas, fused=True)


def _gradient(
    model: Qwen3,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    step_loss: StepLoss,
    step: int,
    ranks: Ranks,
    late: bool,
) -> tuple[float, dict[str, float], bool]:
    """All of an update but the update, on every rank; and whether rank 0 says that it is time to save."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    optimizer.zero_grad(set_to_none=True)
    with ranks.split_logits():
        share, numbers = step_loss(model, step)
        value = float(ranks.sum(share))
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}")
        share.backward()
    norm, late = clip(model, plan.clip, late and ranks.rank == 0)
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    return value, {"gradient_norm": norm, **numbers}, late


@torch.no_grad()
def clip(model: Qwen3, most: float, flag: bool = False) -> tuple[float, bool]:
    """Shorten the gradient to the norm `most`, if it is longer, and return its norm, of all ranks' parts
    together: what several ranks hold counts once. flag: whether any rank gave one (it travels along)."""
    squares = torch.zeros(2, dtype=torch.float64)
    squares[1] = float(flag)
    parts = []
    for parameter in model.parameters():
        gradient = parameter.grad
        assert isinstance(gradient, DTensor)
        mesh = gradient.device_mesh
        holders = dist.get_world_size() // mesh.size()
        for size, placement in zip(mesh.shape, gradient.placements, strict=True):
            holders *= size if isinstance(placement, Replicate) else 1
        local = gradient.to_local()
        parts.append(local)
        squares[0] += local.double().square().sum().cpu() / holders
    device = parts[0].device
    squares = squares.to(device)
    dist.all_reduce(squares)
    norm = float(squares[0].sqrt())
    if norm > most:
        for part in parts:
            part.mul_(most / (norm + 1e-6))
    return norm, bool(squares[1] > 0)


# -- whole weights and states ---------------------------------------------------------------------------


@torch.no_grad()
def fill(whole: Qwen3, split: Qwen3) -> None:
    """Give a whole model the weights of one that lies on ranks; every rank has to call it."""
    targets = dict(whole.named_parameters())
    for name, parameter in split.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        targets[name].copy_(value.view_as(targets[name]))


def _tensors(model: Qwen3, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All of a state by name; what the optimiser has not made yet is made of zeros, to be read into."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=model.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter) for _ in range(2))
        tensors[f"weight.{name}"] = parameter.detach()
        tensors |= {f"{key}.{name}": value for key, value in state.items()}
    return tensors


def save_state(
    directory: Path,
    model: Qwen3,
    optimizer: torch.optim.Optimizer,
    step: int,
    about: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Write the state after `step` steps; the one before is intact until all of it is there.

    Raises TrainingError if it cannot be written.
    """
    folder = directory / FOLDER / str(step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dcp.save(_tensors(model, optimizer), checkpoint_id=folder)
        if ranks.rank == 0:
            known = {"step": step, "mesh": str(ranks.mesh), "about": about}
            write_atomically(directory / POINTER, json.dumps(known, sort_keys=True))
            for old in (directory / FOLDER).iterdir():
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
        dist.barrier()
    except OSError as error:
        raise TrainingError(
            f"the training state of step {step} cannot be written to {folder} ({error}); "
            f"{_resume(directory)}."
        ) from error


def load_state(
    directory: Path, model: Qwen3, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> int:
    """Bring model and optimiser to the saved state, if there is one, whatever ranks saved it; its step.

    Raises TrainingError for a state of another run (naming what differs) or a broken one.
    """
    known = pointer(directory)
    if known is None:
        return 0
    saved, step = known["about"], int(known["step"])
    if differing := [name for name in {**saved, **about} if saved.get(name) != about.get(name)]:
        raise TrainingError(
            f"{directory / POINTER} is of another run ({', '.join(differing)} differ); choose another output "
            f"directory, or delete it to start anew."
        )
    try:
        dcp.load(_tensors(model, optimizer), checkpoint_id=directory / FOLDER / str(step))
    except dcp.CheckpointException as error:
        raise TrainingError(
            f"the state of step {step} in {directory / FOLDER} cannot be read "
            f"({str(error).splitlines()[0][:120]}); delete {directory / POINTER} to start anew."
        ) from None
    return step


def pointer(directory: Path) -> dict[str, Any] | None:
    """What `state.json` says; None where there is no state. Raises TrainingError for a broken one."""
    path = directory / POINTER
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {"step": int(known["step"]), "mesh": str(known["mesh"]), "about": dict(known["about"])}
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} does not say which state is whole ({error}); delete it.") from None


def saved_weights(directory: Path) -> Qwen3:
    """The weights of the state in a stage's directory, whole, in this process alone.

    Raises TrainingError where there is none.
    """
    known = pointer(directory)
    if known is None:
        raise TrainingError(f"{directory} has no state of several ranks; train with --parallel first.")
    model = Qwen3(Qwen3Config.from_dict(known["about"]["config"]))
    shapes = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if name.endswith("gate_up_proj") and "experts" in name:  # as the ranks hold it: gate and up apart
            value = value.view(value.shape[0], 2, -1, value.shape[2])
        shapes[f"weight.{name}"] = value
    dcp.load(shapes, checkpoint_id=directory / FOLDER / str(known["step"]), no_dist=True)
    return model


def _resume(directory: Path) -> str:
    known = pointer(directory)
    step = known["step"] if known else 0
    kept = f"the state of step {step} in {directory} is intact" if step else "no state was saved yet"
    return f"{kept}; the same command goes on from there"
