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
from importlib import import_module
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


PACKAGES = ("reference", "accelerated", "accelerated.integrations.diffusers", "accelerated.models", "accelerated.data")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_api(site: Path, package: str) -> None:
    names = set(import_module(f"noisestep.{package}").__all__)
    anchors = set[str]().union(*(page_of(path).anchors for path in (site / "api").glob("*.html")))
    assert {name for name in names if f"noisestep.{package}.{name}" not in anchors} == set()


@pytest.mark.parametrize(("page", "columns"), [("equation-table", (1, 2, 3, 4)), ("chapter", (1, 2))])
def test_every_name_of_a_table_is_a_link(site: Path, page: str, columns: tuple[int, ...]) -> None:
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td.*?</td>", row, flags=re.DOTALL) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    cells = [cell for row in rows if row for cell in row[columns[0] : columns[-1] + 1]]
    names = [name for cell in cells for name in re.findall(r"<code.*?</code>", cell, flags=re.DOTALL)]
    unlinked = [re.sub(r"<a .*?</a>", "", cell, flags=re.DOTALL) for cell in cells]
    assert len(names) > 20
    assert [cell for cell in unlinked if "<code" in cell] == []


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


# what every page repeats is looked at once: the sidebar, the colours of code, rows of a table; formulas are KaTeX's
SHORTEN = """first => {
    document.querySelectorAll('details').forEach(details => details.open = true)
    document.querySelectorAll('.katex, tbody tr:nth-child(n + 6)').forEach(part => part.remove())
    if (!first) document.querySelectorAll('aside, footer').forEach(part => part.remove())
    const seen = new Set()
    document.querySelectorAll('.highlight span').forEach(span =>
        seen.has(span.className) ? span.replaceWith(...span.childNodes) : seen.add(span.className))
}"""
# without preload it does not ask for style sheets, which a page opened from a file may not
AXE = {"runOnly": ["wcag2a", "wcag2aa"], "preload": False, "resultTypes": ["violations"]}
TEXT = """() => {
    const body = document.querySelector('article').cloneNode(true)
    body.querySelectorAll('pre, code, .katex, script').forEach(part => part.remove())
    return body.textContent
}"""


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
    # the pages of source files differ in their code alone: some of them stand for all
    sources = {path for path in pages(site) if path.is_relative_to(site / "source")}
    chosen = {path for path in sources if path.parent == site / "source" / "reference"}
    for number, here in enumerate(sorted(set(pages(site)) - sources | chosen)):
        tab.goto(here.as_uri())
        if too_wide := tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"):
            note(f"{too_wide} pixels wider than the window")
        if left := re.search(UNRENDERED, tab.evaluate(TEXT)):
            note(f"unrendered: {left[0]}")
        tab.evaluate(SHORTEN, number == 0)
        for violation in axe.run(tab, options=AXE).response["violations"]:
            nodes = [node["html"][:150] for node in violation["nodes"]]
            note(f"{violation['id']}: {violation['help']}: {len(nodes)}, such as {nodes[:2]}")
    context.close()
    assert not wrong, "\n".join(wrong)
