"""The index: the run's journal folded into DuckDB, and a read-only copy published for everyone else."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from audit import run as steps
from tasks.context import Run
from tasks.retrying import TASK


@task(name="consolidate", **TASK)
def consolidate(run: Run) -> Path:
    """The path of the published copy that holds this run."""
    return steps.consolidate(run.journal, run.run_id, run.database)
