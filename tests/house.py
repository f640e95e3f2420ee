"""The map of the package: one list, from which the test of imports and the README's table are made.

`python -m tests.house` writes the table into the README, from the first sentence of each docstring.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from qwen3_ref.store.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qwen3_ref"
ROOMS = {
    "store": "errors files progress hub fingerprint shipped checkpoint quantized gguf",
    "": "arrays facts rope mrope context/chunks config memory cluster numpy_ref moe cache context/dual_chunk "
    "context/specification fast/products fast/blocks fast/choose model context/stretch tokenizer chat calls "
    "reply",
    "decode": "sampling speculative budget profile generation tools dialogue",
    "quantize": "rounding calibrated model kv_cache",
    "official": "snapshots verify variants ledger",
    "tasks": "calculator numbers problems documents make_numbers",
    "parallel": "processes layers plan traffic warm",
    "train": "errors names lock state loop parallel seeds corpus queries rollout recipes/pretrain "
    "recipes/balance recipes/sft recipes/grpo recipes/general_rl recipes/distill run stages export",
    "measure": "names work statistics study accuracy table spread experts rows card balance_study qk_norm "
    "order sight messages quantization long_context modes pruned packing new_skill rewards arms decisions",
    "engines": "targets source gguf folder llama export catalog environments peer worker questions verdict "
    "survey report graph budgets client runners/stepping runners/texts runners/*",
    "course": "compare subject ports students ranks checks/judge checks/* plots/style plots/*",
    "commands": "common slash * line",
}
"""From the ground up, in reading order: "" is the core, the others are rooms. A file imports only from
those before it; `*` are files that know nothing of each other. A room/file among the core's stands where
the core needs it: every model with that config does."""


def floors() -> dict[str, tuple[int, int]]:
    """(room, place in it) of every file, by its path without ".py"; files of one place are strangers."""
    found: dict[str, tuple[int, int]] = {}
    for number, (room, names) in enumerate(ROOMS.items()):
        for place, name in enumerate(names.split()):
            if "*" not in name:
                found[f"{room}/{name}".strip("/")] = number, place
    for number, (room, names) in enumerate(ROOMS.items()):
        for place, name in enumerate(names.split()):
            if "*" in name:
                for path in sorted((PACKAGE / room).glob(f"{name}.py")):
                    if path.stem != "__init__":
                        found.setdefault(path.relative_to(PACKAGE).as_posix()[:-3], (number, place))
    return found


def imports(path: Path) -> set[str]:
    """Files of the package that a file imports, anywhere in it, by their paths without ".py"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            inner = rest.replace(".", "/")
            if package == "qwen3_ref" and (PACKAGE / f"{inner}.py").is_file():
                found.add(inner)
    return found


def says(path: Path) -> str:
    """The first sentence of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=[.:])\s|\n\n", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return first.rstrip(".:")


def table() -> str:
    """The README's table: the core file by file, and a line for each room."""
    lines = ["| where | what lives there |", "|---|---|"]
    for name in filter(lambda name: "/" not in name, ROOMS[""].split()):
        lines.append(f"| [{name}.py](qwen3_ref/{name}.py) | {says(PACKAGE / f'{name}.py')} |")
    within = {name.partition("/")[0]: None for name in ROOMS[""].split() if "/" in name}
    for room in [*filter(None, ROOMS), *within]:
        lines.append(f"| [{room}/](qwen3_ref/{room}) | {says(PACKAGE / room / '__init__.py')} |")
    return "\n".join(lines)


MARKED = re.compile(r"(?<=<!-- made by `python -m tests.house` -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write the table into the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_atomically(readme, MARKED.sub(lambda _: table(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
