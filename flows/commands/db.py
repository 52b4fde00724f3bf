"""db: the DuckDB index of a storage root. It can always be rebuilt from the journal."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EXIT_NOT_VERIFIED, StoreError
from flows.commands import options
from flows.console import emit_json, say, table

if TYPE_CHECKING:
    from audit.index.folding import Folded
    from audit.storage.journal import Journal

app = typer.Typer(help="The DuckDB index: rebuild, consolidate, publish, list, ask.", no_args_is_help=True)


@app.command("runs")
def runs(root: options.Root = None, as_json: options.Json = False) -> None:
    """List the runs below the root, how far each is, and which of them cannot be read."""
    from audit.plan.document import KINDS
    from audit.storage.journal import Journal

    journal = Journal(locations.storage_root(root))
    done = {kind: journal.keys(kind) for kind in KINDS}
    rows = [_run_row(journal, run_id, done) for run_id in journal.runs()]
    if as_json:
        emit_json(rows)
    elif rows:
        table(rows)
    else:
        say(f"no runs in {journal.root}; start one with: erasure-audit run SPEC")


@app.command("rebuild")
def rebuild(root: options.Root = None, database: options.Database = None, as_json: options.Json = False) -> None:
    """Make the index anew from the whole journal, and publish it."""
    from audit.index.store import Store

    place = locations.storage_root(root)
    path = locations.database_path(place, database)
    folded = Store.rebuild(path, _journal(place))
    with Store(path) as store:
        published = store.publish(path.parent / "published")
    _require_whole(folded, path)
    _tell({"index": str(path), "published": str(published), "runs": folded.runs, "units": folded.units}, as_json)


@app.command("consolidate")
def consolidate(
    run_id: Annotated[str | None, typer.Argument(help="One run; every run of the root without it.")] = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Fold what the journal has gained into the index, and publish it: `db sql` and dashboards read published copies."""
    from audit.index.store import Store

    place = locations.storage_root(root)
    path = locations.database_path(place, database)
    journal = _journal(place)
    with Store(path) as store:
        folded = store.consolidate(journal, run_id)
        published = store.publish(path.parent / "published")
    _require_whole(folded, path)
    counts = {"runs": folded.runs, "units": folded.units, "rows": folded.rows}
    _tell({"index": str(path), "published": str(published), **counts}, as_json)


Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Read every file, whatever tag of it the object store is known to keep, and fold the run anew to compare the index.",
    ),
]
Accept = Annotated[
    str | None, typer.Option("--accept", help="Put changed files on record as they are now, for this reason.")
]


@app.command("verify")
def verify(
    run_id: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    root: options.Root = None,
    database: options.Database = None,
    full: Full = False,
    accept: Accept = None,
    as_json: options.Json = False,
) -> int:
    """Name the files of RUN_ID that differ from what is on record; the exit code is 5 if there are any."""
    from audit.index import folded_files, integrity
    from audit.plan.document import read_outline
    from audit.storage.journal import Journal

    place = locations.storage_root(root)
    journal = Journal(place)
    read_outline(journal, run_id)
    if accept is not None:
        _accept(journal, run_id, accept)
    record = folded_files.on_record(journal, run_id)
    decisions = _check_decisions(journal, run_id, locations.database_path(place, database))
    found = [*integrity.changes(journal, run_id, read_all=full), *integrity.unplanned(journal)]
    bad = [change for change in found if not change.harmless]
    edited = _edited_tables(journal, run_id, locations.database_path(place, database)) if full and not bad else []
    verified = not bad and not edited and record.sha256 is not None
    counts = {
        "files": len(record.files),
        "units": len(record.units),
        "recomputed": record.withdrawn,
        "decisions": decisions,
    }
    if as_json:
        rows = [{"what": change.what, "file": change.url, "detail": change.detail} for change in found]
        emit_json({"run_id": run_id, "verified": verified, **counts, "changes": rows, "edited_tables": edited})
    else:
        for change in found:
            print(f"{change.what}: {change.url} ({change.detail})")
        for table in edited:
            print(f"edited: table {table} of the index is not what the journal's files give")
        if edited:
            say("make the index anew with: erasure-audit db rebuild; then decide again with: erasure-audit gate RUN_ID")
        if record.sha256 is None:
            say(f"nothing of this run is on record yet; put it there with: erasure-audit db consolidate {run_id}")
        on_record = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"on record: {on_record}; {len(bad)} of these files have changed")
    return 0 if verified else EXIT_NOT_VERIFIED


