"""Count the attempts at a claim: in the journal, so that no index that lacks a run makes them fewer."""

from __future__ import annotations

from audit.errors import JournalError
from audit.files import ForeignError, parse_json
from audit.index.plan_folding import audited
from audit.storage.journal import Journal, StorageUnavailable
from audit.storage.run_records import DECISIONS, read_records
from audit.storage.threads import in_threads


def attempt(journal: Journal, run_id: str, policy_sha256: str) -> int:
    """Return which attempt at the same claim a run is, from 1.

    It counts the runs below the storage root of the same backbone, concepts and defences that were decided under the same policy
    before this one was, in whatever order they were planned. One whose plan or decisions cannot be read counts unless what
    is left of it says otherwise. Raises `JournalError` when the run itself cannot be read.
    """
    claim = _claim(journal, run_id)
    own = _first_decided(journal, run_id, policy_sha256)

    def precedes(other: str) -> bool:
        """Return whether another run is an earlier attempt, or might be one."""
        try:
            first = _first_decided(journal, other, policy_sha256)
        except StorageUnavailable:
            raise
        except JournalError:
            first = ""
        if first is None or (own is not None and (first, other) > (own, run_id)):
            return False
        try:
            return _claim(journal, other) == claim
        except StorageUnavailable:
            raise
        except JournalError:
            return True

    return 1 + sum(in_threads(precedes, [other for other in journal.runs() if other != run_id]))


def _claim(journal: Journal, run_id: str) -> str:
    try:
        return audited(parse_json(journal.get_run(run_id, "plan.json")))
    except (ForeignError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise JournalError(
            f"the plan of run {run_id!r} is damaged: {error}", where=journal.store.url(f"runs/{run_id}/plan.json")
        ) from error


def _first_decided(journal: Journal, run_id: str, policy_sha256: str) -> str | None:
    """Return when a run was first decided under a policy, ISO 8601; None when it was not."""
    records = read_records(journal, run_id, DECISIONS)
    return next((str(r.fields["at"]) for r in records if r.fields.get("policy_sha256") == policy_sha256), None)
