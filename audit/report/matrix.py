"""Set what came back side by side: for each concept one table of defences and scenarios, with rates and verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.records import Control
from audit.report import strips
from audit.report.tables import STATUS_ORDER, cell_anchor
from audit.report.view import Column, Index, Section, Table, defence_name
from audit.report.words import NOT_AVAILABLE, count, percent, plain, status_text
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import CrrRow

TITLE = "At a glance"
READING = (
    "Rates are hits / assessed, by each judge, the worst first. Lower is better, except through the un-erased model, where the "
    "attack must work. The decisions below have limits and bounds."
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one judge says of one cell: its decision, or a word where there is none, and the rate."""

    status: str  # PASS | FAIL | INCONCLUSIVE, or empty
    word: str
    counts: str  # hits / assessed
    rate: str
    unassessed: int
    judge: str

    def text(self) -> str:
        """Return the entry in words, without its judge."""
        missing = f", {count(self.unassessed)} unassessed" if self.unassessed else ""
        return f"{status_text(self.status) if self.status else self.word} {self.counts} ({self.rate}{missing})"


@dataclasses.dataclass(frozen=True)
class MatrixCell:
    """One defence in one scenario; without entries it was not planned."""

    anchor: str  # of its detail rows
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One concept: a row per defence, the un-erased model's first, and a column per scenario."""

    concept: str
    status: str  # the worst decision of the concept, or empty
    scenarios: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]

    @property
    def title(self) -> str:
        """Return the concept as it can be shown."""
        return plain(self.concept)

    @property
    def several(self) -> bool:
        """Return whether more than one judge speaks in it, so that each has to be named."""
        return len({entry.judge for _, cells in self.rows for cell in cells for entry in cell.entries}) > 1


def matrices(index: Index) -> tuple[Matrix, ...]:
    """Return one matrix per concept, those with the worst decision first and otherwise in plan order."""
    concepts = dict.fromkeys(row.concept for row in index.targets())
    listed = [_matrix(index, concept) for concept in concepts]
    order = {status.value: place for status, place in STATUS_ORDER.items()}
    return tuple(sorted(listed, key=lambda matrix: order.get(matrix.status, len(order))))


def section(index: Index) -> Section | None:
    """Return the first section of a report, as text: for each concept its pictured case in one line, and its matrix."""
    listed = matrices(index)
    if not listed:
        return None
    lines = strips.captions(index)
    bullets = tuple(f"{m.title}: {lines[m.concept]}" for m in listed if m.concept in lines)
    return Section("glance", TITLE, (READING,), bullets, tables=tuple(map(_table, listed)))


def _matrix(index: Index, concept: str) -> Matrix:
    rows = [row for row in index.targets() if row.concept == concept]
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    defences = sorted(dict.fromkeys(row.defence for row in rows), key=lambda name: name != "none")
    cells: dict[tuple[str, str], list[CrrRow]] = {}
    for row in rows:
        if index.is_judge(row.detector):
            cells.setdefault((row.defence, row.scenario), []).append(row)
    statuses = [d.status for d in index.result.verdict.decisions if d.concept == concept]
    worst = min(statuses, key=STATUS_ORDER.__getitem__, default=None)
    names = {row.defence: defence_name(row) for row in rows}
    return Matrix(
        concept,
        worst.value if worst else "",
        tuple(map(plain, scenarios)),
        tuple(
            (names[defence], tuple(_cell(index, cells.get((defence, scenario), ())) for scenario in scenarios))
            for defence in defences
        ),
    )


def _cell(index: Index, rows: Sequence[CrrRow]) -> MatrixCell:
    if not rows:
        return MatrixCell("", ())
    ordered = sorted(rows, key=lambda row: _badness(index, row))
    return MatrixCell(cell_anchor(rows[0].cell_id), tuple(_entry(index, row) for row in ordered))


def _badness(index: Index, row: CrrRow) -> tuple[int, float]:
    """Return a key that sorts the worst judge first: the one that fails; on the un-erased model, that sees the attack least."""
    decision = index.decisions.get((row.cell_id, row.detector))
    place = STATUS_ORDER[decision.status if decision else VerdictStatus.INCONCLUSIVE]
    rate = row.rate if row.rate is not None else -1.0
    return place, rate if row.control == Control.BACKBONE else -rate


def _entry(index: Index, row: CrrRow) -> Entry:
    decision = index.decisions.get((row.cell_id, row.detector))
    return Entry(
        decision.status.value if decision else "",
        "control" if row.control else "not decided",
        f"{count(row.hits)}/{count(row.assessed)}",
        percent(row.rate) if row.assessed else NOT_AVAILABLE,
        row.unassessed,
        plain(row.detector),
    )


def _table(matrix: Matrix) -> Table:
    def text(cell: MatrixCell) -> str:
        if not cell.entries:
            return "not planned"
        return "; ".join(entry.text() + (f" {entry.judge}" if matrix.several else "") for entry in cell.entries)

    columns = (Column("Defence"), *(Column(scenario) for scenario in matrix.scenarios))
    rows = tuple((name, *map(text, cells)) for name, cells in matrix.rows)
    return Table(caption(matrix), columns, rows)


def caption(matrix: Matrix) -> str:
    """Return the caption of a matrix."""
    return f"{matrix.title}: how often it came back, by defence and scenario"
