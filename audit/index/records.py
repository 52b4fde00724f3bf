"""Read the rows of a query as records by column name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import duckdb

Row: TypeAlias = dict[str, Any]  # column -> value, as the query's relation types it


def records(
    con: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, object] | Sequence[object] | None = None
) -> list[Row]:
    """Return the rows of a query as mappings by column name."""
    cursor = con.execute(sql, parameters)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
