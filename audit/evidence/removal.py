"""Take pictures out of generate units: their files are written anew, on record before a byte is gone.

That is the one thing that replaces a file of the journal. So each run that planned a unit has it on record three times: a record
of the run (series `purged`) with the digest of every file before and after, an entry in the ledger with the digest of that
record, and, once the files are replaced, the run's record of folded files. Whoever holds older digests, as a bundle does, can
follow them to the newest ones, however often pictures of a unit were removed.

A removal that was killed has replaced some files that are on record as they were: `complete` puts them on record as they are.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit.errors import EvidenceError, JournalError
from audit.evidence import dsse
from audit.evidence.keys import PrivateKey
from audit.evidence.ledger import Entry, Json, Place, append
from audit.evidence.purge_records import earlier_files, recorded_units
from audit.index import integrity
from audit.index.folded_files import UnitEntry, on_record
from audit.plan.document import planned_keys
from audit.progress.steps import counted
from audit.storage import run_records
from audit.storage.journal import SCHEMAS, Journal
from audit.storage.unit_files import encoded, header_in

PREDICATE = "purge/v1"
Clock = Callable[[], dt.datetime]


class PlannedMeanwhile(EvidenceError):
    """A run that nobody asked needs pictures that were chosen to go."""


@dataclasses.dataclass(frozen=True)
class Act:
    """Who removes pictures, and why."""

    by: str
    reason: str

    def require_reason(self) -> None:
        """Raise `EvidenceError` for a reason that says nothing."""
        if len(self.reason.strip()) < 8:
            raise EvidenceError(
                "a purge says why", where="--reason", next_step="write a sentence for who reads it in two years"
            )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file of a unit that pictures can be taken out of: as it is, by digest, and which of its pictures go."""

    key: str
    sha256: str
    bytes: int
    pictures: int  # that go
    left: int = 0  # that stay
    images: frozenset[int] = frozenset()  # ids of those that go
    complete: bool = True

    @property
    def name(self) -> str:
        """The path of the file below a storage root."""
        return unit_name(self.key, complete=self.complete)


@dataclasses.dataclass(frozen=True)
class Part:
    """What one run loses, and what its record and its entry in the ledger say beside that."""

    run_id: str
    units: tuple[Candidate, ...]
    recorded: Json
    stated: Json


@dataclasses.dataclass(frozen=True)
class Removed:
    """Where the removal from one run is on record."""

    run_id: str
    record_sha256: str
    entry: Entry


def unit_name(key: str, *, complete: bool = True) -> str:
    """Return the path of a generate unit's file below a storage root."""
    return f"units/generate/{key[:2]}/{key}{'' if complete else '.failed'}.parquet"


def files_of(journal: Journal, key: str, goes: Callable[[int], bool] = lambda image: True) -> Iterator[Candidate]:
    """Yield the unit's files with their pictures that go; `goes` tells it of a picture's id.

    Beside its complete file a unit may have one from when it had failed, with pictures of its own. Raises `JournalError` when one
    cannot be read.
    """
    for complete in (False, True):  # a removal that is killed in between finds the complete file last
        name = unit_name(key, complete=complete)
        if not complete and not journal.store.exists(name):
            continue
        data = journal.store.get(name)
        try:
            rows = pq.read_table(pa.BufferReader(data), columns=["image_id", "image"])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise JournalError(
                f"a journal file is corrupt: {error}",
                where=journal.store.url(name),
                next_step="delete this file, then compute it again with: erasure-audit resume RUN_ID",
            ) from None
        stored = rows.filter(pc.is_valid(rows["image"]))["image_id"].to_pylist()
        going = frozenset(filter(goes, stored))
        if going or complete:
            digest, left = hashlib.sha256(data).hexdigest(), len(stored) - len(going)
            yield Candidate(key, digest, len(data), len(going), left, going, complete)


def remove(
    journal: Journal, parts: Sequence[Part], known: Collection[str], act: Act, clock: Clock, key: PrivateKey | None
) -> tuple[list[Removed], int]:
    """Take the chosen pictures out of the units of all parts; return where it is on record, and how many bytes it freed.

    Every run that planned a unit has a part with it; `known` are the runs that were asked. Raises `EvidenceError` for a reason
    that says nothing and when a file has changed meanwhile, `PlannedMeanwhile`, `LedgerError` as `ledger.append`, `KeyProblem`
    for a key that has expired; nothing is on record then.
    """
    act.require_reason()
    now = clock()
    if key is not None:
        key.require_valid(now)  # before anything is put on record
    files = list(dict.fromkeys(unit for part in parts for unit in part.units))
    asked = {*known, *(part.run_id for part in parts)}
    for run_id in _planning(journal, asked, files):
        raise PlannedMeanwhile(
            "a run that was planned meanwhile needs some of these pictures",
            where=f"run {run_id}",
            next_step="run the command again",
        )
    after = {
        unit: hashlib.sha256(_without_pictures(journal, unit, now, act)).hexdigest()
        for unit in counted(files, "prepare removal", len(files), "files")
    }
    removed = [_put_on_record(journal, part, after, act, clock, key) for part in parts]
    freed = 0
    # Built once more, because all of them together may not fit into memory.
    for unit in counted(files, "remove pictures", len(files), "files"):
        data = _without_pictures(journal, unit, now, act)
        journal.store.put(unit.name, data)
        freed += unit.bytes - len(data)
    late = [_late(journal, run_id, files) for run_id in _planning(journal, asked, files)]
    for part in (part for part in late if part.units):
        removed.append(_put_on_record(journal, part, after, act, clock, key))
        parts = [*parts, part]
    for part in parts:
        _record_files(
            journal, part.run_id, [unit.key for unit in part.units if unit.complete], clock(), act.reason, act.by
        )
    return removed, freed


