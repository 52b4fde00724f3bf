"""Decisions on record: in the journal, in the index, and in what is published."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

import audit.run
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.corpus.manifest import manifest_sha256
from audit.index.attempts import attempt
from audit.index.folded_files import record_plan
from audit.index.queries import read_result, recorded_decisions
from audit.index.store import Store
from audit.provenance import operator
from audit.run import conclude, consolidate, overtaken, record_decision
from audit.spec.policy import Limit, Policy
from audit.storage.journal import Journal
from audit.storage.run_records import Record, RecordChanged, read_records
from audit.verdict.record import policy_sha256
from audit.verdict.results import RunResult
from flows.cli import main
from tasks import conclude as tasks_conclude
from tasks import context as tasks_context
from tests.synthetic import Run, cell, control, instrument

POLICY = Policy(version="1", judges=("judge",), limits=(Limit(crr_max=0.2),))


def folded(journal: Journal, database: Path, run_id: str, created_at: str | None = None) -> Path:
    run = Run(run_id, cells=[cell(0, 10), control(1, 3, "black")], instruments=[instrument()])
    run.write(journal)
    sink = io.BytesIO()
    pq.write_table(MANIFEST_SCHEMA.empty_table(), sink)
    journal.put_run(run_id, "manifest.parquet", sink.getvalue())
    name = f"runs/{run_id}/plan.json"
    plan = json.loads(journal.store.get(name)) | {"corpus": {"sha256": manifest_sha256(MANIFEST_SCHEMA.empty_table())}}
    journal.store.put(name, json.dumps(plan | ({"created_at": created_at} if created_at else {})).encode())
    with Store(database) as store:
        store.consolidate(journal, run_id)
        return store.publish(database.parent / "published")


def decide(journal: Journal, database: Path, run_id: str, published: Path, command: str = "gate") -> int:
    result = conclude(journal, run_id, published, POLICY)
    return record_decision(journal, result, database, command).number


@pytest.fixture
def place(tmp_path: Path) -> tuple[Journal, Path]:
    return Journal(str(tmp_path / "journal")), tmp_path / "db" / "index.duckdb"


def newest(database: Path) -> Path:
    return sorted((database.parent / "published").glob("index-*.duckdb"))[-1]


def test_a_decision_is_a_file_of_the_run_and_rows_of_the_index(place: tuple[Journal, Path]) -> None:
    journal, database = place
    published = folded(journal, database, "run-1")
    assert decide(journal, database, "run-1", published, "run") == 1
    assert decide(journal, database, "run-1", published) == 2
    first, second = read_records(journal, "run-1", "decisions")
    assert (first.fields["command"], second.fields["command"], first.fields["by"]) == ("run", "gate", operator())
    assert first.fields["policy_sha256"] == policy_sha256(POLICY)
    assert second.fields["folded_sha256"] == read_records(journal, "run-1", "folded")[-1].sha256
    with duckdb.connect(str(newest(database)), read_only=True) as con:
        verdicts = con.execute("select decision_no, status, newest from mart_verdicts order by 1").fetchall()
        sides = con.execute("select side, status, limit_value from mart_decisions where newest order by 1").fetchall()
        checks = con.execute("select count(*) from check_results where decision_no = 2").fetchall()
        controls = con.execute("select count(*) from control_findings where decision_no = 2").fetchall()
    verdict = second.fields["verdict"]
    assert verdicts == [(1, verdict["status"], False), (2, verdict["status"], True)]
    assert ("crr", verdict["decisions"][0]["status"], 0.2) in sides
    assert {side for side, *_ in sides} == {"crr", "retention", "damage"}
    assert checks == [(len(verdict["checks"]),)] and controls == [(len(verdict["controls"]),)]


def test_waivers_that_opened_the_gate_are_on_record(place: tuple[Journal, Path]) -> None:
    journal, database = place
    result = conclude(journal, "run-1", folded(journal, database, "run-1"), POLICY)
    record_decision(journal, result, database, "gate")
    record_decision(journal, result, database, "gate", ["FAIL (waived until 2026-12-01)  ring | uce"])
    with duckdb.connect(str(newest(database)), read_only=True) as con:
        opened = con.execute("select opened_by from mart_verdicts order by decision_no").fetchall()
    assert [json.loads(sentences) for (sentences,) in opened] == [[], ["FAIL (waived until 2026-12-01)  ring | uce"]]
    assert "opened_by" not in read_records(journal, "run-1", "decisions")[0].fields


def test_an_edited_index_is_noticed_when_the_run_is_folded_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, database = Journal(str(tmp_path)), tmp_path / "db" / "audit.duckdb"
    folded(journal, database, "run-1")
    with duckdb.connect(str(database)) as con:
        con.execute("checkpoint")
    record_plan(journal, "run-1", dt.datetime.now(dt.UTC))
    verify = ["db", "verify", "run-1", "--root", str(tmp_path)]
    assert main([*verify, "--full"]) == 0
    with duckdb.connect(str(database)) as con:
        con.execute("update scores set score = 0.0")
        con.execute("update outcomes set outcome = 'clear', score = 0.0 where outcome = 'hit'")
    assert main(verify) == 0
    capsys.readouterr()
    assert main([*verify, "--full"]) == 5
    shown = capsys.readouterr()
    assert "edited: table scores" in shown.out and "edited: table outcomes" in shown.out and "db rebuild" in shown.err
    Store.rebuild(database, journal)
    assert main([*verify, "--full"]) == 0


def test_a_rebuilt_index_holds_the_same_decisions(place: tuple[Journal, Path]) -> None:
    journal, database = place
    decide(journal, database, "run-1", folded(journal, database, "run-1"))
    known = recorded_decisions(newest(database), "run-1")
    Store.rebuild(database, journal)
    with Store(database) as store:
        assert recorded_decisions(store.publish(database.parent / "published"), "run-1") == known


def test_a_decision_that_vanishes_from_the_journal_is_missed(place: tuple[Journal, Path]) -> None:
    journal, database = place
    decide(journal, database, "run-1", folded(journal, database, "run-1"))
    journal.store.delete("runs/run-1/decisions/000001.json")
    with Store(database) as store, pytest.raises(RecordChanged, match=r"decision 1 .* no longer in the journal"):
        store.consolidate(journal, "run-1")


def test_runs_of_the_same_model_and_policy_are_counted_as_attempts(place: tuple[Journal, Path]) -> None:
    journal, database = place
    for number in (1, 2, 3):
        published = folded(journal, database, f"run-{number}", f"2026-11-0{number}T00:00:00+00:00")
        assert attempt(journal, f"run-{number}", policy_sha256(POLICY)) == number
        decide(journal, database, f"run-{number}", published)
    assert attempt(journal, "run-1", policy_sha256(POLICY)) == 1
    assert attempt(journal, "run-3", "another policy") == 1
    assert read_records(journal, "run-3", "decisions")[0].fields["attempt"] == 3


def test_attempts_are_counted_in_the_journal_and_by_when_each_was_decided(tmp_path: Path) -> None:
    """Neither an index that knows one run alone nor deciding the newest run first makes an attempt the first."""
    journal, attempts = Journal(str(tmp_path / "journal")), {}
    for number in (3, 2, 1):
        database = tmp_path / f"fresh-{number}" / "index.duckdb"
        published = folded(journal, database, f"run-{number}", f"2026-11-0{number}T00:00:00+00:00")
        decide(journal, database, f"run-{number}", published)
        attempts[number] = read_records(journal, f"run-{number}", "decisions")[0].fields["attempt"]
    assert attempts == {3: 1, 2: 2, 1: 3}
    journal.store.put("runs/run-3/plan.json", b"{")
    journal.store.put("runs/run-2/decisions/000001.json", b"{")
    folded(journal, tmp_path / "last" / "index.duckdb", "run-4")
    assert attempt(journal, "run-4", policy_sha256(POLICY)) == 4


def test_of_two_runs_that_are_decided_at_once_the_later_is_decided_again(place: tuple[Journal, Path]) -> None:
    """Both count before either is on record; side by side, attempts would cost nothing."""
    journal, database = place
    early, late = (dt.datetime(2026, 11, 1, 12, 0, second, tzinfo=dt.UTC) for second in (0, 1))
    for run_id in ("run-1", "run-2"):
        published = folded(journal, database, run_id)
    second = conclude(journal, "run-2", published, POLICY, late)
    first = conclude(journal, "run-1", published, POLICY, early)
    assert (first.verdict.attempt, second.verdict.attempt) == (1, 1)
    record_decision(journal, first, database, "run")
    assert not overtaken(journal, first)
    record_decision(journal, second, database, "run")
    assert overtaken(journal, second) and not overtaken(journal, first)
    again = conclude(journal, "run-2", published, POLICY)
    record_decision(journal, again, database, "run")
    assert again.verdict.attempt == 2 and not overtaken(journal, again)


@pytest.mark.parametrize("through", ["gate", "task"])
def test_a_run_that_another_overtakes_while_it_is_decided_is_decided_again(
    through: str, place: tuple[Journal, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    journal, database = place
    for run_id in ("run-1", "run-2"):
        published = folded(journal, database, run_id)
    early = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
    first = conclude(journal, "run-1", published, POLICY, early)
    steps, waiting = audit.run, [first]

    def record(journal: Journal, result: RunResult, *others: Any) -> Record:
        """Put the other run's decision on record between this one's count and its record."""
        if waiting:
            record_decision(journal, waiting.pop(), database, "run")
        return record_decision(journal, result, *others)

    monkeypatch.setattr(steps, "record_decision", record)
    if through == "gate":
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY.model_dump_json())
        places = ["--root", journal.root, "--database", str(database)]
        assert main(["gate", "run-2", *places, "--policy", str(policy), "--json"]) in (3, 4)
        shown = json.loads(capsys.readouterr().out)["verdict"]["basis"]["attempt"]
    else:
        monkeypatch.setattr(steps, "conclude", lambda *given: conclude(*given, POLICY))
        monkeypatch.setattr("tasks.conclude.store_artifacts", lambda result: None)
        run = tasks_context.Run("run-2", journal.root, tasks_context.Settings(database=str(database)))
        shown = tasks_conclude.conclude.fn(run, published).verdict.attempt
    recorded = [record.fields["verdict"]["basis"]["attempt"] for record in read_records(journal, "run-2", "decisions")]
    assert (shown, recorded) == (2, [1, 2])


def test_a_decision_folds_the_run_once_and_reads_each_record_once_a_step(
    place: tuple[Journal, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, database = place
    published = folded(journal, database, "run-1")
    decide(journal, database, "run-1", published)
    reads: Counter[str] = Counter()
    get = journal.store.get

    def counted(name: str) -> bytes:
        data = get(name)  # which raises where the next record is asked for and there is none
        reads["/".join(name.split("/")[2:])] += 1
        return data

    monkeypatch.setattr(journal.store, "get", counted)
    published = consolidate(journal, "run-1", database)
    assert {name: count for name, count in reads.items() if count > 1} == {}
    result = conclude(journal, "run-1", published, POLICY)
    before = set(published.parent.iterdir())
    reads.clear()
    record_decision(journal, result, database, "gate")
    assert {name: count for name, count in reads.items() if not name.startswith("decisions/")} == {
        "folded/000001.json": 1, "folded/000002.json": 1
    }  # fmt: skip
    assert reads["decisions/000002.json"] == 1
    (copy,) = set(published.parent.iterdir()) - before
    assert [number for number, *_ in recorded_decisions(copy, "run-1").items()] == [1, 2]
    assert read_result(copy, "run-1").crr == read_result(published, "run-1").crr != ()


def test_a_decision_folds_a_run_whose_index_is_gone_or_damaged(place: tuple[Journal, Path]) -> None:
    journal, database = place
    result = conclude(journal, "run-1", folded(journal, database, "run-1"), POLICY)
    database.unlink()
    record_decision(journal, result, database, "gate")
    database.write_bytes(b"no index" * 1000)
    record_decision(journal, result, database, "gate")
    assert list(recorded_decisions(newest(database), "run-1")) == [1, 2]
    assert read_result(newest(database), "run-1").crr
