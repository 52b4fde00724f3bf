"""Scores: one unit is one detector on the pictures of one generate unit."""

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


@task(name="detect", task_run_name="detect-{unit.key:.8}", **TASK)
def detect_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; its raw scores are in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit)


def detect(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report."""
    return run_units(run, "detect", detect_unit, share=share)
