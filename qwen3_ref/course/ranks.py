"""What each rank does in lesson 21: a function that another process can find."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from qwen3_ref.cluster import Mesh
from qwen3_ref.model import Qwen3
from qwen3_ref.parallel.plan import Ranks, parallelize
from qwen3_ref.parallel.traffic import CountTraffic


def train(rank: int, name: str, meshes: Sequence[str], batches: Tensor, rate: float) -> list[dict[str, Any]]:
    """On each mesh SGD with the checkpoint `name` in float64, a step for each batch (rows, t + 1); of each
    mesh `losses`, `weights` (bytes that this rank keeps), and `sent` (bytes by collective in the first step).
    """
    found = []
    for mesh in meshes:
        model, ranks = Qwen3.from_pretrained(name, dtype=torch.float64), Ranks(Mesh.of(mesh))
        parallelize(model, ranks)
        optimizer, losses, counted = torch.optim.SGD(model.parameters(), rate), [], CountTraffic(least=20_000)
        for step, batch in enumerate(batches):
            rows = batch[ranks.share(len(batch))]
            with contextlib.nullcontext() if step else counted, ranks.split_logits():
                logits = model(rows[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
                loss = loss / batch[:, 1:].numel()  # of all ranks' targets: a mean of means is another number
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(ranks.sum(loss.full_tensor() if isinstance(loss, DTensor) else loss)))
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        weights = sum(part.numel() * part.element_size() for part in parts)
        found.append({"losses": losses, "weights": weights, "sent": dict(counted.bytes)})
    return found
