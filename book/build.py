"""Build the book: `python book/build.py build/book`, or `make book`, which brings the environment.

The pages are made from what is committed: notebooks with their outputs, figures with their captions, the
kill table, the ledger, the package's docstrings. Nothing is executed and nothing is fetched; MathJax comes
from an installed package. The same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
PARTS = {
    "Start": range(0, 1),
    "I. The model": range(1, 9),
    "II. Text": range(9, 13),
    "III. Training": range(13, 19),
    "IV. Bits, speed and beyond": range(19, 100),
}
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^)\s]+)\)")
LONGEST = 60_000  # bytes of a file that is shown whole


class Pages:
    """The book's sources, as Sphinx will read them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: set[str] = set()
        """Files and folders of the repository that some page links to."""

    def write(self, name: str, text: str) -> None:
        """One page, made or replaced."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def address(self, target: str) -> str:
        """The page of a file or folder of the repository, as a path among the sources."""
        path = PurePosixPath(target)
        if path.suffix == ".ipynb" and path.parts[0] == "notebooks":
            return f"solutions/{path.name}" if path.parent.name == "solutions" else f"lessons/{path.name}"
        known = {"README.md": "about.md", "TEACHING.md": "teaching.md", "benchmarks/leaderboard.md":
                 "leaderboard.md", "notebooks/solutions": "solutions.md",
                 "notebooks": "index.md"}  # fmt: skip
        if target in known and (target != "TEACHING.md" or (ROOT / target).exists()):
            return known[target]
        if path.parts[0] == "figures" and path.suffix == ".png":
            return target
        if (ROOT / target / "__init__.py").exists() and path.parts[0] == "qwen3_ref":
            return f"api/{target}/index.rst"  # as autoapi writes it
        self.shown.add(target)
        return source_page(target)

    def link(self, text: str, origin: str, page: str) -> str:
        """Markdown with its relative links made to fit: `origin` is the folder in the repository for which
        they were written, `page` the page that they stand on now."""

        def moved(found: re.Match[str]) -> str:
            words, target = found[1], found[2]
            if re.match(r"\w+:|#", target):
                return found[0]
            path, hash_, place = target.partition("#")
            real = os.path.normpath(ROOT / origin / path)
            if not os.path.exists(real):
                raise SystemExit(f"error: {page} links to {target}, and there is no such file.")
            inside = PurePosixPath(os.path.relpath(real, ROOT)).as_posix()
            there = os.path.relpath(self.address(inside), PurePosixPath(page).parent)
            return f"{words}({there}{hash_}{place})"

        return LINK.sub(moved, text)


def source_page(name: str) -> str:
    """The page that shows a file or folder."""
    return f"source/{name.replace('.', '_')}.md"


def number(path: Path) -> int:
    """Of a lesson."""
    return int(path.name[:2])


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, sources and texts in one piece."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def title_of(path: Path) -> str:
    """The first heading of a notebook."""
    found = re.search(r"^# (.+)", cells_of(path)[0]["source"], re.MULTILINE)
    return found[1] if found else path.stem


def lessons() -> list[Path]:
    """Every lesson, in reading order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def figures_of(path: Path) -> list[tuple[str, str, str]]:
    """(name, caption as Markdown, words for those who cannot see it) of each figure that a lesson shows."""
    found = []
    for cell in cells_of(path):
        for name, caption, alt, _ in shown_figures(cell):
            found.append((name, caption, alt))
    return found


