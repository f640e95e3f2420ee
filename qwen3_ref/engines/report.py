"""The table of engines, and the file that keeps what was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qwen3_ref.engines.catalog import NAMES
from qwen3_ref.store.files import parse_json, write_atomically

RECORDED = Path(__file__).resolve().parents[1] / "data" / "engines.json"
Row = dict[str, Any]
HEAD = ("engine", "model", "weights", "tokenizer", "template", "greedy ids")


def load(path: Path = RECORDED) -> dict[str, Any]:
    """What was measured: {"machine", "rows", ...}; empty where there is no file yet."""
    if not path.exists():
        return {"machine": "", "rows": []}
    found: dict[str, Any] = parse_json(path.read_bytes())
    return found


def keep(path: Path, rows: Iterable[Row], **more: Any) -> None:
    """Write rows into the file, in the place of older ones of the same engine, checkpoint and weights, and
    `more` beside them."""
    kept = load(path)
    by = {_key(row): row for row in kept["rows"]} | {_key(row): row for row in rows}
    kept["machine"] = f"{platform.system()} {platform.machine()}, CPU, Python {platform.python_version()}"
    kept["rows"] = sorted(by.values(), key=lambda row: (_place(row["engine"]), row["model"], row["type"]))
    kept |= more
    write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _key(row: Row) -> tuple[str, str, str]:
    return row["engine"], row["model"], row["type"]


def _place(name: str) -> int:
    return NAMES.index(name) if name in NAMES else len(NAMES)


def ids_in_words(row: Row) -> str:
    """The cell of greedy ids: equal, how many ties, or where the first difference is and how clear."""
    if "missing" in row:
        return str(row["missing"] if not row["installed"] else f"not checked: {row['missing']}")
    if row["equal"] == row["prompts"]:
        return f"equal ({row['prompts']} of {row['prompts']})"
    words = [f"equal {row['equal']} of {row['prompts']}"]
    if row["ties"]:
        words.append(f"tie {row['ties']}")
    others = [one for one in row["parted"] if one["verdict"] == "differs"]
    if others:
        first = others[0]
        margins = [_number(first[side]) for side in ("ours", "theirs")]
        words.append(f"differs {len(others)}, first at token {first['at']} (margins {', '.join(margins)})")
    return "; ".join(words)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _part(row: Row, name: str) -> str:
    if name not in row:
        return "-"
    return f"{row[name]['same']} of {row[name]['of']}"


def cells(row: Row) -> tuple[str, ...]:
    """A row in words, as HEAD names them."""
    parts = (_part(row, name) for name in ("tokenization", "template"))
    return row["engine"], row["model"], row["type"], *parts, ids_in_words(row)


def plain(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal, the long column last."""
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in table
    )


def markdown(kept: dict[str, Any]) -> str:
    """The table as the README has it: a line an engine, a column a checkpoint, in float32; then what other
    weights gave."""
    models = list(dict.fromkeys(row["model"] for row in kept["rows"]))
    lines = ["| engine | version | date | " + " | ".join(models) + " | tokenizer | template |"]
    lines.append("|---" * (5 + len(models)) + "|")
    for name in dict.fromkeys(row["engine"] for row in kept["rows"]):
        rows = {row["model"]: row for row in kept["rows"] if row["engine"] == name and row["type"] == "f32"}
        if not rows:
            continue
        ran: Row = next((row for row in rows.values() if "versions" in row), {})
        version = next(iter(ran.get("versions", {"": "-"}).values()))
        said = [ids_in_words(rows[model]) if model in rows else "-" for model in models]
        parts = [_part(ran, part) for part in ("tokenization", "template")]
        lines.append(f"| {' | '.join([name, version, ran.get('date', '-'), *said, *parts])} |")
    return "\n".join(lines) + "\n"
