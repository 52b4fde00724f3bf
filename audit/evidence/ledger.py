"""The ledger: what was registered or removed below a storage root, in one chain that only grows.

    ledger/000001.json, ledger/000002.json, ...     one object for each entry, written once and never replaced

Each entry carries the SHA-256 of the bytes of the one before. An object store cannot append to a file, so every entry is an
object of its own; its name is its number alone, so that of several writers exactly one gets the next number and the others
try again behind it. Where a server ignores conditional PUTs, an entry that another one replaces in the same moment is noticed
by reading it back, and written again.

A chain shows that nothing in it was changed, moved or taken out. It cannot show that its end was cut off: whoever noted the
digest of the last entry (a bundle, a plan) can.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from pydantic import JsonValue

from audit.errors import JournalError
from audit.files import ForeignError, parse_json
from audit.storage.objects import ObjectStore

VERSION = 1
GENESIS = "0" * 64  # stands for the entry before the first
FOLDER = "ledger"
KINDS = ("policy", "purge")
_NAME = re.compile(r"(\d{6,})\.json")
_TRIES = 50  # writers that may get ahead of one
_PATIENCE = 2.0  # seconds by which clocks of two machines may differ; it is waited for
_THREADS = 8

Json = dict[str, JsonValue]
Place = Mapping[
    str, JsonValue
]  # number, previous and time of an entry; its statement repeats them, so a signature covers them
Build = Callable[[Sequence["Entry"], Place], Mapping[str, JsonValue]]


class LedgerError(JournalError):
    """An entry cannot be written, or the chain that it would stand in is broken."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry. `envelope` is a DSSE envelope, without signatures where nobody signed; `statement` is what it holds."""

    number: int
    previous: str  # hex SHA-256 of the bytes of the entry before
    at: str  # ISO 8601, UTC
    kind: str
    envelope: Mapping[str, JsonValue]
    statement: Mapping[str, JsonValue]
    sha256: str  # of its own bytes

    @property
    def time(self) -> dt.datetime:
        """The time at which it was written."""
        return dt.datetime.fromisoformat(self.at)

    @property
    def predicate(self) -> Mapping[str, JsonValue]:
        """The predicate of its statement."""
        predicate = self.statement.get("predicate")
        return predicate if isinstance(predicate, dict) else {}


def name_of(number: int) -> str:
    """Return the object name of an entry."""
    return f"{FOLDER}/{number:06d}.json"


def raw_entries(store: ObjectStore) -> dict[int, bytes]:
    """Return the bytes of every entry below a storage root by number. Raises `JournalError` when it cannot be read."""
    known = numbers(store)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(known, pool.map(lambda number: store.get(name_of(number)), known), strict=True))


def numbers(store: ObjectStore) -> list[int]:
    """Return the numbers of the entries below a storage root, in order. Raises `JournalError` when it cannot be listed.

    An object store may list less than it holds: what is not listed, up to the first number that is nowhere, is asked for by name.
    """
    matches = [_NAME.fullmatch(name) for name, _ in store.entries(FOLDER)]
    listed = {int(match[1]) for match in matches if match}
    unlisted = itertools.takewhile(
        lambda number: store.exists(name_of(number)), (number for number in itertools.count(1) if number not in listed)
    )
    return sorted({*listed, *unlisted})


def read_entries(store: ObjectStore) -> list[Entry]:
    """Return the whole chain, oldest first. Raises `LedgerError` that names the first entry that is wrong."""
    raw = raw_entries(store)
    if problems := check_chain(raw):
        raise LedgerError(
            f"the ledger is broken: {problems[0]}",
            where=store.url(FOLDER),
            next_step="see all that is wrong: erasure-audit policy verify; restore the entry from a copy of this root",
        )
    return [parse_entry(data) for _, data in sorted(raw.items())]


