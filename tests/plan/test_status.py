"""How far a run is, told from the journal alone."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from audit.errors import JournalError
from audit.plan.document import KINDS, Plan
from audit.plan.status import run_status
from audit.progress import Pace
from audit.storage.journal import SCHEMAS, Journal, StorageUnavailable
from audit.storage.run_records import DECISIONS, append
from audit.weights.references import ModelRef, resolve_model
from flows.cli import main
from flows.commands import status
from tests.machines import REPOSITORY, fresh_environment
from tests.plan.test_planner import plan_of
from tests.servers import moto_server, use

BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    backbone: ModelRef = resolve_model(str(tiny_folder))
    return plan_of(backbone)


def write(journal: Journal, key: str, at: dt.datetime, *, status: str = "ok") -> None:
    """Write one unit of a single picture as if at this time."""
    row = {"image_id": 0, "status": status}
    journal.write("generate", key, pa.Table.from_pylist([row], schema=SCHEMAS["generate"]), {})
    suffix = "failed.parquet" if status == "error" else "parquet"
    os.utime(journal.store.path(f"units/generate/{key[:2]}/{key}.{suffix}"), (at.timestamp(),) * 2)


def minutes(count: float) -> dt.datetime:
    return BEGAN + dt.timedelta(minutes=count)


def test_units_of_a_stage_are_counted_and_the_rate_is_that_of_the_last_minutes(plan: Plan, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    plan.write(journal)
    units = [unit.key for unit in plan.units_of("generate")]
    for key, at in zip(units, (-500.0, 1.0, 100.0, 102.0, 104.0), strict=False):  # the first by an earlier run
        write(journal, key, minutes(at))
    write(journal, units[5], minutes(105), status="error")
    write(journal, "f" * 64, minutes(106))  # another run's
    found = run_status(journal, "run")
    stage = next(stage for stage in found.stages if stage.kind == "generate")
    assert (stage.planned, stage.complete, stage.failed) == (len(units), 5, 1)
    assert stage.rate == pytest.approx(2 / 240)
    assert stage.seconds_left == pytest.approx(120 * (len(units) - 5))
    assert found.written_at == minutes(105)  # a unit that fails is a sign of life
    assert not found.complete and found.verdict is None
    assert not found.quiet(minutes(130)) and found.quiet(minutes(136))
    assert {stage.rate for stage in found.stages} - {stage.rate} == {None}  # nothing is known of the others


def test_the_command_names_the_way_on_for_a_run_that_nobody_computes(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.write(Journal(str(tmp_path)))
    assert main(["status", "run", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "erasure-audit resume run" in printed and "generate" in printed
    assert main(["status", "run", "--root", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["quiet"] and not document["complete"] and document["written_at"] is None


def rows(kind: str, state: str) -> pa.Table:
    """One row of a unit of any kind, with nothing in it but what must be there."""

    def least(field: pa.Field) -> Any:
        if field.name == "status":
            return state
        return None if field.nullable else "" if pa.types.is_string(field.type) else 0

    return pa.Table.from_pylist([{field.name: least(field) for field in SCHEMAS[kind]}], schema=SCHEMAS[kind])


def computed(journal: Journal, key: str, at: dt.datetime, host: str) -> None:
    """Write one complete unit as a machine did at this time."""
    journal.write("generate", key, rows("generate", "ok"), {"runtime": {"host": host, "device": "cpu"}})
    os.utime(journal.store.path(f"units/generate/{key[:2]}/{key}.parquet"), (at.timestamp(),) * 2)


def test_who_computes_is_named_and_a_silence_is_told_by_the_usual_time_between_units(
    plan: Plan, tmp_path: Path
) -> None:
    journal = Journal(str(tmp_path))
    plan.write(journal)
    units = [unit.key for unit in plan.units_of("generate")]
    for key, at, host in zip(units, (2.0, 4.0, 6.0), ("far", "near", "near"), strict=False):
        computed(journal, key, minutes(at), host)
    found = run_status(journal, "run")
    assert [(worker.host, worker.units) for worker in found.workers] == [("near", 2), ("far", 1)]
    assert found.workers[0].written_at == minutes(6) and found.gap == dt.timedelta(minutes=2)
    assert found.late(minutes(15)) is None  # ten minutes are five usual gaps
    assert found.late(minutes(17)) == dt.timedelta(minutes=11) and not found.quiet(minutes(17))


def decide(journal: Journal, at: dt.datetime) -> None:
    append(journal, "run", DECISIONS, at, lambda earlier: {"verdict": {"status": "INCONCLUSIVE"}})


def fail_every_unit(journal: Journal, plan: Plan) -> Iterator[str]:
    """Write each unit of the plan as failed, and yield its file."""
    for unit in (unit for kind in KINDS for unit in plan.units_of(kind)):
        journal.write(unit.kind, unit.key, rows(unit.kind, "error"), {})
        yield f"units/{unit.kind}/{unit.key[:2]}/{unit.key}.failed.parquet"


def test_a_decided_run_with_failed_units_is_over(plan: Plan, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    plan.write(journal)
    decide(journal, minutes(1))
    assert not run_status(journal, "run").decided  # units are missing
    for failed in fail_every_unit(journal, plan):
        os.utime(journal.store.path(failed), (minutes(5).timestamp(),) * 2)
    found = run_status(journal, "run")
    assert not found.decided and found.quiet(minutes(60))  # units came after the decision
    decide(journal, minutes(6))
    found = run_status(journal, "run")
    assert found.decided and not found.complete
    assert not found.quiet(minutes(60)) and found.late(minutes(60)) is None


def test_following_goes_from_the_corpus_to_the_decision(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, now = Journal(str(tmp_path)), dt.datetime.now(dt.UTC)
    journal.put_run("run", "spec.yaml", b"{}")
    monkeypatch.setattr("audit.storage.journal.Journal", lambda root: journal)

    def down(name: str) -> None:
        raise StorageUnavailable("the storage does not answer")

    def meanwhile() -> Iterator[None]:
        plan.write(journal)
        yield
        list(fail_every_unit(journal, plan))
        yield
        with monkeypatch.context() as interrupted:
            interrupted.setattr(journal.store, "entries", down)
            yield
        decide(journal, now + dt.timedelta(minutes=1))
        yield

    work = meanwhile()
    monkeypatch.setattr(status.time, "sleep", lambda seconds: next(work))
    assert main(["status", "run", "--follow", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "not planned yet" in told.out and "newest verdict: INCONCLUSIVE" in told.out
    assert told.out.count(" UTC") == 4 and "the storage does not answer; asking again" in told.err


FOLLOWER = """
import sys
from flows.commands import status
status.FOLLOW_SECONDS = 0.2
from flows.cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(120)
def test_a_second_process_follows_a_run_in_object_storage(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as variables:
        use(monkeypatch, variables)
        boto3.client("s3").create_bucket(Bucket="audits")
        journal = Journal("s3://audits/runs")
        plan.write(journal)
        command = [sys.executable, "-c", FOLLOWER, "status", "run", "--follow", "--root", "s3://audits/runs"]
        with subprocess.Popen(
            command, env=fresh_environment(**variables), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout is not None
            lines = iter(follower.stdout.readline, "")
            units = [unit for kind in KINDS for unit in plan.units_of(kind)]
            for number, unit in enumerate(units, start=1):
                runtime = {"host": "far", "device": "cuda"}
                journal.write(unit.kind, unit.key, rows(unit.kind, "ok"), {"runtime": runtime})
                if number in (1, len(units)):  # each is seen while the run works
                    seen = f"far (cuda): {min(number, 64)} of the newest units, the last "
                    assert any(line.startswith(seen) for line in lines)
            decide(journal, dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2))
            rest = "".join(lines)
            assert follower.wait(60) == 0
    assert "newest verdict: INCONCLUSIVE" in rest and "last unit written" in rest


def test_a_run_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="run"):
        run_status(Journal(str(tmp_path)), "nothing")
    assert main(["status", "nothing", "--root", str(tmp_path)]) == 2


def test_time_left_is_that_of_the_last_minutes() -> None:
    times = iter((0.0, 1000.0, 1100.0, 1300.0, 1390.0))  # the first part was slow
    pace = Pace(10, lambda: next(times))
    assert pace.seconds_left(100) is None
    for done in (11, 21, 41, 50):
        pace.mark(done)
    assert pace.seconds_left(100) == pytest.approx(500.0)
