"""The verdict: data checks, then the gate; it is put on record, and rates and verdict are kept as Prefect artifacts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from prefect import task

from audit import run as steps
from audit.provenance import operator
from audit.verdict.record import Act
from audit.verdict.results import RunResult
from tasks.artifacts import store_artifacts
from tasks.context import Run
from tasks.retrying import TASK


@task(name="conclude", **TASK)
def conclude(run: Run, published: Path) -> RunResult:
    """The run's result with its verdict, which is put on record."""
    result = steps.conclude(run.journal, run.run_id, published)
    act = Act(run.command, operator(), dt.datetime.now(dt.UTC))
    steps.record_decision(run.journal, result, published, run.database, act)
    store_artifacts(result)
    return result
