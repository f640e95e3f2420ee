"""Bytes that a rank really sends, counted collective by collective while a step runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_ref.cluster import sent

_KINDS = {
    "allgather": "all-gather",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "allreduce": "all-reduce",
    "all_reduce": "all-reduce",
    "alltoall": "all-to-all",
    "all_to_all": "all-to-all",
}


class CountTraffic(TorchDispatchMode):
    """`with CountTraffic() as counted:` a step, forward and backward; then `counted.bytes` and
    `counted.calls`, by kind of collective.

    Bytes are those that this rank sends: of all-gather, reduce-scatter and all-reduce what a ring sends for
    tensors of that size (`cluster.sent`; gloo and NCCL may choose another way for small ones), of an
    all-to-all the rows that really leave. least: tensors below so many bytes are left out, as
    `cluster.traffic` leaves out losses and counts.
    """

    def __init__(self, least: int = 0) -> None:
        super().__init__()
        self.least = least
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = func.namespace, func._schema.name.split("::")[1]
        if "c10d" in space:
            kind = next((kind for word, kind in _KINDS.items() if word in name), None)
            if kind is not None:
                self._count(kind, args)
        return func(*args, **(kwargs or {}))

    def _count(self, kind: str, args: Any) -> None:
        tensors = [x for x in _flat(args) if isinstance(x, Tensor)]
        group = _group(args)
        size = max(x.numel() * x.element_size() for x in tensors)  # the whole one, in or out
        if size < self.least:
            return
        self.calls[kind] += 1
        if kind != "all-to-all":
            self.bytes[kind] += sent(kind, size, group.size())
            return
        splits = [x for x in args if isinstance(x, (list, tuple)) and all(isinstance(n, int) for n in x)]
        functional = isinstance(args[0], Tensor)  # (rows, receive, send, group); else (out, rows, ...)
        rows = args[0] if functional else args[1]
        send = splits[1] if len(splits) > 1 and splits[1] else [len(rows) // group.size()] * group.size()
        leaving = sum(send) - send[group.rank()]
        self.bytes[kind] += leaving * rows[:1].numel() * rows.element_size() if len(rows) else 0


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [x for part in value for x in _flat(part)]
    return [value]


def _group(args: Any) -> dist.ProcessGroup:
    for value in args:
        if isinstance(value, str) and value not in ("sum", "avg", "max", "min"):
            return dist.distributed_c10d._resolve_process_group(value)  # type: ignore[arg-type]
        if isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type()):
            return dist.ProcessGroup.unbox(value)
    raise ValueError("a collective without a group; it cannot be counted.")
