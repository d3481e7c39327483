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

import numpy as np
import pytest
from noisestep import reference

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
# what the whole page is looked at for, and what the texts that MARK chooses are
RULES = {
    "light": {"runOnly": ["wcag2a", "wcag2aa"], "rules": {"color-contrast": {"enabled": False}}},
    "dark": {"runOnly": ["scrollable-region-focusable"]},
}
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}
# texts that stand in other elements and classes than any before: the others have the colours of one of these
MARK = """known => {
    const seen = new Set(known), found = []
    for (const part of document.body.querySelectorAll('*')) {
        if (![...part.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.data.trim())) continue
        let path = ''
        for (let at = part; at !== document.body; at = at.parentElement)
            path += `${at.tagName} ${at.getAttribute('class')} ${at.getAttribute('style')} in `
        if (seen.has(path)) continue
        seen.add(path)
        found.push(path)
        part.dataset.marked = ''
    }
    return found
}"""
# without preload it does not ask for style sheets, which a page opened from a file may not
START_AXE = """([whole, marked]) => {
    const run = async (part, rules) =>
        (await axe.run(part, {...rules, preload: false, resultTypes: ['violations']})).violations
    const texts = document.querySelectorAll('[data-marked]')
    window.found = (async () =>
        [...await run(document, whole), ...texts.length ? await run(texts, marked) : []])()
}"""
# the theme lets its column of text scroll by itself in a narrow window
TOO_WIDE = """() => Math.max(...[...document.querySelectorAll('html, .content')].map(
    part => part.scrollWidth - part.clientWidth))"""
TEXT = """() => {
    const body = document.querySelector('article').cloneNode(true)
    body.querySelectorAll('pre, code, .katex, script').forEach(part => part.remove())
    return body.textContent
}"""


def test_every_page_is_whole_in_a_browser(site: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    wrong = []
    context = browser.new_context()
    context.set_default_timeout(120_000)
    # each has a process of its own, and all look at their pages at the same time
    tabs = [context.new_page() for _ in range(2)]
    at: dict[Any, Path] = {}
    known = set[str]()

    def note(tab: Any, what: str) -> None:
        wrong.append(f"{at[tab].relative_to(site)}: {what}")

    for tab in tabs:
        tab.on("console", lambda message, tab=tab: message.type == "error" and note(tab, f"console: {message.text}"))
        tab.on("pageerror", lambda error, tab=tab: note(tab, f"script: {error}"))
        tab.on("requestfailed", lambda request, tab=tab: note(tab, f"not loaded: {request.url}"))
    # the pages of source files differ in their code alone: one stands for all
    sources = {path for path in pages(site) if path.is_relative_to(site / "source")}
    chosen = [site / "source" / "reference" / "forward.py.html", *sorted(set(pages(site)) - sources)]
    for start in range(0, len(chosen), len(tabs)):
        at = dict(zip(tabs, chosen[start:], strict=False))
        for tab, path in at.items():
            tab.goto(path.as_uri())
            if left := re.search(UNRENDERED, tab.evaluate(TEXT)):
                note(tab, f"unrendered: {left[0]}")
            for width in WIDTHS.values():
                tab.set_viewport_size({"width": width, "height": 900})
                if too_wide := tab.evaluate(TOO_WIDE):
                    note(tab, f"{too_wide} pixels wider than a window of {width}")
            tab.evaluate(axe.axe_script)
            tab.evaluate(SHORTEN, start == 0)
            known |= set(tab.evaluate(MARK, list(known)))
        for scheme, width in WIDTHS.items():
            for tab in at:
                tab.set_viewport_size({"width": width, "height": 900})
                tab.emulate_media(color_scheme=scheme)
                tab.evaluate(START_AXE, [RULES[scheme], COLOURS])
            for tab in at:
                for violation in tab.evaluate("window.found"):
                    nodes = [node["html"][:150] for node in violation["nodes"]]
                    note(tab, f"{scheme}: {violation['id']}: {violation['help']}: {len(nodes)}, such as {nodes[:2]}")
    context.close()
    assert not wrong, "\n".join(wrong)


def test_a_slider_chooses_a_frame(site: Path, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": WIDTHS["dark"], "height": 900})
    tab.goto((site / "touch" / "noise_comes.html").as_uri())
    strip = tab.locator(".frames").first
    assert tab.get_by_role("slider").count() == tab.locator(".frames").count() == 2
    slider = tab.get_by_role("slider", name="t", exact=True)
    slider.focus()
    for frame, label in enumerate(["t = 1", "t = 20", "t = 50"]):
        assert tab.locator("output").first.text_content() == slider.get_attribute("aria-valuetext") == label
        assert strip.locator("img.only-light").get_attribute("alt").startswith(f"{label}, of: A digit")
        # the whole of the frame and nothing else is in the window of the strip
        left, shown, whole = strip.evaluate("strip => [strip.scrollLeft, strip.clientWidth, strip.scrollWidth]")
        assert (left, whole) == (frame * shown, 12 * shown)
        slider.press("ArrowRight")
    tab.close()


def test_without_scripts_the_frames_are_a_strip_and_the_numbers_a_table(site: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((site / "touch" / "noise_comes.html").as_uri())
    assert tab.get_by_role("slider").count() == 0
    assert tab.locator(".frames img.only-light").first.is_visible()
    tab.goto((site / "touch" / "an_address.html").as_uri())
    assert tab.locator("#numbers tbody td").all_text_contents() == numbers(0, 0, 0, 0)
    context.close()


def numbers(seed: int, stream: int, step: int, sample: int) -> list[str]:
    """What the table of an address says."""
    words = reference.words(seed, stream, step, sample, 8)[0]
    normals = reference.normal(seed, stream, step, sample, (8,))[0]
    cells = zip(words, normals.view(np.uint32), normals, strict=True)
    return [text for e, (w, b, z) in enumerate(cells) for text in (f"{e}", f"{w:08x}", f"{b:08x}", f"{z:#.9g}")]


def test_the_numbers_of_an_address_are_those_of_the_reference(site: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto((site / "touch" / "an_address.html").as_uri())
    cells, message = tab.locator("#numbers tbody td"), tab.locator("#address output")
    pictures = [tab.evaluate("document.getElementById('picture').toDataURL()")]
    assert cells.all_text_contents() == numbers(0, 0, 0, 0)
    tab.get_by_role("textbox", name="seed").fill("0xffffffffffffffff")
    tab.get_by_label("stream").select_option("3")
    tab.get_by_role("textbox", name="step").fill(str(2**28 - 1))
    tab.get_by_role("textbox", name="sample").fill(str(2**63 + 7))
    assert cells.all_text_contents() == numbers(2**64 - 1, 3, 2**28 - 1, 2**63 + 7)
    pictures.append(tab.evaluate("document.getElementById('picture').toDataURL()"))
    assert pictures[0] != pictures[1]
    for wrong in ("", "-1", "1.5", str(2**28)):
        tab.get_by_role("textbox", name="step").fill(wrong)
        assert message.text_content() == f'step must be a whole number from 0 to 268435455, got "{wrong}"'
    tab.get_by_role("textbox", name="step").fill("7")
    assert message.text_content() == ""
    assert cells.all_text_contents() == numbers(2**64 - 1, 3, 7, 2**63 + 7)
    tab.close()
