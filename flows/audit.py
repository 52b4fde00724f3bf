"""The audit, as a table of contents."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from audit.verdict.results import RunResult
from tasks import telemetry
from tasks.collect import collect
from tasks.conclude import conclude
from tasks.consolidate import consolidate
from tasks.context import Settings
from tasks.opening import open_run
from tasks.plan import plan
from tasks.report import report
from tasks.stages import compute
from tasks.units import StageReport


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run: its result, its report files by format, and what each stage did in this process."""

    result: RunResult
    reports: dict[str, Path]
    stages: tuple[StageReport, ...]


@flow(name="audit", persist_result=False)
def audit(
    spec: str | None = None, root: str | None = None, run_id: str | None = None, settings: Settings | None = None
) -> State[Finished]:
    """Audit `spec`, or what the stored run `run_id` still lacks; return the finished run.

    The flow run ends in a completed state that is named after the verdict, so that automations and the list of runs
    tell PASS from FAIL. The caller of the flow gets the state's data, which is `Finished`.
    """
    run = open_run(spec, root, run_id, settings)
    with telemetry.running(run):
        if not run.planned:
            plan(run, collect(run))
        stages = compute(run)
        result = conclude(run, consolidate(run))
        finished = Finished(result, report(run, result), stages)
    return Completed(name=result.verdict.status.value, message=f"verdict of {run.run_id}", data=finished)
