"""The plan: cells, cases and units of the run, stored before any model is loaded."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
from prefect import task

from audit import run as steps
from audit.plan import Plan
from tasks.context import Run
from tasks.retrying import TASK


@task(name="plan", **TASK)
def plan(run: Run, manifest: pa.Table) -> Plan:
    """The stored plan. Raises an `AuditError` for everything that would stop the run later."""
    created_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return steps.resolve(run.spec, run.journal, run.run_id, created_at, manifest)
