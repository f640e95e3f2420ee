"""Execute every notebook in a clean kernel and write it back, byte-stable: `make notebooks`.

Running it twice leaves no difference: cells get ids and counts in order, outputs are those of this
run, and whatever depends on the machine or the moment is left out.

`--snapshot` proves instead that lessons run on an official snapshot: those that name their model at the
top are executed with an official name there, for which a small random model with the official tokenizer is
put on disk. Nothing is written. It takes minutes for each, so it is no part of `make test`.

`--captions` runs nothing: it puts the captions of figures/captions.toml under the figures of notebooks that
have run. `--slides` runs them and draws their figures large (`make slides`); they stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def normalise(notebook: Any) -> None:
    """Metadata that says nothing about the content, the same in every notebook."""
    import nbformat

    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})


def execute(path: Path) -> float:
    """Run one notebook and replace the file; returns seconds. A failing cell leaves the file alone."""
    import nbformat  # takes seconds
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    normalise(notebook)
    start = time.monotonic()
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,  # the kernel cuts long output into pieces as time will have it
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    normalise(notebook)
    nbformat.validate(notebook)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return time.monotonic() - start


SUBJECT = re.compile(r'^(MODEL|SNAPSHOT) = (?:"qwen3-nano(-base)?"|None)$', re.MULTILINE)
"""The line of a lesson that says what it is about."""


def make_snapshots(folder: Path) -> None:
    """Small random models under the names `official` gives, as their files lie on disk."""
    from qwen3_ref.config import Qwen3Config
    from qwen3_ref.model import Qwen3
    from qwen3_ref.tokenizer import Tokenizer

    for name in ("Qwen3-0.6B", "Qwen3-0.6B-Base"):
        config = replace(
            Qwen3Config.named(name), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        )  # fmt: skip
        Qwen3(config).save_pretrained(folder / name)
        Tokenizer.official().save_pretrained(folder / name)


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, each with its source in one piece."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def official(cells: list[dict[str, Any]]) -> int:
    """Put an official name where a lesson says what it is about; returns in how many cells that was."""
    found = 0
    for cell in cells:
        if cell["cell_type"] == "code" and SUBJECT.search(cell["source"]):
            cell["source"] = SUBJECT.sub(
                lambda m: f'{m[1]} = "Qwen3-0.6B{(m[2] or "").title()}"', cell["source"]
            )
            found += 1
    return found


def run_official(path: Path) -> float:
    """Run one lesson on the stand-in for an official snapshot; returns seconds."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    official(notebook.cells)
    start = time.monotonic()
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=where).execute()
    return time.monotonic() - start


def run(path: Path) -> float:
    """Run one notebook and leave the file alone; returns seconds."""
    import nbformat
    from nbclient import NotebookClient

    start = time.monotonic()
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        nbformat.read(path, as_version=4), timeout=300, kernel_name="python3", resources=where
    ).execute()
    return time.monotonic() - start


def caption(path: Path) -> int:
    """Put the captions of today under the figures of a notebook that has run; returns how many changed."""
    from qwen3_ref.course.plots.style import caption_of

    notebook, changed = json.loads(path.read_text(encoding="utf-8")), 0
    for cell in notebook["cells"]:
        outputs = cell.get("outputs", [])
        for picture, below in zip(outputs, outputs[1:], strict=False):
            if "image/png" in picture.get("data", {}) and "text/markdown" in below.get("data", {}):
                name, alt = re.fullmatch(
                    r"(?s)\[(\w+)\] (.*)", "".join(picture["data"]["text/plain"])
                ).groups()  # type: ignore[union-attr]
                new = caption_of(name, alt)
                changed += "".join(below["data"]["text/markdown"]) != new
                below["data"]["text/markdown"] = [new]
    if changed:
        temporary = path.with_name(path.name + ".tmp")
        text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    return changed


def main(names: list[str]) -> int:
    """Execute the named notebooks, or all; 1 if any failed."""
    work: Callable[[Path], float] = execute
    paths = [Path(name) for name in names if not name.startswith("--")]
    paths = paths or sorted((ROOT / "notebooks").rglob("*.ipynb"))
    if "--captions" in names:
        print(f"{sum(map(caption, paths))} captions are new.")
        return 0
    if "--slides" in names:
        os.environ["QWEN3_FIGURES"] = "slides"
        return run_all([path for path in paths if path.parent.name != "solutions"], run)
    with tempfile.TemporaryDirectory() as folder:
        if "--snapshot" in names:
            work = run_official
            paths = [path for path in paths if official(cells_of(path))]
            os.environ.pop("QWEN3_FIGURES", None)
            os.environ["QWEN3_WEIGHTS"] = folder
            make_snapshots(Path(folder))
        else:
            os.environ["QWEN3_FIGURES"] = "write"
        return run_all(paths, work)


def run_all(paths: list[Path], work: Callable[[Path], float]) -> int:
    """One after the other; 1 if any failed."""
    from nbclient.exceptions import CellExecutionError

    failed = 0
    for path in paths:
        try:
            print(f"{path.name}: {work(path):.1f} s", flush=True)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: FAILED\n{error}", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
