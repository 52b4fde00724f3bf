"""The table of mask controls beside the guarded cells: a guard's effect where it located the concept, and elsewhere."""

from __future__ import annotations

from audit.records import MASK_CONTROLS, Role
from audit.report.tables import CASES, INSTRUMENT, three_counts
from audit.report.view import Column, Index, Table, defence_name
from audit.report.words import CONTROLS, interval, percent, plain
from audit.verdict.results import CrrRow


def table(index: Index) -> Table | None:
    """Return guarded cells, each followed by its mask controls, detector by detector; None when there are no mask controls."""
    beside: dict[tuple[str, str, str, str], list[CrrRow]] = {}
    for row in index.result.crr:
        if row.control in MASK_CONTROLS:
            beside.setdefault((row.concept, row.defence, row.scenario, row.detector), []).append(row)
    lines = []
    for row in index.result.crr:
        controls = beside.get((row.concept, row.defence, row.scenario, row.detector))
        if controls and row.role == Role.TARGET and row.control is None:
            lines.append(_line(index, row, "as audited"))
            lines += [_line(index, control, CONTROLS[str(control.control)][0]) for control in controls]
    if not lines:
        return None
    columns = (
        Column("Sought"),
        Column("Defence"),
        Column("Scenario"),
        Column("Mask"),
        *INSTRUMENT,
        Column(CASES, "number"),
        Column("CRR", "number"),
        Column(f"{index.confidence()} interval", "number", minor=1),
    )
    return Table(
        "Mask controls: the same attack with the guard's noise elsewhere; they decide nothing", columns, tuple(lines)
    )


def _line(index: Index, row: CrrRow, mask: str) -> tuple[str, ...]:
    return (
        plain(row.subject),
        defence_name(row),
        plain(row.scenario),
        mask,
        *index.instrument(row),
        three_counts(row),
        percent(row.rate),
        interval(row.ci_low, row.ci_high),
    )