def parse_entry(data: bytes) -> Entry:
    """Return the entry that an object holds. Raises `ForeignError` for anything else, and for one of a newer version."""
    document = parse_json(data)
    if not isinstance(document, dict):
        raise ForeignError("it is no JSON object")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ForeignError(f"it is of version {version}, and this erasure-audit knows version {VERSION}")
    expected = {"version": int, "number": int, "previous": str, "at": str, "kind": str, "envelope": dict}
    if set(document) != set(expected) or any(type(document[name]) is not kind for name, kind in expected.items()):
        raise ForeignError("its fields are not those of an entry")
    if not re.fullmatch(r"[0-9a-f]{64}", document["previous"]):
        raise ForeignError("its 'previous' is no SHA-256")
    try:
        at = dt.datetime.fromisoformat(document["at"])
    except ValueError:
        raise ForeignError("its time is none") from None
    if at.tzinfo is None:
        raise ForeignError("its time names no time zone")
    return Entry(
        number=document["number"],
        previous=document["previous"],
        at=document["at"],
        kind=document["kind"],
        envelope=document["envelope"],
        statement=_statement(document["envelope"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _statement(envelope: Mapping[str, JsonValue]) -> Json:
    payload = envelope.get("payload")
    try:
        statement = parse_json(base64.b64decode(payload, validate=True)) if isinstance(payload, str) else None
    except (binascii.Error, ValueError):
        statement = None
    if not isinstance(statement, dict):
        raise ForeignError("its envelope holds no statement")
    return statement


def check_chain(raw: Mapping[int, bytes], head: str | None = None) -> list[str]:
    """Return a sentence for each entry that does not stand where it should; none for a chain as it was written.

    `head` is the digest of an entry that somebody noted: the chain must hold it still.
    """
    problems: list[str] = []
    previous: Entry | None = None
    digests = set()
    for number in range(1, max(raw, default=0) + 1):
        name = name_of(number)
        if number not in raw:
            problems.append(f"{name} is missing")
            previous = None
            continue
        digests.add(hashlib.sha256(raw[number]).hexdigest())
        try:
            entry = parse_entry(raw[number])
        except ForeignError as error:
            problems.append(f"{name} cannot be read: {error}")
            previous = None
            continue
        problems += [f"{name} {problem}" for problem in _misplaced(entry, number, previous)]
        previous = entry
    if 0 in raw:
        problems.append(f"{name_of(0)} is no entry: numbers begin with 1")
    if head is not None and head not in digests:
        problems.append(f"no entry has the SHA-256 {head}: the ledger was cut off or written anew since it was noted")
    return problems


def _misplaced(entry: Entry, number: int, previous: Entry | None) -> list[str]:
    problems = []
    if entry.number != number:
        problems.append(f"says that it is number {entry.number}")
    if number == 1 and entry.previous != GENESIS:
        problems.append("is the first and names one before it")
    if previous is not None and entry.previous != previous.sha256:
        problems.append(f"does not follow {name_of(number - 1)} as it is now: one of the two was changed")
    if previous is not None and entry.time < previous.time:
        problems.append(f"is older ({entry.at}) than the one before it ({previous.at}): a clock ran backwards")
    if entry.predicate.get("ledger") != {"number": entry.number, "previous": entry.previous, "at": entry.at}:
        problems.append("holds a statement that was made for another place in the chain")
    return problems


def append(store: ObjectStore, kind: str, build: Build, clock: Callable[[], dt.datetime]) -> Entry:
    """Write the next entry and return it. `build(entries, place)` makes its envelope; the statement in it has `place` as
    its `ledger`.

    Several writers at once all get a number of their own. Raises `LedgerError` when the chain is broken, and when the clock
    of this machine is behind the last entry: entries are never dated back.
    """
    if kind not in KINDS:
        raise ValueError(f"no entry is of kind {kind!r}")
    for _ in range(_TRIES):
        entries = read_entries(store)
        number, previous = len(entries) + 1, entries[-1].sha256 if entries else GENESIS
        place: Json = {"number": number, "previous": previous, "at": _now(store, entries, clock)}
        document = {"version": VERSION, "kind": kind, "envelope": dict(build(entries, place)), **place}
        data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        if store.put_new(name_of(number), data) and store.get(name_of(number)) == data:
            return parse_entry(data)
    raise LedgerError(
        f"no entry could be written: others were faster {_TRIES} times",
        where=store.url(FOLDER),
        next_step="try again when fewer processes write to this storage root",
    )


def _now(store: ObjectStore, entries: Sequence[Entry], clock: Callable[[], dt.datetime]) -> str:
    now = clock()
    if entries and now < entries[-1].time:
        behind = (entries[-1].time - now).total_seconds()
        if behind > _PATIENCE:
            raise LedgerError(
                f"the clock runs backwards: it says {now.isoformat()}, and the ledger's last entry is of {entries[-1].at}",
                where=store.url(name_of(entries[-1].number)),
                next_step="set this machine's clock; entries are never dated back",
            )
        time.sleep(behind)
        return entries[-1].at
    return now.isoformat(timespec="microseconds")


def registered(entries: Sequence[Entry], policy_sha256: str, before: dt.datetime) -> Entry | None:
    """Return the newest registration of a policy that is older than `before`; None when there is none."""
    matching = [
        entry
        for entry in entries
        if entry.kind == "policy" and entry.predicate.get("policy_sha256") == policy_sha256 and entry.time < before
    ]
    return matching[-1] if matching else None


def check_order(
    registered_at: dt.datetime | None,
    planned_at: dt.datetime,
    first_unit_at: dt.datetime | None,
    decided_at: dt.datetime | None,
) -> list[str]:
    """Return a sentence for each step that comes before the one that it should follow: policy, plan, first unit, decision.

    Steps whose time nobody recorded (None) are passed over: who calls says that they were not checked. Plans and decisions
    are dated by whole seconds, so steps within one second are taken to be in order; `registration.check_head` asks the chain.
    """
    steps = (
        ("the policy was registered", registered_at),
        ("the run was planned", planned_at),
        ("the first unit was computed", first_unit_at),
        ("the decision was made", decided_at),
    )
    known = [(what, at) for what, at in steps if at is not None]
    return [
        f"{later} at {second.isoformat()}, which is before {earlier} ({first.isoformat()})"
        for (earlier, first), (later, second) in pairwise(known)
        if second < first.replace(microsecond=0)
    ]
