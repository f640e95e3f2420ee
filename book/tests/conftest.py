"""What the tests of the site share: where it lies, its pages, and Chromium if there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("QWEN3_BOOK", ROOT / "build" / "book"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What a page refers to: links, what it loads, its anchors, its pictures."""

    LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"),
             ("audio", "src"), ("embed", "src"), ("object", "data"), ("use", "href")}  # fmt: skip

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.images: dict[str, str] = {}
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := given.get(key)))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.images[given["src"]] = given.get("alt") or ""
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loads.append(given["href"])
        self.loads += [given[key] for kind, key in self.LOADS if kind == tag and given.get(key)]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.fail(f"{SITE} holds no book; run `make book`.")
    return SITE


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the book, parsed."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("not checked: no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Watched:
    """A tab, and all that a reader should not meet: errors in the console, requests that leave."""

    def __init__(self, tab: Any, home: str) -> None:
        self.tab, self.bad = tab, []  # type: ignore[var-annotated]
        self.home = home
        tab.on("console", lambda m: self.bad.append(f"console: {m.text}") if m.type == "error" else None)
        tab.on("pageerror", lambda e: self.bad.append(f"error: {e}"))
        tab.on("requestfailed", lambda r: self.bad.append(f"failed: {r.url}"))
        tab.on("request", self.seen)

    def seen(self, request: Any) -> None:
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.bad.append(f"request: {request.url}")


@pytest.fixture
def tab(browser: Any, site: Path) -> Iterator[Watched]:
    """A tab that reads the book from the file system."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Watched(context.new_page(), site.as_uri())
    context.close()
