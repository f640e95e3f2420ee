"""The project's own promises: floors, lock, conda, links, notebooks as they are committed."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qwen3_ref.course.plots.style import caption_of
from tests.house import MARKED, PACKAGE, floors, imports, table
from tests.teaching import table as lesson_table

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").split())
COMMANDS = [
    path.relative_to(PACKAGE).as_posix()
    for path in sorted(PACKAGE.glob("measure/*.py"))
    if re.search(r"^    sys\.exit\(main\(\)\)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]
# Paths, addresses and timings: what an output must not hold.
MACHINE = re.compile(
    r"/(?:home|root|tmp|Users|var)/|[A-Z]:\\|\bat 0x[0-9a-f]+|\b\d+(?:\.\d+)? ?(?:ms|seconds)\b"
)


def test_imports_go_down() -> None:
    """Each file imports only what the map (tests/house.py) names before it, and the map has every file."""
    floor = floors()
    files = {p.relative_to(PACKAGE).as_posix()[:-3]: p for p in PACKAGE.rglob("*.py")}
    top = {name for name in files if name.endswith("__init__")} | {"__main__"}
    assert set(floor) == set(files) - top
    for name in floor:
        for other in imports(files[name]):
            assert floor[other] < floor[name], f"{name} imports {other}, which is not before it"
    for name in top - {"__init__", "__main__"}:
        assert not imports(files[name]), f"{name} is not empty but for its words"


@pytest.mark.parametrize("file", COMMANDS)
def test_a_file_with_a_command_is_one(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [file, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(PACKAGE / file), run_name="__main__")
    assert f"usage: python -m qwen3_ref.{file[:-3].replace('/', '.')} " in capsys.readouterr().out


def test_no_test_file_imports_another() -> None:
    """What several share lives in helpers, parity, conversations or damage; else order and skips leak."""
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^\s*(?:from|import) tests[. ].*\btest_\w+", text, re.MULTILINE)
        assert not found, f"{path.name}: {found}"


def test_the_readme_has_the_map() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert MARKED.findall(text) == [table()], "run `python -m tests.house`"


def test_the_teachers_know_every_lesson() -> None:
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    assert lesson_table() in text, "run `python -m tests.teaching`"


def test_the_specification_needs_no_torch() -> None:
    """In a fresh interpreter, not in this one, which has long imported torch."""
    import subprocess
    import sys

    code = "import sys, qwen3_ref.numpy_ref; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lock_satisfies_the_ranges() -> None:
    pinned = {canonicalize_name(name): version for name, version in LOCK.items()}
    everything = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    for text in everything:
        need = Requirement(text)
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), text
    assert pinned["torch"] == "2.13.0"


def test_conda_installs_the_same_project() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert f"python{PROJECT['requires-python']}" in plain and set(plain) == {"python>=3.11", "pip"}
    assert pip == ["--requirement requirements.lock", "--editable ."]
    assert conda["name"] == PROJECT["name"]


@pytest.mark.parametrize("path", [ROOT / "README.md", *NOTEBOOKS], ids=lambda p: p.name)
def test_links_resolve(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for image, target in re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text):
        remote = re.match(r"https?://", target)
        assert not (remote and image), f"{path.name} shows a remote image: {target}"
        if not remote and not target.startswith("#"):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_gates(path: Path) -> None:
    """What nbval does not look at: order, kernel, stderr, errors, alt text, size, timings, paths."""
    data, cells = json.loads(path.read_text(encoding="utf-8")), code_cells(path)
    assert path.stat().st_size <= 300_000, f"{path.stat().st_size:,} bytes"
    assert data["metadata"]["kernelspec"]["name"] == "python3"
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    for number, cell in enumerate(cells, 1):
        where, source = f"{path.name}, cell [{number}]", "".join(cell["source"])
        assert source.strip(), f"{where} is empty"
        assert len(source.splitlines()) <= 30, f"{where} has more than 30 lines"
        for output in cell["outputs"]:
            assert output["output_type"] != "error", f"{where} ends in {output.get('ename')}"
            assert output.get("name") != "stderr", f"{where} writes to stderr: {output['text']}"
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", "")
                assert len(alt) > 20, f"{where} shows a picture without words: use save_figure"
                name = "".join(output["data"]["text/plain"]).split("]")[0].removeprefix("[")
                below = ["".join(o.get("data", {}).get("text/markdown", "")) for o in cell["outputs"]]
                remedy = "run `python tests/execute_notebooks.py --captions`"
                assert caption_of(name, alt) in below, f"{where} has another caption under {name}: {remedy}"
            text = "".join(output.get("text", [])) + "".join(output.get("data", {}).get("text/plain", []))
            if "nbval-ignore-output" not in cell["metadata"].get("tags", []):
                bad = MACHINE.search(text)
                assert not bad, f"{where} prints {bad[0]!r}, which depends on the machine or the moment"


# The contract of a lesson: how its first cell begins, and its sections in order.
OPENING = ("# ", "**The promise.** ", "**You will be able to**", "**You need** ", "**Time** ")
SECTIONS = ["Why", "In NumPy", "In PyTorch", "Check", "See it", "Break it", "Exercises", "Sources"]
# Text has no tensors: there the two ways to build it have other names.
RENAMED = {
    "01_tokenizer": {"In NumPy": "In Python", "In PyTorch": "In Rust"},
    "11_hybrid_thinking": {"In NumPy": "By hand", "In PyTorch": "With a model"},
}
LESSONS = [p for p in NOTEBOOKS if re.match(r"(?!00)\d\d_", p.name) and p.parent.name == "notebooks"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_the_contract(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    paragraphs = iter(texts[0].splitlines())
    for start in OPENING:
        assert any(line.startswith(start) for line in paragraphs), f"the first cell lacks {start!r}, in order"
    headings = [line[3:] for text in texts for line in text.splitlines() if line.startswith("## ")]
    names = {name: RENAMED.get(path.stem, {}).get(name, name) for name in SECTIONS}
    assert headings == list(names.values())
    code: dict[str, list[str]] = {}
    section = ""
    for cell in cells:
        source = "".join(cell["source"])
        heading = re.search(r"^## (.+)", source, re.MULTILINE)
        if cell["cell_type"] == "code":
            code.setdefault(section, []).append(source)
        elif heading:
            section = heading[1]
    assert any("comparison_table(" in source for source in code["Check"])
    assert any("save_figure(" in source for source in code["See it"])
    assert code[names["In NumPy"]] and code[names["In PyTorch"]] and code["Break it"]
    lines = sorted(len(source.splitlines()) for sources in code.values() for source in sources)
    assert lines[len(lines) // 2] <= 10 and lines[-1] <= 25, f"cells of {lines} lines"
    words = sum(len(text.split()) for text in texts)
    assert words / sum(lines) >= 4, f"{words} words for {sum(lines)} lines: the prose carries the thread"


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_exercises_are_blank_and_solved(path: Path) -> None:
    """As committed: each check in the lesson says "not written yet", the same one in the solutions "ok"."""
    verdicts = []
    for where in (path, path.parent / "solutions" / path.name):
        found = {}
        for cell in code_cells(where):
            for name in re.findall(r"^checks\.(\w+)\(", "".join(cell["source"]), re.MULTILINE):
                found[name] = "".join(cell["outputs"][-1]["data"]["text/plain"])
        verdicts.append(found)
    assert 3 <= len(verdicts[0]) <= 5 and list(verdicts[0]) == list(verdicts[1])
    assert set(verdicts[0].values()) == {"not written yet"} and set(verdicts[1].values()) == {"ok"}


def test_captions_are_of_figures_in_the_order_of_the_lessons() -> None:
    """A caption says what to see; it is another text than the one for those who cannot see."""
    shown = []
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            shown += re.findall(r"""save_figure\(\s*["'](\w+)["']""", "".join(cell["source"]))
    captions = tomllib.loads((ROOT / "figures" / "captions.toml").read_text(encoding="utf-8"))
    assert list(captions) == shown, "write a caption for each figure, in the order of the lessons"
    for name, caption in captions.items():
        alt = json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))["alt"]
        assert 40 <= len(caption) <= 220 and caption.endswith((".", "?")) and caption != alt, name


def test_every_figure_has_its_numbers() -> None:
    figures = ROOT / "figures"
    pictures = {path.stem for path in figures.glob("*.png")}
    assert pictures == {path.stem for path in figures.glob("*.json")}
    drawn = set()
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            drawn |= set(re.findall(r"""save_figure\(\s*["'](\w+)["']""", "".join(cell["source"])))
    drawn_elsewhere = {"speed"}  # by `python -m benchmarks all`, on a quiet machine
    assert pictures - drawn_elsewhere == drawn, "figures/ holds what the notebooks draw, no more and no less"
