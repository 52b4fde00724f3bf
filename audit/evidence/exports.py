"""A verdict in the formats of other tools: in-toto statements here, OSCAL and CycloneDX beside.

Each says less than the bundle it comes from, and no more: INCONCLUSIVE is a failed test and a requirement that is not
satisfied, never a warning, and a statement that lists only what holds is made of PASS alone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from audit.errors import EvidenceError, NotVerified
from audit.evidence import dsse
from audit.evidence.bag import TAG_MANIFEST, scan
from audit.evidence.keys import moment, stamp
from audit.evidence.seal import PREDICATE, VERDICT
from audit.files import Document, ForeignError, parse_json
from audit.plan.document import planned_keys
from audit.report import json_report
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.decisions import VerdictStatus
from audit.verdict.record import policy_sha256
from audit.verdict.results import RunResult
from audit.verdict.waivers import AnyDecision, name_of

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SVR = "https://in-toto.io/attestation/svr/v0.2"
_SCOPE = "ERASURE_AUDIT"  # before each property of an SVR, as its specification asks
VERIFIER = f"{dsse.PREDICATES}verifier/"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is exported: a run's result, whose model it is about, and where it is sealed."""

    result: RunResult
    policy: Policy
    decided_at: dt.datetime
    subjects: Mapping[str, str]  # SHA-256 of each component of the model, by name
    bundle_sha256: str | None = None  # of the sealed bundle's tag manifest

    @property
    def status(self) -> VerdictStatus:
        """The verdict."""
        return self.result.verdict.status

    @property
    def decisions(self) -> tuple[AnyDecision, ...]:
        """Every decision of the gate, of all its sides."""
        verdict = self.result.verdict
        return (*verdict.decisions, *verdict.retention, *verdict.damage, *verdict.blocking)

    @property
    def policy_sha256(self) -> str:
        """The digest by which the policy is known."""
        return policy_sha256(self.policy)

    def require_subjects(self) -> None:
        """Return when the model is known by a digest. Raises `EvidenceError`: a statement must say what it is about."""
        if not self.subjects:
            raise EvidenceError(
                "nothing says which model this verdict is about: its provenance names no digest",
                where=f"run {self.result.run_id}",
                next_step="run the audit again with this version, then export it",
            )


def of_bundle(folder: Path) -> Evidence:
    """Return the evidence in a bundle. The caller has verified it: nothing is checked here but that it can be read.

    Raises `NotVerified` for files that are not those of a bundle.
    """
    bag = scan(folder)
    envelope = dsse.decode_envelope(bag.read(VERDICT), VERDICT)
    subjects, facts = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, VERDICT)
    try:
        return Evidence(
            result=json_report.parse(bag.read("data/report.json").decode()),
            policy=Policy.model_validate(parse_json(bag.read("data/policy.json"))),
            decided_at=moment(facts["decided_at"]),
            subjects={name: digest for name, digest in subjects.items() if name != TAG_MANIFEST},
            bundle_sha256=subjects[TAG_MANIFEST],
        )
    except (ForeignError, LookupError, ValueError, TypeError) as error:
        raise NotVerified(f"the bundle cannot be read: {error}", where=str(folder)) from None


def of_run(journal: Journal, result: RunResult, policy: Policy, decided_at: dt.datetime) -> Evidence:
    """Return the evidence of a run in a journal, decided at `decided_at`.

    Raises `JournalError` when an erased model is not there.
    """
    backbone = result.provenance.get("backbone") or {}
    files = backbone.get("files") or {}
    subjects = {f"backbone/{name}": str(digest) for name, digest in sorted(files.items())}
    if not subjects and backbone.get("sha256"):
        subjects = {"backbone": str(backbone["sha256"])}
    for kind, key in planned_keys(journal, result.run_id):
        if kind == "erase":
            header = journal.header(kind, key)
            digest = header.get("blob_sha256") or header.get("identity", {}).get("checkpoint")
            subjects |= {f"erased/{key}": str(digest)} if digest else {}
    return Evidence(result, policy, decided_at, subjects)


def test_result(evidence: Evidence) -> dict[str, object]:
    """Return an in-toto statement of predicate test-result v0.1: PASSED for PASS alone, FAILED for anything else."""
    evidence.require_subjects()
    verdict = evidence.result.verdict
    tests = {name_of(decision): decision.status is VerdictStatus.PASS for decision in evidence.decisions}
    tests |= {f"check | {check.name}": check.status == "passed" for check in verdict.checks}
    tests["verdict"] = verdict.status is VerdictStatus.PASS
    annotations = {"verdict": verdict.status.value, "run_id": evidence.result.run_id}
    policy = {**_descriptor(f"policy {evidence.policy.version}", evidence.policy_sha256), "annotations": annotations}
    bundle = [_descriptor("bundle", evidence.bundle_sha256)] if evidence.bundle_sha256 else []
    predicate = {
        "result": "PASSED" if verdict.status is VerdictStatus.PASS else "FAILED",
        "configuration": [policy, *bundle],
        "passedTests": sorted(name for name, passed in tests.items() if passed),
        "warnedTests": [],
        "failedTests": sorted(name for name, passed in tests.items() if not passed),
    }
    return _statement(evidence, TEST_RESULT, predicate)


def verification_result(evidence: Evidence) -> dict[str, object]:
    """Return an in-toto statement of predicate SVR v0.2, which lists only what holds.

    Raises `EvidenceError` for every verdict but PASS: a list of what else holds would be read as one.
    """
    if evidence.status is not VerdictStatus.PASS:
        raise EvidenceError(
            f"the verdict is {evidence.status.value}, and a Simple Verification Result states what holds",
            where=f"run {evidence.result.run_id}",
            next_step="export it as in-toto-test-result, which says what does not hold too",
        )
    evidence.require_subjects()
    verdict = evidence.result.verdict
    properties = ["RATES_WITHIN_LIMITS", "DATA_CHECKS_PASSED"]
    properties += ["RETENTION_WITHIN_LIMIT"] if verdict.retention else []
    properties += ["NO_DAMAGE_FOUND"] if verdict.damage else []
    properties += ["BLOCKING_WITHIN_LIMIT"] if verdict.blocking else []
    policy = _descriptor(f"policy {evidence.policy.version}", evidence.policy_sha256)
    predicate = {
        "verifier": {"id": f"{VERIFIER}{version()}", "policies": [policy]},
        "timeCreated": stamp(evidence.decided_at),
        "properties": [f"{_SCOPE}_{name}" for name in properties],
    }
    return _statement(evidence, SVR, predicate)


def encode(document: Document) -> bytes:
    """Return the file of an exported document."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def version() -> str:
    """Return this tool's version."""
    try:
        return importlib.metadata.version("erasure-audit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _statement(evidence: Evidence, predicate_type: str, predicate: Document) -> dict[str, object]:
    return {
        "_type": dsse.STATEMENT,
        "subject": [_descriptor(name, digest) for name, digest in evidence.subjects.items()],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def _descriptor(name: str, sha256: str) -> dict[str, object]:
    return {"name": name, "digest": {"sha256": sha256}}
