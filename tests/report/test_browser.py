"""The report in a real browser: nothing is cut off on a wide or a narrow screen, nothing is fetched, it can be printed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.report import write_reports
from tests.report import runs
from tests.report.browser import Tab, tab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
RUNS = {"failing": runs.failing, "inconclusive": runs.inconclusive, "hostile": runs.hostile, "wrecked": runs.wrecked}
# The elements that reach over the right edge and cannot be scrolled to: what to look at when the page is too wide.
OVER = """
[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + '.' + e.className).slice(0, 8).join(' ')
"""
# The lines of text above the first picture, as they are broken at this width.
LINES = """
(() => {
    const first = document.images[0].getBoundingClientRect().top, bottoms = new Set(), range = document.createRange();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text; text = texts.nextNode();) {
        range.selectNodeContents(text);
        for (const line of range.getClientRects()) if (line.bottom <= first) bottoms.add(Math.round(line.bottom / 4));
    }
    return bottoms.size;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with tab(CHROMIUM, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module", params=RUNS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return write_reports(RUNS[request.param](), runs.picture, folder)["html"]


@pytest.mark.parametrize("width", [1280, 390])
def test_no_part_of_the_page_is_wider_than_the_screen(report: Path, width: int, page: Tab) -> None:
    page.open(report, width)
    assert page.value("innerWidth") == width
    assert page.value("document.body.innerText.length") > 500
    assert page.value("document.documentElement.scrollWidth") <= width, page.value(OVER)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["failing", "waived"])
def test_pictures_stand_on_the_first_screens(name: str, width: int, page: Tab, tmp_path: Path) -> None:
    page.open(write_reports(getattr(runs, name)(), runs.picture, tmp_path)["html"], width)
    assert 5 <= page.value(LINES) <= 30
    assert page.value("document.images[0].closest('figure').className") == "strip"
    assert page.value("document.images[0].getBoundingClientRect().top") < 900, "one screen"
    tops = "new Set([...document.querySelectorAll('.strip li .frame')].map(f => Math.round(f.getBoundingClientRect().top)))"
    assert page.value(f"{tops}.size") == (1 if width == 1280 else 2), "the pictures of a row are level"


def test_the_page_fetches_nothing(report: Path, page: Tab) -> None:
    """Its pictures are in it. The browser's own requests for the file itself show that requests are noticed."""
    page.open(report, 1280)
    assert report.as_uri() in page.requests
    assert [url for url in page.requests if url != report.as_uri() and not url.startswith("data:")] == []
    assert page.value("[...document.images].every(image => image.src.startsWith('data:'))")


def test_the_page_can_be_printed(report: Path, page: Tab) -> None:
    page.open(report, 1280)
    printed = page.pdf()
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 1
    assert len(printed) > 10_000


def test_a_page_that_is_too_wide_and_fetches_is_noticed(page: Tab, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text("<div style='width: 600px'>x</div><img src='http://127.0.0.1:9/picture.png'>")
    page.open(wide, 390)
    assert page.value("document.documentElement.scrollWidth") > 390
    assert "http://127.0.0.1:9/picture.png" in page.requests
