"""Load the rows of units into the index: which of a run's units to load, and their replacement in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from audit.files import Document
from audit.index import integrity
from audit.index.folded_files import UnitEntry
from audit.index.writing import insert, insert_records, transaction
from audit.progress.steps import Step
from audit.storage.journal import SCHEMAS, Journal, Listing, UnitFile
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
_BATCH_UNITS = 500


class Listings:
    """What the journal holds of each kind, listed once for all runs of a consolidation, when it is first asked for."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._of = functools.cache(journal.listing)

    def of(self, kind: str, planned: Iterable[str]) -> Listing:
        """Return the units of `kind`; what the listing does not show of the `planned` ones is asked for by name."""
        return self._journal.with_unlisted(kind, self._of(kind), planned)


def pending_units(
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
    listing = listings.of(kind, (key for key, _, _ in planned))
    stamps = listing.stamps
    complete = {
        key: stamps[key] for key, loaded, stamp in planned if key in stamps and not (loaded and stamp == stamps[key])
    }
    failed = {key for key, _, _ in planned if key in listing.failed}
    present = listing.complete | listing.failed
    gone = [key for key, loaded, _ in planned if loaded is not None and key not in present]
    return complete, failed, gone


def load_units(
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
