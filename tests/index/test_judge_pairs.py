"""Two detectors on the same pictures, from journal rows to counts, disagreements, the report's section and its JSON."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.index.queries import read_result
from audit.index.store import Store
from audit.report import html, json_report, judges, markdown
from audit.report.view import Index
from audit.storage.journal import Journal
from audit.storage.pictures import Address
from audit.verdict.results import RunResult
from tests.index.pairs import FilteredRun
from tests.synthetic import Run, cell, detect_row, instrument

NUMBERS = {"judge": 11, "second": 12}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures: both judges find the odd ones, but the second finds 2 too, misses 5, and cannot read 6 and 7."""
    folder = tmp_path_factory.mktemp("pairs")
    judges_of = tuple(instrument(name, number) for name, number in NUMBERS.items())
    run = Run(cells=(cell(0, 8, sensitive=False),), instruments=judges_of, unit_size=8)
    journal = Journal(str(folder / "root"))
    run.write(journal)
    images = [case["image_id"] for case in run.cases]
    unread = {"status": "error", "error": "the answer is 'maybe'", "scores": None}
    changes = {
        2: detect_row(images[2], 12, hit=True), 5: detect_row(images[5], 12, hit=False), 6: unread, 7: unread,
    }  # fmt: skip
    run.rewrite(journal, "detect", 1, changes)
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        return store.publish(folder / "published")


@pytest.fixture(scope="module")
def result(published: Path) -> RunResult:
    return read_result(published, "run-1")


def test_every_picture_of_a_pair_is_counted_once(result: RunResult) -> None:
    (row,) = result.judge_pairs
    assert (row.first_detector, row.second_detector) == ("judge", "second")
    assert (row.hit_both, row.first_only, row.second_only, row.clear_both) == (2, 1, 1, 2)
    assert (row.hit_unassessed, row.clear_unassessed, row.unassessed_both) == (1, 1, 0)
    assert row.assessed_both + row.unassessed_one + row.unassessed_both == 8


def test_kappa_is_over_the_pictures_that_both_assessed(result: RunResult) -> None:
    agreed = judges.agreement(result.judge_pairs[0], 0.95)
    assert (agreed.pictures, agreed.agreed) == (6, 4)
    assert agreed.kappa == pytest.approx((4 / 6 - 0.5) / 0.5)
    assert agreed.low < agreed.kappa < agreed.high


def test_the_pictures_on_which_they_disagree_are_listed_with_both_scores(result: RunResult) -> None:
    found = {(row.case_no, row.first_outcome, row.second_outcome) for row in result.disagreements}
    assert found == {(2, "clear", "hit"), (5, "hit", "clear")}
    assert {row.first_score for row in result.disagreements} == {0.1, 0.9}


def test_what_filters_block_is_read_by_both_and_counts_as_the_rest(tmp_path: Path) -> None:
    """Of eight pictures a filter blocks five; one detector finds none of them, the other the odd ones."""
    judges_of = tuple(instrument(name, number) for name, number in NUMBERS.items())
    cells = (cell(0, 8, filters=[{"filter_id": 5, "name": "words"}]),)
    run = FilteredRun(cells=cells, instruments=judges_of, unit_size=8, blocked=range(5))
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    nothing = {row: detect_row(case["image_id"], 12, hit=False) for row, case in enumerate(run.cases)}
    run.rewrite(journal, "detect", 1, nothing)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        result = read_result(store.publish(tmp_path / "published"), run.run_id)
    (row,) = result.judge_pairs
    assert (row.hit_both, row.first_only, row.second_only, row.clear_both) == (0, 4, 0, 4)
    assert {one.case_no for one in result.disagreements} == {1, 3, 5, 7}
    assert "Pictures that filters block count as the others do" in markdown.render(result)


def test_another_threshold_changes_who_agrees(published: Path) -> None:
    from audit.spec.policy import Policy

    thresholds = {"judge": 0.05, "second": 0.5}
    policy = Policy.model_validate(
        {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.1}], "thresholds": thresholds}
    )
    (row,) = read_result(published, "run-1", policy).judge_pairs
    assert (row.hit_both, row.first_only, row.second_only, row.clear_both) == (3, 3, 0, 0)


def test_the_report_shows_the_table_and_the_pictures(result: RunResult) -> None:
    def picture(address: Address) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), address.image_id % 200 + 20, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    text = markdown.render(result)
    assert "## Agreement between detectors" in text and "disagree on 2 of 6 pictures" in text and "0.33" in text
    page = html.render(result, picture)
    section = page[page.index('id="judges"') : page.index("</section>", page.index('id="judges"'))]
    assert section.count("<img") == 2 and "by judge alone" in section and "by second alone" in section
    (sheet,) = judges.sheets(Index(result), picture)
    assert not sheet.blurred
    assert json_report.parse(json_report.render(result)) == result


def test_pictures_of_a_sensitive_concept_are_blurred(result: RunResult) -> None:
    import dataclasses

    marked = dataclasses.replace(
        result, disagreements=tuple(dataclasses.replace(row, sensitive=True) for row in result.disagreements)
    )
    (sheet,) = judges.sheets(Index(marked), lambda address: None)
    assert sheet.blurred
    (sheet,) = judges.sheets(Index(marked), lambda address: None, show_sensitive=True)
    assert not sheet.blurred


def test_one_detector_alone_has_no_section(result: RunResult) -> None:
    import dataclasses

    alone = dataclasses.replace(result, judge_pairs=(), disagreements=())
    assert judges.section(Index(alone)) is None
    assert "Agreement between detectors" not in markdown.render(alone)
