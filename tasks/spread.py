"""Run the units of all stages on several processes or machines, each unit as soon as what it depends on is journalled."""

from __future__ import annotations

import collections
import dataclasses
import heapq
import queue
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect.futures import PrefectFuture
from prefect.tasks import Task

from audit.errors import DeviceLost, EnvironmentProblem
from audit.plan.document import KINDS
from audit.plan.identities import Unit
from audit.plan.installation import Installation, installation, shareable
from audit.plan.resolve import resolve
from audit.weights.sharing import share
from tasks import runners, telemetry
from tasks.context import Run
from tasks.fitness import MachineRefused
from tasks.progress import StageProgress, reporter
from tasks.retrying import failure
from tasks.runners import TRIES, Runner
from tasks.units import REFRESH_SECONDS, Failure, StageReport, first_line

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport

AHEAD = 2  # units in flight for each that can be computed at once: the next one is there when a slot becomes free
LOOK_SECONDS = 5.0  # a runner may have got more slots, and the journal more units, while nothing ended here
PATIENCE_SECONDS = 600.0  # that a run waits for a cluster which has lost all its nodes


def spread(run: Run, tasks: Mapping[str, Task[..., UnitReport]], essential: frozenset[str]) -> tuple[StageReport, ...]:
    """Try every unit that the journal lacks once, on the runner of the run's settings; return a report for each stage.

    A unit that raises is recorded and the others go on, unless its kind is `essential` and it depends on none, or the
    storage itself is gone.
    """
    resolve(run.plan.spec).require_complete()  # this machine says what the others must have
    if run.settings.share_weights:
        share(run.journal, run.run_id, shareable(run.plan.spec))
    pending = _Pending(run)
    with runners.opened(run.settings) as runner:
        _Dispatch(run, runner, pending, tasks, essential).run()
    return tuple(stage.report() for stage in pending.stages.values())


@dataclasses.dataclass
class _StageState:
    """The units of one kind so far."""

    kind: str
    units: int
    before: int
    progress: StageProgress
    elsewhere: int = 0
    reports: list[UnitReport] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    settled: int = 0
    began: int = dataclasses.field(default_factory=time.time_ns)

    def settle(self) -> None:
        """Count a unit that needs nothing more."""
        self.settled += 1
        self.progress.show(self.settled)
        telemetry.pending(self.kind, self.units - self.settled)
        if self.settled == self.units:
            self.progress.end()
            telemetry.stage_ended(self.report(), self.began)

    def report(self) -> StageReport:
        """Return what happened to the units of the kind."""
        return StageReport(
            kind=self.kind,
            units=self.units,
            before=self.before,
            computed=len(self.reports),
            elsewhere=self.elsewhere,
            rows=sum(r.rows for r in self.reports),
            unet_calls=sum(r.unet_calls for r in self.reports),
            seconds=sum(r.seconds for r in self.reports),
            failures=tuple(self.failures),
        )


class _Pending:
    """The units that the journal lacks: those that wait for others, and those that could begin."""

    def __init__(self, run: Run) -> None:
        self._journal, self.plan = run.journal, run.plan
        units = self.plan.units
        self._kinds: list[str] = units["kind"].to_pylist()
        self._keys: list[str] = units["key"].to_pylist()
        depends: list[list[str]] = units["depends"].to_pylist()
        self._refresh()
        self._damaged = {key for kind in KINDS for key in self._journal.listing(kind).failed}
        available = set().union(*self._done.values())
        self.stages: dict[str, _StageState] = {}
        self._ready: list[int] = []  # rows, a heap: units of one model stand beside each other in the plan
        self._needs: dict[int, set[str]] = {}
        self._waiting: dict[str, list[int]] = collections.defaultdict(list)  # key -> rows that depend on it
        for kind in KINDS:
            rows = [row for row, other in enumerate(self._kinds) if other == kind]
            before = sum(self._keys[row] in available for row in rows)
            progress = StageProgress(run.run_id, kind, len(rows), before)
            self.stages[kind] = _StageState(kind, len(rows), before, progress, settled=before)
            if before == len(rows):
                progress.end()
            for row in rows:
                if self._keys[row] not in available:
                    self._add(row, set(depends[row]) - available)

    def _add(self, row: int, needs: set[str]) -> None:
        if not needs:
            heapq.heappush(self._ready, row)
            return
        self._needs[row] = needs
        for key in needs:
            self._waiting[key].append(row)

    def _refresh(self) -> None:
        self._done = {kind: self._journal.keys(kind) for kind in KINDS}
        self._asked = time.monotonic()

    def next(self) -> Unit | None:
        """Return a unit that could begin now; None when there is none."""
        while self._ready:
            if time.monotonic() - self._asked > REFRESH_SECONDS:
                self._refresh()
            row = heapq.heappop(self._ready)
            if self._keys[row] not in self._done[self._kinds[row]]:
                return self.plan.unit(row)
            stage = self.stages[self._kinds[row]]
            stage.elsewhere += 1  # a helper has computed it meanwhile
            self.available(self._keys[row])
            stage.settle()
        return None

    def available(self, key: str) -> None:
        """Let the units begin that waited for `key` alone."""
        for row in self._waiting.pop(key, ()):
            self._needs[row].discard(key)
            if not self._needs[row]:
                del self._needs[row]
                heapq.heappush(self._ready, row)

    @property
    def exhausted(self) -> bool:
        """Whether no unit could begin now."""
        return not self._ready

    def abandon(self, key: str) -> None:
        """Record everything that depends on `key`, which cannot be computed, as not tried.

        What an earlier try left of it, rows with errors among them, is still something to go on with.
        """
        if key in self._damaged:
            self.available(key)
            return
        for row in self._waiting.pop(key, ()):
            if self._needs.pop(row, None) is None:
                continue  # another unit that it depends on failed before
            stage = self.stages[self._kinds[row]]
            stage.failures.append(
                Failure(stage.kind, self._keys[row], f"not tried: unit {key[:12]} it depends on is not in the journal")
            )
            stage.settle()
            self.abandon(self._keys[row])


