"""Read the runs of one system in a month and in the month before, and tell which of them stand for the month."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from audit.compliance import rows
from audit.compliance.period import Month
from audit.compliance.records import Audit, RunRow
from audit.compliance.rows import Connection
from audit.errors import StoreError
from audit.files import Document
from audit.index.published import require_version

WORST_FIRST = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclasses.dataclass(frozen=True)
class Series:
    """The runs of a system in one month, and those of the month before."""

    version: str  # digest of the definitions that filled the index
    runs: tuple[RunRow, ...]
    earlier: tuple[RunRow, ...]
    specs: Mapping[str, Document]  # of both months, by run id

    @functools.cached_property
    def audits(self) -> tuple[Audit, ...]:
        """The newest decided run of each name, beside that of the month before.

        Where each month has one name alone, they are the same audit whatever their names.
        """
        months = self.runs, self.earlier
        now, before = ({run.name: run.run_id for run in some if run.status is not None} for some in months)
        only = next(iter(before.values())) if len(before) == 1 == len(now) else None
        return tuple(Audit(name, run_id, before.get(name, only)) for name, run_id in sorted(now.items()))

    @property
    def standing(self) -> list[RunRow]:
        """The runs that stand for the month."""
        ids = {audit.run_id for audit in self.audits}
        return [run for run in self.runs if run.run_id in ids]

    @property
    def status(self) -> str:
        """The worst verdict of the runs that stand for the month; an audit of which no run was decided is INCONCLUSIVE."""
        verdicts = {run.status for run in self.standing if run.status}
        if {run.name for run in self.runs} - {audit.name for audit in self.audits}:
            verdicts.add("INCONCLUSIVE")
        return min(verdicts, key=WORST_FIRST.index)

    @property
    def confidence(self) -> float:
        """The lowest confidence of the policies of the runs that stand for the month."""
        gates = (self.specs[audit.run_id]["gate"] for audit in self.audits)
        return min((float(gate.get("confidence", 0.95)) for gate in gates), default=0.95)

    @property
    def opened(self) -> bool:
        """Whether waivers opened a gate of a run that stands for the month."""
        return any(run.opened_by for run in self.standing)


def read_series(con: Connection, system: str, month: Month, where: str) -> Series:
    """Read the runs of a system's month from the index at `where`.

    Raises `StoreError` for another version's index, a system that it does not know and a month without runs.
    """
    version = require_version(con, where)
    rows.require_system(con, system, where)
    runs, specs = rows.read_runs(con, system, month.start.isoformat()[:19], month.end.isoformat()[:19])
    if not runs:
        raise _no_runs(con, system, month, where)
    earlier, older = rows.read_runs(con, system, month.before.start.isoformat()[:19], month.start.isoformat()[:19])
    return Series(version, runs, earlier, {**older, **specs})


def _no_runs(con: Connection, system: str, month: Month, where: str) -> StoreError:
    known = rows.months(con, system)
    listed = ", ".join(known[-12:])
    return StoreError(
        f"no run of {system[:60]!r} started in {month}; runs started in: {listed}",
        where=where,
        next_step="name one of these with --month, or fold in what is missing with: erasure-audit db consolidate",
    )
