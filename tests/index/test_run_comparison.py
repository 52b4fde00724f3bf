"""Two runs side by side, from journal rows to the verdict of a regression."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from audit.errors import StoreError
from audit.index.run_comparison import OtherInstruments, read_comparison
from audit.index.run_pairs import read_run_pairs
from audit.index.store import Store
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.comparison import PairedRow
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import Comparison, worse
from tests.index.pairs import FilteredRun, run_of, scored
from tests.synthetic import Run, cell, instrument


def folded(folder: Path, journal: Journal) -> Path:
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        return store.publish(folder / "published")


def compared(folder: Path, old: Collection[int], new: Collection[int], **options: Any) -> Comparison:
    journal = Journal(str(folder / "journal"))
    scored(journal, run_of("old"), old)
    scored(journal, run_of("new"), new)
    return read_comparison(folded(folder, journal), "old", "new", **options)


def change_spec(journal: Journal, run_id: str, **fields: Any) -> None:
    name = f"runs/{run_id}/plan.json"
    plan = json.loads(journal.store.get(name))
    plan["spec"] = {**plan["spec"], **fields}
    journal.store.put(name, json.dumps(plan).encode())


def test_what_came_back_is_a_regression(tmp_path: Path) -> None:
    comparison = compared(tmp_path, range(2), range(14))
    (one,) = comparison.cells
    row: PairedRow = one.row
    assert (row.hit_both, row.first_only, row.second_only, row.clear_both, row.unpaired) == (2, 0, 12, 26, 0)
    assert (row.first, row.second) == ("uce in old", "uce in new")
    assert comparison.status is one.status is VerdictStatus.FAIL and comparison.regression is True
    assert one.decision.p_worse == pytest.approx(0.5**12)
    assert comparison.reasons == (
        "ring through uce in text, by judge: 12 of 40 cases came back and 0 are held now (p 0.00024, corrected): it got worse.",
    )
    assert [(c.came_back, c.old_case_no, c.new_case_no, c.seed) for c in comparison.changes] == [
        (True, n, n, n) for n in range(2, 14)
    ]


def test_an_improvement_alone_shows_no_regression_within_the_margin_that_it_can_bound(tmp_path: Path) -> None:
    comparison = compared(tmp_path, range(14), (), margin=0.08)
    (one,) = comparison.cells
    assert comparison.status is VerdictStatus.PASS and one.decision.better
    assert "at most 7.3 % came back, within the margin of 8 %" in one.reason
    assert {c.came_back for c in comparison.changes} == {False}


def test_the_same_outcomes_are_no_regression_and_too_few_cases_do_not_keep_the_margin(tmp_path: Path) -> None:
    comparison = compared(tmp_path, range(3), range(3))
    assert comparison.status is VerdictStatus.INCONCLUSIVE and comparison.regression is None
    assert "up to 7.3 % may have come back, more than the margin of 5 %" in comparison.reasons[0]


def test_cases_of_which_one_picture_was_not_read_count_as_come_back(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old"), ())
    scored(journal, run_of("new"), (), unread=range(6))
    comparison = read_comparison(folded(tmp_path, journal), "old", "new", margin=0.08)
    (one,) = comparison.cells
    assert one.row.clear_unassessed == 6 and comparison.status is VerdictStatus.INCONCLUSIVE
    assert "6 have no two outcomes and count as come back" in one.reason


def test_cases_without_a_partner_count_against_the_new_run_and_say_why(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old"), ())
    scored(journal, run_of("new", cases=8), ())
    comparison = read_comparison(folded(tmp_path, journal), "old", "new", margin=0.5)
    (one,) = comparison.cells
    assert one.row.unpaired == 32 and one.row.pairs == 40 and comparison.pairs == 8
    assert comparison.status is VerdictStatus.INCONCLUSIVE
    (unpaired,) = comparison.unpaired_of(one)
    assert (unpaired.side, unpaired.reason, unpaired.cases) == ("old", "seed", 32)


def test_a_cell_that_one_run_lacks_keeps_the_verdict_open(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    two = [cell(0, 8), cell(1, 8, defence="esd")]
    scored(journal, Run("old", cells=two, unit_size=8), ())
    scored(journal, run_of("new", cases=8), ())
    comparison = read_comparison(folded(tmp_path, journal), "old", "new", margin=0.5)
    assert {c.defence: c.status for c in comparison.cells} == {
        "esd": VerdictStatus.INCONCLUSIVE,
        "uce": VerdictStatus.PASS,
    }
    assert [(u.defence, u.side, u.reason, u.cases) for u in comparison.unpaired] == [("esd", "old", "cell", 8)]


def test_other_prompts_are_told_from_other_seeds(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old", cases=8), ())
    run = run_of("new", cases=8)
    for case in run.cases[:3]:
        case["prompt"] = "a drawing of a ring"
    scored(journal, run, ())
    comparison = read_comparison(folded(tmp_path, journal), "old", "new")
    assert {(u.side, u.reason, u.cases) for u in comparison.unpaired} == {("old", "prompt", 3), ("new", "prompt", 3)}


def test_another_sampler_pairs_nothing_and_is_named(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    for run_id, steps in (("old", 20), ("new", 50)):
        run_of(run_id, cases=8).write(journal)
        change_spec(journal, run_id, scenarios=[{"name": "text", "cases": steps, "sampler": {"steps": steps}}])
    with pytest.raises(StoreError) as refused:
        read_comparison(folded(tmp_path, journal), "old", "new")
    assert refused.value.what == (
        "the runs old and new have no case in common: the attack has other settings in the other run "
        "(sampler.steps 20, then 50)"
    )


def test_runs_that_share_no_case_are_refused(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, Run("old", cells=[cell(0, 8, defence="esd")], unit_size=8), ())
    scored(journal, run_of("new", cases=8), ())
    with pytest.raises(StoreError, match="have no case in common: the other run has no such cell"):
        read_comparison(folded(tmp_path, journal), "old", "new")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"instrument_id": 12, "weights_sha256": "1" * 64}, "judge: weights_sha256 is 0000.* in the old run and 1111"),
        ({"instrument_id": 12, "version": "2"}, "judge: version is 1 in the old run and 2 in the new one"),
        (
            {"instrument_id": 12, "labels": ["ring", "disc"]},
            "judge: labels is ring, disc, star in .* and ring, disc in",
        ),
        ({"instrument_id": 12}, "judge: identity is 11"),
        ({"threshold": 0.7}, "judge: threshold is 0.5 in the old run and 0.7 in the new one"),
        ({"detector": "other"}, "other is not in the old run"),
    ],
)
def test_other_instruments_are_refused_by_what_differs(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    journal = Journal(str(tmp_path / "journal"))
    run_of("old", cases=8).write(journal)
    run_of("new", cases=8, **fields).write(journal)
    with pytest.raises(OtherInstruments, match=said) as refused:
        read_comparison(folded(tmp_path, journal), "old", "new")
    assert refused.value.next_step and refused.value.next_step.endswith("erasure-audit compare old new --rescore")


def test_the_rows_alone_are_those_of_the_detectors_that_are_the_same(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    for run_id, hits, weights in (("old", 1, "0" * 64), ("new", 3, "1" * 64)):
        judges = [instrument(), instrument("second", 12 if run_id == "old" else 13, weights_sha256=weights)]
        scored(journal, Run(run_id, cells=[cell(0, 8)], instruments=judges, unit_size=8), range(hits))
    run_of("judged-otherwise", cases=8, threshold=0.7).write(journal)
    published = folded(tmp_path, journal)
    (row,) = read_run_pairs(published, "old", "new")
    assert (row.detector, row.hit_both, row.second_only, row.clear_both, row.unpaired) == ("judge", 1, 2, 5, 0)
    with pytest.raises(StoreError, match="no detector of run old is the same instrument"):
        read_run_pairs(published, "old", "judged-otherwise")
    with pytest.raises(StoreError, match="does not know the run 'never'"):
        read_run_pairs(published, "old", "never")


@pytest.mark.parametrize("planned", ["clear", "unassessed"])
@pytest.mark.parametrize(("counting", "cleared", "unassessed"), [("clear", 3, 0), ("unassessed", 0, 3)])
def test_what_filters_block_counts_as_the_policy_says(
    tmp_path: Path, planned: str, counting: str, cleared: int, unassessed: int
) -> None:
    """Three cases that were hits are blocked in the new run: no detector has found them to be gone."""
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old", cases=8), range(3))
    filters = [{"filter_id": 5, "name": "words"}]
    new = FilteredRun("new", cells=[cell(0, 8, filters=filters)], unit_size=8, blocked=range(3), counting=planned)
    scored(journal, new, range(3))
    new.write_units(journal, ("filter",))
    policy = Policy.model_validate(
        {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"], "blocked": counting}
    )
    published = folded(tmp_path, journal)
    (one,) = read_comparison(published, "old", "new", policy=policy).cells
    assert (one.row.first_only, one.row.hit_unassessed, one.row.hit_both) == (cleared, unassessed, 0)
    (row,) = read_run_pairs(published, "old", "new")
    assert (row.first_only, row.hit_unassessed) == ((0, 3) if planned == "unassessed" else (3, 0))


def test_a_threshold_of_the_policy_counts_in_both_runs(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    run_of("old", cases=8).write(journal)
    run_of("new", cases=8, threshold=0.7).write(journal)
    policy = Policy.model_validate(
        {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"], "thresholds": {"judge": 0.95}}
    )
    comparison = read_comparison(folded(tmp_path, journal), "old", "new", policy=policy)
    (one,) = comparison.cells
    assert one.row.clear_both == 8  # hits score 0.9


def test_two_judges_are_corrected_together_and_each_must_keep_the_margin(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    judges = [instrument(), instrument("second", 12)]
    for run_id in ("old", "new"):
        scored(
            journal,
            Run(run_id, cells=[cell(0, 40)], instruments=judges, unit_size=8),
            range(5 if run_id == "new" else 0),
        )
    comparison = read_comparison(folded(tmp_path, journal), "old", "new")
    assert [c.detector for c in comparison.cells] == ["judge", "second"]
    assert all(c.decision.p_worse == pytest.approx(1 / 32) for c in comparison.cells)
    assert all(c.decision.p_worse_adjusted == pytest.approx(1 / 16) for c in comparison.cells)
    assert comparison.status is VerdictStatus.INCONCLUSIVE  # one judge alone would have been below 5 %


def test_unknown_runs_and_a_run_and_itself_are_refused(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    run_of("new", cases=8).write(journal)
    published = folded(tmp_path, journal)
    with pytest.raises(StoreError, match="does not know the run 'never'"):
        read_comparison(published, "never", "new")
    with pytest.raises(StoreError, match="new is compared with itself"):
        read_comparison(published, "new", "new")


def test_what_a_reader_has_to_know_stands_beside_the_verdict(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    scored(journal, run_of("old", cases=8, system={"name": "Painter", "version": "1"}), ())
    scored(journal, run_of("new", cases=8, system={"name": "Sculptor"}), ())
    comparison = read_comparison(folded(tmp_path, journal), "old", "new")
    assert comparison.notes == ("These are runs of two systems: Painter and Sculptor.",)
    assert (comparison.old.system, comparison.old.system_version) == ("Painter", "1")


def test_the_worse_of_two_statuses() -> None:
    ok, fail, open_ = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE
    assert [worse(ok, ok), worse(ok, open_), worse(open_, fail), worse(fail, ok)] == [ok, open_, fail, fail]


def test_cases_are_paired_whatever_their_numbers_and_those_that_are_alike_in_turn(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    two = [cell(0, 8), cell(1, 8, defence="esd")]
    old, new = (Run(name, cells=two, instruments=[instrument()], unit_size=8) for name in ("old", "new"))
    for run in (old, new):
        for case in run.cases:  # the cases of the first cell are alike by twos
            case["seed"] = case["case_no"] // 2 if case["cell_id"] == 0 else case["case_no"]
    for case in new.cases:
        if case["cell_id"] == 1:  # those of the second have their numbers in the opposite order
            case["seed"] = 7 - case["seed"]
    scored(journal, old, {0, 2})
    scored(journal, new, {1, 2})
    comparison = read_comparison(folded(tmp_path, journal), "old", "new", margin=0.5)
    counts = {
        c.defence: (c.row.hit_both, c.row.first_only, c.row.second_only, c.row.unpaired) for c in comparison.cells
    }
    assert counts == {"uce": (1, 1, 1, 0), "esd": (0, 2, 2, 0)}
    changes = {(c.defence, c.came_back, c.old_case_no, c.new_case_no, c.seed) for c in comparison.changes}
    assert changes == {
        ("uce", False, 0, 0, 0), ("uce", True, 1, 1, 0),
        ("esd", False, 0, 7, 0), ("esd", False, 2, 5, 2), ("esd", True, 6, 1, 6), ("esd", True, 5, 2, 5),
    }  # fmt: skip
    assert comparison.unpaired == ()