class _Dispatch:
    """The units in flight: as many as the runner has slots for, and some more, so that no slot waits."""

    def __init__(
        self,
        run: Run,
        runner: Runner,
        pending: _Pending,
        tasks: Mapping[str, Task[..., UnitReport]],
        essential: frozenset[str],
    ) -> None:
        self._run, self._runner, self._pending, self._tasks = run, runner, pending, tasks
        self._essential = essential
        self._expected: Installation = installation(run.plan.spec)
        self._ended: queue.SimpleQueue[PrefectFuture[UnitReport]] = queue.SimpleQueue()
        self._flying: dict[int, tuple[PrefectFuture[UnitReport], Unit]] = {}
        self._lost: collections.Counter[str] = collections.Counter()
        self._since: float | None = None  # when the last machine went

    def run(self) -> None:
        """Compute until nothing is left that could be. Raises `EnvironmentProblem` when there is nowhere to compute."""
        while True:
            self._fill()
            if not self._flying and self._pending.exhausted:
                return
            try:
                future = self._ended.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            entry = self._flying.pop(id(future), None)
            if entry is not None:
                self._settle(*entry)

    def _fill(self) -> None:
        """Submit as many units as the runner has slots for, and some more."""
        slots = self._runner.slots()
        if slots:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
            reporter().note("no machine is left that could compute a unit; waiting for one")
        elif time.monotonic() - self._since > PATIENCE_SECONDS:
            raise EnvironmentProblem(
                f"no machine that could compute a unit came for {PATIENCE_SECONDS / 60:.0f} minutes",
                where=self._run.settings.address,
                next_step="start nodes, then: erasure-audit resume RUN_ID",
            )
        while len(self._flying) < AHEAD * slots and (unit := self._pending.next()) is not None:
            self._submit(unit)

    def _submit(self, unit: Unit) -> None:
        parameters: dict[str, object] = {"run": self._run, "unit": unit, "expected": self._expected}
        try:
            future = self._runner.submit(self._tasks[unit.kind], parameters)
        except Exception as error:
            if not self._regain(unit, error):
                raise
            return
        self._flying[id(future)] = (future, unit)
        future.add_done_callback(self._ended.put)

    def _regain(self, unit: Unit, error: BaseException) -> bool:
        """Return whether `error` lost a process and not the unit; it, and what was lost with it, is submitted again then."""
        if self._lost[unit.key] >= TRIES or not self._runner.mend(error):
            return False
        self._lost[unit.key] += 1
        telemetry.retried(unit.kind)
        reporter().note(f"a process that computed {unit.kind} unit {unit.key[:12]} was lost; trying again")
        lost = [unit]
        if self._runner.falls_together:
            lost += [other for _, other in self._flying.values()]
            self._flying.clear()
        for other in lost:
            self._submit(other)
        return True

    def _settle(self, future: PrefectFuture[UnitReport], unit: Unit) -> None:
        """Record how a unit ended, and let those begin that waited for it."""
        error = self._outcome(future, unit)
        if isinstance(error, MachineRefused):
            reporter().note(str(error))
            self._runner.exclude(error)
            self._submit(unit)
            return
        if error is not None and self._regain(unit, error):
            return
        stage = self._pending.stages[unit.kind]
        if error is None:
            self._pending.available(unit.key)
        else:
            stage.failures.append(self._failed(unit, error))
            self._pending.abandon(unit.key)
        stage.settle()

    def _outcome(self, future: PrefectFuture[UnitReport], unit: Unit) -> BaseException | None:
        """Return the error that a unit ended with; None, and its report on record, when it is journalled."""
        try:
            future.wait()
        except Exception as error:  # a broken pool says so here
            return error
        state = future.state
        if not state.is_completed():
            return failure(state)
        report: UnitReport = future.result()
        stage = self._pending.stages[unit.kind]
        stage.reports.append(report)
        if report.errors:
            stage.failures.append(Failure(unit.kind, unit.key, f"{report.errors} of {report.rows} rows are errors"))
        return None

    def _failed(self, unit: Unit, error: BaseException) -> Failure:
        essential = unit.kind in self._essential and not unit.depends
        if essential or not isinstance(error, Exception) or isinstance(error, DeviceLost):
            raise error
        self._run.journal.probe()  # raises when nothing more could be stored: computing on would be wasted
        reporter().note(f"{unit.kind} unit {unit.key[:12]} failed: {first_line(error)}")
        return Failure(unit.kind, unit.key, first_line(error))
