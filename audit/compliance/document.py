"""Read a month of one system as one typed document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from audit.compliance import change, findings, rows, waived
from audit.compliance.period import Month, expected_times, run_of_each
from audit.compliance.records import (
    Break,
    ControlRow,
    DamageRow,
    Finding,
    InstrumentRow,
    Operation,
    QualityRow,
    ResultRow,
    RetentionRow,
    RunRow,
    Scope,
    Unassessed,
)
from audit.compliance.report import Report
from audit.compliance.rows import Connection
from audit.compliance.series import WORST_FIRST, Series, read_series
from audit.evidence.keys import PublicKey
from audit.index.published import open_published, require_version
from audit.index.store import explained
from audit.report.words import limit_text
from audit.spec.scenario_base import KINDS


class _Rows(TypedDict):
    """The fields of a report that the rows of the index alone give."""

    scope: tuple[Scope, ...]
    not_tested: tuple[str, ...]
    dropped: tuple[str, ...]
    unassessed: tuple[Unassessed, ...]
    results: tuple[ResultRow, ...]
    retention: tuple[RetentionRow, ...]
    damage: tuple[DamageRow, ...]
    quality: tuple[QualityRow, ...]
    controls: tuple[ControlRow, ...]
    instruments: tuple[InstrumentRow, ...]
    breaks: tuple[Break, ...]


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
            series = read_series(con, system, month, str(published))
            indexed, exceptions = _read_rows(con, series)
    finally:
        con.close()
    until, confidence = month.until(now), series.confidence
    operation = _operation(expected, series.runs, month, until)
    waivers = waived.waivers(waiver_files, keys, (*series.earlier, *series.runs), system, until)
    exceptions = (*exceptions, *findings.of_operation(operation), *findings.of_waivers(waivers))
    return Report(
        system=system,
        month=str(month),
        since=_text(month.start),
        until=_text(until),
        month_is_over=until == month.end,
        index=published.name,
        index_sha256=series.version,
        versions=tuple(dict.fromkeys(run.system_version or "not stated" for run in series.runs)),
        owner=series.runs[-1].owner,
        contact=series.runs[-1].contact,
        status=series.status,
        confidence=confidence,
        conclusion=conclusion(series.status, indexed["results"], confidence, len(exceptions), series.opened),
        runs=series.runs,
        previous_month=str(month.before),
        previous_runs=len(series.earlier),
        audits=series.audits,
        criteria=change.criteria(series.audits, series.specs),
        comparisons=change.comparisons(published, series.audits, confidence),
        waivers=waivers,
        exceptions=exceptions,
        operation=operation,
        **indexed,
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


def _read_rows(con: Connection, series: Series) -> tuple[_Rows, tuple[Finding, ...]]:
    """Return the fields of the report that rows alone give, and the exceptions that follow from them."""
    runs, audits = series.runs, series.audits
    ids = [audit.run_id for audit in audits]
    before: dict[tuple[str, ...], str] = {}
    for audit in audits:
        if audit.previous_run_id is not None:
            statuses = rows.statuses(con, audit.previous_run_id)
            before |= {(audit.run_id, *key): status for key, status in statuses.items()}
    results = rows.read_results(con, {run_id: series.specs[run_id] for run_id in ids}, before)
    tested = {(row.run_id, row.concept, row.defence, row.scenario, row.judge) for row in results}
    dropped = tuple(" | ".join(key[1:]) for key in sorted(before) if key not in tested)
    retention, damage = rows.read_sides(con, ids)
    controls = rows.read_controls(con, ids)
    last = [run for run in series.earlier if run.run_id in {audit.previous_run_id for audit in audits}]
    changes = change.breaks(con, [*last, *runs])
    scope = _scope(results, {audit.run_id: audit.name for audit in audits})
    exceptions: tuple[Finding, ...] = (
        *findings.of_decisions(results, retention, damage),
        *findings.of_audits(runs, audits),
        *findings.of_data(controls, rows.read_failed_checks(con, ids)),
        *findings.of_runs(runs, audits),
        *findings.of_changes(changes, dropped),
    )
    indexed = _Rows(
        scope=scope,
        not_tested=_not_tested(scope, series.standing),
        dropped=dropped,
        unassessed=rows.read_unassessed(con, ids),
        results=results,
        retention=retention,
        damage=damage,
        quality=rows.read_quality(con, ids),
        controls=controls,
        instruments=change.read_instruments(con, runs),
        breaks=changes,
    )
    return indexed, exceptions


def _scope(results: Sequence[ResultRow], names: Mapping[str, str]) -> tuple[Scope, ...]:
    grouped: dict[tuple[str, str, str, str], dict[int, ResultRow]] = {}
    for row in results:
        grouped.setdefault((names[row.run_id], row.scenario, row.kind, row.access), {})[row.cell_id] = row
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
        cells[key] = min(cells.get(key, "PASS"), row.status, key=WORST_FIRST.index)
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
