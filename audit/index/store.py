"""The index: one DuckDB file that answers questions about the journal, and can always be rebuilt from it.

One process writes the index. Everyone else reads a published copy, because DuckDB lets one process write or many read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from audit import identity
from audit.errors import JournalError, StoreError
from audit.index import folding
from audit.index.decision_folding import load_decisions
from audit.index.folding import Folded
from audit.index.lock import in_use, locked, no_locks, unusable
from audit.index.one_run import create_marts
from audit.index.sql_files import digest, marts_digest, relations
from audit.index.unit_folding import Listings
from audit.index.writing import transaction
from audit.progress.steps import counted
from audit.storage.journal import Journal, StorageUnavailable
from audit.storage.local_files import link_new
from audit.storage.run_records import DECISIONS, read_records

__all__ = ["Folded", "Replaceable", "Store", "explained", "latest", "published", "set_aside"]

STORAGE_VERSION = "v1.4.0"  # BI tools lag: DuckDB 1.4 and 1.5 can open it
_YOUNG_SECONDS = 3600.0
_COMMENT = (
    "select comment from duckdb_tables() where table_name = 'index_version' and database_name = current_database()"
)
_REBUILD = "rebuild it from the journal with: erasure-audit db rebuild"
_CORRUPT = (
    "not a valid DuckDB database file",
    "Corrupt database",
    "Could not read enough bytes",
    "Failed to deserialize",
    "Serialization Error",
    "INTERNAL Error",
    "database has been invalidated",
)
_NO_LOCKS = ("No locks available", "not supported", "not implemented", "Invalid argument")  # of the file system
_NAME = re.compile(r"index-(\d{6,})\.duckdb")


class Replaceable(StoreError):
    """An index that a rebuild from the journal replaces: corrupt, or of another version."""


class Store:
    """The single writer of an index file, as a context manager; while it is open nobody else can open the file."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the index at `path`.

        Waits its turn while another process of this tool writes it (`index_lock.locked`). Raises `StoreError` when that
        takes too long, another program has it open or it cannot be written; `Replaceable` when it is corrupt, written by a
        newer DuckDB, or filled by other definitions than this version's.
        """
        self.path = Path(path)
        with explained(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unusable(error, self.path) from None
            with contextlib.ExitStack() as opened:
                opened.enter_context(locked(self.path))
                self._con = duckdb.connect(str(self.path))
                opened.callback(self._con.close)
                self._prepare()
                self._opened = opened.pop_all()

    def _prepare(self) -> None:
        self._con.execute("set preserve_insertion_order = false")  # bounded memory while loading
        self._con.execute(relations("schema")["index_version"])
        stored = self._con.execute("select digest from index_version").fetchall()
        if stored not in ([], [(digest(),)]):  # asked first: this version's definitions may not fit an older index
            raise Replaceable(
                "the index was filled by another version of erasure-audit", where=str(self.path), next_step=_REBUILD
            )
        with transaction(self._con):
            for sql in relations("schema").values():
                self._con.execute(sql)
            if not stored:
                self._con.execute("insert into index_version values (?)", [digest()])
            made = f"marts {marts_digest()}"
            if self._con.execute(_COMMENT).fetchall() != [(made,)]:
                create_marts(self._con)
                self._con.execute(f"comment on table index_version is '{made}'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything out and let other processes open the file."""
        self._opened.close()

    def consolidate(self, journal: Journal, run_id: str | None = None) -> Folded:
        """Fold one run of `journal` in, or every run when `run_id` is None, and return the counts. Twice gives the same index.

        Raises `JournalError` for a missing run or a corrupt file, `StoreError` when the index cannot be written.
        Whatever was loaded before an error stays loaded and is not loaded again. Of every run, a damaged one does not
        keep the others out: the result names it.
        """
        with explained(self.path):
            total, listings = Folded(runs=0, units=0, rows=0), Listings(journal)
            runs = [run_id] if run_id is not None else journal.runs()
            for run in counted(runs, "fold runs", len(runs), "runs"):
                try:
                    folded = folding.load_run(self._con, journal, run, listings)
                except JournalError as error:
                    if run_id is not None or isinstance(error, StorageUnavailable):
                        raise
                    total = dataclasses.replace(total, damaged=(*total.damaged, f"run {run}: {error}"))
                    continue
                total = dataclasses.replace(
                    total, runs=total.runs + 1, units=total.units + folded.units, rows=total.rows + folded.rows
                )
            folding.refresh_outcomes(self._con, journal)
            self._con.execute("checkpoint")
            return total

    def load_decisions(self, journal: Journal, run_id: str) -> None:
        """Load the decisions on a folded run that came since; a run that the index does not hold is folded whole.

        Raises `RecordChanged` when a decision on record was changed, `StoreError` when the index cannot be written.
        """
        run_key = identity.int_key(run_id)
        with explained(self.path):
            if not self._con.execute("select 1 from runs where run_key = ?", [run_key]).fetchall():
                self.consolidate(journal, run_id)  # somebody replaced the index since
                return
            load_decisions(self._con, journal, run_id, run_key, read_records(journal, run_id, DECISIONS))

    def publish(self, directory: str | Path, keep: int = 3) -> Path:
        """Write a read-only copy to `directory` under a name that no publisher has used, and return its path.

        The last `keep` copies stay, and those younger than an hour: a report may open its copy more than once.
        Raises `StoreError` when the directory cannot be written.
        """
        folder = Path(directory)
        with explained(folder):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _latest_number(folder)
            except OSError as error:
                raise unusable(error, folder) from None
            temporary = folder / f"index.{uuid.uuid4().hex}.tmp"
            quoted = str(temporary).replace("'", "''")
            try:
                self._copy_to(quoted)
                temporary.chmod(0o444)
                target = _named_next(temporary, folder)
            except OSError as error:
                raise unusable(error, folder) from None
            finally:
                temporary.unlink(missing_ok=True)
        # Beside the old copies, what a publisher that was killed has left.
        for old in (*published(folder)[: -max(keep, 1)], *folder.glob("index.*.tmp")):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _YOUNG_SECONDS:
                    old.unlink()
        return target

    def _copy_to(self, quoted: str) -> None:
        name = self._con.execute("select current_database()").fetchall()[0][0]
        self._con.execute(f"attach '{quoted}' as copy_to_publish (storage_version '{STORAGE_VERSION}')")
        try:
            self._con.execute(f'copy from database "{name}" to copy_to_publish')
        finally:
            self._con.execute("detach copy_to_publish")

    @classmethod
    def rebuild(cls, path: str | Path, journal: Journal, *, keep_old: bool = False) -> Folded:
        """Make a new index at `path` from the whole journal, and return its counts; the old file is replaced when it is complete.

        With `keep_old` the old file stays under `set_aside(path)`. Works on a corrupt or outdated file.
        Waits its turn as `Store` does. Raises `StoreError` when another process has the index open.
        """
        path = Path(path)
        building = path.with_name(f"{path.name}.rebuilding")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(error, path) from None
        with locked(path):
            if path.exists():
                with contextlib.suppress(Replaceable), explained(path):
                    duckdb.connect(str(path)).close()
            _remove(building)
            with cls(building) as store:
                folded = store.consolidate(journal)
            if keep_old and path.exists():
                os.replace(path, set_aside(path))
            path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
            os.replace(building, path)
            building.with_name(f"{building.name}.lock").unlink(missing_ok=True)
        return folded


