"""Inverted latents: one unit inverts a batch of corpus images."""

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


@task(name="invert", task_run_name="invert-{unit.key:.8}", **TASK)
def invert_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; its latents and round-trip numbers are in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit)


def invert(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report."""
    return run_units(run, "invert", invert_unit, share=share)
