"""The seven stages of computing: a Prefect task for one unit of each, and what runs them here or on other machines."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from prefect import task
from prefect.tasks import Task

from audit.errors import DeviceLost
from audit.plan.identities import Unit
from audit.plan.installation import Installation
from audit.plan.rounds import training_rounds
from audit.progress import Listener
from tasks import telemetry
from tasks.context import Run
from tasks.fitness import refusal, require_fit
from tasks.pool_process import restore_environment
from tasks.progress import TrainingProgress
from tasks.retrying import TASK
from tasks.slots import gpu_slot
from tasks.units import StageReport, run_units

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport


def _unit_task(kind: str, listen: Callable[[], Listener | None] = lambda: None) -> Task[..., UnitReport]:
    """Return the Prefect task that computes one unit of `kind`; its rows are in the journal then."""

    @task(name=kind, task_run_name=f"{kind}-{{unit.key:.8}}", **TASK)
    def compute(run: Run, unit: Unit, expected: Installation | None = None) -> UnitReport:
        if expected is not None:  # not in the process that planned it
            restore_environment()
            require_fit(run, expected)
            telemetry.join(run)
        try:
            with gpu_slot(run.settings.gpu_slot), telemetry.unit(unit) as measured:
                return measured(run.worker.run(unit, listen()))
        except DeviceLost as error:
            if expected is None:
                raise
            raise refusal(error.what, error.next_step) from error  # another machine computes it

    return compute


_UNITS = {
    "erase": _unit_task("erase", TrainingProgress),
    "attack": _unit_task("attack", TrainingProgress),
    **{kind: _unit_task(kind) for kind in ("invert", "generate", "filter", "detect", "quality")},
}


# A failing eraser ends the run: nothing audited without it would mean anything.
erase = functools.partial(run_units, kind="erase", unit_task=_UNITS["erase"], essential=True)


def attack(run: Run, helps: bool = False, only: Container[str] | None = None) -> StageReport:
    """Search the inputs of attacks: one unit is one attack on one model, or a batch of what it searches for."""
    report = run_units(run, helps, only, kind="attack", unit_task=_UNITS["attack"])
    _sweep(run)
    return report


def models(run: Run, helps: bool = False) -> tuple[StageReport, StageReport]:
    """Erase and attack, in turn where a model is erased again after an attack has edited it; return both stages' reports."""
    rounds = training_rounds(run.plan)
    reports = []
    for number in range(max(rounds.values(), default=0) + 1):
        only = {key for key, own in rounds.items() if own == number}
        reports.append((erase(run, helps, only), attack(run, helps, only)))
    erased, attacked = zip(*reports, strict=True)
    return _together(erased), _together(attacked)


def _together(reports: Sequence[StageReport]) -> StageReport:
    """Return the report of a stage that was run in parts."""
    return dataclasses.replace(
        reports[0],
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in ("units", "before", "computed", "elsewhere", "rows", "unet_calls", "seconds")
        },
        failures=tuple(failure for report in reports for failure in report.failures),
    )


def _sweep(run: Run) -> None:
    from audit.compute.training_folders import sweep  # loads torch

    done = run.journal.keys("attack")
    sweep(unit for unit in run.plan.units_of("attack") if unit.key in done)


# One unit inverts a batch of images.
invert = functools.partial(run_units, kind="invert", unit_task=_UNITS["invert"])
# One unit makes a batch of pictures through one defence, or those of a control.
generate = functools.partial(run_units, kind="generate", unit_task=_UNITS["generate"])
# One unit is one filter on the cases of one generate unit.
filtering = functools.partial(run_units, kind="filter", unit_task=_UNITS["filter"])
# One unit is one detector on the pictures of one generate unit.
detect = functools.partial(run_units, kind="detect", unit_task=_UNITS["detect"])
# One unit is one quality instrument on the pictures of one generate unit and their baselines.
quality = functools.partial(run_units, kind="quality", unit_task=_UNITS["quality"])


# The stages after those that make models, in the order in which each finds what it needs.
SAMPLED = (invert, generate, filtering, detect, quality)


def compute(run: Run) -> tuple[StageReport, ...]:
    """Compute what the run lacks, on the runner of its settings; return the reports of the stages."""
    if run.settings.runner == "inline":
        return (*models(run), *(stage(run) for stage in SAMPLED))
    from tasks.spread import spread

    reports = spread(dataclasses.replace(run, trace=telemetry.parent()), _UNITS, essential=frozenset({"erase"}))
    _sweep(run)
    return reports
