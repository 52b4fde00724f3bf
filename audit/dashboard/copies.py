"""Keep the newest published copy of the index open, until a newer one appears."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import duckdb

from audit import locations
from audit.errors import AuditError
from audit.index.copies import Copies, open_copy

_LOOK_SECONDS = 2.0  # between two looks for a newer copy


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
