"""Exports say what the verdict says and no more: INCONCLUSIVE is never a warning, and SVR is of PASS alone."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from audit.errors import EnvironmentProblem, EvidenceError
from audit.evidence.exports import Evidence, encode, test_result, verification_result
from audit.evidence.exports_cyclonedx import bill_of_materials
from audit.evidence.exports_oscal import assessment_results
from audit.spec.policy import Policy
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import RunResult
from tests.report import runs

test_result.__test__ = False  # type: ignore[attr-defined] # pytest takes its name for a test's
DECIDED = dt.datetime(2026, 11, 22, 3, 0, tzinfo=dt.UTC)
SUBJECTS = {"backbone/unet/diffusion_pytorch_model.safetensors": "1f" * 32, "erased/ab12": "2e" * 32}
OF: dict[str, Callable[[], RunResult]] = {
    "PASS": runs.passing, "FAIL": runs.failing, "INCONCLUSIVE": runs.inconclusive, "UNASSESSED": runs.all_unassessed,
    "LOSSY": runs.lossy, "EMPTY": runs.empty,
}  # fmt: skip
CYCLONEDX = importlib.util.find_spec("cyclonedx") is not None
DIGEST = {"type": "object", "required": ["sha256"], "properties": {"sha256": {"pattern": "^[0-9a-f]{64}$"}}}
DESCRIPTOR = {"type": "object", "required": ["name", "digest"], "properties": {"digest": DIGEST}}
STATEMENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["_type", "subject", "predicateType", "predicate"],
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "subject": {"type": "array", "minItems": 1, "items": DESCRIPTOR},
        "predicateType": {"type": "string"},
        "predicate": {"type": "object"},
    },
}
NAMES = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
TEST_RESULT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["result", "configuration"],
    "properties": {
        "result": {"enum": ["PASSED", "FAILED"]},  # never WARNED
        "configuration": {"type": "array", "minItems": 1, "items": DESCRIPTOR},
        "passedTests": NAMES,
        "warnedTests": {"type": "array", "maxItems": 0},
        "failedTests": NAMES,
    },
}
SVR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["verifier", "timeCreated", "properties"],
    "properties": {
        "verifier": {
            "type": "object",
            "required": ["id", "policies"],
            "properties": {"id": {"pattern": "^https://"}, "policies": {"type": "array", "items": DESCRIPTOR}},
        },
        "timeCreated": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "properties": {"type": "array", "minItems": 1, "items": {"pattern": "^ERASURE_AUDIT_[A-Z_]+$"}},
    },
}
UUID = {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[45][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"}
TOKEN = {"pattern": r"^([^\W\d]|_)[\w.\-]*$"}
# The fields that OSCAL 1.1.3 requires of what is written, and their forms.
OSCAL = {
    "type": "object",
    "required": ["uuid", "metadata", "import-ap", "results"],
    "properties": {
        "uuid": UUID,
        "metadata": {"type": "object", "required": ["title", "last-modified", "version", "oscal-version"]},
        "import-ap": {"type": "object", "required": ["href"], "properties": {"href": {"pattern": "^#"}}},
        "results": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["uuid", "title", "description", "start", "reviewed-controls"],
                "properties": {
                    "reviewed-controls": {"type": "object", "required": ["control-selections"]},
                    "observations": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["uuid", "description", "methods", "collected"],
                            "properties": {"uuid": UUID, "description": {"minLength": 1}},
                        },
                    },
                    "findings": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["uuid", "title", "description", "target"],
                            "properties": {
                                "uuid": UUID,
                                "target": {
                                    "type": "object",
                                    "required": ["type", "target-id", "status"],
                                    "properties": {
                                        "type": {"enum": ["statement-id", "objective-id"]},
                                        "target-id": TOKEN,
                                        "status": {
                                            "required": ["state"],
                                            "properties": {"state": {"enum": ["satisfied", "not-satisfied"]}},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def evidence(name: str, **changes: Any) -> Evidence:
    result = OF[name]()
    policy = Policy.model_validate(result.spec.get("gate", runs.SPEC["gate"]))
    return dataclasses.replace(Evidence(result, policy, DECIDED, SUBJECTS, "ab" * 32), **changes)


@pytest.mark.parametrize("name", OF)
def test_a_test_result_is_passed_for_pass_alone_and_never_warned(name: str) -> None:
    exported = evidence(name)
    document = test_result(exported)
    jsonschema.validate(document, STATEMENT)
    jsonschema.validate(document["predicate"], TEST_RESULT)
    predicate = document["predicate"]
    assert (predicate["result"] == "PASSED") == (exported.status is VerdictStatus.PASS)
    assert (predicate["result"] == "PASSED") == (not predicate["failedTests"])
    assert predicate["configuration"][0]["annotations"]["verdict"] == exported.status.value
    decided = len(exported.decisions) + len(exported.result.verdict.checks) + 1
    assert len(predicate["passedTests"]) + len(predicate["failedTests"]) == decided
    assert {one["name"]: one["digest"]["sha256"] for one in document["subject"]} == SUBJECTS


@pytest.mark.parametrize("name", [name for name in OF if name != "PASS"])
def test_an_svr_is_refused_on_anything_but_pass(name: str) -> None:
    with pytest.raises(EvidenceError, match="states what holds") as refused:
        verification_result(evidence(name))
    assert refused.value.exit_code == 2


def test_an_svr_of_pass_lists_what_was_judged() -> None:
    exported = evidence("PASS")
    document = verification_result(exported)
    jsonschema.validate(document, STATEMENT)
    jsonschema.validate(document["predicate"], SVR)
    assert document["predicate"]["verifier"]["policies"][0]["digest"]["sha256"] == exported.policy_sha256
    assert "ERASURE_AUDIT_RETENTION_WITHIN_LIMIT" in document["predicate"]["properties"]
    verdict = dataclasses.replace(exported.result.verdict, retention=(), damage=())  # a policy that waives both
    narrow = dataclasses.replace(exported, result=dataclasses.replace(exported.result, verdict=verdict))
    assert verification_result(narrow)["predicate"]["properties"] == [
        "ERASURE_AUDIT_RATES_WITHIN_LIMITS", "ERASURE_AUDIT_DATA_CHECKS_PASSED"
    ]  # fmt: skip


@pytest.mark.parametrize("name", OF)
def test_oscal_says_satisfied_of_pass_alone(name: str) -> None:
    exported = evidence(name)
    document = assessment_results(exported)["assessment-results"]
    jsonschema.validate(document, OSCAL)
    findings = document["results"][0]["findings"]
    wanted = [exported.status, *(decision.status for decision in exported.decisions)]
    for finding, status in zip(findings, wanted, strict=True):
        state = finding["target"]["status"]
        assert (state["state"] == "satisfied") == (status is VerdictStatus.PASS)
        assert ("remarks" in state) == (status is VerdictStatus.INCONCLUSIVE)
    observed = {one["uuid"] for one in document["results"][0]["observations"]}
    assert {one["observation-uuid"] for finding in findings for one in finding["related-observations"]} == observed
    resources = {one["uuid"] for one in document["back-matter"]["resources"]}
    assert document["import-ap"]["href"].removeprefix("#") in resources
    assert encode(assessment_results(evidence(name))) == encode(assessment_results(exported))


@pytest.mark.skipif(not CYCLONEDX, reason="cyclonedx-python-lib is not installed")
@pytest.mark.parametrize("name", OF)
def test_cyclonedx_follows_its_schema_and_carries_rates_with_bounds(name: str) -> None:
    exported = evidence(name)
    document = bill_of_materials(exported)
    assert document["specVersion"] == "1.6" and len(document["components"]) == 2
    card = document["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert len(metrics) == len(exported.decisions)
    assert {"name": "erasure-audit:verdict", "value": exported.status.value} in card["properties"]
    assert bill_of_materials(exported) == document
    digests = {one["hashes"][0]["content"] for one in document["components"]}
    assert digests == set(SUBJECTS.values())


def test_cyclonedx_without_its_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "cyclonedx"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    with pytest.raises(EnvironmentProblem, match="not installed") as told:
        bill_of_materials(evidence("PASS"))
    assert "erasure-audit[cyclonedx]" in (told.value.next_step or "")


@pytest.mark.parametrize("export", [test_result, verification_result, assessment_results])
def test_a_model_without_a_digest_is_not_spoken_of(export: Callable[[Evidence], dict[str, Any]]) -> None:
    with pytest.raises(EvidenceError, match="which model this verdict is about"):
        export(evidence("PASS", subjects={}))


@pytest.mark.parametrize("name", OF)
def test_no_export_says_more_than_was_shown(name: str) -> None:
    documents = [test_result(evidence(name)), assessment_results(evidence(name))]
    if name == "PASS":
        documents.append(verification_result(evidence(name)))
    words = set(re.findall(r"\w+", json.dumps(documents).lower()))
    assert not words & {"safe", "compliant", "certified", "compliance", "warned"}
