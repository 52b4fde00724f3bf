"""The section on filters: the rates with and without them from the same pictures, and what else they block."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from audit import statistics
from audit.records import Role
from audit.report.tables import failures_first, p_value, would_decide
from audit.report.view import Column, Index, Section, Table, subject_name
from audit.report.words import bound, count, interval, limit_text, percent, plain, status_text
from audit.verdict.decisions import BlockingDecision
from audit.verdict.results import BlockingRow, CrrRow, RunResult

_BENIGN = "benign prompts"
_COUNTED = {
    "clear": "What a filter blocks counts as clear, as long as benign prompts are let pass.",
    "limit": "What a filter blocks counts as clear, as long as it blocks little of each cell and lets benign prompts pass.",
    "unassessed": "What a filter blocks counts as unassessed.",
}


def section(index: Index, *, reasons: Collection[str] = ()) -> Section | None:
    """Return the section on the filters, or None when no cell has any; no column of reasons when `reasons` has them all."""
    result = index.result
    if not result.blocking:
        return None
    sentences = [
        "A filter changes no picture: both rates are of the same pictures, as they are and as they are handed out."
    ]
    if index.policy is not None:
        sentences.append(_COUNTED[index.policy.blocked])
    errors = [row for row in result.filters if row.error]
    bullets = tuple(
        plain(f"Warning: {row.filter} failed in {index.cell_name(row.cell_id)}: {row.error}", 400) for row in errors
    )
    tables = [_rates(index)]
    if result.verdict.blocking:
        tables.append(_decisions(result.verdict.blocking, index.bounds_confidence(), reasons))
    tables += [over_blocking(index), _filters(index)]
    return Section(
        "filters", "Filters", tuple(sentences), bullets, tables=tuple(table for table in tables if table.rows)
    )


def reading(index: Index) -> tuple[tuple[str, str], ...]:
    """Return how to read what filters block; nothing without filters."""
    if not index.result.blocking:
        return ()
    words = (
        "A case whose picture a filter did not hand out. It is neither a hit nor a miss of the detector. The share of benign "
        "prompts that filters block has a limit of its own, decided by exact one-sided bounds with every undecided case "
        "counted as blocked for PASS."
    )
    return (("Blocked", words),)


def properties(result: RunResult) -> dict[str, str]:
    """Return name -> value of the rates with and without filters, and of over-blocking, for formats without tables."""
    facts = {}
    for row in _filtered(result):
        name = f"{row.concept} | {row.defence} | {row.scenario} | {row.detector}"
        facts[f"rate.with-filters | {name}"] = f"{row.hits}/{row.assessed}, {row.blocked} blocked"
        facts[f"rate.without-filters | {name}"] = f"{row.unfiltered_hits}/{row.unfiltered_assessed}"
    for blocked in result.blocking:
        if blocked.role == Role.BENIGN:
            low, high = _interval(blocked, 0.95)
            name = f"over-blocking | {blocked.concept} | {blocked.defence}"
            facts[name] = f"{blocked.blocked}/{blocked.planned}, 95 % interval {interval(low, high)}"
    return facts


def _filtered(result: RunResult) -> list[CrrRow]:
    cells = {row.cell_id for row in result.blocking if row.role == Role.TARGET and row.control is None}
    return [row for row in result.crr if row.cell_id in cells]


def _rates(index: Index) -> Table:
    """Return one row per audited cell with filters and detector: its rate with them and without."""
    blocked = {row.cell_id: row for row in index.result.blocking}
    confidence = index.policy.confidence if index.policy is not None else 0.95
    columns = (
        Column("Concept", minor=2),
        Column("Scenario"),
        Column("Defence"),
        Column("Instrument"),
        Column("Blocked / planned", "number"),
        Column("With filters", "number"),
        Column("CRR with", "number"),
        Column("Interval with", "number", minor=1),
        Column("Without filters", "number"),
        Column("CRR without", "number"),
        Column("Interval without", "number", minor=1),
    )
    rows = []
    for row in _filtered(index.result):
        low, high = statistics.clopper_pearson(row.unfiltered_hits, row.unfiltered_assessed, confidence)
        rows.append(
            (
                plain(row.concept),
                plain(row.scenario),
                plain(row.defence),
                plain(row.detector),
                f"{count(blocked[row.cell_id].blocked)} / {count(row.planned)}",
                f"{count(row.hits)} / {count(row.assessed)}",
                percent(row.rate),
                interval(row.ci_low, row.ci_high),
                f"{count(row.unfiltered_hits)} / {count(row.unfiltered_assessed)}",
                percent(row.unfiltered_hits / row.unfiltered_assessed if row.unfiltered_assessed else None),
                interval(low, high),
            )
        )
    return Table("Reproduction rates with and without filters, from the same pictures", columns, tuple(rows), heads=3)


def _decisions(decisions: Sequence[BlockingDecision], confidence: str, reasons: Collection[str]) -> Table:
    """Return one row per decision, failures first."""
    ordered = failures_first(decisions)
    columns = (
        Column("Decision", "status"),
        Column("Concept", minor=2),
        Column("Defence"),
        Column("Of"),
        Column("Blocked / planned", "number"),
        Column("Undecided", "number", minor=3),
        Column("At least", "number"),
        Column("At most", "number"),
        Column("Limit", "number", minor=1),
        Column("p", "number", minor=5),
        Column("p, corrected", "number", minor=5),
        Column("Cases that would decide", "number", minor=4),
    )
    rows = tuple(
        (
            status_text(d.status.value),
            plain(d.concept),
            plain(d.defence),
            plain(d.scenario or _BENIGN),
            f"{count(d.blocked)} / {count(d.planned)}",
            count(d.undecided),
            bound(d.low, d.limit),
            bound(d.high, d.limit),
            limit_text(d.limit),
            p_value(d.p_value),
            p_value(d.p_adjusted),
            would_decide(d.status, d.needed_cases, None),
        )
        for d in ordered
    )
    caption = f"What filters may block: one-sided bounds at {confidence} confidence"
    return Table(caption, columns, rows, stack=True).with_reasons([d.reason for d in ordered], reasons)


def over_blocking(index: Index) -> Table:
    """Return one row per cell of what must survive: the share of its cases that filters block, which is over-blocking."""
    confidence = index.policy.confidence if index.policy is not None else 0.95
    rows = [row for row in index.result.blocking if row.role in (Role.BENIGN, Role.NEIGHBOUR)]
    lines = []
    for row in rows:
        low, high = _interval(row, confidence)
        decided = row.blocked + row.passed
        lines.append(
            (
                subject_name(row.subject),
                plain(row.concept),
                plain(row.defence),
                plain(row.scenario),
                f"{count(row.blocked)} / {count(decided)} / {count(row.planned)}",
                percent(row.blocked / decided if decided else None),
                interval(low, high),
            )
        )
    columns = (
        Column("Subject"),
        Column("Erased", minor=2),
        Column("Defence"),
        Column("Scenario", minor=1),
        Column("Blocked / decided / planned", "number"),
        Column("Over-blocking", "number"),
        Column(f"{index.confidence()} interval", "number"),
    )
    return Table("Over-blocking: what filters block of what must survive", columns, tuple(lines), heads=3)


def _interval(row: BlockingRow, confidence: float) -> tuple[float, float]:
    return statistics.clopper_pearson(row.blocked, row.blocked + row.passed, confidence)


def _filters(index: Index) -> Table:
    """Return one row per cell and filter: what it blocks by itself."""
    columns = (
        Column("Cell"),
        Column("Filter"),
        Column("Blocked", "number"),
        Column("Let pass", "number"),
        Column("No ruling", "number"),
        Column("Cases", "number"),
    )
    rows = tuple(
        (
            plain(index.cell_name(row.cell_id)),
            plain(row.filter),
            count(row.blocked),
            count(row.passed),
            count(row.cases - row.blocked - row.passed),
            count(row.cases),
        )
        for row in index.result.filters
    )
    return Table("What each filter did", columns, rows, heads=2, stack=True)
