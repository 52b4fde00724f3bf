"""Read the paired outcomes of a run's defences."""

from __future__ import annotations

import duckdb

from audit.files import Document
from audit.index.records import records
from audit.verdict.comparison import PairedRow, built_on


def read_defence_pairs(con: duckdb.DuckDBPyConnection, run_id: str, spec: Document) -> tuple[PairedRow, ...]:
    """Return the paired outcomes of each defence and the un-erased model, and of each and the ones that it builds on.

    One row per cell and detector; `spec` is the stored one, which says what the defences are.
    """
    sql = "select * exclude run_id from mart_defence_pairs where run_id = ? order by all"
    rows = records(con, sql, [run_id])
    chosen = set(built_on(spec.get("defences") or ()))
    pairs = (PairedRow(first=row.pop("first_defence"), second=row.pop("second_defence"), **row) for row in rows)
    return tuple(row for row in pairs if (row.first, row.second) in chosen)
