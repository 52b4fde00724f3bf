"""The record of a run's folded files: the digest of each plan file and of each unit file when its rows were first folded.

Record series `folded` of a run (`audit.storage.run_records`). Later records replace earlier entries of the same file, and
say why.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping

from audit.files import Document
from audit.storage.journal import Journal, UnitFile
from audit.storage.run_records import DECISIONS, FOLDED, Record, RecordChanged, append, read_records

_PLAN_FILES = (
    "cases.parquet", "ledger.json", "manifest.parquet", "plan.json", "provenance.json", "spec.yaml", "units.parquet",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class UnitEntry:
    """A unit file on record. `stamp` is an object store's own tag of it, None on disk.

    `seconds` is how long a failed one took, to many digits: one that was tried again took another time.
    """

    kind: str
    key: str
    complete: bool
    sha256: str
    bytes: int
    blob_sha256: str | None
    stamp: str | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, kind: str, file: UnitFile, stamp: str | None = None, seconds: float | None = None) -> UnitEntry:
        """Return the entry of a file that was read just now."""
        size, blob = file.bytes, file.blob_sha256
        return cls(kind, file.key, file.complete, file.sha256, size, blob, stamp, None if file.complete else seconds)

    def row(self) -> dict[str, object]:
        """Return the entry as a record holds it; only failed units have a time."""
        row = dataclasses.asdict(self)
        return row if self.seconds is not None else {name: row[name] for name in row if name != "seconds"}

    @property
    def file(self) -> UnitFile:
        """The file that is on record."""
        return UnitFile(self.key, self.complete, self.sha256, self.bytes, self.blob_sha256)


@dataclasses.dataclass(frozen=True)
class OnRecord:
    """The newest entry of each file of a run, and the newest record's digest (None without a record)."""

    files: Mapping[str, str]  # run file -> SHA-256
    units: Mapping[tuple[str, str], UnitEntry]
    withdrawn: int
    sha256: str | None
    decisions: tuple[Record, ...] = ()  # on the run, oldest first


def on_record(journal: Journal, run_id: str) -> OnRecord:
    """Return the entries on record of a run's files, and the decisions that rest on them.

    Raises `RecordChanged` when the record itself was changed, and when its end is missing on which a decision rests.
    """
    records = read_records(journal, run_id, FOLDED)
    known = {record.sha256 for record in records}
    decisions = tuple(read_records(journal, run_id, DECISIONS))
    for decision in decisions:
        if decision.fields.get("folded_sha256") not in {None, *known}:
            raise RecordChanged(
                f"decision {decision.number} rests on a record of folded files that is missing",
                where=journal.store.url(f"runs/{run_id}/{FOLDED}/{len(records) + 1:06d}.json"),
                next_step="restore the file from a copy of the journal",
            )
    return dataclasses.replace(newest(records), decisions=decisions)


def record_plan(journal: Journal, run_id: str, now: dt.datetime) -> None:
    """Put the digests of a run's plan files on record, unless they are."""

    def content(earlier: list[Record]) -> Document | None:
        """Return the plan files' digests; None when they are on record already."""
        if newest(earlier).files:
            return None
        return {
            "files": [
                {"name": name, "sha256": run_file_sha256(journal, run_id, name)}
                for name in _PLAN_FILES
                if journal.store.exists(f"runs/{run_id}/{name}")  # never by a listing, which may be older
            ]
        }

    append(journal, run_id, FOLDED, now, content)


def unrecorded(known: Mapping[tuple[str, str], UnitEntry], entries: Iterable[UnitEntry]) -> list[UnitEntry]:
    """Return the entries that are not on record as they are."""
    return [entry for entry in entries if not is_recorded(known.get((entry.kind, entry.key)), entry)]


def tag(journal: Journal, stamp: str | None) -> str | None:
    """Return an object store's tag of a file for the record; None on disk, where a stamp proves nothing."""
    return None if journal.store.local else stamp


def is_recorded(before: UnitEntry | None, after: UnitEntry) -> bool:
    """Return whether the entry on record (None without one) has the digests of the file that is there now."""
    return before is not None and (before.complete, before.sha256, before.blob_sha256) == (
        after.complete,
        after.sha256,
        after.blob_sha256,
    )


def newest(records: Iterable[Record]) -> OnRecord:
    """Return the newest entry of each file in records of the series, oldest first."""
    files: dict[str, str] = {}
    units: dict[tuple[str, str], UnitEntry] = {}
    withdrawn, last = 0, None
    for record in records:
        for file in record.fields.get("files", ()):
            files[file["name"]] = file["sha256"]
        for unit in record.fields.get("withdrawn", ()):
            withdrawn += units.pop((unit["kind"], unit["key"]), None) is not None
        for row in record.fields.get("units", ()):
            entry = UnitEntry(**row)
            units[entry.kind, entry.key] = entry
        last = record.sha256
    return OnRecord(files, units, withdrawn, last)


def run_file_sha256(journal: Journal, run_id: str, name: str) -> str:
    """Return the digest of a run file as it lies in the journal."""
    return hashlib.sha256(journal.get_run(run_id, name)).hexdigest()
