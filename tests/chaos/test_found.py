"""What rounds of the campaign have found, each with the parts that it takes to see it again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pytest

from audit.index.integrity import changes
from audit.index.store import Store
from audit.plan.document import KINDS
from audit.spec.policy import Limit, Policy
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, append, read_records
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.record import record_verdict
from tests.chaos.conftest import Storage
from tests.synthetic import Run, cell, instrument

pytestmark = pytest.mark.server


def test_a_record_whose_first_answer_was_lost_is_written_once(quiet: Storage) -> None:
    journal = Journal(quiet.store.root)
    quiet.harm("s3-duplicate-put", 1, seed=1)  # the answer to the second PUT: the name is taken
    now = dt.datetime.now(dt.UTC)
    record = append(journal, "run-1", DECISIONS, now, lambda earlier: {"by": f"command {len(earlier)}"})
    assert quiet.proxy.hits == 1
    assert read_records(journal, "run-1", DECISIONS) == [record]


def test_a_decision_is_folded_though_a_listing_does_not_show_it_yet(quiet: Storage, tmp_path: Path) -> None:
    journal = Journal(quiet.store.root)
    Run("run-2", cells=[cell(0, 2)], instruments=[instrument()]).write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, "run-2")
        quiet.harm("s3-stale-listing", 1_000)
        assert journal.store.entries("runs/run-2/decisions") == []
        verdict = Verdict(VerdictStatus.PASS, ("a reason",), (), ())
        policy = Policy(version="1", judges=("judge",), limits=(Limit(crr_max=0.2),))
        record_verdict(journal, "run-2", "run", "tester", policy, verdict, None)
        assert journal.store.entries("runs/run-2/decisions") == []
        store.load_decisions(journal, "run-2")
        store.load_decisions(journal, "run-2")
        copy = store.publish(tmp_path / "published")
    with duckdb.connect(str(copy), read_only=True) as con:
        assert con.execute("select decision_no, status from mart_verdicts").fetchall() == [(1, "PASS")]


def test_units_are_folded_and_found_intact_though_a_listing_does_not_show_them_yet(
    quiet: Storage, tmp_path: Path
) -> None:
    journal = Journal(quiet.store.root)
    quiet.harm("s3-stale-listing", 1_000)
    before = {kind: journal.listing(kind).complete for kind in KINDS}
    Run("run-3", cells=[cell(0, 8)], instruments=[instrument()]).write(journal)
    assert {kind: journal.listing(kind).complete for kind in KINDS} == before
    with Store(tmp_path / "index.duckdb") as store:
        assert store.consolidate(journal, "run-3").units == 4  # two that generate, two that detect
        assert store.consolidate(journal, "run-3").units == 0
        copy = store.publish(tmp_path / "published")
    assert quiet.proxy.hits > 0
    with duckdb.connect(str(copy), read_only=True) as con:
        assert con.execute("select units_complete, units from mart_runs").fetchall() == [(4, 4)]
    assert changes(journal, "run-3") == []
    quiet.proxy.rule = None
    with Store(tmp_path / "index.duckdb") as store:
        assert store.consolidate(journal, "run-3").units == 0, "what was asked for by name has the stamp of a listing"
