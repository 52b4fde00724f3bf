"""Build the tables of a report: decisions, rates, neighbours, round trips, unassessed cases, checks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from audit.records import Role
from audit.report.view import Column, Index, Table, cell_title, defence_name, subject_name
from audit.report.words import (
    NOT_AVAILABLE,
    REASONS,
    bound,
    count,
    interval,
    limit_text,
    number,
    percent,
    plain,
    small,
    status_text,
)
from audit.verdict.decisions import BlockingDecision, Decision, RetentionDecision, VerdictStatus
from audit.verdict.results import CrrRow, UnassessedRow

CASES = "Hits / assessed / planned"
SURVIVING = (Role.NEIGHBOUR, Role.BENIGN)  # cells of what must survive
INSTRUMENT = (Column("Instrument"), Column("Weights", "code", minor=9))
Decided = TypeVar("Decided", Decision, RetentionDecision, BlockingDecision)
STATUS_ORDER = {VerdictStatus.FAIL: 0, VerdictStatus.INCONCLUSIVE: 1, VerdictStatus.PASS: 2}


def decisions(index: Index, *, reasons: Collection[str] = ()) -> Table:
    """Return one row per decided cell and judge, failures first; without the column of reasons when `reasons` has them all."""
    ordered = failures_first(index.result.verdict.decisions)
    columns = (
        Column("Decision", "status"),
        Column("Concept", minor=2),
        Column("Defence"),
        Column("Scenario"),
        Column("Judge"),
        Column(CASES, "number"),
        Column("CRR at least", "number"),
        Column("CRR at most", "number"),
        Column("Limit", "number", minor=1),
        Column("Bound", minor=5),
        Column("p", "number", minor=4),
        Column("p, corrected", "number", minor=2),
        Column("Cases that would decide", "number", minor=3),
    )
    rows = tuple(_decision(index, decision) for decision in ordered)
    table = Table(f"Decisions: one-sided bounds at {index.bounds_confidence()} confidence", columns, rows, stack=True)
    return table.with_reasons([decision.reason for decision in ordered], reasons, list(map(_why, ordered)))


def failures_first(decisions: Iterable[Decided]) -> list[Decided]:
    """Return the decisions in the order of their statuses."""
    return sorted(decisions, key=lambda decision: STATUS_ORDER[decision.status])


def _why(decision: Decision) -> str:
    """Return the reason without what the other columns of its row say already; all of it where nothing else is left."""
    rest = decision.reason.partition(f"by detector {decision.detector}")[2].strip(" .:,")
    return f"{rest[0].upper()}{rest[1:]}." if rest else decision.reason


def _decision(index: Index, decision: Decision) -> tuple[str, ...]:
    row = index.rows.get((decision.cell_id, decision.detector))
    cases = three_counts(row) if row else NOT_AVAILABLE
    return (
        status_text(decision.status.value),
        plain(decision.concept),
        plain(decision.defence),
        plain(decision.scenario),
        plain(decision.detector),
        cases,
        bound(decision.low, decision.limit),
        bound(decision.high, decision.limit),
        limit_text(decision.limit),
        plain(decision.bound),
        p_value(decision.p_value),
        p_value(decision.p_adjusted),
        would_decide(decision.status, decision.needed_cases, decision.further_cases),
    )


def would_decide(status: VerdictStatus, needed: int | None, further: int | None) -> str:
    """Return how many cases of a new run would decide, or how many more where the policy lets cases be added."""
    if needed is not None:
        return f"{count(needed)} in a new run"
    if further is not None:
        return f"{count(further)} more"
    return "not known" if status is VerdictStatus.INCONCLUSIVE else "none"


def p_value(value: float | None) -> str:
    """Write a p-value: three significant digits, never rounded to 0."""
    if value is None:
        return NOT_AVAILABLE
    return f"{value:.3g}" if value >= 1e-4 else "<0.0001"


def three_counts(row: CrrRow) -> str:
    """Return hits, assessed and planned cases as one cell of a table."""
    return f"{count(row.hits)} / {count(row.assessed)} / {count(row.planned)}"


def rates(index: Index) -> tuple[Table, ...]:
    """Return one table per concept: the reproduction rate by scenario, defence and instrument."""
    rows = index.targets()
    return tuple(
        _rates(index, concept, [row for row in rows if row.concept == concept])
        for concept in dict.fromkeys(row.concept for row in rows)
    )


def _rates(index: Index, concept: str, rows: Iterable[CrrRow]) -> Table:
    lines: list[tuple[str, ...]] = []
    anchors: dict[str, int] = {}  # the first row of each cell
    for row in by_scenario(rows):
        anchors.setdefault(cell_anchor(row.cell_id), len(lines))
        decision = index.decisions.get((row.cell_id, row.detector))
        lines.append(
            (
                plain(row.scenario),
                defence_name(row),
                *index.instrument(row),
                three_counts(row),
                percent(row.rate),
                interval(row.ci_low, row.ci_high),
                percent(row.worst_case),
                number(row.threshold, 3),
                limit_text(decision.limit) if decision else "none",
                _decided(row, decision),
            )
        )
    return Table(
        f"Concept reproduction rate (CRR) of {plain(concept)}",
        (
            Column("Scenario"),
            Column("Defence"),
            *INSTRUMENT,
            Column(CASES, "number"),
            Column("CRR", "number"),
            Column(f"{index.confidence()} interval", "number", minor=1),
            Column("Worst case", "number", minor=2),
            Column("Threshold", "number", minor=4),
            Column("Limit", "number", minor=3),
            Column("Decision", "status"),
        ),
        tuple(lines),
        heads=2,
        anchors={place: anchor for anchor, place in anchors.items()},
    )


def cell_anchor(cell_id: int) -> str:
    """Return the name by which links reach the rates of a cell."""
    return f"cell-{cell_id}"


def _decided(row: CrrRow, decision: Decision | None) -> str:
    if decision is not None:
        return status_text(decision.status.value)
    return "control" if row.control else "not decided"


def by_scenario(rows: Iterable[CrrRow]) -> list[CrrRow]:
    """Return the rows in the plan's order of scenarios and defences, the detectors of one cell side by side."""
    rows = list(rows)
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    defences = list(dict.fromkeys(row.defence for row in rows))
    return sorted(rows, key=lambda r: (scenarios.index(r.scenario), defences.index(r.defence), r.cell_id))


