"""The section on detectors that read the same pictures: where they agree, where they do not, and pictures of the latter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audit.records import Outcome
from audit.report.contact import OUTCOME_SYMBOLS, Sheet, Thumbnail, sensitive_names
from audit.report.embedding import Embedder, Pictures
from audit.report.view import Column, Index, Section, Table
from audit.report.words import NOT_AVAILABLE, count, plain
from audit.statistics.agreement import Agreement, agreement_of
from audit.verdict.results import Disagreement, JudgePairRow

KEY = "judges"
ROOM = 250_000  # bytes that the pictures share
MOST_SHEETS, PER_SHEET = 12, 6


def section(index: Index) -> Section | None:
    """Return the section on pairs of detectors, or None when one alone read the pictures."""
    rows = index.result.judge_pairs
    if not rows:
        return None
    apart = sum(row.first_only + row.second_only for row in rows)
    both = sum(row.assessed_both for row in rows)
    sentences = [
        f"Detectors that read the same pictures disagree on {count(apart)} of {count(both)} pictures that both assessed.",
        "kappa is Cohen's: agreement beyond chance, 1 for complete agreement and 0 for what chance alone would give. "
        "It says nothing of who is right, and has no value where both say the same of every picture.",
    ]
    if index.result.blocking:
        sentences.append("Pictures that filters block count as the others do: detectors read them all the same.")
    return Section(KEY, "Agreement between detectors", tuple(sentences), tables=_tables(index, rows))


def agreement(row: JudgePairRow, confidence: float) -> Agreement:
    """Return how far a pair agrees on the pictures that both assessed."""
    table = np.array([[row.hit_both, row.first_only], [row.second_only, row.clear_both]], dtype=np.float64)
    return agreement_of(table, confidence)


def sheets(index: Index, read: Pictures, *, show_sensitive: bool = False) -> tuple[Sheet, ...]:
    """Return the pictures on which detectors disagree, a sheet for each cell and pair, widest disagreement first."""
    groups: dict[tuple[int, str, str], list[Disagreement]] = {}
    for row in index.result.disagreements:
        groups.setdefault((row.cell_id, row.first_detector, row.second_detector), []).append(row)
    apart = {(row.cell_id, row.first_detector, row.second_detector): row for row in index.result.judge_pairs}
    order = sorted(
        groups, key=lambda key: (-(apart[key].first_only + apart[key].second_only) if key in apart else 0, key)
    )
    chosen = {key: groups[key][:PER_SHEET] for key in order[:MOST_SHEETS]}
    embed = Embedder.sharing(read, sum(map(len, chosen.values())), ROOM)
    names = frozenset() if show_sensitive else sensitive_names(index)
    found = []
    for (cell_id, first, second), rows in chosen.items():
        cell = index.cells.get(cell_id)
        known = cell is not None and cell.concept not in names and cell.subject not in names
        hide = not show_sensitive and (not known or any(row.sensitive for row in rows))
        title = f"{index.cell_name(cell_id)}: {plain(first)} against {plain(second)}"
        thumbnails = tuple(_thumbnail(row, embed, hide) for row in rows)
        total = len(groups[cell_id, first, second])
        if (pair := apart.get((cell_id, first, second))) is not None:
            total = pair.first_only + pair.second_only
        found.append(Sheet(plain(title), f"{len(rows)} of {total} pictures on which they disagree", hide, thumbnails))
    return tuple(found)


def _thumbnail(row: Disagreement, embed: Embedder, hide: bool) -> Thumbnail:
    uri, placeholder = embed(row, hide=hide)
    finder = row.first_detector if row.first_outcome == Outcome.HIT else row.second_detector
    kind = f"picture {placeholder}" if placeholder else "blurred picture" if hide else "picture"
    said = ((row.first_detector, row.first_score), (row.second_detector, row.second_score))
    return Thumbnail(
        outcome=Outcome.HIT.value,
        symbol=OUTCOME_SYMBOLS[Outcome.HIT.value],
        caption=f"#{row.case_no} by {plain(finder, 40)} alone",
        alt=f"Case {row.case_no}, found by {plain(finder, 40)} alone: {kind}",
        uri=uri,
        placeholder=placeholder,
        detail=", ".join(
            f"{plain(name, 40)} {NOT_AVAILABLE if score is None else f'{score:.2f}'}" for name, score in said
        ),
    )


def _tables(index: Index, rows: Sequence[JudgePairRow]) -> tuple[Table, ...]:
    confidence = index.policy.confidence if index.policy else 0.95
    columns = (
        Column("Cell"),
        Column("First"),
        Column("Second"),
        Column("Both find it", "number"),
        Column("First alone", "number"),
        Column("Second alone", "number"),
        Column("Neither", "number"),
        Column("Unassessed by one", "number", minor=2),
        Column("Unassessed by both", "number", minor=3),
        Column("kappa", "number"),
        Column(f"Interval, {confidence:.0%}", "number", minor=1),
    )
    lines = tuple(_line(index, row, confidence) for row in rows)
    return (Table("What two detectors say of the same pictures", columns, lines, heads=3, stack=True),)


def _line(index: Index, row: JudgePairRow, confidence: float) -> tuple[str, ...]:
    agreed = agreement(row, confidence)
    counts = (row.hit_both, row.first_only, row.second_only, row.clear_both, row.unassessed_one, row.unassessed_both)
    known = agreed.kappa is not None
    return (
        plain(index.cell_name(row.cell_id)),
        plain(row.first_detector),
        plain(row.second_detector),
        *(count(number) for number in counts),
        f"{agreed.kappa:.2f}" if known else NOT_AVAILABLE,
        f"{agreed.low:.2f} to {agreed.high:.2f}" if known else NOT_AVAILABLE,
    )