def set_aside(path: Path) -> Path:
    """Return the path under which a rebuild that nobody asked for keeps the file that it replaces."""
    return path.with_name(f"{path.name}.replaced")


def copy_number(name: str) -> int | None:
    """Return the number in the name of a published copy; None for any other file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def published(directory: str | Path) -> list[Path]:
    """Return the published copies in `directory`, oldest first."""
    return sorted(path for path in Path(directory).glob("index-*.duckdb") if copy_number(path.name) is not None)


def latest(directory: str | Path) -> Path:
    """Return the newest published copy in `directory`. Raises `StoreError` when there is none."""
    copies = published(directory)
    if not copies:
        raise StoreError(
            "no published index here", where=str(directory), next_step="make one with: erasure-audit db rebuild"
        )
    return copies[-1]


def _latest_number(folder: Path) -> int:
    return max((copy_number(path.name) or 0 for path in folder.iterdir()), default=0)


def _named_next(finished: Path, folder: Path) -> Path:
    """Link the finished copy to the next number, which exactly one of several publishers gets, and return its path."""
    while True:
        target = folder / f"index-{_latest_number(folder) + 1:06d}.duckdb"
        if link_new(finished, target):
            return target


def _remove(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}.wal")):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the DuckDB errors of a block into `StoreError`s where the user can do something about them."""
    try:
        yield
    except duckdb.Error as error:
        explanation = _explain(error, path)
        if explanation is None:
            raise
        raise explanation from error


def _explain(error: duckdb.Error, path: Path) -> StoreError | None:
    text = str(error)
    if "Could not set lock" in text and any(sign in text for sign in _NO_LOCKS):
        return no_locks(path, text.rsplit(": ", 1)[-1].strip())
    if "Could not set lock" in text:
        holder = re.search(r"\(PID (\d+)\)", text)
        who = f"process {holder[1]}" if holder else "another process"
        return in_use(path, who)
    if "version number" in text:
        return Replaceable(
            "the index was written by another DuckDB version than this one can read",
            where=str(path),
            next_step=_REBUILD,
        )
    if any(sign in text for sign in _CORRUPT):
        return Replaceable(f"the index is corrupt: {text.splitlines()[0]}", where=str(path), next_step=_REBUILD)
    if "No space left" in text or "Could not write" in text:
        return StoreError("the disk is full", where=str(path), next_step="free space there and run the command again")
    if isinstance(error, duckdb.IOException):
        return StoreError(
            f"the index cannot be opened: {text.splitlines()[0]}",
            where=str(path),
            next_step="correct the path or its mode",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(
            "DuckDB has not enough memory",
            where=str(path),
            next_step="free memory or disk space and run the command again",
        )
    return None
