"""Find the newest published copy of an index, in a folder or an object store, and open it so that it reaches for nothing else."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

from audit import locations
from audit.errors import StoreError
from audit.index.sql_files import digest
from audit.index.store import copy_number, explained, latest
from audit.storage.objects import ObjectStore

_PUBLISH = "publish one with: erasure-audit db publish FOLDER"


@contextlib.contextmanager
def newest_copy(place: str) -> Iterator[Path]:
    """Give the newest published copy at `place` (a folder, `s3://bucket/prefix` or one file) as a file, for the block.

    Raises `StoreError` when there is none, `JournalError` for an address that cannot be one or is not answered.
    """
    folder = locations.local_folder(place)
    if folder is not None:
        yield folder if folder.is_file() else latest(folder)
        return
    store = ObjectStore(place)
    numbers = {number: name for name, _ in store.entries("") if (number := copy_number(name)) is not None}
    if not numbers:
        raise StoreError("no published index here", where=place, next_step=_PUBLISH)
    name = numbers[max(numbers)]
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as temporary:
        path = Path(temporary) / name
        try:
            path.write_bytes(store.get(name))
        except FileNotFoundError:
            raise StoreError("the newest copy is gone", where=store.url(name), next_step="try again") from None
        except OSError as error:
            raise StoreError(
                f"the copy cannot be kept here: {error.strerror or error}",
                where=temporary,
                next_step="free space there, or set TMPDIR",
            ) from None
        yield path


def open_confined(path: Path, writable: Path) -> duckdb.DuckDBPyConnection:
    """Open a published copy read-only; what its views say reaches for no file or address but those below `writable`.

    Raises `StoreError` when it is absent, empty, corrupt, or filled by another version of this tool.
    """
    if not path.stat().st_size:
        raise StoreError("the index is an empty file", where=str(path), next_step=_PUBLISH)
    with explained(path):
        con = duckdb.connect(str(path), read_only=True)
        try:
            con.execute("set allowed_directories = $folders", {"folders": [str(writable)]})
            con.execute("set enable_external_access = false")
            con.execute("set lock_configuration = true")
            stored = con.execute("select digest from index_version").fetchall()
        except duckdb.CatalogException:
            stored = []
        except duckdb.Error:
            con.close()
            raise
        if stored == [(digest(),)]:
            return con
        con.close()
    raise StoreError(
        "the index was filled by another version of erasure-audit",
        where=str(path),
        next_step="rebuild it from the journal with: erasure-audit db rebuild",
    )
