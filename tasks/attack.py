"""Searched inputs: one unit is one attack on one model, or a batch of what it searches for."""

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


@task(name="attack", task_run_name="attack-{unit.key:.8}", **TASK)
def attack_unit(run: Run, unit: Unit) -> UnitReport:
    """How the unit went; what it found is in the journal then."""
    with gpu_slot(run.settings.gpu_slot):
        return run.worker.run(unit, TrainingProgress())


def attack(run: Run, share: Share | None = None) -> StageReport:
    """The stage's report."""
    from audit.compute.training_folders import sweep  # loads torch

    report = run_units(run, "attack", attack_unit, share=share)
    done = run.journal.keys("attack")
    sweep(unit for unit in run.plan.units_of("attack") if unit.key in done)
    return report
