"""The site of docs/: it builds without a warning, every link leads somewhere, and every page is whole in a browser.

It is built once, into a temporary folder; the lessons run while it is built. A warning stops the build.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

pytest.importorskip("sphinx", reason="the site is built by Sphinx: pip install '.[docs]'")

ROOT = Path(__file__).parents[1]
WIDTHS = {"light": 1280, "dark": 390}
# what is no source and no text: formulas, code
UNRENDERED = r"\$[^$]+\$|\\(?:frac|sqrt|bar|mathbb|mathcal|left|epsilon|alpha|beta)\b|\{(?:source|image|math)\}"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; SITE names one that is built already."""
    if "SITE" in os.environ:
        return Path(os.environ["SITE"]).resolve()
    folder = tmp_path_factory.mktemp("site") / "html"
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "2", str(ROOT / "docs"), str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page has that others can lead to, and what it leads to and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.loaded = set[str](), set[str](), set[str]()
        self.pictures: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.anchors |= {value for key, value in attrs if key in ("id", "name") and value}
        if tag == "a" and told.get("href"):
            self.links.add(str(told["href"]))
        if tag in ("img", "script", "source", "iframe", "video") and told.get("src"):
            self.loaded.add(str(told["src"]))
        if tag == "link" and told.get("href"):
            self.loaded.add(str(told["href"]))
        if tag == "img":
            self.pictures.append(told)


page_of = cache(Page)


def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 30
    return found


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    dead = []
    for path in pages(site):
        for link in page_of(path).links:
            if urlsplit(link).scheme in ("https", "http", "mailto"):
                continue
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(target)).resolve() if target else path
            if not file.is_file() or (
                anchor and file.suffix == ".html" and unquote(anchor) not in page_of(file).anchors
            ):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in pages(site):
        for loaded in page_of(path).loaded:
            assert not urlsplit(loaded).netloc, f"{path.relative_to(site)}: {loaded}"
            assert (path.parent / unquote(urlsplit(loaded).path)).exists(), f"{path.relative_to(site)}: {loaded}"
    for sheet in site.rglob("*.css"):
        for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8")):
            assert address.startswith("data:") or (sheet.parent / urlsplit(address).path).exists(), (
                f"{sheet}: {address}"
            )


def test_every_picture_says_what_it_shows(site: Path) -> None:
    for path in pages(site):
        for picture in page_of(path).pictures:
            assert len(picture.get("alt") or "") > 15, f"{path.relative_to(site)}: {picture}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install '.[dev]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("pages are looked at in Chromium, and it is not installed")
    with sync_api.sync_playwright() as playwright:
        # root, as in a container, has no sandbox
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", WIDTHS)
def test_every_page_is_whole_in_a_browser(site: Path, browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    wrong = []
    context = browser.new_context(viewport={"width": WIDTHS[scheme], "height": 900}, color_scheme=scheme)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    here = Path()

    def note(what: str) -> None:
        wrong.append(f"{here.relative_to(site)}: {what}")

    tab.on("console", lambda message: message.type == "error" and note(f"console: {message.text}"))
    tab.on("pageerror", lambda error: note(f"script: {error}"))
    tab.on("requestfailed", lambda request: note(f"not loaded: {request.url}"))
    for here in pages(site):
        tab.goto(here.as_uri())
        if too_wide := tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"):
            note(f"{too_wide} pixels wider than the window")
        if tab.locator(".katex-error").count():
            note("a formula that KaTeX refused")
        # source pages are code from end to end, and look like each other
        if here.is_relative_to(site / "source") and here.parent != site / "source" / "reference":
            continue
        text = tab.evaluate(
            "() => { const body = document.querySelector('article').cloneNode(true);"
            " body.querySelectorAll('pre, code, .katex, .highlight, script').forEach(part => part.remove());"
            " return body.textContent }"
        )
        if left := re.search(UNRENDERED, text):
            note(f"unrendered: {left[0]}")
        tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        for violation in axe.run(tab, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]:
            nodes = [node["html"][:150] for node in violation["nodes"]]
            note(f"{violation['id']}: {violation['help']}: {len(nodes)}, such as {nodes[:2]}")
    context.close()
    assert wrong == []
