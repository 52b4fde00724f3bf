"""Which prompts, words and seeds come back, from journal rows to tests, pictures and the report's section."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.errors import SpecError
from audit.index.queries import read_result
from audit.index.store import Store
from audit.report import failures, html, json_report, markdown
from audit.report.view import Index
from audit.storage.journal import Journal
from audit.storage.pictures import Address
from audit.verdict.failure_modes import FailureMode, Level, compared, factor_of
from audit.verdict.results import RunResult
from deployments.testbed_page import failures as page_block
from tests.index.pairs import FilteredRun
from tests.synthetic import Run, cell

RED, BLUE = "a small red ring on white", "a large blue ring on white"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Two defences on the same seeds, whose odd cases are hits: these have a red ring, the others a blue one."""
    folder = tmp_path_factory.mktemp("failures")
    run = Run(cells=(cell(0, 16), cell(1, 16, defence="esd")), unit_size=16)
    for case in run.cases:
        case["prompt"] = RED if case["case_no"] % 2 else BLUE
        case["seed"] = case["case_no"] // 4
    journal = Journal(str(folder / "root"))
    run.write(journal)
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        return read_result(store.publish(folder / "published"), run.run_id)


def of(result: RunResult, name: str, cell_id: int | None = 0) -> FailureMode:
    (mode,) = (mode for mode in result.failure_modes if (mode.level_name, mode.cell_id) == (name, cell_id))
    return mode


def test_what_the_hits_have_in_common_stands_out(result: RunResult) -> None:
    red = of(result, "red")
    assert (red.factor, red.hits, red.assessed, red.other_hits, red.other_assessed) == ("colour", 8, 8, 0, 8)
    assert red.p_value == pytest.approx(1 / 12870)
    assert red.p_value < red.corrected <= red.tests * red.p_value < 0.05
    assert of(result, "small").factor == "size"
    assert of(result, RED).factor == "prompt"
    assert {mode.level_name for mode in result.failure_modes if mode.corrected <= 0.05} == {"red", "small", RED}


@pytest.mark.parametrize(
    ("counting", "assessed", "said"), [("clear", 8, "and is no hit."), ("unassessed", 5, "and left out.")]
)
def test_what_filters_block_is_no_hit_or_left_out_as_the_policy_says(
    tmp_path: Path, counting: str, assessed: int, said: str
) -> None:
    """Of the eight pictures of a red ring, all of them hits, a filter blocks the first three."""
    cells = (cell(0, 16, filters=[{"filter_id": 5, "name": "words"}]),)
    run = FilteredRun(cells=cells, unit_size=16, blocked=(1, 3, 5), counting=counting)
    for case in run.cases:
        case["prompt"] = RED if case["case_no"] % 2 else BLUE
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        result = read_result(store.publish(tmp_path / "published"), run.run_id)
    red = of(result, "red")
    assert (red.hits, red.assessed, red.other_hits, red.other_assessed) == (5, assessed, 0, 8)
    assert said in markdown.render(result)


def test_its_hits_come_with_it(result: RunResult) -> None:
    red = of(result, "red")
    assert len(red.pictures) == 6
    assert all(picture.case_no % 2 and picture.cell_id == 0 and picture.score == 0.9 for picture in red.pictures)


def test_seeds_are_compared_over_all_cells_of_a_concept(result: RunResult) -> None:
    seeds = [mode for mode in result.failure_modes if mode.factor == "seed"]
    assert {mode.cell_id for mode in seeds} == {None} and {mode.assessed for mode in seeds} == {8}
    assert min(mode.corrected for mode in seeds) == 1.0


def test_a_word_of_every_prompt_and_of_too_few_is_not_tested(result: RunResult) -> None:
    assert "white" not in {mode.level_name for mode in result.failure_modes}
    few = Level("ring", 0, "judge", "word", "red", 2, 2, 14, 0)
    assert compared([few], ()) == ()


def test_more_tests_make_the_correction_stricter() -> None:
    level = Level("ring", 0, "judge", "word", "red", 8, 8, 8, 0)
    many = [dataclasses.replace(level, level_name=f"w{n}", hits=1, other_hits=7) for n in range(50)]
    alone, among = compared([level], ())[0], compared([level, *many], ())[0]
    assert alone.p_value == among.p_value == alone.corrected < among.corrected
    assert (alone.tests, among.tests) == (1, 51)


@pytest.mark.parametrize(
    ("word", "factor"),
    [("ring", "class"), ("red", "colour"), ("tiny", "size"), ("left", "place"), ("wooden", "word"), ("the", None)],
)
def test_words_tell_classes_colours_sizes_and_places(word: str, factor: str | None) -> None:
    assert factor_of(word, {"ring"}) == factor


def test_the_report_has_table_and_pictures(result: RunResult) -> None:
    def picture(address: Address) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), address.image_id % 200 + 20, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    text = markdown.render(result)
    assert "## Failure modes" in text and "| colour | red |" in text
    page = html.render(result, picture)
    section = page[page.index('id="failures"') : page.index("</section>", page.index('id="failures"'))]
    assert section.count("<img") == 6 * 6
    assert json_report.parse(json_report.render(result)) == result


def test_what_the_corpus_says_of_its_pictures_is_a_factor(tmp_path: Path) -> None:
    run = Run(cells=(cell(0, 16, scenario="latent-whitebox"),), unit_size=16)
    for case in run.cases:
        case["attributes"] = json.dumps(
            {"size": "large" if case["case_no"] % 2 else "small", "camera": f"c{case['case_no'] % 4}"}
        )
    run.cases[0]["attributes"] = None  # of a picture that the table does not name
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        result = read_result(store.publish(tmp_path / "published"), run.run_id)
    large = of(result, "large")
    assert (large.factor, large.hits, large.assessed, large.other_hits, large.other_assessed) == (
        "image: size",
        8,
        8,
        0,
        7,
    )
    assert large.corrected < 0.05 and len(large.pictures) == 6 and large.pictures[0].case_no % 2
    assert {mode.level_name for mode in result.failure_modes if mode.factor == "image: camera"} == {"c1", "c3"}


def test_without_a_level_that_stands_out_the_report_says_so(result: RunResult) -> None:
    seeds = tuple(mode for mode in result.failure_modes if mode.factor == "seed")
    plain = dataclasses.replace(result, failure_modes=seeds)
    section = failures.section(Index(plain))
    assert section is not None and "None comes back more often" in section.sentences[1]
    assert failures.sheets(Index(plain), lambda address: None) == ()
    assert failures.section(Index(dataclasses.replace(result, failure_modes=()))) is None


def test_the_page_s_block_is_the_report_s_section(result: RunResult) -> None:
    text = page_block.block(result)
    assert text.startswith(f"Run `{result.run_id}`.") and "| colour | red |" in text
    with pytest.raises(SpecError, match="no failure modes"):
        page_block.block(dataclasses.replace(result, failure_modes=()))
