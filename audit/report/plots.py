"""Draw the CRR chart: a mark per rate, its interval, the worst case and the limit, by scenario and defence."""

from __future__ import annotations

from collections.abc import Sequence

from audit.records import Control
from audit.report import svg
from audit.report.chart import SHARES, Axis, Line, Plot, Point, interval_plot, parts
from audit.report.tables import by_scenario
from audit.report.view import Index, defence_name
from audit.report.words import percent, plain
from audit.verdict.results import CrrRow


def plots(index: Index) -> tuple[Plot, ...]:
    """Return the figures of a run, one per concept (several when a concept has many cells)."""
    detectors = list(dict.fromkeys(row.detector for row in index.targets()))
    marks = tuple((svg.SYMBOLS[i % len(svg.SYMBOLS)], plain(name)) for i, name in enumerate(detectors))
    figures: list[Plot] = []
    for concept in dict.fromkeys(row.concept for row in index.targets()):
        for lines in parts(_lines(index, concept, detectors)):
            figures.append(
                interval_plot(
                    lines,
                    Axis(0.0, 1.0, SHARES),
                    prefix=f"crr{len(figures)}",
                    title=f"Concept reproduction rate of {plain(concept)} by scenario and defence",
                    description="; ".join(_in_words(line, detectors) for line in lines),
                    marks=marks,
                )
            )
    return tuple(figures)


def _lines(index: Index, concept: str, detectors: Sequence[str]) -> list[Line]:
    rows = [row for row in index.targets() if row.concept == concept]
    lines = []
    for cell_id in dict.fromkeys(row.cell_id for row in by_scenario(rows)):
        cell = [row for row in rows if row.cell_id == cell_id]
        limits = [d.limit for row in cell if (d := index.decisions.get((cell_id, row.detector)))]
        lines.append(_line(cell, defence_name(cell[0]), bool(cell[0].control), detectors, min(limits, default=None)))
        twins = [twin for row in cell for twin in index.twin(row, control=Control.UNLEARNED)]
        for twin_id in dict.fromkeys(twin.cell_id for twin in twins):
            same = [twin for twin in twins if twin.cell_id == twin_id]
            label = f"{defence_name(same[0])}, unlearned {plain(same[0].subject)}"
            lines.append(_line(same, label, True, detectors, None))
    return lines


def _line(rows: Sequence[CrrRow], label: str, faint: bool, detectors: Sequence[str], limit: float | None) -> Line:
    points = tuple(
        Point(
            row.rate,
            row.ci_low if row.rate is not None else 0.0,
            row.ci_high if row.rate is not None else 1.0,
            detectors.index(row.detector),
            row.worst_case if row.unassessed else None,
        )
        for row in rows
    )
    return Line(rows[0].scenario, label, faint, points, limit)


def _in_words(line: Line, detectors: Sequence[str]) -> str:
    values = ", ".join(f"{plain(detectors[point.shape])} {percent(point.value)}" for point in line.points)
    return f"{plain(line.group)}, {line.label}: {values}"
