"""Hits beside the un-erased model's pictures, from feature vectors in the journal to the report's section."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from audit.index.queries import read_result
from audit.index.store import Store
from audit.report import html, json_report, markdown, nearest
from audit.report.view import Index
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.storage.pictures import Address
from audit.verdict.nearest import NearestRow
from audit.verdict.results import RunResult
from tests.synthetic import Run, cell, control, key_of

CASES = 20
LATENT = {"scenario": "latent-whitebox"}
BACKBONE_TEXT, BACKBONE_LATENT, TEXT, LATENTS = range(4)


class Featured(Run):
    """Text and latents through the backbone and one eraser; by text it draws the backbone's pictures, by latents its own."""

    instrument: str | None = "picture-check"  # of the section `benign`

    def __post_init__(self) -> None:
        super().__post_init__()
        for case in self.cases:
            key = key_of(f"quality/{case['unit_key']}")
            unit = self.units.setdefault(key, {"kind": "quality", "key": key, "rows": 0, "cell_ids": [case["cell_id"]]})
            unit["rows"] += 1

    def plan(self) -> dict[str, Any]:
        plan = super().plan()
        plan["spec"]["benign"] = {"instrument": {"name": self.instrument}} if self.instrument else {}
        plan["quality_instruments"] = [
            {
                "instrument_id": 77, "instrument": "picture-check", "kind": "features", "version": "1", "package": "none",
                "weights_sha256": "0" * 64, "preprocessing": "none", "metrics": [], "parameters": "{}",
            }
        ]  # fmt: skip
        return plan

    def vector(self, case: dict[str, Any]) -> np.ndarray:
        """Cases 0 and 1 of the erased text cell are far from everything."""
        cell_id, number = case["cell_id"], case["case_no"]
        of_text = np.random.default_rng([cell_id % 2, number]).normal(0, 1, 12)
        if cell_id in (BACKBONE_TEXT, BACKBONE_LATENT):
            return of_text
        if cell_id == TEXT:
            return of_text + (100 if number < 2 else 0.01)
        return np.random.default_rng([9, number]).normal(0, 1, 12)

    def write_vectors(self, journal: Journal, without: frozenset[int] = frozenset()) -> None:
        for unit in [unit for unit in self.units.values() if unit["kind"] == "quality"]:
            rows, vectors = [], {}
            for case in self.cases:
                if key_of(f"quality/{case['unit_key']}") != unit["key"]:
                    continue
                lost = case["cell_id"] == TEXT and case["case_no"] in without
                if not lost:
                    vectors[f"{case['image_id']}/picture"] = self.vector(case).astype(np.float32)
                rows.append(
                    {
                        "image_id": case["image_id"], "status": "degenerate" if lost else "ok", "error": None,
                        "baseline": "picture", "baseline_image_id": None, "metric": "vector", "value": None,
                        "instrument_id": 77,
                    }
                )  # fmt: skip
            journal.write("quality", unit["key"], self.table("quality", rows), {}, safetensors.numpy.save(vectors))


def made(folder: Path, *, sensitive: bool = False, instrument: str | None = "picture-check", **vectors: Any) -> Path:
    """The published index of a run; odd cases are hits."""
    marks = {"sensitive": sensitive}
    cells = (
        control(0, CASES, "backbone", scenario="text", **marks),
        control(1, CASES, "backbone", **LATENT, **marks),
        cell(2, CASES, **marks),
        cell(3, CASES, **LATENT, **marks),
    )
    run, journal = Featured(cells=cells, unit_size=CASES), Journal(str(folder / "root"))
    run.instrument = instrument
    for case in run.cases:
        case["seed"] = case["case_no"] + 100 * (case["cell_id"] % 2)
        if case["item"]:
            case["item"] = key_of(f"item-{case['case_no']}")
    run.write(journal)
    run.write_vectors(journal, **vectors)
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        return store.publish(folder / "published")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("nearest"))


@pytest.fixture(scope="module")
def result(published: Path) -> RunResult:
    return read_result(published, "run-1")


def of(result: RunResult, cell_id: int) -> NearestRow:
    (row,) = (row for row in result.nearest if row.cell_id == cell_id)
    return row


