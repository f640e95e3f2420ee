"""Does a model that looks something up in a picture need positions of rows and columns? `python -m
qwen3_ref.measure.sight --out FILE`.

Very small models get a question ("row 3, column 2"), then a picture of symbols, token by token in reading
order, and say the symbol that stands there. Pictures have 2 to 4 rows and columns; two shapes are never
trained on. The arms differ in where tokens stand, and in nothing else:

  interleaved       Qwen3-VL's three axes: rows and columns are positions, and each has quick and slow pairs
  counted           1-D: each token one position further, as text
  counted, marked   the same with a mark behind each row of the picture, as a line break in text
  sectioned         Qwen2-VL's three axes: the first pairs are time's, the last width's

Beside them stands the ceiling of whoever knows which symbols are in the picture but not where.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_ref.config import Qwen3Config
from qwen3_ref.measure.study import require_seeds
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Qwen3
from qwen3_ref.mrope import MERGE, Part, qwen3_vl_positions
from qwen3_ref.store.files import write_atomically
from qwen3_ref.train.seeds import seeded

SYMBOLS, LEAST, MOST = 8, 2, 4
ROW, COLUMN = SYMBOLS, SYMBOLS + MOST  # the first ids that name a row, and a column
BEGIN, END, BREAK = COLUMN + MOST, COLUMN + MOST + 1, COLUMN + MOST + 2
SHAPES = [(h, w) for h in range(LEAST, MOST + 1) for w in range(LEAST, MOST + 1)]
HELD_OUT = [(2, 4), (4, 3)]
SEEN = [shape for shape in SHAPES if shape not in HELD_OUT]
ARMS = ("interleaved", "counted", "counted, marked", "sectioned")
STEPS, BATCH = 1_000, 64


def pictures(shape: tuple[int, int], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols (count, height, width), each as likely; the row and the column that are asked for (count,)."""
    height, width = shape
    cells = torch.randint(SYMBOLS, (count, height, width), generator=generator)
    row = torch.randint(height, (count,), generator=generator)
    column = torch.randint(width, (count,), generator=generator)
    return cells, row, column


def tokens(arm: str, cells: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor | None]:
    """Ids (b, t) of question and picture, and their position_ids, None where positions are counted."""
    count, height, width = cells.shape
    if arm == "counted, marked":
        cells = torch.cat([cells, torch.full((count, height, 1), BREAK)], dim=2)
    begin, end = torch.full((count, 1), BEGIN), torch.full((count, 1), END)
    ids = torch.cat([(ROW + row)[:, None], (COLUMN + column)[:, None], begin, cells.flatten(1), end], dim=1)
    if arm in ("counted", "counted, marked"):
        return ids, None
    parts = [Part("text", 3), Part("image", (MERGE * height, MERGE * width)), Part("text", 1)]
    found = torch.from_numpy(qwen3_vl_positions(parts).ids)
    return ids, found[:, None].expand(3, count, -1)


def small_model(arm: str, seed: int) -> Qwen3:
    """Untrained; for one seed all arms have the same weights."""
    section = [4, 4, 4] if arm in ("sectioned", "interleaved") else None
    axes = {"rope_type": "default", "mrope_section": section, "mrope_interleaved": arm == "interleaved"}
    config = Qwen3Config(
        vocab_size=BREAK + 1, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=24, rope_theta=10_000.0,
        tie_word_embeddings=False, initializer_range=0.08, rope_scaling=axes if section else None,
    )  # fmt: skip
    return Qwen3(config, generator=torch.Generator().manual_seed(seed))


def trained(arm: str, seed: int, steps: int = STEPS) -> Qwen3:
    """After `steps` batches, each of one shape; AdamW, a rate that falls in a line from 3e-3 to a tenth."""
    model = small_model(arm, seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 30) * (1 - 0.9 * step / steps)
        generator = seeded(seed, "pictures", step)
        shape = SEEN[int(torch.randint(len(SEEN), (), generator=generator))]
        cells, row, column = pictures(shape, BATCH, generator)
        ids, positions = tokens(arm, cells, row, column)
        logits = model(ids, position_ids=positions, logits_to_keep=1)[:, 0]
        optimiser.zero_grad()
        F.cross_entropy(logits, cells[torch.arange(BATCH), row, column]).backward()
        optimiser.step()
    return model


@torch.inference_mode()
def accuracy(model: Qwen3, arm: str, shapes: Sequence[tuple[int, int]], count: int) -> float:
    """Share of right answers to `count` questions on pictures of each shape, the same for every model."""
    right = 0
    for shape in shapes:
        cells, row, column = pictures(shape, count, seeded(7, "test", *shape))
        ids, positions = tokens(arm, cells, row, column)
        found = model(ids, position_ids=positions, logits_to_keep=1)[:, 0].argmax(-1)
        right += int((found == cells[torch.arange(count), row, column]).sum())
    return right / count / len(shapes)


def ceiling(shapes: Sequence[tuple[int, int]], count: int) -> float:
    """The best share of right answers to the same questions without knowing where a symbol stands: that of
    the symbol that is commonest in the picture."""
    shares = []
    for shape in shapes:
        cells, _, _ = pictures(shape, count, seeded(7, "test", *shape))
        shares.append(F.one_hot(cells.flatten(1), SYMBOLS).double().mean(1).amax(-1).mean())
    return float(sum(shares)) / len(shapes)


def study(path: Path, seeds: Sequence[int], steps: int = STEPS, count: int = 400) -> dict[str, Any]:
    """Every arm with every seed, and how far the interleaved one is above the others, of the same seed. What
    is done is kept in the file, and not done again. Raises ValueError for a file of other settings."""
    settings = {"steps": steps, "batch": BATCH, "questions": count, "seeds": list(seeds)}
    found: dict[str, Any] = {"settings": settings}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != settings:
        raise ValueError(f"{path} is of other settings; choose another file, or delete it.")
    cells = found.setdefault("cells", {arm: {"seen": [], "unseen": []} for arm in ARMS})
    for number, seed in enumerate(seeds):
        for arm, cell in cells.items():
            if len(cell["seen"]) == number:
                model = trained(arm, seed, steps)
                for name, shapes in (("seen", SEEN), ("unseen", HELD_OUT)):
                    cell[name].append(round(accuracy(model, arm, shapes, count), 3))
                write_atomically(path, json.dumps(found, indent=1) + "\n")
            print(
                f"{arm}, seed {seed}: {cell['seen'][number]:.1%} of shapes seen in training, "
                f"{cell['unseen'][number]:.1%} of others", flush=True,
            )  # fmt: skip
    found["chance"] = 1 / SYMBOLS
    found["ceiling"] = {"seen": ceiling(SEEN, count), "unseen": ceiling(HELD_OUT, count)}
    best = cells["interleaved"]
    found["interleaved above"] = {
        arm: {
            name: over_seeds([a - b for a, b in zip(best[name], cell[name], strict=True)])
            for name in ("seen", "unseen")
        }
        for arm, cell in cells.items()
        if arm != "interleaved"
    }
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.sight", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("sight.json"), help="the file (./sight.json)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="2 to 8 (0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"({STEPS})")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        require_seeds(options.seeds)
        above = study(options.out, options.seeds, options.steps)["interleaved above"]
        for arm, shapes in above.items():
            for name, n in shapes.items():
                points = (f"{100 * n[part]:+.1f}" for part in ("mean", "low", "high"))
                print("interleaved above {}, shapes {}: {} points ({} to {})".format(arm, name, *points))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
