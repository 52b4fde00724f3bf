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
from collections.abc import Collection, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from audit import identity
from audit.files import Document
from audit.index import folded_files, integrity
from audit.index.decision_folding import load_decisions
from audit.index.folded_files import OnRecord, UnitEntry
from audit.index.nearest_folding import fill_nearest_pictures
from audit.index.picture_folding import fill_picture_checks
from audit.index.plan_folding import load_plan
from audit.index.quality_folding import fill_set_distances
from audit.index.sql_files import STAGING, relations
from audit.index.writing import insert, insert_records, transaction
from audit.plan.document import KINDS
from audit.progress.steps import Step, counted
from audit.statistics.binomial import clopper_pearson
from audit.storage.journal import SCHEMAS, Journal, UnitFile
from audit.storage.run_records import RecordChanged
from audit.storage.unit_files import runtime

_TABLES = {
    "erase": ("erasures",),
    "attack": ("attacks",),
    "invert": ("inversions",),
    "generate": ("images",),
    "filter": ("rulings",),
    "detect": ("measurements", "scores"),
    "quality": ("qualities",),
}
_COLUMNS: Mapping[str, Sequence[str]] = {
    kind: [
        name for name in schema.names if name not in ("image", "invert_key") and (kind, name) != ("generate", "item")
    ]
    for kind, schema in SCHEMAS.items()
}
_INSERTS: Mapping[str, Sequence[str]] = {
    "erase": ("insert into erasures by name select * from incoming",),
    "attack": ("insert into attacks by name select *, (md5_number_lower(item) >> 1)::bigint as item_id from incoming",),
    "invert": (
        "insert into inversions by name select *, (md5_number_lower(item) >> 1)::bigint as item_id from incoming",
    ),
    "generate": ("insert into images by name select * from incoming",),
    "filter": ("insert into rulings by name select * from incoming",),
    "detect": (
        "insert into measurements by name"
        " select unit_id, image_id, instrument_id, status, error, scores is not null as has_scores from incoming",
        "insert into scores by name select unit_id, image_id, instrument_id, score_no, unnest(one)"
        " from (select unit_id, image_id, instrument_id, unnest(scores) as one,"
        " generate_subscripts(scores, 1)::integer as score_no from incoming where scores is not null)",
    ),
    "quality": ("insert into qualities by name select * from incoming",),
}
_CHUNK_UNITS = 2000
_BATCH_UNITS = 500


@dataclasses.dataclass(frozen=True)
class Folded:
    """Counts of one consolidation: runs, units whose files were loaded, their rows, and why runs were left out."""

    runs: int
    units: int
    rows: int
    damaged: tuple[str, ...] = ()


class Listings:
    """What the journal holds of each kind, listed once for all runs of a consolidation, when it is first asked for."""

    def __init__(self, journal: Journal) -> None:
        self.of = functools.cache(journal.listing)


def load_run(con: duckdb.DuckDBPyConnection, journal: Journal, run_id: str, listings: Listings | None = None) -> Folded:
    """Load one run, its plan and then the rows of its units that the index does not hold yet, and return their counts."""
    listings = listings or Listings(journal)
    run_key = identity.int_key(run_id)
    record = folded_files.on_record(journal, run_id)
    load_plan(con, journal, run_id, run_key)
    units = rows = 0
    pending = {kind: _pending(con, listings, run_key, kind) for kind in KINDS}
    with Step("fold", sum(len(complete) + len(failed) for complete, failed, _ in pending.values()), "units") as step:
        for kind, (complete, failed, gone) in pending.items():
            integrity.require_present(journal, record.units, kind, gone)
            for chunk in _chunks(sorted(complete), _CHUNK_UNITS):
                stamps = {key: complete[key] for key in chunk}
                units, rows = units + len(chunk), rows + _load_units(con, journal, record.units, kind, stamps, [], step)
            for chunk in _chunks(sorted(failed), _CHUNK_UNITS):
                units, rows = units + len(chunk), rows + _load_units(con, journal, record.units, kind, {}, chunk, step)
            if gone:
                _load_units(con, journal, record.units, kind, {}, [], step, gone)
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
            fill_picture_checks(con, journal, run_key)
            fill_nearest_pictures(con, journal, run_key)
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


