"""Open a published index as if it held one run alone, so that what is asked of a run costs what the run costs.

The marts are written for all runs, and DuckDB does not carry a condition on the run into each part of them. Over views of
the tables that name the run's key, every part reads the row groups of that run and no others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import duckdb

from audit.index.sql_files import relations


@contextlib.contextmanager
def open_run(path: str | Path, run_key: int, without: Collection[str] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect the block to a database in memory with the tables of one run; the published index is attached as `published`.

    The tables named in `without` are left to the caller, and the marts are left to `create_marts`. A table that the
    version which filled the index did not know is empty. Raises `duckdb.Error` when the index cannot be read.
    """
    with contextlib.closing(duckdb.connect()) as con:
        quoted = str(path).replace("'", "''")
        con.execute(f"attach '{quoted}' as published (read_only)")
        # By the definitions of the tables: DuckDB's list of columns binds every mart of the published index first.
        tables = con.execute(
            r"select table_name, regexp_matches(sql, '\brun_key\b') from duckdb_tables()"
            " where database_name = 'published' and schema_name = 'main'"
        ).fetchall()
        of_one_run = dict(tables)
        for table, definition in relations("schema").items():
            if table in without:
                continue
            if table not in of_one_run:
                con.execute(definition)
            elif of_one_run[table]:
                con.execute(f"create view {table} as from published.{table} where run_key = {run_key:d}")
            else:
                con.execute(f"create view {table} as from published.{table}")
        yield con


def create_marts(con: duckdb.DuckDBPyConnection) -> None:
    """Create the marts as views over the tables of a connection."""
    for name, sql in relations("marts").items():
        con.execute(f"create or replace view {name} as {sql}")
