"""Append-only records of a run: numbered JSON files, each of which carries its own digest and that of the one before.

    runs/{run_id}/{series}/000001.json    {"record": {...}, "sha256": of the canonical text of `record`}
    baselines/{name}/000001.json          the same, of a named baseline

A record is written once and never replaced. `record` has the fields `version`, `run_id` (or `baseline`), `number`, `previous`
(the `sha256` of the record before, null in the first), `at` (UTC) and whatever the series adds. A changed, swapped, renamed or
missing record breaks the chain; a missing last one is noticed by whoever holds its digest, as the index does.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import re
from collections.abc import Callable

from audit.errors import EXIT_NOT_VERIFIED, JournalError
from audit.files import Document, ForeignError, parse_json
from audit.identity import canonical
from audit.storage.journal import Journal

VERSION = 1
DECISIONS = "decisions"
FOLDED = "folded"
PURGED = "purged"
_NAME = re.compile(r"(\d{6,})\.json")
_MOST_TRIES = 100
_SKEW = dt.timedelta(minutes=5)  # between the clocks of two machines that write to one run


class RecordChanged(JournalError):
    """A record that is not what was written, or a file that is no longer what a record says."""

    exit_code = EXIT_NOT_VERIFIED


@dataclasses.dataclass(frozen=True)
class Record:
    """One record of a series: its number from 1, its digest, and its fields."""

    number: int
    sha256: str
    fields: Document


@dataclasses.dataclass(frozen=True)
class Chain:
    """Where a series of records lies, and the field by which each of them says whose it is."""

    folder: str
    field: str
    owner: str


def read_records(journal: Journal, run_id: str, series: str) -> list[Record]:
    """Return all records of a series of a run; see `read_chain`."""
    return read_chain(journal, _of_run(run_id, series))


def read_chain(journal: Journal, chain: Chain) -> list[Record]:
    """Return all records of a series, oldest first; empty when there is none.

    Raises `RecordChanged` that names the file for one that was changed, swapped or renamed, that is missing, or that a newer
    version wrote; `JournalError` when the storage cannot be read.
    """
    folder, last = chain.folder, 0
    for name, _ in journal.store.entries(folder):
        match = _NAME.fullmatch(name)
        if match is None or name != _file(int(match[1])):
            raise _changed(journal, f"{folder}/{name}", "a file that is no record was added")
        last = max(last, int(match[1]))
    records: list[Record] = []
    while True:  # beyond what was listed: an object store may list less than it holds
        name = f"{folder}/{_file(len(records) + 1)}"
        try:
            records.append(_read(journal, chain, name, records[-1] if records else None))
        except FileNotFoundError:
            if len(records) < last:
                raise _changed(journal, name, "a record is missing") from None
            return records


def append(
    journal: Journal,
    run_id: str,
    series: str,
    now: dt.datetime,
    content: Callable[[list[Record]], Document | None],
) -> Record | None:
    """Write the next record of a series of a run and return it; see `append_to`."""
    return append_to(journal, _of_run(run_id, series), now, content)


def append_to(
    journal: Journal, chain: Chain, now: dt.datetime, content: Callable[[list[Record]], Document | None]
) -> Record | None:
    """Write the next record of a series and return it.

    `content` gets the records that are there and returns the new one's own fields, or None for no record; it is asked again
    when another process was faster. Raises `RecordChanged` for a broken series, and for a clock that runs backwards.
    """
    for _ in range(_MOST_TRIES):
        earlier = read_chain(journal, chain)
        fields = content(earlier)
        if fields is None:
            return None
        last = earlier[-1] if earlier else None
        at = now.astimezone(dt.UTC)
        name = f"{chain.folder}/{_file(len(earlier) + 1)}"
        if last:
            before = dt.datetime.fromisoformat(last.fields["at"])
            if at < before - _SKEW:
                raise RecordChanged(
                    f"the clock runs backwards: the last record is of {last.fields['at']}, and it is {at.isoformat()} now",
                    where=journal.store.url(name),
                    next_step="set this machine's clock, then run the command again",
                )
            at = max(at, before)
        record = {
            "version": VERSION,
            chain.field: chain.owner,
            "number": len(earlier) + 1,
            "previous": last.sha256 if last else None,
            "at": at.isoformat(timespec="seconds"),
            **fields,
        }
        text = canonical(record)
        if journal.store.put_new(name, _encoded(text)) or _holds(journal, name, _encoded(text)):
            return Record(len(earlier) + 1, _digest(text), record)
    raise JournalError(
        "other processes write to this record without a pause",
        where=journal.store.url(chain.folder),
        next_step="run the command again when they are done",
    )


def _holds(journal: Journal, name: str, data: bytes) -> bool:
    """Return whether a record that was refused is there all the same.

    The answer to the request that stored it was lost then, and the one that repeated it found the name taken.
    """
    try:
        return journal.store.get(name) == data
    except FileNotFoundError:  # seen by the server that refused, not yet by the one that answers
        return False


def _of_run(run_id: str, series: str) -> Chain:
    return Chain(f"runs/{run_id}/{series}", "run_id", run_id)


def _read(journal: Journal, chain: Chain, name: str, before: Record | None) -> Record:
    """Return the record in a file. Raises `RecordChanged`; FileNotFoundError when there is no such file."""
    try:
        data = journal.store.get(name)
        document = parse_json(data)
        record, stated = document["record"], document["sha256"]
        number, version = record["number"], record["version"]
        text = canonical(record)
        whole = data == _encoded(text) and stated == _digest(text) and isinstance(record["at"], str)
    except (ForeignError, TypeError, KeyError, ValueError):
        raise _changed(journal, name, "a record was changed: it cannot be read") from None
    if not whole:
        raise _changed(journal, name, "a record was changed: it does not have the digest that it states")
    if version != VERSION:
        raise RecordChanged(
            f"this record has version {version}, and this version of erasure-audit reads {VERSION}",
            where=journal.store.url(name),
            next_step="use the version of erasure-audit that wrote it",
        )
    if number != (before.number + 1 if before else 1) or record.get(chain.field) != chain.owner:
        whose = f"{chain.field.removesuffix('_id')} {record.get(chain.field)}"
        raise _changed(journal, name, f"this is record {number} of {whose}: it was moved or renamed")
    if record["previous"] != (before.sha256 if before else None):
        raise _changed(
            journal, name, "this record follows another one than the record before it: one of them was replaced"
        )
    return Record(number, stated, record)


def _file(number: int) -> str:
    return f"{number:06d}.json"


def _digest(text: str) -> str:
    """Return the digest of a record's canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _encoded(text: str) -> bytes:
    """Return the file of a record: the canonical text of the record beside its digest."""
    return f'{{"record":{text},"sha256":"{_digest(text)}"}}\n'.encode()


def _changed(journal: Journal, name: str, what: str) -> RecordChanged:
    return RecordChanged(
        what,
        where=journal.store.url(name),
        next_step="restore the file from a copy of the journal; records are never written by hand",
    )
