"""Run the units of one stage, one at a time: models are not thread-safe and fill the device by themselves."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, TypeAlias

import pyarrow.compute as pc

from audit.errors import AuditError, DeviceLost
from audit.plan.document import KINDS, Plan
from audit.plan.identities import Unit
from tasks import telemetry
from tasks.context import Run
from tasks.progress import StageProgress, reporter
from tasks.retrying import failure

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from audit.compute.worker import UnitReport

UnitTask: TypeAlias = "Callable[..., State[UnitReport]]"
REFRESH_SECONDS = 15.0  # how often the journal is asked what other workers have finished


@dataclasses.dataclass(frozen=True)
class Failure:
    """A unit that has no complete file now: its cases are unassessed until a resume computes it."""

    kind: str
    key: str
    message: str


@dataclasses.dataclass(frozen=True)
class StageReport:
    """The units of one kind as this process left them; `before` were complete already, `elsewhere` meanwhile."""

    kind: str
    units: int
    before: int
    computed: int
    elsewhere: int
    rows: int
    unet_calls: int
    seconds: float  # of the bare work, as the units themselves measured it: no Prefect, no journal write
    failures: tuple[Failure, ...]


@telemetry.staged
def run_units(
    run: Run,
    helps: bool = False,
    only: Container[str] | None = None,
    *,
    kind: str,
    unit_task: UnitTask,
    essential: bool = False,
) -> StageReport:
    """Try every unit of `kind`, or `only` those with these keys, once; return the report of the stage.

    One who `helps` begins at the end. A unit that raises is recorded and the others go on, unless the stage is essential and
    the unit depends on none, or the storage itself is gone.
    """
    stage = _Stage(run, kind, helps, only)
    progress = StageProgress(run.run_id, kind, len(stage.rows), stage.before)
    reports, failures = [], []
    for unit in stage.pending():
        missing = stage.missing(unit)
        if missing:
            failures.append(Failure(kind, unit.key, f"not tried: {missing[0]} is not in the journal"))
            progress.show(stage.settled)
            continue
        _ = run.worker  # one that cannot be made ends the run here, with its own message
        state = unit_task(run, unit, return_state=True)
        if state.is_completed():
            report = state.result()
            reports.append(report)
            if report.errors:
                failures.append(Failure(kind, unit.key, f"{report.errors} of {report.rows} rows are errors"))
        else:
            failures.append(_failed(run, unit, failure(state), essential and not unit.depends))
        progress.show(stage.settled)
        telemetry.pending(kind, len(stage.rows) - stage.settled)
    progress.end()
    return StageReport(
        kind=kind,
        units=len(stage.rows),
        before=stage.before,
        computed=len(reports),
        elsewhere=stage.elsewhere,
        rows=sum(r.rows for r in reports),
        unet_calls=sum(r.unet_calls for r in reports),
        seconds=sum(r.seconds for r in reports),
        failures=tuple(failures),
    )


def _failed(run: Run, unit: Unit, error: BaseException, essential: bool) -> Failure:
    if essential or not isinstance(error, Exception) or isinstance(error, DeviceLost):
        raise error
    run.journal.probe()  # raises when nothing more could be stored: computing on would be wasted
    reporter().note(f"{unit.kind} unit {unit.key[:12]} failed: {first_line(error)}")
    return Failure(unit.kind, unit.key, first_line(error))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    what = error.what if isinstance(error, AuditError) else f"{type(error).__name__}: {error}"
    return (what or "no message").splitlines()[0]


class _Stage:
    """The units of one kind and what the journal has of them."""

    def __init__(self, run: Run, kind: str, helps: bool, only: Container[str] | None = None) -> None:
        self.run, self.kind = run, kind
        self.plan: Plan = run.plan
        keys = self.plan.units["key"]
        rows = pc.indices_nonzero(pc.equal(self.plan.units["kind"], kind)).to_pylist()
        self.rows = rows if only is None else [row for row in rows if keys[row].as_py() in only]
        self.order = self.rows[::-1] if helps else self.rows
        self.elsewhere = 0
        self._refresh()
        self.before = sum(keys[row].as_py() in self.done for row in self.rows)
        self.settled = self.before  # complete before, tried here, or complete elsewhere meanwhile
        self._available: set[str] | None = None

    def _refresh(self) -> None:
        self.done = self.run.journal.keys(self.kind)
        self._asked = time.monotonic()

    def pending(self) -> Iterator[Unit]:
        """Yield units without a complete file, looked up again from time to time while others work too.

        One that another process of this machine trains comes last: by then that process may have finished it.
        """
        from audit.compute.training_folders import trained_elsewhere  # loads torch

        keys = self.plan.units["key"]
        began, postponed = frozenset(self.done), list[int]()
        for row in itertools.chain(self.order, postponed):
            if time.monotonic() - self._asked > REFRESH_SECONDS:
                self._refresh()
            key = keys[row].as_py()
            if key in self.done:
                self.elsewhere += key not in began
                self.settled += key not in began
                continue
            unit = self.plan.unit(row)
            if row not in postponed and self.kind in ("erase", "attack") and trained_elsewhere(unit):
                postponed.append(row)
                continue
            self.settled += 1
            yield unit

    def missing(self, unit: Unit) -> list[str]:
        """Return the units that it depends on and that the journal has in no form, as `kind key`."""
        if not unit.depends:
            return []
        if self._available is None:
            # An eraser may start from what an attack of an earlier round made.
            before = KINDS[: max(KINDS.index(self.kind), KINDS.index("attack") + 1)]
            earlier = [self.run.journal.listing(kind) for kind in before]
            self._available = {key for listing in earlier for key in (*listing.complete, *listing.failed)}
        return [f"unit {key[:12]} it depends on" for key in unit.depends if key not in self._available]
