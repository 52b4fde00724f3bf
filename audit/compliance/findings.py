"""The exceptions of a month: everything that whoever signs has to know of, each derived from rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from audit.compliance.records import (
    Audit,
    Break,
    ControlRow,
    DamageRow,
    Finding,
    Operation,
    ResultRow,
    RetentionRow,
    RunRow,
    WaiverRow,
)
from audit.compliance.waived import EXPIRED, NOT_COUNTED
from audit.files import Document


def of_decisions(
    results: Sequence[ResultRow], retention: Sequence[RetentionRow], damage: Sequence[DamageRow]
) -> Iterator[Finding]:
    """Yield every decision that is not PASS, of the runs that stand for the month."""
    for kind in ("FAIL", "INCONCLUSIVE"):
        for row in results:
            if row.status == kind:
                what = " | ".join((row.concept, row.defence, row.scenario, row.judge))
                yield Finding(kind, what, row.run_id, row.reason)
        for kept in retention:
            if kept.status == kind:
                stage = filter(None, [kept.stage])
                what = " | ".join(("what must survive", kept.concept, kept.defence, *stage, kept.judge))
                yield Finding(kind, what, kept.run_id, kept.reason)
        for hurt in damage:
            if hurt.status == kind:
                what = " | ".join(("pictures as pictures", hurt.concept, hurt.defence, hurt.instrument))
                yield Finding(kind, what, hurt.run_id, hurt.reason)


def of_runs(runs: Sequence[RunRow], audits: Sequence[Audit]) -> Iterator[Finding]:
    """Yield what is out of the ordinary with the runs of the month, and with the decisions on them."""
    standing = {audit.run_id for audit in audits}
    for run in runs:
        if run.status is None:
            done = f"{run.units_complete} of {run.units} units are complete, {run.units_failed} have failed"
            yield Finding("undecided run", f"started {run.created_at}", run.run_id, f"no decision is on record; {done}")
            continue
        if run.status != "PASS" and run.run_id not in standing:
            detail = run.reasons[0] if run.reasons else "no reason is on record"
            more = f" (and {len(run.reasons) - 1} more)" if len(run.reasons) > 1 else ""
            yield Finding(f"earlier run {run.status}", f"started {run.created_at}", run.run_id, detail + more)
        if run.opened_by:
            detail = "; ".join(run.opened_by[:3]) + (
                f"; and {len(run.opened_by) - 3} more" if run.opened_by[3:] else ""
            )
            yield Finding("gate opened by waivers", f"status {run.status} stands", run.run_id, detail)
        if run.replanned:
            detail = (
                "by another policy than it was planned with; counts in this report are those of the plan's thresholds"
            )
            yield Finding("criteria replaced", f"decided {run.decided_at}", run.run_id, detail)
        if set(run.earlier_statuses) - {run.status}:
            earlier = ", then ".join(run.earlier_statuses)
            yield Finding("decided again", f"now {run.status}", run.run_id, f"before it was {earlier}")
        if run.units_failed and run.run_id in standing:
            detail = f"{run.units_failed} of {run.units} units failed; their cases are unassessed"
            yield Finding("failed units", "of the run that stands for the month", run.run_id, detail)
        if run.not_judged and run.run_id in standing:
            yield Finding("not judged", "by the policy", run.run_id, "; ".join(run.not_judged))


def of_audits(runs: Sequence[RunRow], audits: Sequence[Audit]) -> Iterator[Finding]:
    """Yield the audits that no decided run of the month stands for, and those that newer, undecided runs have overtaken."""
    standing = {audit.name: audit.run_id for audit in audits}
    for name in dict.fromkeys(run.name for run in runs):
        if name not in standing:
            yield Finding(
                "audit without result", name, None, "no run of this name was decided, so no cell of it counts"
            )


def of_data(controls: Sequence[ControlRow], failed_checks: Sequence[Document]) -> Iterator[Finding]:
    """Yield the controls that do not hold and the data checks that did not pass."""
    for row in controls:
        if not row.holds:
            what = " | ".join((row.control, row.concept, row.defence, row.scenario, row.detector))
            yield Finding("control", what, row.run_id, row.trouble or "nothing of it was read")
    for check in failed_checks:
        detail = f"{check['status']}, {check['offending_rows']} rows: {check['detail']}"
        yield Finding("data check", check["name"], check["run_id"], detail)


def of_operation(operation: Operation) -> Iterator[Finding]:
    """Yield every expected time at which no run started."""
    for time in operation.missed:
        yield Finding("missed run", time, None, f"expected by the schedule {operation.expected}, and no run started")


def of_changes(breaks: Sequence[Break], dropped: Sequence[str]) -> Iterator[Finding]:
    """Yield what breaks the comparison with earlier numbers, and what is no longer tested."""
    for change in breaks:
        what = f"{change.what} {change.subject} from {change.since} on"
        yield Finding("comparability", what, change.run_id, f"was: {change.before}; is: {change.after}")
    for cell in dropped:
        yield Finding("no longer tested", cell, None, "the run of the month before tested it, this month's did not")


def of_waivers(rows: Sequence[WaiverRow]) -> Iterator[Finding]:
    """Yield the waivers that do not count."""
    for row in rows:
        if row.state in (EXPIRED, NOT_COUNTED):
            kind = "expired waiver" if row.state == EXPIRED else "waiver that does not count"
            yield Finding(kind, row.covers or row.name, row.run_id, f"{row.name}: {row.detail}")
