"""The page in a real browser: it renders, asks for nothing, says nothing on the console, and fits a screen and a sheet.

The browser is Chromium or one of its kin, on the path or in $BSCHECK_BROWSER.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from headless import NAMES, Page, browsing, find_browser
from report_samples import result, whole, write
from test_report_page import hostile

pytest.importorskip("jinja2", reason="needs jinja2: pip install 'bscheck[report]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bscheck[report]'")

from bscheck.results.record import read_record
from bscheck.results.report.build import build
from bscheck.results.report.page import as_html

BROWSER = find_browser()
pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason=f"needs a browser: $BSCHECK_BROWSER, or one of {', '.join(NAMES)} on the path"
    ),
    pytest.mark.skipif(sys.platform == "win32", reason="the browser is spoken to through inherited descriptors"),
]

#: Elements that stick out of the page to the right, unless they lie in something that scrolls.
STICKING_OUT = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 200))"""
#: Pictures that the browser could not read.
ELEMENTS = "document.querySelectorAll('*').length"
BLANK = "[...document.images].filter(i => !i.complete || i.naturalWidth < 100).map(i => i.alt)"
LINKS_TO_NOWHERE = """[...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href').slice(1))
  .filter(id => !document.getElementById(id))"""
DOUBLE_IDS = (
    "(ids => ids.filter((id, i) => ids.indexOf(id) !== i))([...document.querySelectorAll('[id]')].map(e => e.id))"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the pages of an ordinary record and of a hostile one."""
    place = tmp_path_factory.mktemp("pages")
    document = json.loads(write(place / "whole.json", *whole()).read_text())
    (place / "hostile.json").write_text(json.dumps(hostile(document)))
    write(place / "empty.json", interrupted=True, selection={}, known_issues=[])
    many = [result(f"check_{i}_keeps_its_promise_on_all_of_these", share=i / 90) for i in range(89)]
    write(place / "many.json", *many)
    for record in place.glob("*.json"):
        text = as_html(build([("run.json", read_record(record))]))
        record.with_suffix(".html").write_text(text, encoding="utf-8")
    return place


def show(browser: Page, folder: Path, name: str, width: int = 1200) -> Page:
    browser.resize(width)
    browser.open((folder / f"{name}.html").as_uri())
    return browser


@pytest.mark.parametrize("name", ["whole", "hostile", "empty", "many"])
def test_page_asks_for_nothing_and_complains_of_nothing(browser: Page, folder: Path, name: str) -> None:
    page = show(browser, folder, name)
    assert page.requests() == [(folder / f"{name}.html").as_uri()]
    assert page.complaints() == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.compatMode") == "CSS1Compat"
    assert page.evaluate(LINKS_TO_NOWHERE) == []
    assert page.evaluate(DOUBLE_IDS) == []


def test_pictures_and_heads_are_there(browser: Page, folder: Path) -> None:
    page = show(browser, folder, "whole")
    assert page.evaluate("document.images.length") == 7
    assert page.evaluate(BLANK) == []
    assert page.evaluate("document.querySelector('h1').innerText") == "✗Broken: 2 results of 2 checks"
    assert page.evaluate("document.title").startswith("bscheck: Broken: 2 results of 2 checks (keras 3.15.1")
    heads = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)")
    assert [re.sub(r"\s.*", "", head) for head in heads][:4] == ["Verdicts", "What", "How", "Time"]


def test_bars_are_as_long_as_their_shares(browser: Page, folder: Path) -> None:
    page = show(browser, folder, "many")
    bars = """[...document.querySelectorAll('.check svg')].map(svg => {
      const paths = [...svg.querySelectorAll('path')].map(p => p.getBoundingClientRect());
      const box = svg.getBoundingClientRect(), bound = paths.at(-1);
      return paths.length < 5 ? 0 : (paths.at(-2).right - box.left) / (bound.left + bound.width / 2 - box.left)})"""
    shares = page.evaluate(bars)
    assert len(shares) == 89
    assert shares[0] == pytest.approx(88 / 90, abs=0.02)
    assert shares[44] == pytest.approx(44 / 90, abs=0.02)


def test_nothing_of_a_record_becomes_part_of_the_page(browser: Page, folder: Path) -> None:
    counts = [show(browser, folder, name).evaluate(ELEMENTS) for name in ("whole", "hostile")]
    assert counts[0] == counts[1]
    assert browser.evaluate(BLANK) == []
    assert "<script>alert(1)</script>" in browser.evaluate("document.body.innerText")


@pytest.mark.parametrize("width", [1200, 768, 360])
@pytest.mark.parametrize("name", ["whole", "hostile", "empty", "many"])
def test_page_fits_a_screen(browser: Page, folder: Path, name: str, width: int) -> None:
    page = show(browser, folder, name, width)
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_row_opens_to_its_members(browser: Page, folder: Path) -> None:
    page = show(browser, folder, "whole")
    seen = "document.querySelector('.check:nth-of-type(2) .members').checkVisibility()"
    assert page.evaluate(seen) is False
    page.evaluate("document.querySelector('.check:nth-of-type(2) summary').click()")
    assert page.evaluate(seen) is True


@pytest.mark.parametrize("name", ["whole", "hostile", "empty", "many"])
def test_page_fits_a_sheet_of_paper(browser: Page, folder: Path, name: str) -> None:
    page = show(browser, folder, name, 720)  # A4 less its margins, in CSS pixels
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.evaluate(STICKING_OUT) == []
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert page.evaluate(cut) == 0
        sheets = page.pdf().count(b"/Type /Page\n")
        assert 1 <= sheets <= 30
    finally:
        page.call("Emulation.setEmulatedMedia", media="")


def test_text_is_dark_enough_without_colour(browser: Page, folder: Path) -> None:
    """Every text has a contrast of 4.5 to 1 on its ground, as WCAG 2.1 asks."""
    page = show(browser, folder, "whole")
    weak = """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 &&
      n.data.trim())).filter(e => {
        const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = getComputedStyle(e).color.match(/\\d+/g).map(Number).map(channel);
        return 1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) < 4.5 }).map(e => e.outerHTML.slice(0, 120))"""
    assert page.evaluate(weak) == []
