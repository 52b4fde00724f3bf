"""The rows of one run: out of an index into Parquet files, and from them into an empty index again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import NotVerified
from audit.evidence.redaction import Redaction
from audit.files import reason
from audit.index.folding import decide_cases, fill_intervals, fill_rates
from audit.index.sql_files import relations
from audit.index.writing import insert, transaction

BY_RUN = (
    "runs", "instruments", "rules", "cells", "cell_filters", "cases", "item_attributes", "planned_units", "outcomes",
    "quality_instruments", "comparisons", "set_distances", "picture_checks", "strange_pictures", "nearest_pictures",
)  # fmt: skip
BY_UNIT = (
    "erasures", "attacks", "inversions", "images", "rulings", "measurements", "scores", "qualities", "loaded_units",
)  # fmt: skip
TABLES = (*BY_RUN, *BY_UNIT)
# Computed again; about the index itself; and what the records in `decisions.json` say. Every other relation is exported.
LEFT_OUT = (
    "intervals",
    "crr",
    "retention",
    "index_version",
    "verdicts",
    "decisions",
    "check_results",
    "control_findings",
)
_OUTCOME = (
    "cell_id, case_no, image_id, unit_id, instrument_id, detector, threshold, outcome, ruling, unfiltered, reason, score,"
    " labels_complete"
)


def read_rows(con: duckdb.DuckDBPyConnection, run_key: int, redaction: Redaction) -> dict[str, pa.Table]:
    """Return every table of one run, its rows sorted, without what must not be said. No table holds pixels."""
    of_run = "where run_key = $run_key"
    of_units = f"where unit_id in (select unit_id from planned_units {of_run})"
    tables = {}
    for name in TABLES:
        sql = f"select * from {name} {of_run if name in BY_RUN else of_units} order by all"
        tables[name] = redaction.table(con.sql(sql, params={"run_key": run_key}).to_arrow_table())
    return tables


def encode_rows(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def decode_rows(data: bytes, where: str) -> pa.Table:
    """Return the table in a Parquet file. Raises `NotVerified`."""
    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotVerified(f"the rows cannot be read: {reason(error)}", where=where) from None


def build_index(tables: Mapping[str, pa.Table], path: Path) -> None:
    """Make an index at `path` from the rows of one run, with this version's tables, marts and intervals.

    Raises `NotVerified` when the rows do not fit this version's tables.
    """
    with duckdb.connect(str(path)) as con, transaction(con):  # one, because each commit waits for the disk
        for sql in relations("schema").values():
            con.execute(sql)
        for name in TABLES:
            try:
                insert(con, f"insert into {name} by name select * from incoming", tables[name])
            except duckdb.Error as error:
                raise NotVerified(
                    f"the rows do not fit this version's table {name}: {reason(error)}",
                    where=f"data/rows/{name}.parquet",
                    next_step="verify it with the version of erasure-audit that sealed it (bag-info.txt names it)",
                ) from None
        _fill(con)
        for name, sql in relations("marts").items():
            con.execute(f"create view {name} as {sql}")


def outcomes_from_scores(path: Path, run_key: int) -> tuple[pa.Table, str | None]:
    """Decide every case of the index at `path` again, from raw scores, inversions and counting rules.

    Return the outcomes, and the first case by which they differ from those that stood there; None when they are the
    same. The index then holds the former.
    """
    with duckdb.connect(str(path)) as con, transaction(con):
        con.execute("create temp table stored as from outcomes")
        decide_cases(con, run_key)
        derived = con.sql("select * from outcomes order by all").to_arrow_table()
        different = con.execute(
            f"with gone as (select {_OUTCOME} from stored except all select {_OUTCOME} from outcomes),"
            f" come as (select {_OUTCOME} from outcomes except all select {_OUTCOME} from stored)"
            " select cell_id, case_no, detector, g.outcome, c.outcome, g.score, c.score"
            " from gone as g full join come as c using (cell_id, case_no, detector) order by all limit 1"
        ).fetchall()
        if different:
            _fill(con)
    if not different:
        return derived, None
    cell, case, detector, was, now, was_score, now_score = different[0]
    return derived, (
        f"case {case} of cell {cell} by {detector} is {was or 'absent'} (score {was_score}) in the rows, "
        f"and {now or 'absent'} (score {now_score}) by its raw scores"
    )


def _fill(con: duckdb.DuckDBPyConnection) -> None:
    """Compute what follows from the outcomes."""
    fill_intervals(con)
    for (run_key,) in con.execute("select run_key from runs").fetchall():
        fill_rates(con, run_key)