def complete(journal: Journal, run_id: str, now: dt.datetime) -> None:
    """Put the files on record that a removal which was interrupted has replaced. Raises as `earlier_files`."""
    earlier = earlier_files(journal, run_id)
    if not earlier:
        return
    recorded = on_record(journal, run_id).units
    keys = []
    for key in dict.fromkeys(str(unit["key"]) for unit in recorded_units(journal, run_id)):
        entry = recorded.get(("generate", key))
        later = {digest for digest, before in earlier.items() if entry and entry.sha256 in before}
        if later and _digest(journal, unit_name(key)) in later:
            keys.append(key)
    if keys:
        _record_files(journal, run_id, keys, now, "an interrupted purge was completed", "erasure-audit")


def _planning(journal: Journal, asked: Collection[str], files: Sequence[Candidate]) -> Iterator[str]:
    """Yield the runs that nobody asked and that planned one of these units. Raises `JournalError`."""
    keys = {unit.key for unit in files}
    for run_id in journal.runs():
        if run_id not in asked and any(key in keys for _, key in planned_keys(journal, run_id)):
            yield run_id


def _late(journal: Journal, run_id: str, files: Sequence[Candidate]) -> Part:
    """Return the part of a run that was planned and folded while files were replaced: those that it has as they were."""
    recorded = on_record(journal, run_id).units
    before = {entry.sha256 for entry in recorded.values()}
    return Part(run_id, tuple(unit for unit in files if unit.sha256 in before), {"shared": []}, {"shared": 0})


def _put_on_record(
    journal: Journal,
    part: Part,
    after: Mapping[Candidate, str],
    act: Act,
    clock: Clock,
    key: PrivateKey | None,
) -> Removed:
    """Write the record of one run and its entry in the ledger."""
    rows: list[Json] = [
        {"kind": "generate", "key": unit.key, "before": unit.sha256, "after": after[unit],
         "pictures": unit.pictures, "left": unit.left}
        for unit in part.units
    ]  # fmt: skip
    fields = {"reason": act.reason, "by": act.by, "units": rows, **part.recorded}
    record = run_records.append(journal, part.run_id, run_records.PURGED, clock(), lambda earlier: fields)
    assert record is not None

    def build(entries: Sequence[Entry], place: Place) -> Json:
        """Return the statement of the removal at its place in the ledger, signed where there is a key."""
        content: Json = {
            "run_id": part.run_id,
            "reason": act.reason,
            "kept": "digests",
            "units": len({unit.key for unit in part.units}),
            "pictures": sum(unit.pictures for unit in part.units),
            "record_sha256": record.sha256,
            "purged_by": {"name": act.by, "keyid": key.keyid if key else None},
            "ledger": dict(place),
            **part.stated,
        }
        payload = dsse.statement({"record": record.sha256}, PREDICATE, content)
        if key is not None:
            return dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key)
        return {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": dsse.STATEMENT_PAYLOAD,
            "signatures": [],
        }

    return Removed(part.run_id, record.sha256, append(journal.store, "purge", build, clock))


def _record_files(journal: Journal, run_id: str, keys: Sequence[str], now: dt.datetime, reason: str, by: str) -> None:
    files = [
        UnitEntry.of(
            "generate",
            journal.file("generate", key),
            seconds=journal.header("generate", key).get("runtime", {}).get("seconds"),
        )
        for key in keys
    ]
    integrity.record_units(journal, run_id, now, files, reason=reason, by=by)


def _without_pictures(journal: Journal, unit: Candidate, now: dt.datetime, act: Act) -> bytes:
    """Return the file without the pictures that go. Raises `EvidenceError` when it is no longer the one that was counted."""
    data = journal.store.get(unit.name)
    if hashlib.sha256(data).hexdigest() != unit.sha256:
        raise EvidenceError(
            "the file has changed since its pictures were counted",
            where=journal.store.url(unit.name),
            next_step="run the command again",
        )
    table = pq.read_table(pa.BufferReader(data))
    header = header_in(table.schema)
    place = table.schema.get_field_index("image")
    bare = pa.nulls(table.num_rows, SCHEMAS["generate"].field("image").type)
    going = pc.is_in(table["image_id"], pa.array(sorted(unit.images), pa.int64()))
    rows = table.set_column(place, table.schema.field(place), pc.if_else(going, bare, table["image"]))
    last = header.get("purged", {})
    purged = {
        "at": now.isoformat(timespec="seconds"),
        "reason": act.reason,
        "original_sha256": last.get("original_sha256", unit.sha256),
        "images": sorted({*last.get("images", ()), *unit.images}),
        "left": unit.left,
    }
    return encoded("generate", rows, {**header, "purged": purged})


def _digest(journal: Journal, name: str) -> str | None:
    try:
        return hashlib.sha256(journal.store.get(name)).hexdigest()
    except FileNotFoundError:
        return None
