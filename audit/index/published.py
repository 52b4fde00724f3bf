"""Open a published copy of the index, read-only."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb

from audit.errors import StoreError
from audit.index.sql_files import digest
from audit.index.store import explained


def open_published(path: str | Path) -> duckdb.DuckDBPyConnection:
    """Open a published index read-only. Raises `StoreError` when it is absent, corrupt or unreadable."""
    path = Path(path)
    if not path.is_file():
        raise StoreError("there is no index here", where=str(path), next_step="make one with: erasure-audit db rebuild")
    with explained(path):
        return duckdb.connect(str(path), read_only=True)


def require_version(con: duckdb.DuckDBPyConnection, where: str) -> str:
    """Return the digest of the definitions that filled the index. Raises `StoreError` when they are another version's."""
    try:
        stored = con.execute("select digest from index_version").fetchall()
    except duckdb.CatalogException:
        stored = []
    if stored != [(digest(),)]:
        raise StoreError(
            "the index was filled by another version of erasure-audit",
            where=where,
            next_step="rebuild it from the journal with: erasure-audit db rebuild",
        )
    return digest()


def require_run(con: duckdb.DuckDBPyConnection, run_id: str, path: str | Path) -> None:
    """Return when the index knows the run. Raises `StoreError` that names the runs it does know."""
    known = [str(row[0]) for row in con.execute("select run_id from mart_runs order by created_at desc").fetchall()]
    if run_id not in known:
        listed = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "") if known else "none"
        raise StoreError(
            f"the index does not know the run {run_id!r}; it knows: {listed}",
            where=str(path),
            next_step="list the runs with: erasure-audit db runs; fold in a new one with: erasure-audit db rebuild",
        )


def key_of_run(path: str | Path, run_id: str) -> int:
    """Return the number of a run in a published index; raises as `open_published` and `require_run`."""
    with contextlib.closing(open_published(path)) as con, explained(Path(path)):
        require_run(con, run_id, path)
        ((run_key,),) = con.execute("select run_key from runs where run_id = ?", [run_id]).fetchall()
        return int(run_key)
