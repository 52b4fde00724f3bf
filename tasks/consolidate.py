"""The index: the run's journal folded into DuckDB, and a read-only copy published for everyone else."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from audit import run as steps
from audit.errors import StoreError
from tasks import telemetry
from tasks.context import Run
from tasks.progress import heard, reporter
from tasks.retrying import TASK, failure, passing


def may_succeed_later(task: Task[..., object], task_run: TaskRun, state: State[object]) -> bool:
    """Return whether the storage did not answer, or another audit is writing the index just now (one process at a time can)."""
    error = failure(state)
    if isinstance(error, StoreError) and "is open in" in error.what:
        reporter().note(f"{error.what}; trying again")
        return True
    return passing(error)


@task(name="consolidate", **{**TASK, "retries": 4, "retry_condition_fn": may_succeed_later})
def consolidate(run: Run) -> Path:
    """Fold the run into the index; return the path of the published copy that holds it."""
    with telemetry.step("consolidate"), heard():
        return steps.consolidate(run.journal, run.run_id, run.database)
