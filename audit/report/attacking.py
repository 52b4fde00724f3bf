"""The table of the attacks' searches. Their results are never shown: they may be explicit."""

from __future__ import annotations

from collections.abc import Sequence

from audit.files import Document
from audit.report.view import Column, Table
from audit.report.words import count, plain


def attacks(rows: Sequence[Document]) -> Table:
    """Return one row per method, concept and attacked model, from `mart_attacks`."""
    columns = (
        Column("Concept"),
        Column("Scenario"),
        Column("Attack"),
        Column("Attacked model"),
        Column("Found", "number"),
        Column("Network calls", "number", minor=1),
        Column("Remark", minor=2),
    )
    return Table("Attacks: what was searched for", columns, tuple(_row(row) for row in rows), heads=2, stack=True)


def _row(row: Document) -> tuple[str, ...]:
    model = "backbone" if row["attacked_model"] is None else f"{row['defences']} (white box)"
    return (
        plain(row["concept"]) + (" (control)" if row["is_control"] else ""),
        plain(row["scenarios"] or "none"),
        plain(f"{row['attack_method']} {row['attack_version']}"),
        plain(model),
        f"{count(row['found'])} of {count(row['items'])}",
        count(row["unet_calls"] or 0),
        plain(row["attack_summary"] or row["error"] or ""),
    )
