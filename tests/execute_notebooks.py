"""Execute every notebook in a clean kernel and write it back, byte-stable: `make notebooks`.

Running it twice leaves no difference: cells get ids and counts in order, outputs are those of this
run, and whatever depends on the machine or the moment is left out.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Metadata that says nothing about the content, the same in every notebook."""
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


def main(names: list[str]) -> int:
    """Execute the named notebooks, or all; 1 if any failed."""
    os.environ["QWEN3_FIGURES"] = "write"
    notebooks = [Path(name) for name in names] or sorted((ROOT / "notebooks").rglob("*.ipynb"))
    failed = 0
    for path in notebooks:
        try:
            print(f"{path.name}: {execute(path):.1f} s")
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: FAILED\n{error}", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