def neighbours(index: Index) -> Table:
    """Return one row per neighbour concept or benign cell, defence and detector, beside the un-erased backbone's rate."""
    rows = [row for row in index.result.crr if row.role in SURVIVING]
    several = len({row.concept for row in rows}) > 1
    baseline = {(r.concept, r.subject, r.scenario, r.detector): r for r in rows if r.defence == "none"}
    lines = []
    for row in rows:
        before = baseline.get((row.concept, row.subject, row.scenario, row.detector))
        change = NOT_AVAILABLE
        if row.defence != "none" and before and before.rate is not None and row.rate is not None:
            change = f"{100 * (row.rate - before.rate):+.1f} points".replace("-", "−")
        lines.append(
            (
                subject_name(row.subject) + (f" beside {plain(row.concept)}" if several else ""),
                defence_name(row),
                plain(row.scenario),
                *index.instrument(row),
                three_counts(row),
                percent(row.rate),
                interval(row.ci_low, row.ci_high),
                "baseline" if row.defence == "none" else change,
            )
        )
    what = "Neighbour concepts" + (" and benign prompts" if any(row.role == Role.BENIGN for row in rows) else "")
    return Table(
        f"{what}: a high rate is wanted here",
        (
            Column("Neighbour"),
            Column("Defence"),
            Column("Scenario", minor=2),
            *INSTRUMENT,
            Column(CASES, "number"),
            Column("Rate", "number"),
            Column(f"{index.confidence()} interval", "number", minor=1),
            Column("Against un-erased", "number"),
        ),
        tuple(lines),
        heads=2,
    )


def round_trips(index: Index) -> Table:
    """Return one row per latent cell: how well its inversions reconstruct their images."""
    rows = tuple(
        (
            plain(index.cell_name(row.cell_id)),
            count(row.cases),
            count(row.failed_gate),
            small(row.residual_median),
            small(row.residual_max),
            number(row.psnr_median_db),
            number(row.psnr_min_db),
            number(row.latent_rms, 3),
        )
        for row in index.result.round_trips
    )
    labels = (
        "Cases",
        "Failed the gate",
        "Residual, median",
        "Residual, largest",
        "PSNR, median (dB)",
        "PSNR, smallest (dB)",
        "Latent RMS",
    )
    return Table("Inversion round trips", (Column("Cell"), *(Column(label, "number") for label in labels)), rows)


def unassessed(index: Index, left_out: Collection[UnassessedRow] = ()) -> Table:
    """Return one row per cell, detector and reason, with the planned cases and one example message; without those
    `left_out`.
    """
    rows = []
    for row in sorted(
        (r for r in index.result.unassessed if r not in left_out), key=lambda r: (r.cell_id, r.reason, r.detector)
    ):
        cell = index.rows.get((row.cell_id, row.detector)) or index.cells.get(row.cell_id)
        meaning = REASONS.get(row.reason)
        rows.append(
            (
                plain(cell_title(cell)) if cell else plain(index.cell_name(row.cell_id)),
                plain(row.detector),
                plain(f"{row.reason}: {meaning}" if meaning else row.reason),
                count(row.cases),
                count(cell.planned) if cell else NOT_AVAILABLE,
                plain(row.example, 400) if row.example else "none recorded",
            )
        )
    return Table(
        "Cases that were not assessed",
        (
            Column("Cell"),
            Column("Detector"),
            Column("Reason"),
            Column("Cases", "number"),
            Column("Planned", "number"),
            Column("Example"),
        ),
        tuple(rows),
        stack=True,
    )


def checks(index: Index) -> Table:
    """Return one row per data check, those that did not pass first."""
    words = {"passed": "✓ passed", "failed": "✕ failed", "error": "? error"}
    ordered = sorted(index.result.verdict.checks, key=lambda check: check.status == "passed")
    rows = tuple(
        (
            words.get(check.status, f"? {plain(check.status)}"),
            plain(check.name),
            plain(check.source),
            count(check.rows),
            plain(check.detail) or "none",
        )
        for check in ordered
    )
    columns = (
        Column("Result", "status"),
        Column("Check"),
        Column("Run by"),
        Column("Rows", "number"),
        Column("Detail"),
    )
    return Table("Data checks", columns, rows, heads=2, stack=True)
