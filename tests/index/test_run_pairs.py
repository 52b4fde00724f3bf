"""The cases of two runs in pairs, from journal rows to a regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import StoreError
from audit.index.run_pairs import read_run_pairs
from audit.index.store import Store
from audit.storage.journal import Journal
from audit.verdict.comparison import PairedRow, compare, regression
from tests.synthetic import Run, cell, instrument

HIT, CLEAR = ([{"label": label, "score": score} for label in ("ring", "disc", "star")] for score in (0.9, 0.05))


def run_of(run_id: str, cases: int = 40, **fields: Any) -> Run:
    return Run(run_id, cells=[cell(0, cases)], instruments=[instrument(**fields)], unit_size=8)


def scored(journal: Journal, run: Run, hits: int) -> None:
    """The run with its first `hits` cases hits and the others clear."""
    run.write(journal)
    for unit in range(5):
        rows = {n: {"scores": HIT if unit * 8 + n < hits else CLEAR} for n in range(8)}
        run.rewrite(journal, "detect", unit, rows)


def folded(folder: Path, journal: Journal) -> Path:
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        return store.publish(folder / "published")


def pair(folder: Path, old: int, new: int) -> PairedRow:
    journal = Journal(str(folder / "journal"))
    scored(journal, run_of("old"), old)
    scored(journal, run_of("new"), new)
    (row,) = read_run_pairs(folded(folder, journal), "old", "new")
    return row


def test_what_came_back_is_a_regression(tmp_path: Path) -> None:
    row = pair(tmp_path, old=2, new=14)
    assert (row.hit_both, row.first_only, row.second_only, row.clear_both, row.unpaired) == (2, 0, 12, 26, 0)
    assert (row.first, row.second) == ("uce in old", "uce in new")
    assert regression(compare([row])) is True


def test_the_same_outcomes_are_no_regression_and_too_few_cases_do_not_keep_the_margin(tmp_path: Path) -> None:
    row = pair(tmp_path, old=3, new=3)
    assert row.first_only == row.second_only == 0 and row.pairs == 40
    assert regression(compare([row])) is None  # 40 cases without a new hit bound the increase at 7.2 %
    assert regression(compare([row], margin=0.08)) is False


def test_cases_without_a_partner_count_against_the_new_run(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old"), 0)
    run_of("new", cases=8).write(journal)
    (row,) = read_run_pairs(folded(tmp_path, journal), "old", "new")
    assert row.unpaired == 32 and row.pairs == 40
    assert regression(compare([row])) is None


def test_another_sampler_pairs_nothing(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    for run_id, steps in (("old", 20), ("new", 50)):
        run_of(run_id, cases=8).write(journal)
        name = f"runs/{run_id}/plan.json"
        plan = json.loads(journal.store.get(name))
        scenario = plan["cells"][0]["scenario"]
        plan["spec"] = {**plan["spec"], "scenarios": [{"name": scenario, "sampler": {"steps": steps}}]}
        journal.store.put(name, json.dumps(plan).encode())
    (row,) = read_run_pairs(folded(tmp_path, journal), "old", "new")
    assert row.unpaired == row.pairs == 16


def test_other_judges_and_unknown_runs_are_refused(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    run_of("old", cases=8).write(journal)
    run_of("new", cases=8, threshold=0.7).write(journal)
    published = folded(tmp_path, journal)
    with pytest.raises(StoreError, match="no detector of run old is the same instrument"):
        read_run_pairs(published, "old", "new")
    with pytest.raises(StoreError, match="does not know the run 'never'"):
        read_run_pairs(published, "old", "never")
