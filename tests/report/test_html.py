"""The page is complete, static and safe, and contains explicit pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from audit.report import html, pictures, write_reports
from audit.report.contact import choose, contact_sheets
from audit.report.plots import plots
from audit.report.view import Index
from audit.report.words import plain
from audit.verdict.results import RunResult, Sample
from tests.report import runs
from tests.report.page import parse, rendered
from tests.report.test_formats import every_run

SAMPLE = runs.failing().samples[0]


@every_run
def test_page_is_well_formed_and_asks_nothing_of_anyone(run: Callable[[], RunResult]) -> None:
    text = html.render(run(), runs.picture)
    elements = parse(text).everything()
    tags = {element.tag for element in elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for element in elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), value
            assert not re.search(r"url\((?!#)", value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    ids = Counter(element.attributes["id"] for element in elements if "id" in element.attributes)
    assert max(ids.values()) == 1, ids.most_common(3)
    targets = {element.attributes["href"] for element in elements if element.attributes.get("href")}
    assert targets <= {f"#{name}" for name in ids}


@every_run
def test_page_says_every_decision_reason_and_check(run: Callable[[], RunResult]) -> None:
    result = run()
    words = rendered(result).words()
    assert result.verdict.status.value in words
    for text in (
        *result.verdict.reasons,
        *(decision.reason for decision in result.verdict.decisions),
        *(check.name for check in result.verdict.checks),
        *(check.detail for check in result.verdict.checks),
        *(row.scenario for row in result.crr),
        *(str(instrument["weights_sha256"]) for instrument in result.instruments),
    ):
        assert plain(text) in words


def test_sections_come_in_the_order_of_their_weight() -> None:
    page = rendered(runs.failing())
    assert [section.attributes["id"] for section in page.all("section")] == [
        "verdict", "glance", "reasons", "survival", "audited", "controls", "crr", "against", "neighbours", "round-trips",
        "pictures", "unassessed", "checks", "reading", "provenance",
    ]  # fmt: skip
    assert "A number from the testbed is a number about the testbed." in page.words()


def test_other_backbones_are_not_called_testbed() -> None:
    run = runs.failing()
    spec = {**runs.SPEC, "backbone": "CompVis/stable-diffusion-v1-4@abc"}
    assert "testbed is" not in rendered(dataclasses.replace(run, spec=spec, provenance={})).words()


def test_page_is_accessible() -> None:
    page = rendered(runs.failing())
    assert {head.attributes["scope"] for head in page.all("th")} == {"col", "row"}
    alternatives = [image.attributes["alt"] for image in page.named("pictures").all("img")]
    assert len(alternatives) > 50 and all(text.startswith("Case ") for text in alternatives)
    # On the strip the title of each picture takes the place of the case, which is the same for all.
    titles = [frame.all("span", "role")[0].words() for frame in page.named("glance").all("li")]
    strip = [image.attributes["alt"] for image in page.named("glance").all("img")]
    assert len(strip) == 4 and all(text.startswith(title) for text, title in zip(strip, titles, strict=True))
    assert len(strip) + len(alternatives) == len(page.all("img"))
    for drawing in page.all("svg"):
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-labelledby"]
    assert len(page.all("table")) == len(page.all("caption"))
    (whole,) = page.all("html")
    assert whole.attributes == {"lang": "en"}


def test_statuses_are_words_and_symbols() -> None:
    words = rendered(runs.failing()).words()
    for status in ("✕ FAIL", "✓ PASS", "✓ holds", "✓ passed"):
        assert status in words
    assert "? INCONCLUSIVE" in rendered(runs.inconclusive()).words()
    assert "✕ does not hold" in rendered(runs.inconclusive()).words()


def test_plot_draws_every_cell_and_the_limit() -> None:
    (plot,) = plots(Index(runs.failing()))
    for drawing in (plot.wide, plot.narrow):
        for text in ("latent-whitebox", "uce-ring", "unlearned cross", "limit 10 %", "un-erased"):
            assert text in drawing
        assert "http" not in drawing
        assert "#0" not in re.sub(r"#crr\S*", "", drawing), "a colour that does not follow the page's scheme"
    assert "nothing assessed" in plots(Index(runs.all_unassessed()))[0].wide
    assert plots(Index(runs.failing())) == plots(Index(runs.failing()))


def test_size_stays_within_a_mail_attachment(tmp_path: Path) -> None:
    path = write_reports(runs.failing(), runs.picture, tmp_path, formats=("html",))["html"]
    assert path.stat().st_size < 1_500_000


def one_sample(**changes: object) -> Sample:
    return dataclasses.replace(SAMPLE, **changes)  # type: ignore[arg-type]


def test_sensitive_pictures_are_blurred_and_their_bytes_never_leave() -> None:
    run = runs.failing(sensitive=True)
    text = html.render(run, runs.picture)
    for sample in run.samples:
        if sample.sensitive:
            assert base64.b64encode(runs.picture(sample)).decode()[40:200] not in text
            assert base64.b64encode(pictures.thumbnail(runs.picture(sample))).decode() not in text
    assert "blurred beyond recovery" in text
    assert "Originals are shown" not in text


def test_originals_are_shown_only_on_request_and_the_page_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = runs.failing(sensitive=True)
    shown = rendered(run, show_sensitive=True)
    assert "Originals are shown." in shown.words()
    assert "unblurred" in caplog.text
    sample = next(sample for sample in run.samples if sample.sensitive)
    assert pictures.thumbnail(runs.picture(sample)) in shown.pictures()


def test_every_picture_of_a_sensitive_concept_is_blurred_whatever_marks_it() -> None:
    run = runs.failing()
    spec = {**runs.SPEC, "concepts": [{"name": "ring", "phrase": "ring", "sensitive": True}]}
    marked_in_spec = dataclasses.replace(run, spec=spec)
    marked_once = dataclasses.replace(run, samples=(one_sample(sensitive=True), *run.samples[1:]))
    for sensitive in (marked_in_spec, marked_once):
        sheets = contact_sheets(sensitive, runs.picture)
        assert all(sheet.blurred for sheet in sheets)
    assert not any(sheet.blurred for sheet in contact_sheets(run, runs.picture))
    nowhere = dataclasses.replace(run, samples=(one_sample(cell_id=999),))
    assert contact_sheets(nowhere, runs.picture)[0].blurred, "nothing is known about this cell"


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", runs.picture(one_sample())[:200], b"\x89PNG\r\n\x1a\n" + b"\0" * 64, None],
    ids=["empty", "text", "truncated", "corrupt", "missing"],
)
def test_blurring_fails_closed(data: bytes | None) -> None:
    run = runs.failing(sensitive=True)
    page = rendered(run, lambda sample: data)
    assert page.pictures() == []
    assert ("missing" if data is None else "withheld") in page.words()


def test_a_reader_that_raises_costs_pictures_not_the_report() -> None:
    def broken(sample: Sample) -> bytes:
        raise OSError("the journal is gone")

    page = rendered(runs.failing(sensitive=True), broken)
    assert page.pictures() == []
    assert "unreadable" in page.words()


def test_a_blur_that_does_not_blur_withholds_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_blur", lambda image: image)
    with pytest.raises(pictures.Withheld):
        pictures.blurred_thumbnail(runs.picture(one_sample()))


def test_a_filter_that_raises_withholds_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: object, image: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFilter.GaussianBlur, "filter", explode)
    with pytest.raises(pictures.Withheld):
        pictures.blurred_thumbnail(runs.picture(one_sample()))


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (800, 200), (1, 1), (3, 500)])
def test_blurring_leaves_nothing_to_recover(size: tuple[int, int]) -> None:
    """Two pictures that differ only in detail finer than the mosaic become the same thumbnail."""
    rng = np.random.default_rng(3)
    width, height = size
    base = np.full((height, width, 3), 100, dtype=np.uint8)
    detail = rng.integers(0, 2, (height, width, 1), dtype=np.uint8) * 12
    blurred = pictures.blurred_thumbnail(png(base + detail))
    with Image.open(io.BytesIO(blurred)) as image:
        assert max(image.size) <= pictures.EDGE
        spread = np.asarray(image, dtype=float).std(axis=(0, 1)).max()
        assert not image.info.get("exif")
        assert not image.info.get("comment")
    assert spread < 6.0


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_choice_of_pictures_shows_each_outcome() -> None:
    samples = [
        one_sample(case_no=i, outcome=o) for i, o in enumerate(["hit"] * 20 + ["clear"] * 3 + ["unassessed"] * 9)
    ]
    assert Counter(sample.outcome for sample in choose(samples, 12)) == {"hit": 5, "clear": 3, "unassessed": 4}
    assert len(choose(samples[:5], 12)) == 5
    assert choose([], 12) == []


def test_many_cells_share_the_room_for_pictures() -> None:
    run = runs.failing()
    crr = tuple(dataclasses.replace(run.crr[0], cell_id=i) for i in range(150))
    samples = tuple(one_sample(cell_id=i, case_no=c) for i in range(150) for c in range(6))
    sheets = contact_sheets(dataclasses.replace(run, crr=crr, samples=samples), lambda sample: None)
    assert len(sheets) == 150
    assert sum(len(sheet.thumbnails) for sheet in sheets) <= 360


def test_spec_in_the_report_is_the_spec() -> None:
    page = rendered(runs.failing())
    shown = "".join(page.texts())
    start = shown.index('{\n  "version": 1')
    assert json.JSONDecoder().raw_decode(shown[start:])[0] == runs.SPEC
