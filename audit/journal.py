"""The journal: one immutable Parquet file per unit, and the run files, below one storage root.

    units/{kind}/{key[:2]}/{key}.parquet          complete; written once, wholly or not at all
    units/{kind}/{key[:2]}/{key}.failed.parquet   some rows have status 'error'; resume tries the unit again
    units/{kind}/{key[:2]}/{key}.safetensors      tensors of the unit, written before the Parquet file that commits it
    runs/{run_id}/{name}                          plan.json, cases.parquet, units.parquet, spec.yaml, provenance.json

Two workers that write the same key write the same content, so nothing here needs a lock or a conditional PUT.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import JournalError
from audit.objectstore import ObjectStore, StorageUnavailable, translated

__all__ = ["SCHEMAS", "Journal", "Listing", "StorageUnavailable"]

_ROW = [pa.field("status", pa.string(), nullable=False), pa.field("error", pa.string())]
_SCORE = pa.struct([("label", pa.string()), *((name, pa.float64()) for name in ("score", "x", "y", "w", "h"))])

SCHEMAS: Mapping[str, pa.Schema] = {
    "erase": pa.schema([pa.field("artefact", pa.string(), nullable=False), *_ROW, ("facts", pa.string())]),
    "invert": pa.schema(
        [
            pa.field("item", pa.string(), nullable=False),
            *_ROW,
            ("residual_max", pa.float64()),
            ("residual_mean", pa.float64()),
            ("passes_mean", pa.float64()),
            ("unet_calls", pa.int32()),
            ("roundtrip_error", pa.float64()),  # ||z0' - z0|| / ||z0||
            ("psnr_roundtrip_db", pa.float64()),  # D(z0') against D(z0)
            ("psnr_vae_db", pa.float64()),  # the image against D(z0)
            ("psnr_total_db", pa.float64()),  # the image against D(z0')
            ("latent_rms", pa.float64()),
            ("latent_autocorr", pa.float64()),
            ("nll_per_dim", pa.float64()),
        ]
    ),
    "generate": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # as `datasets` stores an Image
            ("pixel_sha256", pa.string()),
            ("invert_key", pa.string()),
            ("item", pa.string()),
            ("unet_calls", pa.int32()),
            ("guard_report", pa.string()),
        ]
    ),
    "detect": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,
            ("scores", pa.list_(pa.field("element", _SCORE))),
            pa.field("instrument_id", pa.int64(), nullable=False),
        ]
    ),
}
_METADATA = b"erasure_audit"
_HUGGINGFACE = {
    "info": {
        "features": {
            field.name: {"_type": "Image"} if field.name == "image" else {"dtype": str(field.type), "_type": "Value"}
            for field in SCHEMAS["generate"]
        }
    }
}
_KEY = re.compile(r"[0-9a-f]{64}")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")  # a spec's name, a time and a salt
_THREADS = 8
_SCAN_CHUNK = 16  # units that one thread reads in a go
_SMALLEST_PARQUET = 12  # two magic words and a footer length: anything shorter is a torn write


@dataclasses.dataclass(frozen=True)
class Listing:
    """The units of one kind: `complete`, and `failed` ones that have no complete file yet."""

    complete: frozenset[str]
    failed: frozenset[str]


class Journal:
    """Reads and writes units and run files below one storage root; see the module's layout."""

    def __init__(self, root: str) -> None:
        """Open `root` (`file:///...`, a path, `s3://bucket/prefix`) without touching it. Raises `JournalError`."""
        self.store = ObjectStore(root)
        self.root = self.store.root

    def probe(self) -> None:
        """Return when the root can be written, read and deleted from. Raises `JournalError` with the next step."""
        self.store.probe()

    def write(self, kind: str, key: str, table: pa.Table, header: Mapping[str, Any], blob: bytes | None = None) -> None:
        """Store one unit: `blob` first, then the Parquet file that commits it. Raises `JournalError`.

        `table` has `SCHEMAS[kind]`. A row with status 'error' makes the unit failed: resume tries it again.
        `header` is kept as JSON in the file: at least identity and runtime; kind and key are added here.
        """
        table = table.select(SCHEMAS[kind].names).cast(SCHEMAS[kind])
        metadata = {_METADATA: json.dumps({**header, "kind": kind, "key": key}, sort_keys=True).encode()}
        if kind == "generate":
            metadata[b"huggingface"] = json.dumps(_HUGGINGFACE).encode()
        failed = "error" in table.column("status").unique().to_pylist()
        sink = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata(metadata),
            sink,
            # Files are small and read whole: statistics only cost time and would repeat parts of pictures.
            compression="snappy",
            write_statistics=False,
            use_dictionary=[name for name in ("status", "invert_key", "item") if name in table.column_names],
            write_page_checksum=True,
        )
        if blob is not None:
            self.store.put(self._name(kind, key, ".safetensors"), blob)
        self.store.put(self._name(kind, key, ".failed.parquet" if failed else ".parquet"), sink.getvalue())

    def listing(self, kind: str) -> Listing:
        """Complete and failed units of `kind`, from one pass over the folders. Raises `JournalError`."""
        complete: set[str] = set()
        failed: set[str] = set()
        folder = f"units/{kind}"
        shards = [f"{folder}/{name}" for name, _ in self.store.entries(folder)]
        with ThreadPoolExecutor(_THREADS) as pool:
            for entries in pool.map(self.store.entries, shards):
                for name, size in entries:
                    key, _, suffix = name.partition(".")
                    if size < _SMALLEST_PARQUET or not _KEY.fullmatch(key):
                        continue
                    if suffix == "parquet":
                        complete.add(key)
                    elif suffix == "failed.parquet":
                        failed.add(key)
        return Listing(frozenset(complete), frozenset(failed - complete))

    def keys(self, kind: str) -> set[str]:
        """Keys of the complete units of `kind`: what resume need not do again. Raises `JournalError`."""
        return set(self.listing(kind).complete)

    def read(self, kind: str, key: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The unit's rows, from its complete or else its failed file. Raises `JournalError` when absent or corrupt."""
        with self._open(kind, key, partial=columns is not None and "image" not in columns) as parquet:
            # Threads are for many files at a time, not for the columns of a small one.
            return parquet.read(columns=list(columns) if columns is not None else None, use_threads=False)

    def header(self, kind: str, key: str) -> dict[str, Any]:
        """The unit's header: kind, key, identity, runtime. Raises `JournalError` when absent or corrupt."""
        with self._open(kind, key, partial=True) as parquet:
            document = (parquet.schema_arrow.metadata or {}).get(_METADATA)
            if document is None:
                raise pa.ArrowInvalid("the file has no erasure_audit header")
            header: dict[str, Any] = json.loads(document)
            return header

    def blob(self, kind: str, key: str) -> bytes:
        """The unit's safetensors bytes. Raises `JournalError` when the unit has none."""
        name = self._name(kind, key, ".safetensors")
        try:
            return self.store.get(name)
        except FileNotFoundError:
            raise self._absent(name) from None

    def scan(self, kind: str, keys: Iterable[str], columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """(key, rows) of many units, read by several threads, with a bounded number of units in memory at a time.

        Raises `JournalError` that names the file when one is corrupt or has vanished.
        """

        def work(chunk: Sequence[str]) -> list[tuple[str, pa.Table]]:
            return [(key, self.read(kind, key, columns)) for key in chunk]

        source = iter(keys)
        chunks = iter(lambda: tuple(itertools.islice(source, _SCAN_CHUNK)), ())
        pool = ThreadPoolExecutor(_THREADS)
        try:
            waiting = collections.deque(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 2 * _THREADS))
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def put_run(self, run_id: str, name: str, data: bytes) -> None:
        """Store the run file `name`, wholly or not at all. Raises `JournalError`."""
        self.store.put(_run_name(run_id, name), data)

    def get_run(self, run_id: str, name: str) -> bytes:
        """The bytes of the run file `name`. Raises `JournalError` when the run or the file is absent."""
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
        """Ids of all runs that have a plan, sorted. Raises `JournalError` when the root cannot be listed."""
        names = [name for name, _ in self.store.entries("runs") if _RUN_ID.fullmatch(name)]
        return sorted(name for name in names if self.store.exists(f"runs/{name}/plan.json"))

    @contextlib.contextmanager
    def _open(self, kind: str, key: str, partial: bool) -> Iterator[pq.ParquetFile]:
        """The unit's Parquet file, its own errors turned into ones that name the file and what mends it."""
        for suffix in (".parquet", ".failed.parquet"):
            name = self._name(kind, key, suffix)
            try:
                source = self.store.open(name, partial=partial and kind == "generate")
            except FileNotFoundError:
                continue
            with translated(self.store.url(name)):
                try:
                    with source, pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as parquet:
                        yield parquet
                except (pa.ArrowException, OSError, ValueError) as error:
                    # An OSError of Arrow's own has no number: a failed checksum. Others speak of disk or network.
                    if isinstance(error, OSError) and not (type(error) is OSError and error.errno is None):
                        raise
                    raise self._corrupt(name, error) from error
            return
        raise self._absent(self._name(kind, key, ".parquet"))

    def _name(self, kind: str, key: str, suffix: str) -> str:
        if kind not in SCHEMAS or not _KEY.fullmatch(key):
            raise ValueError(f"no journal file for kind {kind!r} and key {key!r}")
        return f"units/{kind}/{key[:2]}/{key}{suffix}"

    def _absent(self, name: str) -> JournalError:
        return JournalError(
            "the journal lacks a file that the run needs",
            where=self.store.url(name),
            next_step="compute it with: erasure-audit resume RUN_ID",
        )

    def _corrupt(self, name: str, error: Exception) -> JournalError:
        return JournalError(
            f"a journal file is corrupt: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=self.store.url(name),
            next_step="delete this file, then compute it again with: erasure-audit resume RUN_ID",
        )


def _run_name(run_id: str, name: str) -> str:
    if not _RUN_ID.fullmatch(run_id) or "/" in name or ".." in name:
        raise JournalError(
            f"{run_id!r} is not a run id",
            next_step="list the runs with: erasure-audit db runs",
        )
    return f"runs/{run_id}/{name}"


def runtime(table: pa.Table) -> dict[str, Any]:
    """Where and how long a unit was computed, from the header that its table carries; empty without one."""
    document = (table.schema.metadata or {}).get(_METADATA)
    found: dict[str, Any] = json.loads(document).get("runtime", {}) if document else {}
    return found
