"""A verdict as a CycloneDX ML-BOM 1.6: the model's components with their digests, and a model card with rate and bounds.

`cyclonedx-python-lib` makes the document. It has no model cards yet, so the card is put into its JSON by the names of the
schema, and the whole is checked against the schema that the library brings where `jsonschema` is installed.
"""

from __future__ import annotations

import json
import uuid

from audit.errors import EnvironmentProblem
from audit.evidence.exports import Evidence, version
from audit.evidence.exports_oscal import NAMESPACE
from audit.files import Document
from audit.verdict.decisions import BlockingDecision, DamageDecision, RetentionDecision
from audit.verdict.waivers import AnyDecision, name_of

_RATE, _RETENTION, _DAMAGE = "concept reproduction rate", "retention", "picture check p-value"
_BLOCKING = "share blocked by filters"


def bill_of_materials(evidence: Evidence) -> Document:
    """Return the document; the same verdict gives the same one. Raises `EnvironmentProblem` without the library."""
    evidence.require_subjects()
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise EnvironmentProblem(
            "CycloneDX is written by cyclonedx-python-lib, which is not installed",
            next_step="install it with: pip install 'erasure-audit[cyclonedx]'",
        ) from None
    result = evidence.result
    model = Component(
        name=result.name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model", version=result.run_id
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}\n{result.run_id}\n{evidence.policy_sha256}"))
    bom.metadata.timestamp = evidence.decided_at
    bom.metadata.component = model
    files = [
        Component(
            name=name,
            type=ComponentType.FILE,
            bom_ref=f"file-{digest}-{number}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        )
        for number, (name, digest) in enumerate(evidence.subjects.items())
    ]
    for file in files:
        bom.components.add(file)
    bom.register_dependency(model, files)
    text = JsonV1Dot6(bom).output_as_string()
    document: Document = json.loads(text)
    document["metadata"]["component"]["modelCard"] = _card(evidence)
    _require_valid(document)
    return document


def _card(evidence: Evidence) -> dict[str, object]:
    facts = {
        "verdict": evidence.status.value,
        "policy": evidence.policy.version,
        "policy-sha256": evidence.policy_sha256,
        "tool": f"erasure-audit {version()}",
    } | ({"bundle-sha256": evidence.bundle_sha256} if evidence.bundle_sha256 else {})
    return {
        "quantitativeAnalysis": {
            "performanceMetrics": [_metric(evidence, decision) for decision in evidence.decisions]
        },
        "properties": [{"name": f"erasure-audit:{name}", "value": value} for name, value in facts.items()],
    }


def _metric(evidence: Evidence, decision: AnyDecision) -> dict[str, object]:
    """Return one decision as a metric: what was counted, in which slice, and the bounds that decided."""
    where = f"{name_of(decision)}: {decision.status.value}"
    if isinstance(decision, DamageDecision):
        told = {} if decision.p_value is None else {"value": repr(decision.p_value)}
        return {"type": _DAMAGE, "slice": where, **told}
    bounds = {"lowerBound": repr(decision.low), "upperBound": repr(decision.high)}
    if isinstance(decision, RetentionDecision):
        value = f"{decision.defended_hits}/{decision.backbone_hits} of {decision.pairs} pairs"
        return {"type": _RETENTION, "slice": where, "value": value, "confidenceInterval": bounds}
    if isinstance(decision, BlockingDecision):
        value = f"{decision.blocked}/{decision.planned} blocked"
        return {"type": _BLOCKING, "slice": where, "value": value, "confidenceInterval": bounds}
    rows = [row for row in evidence.result.crr if (row.cell_id, row.detector) == (decision.cell_id, decision.detector)]
    value = (
        f"{rows[0].hits}/{rows[0].assessed} assessed of {rows[0].planned} planned" if len(rows) == 1 else "not measured"
    )
    return {"type": _RATE, "slice": where, "value": value, "confidenceInterval": bounds}


def _require_valid(document: Document) -> None:
    """Return when the document follows the schema, or cannot be checked here. Raises ValueError: a defect of this module."""
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    except MissingOptionalDependencyException:
        return
    if problem is not None:
        raise ValueError(f"the document does not follow CycloneDX 1.6: {problem}")
