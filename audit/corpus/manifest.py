"""Write manifests as Parquet files, and read them verified by their content digest."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from audit import files, identity, locations
from audit.corpus.sources import open_source
from audit.errors import CorpusError, JournalError
from audit.files import parse_json
from audit.records import Item
from audit.storage.errors import explain_source
from audit.storage.journal import Journal
from audit.storage.s3 import s3_filesystem

METADATA_KEY = b"erasure_audit"
_WRITE = "erasure-audit corpus manifest URL --out FILE"

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("concept", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("byte_sha256", pa.string()),
        pa.field("pixel_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("error", pa.string()),
        pa.field("duplicate_of", pa.string()),  # URI of the first row of the same role with the same pixels
    ]
)
_ITEM_FIELDS = tuple(field.name for field in dataclasses.fields(Item))


@dataclasses.dataclass(frozen=True)
class StoredManifest:
    """A written manifest: its address, its content digest (`manifest_sha256`) and its number of rows."""

    url: str
    sha256: str
    rows: int


class _Digest:
    """Content digest of manifest rows, independent of how they are cut into batches and of the Parquet version."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            self._sha.update(identity.canonical_json(row).encode() + b"\n")
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def manifest_sha256(table: pa.Table) -> str:
    """Return the hex SHA-256 over the rows of a manifest in order; the same corpus gives the same digest everywhere."""
    digest = _Digest()
    for batch in table.to_batches():
        digest.update(batch)
    return digest.hexdigest()


def write_manifest(batches: Iterable[pa.RecordBatch], url: str) -> StoredManifest:
    """Write a manifest as Parquet to `url` (a path or fsspec URL), and return its address, digest and row count.

    The file appears whole or not at all. Raises `CorpusError` when it cannot be written.
    """
    buffer, digest = io.BytesIO(), _Digest()  # about 100 bytes a row once compressed
    with pq.ParquetWriter(buffer, MANIFEST_SCHEMA, compression="zstd") as writer:
        for batch in batches:
            digest.update(batch)
            writer.write_batch(batch)
        header = {"kind": "manifest", "rows": digest.rows, "sha256": digest.hexdigest()}
        writer.add_key_value_metadata({METADATA_KEY: json.dumps(header).encode()})
    _put(url, buffer.getvalue())
    return StoredManifest(locations.absolute(url), digest.hexdigest(), digest.rows)


def read_manifest(url: str) -> pa.Table:
    """Return the manifest at `url` as a table of `MANIFEST_SCHEMA`, checked against the digest it was written with.

    Raises `CorpusError` when it is missing, truncated, no manifest, or altered.
    """
    target = locations.absolute(url)
    data = _get(url, target)
    again = f"write it again with: {_WRITE}"
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            header = parse_json((file.metadata.metadata or {}).get(METADATA_KEY, b"{}"))
            table = file.read().replace_schema_metadata(None)
        table.validate(full=True)  # text that is not UTF-8 among others
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:300]
        raise CorpusError(f"the manifest cannot be read: {detail}", where=target, next_step=again) from None
    if (
        not isinstance(header, dict)
        or header.get("kind") != "manifest"
        or not table.schema.equals(MANIFEST_SCHEMA, check_metadata=False)
    ):
        raise CorpusError("this Parquet file is not a corpus manifest", where=target, next_step=again)
    if manifest_sha256(table) != header.get("sha256"):
        raise CorpusError("the manifest was altered after it was written", where=target, next_step=again)
    return table


def read_stored_manifest(journal: Journal, run_id: str, sha256: str) -> pa.Table:
    """Return the manifest that a run was planned from, of the content digest that its plan names.

    Raises `JournalError` when the stored one is absent, damaged or another.
    """
    data = journal.get_run(run_id, "manifest.parquet")
    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)
        if manifest_sha256(table) == sha256:
            return table
        problem = "is not the one that the run was planned from"
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:  # the bytes are in memory
        problem = f"is damaged: {' '.join(str(error).split())[:300]}"
    raise JournalError(
        f"the stored corpus manifest {problem}",
        where=f"run {run_id}",
        next_step="start the audit again: erasure-audit run SPEC; pictures and scores are reused",
    )


def items(table: pa.Table, *, usable: bool = False) -> Iterator[Item]:
    """Yield the rows of a manifest as `Item` records, in order; with `usable`, only decoded pictures and no duplicates."""
    for batch in table.to_batches():
        for row in batch.to_pylist():
            if not usable or (row["error"] is None and row["duplicate_of"] is None):
                yield Item(**{name: row[name] for name in _ITEM_FIELDS})


def _system(url: str, target: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if locations.scheme(url) == "s3":
        return s3_filesystem(), target
    if locations.scheme(url) == "file":
        return fsspec.filesystem("file"), target.removeprefix("file://")
    system, path = fsspec.core.url_to_fs(target)
    return system, str(path)


def _put(url: str, data: bytes) -> None:
    open_source(url)  # refuses credentials and unusable protocols
    target = locations.absolute(url)
    try:
        if locations.scheme(url) == "file":
            path = Path(target.removeprefix("file://"))
            files.place(path, lambda unfinished: unfinished.write_bytes(data), unfinished=files.shared(path))
        else:
            system, name = _system(url, target)
            system.pipe_file(name, data)
    except Exception as error:  # any package's exceptions
        raise _failure("written", error, target) from None


def _get(url: str, target: str) -> bytes:
    open_source(url)
    try:
        system, path = _system(url, target)
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        raise CorpusError("there is no manifest here", where=target, next_step=f"write it with: {_WRITE}") from None
    except Exception as error:  # any package's exceptions
        raise _failure("read", error, target) from None


def _failure(verb: str, error: Exception, target: str) -> CorpusError:
    if isinstance(error, OSError) and target.startswith("file://"):
        reason = error.strerror or type(error).__name__
        return CorpusError(
            f"the manifest cannot be {verb}: {reason}", where=target, next_step="choose another place for it"
        )
    return explain_source(error, target)
