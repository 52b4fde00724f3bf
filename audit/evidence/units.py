"""The units of a run as lines of text: which journal files its rows come from, and the digest of each."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import NotVerified
from audit.evidence.merkle import root
from audit.files import ForeignError, parse_json
from audit.plan.document import planned_keys
from audit.storage.journal import Journal
from audit.storage.unit_files import header_in

_THREADS = 8
_WITH_TENSORS = ("erase", "attack", "invert", "quality")
_SUFFIXES = (".parquet", ".failed.parquet")  # a complete file counts, and a failed one where there is none


@dataclasses.dataclass(frozen=True)
class UnitFile:
    """One file of a planned unit; a unit that was never computed has none."""

    kind: str
    key: str
    sha256: str | None
    bytes: int
    failed: bool
    has_pixels: bool
    blob_sha256: str | None = None  # of its tensors
    purged_at: str | None = None  # when the file was deleted and its rows and digests kept

    def line(self) -> bytes:
        """Return it as one line of JSON, without the end of the line."""
        return json.dumps(self.__dict__, sort_keys=True).encode()

    @property
    def name(self) -> str:
        """Its path below a storage root."""
        return f"units/{self.kind}/{self.key[:2]}/{self.key}{_SUFFIXES[self.failed]}"


@dataclasses.dataclass(frozen=True)
class RunUnits:
    """The units of a run, and when their files were written, as the storage says."""

    files: tuple[UnitFile, ...]
    first_at: dt.datetime | None  # of those written after the plan
    older: int  # files that were there before the plan: equal units of earlier runs are not computed again


def unit_files(journal: Journal, run_id: str, planned_at: dt.datetime) -> RunUnits:
    """Return every planned unit of a run, by kind and key. Raises `JournalError`."""
    planned = sorted(planned_keys(journal, run_id))
    shards = sorted({f"units/{kind}/{key[:2]}" for kind, key in planned})
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = zip(shards, pool.map(journal.store.written, shards), strict=True)
        written = {f"{shard}/{last}": moment for shard, listing in listings for last, moment in listing.items()}
        files = tuple(pool.map(lambda unit: _unit_file(journal, *unit, written), planned))
    times = [written[file.name] for file in files if file.sha256]
    # Storage may keep whole seconds only.
    own = [moment for moment in times if moment >= planned_at.replace(microsecond=0)]
    return RunUnits(files, min(own, default=None), len(times) - len(own))


def encode_units(files: Sequence[UnitFile]) -> bytes:
    """Return the text of `units.jsonl`."""
    return b"".join(file.line() + b"\n" for file in files)


def decode_units(data: bytes, where: str) -> list[UnitFile]:
    """Return the units in the text of `units.jsonl`. Raises `NotVerified`."""
    files = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            files.append(UnitFile(**parse_json(line)))
        except (ForeignError, TypeError) as error:
            raise NotVerified(f"line {number} is no unit: {error}", where=where) from None
    return files


def units_root(text: bytes) -> str:
    """Return the root of the hash tree over the lines of `units.jsonl`."""
    return root(text.splitlines())


def changed(
    journal: Journal, files: Sequence[UnitFile], replaced: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (path, what is wrong) for every unit whose file in a journal is not the listed one; purged ones are left out.

    `replaced` names, for the digest of a file without its pictures, that of the file which was there before.
    """
    kept = [file for file in files if file.sha256 is not None and file.purged_at is None]
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, data in zip(kept, pool.map(lambda file: _get(journal, file.name), kept), strict=True):
            if data is None:
                yield file.name, "the file is missing"
            elif file.sha256 not in (digest := hashlib.sha256(data).hexdigest(), (replaced or {}).get(digest)):
                yield file.name, "the file is not the one that was sealed"


def _unit_file(journal: Journal, kind: str, key: str, written: Container[str]) -> UnitFile:
    for failed in (False, True):
        file = UnitFile(kind, key, None, 0, failed, kind == "generate")
        data = _get(journal, file.name) if file.name in written else None
        if data:
            digest = hashlib.sha256(data).hexdigest()
            header = _header(data) if kind in (*_WITH_TENSORS, "generate") else {}
            blob, pixels = header.get("blob_sha256"), kind == "generate" and "purged" not in header
            return dataclasses.replace(
                file, sha256=digest, bytes=len(data), has_pixels=pixels, blob_sha256=str(blob) if blob else None
            )
    return UnitFile(kind, key, None, 0, False, False)


def _get(journal: Journal, name: str) -> bytes | None:
    try:
        return journal.store.get(name)
    except FileNotFoundError:
        return None


def _header(data: bytes) -> Mapping[str, Any]:
    """Return a unit file's header; an empty one of a damaged file, whose digest says so to whoever reads it."""
    try:
        return header_in(pq.read_schema(pa.BufferReader(data)))
    except (pa.ArrowException, OSError, ValueError):
        return {}
