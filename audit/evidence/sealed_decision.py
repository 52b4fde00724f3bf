"""The decision that a bundle seals: the rows of a run without what must not be said, and the result that they give."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from audit import identity
from audit.errors import EvidenceError
from audit.evidence.decisions import basis_of
from audit.evidence.differences import differences
from audit.evidence.redaction import Redaction, redaction_of
from audit.evidence.rows import build_index, outcomes_from_scores, read_rows
from audit.files import Document
from audit.index.derivation import derive
from audit.index.published import open_published, require_run
from audit.spec.policy import Policy
from audit.storage.run_records import Record
from audit.verdict.decisions import Basis, CheckResult, Verdict
from audit.verdict.record import verdict_fields
from audit.verdict.results import RunResult


@dataclasses.dataclass(frozen=True)
class SealedDecision:
    """A decision on record, as the rows of the index give it again; the rows are redacted."""

    policy: Policy
    basis: Basis
    redaction: Redaction
    rows: Mapping[str, pa.Table]
    result: RunResult


def decide_again(
    published: Path, run_id: str, planned_policy: object, manifest: pa.Table, record: Record
) -> SealedDecision:
    """Decide a run again from its rows in the index. Raises `EvidenceError` when that gives another decision than `record`."""
    policy, basis = Policy.model_validate(record.fields["policy"]), basis_of(record)
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as name:
        index = Path(name) / "rows.duckdb"
        redaction, rows = _rows(published, run_id, index)
        # Great Expectations has said what it says of these rows; a verifier asks it again.
        frames = [CheckResult(**check) for check in record.fields["verdict"]["checks"] if check["source"] != "sql"]
        planned = is_planned(planned_policy, policy)
        result = derive(index, run_id, manifest, policy, basis, planned=planned, frames=frames)
    if difference := next(differences(record.fields["verdict"], as_recorded(result.verdict)), None):
        raise EvidenceError(
            f"the rows do not give decision {record.number} any more: {difference.replace('in the bundle', 'on record')}",
            next_step=f"make the index anew with: erasure-audit db rebuild, then decide again: erasure-audit gate {run_id}",
        )
    return SealedDecision(policy, basis, redaction, rows, result)


def _rows(published: Path, run_id: str, index: Path) -> tuple[Redaction, dict[str, pa.Table]]:
    """Return what must not be said, and the rows without it, from which `index` is made."""
    con = open_published(published)
    try:
        require_run(con, run_id, published)
        run_key = identity.int_key(run_id)
        redaction = redaction_of(con, run_key)
        rows = read_rows(con, run_key, redaction)
    finally:
        con.close()
    build_index(rows, index)
    outcomes, difference = outcomes_from_scores(index, run_key)
    if difference:
        raise EvidenceError(
            f"the index does not say what its own scores do: {difference}",
            where=str(published),
            next_step="make it anew with: erasure-audit db rebuild",
        )
    return redaction, {**rows, "outcomes": outcomes}


def is_planned(stored: object, policy: Policy) -> bool:
    """Return whether a policy is the one that a run was planned under."""
    try:
        return Policy.model_validate(stored) == policy
    except ValueError:
        return False


def as_recorded(verdict: Verdict) -> Document:
    """Return a verdict as a record of decisions holds it."""
    fields: Document = json.loads(json.dumps(verdict_fields(verdict)))
    return fields
