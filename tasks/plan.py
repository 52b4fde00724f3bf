"""The plan: cells, cases and units of the run, stored before any model is loaded."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
from prefect import task

from audit import run as steps
from audit.evidence.registration import record_head
from audit.plan.document import Plan
from audit.progress import warnings_to
from tasks import telemetry
from tasks.context import Run
from tasks.progress import heard, reporter
from tasks.retrying import TASK


@task(name="plan", **TASK)
def plan(run: Run, manifest: pa.Table) -> Plan:
    """Return the stored plan, which this process keeps. Raises an `AuditError` for everything that would stop the run later."""
    created_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    record_head(run.journal, run.run_id)
    with telemetry.step("plan"), heard(), warnings_to(reporter().note):
        stored = steps.plan(run.spec, run.journal, run.run_id, created_at, manifest)
    run.keep(stored)
    return stored
