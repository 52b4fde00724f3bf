"""Register a policy before the audit that it decides: a signed statement in the ledger that fixes what will count."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from audit import identity
from audit.errors import NotVerified
from audit.evidence import dsse
from audit.evidence.keys import PrivateKey, PublicKey
from audit.evidence.ledger import GENESIS, Entry, Json, Place, append, name_of, numbers
from audit.files import ForeignError, parse_json
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.storage.objects import ObjectStore
from audit.verdict.record import policy_sha256

PREDICATE = "policy-registration/v1"
RUN_FILE = "ledger.json"  # of a run: how far the ledger was when it was planned


@dataclasses.dataclass(frozen=True)
class Criteria:
    """What a registration fixes: the policy, the corpus that was listed, and the model that will be asked."""

    spec: str  # its name
    policy: Policy
    corpus: Mapping[str, JsonValue]  # objects and sha256, as a plan has them
    model: Mapping[str, JsonValue]  # backbone and defences, by their digests and parameters

    @property
    def model_sha256(self) -> str:
        """Digest of the model: the same backbone and defences are the same model, whatever the spec calls them."""
        return identity.key(self.model)


def register(
    store: ObjectStore, criteria: Criteria, key: PrivateKey, by: str, clock: Callable[[], dt.datetime]
) -> Entry:
    """Append the signed registration of `criteria` to the ledger, and return the entry.

    Its attempt number counts the registrations of the same model and policy. Raises as `ledger.append`, and `KeyProblem`
    for a key that has expired.
    """

    def build(entries: Sequence[Entry], place: Place) -> Json:
        """Return the signed registration at its place in the ledger."""
        content = {
            **_content(criteria, entries),
            "ledger": dict(place),
            "registered_by": {"name": by, "keyid": key.keyid},
        }
        subjects = {"policy": policy_sha256(criteria.policy), "corpus": str(criteria.corpus["sha256"])}
        payload = dsse.statement({**subjects, "model": criteria.model_sha256}, PREDICATE, content)
        return dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key)

    return append(store, "policy", build, clock)


def _content(criteria: Criteria, entries: Sequence[Entry]) -> Json:
    policy = criteria.policy.model_dump(mode="json")
    digest, model = policy_sha256(criteria.policy), criteria.model_sha256
    return {
        "spec": criteria.spec,
        "policy_sha256": digest,
        "policy": policy,
        "limits": policy["limits"],
        "alpha": round(1.0 - criteria.policy.confidence, 12),
        "stopping": policy.get("stopping", "fixed"),
        "attempt": attempts(entries, digest, model) + 1,
        "corpus": dict(criteria.corpus),
        "backbone_sha256": criteria.model.get("backbone"),
        "model_sha256": model,  # its concepts' phrases and its prompts may be sensitive, and a registration is passed on
    }


def attempts(entries: Sequence[Entry], policy: str, model: str) -> int:
    """Return how often one model was registered under one policy."""
    wanted = {"policy_sha256": policy, "model_sha256": model}
    return sum(
        entry.kind == "policy" and all(entry.predicate.get(name) == value for name, value in wanted.items())
        for entry in entries
    )


def check_signatures(entries: Sequence[Entry], trusted: Sequence[PublicKey]) -> tuple[list[str], list[str]]:
    """Return a sentence for each signature that does not hold, and the names of the entries that nobody signed.

    A key counts as it was when the entry was written. A policy that nobody signed is not registered.
    """
    problems, unsigned = [], []
    for entry in entries:
        name = name_of(entry.number)
        if not entry.envelope.get("signatures"):
            unsigned.append(name)
            if entry.kind == "policy":
                problems.append(f"{name} registers a policy, and nobody signed it")
            continue
        try:
            dsse.require_envelope(entry.envelope, name)
            dsse.verify_envelope(entry.envelope, trusted, where=name, now=entry.time)
        except NotVerified as error:
            problems.append(f"{name}: {error.what}")
    return problems, unsigned


def record_head(journal: Journal, run_id: str) -> None:
    """Store with a run how far the ledger is at this moment: a policy registered later was not there when it was planned."""
    known = numbers(journal.store)
    last = known[-1] if known else 0
    digest = hashlib.sha256(journal.store.get(name_of(last))).hexdigest() if last else GENESIS
    document = {"entries": last, "head": digest}
    journal.put_run(run_id, RUN_FILE, json.dumps(document, sort_keys=True).encode())


def recorded_head(journal: Journal, run_id: str) -> tuple[int, str] | None:
    """Return (number, SHA-256) of the ledger's last entry when a run was planned; None for a run that has no such record.

    Raises `NotVerified` when the record is damaged.
    """
    name = f"runs/{run_id}/{RUN_FILE}"
    try:
        document = parse_json(journal.store.get(name))
        number, head = document["entries"], document["head"]
        if type(number) is not int or not isinstance(head, str):
            raise ForeignError("its fields are of other types")
    except FileNotFoundError:
        return None
    except (ForeignError, LookupError, TypeError) as error:
        raise NotVerified(
            f"the run's record of the ledger is damaged: {error}", where=journal.store.url(name)
        ) from None
    return number, head


def not_as_noted(journal: Journal, raw: Mapping[int, bytes]) -> list[str]:
    """Return a sentence for each run whose plan noted an entry that the ledger does not hold: its end was cut off, or it was
    written anew."""
    problems = []
    for run_id in journal.runs():
        try:
            noted = recorded_head(journal, run_id)
        except NotVerified as error:
            problems.append(error.what)
            continue
        number, head = noted or (0, GENESIS)
        if number and (number not in raw or hashlib.sha256(raw[number]).hexdigest() != head):
            problems.append(
                f"{name_of(number)} is not the entry that was there when run {run_id} was planned: the ledger was cut off or "
                "written anew"
            )
    return problems


def check_head(entries: Sequence[Entry], registration: Entry, recorded: tuple[int, str] | None) -> list[str]:
    """Return a sentence for each way in which the chain contradicts that `registration` was there when a run was planned."""
    if recorded is None:
        return []
    number, head = recorded
    at_planning = {entry.number: entry.sha256 for entry in entries}.get(number, GENESIS if number == 0 else None)
    problems = []
    if at_planning != head:
        problems.append("the ledger is not the one that the run was planned under: it was cut off or written anew")
    if registration.number > number:
        problems.append(
            f"{name_of(registration.number)} was registered after the run was planned, when the ledger had {number} entries"
        )
    return problems