def shown_figures(cell: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    """(name, caption, alt, place of the picture among the outputs); the caption is the output after it."""
    found = []
    outputs = cell.get("outputs", [])
    for i, output in enumerate(outputs):
        if "image/png" in output.get("data", {}):
            text = "".join(output["data"]["text/plain"])
            name = re.match(r"\[(\w+)\]", text)
            caption = "".join(outputs[i + 1].get("data", {}).get("text/markdown", ""))
            if name is None or not caption:
                raise SystemExit(f"error: a picture without name or caption: {text[:60]}")
            found.append((name[1], caption, output["metadata"]["image/png"]["alt"], i))
    return found


def anchor(name: str) -> str:
    """Where a figure stands on its page."""
    return f"figure-{name.replace('_', '-')}"


def figure(name: str, caption: str, alt: str, page: str) -> str:
    """A figure with its caption, as MyST has it."""
    there = os.path.relpath(f"figures/{name}.png", PurePosixPath(page).parent)
    alt = " ".join(alt.split())
    return f"```{{figure}} {there}\n:alt: {alt}\n:name: {anchor(name)}\n\n{caption}\n```\n"


def lesson_page(pages: Pages, path: Path, page: str) -> None:
    """A notebook with links and figures made to fit; a cell that shows figures is cut behind each."""
    origin = path.parent.relative_to(ROOT).as_posix()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = []
    for cell in cells_of(path):
        if cell["cell_type"] == "markdown":
            cells.append(markdown(pages.link(cell["source"], origin, page)))
            continue
        start = 0
        for name, caption, alt, place in shown_figures(cell):
            cells.append(cell | {"outputs": cell["outputs"][start:place]})
            cells.append(markdown(figure(name, caption, alt, page)))
            start = place + 2
            cell = cell | {"source": "...", "metadata": {"tags": ["remove-input"]}}  # an empty one is dropped
        rest = cell["outputs"][start:]
        if rest or not start:
            cells.append(cell | {"outputs": rest})
    cells.append(markdown(foot(path, page)))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i:03d}"
    pages.write(page, json.dumps(notebook | {"cells": cells}, ensure_ascii=False))


def markdown(text: str) -> dict[str, Any]:
    """A cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": text}


LIVE = BOOK / "live"


def live_pages() -> list[dict[str, str]]:
    """The live pages: file, title and the lesson that each belongs to; none if there are none."""
    found = []
    for path in sorted(LIVE.glob("*.html")):
        text = path.read_text(encoding="utf-8")
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
        lesson = re.search(r"notebooks/(\w+)\.ipynb", text)
        if path.name != "index.html" and title:
            words = " ".join(html.unescape(title[1]).split()).removesuffix(", alive")
            found.append({"file": path.name, "title": words, "lesson": lesson[1] if lesson else ""})
    return found


def live_link(page: dict[str, str], up: str) -> str:
    """An HTML link to a live page: Sphinx does not know them."""
    return f'<a href="{up}live/{page["file"]}">{html.escape(page["title"])}</a>'


def foot(path: Path, page: str) -> str:
    """What stands below a lesson."""
    up = os.path.relpath(".", PurePosixPath(page).parent)
    lines = []
    if path.parent.name == "solutions":
        lines.append(f"Back to the lesson: [{title_of(path.parent.parent / path.name)}]"
                     f"({up}/lessons/{path.name}).")  # fmt: skip
    else:
        for live in live_pages():
            if live.get("lesson") == path.stem:
                lines.append(f"Alive, to play with: {live_link(live, f'{up}/')}.")
        solutions = path.parent / "solutions" / path.name
        if solutions.exists():
            lines.append(f"[Solutions]({up}/solutions/{path.name}) of the exercises.")
        lines.append("To run this page, open "
                     f"`notebooks/{path.name}` in the repository with `make lab`.")  # fmt: skip
    return "---\n\n" + "\n\n".join(lines)


def index_page(pages: Pages) -> None:
    """The front page, from index.md, with the lists of pages: what a lesson shows is said by the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shows = dict(re.findall(r"^\| \[[^\]]+\]\(notebooks/(\w+)\.ipynb\) \| (.+) \|$", readme, re.MULTILINE))
    trees, contents = [], []
    for part, numbers in PARTS.items():
        found = [path for path in lessons() if number(path) in numbers]
        if not found:
            continue
        trees.append(toctree([f"lessons/{path.stem}" for path in found], part))
        contents += [f"### {part}", ""]
        for path in found:
            words = pages.link(shows.get(path.stem, ""), ".", "index.md")
            contents.append(f"- **[{title_of(path)}](lessons/{path.name})**{f': {words}.' if words else ''}")
        contents.append("")
    more = ["gallery", "proved", *(["ledger"] if ledger_file().exists() else []), "teaching", "leaderboard"]
    more = [name for name in more if (pages.folder / f"{name}.md").exists()]
    trees.append(toctree(more, "Beside the lessons"))
    trees.append(toctree(["about", "solutions", "api", "source"], "The project"))
    text = (BOOK / "index.md").read_text(encoding="utf-8")
    alive = "\n".join(f"- {live_link(live, '')}" for live in live_pages())
    values = {"live": f"## Pages that are alive\n\n{alive}\n" if alive else "",
              "contents": "\n".join(contents), "trees": "\n".join(trees)}  # fmt: skip
    for key, value in values.items():
        text = text.replace(f"{{{{ {key} }}}}", value)
    pages.write("index.md", text)


