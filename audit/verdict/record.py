"""Put verdicts on record: who decided what, when, by which policy and on which numbers.

Record series `decisions` of a run (`audit.storage.run_records`), written by `run`, `resume` and `gate` alike and never
replaced. A decision is derived again from the same rows and policy, so that a record can be checked by anybody.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Mapping, Sequence

from audit import identity
from audit.provenance import versions
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, Record, append
from audit.verdict.decisions import RetentionDecision, Verdict
from audit.verdict.regression import Comparison


def policy_sha256(policy: Policy) -> str:
    """Return the hex SHA-256 of a policy's canonical text."""
    return identity.key(policy.model_dump(mode="json"))


def verdict_fields(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON values: status, reasons, decisions, retention, damage, controls, checks, waivers.

    A bound that is infinite is null. Decisions on filters are there where a defence has any, and the stage of a decision on
    retention where it is on one: so records of before there were such decisions keep their form.
    """
    fields = {name: _finite(value) for name, value in dataclasses.asdict(verdict).items()}
    fields["retention"] = [_retention_fields(decision) for decision in verdict.retention]
    return {name: value for name, value in fields.items() if name != "blocking" or value}


def _retention_fields(decision: RetentionDecision) -> dict[str, object]:
    fields = {name: _finite(value) for name, value in dataclasses.asdict(decision).items()}
    unset = () if decision.stage_no is not None else ("scenario", "stage_no")
    return {name: value for name, value in fields.items() if name not in unset}


def regression_fields(comparison: Comparison, old_folded_sha256: str | None, baseline: str | None) -> dict[str, object]:
    """Return a comparison as JSON values without its single cases.

    `old_folded_sha256` is the digest of the old run's newest record of folded files, `baseline` that of the baseline's record.
    """
    fields = dataclasses.asdict(dataclasses.replace(comparison, changes=()))
    del fields["changes"]
    finite = {name: _finite(value) for name, value in fields.items()}
    return {**finite, "old_folded_sha256": old_folded_sha256, "baseline_sha256": baseline}


def record_verdict(
    journal: Journal,
    run_id: str,
    command: str,
    operator: str,
    policy: Policy,
    verdict: Verdict,
    folded_sha256: str | None,
    opened_by: Sequence[str] = (),
    regression: Mapping[str, object] | None = None,
) -> Record:
    """Write the next decision of a run and return it.

    `command` is run, resume or gate. `folded_sha256` is the digest of the run's newest record of folded files, on which the
    decision rests; `opened_by` are the decisions that signed waivers covered, when the gate was opened in spite of the status;
    `regression` is what a comparison with an earlier run showed. Raises `RecordChanged` when an earlier record was
    changed, `JournalError` when the storage cannot be written.
    """
    fields = {
        "command": command,
        "by": operator,
        "versions": versions(),
        "policy": policy.model_dump(mode="json"),
        "policy_sha256": policy_sha256(policy),
        "attempt": verdict.attempt,
        "folded_sha256": folded_sha256,
        "verdict": verdict_fields(verdict),
        **({"opened_by": list(opened_by)} if opened_by else {}),
        **({"regression": dict(regression)} if regression else {}),
    }
    record = append(journal, run_id, DECISIONS, dt.datetime.now(dt.UTC), lambda earlier: fields)
    assert record is not None
    return record


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
