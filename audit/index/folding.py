"""Fold the journal into the index: plans and unit rows in Arrow batches, then one outcome per case and detector.

Resume is an anti-join here too: a complete unit is loaded once, and again only when its file was written anew, as after
a damaged one was deleted; a failed one is loaded again each time until it is complete.
Each chunk of units is one transaction; runs whose units changed are marked, so that the next consolidation finishes
what a killed one left.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from audit import identity
from audit.index import folded_files, integrity
from audit.index.cell_vectors import CellVectors
from audit.index.decision_folding import load_decisions
from audit.index.folded_files import OnRecord, UnitEntry
from audit.index.nearest_folding import fill_nearest_pictures
from audit.index.picture_folding import fill_picture_checks
from audit.index.plan_folding import load_plan
from audit.index.quality_folding import fill_set_distances
from audit.index.sql_files import STAGING, relations
from audit.index.unit_folding import Listings, load_units, pending_units
from audit.index.writing import insert, transaction
from audit.plan.document import KINDS
from audit.progress.steps import Step, counted
from audit.statistics.binomial import clopper_pearson
from audit.storage.journal import Journal, UnitFile

_CHUNK_UNITS = 2000


@dataclasses.dataclass(frozen=True)
class Folded:
    """Counts of one consolidation: runs, units whose files were loaded, their rows, and why runs were left out."""

    runs: int
    units: int
    rows: int
    damaged: tuple[str, ...] = ()


def load_run(con: duckdb.DuckDBPyConnection, journal: Journal, run_id: str, listings: Listings | None = None) -> Folded:
    """Load one run, its plan and then the rows of its units that the index does not hold yet, and return their counts."""
    listings = listings or Listings(journal)
    run_key = identity.int_key(run_id)
    record = folded_files.on_record(journal, run_id)
    load_plan(con, journal, run_id, run_key)
    units = rows = 0
    pending = {kind: pending_units(con, listings, run_key, kind) for kind in KINDS}
    with Step("fold", sum(len(complete) + len(failed) for complete, failed, _ in pending.values()), "units") as step:
        for kind, (complete, failed, gone) in pending.items():
            integrity.require_present(journal, record.units, kind, gone)
            for chunk in _chunks(sorted(complete), _CHUNK_UNITS):
                stamps = {key: complete[key] for key in chunk}
                units, rows = units + len(chunk), rows + load_units(con, journal, record.units, kind, stamps, [], step)
            for chunk in _chunks(sorted(failed), _CHUNK_UNITS):
                units, rows = units + len(chunk), rows + load_units(con, journal, record.units, kind, {}, chunk, step)
            if gone:
                load_units(con, journal, record.units, kind, {}, [], step, gone)
    if not _is_on_record(con, run_key, record):
        _put_on_record(con, journal, run_id, run_key, record)
    load_decisions(con, journal, run_id, run_key, record.decisions)
    return Folded(1, units, rows)


def _is_on_record(con: duckdb.DuckDBPyConnection, run_key: int, record: OnRecord) -> bool:
    """Return whether nothing of the run was loaded since its last complete consolidation, which put all of it on record."""
    ((current, loaded),) = con.execute(
        "select (select outcomes_current from runs where run_key = $run_key), count(*)"
        " from planned_units as p inner join loaded_units as l using (unit_id) where p.run_key = $run_key",
        {"run_key": run_key},
    ).fetchall()
    return bool(current) and bool(record.files) and loaded == len(record.units)


def _put_on_record(
    con: duckdb.DuckDBPyConnection, journal: Journal, run_id: str, run_key: int, record: OnRecord
) -> None:
    """Put the digests of the run's plan and of all its loaded units on record, those that are not in `record`."""
    now = dt.datetime.now(dt.UTC)
    if not record.files:
        folded_files.record_plan(journal, run_id, now)
    loaded = con.execute(
        "select p.kind, p.unit_key, l.file_complete, l.sha256, l.bytes, l.blob_sha256, l.stamp, l.seconds"
        " from planned_units as p inner join loaded_units as l using (unit_id) where p.run_key = ? order by all",
        [run_key],
    ).fetchall()
    entries = [
        UnitEntry.of(kind, UnitFile(key, *file), folded_files.tag(journal, stamp), seconds)
        for kind, key, *file, stamp, seconds in loaded
    ]
    if new := folded_files.unrecorded(record.units, entries):
        integrity.record_units(journal, run_id, now, new)


def refresh_outcomes(con: duckdb.DuckDBPyConnection, journal: Journal) -> None:
    """Decide every case of the runs whose units changed, and renew their rates, intervals and set distances."""
    stale = con.execute("select run_key from runs where not outcomes_current order by run_key").fetchall()
    if not stale:
        return
    for (run_key,) in counted(stale, "decide cases", len(stale), "runs"):
        with transaction(con):
            con.execute("delete from crr where run_key = ?", [run_key])  # so that its intervals are looked for
            decide_cases(con, run_key)
            fill_set_distances(con, journal, run_key)
            vectors = functools.cache(functools.partial(CellVectors, con, journal, run_key))  # by instrument
            fill_picture_checks(con, run_key, vectors)
            fill_nearest_pictures(con, run_key, vectors)
    fill_intervals(con)
    for (run_key,) in stale:
        with transaction(con):
            fill_rates(con, run_key)
            con.execute("update runs set outcomes_current = true where run_key = ?", [run_key])


def fill_rates(con: duckdb.DuckDBPyConnection, run_key: int) -> None:
    """Compute the rates of one run anew from its outcomes and the intervals, and what survived in it."""
    for table in ("crr", "retention"):
        con.execute(f"delete from {table} where run_key = ?", [run_key])
        con.execute(f"insert into {table} by name {relations('staging')[f'stg_{table}']}", {"run_key": run_key})


def fill_intervals(con: duckdb.DuckDBPyConnection) -> None:
    """Compute the Clopper-Pearson intervals for every distinct (hits, assessed, confidence) in the outcomes."""
    needed = con.execute(relations("staging")["stg_interval_arguments"]).fetchall()
    rows = [(h, n, c, *clopper_pearson(h, n, c)) for h, n, c in needed]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("hits", "assessed", "confidence", "low", "high")
    types = (pa.int64(), pa.int64(), *[pa.float64()] * 3)
    table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
    con.execute("delete from intervals")
    insert(con, "insert into intervals by name select * from incoming", table)


def decide_cases(con: duckdb.DuckDBPyConnection, run_key: int) -> None:
    """Fill the outcomes of one run anew from its readings, inversions and counting rules."""
    con.execute("delete from outcomes where run_key = ?", [run_key])
    for name in STAGING[:-1]:
        sql = relations("staging")[name]
        con.execute(
            f"create or replace temp table {name} as {sql}", {"run_key": run_key} if "$run_key" in sql else None
        )
    con.execute(f"insert into outcomes by name {relations('staging')[STAGING[-1]]}", {"run_key": run_key})
    for name in STAGING[:-1]:
        con.execute(f"drop table {name}")


def _chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
