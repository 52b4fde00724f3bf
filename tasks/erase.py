"""Erased models: one unit is one model's changed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import task

from audit.plan.identities import Unit
from tasks.context import Run
from tasks.progress import TrainingProgress
from tasks.retrying import TASK
from tasks.share import Share
from tasks.slots import gpu_slot
from tasks.units import StageReport, run_units

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport


@task(name="erase", task_run_name="erase-{unit.key:.8}", **TASK)
def erase_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; the changed weights are in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit, TrainingProgress())


def erase(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report. A failing eraser ends the run: nothing audited without it would mean anything."""
    return run_units(run, "erase", erase_unit, share=share, essential=True)
