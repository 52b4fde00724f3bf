"""Compare the files of a run with those on record: what was folded into the index is what lies in the journal today."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from audit.errors import JournalError
from audit.files import Document
from audit.index.folded_files import (
    OnRecord,
    UnitEntry,
    is_recorded,
    newest,
    on_record,
    run_file_sha256,
    unrecorded,
)
from audit.plan.document import KINDS, planned_keys
from audit.progress.steps import counted
from audit.storage.journal import Journal, StorageUnavailable
from audit.storage.run_records import DECISIONS, FOLDED, PURGED, Record, RecordChanged, append
from audit.storage.threads import in_threads

_SERIES_FOLDERS = (FOLDED, DECISIONS, PURGED)
# Pictures that were shown unblurred, or given to raters, after the run.
_LATER_FILES = re.compile(r"(shown|label-task)-[^/]*\.json")
_MOST_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Change:
    """A file that differs from what is on record."""

    what: str  # changed | missing | added | retried
    url: str
    detail: str
    unit: UnitEntry | None = None  # what is on record of it
    file: str | None = None

    @property
    def harmless(self) -> bool:
        """Return whether the change is a failed unit that was tried again, which the next consolidation takes in."""
        return self.what == "retried"


def record_units(
    journal: Journal, run_id: str, now: dt.datetime, entries: Sequence[UnitEntry], **reason: str
) -> Record | None:
    """Put unit files on record, those that differ from what is there; `reason` fields say why one is replaced.

    Without a reason only new units and failed ones may differ: raises `RecordChanged` for a complete unit that has changed.
    """

    def content(earlier: list[Record]) -> Document | None:
        """Return the units that differ from the record; None when none does."""
        known = newest(earlier).units
        new = unrecorded(known, entries)
        if not reason:
            require_unchanged(journal, known, new)
        return {"units": [entry.row() for entry in new], **reason} if new else None

    return append(journal, run_id, FOLDED, now, content)


def withdraw_missing(journal: Journal, run_id: str, now: dt.datetime, operator: str) -> list[UnitEntry]:
    """Take units off the record whose files are gone, so that they can be computed again, and return them.

    The record keeps that they were there. Raises `RecordChanged` for every other change.
    """
    record = on_record(journal, run_id)
    gone = _gone(journal, run_id, record)

    def content(earlier: list[Record]) -> Document | None:
        """Return the units that are missing from the newest record; None when none is."""
        nonlocal gone
        if earlier[-1].sha256 != record.sha256:  # another process has written since
            gone = _gone(journal, run_id, newest(earlier))
        return {
            "withdrawn": [{"kind": unit.kind, "key": unit.key, "sha256": unit.sha256} for unit in gone],
            "reason": "missing when the run was resumed; computed again",
            "by": operator,
        } if gone else None  # fmt: skip

    if gone:
        append(journal, run_id, FOLDED, now, content)
    return gone


def _gone(journal: Journal, run_id: str, record: OnRecord) -> list[UnitEntry]:
    """Return the units whose files are gone. Raises `RecordChanged` for every other change."""
    differing = _changes(journal, run_id, record, read_all=False)
    _refuse([change for change in differing if not change.harmless and not (change.what == "missing" and change.unit)])
    return [change.unit for change in differing if change.what == "missing" and change.unit]


def accept_changes(journal: Journal, run_id: str, now: dt.datetime, reason: str, operator: str) -> list[Change]:
    """Put changed files on record as they are now, with the reason, and return what was accepted.

    Raises `RecordChanged` for missing and added files: the former are computed again by a resume, the latter are removed.
    """
    changed = [change for change in changes(journal, run_id, read_all=True) if not change.harmless]
    _refuse([change for change in changed if change.what != "changed"])
    if changed:
        units = [
            UnitEntry.of(change.unit.kind, journal.file(change.unit.kind, change.unit.key), None, change.unit.seconds)
            for change in changed
            if change.unit
        ]
        fields = {
            "files": [{"name": c.file, "sha256": run_file_sha256(journal, run_id, c.file)} for c in changed if c.file],
            "units": [unit.row() for unit in units],
            "reason": reason,
            "by": operator,
        }
        append(journal, run_id, FOLDED, now, lambda earlier: fields)
    return changed


def unplanned(journal: Journal) -> list[Change]:
    """Return the complete units below the storage root that no run planned, and so nobody computed for an audit."""
    planned: set[tuple[str, str]] = set()
    for run_id in journal.runs():
        planned.update(planned_keys(journal, run_id))
    return [
        Change("added", journal.unit_url(kind, key), "no run below this root planned it")
        for kind in KINDS
        for key in sorted(journal.listing(kind).complete)
        if (kind, key) not in planned
    ]


def require_intact(journal: Journal, run_id: str) -> OnRecord:
    """Return the record of the run's files when none differs. Raises `RecordChanged` that names those that do."""
    record = on_record(journal, run_id)
    _refuse([change for change in _changes(journal, run_id, record, read_all=False) if not change.harmless])
    return record