def toctree(names: list[str], caption: str = "", hidden: bool = True) -> str:
    """A list of pages for the side bar."""
    lines = ["```{toctree}", *([f":caption: {caption}"] if caption else []), ":maxdepth: 1"]
    return "\n".join([*lines, *([":hidden:"] if hidden else []), "", *names, "```", ""])


def gallery_page(pages: Pages) -> None:
    """Every figure of the course, lesson by lesson."""
    lines = ["# The gallery", "", "Every figure of the course; each was drawn by a cell of its lesson from "
             "live data, and the numbers behind it lie beside it as JSON.", ""]  # fmt: skip
    for path in lessons():
        found = figures_of(path)
        if not found:
            continue
        lines += [f"## [{title_of(path)}](lessons/{path.name})", "", "::::{container} gallery", ""]
        for name, caption, alt in found:
            data = json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))
            there = f"lessons/{path.stem}.html#{anchor(name)}"
            lines += [f":::{{figure}} figures/{name}.png", f":alt: {' '.join(alt.split())}"]
            lines += [f":target: {there}", "", f"{caption} *Data: {plain(data['made_from'])}.*", ":::", ""]
        lines += ["::::", ""]
    pages.write("gallery.md", "\n".join(lines))


def plain(text: str) -> str:
    """A text in which Markdown finds nothing."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|$~^-])", r"\\\1", " ".join(str(text).split()))


def proved_page(pages: Pages) -> None:
    """What was compared with what, and which wrong lines the tests notice."""
    table = json.loads((ROOT / "tests" / "faults" / "kill_table.json").read_text(encoding="utf-8"))
    faults = table["faults"]
    caught = sum(fault["caught_by"] is not None for fault in faults)
    parts = []
    modules = list(dict.fromkeys(fault["module"] for fault in faults))
    for module in modules:
        parts += [f"### `{module}`", "", "| wrong line | noticed by |", "|---|---|"]
        for fault in faults:
            if fault["module"] == module:
                by = f"`{fault['caught_by']}`" if fault["caught_by"] else "**nothing**"
                parts.append(f"| {plain(fault['words'])} | {by} |")
        parts.append("")
    checks, compared = [], 0
    for path in lessons():
        lines = check_lines(path)
        if lines:
            compared += sum(line.endswith("  ok") for text in lines for line in text.splitlines())
            checks += [f"### [{title_of(path)}](lessons/{path.name})", ""]
            checks += [f"```text\n{text.rstrip()}\n```\n" for text in lines]
    text = pages.link((BOOK / "proved.md").read_text(encoding="utf-8"), "book", "proved.md")
    values = {
        "faults": f"{len(faults):,}", "caught": f"{caught:,}", "compared": f"{compared:,}",
        "checks": "\n".join(checks), "kill_table": "\n".join(parts),
        "equivalent": "\n".join(f"- `{row['name']}`: {plain(row['why'])}" for row in table["equivalent"]),
    }  # fmt: skip
    for key, value in values.items():
        text = text.replace(f"{{{{ {key} }}}}", value)
    pages.write("proved.md", text)


def check_lines(path: Path) -> list[str]:
    """The tables of comparisons that a lesson prints."""
    found = []
    for cell in cells_of(path):
        if cell["cell_type"] == "code" and "comparison_table(" in cell["source"]:
            for output in cell["outputs"]:
                text = "".join(output.get("text", []))
                if re.search(r"^\d+ of \d+ agree$", text, re.MULTILINE):
                    found.append(text)
    return found


def ledger_file() -> Path:
    """Where the ledger of claims lies, once there is one."""
    return ROOT / "qwen3_ref" / "data" / "ledger.json"


def ledger_page(pages: Pages) -> None:
    """Claims about Qwen3, what is so, and where it says so."""
    if not ledger_file().exists():
        return
    ledger = json.loads(ledger_file().read_text(encoding="utf-8"))
    sources, claims = ledger["sources"], ledger["claims"]
    groups = list(dict.fromkeys(claim["group"] for claim in claims))
    verdicts = list(dict.fromkeys(claim["verdict"] for claim in claims))
    counts = ", ".join(f"{sum(c['verdict'] == v for c in claims)} {v}" for v in verdicts)
    lines = ["# The ledger", "", f"{len(claims)} claims about Qwen3, {counts}. Claims are in our words.", ""]
    for group in groups:
        lines += [f"## {group.capitalize()}", ""]
        for claim in claims:
            if claim["group"] == group:
                said = [plain(claim["finding"])]
                said.append("*" + "; ".join(plain(sources.get(key, key)) for key in claim["source"]) + ".*")
                lines += [
                    f"({claim['id']})=",
                    f"**{plain(claim['claim'])}** *{claim['verdict'].capitalize()}.*",
                ]
                lines += [" ".join(said), ""]
    pages.write("ledger.md", "\n".join(lines))


def moved_pages(pages: Pages) -> None:
    """Markdown of the repository that is a page of the book as it stands."""
    for file, page in {"README.md": "about.md", "TEACHING.md": "teaching.md",
                       "benchmarks/leaderboard.md": "leaderboard.md"}.items():  # fmt: skip
        if (ROOT / file).exists():
            text = (ROOT / file).read_text(encoding="utf-8")
            text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
            if page == "about.md":
                text = text.replace("# qwen3_ref\n", "# About qwen3_ref\n", 1)
            pages.write(page, pages.link(text, os.path.dirname(file), page))


def solution_pages(pages: Pages) -> None:
    """The solutions, and a page that lists them: in no list of pages, or each would be on every page."""
    lines = ["# Solutions", "", "One way to solve each exercise, with the reason. Try first.", ""]
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")):
        lesson_page(pages, path, f"solutions/{path.name}")
        lines.append(f"- [{title_of(path)}](solutions/{path.name})")
    pages.write("solutions.md", "\n".join(lines) + "\n")


def api_page(pages: Pages) -> None:
    """Every module of the package with its first sentence."""
    lines = ["# The package, module by module", ""]
    folder = ""
    for path in sorted((ROOT / "qwen3_ref").rglob("*.py"), key=lambda path: (path.parent, path.name)):
        inside = path.relative_to(ROOT).with_suffix("")
        inside = inside.parent if inside.name == "__init__" else inside
        if inside.name == "__main__":
            continue  # autoapi has no page for what begins with an underscore
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.:])\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0].rstrip(":")
        name = ".".join(inside.parts)
        if path.parent.as_posix() != folder:
            folder = path.parent.as_posix()
            lines += ["", f"## {path.parent.relative_to(ROOT).as_posix()}/", ""]
        lines.append(f"- [{name}](api/{inside.as_posix()}/index.rst): {plain(first)}")
    pages.write("api.md", "\n".join(lines) + "\n")


def source_pages(pages: Pages) -> None:
    """Every file and folder that some page links to."""
    names = sorted(pages.shown)
    for name in names:
        page, path = source_page(name), ROOT / name
        head = f"---\norphan: true\n---\n\n# {name}\n\n"
        if path.is_dir():
            inner = (str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())
            lines = [f"- `{file}`" for file in inner if "__pycache__" not in file]
            pages.write(page, head + "In the repository:\n\n" + "\n".join(lines) + "\n")
        elif path.stat().st_size > (LONGEST if path.suffix == ".py" else LONGEST // 4):
            pages.write(page, f"{head}A file of {path.stat().st_size:,} bytes, too long to be shown here.\n")
        else:
            shutil.copy(path, target := pages.folder / "files" / name.replace("/", "__"))
            shown = os.path.relpath(target.relative_to(pages.folder), PurePosixPath(page).parent)
            # Colours make a page three times as large: the package's files have them, the others not.
            kind = "python" if name.startswith("qwen3_ref/") and path.suffix == ".py" else "text"
            pages.write(page, f"{head}```{{literalinclude}} {shown}\n:language: {kind}\n```\n")
    lines = [f"- [{name}]({source_page(name)})" for name in names]
    text = "# Files\n\nWhat the pages of this book link to, as it lies in the repository.\n\n"
    pages.write("source.md", text + "\n".join(lines) + "\n")


def mathjax(static: Path) -> None:
    """MathJax in one file, from the package that brings it."""
    try:
        files = distribution("sphinx-mathjax-offline").files or []
    except PackageNotFoundError:
        raise SystemExit("error: MathJax is not installed here; run `make book`.") from None
    (found,) = (Path(str(file.locate())) for file in files if file.name == "tex-svg-full.js")
    (static / "mathjax").mkdir(parents=True)
    shutil.copy(found, static / "mathjax" / found.name)


def write_pages(folder: Path) -> None:
    """Everything that Sphinx reads."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(BOOK / "static", folder / "static")
    shutil.copytree(ROOT / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.json", "*.toml"))
    shutil.copy(BOOK / "conf.py", folder)
    (folder / "files").mkdir()
    mathjax(folder / "static")
    pages = Pages(folder)
    for path in lessons():
        lesson_page(pages, path, f"lessons/{path.name}")
    solution_pages(pages)
    gallery_page(pages)
    proved_page(pages)
    ledger_page(pages)
    moved_pages(pages)
    api_page(pages)
    index_page(pages)
    source_pages(pages)


READABLE = {
    "<head>": '<head><link rel="icon" href="data:,">',  # or a browser asks the server for one
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    "<pre>": '<pre tabindex="0">',  # what scrolls has to be reached by keyboard
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    "<pre style=": '<pre tabindex="0" style=',
    "color: #777777": "color: #6e6e6e",  # of outputs; on white it is a little too pale to read
}
"""What the theme and the outputs lack for readers who use a keyboard or a screen reader."""


def finish(site: Path) -> None:
    """The last touches to every page."""
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        for old, new in READABLE.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def build(out: Path, jobs: int) -> None:
    """The whole site into `out`, which is replaced when all went well."""
    work = out.parent / f"{out.name}-work"
    write_pages(work / "pages")
    shutil.rmtree(work / "site", ignore_errors=True)
    shutil.rmtree(work / "doctrees", ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-j", str(jobs)]
    command += ["-d", str(work / "doctrees"), str(work / "pages"), str(work / "site")]
    environment = os.environ | {
        "QWEN3_BOOK_ROOT": str(ROOT), "SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit("error: Sphinx found something wrong; see above.")
    for left in (".buildinfo", "objects.inv", ".doctrees", "_sources"):
        path = work / "site" / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    finish(work / "site")
    if (LIVE / "build.py").exists():
        command = [sys.executable, str(LIVE / "build.py"), str(work / "site" / "live")]
        subprocess.run([*command, "--lessons", "../lessons/"], env=environment, check=True)
    shutil.rmtree(out, ignore_errors=True)
    (work / "site").rename(out)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python book/build.py", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "build" / "book")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    asked = parser.parse_args()
    build(asked.out.resolve(), asked.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
