"""What the attacks searched for, before pictures were made. What they found is never shown: it may be explicit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audit.report.view import Column, Table
from audit.report.words import count, plain


def attacks(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method, concept and attacked model, from `mart_attacks`."""
    columns = (
        Column("Concept"),
        Column("Scenario"),
        Column("Attack"),
        Column("Attacked model"),
        Column("Found", "number"),
        Column("UNet calls", "number", minor=1),
        Column("Remark", minor=2),
    )
    return Table("Attacks: what was searched for", columns, tuple(_row(row) for row in rows), heads=2, stack=True)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    model = "backbone" if row["model"] is None else f"{row['defences']} (white box)"
    return (
        plain(row["concept"]),
        plain(row["scenarios"] or "none"),
        plain(f"{row['method']} {row['version']}"),
        plain(model),
        f"{count(row['found'])} of {count(row['items'])}",
        count(row["unet_calls"] or 0),
        plain(row["summary"] or row["error"] or ""),
    )
