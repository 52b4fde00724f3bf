"""Find the newest published copy of an index, in a folder or an object store, and open it so that it reaches for nothing else."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import duckdb

from audit import locations
from audit.errors import StoreError
from audit.identity import key
from audit.index.published import require_version
from audit.index.store import copy_number, explained, latest
from audit.storage.objects import ListedEntry, ObjectStore

_CLOSED: dict[str, str | bool | int | float | list[str]] = {"enable_external_access": False, "lock_configuration": True}
_PUBLISH = "publish one with: erasure-audit db publish FOLDER"


class Copies:
    """The published copies at one place: a folder, `s3://bucket/prefix`, or one file."""

    def __init__(self, place: str) -> None:
        """Name the place without touching it. Raises `JournalError` for an address that cannot be one."""
        self.place = place
        self._store = None if locations.local_folder(place) is not None else ObjectStore(place)

    def newest(self) -> Path:
        """Return the newest copy as a file on this machine. Raises `StoreError` when there is none."""
        if self._store is None:
            folder = locations.local_folder(self.place)
            assert folder is not None
            if folder.is_file():
                return folder
            return latest(folder)
        numbers = {number: entry for entry in self._store.listed("") if (number := copy_number(entry.name)) is not None}
        if not numbers:
            raise StoreError("no published index here", where=self.place, next_step=_PUBLISH)
        return _fetched(self._store, numbers[max(numbers)])


def copies_at(index: str | None, root: str | None, database: str | None) -> Copies:
    """Return the copies at the place `index`, or those of a storage root's own index. Raises for an address with credentials."""
    if index:
        locations.refuse_credentials(index)
        return Copies(index)
    return Copies(str(locations.database_path(locations.storage_root(root), database).parent / "published"))


def _fetched(store: ObjectStore, entry: ListedEntry) -> Path:
    """Return a copy of an object in the cache; it comes once, and anew where the place was emptied and published to again."""
    name = entry.name
    folder = locations.cache_folder() / "published" / key(store.root)[:16] / key(entry.stamp)[:16]
    target = folder / name
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{name}.{uuid.uuid4().hex}.tmp"
        try:
            unfinished.write_bytes(store.get(name))
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except FileNotFoundError:
        raise StoreError("the newest copy is gone", where=store.url(name), next_step="try again") from None
    except OSError as error:
        raise StoreError(
            f"the copy cannot be kept here: {error.strerror or error}",
            where=str(folder),
            next_step="free space there, or set XDG_CACHE_HOME",
        ) from None
    for old in folder.parent.rglob("index-*.duckdb"):
        if old != target:
            with contextlib.suppress(OSError):
                old.unlink()
    return target


def open_copy(path: Path, writable: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open a published copy read-only; its queries reach for no file or address but those below `writable`.

    Raises `StoreError` when it is absent, being written, corrupt, or filled by another version of this tool.
    """
    if not path.is_file():
        raise StoreError("there is no index here", where=str(path), next_step=_PUBLISH)
    if not path.stat().st_size:
        raise StoreError("the index is an empty file", where=str(path), next_step=_PUBLISH)
    with explained(path):
        con = duckdb.connect(str(path), read_only=True, config={} if writable else _CLOSED)
        try:
            if writable is not None:  # DuckDB takes a list of folders in a statement only
                con.execute("set allowed_directories = $folders", {"folders": [str(writable)]})
                for name, value in _CLOSED.items():
                    con.execute(f"set {name} = {value}")
            require_version(con, str(path))
        except (duckdb.Error, StoreError):
            con.close()
            raise
    return con
