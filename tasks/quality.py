"""Quality: one unit is one instrument on the pictures of one generate unit and their baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import task

from audit.plan.identities import Unit
from tasks.context import Run
from tasks.retrying import TASK
from tasks.share import Share
from tasks.slots import gpu_slot
from tasks.units import StageReport, run_units

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport


@task(name="quality", task_run_name="quality-{unit.key:.8}", **TASK)
def quality_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; its numbers and feature vectors are in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit)


def quality(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report; a run whose spec asks for no quality instrument has no such unit."""
    return run_units(run, "quality", quality_unit, share=share)
