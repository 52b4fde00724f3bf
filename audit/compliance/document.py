"""Read a month of one system as one typed document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit.compliance import change, findings, rows, waived
from audit.compliance.period import Month, expected_times, run_of_each
from audit.compliance.records import Audit, Finding, Operation, ResultRow, RunRow, Scope
from audit.compliance.report import Report
from audit.compliance.rows import Connection
from audit.errors import StoreError
from audit.evidence.keys import PublicKey
from audit.files import Document
from audit.index.published import open_published, require_version
from audit.index.store import explained
from audit.report.words import limit_text
from audit.spec.scenarios import KINDS

_WORST_FIRST = ("FAIL", "INCONCLUSIVE", "PASS")


def read_month(
    published: Path,
    system: str,
    month: Month,
    now: dt.datetime,
    *,
    expected: str | None = None,
    waiver_files: Sequence[Path] = (),
    keys: Sequence[PublicKey] = (),
) -> Report:
    """Return the report on one system's month from the rows of a published index.

    `expected` is a cron expression (UTC) of runs that should have started. The newest decided run of each name stands for the
    month. Raises `StoreError` for an index that is absent or another version's, a system that it does not know and a month
    without runs, `SpecError` for an expression that is none.
    """
    con = open_published(published)
    try:
        with explained(published):
            version = require_version(con, str(published))
            rows.require_system(con, system, str(published))
            runs, specs = rows.read_runs(con, system, month.start.isoformat()[:19], month.end.isoformat()[:19])
            if not runs:
                raise _no_runs(con, system, month, str(published))
            earlier, older = rows.read_runs(
                con, system, month.before.start.isoformat()[:19], month.start.isoformat()[:19]
            )
            audits = _audits(runs, earlier)
            parts = _read(con, audits, runs, earlier, {**older, **specs})
    finally:
        con.close()
    until = month.until(now)
    confidence = min((float(specs[audit.run_id]["gate"].get("confidence", 0.95)) for audit in audits), default=0.95)
    operation = _operation(expected, runs, month, until)
    waivers = waived.waivers(waiver_files, keys, (*earlier, *runs), system, until)
    exceptions = (*parts.pop("found"), *findings.of_operation(operation), *findings.of_waivers(waivers))
    results = parts["results"]
    status = _status(runs, audits)
    return Report(
        system=system,
        month=str(month),
        since=_text(month.start),
        until=_text(until),
        month_is_over=until == month.end,
        index=published.name,
        index_sha256=version,
        versions=tuple(dict.fromkeys(run.system_version or "not stated" for run in runs)),
        owner=runs[-1].owner,
        contact=runs[-1].contact,
        status=status,
        confidence=confidence,
        conclusion=conclusion(
            status, results, confidence, len(exceptions), any(run.opened_by for run in _standing(runs, audits))
        ),
        runs=runs,
        previous_month=str(month.before),
        previous_runs=len(earlier),
        audits=audits,
        criteria=change.criteria(audits, {**older, **specs}),
        comparisons=change.comparisons(published, audits, confidence),
        waivers=waivers,
        exceptions=exceptions,
        operation=operation,
        **parts,
    )


def read_systems(published: Path, month: Month) -> tuple[str, ...]:
    """Return the systems of which runs started in a month. Raises `StoreError` for an index as `read_month` does."""
    con = open_published(published)
    try:
        with explained(published):
            require_version(con, str(published))
            return tuple(rows.systems(con, month.start.isoformat()[:19], month.end.isoformat()[:19]))
    finally:
        con.close()


def _no_runs(con: Connection, system: str, month: Month, where: str) -> StoreError:
    known = rows.months(con, system)
    listed = ", ".join(known[-12:])
    return StoreError(
        f"no run of {system[:60]!r} started in {month}; runs started in: {listed}",
        where=where,
        next_step="name one of these with --month, or fold in what is missing with: erasure-audit db consolidate",
    )


def _audits(runs: Sequence[RunRow], earlier: Sequence[RunRow]) -> tuple[Audit, ...]:
    """Return the newest decided run of each name, beside that of the month before.

    Where each month has one name alone, they are the same audit whatever their names.
    """
    now, before = ({run.name: run.run_id for run in some if run.status is not None} for some in (runs, earlier))
    only = next(iter(before.values())) if len(before) == 1 == len(now) else None
    return tuple(Audit(name, run_id, before.get(name, only)) for name, run_id in sorted(now.items()))


def _standing(runs: Sequence[RunRow], audits: Sequence[Audit]) -> list[RunRow]:
    ids = {audit.run_id for audit in audits}
    return [run for run in runs if run.run_id in ids]


def _status(runs: Sequence[RunRow], audits: Sequence[Audit]) -> str:
    """Return the worst verdict of the runs that stand for the month; an audit of which no run was decided is INCONCLUSIVE."""
    verdicts = {run.status for run in _standing(runs, audits) if run.status}
    if {run.name for run in runs} - {audit.name for audit in audits}:
        verdicts.add("INCONCLUSIVE")
    return min(verdicts, key=_WORST_FIRST.index)


def _read(
    con: Connection,
    audits: Sequence[Audit],
    runs: Sequence[RunRow],
    earlier: Sequence[RunRow],
    specs: Mapping[str, Document],
) -> dict[str, Any]:
    """Return the parts of the report that rows alone give, and under `found` the exceptions that follow from them."""
    ids = [audit.run_id for audit in audits]
    before: dict[tuple[Any, ...], str] = {}
    dropped: list[str] = []
    results: tuple[ResultRow, ...] = ()
    for audit in audits:
        if audit.previous_run_id is not None:
            statuses = rows.statuses(con, audit.previous_run_id)
            before |= {(audit.run_id, *key): status for key, status in statuses.items()}
    results = rows.read_results(con, ids, before)
    tested = {(row.run_id, row.concept, row.defence, row.scenario, row.judge) for row in results}
    dropped = [" | ".join(key[1:]) for key in sorted(before) if key not in tested]
    retention, damage = rows.read_sides(con, ids)
    controls = rows.read_controls(con, ids)
    last = [run for run in earlier if run.run_id in {audit.previous_run_id for audit in audits}]
    changes = change.breaks(con, [*last, *runs])
    scope = _scope(results, {audit.run_id: audit.name for audit in audits})
    found: tuple[Finding, ...] = (
        *findings.of_decisions(results, retention, damage),
        *findings.of_audits(runs, audits),
        *findings.of_data(controls, rows.read_failed_checks(con, ids)),
        *findings.of_runs(runs, audits),
        *findings.of_changes(changes, dropped),
    )
    return {
        "scope": scope,
        "not_tested": _not_tested(scope, _standing(runs, audits)),
        "dropped": tuple(dropped),
        "unassessed": rows.read_unassessed(con, ids),
        "results": results,
        "retention": retention,
        "damage": damage,
        "quality": rows.read_quality(con, ids),
        "controls": controls,
        "instruments": change.read_instruments(con, runs),
        "breaks": changes,
        "found": found,
    }


def _scope(results: Sequence[ResultRow], names: Mapping[str, str]) -> tuple[Scope, ...]:
    grouped: dict[tuple[str, str, str], dict[int, ResultRow]] = {}
    for row in results:
        grouped.setdefault((names[row.run_id], row.scenario, row.kind), {})[row.cell_id] = row
    return tuple(
        Scope(
            *key,
            concepts=tuple(sorted({row.concept for row in cells.values()})),
            defences=tuple(sorted({row.defence for row in cells.values()})),
            cells=len(cells),
            planned=sum(row.planned for row in cells.values()),
        )
        for key, cells in sorted(grouped.items())
    )


def _not_tested(scope: Sequence[Scope], standing: Sequence[RunRow]) -> tuple[str, ...]:
    kinds = {row.kind for row in scope}
    missing = [f"No scenario of kind {kind} was decided." for kind in KINDS if kind not in kinds]
    unjudged = dict.fromkeys(sentence for run in standing for sentence in run.not_judged)
    return (*missing, *(f"The policy leaves out {sentence}." for sentence in unjudged))


def _operation(expected: str | None, runs: Sequence[RunRow], month: Month, until: dt.datetime) -> Operation:
    undecided = sum(run.status is None for run in runs)
    if expected is None:
        return Operation(None, None, None, (), None, undecided)
    times = expected_times(expected, month.start, until)
    answers = run_of_each(times, [dt.datetime.fromisoformat(run.created_at) for run in runs], until)
    answered = {n for n in answers if n is not None}
    return Operation(
        expected=expected,
        planned=len(times),
        done=sum(n is not None and runs[n].status is not None for n in answers),
        missed=tuple(_text(time) for time, n in zip(times, answers, strict=True) if n is None),
        beyond=len(runs) - len(answered),
        undecided=undecided,
    )


def conclusion(
    status: str, results: Sequence[ResultRow], confidence: float, exceptions: int, opened: bool
) -> tuple[str, str, str]:
    """Return the three sentences with which the report begins; a cell passes when every judge lets it.

    `opened` says that waivers opened a gate of a run that stands for the month.
    """
    cells: dict[tuple[str, int], str] = {}
    for row in results:
        key = row.run_id, row.cell_id
        cells[key] = min(cells.get(key, "PASS"), row.status, key=_WORST_FIRST.index)
    n = len(cells)
    passed, failed, undecided = (list(cells.values()).count(word) for word in ("PASS", "FAIL", "INCONCLUSIVE"))
    first = (
        f"In {passed} of {n} cells the tests bound the reproduction rate at or under its limit at {limit_text(confidence)}"
        " confidence, every unassessed case counted as a reproduction."
    )
    if failed:
        second = f"In {failed} of {n} cells the reproduction rate is shown to exceed its limit."
    else:
        second = "In no cell is the reproduction rate shown to exceed its limit."
    gate = "waivers opened a gate all the same" if opened else "the gate stays shut"
    if undecided:
        third = f"In {undecided} of {n} cells: Not shown to be within the limit; {gate}."
    elif status == "FAIL":
        third = f"{gate[0].upper()}{gate[1:]}."
    elif status == "INCONCLUSIVE":
        third = f"For the runs as a whole: Not shown to be within the limit; {gate}."
    else:
        listed = f"{exceptions} exception{'' if exceptions == 1 else 's'}"
        third = f"The gate opened in the runs that stand for the month, and section 6 lists {listed}."
    return first, second, third


def _text(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
