"""The section on guards: in which cells each acted, how often, and a warning where one never did."""

from __future__ import annotations

from audit.records import Scenario
from audit.report.view import Column, Index, Section, Table
from audit.report.words import count, number, plain
from audit.verdict.results import GuardRow


def section(index: Index) -> Section | None:
    """Return the section on the guards, or None when no case has a guard."""
    rows = index.result.guards
    if not rows:
        return None
    idle = [row for row in rows if row.acted == 0]
    sentences = [
        "A guard acts while a picture is denoised. It reports for each case at how many steps, and why it did not act."
    ]
    if any(row.guard == Scenario.CLASSIFIER_GUIDANCE for row in rows):
        sentences.append("Classifier guidance, which steers towards the concept, stands among them with its own steps.")
    if idle:
        sentences.append(
            f"Warning: {count(len(idle))} of {count(len(rows))} times a guard never acted in a whole cell. "
            "There the rates speak of the defence without that guard."
        )
    bullets = tuple(
        plain(f"Warning: {row.guard} never acted in {index.cell_name(row.cell_id)}: {row.reason}") for row in idle
    )
    return Section("guards", "Guards", tuple(sentences), bullets, tables=(_table(index, rows),))


def _table(index: Index, rows: tuple[GuardRow, ...]) -> Table:
    columns = (
        Column("Cell"),
        Column("Guard"),
        Column("Acted on", "number"),
        Column("Cases", "number"),
        Column("Given up", "number", minor=1),
        Column("Steps, mean", "number"),
        Column("Own network calls, mean", "number", minor=1),
        Column("Measures, mean", minor=2),
    )
    lines = tuple(
        (
            plain(index.cell_name(row.cell_id)),
            plain(row.guard),
            count(row.acted),
            count(row.cases),
            count(row.failed),
            number(row.steps_mean),
            number(row.unet_calls_mean),
            plain(", ".join(f"{name} {value:.3g}" for name, value in sorted(row.measures.items()))) or "none",
        )
        for row in rows
    )
    return Table("What the guards did", columns, lines, heads=2, stack=True)
