"""Help with the units of an existing run: the flow of further GPU workers."""

from __future__ import annotations

from prefect import flow

from tasks import telemetry
from tasks.context import Settings
from tasks.opening import open_run
from tasks.stages import SAMPLED, models
from tasks.units import StageReport


@flow(name="work", persist_result=False)
def work(run_id: str, root: str | None = None, settings: Settings | None = None) -> tuple[StageReport, ...]:
    """Help with the run `run_id`; return the reports of the stages.

    Nobody waits for anybody: a helper begins at the end of each stage and goes on with whatever is still missing.
    """
    run = open_run(None, root, run_id, settings, concludes=False)
    with telemetry.running(run):
        return (*models(run, helps=True), *(stage(run, helps=True) for stage in SAMPLED))
