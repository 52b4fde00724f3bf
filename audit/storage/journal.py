"""The journal: one immutable Parquet file per unit, and the run files, below one storage root.

    units/{kind}/{key[:2]}/{key}.parquet            complete; written once, wholly or not at all, and never replaced
    units/{kind}/{key[:2]}/{key}.failed.parquet     some rows have status 'error'; resume tries the unit again
    units/{kind}/{key[:2]}/{key}.{sha}.safetensors  tensors of the unit, written before the Parquet file that names them
    runs/{run_id}/{name}                            plan.json, cases.parquet, units.parquet, spec.yaml, provenance.json

Two workers may compute the same unit, and on a GPU their numbers differ in the last bits: the first complete file wins,
and the tensors that belong to it are named by their own SHA-256, so that no unit ever mixes the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import JournalError
from audit.files import Document
from audit.storage.errors import StorageUnavailable, translated
from audit.storage.listing import KEY, Listing, is_whole, listed, with_unlisted
from audit.storage.objects import ObjectStore
from audit.storage.threads import in_threads
from audit.storage.unit_files import ADDED, SCHEMAS, encoded, header_in

__all__ = ["SCHEMAS", "Journal", "Listing", "StorageUnavailable", "UnitFile"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")  # a spec's name, a time and a salt
_SUFFIXES = (".parquet", ".failed.parquet")


@dataclasses.dataclass(frozen=True)
class UnitFile:
    """What the storage holds of one unit: the digest and size in bytes of its file, and the digest of its tensors."""

    key: str
    complete: bool
    sha256: str
    bytes: int
    blob_sha256: str | None

    @property
    def suffix(self) -> str:
        """The end of the file's name."""
        return _SUFFIXES[not self.complete]


