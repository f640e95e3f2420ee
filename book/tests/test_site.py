"""The site as it lies on the disk: links lead somewhere, nothing is loaded from elsewhere, all is there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT, Page

LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
OUTSIDE = re.compile(r"^(https?:)?//")


def test_every_internal_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            if re.match(r"^(\w+:|//)", link):
                continue
            target, _, place = link.partition("#")
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            where = f"{path.relative_to(site)} -> {link}"
            if not there.is_relative_to(site.resolve()) or not there.is_file():
                missing.append(where)
            elif place and there.suffix == ".html" and there in pages:
                if unquote(place) not in pages[there].anchors and "live" not in there.parts:
                    missing.append(where)
    assert not missing, f"{len(missing)} links lead nowhere: {missing[:20]}"
    assert sum(len(page.links) for page in pages.values()) > 5_000


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert not [link for link in page.loads if OUTSIDE.match(link)], page.path
    for style in site.rglob("*.css"):
        for url in re.findall(r"(?:url\(|@import )[\"' ]*([^\"')]+)", style.read_text(encoding="utf-8")):
            assert not OUTSIDE.match(url), f"{style.name}: {url}"


def test_it_is_small(site: Path) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size <= 40_000_000, f"{size:,} bytes"


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_there_with_all_that_it_printed_and_drew(
    lesson: Path, site: Path, pages: dict[Path, Page]
) -> None:
    page = pages[site / "lessons" / f"{lesson.stem}.html"]
    text = squeezed("".join(page.text))
    pictures = 0
    for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for line in "".join(output.get("text", [])).splitlines():
                assert squeezed(line) in text, line
            if "image/png" in output.get("data", {}):
                pictures += 1
                alt = output["metadata"]["image/png"]["alt"]
                assert squeezed(alt) in map(squeezed, page.images.values()), alt
        if cell["cell_type"] == "code":
            first = "".join(cell["source"]).splitlines()[0]
            assert squeezed(first) in text, first
    assert len(page.images) == pictures
    assert all(page.images.values()), "a picture without words"


def test_the_gallery_has_every_figure(site: Path, pages: dict[Path, Page]) -> None:
    gallery = pages[site / "gallery.html"]
    shown = {Path(source).stem for source in gallery.images}
    assert shown == {path.stem for path in (ROOT / "figures").glob("[0-9][0-9]_*.png")}


def test_what_is_proved_has_every_wrong_line(site: Path, pages: dict[Path, Page]) -> None:
    table = json.loads((ROOT / "tests" / "faults" / "kill_table.json").read_text(encoding="utf-8"))
    text = squeezed("".join(pages[site / "proved.html"].text))
    for fault in table["faults"]:
        assert squeezed(fault["words"]).replace("`", "") in text.replace("`", ""), fault["name"]
    count = len(table["faults"])
    assert f"{count} of {count} are noticed" in text


def test_the_api_has_every_module(site: Path) -> None:
    for path in (ROOT / "qwen3_ref").rglob("*.py"):
        inside = path.relative_to(ROOT).with_suffix("")
        inside = inside.parent if inside.name == "__init__" else inside
        assert inside.name == "__main__" or (site / "api" / inside / "index.html").exists(), inside


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_commit_gives_the_same_bytes(site: Path, tmp_path: Path) -> None:
    """A second build, elsewhere, in another time zone and with another hash seed."""
    other = os.environ | {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    again = tmp_path / "elsewhere" / "again"
    again.parent.mkdir()
    subprocess.run([sys.executable, str(ROOT / "book" / "build.py"), str(again)], env=other, check=True)
    first, second = digest(site), digest(again)
    differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    assert not differ, differ[:20]
