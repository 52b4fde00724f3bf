"""A sensitive concept's case stands blurred at the head of a report, or is withheld."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from audit.report import pictures
from audit.verdict.results import RunResult
from tests.report import runs
from tests.report.page import rendered, strip_of, with_case


def marked_in_the_spec() -> RunResult:
    concepts = [{"name": "ring", "phrase": "ring", "sensitive": True}]
    return dataclasses.replace(runs.failing(), spec={**runs.SPEC, "concepts": concepts})


def marked_on_one_picture() -> RunResult:
    run = runs.failing()
    first, *others = run.pictured[0].pictures
    return with_case(run, pictures=(dataclasses.replace(first, sensitive=True), *others))


def marked_on_a_sample() -> RunResult:
    run = runs.failing()
    return dataclasses.replace(run, samples=(dataclasses.replace(run.samples[0], sensitive=True), *run.samples[1:]))


def of_an_unknown_cell() -> RunResult:
    run = runs.failing()
    first, *others = run.pictured[0].pictures
    return with_case(run, pictures=(dataclasses.replace(first, cell_id=999), *others))


SENSITIVE: list[Callable[[], RunResult]] = [
    marked_in_the_spec, marked_on_one_picture, marked_on_a_sample, of_an_unknown_cell,
]  # fmt: skip
every_mark = pytest.mark.parametrize("run", SENSITIVE, ids=lambda run: run.__name__)


def sharpness(jpeg: bytes) -> float:
    """The strongest step between neighbouring pixels, in grey levels."""
    with Image.open(io.BytesIO(jpeg)) as image:
        grey = np.asarray(image.convert("L").resize((96, 96)), dtype=float)
    return float(max(np.abs(np.diff(grey, axis=axis)).max() for axis in (0, 1)))


@every_mark
def test_every_picture_of_a_sensitive_case_is_blurred(run: Callable[[], RunResult]) -> None:
    glance = rendered(run()).named("glance")
    shown = glance.pictures()
    assert len(shown) == 4
    assert [pictures.blurred_thumbnail(runs.picture(picture)) for picture in run().pictured[0].pictures] == shown
    as_they_are = rendered(runs.failing()).named("glance").pictures()
    assert max(map(sharpness, shown)) < 20 < min(map(sharpness, as_they_are))
    assert "Blurred beyond recovery." in glance.all("figcaption")[0].words()
    assert all("blurred picture" in image.attributes["alt"] for image in glance.all("img"))


def test_a_page_of_a_sensitive_concept_has_no_sharp_picture_anywhere() -> None:
    for run in (marked_in_the_spec(), marked_on_one_picture(), runs.failing(sensitive=True)):
        shown = rendered(run).pictures()
        concerned = [jpeg for jpeg in shown if sharpness(jpeg) >= 20]
        assert len(shown) > 50
        assert concerned == []


def test_only_the_option_shows_a_sensitive_case_as_it_is() -> None:
    strip = strip_of(marked_in_the_spec(), show_sensitive=True)
    assert [frame.uri for frame in strip.frames] == [frame.uri for frame in strip_of(runs.failing()).frames]
    page = rendered(marked_in_the_spec(), show_sensitive=True)
    assert "Originals are shown." in page.words()
    assert "Blurred" not in page.named("glance").words()
    assert "Originals are shown." not in rendered(marked_in_the_spec()).words()


@every_mark
@pytest.mark.parametrize("how", ["not a picture", "no blur", "an error"])
def test_what_cannot_be_blurred_is_withheld(
    run: Callable[[], RunResult], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise MemoryError

    if how != "not a picture":
        monkeypatch.setattr(pictures, "_blur", fail if how == "an error" else lambda image: image)
    frames = strip_of(run(), (lambda address: b"GIF") if how == "not a picture" else runs.picture).frames
    assert [(frame.uri, frame.placeholder) for frame in frames] == [(None, "withheld")] * 4
