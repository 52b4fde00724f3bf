"""The decisions on record of a run inside a bundle: read without the journal, and in one unbroken chain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from audit.errors import NotVerified
from audit.identity import canonical
from audit.storage.run_records import Record
from audit.verdict.calibration import Calibration
from audit.verdict.decisions import Basis

WHERE = "data/decisions.json"


def encode_records(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return records as the journal holds them."""
    return [{"record": dict(record.fields), "sha256": record.sha256} for record in records]


def decode_records(documents: Any, run_id: str) -> list[Record]:
    """Return the records of a run, oldest first.

    Raises `NotVerified` where one is not what its digest says, does not follow the one before it, or is of another run.
    """
    records: list[Record] = []
    try:
        for number, document in enumerate(documents, start=1):
            fields, stated = document["record"], document["sha256"]
            before = records[-1].sha256 if records else None
            if hashlib.sha256(canonical(fields).encode()).hexdigest() != stated:
                raise NotVerified(f"decision {number} does not have the digest that it states", where=WHERE)
            if (fields["number"], fields["previous"], fields["run_id"]) != (number, before, run_id):
                raise NotVerified(f"decision {number} does not follow the one before it", where=WHERE)
            records.append(Record(number, stated, fields))
    except (LookupError, TypeError, ValueError) as error:
        raise NotVerified(f"the decisions on record cannot be read: {error}", where=WHERE) from None
    return records


def basis_of(record: Record) -> Basis:
    """Return what a decision rested on beside numbers and policy: its attempt, the judges' calibrations, and its time."""
    fields = record.fields["verdict"]["basis"]
    calibrations = tuple(Calibration(**calibration) for calibration in fields["calibrations"])
    return Basis(fields["attempt"], calibrations, fields["decided_at"])


def regression_of(record: Record) -> dict[str, object] | None:
    """Return what a decision says of a comparison with an earlier run: its status, that run, and the baseline's name."""
    fields = record.fields.get("regression")
    if not fields:
        return None
    return {"status": fields["status"], "compared_with": fields["old"]["run_id"], "baseline": fields["baseline"]}
