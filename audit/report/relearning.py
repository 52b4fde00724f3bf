"""The section on relearning: how fast a concept comes back in training, beside what learns it anew."""

from __future__ import annotations

from audit.report.tables import CASES, INSTRUMENT, by_scenario, three_counts
from audit.report.view import Column, Index, Section, Table, defence_name
from audit.report.words import count, interval, percent, plain
from audit.verdict.results import CrrRow

_SENTENCES = (
    "Each model was trained on a few reference pictures, and its prompts were drawn on the way. The last "
    "checkpoint is the scenario's rate; the others never enter a decision.",
    "Read three curves together: the erased model's, the un-erased model's after the same training, and that of a concept "
    "that the backbone never learned, from as many pictures and steps. A concept that comes back sooner than the "
    "never-learned one was still in the weights. One that comes back no sooner may have been learned anew, of which the "
    "pictures alone are the cause.",
)


def section(index: Index) -> Section | None:
    """Return the section on relearning, or None where no scenario trains an erased model again."""
    rows = index.relearned()
    if not rows:
        return None
    columns = (
        Column("Sought"),
        Column("Which is", minor=1),
        Column("Defence"),
        Column("Scenario", minor=2),
        Column("Training steps", "number"),
        *INSTRUMENT,
        Column(CASES, "number"),
        Column("CRR", "number"),
        Column(f"{index.confidence()} interval", "number"),
    )
    curves = list(dict.fromkeys(map(_curve, by_scenario(rows))))
    ordered = sorted(rows, key=lambda row: (curves.index(_curve(row)), row.strength or 0.0))
    table = Table("CRR after training steps", columns, tuple(_line(index, row) for row in ordered), heads=2)
    return Section("relearning", "Relearning", _SENTENCES, tables=(table,))


def _curve(row: CrrRow) -> tuple[str, ...]:
    return row.scenario, row.concept, row.defence, row.subject, row.detector


def _line(index: Index, row: CrrRow) -> tuple[str, ...]:
    never = row.subject != row.concept
    return (
        plain(row.subject),
        "never learned" if never else "un-erased" if row.defence == "none" else "erased",
        defence_name(row),
        plain(row.scenario),
        count(int(row.strength or 0)),
        *index.instrument(row),
        three_counts(row),
        percent(row.rate),
        interval(row.ci_low, row.ci_high),
    )
