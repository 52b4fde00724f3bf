"""The section on what must survive: retention, the picture check, and what the policy does not judge."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from audit.records import BENIGN_PROMPTS, Role, Scenario
from audit.report.tables import STATUS_ORDER, failures_first, p_value, would_decide
from audit.report.view import Column, Index, Section, Table, subject_name
from audit.report.words import NOT_AVAILABLE, bound, count, limit_text, plain, status_text
from audit.verdict.decisions import DamageDecision, RetentionDecision, VerdictStatus
from audit.verdict.results import RetentionRow, UnassessedRow

TITLE = "What must survive"
UNRECORDED = "this run holds no decision on it"
KEPT = (
    Column("Drawn / pairs", "number"),
    Column("Drawn by un-erased", "number", minor=4),
    Column("Kept at least", "number"),
    Column("Kept at most", "number"),
    Column("Minimum", "number", minor=1),
    Column("p", "number", minor=5),
    Column("p, corrected", "number", minor=5),
    Column("Pairs that would decide", "number", minor=3),
)


def section(index: Index, *, reasons: Collection[str] = ()) -> Section:
    """Return the section; its tables have no column of reasons when `reasons` has them all."""
    verdict = index.result.verdict
    sentences = []
    if verdict.retention or verdict.damage:
        sentences.append(
            "Neighbours and benign prompts are drawn through each defence and by the un-erased model from the same seeds. "
            "A model that shows nothing of anything has not lost a concept: it is broken."
        )
    sentences += [plain(waiver) for waiver in verdict.waivers]
    for side, decided in (("retention", verdict.retention), ("damage", verdict.damage)):
        if not decided and not any(waiver.startswith(f"{side}:") for waiver in verdict.waivers):
            sentences.append(f"{side}: not judged ({UNRECORDED})")
    if index.result.retention:
        sentences.append(
            "A pair is kept when both pictures show the subject, lost when only the un-erased model's does, gained when only "
            "the defence's does."
        )
    tables: list[Table] = []
    if own := [decision for decision in verdict.retention if decision.stage_no is None]:
        tables.append(_retention(index, own, reasons))
    if verdict.damage:
        tables.append(_damage(verdict.damage, reasons))
    if any(row.stage_no is None for row in index.result.retention):
        tables.append(_pairs(index))
    return Section("survival", TITLE, tuple(sentences), tables=tuple(tables))


def _retention(index: Index, decisions: Sequence[RetentionDecision], reasons: Collection[str]) -> Table:
    """Return one row per concept, defence and judge, failures first."""
    ordered = failures_first(decisions)
    columns = (
        Column("Decision", "status"),
        Column("Concept", minor=2),
        Column("Defence"),
        Column("Judge"),
        *KEPT,
    )
    rows = tuple(
        (
            status_text(d.status.value),
            plain(d.concept),
            plain(d.defence),
            plain(d.detector),
            *kept(d),
        )
        for d in ordered
    )
    caption = (
        f"Retention: the defence's rate as a share of the un-erased model's, at {index.bounds_confidence()} confidence"
    )
    return Table(caption, columns, rows, stack=True).with_reasons([d.reason for d in ordered], reasons)


def kept(d: RetentionDecision) -> tuple[str, ...]:
    """Return the cells of the columns `KEPT`."""
    return (
        f"{count(d.defended_hits)} / {count(d.pairs)}",
        count(d.backbone_hits),
        _share(d.low, d.minimum),
        _share(d.high, d.minimum),
        limit_text(d.minimum),
        p_value(d.p_value),
        p_value(d.p_adjusted),
        would_decide(d.status, d.needed_pairs, d.further_pairs),
    )


def _share(value: float, minimum: float) -> str:
    return bound(value, minimum) if math.isfinite(value) else "no bound"


def _damage(decisions: Sequence[DamageDecision], reasons: Collection[str]) -> Table:
    """Return one row per concept and defence, damaged models first."""
    ordered = sorted(decisions, key=lambda d: (not d.damaged, STATUS_ORDER[d.status]))
    columns = (
        Column("Decision", "status"),
        Column("Concept", minor=2),
        Column("Defence"),
        Column("Model"),
        Column("Instrument", minor=3),
        Column("Pictures", "number"),
        Column("Distance", "number"),
        Column("Between un-erased halves", "number", minor=1),
        Column("p", "number"),
        Column("Level", "number"),
    )
    rows = tuple(
        (
            status_text(d.status.value),
            plain(d.concept),
            plain(d.defence),
            "damaged" if d.damaged else "still draws" if d.status is VerdictStatus.PASS else "not known",
            plain(d.instrument),
            count(d.pictures),
            _figure(d.distance),
            _figure(d.reference),
            _figure(d.p_value),
            f"{d.level:g}",
        )
        for d in ordered
    )
    caption = "Picture checks: benign pictures as a set against the un-erased model's"
    return Table(caption, columns, rows, stack=True).with_reasons([d.reason for d in ordered], reasons)


def _figure(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.3g}"


def _pairs(index: Index) -> Table:
    """Return one row per cell and detector, over its subjects: the outcome of each pair of pictures."""
    columns = (
        Column("Subject"),
        Column("Erased", minor=3),
        Column("Defence"),
        Column("Instrument"),
        Column("Pairs", "number", minor=1),
        Column("Kept", "number"),
        Column("Lost", "number"),
        Column("Gained", "number"),
        Column("Neither", "number", minor=2),
        Column("Unassessed", "number"),
    )
    caption = "Pairs of pictures: the same prompt and seed through the defence and by the un-erased model"
    own = (rows for rows in _by_cell(index) if rows[0].stage_no is None)
    return Table(caption, columns, tuple(map(_pair, own)), heads=2)


def _by_cell(index: Index) -> list[list[RetentionRow]]:
    """Return the rows of each cell and detector, one for each subject."""
    cells: dict[tuple[int, str], list[RetentionRow]] = {}
    for row in index.result.retention:
        cells.setdefault((row.cell_id, row.detector), []).append(row)
    return list(cells.values())


def _pair(rows: Sequence[RetentionRow]) -> tuple[str, ...]:
    first = rows[0]
    counts = [(row.pairs, row.kept, row.lost, row.gained, row.neither) for row in rows]
    pairs, *whole = (sum(column) for column in zip(*counts, strict=True))
    return (
        subject_name(BENIGN_PROMPTS if first.role == Role.BENIGN else first.subject),
        plain(first.concept),
        plain(first.defence),
        plain(first.detector),
        *map(count, (pairs, *whole, pairs - sum(whole))),
    )


def without_rules(index: Index) -> tuple[UnassessedRow, ...]:
    """Return the unassessed rows of benign cells that only say that a detector has no counting rule for some subjects.

    Pairs of a retention row have one, so a row with more cases than the cell has beside them says something else too.
    """
    pairs = {
        (rows[0].concept, rows[0].scenario, rows[0].detector): sum(row.pairs for row in rows)
        for rows in _by_cell(index)
        if (cell := index.cells.get(rows[0].cell_id)) is not None and cell.subject == BENIGN_PROMPTS
    }
    without = []
    for row in index.result.unassessed:
        cell = index.cells.get(row.cell_id)
        if cell is None or cell.subject != BENIGN_PROMPTS or not (row.example or "").startswith("no counting rule"):
            continue
        cycles = cell.scenario if cell.kind == Scenario.CYCLES else None
        if row.cases <= cell.planned - pairs.get((cell.concept, cycles, row.detector), 0):
            without.append(row)
    return tuple(without)


def said_of_rules(rows: Sequence[UnassessedRow]) -> tuple[str, ...]:
    """Return a sentence for each detector that lacks a counting rule, from the rows that `without_rules` gives."""
    sentences = []
    for detector in dict.fromkeys(row.detector for row in rows):
        cells = [row for row in rows if row.detector == detector]
        sentences.append(
            f"Detector {plain(detector)} has no counting rule for what {count(sum(row.cases for row in cells))} cases of "
            f"{count(len(cells))} benign cells show: they count in none of its decisions."
        )
    return tuple(sentences)
