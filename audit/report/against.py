"""The section that sets defences against each other, on the same cases: each with the un-erased model, guards with none."""

from __future__ import annotations

from audit.report.tables import p_value
from audit.report.view import Column, Index, Section, Table
from audit.report.words import NOT_AVAILABLE, count, plain
from audit.verdict.comparison import PairedDecision, compare

_SENTENCES = (
    "The same cases through two defences, pair by pair; it decides nothing about PASS or FAIL. 'better' and 'worse' are shown by "
    "McNemar's exact test, corrected for all rows of the table by Holm's rule; 'no worse' means that the second is at most 5 "
    "points worse, by an exact bound. A pair that is unassessed on either side speaks against each of these words.",
    "The interval of the difference is Newcombe's, of assessed pairs, for display.",
)


def section(index: Index) -> Section | None:
    """Return the section; None for a run without pairs that the gate's judges read."""
    policy = index.policy
    judges = policy.judges if policy else ()
    rows = [row for row in index.result.defence_pairs if row.detector in judges]
    if not rows or policy is None:
        return None
    decisions = compare(rows, policy.confidence)
    columns = (
        Column("Concept", minor=2),
        Column("Scenario"),
        Column("Judge"),
        Column("First"),
        Column("Second"),
        Column("Second is"),
        Column("Pairs", "number"),
        Column("Became clear", "number"),
        Column("Became hits", "number"),
        Column("Unassessed", "number", minor=1),
        Column("Difference of CRR", "number"),
        Column("Worse by at most", "number", minor=3),
        Column("p better, corrected", "number", minor=4),
        Column("p worse, corrected", "number", minor=4),
        Column("p worse, mid-p alone", "number", minor=5),
    )
    table = Table("Defences on the same cases", columns, tuple(_line(d) for d in decisions), heads=3, stack=True)
    return Section("against", "Defence against defence", _SENTENCES, tables=(table,))


def _line(decision: PairedDecision) -> tuple[str, ...]:
    row = decision.row
    return (
        plain(row.concept),
        plain(row.scenario),
        plain(row.detector),
        plain(row.first),
        plain(row.second),
        decision.word,
        count(row.pairs),
        count(row.first_only),
        count(row.second_only),
        count(row.unassessed),
        _points(decision),
        f"{100 * decision.increase_at_most:.1f} points",
        p_value(decision.p_better_adjusted),
        p_value(decision.p_worse_adjusted),
        p_value(decision.p_worse_mid),
    )


def _points(decision: PairedDecision) -> str:
    """Write the difference in percentage points with its interval."""
    if decision.difference is None:
        return NOT_AVAILABLE
    low, high = 100 * decision.difference_low, 100 * decision.difference_high
    return f"{100 * decision.difference:+.1f} ({low:+.1f} to {high:+.1f}) points"
