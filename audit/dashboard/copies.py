"""Find the newest published copy of the index, in a folder or an object store, and keep it open until a newer one appears."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import duckdb

from audit import locations
from audit.errors import AuditError, StoreError
from audit.identity import key
from audit.index.sql_files import digest
from audit.index.store import explained, latest
from audit.storage.objects import ObjectStore

_NAME = re.compile(r"index-(\d{6,})\.duckdb")
_LOOK_SECONDS = 2.0  # between two looks for a newer copy
_CLOSED: dict[str, str | bool | int | float | list[str]] = {"enable_external_access": False, "lock_configuration": True}
_MAKE = "make one with: erasure-audit db publish FOLDER"


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
        numbers = {int(m[1]): name for name, _ in self._store.entries("") if (m := _NAME.fullmatch(name))}
        if not numbers:
            raise StoreError("no published index here", where=self.place, next_step=_MAKE)
        return _fetched(self._store, numbers[max(numbers)])


def _fetched(store: ObjectStore, name: str) -> Path:
    """Return a copy of an object in the cache; a published name never gets another content, so it comes once."""
    folder = locations.cache_folder() / "dashboard" / key(store.root)[:16]
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
    for old in folder.glob("index-*.duckdb"):
        if old != target:
            with contextlib.suppress(OSError):
                old.unlink()
    return target


def open_copy(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a published copy read-only; its queries reach for no file or address.

    Raises `StoreError` when it is absent, being written, corrupt, or filled by another version of this tool.
    """
    if not path.is_file():
        raise StoreError("there is no index here", where=str(path), next_step=_MAKE)
    if not path.stat().st_size:
        raise StoreError("the index is an empty file", where=str(path), next_step=_MAKE)
    with explained(path):
        con = duckdb.connect(str(path), read_only=True, config=_CLOSED)
        try:
            stored = con.execute("select digest from index_version").fetchall()
        except duckdb.CatalogException:
            stored = []
        if stored != [(digest(),)]:
            con.close()
            raise StoreError(
                "the index was filled by another version of erasure-audit",
                where=str(path),
                next_step="rebuild it from the journal with: erasure-audit db rebuild",
            )
    return con


class Reader:
    """The newest copy for many requests: each gets a connection of its own to it."""

    def __init__(self, copies: Copies) -> None:
        """Open the newest copy. Raises as `Copies.newest` and `open_copy` do."""
        self._copies, self._lock = copies, threading.Lock()
        self.path = copies.newest()
        self._con = open_copy(self.path)
        self._looked, self.notice = time.monotonic(), ""

    @contextlib.contextmanager
    def connection(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, str]]:
        """Give a connection, the copy's name, and what is wrong with the place, empty when nothing is."""
        with self._lock:
            self._look()
            cursor, name, notice = self._con.cursor(), self.path.name, self.notice
        try:
            yield cursor, name, notice
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the copy that is open."""
        with self._lock:
            self._con.close()

    def _look(self) -> None:
        """Open a newer copy when there is one; the one that is open stays when the place or the newer one cannot be read."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        try:
            newest = self._copies.newest()
            if newest != self.path:
                opened = open_copy(newest)
                self._con.close()  # requests in flight have cursors of their own
                self._con, self.path = opened, newest
            self.notice = ""
        except AuditError as error:
            self.notice = (
                f"No newer copy of the index can be read ({locations.readable(error.what)}); this one is of before."
            )
        self._looked = time.monotonic()
