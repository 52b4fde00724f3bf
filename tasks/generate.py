"""Pictures: one unit makes a batch through one defence, or the pictures of a control."""

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


@task(name="generate", task_run_name="generate-{unit.key:.8}", **TASK)
def generate_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; its pictures are in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit)


def generate(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report."""
    return run_units(run, "generate", generate_unit, share=share)
