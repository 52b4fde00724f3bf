"""What a report begins with: one case of each concept in pictures, through the un-erased model and every defence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html import unescape

import pytest

from audit.records import Control, Role
from audit.report import html, pictures
from audit.report.embedding import Pictures
from audit.report.strips import EDGES, MOST_DEFENDED, RULE
from audit.storage.pictures import Address, Purged
from audit.verdict.case_pictures import CasePicture, CaseReading, PicturedCase, PictureRole
from audit.verdict.results import RunResult
from tests.report import runs
from tests.report.page import rendered, strip_of, with_case
from tests.report.pictured import first_case
from tests.report.test_formats import RUNS


def reread(run: RunResult, role: PictureRole, *readings: CaseReading) -> RunResult:
    """The run with other readings of the pictures of a role."""
    changed = (
        dataclasses.replace(picture, readings=readings) if picture.role is role else picture
        for picture in run.pictured[0].pictures
    )
    return with_case(run, pictures=tuple(changed))


def guarded() -> RunResult:
    """A run with an eraser alone and with a guard, of which the guarded one holds."""
    builder = runs.Builder()
    builder.cell("uce-ring", "latent-whitebox", 45, 46, 48)
    builder.cell("uce-ring+sld", "latent-whitebox", 0, 48, 48)
    builder.cell("none", "latent-whitebox", 47, 48, 48, role=Role.CONTROL, control=Control.BACKBONE)
    for control in (Control.REFERENCE, Control.VAE_ROUNDTRIP):
        builder.cell("none", "none", 16, 16, 16, role=Role.CONTROL, control=control)
    return builder.result(runs.CHECKS)


def test_a_strip_has_one_case_in_every_role() -> None:
    run, asked = guarded(), []

    def read(address: Address) -> bytes:
        assert isinstance(address, CasePicture)
        asked.append(address)
        return runs.picture(address)

    strip = strip_of(run, read)
    assert [frame.title for frame in strip.frames] == [
        "Reference image", "Reference, autoencoder alone", "Un-erased: round trip of the reference", "Erased: uce-ring",
        "Guarded: uce-ring+sld",
    ]  # fmt: skip
    assert asked == list(run.pictured[0].pictures)
    assert {picture.case_no for picture in asked} == {run.pictured[0].case_no}
    expected = [pictures.data_uri(pictures.thumbnail(runs.picture(picture), EDGES[0])) for picture in asked]
    assert [frame.uri for frame in strip.frames] == expected
    assert strip.left_out == 0 and not strip.blurred


def test_the_page_says_which_case_it_is_and_by_which_rule() -> None:
    glance = rendered(runs.failing()).named("glance")
    assert RULE in glance.words()
    (caption,) = glance.all("figcaption")
    assert caption.words() == (
        "Case 0 of latent-whitebox, the first hit in the cell with the highest rate (45 of 46, 97.8 %). "
        "Seen: un-erased model: hit; through 1 defence: 1 hit."
    )
    assert html.render(runs.failing(), runs.picture) == html.render(runs.failing(), runs.picture)
    assert "the first assessed case, because nothing was hit through a defence" in strip_of(runs.wrecked()).caption
    assert "of which no picture through a defence could be assessed" in strip_of(runs.all_unassessed()).caption


def test_a_hit_through_a_defence_is_told_by_frame_symbol_and_word() -> None:
    frames = rendered(guarded()).named("glance").all("figure", "strip")[0].all("li")
    assert [(frame.is_a("hit"), frame.is_a("alarming")) for frame in frames] == [
        (True, False), (True, False), (True, False), (True, True), (False, False),
    ]  # fmt: skip
    outcomes = [frame.all("span", "outcome")[0] for frame in frames]
    assert [outcome.words() for outcome in outcomes] == ["● hit"] * 3 + ["● hit: it came back", "○ clear"]
    assert all(outcome.all("span")[0].attributes == {"aria-hidden": "true"} for outcome in outcomes), (
        "a word follows it"
    )
    assert [image.attributes["alt"] for frame in frames[3:] for image in frame.all("img")] == [
        "Erased: uce-ring, hit: picture", "Guarded: uce-ring+sld, clear: picture",
    ]  # fmt: skip


def test_the_worst_reading_of_a_judge_counts_and_the_others_are_told() -> None:
    two = CaseReading("clip-judge", "clear", None, 0.21), CaseReading("classifier", "hit", None, 0.77)
    frame = strip_of(reread(runs.failing(), PictureRole.ERASED, *two)).frames[-1]
    assert (frame.outcome, frame.alarming, frame.details) == ("hit", True, ("clip-judge clear 0.21", "classifier 0.77"))
    witness = two[0], CaseReading("a witness that does not judge", "hit", None, 0.99)
    frame = strip_of(reread(runs.failing(), PictureRole.ERASED, *witness)).frames[-1]
    assert (frame.outcome, frame.details) == ("clear", ("clip-judge 0.21",))
    blocked = CaseReading("clip-judge", "unassessed", "blocked", None)
    frame = strip_of(reread(runs.failing(), PictureRole.ERASED, blocked)).frames[-1]
    assert (frame.symbol, frame.word, frame.details) == ("?", "unassessed", ("clip-judge (blocked)",))
    assert strip_of(reread(runs.failing(), PictureRole.ERASED)).frames[-1].word == "unassessed", "nobody looked"


def purged(address: Address) -> bytes:
    raise Purged


def broken(address: Address) -> bytes:
    raise OSError("the journal is gone")


@pytest.mark.parametrize(
    ("read", "word"),
    [
        (lambda address: None, "missing"),
        (purged, "purged"),
        (broken, "unreadable"),
        (lambda address: b"GIF", "unreadable"),
    ],
    ids=["missing", "purged", "the journal is gone", "no picture"],
)
def test_a_picture_that_is_not_there_is_a_labelled_placeholder(read: Pictures, word: str) -> None:
    frames = rendered(runs.failing(), read).named("glance").all("li")
    blanks = [frame.all("span", "blank")[0] for frame in frames]
    assert len(frames) == 4 and not any(frame.all("img") for frame in frames)
    assert {blank.words() for blank in blanks} == {word}
    assert blanks[3].attributes["role"] == "img"
    assert blanks[3].attributes["aria-label"] == f"Erased: uce-ring, hit: picture {word}"
    assert frames[3].all("span", "outcome")[0].words() == "● hit: it came back", "what was seen is still known"


def test_a_role_that_the_run_did_not_draw_has_a_placeholder_too() -> None:
    run = runs.failing()
    run = with_case(run, pictures=run.pictured[0].of(PictureRole.ERASED))
    frames = rendered(run).named("glance").all("li")
    assert [frame.words() for frame in frames[:2]] == [
        "Reference image not kept by this run no picture",
        "Un-erased: round trip of the reference not drawn by this run no picture",
    ]
    assert all(frame.is_a("absent") for frame in frames[:2])
    assert len(frames[2].all("img")) == 1


def test_a_case_from_a_prompt_has_no_reference_and_says_so() -> None:
    run = runs.failing()
    run = dataclasses.replace(run, pictured=first_case(run.crr, run.samples, scenario="text"))
    case = run.pictured[0]
    run = with_case(run, pictures=case.of(PictureRole.BACKBONE, PictureRole.ERASED))
    strip = strip_of(run)
    assert [frame.title for frame in strip.frames] == ["Un-erased model", "Erased: uce-ring"]
    assert strip.caption.endswith("It does not start from an image, so there is no reference.")


def test_of_very_many_defences_no_hit_is_left_out() -> None:
    builder = runs.Builder()
    for number in range(MOST_DEFENDED + 3):
        builder.cell(f"uce-{number:02}", "latent-whitebox", 0 if number < MOST_DEFENDED else 48, 48, 48)
    strip = strip_of(builder.result(runs.CHECKS))
    defended = [frame for frame in strip.frames if frame.title.startswith("Erased")]
    assert len(defended) == MOST_DEFENDED
    assert [frame.title for frame in defended if frame.alarming] == [
        "Erased: uce-12",
        "Erased: uce-13",
        "Erased: uce-14",
    ]
    assert [frame.title for frame in defended] == sorted(frame.title for frame in defended), "in the plan's order"
    page = rendered(builder.result(runs.CHECKS)).named("glance")
    assert "3 more defences are in the table only." in page.all("figcaption")[0].words()


def long_winded() -> RunResult:
    """Names, reasons and a number of attempts as long as a spec and its policy may have them."""
    run = runs.waived()
    waivers = tuple(f"{side}: not judged ({'because ' * 62})" for side in ("retention", "damage"))
    verdict = dataclasses.replace(run.verdict, waivers=waivers, attempt_sentence="This is attempt 12. " * 12)
    return dataclasses.replace(run, name="n" * 64, run_id="n" * 64 + "-20261122T022622Z-4f1c", verdict=verdict)


@pytest.mark.parametrize("run", [*(RUNS[name] for name in RUNS if name not in ("empty", "hostile")), long_winded])
def test_little_text_stands_before_the_first_picture(run: Callable[[], RunResult]) -> None:
    text = html.render(run(), runs.picture)
    before = text[text.index("<body>") : text.index("<img")]
    blocks = re.split(r"<[^>]*>", re.sub(r"</?span[^>]*>", "", before))
    lines = [line for block in blocks for line in wrapped(unescape(block))]
    assert 8 <= len(lines) <= 30, lines


def wrapped(block: str, width: int = 78) -> list[str]:
    words = " ".join(block.split())
    return [words[start : start + width] for start in range(0, len(words), width)]


def test_a_run_without_a_pictured_case_has_the_matrix_alone() -> None:
    page = rendered(dataclasses.replace(runs.failing(), pictured=())).named("glance")
    assert page.all("figure") == [] and len(page.all("table")) == 1
    assert RULE not in page.words()


def test_a_page_without_pictures_does_not_speak_of_single_ones() -> None:
    page = rendered(runs.failing(), None).named("glance")
    assert page.all("img") == [] and page.all("figure") == []
    assert "Case 0" not in page.words() and RULE not in page.words()
    assert len(page.all("table")) == 1


def test_a_hit_of_a_cell_that_the_rates_lack_costs_no_report() -> None:
    assert " a hit. Seen:" in strip_of(unknown_hits()).caption


def unknown_hits() -> RunResult:
    run = runs.failing()
    case: PicturedCase = run.pictured[0]
    return with_case(run, pictures=tuple(dataclasses.replace(picture, cell_id=999) for picture in case.pictures))
