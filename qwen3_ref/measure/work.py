"""What a pass costs, counted, and what a machine can do, measured.

Counted are the operations that PyTorch dispatches and the rows that each matrix is multiplied with: the same
on every machine. Measured are bandwidth, arithmetic and seconds: another number each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SIDE = 8192  # 268 MB of float32: beyond most caches
_TIMES = 5


class Operations(TorchDispatchMode):
    """Counts what PyTorch dispatches inside `with Operations() as seen`, in inference mode.

    `computing`: operations that compute or copy, by name; `views`: those that only look at memory in another
    way; `products`: (rows, outputs, inputs) of each plain matrix product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computing: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.products: list[tuple[int, int, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note it, and let it run."""
        kind = self.views if func.is_view else self.computing
        kind[str(func).split(".")[1]] += 1
        if func is torch.ops.aten.linear.default:
            x, weight = args[:2]
            outputs, inputs = weight.shape
            self.products.append((x.numel() // inputs, outputs, inputs))
        return func(*args, **(kwargs or {}))

    @property
    def weights(self) -> int:
        """Weights of all the products, each as often as it was read."""
        return sum(outputs * inputs for _, outputs, inputs in self.products)

    @property
    def flops(self) -> int:
        """Of all the products: a multiplication and an addition for each weight and row."""
        return sum(2 * rows * outputs * inputs for rows, outputs, inputs in self.products)


@dataclass(frozen=True)
class Machine:
    """Bytes a second that memory gives, and FLOPs a second that the processor makes of them."""

    bandwidth: float
    peak: float

    @property
    def ridge(self) -> float:
        """FLOPs for each byte from which on arithmetic is the limit."""
        return self.peak / self.bandwidth


def seconds(work: Callable[[], object], times: int = _TIMES) -> float:
    """The best of several runs after one that is not counted."""
    return min(_timed(work) for _ in range(times + 1))


@torch.inference_mode()
def machine() -> Machine:
    """This one, in float32 and with PyTorch's threads: the best of a few matrix-vector products, and of
    matrix products of which nothing has to be read twice."""
    matrix, vector = torch.ones(_SIDE, _SIDE), torch.ones(_SIDE)
    read = matrix.nbytes / seconds(lambda: matrix @ vector)
    n = _SIDE // 8
    square = matrix[:n, :n].contiguous()
    return Machine(read, 2 * n**3 / seconds(lambda: square @ square))


def interleaved(jobs: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of each job: all are run once a round, so that whatever else the machine does meets
    them alike. One round more is not counted."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            taken = _timed(job)
            if number:
                found[name].append(taken)
    return {name: median(values) for name, values in found.items()}


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
