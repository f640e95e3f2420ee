"""The training loop that every stage shares: schedule, clipping, logging, saving, stopping.

The data of step n is a function of the seed and of n, so a run that was killed and resumed sees what
an unbroken one sees, and ends in the same bits (same machine, same number of threads).
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from qwen3_ref.arrays import at_least_float32
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.store.progress import on_terminal
from qwen3_ref.train.errors import Interrupted, NotFinite, TrainingError
from qwen3_ref.train.state import load_state, save_state, saved_step, snapshot

IGNORE = -100
"""The target of a position that has no loss."""
SAVE_SECONDS = 30.0
"""The most work, in seconds, that a killed process loses (and one step, or what belongs together)."""

_LOG = logging.getLogger(__name__)

StepLoss = Callable[[Qwen3, int], tuple[Tensor, dict[str, float]]]
"""(model, step from 0) -> the loss, a scalar with gradient, and other numbers to log."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast: linear warm-up to `learning_rate`, then a cosine down to `floor` times it.

    `precision` "bf16" runs products in bfloat16 (autocast) and keeps weights and optimiser in float32.
    `together`: steps that share what one of them has drawn, so that a state is saved only between them.
    """

    steps: int
    learning_rate: float
    warmup: int = 50
    floor: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    save_every: int = 200
    together: int = 1

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


def on_ranks(model: object) -> bool:
    """Whether a model lies on several ranks (`parallel.plan`, whose import takes seconds)."""
    return hasattr(model, "ranks")


def make_optimizer(model: Qwen3, plan: Plan) -> torch.optim.AdamW:
    """AdamW; matrices decay, norm gains do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=plan.betas, fused=True)


def train(
    model: Qwen3,
    plan: Plan,
    step_loss: StepLoss,
    directory: Path,
    *,
    about: Mapping[str, object] | None = None,
    stop_at: int | None = None,
) -> None:
    """Train `model` in place for `plan.steps`, from the state in `directory` if there is one.

    The state is saved every `save_every` steps, after SAVE_SECONDS of work, on Ctrl-C and at the end,
    and `log.csv` has a row every `log_every`. The first step and each tenth of all are told to the log of
    this module, for those who see no bar. about: what else must be equal on resuming, such as the
    seed. stop_at: end early at this step, as a killed run would, but saved.
    Raises TrainingError for a loss that is not finite, a full disk, Ctrl-C, or a state of another
    run; the last saved state is then intact, and the same call goes on from there.
    """
    identity = {"config": model.config.to_dict(), "plan": asdict(plan), **(about or {})}
    optimizer = make_optimizer(model, plan)
    step = load_state(directory, model, optimizer, identity)
    log = Log(directory / "log.csv", step)
    last = plan.steps if stop_at is None else min(stop_at, plan.steps)
    model.train()
    whole, saved, kept = step, step, None  # the last step between batches, the last saved, its tensors
    try:
        with progress_bar() as bar:
            task = bar.add_task(directory.name, total=plan.steps, completed=step, note="")
            start, first = time.monotonic(), step
            saved_at = start
            while step < last:
                if plan.together > 1 and step == whole:
                    kept = snapshot(model, optimizer)
                loss, numbers = _gradient(model, optimizer, plan, step_loss, step)
                with held_back():  # a step is taken, logged and saved, or it is not
                    optimizer.step()
                    step += 1
                    whole = step if step % plan.together == 0 else whole
                    rate = (step - first) / (time.monotonic() - start)
                    bar.update(task, completed=step, note=f"loss {loss:.3f}, {rate:.1f} steps/s")
                    if step % plan.log_every == 0 or step == last:
                        log.write({"step": step, "loss": loss, "rate": plan.rate(step - 1), **numbers})
                    late = step == whole and time.monotonic() - saved_at > SAVE_SECONDS
                    if step % plan.save_every == 0 or step == last or late:
                        save_state(directory, snapshot(model, optimizer), step, identity)
                        saved, saved_at = step, time.monotonic()
                if step == first + 1 or 10 * step // plan.steps > 10 * (step - 1) // plan.steps:
                    left = timedelta(seconds=round((plan.steps - step) / rate))
                    told = f"step {step} of {plan.steps}, loss {loss:.3f}, {rate:.1f} steps/s, {left} left"
                    _LOG.info("%s: %s", directory.name, told)
    except KeyboardInterrupt:
        if whole > saved:
            with held_back():
                tensors = snapshot(model, optimizer) if step == whole or kept is None else kept
                save_state(directory, tensors, whole, identity)
        raise Interrupted(f"stopped in step {step + 1} of {plan.steps}; {_resume(directory)}.") from None
    except FloatingPointError as error:
        raise NotFinite(
            f"{error} in step {step + 1} of {plan.steps}; {_resume(directory)}, or start anew with a "
            f"lower learning rate."
        ) from None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C inside of the block comes at its end (in the main thread, which alone receives it)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _gradient(
    model: Qwen3, optimizer: torch.optim.Optimizer, plan: Plan, step_loss: StepLoss, step: int
) -> tuple[float, dict[str, float]]:
    """All of an update but the update: nothing has changed when a number that is not finite raises."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=plan.precision == "bf16"):
        loss, numbers = step_loss(model, step)
    if not math.isfinite(value := float(loss.detach())):
        raise FloatingPointError(f"the loss is {value}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    return value, {"gradient_norm": norm, **numbers}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats over the positions whose target is not IGNORE; logits (b, t, V), targets (b, t).

    Raises TrainingError if there is no such position: a mean over nothing is NaN.
    """
    if not bool((targets != IGNORE).any()):
        raise TrainingError("every target of the batch is masked, so there is nothing to learn from it.")
    return F.cross_entropy(at_least_float32(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE)


def _resume(directory: Path) -> str:
    step = saved_step(directory)
    kept = f"the state of step {step} in {directory} is intact" if step else "no state was saved yet"
    return f"{kept}; the same command goes on from there"


def progress_bar() -> Progress:
    """Rate, loss and time left, on stderr; nothing where that is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not on_terminal(),
        transient=True,
    )


class Log:
    """A CSV that grows by a row; the columns are those of the first row."""

    def __init__(self, path: Path, step: int = 0) -> None:
        """Rows after `step` are dropped, and one that a killed process left unfinished: a resumed run
        writes them again."""
        self.path = path
        self.columns: list[str] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if None not in row.values() and int(row["step"]) <= step]
            self.columns = list(rows[0]) if rows else []
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns)
            if rows:
                writer.writeheader()
            writer.writerows(rows)
            write_atomically(path, text.getvalue())

    def write(self, row: Mapping[str, object]) -> None:
        """Append a row; floats are written with six significant digits."""
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        new = not self.columns
        self.columns = self.columns or list(cells)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow(cells)
