"""Check 10 of a bundle: its units are those of the plan, and with a journal at hand, files and rows are what lies there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from audit import identity
from audit.evidence.content import MOST_SHOWN, Content
from audit.evidence.lines import Line, ok, unchecked, wrong
from audit.evidence.purge_records import earlier_files
from audit.evidence.redaction import redaction_of
from audit.evidence.rows import TABLES, decode_rows, encode_rows, read_rows
from audit.evidence.units import changed, decode_units, units_root
from audit.index.published import open_published
from audit.index.store import Store
from audit.storage.journal import Journal

_OF_A_MACHINE = ("loaded_units",)  # where and when files were read


def check_units(content: Content, journal: Journal | None) -> Iterator[Line]:
    """Check 10: the units are those of the plan, under the signed root; with a journal, each file is the sealed one."""
    where = "data/units.jsonl"
    text, facts = content.bag.read(where), content.fact("units")
    files = decode_units(text, where)
    with duckdb.connect(str(content.index), read_only=True) as con:
        planned = con.execute("select kind, unit_key from planned_units order by all").fetchall()
    if [(file.kind, file.key) for file in files] != planned:
        yield wrong(10, "the units are not those that were planned", where)
    elif units_root(text) != facts["merkle_root"]:
        yield wrong(10, "the root of the units' hash tree is not the one that was signed", where)
    else:
        yield ok(10, f"{len(files)} units under the signed root {facts['merkle_root'][:16]}...")
    for change in content.facts.get("put_on_record_anew", ()):
        who = f"on {change['at']} by {change['by']} ({change['files']} files)"
        yield unchecked(10, f"what was put on record anew {who}: {change['reason']}")
    if journal is None:
        yield unchecked(10, "the journal's files (name it with --journal)")
        return
    earlier = earlier_files(journal, content.run_id)
    problems = list(changed(journal, files, earlier))
    yield from (wrong(10, what, name) for name, what in problems[:MOST_SHOWN])
    if len(problems) > MOST_SHOWN:
        yield wrong(10, f"and {len(problems) - MOST_SHOWN} more files of the journal")
    if problems:
        return
    yield ok(10, f"the journal's files are those that were sealed ({journal.root})")
    other = differing_tables(journal, content)
    yield from (wrong(10, "the rows are not those of the journal's files", name) for name in other)
    if not other:
        yield ok(10, "the rows are those of the journal's files, folded anew")
    sealed = {file.sha256 for file in files}
    purged = len(sealed & {digest for before in earlier.values() for digest in before})
    if purged:
        yield unchecked(10, f"the pictures of {purged} units: they were purged since, on record")


def differing_tables(journal: Journal, content: Content) -> list[str]:
    """Return the files of rows that are not what a new index of the journal's files holds.

    An index is an ordinary file: one that was edited before the run was sealed gives rows that agree with each other.
    """
    rows = _folded_anew(journal, content.run_id)
    names = {table: f"data/rows/{table}.parquet" for table in rows}
    return [
        name
        for table, name in names.items()
        if encode_rows(decode_rows(content.bag.read(name), name)) != encode_rows(rows[table])
    ]


def altered_tables(journal: Journal, run_id: str, published: Path) -> list[str]:
    """Return the tables of a published index whose rows of a run are not what a new index of the journal's files holds."""
    indexed = _rows_of(published, run_id)
    return [table for table, rows in _folded_anew(journal, run_id).items() if not rows.equals(indexed[table])]


def _folded_anew(journal: Journal, run_id: str) -> dict[str, pa.Table]:
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as name:
        with Store(Path(name) / "index.duckdb") as store:
            store.consolidate(journal, run_id)
            published = store.publish(Path(name) / "published")
        return _rows_of(published, run_id)


def _rows_of(published: Path, run_id: str) -> dict[str, pa.Table]:
    run_key = identity.int_key(run_id)
    con = open_published(published)
    try:
        rows = read_rows(con, run_key, redaction_of(con, run_key))
    finally:
        con.close()
    return {table: rows[table] for table in TABLES if table not in _OF_A_MACHINE}
