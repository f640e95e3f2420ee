"""The live pages in headless Chromium: from disk, from a server and unbuilt; mouse, keyboard, bad input, axe.

Needs Chromium and the package playwright, which `make test-book` brings; without them nothing here is
checked, and pytest says so.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_node import LIVE

BUILD = importlib.util.spec_from_file_location("live_build", LIVE / "build.py")
assert BUILD and BUILD.loader
live_build = importlib.util.module_from_spec(BUILD)
BUILD.loader.exec_module(live_build)

try:
    from playwright.sync_api import Browser, Page, sync_playwright
except ImportError:
    WHY = "not checked: playwright is not installed (make test-book brings it)"
    pytest.skip(WHY, allow_module_level=True)

ROOT = LIVE.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
PAGES = sorted(path.stem for path in LIVE.glob("*.html"))
ALIVE = [name for name in PAGES if name != "index"]
WIDTHS = (360, 800, 1400)
MOST = 6_000_000  # bytes that a page may load
CARRIER = importlib.util.find_spec("axe_playwright_python")
PLACES = CARRIER.submodule_search_locations if CARRIER and CARRIER.submodule_search_locations else []
AXE = next((path for place in PLACES for path in Path(place).rglob("axe.min.js")), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("not checked: there is no Chromium on this machine")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("live")
    live_build.build(out, lessons="../lessons/")
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that says nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The repository on a static server, for the pages as they are written."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/book/live"
    server.shutdown()


class Visit:
    """A page that has been opened, and all that it asked for and complained of."""

    def __init__(self, browser: Browser, address: str, width: int = 800, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def ready(self, state: str = "yes") -> Page:
        """The page when it has its model and has drawn itself."""
        self.page.wait_for_selector(f"body[data-ready={state}]", timeout=60_000)
        return self.page

    def close(self, home: str) -> None:
        """Nothing was complained of, and nothing asked for that does not lie in `home`."""
        assert not self.complaints, self.complaints
        outside = [url for url in self.requests if not url.startswith((home, "data:", "blob:"))]
        assert not outside, outside
        self.context.close()


def open_built(browser: Browser, built: Path, name: str, **options: Any) -> Visit:
    return Visit(browser, (built / f"{name}.html").as_uri(), **options)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_from_disk(browser: Browser, built: Path, name: str, width: int) -> None:
    """No complaint, no request outside the folder, nothing wider than the screen, in light and dark."""
    for scheme in ("light", "dark"):
        visit = open_built(browser, built, name, width=width, color_scheme=scheme)
        page = visit.ready() if name in ALIVE else visit.page
        assert page.locator("#trouble:visible").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "wider than the screen"
        if shots := os.environ.get("SHOTS"):
            Path(shots).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{shots}/{name}-{width}-{scheme}.png", full_page=True)
        visit.close(built.as_uri())


@pytest.mark.parametrize("name", PAGES)
def test_every_page_runs_unbuilt_from_a_server(browser: Browser, served: str, name: str) -> None:
    visit = Visit(browser, f"{served}/{name}.html")
    if name in ALIVE:
        visit.ready()
    visit.close(served.rsplit("/", 2)[0])


def test_sizes(built: Path, tmp_path: Path) -> None:
    """A page loads at most 6 MB, and a second build is the same to the byte."""
    sizes = live_build.build(tmp_path, lessons="../lessons/")
    assert set(sizes) == {f"{name}.html" for name in PAGES}
    assert all(size <= MOST for size in sizes.values()), sizes
    for path in built.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(built)).read_bytes(), path.name


def test_links_lead_somewhere(built: Path) -> None:
    for name in PAGES:
        for source, folder in ((LIVE / f"{name}.html", LIVE), (built / f"{name}.html", built)):
            for target in re.findall(r'(?:href|src)="(?!data:)([^"#]+)"', source.read_text(encoding="utf-8")):
                path = folder / target
                if target.startswith("../lessons/"):
                    path = (ROOT / "notebooks" / path.name).with_suffix(".ipynb")
                assert path.exists(), f"{source.name}: {target}"


@pytest.mark.parametrize("name", ALIVE)
def test_without_javascript_the_figure_stands_there(browser: Browser, built: Path, name: str) -> None:
    visit = open_built(browser, built, name, java_script_enabled=False)
    picture = visit.page.locator("#app img")
    assert picture.is_visible() and picture.evaluate("one => one.naturalWidth") > 100
    assert len(picture.get_attribute("alt") or "") > 30
    visit.context.close()


@pytest.mark.parametrize("name", ALIVE)
def test_axe_finds_nothing_serious(browser: Browser, built: Path, name: str) -> None:
    if AXE is None:
        pytest.skip("not checked: axe is not installed (make test-book brings it)")
    for scheme in ("light", "dark"):
        visit = open_built(browser, built, name, color_scheme=scheme)
        page = visit.ready()
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then(all => all.violations)")
        serious = [
            (one["id"], one["help"], [node["html"][:120] for node in one["nodes"][:3]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, serious
        visit.context.close()


# -- the pages at work -----------------------------------------------------------------------------------


@functools.cache
def goldens() -> list[dict[str, Any]]:
    """What PyTorch says, from the Python that has it."""
    other = ROOT / ".venv" / "bin" / "python"
    command = [str(other if other.exists() else sys.executable), str(LIVE / "tests" / "goldens.py")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if "No module named 'torch'" in done.stderr:
        pytest.skip("not checked: there is no PyTorch to compare with")
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def shown_ids(page: Page) -> list[int]:
    """The ids of the reply on the budget page, without those struck out."""
    titles = page.locator(".tokens .token:not(.lost)").evaluate_all("all => all.map(one => one.title)")
    return [int(match[1]) for title in titles if (match := re.match(r"id (\d+)", title))]


def test_the_budget_page_says_what_pytorch_says(browser: Browser, built: Path) -> None:
    """Ids of 55 whole replies and of as many cut at 7 and at 0 tokens, by the slider and the keyboard."""
    wanted = goldens()
    visit = open_built(browser, built, "budget")
    page = visit.ready()
    dial = page.get_by_label("Budget", exact=True)
    assert len(wanted) >= 50
    for row in wanted:
        page.get_by_label("The problem").fill(row["question"])
        page.locator("#think").click()
        page.wait_for_selector(".verdict:not(:empty)")
        for reply in row["replies"]:
            if reply["budget"] is not None:
                dial.fill(str(min(reply["budget"], int(dial.get_attribute("max") or 0))))
            assert shown_ids(page) == reply["ids"], row["question"]
            assert (page.locator("#answer").text_content() or "") in (reply["answer"], "nothing")
    dial.focus()
    page.keyboard.press("End")
    full = page.locator(".token.lost").count()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert full == 0 and page.locator(".token.lost").count() == 2
    assert page.locator(".token.forced").count() == 3
    visit.close(built.as_uri())


def test_sixty_problems_draw_their_curve(browser: Browser, built: Path) -> None:
    """From the keyboard; more budget, more right answers; at least 100 tokens a second in the browser."""
    visit = open_built(browser, built, "budget")
    page = visit.ready()
    devtools = visit.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        """Seconds of processor time, so that a busy machine makes no difference."""
        metrics = {m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]}
        return float(metrics["ProcessTime"])

    before = spent()
    page.locator("#run").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#run[data-tokens]", timeout=500_000)
    rate = int(page.locator("#run").get_attribute("data-tokens") or 0) / (spent() - before)
    cells = page.locator("table tr").nth(1).locator("td").all_text_contents()
    right = [int(cell) for cell in cells]
    assert len(right) == 7 and right[0] < 20 < 40 < right[-1]
    assert page.locator("svg.chart circle").count() == 7
    print(f"budget page: {rate:.0f} tokens a second of processor time in Chromium, reading included")
    assert rate >= 100
    visit.close(built.as_uri())


def test_friendly_sentences_on_the_page(browser: Browser, built: Path, served: str, tmp_path: Path) -> None:
    """A missing checkpoint, one cut off, a script cut off, half a character, letters never seen, no text."""
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    data = copy / "data" / "qwen3-nano.js"
    whole = data.read_text(encoding="utf-8")
    begin = whole.index("] = {") + 4
    cut = json.loads(whole[begin:-2])
    cut["weights"] = cut["weights"][:400_000]
    short = whole[:begin] + json.dumps(cut) + ";\n"
    bad = {None: "could not be read", whole[:1_000_000]: "is not whole", short: "is not whole"}
    for text, words in bad.items():
        data.unlink(missing_ok=True)
        if text is not None:
            data.write_text(text, encoding="utf-8")
        visit = open_built(browser, copy, "budget")
        page = visit.ready("trouble")
        assert words in (page.locator("#trouble").text_content() or "")
        assert page.locator("#app img").is_visible()
        visit.context.close()

    def cut_short(route: Any) -> None:
        path = LIVE.parent.parent / "qwen3_ref/data/nano/qwen3-nano/model.safetensors"
        route.fulfill(body=path.read_bytes()[:100_000])

    context = browser.new_context()
    page = context.new_page()
    page.route("**/model.safetensors", cut_short)
    page.goto(f"{served}/budget.html")
    page.wait_for_selector("body[data-ready=trouble]")
    assert "is not whole: it ends after 100,000 bytes" in (page.locator("#trouble").text_content() or "")
    context.close()

    visit = open_built(browser, built, "budget")
    page = visit.ready()
    box = page.get_by_label("The problem")
    box.evaluate("one => { one.value = '12+\\ud800'; }")
    page.locator("#think").click()
    page.wait_for_selector("#trouble:visible")
    assert "half of a character" in (page.locator("#trouble").text_content() or "")
    box.fill("  ")
    page.locator("#think").click()
    assert "There is no problem yet" in (page.locator("#trouble").text_content() or "")
    box.fill("12+34 mod 100 " * 100)
    page.locator("#think").click()
    assert "make it shorter" in (page.locator("#trouble").text_content() or "")
    box.fill("ᚠᚢᚦ mod 100")
    page.locator("#think").click()
    page.wait_for_selector("#trouble", state="hidden")
    assert "byte by byte" in (page.locator(".note").first.text_content() or "")
    visit.close(built.as_uri())


def test_the_source_opened_from_disk_says_what_to_do(browser: Browser) -> None:
    """There, a browser runs no modules: the words and the figure stay."""
    visit = Visit(browser, (LIVE / "budget.html").as_uri())
    assert visit.page.locator("#app img").is_visible()
    assert "needs JavaScript" in (visit.page.locator(".still").text_content() or "")
    visit.context.close()


def test_the_controls_of_every_other_page(browser: Browser, built: Path) -> None:
    """Sliders, buttons and arrow keys change what is shown, and what is shown is right."""

    def text(page: Page, place: str) -> str:
        return page.locator(place).first.text_content() or ""

    visit = open_built(browser, built, "sampling")
    page = visit.ready()
    assert "1,280 of 1,280 tokens may come" in text(page, "#summary")
    page.get_by_label("top-k").fill("5")
    assert text(page, "#summary").startswith("5 of 1,280")
    page.get_by_label("Temperature").focus()
    page.keyboard.press("Home")
    assert "greedy" in text(page, "output >> nth=0") and text(page, "#summary").startswith("1 of 1,280")
    said = page.locator(".token.answer")
    page.get_by_role("button", name="As the model says").click()
    drawn = []
    for _ in range(2):  # the same seed, the same text
        page.get_by_role("button", name="Start again").click()
        page.get_by_role("button", name="Draw twenty").click()
        page.wait_for_selector(".token.answer")
        drawn.append(said.all_text_contents())
    assert drawn[0] == drawn[1] and drawn[0]
    page.get_by_role("button", name="Take one back").click()
    assert said.all_text_contents() == drawn[0][:-1]
    page.get_by_label("The model is given").select_option("text")
    page.get_by_label("Its text").fill("")
    page.wait_for_selector("#trouble:visible")
    page.get_by_label("Its text").fill("Return the")
    page.wait_for_selector("#trouble", state="hidden")
    visit.close(built.as_uri())

    visit = open_built(browser, built, "attention")
    page = visit.ready()
    first = text(page, "#said")
    page.locator(".pick button[tabindex='0']").focus()
    page.keyboard.press("ArrowLeft")
    assert text(page, "#said") != first
    page.keyboard.press("Home")
    assert "No other token" in text(page, "#said"), "the first token sees itself alone"
    assert page.locator(".heads li").count() == 16
    visit.close(built.as_uri())

    visit = open_built(browser, built, "routing")
    page = visit.ready()
    page.get_by_label("The text that it reads").fill("12+34=46")
    assert page.locator(".route").count() == 8 and page.locator(".route").first.locator("i").count() == 8
    page.locator(".route").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "Token 2" in text(page, "#detail")
    expert = text(page, ".route >> nth=1 >> i >> nth=0")
    page.get_by_label("Mark where").select_option(f"0:{expert}")
    assert page.locator(".route.here").count() >= 1
    visit.close(built.as_uri())

    visit = open_built(browser, built, "rope")
    page = visit.ready()
    before = page.locator(".hand.now").evaluate_all("all => all.map(one => one.getAttribute('transform'))")
    page.get_by_label("Position of the token").fill("3000")
    after = page.locator(".hand.now").evaluate_all("all => all.map(one => one.getAttribute('transform'))")
    assert len(after) == 32 and before != after
    page.get_by_label("Method").select_option("plain")
    assert "32 of 32 pairs" in text(page, "p.note:has(.tone1)")
    page.get_by_label("Length of the list").select_option("512")
    page.locator("#ask").click()
    page.wait_for_selector("tbody td", timeout=200_000)
    assert re.search(r"\d+ of 18 values found, as trained, in a list of 512 tokens", text(page, "#result"))
    visit.close(built.as_uri())

    visit = open_built(browser, built, "memory")
    page = visit.ready()
    assert text(page, "#need").startswith("21.4 GB: weights 16.4 GB, KV cache 4.8 GB")
    page.get_by_label("Tokens in each text").focus()
    page.keyboard.press("End")
    assert text(page, "#need").startswith("55.2 GB")
    page.get_by_label("Model", exact=True).select_option("Qwen3-235B-A22B")
    assert text(page, "tbody tr >> nth=0 >> td >> nth=1") == "does not fit"
    visit.close(built.as_uri())

    visit = open_built(browser, built, "sizes")
    page = visit.ready()
    page.locator(".step").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert "queries" in text(page, ".panel h2") and "11 × 4 × 64" in text(page, "#shape")
    page.get_by_label("Shapes of").select_option("Qwen3-8B")
    assert "11 × 32 × 128" in text(page, "#shape") and "4,096 × 4,096" in text(page, "#shape")
    page.keyboard.press("Tab")
    visit.close(built.as_uri())

    visit = open_built(browser, built, "tokenizer")
    page = visit.ready()
    assert text(page, "#summary").startswith("6 tokens for 43 bytes")
    page.get_by_label("Size of the vocabulary", exact=True).focus()
    page.keyboard.press("Home")
    assert text(page, "#summary").startswith("43 tokens for 43 bytes")
    page.keyboard.press("End")
    page.locator(".pick button").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".pick button[aria-pressed=true]").text_content() == "·is"
    visit.close(built.as_uri())
