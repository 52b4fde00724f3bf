"""The corpus manifest: every object listed, hashed and decoded once, before anything is planned."""

from __future__ import annotations

import pyarrow as pa
from prefect import task

from audit import run as steps
from audit.progress import warnings_to
from tasks import telemetry
from tasks.context import Run
from tasks.progress import heard, reporter
from tasks.retrying import TASK


@task(name="collect", **TASK)
def collect(run: Run) -> pa.Table:
    """Build and store the manifest of the run; return it, one row per corpus object."""
    reporter().begin("collect", None, 0)
    try:
        with telemetry.step("collect"), heard(), warnings_to(reporter().note):
            return steps.collect(run.spec, run.journal, run.run_id, lambda done: reporter().update("collect", done))
    finally:
        reporter().end("collect")
