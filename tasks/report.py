"""The reports: every format of one run, written into one folder."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from prefect import task

from audit import run as steps
from audit.storage.disclosure import record_disclosure
from audit.verdict.results import RunResult
from tasks import telemetry
from tasks.context import Run
from tasks.progress import heard
from tasks.retrying import TASK


@task(name="report", **TASK)
def report(run: Run, result: RunResult) -> dict[str, Path]:
    """Write the reports; return their files by format. Showing sensitive pictures is recorded with the run first."""
    shown = run.settings.show_sensitive
    if shown:
        record_disclosure(run.journal, run.run_id, str(run.report_folder), dt.datetime.now(dt.UTC))
    with telemetry.step("report"), heard():
        return steps.report(run.journal, result, run.report_folder, show_sensitive=shown)