class Journal:
    """Reads and writes units and run files below one storage root; see the module's layout."""

    def __init__(self, root: str) -> None:
        """Open `root` (`file:///...`, a path, `s3://bucket/prefix`) without touching it. Raises `JournalError`."""
        self.store = ObjectStore(root)
        self.root = self.store.root

    def probe(self) -> None:
        """Return when the root can be written, read and deleted from. Raises `JournalError` with the next step."""
        self.store.probe()

    def write(self, kind: str, key: str, table: pa.Table, header: Document, blob: bytes | None = None) -> bool:
        """Store one unit: `blob` first, then the Parquet file that commits it; return whether it was stored.

        A complete unit that is there already stays, and nothing is stored. Raises `JournalError`. Where the storage cannot
        write on condition (`ObjectStore.put_new`), one that appears in the very moment of writing may be replaced; whoever
        used its tensors then refuses the others (`Models`).
        `table` has `SCHEMAS[kind]`. A row with status 'error' makes the unit failed: resume tries it again.
        `header` is kept as JSON in the file: at least identity and runtime; kind, key and `blob_sha256` are added here.
        """
        name = self._name(kind, key, ".parquet")
        size = self.store.size(name)
        if is_whole(size):
            return False
        table = table.select(SCHEMAS[kind].names).cast(SCHEMAS[kind])
        digest = hashlib.sha256(blob).hexdigest() if blob is not None else None
        described = {**header, "kind": kind, "key": key, "blob_sha256": digest}
        data = encoded(kind, table, described)
        if blob is not None and digest is not None:
            self.store.put(self._blob_name(kind, key, digest), blob)
        if "error" in table.column("status").unique().to_pylist():
            self.store.put(self._name(kind, key, ".failed.parquet"), data)
            return True
        if size is not None:  # a torn file of a crashed store: nobody counts it as a unit
            self.store.delete(name)
        stored = self.store.put_new(name, data)
        if not stored and digest is not None and self.header(kind, key).get("blob_sha256") != digest:
            self.store.delete(self._blob_name(kind, key, digest))
        return stored

    def listing(self, kind: str) -> Listing:
        """List the complete and the failed units of `kind`, in one pass over the folders. Raises `JournalError`."""
        return listed(self.store, kind)

    def with_unlisted(self, kind: str, listing: Listing, planned: Iterable[str]) -> Listing:
        """Return a listing and what it lacks of the `planned` units, as `listing.with_unlisted`. Raises `JournalError`."""
        return with_unlisted(self.store, kind, listing, planned)

    def keys(self, kind: str) -> set[str]:
        """Return the keys of the complete units of `kind`, which a resume does not compute again. Raises `JournalError`."""
        return set(self.listing(kind).complete)

    def read(self, kind: str, key: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a unit's rows, from its complete or else its failed file. Raises `JournalError` when absent or corrupt."""
        with self._open(kind, key, partial=columns is not None and "image" not in columns) as parquet:
            return _columns(parquet, kind, columns)

    def header(self, kind: str, key: str) -> Document:
        """Return a unit's header: kind, key, identity, runtime. Raises `JournalError` when absent or corrupt."""
        with self._open(kind, key, partial=True) as parquet:
            header = header_in(parquet.schema_arrow)
            if not header:
                raise pa.ArrowInvalid("the file has no erasure_audit header")
            return header

    def blob(self, kind: str, key: str) -> bytes:
        """Return a unit's safetensors bytes. Raises `JournalError` when it has none, or not those that its header names."""
        return self.blob_of(kind, key, self.header(kind, key))

    def blob_of(self, kind: str, key: str, header: Document) -> bytes:
        """Return the safetensors bytes that belong to the rows with this header (`header`, `header_of`), as `blob` does."""
        digest = header.get("blob_sha256")
        if not digest:
            raise self._without_tensors(kind, key, "it names none")
        name = self._blob_name(kind, key, digest)
        try:
            data = self.store.get(name)
        except FileNotFoundError:
            raise self._without_tensors(kind, key, f"{name} is not there") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._without_tensors(kind, key, f"{name} is corrupt: its bytes are not those that the unit names")
        return data

    def scan(self, kind: str, keys: Iterable[str], columns: Sequence[str]) -> Iterator[tuple[UnitFile, pa.Table]]:
        """Yield the file and the rows of many units, read whole by several threads, a bounded number of them in memory at a time.

        Raises `JournalError` that names the file when one is corrupt or has vanished.
        """

        def read(key: str) -> tuple[UnitFile, pa.Table]:
            file, data = self._whole_file(kind, key)
            with self._parsed(self._name(kind, key, file.suffix), pa.BufferReader(data)) as parquet:
                return file, _columns(parquet, kind, columns)

        return in_threads(read, keys)

    def file(self, kind: str, key: str) -> UnitFile:
        """Return what the storage holds of one unit, its tensors included; all of it is read.

        Raises `JournalError` when the unit is absent or corrupt.
        """
        file, _ = self._whole_file(kind, key)
        if file.blob_sha256:
            self.blob_of(kind, key, {"blob_sha256": file.blob_sha256})
        return file

    def holds(self, kind: str, file: UnitFile) -> bool:
        """Return whether the storage holds exactly this file, and its tensors. Raises `JournalError` when it cannot be read."""
        try:
            data = self.store.get(self._name(kind, file.key, file.suffix))
            blob = self.store.get(self._blob_name(kind, file.key, file.blob_sha256)) if file.blob_sha256 else b""
        except FileNotFoundError:
            return False
        whole = hashlib.sha256(data).hexdigest() == file.sha256
        return whole and (not file.blob_sha256 or hashlib.sha256(blob).hexdigest() == file.blob_sha256)

    def unit_url(self, kind: str, key: str, *, complete: bool = True) -> str:
        """Return the address of a unit's file, for messages."""
        return self.store.url(self._name(kind, key, _SUFFIXES[not complete]))

    def _whole_file(self, kind: str, key: str) -> tuple[UnitFile, bytes]:
        for suffix in _SUFFIXES:
            name = self._name(kind, key, suffix)
            try:
                data = self.store.get(name)
            except FileNotFoundError:
                continue
            with self._parsed(name, pa.BufferReader(data)) as parquet:
                blob = header_in(parquet.schema_arrow).get("blob_sha256")
            return UnitFile(key, suffix == _SUFFIXES[0], hashlib.sha256(data).hexdigest(), len(data), blob), data
        raise self._absent(self._name(kind, key, _SUFFIXES[0]))

    def put_run(self, run_id: str, name: str, data: bytes) -> None:
        """Store the run file `name`, wholly or not at all. Raises `JournalError`."""
        self.store.put(_run_name(run_id, name), data)

    def get_run(self, run_id: str, name: str) -> bytes:
        """Return the bytes of the run file `name`. Raises `JournalError` when the run or the file is absent."""
        path = _run_name(run_id, name)
        try:
            return self.store.get(path)
        except FileNotFoundError:
            raise JournalError(
                f"the run {run_id!r} has no {name} in this journal",
                where=self.store.url(path),
                next_step="list the runs with: erasure-audit db runs; a new run is planned by: erasure-audit run SPEC",
            ) from None

    def runs(self) -> list[str]:
        """Return the ids of all runs that have a plan, sorted. Raises `JournalError` when the root cannot be listed."""
        names = [name for name, _ in self.store.entries("runs") if _RUN_ID.fullmatch(name)]
        return sorted(name for name in names if self.store.exists(f"runs/{name}/plan.json"))

    @contextlib.contextmanager
    def _open(self, kind: str, key: str, partial: bool) -> Iterator[pq.ParquetFile]:
        """Open a unit's Parquet file for the block; errors in it become ones that name the file and what mends it."""
        for suffix in _SUFFIXES:
            name = self._name(kind, key, suffix)
            try:
                source = self.store.open(name, partial=partial and kind == "generate")
            except FileNotFoundError:
                continue
            with self._parsed(name, source) as parquet:
                yield parquet
            return
        raise self._absent(self._name(kind, key, ".parquet"))

    @contextlib.contextmanager
    def _parsed(self, name: str, source: pa.NativeFile) -> Iterator[pq.ParquetFile]:
        with translated(self.store.url(name)):
            try:
                with source, pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as parquet:
                    yield parquet
            except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                # An OSError of Arrow's own has no number: a failed checksum. Others speak of disk or network.
                if isinstance(error, OSError) and not (type(error) is OSError and error.errno is None):
                    raise
                raise self._corrupt(name, error) from error

    def _name(self, kind: str, key: str, suffix: str) -> str:
        if kind not in SCHEMAS or not KEY.fullmatch(key):
            raise ValueError(f"no journal file for kind {kind!r} and key {key!r}")
        return f"units/{kind}/{key[:2]}/{key}{suffix}"

    def _blob_name(self, kind: str, key: str, digest: str) -> str:
        return self._name(kind, key, f".{digest[:16]}.safetensors")

    def _absent(self, name: str) -> JournalError:
        return JournalError(
            "the journal lacks a file that the run needs",
            where=self.store.url(name),
            next_step="compute it with: erasure-audit resume RUN_ID",
        )

    def _without_tensors(self, kind: str, key: str, why: str) -> JournalError:
        """Return the error that asks to delete the unit's Parquet file: while it is there, the unit counts as complete."""
        return JournalError(
            f"a unit lacks its tensors: {why}",
            where=self.store.url(self._name(kind, key, ".parquet")),
            next_step="delete this file, then compute the unit again with: erasure-audit resume RUN_ID",
        )

    def _corrupt(self, name: str, error: Exception) -> JournalError:
        return JournalError(
            f"a journal file is corrupt: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=self.store.url(name),
            next_step="delete this file, then compute it again with: erasure-audit resume RUN_ID",
        )


def _columns(parquet: pq.ParquetFile, kind: str, columns: Sequence[str] | None) -> pa.Table:
    # Threads are for many files at a time, not for the columns of a small one.
    table = parquet.read(columns=list(columns) if columns is not None else None, use_threads=False)
    for name in ADDED.get(kind, ()):
        if name in (columns or ()) and name not in table.column_names:
            field = SCHEMAS[kind].field(name)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    for name in columns or ():
        if name not in table.column_names or table.schema.field(name).type != SCHEMAS[kind].field(name).type:
            raise pa.ArrowInvalid(f"its column {name!r} is missing or of another type")
    header_in(table.schema)  # says now, with the file's name, that it is no JSON
    return table


def _run_name(run_id: str, name: str) -> str:
    if not _RUN_ID.fullmatch(run_id) or "/" in name or ".." in name:
        raise JournalError(
            f"{run_id!r} is not a run id",
            next_step="list the runs with: erasure-audit db runs",
        )
    return f"runs/{run_id}/{name}"
