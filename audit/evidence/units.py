"""The units of a run as lines of text: which journal files its rows come from, and the digest of each."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from audit.errors import JournalError, NotVerified
from audit.evidence.merkle import root
from audit.evidence.purge_records import bare_files
from audit.files import ForeignError, parse_json
from audit.index.folded_files import UnitEntry
from audit.plan.document import planned_keys
from audit.progress.steps import counted
from audit.storage.journal import Journal, StorageUnavailable
from audit.storage.run_records import FOLDED, read_records

_THREADS = 8


@dataclasses.dataclass(frozen=True)
class SealedUnit:
    """A planned unit and its file as it is on record; a unit that was never computed has no digest."""

    kind: str
    key: str
    complete: bool
    sha256: str | None
    size: int  # bytes
    blob_sha256: str | None  # of its tensors
    has_pixels: bool
    purged_at: str | None = None  # when the file was deleted, its rows and digests kept

    def line(self) -> bytes:
        """Return it as one line of JSON, without the end of the line."""
        return json.dumps(self.__dict__, sort_keys=True).encode()

    @property
    def name(self) -> str:
        """The path of its file below a storage root."""
        suffix = ".parquet" if self.complete else ".failed.parquet"
        return f"units/{self.kind}/{self.key[:2]}/{self.key}{suffix}"


@dataclasses.dataclass(frozen=True)
class RunUnits:
    """The units of a run, and when their files were written, as the storage says."""

    files: tuple[SealedUnit, ...]
    first_at: dt.datetime | None  # of those written after the plan
    older: int  # files that were there before the plan: equal units of earlier runs are not computed again


def sealed_units(
    journal: Journal, run_id: str, recorded: Mapping[tuple[str, str], UnitEntry], planned_at: dt.datetime
) -> RunUnits:
    """Return every planned unit of a run with what is on record of it, by kind and key. Raises `JournalError`."""
    planned = sorted(planned_keys(journal, run_id))
    bare = bare_files(journal, run_id)
    files = tuple(_sealed(kind, key, recorded.get((kind, key)), bare) for kind, key in planned)
    shards = sorted({f"units/{kind}/{key[:2]}" for kind, key in planned})
    with ThreadPoolExecutor(_THREADS) as pool:
        times_of = counted(pool.map(journal.store.listed, shards), "list units", len(shards), "folders")
        listings = zip(shards, times_of, strict=True)
        written = {f"{shard}/{e.name}": e.written for shard, listing in listings for e in listing if e.written}
    times = [written[file.name] for file in files if file.name in written]
    # Storage may keep whole seconds only.
    own = [moment for moment in times if moment >= planned_at.replace(microsecond=0)]
    return RunUnits(files, min(own, default=None), len(times) - len(own))


def _sealed(kind: str, key: str, entry: UnitEntry | None, bare: Container[str]) -> SealedUnit:
    if entry is None:
        return SealedUnit(kind, key, False, None, 0, None, kind == "generate")
    pixels = kind == "generate" and entry.sha256 not in bare
    return SealedUnit(kind, key, entry.complete, entry.sha256, entry.bytes, entry.blob_sha256, pixels)


def replacements(journal: Journal, run_id: str) -> list[dict[str, object]]:
    """Return every time that files of a run were put on record anew or taken off it: when, by whom, why, and how many."""
    return [
        {
            "at": record.fields["at"],
            "by": str(record.fields.get("by")),
            "reason": str(record.fields["reason"]),
            "files": sum(len(record.fields.get(name, ())) for name in ("files", "units", "withdrawn")),
        }
        for record in read_records(journal, run_id, FOLDED)
        if "reason" in record.fields
    ]


def encode_units(files: Sequence[SealedUnit]) -> bytes:
    """Return the text of `units.jsonl`."""
    return b"".join(file.line() + b"\n" for file in files)


def decode_units(data: bytes, where: str) -> list[SealedUnit]:
    """Return the units in the text of `units.jsonl`. Raises `NotVerified`."""
    files = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            files.append(SealedUnit(**parse_json(line)))
        except (ForeignError, TypeError) as error:
            raise NotVerified(f"line {number} is no unit: {error}", where=where) from None
    return files


def units_root(text: bytes) -> str:
    """Return the root of the hash tree over the lines of `units.jsonl`."""
    return root(text.splitlines())


def changed(
    journal: Journal, files: Sequence[SealedUnit], earlier: Mapping[str, frozenset[str]]
) -> Iterator[tuple[str, str]]:
    """Yield (path, what is wrong) for every unit whose file in a journal is not the listed one; purged ones are left out.

    `earlier` names, for the digest of a file that pictures were taken out of, those of the files that were there before.
    """
    kept = [file for file in files if file.sha256 is not None and file.purged_at is None]
    with ThreadPoolExecutor(_THREADS) as pool:
        compared = pool.map(lambda file: _difference(journal, file, earlier), kept)
        yield from filter(None, counted(compared, "compare", len(kept), "files"))


def _difference(journal: Journal, file: SealedUnit, earlier: Mapping[str, frozenset[str]]) -> tuple[str, str] | None:
    try:
        data = journal.store.get(file.name)
    except FileNotFoundError:
        return file.name, "the file is missing"
    digest = hashlib.sha256(data).hexdigest()
    if file.sha256 not in {digest, *earlier.get(digest, ())}:
        return file.name, "the file is not the one that was sealed"
    try:
        if file.blob_sha256:
            journal.blob_of(file.kind, file.key, {"blob_sha256": file.blob_sha256})
    except StorageUnavailable:
        raise
    except JournalError as error:
        return file.name, error.what
    return None
