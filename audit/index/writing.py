"""Write into the index: transactions, and rows that come as Arrow tables or as records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import duckdb
import pyarrow as pa


@contextlib.contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Make the statements of a block take effect together at its end, or not at all when it raises."""
    con.execute("begin")
    try:
        yield
        con.execute("commit")
    except BaseException:
        with contextlib.suppress(duckdb.TransactionException):  # a full disk at the commit has ended it already
            con.execute("rollback")
        raise


def insert_records(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert records with the columns and types of `table`; a missing field is an error, an extra one is left out."""
    schema = con.sql(f"select * from {table} limit 0").to_arrow_table().schema
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in schema}
    insert(con, f"insert into {table} by name select * from incoming", pa.table(columns))


def insert(con: duckdb.DuckDBPyConnection, statement: str, incoming: pa.Table) -> None:
    """Run a statement that reads the relation `incoming`."""
    con.register("incoming", incoming)
    try:
        con.execute(statement)
    except BaseException:
        with contextlib.suppress(duckdb.TransactionException):  # what failed ended the transaction, and the relation
            con.unregister("incoming")
        raise
    con.unregister("incoming")
