"""What rounds of the campaign have found, each with the parts that it takes to see it again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pytest

from audit.index.store import latest
from audit.run import conclude, record_decision
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, append, read_records
from tests.chaos.conftest import Storage
from tests.index.test_decisions import POLICY, folded

pytestmark = pytest.mark.server


def test_a_record_whose_first_answer_was_lost_is_written_once(quiet: Storage) -> None:
    journal = Journal(quiet.store.root)
    quiet.harm("s3-duplicate-put", 1, seed=1)  # the answer to the second PUT: the name is taken
    now = dt.datetime.now(dt.UTC)
    record = append(journal, "run-1", DECISIONS, now, lambda earlier: {"by": f"command {len(earlier)}"})
    assert quiet.proxy.hits == 1
    assert read_records(journal, "run-1", DECISIONS) == [record]


def test_a_decision_is_published_though_a_listing_does_not_show_it_yet(quiet: Storage, tmp_path: Path) -> None:
    journal, database = Journal(quiet.store.root), tmp_path / "db" / "index.duckdb"
    result = conclude(journal, "run-2", folded(journal, database, "run-2"), POLICY)
    quiet.harm("s3-stale-listing", 1_000)
    assert journal.store.entries("runs/run-2/decisions") == []
    record_decision(journal, result, database, "run")
    assert journal.store.entries("runs/run-2/decisions") == []
    with duckdb.connect(str(latest(database.parent / "published")), read_only=True) as con:
        assert con.execute("select decision_no, status from mart_verdicts").fetchall() == [(1, result.verdict.status)]
