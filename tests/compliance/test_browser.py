"""The page in a real browser: nothing is cut off on a wide or a narrow screen, nothing is fetched, no name is executed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Tab, tab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with tab(CHROMIUM, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["written", "hostile_files"])
def test_the_page_fits_and_fetches_nothing(name: str, width: int, page: Tab, request: pytest.FixtureRequest) -> None:
    file: Path = request.getfixturevalue(name)["html"]
    page.open(file, width)
    assert page.value("innerWidth") == width and page.value("document.body.innerText.length") > 5000
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.requests == [file.as_uri()]
    assert page.value("document.scripts.length + document.images.length + document.querySelectorAll('svg').length") == 0
    assert page.value("document.querySelectorAll('section > table').length") == 0  # each can be scrolled by itself
    assert page.pdf().startswith(b"%PDF")
