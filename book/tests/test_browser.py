"""The site in Chromium, from the file system and from a server: quiet, searchable, usable by all."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Watched

READ = [
    "index", "gallery", "proved", "teaching", "leaderboard", "about", "solutions", "search", "api",
    "api/qwen3_ref/index", "api/qwen3_ref/model/index", "source/tests/test_fast_py",
    *(f"lessons/{path.stem}" for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))),
    *(f"solutions/{path.stem}" for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))),
]  # fmt: skip


def typeset(tab: Any) -> None:
    """Wait until formulas are set, if the page has any."""
    tab.wait_for_function("() => !window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    tab.evaluate("() => window.MathJax ? MathJax.startup.promise.then(() => null) : null")


@pytest.mark.parametrize("name", READ)
def test_a_page_is_quiet_and_whole(name: str, tab: Watched, site: Path) -> None:
    """No error, no request that leaves, formulas set, and no wider than a phone."""
    page = tab.tab
    page.goto((site / f"{name}.html").as_uri())
    typeset(page)
    assert page.locator("mjx-merror, .problematic").count() == 0
    raw = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container").count() >= raw
    page.set_viewport_size({"width": 360, "height": 780})
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 361, f"{wide} pixels wide on a phone of 360"
    assert not tab.bad, tab.bad


@pytest.mark.parametrize(("words", "page"), [("YaRN", ""), ("quantisation", "19_"), ("roofline", "20_")])
def test_search_works_from_the_file_system(words: str, page: str, tab: Watched, site: Path) -> None:
    tab.tab.goto((site / "index.html").as_uri())
    box = tab.tab.locator("input[name=q]").first
    box.fill(words)
    box.press("Enter")
    tab.tab.wait_for_selector("ul.search li a")
    found = tab.tab.locator("ul.search li a").evaluate_all("links => links.map(a => a.href)")
    assert f"/lessons/{page}" in found[0], "lessons come before modules and files"
    tab.tab.goto(found[0])
    assert tab.tab.title() and not tab.bad, tab.bad


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of a static server."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Silent, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def test_a_static_server_will_do(served: str, browser: Any) -> None:
    context = browser.new_context()
    tab = Watched(context.new_page(), served)
    for name in ("index", "lessons/03_rope", "gallery", "search"):
        tab.tab.goto(f"{served}{name}.html" + ("?q=attention" if name == "search" else ""))
        typeset(tab.tab)
    tab.tab.wait_for_selector("ul.search li a")
    context.close()
    assert not tab.bad, tab.bad


AXE = ["index", "lessons/00_tour", "lessons/03_rope", "gallery", "proved", "teaching", "search",
       "api/qwen3_ref/model/index"]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", AXE)
def test_axe_has_no_serious_finding(name: str, scheme: str, browser: Any, site: Path) -> None:
    import axe_playwright_python

    (script,) = Path(axe_playwright_python.__file__).parent.glob("axe.min.js")
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto((site / f"{name}.html").as_uri())
    typeset(page)
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    context.close()
    serious = {
        f["id"]: [node["html"][:150] for node in f["nodes"][:4]]
        for f in found
        if f["impact"] in ("serious", "critical")
    }
    assert not serious, json.dumps(serious, indent=1)