def test_near_copies_of_the_same_case_are_told_from_pictures_of_their_own(result: RunResult) -> None:
    text = of(result, TEXT)
    assert (text.hits, text.compared, text.candidates, text.instrument) == (10, 10, 2 * CASES, "picture-check")
    assert (text.copies, text.distinct, text.same_case, text.twins) == (9, 1, 9, 10)
    assert text.median_distance == pytest.approx(0.01 * 12**0.5, rel=1e-3)
    latents = of(result, LATENTS)
    assert latents.copies <= 2 and latents.same_case <= 2 and latents.twins == 10
    assert text.usual_distance == latents.usual_distance is not None and latents.usual_distance > 1


def test_the_nearest_and_the_farthest_hits_come_with_the_pictures_beside_them(result: RunResult) -> None:
    pairs = of(result, TEXT).pairs
    assert len(pairs) == 6 and [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)
    assert (pairs[-1].case_no, pairs[-1].is_distinct, pairs[-1].same_case) == (1, True, False)
    for pair in pairs[:-1]:
        assert pair.is_copy and pair.same_case and pair.case_no % 2
        assert (pair.nearest.cell_id, pair.nearest.case_no) == (BACKBONE_TEXT, pair.case_no)
        assert pair.nearest.unit_key == key_of("generate/run-1/0/0") != pair.unit_key


def test_every_picture_is_compared_so_that_another_policy_finds_its_hits(published: Path) -> None:
    policy = Policy.model_validate(
        {"version": "2", "limits": [{"crr_max": 0.1}], "judges": ["judge"], "thresholds": {"judge": 0.05}}
    )
    assert of(read_result(published, "run-1", policy), TEXT).compared == CASES


def test_a_picture_without_features_is_counted_among_the_hits_alone(tmp_path: Path) -> None:
    row = of(read_result(made(tmp_path, without=frozenset({1, 3})), "run-1"), TEXT)
    assert (row.hits, row.compared) == (10, 8)


def test_without_a_picture_check_the_first_features_are_taken(tmp_path: Path) -> None:
    assert of(read_result(made(tmp_path, instrument=None), "run-1"), TEXT).copies == 9


def test_an_index_that_knows_nothing_of_it_still_opens(published: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.duckdb"
    shutil.copyfile(published, old)
    old.chmod(0o644)
    with duckdb.connect(str(old)) as con:
        con.execute("drop view mart_nearest_pictures")
        con.execute("drop table nearest_pictures")
        con.execute("drop table item_attributes")
        con.execute("create or replace view mart_case_levels as select r.run_id, '' as concept, 0 as cell_id, 0 as case_no,"
                    " '' as factor, '' as level_name from runs as r where false")  # fmt: skip
    policy = Policy.model_validate({"version": "2", "limits": [{"crr_max": 0.1}], "judges": ["judge"]})
    assert read_result(old, "run-1").nearest == () == read_result(old, "run-1", policy).nearest


def picture(address: Address) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), address.image_id % 200 + 20, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def part(page: str) -> str:
    return page[page.index('id="nearest"') : page.index("</section>", page.index('id="nearest"'))]


def test_the_report_shows_them_side_by_side(result: RunResult) -> None:
    text = markdown.render(result)
    assert "## Nearest pictures of the un-erased model" in text
    copies = sum(row.copies for row in result.nearest)
    assert f"20 hits, of which {copies} are near-copies" in text and "inverted latent carries the picture" in text
    page = part(html.render(result, picture))
    assert page.count("<img") == 2 * (6 + 6) and page.count('class="hit pair"') == 12
    assert "near-copy, 0.035; beside it the same case" in page
    assert json_report.parse(json_report.render(result)) == result


def test_pictures_of_sensitive_concepts_are_blurred_on_both_sides(tmp_path: Path) -> None:
    result = read_result(made(tmp_path, sensitive=True), "run-1")
    sheets = nearest.sheets(Index(result), picture)
    assert sheets and all(sheet.blurred for sheet in sheets)
    assert all("blurred picture" in one.alt for sheet in sheets for one in sheet.pictures)
    shown = nearest.sheets(Index(result), picture, show_sensitive=True)
    assert not any("blurred" in one.alt for sheet in shown for one in sheet.pictures)


def test_without_any_there_is_no_section(result: RunResult) -> None:
    assert nearest.section(Index(dataclasses.replace(result, nearest=()))) is None
