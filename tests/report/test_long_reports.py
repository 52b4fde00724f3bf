"""The page of a long run stays one file that can be mailed, and says what it leaves out."""

from __future__ import annotations

import base64
import io
import time

import pytest
from PIL import Image

from audit.report import html
from audit.report.embedding import Embedder
from audit.report.html import _Extent
from tests.report import large, runs
from tests.report.page import Element, parse, rendered

MOST = 3_000_000  # bytes
PATIENCE = 120.0  # seconds of this process, which a run of hours can spare


@pytest.mark.slow
def test_a_report_of_twenty_concepts_by_ten_defences_by_six_scenarios_stays_small() -> None:
    run = large.large()
    start = time.process_time()
    text = html.render(run, large.noisy)
    assert time.process_time() - start < PATIENCE
    assert len(text.encode()) < MOST
    page = parse(text)
    glance = page.named("glance")
    assert len(glance.all("figure", "strip")) == len(large.CONCEPTS)
    assert len(glance.all("img")) == len(large.CONCEPTS) * (3 + len(large.DEFENCES))
    cells = [cell for cell in glance.all("td") if cell.words() != "not planned"]
    assert len(cells) == 20 * 11 * 6, "the matrix is whole"
    ids = {element.attributes["id"] for element in page.everything() if "id" in element.attributes}
    links = [link.attributes["href"] for link in page.all("a")]
    assert len(links) > 100 and {link.removeprefix("#") for link in links} <= ids
    assert "The first 30 of 2400 rows." in page.named("reasons").words(), "and what is left out is said"
    assert "plots are left out of this long report" in page.words()
    assert len(page.named("pictures").all("img")) == 360


def shortened(monkeypatch: pytest.MonkeyPatch) -> Element:
    """The page of a short run that may have two rows of a table and no plot."""
    monkeypatch.setattr(html, "EXTENTS", (_Extent(), _Extent(2, 0)))
    monkeypatch.setattr(html, "MOST_TEXT", 1_000)
    return rendered(runs.failing())


def test_a_page_that_would_be_too_long_shows_the_first_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, page = rendered(runs.failing()), shortened(monkeypatch)
    assert "The first 2 of 8 rows. report.json and report.md of this run have all of them." in page.named("crr").words()
    assert "1 plot is left out of this long report. The tables have the numbers." in page.words()
    assert all(len(table.all("tr")) <= 3 for table in page.all("table")[1:])
    assert page.named("glance").all("table")[0].words() == whole.named("glance").all("table")[0].words()
    assert not page.all("figure", "plot") and whole.all("figure", "plot")


def test_a_cell_of_a_row_that_is_left_out_has_no_link_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = shortened(monkeypatch)
    ids = {element.attributes["id"] for element in page.everything() if "id" in element.attributes}
    links = {link.attributes["href"].removeprefix("#") for link in page.named("glance").all("a")}
    assert links and links <= ids
    assert len(links) < 4, "of four cells"


def test_a_short_run_has_everything() -> None:
    words = rendered(runs.failing()).words()
    assert "rows. report.json" not in words and "left out of this long report" not in words


@pytest.mark.parametrize(("count", "edge"), [(4, 192), (100, 128), (2000, 96)])
def test_many_pictures_share_the_room_and_few_are_larger(count: int, edge: int) -> None:
    embed = Embedder.sharing(large.noisy, count, 450_000, (192, 128, 96))
    uri, placeholder = embed(runs.failing().samples[0], hide=False)
    assert uri is not None and placeholder is None
    data = base64.b64decode(uri.partition(",")[2])
    assert embed.most is not None and len(data) <= embed.most
    assert embed.edge == edge
    with Image.open(io.BytesIO(data)) as image:
        assert 48 <= max(image.size) <= edge


def test_a_blurred_picture_is_small_whatever_the_room() -> None:
    uri, _ = Embedder.sharing(large.noisy, 5_000, 1)(runs.failing().samples[0], hide=True)
    assert uri is not None and len(uri) < 4_000