def _check_decisions(journal: Journal, run_id: str, database: Path) -> int:
    """Return how many decisions of a run are on record, all that the newest published index holds among them."""
    from audit.index.decision_folding import require_recorded
    from audit.index.queries import recorded_decisions
    from audit.index.store import published
    from audit.storage.run_records import DECISIONS, read_records

    records = {record.number: record for record in read_records(journal, run_id, DECISIONS)}
    for newest in published(database.parent / "published")[-1:]:
        require_recorded(journal, run_id, records, recorded_decisions(newest, run_id))
    return len(records)


def _edited_tables(journal: Journal, run_id: str, database: Path) -> list[str]:
    """Return the tables of the index whose rows of the run differ from those of a new index; none without an index."""
    from audit import run as steps
    from audit.evidence.journal_check import altered_tables

    if not database.exists():
        return []
    return altered_tables(journal, run_id, steps.consolidate(journal, run_id, database))


def _accept(journal: Journal, run_id: str, reason: str) -> None:
    import datetime as dt

    from audit.errors import JournalError
    from audit.index import integrity
    from audit.provenance import operator

    if len(reason.strip()) < 8:
        raise JournalError(
            "the reason is too short for a reader two years from now",
            where="--accept",
            next_step="say in a sentence why the files have changed",
        )
    for change in integrity.accept_changes(journal, run_id, dt.datetime.now(dt.UTC), reason.strip(), operator()):
        say(f"on record as it is now: {change.url}")


@app.command("publish")
def publish(
    folder: Annotated[Path | None, typer.Argument(help="Where the copy goes; beside the index without it.")] = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Publish a read-only copy of the index under a new name in FOLDER, for dashboards and BI tools."""
    from audit.index.store import Store

    place = locations.storage_root(root)
    _journal(place)
    path = locations.database_path(place, database)
    with Store(path) as store:
        published = store.publish(Path(os.path.expanduser(folder)) if folder else path.parent / "published")
    _tell({"published": str(published)}, as_json)


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(help="A query on the newest published copy, such as 'from mart_crr'.")],
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Answer QUERY from the newest published copy, read-only."""
    import duckdb

    from audit.index.store import explained, latest

    path = latest(locations.database_path(locations.storage_root(root), database).parent / "published")
    # The copy is opened read-only, and a query may not reach for other files or load extensions.
    with explained(path), duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("set enable_external_access = false")
        relations = "list the relations with: erasure-audit db sql 'show tables'"
        try:
            cursor = connection.execute(query)
        except duckdb.Error as error:
            raise StoreError(str(error).strip(), where="QUERY", next_step=relations) from None
        if cursor is None or cursor.description is None:
            raise StoreError("the query is empty", where="QUERY", next_step=relations)
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    emit_json(rows) if as_json else table(rows)


def _run_row(journal: Journal, run_id: str, done: Mapping[str, Container[str]]) -> dict[str, object]:
    """Return the state of one run as a row; one that cannot be read must not hide the others."""
    from audit.errors import JournalError
    from audit.plan.document import planned_keys, read_outline
    from audit.storage.journal import StorageUnavailable

    row: dict[str, object] = {"run": run_id, **dict.fromkeys(("created", "cases", "units", "complete", "problem"))}
    try:
        outline, keys = read_outline(journal, run_id), planned_keys(journal, run_id)
    except StorageUnavailable:
        raise
    except JournalError as error:
        return {**row, "problem": error.what}
    complete = sum(key in done.get(kind, ()) for kind, key in keys)
    return {
        **row,
        "created": outline.created_at,
        "cases": outline.cases,
        "units": len(keys),
        "complete": complete,
    }


def _journal(root: str) -> Journal:
    """Return the journal at `root`; a root without runs is a mistyped one, and an index of it would only look empty."""
    from audit.errors import JournalError
    from audit.storage.journal import Journal

    journal = Journal(root)
    if not journal.runs():
        raise JournalError(
            "there are no runs below this storage root",
            where=journal.root,
            next_step="name the root of your runs with --root, or start a run: erasure-audit run SPEC",
        )
    return journal


def _require_whole(folded: Folded, path: Path) -> None:
    """Return when every run was folded in; otherwise raises `StoreError` that names the others."""
    if folded.damaged:
        raise StoreError(
            "some runs were left out of the index:\n" + "\n".join(folded.damaged),
            where=str(path),
            next_step=f"do what each says; the other runs ({folded.runs}) are in the index",
        )


def _tell(document: dict[str, object], as_json: bool) -> None:
    if as_json:
        emit_json(document)
        return
    for name, value in document.items():
        print(f"{name:<10} {value}")
