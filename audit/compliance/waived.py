"""Waivers as a monthly report shows them: files that trusted keys have signed, and whether they count at the period's end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from audit.compliance.records import RunRow, WaiverRow
from audit.errors import NotVerified
from audit.evidence.keys import PublicKey
from audit.evidence.waivers import read_waiver
from audit.verdict.waivers import Waiver, not_counting

IN_FORCE, EXPIRED, NOT_COUNTED, ELSEWHERE = "in force", "expired", "does not count", "for another run"


def waivers(
    files: Sequence[Path], keys: Sequence[PublicKey], runs: Sequence[RunRow], system: str, until: dt.datetime
) -> tuple[WaiverRow, ...]:
    """Return a row for each waiver file.

    `runs` are those that a waiver of this system may be for; `until` is the end of the period, at which it counts or has
    expired. A file whose signature does not hold is as if it were absent, which its row says.
    """
    known = {run.run_id: run for run in runs}
    return tuple(_file(path, keys, known, system, until) for path in files)


def _file(
    path: Path, keys: Sequence[PublicKey], known: dict[str, RunRow], system: str, until: dt.datetime
) -> WaiverRow:
    try:
        waiver = read_waiver(path, keys, until)
    except NotVerified as error:
        nothing = dict.fromkeys(("covers", "owner", "approver", "reason", "compensating_control"), "")
        return WaiverRow(
            name=path.name, run_id=None, until=None, state=NOT_COUNTED, detail=f"not verified: {error.what}", **nothing
        )
    run = known.get(waiver.run_id)
    if run is None:
        return _row(
            waiver, ELSEWHERE, f"it is for run {waiver.run_id}, which is none of {system} that this report reads"
        )
    if until > waiver.until:
        return _row(
            waiver, EXPIRED, f"it expired on {waiver.date}, before the end of the period, and is as if it were absent"
        )
    problem = not_counting(waiver, until, waiver.run_id, run.policy_sha256 or "")
    if problem:
        return _row(waiver, NOT_COUNTED, problem)
    return _row(waiver, IN_FORCE, f"until {waiver.date}; it changes no status")


def _row(waiver: Waiver, state: str, detail: str) -> WaiverRow:
    return WaiverRow(
        name=waiver.name,
        run_id=waiver.run_id,
        covers=" and ".join(str(cells) for cells in waiver.cells),
        owner=waiver.owner,
        approver=waiver.approver,
        until=waiver.date,
        reason=waiver.reason,
        compensating_control=waiver.compensating_control,
        state=state,
        detail=detail,
    )