def _pending(
    con: duckdb.DuckDBPyConnection, listings: Listings, run_key: int, kind: str
) -> tuple[dict[str, str], set[str], list[str]]:
    """Return the planned units to load: from complete files, with these files' stamps, and from failed ones.

    Third, the loaded units whose files are gone.
    """
    planned = con.execute(
        "select p.unit_key, l.complete, l.stamp from planned_units as p left join loaded_units as l on p.unit_id = l.unit_id"
        " where p.run_key = ? and p.kind = ?",
        [run_key, kind],
    ).fetchall()
    if not planned:
        return {}, set(), []
    listing = listings.of(kind)
    stamps = listing.stamps
    complete = {
        key: stamps[key] for key, loaded, stamp in planned if key in stamps and not (loaded and stamp == stamps[key])
    }
    failed = {key for key, _, _ in planned if key in listing.failed}
    present = listing.complete | listing.failed
    gone = [key for key, loaded, _ in planned if loaded is not None and key not in present]
    return complete, failed, gone


def _load_units(
    con: duckdb.DuckDBPyConnection,
    journal: Journal,
    on_record: Mapping[tuple[str, str], UnitEntry],
    kind: str,
    complete: Mapping[str, str],
    failed: Collection[str],
    step: Step,
    gone: Collection[str] = (),
) -> int:
    """Replace whatever the index holds of these units in one transaction, and return the number of their rows.

    `complete` has stamps. Raises `RecordChanged` for a complete unit that is not the one `on_record`.
    """
    unit_ids = {key: int(key[:16], 16) >> 1 for key in (*complete, *failed, *gone)}
    counts = dict.fromkeys((*complete, *failed), 0)
    runtimes: dict[str, Document] = {}
    files: dict[str, UnitFile] = {}
    with transaction(con):
        _forget(con, kind, unit_ids.values())
        waiting: list[tuple[int, pa.Table]] = []
        for file, table in journal.scan(kind, counts, _COLUMNS[kind]):
            key = file.key
            _require_failure(journal, kind, file, table)
            counts[key], runtimes[key], files[key] = table.num_rows, runtime(table), file
            waiting.append((unit_ids[key], table))
            step.advance()
            if len(waiting) == _BATCH_UNITS:
                _insert_rows(con, kind, waiting)
                waiting = []
        _insert_rows(con, kind, waiting)
        entries = [UnitEntry.of(kind, file, None, runtimes[key].get("seconds")) for key, file in files.items()]
        integrity.require_unchanged(journal, on_record, entries)
        insert_records(
            con,
            "loaded_units",
            [
                {
                    "unit_id": unit_ids[key],
                    "kind": kind,
                    "complete": key in complete,
                    "stamp": complete.get(key),
                    "loaded_rows": rows,
                    "file_complete": files[key].complete,
                    **{name: getattr(files[key], name) for name in ("sha256", "bytes", "blob_sha256")},
                    **{name: runtimes[key].get(name) for name in ("host", "device", "seconds")},
                }
                for key, rows in counts.items()
            ],
        )
    return sum(counts.values())


def _forget(con: duckdb.DuckDBPyConnection, kind: str, unit_ids: Collection[int]) -> None:
    """Remove whatever the index holds of these units, and mark the runs that have them."""
    con.register("changed", pa.table({"unit_id": pa.array(unit_ids, pa.int64())}))
    loaded = "select count(*) from loaded_units where unit_id in (select unit_id from changed)"
    if con.execute(loaded).fetchall() != [(0,)]:
        for table in (*_TABLES[kind], "loaded_units"):
            con.execute(f"delete from {table} where unit_id in (select unit_id from changed)")
    con.execute(
        "update runs set outcomes_current = false where run_key in"
        " (select run_key from planned_units where unit_id in (select unit_id from changed))"
    )
    con.unregister("changed")


def _require_failure(journal: Journal, kind: str, file: UnitFile, rows: pa.Table) -> None:
    """Return when a unit is complete, or failed with a row that says so.

    A unit is written as failed because a row is an error. Raises `RecordChanged` for one without: its errors were edited away.
    """
    if not file.complete and "error" not in rows.column("status").unique().to_pylist():
        raise RecordChanged(
            "a unit is stored as failed, and nothing in it failed: it was edited",
            where=journal.store.url(f"units/{kind}/{file.key[:2]}/{file.key}{file.suffix}"),
            next_step="delete this file, then compute it again with: erasure-audit resume RUN_ID",
        )


def _insert_rows(con: duckdb.DuckDBPyConnection, kind: str, units: Sequence[tuple[int, pa.Table]]) -> None:
    if units:
        rows = pa.concat_tables([table for _, table in units])
        unit_ids = np.repeat([unit_id for unit_id, _ in units], [table.num_rows for _, table in units])
        rows = rows.append_column("unit_id", pa.array(unit_ids, pa.int64()))
        for statement in _INSERTS[kind]:
            insert(con, statement, rows)


def _chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
