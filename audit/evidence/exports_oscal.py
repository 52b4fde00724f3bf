"""A verdict as OSCAL assessment results (NIST OSCAL 1.1.3): each decision is an observation and a finding.

A finding is satisfied or not-satisfied, and OSCAL knows no third state: INCONCLUSIVE is not-satisfied with a remark that says
so. `import-ap`, which OSCAL asks for, points at the policy among the resources at the end.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from audit.evidence.exports import Evidence, version
from audit.evidence.keys import moment, stamp
from audit.verdict.decisions import DamageDecision, VerdictStatus
from audit.verdict.waivers import AnyDecision, name_of

OSCAL = "1.1.3"
NAMESPACE = "https://erasure-audit.invalid/ns/oscal"
_NOT_SHOWN = (
    "INCONCLUSIVE: not shown to be within the limit. OSCAL has no such state, and not-satisfied is the nearest one."
)
_REASONS = {VerdictStatus.PASS: "pass", VerdictStatus.FAIL: "fail", VerdictStatus.INCONCLUSIVE: "other"}


def assessment_results(evidence: Evidence) -> dict[str, object]:
    """Return OSCAL assessment results; the same verdict gives the same document."""
    evidence.require_subjects()
    result, run_id = evidence.result, evidence.result.run_id
    decided, policy_id = stamp(evidence.decided_at), _uuid(run_id, "policy")
    observations = [_observation(evidence, decision) for decision in evidence.decisions]
    findings = [_finding(run_id, decision) for decision in evidence.decisions]
    return {
        "assessment-results": {
            "uuid": _uuid(run_id, "results", evidence.policy_sha256, decided),
            "metadata": {
                "title": f"Concept erasure audit {result.name}",
                "last-modified": decided,
                "version": run_id,
                "oscal-version": OSCAL,
                "remarks": f"Written by erasure-audit {version()} from the decisions of run {run_id}.",
            },
            "import-ap": {"href": f"#{policy_id}", "remarks": "The policy, fixed before the run was decided."},
            "results": [
                {
                    "uuid": _uuid(run_id, "result"),
                    "title": f"Verdict: {evidence.status.value}",
                    "description": " ".join(result.verdict.reasons) or "The gate recorded no reason.",
                    "start": stamp(moment(result.created_at)),
                    "end": decided,
                    "props": [_property("verdict", evidence.status.value), _property("run-id", run_id)],
                    "reviewed-controls": {
                        "control-selections": [
                            {
                                "description": "Every limit of the policy that speaks of a cell of the run.",
                                "include-all": {},
                            }
                        ]
                    },
                    "observations": [*observations, _checks(evidence)],
                    "findings": [_verdict(evidence), *findings],
                }
            ],
            "back-matter": {"resources": _resources(evidence, policy_id)},
        }
    }


def _observation(evidence: Evidence, decision: AnyDecision) -> dict[str, object]:
    return {
        "uuid": _uuid(evidence.result.run_id, "observation", name_of(decision)),
        "title": name_of(decision),
        "description": decision.reason,
        "methods": ["TEST"],
        "collected": stamp(evidence.decided_at),
        "props": [_property(name, value) for name, value in _numbers(decision).items()],
    }


def _numbers(decision: AnyDecision) -> Mapping[str, str]:
    """Return the numbers that a decision stands on, as text: OSCAL's properties have no others."""
    if isinstance(decision, DamageDecision):
        return {"level": repr(decision.level)} | (
            {} if decision.p_value is None else {"p-value": repr(decision.p_value)}
        )
    limit = getattr(decision, "limit", None)
    threshold = {"limit": repr(limit)} if limit is not None else {"minimum": repr(getattr(decision, "minimum", None))}
    return {**threshold, "bound-low": repr(decision.low), "bound-high": repr(decision.high)}


def _finding(run_id: str, decision: AnyDecision) -> dict[str, object]:
    name = name_of(decision)
    return {
        "uuid": _uuid(run_id, "finding", name),
        "title": name,
        "description": decision.reason,
        "target": _target(_token(name), decision.status),
        "related-observations": [{"observation-uuid": _uuid(run_id, "observation", name)}],
    }


def _verdict(evidence: Evidence) -> dict[str, object]:
    run_id = evidence.result.run_id
    names = [name_of(decision) for decision in evidence.decisions]
    related = [_uuid(run_id, "observation", name) for name in names] + [_uuid(run_id, "checks")]
    return {
        "uuid": _uuid(run_id, "verdict"),
        "title": "verdict",
        "description": "Every decision and every data check of the run together.",
        "target": _target("verdict", evidence.status),
        "related-observations": [{"observation-uuid": one} for one in related],
    }


def _checks(evidence: Evidence) -> dict[str, object]:
    checks = evidence.result.verdict.checks
    bad = [f"{check.name}: {check.detail}" for check in checks if check.status != "passed"]
    summary = f"{len(checks) - len(bad)} of {len(checks)} data checks passed."
    return {
        "uuid": _uuid(evidence.result.run_id, "checks"),
        "title": "data checks",
        "description": " ".join([summary, *bad]),
        "methods": ["TEST"],
        "collected": stamp(evidence.decided_at),
    }


def _target(name: str, status: VerdictStatus) -> dict[str, object]:
    state = "satisfied" if status is VerdictStatus.PASS else "not-satisfied"
    remark = {"remarks": _NOT_SHOWN} if status is VerdictStatus.INCONCLUSIVE else {}
    return {
        "type": "objective-id",
        "target-id": name,
        "status": {"state": state, "reason": _REASONS[status], **remark},
    }


def _resources(evidence: Evidence, policy_id: str) -> list[dict[str, object]]:
    run_id = evidence.result.run_id
    resources = [_resource(policy_id, f"policy {evidence.policy.version}", "policy.json", evidence.policy_sha256)]
    if evidence.bundle_sha256:
        resources.append(
            _resource(_uuid(run_id, "bundle"), "evidence bundle", "tagmanifest-sha256.txt", evidence.bundle_sha256)
        )
    return resources + [
        _resource(_uuid(run_id, "model", name), f"model component {name}", name, digest)
        for name, digest in evidence.subjects.items()
    ]


def _resource(identifier: str, title: str, href: str, sha256: str) -> dict[str, object]:
    links = [{"href": href, "hashes": [{"algorithm": "SHA-256", "value": sha256}]}]
    return {"uuid": identifier, "title": title, "rlinks": links}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": name, "ns": NAMESPACE, "value": value}


def _token(name: str) -> str:
    """Return a name as OSCAL's tokens are: letters, digits, dots, dashes and underscores, a letter first."""
    return "decision-" + re.sub(r"[^\w.-]+", "-", name).strip("-")


def _uuid(*parts: str) -> str:
    """Return a UUID (version 5) that is always the same for the same thing."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join((NAMESPACE, *parts))))
