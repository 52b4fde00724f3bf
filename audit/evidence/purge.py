"""Remove the pixels of a run and keep everything that was measured: rows, scores, digests of the pictures.

A unit's file is written anew without its pictures. That is the one thing that replaces a file of the journal, so it is on
record three times before a byte is gone: a record of the run (series `purged`) with the digest of every file before and after, an
entry in the ledger with the digest of that record, and, once the files are replaced, the run's record of folded files. Whoever
holds the old digests, as a bundle does, can follow them to the new ones.

Units that another run has planned too are left as they are, and named.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import EvidenceError, JournalError
from audit.evidence import dsse
from audit.evidence.keys import PrivateKey
from audit.evidence.ledger import Entry, Json, Place, append
from audit.index import integrity
from audit.index.integrity import UnitEntry
from audit.plan.document import KINDS, planned_keys
from audit.storage import run_records
from audit.storage.journal import SCHEMAS, Journal
from audit.storage.unit_files import encoded, header_in

PREDICATE = "purge/v1"
Clock = Callable[[], dt.datetime]


@dataclasses.dataclass(frozen=True)
class Act:
    """Who purges, and why."""

    by: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A unit whose pictures can go: its file as it is, by digest."""

    key: str
    sha256: str
    bytes: int
    pictures: int


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What a purge would do to the units of a run."""

    run_id: str
    units: tuple[Candidate, ...]
    shared: Mapping[str, tuple[str, ...]]  # unit -> the other runs that planned it; they are left
    bare: int  # units that have no pictures any more, or never had any

    @property
    def pictures(self) -> int:
        """How many pictures would go."""
        return sum(unit.pictures for unit in self.units)


@dataclasses.dataclass(frozen=True)
class Purged:
    """What a purge did."""

    candidates: Candidates
    freed: int  # bytes
    record_sha256: str
    entry: Entry


@dataclasses.dataclass(frozen=True)
class _Replacement:
    unit: Candidate
    data: bytes

    def as_row(self) -> dict[str, str]:
        return {"kind": "generate", "key": self.unit.key, "before": self.unit.sha256,
                "after": hashlib.sha256(self.data).hexdigest()}  # fmt: skip


def candidates(journal: Journal, run_id: str, now: dt.datetime) -> Candidates:
    """Return which units of a run would lose their pictures, and which are another run's too.

    Files that an interrupted purge has replaced are first put on record as they are.

    Raises `RecordChanged` when a file of the run is not what is on record, `EvidenceError` when pictures are yet to be made or
    judged, or another run's plan cannot be read.
    """
    _require_intact(journal, run_id, now)
    planned = planned_keys(journal, run_id)
    _require_finished(journal, planned, run_id)
    own = [key for kind, key in planned if kind == "generate"]
    others = _planned_by_others(journal, run_id)
    shared = {key: others[key] for key in own if key in others}
    found = [_candidate(journal, key) for key in own if key not in shared]
    units = tuple(unit for unit in found if unit.pictures)
    return Candidates(run_id, units, shared, len(found) - len(units))


def purge(journal: Journal, chosen: Candidates, act: Act, clock: Clock, key: PrivateKey | None = None) -> Purged:
    """Remove the pictures of the chosen units. A purge that was interrupted goes on when it is asked for again.

    Raises `EvidenceError` when there is nothing to remove or a file has changed meanwhile, `LedgerError` as `ledger.append`,
    `KeyProblem` for a key that has expired; nothing is on record then.
    """
    if not chosen.units:
        raise EvidenceError(
            "no picture of this run can be removed"
            + (f": its {len(chosen.shared)} units with pictures are other runs' too" if chosen.shared else ""),
            where=f"run {chosen.run_id}",
        )
    if len(act.reason.strip()) < 8:
        raise EvidenceError(
            "a purge says why", where="--reason", next_step="write a sentence for who reads it in two years"
        )
    now = clock()
    if key is not None:
        key.require_valid(now)  # before anything is put on record
    replacements = [_replacement(journal, unit, now, act) for unit in chosen.units]
    fields = {
        "reason": act.reason,
        "by": act.by,
        "units": [one.as_row() for one in replacements],
        "shared": [{"key": unit, "runs": list(runs)} for unit, runs in chosen.shared.items()],
    }
    record = run_records.append(journal, chosen.run_id, run_records.PURGED, now, lambda earlier: fields)
    assert record is not None
    entry = _ledger_entry(journal, chosen, act, record.sha256, clock, key)
    for one in replacements:
        journal.store.put(_name(one.unit.key), one.data)
    _record_files(journal, chosen.run_id, [one.unit.key for one in replacements], clock(), act)
    freed = sum(one.unit.bytes - len(one.data) for one in replacements)
    return Purged(chosen, freed, record.sha256, entry)


def replaced_files(journal: Journal, run_id: str) -> dict[str, str]:
    """Return SHA-256 of a file after a purge -> SHA-256 of the file that was there first, of every purge of a run.

    Raises `RecordChanged` when the record of a purge was changed.
    """
    first: dict[str, str] = {}
    for record in run_records.read_records(journal, run_id, run_records.PURGED):
        for unit in record.fields["units"]:
            first[unit["after"]] = first.get(unit["before"], unit["before"])
    return first


def _record_files(journal: Journal, run_id: str, keys: Sequence[str], now: dt.datetime, act: Act) -> None:
    files = [
        UnitEntry.of(
            "generate",
            journal.file("generate", key),
            seconds=journal.header("generate", key).get("runtime", {}).get("seconds"),
        )
        for key in keys
    ]
    integrity.record_units(journal, run_id, now, files, reason=f"purged: {act.reason}", by=act.by)


def _require_intact(journal: Journal, run_id: str, now: dt.datetime) -> None:
    """Return when every file of the run is what is on record, or what a purge that was interrupted has made of it."""
    replaced = replaced_files(journal, run_id)
    keys = []
    for change in integrity.changes(journal, run_id):
        unit = change.unit
        if change.what == "changed" and unit and unit.kind == "generate":
            keys += [unit.key] if journal.file(unit.kind, unit.key).sha256 in replaced else []
    if keys:
        _record_files(journal, run_id, keys, now, Act("erasure-audit", "an interrupted purge was completed"))
    integrity.require_intact(journal, run_id)


def _ledger_entry(
    journal: Journal, chosen: Candidates, act: Act, record_sha256: str, clock: Clock, key: PrivateKey | None
) -> Entry:
    def build(entries: Sequence[Entry], place: Place) -> Json:
        content: Json = {
            "run_id": chosen.run_id,
            "reason": act.reason,
            "kept": "digests",
            "units": len(chosen.units),
            "pictures": chosen.pictures,
            "shared": len(chosen.shared),
            "record_sha256": record_sha256,
            "purged_by": {"name": act.by, "keyid": key.keyid if key else None},
            "ledger": dict(place),
        }
        payload = dsse.statement({"record": record_sha256}, PREDICATE, content)
        if key is not None:
            return dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key)
        return {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": dsse.STATEMENT_PAYLOAD,
            "signatures": [],
        }

    return append(journal.store, "purge", build, clock)


def _require_finished(journal: Journal, planned: Sequence[tuple[str, str]], run_id: str) -> None:
    done = {kind: journal.keys(kind) for kind in KINDS}
    pending = sum(key not in done[kind] for kind, key in planned)
    if pending:
        raise EvidenceError(
            f"{pending} units of this run are not complete: pictures that nobody has judged would be lost",
            where=f"run {run_id}",
            next_step=f"finish it first: erasure-audit resume {run_id}",
        )


def _planned_by_others(journal: Journal, run_id: str) -> dict[str, tuple[str, ...]]:
    runs: dict[str, list[str]] = defaultdict(list)
    for other in journal.runs():
        if other == run_id:
            continue
        try:
            planned = planned_keys(journal, other)
        except JournalError as error:
            raise EvidenceError(
                f"nobody can say which pictures the run {other} needs: {error.what}",
                where=f"run {other}",
                next_step="restore its plan, or remove that run, before pictures are purged",
            ) from None
        for kind, key in planned:
            if kind == "generate":
                runs[key].append(other)
    return {key: tuple(names) for key, names in runs.items()}


def _candidate(journal: Journal, key: str) -> Candidate:
    data = journal.store.get(_name(key))
    images = pq.read_table(pa.BufferReader(data), columns=["image"])["image"]
    return Candidate(key, hashlib.sha256(data).hexdigest(), len(data), len(images) - images.null_count)


def _replacement(journal: Journal, unit: Candidate, now: dt.datetime, act: Act) -> _Replacement:
    """Return the unit's file without its pictures. Raises `EvidenceError` when it is no longer the one that was counted."""
    data = journal.store.get(_name(unit.key))
    if hashlib.sha256(data).hexdigest() != unit.sha256:
        raise EvidenceError(
            "the file has changed since its pictures were counted",
            where=journal.store.url(_name(unit.key)),
            next_step="run the command again",
        )
    table = pq.read_table(pa.BufferReader(data))
    header = header_in(table.schema)
    place = table.schema.get_field_index("image")
    bare = pa.nulls(table.num_rows, SCHEMAS["generate"].field("image").type)
    purged = {"at": now.isoformat(timespec="seconds"), "reason": act.reason, "original_sha256": unit.sha256}
    rows = table.set_column(place, table.schema.field(place), bare)
    return _Replacement(unit, encoded("generate", rows, {**header, "purged": purged}))


def _name(key: str) -> str:
    return f"units/generate/{key[:2]}/{key}.parquet"
