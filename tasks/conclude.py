"""The verdict: data checks, then the gate; it is put on record, and rates and verdict are kept as Prefect artifacts."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from audit import run as steps
from audit.verdict.results import RunResult
from tasks import telemetry
from tasks.artifacts import store_artifacts
from tasks.context import Run
from tasks.progress import heard
from tasks.retrying import TASK


@task(name="conclude", **TASK)
def conclude(run: Run, published: Path) -> RunResult:
    """Decide the run and put the decision on record; return the result with its verdict."""
    with telemetry.step("conclude"), heard():
        result = _decided(run, published)
        if steps.overtaken(run.journal, result):
            result = _decided(run, published)
    store_artifacts(result)
    return result


def _decided(run: Run, published: Path) -> RunResult:
    result = steps.conclude(run.journal, run.run_id, published)
    steps.record_decision(run.journal, result, run.database, run.command)
    return result
