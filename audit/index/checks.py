"""Check the invariants of a whole run: every query in `sql/checks/` returns the rows that offend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from audit.files import Document
from audit.index.published import open_published, require_run
from audit.index.records import records
from audit.index.sql_files import relations
from audit.progress.steps import counted
from audit.verdict.decisions import CheckResult

_EXAMPLES = 3


def run_checks(path: str | Path, run_id: str) -> list[CheckResult]:
    """Return one result per check of the published index at `path`, by name.

    A check that raises has status 'error', which is not the same as data that failed it. Raises `StoreError` when the
    index cannot be opened or does not know the run.
    """
    con = open_published(path)
    try:
        require_run(con, run_id, path)
        checks = relations("checks")
        asked = counted(checks.items(), "checks", len(checks), "checks")
        return [_run_check(con, name, sql, run_id) for name, sql in asked]
    finally:
        con.close()


def failing_condition(sql: str) -> str:
    """Return the sentence after `-- fails when:` in a check's file."""
    for line in sql.splitlines():
        if line.startswith("-- fails when:"):
            return line.removeprefix("-- fails when:").strip()
    raise ValueError("a check needs a line '-- fails when: ...'")


def _run_check(con: duckdb.DuckDBPyConnection, name: str, sql: str, run_id: str) -> CheckResult:
    offending = f"select *, count(*) over () as offending_rows from ({sql}) as offending where run_id = ?"
    query = f"{offending} order by all limit {_EXAMPLES}"  # the same examples from the same rows, wherever they lie
    try:
        condition = failing_condition(sql)
        rows = records(con, query, [run_id])
    except (duckdb.Error, ValueError) as error:
        return CheckResult(name, "sql", "error", f"the check could not run: {str(error).splitlines()[0]}", 0)
    if not rows:
        return CheckResult(name, "sql", "passed", "no offending rows", 0)
    count = int(rows[0]["offending_rows"])
    return CheckResult(name, "sql", "failed", f"{condition}: {_describe(rows, count)}", count)


def _describe(rows: Sequence[Document], count: int) -> str:
    hidden = {"run_id", "offending_rows"}
    shown = [", ".join(f"{key}={value}" for key, value in row.items() if key not in hidden) for row in rows]
    more = [f"and {count - len(rows)} more"] if count > len(rows) else []
    return "; ".join([*shown, *more])
