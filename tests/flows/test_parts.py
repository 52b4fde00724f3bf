"""The parts of the orchestration that need no Prefect server."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from audit import locations
from audit.errors import CheckpointError, EnvironmentProblem, JournalError
from audit.plan.document import KINDS
from audit.progress import Pace
from audit.progress import lines as progress_lines
from audit.storage.journal import StorageUnavailable
from flows import console, environment


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StorageUnavailable("gone"), True),
        (ConnectionResetError(), True),
        (OSError(errno.EIO, "io"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError(errno.ENOENT, "absent"), False),
        (OSError("a loader's own message"), False),
        (JournalError("denied"), False),
        (CheckpointError("changed"), False),
        (RuntimeError("bug"), False),
    ],
)
def test_only_storage_that_did_not_answer_is_tried_again(error: Exception, again: bool) -> None:
    from tasks.retrying import passing

    assert passing(error) is again


def test_telemetry_is_off_by_default_and_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    environment.apply()
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["GX_ANALYTICS_ENABLED"] == "true"


def test_importing_a_flow_settles_telemetry_before_prefect() -> None:
    code = """
import os, sys
import flows.audit
from prefect.settings import get_current_settings
assert get_current_settings().server.analytics_enabled is False
assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
"""
    kept = {name: value for name, value in os.environ.items() if "ANALYTICS" not in name and name != "DO_NOT_TRACK"}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_index_lies_beside_a_local_root_and_in_the_cache_for_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locations.database_path("/audits") == Path("/audits/db/audit.duckdb")
    assert locations.database_path("file:///audits") == Path("/audits/db/audit.duckdb")
    remote = locations.database_path("s3://bucket/audits")
    assert tmp_path in remote.parents
    assert remote == locations.database_path("s3://bucket/audits/") != locations.database_path("s3://bucket/other")
    assert locations.report_folder("s3://bucket/audits", "run-1") == Path.cwd() / "reports" / "run-1"
    assert locations.report_folder("/audits", "run-1", "/elsewhere") == Path("/elsewhere")


def test_destinations_that_cannot_be_written_are_said_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path
) -> None:
    from tasks.context import Settings
    from tasks.opening import open_run
    from tests.flows.audits import tiny_spec

    spec, root = str(tiny_spec(tmp_path, tiny_folder)), str(tmp_path / "runs")
    (tmp_path / "file").write_text("x")
    for settings, message in (
        (Settings(database=str(tmp_path / "file" / "audit.duckdb")), "DuckDB index cannot be written"),
        (Settings(database=str(tmp_path)), "DuckDB index cannot be written: it is a folder"),
        (Settings(reports=str(tmp_path / "file")), "reports cannot be written"),
        (Settings(reports=str(tmp_path / "file" / "reports")), "reports cannot be written"),
    ):
        with pytest.raises(EnvironmentProblem, match=message):
            open_run(spec, root, None, settings)
    assert not (tmp_path / "runs" / "runs").exists()  # nothing to resume
    opened = open_run(spec, root, None, Settings(reports=str(tmp_path / "new" / "reports")))
    assert opened.database.parent.is_dir() and (tmp_path / "new").is_dir()
    helping = Settings(database=str(tmp_path / "file" / "audit.duckdb"))
    assert open_run(None, root, opened.run_id, helping, concludes=False).run_id == opened.run_id


def test_the_root_is_the_option_then_the_variable_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_ROOT", "s3://bucket/x")
    assert locations.storage_root("/given") == "/given"
    assert locations.storage_root() == "s3://bucket/x"
    monkeypatch.delenv("ERASURE_AUDIT_ROOT")
    assert locations.storage_root() == "./runs"


def test_progress_without_a_terminal_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    ticks = iter((0.0, 0.0, 7.0, 8.0))
    monkeypatch.setattr(progress_lines, "Pace", lambda done: Pace(done, lambda: next(ticks)))
    with console.progress_bars() as reporter:
        reporter.begin("erase", 0, 0)
        reporter.end("erase")
        reporter.begin("generate", 4, 2)
        reporter.update("generate", 3)
        reporter.note("a unit failed")
        reporter.update("generate", 4)
        reporter.end("generate")
    shown = capsys.readouterr()
    assert shown.out == ""
    told = shown.err.splitlines()
    half, whole = "generate: 3/4 units, 8.6/min, 7 s left", "generate: 4/4 units, 15.0/min"
    assert told[:4] == ["generate: 2/4 units", half, "a unit failed", whole]
    assert told[4].startswith("generate: 4/4 units in ")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (57_400, "57 kB"), (5e9, "5 GB"), (2.5e12, "2.5 TB")]
)
def test_amounts_are_readable(value: float, text: str) -> None:
    assert console.amount(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_are_readable(value: float, text: str) -> None:
    assert console.duration(value) == text


def test_flows_are_tables_of_contents() -> None:
    """No flow file outgrows 40 lines of code, and no task body 15."""
    import ast

    root = Path(__file__).resolve().parents[2]
    for path in [root / "flows" / "audit.py", root / "flows" / "work.py", *sorted((root / "tasks").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            calls = [d.func for d in node.decorator_list if isinstance(d, ast.Call)]
            names = {call.id for call in calls if isinstance(call, ast.Name)}
            length = (node.end_lineno or 0) - node.lineno + 1
            if "flow" in names:
                assert length <= 40, f"{path.name}: {node.name}"
            if "task" in names:
                assert length <= 15, f"{path.name}: {node.name}"


def test_a_training_inside_a_run_is_told_in_lines_beside_the_units(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import progress

    with console.progress_bars() as reporter, progress.reporting_to(reporter):
        reporter.begin("erase", 2, 0)
        training = progress.TrainingProgress()
        training.begin("esd-x", 300, 120)
        training.update("esd-x", 121)
        training.note("esd-x iteration 135/300 loss 0.5")
        monkeypatch.setattr(progress, "TRAINING_SECONDS", 0.0)
        training.update("esd-x", 136)
        reporter.update("erase", 1)
        reporter.end("erase")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "erase: 0/2 units",
        "esd-x: 120/300 iterations were done before; going on",
        "esd-x iteration 135/300 loss 0.5",
    ]
    assert re.fullmatch(r"esd-x: 136/300 iterations, \d+ s left", lines[3])
    assert lines[4].startswith("erase: 1/2 units in ")


def test_a_run_and_its_helpers_compute_every_kind_of_unit() -> None:
    from tasks import stages

    sampled = [stage.keywords["kind"] for stage in stages.SAMPLED]
    assert ["erase", "attack", *sampled] == list(KINDS)
