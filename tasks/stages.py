"""The six stages of computing: a Prefect task for one unit of each, and the stage that runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prefect import task

from audit.plan.identities import Unit
from audit.progress import Listener
from tasks.context import Run
from tasks.progress import TrainingProgress
from tasks.retrying import TASK
from tasks.share import Share
from tasks.slots import gpu_slot
from tasks.units import StageReport, UnitTask, run_units

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport


def _unit_task(kind: str, listen: Callable[[], Listener | None] = lambda: None) -> UnitTask:
    """Return the Prefect task that computes one unit of `kind`; its rows are in the journal then."""

    @task(name=kind, task_run_name=f"{kind}-{{unit.key:.8}}", **TASK)
    def compute(run: Run, unit: Unit) -> UnitReport:
        with gpu_slot(run.settings.gpu_slot):
            return run.worker.run(unit, listen())

    return compute


_UNITS = {
    "erase": _unit_task("erase", TrainingProgress),
    "attack": _unit_task("attack", TrainingProgress),
    **{kind: _unit_task(kind) for kind in ("invert", "generate", "detect", "quality")},
}


def erase(run: Run, share: Share | None = None) -> StageReport:
    """Make the erased models. A failing eraser ends the run: nothing audited without it would mean anything."""
    return run_units(run, "erase", _UNITS["erase"], share=share, essential=True)


def attack(run: Run, share: Share | None = None) -> StageReport:
    """Search the inputs of attacks: one unit is one attack on one model, or a batch of what it searches for."""
    from audit.compute.training_folders import sweep  # loads torch

    report = run_units(run, "attack", _UNITS["attack"], share=share)
    done = run.journal.keys("attack")
    sweep(unit for unit in run.plan.units_of("attack") if unit.key in done)
    return report


def invert(run: Run, share: Share | None = None) -> StageReport:
    """Invert the corpus: one unit inverts a batch of images."""
    return run_units(run, "invert", _UNITS["invert"], share=share)


def generate(run: Run, share: Share | None = None) -> StageReport:
    """Make the pictures: one unit makes a batch through one defence, or the pictures of a control."""
    return run_units(run, "generate", _UNITS["generate"], share=share)


def detect(run: Run, share: Share | None = None) -> StageReport:
    """Score the pictures: one unit is one detector on the pictures of one generate unit."""
    return run_units(run, "detect", _UNITS["detect"], share=share)


def quality(run: Run, share: Share | None = None) -> StageReport:
    """Measure the pictures: one unit is one quality instrument on the pictures of one generate unit and their baselines."""
    return run_units(run, "quality", _UNITS["quality"], share=share)