def changes(journal: Journal, run_id: str, *, read_all: bool = False) -> list[Change]:
    """Return the files of a run that differ from what is on record of them.

    Every file on disk is read. An object store's files are read where its tag of them has changed, or with `read_all`.
    A run without a record has no changes. Raises `RecordChanged` when the record itself was changed.
    """
    return _changes(journal, run_id, on_record(journal, run_id), read_all)


def _changes(journal: Journal, run_id: str, record: OnRecord, read_all: bool) -> list[Change]:
    if record.sha256 is None:
        return []
    differing = [*_file_changes(journal, run_id, record.files)]
    for kind in sorted({kind for kind, _ in record.units}):
        entries = {key: entry for (other, key), entry in record.units.items() if other == kind}
        differing += _unit_changes(journal, kind, entries, read_all)
    return differing


def require_unchanged(
    journal: Journal, known: Mapping[tuple[str, str], UnitEntry], entries: Iterable[UnitEntry]
) -> None:
    """Return when no unit on record has another digest now, failed ones that were tried again left out.

    Raises `RecordChanged` that names those that do.
    """
    changed = [
        _changed(journal, before)
        for entry in entries
        if (before := known.get((entry.kind, entry.key)))
        and not is_recorded(before, entry)
        and (before.complete or (not entry.complete and _edited(before, entry.seconds)))
    ]
    _refuse(changed)


def require_present(
    journal: Journal, known: Mapping[tuple[str, str], UnitEntry], kind: str, gone: Iterable[str]
) -> None:
    """Return when none of the units that are gone is on record. Raises `RecordChanged` that names those that are."""
    _refuse([_missing(journal, entry) for key in gone if (entry := known.get((kind, key)))])


def _file_changes(journal: Journal, run_id: str, files: Mapping[str, str]) -> Iterator[Change]:
    folder = f"runs/{run_id}"
    present = {name for name, _ in journal.store.entries(folder)}
    for name, sha256 in files.items():
        url = journal.store.url(f"{folder}/{name}")
        if not journal.store.exists(f"{folder}/{name}"):  # never by a listing, which may be older
            yield Change("missing", url, "it was there when the run was planned", file=name)
        elif run_file_sha256(journal, run_id, name) != sha256:
            yield Change("changed", url, "its bytes are not those of the record", file=name)
    for name in sorted(present - files.keys()):
        if name not in _SERIES_FOLDERS and not _LATER_FILES.fullmatch(name):
            yield Change("added", journal.store.url(f"{folder}/{name}"), "no step of this run wrote it")


def _unit_changes(journal: Journal, kind: str, entries: Mapping[str, UnitEntry], read_all: bool) -> Iterator[Change]:
    listing = journal.with_unlisted(kind, journal.listing(kind), entries)
    for name in listing.strange:
        yield Change("added", journal.store.url(name), "it has the name of no unit")
    to_read = []
    for key, entry in sorted(entries.items()):
        if entry.complete and key not in listing.complete:
            yield _missing(journal, entry)
        elif not entry.complete and key in listing.complete:
            continue  # by now
        elif not entry.complete and key not in listing.failed:
            yield _missing(journal, entry)
        elif read_all or entry.stamp is None or entry.stamp != listing.stamps.get(key):
            to_read.append(key)

    def holds(key: str) -> bool:
        return journal.holds(kind, entries[key].file)

    held_files = counted(in_threads(holds, to_read), f"check {kind}", len(to_read), "files")
    for key, held in zip(to_read, held_files, strict=True):
        entry = entries[key]
        if held:
            continue
        if entry.complete or not _tried_again(journal, entry):
            yield _changed(journal, entry)
        else:
            yield Change("retried", journal.unit_url(kind, key, complete=False), "a failed unit was tried again", entry)


def _edited(before: UnitEntry, seconds: float | None) -> bool:
    """Return whether a failed unit that differs from the record was not computed again: it took the same time."""
    return before.seconds is not None and before.seconds == seconds


def _tried_again(journal: Journal, before: UnitEntry) -> bool:
    try:
        header = journal.header(before.kind, before.key)
    except StorageUnavailable:
        raise
    except JournalError:
        return False  # failed units are written whole, as complete ones are
    return header.get("key") == before.key and not _edited(before, header.get("runtime", {}).get("seconds"))


def _changed(journal: Journal, entry: UnitEntry) -> Change:
    url = journal.unit_url(entry.kind, entry.key, complete=entry.complete)
    return Change("changed", url, "its bytes are not those of the record", entry)


def _missing(journal: Journal, entry: UnitEntry) -> Change:
    return Change(
        "missing",
        journal.unit_url(entry.kind, entry.key, complete=entry.complete),
        "it was there when the run was folded",
        entry,
    )


def _refuse(differing: Sequence[Change]) -> None:
    if not differing:
        return
    lines = [f"  - {change.what}: {change.url} ({change.detail})" for change in differing[:_MOST_LISTED]]
    if len(differing) > _MOST_LISTED:
        lines.append(f"  - and {len(differing) - _MOST_LISTED} more")
    raise RecordChanged(
        "the journal is not what the run's record says:\n" + "\n".join(lines),
        next_step="restore these files from a copy; or delete a changed unit and compute it again, on record: "
        "erasure-audit resume RUN_ID; look at all of them with: erasure-audit db verify RUN_ID",
    )
