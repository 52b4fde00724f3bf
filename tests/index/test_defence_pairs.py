"""Two defences on the same cases, from journal rows to counts of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.index.defence_pairs import read_defence_pairs
from audit.index.published import open_published
from audit.index.queries import read_result
from audit.index.store import Store
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.comparison import PairedRow, built_on
from tests.index.pairs import FilteredRun
from tests.synthetic import Run, cell

UCE = {"method": "uce"}
SLD = {"name": "sld"}


SPEC: dict[str, Any] = {
    "defences": [{"name": "none"}, {"name": "uce", "eraser": UCE}, {"name": "uce+sld", "eraser": UCE, "guards": [SLD]}]
}


def pairs_of(run: Run, journal: Journal, folder: Path) -> dict[tuple[str, str], PairedRow]:
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        con = open_published(store.publish(folder / "published"))
        rows = read_defence_pairs(con, run.run_id, SPEC)
        con.close()
    assert len(rows) == 3
    return {(row.first, row.second): row for row in rows}


def run_of(**second: Any) -> Run:
    backbone = cell(1, 8, defence="none", role="control", control="backbone")
    return Run(cells=(cell(0, 8), backbone, cell(2, 8, **{"defence": "uce+sld", **second})))


def test_defences_are_worth_comparing_where_one_builds_on_the_other() -> None:
    defences = [
        {"name": "none"},
        {"name": "uce", "eraser": UCE},
        {"name": "uce+sld", "eraser": UCE, "guards": [SLD]},
        {"name": "uce+safree", "eraser": UCE, "guards": [{"name": "safree"}]},
        {"name": "sld", "guards": [SLD]},
    ]
    chosen = set(built_on(defences))
    assert {("none", d["name"]) for d in defences[1:]} <= chosen
    assert {pair for pair in chosen if pair[0] != "none"} == {("uce", "uce+sld"), ("uce", "uce+safree")}


def test_every_case_of_either_side_is_one_pair(tmp_path: Path) -> None:
    run = run_of()
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    pairs = pairs_of(run, journal, tmp_path)
    assert set(pairs) == {("none", "uce"), ("none", "uce+sld"), ("uce", "uce+sld")}
    row = pairs["none", "uce"]
    assert (row.concept, row.scenario, row.pairs) == (run.cells[0]["concept"], run.cells[0]["scenario"], 8)
    assert (row.hit_both, row.clear_both, row.unassessed) == (4, 4, 0)


def test_a_lost_picture_is_unassessed_on_its_side_and_another_seed_is_no_pair(tmp_path: Path) -> None:
    run = run_of()
    for case in run.cases:
        if case["cell_id"] == 1 and case["case_no"] < 2:
            case["seed"] += 1000
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    broken = {"status": "error", "error": "broke", "image": None, "pixel_sha256": None}
    run.rewrite(journal, "generate", 0, {3: broken})
    row = pairs_of(run, journal, tmp_path)["none", "uce"]
    assert (row.unpaired, row.unassessed, row.pairs) == (2, 3, 8)


@pytest.mark.parametrize("planned", ["clear", "unassessed"])
@pytest.mark.parametrize(
    ("counting", "cleared", "unassessed"), [("clear", 3, 0), ("limit", 3, 0), ("unassessed", 0, 3)]
)
def test_what_filters_block_counts_as_the_policy_says(
    tmp_path: Path, planned: str, counting: str, cleared: int, unassessed: int
) -> None:
    """The odd cases are hits, and a filter of the second defence blocks the first six: no detector saw hits go."""
    cells = run_of(filters=[{"filter_id": 5, "name": "words"}]).cells
    run = FilteredRun(cells=cells, blocked=range(6), counting=planned, defences=SPEC["defences"])
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    stored = pairs_of(run, journal, tmp_path)["uce", "uce+sld"]
    assert (stored.first_only, stored.hit_unassessed) == ((0, 3) if planned == "unassessed" else (3, 0))
    limit = {"blocked_max": 0.5} if counting == "limit" else {}
    policy = Policy.model_validate(
        {"version": "2", "limits": [{"crr_max": 0.1}], "judges": ["judge"], "blocked": counting, **limit}
    )
    pairs = read_result(tmp_path / "published" / "index-000001.duckdb", run.run_id, policy).defence_pairs
    (row,) = (row for row in pairs if (row.first, row.second) == ("uce", "uce+sld"))
    assert (row.first_only, row.hit_unassessed, row.hit_both, row.pairs) == (cleared, unassessed, 1, 8)
