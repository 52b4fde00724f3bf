"""The SQL files: their form, every reason for an unassessed case, and every check on the fault it is made for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from audit.index.checks import failing_condition, run_checks
from audit.index.sql_files import STAGING, relations
from audit.index.store import Store
from audit.storage.journal import Journal
from tests.synthetic import LABELS, Run, cell, control, instrument

SQL = Path(__file__).parents[2] / "sql"
FILES = sorted(SQL.glob("*/*.sql"))
LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_says_its_grain_and_names_its_columns(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("-- grain: ")
    assert not re.search(r"select\s+\*", text)
    if path.parent.name == "schema":
        assert f"create table if not exists {path.stem} (" in text
    if path.parent.name == "checks":
        assert failing_condition(text)


def test_relation_names_are_unique_and_staging_is_ordered() -> None:
    names = [path.stem for path in FILES]
    assert len(names) == len(set(names))
    assert set(STAGING) | {"stg_interval_arguments", "stg_crr", "stg_retention"} == set(relations("staging"))


NAN = math.nan
SCORES = [{"label": label, "score": 0.9} for label in LABELS]


def scored(**scores: float | None) -> dict[str, Any]:
    return {"scores": [{"label": label, "score": score} for label, score in scores.items()]}


# What one changed row of a unit makes of its case.
CHANGES = [
    ("detect", {}, ("clear", None)),
    ("detect", scored(ring=0.5, disc=0.1, star=0.1), ("hit", None)),
    ("detect", scored(ring=0.4999, disc=0.9, star=0.9), ("clear", None)),
    ("detect", scored(ring=1.0), ("hit", None)),
    ("detect", scored(disc=0.9, star=0.1), ("unassessed", "not-measured")),
    ("detect", scored(ring=NAN, disc=0.1, star=0.1), ("unassessed", "not-measured")),
    ("detect", scored(ring=None, disc=0.1, star=0.1), ("unassessed", "not-measured")),
    ("detect", scored(ring=math.inf, disc=0.1, star=0.1), ("unassessed", "not-measured")),
    ("detect", {"scores": []}, ("unassessed", "not-measured")),
    ("detect", {"scores": None}, ("unassessed", "not-measured")),
    ("detect", {"status": "error", "error": "boom", "scores": None}, ("unassessed", "not-measured")),
    ("detect", {"status": "error", "error": "boom", "scores": SCORES}, ("unassessed", "not-measured")),
    ("detect", {"image_id": 5}, ("unassessed", "missing")),
    ("detect", {"instrument_id": 99}, ("unassessed", "missing")),
    ("generate", {"image_id": 5}, ("unassessed", "missing")),
    ("generate", {"status": "error", "error": "boom"}, ("unassessed", "error")),
    ("generate", {"status": "degenerate"}, ("unassessed", "degenerate")),
    ("generate", {"status": "blocked"}, ("unassessed", "blocked")),
    ("generate", {"status": "unreadable"}, ("unassessed", "unreadable")),
    ("invert", {"residual_max": 0.999e-3}, ("clear", None)),
    ("invert", {"residual_max": 1e-3}, ("unassessed", "round-trip")),
    ("invert", {"psnr_roundtrip_db": 35.0}, ("unassessed", "round-trip")),
    ("invert", {"residual_max": 2e-3}, ("unassessed", "round-trip")),
    ("invert", {"residual_max": None}, ("unassessed", "round-trip")),
    ("invert", {"residual_max": NAN}, ("unassessed", "round-trip")),
    ("invert", {"psnr_roundtrip_db": 34.9}, ("unassessed", "round-trip")),
    ("invert", {"psnr_roundtrip_db": None}, ("unassessed", "round-trip")),
    ("invert", {"psnr_roundtrip_db": NAN}, ("unassessed", "round-trip")),
    ("invert", {"psnr_roundtrip_db": math.inf}, ("clear", None)),
    ("invert", {"status": "round-trip"}, ("unassessed", "round-trip")),
    ("invert", {"status": "error", "error": "boom"}, ("unassessed", "error")),
    ("invert", {"item": "another"}, ("unassessed", "missing")),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[tuple[str, str | None]]]:
    """Cell -> (outcome, reason) of its two cases, after each change was made in a cell of its own."""
    folder = tmp_path_factory.mktemp("outcomes")
    run = Run(cells=[cell(number, 2, **LATENT) for number in range(len(CHANGES))], unit_size=2)
    journal = Journal(str(folder / "journal"))
    run.write(journal)
    for number, (kind, change, _) in enumerate(CHANGES):
        run.rewrite(journal, kind, number, {0: change})
    found: dict[int, list[tuple[str, str | None]]] = {}
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        for cell_id, outcome, reason in store._con.execute(
            "select cell_id, outcome, reason from outcomes order by cell_id, case_no"
        ).fetchall():
            found.setdefault(cell_id, []).append((outcome, reason))
    return found


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=lambda n: f"{CHANGES[n][0]}-{CHANGES[n][1]}")
def test_what_one_row_makes_of_its_case(outcomes: dict[int, list[tuple[str, str | None]]], number: int) -> None:
    assert outcomes[number] == [CHANGES[number][2], ("hit", None)]


PASSED: dict[str, Any] = {}
BLOCKED = {"blocked": True}
BROKEN = {"status": "error", "error": "boom", "blocked": None}
# Rulings of two filters on a case and its picture's other rows -> outcome, reason, and the outcome without filters. Odd
# cases are hits.
RULED: list[tuple[dict[str, Any], dict[str, Any], tuple[str, dict[str, Any]], tuple[str, str | None, str]]] = [
    (PASSED, PASSED, ("detect", {}), ("hit", None, "hit")),
    (BLOCKED, PASSED, ("detect", {}), ("blocked", None, "hit")),
    (PASSED, BLOCKED, ("detect", {}), ("blocked", None, "hit")),
    (BROKEN, PASSED, ("detect", {}), ("unassessed", "filter", "hit")),
    (BROKEN, BLOCKED, ("detect", {}), ("blocked", None, "hit")),
    ({"blocked": None}, PASSED, ("detect", {}), ("unassessed", "filter", "hit")),
    ({**BLOCKED, "status": "error"}, PASSED, ("detect", {}), ("unassessed", "filter", "hit")),
    ({"image_id": 5}, PASSED, ("detect", {}), ("unassessed", "filter", "hit")),
    ({"filter_id": 9}, PASSED, ("detect", {}), ("unassessed", "filter", "hit")),
    (BLOCKED, PASSED, ("detect", {"scores": None}), ("blocked", None, "unassessed")),
    (PASSED, PASSED, ("detect", {"scores": None}), ("unassessed", "not-measured", "unassessed")),
    (BROKEN, PASSED, ("detect", {"scores": None}), ("unassessed", "filter", "unassessed")),
    (BLOCKED, PASSED, ("generate", {"status": "degenerate"}), ("unassessed", "degenerate", "unassessed")),
    (BLOCKED, PASSED, ("invert", {"status": "round-trip"}), ("unassessed", "round-trip", "unassessed")),
]


def test_what_rulings_make_of_a_case(tmp_path: Path) -> None:
    filters = [{"filter_id": 1, "name": "words"}, {"filter_id": 2, "name": "clip"}]
    cells = [cell(number, 2, filters=filters, **LATENT) for number in range(len(RULED))]
    run, journal = Run(cells=[*cells, cell(len(RULED), 2)], unit_size=2), Journal(str(tmp_path / "journal"))
    run.write(journal)
    for number, (first, second, (kind, change), _) in enumerate(RULED):
        run.rewrite(journal, "filter", 2 * number, {1: first})
        run.rewrite(journal, "filter", 2 * number + 1, {1: second})
        run.rewrite(journal, kind, number, {1: change})
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        found = store._con.execute(
            "select outcome, reason, unfiltered from outcomes where case_no = 1 order by cell_id"
        ).fetchall()
        rates = store._con.execute(
            "select cell_id, hits, assessed, blocked, unfiltered_hits, unfiltered_assessed from mart_crr order by cell_id"
        ).fetchall()
        over = store._con.execute(
            "select cell_id, planned, blocked, passed, undecided from mart_blocking order by cell_id"
        ).fetchall()
        single = store._con.execute(
            "select filter, cases, blocked, passed from mart_filters where cell_id = 1 order by filter"
        ).fetchall()
        published = store.publish(tmp_path / "published")
    assert found == [*(expected for *_, expected in RULED), ("hit", None, "hit")]
    for (cell_id, hits, assessed, blocked, unfiltered, whole), (outcome, _, without) in zip(rates, found, strict=True):
        assert (hits, blocked) == (outcome == "hit", outcome == "blocked"), cell_id
        assert assessed == 1 + (outcome != "unassessed")  # the other case is clear
        assert (unfiltered, whole) == (without == "hit", 1 + (without != "unassessed"))
    assert over[1] == (1, 2, 1, 1, 0) and over[3] == (3, 2, 0, 1, 1) and over[12] == (12, 2, 0, 1, 1)
    assert len(over) == len(RULED)
    assert single == [("clip", 2, 0, 2), ("words", 2, 1, 1)]
    wrong = {check.name for check in run_checks(published, "run-1") if check.status != "passed"}
    assert not {"outcome_contradicts_filters", "outcome_not_one_of_three", "outcome_contradicts_scores"} & wrong
    assert not {name for name in wrong if name.startswith(("assessed_", "outcomes_"))}


@pytest.mark.parametrize(
    ("fields", "scores", "expected"),
    [
        ({"score_floor": 0.2}, {}, ("clear", None)),  # no box above the floor
        ({"score_floor": 0.2}, {"ring": 0.3}, ("clear", None)),
        ({"score_floor": 0.2}, {"ring": 0.6}, ("hit", None)),
        ({"score_floor": 0.2, "threshold": 0.1}, {}, ("unassessed", "not-measured")),  # the floor hides the answer
        ({"score_floor": 0.0}, {}, ("unassessed", "not-measured")),
    ],
)
def test_a_label_without_a_score_is_clear_only_below_a_known_floor(
    tmp_path: Path, fields: dict[str, Any], scores: dict[str, float], expected: tuple[str, str | None]
) -> None:
    run, journal = Run(cells=[cell(0, 1)], instruments=[instrument(**fields)]), Journal(str(tmp_path / "journal"))
    run.write(journal)
    run.rewrite(journal, "detect", 0, {0: scored(**scores)})
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        assert store._con.execute("select outcome, reason from outcomes").fetchall() == [expected]


def test_a_subject_without_a_counting_rule_is_not_measured(tmp_path: Path) -> None:
    run, journal = Run(cells=[cell(0, 1, subject="moon")]), Journal(str(tmp_path / "journal"))
    run.write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        rows = store._con.execute("select reason, example from mart_unassessed").fetchall()
    assert rows == [("not-measured", "no counting rule says which labels of this detector mean the subject")]


def test_the_mart_of_latents_counts_those_that_passed_the_round_trip(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    run = Run(cells=[cell(0, 6, **LATENT), cell(1, 2, scenario="latent-whitebox")], unit_size=6)
    run.write(journal)
    missed = [{"residual_max": 1e-3}, {"residual_max": NAN}, {"psnr_roundtrip_db": NAN}, {"status": "error"}]
    run.rewrite(journal, "invert", 0, {n: {**change, "nll_per_dim": 9.0} for n, change in enumerate(missed)})
    run.rewrite(journal, "invert", 1, {0: {"residual_max": 1.0}})  # this cell asks for nothing
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        rows = store._con.execute("select cell_id, latents, nll_high from mart_latents order by cell_id").fetchall()
        failed = store._con.execute("select failed_gate from mart_round_trip order by cell_id").fetchall()
    assert rows == [(0, 2, 1.0), (1, 2, 1.0)]
    assert failed == [(4,), (0,)]


# One fault per check, as SQL on a healthy index: a target cell (0), its backbone control (1) and a black control (2).
FAULTS = {
    "assessed_despite_attack": "update cases set attack_unit_id = 7, attack_item_id = 7 where cell_id = 0",
    "assessed_despite_round_trip": "update inversions set residual_max = 1",
    "assessed_without_picture": "delete from images where image_id in (select image_id from outcomes)",
    "backbone_control_missing": "update cells set control = null where cell_id = 1",
    "black_control_not_recognised": "update outcomes set outcome = 'clear', reason = null where cell_id = 2",
    "case_planned_twice": "update cases set case_no = 0",
    "case_without_cell": "delete from cells where cell_id = 2",
    "case_without_unit": "delete from planned_units where kind = 'generate'",
    "image_counted_twice": "update cases set image_id = 7 where cell_id = 0",
    "instrument_mismatch": "insert into instruments by name select * replace ('b' as weights_sha256) from instruments",
    "measurement_of_unplanned_image": "update measurements set image_id = 7",
    "measurement_without_instrument": "update measurements set instrument_id = 7",
    "outcome_contradicts_filters": "update outcomes set outcome = 'blocked', reason = null where cell_id = 0",
    "outcome_contradicts_scores": "update scores set score = 1 - score",
    "outcome_not_one_of_three": "update outcomes set reason = 'error' where outcome = 'hit'",
    "outcomes_do_not_add_up": "delete from outcomes where case_no = 0 and cell_id = 0",
    "outcomes_not_current": "update runs set outcomes_current = false",
    "planned_differs_from_cases": "update cells set planned = planned + 1 where cell_id = 0",
    "row_stored_twice": "insert into measurements from measurements",
    "rule_not_observable": "update rules set label = 'moon'",
    "same_pixels_counted_twice": "update images set pixel_sha256 = 'same'",
    "score_out_of_range": "update scores set score = 1.01 where label = 'disc'",
    "score_with_unknown_label": "update scores set label = 'moon' where label = 'disc'",
    "unit_identity_clash": "insert into planned_units by name select * replace ('x' as unit_key) from planned_units",
    "unit_row_count": "update loaded_units set loaded_rows = loaded_rows - 1 where kind = 'generate'",
    "unplanned_image": "insert into images by name select unit_id, 7 as image_id, status from images limit 1",
}
# Further faults that a check must find: a control that errored or never ran shows nothing.
OTHER_FAULTS = [
    ("black_control_not_recognised", f"update outcomes set reason = '{reason}' where cell_id = 2 and case_no = 1")
    for reason in ("error", "missing", "not-measured")
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("healthy")
    backbone = cell(1, 3, role="control", control="backbone", defence="none", **LATENT)
    run = Run(cells=[cell(0, 6, **LATENT), backbone, control(2, 2, "black")])
    journal = Journal(str(folder / "journal"))
    run.write(journal)
    black = len([unit for unit in run.units.values() if unit["kind"] == "generate"]) - 1
    run.rewrite(journal, "generate", black, {row: {"status": "degenerate", "pixel_sha256": "0"} for row in range(2)})
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        yield store.publish(folder / "published")


def test_a_healthy_run_passes_every_check(healthy: Path) -> None:
    assert [check for check in run_checks(healthy, "run-1") if check.status != "passed"] == []


def test_there_is_a_fault_for_every_check() -> None:
    assert set(FAULTS) == set(relations("checks"))


@pytest.mark.parametrize(("name", "fault"), [*sorted(FAULTS.items()), *OTHER_FAULTS])
def test_every_check_finds_its_fault(healthy: Path, tmp_path: Path, name: str, fault: str) -> None:
    path = tmp_path / "faulty.duckdb"
    path.write_bytes(healthy.read_bytes())
    with duckdb.connect(str(path)) as con:
        con.execute(fault)
    (check,) = [check for check in run_checks(path, "run-1") if check.name == name]
    assert check.status == "failed"
    assert check.rows > 0
    assert "=" in check.detail


def test_a_check_that_cannot_run_is_an_error_and_not_a_failure(healthy: Path, tmp_path: Path) -> None:
    path = tmp_path / "faulty.duckdb"
    path.write_bytes(healthy.read_bytes())
    with duckdb.connect(str(path)) as con:
        con.execute("drop table scores cascade")
    found = {check.name: check for check in run_checks(path, "run-1")}
    assert found["score_out_of_range"].status == "error"
    assert "could not run" in found["score_out_of_range"].detail
    assert found["case_planned_twice"].status == "passed"
