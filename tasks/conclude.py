"""The verdict: data checks, then the gate; the rates and the verdict are kept as Prefect artifacts."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from audit import run as steps
from audit.verdict.results import RunResult
from tasks.artifacts import store_artifacts
from tasks.context import Run
from tasks.retrying import TASK


@task(name="conclude", **TASK)
def conclude(run: Run, published: Path) -> RunResult:
    """The run's result with its verdict."""
    result = steps.conclude(run.journal, run.run_id, published)
    store_artifacts(result)
    return result
