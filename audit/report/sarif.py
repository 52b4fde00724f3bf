"""Write the report as SARIF 2.1.0, for services that track findings over runs.

Rules are what is asked: a limit, survival, a control, a data check, a regression. FAIL and failed checks are errors,
INCONCLUSIVE is a warning, PASS is no result. The fingerprint of a finding names the cell and the judge and no number or run, so
that a service knows it again in the next run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from pydantic import JsonValue

from audit.report.words import plain
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import Comparison
from audit.verdict.results import RunResult

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "erasureAuditFinding/v1"
_LONGEST = 1000
_RULES = {
    "verdict": "The gate opens for the run as a whole.",
    "reproduction-limit": "The concept reproduction rate of a cell stays within its limit.",
    "retention": "Enough of what must survive a defence does.",
    "picture-check": "A defended model still draws pictures.",
    "blocking": "The filters of a defence block no more than the policy allows.",
    "control": "A control shows what the policy asks of it.",
    "data-check": "The run's rows agree with its plan and with each other.",
    "regression": "No more cases came back than the margin allows, against an earlier run.",
}
_LEVELS = {VerdictStatus.FAIL: "error", VerdictStatus.INCONCLUSIVE: "warning"}
Json = dict[str, JsonValue]


def render(result: RunResult, comparison: Comparison | None = None, spec_file: str | None = None) -> str:
    """Return SARIF text. `spec_file` is the spec's path in the repository, which is where a service shows the findings.

    Without it findings have logical locations alone: a run's cells lie in no file. A code scanning service that asks for a file
    needs it.
    """
    names = list(_RULES)
    results: list[JsonValue] = []
    for rule, level, place, message in _findings(result, comparison):
        logical: Json = {"fullyQualifiedName": plain("/".join(place)), "kind": "member", "name": plain(place[-1])}
        location: Json = {"logicalLocations": [logical]}
        if spec_file is not None:
            location["physicalLocation"] = {
                "artifactLocation": {"uri": _relative(spec_file)},
                "region": {"startLine": 1},
            }
        results.append(
            {
                "ruleId": rule,
                "ruleIndex": names.index(rule),
                "level": level,
                "message": {"text": plain(message, _LONGEST)},
                "locations": [location],
                "partialFingerprints": {FINGERPRINT: _fingerprint(result, rule, place)},
            }
        )
    document = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver()},
                "automationDetails": {"id": f"erasure-audit/{plain(result.name)}/{plain(result.run_id)}"},
                "columnKind": "unicodeCodePoints",
                "results": results,
                "properties": {
                    "run": plain(result.run_id),
                    "verdict": result.verdict.status.value,
                    "regression": comparison.status.value if comparison else None,
                },
            }
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _driver() -> Json:
    rules: list[JsonValue] = [
        {"id": name, "name": name.title().replace("-", ""), "shortDescription": {"text": text}}
        for name, text in _RULES.items()
    ]
    return {"name": "erasure-audit", "version": importlib.metadata.version("erasure-audit"), "rules": rules}


def _findings(result: RunResult, comparison: Comparison | None) -> Iterator[tuple[str, str, Sequence[str], str]]:
    """Yield (rule, level, place, message) of everything that is not as it should be."""
    verdict = result.verdict
    if verdict.status in _LEVELS:
        first = verdict.reasons[0] if verdict.reasons else "The gate recorded no reason."
        yield "verdict", _LEVELS[verdict.status], ("verdict",), f"{verdict.status.value}: {first}"
    for cell in verdict.decisions:
        if cell.status in _LEVELS:
            place = (cell.concept, cell.defence, cell.scenario, cell.detector)
            yield "reproduction-limit", _LEVELS[cell.status], place, cell.reason
    for kept in verdict.retention:
        if kept.status in _LEVELS:
            of = (kept.concept, kept.defence, *filter(None, [kept.stage]), kept.detector)
            yield "retention", _LEVELS[kept.status], of, kept.reason
    for drawn in verdict.damage:
        if drawn.status in _LEVELS:
            yield "picture-check", _LEVELS[drawn.status], (drawn.concept, drawn.defence, drawn.instrument), drawn.reason
    for blocked in verdict.blocking:
        if blocked.status in _LEVELS:
            place = (blocked.concept, blocked.defence, blocked.scenario or "benign prompts", blocked.detector)
            yield "blocking", _LEVELS[blocked.status], place, blocked.reason
    for finding in verdict.controls:
        if finding.trouble is not None:
            asked = (finding.concept, finding.defence, finding.scenario, finding.control, finding.subject)
            message = f"Control {finding.control} of {finding.subject}: {finding.trouble}."
            yield "control", "warning", (*asked, finding.detector), message
    for check in verdict.checks:
        if check.status != "passed":
            level = "error" if check.status == "failed" else "warning"
            yield "data-check", level, (check.source, check.name), f"{check.name} {check.status}: {check.detail}"
    for compared in comparison.cells if comparison else ():
        if compared.status in _LEVELS:
            place = (compared.concept, compared.defence, compared.scenario, compared.detector)
            yield "regression", _LEVELS[compared.status], place, compared.reason


def _fingerprint(result: RunResult, rule: str, place: Sequence[str]) -> str:
    system = (result.spec.get("system") or {}).get("name") or result.name
    return hashlib.sha256(json.dumps([system, result.name, rule, *place]).encode()).hexdigest()


def _relative(path: str) -> str:
    """Return a path as a URI reference: forward slashes, everything else that a URI cannot hold escaped."""
    return quote(path.replace("\\", "/").removeprefix("./"))
