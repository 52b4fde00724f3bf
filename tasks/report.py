"""The reports: every format of one run, written into one folder."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from audit import run as steps
from audit.results import RunResult
from tasks.context import Run
from tasks.retrying import TASK


@task(name="report", **TASK)
def report(run: Run, result: RunResult) -> dict[str, Path]:
    """The written files by format."""
    return steps.report(run.journal, result, run.report_folder, show_sensitive=run.settings.show_sensitive)
