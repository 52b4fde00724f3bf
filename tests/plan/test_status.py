"""How far a run is, told from the journal alone."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from audit.errors import JournalError
from audit.plan.document import Plan
from audit.plan.status import run_status
from audit.progress import Pace
from audit.storage.journal import SCHEMAS, Journal
from audit.weights.references import ModelRef, resolve_model
from flows.cli import main
from tests.plan.test_planner import plan_of

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
    assert found.written_at == minutes(104)
    assert not found.complete and found.verdict is None
    assert not found.quiet(minutes(130)) and found.quiet(minutes(135))
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
