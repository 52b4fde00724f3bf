"""The registration of a policy in a bundle: the ledger's entry as it is, and how far the ledger was when the run was planned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from audit.errors import NotVerified
from audit.evidence import dsse
from audit.evidence.bag import Bag
from audit.evidence.keys import PublicKey, stamp
from audit.evidence.ledger import (
    FOLDER,
    Entry,
    LedgerError,
    check_order,
    name_of,
    parse_entry,
    read_entries,
    registered,
)
from audit.evidence.lines import Line, ok, unchecked, wrong
from audit.evidence.registration import RUN_FILE, check_head, recorded_head
from audit.files import Document, ForeignError, parse_json
from audit.storage.journal import Journal

ENTRY, HEAD = "registration.json", "ledger-head.json"
_SECOND = dt.timedelta(seconds=1)  # plans are dated by whole seconds


def registration_files(journal: Journal, run_id: str, policy_sha256: str, planned_at: dt.datetime) -> dict[str, bytes]:
    """Return the files of a bundle that say when the policy was registered for what the run audits; none where it was not,
    before the plan.

    Raises `LedgerError` when the ledger is broken, or is not the one that the run was planned under.
    """
    head, plan = recorded_head(journal, run_id), parse_json(journal.get_run(run_id, "plan.json"))
    every = read_entries(journal.store)
    entries = [entry for entry in every if head is None or entry.number <= head[0]]
    registration = registered(
        [entry for entry in entries if not others_than_planned(entry, plan)], policy_sha256, planned_at + _SECOND
    )
    if registration is None:
        return {}
    if problems := check_head(every, registration, head):
        raise LedgerError(
            problems[0],
            where=journal.store.url(FOLDER),
            next_step="restore the ledger from a copy of this root; erasure-audit policy verify looks at all of it",
        )
    files = {ENTRY: journal.store.get(name_of(registration.number))}
    return files | ({HEAD: journal.get_run(run_id, RUN_FILE)} if head else {})


def others_than_planned(entry: Entry, plan: Document) -> list[str]:
    """Return what a registration was made for that is another in a run's plan: its corpus, its backbone."""
    corpus = entry.predicate.get("corpus")
    stated = {
        "corpus": corpus.get("sha256") if isinstance(corpus, dict) else None,
        "backbone": entry.predicate.get("backbone_sha256"),
    }
    planned = {name: (plan.get(name) or {}).get("sha256") for name in stated}
    return [name for name, digest in planned.items() if digest is not None and digest != stated[name]]


def signers(bag: Bag) -> set[str]:
    """Return the ids of the keys that signed the registration in a bundle, as it says; none without one."""
    try:
        entry = parse_entry(bag.read(f"data/{ENTRY}")) if f"data/{ENTRY}" in bag.digests else None
        signatures = entry.envelope["signatures"] if entry else []
        return (
            {str(one["keyid"]) for one in signatures if isinstance(one, dict)}
            if isinstance(signatures, list)
            else set()
        )
    except (ForeignError, NotVerified, LookupError):
        return set()


def check_registration(
    bag: Bag,
    policy_sha256: str,
    planned_at: dt.datetime,
    first_unit_at: dt.datetime | None,
    decided_at: dt.datetime,
    keys: Sequence[PublicKey],
    plan: Document,
) -> Iterator[Line]:
    """Yield whether the policy of a bundle was registered before its `plan`, for what that audits, and by whom.

    Raises `NotVerified`.
    """
    where = f"data/{ENTRY}"
    if where not in bag.digests:
        yield unchecked(7, "when the policy was fixed: no registration stands in the bundle")
        return
    try:
        entry = parse_entry(bag.read(where))
    except ForeignError as error:
        raise NotVerified(f"the registration cannot be read: {error}", where=where) from None
    said = entry.predicate
    if entry.kind != "policy" or said.get("policy_sha256") != policy_sha256:
        yield wrong(7, "the registration is of another policy", where)
    for name in others_than_planned(entry, plan):
        yield wrong(7, f"the registration is for another {name} than the plan's", where)
    if said.get("ledger") != {"number": entry.number, "previous": entry.previous, "at": entry.at}:
        yield wrong(7, "the registration was made for another place in the ledger", where)
    for sentence in check_order(entry.time, planned_at, first_unit_at, decided_at):
        yield wrong(7, sentence, where)
    yield from _head(bag, entry)
    yield _signature(entry, keys, where)


def _head(bag: Bag, entry: Entry) -> Iterator[Line]:
    where = f"data/{HEAD}"
    if where not in bag.digests:
        yield unchecked(7, "by the ledger's chain that the policy came before the plan: the plan noted no entry of it")
        return
    try:
        document = parse_json(bag.read(where))
        number, head = int(document["entries"]), str(document["head"])
    except (ForeignError, LookupError, TypeError, ValueError):
        raise NotVerified("the note of the ledger's last entry cannot be read", where=where) from None
    if entry.number > number or (entry.number == number and entry.sha256 != head):
        yield wrong(7, f"entry {entry.number} was not in the ledger when the run was planned", where)
    elif entry.number < number:
        yield unchecked(
            7, f"the ledger's entries {entry.number + 1} to {number}: they are not in the bundle (policy verify)"
        )


def _signature(entry: Entry, keys: Sequence[PublicKey], where: str) -> Line:
    text = f"policy registered {stamp(entry.time)}, before the plan, as entry {entry.number} of the ledger, attempt"
    text = f"{text} {entry.predicate.get('attempt')}"
    dsse.require_envelope(entry.envelope, where)
    known = {key.keyid for key in keys}
    signatures = entry.envelope["signatures"]
    by = {str(one["keyid"]) for one in signatures if isinstance(one, dict)} if isinstance(signatures, list) else set()
    if not by:
        return wrong(7, "nobody signed the registration", where)
    if not by <= known:
        return unchecked(7, f"{text}: whether {min(by - known)[:16]}... signed it (name that public key with --key)")
    dsse.verify_envelope(entry.envelope, keys, where=where, now=entry.time)
    return ok(7, f"{text}, signed by {min(by)[:16]}...")
